"""Data sets in every form, and with every fault of their files."""

import json

import pandas as pd
import pytest
import torch
from data_sets import SPLIT_ROWS, WRITERS, image_table, noise, pathvqa_split, write_table
from datasets import Dataset, DatasetDict, Image

from mmjepa.data.images import prepare
from mmjepa.data.pixels import normalize_pixels
from mmjepa.data.rows import load_rows


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
    ("before", "header", "after"),
    [
        ("sep=;\r\n", "image;question;answer", ""),
        ('"sep=;"\r\n', "image;question;answer", ""),
        ("", "image;question;answer", ";;\r\n;;\r\n"),
        ("", "image ;question ; answer ", ""),
        ("", '"image";"question";"answer"', ""),
    ],
)
def test_a_table_is_read_as_spreadsheets_save_it(tmp_path, before, header, after):
    content = f"{before}{header}\r\nPräparat 1.jpg;wie groß?;\r\nPräparat 2.jpg;wie groß?;5 µm\r\n{after}"
    (tmp_path / "Fragen Tabelle.csv").write_bytes(content.encode("cp1252"))
    rows = load_rows(str(tmp_path))["train"]
    assert rows["image_file"][:] == ["Präparat 1.jpg", "Präparat 2.jpg"]
    assert rows["answer"][:] == ["", "5 µm"]


def test_what_is_read_as_windows_1252_is_shown(tmp_path, caplog):
    text = "image,question,answer\na.png,wie groß ist es?,5 µm\n"
    (tmp_path / "train.csv").write_bytes(text.encode("cp1252"))
    load_rows(str(tmp_path))
    assert "as in 'groß'" in caplog.text


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


def test_a_name_that_no_data_set_on_the_hub_can_have_is_named_as_missing_here():
    with pytest.raises(ValueError, match="there is no file or folder .*/my data[.]$"):
        load_rows("my data")


@pytest.mark.parametrize("name", ["Fragen.xlsx", "."])
def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path, name):
    (tmp_path / "Fragen.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="Save a spreadsheet as CSV"):
        load_rows(str(tmp_path / name))


def test_a_file_that_is_missing_or_no_table_is_named(tmp_path):
    with pytest.raises(ValueError, match="no file .*lost.csv"):
        load_rows(str(tmp_path / "lost.csv"))
    (tmp_path / "data.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match="data.xlsx is no table .* .csv, .tsv, .json, .jsonl, .txt or .parquet"):
        load_rows(str(tmp_path / "data.xlsx"))


def test_an_image_folder_without_splits_is_train_and_its_answers_stay_as_they_are_written(tmp_path):
    lines = ["file_name,question,answer", "a.png,how many?,007", "b.png,what?,None"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    splits = load_rows(str(tmp_path))
    assert list(splits) == ["train"]
    assert splits["train"]["answer"][:] == ["007", "None"]
    assert [image["path"] for image in splits["train"]["image"]] == [str(tmp_path / f"{name}.png") for name in "ab"]


def test_of_two_splits_for_validation_the_one_of_that_name_is_it(tmp_path):
    rows = {name: pathvqa_split(split) for name, split in (("eval", "test"), ("validation", "validation"))}
    DatasetDict(rows).save_to_disk(tmp_path / "rows")
    splits = load_rows(str(tmp_path / "rows"))
    assert {name: len(rows) for name, rows in splits.items()} == {"eval": 2, "validation": 3}


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


@pytest.mark.parametrize("name", ["a [x] b", "a*b", "what?"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_whose_name_is_like_a_pattern_is_read(tmp_path, name, suffix):
    (tmp_path / name).mkdir()
    rows = Dataset.from_list([{"image": "a.png", "question": "what?", "answer": "yes"}])
    file = tmp_path / name / f"train.{suffix}"
    getattr(rows, {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[suffix])(file)
    assert load_rows(str(file))["train"]["question"][:] == ["what?"]
    assert load_rows(str(file.parent))["train"]["question"][:] == ["what?"]
