"""A data set by name, folder or file -> its rows, with this project's columns, images still encoded."""

import codecs
import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets import Sequence as ListOf
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE

from ..processing_mmjepa import base64_image

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
COLUMN_NAMES = {"file_name": "image", "images": "image", "answers": "answer", "questions": "question"}
# Columns of conversations (LLaVA, chats, The Cauldron) and of pairs, and who asks and who answers in them.
CONVERSATIONS = ("conversations", "conversation", "messages", "texts", "qa", "qa_pairs")
ASKING, ANSWERING = ("human", "user", "question"), ("gpt", "assistant", "model", "answer")
# Under which key of a dict its text stands: of VQA's and SQuAD's answers, of a chat's parts, of several languages.
TEXT_KEYS = ("answer", "answers", "question", "text", "value", "content", "label", "en")
# `datasets` knows a function by its name alone: without this in the fingerprint, texts that older code has read would
# come from the cache. Raise it with the code's results.
READ_BY = 2
SHOWN = 200  # characters of a value in a message
LONGEST_PATH = 4096  # characters; what is longer and stands for a path names no file
MAY_BE_BASE64 = re.compile(r"data:image/|[A-Za-z0-9+/\s]{64}")
# Other names that splits go by, in folders and on the Hub.
SPLIT_NAMES = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(
    ("valid", "val", "dev", "eval"), "validation"
)
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")


class DataError(ValueError):
    """What is wrong with a data set, and what to do, in one line."""

    @property
    def line(self) -> str:
        """The line alone, without the traceback that a worker of a DataLoader puts before it."""
        return str(self).rpartition(f"{type(self).__name__}: ")[2]


def shortened(text: str) -> str:
    """The beginning of a long text: a message never shows an image in base64."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def load_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
    optional: Collection[str] = (),
    allow_outside_images: bool = False,
) -> DatasetDict:
    """The splits of a data set with columns `image`, `question`, `answer` and, where it has them, `caption`, `text`.

    Images stay encoded: `image` is bytes or a path (`datasets.Image(decode=False)`); a list of one image is that, and
    text in base64 is the bytes that it stands for. A missing text is "", a class is its name. Where an answer may be a
    list, `answer` is the most frequent one of it, the first of equally frequent ones, and `answers` has its distinct
    ones, the most frequent first. Lists of questions and of their answers, and conversations as LLaVA and chats have
    them, are one row per question. What else a row has, such as an id, is handed on to the answers: `image_file`, the
    path or file name of the image in the data set, None where it has none; and all other columns but those of bytes,
    as they are. One whose name has a meaning here, such as `prediction`, is named `table_prediction`.

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
        DataError: a wanted split or a column is missing, a table can't be read, a folder has no data in one of these
            forms, an image lies outside of it, or a row has several images or a text that can't be told.
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
    """Raises DataError where a wanted split is not among those found."""
    if missing := [split for split in wanted if split not in found]:
        raise DataError(
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
        raise DataError(
            f"{path} holds no data: give a folder of save_to_disk, of parquet files, of train.csv, validation.csv, "
            "... (or .tsv, .json, .jsonl), or of images and metadata.csv; or name the table itself."
        )
    elif path.suffix.lower() in TABLE_SUFFIXES and not path.exists():
        raise DataError(f"there is no file {path}.")
    else:
        if path.is_dir() and "[" in str(path):
            raise DataError(f"{path} has a [ in its name, where files are not found: rename it, or name its files.")
        with naming_unreadable(path):
            splits = load_dataset(dataset_name, config_name)
    return {split: (rows, path) for split, rows in splits.items()}


@contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """What goes wrong while `path`, if there is such a file or folder, is read becomes a DataError that names it."""
    try:
        yield
    except Exception as error:  # pandas, pyarrow and `datasets` raise errors of a dozen types
        if not path.exists() and not isinstance(error, ValueError):  # it is an id on the Hub
            raise
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split()).rstrip(": ")
        raise DataError(f"{path if path.exists() else path.name} can't be read ({shortened(reason)}).") from error


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
    """The split that a folder of a relative path is named by; train where there is none."""
    return next((SPLIT_NAMES[name.lower()] for name in path.parts if name.lower() in SPLIT_NAMES), "train")


