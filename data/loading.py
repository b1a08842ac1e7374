"""A data set by name, folder or file -> its rows, with this project's columns, images still encoded."""

import codecs
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    Sequence,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE

logger = logging.getLogger("mmjepa")

REQUIRED_COLUMNS = ("image", "question", "answer")
TEXT_COLUMNS = ("question", "answer", "caption", "text")
# Names that rows get later, of their images and of the model's answers.
LATER_COLUMNS = (
    *("image_file", "image_id", "pixels", "row", "answers"),
    *("prediction", "prediction_probability", "shuffled", "blank", "blank_probability", "from_image"),
    *("ranked", "ranked_probability", "align_cosine", "align_cosine_wrong"),
)
# Other names that columns go by: of images in the metadata of an image folder, of lists of answers in VQA.
COLUMN_NAMES = {"file_name": "image", "answers": "answer"}
# Other names that splits go by, in folders and on the Hub.
SPLIT_NAMES = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(
    ("valid", "val", "dev", "eval"), "validation"
)
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")


def load_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
    optional: Collection[str] = (),
    allow_outside_images: bool = False,
) -> DatasetDict:
    """The splits of a data set with columns `image`, `question`, `answer` and, where it has them, `caption`, `text`.

    Images stay encoded: `image` is bytes or a path (`datasets.Image(decode=False)`). A missing text is "". Where an
    answer may be a list, `answer` is the most frequent one of it, the first of equally frequent ones, and `answers`
    has its distinct ones, the most frequent first. LLaVA's `conversations` are one row per question. What else a row
    has, such as an id, is handed on to the answers: `image_file`, the path or file name of the image in the data
    set, None where it has none; and all other columns but those of bytes, as they are. One whose name has a meaning
    here, such as `prediction`, is named `table_prediction`.

    Args:
        dataset_name: a Hub id; a table (.csv, .tsv, .json, .jsonl, .parquet); or a folder: of `save_to_disk`, of
            parquet files as the Hub lays them out, of tables by the names of their splits, or of images and
            metadata.csv (.tsv, .json, .jsonl), itself or by split. Image paths are relative to the table. A table
            whose name is not a split's is train.
        config_name: which configuration of a Hub data set.
        columns: name in the data set by name here, {"question": "prompt"}; other columns are found by their name.
        wanted: the splits, by their names here, that are read; all by default. A missing validation split is no error
            where there is train, from which `hold_out` makes one.
        optional: splits that are read where there are such.
        allow_outside_images: images may lie outside of the data set's folder.

    Raises:
        ValueError: a wanted split or a column is missing, a table can't be read, a folder has no data in one of these
            forms, or an image lies outside of it.
    """
    splits = load_splits(dataset_name, config_name)
    found = {split_name(split, splits): rows for split, rows in splits.items()}
    if wanted is not None:
        check_splits(dataset_name, found, [name for name in wanted if name != "validation" or "train" not in found])
        found = {split: rows for split, rows in found.items() if split in (*wanted, *optional)}
    return DatasetDict(
        {
            split: with_own_columns(rows, columns or {}, folder, split, allow_outside_images)
            for split, (rows, folder) in found.items()
        }
    )


def split_name(split: str, splits: Collection[str]) -> str:
    """A split's name here; its own, where another one of `splits` has that name already."""
    name = SPLIT_NAMES.get(split, split)
    return split if name in splits else name


def first_rows(rows: DatasetDict, limits: Mapping[str, int | None]) -> DatasetDict:
    """The first rows of each split, at most its limit; all where it has no limit, or None."""
    return DatasetDict(
        {split: data.select(range(min(len(data), limits.get(split) or len(data)))) for split, data in rows.items()}
    )


