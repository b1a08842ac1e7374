"""Rows that repeat others: how many there are, what they cost, and scores without them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.evaluation.repeats import are_contradicted, are_copies, asked_of, best_answers, repeat_numbers
from mmjepa.evaluation.scoring import read_predictions, score_report

PATHVQA = Path(__file__).parents[3] / "shared" / "data" / "pathvqa"
# Image, question, answer, prediction. The second is a copy of the first, the third contradicts both.
ROWS = [
    ("a", "What is it?", "liver", "liver"),
    ("a", "what  is it?", "The liver.", "liver"),
    ("a", "what is it?", "lung", "liver"),
    ("a", "is it?", "yes", "no"),
    ("b", "what is it?", "lung", "lung"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame(ROWS, columns=["image", "question", "answer", "prediction"]).to_csv(path, index=False)
    return path


def test_copies_and_contradictions_are_told_by_image_question_and_answer():
    images, questions, answers, _ = zip(*ROWS, strict=True)
    asked, answers = asked_of(images, questions), [[answer] for answer in answers]
    assert are_copies(asked, answers).tolist() == [False, True, False, False, False]
    assert are_contradicted(asked, answers).tolist() == [True, True, True, False, False]
    assert best_answers(asked, answers) == ["liver", "liver", "liver", "yes", "lung"]
    numbers = repeat_numbers(asked, answers)
    assert (numbers["copies"], numbers["open_copies"]) == (1, 1)
    assert (numbers["contradicted"], numbers["open_contradicted"]) == (3, 3)
    assert numbers["best_accuracy"] == 4 / 5 and numbers["best_accuracy_without_copies"] == 3 / 4
    assert numbers["open_best_accuracy"] == 3 / 4 and numbers["open_best_accuracy_without_copies"] == 2 / 3


def test_an_answer_of_several_lists_is_the_best_one():
    answers = [["liver", "hepar"], ["hepar"], ["liver"], ["hepar", "lung"]]
    assert best_answers([("a", "what?")] * 4, answers) == ["hepar"] * 4


def test_each_row_is_scored_once_without_copies(file):
    scores = score_report(read_predictions(file))["rules"]["accuracy"]
    assert (scores["all"][0], scores["open"][0]) == (3 / 5, 3 / 4)
    report = score_report(read_predictions(file), without_copies=True)
    assert report["questions"] == 4
    assert report["rules"]["accuracy"]["all"][0] == 2 / 4 and report["rules"]["accuracy"]["open"][0] == 2 / 3
    assert report["ceilings"]["one_answer"]["open"][0] == 2 / 3
    assert "1 of 5 rows are copies of another and are left out." in report["notes"]


def test_any_answer_that_a_row_of_the_same_image_and_question_lists_is_right(file):
    report = score_report(read_predictions(file), any_listed_answer=True)
    assert report["questions"] == 5 and report["rules"]["accuracy"]["open"][0] == 1
    assert "ceilings" not in report  # no row contradicts another any more
    both = score_report(read_predictions(file), without_copies=True, any_listed_answer=True)
    assert both["questions"] == 4 and both["rules"]["accuracy"]["all"][0] == 3 / 4


def test_two_files_are_compared_by_the_rows_and_answers_that_are_scored(file):
    first = read_predictions(file)
    second = first.assign(prediction=["liver", "liver", "?", "no", "?"])[::-1].reset_index(drop=True)
    for flags, difference in (({}, 3 / 5 - 2 / 5), ({"without_copies": True}, 2 / 4 - 1 / 4)):
        report = score_report(first, others=second, **flags)
        assert report["differences"]["accuracy"]["all"][0] == pytest.approx(difference)


@pytest.mark.parametrize("flag", ["--without-copies", "--any-listed-answer"])
def test_without_images_nobody_can_tell_copies(file, flag):
    pd.read_csv(file).drop(columns="image").to_csv(file, index=False)
    result = CliRunner().invoke(app, ["score", str(file), flag])
    assert result.exit_code == 1 and "give the column image" in result.output


def test_check_counts_repeats_and_writes_what_the_questions_alone_give(tmp_path):
    (tmp_path / "data").mkdir()
    for image, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "data" / f"{image}.png")
    rows = [(f"{image}.png", question, answer) for image, question, answer, _ in ROWS]
    for split in ("train", "validation"):
        table = pd.DataFrame(rows, columns=["image", "question", "answer"])
        table.to_csv(tmp_path / "data" / f"{split}.csv", index=False)
    written = tmp_path / "majority.jsonl"
    asked = ["check", str(tmp_path / "data"), "--majority-answers", str(written)]
    text = CliRunner().invoke(app, asked).stdout
    assert "copies of another row: 1 (open: 1)" in text
    assert "at most 80.0 (open: 75.0) %, without copies in 75.0 (open: 66.7) %" in text
    assert "3 rows have the image and question of a row with another answer" in text
    predictions = [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["prediction"] for row in predictions] == ["liver", "liver", "liver", "yes", "liver"]
    report = json.loads(CliRunner().invoke(app, ["score", str(written), "--json"]).stdout)
    assert report["images"] == 2 and report["rules"]["accuracy"]["all"][0] == 3 / 5


@pytest.mark.skipif(not PATHVQA.is_dir(), reason="PathVQA is not on this machine")
def test_the_repeats_of_pathvqa_are_those_that_its_page_says():
    rows = pd.read_csv(PATHVQA / "validation.csv", dtype=str, keep_default_na=False)
    numbers = repeat_numbers(asked_of(rows["image"], rows["question"]), [[answer] for answer in rows["answer"]])
    assert (numbers["copies"], numbers["open_copies"], numbers["contradicted"]) == (530, 530, 907)
    assert numbers["best_accuracy"] == pytest.approx(0.918, abs=5e-4)
    assert numbers["open_best_accuracy"] == pytest.approx(0.837, abs=5e-4)
    assert numbers["best_accuracy_without_copies"] == pytest.approx(0.946, abs=5e-4)
