"""Questions with a closed list of answers: the columns of the choices, and the answer that a letter names."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .errors import DataError, shortened

# PMC-VQA's `Choice A`, OmniMedVQA's `option_A`, the `A` of VLMEvalKit.
CHOICE = re.compile(r"(?:choice|option)[ _-]?([a-h])", re.IGNORECASE)
BARE_LETTERS = "ABCDEFGH"
CHOICE_LISTS = ("choices", "options")  # columns that hold the whole list
LETTER = re.compile(r"\W*([A-H])\W*")
LABELLED = re.compile(r"\s*\(?([A-H])\s*[.:)]\s*(.*\S)\s*", re.DOTALL)


def choice_columns(column_names: Collection[str]) -> dict[str, str]:
    """The column of each choice's letter in order, or of the list of all under "list"; none if there are not two."""
    bare = {name: name for name in column_names if len(name) == 1 and name in BARE_LETTERS}
    named = {found[1].upper(): name for name in column_names if (found := CHOICE.fullmatch(name.strip()))}
    columns = dict(sorted((named or bare).items()))
    if {"A", "B"} <= set(columns):
        return columns
    return next(({"list": name} for name in column_names if name.lower() in CHOICE_LISTS), {})


def texts_by_letter(choices: Mapping[str, Any], as_text: Any) -> dict[str, str]:
    """The texts of a row's choices by their letters, without the letters that the texts begin with.

    Args:
        choices: values by letter, or a list or dict of them under "list".
        as_text: makes a text of a value.
    """
    if "list" in choices:
        given = choices["list"]
        if not isinstance(given, list | dict):
            return {}
        choices = given if isinstance(given, dict) else dict(zip(BARE_LETTERS, given, strict=False))
    texts = {letter: without_letter(as_text(value), letter) for letter, value in choices.items()}
    return {letter: text for letter, text in texts.items() if text}


def without_letter(text: str, letter: str) -> str:
    """A choice's text without its own letter: " A: mass" is mass."""
    found = LABELLED.fullmatch(text)
    return found[2] if found and found[1] == letter else text.strip()


def chosen(answer: str, choices: Mapping[str, str]) -> str:
    """The text that an answer means: that of a letter, or the answer itself; "" if no choice has the letter."""
    if not choices or answer.strip() in choices.values():
        return answer.strip() if choices else answer
    if found := LETTER.fullmatch(answer):
        return choices.get(found[1], "")
    if (found := LABELLED.fullmatch(answer)) and found[2] == choices.get(found[1]):
        return found[2]
    return answer


def check_answers_are_texts(answers: Iterable[str], split: str) -> None:
    """Raises DataError where all answers of a table without choices are letters of choices.

    Args:
        answers: the distinct ones.
    """
    given = {answer.strip() for answer in answers} - {""}
    if len(given) > 1 and all(LETTER.fullmatch(answer) for answer in given):
        raise DataError(
            f"the answers of {split} are letters ({', '.join(sorted(given)[:8])}), and there are no choices: give "
            "columns such as `Choice A` or `A`, or a list `choices`; or name the column of the answers' texts by "
            "--answer_column, and that of the letters if letters are meant."
        )


def check_not_swapped(questions: Collection[str], answers: Collection[str], split: str) -> None:
    """Raises DataError where most answers end with a question mark, and hardly a question does.

    Args:
        questions, answers: the distinct ones.
    """

    def share(texts: Collection[str]) -> float:
        return sum(text.rstrip().endswith(("?", "？")) for text in texts) / max(len(texts), 1)

    if share(answers) > 0.5 and share(questions) < 0.1:
        raise DataError(
            f"questions and answers of {split} look exchanged: an answer is {shortened(repr(next(iter(answers))))}. "
            "Name the columns by --question_column and --answer_column."
        )
