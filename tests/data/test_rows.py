"""Which rows are kept, and which are held out."""

import pytest
from data_sets import noise, rows_of, write_table
from datasets import Dataset

from mmjepa.data.rows import drop_unanswered, hold_out, load_rows


def test_rows_without_an_answer_are_left_out_and_named_but_not_those_of_a_caption_alone(tmp_path, caplog):
    texts = [("is it?", "yes", ""), ("is it?", "", "cells"), ("", "", "cells"), ("", " ", ""), ("", "liver", "")]
    folder = write_table(
        tmp_path,
        [{"image": "a.png", "question": q, "answer": answer, "caption": caption} for q, answer, caption in texts],
    )
    rows = load_rows(folder)["train"]
    kept = drop_unanswered(rows, "train")
    assert list(zip(kept["question"], kept["answer"], kept["caption"], strict=True)) == [texts[n] for n in (0, 2, 4)]
    assert "train: 2 of 5 rows have no answer and are left out; the first, counted from 0: 1, 3" in caplog.text
    with pytest.raises(ValueError, match="none of the 2 rows has an answer: check --answer_column"):
        drop_unanswered(rows.select([1, 3]), "train")


def numbered_rows(numbers, **columns) -> Dataset:
    """A row about an image of its own for each number."""
    images = [{"bytes": f"image {number}".encode(), "path": None} for number in numbers]
    rows = rows_of(images, question=[str(number) for number in numbers])
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


def test_another_image_does_not_move_those_that_are_held_out():
    """Nor does their order, nor that one is taken away."""
    before = hold_out(numbered_rows(range(1000)), 10, seed=0)[1]["question"][:]
    assert 70 <= len(before) <= 130
    after = hold_out(numbered_rows(range(1009, 4, -1)), 10, seed=0)[1]["question"][:]
    assert {number for number in after if int(number) < 1000} == {number for number in before if int(number) >= 5}
    assert set(before) < set(hold_out(numbered_rows(range(1000)), 20, seed=0)[1]["question"])


def test_whole_groups_are_held_out_and_groups_that_share_an_image_are_one():
    numbers = [*range(200), 7]  # the last row is about the image of row 7
    patients = [None if row == 199 else f"patient {row // 5}" for row in range(200)] + ["patient 30"]
    rows = numbered_rows(numbers, patient=patients)
    train, validation = hold_out(rows, 20, seed=0, group_column="patient")
    assert len(train) + len(validation) == 201 and 15 <= len(validation) <= 65
    assert not set(train["patient"]) & set(validation["patient"]) - {None}
    assert not set(train["question"]) & set(validation["question"])
    # Another image of a patient stays with the patient, whichever part that is.
    more = numbered_rows([*numbers, 777, 888], patient=[*patients, "patient 3", "patient 4"])
    assert (
        hold_out(more, 20, seed=0, group_column="patient")[1].filter(lambda row: int(row["question"]) < 700)[
            "question"
        ][:]
        == validation["question"][:]
    )
    with pytest.raises(ValueError, match="no column 'slide' for --group_column: there are image, question, answer"):
        hold_out(rows, 20, seed=0, group_column="slide")
    with pytest.raises(ValueError, match="of 1 training groups by 'patient' none can be held out"):
        hold_out(rows.select(range(5)), 20, seed=0, group_column="patient")


@pytest.fixture
def five_images(tmp_path):
    """20 rows about 5 images, which are known by their bytes: two of them have two paths each."""
    paths = ["0.png", "1.png", "2.png", "3.png", "4.png", "copy_0.png", "copy_1.png"]
    for path in paths:
        noise(int(path[-5])).save(tmp_path / path)
    rows = [{"image": paths[row % 7], "question": f"{row}?", "answer": "yes"} for row in range(20)]
    return load_rows(write_table(tmp_path, rows))["train"]


@pytest.mark.parametrize(("percentage", "images"), [(0.001, {1}), (40, {1, 2, 3, 4}), (99.999, {4})])
def test_whole_images_are_held_out_by_the_seed(five_images, percentage, images):
    def image_of(rows):
        return {question: path[-5] for question, path in zip(rows["question"], paths(rows), strict=True)}

    train, validation = (image_of(rows) for rows in hold_out(five_images, percentage, seed=0))
    assert train | validation == image_of(five_images)
    assert len(set(validation.values())) in images
    assert not set(train.values()) & set(validation.values())
    again, *others = (image_of(hold_out(five_images, percentage, seed)[1]) for seed in (0, 1, 2, 3, 4, 5))
    assert again == validation
    assert any(other != validation for other in others)


def paths(rows) -> list[str]:
    return [image["path"] for image in rows["image"]]


def test_all_rows_are_held_out_only_by_100_percent_and_none_of_a_single_image(five_images):
    train, validation = hold_out(five_images, 100, seed=0)
    assert len(train) == 0 and validation["question"][:] == five_images["question"][:]
    with pytest.raises(ValueError, match="of 1 training images none can be held out.*--do_eval false"):
        hold_out(five_images.select([0, 5, 7]), 50, seed=0)
