"""Images of every kind and with every fault, prepared once."""

import os
import time

import numpy as np
import PIL.Image
import pytest
import torch
from data_sets import encoded, image_table, noise, rows_of, write_csv, write_parquet_of_paths, write_table
from transformers import AutoImageProcessor, BitImageProcessorPil

from mmjepa.data import images
from mmjepa.data.images import MADE_BY, image_bytes, prepare
from mmjepa.data.pixels import normalize_pixels
from mmjepa.data.rows import load_rows
from mmjepa.data.threads import InThreads


def truncated() -> bytes:
    whole = encoded(noise(1), "JPEG")
    return whole[: len(whole) // 2]


BAD_IMAGES = {
    "the row has none": None,
    "row 1 (the row has none": {"bytes": b"", "path": None},
    "nothing.png (there is no such file": {"bytes": None, "path": "nothing.png"},
    "/ (Is a directory": {"bytes": None, "path": os.sep},
    "aaa... (File name too long": {"bytes": None, "path": "a" * 5000},
    "an address of the web, and is not fetched": {"bytes": None, "path": "http://127.0.0.1/a.png"},
    "/dev/null (the file is empty": {"bytes": None, "path": "/dev/null"},
    "notes.txt (it is no image": {"bytes": b"no image", "path": "notes.txt"},
    "slide.png (it is a pointer of Git LFS": {"bytes": b"version https://git-lfs.github.com", "path": "slide.png"},
    "program.eps (it is a PostScript program": {"bytes": encoded(noise(1), "EPS"), "path": "program.eps"},
    "row 1 (image file is truncated": {"bytes": truncated(), "path": None},
    "bomb.png (it has more than 8000 pixels": {"bytes": encoded(noise(2, 100, 100)), "path": "bomb.png"},
    "field.tiff (an image has values from -7.0": {
        "bytes": encoded(PIL.Image.fromarray(np.full((8, 8), -7.0, np.float32)), "TIFF"),
        "path": "field.tiff",
    },
}


@pytest.mark.parametrize("words", BAD_IMAGES)
def test_an_image_that_cannot_be_read_is_a_zero_image_and_is_named_with_the_reason(
    monkeypatch, image_processor, words
):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 4000)  # Pillow refuses twice as many
    good, bad = {"bytes": encoded(noise(0)), "path": "good.png"}, BAD_IMAGES[words]
    data = prepare(rows_of([good, bad, good]), image_processor)
    assert list(data.unreadable) == [1] and words in data.unreadable[1] and len(data.unreadable[1]) < 500
    assert data.questions["image_id"][:] == [0, 1, 0]
    assert data.pixels[1]["pixels"].shape == (3, 28, 28)
    assert data.pixels[1]["pixels"].max() == 0
    assert data.pixels[0]["pixels"].max() > 0


def test_an_image_too_long_to_be_resized_is_a_zero_image_and_is_named(image_processor):
    """The published settings resize the shorter edge to 256 pixels: the image would take gigabytes."""
    image_processor = BitImageProcessorPil.from_dict(image_processor.to_dict() | {"size": {"shortest_edge": 256}})
    good, line = ({"bytes": encoded(noise(0, 1, width)), "path": f"{width}.png"} for width in (40, 10_000))
    data = prepare(rows_of([good, line]), image_processor)
    assert data.unreadable[1].startswith("10000.png (an image of (10000, 1) has")
    assert data.pixels[1]["pixels"].max() == 0 < data.pixels[0]["pixels"].max()


def test_an_image_whose_resizing_fails_is_a_zero_image_but_wrong_settings_end_the_run(monkeypatch, image_processor):
    resize = BitImageProcessorPil.resize

    def fail_where_long(self, image, *args, **kwargs):
        if max(image.shape) > 50:
            raise MemoryError
        return resize(self, image, *args, **kwargs)

    monkeypatch.setattr(BitImageProcessorPil, "resize", fail_where_long)
    rows = rows_of([{"bytes": encoded(noise(0, 40, width)), "path": f"{width}.png"} for width in (50, 60)])
    assert prepare(rows, image_processor).unreadable == {1: "60.png (MemoryError)"}
    wrong = BitImageProcessorPil.from_dict(image_processor.to_dict() | {"resample": 77})
    with pytest.raises(ValueError, match="77"):
        prepare(rows, wrong)


