"""Data sets in every form and with every fault, images prepared once, batches, and the order they come in."""

import json
import os
from collections import Counter
from io import BytesIO

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset, DatasetDict, Features, Image, Value
from transformers import AutoImageProcessor, BitImageProcessorPil

from mmjepa.data.batches import ImageGroupedSampler, VqaCollator
from mmjepa.data.images import normalize_pixels, prepare
from mmjepa.data.loading import load_rows

SPLIT_ROWS = {"train": 6, "validation": 3, "test": 2}


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path, monkeypatch):
    """What `datasets` caches goes where the test's files go."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "dataset_cache")


def noise(seed: int, height: int = 40, width: int = 50) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: PIL.Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pathvqa_split(split: str) -> Dataset:
    """A split in the schema of flaviagiammarino/path-vqa: an image's bytes stand on each of its rows."""
    rows = [
        {
            "image": {"bytes": encoded(noise(row // 2)), "path": f"{split}_{row}.png"},
            "question": f"what is in {split} {row}?",
            "answer": ("yes", "no", "a liver")[row % 3],
        }
        for row in range(SPLIT_ROWS[split])
    ]
    return Dataset.from_list(
        rows, features=Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    )


def write_parquet(folder, table):
    (folder / "data").mkdir()
    for split in SPLIT_ROWS:
        pathvqa_split(split).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def write_saved_to_disk(folder, table):
    DatasetDict({split: pathvqa_split(split) for split in SPLIT_ROWS}).save_to_disk(folder)


def write_csv(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_csv(folder / f"{split}.csv", index=False)


def write_csv_with_row_numbers_and_byte_order_mark(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_csv(folder / f"{split}.csv", encoding="utf-8-sig")


def write_jsonl(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_json(folder / f"{split}.jsonl", orient="records", lines=True)


def write_json(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_json(folder / f"{split}.json", orient="records", indent=1)


def write_parquet_of_paths(folder, table):
    (folder / "data").mkdir()
    for split in SPLIT_ROWS:
        rows = table(split)
        paths = [{"bytes": None, "path": path} for path in rows["image"]]
        rows_of(paths, question=list(rows["question"]), answer=list(rows["answer"])).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet", batch_size=10
        )


def write_csv_under_other_split_names(folder, table):
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        table(split).to_csv(folder / f"{name}.csv", index=False)


def write_saved_to_disk_under_other_split_names(folder, table):
    names = {"train": "train", "val": "validation", "test": "test"}
    DatasetDict({name: pathvqa_split(split) for name, split in names.items()}).save_to_disk(folder)


def write_csv_with_absolute_paths(folder, table):
    for split in SPLIT_ROWS:
        rows = table(split)
        rows["image"] = [str(folder / path) for path in rows["image"]]
        rows.to_csv(folder / f"{split}.csv", index=False)


WRITERS = [writer for name, writer in sorted(globals().items()) if name.startswith("write_")]


def image_table(folder):
    """A function that writes a split's images into `folder` and gives its rows with their paths."""
    (folder / "images").mkdir()

    def table(split: str) -> pd.DataFrame:
        rows = list(pathvqa_split(split).cast_column("image", Image(decode=False)))
        for row in rows:
            path = f"images/{row['image']['path']}"
            (folder / path).write_bytes(row["image"]["bytes"])
            row["image"] = path
        return pd.DataFrame(rows)

    return table


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
        assert data.unreadable == []
        pixels = normalize_pixels(data.pixels[:]["pixels"], image_processor)
        images = [noise(number) for number in range(len(data.pixels))]
        torch.testing.assert_close(pixels, image_processor(images, return_tensors="pt")["pixel_values"])


def test_a_data_set_saved_without_splits_is_the_training_split(tmp_path):
    pathvqa_split("validation").save_to_disk(tmp_path / "rows")
    splits = load_rows(str(tmp_path / "rows"))
    assert list(splits) == ["train"]
    assert list(splits["train"]["question"]) == list(pathvqa_split("validation")["question"])


def write_table(folder, rows: list[dict], name: str = "train.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


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


def truncated() -> bytes:
    whole = encoded(noise(1), "JPEG")
    return whole[: len(whole) // 2]


BAD_IMAGES = {
    "no value": None,
    "no bytes": {"bytes": b"", "path": None},
    "a path to nothing": {"bytes": None, "path": "nothing.png"},
    "a path to a folder": {"bytes": None, "path": os.sep},
    "a path too long": {"bytes": None, "path": "a" * 5000},
    "text": {"bytes": b"no image", "path": "notes.txt"},
    "a truncated image": {"bytes": truncated(), "path": None},
    "too many pixels": {"bytes": encoded(noise(2, 100, 100)), "path": "bomb.png"},
    "values that are no brightness": {
        "bytes": encoded(PIL.Image.fromarray(np.full((8, 8), -7.0, np.float32)), "TIFF"),
        "path": "field.tiff",
    },
}


def rows_of(images: list, **texts: list[str]) -> Dataset:
    rows = {"image": images, "question": ["what?"] * len(images), "answer": ["yes"] * len(images), **texts}
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    return Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_an_image_that_cannot_be_read_is_a_zero_image_and_is_named(monkeypatch, image_processor, case):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 4000)  # Pillow refuses twice as many
    good, bad = {"bytes": encoded(noise(0)), "path": "good.png"}, BAD_IMAGES[case]
    data = prepare(rows_of([good, bad, good]), image_processor)
    assert data.unreadable == [(bad or {}).get("path") or "row 1"]
    assert data.questions["image_id"][:] == [0, 1, 0]
    assert data.pixels[1]["pixels"].shape == (3, 28, 28)
    assert data.pixels[1]["pixels"].max() == 0
    assert data.pixels[0]["pixels"].max() > 0


def test_an_image_too_long_to_be_resized_is_a_zero_image_and_is_named(image_processor):
    """By the published settings, the shorter edge 256 pixels, 2.5 million pixels long and gigabytes large."""
    image_processor = BitImageProcessorPil.from_dict(image_processor.to_dict() | {"size": {"shortest_edge": 256}})
    good, line = ({"bytes": encoded(noise(0, 1, width)), "path": f"{width}.png"} for width in (40, 10_000))
    data = prepare(rows_of([good, line]), image_processor)
    assert data.unreadable == ["10000.png"]
    assert data.pixels[1]["pixels"].max() == 0 < data.pixels[0]["pixels"].max()


def test_an_image_whose_resizing_fails_is_a_zero_image_but_wrong_settings_end_the_run(monkeypatch, image_processor):
    resize = BitImageProcessorPil.resize

    def fail_where_long(self, image, *args, **kwargs):
        if max(image.shape) > 50:
            raise MemoryError
        return resize(self, image, *args, **kwargs)

    monkeypatch.setattr(BitImageProcessorPil, "resize", fail_where_long)
    rows = rows_of([{"bytes": encoded(noise(0, 40, width)), "path": f"{width}.png"} for width in (50, 60)])
    assert prepare(rows, image_processor).unreadable == ["60.png"]
    wrong = BitImageProcessorPil.from_dict(image_processor.to_dict() | {"resample": 77})
    with pytest.raises(ValueError, match="77"):
        prepare(rows, wrong)


def test_missing_images_are_counted_once_where_they_have_a_name(tmp_path, image_processor):
    noise(0).save(tmp_path / "good.png")
    paths = ["lost.png", "good.png", "", "lost.png", None]
    write_table(tmp_path, [{"image": path, "question": "what?", "answer": "yes"} for path in paths])
    data = prepare(load_rows(str(tmp_path))["train"], image_processor)
    assert data.unreadable == [str(tmp_path / "lost.png"), "row 2", "row 4"]
    assert data.questions["image_id"][:] == [0, 1, 2, 0, 3]


def rotated() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return encoded(noise(0), "JPEG", exif=exif)


IMAGES = {
    "grey": encoded(noise(0).convert("L")),
    "grey with transparency": encoded(PIL.Image.merge("LA", noise(0).split()[:2])),
    "palette": encoded(noise(0).convert("P")),
    "transparent": encoded(PIL.Image.merge("RGBA", (*noise(0).split(), noise(1).split()[0]))),
    "CMYK": encoded(noise(0).convert("CMYK"), "JPEG"),
    "16 bit": encoded(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16))),
    "rotated": rotated(),
    "smaller than the crop": encoded(noise(0, 9, 12)),
    "long": encoded(noise(0, 20, 300)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_prepared_pixels_equal_the_processors_for_every_kind_of_image(tmp_path, processor, image_processor, name):
    (tmp_path / "image").write_bytes(IMAGES[name])
    expected = processor(images=str(tmp_path / "image"), return_tensors="pt")["pixel_values"]
    data = prepare(rows_of([{"bytes": IMAGES[name], "path": None}]), image_processor)
    assert data.pixels[:]["pixels"].dtype == torch.uint8
    torch.testing.assert_close(normalize_pixels(data.pixels[:]["pixels"], image_processor), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 70.0, 80.0]},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
        {"do_center_crop": False, "size": {"height": 20, "width": 30}, "resample": 2},
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 28, "width": 14}},
    ],
    ids=str,
)
def test_prepared_pixels_equal_the_image_processors_for_all_its_settings(image_processor, settings):
    image_processor = BitImageProcessorPil.from_dict(image_processor.to_dict() | settings)
    data = prepare(rows_of([{"bytes": encoded(noise(0)), "path": None}]), image_processor)
    expected = image_processor(noise(0), return_tensors="pt")["pixel_values"].float()
    torch.testing.assert_close(normalize_pixels(data.pixels[:]["pixels"], image_processor), expected)


@pytest.mark.parametrize("settings", [{}, {"do_resize": False, "size": {"height": 28, "width": 28}}], ids=str)
def test_an_image_processor_that_leaves_several_sizes_is_refused(image_processor, settings):
    image_processor = BitImageProcessorPil.from_dict(image_processor.to_dict() | {"do_center_crop": False} | settings)
    with pytest.raises(ValueError, match="do_center_crop"):
        prepare(rows_of([{"bytes": encoded(noise(0)), "path": None}]), image_processor)


@pytest.fixture
def table_folder(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_csv(folder, image_table(folder))
    return folder


def pixel_files(folder, image_processor, **options) -> dict[str, int]:
    """The cache files of the prepared training images and when they were written."""
    pixels = prepare(load_rows(str(folder))["train"], image_processor, **options).pixels
    return {file["filename"]: os.stat(file["filename"]).st_mtime_ns for file in pixels.cache_files}


def test_images_are_prepared_once_and_again_where_the_settings_differ(tmp_path, table_folder, image_processor):
    files = pixel_files(table_folder, image_processor)
    assert len(files) == 1
    assert pixel_files(table_folder, image_processor) == files
    image_processor.save_pretrained(tmp_path / "checkpoint")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "checkpoint", backend="pil")
    assert pixel_files(table_folder, loaded) == files
    for settings in ({"crop_size": {"height": 14, "width": 14}}, {"size": {"shortest_edge": 32}}, {"resample": 0}):
        other = BitImageProcessorPil.from_dict(image_processor.to_dict() | settings)
        assert not pixel_files(table_folder, other).keys() & files.keys()


@pytest.mark.parametrize("write", [write_csv, write_parquet_of_paths])
def test_an_image_file_that_was_repaired_is_read_again(tmp_path, write, image_processor):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder, image_table(folder))
    path = folder / "images" / "train_4.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    data = prepare(load_rows(str(folder))["train"], image_processor)
    assert data.unreadable == [str(path)]
    path.write_bytes(whole)
    data = prepare(load_rows(str(folder))["train"], image_processor)
    assert data.unreadable == []
    assert data.questions["image_id"][:] == [0, 0, 1, 1, 2, 2]


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


def test_several_processes_prepare_the_same_images(table_folder, image_processor):
    rows = load_rows(str(table_folder))["train"]
    alone, together = prepare(rows, image_processor), prepare(rows, image_processor, num_proc=2)
    assert torch.equal(alone.pixels[:]["pixels"], together.pixels[:]["pixels"])
    assert alone.questions["image_id"][:] == together.questions["image_id"][:]


@pytest.fixture(scope="module")
def data(image_processor):
    """Eight questions about three images; the last two have texts of other kinds."""
    numbers = [0, 1, 1, 2, 0, 1, 2, 2]
    rows = rows_of([{"bytes": encoded(noise(number)), "path": None} for number in numbers]).remove_columns(
        ["question", "answer"]
    )
    rows = rows.add_column("question", [*("is it a liver?", "what is seen?") * 3, "", ""])
    rows = rows.add_column("answer", ["yes", "a tumour", "no", "necrosis in the liver", "no", "yes", "no", "yes"])
    return prepare(rows.add_column("caption", ["a caption"] * 7 + [""]), image_processor)


def test_a_batch_holds_each_image_once_and_the_processors_tensors_of_each_row(data, processor):
    rows = data.__getitems__([3, 0, 2, 4, 1])
    batch = VqaCollator(processor, as_bytes=True)(rows)
    names = {"pixel_values", "image_ids", "image_index", "input_ids", "attention_mask", "labels", "keep_sides"}
    assert set(batch) == names
    assert batch["image_ids"].tolist() == [row["image_id"] for row in (rows[0], rows[1], rows[2])]
    assert batch["pixel_values"].shape == (3, 3, 28, 28) and batch["pixel_values"].dtype == torch.uint8
    for row, (number, example) in enumerate(zip([2, 0, 1, 0, 1], rows, strict=True)):
        alone = processor(
            images=noise(number), text=example["question"], answers=example["answer"], return_tensors="pt"
        )
        pixels = normalize_pixels(batch["pixel_values"][batch["image_index"][[row]]], processor.image_processor)
        torch.testing.assert_close(pixels, alone["pixel_values"])
        read = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][read], alone["input_ids"][0])
        assert torch.equal(batch["labels"][row][batch["labels"][row] != -100], alone["labels"][0])
    assert batch["labels"].shape[1] == max((labels != -100).sum() for labels in batch["labels"])


