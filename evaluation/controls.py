"""How much of an accuracy is due to the image: majority answers, other images, and the gain over them.

Accuracy says little alone: half of PathVQA's answers follow from the question's wording. Controls answer the same
questions without the right image, and `image_gain` is the distance to one of them.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.statements import question_starts
from ..metrics.vqa_answers.vqa_answers import is_right, normalize_answer, score_answers

MIN_IMAGES = 30  # with fewer, a bootstrap over images gives too narrow an interval
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


def other_images(image_ids: Sequence[int], seed: int) -> list[int]:
    """For each row an image that is not its own: all images move one place along a random ring.

    Rows that share an image also share the other one. A single image has no other and stays.
    """
    ring = np.random.default_rng(seed).permutation(np.unique(image_ids))
    other_of = dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))
    return [other_of[image_id] for image_id in image_ids]


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

    The gain and the lead have intervals.

    Args:
        columns: image_id, question, answer, prediction, shuffled and blank, as in the rows of `evaluate_model`.
        train_questions: without a row in it there are no majority answers.
    """
    questions, image_ids, truths = columns["question"], columns["image_id"], right_answers_of(columns)
    metrics = score_majority(train_questions, questions, truths)
    for control, column in (("shuffled_images", "shuffled"), ("blank_images", "blank")):
        metrics |= control_scores(control, columns[column], truths, questions)
    correct, correct_shuffled = (are_correct(columns[name], truths) for name in ("prediction", "shuffled"))
    metrics |= image_gain(correct, correct_shuffled, image_ids, seed)
    if len(train_questions) > 0:
        majority = are_correct(majority_answers(train_questions, questions, WHOLE_QUESTION), truths)
        metrics |= named_interval("majority_lead", np.subtract(correct, majority, dtype=float), image_ids, seed)
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


def control_scores(control: str, answers: list[str], truths: list, questions: list[str]) -> dict[str, float]:
    """The three accuracies of the table, `<accuracy>_<control>`, of the answers of a control."""
    scores = score_answers(answers, truths, questions)
    return {f"{name}_{control}": scores[name] for name in CONTROL_SCORES if name in scores}


def are_correct(answers: Sequence[str], truths: Sequence[str | Sequence[str]]) -> list[bool]:
    """Whether each answer is right, or equals one of several right ones."""
    return [is_right(answer, truth) for answer, truth in zip(answers, truths, strict=True)]


def rows_are_correct(rows: Sequence[Mapping[str, Any]], column: str = "prediction") -> list[bool]:
    """Whether the answer that each row has in `column` is right."""
    return are_correct([row[column] for row in rows], [right_answers_of_row(row) for row in rows])


def image_gain(
    correct: Sequence[bool], correct_shuffled: Sequence[bool], image_ids: Sequence[int], seed: int
) -> dict[str, float]:
    """What the right image adds to accuracy: `image_gain`; its 95 % interval: `image_gain_low` and `_high`."""
    gained = np.subtract(correct, correct_shuffled, dtype=float)
    return named_interval("image_gain", gained, image_ids, seed)


def images_drawn(image_ids: Sequence[Any], seed: int, draws: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """The image of each row, numbered (R,), and how often a bootstrap drew each image (draws, I).

    It draws whole images with replacement (Efron 1979), because the questions of one image are right or wrong
    together.
    """
    distinct, image_of_row = np.unique(image_ids, return_inverse=True)
    random = np.random.default_rng(seed)
    return image_of_row, random.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), size=draws)


def mean_interval(values: np.ndarray, image_ids: Sequence[Any], seed: int) -> tuple[float, float, float]:
    """The mean of the rows' values and its 95 % interval, by a bootstrap over images.

    Args:
        values: (R,), NaN where the row does not count. With differences of two scores of each row, the interval is
            that of a paired test.
    """
    counts = ~np.isnan(values)
    image_of_row, times_drawn = images_drawn(image_ids, seed)
    sums = np.bincount(image_of_row, np.where(counts, values, 0))  # (I,)
    rows = np.bincount(image_of_row, counts)  # (I,)
    drawn_rows = times_drawn @ rows
    means = (times_drawn @ sums)[drawn_rows > 0] / drawn_rows[drawn_rows > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sums.sum() / rows.sum()), float(low), float(high)


def named_interval(name: str, values: np.ndarray, image_ids: Sequence[Any], seed: int) -> dict[str, float]:
    """`mean_interval` as the numbers `<name>`, `<name>_low` and `<name>_high`."""
    ends = (name, f"{name}_low", f"{name}_high")
    return dict(zip(ends, mean_interval(values, image_ids, seed), strict=True))
