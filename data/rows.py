"""A data set by name, folder or file -> rows with this project's columns, images still encoded, splits held out."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from .columns import (
    LATER_COLUMNS,
    REQUIRED_COLUMNS,
    SET_COLUMN,
    TEXT_COLUMNS,
    check_texts,
    conversation_column,
    find_columns,
    named_choices,
    one_text,
    other_columns,
    read_texts,
)
from .errors import DataError
from .images import image_hashes
from .paths import LONGEST_PATH, ImageRoots, check_one_each, encoded_images, rows_of_images, with_absolute_paths
from .tables import check_splits, load_splits

logger = logging.getLogger("mmjepa")


def load_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
    optional: Collection[str] = (),
    allow_outside_images: bool = False,
    image_folder: str | None = None,
    train_split: str | None = None,
    where: Mapping[str, str] | None = None,
) -> DatasetDict:
    """The splits of a data set with columns `image`, `question`, `answer` and, if it has them, `caption`, `text`.

    Images stay encoded: `image` is bytes or a path (`datasets.Image(decode=False)`). A list of one image is that
    image; base64 text is its bytes. A missing text is "", a class is its name. Where an answer may be a list, `answer`
    is its most frequent item, the first of equally frequent ones, and `answers` has the distinct ones, the most
    frequent first. Lists of questions and of their answers, and conversations as in LLaVA and in chats, become one row
    per question. Of a row with columns of choices, `choices` has the closed list, and a letter stands for the text of
    its choice.

    The other columns are kept, so that answers can be matched with ids: `image_file`, the path or file name of the
    image in the data set, None if it has none; and all columns but those of bytes. A column whose name has a meaning
    in this project, such as `prediction`, is renamed to `table_prediction`.

    Args:
        dataset_name: a Hub id; a table (.csv, .tsv, .json, .jsonl, .parquet); or a folder: of `save_to_disk`, of
            parquet files in the Hub's layout, of tables named after their splits, or of images and metadata.csv (.tsv,
            .json, .jsonl), one for all or one per split. Image paths are relative to the table, or to the only folder
            beside it, or else in one beside it, that holds them. A table that is not named after a split is train,
            unless its column `split` or VQA-RAD's `phrase_type` says more.
        config_name: which configuration of a Hub data set.
        columns: name in this project -> name in the data set, {"question": "prompt"}; other columns are found by their
            name.
        wanted: the splits to read; all by default. A missing validation split is no error if there is train, from
            which `hold_out` makes one.
        optional: more splits to read, if they exist.
        allow_outside_images: images may lie outside of the data set's folder.
        image_folder: what image paths are relative to.
        train_split: the split that is train, by its name in the data set.
        where: values, as texts, that columns of the data set must have; other rows are not read.

    Raises:
        DataError: a wanted split or a column is missing, a table can't be read, a folder has no data in one of these
            forms, an image lies outside of it, or a row has several images or a text that can't be read.
    """
    found = load_splits(dataset_name, config_name, train_split, where)
    if wanted is not None:
        check_splits(dataset_name, found, [name for name in wanted if name != "validation" or "train" not in found])
        found = {split: rows for split, rows in found.items() if split in (*wanted, *optional)}
    return own_rows(found, columns, allow_outside_images, image_folder)


def own_rows(
    found: Mapping[str, tuple[Dataset, Path]],
    columns: Mapping[str, str] | None,
    allow_outside_images: bool,
    image_folder: str | None,
) -> DatasetDict:
    """The splits of `load_splits` as `load_rows` returns them, with its errors."""
    return DatasetDict(
        {
            split: with_own_columns(
                rows, columns or {}, ImageRoots.of(folder, allow_outside_images, image_folder), split
            )
            for split, (rows, folder) in found.items()
        }
    )


def with_own_columns(rows: Dataset, columns: Mapping[str, str], roots: ImageRoots, split: str) -> Dataset:
    """`rows` as `load_rows` returns them: this project's columns by their names here, then the others.

    Raises:
        DataError: there are no rows, or as for `load_rows`.
    """
    if not len(rows):
        raise DataError(f"{split} has no rows.")
    conversations = conversation_column(rows.column_names, columns)
    names = find_columns(rows, columns, split, ("image",) if conversations else REQUIRED_COLUMNS)
    column = next(column for column, name in names.items() if name == "image")
    check_one_each(rows, column, split)
    texts = read_texts(rows, names, conversations, split)
    check_texts(texts, columns, "choices" in texts.column_names, split)
    order = texts["row"][:]
    if order != list(range(len(rows))):
        rows = rows.select(order)
    images = rows.select_columns(column).rename_columns({column: "image"}).select(rows_of_images(rows, column))
    images = encoded_images(images, split)
    parts = [with_absolute_paths(images, roots)]
    parts.append(texts.select_columns([name for name in TEXT_COLUMNS if name in texts.column_names]))
    parts.append(image_files(images))
    parts += [texts.select_columns(name) for name in ("answers", "choices") if name in texts.column_names]
    choices = named_choices(rows.features, names) if "choices" in texts.column_names else ()
    if others := other_columns(rows, {*names, *choices, conversations}):
        taken = {"image", *TEXT_COLUMNS, *LATER_COLUMNS}
        new_names = {name: f"table_{name}" for name in others if name in taken}
        parts.append(rows.select_columns(others).rename_columns(new_names))
    return concatenate_datasets(parts, axis=1)


def image_files(images: Dataset) -> Dataset:
    """The column `image_file`: the path of each of the encoded `images` as the data set has it, None if it has none.

    It is a table of its own: columns taken from another table would keep blocks without columns and rows.
    """
    paths = images.flatten().with_format(None)["image.path"][:]  # a saved data set keeps a format of its old columns
    names = [path if path is None or len(path) <= LONGEST_PATH else None for path in paths]
    return Dataset.from_dict({"image_file": names}, features=Features({"image_file": Value("string")}))


def first_rows(rows: DatasetDict, limits: Mapping[str, int | None]) -> DatasetDict:
    """The first rows of each split, at most its limit; all if it has no limit, or None.

    Of several data sets, those of each in turn.
    """
    return DatasetDict({split: data.select(first_places(data, limits.get(split))) for split, data in rows.items()})


def first_places(data: Dataset, limit: int | None) -> Sequence[int]:
    """Which rows of one split `first_rows` takes."""
    if limit is None or limit >= len(data) or SET_COLUMN not in data.column_names:
        return range(min(len(data), limit or len(data)))
    sets = np.array(data[SET_COLUMN][:])
    place_in_set = np.zeros(len(data), dtype=int)
    for name in set(sets):
        place_in_set[sets == name] = np.arange((sets == name).sum())
    return np.sort(np.argsort(place_in_set, kind="stable")[:limit]).tolist()


def drop_unanswered(rows: Dataset, split: str) -> Dataset:
    """`rows` without those that teach nothing (see `is_answered`); a warning counts and names them.

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


