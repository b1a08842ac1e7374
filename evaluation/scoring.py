"""Scores the predictions of any program by every published rule, beside what the questions alone give."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.columns import distinct_answers, one_text
from ..data.images import image_hashes
from ..data.tables import load_table
from ..metrics.vqa_answers.rules import RULES, normalize_answer
from ..metrics.vqa_answers.vqa_answers import (
    MAX_NGRAM,
    bleu_counts,
    bleu_of_counts,
    question_kind,
    right_answers,
    row_scores,
)
from .answer_lists import candidate_intervals, list_splits, list_table, open_answers_of
from .ceilings import ceiling_table
from .comparing import difference_tables, same_rows
from .floors import floor_table, lead_table, unscored_rows
from .groups import group_intervals, groups_of, groups_of_rule, own_scores
from .intervals import MIN_IMAGES, Interval, mean_interval, statistic_interval
from .nearest_answer import nearest_answers
from .pairing import ID_COLUMNS
from .repeats import are_contradicted, are_copies, asked_of, listed_answers

COLUMNS = ("question", "answer", "prediction")
IMAGE_COLUMNS = ("image", "image_id", "file_name", "image_file")
NAME_COLUMNS = ("image_file", "file_name", "image")  # the first of these names the image in the data set
CLOSED_LIST_RULE = "closed_list_exact_match"
CANDIDATE_RULE = "llava_med_candidate"


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A table of predictions with the columns question, answer, answers, prediction, image, image_file and ids.

    They hold texts as they are written, "" for a missing one. But answers is a list of all right answers; its first is
    answer. Each row without an image has an image of its own, and is_image_known is False.

    Args:
        path: any table of `load_table`. The right answers may be lists, as answer or beside it as answers. The image
            is a name or a number, and may also be called image_id, file_name or image_file. Intervals need it, and
            rows of two files are matched by it, or by id or question_id.

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
    table["is_image_known"] = [bool(image) for image in images]
    named = {"image_file": NAME_COLUMNS} | {name: (name,) for name in ID_COLUMNS}
    return table.assign(**{column: texts_of(rows, names) for column, names in named.items()})


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
        seed: of the bootstrap.
    """
    groups = groups_of(predictions["answer"])
    table: dict[str, dict[str, Interval]] = {}
    for rule in tqdm(RULES, desc="Scoring", unit=" rules", disable=None):
        scores = row_scores(rule, predictions["prediction"], predictions["answers"])
        table[rule] = group_intervals(
            np.array(scores, dtype=float), groups_of_rule(rule, groups), predictions["image"], seed
        )
    for length in range(1, 5):
        table[f"bleu_{length}"] = {}
    for group, rows in groups.items():
        if rows.any():
            for length, interval in enumerate(bleu_intervals(predictions[rows], seed), start=1):
                table[f"bleu_{length}"][group] = interval
    return table


def closed_list_intervals(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, Interval]:
    """This project's accuracy after each prediction is replaced by the most similar training answer.

    PMC-VQA (arXiv 2305.10415) scores free text against a list of choices in this way.
    """
    known = sorted(set(map(normalize_answer, train_questions["answer"][:])))
    texts = predictions["prediction"].map(normalize_answer)
    chosen = nearest_answers(texts, known)
    scores = own_scores(texts.map(chosen), predictions)
    return group_intervals(scores, groups_of(predictions["answer"]), predictions["image"], seed)


def bleu_intervals(predictions: pd.DataFrame, seed: int) -> list[Interval]:
    """Corpus BLEU-1 to BLEU-4 and their intervals over images."""
    answers = predictions["prediction"].map(normalize_answer)
    truths = predictions["answers"].map(right_answers)
    rows_of_image = predictions.reset_index().groupby("image").indices
    counts = np.stack(
        [bleu_counts(answers.iloc[rows].tolist(), truths.iloc[rows].tolist()) for rows in rows_of_image.values()]
    )  # (I, 10)

    def bleu(times_drawn: np.ndarray, length: int) -> np.ndarray:
        """Of how often each image counts (D, I): (D,)."""
        return np.array([bleu_of_counts(times @ counts)[length - 1] for times in times_drawn])

    return [statistic_interval(partial(bleu, length=length), len(counts), seed) for length in range(1, MAX_NGRAM + 1)]


