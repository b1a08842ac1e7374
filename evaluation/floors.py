"""Which training rows floors may be learnt from: none of the scored ones."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
from datasets import Dataset

from ..metrics.vqa_answers.rules import normalize_answer
from .controls import with_answers

UNKNOWN = (
    "Without floors: the scored rows may be among the training rows that floors would be learnt from. Give a data set "
    "that has the split which was scored, or name the images (image_file) as the data set does."
)


def unscored_rows(predictions: pd.DataFrame, splits: Mapping[str, Dataset]) -> tuple[Dataset | None, str]:
    """The training rows that are not scored, and a note on them; None where nobody can tell which these are.

    The scored rows belong to another split if that split has all of them and train has not, or if it begins with them,
    in their order. Else they may have been held out of train: then rows about the scored images, known by name, are
    left out.

    Args:
        predictions: of `read_predictions`, with answers.
        splits: of `load_rows`, train among them.
    """
    answered = {name: with_answers(rows) for name, rows in splits.items()}
    train = answered.pop("train")
    if len(train) == 0:
        return None, "Without floors: no training row has a question and an answer."
    scored, in_train = row_keys(predictions), row_keys(train)
    counts = Counter(scored)
    begins = in_train[: len(scored)] == scored
    is_train = counts <= Counter(in_train)
    for other in answered.values():
        keys = row_keys(other)
        if counts <= Counter(keys) and (not is_train or (keys[: len(scored)] == scored and not begins)):
            return train, ""
    if counts.keys().isdisjoint(in_train):
        return train, ""
    images = set(predictions["image_file"])
    if "" not in images and images <= set(train["image_file"][:]):
        others = [row for row, image in enumerate(train["image_file"][:]) if image not in images]
        if others:
            return train.select(others), (
                f"The scored images are images of train: the {len(train) - len(others)} rows about them are left out "
                "of what the floors are learnt from."
            )
    return None, UNKNOWN


def row_keys(rows: Mapping[str, Sequence[str]] | pd.DataFrame | Dataset) -> list[tuple[str, str]]:
    """Question and answer of each row, without regard to case and spaces."""
    pairs = zip(rows["question"][:], rows["answer"][:], strict=True)
    return [(" ".join(question.lower().split()), normalize_answer(answer)) for question, answer in pairs]
