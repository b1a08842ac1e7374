"""Columns under every name; texts, lists, classes and conversations, with every fault."""

import json
import shlex
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from data_sets import write_table
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from mmjepa.data.columns import one_text
from mmjepa.data.errors import DataError
from mmjepa.data.rows import load_rows


def test_turns_of_a_conversation_are_rows_about_its_image(tmp_path):
    said = ["<image>\nwhat is it?", "a gland", "is it large?", "yes", "and why?"]
    turns = [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(said)]
    rows = [{"id": 1, "image": "a.png", "conversations": turns}, {"id": "two", "image": "b.png", "conversations": []}]
    rows.append({"id": 3, "image": "c.png", "conversations": [{"from": "system", "value": "short"}, *turns[2:4]]})
    (tmp_path / "data.json").write_text(json.dumps(rows))
    loaded = load_rows(str(tmp_path / "data.json"))["train"]
    assert loaded["question"][:] == ["what is it?", "is it large?", "is it large?"]
    assert loaded["answer"][:] == ["a gland", "yes", "yes"]
    assert [image["path"] for image in loaded["image"]] == [str(tmp_path / f"{name}.png") for name in "aac"]


@pytest.mark.parametrize(
    ("column", "lists", "expected"),
    [
        ("answer", [["no", "yes", "yes"], ["b", "a", "a", "b", ""], []], [["yes", "no"], ["b", "a"], [""]]),
        ("answer", ["yes", ["no", "no"], None], [["yes"], ["no"], [""]]),
        ("answers", [[{"answer": "a", "id": 1}, {"answer": "b", "id": 2}, {"answer": "b", "id": 3}]], [["b", "a"]]),
    ],
)
def test_of_several_answers_the_most_frequent_is_the_answer_and_all_are_kept(tmp_path, column, lists, expected):
    folder = write_table(tmp_path, [{"image": "a.png", "question": "what?", column: answers} for answers in lists])
    rows = load_rows(folder)["train"]
    assert rows["answers"][:] == expected
    assert rows["answer"][:] == [answers[0] for answers in expected]


def test_missing_texts_are_empty_and_numbers_are_text(tmp_path):
    row = {"image": "a.png", "question": "how many?", "caption": "cells"}
    folder = write_table(tmp_path, [{**row, "answer": 3}, {**row, "answer": None, "caption": None}])
    rows = load_rows(folder)["train"]
    assert list(rows["answer"]) == ["3", ""]
    assert list(rows["caption"]) == ["cells", ""]


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["Image", "QUESTION", "Answer"], {}),
        (["picture", "question", "answer"], {"image": "picture"}),
        (["image", "prompt", "label"], {"question": "prompt", "answer": "label"}),
        (["image", "answer", "question"], {"question": "answer", "answer": "question"}),
        (["image", "question", "caption"], {"answer": "caption"}),
    ],
)
def test_columns_are_found_by_name_in_any_case_or_by_the_names_given(tmp_path, names, columns):
    values = ["a.png", "what is it?", "a liver"]
    folder = write_table(tmp_path, [dict(zip(names, values, strict=True)) | {"source": "a book"}])
    rows = load_rows(folder, columns=columns)["train"]
    assert rows[0] == {
        "image": {"bytes": None, "path": str(tmp_path / "a.png")},
        "question": "what is it?",
        "answer": "a liver",
        "image_file": "a.png",
        "source": "a book",
    }


def test_a_named_column_goes_before_one_that_has_the_name(tmp_path):
    folder = write_table(tmp_path, [{"image": "a", "question": "old?", "new": "new?", "answer": "yes", "text": "t"}])
    rows = load_rows(folder, columns={"question": "new", "caption": "text"})["train"]
    assert rows.column_names == ["image", "question", "answer", "caption", "image_file", "table_question"]
    assert rows["question"][0] == "new?" and rows["caption"][0] == "t" and rows["table_question"][0] == "old?"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {},
            [
                "train",
                "'question', 'answer'",
                "image, prompt, label",
                "--question_column prompt --answer_column label",
            ],
        ),
        ({"question": "prompt", "answer": "labels"}, ["'labels'", "--answer_column"]),
        ({"question": "prompt", "answer": "label", "caption": "note"}, ["'note'", "--caption_column NAME"]),
    ],
)
def test_a_missing_column_is_named_with_those_there_are_and_the_flag(tmp_path, columns, words):
    folder = write_table(tmp_path, [{"image": "a.png", "prompt": "what?", "label": "yes"}])
    with pytest.raises(ValueError) as error:
        load_rows(folder, columns=columns)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        (["Bild", "Frage", "Antwort"], "--image_column Bild --question_column Frage --answer_column Antwort"),
        (["Datei Name", "Frage", "answer"], "--image_column 'Datei Name' --question_column Frage"),
        (["image", "Remarque", "réponse"], "--question_column Remarque --answer_column 'réponse'"),
    ],
)
def test_flags_for_columns_of_other_names_are_told_by_their_values(tmp_path, names, flags):
    values = ["Schnitt 1.TIF", "ist eine Nekrose zu sehen?", "ja"]
    folder = write_table(tmp_path, [dict(zip(names, values, strict=True))])
    with pytest.raises(ValueError) as error:
        load_rows(folder)
    assert str(error.value).endswith(f"by their values probably: {flags}")
    given = iter(shlex.split(flags))
    columns = {flag.removeprefix("--").removesuffix("_column"): name for flag, name in zip(given, given, strict=True)}
    assert load_rows(folder, columns=columns)["train"]["answer"][:] == ["ja"]


