"""What a user has of new images, without answers, as rows."""

import json

import pytest
from data_sets import encoded, noise
from datasets import Dataset, Features, Image, Value

from mmjepa.data.new_images import load_new_rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder `new` in the working directory, of three images, two files that are none, and one that is hidden."""
    (tmp_path / "new" / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.PNG", "a.jpg", "sub/c.tif")):
        noise(number).save(tmp_path / "new" / name)
    for name in ("notes.txt", "slides.pdf", ".hidden.png"):
        (tmp_path / "new" / name).write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "new"


def asked(rows):
    return list(zip(rows["image_file"], rows["question"], rows["answer"], strict=True))


def test_each_image_of_a_folder_is_asked_each_question(folder):
    rows = load_new_rows(["new"], ["what is it?", "where?"])
    expected = [(name, question) for name in ("a.jpg", "b.PNG", "sub/c.tif") for question in ("what is it?", "where?")]
    assert asked(rows) == [(f"new/{name}", question, "") for name, question in expected]
    assert [row["image"]["path"] for row in rows][::2] == [str(folder / name) for name, _ in expected[::2]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_gives_questions_of_its_own_and_the_flag_the_others(folder, suffix):
    table = Dataset.from_dict({"Image": ["new/a.jpg", "new/b.PNG"], "prompt": ["is it?", ""]})
    getattr(table, {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[suffix])(f"table.{suffix}")
    rows = load_new_rows([f"table.{suffix}"], ["what?"], {"question": "prompt", "answer": "label"})
    assert asked(rows) == [("new/a.jpg", "is it?", ""), ("new/b.PNG", "what?", "")]
    assert [row["image"]["path"] for row in rows] == [str(folder / "a.jpg"), str(folder / "b.PNG")]


def test_answers_of_a_table_come_along_and_sources_are_joined_in_order(folder):
    (folder / "table.csv").write_text("image,answer\na.jpg,yes\nb.PNG,\n")
    rows = load_new_rows(["new/sub/c.tif", "new/table.csv"], ["is it?"])
    assert asked(rows) == [
        ("new/sub/c.tif", "is it?", ""),
        ("a.jpg", "is it?", "yes"),
        ("b.PNG", "is it?", ""),
    ]


def test_images_inside_a_parquet_file_need_no_path(tmp_path):
    features = Features({"image": Image(), "question": Value("string")})
    images = [{"bytes": encoded(noise(0)), "path": None}, {"bytes": encoded(noise(1)), "path": "one.png"}]
    table = Dataset.from_dict({"image": images, "question": ["what?", "where?"]}, features=features)
    table.to_parquet(tmp_path / "new.parquet")
    rows = load_new_rows([str(tmp_path / "new.parquet")])
    assert asked(rows) == [(None, "what?", ""), ("one.png", "where?", "")]
    assert rows[0]["image"]["bytes"] == encoded(noise(0))


def test_an_image_without_a_question_is_refused_by_its_name(folder):
    with pytest.raises(ValueError, match=r"new/a\.jpg comes without a question: .*--predict_question"):
        load_new_rows(["new"])


@pytest.mark.parametrize("source", ["nowhere", "nowhere.csv", "empty"])
def test_a_source_without_images_is_refused(folder, source):
    (folder.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{source} is missing or holds no image"):
        load_new_rows([source], ["what?"])


def test_a_table_without_images_is_refused(folder):
    (folder / "table.csv").write_text("file,question\na.jpg,what?\n")
    with pytest.raises(ValueError, match=r"table.csv has no column 'image': .*--image_column"):
        load_new_rows(["new/table.csv"])


def test_lists_of_right_answers_are_kept_beside_tables_and_images_without_them(folder):
    row = {"image": "a.jpg", "question": "what?", "answers": ["lung", "liver", "liver"]}
    (folder / "lists.jsonl").write_text(json.dumps(row))
    rows = load_new_rows(["new/lists.jsonl", "new/a.jpg"], ["is it?"])
    assert rows["answer"][:] == ["liver", ""] and rows["answers"][:] == [["liver", "lung"], [""]]
