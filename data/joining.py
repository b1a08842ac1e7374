"""Several data sets as one, each row knowing its own."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from datasets import List as ListOf

from .columns import SET_COLUMN, TEXT_COLUMNS
from .tables import TABLE_SUFFIXES

logger = logging.getLogger("mmjepa")


def short_names(dataset_names: Sequence[str]) -> list[str]:
    """The last part of each data set's name, without a table's suffix; with a number where two are equal."""
    paths = map(Path, dataset_names)
    names = [path.stem if path.suffix.lower() in (*TABLE_SUFFIXES, ".parquet") else path.name for path in paths]
    return [
        f"{name}_{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def join_sets(sets: Mapping[str, DatasetDict]) -> DatasetDict:
    """The rows of several data sets, split by split, with a column [`SET_COLUMN`] of the sets' names.

    A text that a set does not have is "". Where one set has lists of right answers, a row of another has its answer as
    a list. Of the other columns those are kept that have one type wherever they are. All this is the same in every
    split, because rows of train may be held out for validation.

    Args:
        sets: name -> the splits of `load_rows`.
    """
    types = [rows.features for splits in sets.values() for rows in splits.values()]
    names = dict.fromkeys(name for features in types for name in features)
    dropped = [name for name in names if len({str(features[name]) for features in types if name in features}) > 1]
    if dropped:
        logger.info("Columns whose types differ between data sets are left out: %s", ", ".join(dropped))
    texts = [name for name in TEXT_COLUMNS if name in names]
    parts = defaultdict(list)
    for name, splits in sets.items():
        for split, rows in splits.items():
            kept = rows.select_columns([column for column in rows.column_names if column not in dropped])
            parts[split].append(completed(kept, name, texts, has_lists="answers" in names))
    return DatasetDict({split: concatenate_datasets(rows) for split, rows in parts.items()})


def completed(rows: Dataset, name: str, texts: Sequence[str], has_lists: bool) -> Dataset:
    """`rows` with the set's name, all `texts`, and with `has_lists` their answers as lists too."""
    added: dict[str, list] = {SET_COLUMN: [name] * len(rows)}
    features = {SET_COLUMN: Value("string")}
    for text in texts:
        if text not in rows.column_names:
            added[text], features[text] = [""] * len(rows), Value("string")
    if has_lists and "answers" not in rows.column_names:
        added["answers"], features["answers"] = [[answer] for answer in rows["answer"][:]], ListOf(Value("string"))
    return concatenate_datasets([rows, Dataset.from_dict(added, features=Features(features))], axis=1)


def sets_of(rows: Dataset) -> list[str]:
    """The data set of each row, "" where there is only one."""
    return rows[SET_COLUMN][:] if SET_COLUMN in rows.column_names else [""] * len(rows)
