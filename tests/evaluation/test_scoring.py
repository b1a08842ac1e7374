"""The published rules of scoring, each against a case worked by hand, and the command that scores a file."""

import json

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import BlipConfig, BlipForQuestionAnswering
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.evaluation.scoring import (
    bleu_intervals,
    closed_list_intervals,
    difference_table,
    floor_table,
    read_predictions,
    score_table,
)
from mmjepa.metrics.vqa_answers.rules import RULES, normalize_answer, vqa_normalize
from mmjepa.metrics.vqa_answers.vqa_answers import corpus_bleu, score_by_rules


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("The X-ray.", "x ray"),
        ("two, or three !", "2 or 3"),
        ("none", "0"),
        ("1.5 mm", "1.5 mm"),
        ("1,000 cells (red)", "1000 cells red"),
        ("it isnt a cell", "it isn't cell"),
        ("couldnt've", "couldn't've"),
    ],
)
def test_vqas_normalisation(answer, normalized):
    assert vqa_normalize(answer) == normalized


@pytest.mark.parametrize(
    ("rule", "prediction", "reference", "score"),
    [
        ("exact_match", " Yes", "yes", 1),
        ("exact_match", "yes.", "yes", 0),
        ("squad_exact_match", "The liver.", "liver", 1),
        ("vqa_exact_match", "two", "2", 1),
        ("squad_exact_match", "two", "2", 0),
        ("token_f1", "left lobe", "the left lobe of liver", 2 / 3),
        ("word_overlap", "left lobe", "left lobe of the liver", 1),
        ("word_overlap", "left left lung", "left lobe", 1 / 3),
        ("word_overlap", "2", "2", 0),
        ("token_recall", "left lobe, at the left", "left lobe of liver", 3 / 5),
        ("token_recall", "kidney", "liver", 0),
        ("contains_answer", "not yes", "no", 1),
        ("contains_answer", "yes", "no", 0),
        ("contains_answer_as_published", "yes", "no", None),
        ("contains_answer_as_published", "maybe", "no", 0),
        ("contains_answer_as_published", "yes, it is", "yes", 1),
    ],
)
def test_a_rule_gives_what_is_worked_out_by_hand(rule, prediction, reference, score):
    assert RULES[rule].score(prediction, reference) == (score if score is None else pytest.approx(score))


def test_the_published_closed_rule_never_counts_a_wrong_answer():
    scores = score_by_rules(["yes", "yes", "yes", "liver"], ["yes", "no", "no", "liver"])
    assert scores["contains_answer_as_published"] == 1
    assert scores["contains_answer"] == pytest.approx(1 / 3)
    assert scores["open_exact_match"] == 1 and "open_contains_answer" not in scores


