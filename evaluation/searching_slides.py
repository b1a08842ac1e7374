"""Ranks the tiles of slides by how probably statements are true of them, or by an image."""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.errors import DataError
from ..data.image_files import file_key, shown_path
from ..data.images import prepared_shape
from ..data.slides import READ_BY, SlideTiles, TileReader, find_tiles
from ..data.threads import default_workers
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import Answerer, evaluating
from .cache_files import text_hash
from .feature_cache import FeatureCache, model_folder
from .searching import SearchResult, check_asked, make_query, search_result
from .taught import TaughtStatement

logger = logging.getLogger("mmjepa")


@dataclass
class SlideResult:
    """Which tiles of a slide show what was asked.

    name: of the slide.
    tiles: those that hold tissue.
    found: its `places` are the numbers of the tiles that could be read.
    """

    name: str
    tiles: SlideTiles
    found: SearchResult

    def corners(self, row: int) -> tuple[int, int]:
        """x and y at level 0 of the upper left corner of a row of `found`."""
        x, y = self.tiles.places[self.found.places[row]].tolist()
        return x, y

    def map_of(self, values: np.ndarray, missing: float = np.nan) -> np.ndarray:
        """Values (N,) of the rows of `found` on the grid of the slide's tiles, (rows, columns)."""
        width, height = (-(-length // self.tiles.width) for length in self.tiles.size)
        grid = np.full((height, width), missing)
        columns, rows = (self.tiles.places[self.found.places] // self.tiles.width).T
        grid[rows, columns] = values
        return grid


def search_slides(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    slides: Sequence[Path],
    statements: Sequence[str] = (),
    negated: Sequence[str] = (),
    any_of: bool = False,
    like: Image.Image | str | None = None,
    taught: Sequence[TaughtStatement] | None = None,
    mpp: float = 0.5,
    slide_mpp: float | None = None,
    tissue_share: float = 0.1,
    batch_size: int = 32,
    num_workers: int | None = None,
    show_progress: bool = False,
    say: Callable[[str], None] = logger.warning,
) -> Iterator[SlideResult]:
    """Searches slides one after the other, so that memory does not grow with their number or size.

    Each tile is encoded once: its features are kept on disk, and a search that was stopped goes on. A slide that can't
    be read is said and left out.

    Args:
        slides: of `find_slides`.
        mpp, slide_mpp, tissue_share: as of `find_tiles`.
        num_workers: processes that read tiles; by default as many as in training, `default_workers`.
        say: is called at once with each note, and with each slide that is left out.
        The others are as of `search`.

    Raises:
        ValueError: as for `search`, or no slide can be read.
    """
    check_asked(model.config, [*statements, *negated], like)
    _, height, side = prepared_shape(processor.image_processor)
    if height != side:
        raise ValueError(f"the model's images are {side} x {height} pixels: tiles of slides are square.")
    answerer = Answerer(model, processor, batch_size)
    query = make_query(answerer, statements, negated, any_of, like, taught, show_progress)
    for note in query.notes:
        say(note)
    workers = default_workers() if num_workers is None else num_workers
    folder = model_folder(model, processor) / "slides"
    errors: list[DataError] = []
    for path in slides:
        name = shown_path(path)
        try:
            tiles = find_tiles(path, side, mpp, slide_mpp, tissue_share)
            if tiles.is_enlarged:
                say(f"{name} has {tiles.mpp:.3g} micrometres per pixel at its finest level: its tiles are enlarged.")
            key = text_hash(map(str, [file_key(path), tiles.side, tiles.width, tiles.level_width, READ_BY]))
            cache = FeatureCache(folder / key)
            faults = encode_tiles(answerer, tiles, cache, name, workers, show_progress)
        except DataError as error:
            if len(slides) == 1:
                raise
            errors.append(error)
            say(f"left out: {error}")
            continue
        places = [number for number in range(len(tiles)) if number not in faults]
        images, names = [tiles.keys[place] for place in places], [f"{name}, tile {place}" for place in places]
        unreadable = {f"{name}, tile {number}": fault for number, fault in faults.items()}
        yield SlideResult(name, tiles, search_result(model, query, cache, images, names, places, unreadable))
    if errors and len(errors) == len(slides):
        raise DataError(f"none of the {len(slides)} slides can be searched, such as: {errors[0]}")


def encode_tiles(
    answerer: Answerer,
    tiles: SlideTiles,
    cache: FeatureCache,
    name: str,
    num_workers: int,
    show_progress: bool = False,
) -> dict[int, str]:
    """Encodes the tiles that `cache` lacks.

    The pixels go to the model as they are: a tile has the size of the model's images, and resizing or cropping it
    would change its scale.

    Returns:
        number of a tile that can't be read -> what is wrong with it.

    Raises:
        DataError: no tile can be read.
    """
    model = answerer.model
    lacking = [number for number, key in enumerate(tiles.keys) if key not in cache.places]
    workers = num_workers if len(lacking) > answerer.batch_size else 0
    loader = DataLoader(
        TileReader(tiles, lacking),
        answerer.batch_size,
        num_workers=workers,
        worker_init_fn=ignore_interrupts,
        # A forked child of a process that uses a GPU can wait forever.
        multiprocessing_context="spawn" if workers and model.device.type == "cuda" else None,
    )
    faults: dict[int, str] = {}
    is_off = None if show_progress and lacking else True  # None: shown in a terminal
    with tqdm(total=len(lacking), desc=f"Encoding {name}", unit=" tiles", disable=is_off) as bar, evaluating(model):
        for numbers, pixels, reasons in loader:
            faults |= {number: reason for number, reason in zip(numbers.tolist(), reasons, strict=True) if reason}
            is_read = torch.tensor([not reason for reason in reasons])  # (B,)
            if is_read.any():
                read = pixels[is_read].to(model.device)  # (I, 3, side, side)
                features = model.get_image_features(answerer.normalized(read))
                cache.add({}, [tiles.keys[number] for number in numbers[is_read].tolist()], features)
            bar.update(len(numbers))
    if len(faults) == len(tiles):
        raise DataError(f"no tile of {name} can be read ({next(iter(faults.values()))}).")
    return faults


def ignore_interrupts(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which ends its workers; theirs would each print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
