"""How much of an accuracy is due to the image: majority answers, other images, and the gain over them.

Accuracy says little alone: half of PathVQA's answers follow from the question's wording. Controls answer the same
questions without the right image, and `image_gain` is the distance to one of them.

Accuracy with real, shuffled and blank images is also how Zafar et al. (2026, arXiv 2603.03437) measure what medical
models see. Their visual reliance score is `image_gain`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.statements import question_starts
from ..metrics.vqa_answers.vqa_answers import as_list, is_right, normalize_answer, score_answers
from .intervals import named_interval

NUM_SHUFFLES = 5  # one shuffle is one draw: its accuracy differs from the next one's by points
SHUFFLE_SEED = 2026  # a constant: models that were trained with other seeds are asked about the same images
CONTROL_SCORES = ("accuracy", "yes_no_accuracy", "open_accuracy")
WHOLE_QUESTION = (None, 3, 2, 1, 0)  # first words, for `majority_answers`


def majority_answers(
    train_questions: Dataset, questions: Sequence[str], first_words: Sequence[int | None] = (3, 2, 1, 0)
) -> list[str]:
    """For each of `questions` the most frequent training answer to questions that start alike.

    Args:
        train_questions: columns question and answer, at least one row that has both.
        first_words: how many first words must be equal, some of `WHOLE_QUESTION`. If no training question starts with
            the same words, the next number is tried. None means the whole question, 0 any question.
    """
    answer_after = most_frequent_answers(train_questions)
    return [
        next(answer_after[start] for start in question_starts(question, first_words) if start in answer_after)
        for question in questions
    ]


@lru_cache(maxsize=4)  # all evaluations of a training learn from the same rows
def most_frequent_answers(train_questions: Dataset) -> dict[tuple, str]:
    """The most frequent training answer after each start of a question, of each length in `WHOLE_QUESTION`."""
    counts: dict[tuple, Counter] = defaultdict(Counter)
    for question, answer in zip(train_questions["question"][:], train_questions["answer"][:], strict=True):
        if question.strip() and answer.strip():
            normalized = normalize_answer(answer)
            for start in question_starts(question, WHOLE_QUESTION):
                counts[start][normalized] += 1
    return {start: counter.most_common(1)[0][0] for start, counter in counts.items()}


def other_images(image_ids: Sequence[int], places: int = 1) -> list[int]:
    """For each row an image that is not its own: all images move `places` places along a random ring.

    The ring is the same whenever the images are the same. Rows that share an image also share the other one.

    Args:
        places: less than the number of images, or an image would be its own other one. A single image stays.
    """
    ring = np.random.default_rng(SHUFFLE_SEED).permutation(np.unique(image_ids))
    other_of = dict(zip(ring.tolist(), np.roll(ring, places).tolist(), strict=True))
    return [other_of[image_id] for image_id in image_ids]


def shuffled_images(image_ids: Sequence[int]) -> list[list[int]]:
    """Other images for the rows, `NUM_SHUFFLES` times: no image gets the same other one twice.

    With n images, fewer than six, there are n - 1 shuffles: two images can only be exchanged, and one has no other.
    """
    count = min(NUM_SHUFFLES, len(set(image_ids)) - 1)
    return [other_images(image_ids, places) for places in range(1, count + 1)]


def right_answers_of(columns: dict[str, list]) -> list:
    """What counts as right for each question: its `answers` where the rows have lists of them, else its `answer`."""
    return columns.get("answers", columns["answer"])


def right_answers_of_row(row: Mapping[str, Any]) -> list[str]:
    """The same of one row."""
    return row.get("answers") or [row["answer"]]


def with_answers(questions: Dataset) -> Dataset:
    """The rows that have both question and answer: only these are learnt from and scored."""
    texts = zip(questions["question"][:], questions["answer"][:], strict=True)
    return questions.select([row for row, pair in enumerate(texts) if all(text.strip() for text in pair)])


def score_controls(columns: dict[str, list], train_questions: Dataset, seed: int) -> dict[str, float]:
    """Scores of the four controls, the image gain and the lead over the majority answers, and the number of images.

    The gain and the lead are differences by rows, and have intervals.

    Args:
        columns: image_id, question, answer, prediction, all_shuffled and blank, as in the rows of `evaluate_model`.
            Without all_shuffled, as with a single image, there is no image gain.
        train_questions: without a row in it there are no majority answers.
    """
    questions, image_ids, truths = columns["question"], columns["image_id"], right_answers_of(columns)
    metrics = score_majority(train_questions, questions, truths)
    metrics |= control_scores("blank_images", columns["blank"], truths, questions)
    correct = are_correct(columns["prediction"], truths)
    if "all_shuffled" in columns:
        by_shuffle = list(zip(*columns["all_shuffled"], strict=True))
        metrics |= score_shuffles("shuffled_images", "image_gain", by_shuffle, columns, correct, seed)
        metrics["num_shuffles"] = len(by_shuffle)
    if len(train_questions) > 0:
        majority = are_correct(majority_answers(train_questions, questions, WHOLE_QUESTION), truths)
        metrics |= named_interval(
            "majority_lead", np.subtract(correct, majority, dtype=float), image_ids, seed, least=-1
        )
    return metrics | {"num_images": len(set(image_ids))}


def score_majority(train_questions: Dataset, questions: list[str], truths: list) -> dict[str, float]:
    """Scores of the two controls that need no model: majority and majority_question.

    They are learnt from the training rows that have a question and an answer; without such rows there are none.
    """
    metrics: dict[str, float] = {}
    if not most_frequent_answers(train_questions):
        return metrics
    for control, first_words in (("majority", (3, 2, 1, 0)), ("majority_question", WHOLE_QUESTION)):
        answers = majority_answers(train_questions, questions, first_words)
        metrics |= control_scores(control, answers, truths, questions)
    return metrics


def control_scores(control: str, answers: Sequence[str], truths: list, questions: list[str]) -> dict[str, float]:
    """The three accuracies of the table, `<accuracy>_<control>`, of the answers of a control."""
    scores = score_answers(answers, truths, questions)
    return {f"{name}_{control}": scores[name] for name in CONTROL_SCORES if name in scores}


def score_shuffles(
    control: str,
    gain: str,
    by_shuffle: Sequence[Sequence[str]],
    columns: dict[str, list],
    correct: Sequence[bool],
    seed: int,
) -> dict[str, float]:
    """What answers about other images are worth, and what the right image adds to it.

    Args:
        by_shuffle: for each of S shuffles, at least one, its answers to the R questions.
        columns: image_id, question and the right answers of the rows.
        correct: whether the answers about the right images are right (R,).

    Returns:
        The means over the shuffles of the three accuracies, `<accuracy>_<control>`; `accuracy_<control>_min` and
        `_max`, the lowest and the highest of the shuffles; and `<gain>` with its 95 % interval, of the difference, by
        rows, of being right and of the share of shuffles that are right.
    """
    questions, truths = columns["question"], right_answers_of(columns)
    scores = [control_scores(control, answers, truths, questions) for answers in by_shuffle]
    metrics = {name: fmean(of_shuffle[name] for of_shuffle in scores) for name in scores[0]}
    overall = [of_shuffle[f"accuracy_{control}"] for of_shuffle in scores]
    metrics |= {f"accuracy_{control}_min": min(overall), f"accuracy_{control}_max": max(overall)}
    correct_shuffled = np.mean([are_correct(answers, truths) for answers in by_shuffle], axis=0)  # (R,)
    gained = np.asarray(correct, dtype=float) - correct_shuffled
    return metrics | named_interval(gain, gained, columns["image_id"], seed, least=-1)


def are_correct(answers: Sequence[str], truths: Sequence[str | Sequence[str]]) -> list[bool]:
    """Whether each answer is right, or equals one of several right ones."""
    return [is_right(answer, truth) for answer, truth in zip(answers, truths, strict=True)]


def rows_are_correct(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether the prediction of each row is right."""
    return are_correct([row["prediction"] for row in rows], [right_answers_of_row(row) for row in rows])


def share_right(answers: str | Sequence[str], truths: Sequence[str]) -> float:
    """The share of right answers among one or several, such as those of the shuffles: each equals one of `truths`."""
    return fmean(is_right(answer, truths) for answer in as_list(answers))
