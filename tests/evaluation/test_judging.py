import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import DESCRIBED
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.evaluation.judging import Judgement, judge
from mmjepa.evaluation.taught import TaughtStatement, Wording, write_taught

STATEMENTS = ["is necrosis seen?", "where is the tumour? in the liver"]


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8))


def test_probabilities_are_those_of_the_image_and_of_a_black_one(make_model, processor, image):
    model = make_model(truth_temperature=0.5)
    embeds = model.encode_texts(**processor(text=STATEMENTS, return_tensors="pt"))
    judgements = judge(model, processor, image, STATEMENTS)
    for place, name in ((image, "probability"), (Image.new("RGB", (28, 28)), "blank_probability")):
        pixel_values = processor(images=place, return_tensors="pt")["pixel_values"]
        expected = model.score_statements(embeds, pixel_values)[0].tolist()
        assert [getattr(judgement, name) for judgement in judgements] == pytest.approx(expected, abs=1e-5)
    assert judgements[0].probability != judgements[0].blank_probability


def test_a_statement_reads_the_patches_that_the_model_says(make_model, processor, image):
    model = make_model()
    features = model.get_image_features(processor(images=image, return_tensors="pt")["pixel_values"])
    embeds = model.encode_texts(**processor(text=STATEMENTS, return_tensors="pt"))
    expected = model.statement_attentions(embeds, features)[0].unflatten(1, (4, 4))
    for judgement, attention in zip(judge(model, processor, image, STATEMENTS), expected, strict=True):
        torch.testing.assert_close(judgement.attention, attention)
        assert judgement.attention.sum() <= 1.001 and 1 / 9 <= judgement.place[1] <= 1


@pytest.mark.parametrize("fields", [{"visual_prefix": "pooled"}, {"alignment_reads": "vector"}])
def test_a_statement_that_reads_no_patches_has_no_place(make_model, processor, image, fields):
    (judgement,) = judge(make_model(**fields), processor, image, STATEMENTS[:1])
    assert judgement.attention is None and judgement.place is None


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [(0, 0, "upper left"), (0, 3, "upper right"), (3, 3, "lower right"), (3, 0, "lower left")],
)
def test_a_place_is_the_ninth_that_was_read_most(row, column, place):
    attention = torch.zeros(4, 4)
    attention[row, column] = 0.6
    found, share = Judgement(Wording("", ""), 0.5, 0.5, attention).place
    assert found == place and share == pytest.approx(1)


def test_all_ninths_count_alike_whatever_the_number_of_patches():
    for size in ((1, 1), (4, 4), (5, 7)):
        assert Judgement(Wording("", ""), 0.5, 0.5, torch.ones(size)).place[1] == pytest.approx(1 / 9)


def test_a_statement_is_asked_in_the_taught_wording_and_others_are_named(make_model, processor, image):
    taught = [TaughtStatement("is necrosis seen?", "is", 3, 2), TaughtStatement("is it a gland?", "is", 1, 1)]
    same, other = judge(make_model(), processor, image, ["Is necrosis seen", "is necrosis absent?"], taught)
    assert same.wording.asked == "is necrosis seen?"
    assert other.wording.asked == "is necrosis absent?" and "without 'absent'" in other.wording.note


@pytest.mark.parametrize(
    ("fields", "statements", "message"),
    [
        ({}, [], "give at least one"),
        ({}, ["is it?", " "], "none that is empty"),
        (DESCRIBED, ["is it?"], "not trained to tell true statements"),
        ({"truth_weight": 0.0}, ["is it?"], "not trained to tell true statements"),
    ],
)
def test_what_can_not_be_judged_is_an_error_that_says_so(make_model, processor, image, fields, statements, message):
    with pytest.raises(ValueError, match=message):
        judge(make_model(**fields), processor, image, statements)


@pytest.fixture
def call(saved_folder, image_file):
    def ask(*words: str, model: str = saved_folder):
        return CliRunner().invoke(app, ["ask", image_file, *words, "--model", model])

    return ask


def test_the_command_judges_all_statements_and_says_first_that_truth_was_not_measured(call):
    run = call("--statements", *STATEMENTS)
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    assert lines[::2] == STATEMENTS and all("true with a probability of" in line for line in lines[1::2])
    assert all("with a black image" in line and "read most" in line for line in lines[1::2])
    assert "was not measured: its probabilities may be chance" in run.stderr.splitlines()[0]


def test_questions_and_statements_may_be_asked_together_and_as_json(call):
    run = call("what is seen?", "--statements", *STATEMENTS, "--json")
    reply, *judged = map(json.loads, run.stdout.splitlines())
    assert reply["question"] == "what is seen?"
    assert [row["statement"] for row in judged] == STATEMENTS
    assert all(0 <= row["probability"] <= 1 and row["place"] for row in judged)


def test_the_command_names_the_nearest_taught_statement(make_model, processor, call, tmp_path):
    measured = {"accuracy": 0.9, "shuffled": 0.5, "gain": 0.4, "gain_low": 0.3, "gain_high": 0.5}
    make_model(truth_measured=measured).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write_taught(tmp_path, [TaughtStatement("is necrosis seen?", "is", 3, 2)])
    assert call("--statements", "is necrosis seen?", model=str(tmp_path)).stderr == ""
    (note,) = call("--statements", "is necrosis absent?", model=str(tmp_path)).stderr.splitlines()
    assert "was not taught" in note and "'absent'" in note and "'is necrosis seen?'" in note
