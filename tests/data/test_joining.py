"""Several data sets read as one."""

import pytest
from data_sets import encoded, noise, rows_of
from datasets import DatasetDict

from mmjepa.data.joining import join_sets, short_names
from mmjepa.data.rows import first_rows


def some_rows(numbers, **columns):
    images = [{"bytes": encoded(noise(number)), "path": None} for number in numbers]
    texts = {name: columns.pop(name) for name in ("answer",) if name in columns}
    rows = rows_of(images, question=[f"what is {number}?" for number in numbers], **texts)
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/slides", "b/cells.csv"], ["slides", "cells"]),
        (["a/vqa", "b/vqa", "c/vqa"], ["vqa_1", "vqa_2", "vqa_3"]),
        (["somebody/path-vqa", "runs/drawn_slides/"], ["path-vqa", "drawn_slides"]),
        (["set v1.0", "set v1.1"], ["set v1.0", "set v1.1"]),
    ],
)
def test_sets_have_short_names_that_differ(names, expected):
    assert short_names(names) == expected


def test_every_row_keeps_its_texts_and_its_right_answers_and_knows_its_set():
    lists = some_rows([1, 2], answer=["yes", "liver"], answers=[["yes"], ["liver", "the liver"]], patient=["p", "q"])
    captions = some_rows([3], answer=["no"], caption=["a cell"], patient=[7])
    rows = join_sets({"one": DatasetDict(train=lists), "two": DatasetDict(train=captions, test=captions)})
    train = rows["train"]
    assert train["dataset"][:] == ["one", "one", "two"] and rows["test"]["dataset"][:] == ["two"]
    assert train["answers"][:] == [["yes"], ["liver", "the liver"], ["no"]]
    assert train["caption"][:] == ["", "", "a cell"]
    assert train["question"][:] == ["what is 1?", "what is 2?", "what is 3?"]
    assert "patient" not in train.column_names  # texts in one set, numbers in the other


def test_a_limit_takes_the_first_rows_of_each_set_in_turn():
    sets = {
        name: DatasetDict(train=some_rows(numbers)) for name, numbers in (("a", range(5)), ("b", [9]), ("c", [7, 8]))
    }
    rows = first_rows(join_sets(sets), {"train": 5})["train"]
    assert rows["question"][:] == [f"what is {number}?" for number in (0, 1, 9, 7, 8)]
