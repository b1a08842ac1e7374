"""Rows that repeat others: copies, and rows about the same image and question whose answers differ.

Copies count twice. Where answers differ, no model that gives the same answer to the same question can be right in all.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import compress

import numpy as np

from ..metrics.vqa_answers.rules import is_yes_no, normalize_answer

Answers = Sequence[Sequence[str]]  # of each row its right answers, as they are written
Asked = tuple[str, str]  # an image and a question


def asked_of(images: Sequence[str], questions: Sequence[str]) -> list[Asked]:
    """The image and the question of each row, the question without regard to case and spaces."""
    return [(image, " ".join(question.lower().split())) for image, question in zip(images, questions, strict=True)]


def answer_keys(answers: Answers) -> list[tuple[str, ...]]:
    """The right answers of each row as this project's accuracy compares them, in any order."""
    return [tuple(sorted(set(map(normalize_answer, texts)))) for texts in answers]


def are_copies(asked: Sequence[Asked], answers: Answers) -> np.ndarray:
    """Whether each row (R,) has the image, the question and the answers of a row before it."""
    seen: set[tuple[Asked, tuple[str, ...]]] = set()
    copies = []
    for key in zip(asked, answer_keys(answers), strict=True):
        copies.append(key in seen)
        seen.add(key)
    return np.array(copies, dtype=bool)


def are_contradicted(asked: Sequence[Asked], answers: Answers) -> np.ndarray:
    """Whether each row (R,) has the image and the question of a row with other answers."""
    keys = answer_keys(answers)
    answers_of: dict[Asked, set[tuple[str, ...]]] = defaultdict(set)
    for one, key in zip(asked, keys, strict=True):
        answers_of[one].add(key)
    return np.array([len(answers_of[one]) > 1 for one in asked], dtype=bool)


def best_answers(asked: Sequence[Asked], answers: Answers) -> list[str]:
    """For each row the answer that is right in most rows of its image and question: no one answer can be in more."""
    counts: dict[Asked, Counter[str]] = defaultdict(Counter)
    for one, key in zip(asked, answer_keys(answers), strict=True):
        counts[one].update(key)
    return [counts[one].most_common(1)[0][0] for one in asked]


def listed_answers(asked: Sequence[Asked], answers: Answers) -> list[list[str]]:
    """For each row its own answers, then those of the other rows of its image and question."""
    answers_of: dict[Asked, list[str]] = defaultdict(list)
    for one, texts in zip(asked, answers, strict=True):
        answers_of[one] += texts
    return [list(dict.fromkeys([*texts, *answers_of[one]])) for one, texts in zip(asked, answers, strict=True)]


def repeat_numbers(asked: Sequence[Asked], answers: Answers) -> dict[str, float]:
    """How many rows repeat others, over all questions and, as open_<name>, over those that are not yes/no questions.

    Returns:
        copies, contradicted: as of `are_copies` and `are_contradicted`.
        best_accuracy: what giving one answer for each image and question can reach at most;
            best_accuracy_without_copies: the same where copies are left out.
    """
    is_copy, is_contradicted = are_copies(asked, answers), are_contradicted(asked, answers)
    groups = {
        "": np.ones(len(asked), dtype=bool),
        "open_": np.array([not is_yes_no(texts[0]) for texts in answers], dtype=bool),
    }
    numbers: dict[str, float] = {}
    for prefix, rows in groups.items():
        numbers[f"{prefix}copies"] = int((is_copy & rows).sum())
        numbers[f"{prefix}contradicted"] = int((is_contradicted & rows).sum())
        for name, counted in (("best_accuracy", rows), ("best_accuracy_without_copies", rows & ~is_copy)):
            if counted.any():
                numbers[prefix + name] = best_accuracy(asked, answers, counted)
    return numbers


def best_accuracy(asked: Sequence[Asked], answers: Answers, counted: np.ndarray) -> float:
    """The accuracy of `best_answers` over the rows that are `counted` (R,), chosen for these."""
    kept_asked, kept_answers = list(compress(asked, counted)), list(compress(answers, counted))
    best = best_answers(kept_asked, kept_answers)
    return sum(answer in key for answer, key in zip(best, answer_keys(kept_answers), strict=True)) / len(best)
