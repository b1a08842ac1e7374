"""Data sets in every form, and with every fault of their files and columns."""

import pandas as pd
import pytest
import torch
from data_sets import SPLIT_ROWS, WRITERS, image_table, noise, pathvqa_split, write_table
from datasets import Image

from mmjepa.data.images import normalize_pixels, prepare
from mmjepa.data.loading import load_rows


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_form_of_a_data_set_gives_the_same_rows_and_prepared_images(tmp_path, write, image_processor):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder, image_table(folder))
    splits = load_rows(str(folder))

    assert {split: len(rows) for split, rows in splits.items()} == SPLIT_ROWS
    for split, rows in splits.items():
        expected = pathvqa_split(split)
        assert rows.column_names == ["image", "question", "answer"]
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
    assert rows.column_names == ["image", "question", "answer"]
    assert rows[0] == {
        "image": {"bytes": None, "path": str(tmp_path / "a.png")},
        "question": "what is it?",
        "answer": "a liver",
    }


def test_a_named_column_goes_before_one_that_has_the_name(tmp_path):
    folder = write_table(tmp_path, [{"image": "a", "question": "old?", "new": "new?", "answer": "yes", "text": "t"}])
    rows = load_rows(folder, columns={"question": "new", "caption": "text"})["train"]
    assert rows.column_names == ["image", "question", "answer", "caption"]
    assert rows["question"][0] == "new?" and rows["caption"][0] == "t"


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
    paths = [image["path"] for image in load_rows("rows")["train"]["image"]]
    assert paths == [str(folder / "both.png"), str(tmp_path / "here.png"), str(folder / "no.png")]
