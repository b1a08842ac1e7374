"""A data set's own columns -> this project's: names, texts, lists of answers, turns of a conversation."""

import json
import logging
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

import PIL.Image
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from datasets import Sequence as ListOf

from .choices import check_answers_are_texts, check_not_swapped, choice_columns, chosen, texts_by_letter
from .errors import DataError, shortened

logger = logging.getLogger("mmjepa")

REQUIRED_COLUMNS = ("image", "question", "answer")
TEXT_COLUMNS = ("question", "answer", "caption", "text")
SET_COLUMN = "dataset"  # of several data sets, the row's own
# Columns that are added later, about a row's image and the model's answers.
LATER_COLUMNS = (
    *("image_file", "image_id", "pixels", "row", "answers", "choices", SET_COLUMN),
    *("prediction", "prediction_probability", "shuffled", "all_shuffled", "blank"),
    *("blank_probability", "from_image"),
    *("ranked", "ranked_probability", "by_statements", "align_cosine", "align_cosine_wrong"),
)
# Other names of columns, the first that is there: of images in an image folder's metadata, in SLAKE, VQA-RAD, PMC-VQA,
# OmniMedVQA and Kvasir-VQA; of lists of answers in VQA.
COLUMN_NAMES = dict.fromkeys(
    ("file_name", "images", "image_path", "img_path", "image_name", "img_name", "figure_path", "img_id"), "image"
) | {"answers": "answer", "gt_answer": "answer", "questions": "question"}
# Columns of conversations (LLaVA, chats, The Cauldron) and of pairs, and who asks and who answers in them.
CONVERSATIONS = ("conversations", "conversatons", "conversation", "messages", "texts", "qa", "qa_pairs")
ASKING, ANSWERING = ("human", "user", "question"), ("gpt", "assistant", "model", "answer")
# Keys of a dict's text: in answers of VQA and SQuAD, in parts of a chat, in translations.
TEXT_KEYS = ("answer", "answers", "question", "text", "value", "content", "label", "en")
# `datasets` knows a function by its name alone. This number in the fingerprint keeps it from taking texts that older
# code has read out of its cache: raise it when the code gives other results.
READ_BY = 3
ROWS_AT_ONCE = 1000
LOOKED_AT = 20  # rows whose values tell what a column is


def find_columns(
    rows: Dataset | IterableDataset,
    columns: Mapping[str, str],
    split: str,
    required: Collection[str] = REQUIRED_COLUMNS,
) -> dict[str, str]:
    """Name in the data set -> name in this project, of the columns that are used.

    Args:
        columns: name in this project -> name in the data set; other columns are found by their name.

    Raises:
        DataError: a required column is missing. The error names the columns that look like it by their values.
    """
    column_names = rows.column_names
    by_name = {name.lower(): name for name in column_names if name not in columns.values()}
    by_name = {COLUMN_NAMES[name]: by_name[name] for name in reversed(COLUMN_NAMES) if name in by_name} | by_name
    by_name |= columns
    found = {name: by_name[name] for name in ("image", *TEXT_COLUMNS) if by_name.get(name) in column_names}
    missing = [name for name in dict.fromkeys((*required, *columns)) if name not in found]
    if missing:
        likely = likely_columns(rows, found.values())
        flags = [f"--{name}_column {shlex.quote(likely[name]) if name in likely else 'NAME'}" for name in missing]
        raise DataError(
            f"{split} has no column {', '.join(repr(by_name.get(name, name)) for name in missing)}: there are "
            f"{', '.join(column_names)}; needed are {', '.join(required)}. Name the columns that hold them"
            f"{', by their values probably' if likely.keys() & set(missing) else ''}: {' '.join(flags)}"
        )
    return {column: name for name, column in found.items()}


