"""Reads the tables of a data set -> its splits, with their own columns."""

import codecs
import csv
import glob
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .columns import one_text
from .errors import DataError, shortened
from .split_names import SPLIT_NAMES, own_names
from .table_files import PIPE_COLUMNS, TABLE_SUFFIXES, UNNAMED, find_parquet, find_tables

logger = logging.getLogger("mmjepa")

NOT_ASCII = re.compile(r"\w*[^\x00-\x7f]\w*")  # a word
# The first line by which a table tells Excel its separator.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[;,\t]*\r?\n', re.IGNORECASE)


def load_splits(
    dataset_name: str,
    config_name: str | None = None,
    train_split: str | None = None,
    where: Mapping[str, str] | None = None,
) -> dict[str, tuple[Dataset, Path]]:
    """Reads each split with its own columns: its name here -> the rows, and the folder that image paths start from.

    Args:
        dataset_name, config_name, train_split, where: as for `load_rows`.

    Raises:
        DataError: there is no such table, column or split, it can't be read, or the folder holds no data.
    """
    path = Path(dataset_name).absolute()
    splits: dict[str, tuple[Dataset, Path]]
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with naming_unreadable(path):
            saved = load_from_disk(str(path))
        saved = saved if isinstance(saved, DatasetDict) else {UNNAMED: saved}
        splits = {str(split): (rows, path) for split, rows in saved.items()}
    elif tables := find_tables(path):
        # One by one: `datasets` guesses other types for an image folder's metadata and reads NA as none.
        splits = {split: (load_parts(files), files[0].parent) for split, files in tables.items()}
    elif config_name is None and (parquet := find_parquet(path)):
        splits = {split: (load_parquet(files, path), path) for split, files in parquet.items()}
    else:
        check_can_hold_data(path, dataset_name)
        with naming_missing(dataset_name), naming_unreadable(path):
            splits = {str(split): (rows, path) for split, rows in load_dataset(dataset_name, config_name).items()}
    splits = {split: (rows_where(rows, where or {}, split), folder) for split, (rows, folder) in splits.items()}
    if UNNAMED in splits:
        rows, folder = splits.pop(UNNAMED)
        splits |= {split: (part, folder) for split, part in divided(rows).items()}
    splits = with_train_split(splits, train_split)
    if train_split is None and "train" in splits:
        check_says_train(splits["train"][0])
    return splits


def with_train_split(splits: Mapping[str, Any], train_split: str | None) -> dict[str, Any]:
    """`splits` by their names here, with `train_split`, one of their own names or of those here, as train.

    Raises:
        DataError: there is no such split.
    """
    names = own_names(splits)
    own = {names[split]: rows for split, rows in splits.items()}
    if train_split is None:
        return own
    name = names.get(train_split, train_split)
    if name not in own:
        raise DataError(f"there is no split {train_split!r} for --train_split: there are {', '.join(splits)}.")
    if name != "train" and "train" in own:
        logger.warning("train is not read: --train_split %s takes its place", train_split)
    return {"train": own[name]} | {split: rows for split, rows in own.items() if split not in ("train", name)}


def rows_where(rows: Dataset, where: Mapping[str, str], split: str) -> Dataset:
    """The rows whose columns have the values of `where`, as texts.

    Raises:
        DataError: there is no such column, or no row has the value.
    """
    for column, wanted in where.items():
        check_where(rows.column_names, column, split)
        values = [one_text(value).strip() for value in rows[column][:]]
        kept = [row for row, value in enumerate(values) if value == wanted]
        if not kept:
            there = shortened(", ".join(sorted(set(values))))
            raise DataError(
                f"{split or 'the table'} has no row for --where {column}={wanted}: its values are {there}."
            )
        rows = rows.select(kept)
    return rows


def check_where(column_names: Collection[str], column: str, split: str) -> None:
    """Raises DataError where --where names a column that is not there."""
    if column not in column_names:
        there = ", ".join(column_names)
        raise DataError(f"{split or 'the table'} has no column {column!r} for --where: there are {there}.")


def divided(rows: Dataset) -> dict[str, Dataset]:
    """The splits of one table by a column that names them; all of it is train where there is none."""
    said = splits_said(rows)
    if said is None:
        return {"train": rows}
    by_split = defaultdict(list)
    for row, split in enumerate(said):
        by_split[split].append(row)
    logger.info("A column of the table says its splits: %s", ", ".join(f"{s} ({len(n)})" for s, n in by_split.items()))
    return {split: rows.select(numbers) for split, numbers in by_split.items()}


def splits_said(rows: Dataset) -> list[str] | None:
    """The split of each row by the column `split`, or by VQA-RAD's `phrase_type`; None where there is neither.

    Raises:
        DataError: the column `split` names splits, but not in every row.
    """
    columns = {name.lower(): name for name in rows.column_names}
    if "phrase_type" in columns:
        return ["test" if one_text(kind).startswith("test") else "train" for kind in rows[columns["phrase_type"]][:]]
    if "split" not in columns:
        return None
    texts = [one_text(value).strip().lower() for value in rows[columns["split"]][:]]
    unknown = sorted({text for text in texts if text not in SPLIT_NAMES})
    if len(unknown) == len(set(texts)):
        return None
    if unknown:
        raise DataError(
            f"the column {columns['split']!r} names splits, but also {shortened(', '.join(map(repr, unknown)))}: read "
            f"the rows of one value by --where {columns['split']}=train, or rename the column."
        )
    return [SPLIT_NAMES[text] for text in texts]


def check_says_train(rows: Dataset) -> None:
    """Raises DataError where rows that are train by a name are of another split by a column of theirs."""
    if others := [split for split in splits_said(rows) or () if split != "train"]:
        raise DataError(
            f"{len(others)} of the {len(rows)} rows of train are {' and '.join(sorted(set(others)))} by their column "
            "split or phrase_type: leave them out by --where COLUMN=VALUE, or say --train_split train to train on all."
        )