def test_of_columns_that_can_not_be_told_apart_none_is_named(tmp_path):
    folder = write_table(tmp_path, [{"image": "a.png", "question": "what?", "one": "liver", "other": "kidney"}])
    with pytest.raises(ValueError, match="Name the columns that hold them: --answer_column NAME$"):
        load_rows(folder)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2"),
        (-3.0, "-3"),
        (2.5, "2.5"),
        (float("nan"), ""),
        (float("inf"), "inf"),
        (None, ""),
        ("2.0", "2.0"),
        ("nan", "nan"),
        (True, "True"),
        ([2.0, None, 2.0, 1.0], "2"),
        (datetime(2019, 5, 1), "2019-05-01"),
        (datetime(2019, 5, 1, 10, 30), "2019-05-01 10:30:00"),
    ],
)
def test_a_value_becomes_the_text_that_was_meant(value, text):
    assert one_text(value) == text


def test_whole_numbers_are_read_without_a_point_though_a_row_has_none(tmp_path):
    rows = {"image": ["a.png"] * 3, "question": ["how many?"] * 3, "answer": [2.0, 10.0, None]}
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    assert load_rows(str(tmp_path / "train.parquet"))["train"]["answer"][:] == ["2", "10", ""]


def loaded(folder, *rows: dict, columns: dict | None = None) -> list[tuple]:
    """Image, question, answer and answers of rows about a.png that are written into a table and read."""
    rows = load_rows(write_table(folder, [{"image": "a.png"} | row for row in rows]), columns=columns)["train"]
    files = [
        Path(image["path"]).name if image and image["path"] else image and image["bytes"] for image in rows["image"]
    ]
    answers = rows["answers"][:] if "answers" in rows.column_names else [None] * len(rows)
    return list(zip(files, rows["question"], rows["answer"], answers, strict=True))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": ["what?"], "answer": ["yes"]}, [("what?", "yes", ["yes"])]),
        ({"question": ["what?"], "answers": ["a", "b", "a"]}, [("what?", "a", ["a", "b"])]),
        ({"question": ["a?", "b?"], "answer": ["a", "b"]}, [("a?", "a", None), ("b?", "b", None)]),
        ({"questions": ["a?", "b?"], "answers": ["a", None]}, [("a?", "a", None), ("b?", "", None)]),
        (
            {"question": ["a?", "b?"], "answer": [["a", "c", "c"], ["b"]]},
            [("a?", "c", ["c", "a"]), ("b?", "b", ["b"])],
        ),
        (
            {"question": "what?", "answers": {"text": ["a", "b", "b"], "answer_start": [1, 2, 3]}},
            [("what?", "b", ["b", "a"])],
        ),
        (
            {"question": "what?", "answers": [{"answer": None, "id": 1}, None, {"answer": "b", "id": 2}]},
            [("what?", "b", ["b"])],
        ),
        ({"question": "what?", "answer": [["a", None], ["a"]]}, [("what?", "a", ["a"])]),
        ({"question": {"en": "what?", "de": "was?"}, "answer": "a"}, [("what?", "a", None)]),
        ({"question": {"fr": "quoi?", "de": None}, "answer": {"label": "a"}}, [("quoi?", "a", ["a"])]),
        ({"question": {"text": "what?"}, "answer": [1, 2, 2]}, [("what?", "2", ["2", "1"])]),
        (
            {"qa": [{"question": "a?", "answer": "a"}, {"question": "b?", "answer": "b"}]},
            [("a?", "a", None), ("b?", "b", None)],
        ),
        ({"texts": [{"user": "a?", "assistant": "a", "source": "x"}]}, [("a?", "a", None)]),
    ],
    ids=str,
)
def test_texts_in_lists_and_dicts_are_read_and_lists_of_questions_are_rows(tmp_path, row, expected):
    assert loaded(tmp_path, row) == [("a.png", *texts) for texts in expected]


