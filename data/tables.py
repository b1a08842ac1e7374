"""Finds and reads the tables of a data set -> its splits, with their own columns."""

import codecs
import glob
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict, Features, Value, load_dataset, load_from_disk

from .errors import DataError, shortened

logger = logging.getLogger("mmjepa")

# Other names of splits, in folders and on the Hub.
SPLIT_NAMES = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(
    ("valid", "val", "dev", "eval"), "validation"
)
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")


def load_splits(dataset_name: str, config_name: str | None = None) -> dict[str, tuple[Dataset, Path]]:
    """Reads each split with its own columns and name -> the rows, and the folder that their image paths start from.

    Args:
        dataset_name: as for `load_rows`.
        config_name: which configuration of a Hub data set.

    Raises:
        DataError: there is no such table, it can't be read, or the folder holds no data.
    """
    path = Path(dataset_name).absolute()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with naming_unreadable(path):
            rows = load_from_disk(str(path))
        splits = rows if isinstance(rows, DatasetDict) else {"train": rows}
    elif tables := find_tables(path):
        # One by one: `datasets` guesses other types for an image folder's metadata and reads NA as none.
        return {split: (load_table(table), table.parent) for split, table in tables.items()}
    else:
        check_can_hold_data(path)
        with naming_unreadable(path):
            splits = load_dataset(dataset_name, config_name)
    return {split: (rows, path) for split, rows in splits.items()}


def check_can_hold_data(path: Path) -> None:
    """Raises DataError where `path`, which has no table of a known name, is no folder of parquet files or Hub id."""
    if path.is_dir() and not any(path.rglob("*.parquet")):
        raise DataError(
            f"{path} holds no data: give a folder of save_to_disk, of parquet files, of train.csv, validation.csv, "
            "... (or .tsv, .json, .jsonl), or of images and metadata.csv; or name the table itself."
        )
    if path.suffix.lower() in TABLE_SUFFIXES and not path.exists():
        raise DataError(f"there is no file {path}.")
    if path.is_dir() and "[" in str(path):
        raise DataError(f"{path} has a [ in its name, where files are not found: rename it, or name its files.")


@contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """Turns an error while `path` is read into a DataError that names it, if `path` is a file or folder."""
    try:
        yield
    except Exception as error:  # pandas, pyarrow and `datasets` raise errors of a dozen types
        if not path.exists() and not isinstance(error, ValueError):  # it is an id on the Hub
            raise
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split()).rstrip(": ")
        raise DataError(f"{path if path.exists() else path.name} can't be read ({shortened(reason)}).") from error


def split_name(split: str, splits: Collection[str]) -> str:
    """The name of a split in this project; its own name if another of `splits` already has that name."""
    name = SPLIT_NAMES.get(split, split)
    return split if name in splits else name


def check_splits(dataset_name: str, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises DataError where a wanted split is not among those found."""
    if missing := [split for split in wanted if split not in found]:
        raise DataError(
            f"{dataset_name} has the splits {', '.join(found)} but no {' and no '.join(missing)}: train is needed to "
            "train; validation, unless --do_eval false or train has images to hold out, as no stream can; test for "
            "--do_predict, unless --predict_split names another."
        )


def find_tables(path: Path) -> dict[str, Path]:
    """The table of each split: `path` itself, train.csv and so on in that folder, or an image folder's metadata.

    Raises:
        DataError: there are two tables for a split.
    """
    if path.is_file():
        return {SPLIT_NAMES.get(path.stem.lower(), "train"): path}
    if not path.is_dir():
        return {}
    files = {file: file.stem.lower() for file in path.iterdir() if file.suffix.lower() in TABLE_SUFFIXES}
    named = [(SPLIT_NAMES[name], file) for file, name in files.items() if name in SPLIT_NAMES]
    if not named:
        metadata = [file for file in path.rglob("metadata.*") if file.suffix.lower() in TABLE_SUFFIXES]
        named = [(split_of_folder(file.relative_to(path)), file) for file in metadata]
    tables: dict[str, Path] = {}
    for split, file in sorted(named):
        first = tables.setdefault(split, file)
        if first != file:
            names = " and ".join(str(table.relative_to(path)) for table in (first, file))
            raise DataError(f"{path} holds {names}: leave one table for each split.")
    return tables


def split_of_folder(path: Path) -> str:
    """The split that a folder in a relative path is named after; train if there is none."""
    return next((SPLIT_NAMES[name.lower()] for name in path.parts if name.lower() in SPLIT_NAMES), "train")


def load_table(path: Path) -> Dataset:
    """Reads a table. All columns of a CSV or TSV file are text, so that 007, NA and null stay answers.

    Raises:
        DataError: the file is of another kind or can't be read.
    """
    suffix, options = path.suffix.lower(), {}
    builder = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(suffix)
    if builder is None:
        raise DataError(f"{path} is no table that can be read: give a {', '.join(TABLE_SUFFIXES)} or .parquet file.")
    if builder == "csv":
        options = csv_format(path)
    with naming_unreadable(path):
        if builder == "csv":
            # Names as pandas reads them: `datasets` reads with pandas, which names a column that has no name.
            names = pd.read_csv(path, nrows=0, **options).columns
            options |= {"features": Features({name: Value("string") for name in names}), "keep_default_na": False}
        return load_dataset(builder, data_files=glob.escape(str(path)), split="train", **options)


def csv_format(path: Path) -> dict[str, Any]:
    """How pandas has to read a CSV or TSV file: its encoding and its separator (comma, semicolon or tab).

    Raises:
        DataError: the file is in none of the encodings UTF-8, UTF-16 (with its mark) and Windows-1252.
    """
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ["utf-16"] if is_utf16 else ["utf-8-sig", "cp1252"]:
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise DataError(f"{path} is in none of the encodings UTF-8, UTF-16 and Windows-1252: save it as UTF-8.")
    if encoding == "cp1252":
        logger.warning(
            "%s is not UTF-8; it is read as Windows-1252 (latin-1). Save it as UTF-8 if that is wrong.", path
        )
    header = text.lstrip().partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    return {"encoding": encoding, "sep": separator, "skipinitialspace": True}
