"""Published data sets in their layouts: what is read of them, what `check` says, and that training runs."""

import re
from pathlib import Path

import pandas as pd
import pytest
from data_sets import encoded, noise, write_table
from datasets import Dataset, DatasetDict
from layouts import CHOICES, REMAKES, kvasir_rows, write_images, write_json, write_pubmed_vision, write_vlm_eval_kit
from tiny import FAST, FROM_RANDOM
from typer.testing import CliRunner

from mmjepa import run_pathvqa
from mmjepa.cli import app
from mmjepa.data.errors import DataError
from mmjepa.data.image_files import find_images
from mmjepa.data.images import decoded_or_fault
from mmjepa.data.new_images import load_new_rows
from mmjepa.data.rows import load_rows
from mmjepa.data.streaming import stream_rows
from mmjepa.training.arguments import parse_arguments


@pytest.fixture(params=REMAKES)
def remade(request, tmp_path):
    """A remake and the flags that read it."""
    remake = REMAKES[request.param]
    remake.write(tmp_path)
    return remake, [flag.format(tmp_path) for flag in remake.flags]


def rows_by_flags(flags: list[str]):
    """The rows that a run with these flags reads; the first is the data set's name."""
    _, data_args, _ = parse_arguments(["--dataset_name", *flags, *FROM_RANDOM, "--use_cpu"])
    return load_rows(data_args.dataset_name[0], columns=data_args.columns(), **data_args.rows())


def test_every_layout_is_read_with_the_flags_of_its_line(remade):
    remake, flags = remade
    splits = rows_by_flags(flags)
    assert {split: len(rows) for split, rows in splits.items()} == remake.rows
    assert splits["train"]["answer"][: len(remake.answers)] == remake.answers
    for rows in splits.values():
        assert [fault for row in rows if (fault := decoded_or_fault(row["image"])[1])] == []
        assert not any("<image>" in question for question in rows["question"])


def test_check_says_which_layout_it_is_and_that_training_can_start(remade):
    remake, flags = remade
    shown = CliRunner().invoke(app, ["check", *flags])
    assert shown.exit_code == 0, shown.output
    assert f"layout: {remake.layout}\n" in shown.output and "Training can start." in shown.output


@pytest.mark.slow
def test_two_steps_of_training_run_from_every_layout(remade, tmp_path):
    _, flags = remade
    run = ["--fast_dev_run", "--batch_size", "2", "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    run_pathvqa.main([*FROM_RANDOM, *FAST, "--dataset_name", *flags, *run])
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_choices_are_the_closed_list_of_a_row_and_letters_are_their_texts(tmp_path):
    REMAKES["pmc_vqa"].write(tmp_path)
    splits = load_rows(str(tmp_path))
    assert splits["train"]["choices"][:] == [CHOICES] * 8
    assert splits["test"]["answer"][:] == CHOICES[:3]  # A, B, C in the file
    assert "Choice A" not in splits["train"].column_names and splits["train"]["Answer_label"][0] == "A"


def test_an_image_that_a_row_names_by_the_index_of_another_is_that_image(tmp_path):
    write_vlm_eval_kit(tmp_path)
    rows = load_rows(str(tmp_path), train_split="test")["train"]
    images = [image["bytes"] for image in rows["image"]]
    assert images == [encoded(noise(number - number % 2), "JPEG") for number in range(6)]
    assert rows["choices"][:2] == [CHOICES[:2], CHOICES]


def test_rows_of_several_images_are_counted_in_one_line_that_says_what_to_do(tmp_path):
    write_pubmed_vision(tmp_path, images=3)
    with pytest.raises(DataError, match="1 of 4 rows have several images, such as row 3 with 3: .*montage") as error:
        load_rows(str(tmp_path))
    assert "\n" not in str(error.value)


ROW = {"question": "what?", "answer": "yes"}


def write_rows(folder: Path, suffix: str, images: list[str]) -> Path:
    """A table train of one row for each image."""
    folder.mkdir(exist_ok=True, parents=True)
    rows = Dataset.from_list([{"image": image, **ROW} for image in images])
    write = {"csv": "to_csv", "json": "to_json", "jsonl": "to_json", "parquet": "to_parquet"}[suffix]
    getattr(rows, write)(folder / f"train.{suffix}")
    return folder / f"train.{suffix}"


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_the_only_folder_beside_a_table_that_has_its_images_is_taken_and_logged(tmp_path, suffix, caplog):
    caplog.set_level("INFO", "mmjepa")
    table = write_rows(tmp_path, suffix, ["1.png", "sub/2.png"])
    write_images(tmp_path / "figures", "1.png", "sub/2.png")
    write_images(tmp_path / "other", "3.png")
    expected = [str(tmp_path / "figures" / name) for name in ("1.png", "sub/2.png")]
    for rows in (load_rows(str(tmp_path))["train"], load_new_rows([str(table)])):
        assert [image["path"] for image in rows["image"]] == expected
    assert sorted(find_images(str(table)).names) == expected
    assert f"Images are read from {tmp_path / 'figures'}" in caplog.text
    shown = CliRunner().invoke(app, ["check", str(tmp_path)]).output
    assert f"images of train: from {tmp_path / 'figures'}" in shown


def test_of_two_folders_with_the_images_both_are_named_and_the_flag_says_which(tmp_path):
    write_rows(tmp_path, "csv", ["1.png"])
    for name in ("images", "thumbnails"):
        write_images(tmp_path / name, "1.png")
    both = f"{tmp_path / 'images'} and in {tmp_path / 'thumbnails'}: say which by --image_folder"
    with pytest.raises(DataError, match=re.escape(both)):
        load_rows(str(tmp_path))
    rows = load_rows(str(tmp_path), image_folder=str(tmp_path / "thumbnails"))["train"]
    assert rows["image"][0]["path"] == str(tmp_path / "thumbnails" / "1.png")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_named_image_folder_away_from_the_table_is_read_and_nothing_beside_it(tmp_path, suffix):
    table = write_rows(tmp_path / "tables", suffix, ["1.png"])
    write_images(tmp_path / "images", "1.png")
    write_images(tmp_path, "private.png")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "private.png")
    folder = str(tmp_path / "images")
    for rows in (
        load_rows(str(tmp_path / "tables"), image_folder=folder)["train"],
        load_new_rows([str(table)], image_folder=folder),
    ):
        assert rows["image"][0]["path"] == str(tmp_path / "images" / "1.png")
    write_rows(tmp_path / "tables", suffix, ["1.png", "link.png"])
    with pytest.raises(DataError, match="'link.png' lies outside"):
        load_rows(str(tmp_path / "tables"), image_folder=folder)
    with pytest.raises(DataError, match="--image_folder is 'nowhere', which is no folder"):
        load_rows(str(tmp_path / "tables"), image_folder="nowhere")


