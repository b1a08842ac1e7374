"""Closed lists of answers: what they hold, what choosing from them can reach, and what a reply is taken for."""

import json

import pandas as pd
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.evaluation.answer_lists import (
    LISTS,
    answer_list,
    candidate_answers,
    list_splits,
    open_answers_of,
    reached,
)


def questions_of(*answers: str) -> Dataset:
    return Dataset.from_dict({"question": [f"what is it, {n}?" for n in range(len(answers))], "answer": answers})


def test_lists_are_of_train_and_validation_unless_validation_is_scored():
    train, validation = questions_of("liver", "yes", "liver "), questions_of("heart", "", "yes")
    splits = {"train": train, "validation": validation}
    of_lists, note = list_splits(pd.DataFrame({"question": ["where?"], "answer": ["lung"]}), train, splits)
    assert answer_list(of_lists.values()) == ["liver", "yes", "heart"] and note == ""
    of_lists, note = list_splits(validation.to_pandas().iloc[[0]], train, splits)
    assert answer_list(of_lists.values()) == ["liver", "yes"] and "the scored rows are of validation" in note
    assert list_splits(train.to_pandas(), train, {"train": train}) == ({"train": train}, "")
    assert open_answers_of(train) == ["liver"]


@pytest.mark.parametrize(
    ("name", "ceiling"),
    [
        ("m2i2", [1, 0, 0, 1]),  # "x-ray" is two words
        ("mumc", [1, 1, 1, 1]),  # a part is enough
        ("biomedgpt", [0, 0, 0, 1]),  # as it is written, but for capitals
        ("mevf", [1, 0, 1, 1]),
    ],
)
def test_a_list_reaches_the_answers_that_its_rule_finds_in_it(name, ceiling):
    truths = [["the liver"], ["left lobe"], ["x-ray"], ["cortex", "Lung"]]
    assert reached(["liver", "lobe", "xray", "lung"], LISTS[name].rule, truths) == ceiling


@pytest.mark.parametrize(
    ("reply", "taken_for"),
    [
        ("left lobe", "left lobe of liver"),  # two of its four words
        ("the left lobe of the liver", "liver"),  # two answers have all their words in it: the first
        ("Two cells", "2 cells"),
        ("a cell", "liver"),  # no answer has a word of it: the first
        ("", "liver"),
    ],
)
def test_a_reply_is_taken_for_the_first_answer_with_most_of_its_words(reply, taken_for):
    open_answers = ["the liver", "left lobe of the liver", "two cells", "the", "kidney"]
    assert candidate_answers([reply], open_answers) == [taken_for]


def test_the_command_tells_what_lists_can_reach_apart_from_what_questions_give(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, answers in {"train": ["liver", "yes"], "validation": ["heart", "no"]}.items():
        rows = [f"{split}{n}.png,what {n}?,{answer}" for n, answer in enumerate(answers)]
        (folder / f"{split}.csv").write_text("\n".join(["image,question,answer", *rows]))
    scored = pd.DataFrame({"question": ["where?", "which?"], "answer": ["heart", "lung"]})
    scored.assign(prediction="in the liver").to_csv(tmp_path / "scored.csv", index=False)
    asked = ["score", str(tmp_path / "scored.csv"), "--dataset-name", str(folder)]
    report = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert (report["lists"]["m2i2"]["answers"], report["lists"]["mevf"]["answers"]) == (4, 2)
    assert report["lists"]["m2i2"]["ceiling"]["open"][0] == 0.5 and report["lists"]["mevf"]["ceiling"]["open"][0] == 0
    assert set(report["rules"]["llava_med_candidate"]) == {"open"} and "closed_list" not in report["floors"]
    text = CliRunner().invoke(app, asked).stdout
    floors, lists = text.split("Without images")[1].split("published lists of answers")
    assert "M2I2" in lists and "M2I2" not in floors

    validation = pd.read_csv(folder / "validation.csv").drop(columns="image").assign(prediction="liver")
    validation.to_csv(tmp_path / "scored.csv", index=False)
    report = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert report["lists"]["m2i2"]["answers"] == 2 and any("of validation" in note for note in report["notes"])
