"""Scores predictions of any program by every published rule, beside what the questions alone give."""

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..metrics.vqa_answers.rules import RULES, is_yes_no, normalize_answer
from ..metrics.vqa_answers.vqa_answers import bleu_counts, bleu_of_counts, question_kind, row_scores
from .controls import images_drawn, majority_answers, mean_interval

READERS = {
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".json": pd.read_json,
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
}
COLUMNS = ("question", "answer", "prediction")
IMAGE_COLUMNS = ("image", "image_id", "file_name")
GROUPS = ("all", "yes_no", "open")
CLOSED_LIST_RULE = "closed_list_exact_match"
OWN_RULE = "squad_exact_match"  # by which kinds of question and floors are compared
Interval = tuple[float, float, float]  # a mean, and the 95 % interval around it


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A table of predictions with the columns question, answer, prediction and image, all texts.

    Args:
        path: .jsonl, .json, .csv or .parquet. The image, a name or a number, may also be called image_id or
            file_name. Only for intervals it is needed: without one, each row is taken for an image of its own.

    Raises:
        ValueError: the file is of another kind, has no rows, or lacks a column.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path} is no table of predictions: give a file that ends with {', '.join(READERS)}.")
    try:
        table = READERS[path.suffix](path)
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, table.columns))} and lacks {', '.join(missing)}: give the "
            "right answer as answer and the model's as prediction, beside the question."
        )
    if table.empty:
        raise ValueError(f"{path} has no rows.")
    image = next((table[name] for name in IMAGE_COLUMNS if name in table), pd.Series(range(len(table))))
    return table[list(COLUMNS)].fillna("").assign(image=image).astype(str)


def score_table(predictions: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """The score by each rule over all, yes/no and open questions, with its interval.

    Args:
        predictions: of `read_predictions`.
        seed: of the bootstrap over images.
    """
    groups = groups_of(predictions["answer"])
    table: dict[str, dict[str, Interval]] = {}
    for rule in RULES:
        scores = row_scores(rule, predictions["prediction"], predictions["answer"])
        table[rule] = group_intervals(np.array(scores, dtype=float), groups, predictions["image"], seed)
    for length in range(1, 5):
        table[f"bleu_{length}"] = {}
    for group, rows in groups.items():
        if rows.any():
            for length, interval in enumerate(bleu_intervals(predictions[rows], seed), start=1):
                table[f"bleu_{length}"][group] = interval
    return table


def closed_list_intervals(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, Interval]:
    """This project's accuracy once each prediction is replaced by the most similar of the training answers.

    This is how free text is scored against a list of answers, such as the choices of PMC-VQA (arXiv 2305.10415): by
    the ratio of `difflib.SequenceMatcher`.
    """
    known = sorted(set(map(normalize_answer, train_questions["answer"])))
    chosen = {text: most_similar(normalize_answer(text), known) for text in set(predictions["prediction"])}
    texts = [chosen[text] for text in predictions["prediction"]]
    scores = np.array(row_scores(OWN_RULE, texts, predictions["answer"]), dtype=float)
    return group_intervals(scores, groups_of(predictions["answer"]), predictions["image"], seed)


def most_similar(text: str, answers: list[str]) -> str:
    if text in answers:
        return text
    matcher = SequenceMatcher(b=text, autojunk=False)  # b is what it keeps an index of
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
    """The mean of the rows' scores (R,), NaN where they don't count, in each group that has a counted row."""
    in_group = {group: np.where(rows, scores, np.nan) for group, rows in groups.items()}
    return {
        group: mean_interval(scores, image_ids, seed)
        for group, scores in in_group.items()
        if not np.isnan(scores).all()
    }


def bleu_intervals(predictions: pd.DataFrame, seed: int, draws: int = 200) -> list[Interval]:
    """Corpus BLEU-1 to BLEU-4 and their intervals, by a bootstrap over images."""
    answers = predictions["prediction"].map(normalize_answer)
    truths = predictions["answer"].map(normalize_answer)
    image_of_row, times_drawn = images_drawn(predictions["image"], seed, draws)
    rows_of_image = pd.Series(range(len(predictions))).groupby(image_of_row).indices
    counts = np.stack(
        [
            bleu_counts(answers.iloc[rows].tolist(), [[truth] for truth in truths.iloc[rows]])
            for _, rows in sorted(rows_of_image.items())
        ]
    )  # (I, 10)
    drawn = [bleu_of_counts(times @ counts) for times in times_drawn]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return list(zip(bleu_of_counts(counts.sum(axis=0)), low.tolist(), high.tolist(), strict=True))


def kind_table(predictions: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """This project's accuracy by kind of question."""
    scores = np.array(row_scores(OWN_RULE, predictions["prediction"], predictions["answer"]), dtype=float)
    kinds = np.array([question_kind(question) for question in predictions["question"]])
    return {
        kind: mean_interval(np.where(kinds == kind, scores, np.nan), predictions["image"], seed)
        for kind in sorted(set(kinds))
    }


def floor_table(predictions: pd.DataFrame, train_questions: Dataset, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """What can be had without a model that reads images, by this project's accuracy.

    Args:
        train_questions: columns question and answer.

    Returns:
        For "majority" of the question's first words and "majority_question" of the whole question the accuracy of the
        most frequent training answer. For "closed_list" the share of answers that stand in training: what choosing
        from a list of them can reach.
    """
    questions, answers = list(predictions["question"]), predictions["answer"]
    groups = groups_of(answers)
    known = Counter(map(normalize_answer, train_questions["answer"]))
    floors = {
        "majority": majority_answers(train_questions, questions),
        "majority_question": majority_answers(train_questions, questions, first_words=(None, 3, 2, 1, 0)),
        "closed_list": [answer if normalize_answer(answer) in known else "" for answer in answers],
    }
    return {
        name: group_intervals(
            np.array(row_scores(OWN_RULE, texts, answers), dtype=float), groups, predictions["image"], seed
        )
        for name, texts in floors.items()
    }


def difference_table(predictions: pd.DataFrame, others: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """By how much the first predictions are better than the others, by each rule, with the interval of a paired test.

    Raises:
        ValueError: the two files do not hold the same questions and answers in the same order.
    """
    asked = ["question", "answer"]
    if len(predictions) != len(others) or (predictions[asked].values != others[asked].values).any():
        raise ValueError("the two files hold other questions or answers: give both the same rows in the same order.")
    groups = groups_of(predictions["answer"])
    table: dict[str, dict[str, Interval]] = {}
    for rule in RULES:
        first, second = (
            np.array(row_scores(rule, file["prediction"], file["answer"]), dtype=float)
            for file in (predictions, others)
        )
        # A rule that leaves rows out leaves out other ones of each file.
        table[rule] = group_intervals(first - second, groups, predictions["image"], seed)
    return table


def score_report(
    predictions: pd.DataFrame, train_questions: Dataset | None = None, others: pd.DataFrame | None = None
) -> dict[str, Any]:
    """All tables of a file of predictions, by name."""
    report: dict[str, Any] = {
        "questions": len(predictions),
        "images": predictions["image"].nunique(),
        "rules": score_table(predictions),
        "kinds": kind_table(predictions),
    }
    if train_questions is not None:
        report["rules"][CLOSED_LIST_RULE] = closed_list_intervals(predictions, train_questions)
        report["floors"] = floor_table(predictions, train_questions)
    if others is not None:
        report["differences"] = difference_table(predictions, others)
    return report
