"""What `mmjepa check` finds in a data set, fault by fault, and its exit status."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.training.arguments import DataArguments
from mmjepa.training.checking import check_data


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "dataset_cache")


@pytest.fixture
def folder(tmp_path):
    """A data set without a fault: four training images and two to validate, with two questions each."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, numbers in (("train", range(4)), ("validation", (4, 5))):
        for number in numbers:
            save_noise(folder / f"{number}.png", number)
        rows = [
            (f"{number}.png", question, answer)
            for number in numbers
            for question, answer in (("is it red?", "yes"), ("what is it?", f"cell {number}"))
        ]
        pd.DataFrame(rows, columns=["image", "question", "answer"]).to_csv(folder / f"{split}.csv", index=False)
    return folder


def save_noise(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)).save(path)


def change(folder, split="train", **columns):
    """Changes a split's columns, each by a function of the old values."""
    rows = pd.read_csv(folder / f"{split}.csv", dtype=str, keep_default_na=False)
    for name, function in columns.items():
        rows[name] = function(list(rows[name]))
    rows.to_csv(folder / f"{split}.csv", index=False)


def checked(folder, **flags):
    return check_data(DataArguments(str(folder), preprocessing_num_workers=1, **flags))


def problems(report) -> str:
    return "\n".join(found["text"] for found in report["problems"])


def test_a_data_set_without_a_fault_has_its_numbers_and_no_problem(folder):
    report = checked(folder)
    assert report["problems"] == [] and report["can_train"]
    train = report["splits"]["train"]
    assert (train["rows"], train["images"], train["questions_per_image"]) == (8, 4, {"mean": 2, "most": 2})
    assert train["columns"] == {"image": "image", "question": "question", "answer": "answer"}
    assert train["kinds"] == {"is_are": 0.5, "what": 0.5}
    # The yes/no half of the answers is the same everywhere; the other half is not in training.
    alone = report["questions_alone"]
    assert (alone["accuracy_majority"], alone["accuracy_majority_question"], alone["answers_seen"]) == (0.5, 0.5, 0.5)
    assert report["run"] == {"rows": 8, "batch_size": 16, "epochs": 3, "steps": 3}


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_the_same_picture_in_two_splits_is_found_whatever_its_name_and_format(folder, image_format):
    Image.open(folder / "2.png").save(folder / "5.png", image_format)
    report = checked(folder)
    assert report["shared_images"] == [
        {"splits": ["train", "validation"], "images": [str(folder / "2.png"), str(folder / "5.png")]}
    ]
    assert "leave them out of train" in problems(report) and report["can_train"]


def test_a_copy_that_was_saved_anew_is_found_by_its_name(folder):
    (folder / "copies").mkdir()
    save_noise(folder / "copies" / "2.png", 9)
    change(folder, "validation", image=lambda paths: ["copies/2.png", *paths[1:]])
    report = checked(folder)
    assert report["shared_names"] == [{"splits": ["train", "validation"], "names": ["2.png"]}]
    assert report["problems"] == []


def test_each_fault_of_a_row_is_counted(folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    change(
        folder,
        question=lambda texts: ["", *texts[1:]],
        answer=lambda texts: [*texts[:5], " ", texts[6], "cell " * 33],
    )
    with open(folder / "train.csv", "a") as file:
        file.write("3.png,Is it red?,yes\n")
    report = checked(folder, max_unreadable_images=0.5)
    train = report["splits"]["train"]
    assert train["unreadable_images"] == [str(folder / "1.png")]
    for name in ("rows_without_answer", "rows_without_question", "duplicate_rows", "long_answers"):
        assert train[name] == 1, name
    assert len(report["problems"]) == 5 and report["can_train"]
    assert report["run"]["rows"] == 8


def test_with_a_tokenizer_texts_are_measured_in_tokens(folder, saved_folder):
    change(folder, question=lambda texts: ["pneumonoultramicroscopicsilicovolcanoconiosis?", *texts[1:]])
    report = check_data(DataArguments(str(folder), preprocessing_num_workers=1), saved_folder)
    assert report["length_unit"] == "tokens"
    assert report["splits"]["train"]["long_questions"] == 1  # the tiny model reads 32
    assert checked(folder)["splits"]["train"]["long_questions"] == 0
    with pytest.raises(ValueError, match="no BART tokenizer"):
        check_data(DataArguments(str(folder)), str(folder))


def test_without_validation_the_floors_are_those_of_the_images_that_a_run_holds_out(folder):
    (folder / "validation.csv").unlink()
    report = checked(folder, validation_split_percentage=25)
    assert report["questions_alone"]["rows"] == "25 % of the training images, held out"
    assert report["questions_alone"]["accuracy_majority"] == 0.5
    assert report["run"]["rows"] == 6


def rename_column(folder, name, new_name):
    rows = pd.read_csv(folder / "train.csv").rename(columns={name: new_name})
    rows.to_csv(folder / "train.csv", index=False)


def leave_broken_parquet(folder):
    for path in folder.glob("*.csv"):
        path.unlink()
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")


STOPPING = {
    "no train split": (lambda folder: (folder / "train.csv").rename(folder / "test.csv"), "no train split"),
    "no column": (lambda folder: rename_column(folder, "answer", "reply"), "--answer_column"),
    "no answer": (lambda folder: change(folder, answer=lambda texts: [""] * len(texts)), "both a question and an"),
    "no image": (lambda folder: [path.write_bytes(b"") for path in folder.glob("*.png")], "can't be decoded"),
    "a broken file": (leave_broken_parquet, "can't be read"),
    "no data": (lambda folder: [path.unlink() for path in folder.glob("*.csv")], "holds no data"),
}


@pytest.mark.parametrize("case", STOPPING)
def test_where_training_cannot_start_the_exit_status_is_1_and_the_reason_comes_first(folder, case):
    spoil, reason = STOPPING[case]
    spoil(folder)
    run = CliRunner().invoke(app, ["check", str(folder), "--preprocessing_num_workers", "1", "--json"])
    report = json.loads(run.stdout)
    assert run.exit_code == 1 and not report["can_train"]
    assert report["problems"][0]["stops"] and reason in report["problems"][0]["text"]


def test_the_page_names_the_columns_that_the_scripts_flags_name(folder):
    rename_column(folder, "answer", "reply")
    rows = pd.read_csv(folder / "validation.csv").rename(columns={"answer": "reply"})
    rows.to_csv(folder / "validation.csv", index=False)
    run = CliRunner().invoke(
        app, ["check", str(folder), "--answer_column", "reply", "--preprocessing-num-workers", "1"]
    )
    assert run.exit_code == 0, run.output
    assert f"{folder}: no problems" in run.stdout and "Training can start." in run.stdout
    assert "answer is 'reply'" in run.stdout and "takes 3 steps" in run.stdout