def test_a_stream_takes_the_image_folder_the_split_and_the_rows_that_flags_name(tmp_path):
    rows = [{"image": f"{number}.png", **ROW, "lang": ("en", "zh")[number % 2]} for number in range(6)]
    (tmp_path / "tables").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "tables" / "test-00000-of-00001.parquet")
    for folder in (tmp_path / "images", tmp_path / "tables" / "figures"):
        write_images(folder, *(row["image"] for row in rows))
    for named, folder in ((str(tmp_path / "images"), tmp_path / "images"), (None, tmp_path / "tables" / "figures")):
        stream, texts = stream_rows(
            str(tmp_path / "tables"), image_folder=named, train_split="test", where={"lang": "en"}
        )
        assert [row["image"]["path"] for row in stream] == [str(folder / f"{number}.png") for number in (0, 2, 4)]
        assert len(texts["train"]) == 3
    with pytest.raises(DataError, match="no column 'language' for --where: there are image"):
        stream_rows(str(tmp_path / "tables"), train_split="test", where={"language": "en"})


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["training", "validate", "testing"], ["train", "validation", "test"]),
        (["trainset", "valset"], ["train", "validation"]),
        (["Train", "Dev"], ["train", "validation"]),
        (["train_val", "test"], ["train", "test"]),
        (["train_1", "train_2", "valid"], ["train", "validation"]),
        (["train-00000-of-00002", "train-00001-of-00002"], ["train"]),
        (["my_train_set", "my_dev_set"], ["train", "validation"]),
        (["part-00000", "part-00001"], ["train"]),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_tables_are_the_splits_that_their_names_mean_and_numbered_ones_are_parts(tmp_path, names, splits, suffix):
    for name in names:
        write_rows(tmp_path, suffix, [f"{name}.png"]).rename(tmp_path / f"{name}.{suffix}")
    found = load_rows(str(tmp_path))
    assert sorted(found) == sorted(splits)
    assert [name for split in splits for name in found[split]["image_file"]] == [f"{name}.png" for name in names]


@pytest.mark.parametrize(
    "names", [["train", "train_2"], ["train_1", "train_3"], ["val", "dev"], ["a_train", "b_train"]]
)
def test_tables_that_are_not_the_parts_of_one_are_not_read_together(tmp_path, names):
    for name in names:
        write_table(tmp_path, [{"image": "a.png", **ROW}], f"{name}.jsonl")
    with pytest.raises(
        DataError, match="(?s)" + ".*".join(f"{name}.jsonl" for name in sorted(names)) + ".*number all"
    ):
        load_rows(str(tmp_path))


def test_tables_that_are_not_read_are_named(tmp_path, caplog):
    for name in ("train", "train_val", "extra"):
        write_table(tmp_path, [{"image": "a.png", **ROW}], f"{name}.jsonl")
    assert list(load_rows(str(tmp_path))) == ["train"]
    assert "not read: extra.jsonl, train_val.jsonl" in caplog.text


def test_two_saved_splits_for_one_name_are_both_there(tmp_path):
    part = Dataset.from_list([{"image": "a.png", **ROW}])
    DatasetDict({"train": part, "val": part, "dev": part}).save_to_disk(tmp_path / "saved")
    assert sorted(load_rows(str(tmp_path / "saved"))) == ["dev", "train", "validation"]


