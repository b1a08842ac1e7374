"""What `mmjepa check` finds in small tables, each with one fault."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.data.statements import sign_of
from mmjepa.evaluation.checking import check_data


@pytest.fixture
def folder(tmp_path):
    """A folder of four images and of train.csv and validation.csv, three questions about each image."""
    random = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    write(tmp_path, "train", rows_about("0.png") + rows_about("1.png"))
    write(tmp_path, "validation", rows_about("2.png") + rows_about("3.png"))
    return tmp_path


def rows_about(image: str) -> list[dict[str, str]]:
    asked = [("is it red?", "no"), ("what is it?", "a gland"), ("where is it?", "left")]
    return [{"image": image, "question": question, "answer": answer} for question, answer in asked]


def write(folder, split, rows) -> None:
    pd.DataFrame(rows).to_csv(folder / f"{split}.csv", index=False)


def messages(folder) -> tuple[list[str], list[str]]:
    report = check_data(str(folder))
    return report["errors"], report["warnings"]


def test_sound_data_have_numbers_and_no_messages(folder):
    report = check_data(str(folder))
    assert report["errors"] == report["warnings"] == []
    assert report["columns"] == {"image": "image", "question": "question", "answer": "answer"}
    train = report["splits"]["train"]
    assert (train["rows"], train["images"], train["questions_per_image"]) == (6, 2, 3)
    assert train["kinds"] == pytest.approx({"is_are": 1 / 3, "what": 1 / 3, "where": 1 / 3})
    # The answers of both splits are the same: images are not needed.
    assert report["questions_alone"] == {"answers_seen_in_train": 1, "majority": 1, "majority_question": 1}


def test_an_image_of_two_splits_is_found_by_its_pixels(folder):
    Image.open(folder / "0.png").save(folder / "copy.tiff")
    write(folder, "validation", rows_about("copy.tiff"))
    _, (warning,) = messages(folder)
    assert "1 image stands in both train and validation" in warning
    assert "0.png" in warning and "copy.tiff" in warning


def test_rows_without_answer_copies_and_long_answers_are_counted_and_named(folder):
    rows = rows_about("0.png") + rows_about("0.png")[:1] + rows_about("1.png")
    rows[1]["answer"], rows[2]["answer"] = "", "cell " * 30
    write(folder, "train", rows)
    errors, warnings = messages(folder)
    assert errors == []
    assert any("1 row has no answer" in text and "row 1" in text for text in warnings)
    assert any("1 row is a copy" in text for text in warnings)
    assert any("more than 24 words (row 2)" in text for text in warnings)


def test_few_unreadable_images_are_a_warning_and_many_an_error(folder):
    (folder / "0.png").write_bytes(b"no image")
    errors, warnings = messages(folder)
    assert "1 of 2 images" in errors[0] and "0.png" in errors[0]
    report = check_data(str(folder), max_unreadable=0.5)
    assert report["errors"] == [] and "0.png" in report["warnings"][0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"), (None, "no such file")],
)
def test_an_image_that_can_not_be_read_is_named_with_the_reason(folder, content, reason):
    (folder / "0.png").unlink()
    if content is not None:
        (folder / "0.png").write_bytes(content)
    (error,), _ = messages(folder)
    assert "0.png" in error and reason in error


def test_the_folder_of_the_images_is_said_however_their_names_are_written(tmp_path):
    (tmp_path / "Studie" / "Bilder").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "Studie" / "Bilder" / f"{number}.JPG")
    write(tmp_path, "train", rows_about("Bilder\\0.jpg") + rows_about("Bilder\\1.jpg"))
    report = check_data(str(tmp_path))
    assert report["errors"] == []
    assert report["image_folders"] == {"train": str(tmp_path / "Studie")}


def test_answers_of_another_language_are_named_with_the_flag_that_trains_them(folder):
    rows = [{"image": "0.png", "question": "ist es rot?", "answer": answer} for answer in ("Ja", "nein")]
    write(folder, "train", rows)
    (warning,) = [text for text in messages(folder)[1] if "'ja' and 'nein'" in text]
    flag, words = shlex.split(warning)[-2:]
    assert flag == "--yes_no_words"
    assert sign_of("ja", json.loads(words)) == 1 and sign_of("nein", json.loads(words)) == -1


def test_a_table_is_read_and_warned_of_once(folder, caplog):
    rows = [{"image": "0.png", "question": "wie groß ist es?", "answer": "klein"}]
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False, encoding="cp1252")
    check_data(str(folder))
    assert caplog.text.count("train.csv is not UTF-8") == 1


def test_groups_that_stand_in_two_splits_are_counted_and_named(folder):
    for split, images, patients in (("train", "01", ["p1", "p2"]), ("validation", "23", ["p2", "p3"])):
        rows = [row for image in images for row in rows_about(f"{image}.png")]
        write(folder, split, [row | {"patient": patients[number // 3]} for number, row in enumerate(rows)])
    result = CliRunner().invoke(app, ["check", str(folder), "--group-column", "patient"])
    assert result.exit_code == 0
    assert "1 group by 'patient' has rows in both train and validation (p2)" in result.stdout
    assert "group" not in CliRunner().invoke(app, ["check", str(folder)]).stdout
    (error,) = check_data(str(folder), group_column="case")["errors"]
    assert "no column 'case' for --group_column" in error


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"picture": "0.png", "question": "what?", "answer": "it"}], "no column 'image'"),
        ([{"image": "0.png", "question": "what?", "answer": ""}], "none of the 1 rows has an answer"),
    ],
)
def test_where_training_can_not_start_the_exit_status_is_1(folder, rows, message):
    write(folder, "train", rows)
    result = CliRunner().invoke(app, ["check", str(folder)])
    assert result.exit_code == 1
    assert message in result.stdout and "Training can't start" in result.stdout


def test_the_page_says_what_a_run_takes_and_json_has_the_same_numbers(folder):
    result = CliRunner().invoke(app, ["check", str(folder), "--batch-size", "4", "--epochs", "2"])
    assert result.exit_code == 0
    assert "2 steps of 4 questions; 2 epochs have 4" in result.stdout
    report = json.loads(CliRunner().invoke(app, ["check", str(folder), "--json"]).stdout)
    assert report == check_data(str(folder))
