"""How well a text can be read on its ground."""

from collections.abc import Sequence


def luminance(colour: Sequence[float]) -> float:
    """The relative luminance of an sRGB colour of three values to 255, by WCAG 2.1."""
    shares = [value / 255 for value in colour[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(text: Sequence[float], ground: Sequence[float]) -> float:
    """From 1 to 21; a text needs 4.5, by WCAG 2.1."""
    dark, light = sorted(luminance(colour) for colour in (text, ground))
    return (light + 0.05) / (dark + 0.05)


def blended(colour: Sequence[float], opacity: float, ground: Sequence[float]) -> tuple[float, ...]:
    """What is seen of a colour on its ground."""
    return tuple(opacity * one + (1 - opacity) * other for one, other in zip(colour, ground, strict=True))
