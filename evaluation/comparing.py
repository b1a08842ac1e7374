"""Two files of predictions beside each other: how far their scores differ, and whether by more than chance."""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..metrics.vqa_answers.rules import RULES
from ..metrics.vqa_answers.vqa_answers import row_scores
from .groups import group_intervals, groups_of, groups_of_rule
from .intervals import Interval
from .pairing import matched_rows
from .permutation import holm, sign_flip_p_values


def same_rows(
    predictions: pd.DataFrame, others: pd.DataFrame, counted: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The rows that both files have, in the same order, and sentences on the others.

    Args:
        predictions, others: of `read_predictions`, with answers.
        counted: those rows of `predictions` that are scored, with the answers that are right, as of `counted_rows`.

    Raises:
        ValueError: the files have no row in common.
    """
    places, other_places, notes = matched_rows(predictions, others)
    second = others.iloc[other_places].set_axis(places)
    common = counted.index.intersection(places)
    answers = counted.loc[common, ["answer", "answers"]]
    return counted.loc[common], second.loc[common].assign(**answers), notes


def difference_tables(
    predictions: pd.DataFrame, others: pd.DataFrame, seed: int = 0
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, float]]]:
    """How much better the first predictions are than the others, by each rule, with the interval of a paired test.

    Args:
        predictions, others: the same questions in the same order, as of `same_rows`.

    Returns:
        By rule the intervals, and p, the p-value of a paired permutation test over images, of all questions that the
        rule is for, with p_holm, Holm's correction for the number of rules.
    """
    groups = groups_of(predictions["answer"])
    _, image_of_row = np.unique(predictions["image"], return_inverse=True)
    table: dict[str, dict[str, Interval]] = {}
    sums: dict[str, np.ndarray] = {}
    for rule in tqdm(RULES, desc="Comparing", unit=" rules", disable=None):
        first, second = (
            np.array(row_scores(rule, file["prediction"], file["answers"]), dtype=float)
            for file in (predictions, others)
        )
        # A rule may leave rows out, and not the same ones of both files: NaN in either is NaN in the difference.
        intervals = group_intervals(first - second, groups_of_rule(rule, groups), predictions["image"], seed, least=-1)
        if intervals:
            table[rule] = intervals
            sums[rule] = np.bincount(image_of_row, np.nan_to_num(first - second))  # (I,)
    p_values = sign_flip_p_values(np.stack(list(sums.values()), axis=1), seed)
    tests = zip(sums, p_values.tolist(), holm(p_values).tolist(), strict=True)
    return table, {rule: {"p": p_value, "p_holm": corrected} for rule, p_value, corrected in tests}