@pytest.fixture
def predictions(tmp_path):
    """A file of 40 questions about 20 images, of which the yes/no ones are all answered rightly."""
    rows = [
        {"question": "is it?", "answer": "yes", "prediction": "Yes", "image_id": image}
        if row
        else {
            "question": "what?",
            "answer": "liver",
            "prediction": "liver" if image % 2 else "lung",
            "image_id": image,
        }
        for image in range(20)
        for row in (0, 1)
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_intervals_are_those_of_images_and_groups_are_apart(predictions):
    table = score_table(read_predictions(predictions))
    assert table["exact_match"]["yes_no"] == (1, 1, 1)
    mean, low, high = table["exact_match"]["open"]
    assert mean == 0.5
    assert 0.2 < low < 0.4 and 0.6 < high < 0.8  # of 20 images: 0.5 +- 0.22
    assert table["bleu_1"]["yes_no"] == pytest.approx((1, 1, 1))
    assert table["bleu_1"]["open"][0] == pytest.approx(0.5)
    assert "yes_no" not in table["token_recall"]


def test_the_bleu_of_images_taken_together_is_that_of_the_corpus(predictions):
    table = read_predictions(predictions).assign(prediction=lambda rows: rows["prediction"] + " of the left side")
    table["answer"] = table["answer"] + " of the right side"
    means = [mean for mean, _, _ in bleu_intervals(table, seed=0)]
    answers, truths = (table[name].map(normalize_answer).tolist() for name in ("prediction", "answer"))
    assert means == pytest.approx(corpus_bleu(answers, [[truth] for truth in truths]))
    assert 0 < means[1] < means[0] < 1


def test_floors_come_from_the_training_questions(predictions):
    train = Dataset.from_dict({"question": ["is it?", "what?"], "answer": ["yes", "heart"]})
    floors = floor_table(read_predictions(predictions), train)
    assert floors["majority"]["yes_no"][0] == 1 and floors["majority"]["open"][0] == 0
    assert floors["closed_list"]["all"][0] == 0.5


def test_a_closed_list_takes_each_prediction_for_the_most_similar_training_answer(tmp_path):
    rows = {"question": ["what?"] * 4, "answer": ["liver", "lung", "left kidney", "heart"]}
    rows["prediction"] = ["the livers", "lung", "kidney left", "liver"]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    train = Dataset.from_dict({"question": ["what?"] * 3, "answer": ["liver", "Left kidney.", "heart"]})
    # "lung" is not in the list and becomes an answer of it; "kidney left" is nearest to "left kidney".
    assert closed_list_intervals(read_predictions(tmp_path / "rows.csv"), train)["open"][0] == 0.5


def test_predictions_of_a_stock_model_are_scored(tokenizer, tmp_path):
    text = {"vocab_size": 300, "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 32}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 0, "sep_token_id": 2, "pad_token_id": 1}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    blip = BlipForQuestionAnswering(config).eval()
    questions = ["is it?", "what?"] * 3
    inputs = tokenizer(questions, return_tensors="pt", padding=True)
    ids = blip.generate(pixel_values=torch.randn(6, 3, 28, 28), max_new_tokens=4, **inputs)
    rows = {
        "question": questions,
        "answer": ["yes", "liver"] * 3,
        "file_name": [f"{row // 2}.jpg" for row in range(6)],
    }
    rows["prediction"] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    pd.DataFrame(rows).to_parquet(tmp_path / "blip.parquet")
    result = CliRunner().invoke(app, ["score", str(tmp_path / "blip.parquet"), "--json"])
    report = json.loads(result.stdout)
    assert (report["questions"], report["images"]) == (6, 3)
    assert set(report["rules"]) == {*RULES, "bleu_1", "bleu_2", "bleu_3", "bleu_4"}


def test_two_files_are_compared_row_by_row(predictions):
    first = read_predictions(predictions)
    better = first.assign(prediction=first["answer"])
    mean, low, high = difference_table(better, first)["squad_exact_match"]["open"]
    assert mean == 0.5 and low > 0.2
    with pytest.raises(ValueError, match="same rows in the same order"):
        difference_table(first, first[::-1])


def test_the_command_scores_a_file_as_text_and_as_json(predictions, tmp_path):
    pd.read_json(predictions, lines=True).to_csv(tmp_path / "other.csv", index=False)
    result = CliRunner().invoke(app, ["score", str(predictions), str(tmp_path / "other.csv"), "--json"])
    report = json.loads(result.stdout)
    assert report["questions"] == 40 and report["images"] == 20
    assert report["differences"]["exact_match"]["all"] == [0, 0, 0]
    text = CliRunner().invoke(app, ["score", str(predictions)]).stdout
    assert "40 questions about 20 images" in text and "75.0" in text and "LLaVA-Med" in text


def test_the_command_says_what_a_file_lacks(tmp_path):
    (tmp_path / "few.csv").write_text("question,answer\nis it?,yes\n")
    result = CliRunner().invoke(app, ["score", str(tmp_path / "few.csv")])
    assert result.exit_code == 1
    assert "lacks prediction" in result.output
