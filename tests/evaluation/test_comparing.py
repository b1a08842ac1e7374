"""Two files of predictions: which rows are compared, and whether one file is better by more than chance."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.evaluation.pairing import matched_rows
from mmjepa.evaluation.permutation import holm, sign_flip_p_values
from mmjepa.evaluation.scoring import read_predictions, score_report


def table_of(tmp_path, rows) -> pd.DataFrame:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_predictions(path)


def rows_about(images, **more):
    """Three rows an image, the last two of which have the same question and other answers."""
    asked = [("is it?", "yes"), ("what?", "liver"), ("what?", "lung")]
    return [
        {"image": f"{image}.png", "question": question, "answer": answer, "prediction": answer if image % 2 else "?"}
        | more
        for image in images
        for question, answer in asked
    ]


@pytest.fixture
def two_files(tmp_path):
    """A file that is right about each image, and one that is right about every second image, in another order."""
    rows = rows_about(range(40))
    order = np.random.default_rng(0).permutation(len(rows))
    right = [row | {"prediction": row["answer"]} for row in rows]
    return table_of(tmp_path, right), table_of(tmp_path, [rows[place] for place in order])


def test_rows_are_matched_whatever_their_order(two_files):
    first, second = two_files
    places, other_places, notes = matched_rows(first, second)
    assert places == list(range(120)) and notes == []
    for name in ("image", "question", "answer"):
        assert first[name].tolist() == second[name].iloc[other_places].tolist()
    report = score_report(first, others=second)
    assert report["differences"]["accuracy"]["all"][0] == 0.5
    assert report["differences"]["accuracy"]["all"][1] > 0.3
    assert report["p_values"]["accuracy"]["p"] == 1e-4


def test_copies_are_matched_in_their_order(tmp_path):
    rows = [row | {"prediction": str(number)} for number, row in enumerate(rows_about([1]) * 2)]
    moved = [rows[place] for place in (1, 0, 4, 3, 5, 2)]
    places, other_places, _ = matched_rows(table_of(tmp_path, rows), table_of(tmp_path, moved))
    assert [moved[place]["prediction"] for place in other_places] == ["0", "1", "5", "3", "4", "2"]
    assert places == list(range(6))


def test_rows_of_one_file_alone_are_counted_and_not_compared(tmp_path):
    first, second = table_of(tmp_path, rows_about(range(10))), table_of(tmp_path, rows_about(range(2, 11)))
    report = score_report(first, others=second)
    assert report["questions"] == 30
    assert "6 of 30 rows of the first file are not in the other and are not compared." in report["notes"]
    assert "3 of 27 rows of the second file are not in the other and are not compared." in report["notes"]
    assert report["differences"]["accuracy"]["all"][0] == 0


def test_ids_match_rows_whose_images_have_other_names(tmp_path):
    rows = [row | {"id": number} for number, row in enumerate(rows_about(range(10)))]
    first, second = table_of(tmp_path, rows), table_of(tmp_path, [row | {"image": "a"} for row in rows[::-1]])
    assert matched_rows(first, second)[1] == list(range(30))[::-1]
    with pytest.raises(ValueError, match="name the images alike, or give both a column id"):
        matched_rows(first.drop(columns="id"), second)


def test_equal_questions_about_other_images_are_no_match(tmp_path):
    first, second = table_of(tmp_path, rows_about([1])), table_of(tmp_path, rows_about([2]))
    with pytest.raises(ValueError, match="no row of one file is a row of the other"):
        matched_rows(first, second)


def test_without_images_rows_are_matched_by_question_and_answer_and_said_to_be_independent(tmp_path):
    rows = [{name: row[name] for name in ("question", "answer", "prediction")} for row in rows_about([1])]
    first, second = table_of(tmp_path, rows), table_of(tmp_path, rows[::-1])
    assert matched_rows(first, second)[1] == [2, 1, 0]
    notes = " ".join(score_report(first, others=second)["notes"])
    assert "3 of 3 rows name no image and are taken as independent" in notes


def test_p_values_are_shares_of_all_exchanges():
    sums = np.array([[1.0, 0.5, 0], [2, -0.5, 0], [3, 1, 0], [-1, 2, 0]])
    by_hand = np.mean([[abs(np.dot(flips, column)) >= abs(column.sum()) for column in sums.T]
                       for flips in itertools.product((1, -1), repeat=4)], axis=0)  # fmt: skip
    assert sign_flip_p_values(sums, seed=0) == pytest.approx(by_hand)
    assert by_hand[2] == 1


def test_p_values_of_many_images_are_near_the_normal_approximation_and_never_0():
    random = np.random.default_rng(0)
    sums = random.normal(size=(500, 1))
    sums += 0.08 - sums.mean()
    p_value = sign_flip_p_values(sums, seed=1)[0]
    assert p_value == pytest.approx(0.074, abs=0.015)  # of 0.08 * sqrt(500) = 1.79 standard deviations
    assert sign_flip_p_values(np.ones((500, 1)), seed=1)[0] == 1e-4


def test_equally_good_models_are_called_different_in_about_one_of_twenty_comparisons():
    random = np.random.default_rng(0)
    sums = random.integers(-3, 4, (20, 400)).astype(float)
    assert (sign_flip_p_values(sums, seed=0) < 0.05).mean() == pytest.approx(0.05, abs=0.025)


def test_holms_correction_is_that_of_an_example():
    # Holm 1979's procedure by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and no smaller than the one before.
    assert holm(np.array([0.03, 0.005, 0.04, 0.01])) == pytest.approx([0.06, 0.02, 0.06, 0.03])


def test_the_command_prints_differences_with_their_p_values(tmp_path):
    rows = rows_about(range(40))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row | {"prediction": row["answer"]}) for row in rows))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    result = CliRunner().invoke(app, ["score", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    text = result.stdout
    assert result.stderr == ""  # bars are for terminals
    assert "| p, Holm |" in text and "50.0 (35.0 to 65.0)" in text
    assert max(map(len, text.splitlines())) <= 110
