"""Data sets in every form, and with every fault of their files and columns."""

import base64
import json
import re
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import torch
from data_sets import SPLIT_ROWS, WRITERS, encoded, image_table, noise, pathvqa_split, write_table
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value

from mmjepa.data.images import check_readable, normalize_pixels, prepare
from mmjepa.data.loading import DataError, drop_unanswered, load_rows, one_text


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_form_of_a_data_set_gives_the_same_rows_and_prepared_images(tmp_path, write, image_processor):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder, image_table(folder))
    splits = load_rows(str(folder))

    assert {split: len(rows) for split, rows in splits.items()} == SPLIT_ROWS
    for split, rows in splits.items():
        expected = pathvqa_split(split)
        assert rows.column_names[:4] == ["image", "question", "answer", "image_file"]
        assert rows.features["image"] == Image(decode=False)
        assert list(rows["question"]) == list(expected["question"])
        assert list(rows["answer"]) == list(expected["answer"])
        data = prepare(rows, image_processor)
        assert data.questions["image_id"][:] == [row // 2 for row in range(SPLIT_ROWS[split])]
        assert data.unreadable == {}
        pixels = normalize_pixels(data.pixels[:]["pixels"], image_processor)
        images = [noise(number) for number in range(len(data.pixels))]
        torch.testing.assert_close(pixels, image_processor(images, return_tensors="pt")["pixel_values"])


def test_a_data_set_saved_without_splits_is_the_training_split(tmp_path):
    pathvqa_split("validation").save_to_disk(tmp_path / "rows")
    splits = load_rows(str(tmp_path / "rows"))
    assert list(splits) == ["train"]
    assert list(splits["train"]["question"]) == list(pathvqa_split("validation")["question"])


@pytest.mark.parametrize("answers", [["NA", "null", "", "yes, often"], ["007", "1.50", "10"]])
def test_answers_in_a_csv_stay_as_they_are_written(tmp_path, answers):
    rows = [{"image": "a.png", "question": "?", "answer": answer} for answer in answers]
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    assert list(load_rows(str(tmp_path))["train"]["answer"]) == answers


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_is_read_in_its_encoding_and_by_its_separator(tmp_path, encoding, separator, caplog):
    cells = [["image", "question", "answer"], ["a.png", '"wie groß, und; wo?"', "Größe"]]
    text = "\n".join(f"{separator} ".join(row) for row in cells)
    (tmp_path / "train.csv").write_text(text, encoding=encoding)
    assert load_rows(str(tmp_path))["train"][0] == {
        "image": {"bytes": None, "path": str(tmp_path / "a.png")},
        "question": "wie groß, und; wo?",
        "answer": "Größe",
        "image_file": "a.png",
    }
    assert ("train.csv is not UTF-8" in caplog.text) == (encoding in ("latin-1", "cp1252"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,question,answer\na.png,what?,\x81\x8d", "train.csv is in none of the encodings .*: save it as UTF-8"),
        (b"image,question,answer\na,b,c\na,b,c,d,e\n", "train.csv can't be read .*line 3"),
    ],
)
def test_a_csv_that_cannot_be_read_is_named_with_the_reason(tmp_path, content, words):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_rows(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split"),
    [("data.csv", "train"), ("slides.jsonl", "train"), ("test.TSV", "test"), ("val.json", "validation")],
)
def test_a_single_file_is_the_split_of_its_name_or_else_train(tmp_path, name, split):
    row = {"image": "a.png", "question": "what?", "answer": "yes"}
    lines = ["\t".join(cells) for cells in (row, row.values())] if name.endswith("TSV") else [json.dumps(row)]
    lines = ["image,question,answer", "a.png,what?,yes"] if name.endswith("csv") else lines
    (tmp_path / name).write_text("\n".join(lines))
    splits = load_rows(str(tmp_path / name))
    assert list(splits) == [split]
    assert splits[split][0] == {
        **row,
        "image": {"bytes": None, "path": str(tmp_path / "a.png")},
        "image_file": "a.png",
    }


def test_a_single_parquet_file_is_read(tmp_path):
    pathvqa_split("test").to_parquet(tmp_path / "all.parquet")
    assert list(load_rows(str(tmp_path / "all.parquet"))["train"]["question"]) == list(
        pathvqa_split("test")["question"]
    )


def test_a_file_that_is_missing_or_no_table_is_named(tmp_path):
    with pytest.raises(ValueError, match="no file .*lost.csv"):
        load_rows(str(tmp_path / "lost.csv"))
    (tmp_path / "data.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match="data.xlsx is no table .* .csv, .tsv, .json, .jsonl or .parquet"):
        load_rows(str(tmp_path / "data.xlsx"))


def test_an_image_folder_without_splits_is_train_and_its_answers_stay_as_they_are_written(tmp_path):
    lines = ["file_name,question,answer", "a.png,how many?,007", "b.png,what?,None"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    splits = load_rows(str(tmp_path))
    assert list(splits) == ["train"]
    assert splits["train"]["answer"][:] == ["007", "None"]
    assert [image["path"] for image in splits["train"]["image"]] == [str(tmp_path / f"{name}.png") for name in "ab"]


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


def test_rows_without_an_answer_are_left_out_and_named_but_not_those_of_a_caption_alone(tmp_path, caplog):
    texts = [("is it?", "yes", ""), ("is it?", "", "cells"), ("", "", "cells"), ("", " ", ""), ("", "liver", "")]
    folder = write_table(
        tmp_path,
        [{"image": "a.png", "question": q, "answer": answer, "caption": caption} for q, answer, caption in texts],
    )
    rows = load_rows(folder)["train"]
    kept = drop_unanswered(rows, "train")
    assert list(zip(kept["question"], kept["answer"], kept["caption"], strict=True)) == [texts[n] for n in (0, 2, 4)]
    assert "train: 2 of 5 rows have no answer and are left out; the first, counted from 0: 1, 3" in caplog.text
    with pytest.raises(ValueError, match="none of the 2 rows has an answer: check --answer_column"):
        drop_unanswered(rows.select([1, 3]), "train")


def test_of_two_splits_for_validation_the_one_of_that_name_is_it(tmp_path):
    rows = {name: pathvqa_split(split) for name, split in (("eval", "test"), ("validation", "validation"))}
    DatasetDict(rows).save_to_disk(tmp_path / "rows")
    splits = load_rows(str(tmp_path / "rows"))
    assert {name: len(rows) for name, rows in splits.items()} == {"eval": 2, "validation": 3}


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
        ({}, ["train", "'question', 'answer'", "image, prompt, label", "--question_column, --answer_column"]),
        ({"question": "prompt", "answer": "labels"}, ["'labels'", "--answer_column"]),
        ({"question": "prompt", "answer": "label", "caption": "note"}, ["'note'", "--caption_column"]),
    ],
)
def test_a_missing_column_is_named_with_those_there_are_and_the_flag(tmp_path, columns, words):
    folder = write_table(tmp_path, [{"image": "a.png", "prompt": "what?", "label": "yes"}])
    with pytest.raises(ValueError) as error:
        load_rows(folder, columns=columns)
    for word in words:
        assert word in str(error.value)


def test_a_folder_without_data_says_what_it_could_hold(tmp_path):
    noise(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="save_to_disk.*parquet.*train.csv"):
        load_rows(str(tmp_path))


def test_two_tables_for_one_split_are_refused(tmp_path):
    row = {"image": "a.png", "question": "what?", "answer": "yes"}
    write_table(tmp_path, [row], "validation.jsonl")
    write_table(tmp_path, [row], "val.jsonl")
    with pytest.raises(ValueError, match="val.jsonl and validation.jsonl"):
        load_rows(str(tmp_path))


def test_a_path_leads_into_the_data_sets_folder_before_the_working_directory(tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    folder.mkdir()
    for file in (folder / "both.png", tmp_path / "both.png", tmp_path / "here.png"):
        noise(0).save(file)
    monkeypatch.chdir(tmp_path)
    write_table(
        folder, [{"image": f"{name}.png", "question": "?", "answer": "yes"} for name in ("both", "here", "no")]
    )
    with pytest.raises(ValueError, match="'here.png' lies outside of the data set's folder .*rows"):
        load_rows("rows")
    paths = [image["path"] for image in load_rows("rows", allow_outside_images=True)["train"]["image"]]
    assert paths == [str(folder / "both.png"), str(tmp_path / "here.png"), str(folder / "no.png")]


@pytest.mark.parametrize("kind", ["absolute", "parent", "link", "linked folder"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_no_table_reads_images_outside_of_its_folder_unless_that_is_allowed(tmp_path, kind, suffix):
    outside, folder = tmp_path / "private", tmp_path / "rows"
    for path in (outside, folder):
        path.mkdir()
        noise(0).save(path / "image.png")
    (folder / "link.png").symlink_to(outside / "image.png")
    (folder / "linked").symlink_to(outside)
    name = {
        "absolute": str(outside / "image.png"),
        "parent": "../private/image.png",
        "link": "link.png",
        "linked folder": "linked/image.png",
    }[kind]
    inside = [{"image": path, "question": "?", "answer": "yes"} for path in ("image.png", str(folder / "image.png"))]
    write = {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[suffix]
    getattr(Dataset.from_list(inside), write)(folder / f"train.{suffix}")
    assert len(load_rows(str(folder))["train"]) == 2
    getattr(Dataset.from_list([*inside, {**inside[0], "image": name}]), write)(folder / f"train.{suffix}")
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))} lies outside .* --allow_outside_images"):
        load_rows(str(folder))
    rows = load_rows(str(folder), allow_outside_images=True)["train"]
    assert Path(rows[2]["image"]["path"]).read_bytes() == (outside / "image.png").read_bytes()


def test_addresses_are_not_fetched_and_the_error_says_so(tmp_path, image_processor, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something is fetched"))
    write_table(tmp_path, [{"image": "http://127.0.0.1/a.png", "question": "?", "answer": "yes"}])
    data = prepare(load_rows(str(tmp_path))["train"], image_processor)
    with pytest.raises(ValueError, match="addresses of the web are not fetched"):
        check_readable("train", list(data.unreadable.values()), 1, 0.1)


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


PNG = encoded(noise(0))
BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (["a.png"], "a.png"),
        ([], None),
        ({"path": "a.png"}, "a.png"),
        ([{"path": "a.png", "bytes": None}], "a.png"),
        (BASE64, PNG),
        (f"data:image/png;base64,{BASE64}", PNG),
        ([BASE64], PNG),
        ({"bytes": BASE64, "path": None}, PNG),
        ({"bytes": None, "path": BASE64}, PNG),
        (None, None),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("column", ["image", "images"])
def test_what_stands_for_one_image_is_read_as_it(tmp_path, image, column, expected):
    rows = [{column: image, "question": "what?", "answer": "yes"}]
    read = load_rows(write_table(tmp_path, rows))["train"]
    found = read["image"][0]
    found = found and (found["bytes"] or Path(found["path"]).name)
    assert found == expected
    assert read["image_file"][0] == ("a.png" if expected == "a.png" else None)


def test_images_in_base64_in_a_csv_are_those_that_the_processor_reads(tmp_path, image_processor, processor):
    (tmp_path / "train.csv").write_text(f"image,question,answer\n{BASE64},what?,yes\n")
    pixels = prepare(load_rows(str(tmp_path))["train"], image_processor).pixels[:]["pixels"]
    expected = processor(images=BASE64, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalize_pixels(pixels, image_processor), expected)


@pytest.mark.parametrize("feature", [Sequence(Image()), Sequence(Value("binary")), [{"bytes": Value("binary")}]])
@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_a_list_of_one_image_in_a_data_set_is_that_image(tmp_path, feature, form):
    image = PNG if feature == Sequence(Value("binary")) else {"bytes": PNG}
    features = Features({"images": feature, "question": Value("string"), "answer": Value("string")})
    rows = Dataset.from_list([{"images": [image], "question": "what?", "answer": "yes"}], features=features)
    name = tmp_path / "train.parquet" if form == "parquet" else tmp_path / "rows"
    rows.to_parquet(name) if form == "parquet" else rows.save_to_disk(name)
    assert load_rows(str(name))["train"]["image"][0]["bytes"] == PNG


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
        ({"image": ["a.png", "b.png"]}, "row 1: a question is about one image, and there are 2"),
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


@pytest.mark.parametrize("name", ["a [x] b", "a*b", "what?"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_whose_name_is_like_a_pattern_is_read(tmp_path, name, suffix):
    (tmp_path / name).mkdir()
    rows = Dataset.from_list([{"image": "a.png", "question": "what?", "answer": "yes"}])
    file = tmp_path / name / f"train.{suffix}"
    getattr(rows, {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[suffix])(file)
    assert load_rows(str(file))["train"]["question"][:] == ["what?"]
    if suffix == "parquet" and "[" in name:  # `datasets` looks for the files of a whole folder by patterns
        with pytest.raises(DataError, match=r"has a \[ in its name, .*: rename it"):
            load_rows(str(file.parent))
    else:
        assert load_rows(str(file.parent))["train"]["question"][:] == ["what?"]


@pytest.mark.parametrize("broken", [BASE64[:3000] + "!" + BASE64, "A" * 2_000_000])
def test_no_message_and_no_column_shows_a_broken_image_in_base64(tmp_path, image_processor, broken):
    rows = load_rows(write_table(tmp_path, [{"image": broken, "question": "what?", "answer": "yes"}]))["train"]
    data = prepare(rows, image_processor)
    with pytest.raises(DataError, match="1 of 1 images") as error:
        check_readable("train", list(data.unreadable.values()), 1, 0.1)
    assert len(str(error.value)) < 1000
    assert rows["image_file"][0] is None
