"""A data set by name or folder -> its rows, with this project's columns, images still encoded."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)

REQUIRED_COLUMNS = ("image", "question", "answer")
TEXT_COLUMNS = ("question", "answer", "caption", "text")
# Other names that splits go by, in folders and on the Hub.
SPLIT_NAMES = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(
    ("valid", "val", "dev"), "validation"
)
TABLE_SUFFIXES = (".csv", ".json", ".jsonl")


def load_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
) -> DatasetDict:
    """The splits of a data set with columns `image`, `question`, `answer` and, where it has them, `caption`, `text`.

    Images stay encoded: `image` is bytes or a path (`datasets.Image(decode=False)`). A missing text is "".

    Args:
        dataset_name: a Hub id, or a folder: of `save_to_disk`, of parquet files as the Hub lays them out, or of
            train/validation/test tables (.csv, .json, .jsonl) whose image paths are relative to it.
        config_name: which configuration of a Hub data set.
        columns: name in the data set by name here, {"question": "prompt"}; other columns are found by their name.
        wanted: the splits, by their names here, that are read; all by default.

    Raises:
        ValueError: a wanted split or a column is missing, or a folder has no data in one of these forms.
    """
    folder = Path(dataset_name)
    splits = load_folder(folder, config_name) if folder.is_dir() else load_dataset(dataset_name, config_name)
    found = {SPLIT_NAMES.get(split, split): rows for split, rows in splits.items()}
    check_splits(dataset_name, found, wanted or ())
    return DatasetDict(
        {split: with_own_columns(found[split], columns or {}, folder.absolute(), split) for split in wanted or found}
    )


def first_rows(rows: DatasetDict, limits: Mapping[str, int | None]) -> DatasetDict:
    """The first rows of each split, at most its limit; all where it has no limit, None or 0."""
    return DatasetDict(
        {split: data.select(range(min(len(data), limits.get(split) or len(data)))) for split, data in rows.items()}
    )


def check_splits(dataset_name: str, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises ValueError where a wanted split is not among those found."""
    if missing := [split for split in wanted if split not in found]:
        raise ValueError(
            f"{dataset_name} has the splits {', '.join(found)} but no {' and no '.join(missing)}: train is always "
            "needed, for the answers that evaluations are compared with; validation unless --do_eval false; test for "
            "--do_predict, unless --predict_split names another."
        )


def load_folder(folder: Path, config_name: str | None = None) -> DatasetDict:
    """The splits in a local folder, whatever their columns."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        rows = load_from_disk(str(folder))
        return rows if isinstance(rows, DatasetDict) else DatasetDict(train=rows)
    tables: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TABLE_SUFFIXES and path.stem in SPLIT_NAMES:
            first = tables.setdefault(SPLIT_NAMES[path.stem], path)
            if first != path:
                raise ValueError(f"{folder} holds {first.name} and {path.name}: leave one table for each split.")
    if tables:
        # Table by table: by itself `datasets` takes a folder of images and tables for an image folder.
        return DatasetDict({split: load_table(path) for split, path in tables.items()})
    if any(folder.rglob("*.parquet")):
        return load_dataset(str(folder), config_name)
    raise ValueError(
        f"{folder} holds no data: give a folder of save_to_disk, of parquet files, or of train.csv, validation.csv, "
        "... (or .json, .jsonl)."
    )


def load_table(path: Path) -> Dataset:
    """The rows of a CSV or JSON file; all columns of a CSV file are text, so that 007, NA and null stay answers."""
    if path.suffix != ".csv":
        return load_dataset("json", data_files=str(path), split="train")
    # Names as pandas reads them: `datasets` reads with it, and it names a column that has no name.
    features = Features({name: Value("string") for name in pd.read_csv(path, nrows=0).columns})
    return load_dataset("csv", data_files=str(path), split="train", features=features, keep_default_na=False)


def with_own_columns(rows: Dataset, columns: Mapping[str, str], folder: Path, split: str) -> Dataset:
    """`rows` with this project's columns alone, by their names here; images encoded, texts without None."""
    names = find_columns(rows.column_names, columns, split)
    rows = rows.select_columns(list(names)).rename_columns(names)
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
    return concatenate_datasets([with_absolute_paths(images, folder), filled], axis=1)


def find_columns(
    column_names: list[str], columns: Mapping[str, str], split: str, required: Sequence[str] = REQUIRED_COLUMNS
) -> dict[str, str]:
    """Name in the data set -> name here, of this project's columns; ValueError where a needed one is missing."""
    by_name = {name.lower(): name for name in column_names if name not in columns.values()} | dict(columns)
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
    return {name: "" if text is None else str(text) for name, text in zip(columns, texts, strict=True)}


def with_absolute_paths(images: Dataset, folder: Path) -> Dataset:
    """Encoded `images` with absolute paths, where an image has a path and no bytes."""
    parts = images.flatten()
    if not parts.data["image.bytes"].null_count:
        return images  # a map would copy the bytes
    files = [absolute_path(path, folder) for path in parts.unique("image.path") if path]
    return images.map(
        with_absolute_path,
        # They are in the fingerprint: an image that was moved, replaced or repaired must not come from the cache.
        fn_kwargs={"folder": str(folder), "states": [(file, file_state(Path(file))) for file in files]},
        input_columns="image",
        features=images.features,
        desc="Finding images",
    )


def with_absolute_path(
    image: dict[str, Any] | None, folder: str, states: list | None = None
) -> dict[str, dict[str, Any] | None]:
    if image is None or image["bytes"] or not image["path"]:
        return {"image": image}
    return {"image": {**image, "path": absolute_path(image["path"], Path(folder))}}


def absolute_path(path: str, folder: Path) -> str:
    """Where an image file lies: in `folder`, or else in the working directory, where `datasets` would read it."""
    file = folder / path
    return os.path.abspath(path) if os.path.exists(path) and not os.path.exists(file) else str(file)


def file_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file, None where there is no such file."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: no path at all, such as text with a null character
        return None
    return state.st_size, state.st_mtime_ns
