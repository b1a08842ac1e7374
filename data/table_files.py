"""Finds the tables of a data set by their names, and the split of each."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import DataError, shortened
from .split_names import ALIASES, BOTH, SPLIT_NAMES, exact_split, part_number, split_by_word, without_number

logger = logging.getLogger("mmjepa")

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt")
# A text file is a table if its lines have |, as in VQA-Med. It has no header: names by the number of its columns.
PIPE_COLUMNS = {3: ["img_id", "question", "answer"], 4: ["img_id", "category", "question", "answer"]}
# The split of tables that are not named after one. It is train, if no column of theirs says otherwise.
UNNAMED = ""


def is_table(path: Path) -> bool:
    """Whether a file is a table by its suffix and, of a text file, by its first line."""
    suffix = path.suffix.lower()
    if suffix != ".txt":
        return suffix in TABLE_SUFFIXES and path.is_file()
    return path.is_file() and len(first_line(path).split("|")) in PIPE_COLUMNS


def first_line(path: Path) -> str:
    """The first line of a text file, whatever its encoding."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline()


def find_tables(path: Path) -> dict[str, list[Path]]:
    """The tables of each split, each as its parts in order: `path` itself, or tables in that folder.

    Where no table of the folder has the name of a split, these are read: tables with such a word in their names, as
    All_QA_Pairs_train; or else all tables, as `UNNAMED`; or, if the folder has none, those in the folders in it. The
    log names tables that are not read.

    Raises:
        DataError: there are two tables for a split.
    """
    if path.is_file():
        return {split_by_word(path.stem) or UNNAMED: [path]}
    if not path.is_dir():
        return {}
    files = list(filter(is_table, sorted(path.iterdir())))
    parquet = sorted(path.rglob("*.parquet"))
    tables = named_tables(path) or by_split(files, word_of)
    if not tables and not parquet:
        below = [file for folder in sorted(path.iterdir()) if folder.is_dir() for file in sorted(folder.iterdir())]
        tables = {UNNAMED: files} if files else by_split(filter(is_table, below), word_of)
        if len(files) > 1:
            logger.warning("%s: no table is named after a split, and all are read: %s", path, listed(files))
    read = {file for parts in tables.values() for file in parts}
    if tables and (unread := [file for file in [*files, *parquet] if file not in read]):
        logger.warning("%s: not read: %s", path, listed(unread))
    return tables


def word_of(file: Path) -> str | None:
    """The split that a word of a file's name means; None if no word does."""
    return split_by_word(file.stem)


def named_tables(path: Path) -> dict[str, list[Path]]:
    """The tables of a folder that have the name of a split, or else an image folder's metadata.

    Raises:
        DataError: there are two tables for a split.
    """
    tables = by_split(filter(is_table, sorted(path.iterdir())), lambda file: exact_split(file.stem))
    metadata = () if tables else filter(is_table, sorted(path.rglob("metadata.*")))
    return tables or by_split(metadata, lambda file: split_of_folder(file.relative_to(path)))


def split_of_folder(path: Path) -> str:
    """The split that a folder in a relative path is named after; train if there is none."""
    return next((SPLIT_NAMES[name.lower()] for name in path.parts if name.lower() in SPLIT_NAMES), "train")


def find_parquet(path: Path) -> dict[str, list[Path]]:
    """The parquet files of each split in a folder, by their names or by the folders that they are in.

    Those of no split are `UNNAMED` if all are, else the log names them. None is found in a folder whose README.md says
    which files are which split: `datasets` reads it.
    """
    readme = path / "README.md"
    if not path.is_dir() or readme.is_file() and "data_files:" in readme.read_text(errors="replace"):
        return {}
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(path.rglob("*.parquet"), key=lambda file: (file.parent, part_number(file.stem) or 0, file)):
        folders = [exact_split(folder) for folder in file.relative_to(path).parts[:-1]]
        files[word_of(file) or next(filter(None, folders), UNNAMED)].append(file)
    if len(files) > 1 and (unread := files.pop(UNNAMED, [])):
        logger.warning("%s: not read: %s", path, listed(unread))
    return files


def by_split(files: Iterable[Path], split_of: Callable[[Path], str | None]) -> dict[str, list[Path]]:
    """The files of each split in order, train first, without those of none.

    Raises:
        DataError: a split has two tables that are not the parts of one.
    """
    tables: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if (split := split_of(file)) is not None:
            tables[split].append(file)
    return {split: in_order(tables[split]) for split in ALIASES if split in tables}


def in_order(files: list[Path]) -> list[Path]:
    """A split's tables by their numbers; trainval is none of them where there is train.

    Raises:
        DataError: they are not the parts of one table, numbered from 0 or 1 without a gap.
    """
    files = [file for file in files if file.stem.lower() not in BOTH] or files
    if len(files) == 1:
        return files
    parts = {part_number(file.stem): file for file in files}
    is_one_table = len({(file.parent, without_number(file.stem), file.suffix) for file in files}) == 1
    for first in (0, 1):
        numbers = range(first, first + len(files))
        if is_one_table and set(parts) == set(numbers):
            return [parts[number] for number in numbers]
    folder = files[0].parent
    names = shortened(" and ".join(str(file.relative_to(folder) if file.parent == folder else file) for file in files))
    raise DataError(
        f"{folder} holds {names} for one split: leave one table for each split, number all its parts from 0 or 1, or "
        "name the table itself."
    )


def listed(files: list[Path]) -> str:
    """The names of files, shortened if they are many."""
    return shortened(", ".join(file.name for file in files))