def kind_table(predictions: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """This project's accuracy by kind of question."""
    scores = own_scores(predictions["prediction"], predictions)
    kinds = np.array([question_kind(question) for question in predictions["question"]])
    return {
        kind: mean_interval(np.where(kinds == kind, scores, np.nan), predictions["image"], seed)
        for kind in sorted(set(kinds))
    }


def counted_rows(predictions: pd.DataFrame, without_copies: bool, any_listed_answer: bool) -> pd.DataFrame:
    """The rows that are scored, with all answers that are taken as right.

    Args:
        without_copies: rows with the image, the question and the answers of a row before them are left out.
        any_listed_answer: an answer is right if any row of the same image and question lists it.

    Raises:
        ValueError: images are not known.
    """
    if not (without_copies or any_listed_answer):
        return predictions
    if not predictions["is_image_known"].all():
        raise ValueError(
            "rows without an image can't be told to be about the same one: give the column image, or leave out "
            "--without_copies and --any_listed_answer."
        )
    asked = asked_of(predictions["image"], predictions["question"])
    answers = predictions["answers"].tolist()
    if any_listed_answer:
        predictions = predictions.assign(answers=listed_answers(asked, answers))
    # By the answers as they are in the file: rows that contradict each other stay two rows.
    return predictions[~are_copies(asked, answers)] if without_copies else predictions


def score_report(
    predictions: pd.DataFrame,
    splits: Mapping[str, Dataset] | None = None,
    others: pd.DataFrame | None = None,
    without_copies: bool = False,
    any_listed_answer: bool = False,
) -> dict[str, Any]:
    """All tables of a file of predictions, by name, and `notes`, sentences on what they leave out.

    Args:
        predictions, others: of `read_predictions`. Rows without a right answer are not scored.
        splits: of `load_rows`, train among them, from whose rows the floors are learnt.
        without_copies, any_listed_answer: as for `counted_rows`.

    Raises:
        ValueError: no row has an answer, the two files have no row in common, or images are needed and not known.
    """
    predictions, num_rows = answered(predictions), len(predictions)
    if predictions.empty:
        raise ValueError(f"none of the {num_rows} rows has an answer: give the right answers as answer.")
    counted = counted_rows(predictions, without_copies, any_listed_answer)
    notes = notes_on(predictions, counted, num_rows)
    report: dict[str, Any] = {
        "questions": len(counted),
        "images": counted["image"].nunique(),
        "notes": notes,
        "rules": score_table(counted),
        "kinds": kind_table(counted),
    }
    train_questions = None
    if splits is not None:
        train_questions, note = unscored_rows(predictions, splits)
        notes += [note] if note else []
    if train_questions is not None:
        report["rules"][CLOSED_LIST_RULE] = closed_list_intervals(counted, train_questions)
        if open_answers := open_answers_of(train_questions):
            report["rules"][CANDIDATE_RULE] = candidate_intervals(counted, open_answers)
        report["floors"] = floor_table(counted, train_questions)
        report["leads"] = lead_table(counted, train_questions)
        of_lists, note = list_splits(predictions, train_questions, splits)
        notes += [note] if note else []
        report["lists"] = list_table(counted, of_lists)
    if ceilings := ceiling_table(counted, train_questions):
        report["ceilings"] = ceilings
    if others is not None:
        first, second, unmatched = same_rows(predictions, answered(others), counted)
        notes += unmatched
        report["differences"], report["p_values"] = difference_tables(first, second)
    return report


def notes_on(predictions: pd.DataFrame, counted: pd.DataFrame, num_rows: int) -> list[str]:
    """Sentences on what the scores leave out, and on what may mislead.

    Args:
        predictions: the rows that have an answer.
        counted: those that are scored.
        num_rows: how many rows the file has.
    """
    notes, num_images = [], counted["image"].nunique()
    if num_rows > len(predictions):
        notes.append(f"{num_rows - len(predictions)} of {num_rows} rows have no right answer and are not scored.")
    if missing := (counted["prediction"] == "").sum():
        notes.append(f"{missing} rows have no prediction and count as wrong.")
    notes += repeat_notes(predictions, counted)
    if unnamed := (~counted["is_image_known"]).sum():
        notes.append(
            f"{unnamed} of {len(counted)} rows name no image and are taken as independent: where images have several "
            "rows, name them (image), or intervals are too narrow."
        )
    elif num_images == len(counted):
        notes.append("Each row is of an image of its own: rows are taken as independent.")
    if num_images < MIN_IMAGES:
        notes.append(f"Of {num_images} images intervals are wide: too few images to tell what is better.")
    return notes


def repeat_notes(predictions: pd.DataFrame, counted: pd.DataFrame) -> list[str]:
    """Sentences on rows that repeat others, in the file and as they are scored."""
    asked = asked_of(predictions["image"], predictions["question"])
    notes = []
    if copies := are_copies(asked, predictions["answers"]).sum():
        said = "count twice: --without_copies leaves them out" if len(counted) == len(predictions) else "are left out"
        notes.append(f"{copies} of {len(predictions)} rows are copies of another and {said}.")
    if contradicted := are_contradicted(asked, predictions["answers"]).sum():
        left = are_contradicted(asked_of(counted["image"], counted["question"]), counted["answers"]).sum()
        said = "only their own is right: --any_listed_answer takes either" if left else "each of them is right"
        notes.append(f"{contradicted} rows have the image and question of a row with another answer, and {said}.")
    return notes


def answered(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows whose right answer is known."""
    return predictions[predictions["answer"].str.strip() != ""].reset_index(drop=True)
