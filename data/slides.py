"""A slide as tiles at a stated scale: which of them hold tissue, and their pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from openslide import (
    PROPERTY_NAME_BACKGROUND_COLOR,
    PROPERTY_NAME_BOUNDS_X,
    PROPERTY_NAME_BOUNDS_Y,
    PROPERTY_NAME_MPP_X,
    PROPERTY_NAME_MPP_Y,
    PROPERTY_NAME_OBJECTIVE_POWER,
    OpenSlide,
    OpenSlideError,
)
from PIL import Image

from .errors import DataError

READ_BY = 1  # raise it when tiles are read otherwise: their features are then computed again
THUMBNAIL_SIDE = 2048  # pixels, at most
BLOCK_SIDE = 2048  # pixels that are read at once for a thumbnail
SMALLEST_MPP, LARGEST_MPP = 0.05, 20.0  # a TIFF file of 72 dots per inch would have 353 micrometres per pixel
MPP_AT_1X = 10.0  # by custom: 0.25 micrometres per pixel at 40x, 0.5 at 20x
SLACK = 1.01  # a level is taken that is coarser by this: the sizes of levels are rounded
# Otsu's threshold is kept between these. Else it would divide a slide full of tissue, or the noise of an empty one.
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 12, 40


@dataclass(frozen=True)
class SlideTiles:
    """The T tiles of a slide that hold tissue.

    path: of the slide.
    size: width and height of the slide at level 0, its finest level.
    mpp: micrometres per pixel of level 0.
    side: width and height in pixels of a tile as it is given to the model.
    width: width and height of a tile at level 0, in whole pixels.
    level, level_width: the level that tiles are read from, and their width there.
    places (T, 2): x and y of the tiles' upper left corners at level 0, row by row.
    thumbnail: the slide, at most `THUMBNAIL_SIDE` pixels wide and high.
    thumbnail_scale: how many pixels of level 0 a pixel of the thumbnail covers in each direction.
    origin: x and y where the scanned part begins; QuPath counts from there.
    """

    path: Path
    size: tuple[int, int]
    mpp: float
    side: int
    width: int
    level: int
    level_width: int
    places: np.ndarray
    thumbnail: Image.Image
    thumbnail_scale: float
    origin: tuple[int, int]

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def keys(self) -> list[str]:
        """A name of each tile within the slide, whichever others there are."""
        return [f"{x},{y}" for x, y in self.places.tolist()]

    @property
    def is_enlarged(self) -> bool:
        """Whether even the finest level is too coarse for the stated scale."""
        return self.width * SLACK < self.side


def find_tiles(
    path: Path, side: int, mpp: float = 0.5, slide_mpp: float | None = None, tissue_share: float = 0.1
) -> SlideTiles:
    """Divides a slide into tiles without gaps or overlaps, from its upper left corner, and leaves out the background.

    Args:
        side: pixels of a tile.
        mpp: micrometres per pixel of a tile.
        slide_mpp: micrometres per pixel of the slide's finest level, in place of what its file says.
        tissue_share: the least share of a tile's area on the thumbnail that is tissue; 0 takes all tiles.

    Raises:
        DataError: it can't be read, does not tell its scale, or has no tissue.
    """
    try:
        with OpenSlide(path) as slide:
            thumbnail, scale = read_thumbnail(slide)
            size, properties = slide.dimensions, dict(slide.properties)
            own_mpp = slide_mpp or stated_mpp(properties, path)
            width = max(1, round(side * mpp / own_mpp))
            level = slide.get_best_level_for_downsample(SLACK * width / side)
            level_width = max(1, round(width / slide.level_downsamples[level]))
    except OpenSlideError as error:
        raise DataError(f"{path} can't be read as a slide: {error}.") from error
    columns, rows = (np.arange(0, length, width) for length in size)
    places = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)  # (all tiles, 2)
    shares = tissue_shares(tissue_mask(thumbnail), places / scale, width / scale)
    places = places[shares >= tissue_share]
    if not len(places):
        raise DataError(
            f"no tile of {path} is tissue by {tissue_share:.0%} or more of its area: the slide is almost white or "
            "grey. --tissue_share 0 reads all tiles."
        )
    origin = int(properties.get(PROPERTY_NAME_BOUNDS_X, 0)), int(properties.get(PROPERTY_NAME_BOUNDS_Y, 0))
    return SlideTiles(path, size, own_mpp, side, width, level, level_width, places, thumbnail, scale, origin)


def stated_mpp(properties: dict[str, str], path: Path) -> float:
    """Micrometres per pixel of the finest level, by the file's resolution, else by the power of the objective.

    Raises:
        DataError: it states neither, or a value that no microscope has.
    """

    def number(name: str) -> float:
        try:
            return float(properties.get(name, "nan"))
        except ValueError:
            return math.nan

    power = number(PROPERTY_NAME_OBJECTIVE_POWER)
    stated = [
        (number(PROPERTY_NAME_MPP_X) + number(PROPERTY_NAME_MPP_Y)) / 2,
        MPP_AT_1X / power if power else math.nan,
    ]
    for mpp in stated:
        if SMALLEST_MPP <= mpp <= LARGEST_MPP:
            return mpp
    given = f" but {stated[0]:.4g}, which is none of a microscope" if math.isfinite(stated[0]) else ""
    raise DataError(
        f"{path} does not say how many micrometres a pixel has{given}: give --slide_mpp, that of its finest level, "
        "such as 0.25 for 40x or 0.5 for 20x."
    )


def read_rgb(slide: OpenSlide, place: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
    """A region in RGB; what was not scanned has the slide's background colour, which is normally white.

    Args:
        place: x and y of its upper left corner at level 0.
        size: width and height at `level`.
    """
    region = slide.read_region(place, level, size)
    image = Image.new("RGB", region.size, f"#{slide.properties.get(PROPERTY_NAME_BACKGROUND_COLOR, 'ffffff')}")
    image.paste(region, mask=region)
    return image


def read_thumbnail(slide: OpenSlide) -> tuple[Image.Image, float]:
    """The slide in at most `THUMBNAIL_SIDE` pixels, and how many pixels of level 0 one of them covers.

    It is read in blocks: a slide may have no small level, and its finest one may be larger than the memory.
    """
    level = slide.get_best_level_for_downsample(max(slide.dimensions) / THUMBNAIL_SIDE)
    (width, height), downsample = slide.level_dimensions[level], slide.level_downsamples[level]
    factor = -(-max(width, height) // THUMBNAIL_SIDE)
    block = max(1, BLOCK_SIDE // factor) * factor
    thumbnail = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, block):
        for left in range(0, width, block):
            size = min(block, width - left), min(block, height - top)
            part = read_rgb(slide, (round(left * downsample), round(top * downsample)), level, size)
            thumbnail.paste(part.reduce(factor), (left // factor, top // factor))
    return thumbnail, factor * downsample


def tissue_mask(thumbnail: Image.Image) -> np.ndarray:
    """Where a thumbnail shows tissue, (h, w) bool: where its colours differ from grey by more than a threshold.

    The measure is the largest minus the smallest of red, green and blue. It is near 0 for glass, shadow and black
    edges, where the saturation may have any value.
    """
    pixels = np.asarray(thumbnail)
    colorfulness = pixels.max(axis=-1) - pixels.min(axis=-1)  # (h, w)
    return colorfulness > np.clip(otsu_threshold(colorfulness), LOWEST_THRESHOLD, HIGHEST_THRESHOLD)


def otsu_threshold(values: np.ndarray) -> int:
    """The value of uint8 `values` that divides them into two classes of the largest variance between them.

    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).
    """
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    below = counts.cumsum()
    sums = (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return int(np.nan_to_num(variances).argmax())


def tissue_shares(mask: np.ndarray, places: np.ndarray, width: float) -> np.ndarray:
    """The share (T,) of tissue in each of T squares of a mask (h, w).

    Args:
        places: x and y of the squares' upper left corners, (T, 2), in pixels of the mask; not necessarily whole.
        width: of the squares.
    """
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # (h+1, w+1), of all above and to the left
    # A pixel that is partly in a square counts as a whole.
    left, top = np.minimum(np.floor(places).astype(int), np.array(mask.shape[::-1]) - 1).T
    right, bottom = np.minimum(np.ceil(places + width).astype(int), mask.shape[::-1]).T
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return inside / ((right - left) * (bottom - top))


class TileReader(torch.utils.data.Dataset):
    """Number, pixels (3, side, side), uint8, and fault of tiles of one slide; the fault of one that is read is "".

    The slide is opened with the first tile: each worker of a DataLoader has its own, as an open slide can't be shared
    with other processes.

    Args:
        numbers: which of the tiles; by default all.
    """

    def __init__(self, tiles: SlideTiles, numbers: Sequence[int] | None = None):
        self.tiles, self.numbers = tiles, range(len(tiles)) if numbers is None else numbers
        self.slide: OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, str]:
        number = self.numbers[index]
        try:
            image, fault = self.read(number), ""
        except OpenSlideError as error:
            # After an error, OpenSlide refuses whatever else is read of an opened slide.
            self.slide = None
            image, fault = Image.new("RGB", (self.tiles.side, self.tiles.side)), str(error)
        return number, torch.from_numpy(np.array(image)).permute(2, 0, 1), fault

    def read(self, number: int) -> Image.Image:
        """A tile as the model gets it, in RGB. Raises OpenSlideError where the file is damaged."""
        tiles = self.tiles
        if self.slide is None:
            self.slide = OpenSlide(tiles.path)
        x, y = tiles.places[number].tolist()
        image = read_rgb(self.slide, (x, y), tiles.level, (tiles.level_width, tiles.level_width))
        return image.resize((tiles.side, tiles.side), Image.Resampling.BICUBIC)
