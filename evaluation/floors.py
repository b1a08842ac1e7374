"""What is reached without images, learnt from training rows; none of the scored rows are among them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from datasets import Dataset

from ..data.images import image_hashes
from ..metrics.vqa_answers.rules import normalize_answer
from .controls import WHOLE_QUESTION, majority_answers, with_answers
from .groups import group_intervals, groups_of, own_scores
from .intervals import Interval

KEPT_COLUMNS = ("image_file", "question", "answer", "answers")  # in a file of majority answers
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


def floor_answers(predictions: pd.DataFrame, train_questions: Dataset) -> dict[str, list[str]]:
    """The answers of each floor of `floor_table`."""
    questions = list(predictions["question"])
    return {
        "majority": majority_answers(train_questions, questions),
        "majority_question": majority_answers(train_questions, questions, WHOLE_QUESTION),
    }


def floor_table(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """What can be reached without a model that reads images, by this project's accuracy.

    Args:
        train_questions: columns question and answer.

    Returns:
        majority, majority_question: accuracy of the most frequent training answer to the question's first words, and
            to the whole question.
    """
    groups = groups_of(predictions["answer"])
    return {
        name: group_intervals(own_scores(texts, predictions), groups, predictions["image"], seed)
        for name, texts in floor_answers(predictions, train_questions).items()
    }


def majority_predictions(splits: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """The floor of the question as predictions for validation: rows that `read_predictions` reads.

    Args:
        splits: of `load_rows`. Rows without question or answer are left out.

    Raises:
        ValueError: there is no train or no validation split.
    """
    if missing := [name for name in ("train", "validation") if name not in splits]:
        raise ValueError(
            f"the data set has no {missing[0]} split: majority answers are learnt from train and predicted for "
            "validation."
        )
    train, validation = (with_answers(splits[name]) for name in ("train", "validation"))
    hashes = image_hashes(validation)
    numbers = {image: number for number, image in enumerate(dict.fromkeys(hashes))}
    columns = {name: validation[name][:] for name in KEPT_COLUMNS if name in validation.column_names}
    columns |= {"image_id": [numbers[image] for image in hashes]}
    columns |= {"prediction": majority_answers(train, columns["question"], WHOLE_QUESTION)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def lead_table(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """How much better the predictions are than each floor of `floor_table`, with the interval of a paired test."""
    scores = own_scores(predictions["prediction"], predictions)
    groups = groups_of(predictions["answer"])
    return {
        name: group_intervals(scores - own_scores(texts, predictions), groups, predictions["image"], seed, least=-1)
        for name, texts in floor_answers(predictions, train_questions).items()
    }