def check_splits(dataset_name: str, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises ValueError where a wanted split is not among those found."""
    if missing := [split for split in wanted if split not in found]:
        raise ValueError(
            f"{dataset_name} has the splits {', '.join(found)} but no {' and no '.join(missing)}: train is needed to "
            "train; validation, unless --do_eval false or train has images to hold out, as no stream can; test for "
            "--do_predict, unless --predict_split names another."
        )


def load_splits(dataset_name: str, config_name: str | None = None) -> dict[str, tuple[Dataset, Path]]:
    """Each split, whatever its columns and its name, and the folder in which its relative image paths lie."""
    path = Path(dataset_name).absolute()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with naming_unreadable(path):
            rows = load_from_disk(str(path))
        splits = rows if isinstance(rows, DatasetDict) else {"train": rows}
    elif tables := find_tables(path):
        # Table by table: by itself `datasets` reads the metadata of an image folder with other types and NA for none.
        return {split: (load_table(table), table.parent) for split, table in tables.items()}
    elif path.is_dir() and not any(path.rglob("*.parquet")):
        raise ValueError(
            f"{path} holds no data: give a folder of save_to_disk, of parquet files, of train.csv, validation.csv, "
            "... (or .tsv, .json, .jsonl), or of images and metadata.csv; or name the table itself."
        )
    elif path.suffix.lower() in TABLE_SUFFIXES and not path.exists():
        raise ValueError(f"there is no file {path}.")
    else:
        with naming_unreadable(path):
            splits = load_dataset(dataset_name, config_name)
    return {split: (rows, path) for split, rows in splits.items()}


@contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """What goes wrong while `path`, if there is such a file or folder, is read becomes a ValueError that names it."""
    try:
        yield
    except Exception as error:  # pandas, pyarrow and `datasets` raise errors of a dozen types
        if not path.exists():  # it is an id on the Hub
            raise
        cause = error.__cause__ or error
        raise ValueError(f"{path} can't be read ({type(cause).__name__}: {cause}).") from error


def find_tables(path: Path) -> dict[str, Path]:
    """The table of each split: `path` itself, train.csv and so on in that folder, or an image folder's metadata.

    Raises:
        ValueError: there are two tables for a split.
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
            raise ValueError(f"{path} holds {names}: leave one table for each split.")
    return tables


def split_of_folder(path: Path) -> str:
    """The split that a folder of a relative path is named by; train where there is none."""
    return next((SPLIT_NAMES[name.lower()] for name in path.parts if name.lower() in SPLIT_NAMES), "train")


def load_table(path: Path) -> Dataset:
    """The rows of a table; all columns of a CSV or TSV file are text, so that 007, NA and null stay answers.

    Raises:
        ValueError: the file is of another kind or can't be read.
    """
    suffix, options = path.suffix.lower(), {}
    builder = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(suffix)
    if builder is None:
        raise ValueError(f"{path} is no table that can be read: give a {', '.join(TABLE_SUFFIXES)} or .parquet file.")
    if builder == "csv":
        options = csv_format(path)
    with naming_unreadable(path):
        if builder == "csv":
            # Names as pandas reads them: `datasets` reads with it, and it names a column that has no name.
            names = pd.read_csv(path, nrows=0, **options).columns
            options |= {"features": Features({name: Value("string") for name in names}), "keep_default_na": False}
        return load_dataset(builder, data_files=str(path), split="train", **options)


def csv_format(path: Path) -> dict[str, Any]:
    """How pandas reads a CSV or TSV file: its encoding, and what separates its columns (comma, semicolon or tab).

    Raises:
        ValueError: the file is in none of the encodings UTF-8, UTF-16 (with its mark) and Windows-1252.
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
        raise ValueError(f"{path} is in none of the encodings UTF-8, UTF-16 and Windows-1252: save it as UTF-8.")
    if encoding == "cp1252":
        logger.warning(
            "%s is not UTF-8; it is read as Windows-1252 (latin-1). Save it as UTF-8 if that is wrong.", path
        )
    header = text.lstrip().partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    return {"encoding": encoding, "sep": separator, "skipinitialspace": True}


def with_own_columns(
    rows: Dataset, columns: Mapping[str, str], folder: Path, split: str, allow_outside_images: bool
) -> Dataset:
    """`rows` with this project's columns by their names here, images encoded, texts without None; then the others."""
    if "conversations" in rows.column_names and not {"question", "answer"} & set(rows.column_names):
        rows = with_turns(rows)
    names = find_columns(rows.column_names, columns, split)
    all_rows, rows = rows, rows.select_columns(list(names)).rename_columns(names)
    texts = [name for name in rows.column_names if name != "image"]
    # Without the images: a map copies the bytes of what it is given.
    filled = rows.select_columns(texts).map(
        fill_missing,
        input_columns=texts,
        fn_kwargs={"columns": texts},
        features=Features({name: Value("string") for name in texts}),
        desc="Reading texts",
    )
    images = rows.select_columns("image").cast_column("image", Image(decode=False))
    # In a table of its own: of a table put together from columns, blocks without columns and rows would stay behind.
    file_names = images.flatten()["image.path"][:]
    files = Dataset.from_dict({"image_file": file_names}, features=Features({"image_file": Value("string")}))
    parts = [with_absolute_paths(images, folder, allow_outside_images), filled, files]
    if not isinstance(rows.features["answer"], Value):
        answers = rows.select_columns("answer").map(
            answer_list,
            input_columns="answer",
            remove_columns="answer",
            features=Features({"answers": Sequence(Value("string"))}),
            desc="Reading answers",
        )
        parts.append(answers)
    if others := other_columns(all_rows, names):
        taken = {"image", *TEXT_COLUMNS, *LATER_COLUMNS}
        new_names = {name: f"table_{name}" for name in others if name in taken}
        parts.append(all_rows.select_columns(others).rename_columns(new_names))
    return concatenate_datasets(parts, axis=1)


def other_columns(rows: Dataset, names: Collection[str]) -> list[str]:
    """The columns beside `names` whose values a line of JSON can hold: all but those of bytes, such as images."""
    types = {field.name: str(field.type) for field in rows.features.arrow_schema}
    return [name for name in rows.column_names if name not in names and "binary" not in types[name]]


def with_turns(rows: Dataset) -> Dataset:
    """LLaVA's rows, of an image and its `conversations`, as one row for each turn: `question` and `answer`."""
    turns = rows.select_columns("conversations").map(
        question_answers,
        batched=True,
        with_indices=True,
        remove_columns="conversations",
        features=Features({"row": Value("int64"), "question": Value("string"), "answer": Value("string")}),
        desc="Reading conversations",
    )
    repeated = rows.remove_columns("conversations").select(turns["row"][:])
    return concatenate_datasets([repeated, turns.remove_columns("row")], axis=1)


def question_answers(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
    """What a human asks and gpt answers in each conversation, and in which row."""
    turns = [
        (row, first["value"].replace("<image>", "").strip(), second["value"].strip())
        for row, conversation in zip(rows, batch["conversations"], strict=True)
        for first, second in pairwise(conversation or [])
        if (first["from"], second["from"]) == ("human", "gpt")
    ]
    return {name: [turn[place] for turn in turns] for place, name in enumerate(("row", "question", "answer"))}


def find_columns(
    column_names: list[str], columns: Mapping[str, str], split: str, required: Collection[str] = REQUIRED_COLUMNS
) -> dict[str, str]:
    """Name in the data set -> name here, of this project's columns; ValueError where a needed one is missing."""
    by_name = {name.lower(): name for name in column_names if name not in columns.values()}
    by_name = {COLUMN_NAMES[name]: column for name, column in by_name.items() if name in COLUMN_NAMES} | by_name
    by_name |= columns
    found = {name: by_name[name] for name in ("image", *TEXT_COLUMNS) if by_name.get(name) in column_names}
    missing = [name for name in dict.fromkeys((*required, *columns)) if name not in found]
    if missing:
        raise ValueError(
            f"{split} has no column {', '.join(repr(by_name.get(name, name)) for name in missing)}: there are "
            f"{', '.join(column_names)}; needed are {', '.join(required)}. Name the columns that hold "
            f"them with {', '.join(f'--{name}_column' for name in missing)}."
        )
    return {column: name for name, column in found.items()}


def fill_missing(*texts: Any, columns: list[str]) -> dict[str, str]:
    return {name: as_text(text) for name, text in zip(columns, texts, strict=True)}


def as_text(value: Any) -> str:
    """A text as it is, of a list the most frequent answer; "" for none and for NaN.

    A whole number has no point: a column of them with a gap is read as one of fractions. A day has no time: from JSON
    it is read with one.
    """
    if isinstance(value, list | dict):
        return next(iter(distinct_answers(value)), "")
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).removesuffix(" 00:00:00") if isinstance(value, datetime) else str(value)


def answer_list(answer: Any) -> dict[str, list[str]]:
    return {"answers": distinct_answers(answer) or [""]}


def distinct_answers(answers: Any) -> list[str]:
    """The distinct ones of a row's answers, the most frequent first, the first of equally frequent ones before.

    Args:
        answers: one text, a list of texts, or VQA's [{"answer": text, ...}, ...], also as {"answer": [text, ...]}.
    """
    if isinstance(answers, dict):
        answers = answers["answer"]
    if not isinstance(answers, list):
        answers = [answers]
    texts = [as_text(answer["answer"] if isinstance(answer, dict) else answer) for answer in answers]
    return [text for text, _ in Counter(texts).most_common() if text]


def drop_unanswered(rows: Dataset, split: str) -> Dataset:
    """`rows` without those that ask and have no answer, or have no text at all; a warning counts and names them.

    Raises:
        ValueError: no row is left.
    """
    texts = rows.select_columns([name for name in TEXT_COLUMNS if name in rows.column_names])[:]
    kept = [is_answered(dict(zip(texts, row, strict=True))) for row in zip(*texts.values(), strict=True)]
    dropped = [str(row) for row, is_kept in enumerate(kept) if not is_kept]
    if not dropped:
        return rows
    if len(dropped) == len(rows):
        raise ValueError(
            f"{split}: none of the {len(rows)} rows has an answer: check --answer_column, or ask about "
            "rows without answers by --predict_data."
        )
    logger.warning(
        "%s: %d of %d rows have no answer and are left out; the first, counted from 0: %s",
        *(split, len(dropped), len(rows), ", ".join(dropped[:10])),
    )
    return rows.select([row for row, is_kept in enumerate(kept) if is_kept])


def is_answered(row: dict[str, Any]) -> bool:
    """Whether the row has an answer or, without a question, another text for the alignment."""
    texts = {name: as_text(row.get(name)).strip() for name in TEXT_COLUMNS}
    return texts["answer"] != "" or (texts["question"] == "" and texts["caption"] + texts["text"] != "")


def with_absolute_paths(images: Dataset, folder: Path, allow_outside: bool) -> Dataset:
    """Encoded `images` with absolute paths, where an image has a path and no bytes."""
    parts = images.flatten()
    if not parts.data["image.bytes"].null_count:
        return images  # a map would copy the bytes
    files = [absolute_path(path, folder, allow_outside) for path in parts.unique("image.path") if path]
    return images.map(
        with_absolute_path,
        # They are in the fingerprint: an image that was moved, replaced or repaired must not come from the cache.
        fn_kwargs={
            "folder": str(folder),
            "allow_outside": allow_outside,
            "states": [(file, file_state(Path(file))) for file in files],
        },
        input_columns="image",
        features=images.features,
        desc="Finding images",
    )


def with_absolute_path(
    image: dict[str, Any] | None, folder: str, allow_outside: bool, states: list | None = None
) -> dict[str, dict[str, Any] | None]:
    if image is None or image["bytes"] or not image["path"]:
        return {"image": image}
    return {"image": {**image, "path": absolute_path(image["path"], Path(folder), allow_outside)}}


def absolute_path(path: str, folder: Path, allow_outside: bool) -> str:
    """Where an image file lies: in `folder`, or else in the working directory, where `datasets` would read it.

    Raises:
        ValueError: it lies outside of `folder`, by its path or by a link, and that is not allowed.
    """
    file = os.path.abspath(path) if os.path.exists(path) and not os.path.exists(folder / path) else str(folder / path)
    if not allow_outside and os.path.exists(file):
        lies_in = Path(os.path.realpath(file)).is_relative_to
        # What `datasets` downloaded and unpacked lies in the caches.
        if not any(lies_in(os.path.realpath(place)) for place in (folder, HF_DATASETS_CACHE, HF_HUB_CACHE)):
            raise ValueError(
                f"the image {path!r} lies outside of the data set's folder {folder}. A table from elsewhere could "
                "name any file of this machine: put the image into the folder, or allow such paths by "
                "--allow_outside_images."
            )
    return file


def file_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file, None where there is no such file."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: no path at all, such as text with a null character
        return None
    return state.st_size, state.st_mtime_ns
