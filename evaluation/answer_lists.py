"""Closed lists of answers as published models build them, and the answer of a list that a reply is taken for.

These models choose the answer of the list to which they give the highest probability. Of a file of predictions two
things can be known: what choosing from a list can reach at most, and which answer of a list has the words of a reply.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset

from ..metrics.vqa_answers.rules import RULES, Equal, is_yes_no, mevf_normalize, vqa_normalize
from ..metrics.vqa_answers.vqa_answers import row_scores
from .controls import with_answers
from .floors import row_keys
from .groups import group_intervals, groups_of
from .intervals import Interval

TRAIN_AND_VALIDATION = ("train", "validation")


@dataclass(frozen=True)
class ClosedList:
    """A list of answers that published models choose from.

    Args:
        source: who builds it, and in which file.
        rule: the one of `RULES` by which they compare the chosen answer with the right one.
        splits: those whose answers are in it.
        write: how an answer is written in it. Answers that are written alike are one.
    """

    source: str
    rule: str
    splits: tuple[str, ...] = TRAIN_AND_VALIDATION
    write: Callable[[str], str] = str.strip


LISTS = {
    "m2i2": ClosedList("M2I2, configs/PathVQA.yaml", "vqa_exact_match"),
    "mumc": ClosedList("MUMC, configs/VQA.yaml", "mumc_containment"),
    "biomedgpt": ClosedList("BiomedGPT, datasets.md", "exact_match"),
    "mevf": ClosedList("MEVF and MMQ, tools/compute_softscore.py", "mevf_exact_match", ("train",), mevf_normalize),
}
SCORED_VALIDATION = (
    "Lists of train and validation have the answers of train alone here: the scored rows are of validation, and lists "
    "with their own answers would reach 100 %."
)


def list_splits(
    predictions: pd.DataFrame, train_questions: Dataset, splits: Mapping[str, Dataset]
) -> tuple[dict[str, Dataset], str]:
    """The splits that lists are built from, by name, and a note on what is left out of them.

    Args:
        predictions: the scored rows.
        train_questions: of `unscored_rows`.
        splits: of `load_rows`. Its validation is left out if it has all scored rows.
    """
    if "validation" not in splits:
        return {"train": train_questions}, ""
    validation = with_answers(splits["validation"])
    if Counter(row_keys(predictions)) <= Counter(row_keys(validation)):
        return {"train": train_questions}, SCORED_VALIDATION
    return {"train": train_questions, "validation": validation}, ""


def answer_list(rows: Iterable[Dataset], write: Callable[[str], str] = str.strip) -> list[str]:
    """The distinct answers of the rows, each as `write` writes it, in their order."""
    return list(dict.fromkeys(write(answer) for questions in rows for answer in questions["answer"][:]))


def reached(answers: Sequence[str], rule: str, truths: Sequence[Sequence[str]]) -> list[float]:
    """For each question 1.0 if an answer of the list is right by a rule, else 0.0: no choice can score more.

    Args:
        truths: the right answers of each question.
    """
    score = RULES[rule].score
    distinct = {right for rights in truths for right in rights}
    if isinstance(score, Equal):
        known = set(map(score.normalize, answers))
        found = {right: score.normalize(right) in known for right in distinct}
    else:
        found = {right: any(score(answer, right) for answer in answers) for right in distinct}
    return [float(any(found[right] for right in rights)) for rights in truths]


def open_answers_of(train_questions: Dataset) -> list[str]:
    """The distinct training answers other than yes and no: the list of LLaVA-Med's run_eval_batch.py."""
    return [answer for answer in answer_list([train_questions]) if not is_yes_no(answer)]


def candidate_answers(predictions: Sequence[str], open_answers: Sequence[str]) -> list[str]:
    """For each prediction the answer of the list that LLaVA-Med's run_eval.py takes it for, normalised as VQA does.

    It is the answer with the largest share of its words in the prediction, of equal ones the first: for a long
    prediction often an answer of one word, for an empty one the first of the list.
    """
    candidates = {answer: set(answer.split()) for answer in map(vqa_normalize, open_answers)}

    def taken_for(prediction: str) -> str:
        words = set(vqa_normalize(prediction).split())
        return max(candidates, key=lambda answer: len(words & candidates[answer]) / max(len(candidates[answer]), 1))

    taken = {prediction: taken_for(prediction) for prediction in set(predictions)}
    return [taken[prediction] for prediction in predictions]


def candidate_intervals(predictions: pd.DataFrame, open_answers: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """LLaVA-Med's open accuracy: of the open training answer that each prediction is taken for.

    Args:
        open_answers: of `open_answers_of`, at least one.
    """
    texts = candidate_answers(predictions["prediction"], open_answers)
    scores = np.array(row_scores("vqa_exact_match", texts, predictions["answers"]), dtype=float)
    is_open = groups_of(predictions["answer"])["open"]
    return group_intervals(scores, {"open": is_open}, predictions["image"], seed)


def list_table(
    predictions: pd.DataFrame, splits: Mapping[str, Dataset], seed: int = 0
) -> dict[str, dict[str, int | dict[str, Interval]]]:
    """What choosing from each of `LISTS` can reach at most, by the rule of those who choose from it.

    Args:
        splits: of `list_splits`.

    Returns:
        for each list answers, how many it has, and ceiling, the share of questions of each group with a right answer
        in it.
    """
    groups = groups_of(predictions["answer"])
    table: dict[str, dict[str, int | dict[str, Interval]]] = {}
    for name, closed_list in LISTS.items():
        rows = [splits[split] for split in closed_list.splits if split in splits]
        answers = answer_list(rows, closed_list.write)
        scores = np.array(reached(answers, closed_list.rule, predictions["answers"]))
        ceiling = group_intervals(scores, groups, predictions["image"], seed)
        table[name] = {"answers": len(answers), "ceiling": ceiling}
    return table