def load_table(path: Path) -> Dataset:
    """The rows of a table; all columns of a CSV or TSV file are text, so that 007, NA and null stay answers.

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
            # Names as pandas reads them: `datasets` reads with it, and it names a column that has no name.
            names = pd.read_csv(path, nrows=0, **options).columns
            options |= {"features": Features({name: Value("string") for name in names}), "keep_default_na": False}
        return load_dataset(builder, data_files=glob.escape(str(path)), split="train", **options)


def csv_format(path: Path) -> dict[str, Any]:
    """How pandas reads a CSV or TSV file: its encoding, and what separates its columns (comma, semicolon or tab).

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


def with_own_columns(
    rows: Dataset, columns: Mapping[str, str], folder: Path, split: str, allow_outside_images: bool
) -> Dataset:
    """`rows` with this project's columns by their names here, images encoded, texts without None; then the others."""
    if not len(rows):
        raise DataError(f"{split} has no rows.")
    talk = conversation_column(rows.column_names, columns)
    names = find_columns(rows.column_names, columns, split, ("image",) if talk else REQUIRED_COLUMNS)
    texts = read_texts(rows, names, talk, split)
    order = texts["row"][:]
    if order != list(range(len(rows))):
        rows = rows.select(order)
    column = next(column for column, name in names.items() if name == "image")
    images = encoded_images(rows.select_columns(column).rename_columns({column: "image"}), split)
    # In a table of its own: of a table put together from columns, blocks without columns and rows would stay behind.
    paths = images.flatten().with_format(None)["image.path"][:]  # a saved data set keeps a format of its old columns
    file_names = [path if path is None or len(path) <= LONGEST_PATH else None for path in paths]
    files = Dataset.from_dict({"image_file": file_names}, features=Features({"image_file": Value("string")}))
    parts = [with_absolute_paths(images, folder, allow_outside_images)]
    parts.append(texts.select_columns([name for name in TEXT_COLUMNS if name in texts.column_names]))
    parts.append(files)
    if "answers" in texts.column_names:
        parts.append(texts.select_columns("answers"))
    if others := other_columns(rows, {*names, talk}):
        taken = {"image", *TEXT_COLUMNS, *LATER_COLUMNS}
        new_names = {name: f"table_{name}" for name in others if name in taken}
        parts.append(rows.select_columns(others).rename_columns(new_names))
    return concatenate_datasets(parts, axis=1)


def other_columns(rows: Dataset, names: Collection[str | None]) -> list[str]:
    """The columns beside `names` whose values a line of JSON can hold: all but those of bytes, such as images."""
    types = {field.name: str(field.type) for field in rows.features.arrow_schema}
    return [name for name in rows.column_names if name not in names and "binary" not in types[name]]


def groups_of(rows: Dataset, column: str) -> list[str]:
    """The group of each row as text, "" where it has none.

    Raises:
        DataError: there is no such column.
    """
    name = next((name for name in (column, f"table_{column}") if name in rows.column_names), None)
    if name is None:
        raise DataError(f"there is no column {column!r} for --group_column: there are {', '.join(rows.column_names)}.")
    return [one_text(value).strip() for value in rows[name]]


def encoded_images(rows: Dataset, split: str) -> Dataset:
    """The column `image` of `rows` as bytes and paths; the item of a list of one, the bytes of text in base64.

    Raises:
        DataError: it holds something else, or several images of a row.
    """
    feature, kind = rows.features["image"], rows.features.arrow_schema.field("image").type
    if isinstance(inner_feature(feature), Image):
        rows = rows.cast_column("image", ListOf(Image(decode=False)))
    elif not needs_reading(kind, feature):
        try:
            rows = rows.cast_column("image", Image(decode=False))
        except (TypeError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{split}: images of the type {shortened(str(kind))} can't be read: give paths or image files, or "
                "name another column by --image_column."
            ) from error
        paths = rows.flatten().unique("image.path")
        if not any(path and MAY_BE_BASE64.match(path) for path in paths):
            return rows  # a map would copy the bytes
    return rows.map(
        read_image,
        with_indices=True,
        fn_kwargs={"split": split, "read_by": READ_BY},
        features=Features({"image": Image(decode=False)}),
        desc="Reading images",
    )


def needs_reading(kind: pyarrow.DataType, feature: Any) -> bool:
    """Whether a column of images holds lists, JSON, or dicts but of bytes and a path; pixels are no such list."""
    if is_list(kind):
        return not (is_list(kind.value_type) or is_number(kind.value_type))
    if pyarrow.types.is_struct(kind):
        types = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        return not {"bytes", "path"} & set(types) or is_text(types.get("bytes"))
    return type(feature).__name__ == "Json"


