"""The most that can be reached on scored rows."""

from itertools import compress

import numpy as np
import pandas as pd
from datasets import Dataset

from ..metrics.vqa_answers.rules import normalize_answer
from .groups import group_intervals, groups_of, own_scores
from .intervals import Interval, mean_interval
from .repeats import are_contradicted, asked_of, best_answers


def ceiling_table(
    predictions: pd.DataFrame, train_questions: Dataset | None, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """What is the most that can be reached, by this project's accuracy.

    Args:
        train_questions: None where nobody can tell which are not scored.

    Returns:
        closed_list: the share of answers that are training answers: what choosing from a list of them can reach.
        one_answer: what giving one answer for each image and question can reach. Only where rows
            contradict each other.
    """
    answers, groups = predictions["answers"], groups_of(predictions["answer"])
    ceilings: dict[str, dict[str, Interval]] = {}
    if train_questions is not None:
        known = set(map(normalize_answer, train_questions["answer"][:]))
        is_known = np.array([any(normalize_answer(text) in known for text in texts) for texts in answers], dtype=float)
        ceilings["closed_list"] = group_intervals(is_known, groups, predictions["image"], seed)
    asked = asked_of(predictions["image"], predictions["question"])
    if are_contradicted(asked, answers).any():
        ceilings["one_answer"] = {}
        for group, rows in groups.items():
            if rows.any():  # for each group the best answers are its own
                kept = predictions[rows]
                best = best_answers(list(compress(asked, rows)), kept["answers"])
                ceilings["one_answer"][group] = mean_interval(own_scores(best, kept), kept["image"], seed)
    return ceilings