def test_a_set_whose_only_split_has_another_name_is_trained_on_only_if_that_is_said(tmp_path):
    write_table(tmp_path, [{"image": "a.png", **ROW}], "test.jsonl")
    shown = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert shown.exit_code == 1 and "--train_split" in shown.output
    assert list(load_rows(str(tmp_path / "test.jsonl"), train_split="test")) == ["train"]
    with pytest.raises(DataError, match="no split 'raw' for --train_split: there are test"):
        load_rows(str(tmp_path), train_split="raw")


def test_rows_that_say_test_are_not_trained_on_because_of_a_files_name(tmp_path):
    rows = [{"image": "a.png", **ROW, "split": split} for split in ("train", "test", "val")]
    write_table(tmp_path, rows, "all.jsonl")
    assert {split: len(rows) for split, rows in load_rows(str(tmp_path)).items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    (tmp_path / "all.jsonl").rename(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="2 of the 3 rows of train are test and validation by their column"):
        load_rows(str(tmp_path))
    assert len(load_rows(str(tmp_path), where={"split": "train"})["train"]) == 1
    assert len(load_rows(str(tmp_path), train_split="train")["train"]) == 3
    write_table(tmp_path, [*rows, {"image": "a.png", **ROW, "split": "unused"}], "train.jsonl")
    with pytest.raises(DataError, match="names splits, but also 'unused'"):
        load_rows(str(tmp_path))


def test_a_value_that_no_row_has_is_named_with_those_that_there_are(tmp_path):
    write_table(tmp_path, [{"image": "a.png", **ROW, "q_lang": lang} for lang in ("en", "zh")])
    with pytest.raises(DataError, match="train has no row for --where q_lang=de: its values are en, zh"):
        load_rows(str(tmp_path), where={"q_lang": "de"})
    shown = CliRunner().invoke(app, ["check", str(tmp_path), "--where", "q_lang"])
    assert shown.exit_code == 2 and "--where is 'q_lang': give a column and the value" in shown.output


def test_letters_without_choices_are_not_trained_on_unless_their_column_is_named(tmp_path):
    write_table(tmp_path, [{"image": "a.png", "question": "what?", "answer": letter} for letter in ("A", "b", "(C).")])
    assert load_rows(str(tmp_path))["train"]["answer"][1] == "b"
    write_table(tmp_path, [{"image": "a.png", "question": "what?", "answer": letter} for letter in ("A", "(C).")])
    with pytest.raises(DataError, match=r"answers of train are letters .*`Choice A`.*--answer_column"):
        load_rows(str(tmp_path))
    assert load_rows(str(tmp_path), columns={"answer": "answer"})["train"]["answer"][:] == ["A", "(C)."]


def test_a_letter_that_no_choice_has_is_no_answer(tmp_path, caplog):
    row = {"image": "a.png", "question": "what?", "options": ["A. cells", "B. fat"]}
    write_table(tmp_path, [{**row, "answer": answer} for answer in ("B", "B. fat", "cells", "D", "bone")])
    rows = load_rows(str(tmp_path))["train"]
    assert rows["answer"][:] == ["fat", "fat", "cells", "", "bone"]
    assert rows["choices"][0] == ["cells", "fat"]
    assert "train: 1 rows have no answer, or a letter that none of their choices has" in caplog.text


def test_exchanged_columns_of_questions_and_answers_are_named(tmp_path):
    rows = [{"image": "a.png", "question": answer, "answer": f"{number}?"} for number, answer in enumerate("xyz")]
    write_table(tmp_path, rows)
    with pytest.raises(DataError, match="look exchanged: an answer is '0.'.*--question_column and --answer_column"):
        load_rows(str(tmp_path))
    columns = {"question": "answer", "answer": "question"}
    assert load_rows(str(tmp_path), columns=columns)["train"]["answer"][:] == ["x", "y", "z"]


def test_an_image_with_an_id_for_a_name_is_found_by_its_suffix(tmp_path):
    ids = sorted({row["img_id"] for row in kvasir_rows()})
    names = [name + suffix for name, suffix in zip(ids, (".jpg", ".JPG", ".png", ".tif"), strict=True)]
    write_images(tmp_path / "images", *names)
    pd.DataFrame(kvasir_rows()).to_csv(tmp_path / "metadata.csv", index=False)
    images = load_rows(str(tmp_path))["train"]["image"][::2]
    assert [Path(image["path"]).name for image in images] == names


def test_a_part_that_lacks_a_column_has_none_there(tmp_path):
    write_json(tmp_path / "train_1.json", [{"image": "a.png", **ROW, "more": "x"}])
    write_json(tmp_path / "train_2.json", [{"image": "b.png", **ROW}])
    assert load_rows(str(tmp_path))["train"]["more"][:] == ["x", None]
    write_json(tmp_path / "train_2.json", [{"image": "b.png", "question": ["what?"], "answer": ["yes"]}])
    with pytest.raises(DataError, match="train_1.json, train_2.json differ in the types of their columns"):
        load_rows(str(tmp_path))