def is_list(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def is_number(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)


def is_text(kind: pyarrow.DataType | None) -> bool:
    return kind is not None and (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def inner_feature(feature: Any) -> Any:
    """What a list's items are; None of what is no list."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def read_image(row: dict[str, Any], number: int, split: str, read_by: int) -> dict[str, Any]:
    """The image of a row; `read_by` is not read: it is in the fingerprint."""
    try:
        return {"image": one_image(row["image"])}
    except DataError as error:
        raise DataError(f"{split}, row {number}: {error}") from error


def one_image(value: Any) -> dict[str, Any] | None:
    """Bytes and path of what stands for one image: a path, bytes, text in base64, a dict or a list of one of these.

    Raises:
        DataError: it stands for several images, or for none.
    """
    if value is None or value == []:
        return None
    if isinstance(value, list):
        if len(value) > 1:
            raise DataError(f"a question is about one image, and there are {len(value)}: give each a row of its own.")
        return one_image(value[0])
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, str):
        encoded = base64_image(value) if MAY_BE_BASE64.match(value) else None
        return {"bytes": encoded, "path": value if encoded is None else None}
    if not isinstance(value, dict) or not {"bytes", "path"} & set(value):
        raise DataError(f"{shortened(repr(value))} is no image: give a path, an image file, or `bytes` and `path`.")
    encoded, path = value.get("bytes"), value.get("path")
    if isinstance(encoded, str):
        encoded = base64_image(encoded) or bytes(encoded, "utf-8")
    return {"bytes": encoded, "path": path} if encoded or not path else one_image(path)


def conversation_column(column_names: Collection[str], columns: Mapping[str, str]) -> str | None:
    """The column of conversations or of pairs, where there is one and no column of questions or answers."""
    by_name = {name.lower(): name for name in column_names}
    if {"question", "answer"} & {*columns, *(COLUMN_NAMES.get(name, name) for name in by_name)}:
        return None
    return next((by_name[name] for name in CONVERSATIONS if name in by_name), None)


def read_texts(rows: Dataset, names: Mapping[str, str], conversations: str | None, split: str) -> Dataset:
    """The texts of `rows`, one row for each question, with `row`, where it comes from, and `answers`, where there are
    lists of them.

    Args:
        names: column -> name here, of the texts and the image.
        conversations: the column of questions and answers, where they are in one.

    Raises:
        DataError: a text can't be told, or a row's questions and answers differ in number.
    """
    texts = {column: name for column, name in names.items() if name != "image"}
    if conversations is not None:
        texts = {column: name for column, name in texts.items() if name not in ("question", "answer")}
        texts[conversations] = "conversation"
    columns = ["question", "answer", *(name for name in texts.values() if name in ("caption", "text"))]
    features = {"row": Value("int64")} | {name: Value("string") for name in columns}
    # Without the images: a map copies the bytes of what it is given.
    read = rows.select_columns(list(texts)).map(
        split_rows,
        batched=True,
        with_indices=True,
        remove_columns=list(texts),
        fn_kwargs={
            "names": texts,
            "kinds": {column: rows.features[column] for column in texts},
            "split": split,
            "read_by": READ_BY,
        },
        features=Features({**features, "answers": ListOf(Value("string"))}),
        desc="Reading texts",
    )
    if not len(read):
        raise DataError(
            f"{split}: no turn of its {conversations!r} asks ({', '.join(ASKING)}) before one that answers "
            f"({', '.join(ANSWERING)}); the first is {shortened(repr(rows[0][conversations]))}."
        )
    answers = [rows.features[column] for column, name in texts.items() if name == "answer"]
    are_lists = len(read) == len(rows) and any(not isinstance(kind, Value | ClassLabel) for kind in answers)
    if not are_lists and max(map(len, read["answers"])) < 2:
        read = read.remove_columns("answers")
    return read


def split_rows(
    batch: dict[str, list], numbers: list[int], names: dict[str, str], kinds: dict[str, Any], split: str, read_by: int
) -> dict[str, list]:
    """The texts of many rows, one for each question; `read_by` is not read: it is in the fingerprint."""
    texts: dict[str, list] = {"row": [], "question": [], "answer": []}
    texts |= {name: [] for name in names.values() if name in ("caption", "text")} | {"answers": []}
    for number, values in zip(numbers, zip(*batch.values(), strict=True), strict=True):
        try:
            row = {names[column]: named(value, kinds[column]) for column, value in zip(batch, values, strict=True)}
            questions = texts_of_row(row)
        except DataError as error:
            raise DataError(f"{split}, row {number}: {error}") from error
        for question in questions:
            for name, value in {"row": number, **question}.items():
                texts[name].append(value)
    return texts


def named(value: Any, feature: Any) -> Any:
    """`value` with the names of classes in place of their numbers; None for a class that is not known, -1."""
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(value, list) and inner_feature(feature) is not None:
        return [named(item, inner_feature(feature)) for item in value]
    if isinstance(value, dict):
        kinds = feature if isinstance(feature, dict) else inner_feature(feature)  # `datasets` turns lists of dicts
        return {key: named(item, (kinds or {}).get(key)) for key, item in value.items()}
    return value


def texts_of_row(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts of a row, a dict for each of its questions: question, answer, all distinct answers, and the others.

    Raises:
        DataError: a text can't be told, or its questions and answers differ in number.
    """
    others = {name: one_text(row[name]) for name in ("caption", "text") if name in row}
    if "conversation" in row:
        pairs = question_answers(row["conversation"])
    else:
        questions, answers = row.get("question"), row.get("answer")
        if isinstance(questions, list) and len(questions) > 1:
            if isinstance(answers, dict):
                answers = text_in_dict(answers)
            if not isinstance(answers, list) or len(answers) != len(questions):
                number = len(answers) if isinstance(answers, list) else "not a list of"
                raise DataError(
                    f"there are {len(questions)} questions and {number} answers: give each question its answer, or a "
                    "row of its own."
                )
            pairs = list(zip(questions, answers, strict=True))
        else:
            pairs = [(questions, answers)]
    texts = []
    for question, answer in pairs:
        answers = distinct_answers(answer)
        texts.append(
            {"question": one_text(question), "answer": next(iter(answers), ""), **others, "answers": answers or [""]}
        )
    return texts


def single_texts(row: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a row of a stream, which has one question; `kinds` are the columns' features.

    Raises:
        DataError: it has several, or a text can't be told.
    """
    texts = texts_of_row({name: named(value, kinds[name]) for name, value in row.items()})
    if len(texts) > 1:
        raise DataError(
            "a row of a stream has several questions: give each a row of its own, or leave out --streaming."
        )
    return {name: texts[0][name] for name in row}


def question_answers(conversation: Any) -> list[tuple[str, str]]:
    """What is asked and answered in a conversation: turns that ask, each followed by one that answers.

    Args:
        conversation: turns as LLaVA has them (`from`, `value`), as chats (`role`, `content`, also in parts), or with
            question and answer in one (`user`, `assistant`; `question`, `answer`); also as JSON, and as dict of lists.
    """
    if isinstance(conversation, str):
        try:
            conversation = json.loads(conversation)
        except json.JSONDecodeError as error:
            raise DataError(f"{shortened(repr(conversation))} is no conversation: give a list of turns.") from error
    if isinstance(conversation, dict) and all(isinstance(values, list) for values in conversation.values()):
        columns = zip(*conversation.values(), strict=True)
        conversation = [dict(zip(conversation, values, strict=True)) for values in columns]
    said: list[tuple[str, Any]] = []
    for turn in conversation if isinstance(conversation, list) else [conversation]:
        if isinstance(turn, dict):
            turn = {key: value for key, value in turn.items() if value is not None}
            speaker = str(turn.get("from", turn.get("role", ""))).lower()
            pair = [(name, turn[name]) for name in (*ASKING, *ANSWERING) if name in turn]
            said += [(speaker, turn.get("value", turn.get("content")))] if speaker else pair
    return [
        (words(question).replace("<image>", "").strip(), words(answer).strip())
        for (first, question), (second, answer) in pairwise(said)
        if first in ASKING and second in ANSWERING
    ]


def words(content: Any) -> str:
    """The text of a turn; of several parts all texts, without the images."""
    if isinstance(content, list):
        return " ".join(filter(None, map(words, content)))
    if isinstance(content, dict):
        return words(content.get("text"))
    return one_text(content)


def find_columns(
    column_names: list[str], columns: Mapping[str, str], split: str, required: Collection[str] = REQUIRED_COLUMNS
) -> dict[str, str]:
    """Name in the data set -> name here, of this project's columns; DataError where a needed one is missing."""
    by_name = {name.lower(): name for name in column_names if name not in columns.values()}
    by_name = {COLUMN_NAMES[name]: column for name, column in by_name.items() if name in COLUMN_NAMES} | by_name
    by_name |= columns
    found = {name: by_name[name] for name in ("image", *TEXT_COLUMNS) if by_name.get(name) in column_names}
    missing = [name for name in dict.fromkeys((*required, *columns)) if name not in found]
    if missing:
        raise DataError(
            f"{split} has no column {', '.join(repr(by_name.get(name, name)) for name in missing)}: there are "
            f"{', '.join(column_names)}; needed are {', '.join(required)}. Name the columns that hold "
            f"them with {', '.join(f'--{name}_column' for name in missing)}."
        )
    return {column: name for name, column in found.items()}


def one_text(value: Any) -> str:
    """A text as it is, of a list the most frequent one, of a dict that under one of `TEXT_KEYS`; "" for none.

    A whole number has no point: a column of them with a gap is read as one of fractions. A day has no time: from JSON
    it is read with one.

    Raises:
        DataError: it is no text, or a dict in which several may be it.
    """
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, list | dict):
        return next(iter(distinct_answers(value)), "")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{shortened(repr(value))} is no text: name another column.") from error
    return str(value).removesuffix(" 00:00:00") if isinstance(value, datetime) else str(value)


def text_in_dict(value: dict[str, Any]) -> Any:
    """What of a dict is its text: what stands under one of `TEXT_KEYS`, or what alone it holds."""
    filled = {key: item for key, item in value.items() if item is not None}
    if keys := [key for key in TEXT_KEYS if key in value]:
        return next((filled[key] for key in keys if key in filled), None)
    if len(filled) > 1:
        raise DataError(
            f"{shortened(repr(filled))} is no text: give one, or a dict with one of the keys {', '.join(TEXT_KEYS)}."
        )
    return next(iter(filled.values()), None)


def distinct_answers(answers: Any) -> list[str]:
    """The distinct ones of a row's answers, the most frequent first, the first of equally frequent ones before.

    Args:
        answers: one text, a list of texts, or VQA's [{"answer": text, ...}, ...], also as {"answer": [text, ...]}.
    """
    return [text for text, _ in Counter(flat_texts(answers)).most_common() if text]


def flat_texts(value: Any) -> Iterator[str]:
    """The texts of lists and dicts, at whatever depth."""
    if isinstance(value, dict):
        value = text_in_dict(value)
    if isinstance(value, list | dict):
        for item in value if isinstance(value, list) else [value]:
            yield from flat_texts(item)
    else:
        yield one_text(value)


def drop_unanswered(rows: Dataset, split: str) -> Dataset:
    """`rows` without those that ask and have no answer, or have no text at all; a warning counts and names them.

    Raises:
        DataError: no row is left.
    """
    texts = rows.select_columns([name for name in TEXT_COLUMNS if name in rows.column_names])[:]
    kept = [is_answered(dict(zip(texts, row, strict=True))) for row in zip(*texts.values(), strict=True)]
    dropped = [str(row) for row, is_kept in enumerate(kept) if not is_kept]
    if not dropped:
        return rows
    if len(dropped) == len(rows):
        raise DataError(
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
    texts = {name: one_text(row.get(name)).strip() for name in TEXT_COLUMNS}
    return texts["answer"] != "" or (texts["question"] == "" and texts["caption"] + texts["text"] != "")


def with_absolute_paths(images: Dataset, folder: Path, allow_outside: bool) -> Dataset:
    """Encoded `images` with absolute paths, where an image has a path and no bytes."""
    parts = images.flatten()
    if not parts.data["image.bytes"].null_count:
        return images  # a map would copy the bytes
    paths = [path for path in parts.unique("image.path") if path and not is_address(path)]
    files = [absolute_path(path, folder, allow_outside) for path in paths]
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
    if image is None or image["bytes"] or not image["path"] or is_address(image["path"]):
        return {"image": image}
    return {"image": {**image, "path": absolute_path(image["path"], Path(folder), allow_outside)}}


def is_address(path: str) -> bool:
    """Whether it is an address of the web, which is never fetched."""
    return "://" in path


def absolute_path(path: str, folder: Path, allow_outside: bool) -> str:
    """Where an image file lies: in `folder`, or else in the working directory, where `datasets` would read it.

    Raises:
        DataError: it lies outside of `folder`, by its path or by a link, and that is not allowed.
    """
    file = os.path.abspath(path) if os.path.exists(path) and not os.path.exists(folder / path) else str(folder / path)
    if not allow_outside and os.path.exists(file):
        lies_in = Path(os.path.realpath(file)).is_relative_to
        # What `datasets` downloaded and unpacked lies in the caches.
        if not any(lies_in(os.path.realpath(place)) for place in (folder, HF_DATASETS_CACHE, HF_HUB_CACHE)):
            raise DataError(
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