def test_alignment_texts_are_there_only_where_a_row_has_no_question(data, processor):
    assert "align_input_ids" not in VqaCollator(processor)(data.__getitems__([0, 1]))
    batch = VqaCollator(processor)(data.__getitems__([0, 6, 7]))
    expected = processor(text=["is it a liver?", "a caption", "yes"], return_tensors="pt")
    assert torch.equal(batch["align_input_ids"], expected["input_ids"])
    assert torch.equal(batch["align_attention_mask"], expected["attention_mask"])


def test_a_batch_says_of_which_images_a_text_names_a_side(data, processor):
    rows = data.__getitems__([0, 1, 2, 3])  # about images 0, 1, 1, 2
    rows[2] = {**rows[2], "answer": "In the upper lobe, to the LEFT"}
    rows[3] = {**rows[3], "question": "is the brightest leftover stain bottomless?"}
    assert VqaCollator(processor, as_bytes=True)(rows)["keep_sides"].tolist() == [False, True, False]


def test_blank_data_asks_the_same_about_one_black_image(data, processor):
    seen, blank = (
        VqaCollator(processor, as_bytes=True)(rows.__getitems__([3, 0, 2])) for rows in (data, data.blank())
    )
    assert blank["pixel_values"].shape == (1, 3, 28, 28) and blank["pixel_values"].dtype == torch.uint8
    assert blank["pixel_values"].max() == 0 < seen["pixel_values"].max()
    assert blank["image_index"].tolist() == [0, 0, 0]
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(blank[name], seen[name])


