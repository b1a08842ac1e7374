"""Facts -> the picture of a slide. Every shape is a polygon, drawn at three times the size and averaged down."""

from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from .facts import PLACES, SlideFacts, draw_facts


@dataclass(frozen=True)
class Stain:
    """The colours (R, G, B) that a stain gives to the parts of a slide."""

    tissue: tuple[int, int, int]
    fibres: tuple[int, int, int]
    nucleus: tuple[int, int, int]
    necrosis: tuple[int, int, int]
    inclusion: tuple[int, int, int]


COLORS = {  # of each stain
    "h&e": Stain((240, 186, 206), (222, 128, 166), (92, 56, 150), (196, 160, 164), (222, 20, 40)),
    "pas": Stain((206, 150, 214), (172, 84, 178), (58, 62, 138), (172, 142, 168), (250, 0, 120)),
    "trichrome": Stain((146, 190, 222), (70, 128, 190), (104, 34, 58), (168, 168, 176), (236, 50, 30)),
    "silver": Stain((228, 208, 158), (178, 144, 84), (54, 40, 34), (178, 166, 150), (240, 120, 10)),
}
LUMEN = (250, 246, 248)
CHROMATIN = (28, 12, 40)

NUCLEI_PER_SIDE = {"sparse": 5, "moderate": 7, "dense": 10}  # of each density, along each side of the slide

_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # (24, 2)
OUTLINES = {  # (24, 2), of each shape of nuclei, in units of a nucleus' radius
    "round": _CIRCLE,
    "oval": _CIRCLE * (1.6, 0.62),
    "spindle": _CIRCLE * (2.2, 0.34),
    "lobed": _CIRCLE * (1.0 + 0.6 * np.cos(3 * _ANGLES))[:, None],
}

SUPERSAMPLING = 3


