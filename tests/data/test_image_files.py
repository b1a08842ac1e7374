"""The images of a folder or a data set, as somebody searches them."""

import json

import pytest
from data_sets import encoded, noise
from datasets import Dataset, DatasetDict, Features, Image, Value

from mmjepa.data.errors import DataError
from mmjepa.data.image_files import find_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder `new` in the working directory, of three images and two files that are none."""
    (tmp_path / "new" / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.PNG", "a.jpg", "sub/c.tif")):
        noise(number).save(tmp_path / "new" / name)
    for name in ("notes.txt", ".hidden.png"):
        (tmp_path / "new" / name).write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "new"


def test_images_of_a_folder_are_found_in_its_folders_too(folder):
    assert find_images("new").names == ["new/a.jpg", "new/b.PNG", "new/sub/c.tif"]
    assert find_images(str(folder)).names == ["new/a.jpg", "new/b.PNG", "new/sub/c.tif"]
    assert find_images("new/a.jpg").names == ["new/a.jpg"]


def test_a_key_changes_where_a_file_does(folder):
    before = find_images("new").keys
    assert find_images("new").keys == before and len(set(before)) == 3
    noise(5).save(folder / "b.PNG")
    after = find_images("new").keys
    assert after[0] == before[0] and after[1] != before[1]


def test_a_folder_with_a_table_is_a_data_set_whose_images_count_once_whatever_texts_it_has(folder):
    rows = [("a.jpg", "train"), ("a.jpg", "train"), ("sub/c.tif", "test")]
    for split in ("train", "test"):
        lines = "".join(f"{name}\n" for name, of in rows if of == split)
        (folder / f"{split}.csv").write_text(f"picture\n{lines}")
    found = find_images("new", columns={"image": "picture"})
    assert found.names == ["new/a.jpg", "new/sub/c.tif"]
    assert [image["path"] for image in found.images] == [str(folder / "a.jpg"), str(folder / "sub" / "c.tif")]
    assert find_images("new", "test", columns={"image": "picture"}).names == ["new/sub/c.tif"]


def test_images_inside_a_saved_data_set_are_named_by_their_rows_and_equal_ones_are_one(tmp_path):
    images = [{"bytes": encoded(noise(number)), "path": None} for number in (0, 0, 1)]
    features = Features({"image": Image(), "question": Value("string")})
    rows = Dataset.from_dict({"image": images, "question": ["a", "b", "c"]}, features=features)
    DatasetDict({"train": rows, "validation": rows.select([0])}).save_to_disk(tmp_path / "saved")
    found = find_images(str(tmp_path / "saved"))
    assert found.names == ["train, row 0", "train, row 2"]
    assert [image["bytes"] for image in found.images] == [images[0]["bytes"], images[2]["bytes"]]


def test_a_conversation_gives_its_image(folder):
    (folder / "train.jsonl").write_text(json.dumps({"image": ["a.jpg"], "conversations": []}) + "\n")
    assert find_images("new").names == ["new/a.jpg"]


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("empty", None, "empty holds no image"),
        ("nothing", None, "there is no folder nothing"),
        ("new/nothing", None, "there is no folder new/nothing"),
        ("new", "test", "is a folder of images and has no split 'test'"),
        ("table.csv", "test", "table.csv has no split 'test': there are train"),
        ("outside.csv", None, "lies outside of the data set's folder"),
        ("texts.csv", None, "has no column 'image'"),
    ],
)
def test_what_is_wrong_is_one_line(folder, source, split, message):
    (folder.parent / "empty").mkdir()
    (folder.parent / "table.csv").write_text("image\nnew/a.jpg\n")
    (folder.parent / "outside.csv").write_text(f"image\n{__file__}\n")
    (folder.parent / "texts.csv").write_text("question\nwhat?\n")
    with pytest.raises(DataError, match=message) as error:
        find_images(source, split)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_text_is_shown_as_one(folder):
    name = b"\xff.png"
    with open(bytes(folder) + b"/" + name, "wb") as file:
        noise(1).save(file, "PNG")
    names = find_images("new").names
    assert "new/\ufffd.png" in names and json.dumps(names).encode()
