"""Scores the predictions of any program by every published rule, beside what the questions alone give."""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, Image

from ..data.columns import distinct_answers, one_text
from ..data.images import image_hashes
from ..data.tables import load_table
from ..metrics.vqa_answers.rules import RULES, is_yes_no, normalize_answer
from ..metrics.vqa_answers.vqa_answers import bleu_counts, bleu_of_counts, question_kind, right_answers, row_scores
from .controls import MIN_IMAGES, WHOLE_QUESTION, images_drawn, majority_answers, mean_interval
from .floors import unscored_rows

COLUMNS = ("question", "answer", "prediction")
IMAGE_COLUMNS = ("image", "image_id", "file_name", "image_file")
NAME_COLUMNS = ("image_file", "file_name", "image")  # the first of these names the image in the data set
GROUPS = ("all", "yes_no", "open")
CLOSED_LIST_RULE = "closed_list_exact_match"
OWN_RULE = "accuracy"  # by which kinds of question and floors are compared
Interval = tuple[float, float, float]  # a mean, and the 95 % interval around it


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A table of predictions with the columns question, answer, answers, prediction, image and image_file.

    They hold texts as they are written, "" for a missing one. But answers is a list of all right answers; its first is
    answer.

    Args:
        path: any table of `load_table`. The right answers may be lists, as answer or beside it as answers. The image
            is a name or a number, and may also be called image_id, file_name or image_file. Only intervals need it:
            without it, each row counts as an image of its own.

    Raises:
        ValueError: the file is of another kind, has no rows, lacks a column, or is of an earlier version.
    """
    rows = load_table(Path(path))
    names = rows.column_names
    if "answer_without_image" in names and "prediction" not in names:
        raise ValueError(
            f"{path} is of an earlier version, where answer was the model's: rename answer to prediction and truth to "
            "answer, or predict again."
        )
    if missing := [name for name in COLUMNS if name not in names and not (name == "answer" and "answers" in names)]:
        raise ValueError(
            f"{path} has the columns {', '.join(names)} and lacks {', '.join(missing)}: give the right answer as "
            "answer and the model's as prediction, beside the question."
        )
    if any(isinstance(question, list | dict) for question in rows["question"][:]):
        raise ValueError(f"{path} holds its columns as lists: give one object for each row.")
    table = pd.DataFrame({name: texts_of(rows, (name,)) for name in ("question", "prediction")})
    given = [map(distinct_answers, rows[name][:]) for name in ("answer", "answers") if name in names]
    # `answer` comes first: it decides whether its question is a yes/no question.
    table["answers"] = [list(dict.fromkeys(chain(*lists))) or [""] for lists in zip(*given, strict=True)]
    table["answer"] = [texts[0] for texts in table["answers"]]
    images = image_keys(rows)
    table["image"] = [image or f"row {row}" for row, image in enumerate(images)]
    return table.assign(image_file=texts_of(rows, NAME_COLUMNS))


def texts_of(rows: Dataset, names: Sequence[str]) -> list[str]:
    """The texts of the first column of `names` that exists; empty ones where none exists."""
    found = [name for name in names if name in rows.column_names and not isinstance(rows.features[name], Image)]
    return [one_text(value) for value in rows[found[0]][:]] if found else [""] * len(rows)


def image_keys(rows: Dataset) -> list[str]:
    """What tells the images of rows apart: a name, a number or, of an image itself, a hash."""
    if isinstance(rows.features.get("image"), Image):
        return image_hashes(rows.cast_column("image", Image(decode=False)))
    return texts_of(rows, IMAGE_COLUMNS)


def score_table(predictions: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """The score by each rule over all, yes/no and open questions, with its interval.

    Args:
        predictions: of `read_predictions`.
        seed: of the bootstrap over images.
    """
    groups = groups_of(predictions["answer"])
    table: dict[str, dict[str, Interval]] = {}
    for rule in RULES:
        scores = row_scores(rule, predictions["prediction"], predictions["answers"])
        table[rule] = group_intervals(np.array(scores, dtype=float), groups, predictions["image"], seed)
    for length in range(1, 5):
        table[f"bleu_{length}"] = {}
    for group, rows in groups.items():
        if rows.any():
            for length, interval in enumerate(bleu_intervals(predictions[rows], seed), start=1):
                table[f"bleu_{length}"][group] = interval
    return table


def closed_list_intervals(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, Interval]:
    """This project's accuracy after each prediction is replaced by the most similar training answer.

    PMC-VQA (arXiv 2305.10415) scores free text against a list of choices in this way. Similarity is the ratio of
    `difflib.SequenceMatcher`.
    """
    known = sorted(set(map(normalize_answer, train_questions["answer"][:])))
    chosen = {text: most_similar(normalize_answer(text), known) for text in set(predictions["prediction"])}
    texts = [chosen[text] for text in predictions["prediction"]]
    scores = np.array(row_scores(OWN_RULE, texts, predictions["answers"]), dtype=float)
    return group_intervals(scores, groups_of(predictions["answer"]), predictions["image"], seed)


def most_similar(text: str, answers: list[str]) -> str:
    """The one of `answers` most similar to `text`; the first of equally similar ones."""
    if text in answers:
        return text
    matcher = SequenceMatcher(b=text, autojunk=False)  # it keeps an index of b
    best, ratio = answers[0], -1.0
    for answer in answers:
        matcher.set_seq1(answer)
        # The first two are upper bounds of the third, and cheap.
        if matcher.real_quick_ratio() > ratio and matcher.quick_ratio() > ratio and matcher.ratio() > ratio:
            best, ratio = answer, matcher.ratio()
    return best


def groups_of(answers: Sequence[str]) -> dict[str, np.ndarray]:
    """Which rows (R,) are of each of `GROUPS`."""
    yes_no = np.array([is_yes_no(answer) for answer in answers])
    return {"all": np.ones(len(yes_no), dtype=bool), "yes_no": yes_no, "open": ~yes_no}


def group_intervals(
    scores: np.ndarray, groups: dict[str, np.ndarray], image_ids: Sequence[str], seed: int
) -> dict[str, Interval]:
    """The mean of the rows' scores (R,) in each group with a row that counts. NaN is a score that doesn't count."""
    in_group = {group: np.where(rows, scores, np.nan) for group, rows in groups.items()}
    return {
        group: mean_interval(scores, image_ids, seed)
        for group, scores in in_group.items()
        if not np.isnan(scores).all()
    }


def bleu_intervals(predictions: pd.DataFrame, seed: int, draws: int = 200) -> list[Interval]:
    """Corpus BLEU-1 to BLEU-4 and their intervals, by a bootstrap over images."""
    answers = predictions["prediction"].map(normalize_answer)
    truths = predictions["answers"].map(right_answers)
    image_of_row, times_drawn = images_drawn(predictions["image"], seed, draws)
    rows_of_image = pd.Series(range(len(predictions))).groupby(image_of_row).indices
    counts = np.stack(
        [
            bleu_counts(answers.iloc[rows].tolist(), truths.iloc[rows].tolist())
            for _, rows in sorted(rows_of_image.items())
        ]
    )  # (I, 10)
    drawn = [bleu_of_counts(times @ counts) for times in times_drawn]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return list(zip(bleu_of_counts(counts.sum(axis=0)), low.tolist(), high.tolist(), strict=True))


def kind_table(predictions: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """This project's accuracy by kind of question."""
    scores = np.array(row_scores(OWN_RULE, predictions["prediction"], predictions["answers"]), dtype=float)
    kinds = np.array([question_kind(question) for question in predictions["question"]])
    return {
        kind: mean_interval(np.where(kinds == kind, scores, np.nan), predictions["image"], seed)
        for kind in sorted(set(kinds))
    }