def test_a_row_alone_is_the_row_among_others(data):
    together = data.__getitems__([5, 2])[0]
    assert len(data) == 8
    assert {**data[5], "pixels": None} == {**together, "pixels": None}
    assert torch.equal(data[5]["pixels"], together["pixels"])


@pytest.fixture(scope="module")
def image_ids():
    """1,000 questions about 130 images, as unevenly as PathVQA's and in no order."""
    return np.random.default_rng(0).geometric(1 / 7.7, 1000).cumsum() % 130


def batches_of(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@pytest.mark.parametrize(("batch_size", "questions_per_image"), [(16, 8), (16, 1), (4, 8), (7, 3), (2000, 8)])
def test_every_question_comes_once_an_epoch(image_ids, batch_size, questions_per_image):
    sampler = ImageGroupedSampler(image_ids, batch_size, questions_per_image, seed=0)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(sampler))) == list(range(1000))


def test_order_is_decided_by_seed_and_epoch(image_ids):
    def order(seed, epoch):
        sampler = ImageGroupedSampler(image_ids, 16, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 1) == order(3, 1)
    assert len({tuple(order(seed, epoch)) for seed in (3, 4) for epoch in (0, 1)}) == 4


def test_batches_hold_few_images_and_of_none_more_than_its_share(image_ids):
    batches = batches_of(list(ImageGroupedSampler(image_ids, 16, 8, seed=0)), 16)
    images = [Counter(image_ids[rows].tolist()) for rows in batches]
    # 130 images of about 7.7 questions fill 63 batches: two to three images in most of them.
    assert np.mean([len(counts) for counts in images]) < 3.5
    # Only a batch that got two groups of one image has more than 8 of its questions.
    assert np.mean([max(counts.values()) <= 8 for counts in images]) > 0.8