def test_missing_images_are_counted_once_where_they_have_a_name(tmp_path, image_processor):
    noise(0).save(tmp_path / "good.png")
    paths = ["lost.png", "good.png", "", "lost.png", None]
    write_table(tmp_path, [{"image": path, "question": "what?", "answer": "yes"} for path in paths])
    data = prepare(load_rows(str(tmp_path))["train"], image_processor)
    lost, none = f"{tmp_path / 'lost.png'} (there is no such file)", "(the row has none)"
    assert data.unreadable == {0: lost, 2: f"row 2 {none}", 3: f"row 4 {none}"}
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
    "one pixel": encoded(noise(0, 1, 1)),
    "animated": encoded(noise(0), "GIF", save_all=True, append_images=[noise(1)]),
    "TIFF": encoded(noise(0), "TIFF"),
    "WebP": encoded(noise(0), "WEBP"),
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
    """The cache files of the prepared training images and when they were written. Then they are dated 1970."""
    pixels = prepare(load_rows(str(folder))["train"], image_processor, **options).pixels
    written = {file["filename"]: os.stat(file["filename"]).st_mtime_ns for file in pixels.cache_files}
    for file in written:
        os.utime(file, ns=(0, 0))
    return written


def test_images_are_prepared_once_and_again_where_the_settings_differ(tmp_path, table_folder, image_processor):
    files = pixel_files(table_folder, image_processor)
    assert len(files) == 1 and 0 not in files.values()
    not_again = dict.fromkeys(files, 0)
    assert pixel_files(table_folder, image_processor) == not_again
    image_processor.save_pretrained(tmp_path / "checkpoint")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "checkpoint", backend="pil")
    assert pixel_files(table_folder, loaded) == not_again
    for settings in ({"crop_size": {"height": 14, "width": 14}}, {"size": {"shortest_edge": 32}}, {"resample": 0}):
        other = BitImageProcessorPil.from_dict(image_processor.to_dict() | settings)
        assert not pixel_files(table_folder, other).keys() & files.keys()


@pytest.mark.parametrize("name", ["preparation", "pillow", "transformers"])
def test_images_are_prepared_again_by_other_code(table_folder, image_processor, monkeypatch, name):
    files = pixel_files(table_folder, image_processor)
    monkeypatch.setitem(MADE_BY, name, "another version")
    assert not pixel_files(table_folder, image_processor).keys() & files.keys()


@pytest.mark.parametrize("write", [write_csv, write_parquet_of_paths])
def test_an_image_file_that_was_repaired_is_read_again(tmp_path, write, image_processor):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder, image_table(folder))
    path = folder / "images" / "train_4.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    data = prepare(load_rows(str(folder))["train"], image_processor)
    assert list(data.unreadable) == [2] and data.unreadable[2].startswith(str(path))
    path.write_bytes(whole)
    data = prepare(load_rows(str(folder))["train"], image_processor)
    assert data.unreadable == {}
    assert data.questions["image_id"][:] == [0, 0, 1, 1, 2, 2]


def test_threads_give_each_row_its_own_result():
    def slower_first(row, number):
        time.sleep(0.01 * (5 - number))
        return {"twice": 2 * row["value"], "number": number}

    batch = {"value": [3, 1, 4, 1, 5]}
    expected = {"twice": [6, 2, 8, 2, 10], "number": [0, 1, 2, 3, 4]}
    assert InThreads(slower_first, 3)(batch, range(5)) == InThreads(slower_first)(batch, range(5)) == expected


def test_images_are_not_prepared_anew_for_another_number_of_threads(table_folder, image_processor):
    rows = load_rows(str(table_folder))["train"]
    files = [prepare(rows, image_processor, number).pixels.cache_files for number in (None, 1, 3)]
    assert files[0] and files[0] == files[1] == files[2]


def test_preparing_starts_no_process(table_folder, image_processor, monkeypatch):
    # A forked child of a process that uses a GPU can wait forever.
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process was started"))
    assert len(prepare(load_rows(str(table_folder))["train"], image_processor, num_threads=2).pixels) == 3


def test_a_file_that_many_rows_name_is_hashed_once_and_decoded_once(tmp_path, image_processor, monkeypatch):
    for name in ("a.png", "b.png"):
        noise(ord(name[0])).save(tmp_path / name)
    write_table(tmp_path, [{"image": f"{name}.png", "question": "what?", "answer": "yes"} for name in "abaabb"])
    read = []

    def counted(image):
        read.append(image["path"])
        return image_bytes(image)

    monkeypatch.setattr(images, "image_bytes", counted)
    assert prepare(load_rows(str(tmp_path))["train"], image_processor).questions["image_id"][:] == [0, 1, 0, 0, 1, 1]
    assert sorted(read) == [str(tmp_path / name) for name in ("a.png", "a.png", "b.png", "b.png")]


def test_images_given_as_bytes_differ_by_them_even_under_one_name(tmp_path, image_processor):
    noise(0).save(tmp_path / "x.png")
    file = {"bytes": None, "path": str(tmp_path / "x.png")}
    first, second, same = ({"bytes": encoded(noise(seed)), "path": "x.png"} for seed in (1, 2, 0))
    data = prepare(rows_of([first, second, file, first, file, same]), image_processor)
    assert data.questions["image_id"][:] == [0, 1, 2, 0, 2, 2]