def floor_table(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """What can be reached without a model that reads images, by this project's accuracy.

    Args:
        train_questions: columns question and answer.

    Returns:
        majority, majority_question: accuracy of the most frequent training answer to the question's first words, and
            to the whole question.
        closed_list: the share of answers that are training answers: what choosing from a list of them can reach.
    """
    questions, answers = list(predictions["question"]), predictions["answers"]
    groups = groups_of(predictions["answer"])
    known = Counter(map(normalize_answer, train_questions["answer"][:]))
    floors = {
        "majority": majority_answers(train_questions, questions),
        "majority_question": majority_answers(train_questions, questions, WHOLE_QUESTION),
        "closed_list": [
            next((answer for answer in texts if normalize_answer(answer) in known), "") for texts in answers
        ],
    }
    return {
        name: group_intervals(
            np.array(row_scores(OWN_RULE, texts, answers), dtype=float), groups, predictions["image"], seed
        )
        for name, texts in floors.items()
    }


def difference_table(predictions: pd.DataFrame, others: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """How much better the first predictions are than the others, by each rule, with the interval of a paired test.

    Raises:
        ValueError: the two files do not hold the same questions and answers in the same order.
    """
    asked = ["question", "answers"]
    if any(predictions[name].tolist() != others[name].tolist() for name in asked):
        raise ValueError("the two files hold other questions or answers: give both the same rows in the same order.")
    groups = groups_of(predictions["answer"])
    table: dict[str, dict[str, Interval]] = {}
    for rule in RULES:
        first, second = (
            np.array(row_scores(rule, file["prediction"], file["answers"]), dtype=float)
            for file in (predictions, others)
        )
        # A rule may leave rows out, and not the same ones of both files: NaN in either is NaN in the difference.
        table[rule] = group_intervals(first - second, groups, predictions["image"], seed)
    return table


def score_report(
    predictions: pd.DataFrame, splits: Mapping[str, Dataset] | None = None, others: pd.DataFrame | None = None
) -> dict[str, Any]:
    """All tables of a file of predictions, by name, and `notes`, sentences on what they leave out.

    Args:
        predictions, others: of `read_predictions`. Rows without a right answer are not scored.
        splits: of `load_rows`, train among them, from whose rows the floors are learnt.

    Raises:
        ValueError: no row has an answer, or the two files hold other rows.
    """
    predictions, num_rows = answered(predictions), len(predictions)
    if predictions.empty:
        raise ValueError(f"none of the {num_rows} rows has an answer: give the right answers as answer.")
    notes = notes_on(predictions, num_rows)
    report: dict[str, Any] = {
        "questions": len(predictions),
        "images": predictions["image"].nunique(),
        "notes": notes,
        "rules": score_table(predictions),
        "kinds": kind_table(predictions),
    }
    if splits is not None:
        train_questions, note = unscored_rows(predictions, splits)
        notes += [note] if note else []
        if train_questions is not None:
            report["rules"][CLOSED_LIST_RULE] = closed_list_intervals(predictions, train_questions)
            report["floors"] = floor_table(predictions, train_questions)
    if others is not None:
        report["differences"] = difference_table(predictions, answered(others))
    return report


def notes_on(predictions: pd.DataFrame, num_rows: int) -> list[str]:
    """Sentences on what the scores leave out, and on what may mislead.

    Args:
        predictions: the rows that are scored.
        num_rows: how many rows the file has.
    """
    notes, num_images = [], predictions["image"].nunique()
    if num_rows > len(predictions):
        notes.append(f"{num_rows - len(predictions)} of {num_rows} rows have no right answer and are not scored.")
    if missing := (predictions["prediction"] == "").sum():
        notes.append(f"{missing} rows have no prediction and count as wrong.")
    if num_images == len(predictions):
        notes.append("Each row is of an image of its own: where images have several, name them, or intervals mislead.")
    if num_images < MIN_IMAGES:
        notes.append(f"Of {num_images} images intervals are too narrow: too few images to tell what is better.")
    return notes


def answered(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows whose right answer is known."""
    return predictions[predictions["answer"].str.strip() != ""].reset_index(drop=True)
