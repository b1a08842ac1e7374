"""Which rows of two files of predictions are about the same question."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import pandas as pd

from .repeats import answer_keys, asked_of

ID_COLUMNS = ("id", "question_id")
UNMATCHED = (
    "no row of one file is a row of the other: give both the same questions and right answers, and name the images "
    "alike, or give both a column id."
)


def matched_rows(predictions: pd.DataFrame, others: pd.DataFrame) -> tuple[list[int], list[int], list[str]]:
    """The places of rows about the same question in two files, and sentences on the rows that only one of them has.

    Rows are matched by id, where both files have one, else by image; and by question and right answers. Copies are
    matched in their order.

    Args:
        predictions, others: of `read_predictions`.

    Raises:
        ValueError: no row has a match.
    """
    for names in name_columns(predictions, others):
        first, second = (places_of(row_keys(file, names)) for file in (predictions, others))
        pairs = [pair for key in first if key in second for pair in zip(first[key], second[key], strict=False)]
        if pairs:
            places, other_places = zip(*sorted(pairs), strict=True)
            return list(places), list(other_places), unmatched_notes(len(pairs), len(predictions), len(others))
    raise ValueError(UNMATCHED)


def name_columns(predictions: pd.DataFrame, others: pd.DataFrame) -> list[list[str]]:
    """The columns by which rows may be matched beside question and answers, the best first.

    Questions and answers alone match rows only where a file doesn't name its images: else those of two images with the
    same question would be taken for one.
    """
    files = (predictions, others)
    complete = [
        name for name in (*ID_COLUMNS, "image_file", "image") if all(is_complete(file, name) for file in files)
    ]
    return [[name] for name in complete] or [[]]


def is_complete(predictions: pd.DataFrame, name: str) -> bool:
    """Whether a file has a column, and a text in each row of it."""
    if name == "image":
        return bool(predictions["is_image_known"].all())
    return name in predictions.columns and bool((predictions[name] != "").all())


def row_keys(predictions: pd.DataFrame, names: Sequence[str]) -> list[tuple[Hashable, ...]]:
    """The columns `names`, the question and the right answers of each row."""
    asked = asked_of(predictions[names[0]] if names else [""] * len(predictions), predictions["question"])
    return list(zip(asked, answer_keys(predictions["answers"]), strict=True))


def places_of(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Key -> the places that have it, in their order."""
    places = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return places


def unmatched_notes(num_pairs: int, num_rows: int, num_others: int) -> list[str]:
    """Sentences on the rows that are not compared."""
    return [
        f"{total - num_pairs} of {total} rows of the {which} file are not in the other and are not compared."
        for which, total in (("first", num_rows), ("second", num_others))
        if total > num_pairs
    ]
