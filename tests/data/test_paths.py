"""Where images are: in which folders, and in which forms."""

import base64
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from data_sets import encoded, noise, write_table
from datasets import Dataset, Features, Image, Sequence, Value

from mmjepa.data.errors import DataError
from mmjepa.data.images import check_readable, prepare
from mmjepa.data.pixels import normalize_pixels
from mmjepa.data.rows import load_rows

PNG = encoded(noise(0))


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


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Präparat 1.jpg", "Präparat 1.jpg "),
        (unicodedata.normalize("NFD", "Präparat 1.jpg"), "Präparat 1.jpg"),
        ("Präparat 1.jpg", unicodedata.normalize("NFD", "Präparat 1.jpg")),
        ("Bilder neu/Präparat 1.jpg", "Bilder neu\\Präparat 1.jpg"),
        ("Präparat 1.JPG", "Präparat 1.jpg"),
        ("Präparat 1.jpg", "Präparat 1.JPG"),
        ("Bilder/Präparat 1.jpg", "Präparat 1.jpg"),
        ("Studie/Bilder neu/Präparat 1.jpg", "Präparat 1.jpg"),
        (unicodedata.normalize("NFD", "Studie/Bilder/ä 1.JPG"), "Bilder\\ä 1.jpg"),
    ],
)
def test_an_image_is_found_as_other_systems_write_its_name(tmp_path, file, name):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(PNG)
    write_table(tmp_path, [{"image": name, "question": "?", "answer": "yes"}])
    row = load_rows(str(tmp_path))["train"][0]
    assert Path(row["image"]["path"]).read_bytes() == PNG
    assert row["image_file"] == name


def test_of_two_images_the_one_of_the_very_name_is_read(tmp_path):
    for number, name in enumerate(("a.jpg", "a.JPG", "in\\a.jpg", "in/a.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise(number).save(tmp_path / name)
        write_table(tmp_path, [{"image": name, "question": "?", "answer": "yes"}])
        assert load_rows(str(tmp_path))["train"][0]["image"]["path"] == str(tmp_path / name)


@pytest.mark.parametrize("kind", ["absolute", "parent", "backslash", "link", "linked folder"])
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
        "backslash": "..\\private\\image.png",
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


@pytest.mark.parametrize("broken", [BASE64[:3000] + "!" + BASE64, "A" * 2_000_000])
def test_no_message_and_no_column_shows_a_broken_image_in_base64(tmp_path, image_processor, broken):
    rows = load_rows(write_table(tmp_path, [{"image": broken, "question": "what?", "answer": "yes"}]))["train"]
    data = prepare(rows, image_processor)
    with pytest.raises(DataError, match="1 of 1 images") as error:
        check_readable("train", list(data.unreadable.values()), 1, 0.1)
    assert len(str(error.value)) < 1000
    assert rows["image_file"][0] is None
