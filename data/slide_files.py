"""Which files are slides: those that somebody names, those of a folder, and those of a list in a text file."""

import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..processing_mmjepa import SLIDE_SUFFIXES
from .errors import DataError
from .image_files import is_data_set
from .new_images import is_image_file

TIFF_SUFFIXES = (".btf", ".tif", ".tiff")
LIST_SUFFIX = ".txt"


def is_slide(path: Path) -> bool:
    """Whether a file is a slide: by its name, or a TIFF file of several resolutions.

    Any other TIFF file is an image, unless OpenSlide knows the scanner that wrote it.
    """
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix not in (*SLIDE_SUFFIXES, *TIFF_SUFFIXES):
        return False
    if suffix in SLIDE_SUFFIXES:
        return True
    if find_spec("openslide") is None:
        return False
    import openslide

    maker = openslide.OpenSlide.detect_format(path)
    if maker != "generic-tiff":
        return maker is not None
    try:
        with openslide.OpenSlide(path) as slide:
            return slide.level_count > 1
    except openslide.OpenSlideError:
        return False


def slides_in(folder: Path) -> Iterator[Path]:
    """The slides in a folder and the folders in it; none in a data set, whose tables name images."""
    if folder.is_dir() and not is_data_set(folder):
        yield from (path for path in folder.rglob("*") if path.is_file() and is_slide(path))


def names_slides(word: str) -> bool:
    """Whether a word of a command line names a slide, a folder of slides or a list, and is no statement."""
    path = Path(word)
    if path.suffix.lower() in (*SLIDE_SUFFIXES, LIST_SUFFIX):
        return True
    return os.path.isfile(word) and is_slide(path) or os.path.isdir(word) and any(slides_in(path))


def find_slides(sources: Sequence[str]) -> list[Path]:
    """The slides that `sources` name, in their order, each once.

    Args:
        sources: slides, folders of slides, and text files (.txt) with the path of a slide on each line. Relative paths
            of a list start from the list's folder.

    Raises:
        DataError: a file is missing or is no slide, or there is none.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            paths += sorted(slides_in(source))
        elif source.suffix.lower() == LIST_SUFFIX and source.is_file():
            lines = source.read_text(encoding="utf-8").splitlines()
            paths += [source.parent / line.strip() for line in lines if line.strip()]
        else:
            paths.append(source)
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"there is no file {path}: name slides, folders of slides, or a .txt file that lists them."
            )
        if not is_slide(path):
            raise DataError(
                f"{path} is no slide: give {', '.join(SLIDE_SUFFIXES)}, or TIFF files of several resolutions."
            )
    if not paths:
        raise DataError(f"there are no slides in {', '.join(sources)}.")
    return list({path.resolve(): path for path in reversed(paths)}.values())[::-1]


def count_images_beside(folder: Path) -> int:
    """How many images a folder of slides holds that are no slides."""
    return sum(is_image_file(path) and not is_slide(path) for path in folder.rglob("*"))


def shard_of(slides: Sequence[Path], shard: str) -> list[Path]:
    """The slides of one job of several: "2/8" takes the 2nd of 8 and every 8th after it.

    Raises:
        ValueError: it is no shard.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"the shard is {shard!r}: give the number of this job and of all jobs, such as 2/8.")
    return list(slides[number - 1 :: count])
