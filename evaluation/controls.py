"""How much of an accuracy is due to the image: majority answers, other images, and the gain over them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from ..metrics.vqa_answers.vqa_answers import is_right, normalize_answer


def majority_answers(
    train_questions: Dataset, questions: Sequence[str], first_words: Sequence[int | None] = (3, 2, 1, 0)
) -> list[str]:
    """The training set's most frequent answer to questions that start alike, for each of `questions`.

    Args:
        train_questions: columns question and answer, at least one row.
        first_words: how many first words must be equal. The next number is tried if no training question starts with
            the same words. None means the whole question, 0 any question.
    """
    answers_after: dict[tuple, Counter] = defaultdict(Counter)
    for question, answer in zip(train_questions["question"], train_questions["answer"], strict=True):
        for start in question_starts(question, first_words):
            answers_after[start][normalize_answer(answer)] += 1
    starts = [
        next(start for start in question_starts(question, first_words) if start in answers_after)
        for question in questions
    ]
    return [answers_after[start].most_common(1)[0][0] for start in starts]


def question_starts(question: str, first_words: Sequence[int | None]) -> list[tuple]:
    words = question.lower().split()
    # The count is part of the key: "is it" as a whole question is not "is it" as the start of another.
    return [(count, *words[:count]) for count in first_words]


def other_images(image_ids: Sequence[int], seed: int) -> list[int]:
    """For each row an image that is not its own: the images change places along one random ring.

    Rows that share an image share the other one too. A single image has no other and stays.
    """
    ring = np.random.default_rng(seed).permutation(np.unique(image_ids))
    other_of = dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))
    return [other_of[image_id] for image_id in image_ids]


def right_answers_of_row(row: Mapping[str, Any]) -> list[str]:
    """What counts as right in a row: its `answers` where it has a list of them, else its `answer`."""
    return row.get("answers") or [row["answer"]]


def with_answers(questions: Dataset) -> Dataset:
    """The rows of columns question and answer that have both: no others are learnt from or scored."""
    texts = zip(questions["question"], questions["answer"], strict=True)
    return questions.select([row for row, pair in enumerate(texts) if all(text.strip() for text in pair)])


def are_correct(answers: Sequence[str], truths: Sequence[str | Sequence[str]]) -> list[bool]:
    return [is_right(answer, truth) for answer, truth in zip(answers, truths, strict=True)]


def image_gain(
    correct: Sequence[bool], correct_shuffled: Sequence[bool], image_ids: Sequence[int], seed: int
) -> dict[str, float]:
    """What the right image adds to accuracy, `image_gain`, and its 95 % interval, `image_gain_low` and `_high`."""
    gained = np.subtract(correct, correct_shuffled, dtype=float)
    return named_interval("image_gain", gained, image_ids, seed)


def images_drawn(image_ids: Sequence[Any], seed: int, draws: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """The image of each row, numbered (R,), and how often each image is in each draw of a bootstrap (draws, I).

    Whole images are drawn with replacement (Efron 1979): the questions of one image are right or wrong together.
    """
    distinct, image_of_row = np.unique(image_ids, return_inverse=True)
    random = np.random.default_rng(seed)
    return image_of_row, random.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), size=draws)


def mean_interval(values: np.ndarray, image_ids: Sequence[Any], seed: int) -> tuple[float, float, float]:
    """The mean of the rows' values and its 95 % interval, by a bootstrap over images.

    Args:
        values: (R,), NaN where the row does not count. With the difference of two scores of a row the interval
            is that of a paired test.
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