def likely_columns(rows: Dataset | IterableDataset, taken: Collection[str]) -> dict[str, str]:
    """Name in this project -> name in the data set, of columns of texts that look like these by their first values.

    Most images end with the suffix of an image file and most questions with a question mark. Answers are the only
    other column.

    Args:
        taken: columns whose meaning is known.
    """
    features = rows.features or {}
    names = [name for name in features if name not in taken and features[name] == Value("string")]
    first = list(rows.select_columns(names).take(LOOKED_AT)) if names else []
    likely: dict[str, str] = {}
    for kind, ends in (("image", tuple(PIL.Image.registered_extensions())), ("question", ("?", "\uff1f"))):
        for name in names:
            num_alike = sum((row[name] or "").strip().lower().endswith(ends) for row in first)
            if 2 * num_alike > len(first) and kind not in likely:
                likely[kind] = name
    others = [name for name in names if name not in likely.values()]
    return likely | ({"answer": others[0]} if len(others) == 1 else {})


def conversation_column(column_names: Collection[str], columns: Mapping[str, str]) -> str | None:
    """The column of conversations or of pairs; None if there is none, or if there are questions or answers."""
    by_name = {name.lower(): name for name in column_names}
    if {"question", "answer"} & {*columns, *(COLUMN_NAMES.get(name, name) for name in by_name)}:
        return None
    return next((by_name[name] for name in CONVERSATIONS if name in by_name), None)


def other_columns(rows: Dataset, names: Collection[str | None]) -> list[str]:
    """The columns beside `names` whose values a line of JSON can hold: all but those of bytes, such as images."""
    types = {field.name: str(field.type) for field in rows.features.arrow_schema}
    return [name for name in rows.column_names if name not in names and "binary" not in types[name]]


def read_texts(rows: Dataset, names: Mapping[str, str], conversations: str | None, split: str) -> Dataset:
    """The texts of `rows`, one row per question.

    Args:
        names: name in the data set -> name in this project, of the texts and the image.
        conversations: the column that holds questions and answers together, if there is one.

    Returns:
        columns `row`, the number of the row that a question comes from, question, answer, caption and text if the data
        set has them; `answers`, all distinct ones, if there are lists of answers; and `choices`, the closed list of a
        row, if there are columns of choices.

    Raises:
        DataError: a text can't be read, or a row has other numbers of questions and answers.
    """
    texts = {column: name for column, name in names.items() if name != "image"}
    if conversations is not None:
        texts = {column: name for column, name in texts.items() if name not in ("question", "answer")}
        texts[conversations] = "conversation"
    columns = ["question", "answer", *(name for name in texts.values() if name in ("caption", "text"))]
    features = {"row": Value("int64")} | {name: Value("string") for name in columns}
    choices = {} if conversations is not None else named_choices(rows.features, names)
    texts |= choices
    # Without the images: a map copies the bytes of what it is given.
    read = rows.select_columns(list(texts)).map(
        split_rows,
        batched=True,
        with_indices=True,
        remove_columns=list(texts),
        fn_kwargs={
            "names": texts,
            "kinds": {column: rows.features[column] for column in texts},
            "split": split,
            "read_by": READ_BY,
        },
        features=Features({**features, "answers": ListOf(Value("string")), "choices": ListOf(Value("string"))}),
        desc="Reading texts",
    )
    if not len(read):
        raise DataError(
            f"{split}: no turn of its {conversations!r} asks ({', '.join(ASKING)}) before one that answers "
            f"({', '.join(ANSWERING)}); the first is {shortened(repr(rows[0][conversations]))}."
        )
    if not choices:
        read = read.remove_columns("choices")
    elif lost := sum(answer == "" for answer in read["answer"][:]):
        logger.warning("%s: %d rows have no answer, or a letter that none of their choices has", split, lost)
    answers = [rows.features[column] for column, name in texts.items() if name == "answer"]
    are_lists = len(read) == len(rows) and any(not isinstance(kind, Value | ClassLabel) for kind in answers)
    if not are_lists and max(map(len, read["answers"][:])) < 2:
        read = read.remove_columns("answers")
    return read


