"""Slides as pyramids of TIFF, with tissue and glands at known places."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmjepa.data.drawn_slides.facts import PLACES, SlideFacts
from mmjepa.data.drawn_slides.painting import paint_slide

GLASS = (243, 242, 244)


def tissue(side: int, with_glands: bool, seed: int = 0) -> np.ndarray:
    """A square of drawn tissue (side, side, 3), with eight glands or none."""
    findings = dict.fromkeys(PLACES, "gland") if with_glands else {}
    facts = SlideFacts("h&e", "round", "sparse", findings)
    return np.asarray(paint_slide(np.random.default_rng(seed), facts, side))


def drawn_slide(
    columns: int, rows: int, width: int, tissue_at: Collection[tuple[int, int]], glands_at: Collection[tuple[int, int]]
) -> np.ndarray:
    """Glass (H, W, 3) of `columns` x `rows` squares of `width` pixels, with tissue and glands in some of them."""
    noise = np.random.default_rng(1).integers(-3, 4, (rows * width, columns * width, 1))
    pixels = (np.array(GLASS) + noise).astype(np.uint8)
    for number, (column, row) in enumerate(sorted({*tissue_at, *glands_at})):
        square = tissue(width, (column, row) in glands_at, seed=number)
        pixels[row * width : (row + 1) * width, column * width : (column + 1) * width] = square
    return pixels


def smaller(pixels: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def write_pyramid(path: Path, levels: Sequence[np.ndarray], mpp: float | None = 0.25, side: int = 256) -> None:
    """Writes levels (H, W, 3), the finest first, in tiles of deflated pixels."""
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for number, pixels in enumerate(levels):
            scale = {}
            if mpp is not None:
                per_centimetre = 1e4 / mpp * pixels.shape[1] / levels[0].shape[1]
                scale = {"resolution": (per_centimetre, per_centimetre), "resolutionunit": "CENTIMETER"}
            file.write(
                pixels,
                tile=(side, side),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(number > 0),
                metadata=None,
                **scale,
            )