def check_can_hold_data(path: Path, dataset_name: str) -> None:
    """Raises DataError where `path`, which has no table, is no folder of parquet files, and its name no Hub id."""
    if path.is_dir() and not any(path.rglob("*.parquet")):
        raise DataError(
            f"{path} holds no data: give a folder of save_to_disk, of parquet files, of train.csv, validation.csv, "
            "... (or .tsv, .json, .jsonl), of one such table of any name, or of images and metadata.csv; or name the "
            "table itself. Save a spreadsheet as CSV."
        )
    if path.exists():
        return
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise DataError(f"there is no file {path}.")
    try:
        validate_repo_id(dataset_name)
    except HFValidationError as error:
        raise DataError(f"there is no file or folder {path}.") from error


@contextmanager
def naming_missing(dataset_name: str) -> Iterator[None]:
    """Turns the error about a data set that is not on the Hub into a DataError: it is no folder here either."""
    try:
        yield
    except (DatasetNotFoundError, ConnectionError) as error:
        raise DataError(
            f"{dataset_name!r}: there is no such folder here, and no such data set was found on the Hub ({error})."
        ) from error


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


def check_splits(dataset_name: str, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises DataError where a wanted split is not among those found."""
    if missing := [split for split in wanted if split not in found]:
        raise DataError(
            f"{dataset_name} has the splits {', '.join(found)} but no {' and no '.join(missing)}: train is needed to "
            "train; validation, unless --do_eval false or train has images to hold out, as no stream can; test for "
            "--do_predict, unless --predict_split names another; --train_split trains on a split of another name."
        )


def load_parts(files: Sequence[Path]) -> Dataset:
    """The rows of tables that are parts of one; a column that some of them lack is empty there.

    Raises:
        DataError: a table can't be read, or their columns differ in type.
    """
    parts = [load_table(file) for file in files]
    try:
        return concatenate_datasets(parts)
    except ValueError as error:
        names = shortened(", ".join(file.name for file in files))
        raise DataError(f"{names} differ in the types of their columns ({shortened(str(error))}).") from error


def load_parquet(files: Sequence[Path], folder: Path) -> Dataset:
    """The rows of parquet files of one split.

    Raises:
        DataError: they can't be read.
    """
    with naming_unreadable(folder):
        return load_dataset("parquet", data_files=[glob.escape(str(file)) for file in files], split="train")


def load_table(path: Path) -> Dataset:
    """Reads a table. All columns of a CSV, TSV or text file are text, so that 007, NA and null stay answers.

    Rows of a CSV, TSV or text file without any text are left out, such as the empty lines below a spreadsheet.

    Raises:
        DataError: the file is of another kind or can't be read.
    """
    suffix, options = path.suffix.lower(), {}
    builders = dict.fromkeys((".csv", ".tsv", ".txt"), "csv") | dict.fromkeys((".json", ".jsonl"), "json")
    builder = (builders | {".parquet": "parquet"}).get(suffix)
    if builder is None:
        raise DataError(
            f"{path} is no table that can be read: give a {', '.join(TABLE_SUFFIXES)} or .parquet file. "
            "Save a spreadsheet as CSV."
        )
    if builder == "csv":
        options = csv_format(path)
    with naming_unreadable(path):
        if builder == "csv":
            # Names as pandas reads them: `datasets` reads with pandas, which names a column that has no name.
            names = options.get("names") or pd.read_csv(path, nrows=0, **options).columns
            options |= {"features": Features({name: Value("string") for name in names}), "keep_default_na": False}
        rows = load_dataset(builder, data_files=glob.escape(str(path)), split="train", **options)
    return with_bare_names(filled_rows(rows)) if builder == "csv" else rows


def filled_rows(rows: Dataset) -> Dataset:
    """The rows that have a text in one of their columns, all of which are texts."""
    lengths = [pyarrow.compute.binary_length(column).fill_null(0) for column in rows.data.columns]
    is_filled = np.array([pyarrow.compute.not_equal(column, 0) for column in lengths]).any(axis=0)
    return rows if is_filled.all() else rows.select(np.flatnonzero(is_filled))


def with_bare_names(rows: Dataset) -> Dataset:
    """The same with names of columns that neither begin nor end with blanks, where this leaves them different."""
    names = {name: name.strip() for name in rows.column_names}
    return rows.rename_columns(names) if len(set(names.values())) == len(names) else rows


def csv_format(path: Path) -> dict[str, Any]:
    """How pandas has to read a CSV, TSV or text file: its encoding, its separator, and names where it has no header.

    Raises:
        DataError: the file is in none of the encodings UTF-8, UTF-16 (with its mark) and Windows-1252; or it is a text
            file without columns.
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
            "%s is not UTF-8; it is read as Windows-1252 (latin-1), as in %r. Save it as UTF-8 if that is wrong.",
            *(path, NOT_ASCII.search(text)[0]),
        )
    said = SEPARATOR_LINE.match(text)
    header = text[said.end() if said else 0 :].lstrip().partition("\n")[0]
    if path.suffix.lower() == ".txt":
        names = PIPE_COLUMNS.get(header.count("|") + 1)
        if names is None:
            raise DataError(f"{path} is no table: a text file has lines of image|question|answer, without a header.")
        return {"encoding": encoding, "sep": "|", "names": names, "header": None, "quoting": csv.QUOTE_NONE}
    if said:
        return {"encoding": encoding, "sep": said[1], "skipinitialspace": True, "skiprows": 1}
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    return {"encoding": encoding, "sep": separator, "skipinitialspace": True}