def each_row(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows one by one, read many at once: `datasets` takes as long for a row alone as for a hundred."""
    for batch in rows.iter(ROWS_AT_ONCE):
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


def split_rows(
    batch: dict[str, list], numbers: list[int], names: dict[str, str], kinds: dict[str, Any], split: str, read_by: int
) -> dict[str, list]:
    """The texts of many rows, one row per question. `read_by` is only for the fingerprint."""
    texts: dict[str, list] = {"row": [], "question": [], "answer": []}
    texts |= {name: [] for name in names.values() if name in ("caption", "text")} | {"answers": [], "choices": []}
    for number, values in zip(numbers, zip(*batch.values(), strict=True), strict=True):
        try:
            row = {names[column]: named(value, kinds[column]) for column, value in zip(batch, values, strict=True)}
            questions = texts_of_row(row)
        except DataError as error:
            raise DataError(f"{split}, row {number}: {error}") from error
        for question in questions:
            for name, value in {"row": number, **question}.items():
                texts[name].append(value)
    return texts


def named(value: Any, feature: Any) -> Any:
    """`value` with the names of classes in place of their numbers; None for the unknown class, -1."""
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(value, list) and inner_feature(feature) is not None:
        return [named(item, inner_feature(feature)) for item in value]
    if isinstance(value, dict):
        kinds = feature if isinstance(feature, dict) else inner_feature(feature)  # `datasets` turns lists of dicts
        return {key: named(item, (kinds or {}).get(key)) for key, item in value.items()}
    return value


def inner_feature(feature: Any) -> Any:
    """The feature of a list's items; None if `feature` is no list."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def named_choices(features: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Name in the data set -> name here, of the columns of choices that are not among `names`."""
    choices = choice_columns([name for name in features if name not in names])
    if "list" in choices and isinstance(features[choices["list"]], Value | ClassLabel):
        return {}  # one text is no list of choices
    return {column: f"choice {letter}" for letter, column in choices.items()}


def check_texts(texts: Dataset, columns: Collection[str], has_choices: bool, split: str) -> None:
    """Raises DataError where texts would be trained on by mistake: letters of choices, questions as answers.

    Args:
        columns: those that the user named are taken as they are.
    """
    if "answer" not in columns and not has_choices:
        check_answers_are_texts(texts.unique("answer"), split)
    if not {"question", "answer"} & set(columns):
        check_not_swapped(texts.unique("question"), texts.unique("answer"), split)


def texts_of_row(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts of a row, one dict per question: question, answer, all distinct answers, choices, and the other texts.

    Raises:
        DataError: a text can't be read, or there are other numbers of questions and answers.
    """
    others = {name: one_text(row[name]) for name in ("caption", "text") if name in row}
    if "conversation" in row:
        pairs = question_answers(row["conversation"])
    else:
        pairs = paired(row.get("question"), row.get("answer"))
    choices = {name.removeprefix("choice "): value for name, value in row.items() if name.startswith("choice ")}
    choices = texts_by_letter(choices, one_text)
    texts = []
    for question, answer in pairs:
        answers = [text for answer in distinct_answers(answer) if (text := chosen(answer, choices))]
        own = {"question": one_text(question), "answer": next(iter(answers), ""), **others}
        texts.append({**own, "answers": answers or [""], "choices": list(choices.values())})
    return texts


def paired(questions: Any, answers: Any) -> list[tuple[Any, Any]]:
    """Each question with its answer, or answers; one pair if the row has one question.

    Raises:
        DataError: several questions, and another number of answers.
    """
    if not isinstance(questions, list) or len(questions) <= 1:
        return [(questions, answers)]
    if isinstance(answers, dict):
        answers = text_in_dict(answers)
    if not isinstance(answers, list) or len(answers) != len(questions):
        number = len(answers) if isinstance(answers, list) else "not a list of"
        raise DataError(
            f"there are {len(questions)} questions and {number} answers: give each question its answer, or a "
            "row of its own."
        )
    return list(zip(questions, answers, strict=True))


def single_texts(row: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a row of a stream, which may have only one question.

    Args:
        kinds: the feature of each column.

    Raises:
        DataError: the row has several questions, or a text can't be read.
    """
    texts = texts_of_row({name: named(value, kinds[name]) for name, value in row.items()})
    if len(texts) > 1:
        raise DataError(
            "a row of a stream has several questions: give each a row of its own, or leave out --streaming."
        )
    return {name: texts[0][name] for name in row if name in texts[0]}


def question_answers(conversation: Any) -> list[tuple[str, str]]:
    """The questions and answers of a conversation: each turn that asks, if the next turn answers.

    Args:
        conversation: turns as in LLaVA (`from`, `value`), as in chats (`role`, `content`, also in parts), or with
            question and answer in one turn (`user`, `assistant`; `question`, `answer`). JSON and dicts of lists of
            these are read too.

    Raises:
        DataError: it is a text, but no JSON.
    """
    if isinstance(conversation, str):
        try:
            conversation = json.loads(conversation)
        except json.JSONDecodeError as error:
            raise DataError(f"{shortened(repr(conversation))} is no conversation: give a list of turns.") from error
    if isinstance(conversation, dict) and all(isinstance(values, list) for values in conversation.values()):
        columns = zip(*conversation.values(), strict=True)
        conversation = [dict(zip(conversation, values, strict=True)) for values in columns]
    said: list[tuple[str, Any]] = []
    for turn in conversation if isinstance(conversation, list) else [conversation]:
        if isinstance(turn, dict):
            turn = {key: value for key, value in turn.items() if value is not None}
            speaker = str(turn.get("from", turn.get("role", ""))).lower()
            pair = [(name, turn[name]) for name in (*ASKING, *ANSWERING) if name in turn]
            said += [(speaker, turn.get("value", turn.get("content")))] if speaker else pair
    return [
        (words(question).replace("<image>", "").strip(), words(answer).strip())
        for (first, question), (second, answer) in pairwise(said)
        if first in ASKING and second in ANSWERING
    ]


def words(content: Any) -> str:
    """The text of a turn; if it has several parts, all their texts, without the images."""
    if isinstance(content, list):
        return " ".join(filter(None, map(words, content)))
    if isinstance(content, dict):
        return words(content.get("text"))
    return one_text(content)


def one_text(value: Any) -> str:
    """One text for any value: of a list the most frequent one, of a dict that under one of `TEXT_KEYS`, "" for none.

    A whole number has no point: `datasets` reads a column of them with a gap as fractions. A date has no time: JSON
    adds one.

    Raises:
        DataError: bytes that are no text, or a dict in which several values may be it.
    """
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, list | dict):
        return next(iter(distinct_answers(value)), "")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{shortened(repr(value))} is no text: name another column.") from error
    return str(value).removesuffix(" 00:00:00") if isinstance(value, datetime) else str(value)


def text_in_dict(value: dict[str, Any]) -> Any:
    """The value under one of `TEXT_KEYS`, or the only value of the dict.

    Raises:
        DataError: there are several values and none of the keys.
    """
    filled = {key: item for key, item in value.items() if item is not None}
    if keys := [key for key in TEXT_KEYS if key in value]:
        return next((filled[key] for key in keys if key in filled), None)
    if len(filled) > 1:
        raise DataError(
            f"{shortened(repr(filled))} is no text: give one, or a dict with one of the keys {', '.join(TEXT_KEYS)}."
        )
    return next(iter(filled.values()), None)


def distinct_answers(answers: Any) -> list[str]:
    """The distinct answers of a row, the most frequent first; among equally frequent ones the earlier first.

    Args:
        answers: one text, a list of texts, or VQA's [{"answer": text, ...}, ...], also as {"answer": [text, ...]}.
    """
    return [text for text, _ in Counter(flat_texts(answers)).most_common() if text]


def flat_texts(value: Any) -> Iterator[str]:
    """The texts of lists and dicts, at any depth."""
    if isinstance(value, dict):
        value = text_in_dict(value)
    if isinstance(value, list | dict):
        for item in value if isinstance(value, list) else [value]:
            yield from flat_texts(item)
    else:
        yield one_text(value)
