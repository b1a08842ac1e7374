"""The report as a user opens it, and the sentences and the calibration that it shows."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from mmjepa.data.images import VqaData
from mmjepa.evaluation.calibration import calibration_metrics, reliability_curve
from mmjepa.evaluation.controls import mean_interval
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.evaluation.html_report import EXAMPLES, draw_attention, examples, with_attention, write_html_report
from mmjepa.evaluation.plain_words import plain_words
from mmjepa.metrics.vqa_answers.vqa_answers import is_right

LOG = [
    {"epoch": 0.5, "grad_norm": 1.0, "loss": 2.0, "train_align": 2.0},
    {"epoch": 1.5, "grad_norm": 1.0, "loss": 2.0, "train_align": 1.0, "train_ce": 3.0},
    {"epoch": 2.0, "grad_norm": 1.0, "loss": 1.0, "train_align": 0.5, "train_ce": 2.0},
]
GAIN = {"image_gain": 0.2, "image_gain_low": 0.1, "image_gain_high": 0.3, "num_images": 30}
ZERO = {"image_gain": 0.0, "image_gain_low": 0.0, "image_gain_high": 0.0, "num_images": 30}
LEAD = {"accuracy": 0.4, "accuracy_majority_question": 0.5, "num_images": 30}
LEAD |= {"majority_lead": -0.1, "majority_lead_low": -0.15, "majority_lead_high": -0.05}
SURE = {"calibration_error": 0.1, "accuracy_at_coverage_50": 0.9}
UNSURE = "too few images to tell"


@pytest.fixture(scope="module", params=["patches", "pooled"])
def reported(request, make_model, processor, data, tmp_path_factory):
    """A report's text, its numbers and its answers, of questions one of which holds HTML."""
    torch.manual_seed(0)
    questions = data.questions.to_dict()
    questions["question"][3] = "<script>alert(1)</script> what is it?"
    asked = VqaData(Dataset.from_dict(questions), data.pixels)
    model = make_model(visual_prefix=request.param)
    metrics, answers = evaluate_model(
        model, processor, asked, asked.questions, batch_size=8, with_probabilities=True, max_new_tokens=4
    )
    for row in answers:  # some right ones, as a trained model has
        row["prediction"] = row["answer"] if row["row"] % 2 else row["prediction"]
    answers[3]["prediction_probability"] = 1.0
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html_report(path, "a <b>model</b>", metrics, asked, answers, LOG, model, processor)
    return request.param, path.read_text(), metrics, answers


def test_the_report_needs_no_other_file_and_no_address(reported):
    _, page, _, _ = reported
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "url(http" not in page and "@import" not in page and "<script" not in page


def test_what_users_wrote_is_shown_as_text(reported):
    _, page, _, _ = reported
    assert "a &lt;b&gt;model&lt;/b&gt;" in page and "<b>model" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; what is it?" in page


def test_the_report_shows_the_numbers_of_the_evaluation(reported):
    prefix, page, metrics, answers = reported
    cells = re.findall(r"<td>([^<]*)(?:<small>[^<]*</small>)?</td>", page)
    model = cells[cells.index("model") + 1 :][:3]
    shown = [metrics[name] for name in ("yes_no_accuracy", "open_accuracy", "accuracy") if name in metrics]
    assert [cell for cell in model if cell != "-"] == [f"{100 * value:.1f}" for value in shown]
    correct = np.array([is_right(row["prediction"], row["answer"]) for row in answers], dtype=float)
    _, low, high = mean_interval(correct, [row["image_id"] for row in answers], seed=0)
    assert f"<small>{100 * low:.1f} to {100 * high:.1f}</small>" in page
    assert all(sentence.split("(")[0] in page for sentence in plain_words(metrics))
    assert page.count("<svg") == 3 and "currentColor" in page
    assert page.count("where the decoder looked") > 0 if prefix == "patches" else "decoder looked" not in page


def test_examples_are_the_surest_each_about_an_image_of_its_own(reported):
    _, _, _, answers = reported
    wrong, right = examples(answers)
    for rows, correct in ((wrong, False), (right, True)):
        of_kind = [row for row in answers if is_right(row["prediction"], row["answer"]) == correct]
        assert rows[0]["prediction_probability"] == max(row["prediction_probability"] for row in of_kind)
        assert len({row["image_id"] for row in rows}) == len(rows) <= EXAMPLES


def test_rows_say_what_the_image_adds_to_the_probability_and_how_near_it_is_to_its_text(reported):
    _, _, metrics, answers = reported
    for row in answers:
        assert 0 < row["blank_probability"] < 1
        if row["row"] != 3:  # whose probability the fixture sets
            assert row["from_image"] == row["prediction_probability"] - row["blank_probability"]
    assert np.mean([row["align_cosine"] for row in answers]) == pytest.approx(metrics["align_cosine"], abs=1e-5)
    other = [row["align_cosine_wrong"] for row in answers if row["align_cosine_wrong"] is not None]
    assert np.mean(other) == pytest.approx(metrics["align_cosine_wrong"], abs=1e-5)


