"""Scores over all, yes/no and open questions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..metrics.vqa_answers.rules import RULES, is_yes_no
from ..metrics.vqa_answers.vqa_answers import row_scores
from .intervals import Interval, mean_interval

GROUPS = ("all", "yes_no", "open")
OWN_RULE = "accuracy"  # by which kinds of question, floors and ceilings are compared


def groups_of(answers: Sequence[str]) -> dict[str, np.ndarray]:
    """Which rows (R,) are of each of `GROUPS`."""
    yes_no = np.array([is_yes_no(answer) for answer in answers])
    return {"all": np.ones(len(yes_no), dtype=bool), "yes_no": yes_no, "open": ~yes_no}


def own_scores(texts: Sequence[str], predictions: pd.DataFrame) -> np.ndarray:
    """This project's accuracy of each text (R,), as an answer to the question of the row of `predictions`."""
    return np.array(row_scores(OWN_RULE, texts, predictions["answers"]), dtype=float)


def groups_of_rule(rule: str, groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The groups that a rule scores: not all questions, if it is for yes/no or for open questions alone."""
    questions = RULES[rule].questions
    return groups if questions == "all" else {questions: groups[questions]}


def group_intervals(
    scores: np.ndarray,
    groups: dict[str, np.ndarray],
    image_ids: Sequence[str],
    seed: int,
    least: float = 0,
) -> dict[str, Interval]:
    """The mean of the rows' scores (R,) in each group with a row that counts. NaN is a score that doesn't count."""
    in_group = {group: np.where(rows, scores, np.nan) for group, rows in groups.items()}
    return {
        group: mean_interval(scores, image_ids, seed, least=least)
        for group, scores in in_group.items()
        if not np.isnan(scores).all()
    }
