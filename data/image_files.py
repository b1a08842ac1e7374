"""The distinct images of a folder or of a data set, still encoded: what is searched."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from .columns import find_columns
from .errors import DataError
from .images import image_hashes
from .new_images import is_image_file
from .paths import ImageRoots, check_one_each, encoded_images, file_state, with_absolute_paths
from .table_files import TABLE_SUFFIXES, named_tables
from .tables import load_splits

SAVED = ("dataset_dict.json", "state.json")  # of `save_to_disk`


@dataclass(frozen=True)
class FoundImages:
    """N images, each read when it is asked for.

    names: what people call them: the path, or the split and the row.
    keys: images of one key are the same. The key of a file is made of its path, size and time of change: a file that
        was read before need not be read again.
    images: dicts of bytes and path, as `datasets.Image(decode=False)` gives them.
    """

    names: list[str]
    keys: list[str]
    images: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.names)


def find_images(
    source: str,
    split: str | None = None,
    config_name: str | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside_images: bool = False,
    image_folder: str | None = None,
) -> FoundImages:
    """The images in a folder and the folders in it, or those of a data set, each once.

    Args:
        source: a folder of images, an image, or a data set as for `load_rows`, which needs no texts here. A folder
            with a table for a split, or with metadata.csv, is a data set: the images that it names are found.
        split: one split of a data set; all by default.
        config_name, columns, allow_outside_images, image_folder: as for `load_rows`.

    Raises:
        DataError: there is no such folder or data set, it holds no image, or it has no such split.
    """
    path = Path(source)
    if not path.exists() and ("/" not in source or path.parent.exists()):
        # The Hub would be asked for a mistyped folder, and takes half a minute to fail.
        raise DataError(
            f"there is no folder {source}: give a folder of images, or a data set (on the Hub, owner/name)."
        )
    if not is_data_set(path):
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if is_image_file(file))
        if files and split is not None:
            raise DataError(f"{source} is a folder of images and has no split {split!r}: leave it out.")
        if files:
            images = [{"bytes": None, "path": str(file)} for file in files]
            return FoundImages([shown_path(file) for file in files], [file_key(file) for file in files], images)
        if path.is_dir() and not any(path.rglob("*.parquet")):
            raise DataError(f"{source} holds no image: give a folder with images, or a data set.")
    found = load_splits(source, config_name)
    if split is not None and split not in found:
        raise DataError(f"{source} has no split {split!r}: there are {', '.join(found)}.")
    parts = [
        images_of_split(name, rows, columns or {}, ImageRoots.of(folder, allow_outside_images, image_folder))
        for name, (rows, folder) in found.items()
        if split in (None, name) and len(rows)
    ]
    if not parts:
        raise DataError(f"{source} has no rows.")
    return distinct_images(parts)


def is_data_set(path: Path) -> bool:
    """Whether a path is a table, or a folder that holds tables of a data set or was written by `save_to_disk`."""
    if path.is_file():
        return path.suffix.lower() in (*TABLE_SUFFIXES, ".parquet")
    return path.is_dir() and (any((path / name).exists() for name in SAVED) or bool(named_tables(path)))


def images_of_split(
    split: str, rows: Dataset, columns: Mapping[str, str], roots: ImageRoots
) -> tuple[list[str], list[str], Dataset]:
    """Names and keys of the images of `rows`, one per row, and the column `image`."""
    names = find_columns(rows, columns, split, ("image",))
    column = next(column for column, name in names.items() if name == "image")
    check_one_each(rows, column, split)
    images = encoded_images(rows.select_columns(column).rename_columns({column: "image"}), split)
    images = with_absolute_paths(images, roots)
    parts = images.flatten().with_format(None)
    paths = parts["image.path"][:]
    is_file = parts.data["image.bytes"].null_count == len(images)
    shown = [shown_path(Path(path)) if path else f"{split}, row {row}" for row, path in enumerate(paths)]
    if is_file:
        return shown, [file_key(Path(path)) if path else "" for path in paths], images
    return shown, image_hashes(images), images


def distinct_images(parts: Sequence[tuple[list[str], list[str], Dataset]]) -> FoundImages:
    """The images of several splits, each once: of equal keys the first."""
    names = [name for names, _, _ in parts for name in names]
    keys = [key for _, keys, _ in parts for key in keys]
    images = concatenate_datasets([images for _, _, images in parts])
    first_rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        first_rows.setdefault(key, row)
    rows = list(first_rows.values())
    return FoundImages([names[row] for row in rows], list(first_rows), images.select(rows)["image"])


def shown_path(path: Path) -> str:
    """A path for people: from the working directory if it lies there, in characters that can be printed."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return os.fsencode(path).decode("utf-8", "replace")


def file_key(path: Path) -> str:
    """A key of a file that changes when the file is moved or replaced."""
    text = f"{os.path.abspath(path)} {file_state(path)}"
    return hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()