def test_colour_is_left_where_the_decoder_looked():
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels[0] = 200  # red
    attention = torch.zeros(2, 2)
    attention[0, 1] = 0.3
    shown = with_attention(pixels, attention).float()
    assert shown[0, 0, 7] - shown[1, 0, 7] > 190 and shown[0, 7, 0] == shown[1, 7, 0]


@pytest.mark.parametrize(("crops", "seen"), [(True, slice(30, 90)), (False, slice(0, 120))])
def test_a_map_lies_over_what_the_model_sees_of_the_image(crops, seen, image_processor, monkeypatch):
    """Cropped, it is the middle square of a picture of 120 x 60 pixels. Looked at everywhere, that is in colour."""
    monkeypatch.setattr(image_processor, "do_center_crop", crops)
    picture = Image.new("RGB", (120, 60), (250, 0, 0))
    drawn = np.asarray(draw_attention(picture, torch.full((4, 4), 0.02), image_processor))  # (60, 120, 3)
    red = (drawn == (250, 0, 0)).all(axis=-1)
    assert red[:, seen].all() and red.sum() == 60 * (seen.stop - seen.start)


def test_the_calibration_error_equals_a_computation_by_hand():
    probabilities, correct = [0.95, 0.97, 0.5, 0.52], [True, False, False, False]
    # Two bins: accuracy 1/2 at 0.96, and 0 at 0.51.
    assert reliability_curve(probabilities, correct) == [
        (pytest.approx(0.51), 0.0, 2),
        (pytest.approx(0.96), 0.5, 2),
    ]
    metrics = calibration_metrics(probabilities, correct)
    assert metrics["calibration_error"] == pytest.approx((2 * 0.46 + 2 * 0.51) / 4)
    assert metrics["accuracy_at_coverage_50"] == 0.5 and metrics["accuracy_at_coverage_80"] == pytest.approx(1 / 3)


def test_answers_that_are_right_as_often_as_they_say_are_calibrated():
    random = np.random.default_rng(0)
    probabilities = random.uniform(size=20000)
    metrics = calibration_metrics(probabilities, random.uniform(size=20000) < probabilities)
    assert metrics["calibration_error"] < 0.02
    assert metrics["accuracy_at_coverage_50"] == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (GAIN, "costs 20.0 points of accuracy (95 % interval 10.0 to 30.0): the model reads them"),
        (ZERO, "the model answers from the question"),
        (ZERO | {"num_images": 1}, UNSURE),
        (GAIN | {"num_images": 29}, UNSURE),
        (GAIN | {"image_gain_low": -0.01}, UNSURE),
        (GAIN | {"image_gain_low": 0.01}, UNSURE),  # as wide as that
        (GAIN | {"image_gain": 0.05, "image_gain_low": -0.02, "image_gain_high": 0.12}, UNSURE),
        ({name: value for name, value in GAIN.items() if name != "num_images"}, UNSURE),
        (
            GAIN | {"image_gain": -0.2, "image_gain_low": -0.3, "image_gain_high": -0.1},
            "better about the wrong images, by 20.0 points",
        ),
        (LEAD, "it is 10.0 points worse"),
        (LEAD | {"num_images": 29}, UNSURE),
        (LEAD | {"majority_lead_high": 0.02}, UNSURE),
        (SURE | {"num_images": 30}, "90.0 % are right."),
        (SURE | {"num_images": 29}, UNSURE),
    ],
)
def test_the_controls_are_told_in_words_and_a_conclusion_is_drawn_of_enough_images_alone(metrics, said):
    (sentence,) = plain_words(metrics)
    assert said in sentence
    if said == UNSURE:
        assert not any(words in sentence for words in (": the model reads", "answers from", "it is 10.0"))


@pytest.mark.parametrize(
    ("recall", "half", "images", "said"),
    [
        (0.02, 0.01, 30, "no better than chance"),
        (0.05, 0.01, 30, "finds more"),
        (0.1, 0.01, 30, "perhaps no better than the text"),
        (0.2, 0.01, 30, "images apart."),
        (0.2, 0.01, 29, UNSURE),
        (0.06, 0.06, 30, UNSURE),
        (0.4, 0.15, 30, UNSURE),
    ],
)
def test_retrieval_is_told_beside_chance_and_the_most_shared_text(recall, half, images, said):
    beside = {"retrieval_recall_at_1_chance": 0.015, "retrieval_recall_at_1_popular": 0.1, "retrieval_images": images}
    beside |= {"retrieval_recall_at_1_low": recall - half, "retrieval_recall_at_1_high": recall + half}
    assert said in plain_words({"retrieval_recall_at_1": recall} | beside)[0]