def test_groups_that_fit_a_batch_are_not_split():
    image_ids = np.repeat(np.arange(40), 5)
    batches = batches_of(list(ImageGroupedSampler(image_ids, 15, 5, seed=0)), 15)
    assert all(set(Counter(image_ids[rows].tolist()).values()) == {5} for rows in batches)


def test_other_questions_of_an_image_stand_together_in_another_epoch():
    sampler = ImageGroupedSampler(np.repeat(np.arange(5), 16), 8, 8, seed=0)
    together = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        together.append({frozenset(rows) for rows in batches_of(list(sampler), 8)})
    assert not together[0] & together[1]


def test_one_question_an_image_is_a_plain_shuffle(image_ids):
    order = list(ImageGroupedSampler(image_ids, 16, 1, seed=0))
    images = [len(set(image_ids[rows].tolist())) for rows in batches_of(order, 16)]
    rng = np.random.default_rng(1)
    shuffled = [len(set(rng.permutation(image_ids)[:16].tolist())) for _ in range(1000)]
    assert np.mean(images) == pytest.approx(np.mean(shuffled), abs=0.4)
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1


def prepared_loader(image_ids, num_processes: int, process: int):
    """The Trainer's loader of row numbers, as accelerate prepares it for one of several processes."""
    sampler = ImageGroupedSampler(image_ids, 8, 8, seed=0)
    loader = torch.utils.data.DataLoader(list(range(len(image_ids))), batch_size=8, sampler=sampler)
    return prepare_data_loader(
        loader, num_processes=num_processes, process_index=process, put_on_device=False, rng_types=None
    )


def epoch_rows(loader, epoch: int) -> list[list[int]]:
    loader.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def test_accelerates_loader_gets_another_order_each_epoch_and_skips_exactly(image_ids):
    loader = prepared_loader(image_ids, 1, 0)
    first, second = epoch_rows(loader, 0), epoch_rows(loader, 1)
    assert first != second and len(second) == 125
    resumed = skip_first_batches(prepared_loader(image_ids, 1, 0), 50)
    assert epoch_rows(resumed, 1) == second[50:]


def test_two_processes_share_the_batches_of_one(image_ids):
    one = epoch_rows(prepared_loader(image_ids[:992], 1, 0), 1)
    shares = [epoch_rows(prepared_loader(image_ids[:992], 2, process), 1) for process in range(2)]
    assert [batch for step in zip(*shares, strict=True) for batch in step] == one