def groups_of(rows: Dataset, column: str) -> list[str]:
    """The group of each row as text, "" if it has none.

    Raises:
        DataError: there is no such column.
    """
    name = next((name for name in (column, f"table_{column}") if name in rows.column_names), None)
    if name is None:
        raise DataError(f"there is no column {column!r} for --group_column: there are {', '.join(rows.column_names)}.")
    return [one_text(value).strip() for value in rows[name][:]]


def hold_out(
    rows: Dataset, percentage: float, seed: int, group_column: str | None = None, num_threads: int | None = None
) -> tuple[Dataset, Dataset]:
    """Divides `rows` by image -> those that stay, and those about `percentage` of the images, or of groups of them.

    A hash of the seed and of an image's own content decides whether it is held out. If images are added or taken away,
    the others stay where they were, and a larger percentage holds out the same images and more. The share that is held
    out is therefore only about the percentage. Both parts have at least one image, but 100 percent leaves no rows.

    Args:
        group_column: a column, such as a patient's name, whose rows stay together: groups are held out, each by its
            own hash. Groups that share an image are one; an image without a group is a group of its own.

    Raises:
        DataError: all rows are about one image or group, or there is no such column.
    """
    keys = image_hashes(rows, num_threads)
    if group_column is not None:
        keys = joined_groups(keys, groups_of(rows, group_column))
    if percentage == 100:
        return rows.select([]), rows
    order = sorted(set(keys), key=lambda key: place_in_order(key, seed))
    if len(order) < 2:
        things = "images" if group_column is None else f"groups by {group_column!r}"
        raise DataError(
            f"there is no validation split, and of {len(order)} training {things} none can be held out: give a "
            "validation split, or --do_eval false."
        )
    count = sum(place_in_order(key, seed) < percentage / 100 for key in order)
    held_out = set(order[: min(max(count, 1), len(order) - 1)])
    is_held_out = np.array([key in held_out for key in keys])
    return rows.select(np.flatnonzero(~is_held_out)), rows.select(np.flatnonzero(is_held_out))


def place_in_order(key: str, seed: int) -> float:
    """A number from 0 to 1, evenly spread over keys and seeds."""
    digest = hashlib.blake2b(f"{seed} {key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def joined_groups(images: Sequence[str], groups: Sequence[str]) -> list[str]:
    """One key per row; rows share it if they share an image or a group, directly or through other rows.

    Args:
        groups: "" where a row has no group.
    """
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    for image, group in zip(images, groups, strict=True):
        if group:
            # The smallest is the root: "group" before "image", so that another image leaves a group's key as it is.
            smaller, larger = sorted([root(f"group {group}"), root(f"image {image}")])
            parents[larger] = smaller
    return [root(f"image {image}") for image in images]