class _Canvas:
    """An RGB picture of `size` pixels; coordinates and lengths are fractions of its side."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.pixels = np.zeros((size, size, 3), np.float32)

    def noise(self, columns: int, rows: int) -> np.ndarray:
        """Smooth noise (size, size) of about unit deviation, with `columns` x `rows` bumps."""
        bumps = self.rng.standard_normal((rows, columns)).astype(np.float32)
        return np.asarray(PILImage.fromarray(bumps).resize((self.size, self.size), PILImage.Resampling.BICUBIC))

    def stained(self, color: tuple[int, int, int]) -> np.ndarray:
        """`color` (3,) as this slide happens to show it."""
        return np.asarray(color, np.float32) + self.rng.normal(0, 6, 3)

    def fill(self, outlines: np.ndarray, color: np.ndarray) -> None:
        """Fills `outlines` (N, points, 2) with `color` (3,) or (size, size, 3)."""
        side = self.size * SUPERSAMPLING
        mask = PILImage.new("L", (side, side))
        draw = ImageDraw.Draw(mask)
        for outline in (outlines * side).reshape(len(outlines), -1).tolist():
            draw.polygon(outline, fill=255)
        covered = np.asarray(mask.reduce(SUPERSAMPLING), np.float32)[..., None] / 255  # (size, size, 1)
        self.pixels += covered * (color - self.pixels)

    def wobbly(self, center: np.ndarray, radius: float, wobble: float) -> np.ndarray:
        """The outline (1, 24, 2) of an uneven disc; `wobble` is how uneven."""
        waves = [self.rng.normal(0, wobble) * np.cos(k * _ANGLES + self.rng.uniform(0, 6.3)) for k in (2, 3, 4)]
        return center + radius * (_CIRCLE * (1 + np.sum(waves, axis=0))[:, None])[None]


def _paint_tissue(canvas: _Canvas, stain: Stain, along_x: bool) -> None:
    streaks = canvas.noise(4, 24) if along_x else canvas.noise(24, 4)
    fibres = np.clip(0.3 + 0.22 * streaks + 0.15 * canvas.noise(5, 5), 0, 1)[..., None]  # (size, size, 1)
    canvas.pixels += canvas.stained(stain.tissue) * (1 - fibres) + canvas.stained(stain.fibres) * fibres


def _paint_nuclei(canvas: _Canvas, facts: SlideFacts, along_x: bool) -> None:
    rng, side = canvas.rng, NUCLEI_PER_SIDE[facts.density]
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    grid = grid[rng.random(len(grid)) > 0.08]
    centers = (grid + 0.5 + rng.uniform(-0.3, 0.3, grid.shape)) / side  # (N, 2)
    angles = rng.normal(0 if along_x else np.pi / 2, 0.35, len(grid))
    turns = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
    radii = 0.042 * rng.uniform(0.85, 1.15, (len(grid), 1, 1))
    outlines = centers[:, None] + radii * OUTLINES[facts.nuclei] @ turns  # (N, 24, 2)
    canvas.fill(outlines, canvas.stained(COLORS[facts.stain].nucleus) + 10 * canvas.noise(30, 30)[..., None])


def _paint_gland(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    outline = canvas.wobbly(center, canvas.rng.uniform(0.125, 0.145), 0.04)
    canvas.fill(outline, canvas.stained(stain.nucleus))
    canvas.fill(center + 0.86 * (outline - center), canvas.stained(stain.fibres))
    canvas.fill(center + 0.55 * (outline - center), canvas.stained(LUMEN))


def _paint_necrosis(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    debris = 20 * canvas.noise(canvas.size // 2, canvas.size // 2) + 14 * canvas.noise(14, 14)
    color = canvas.stained(stain.necrosis) + debris[..., None]
    canvas.fill(canvas.wobbly(center, canvas.rng.uniform(0.13, 0.15), 0.1), color)


def _paint_mitosis(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    radius = canvas.rng.uniform(0.12, 0.14)
    canvas.fill(canvas.wobbly(center, radius, 0.03), 0.35 * canvas.stained(stain.tissue) + 0.65 * np.array(LUMEN))
    spikes = 0.6 + 0.3 * np.cos(canvas.rng.integers(5, 8) * _ANGLES + canvas.rng.uniform(0, 6.3))
    canvas.fill(center + 0.8 * radius * (_CIRCLE * spikes[:, None])[None], canvas.stained(CHROMATIN))


def _paint_inclusion(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    outline = canvas.wobbly(center, canvas.rng.uniform(0.1, 0.12), 0.03)
    canvas.fill(outline, canvas.stained(stain.inclusion))
    shine = center + 0.3 * (outline - center) - 0.035
    canvas.fill(shine, canvas.stained(LUMEN))


_PAINTERS = {
    "gland": _paint_gland,
    "necrosis": _paint_necrosis,
    "mitosis": _paint_mitosis,
    "inclusion": _paint_inclusion,
}


def paint_slide(rng: np.random.Generator, facts: SlideFacts, image_size: int = 96) -> PILImage.Image:
    """A picture (image_size x image_size, RGB) of these facts; `rng` decides what they leave open."""
    canvas, stain = _Canvas(rng, image_size), COLORS[facts.stain]
    along_x = bool(rng.integers(2))
    _paint_tissue(canvas, stain, along_x)
    _paint_nuclei(canvas, facts, along_x)
    for place, finding in facts.findings.items():
        center = (np.array(PLACES[place]) + 0.5) / 3 + rng.uniform(-0.02, 0.02, 2)
        _PAINTERS[finding](canvas, stain, center)
    pixels = canvas.pixels + rng.normal(0, 3, (image_size, image_size, 1))
    # Six bits per channel: the eye sees no difference, and the PNG, which stands on 7.6 rows, is a third smaller.
    return PILImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8) & 0xFC)


def draw_slide(rng: np.random.Generator, image_size: int = 96) -> tuple[PILImage.Image, SlideFacts]:
    """A slide and what is to be seen in it."""
    facts = draw_facts(rng)
    return paint_slide(rng, facts, image_size), facts
