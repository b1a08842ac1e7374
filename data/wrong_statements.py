"""Statements that are false of an image: its question with an answer that other images have."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from .collator import image_number
from .sides import NO_WORDS, add_mirrored
from .statements import AnswerLists, YesNoWords, sign_of, statement_of

# Answers are drawn by their count to this power: frequent ones would be drawn nearly always (word2vec, 1310.4546).
COUNT_POWER = 0.75
# How many wrong statements a question has that no row makes. Most questions of PathVQA have one answer, and take the
# answers to thousands of questions with the same first words.
NEW_STATEMENTS = 8
# Draws for each wrong statement: one that is true of the image is dropped for the next.
TRIES = 4


class StatementList:
    """The distinct statements of a data set's rows, with wrong ones to draw for each.

    Args:
        rows: with question and answer, and where they are known image_id, answers (all right ones), caption and text.
        lists: the training answers to each question.
        setting, yes_no_words: `alignment_text` and `yes_no_words` of [`MMJepaConfig`].
        side_words: the language whose words of sides are swapped in statements about mirror images, or "none".

    Attributes:
        numbers: text -> number, of the T statements, then of those that only mirror images have.
        mirrored: (4, T + 1), the number of each of the T where its image is as it is, mirrored from left to right,
            from top to bottom, and both. The last column is -1, for no statement.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        lists: AnswerLists,
        setting: str,
        yes_no_words: YesNoWords,
        side_words: str = NO_WORDS,
    ):
        self.numbers: dict[str, int] = {}
        questions: dict[int, str] = {}  # of a statement that has a question's answer in it
        true_of: set[tuple[int, int]] = set()  # images and statements
        for row in rows:
            for answer in row.get("answers") or [row["answer"]]:
                text, sign = statement_of({**row, "answer": answer}, setting, yes_no_words)
                if not text:
                    continue
                number = self.numbers.setdefault(text, len(self.numbers))
                if row["question"] and setting == "proposition" and not sign_of(answer, yes_no_words):
                    questions[number] = row["question"]
                if sign > 0 and "image_id" in row:
                    true_of.add((image_number(row["image_id"]), number))
        self._make_lists(questions, lists)
        self.mirrored = torch.tensor([[*numbers, -1] for numbers in add_mirrored(self.numbers, side_words)])
        # Sorted, because they are searched at every step.
        self._true_pairs = np.sort([image * len(self.numbers) + number for image, number in true_of]).astype(np.int64)

    def _make_lists(self, questions: Mapping[int, str], lists: AnswerLists) -> None:
        """For each distinct question the statements to draw from, one list after the other, and their shares."""
        random = np.random.default_rng(0)
        list_of_question: dict[str, int] = {}
        candidates, cumulative = [], []
        for question in dict.fromkeys(questions.values()):
            answers, counts = lists.of(question)
            texts = [f"{question} {answer}" for answer in answers]
            shares = np.array(counts, dtype=float) ** COUNT_POWER
            chosen = [place for place, text in enumerate(texts) if text in self.numbers]
            new = [place for place, text in enumerate(texts) if text not in self.numbers]
            if new:
                odds = shares[new] / shares[new].sum()
                chosen += random.choice(new, min(NEW_STATEMENTS, len(new)), replace=False, p=odds).tolist()
            candidates += [self.numbers.setdefault(texts[place], len(self.numbers)) for place in chosen]
            # List n has the numbers from n to n + 1: one search finds the list and the statement in it.
            cumulative += list(len(list_of_question) + shares[chosen].cumsum() / shares[chosen].sum())
            list_of_question[question] = len(list_of_question)
        self._candidates, self._cumulative = np.array(candidates, dtype=np.int64), np.array(cumulative)
        self._list_of = np.full(len(self.numbers), -1)
        for number, question in questions.items():
            self._list_of[number] = list_of_question[question]

    @property
    def texts(self) -> list[str]:
        return list(self.numbers)

    def draw_wrong(self, ids: np.ndarray, image_ids: np.ndarray, count: int) -> torch.Tensor:
        """`count` statements for each of B rows that are false of its image as it is -> (B, count), -1 for none.

        They are drawn by torch's generator on the CPU, whose state a resumed run takes from its checkpoint.

        Args:
            ids: the row's own statement (B,), or -1.
            image_ids: the number of its image (B,), of `image_number`.
        """
        draws = torch.rand(len(ids), TRIES * count).numpy().astype(np.float64)  # Apple's devices have no float64
        own, images = np.asarray(ids), np.asarray(image_ids)
        lists = np.where(own >= 0, self._list_of[own], -1)  # (B,)
        if not len(self._candidates):
            return torch.full((len(ids), count), -1)
        places = np.searchsorted(self._cumulative, lists.clip(min=0)[:, None] + draws, side="right")  # (B, tries)
        drawn = self._candidates[places.clip(max=len(self._candidates) - 1)]
        is_true = is_among(images[:, None] * len(self.numbers) + drawn, self._true_pairs)
        is_usable = ~is_true & (drawn != own[:, None]) & (lists >= 0)[:, None]
        usable_first = np.argsort(~is_usable, axis=1, kind="stable")[:, :count]  # (B, count)
        wrong = np.where(is_usable, drawn, -1)
        return torch.from_numpy(np.take_along_axis(wrong, usable_first, axis=1))


def is_among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of `values` are in `ordered` (n,). `np.isin` would sort the n numbers again each time."""
    if not len(ordered):
        return np.zeros(values.shape, dtype=bool)
    return ordered[np.searchsorted(ordered, values).clip(max=len(ordered) - 1)] == values
