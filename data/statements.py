"""What rows say of their images: statements that are true or false, and answers that would be wrong."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..metrics.vqa_answers.rules import normalize_answer

if TYPE_CHECKING:
    from datasets import Dataset  # its import takes longer than an answer

# By language, the answers that mean yes and those that mean no.
YesNoWords = Mapping[str, Sequence[Sequence[str]]]

PRIORITY = ("question", "caption", "answer", "text")


class Statement(NamedTuple):
    """A text about an image: sign 1 if it is true, -1 if it is false. A row without one has the text ""."""

    text: str
    sign: int


def statement_of(row: Mapping[str, Any], setting: str, yes_no_words: YesNoWords) -> Statement:
    """What a row's image is aligned to.

    Args:
        setting, yes_no_words: `alignment_text` and `yes_no_words` of [`MMJepaConfig`].
    """
    question, answer = row.get("question"), row.get("answer") or ""
    if question and setting == "proposition":
        sign = sign_of(answer, yes_no_words)
        text = question if sign else f"{question} {answer}"
        return Statement(text, sign or 1) if answer.strip() else Statement("", 1)
    if question and setting == "statement":
        return Statement(f"{question} {answer}".strip(), 1)
    names = PRIORITY if setting in ("proposition", "priority", "statement") else (setting,)
    return Statement(next((row[name] for name in names if row.get(name)), ""), 1)


def sign_of(answer: str, yes_no_words: YesNoWords) -> int:
    """1 where the answer says that its question is true, -1 where it says that it is false, else 0."""
    said = normalize_answer(answer)
    for words_for_yes, words_for_no in yes_no_words.values():
        if said in map(normalize_answer, words_for_yes):
            return 1
        if said in map(normalize_answer, words_for_no):
            return -1
    return 0


def question_starts(question: str, first_words: Sequence[int | None]) -> list[tuple]:
    """The question's beginnings of `first_words` words, None for all, as keys to look up."""
    words = question.lower().split()
    # The count is part of the key: "is it" as a whole question is not "is it" as the start of another.
    return [(count, *words[:count]) for count in first_words]


def answer_counts(questions: "Dataset") -> dict[str, tuple[str, int]]:
    """The distinct answers of rows that have a question: normalised -> the most frequent spelling, and the count."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in zip(questions["question"][:], questions["answer"][:], strict=True):
        if question and answer.strip():
            spellings[normalize_answer(answer)][answer] += 1
    return {key: (counter.most_common(1)[0][0], counter.total()) for key, counter in spellings.items()}


class AnswerLists:
    """The training answers to questions that start alike: what could be answered, and mostly is wrong.

    Answers of yes and no are left out: with them the question itself is the statement. Answers that are equal once
    normalised are one, in their most frequent spelling.

    Args:
        questions: columns question and answer.
    """

    STARTS = (None, 3, 2, 1)

    def __init__(self, questions: "Dataset", yes_no_words: YesNoWords):
        self._counts: dict[tuple, Counter[str]] = defaultdict(Counter)
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for question, answer in zip(questions["question"][:], questions["answer"][:], strict=True):
            key = normalize_answer(answer)
            if not question or not key or sign_of(answer, yes_no_words):
                continue
            spellings[key][answer] += 1
            for start in question_starts(question, self.STARTS):
                self._counts[start][key] += 1
        self._spelling = {key: counter.most_common(1)[0][0] for key, counter in spellings.items()}

    def of(self, question: str) -> tuple[list[str], list[int]]:
        """Answers to the same question and their counts, the most frequent first.

        Where it has one answer only, or none, those to questions with the same first 3, 2 or 1 words.
        """
        starts = question_starts(question, self.STARTS)
        found = [self._counts[start] for start in starts if start in self._counts]
        counter = next((counts for counts in found if len(counts) > 1), found[-1] if found else Counter())
        counts = counter.most_common()
        return [self._spelling[key] for key, _ in counts], [count for _, count in counts]


class TextNumbers:
    """The numbers of texts in two lists: the distinct statements of a data set, and its distinct answers.

    Args:
        statements, answers: text -> number. Answers are looked up once normalised.
    """

    def __init__(self, statements: Mapping[str, int], answers: Mapping[str, int]):
        self.statements = {**statements, "": -1}
        self.answers = {**answers, "": -1}

    def has_all(self, statements: Sequence[str], answers: Sequence[str]) -> bool:
        return all(text in self.statements for text in statements) and all(
            normalize_answer(text) in self.answers for text in answers
        )

    def of(self, statements: Sequence[str], answers: Sequence[str]) -> dict[str, torch.Tensor]:
        """statement_ids (B,) and answer_ids (B,), -1 for a text that is empty."""
        return {
            "statement_ids": torch.tensor([self.statements[text] for text in statements]),
            "answer_ids": torch.tensor([self.answers[normalize_answer(text)] for text in answers]),
        }