def test_pairs_of_a_row_have_its_image_and_its_other_columns(tmp_path):
    rows = [{"question": ["a?", "b?"], "answer": ["a", "b"], "id": 7}, {"question": ["c?"], "answer": ["c"], "id": 8}]
    rows = load_rows(write_table(tmp_path, [{"image": f"{row['id']}.png", **row} for row in rows]))["train"]
    assert list(zip(rows["question"], rows["image_file"], rows["id"], strict=True)) == [
        ("a?", "7.png", 7),
        ("b?", "7.png", 7),
        ("c?", "8.png", 8),
    ]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "<image>\nwhat?"}, {"role": "assistant", "content": "it"}],
        [{"from": "user", "value": "what?"}, {"from": "assistant", "value": "it"}],
        [{"from": "Human", "value": "what?"}, {"from": "GPT", "value": "it"}],
        [{"user": "what?", "assistant": "it"}],
        [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "it"}, None],
        [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "it"}]},
        ],
        json.dumps([{"from": "human", "value": "what?"}, {"from": "gpt", "value": "it"}]),
        {"role": ["user", "assistant"], "content": ["what?", "it"]},
    ],
    ids=lambda turns: str(turns)[:40],
)
@pytest.mark.parametrize("column", ["conversations", "messages"])
def test_conversations_are_read_in_every_form(tmp_path, turns, column):
    assert loaded(tmp_path, {column: turns}) == [("a.png", "what?", "it", None)]


def test_a_turn_without_a_text_is_an_empty_answer(tmp_path):
    turns = [
        {"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(["a?", None, "b?", "b"])
    ]
    assert [row[1:3] for row in loaded(tmp_path, {"conversations": turns})] == [("a?", ""), ("b?", "b")]


@pytest.mark.parametrize("classes", [ClassLabel(names=["no", "yes"]), Sequence(ClassLabel(names=["no", "yes"]))])
def test_classes_are_read_by_their_names(tmp_path, classes):
    features = Features({"image": Value("string"), "question": ClassLabel(names=["a?", "b?"]), "answer": classes})
    numbers = [1, 0, -1, None] if isinstance(classes, ClassLabel) else [[1], [0, 0, 1], [-1], None]
    rows = [{"image": "a.png", "question": 1, "answer": number} for number in numbers]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "rows")
    rows = load_rows(str(tmp_path / "rows"))["train"]
    assert rows["question"][:] == ["b?"] * 4 and rows["answer"][:] == ["yes", "no", "", ""]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"image": ["a.png", "b.png"]},
            "1 of 2 rows have several images, such as row 1 with 2: .* Give each image a row",
        ),
        ({"image": {"src": "https://a/b.png", "height": 3}}, "row 0: .*'src'.* is no image: give a path"),
        ({"image": 7}, "images of the type int64 can't be read: .*--image_column"),
        ({"question": ["a?", "b?"], "answer": ["a", "b", "c"]}, "row 1: there are 2 questions and 3 answers"),
        ({"question": ["a?", "b?"], "answer": "a"}, "row 1: there are 2 questions and .* answers"),
        ({"answer": {"x": "a", "y": "b"}}, "row 1: .*'x': 'a'.* is no text: give one, or a dict with one of the keys"),
        ({"question": {"fr": "a?", "de": "b?"}}, "row 1: .* is no text: give one, or a dict"),
    ],
    ids=str,
)
def test_what_is_not_one_image_or_one_text_is_named_in_one_line(tmp_path, row, words):
    first = {"question": "what?", "answer": "yes"} | row
    first |= {name: value[:1] for name, value in first.items() if isinstance(value, list)}
    if "src" in str(row) or row == {"image": 7}:
        first["image"] = row["image"]
    elif "image" not in row:
        first |= {name: {next(iter(value)): "a"} for name, value in first.items() if isinstance(value, dict)}
    with pytest.raises(DataError, match=words) as error:
        loaded(tmp_path, first, {"question": "what?", "answer": "yes"} | row)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "turns", ["Q: what? A: yes", [{"from": "Alice", "value": "a?"}, {"from": "Bob", "value": "a"}]]
)
def test_a_conversation_that_can_not_be_told_is_named(tmp_path, turns):
    with pytest.raises(
        DataError, match="is no conversation|no turn of its 'conversations' asks .* the first is .*Alice"
    ):
        loaded(tmp_path, {"conversations": turns})
