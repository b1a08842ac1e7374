"""The report as a user opens it."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset

from mmjepa.data.images import VqaData
from mmjepa.evaluation.controls import mean_interval
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.metrics.vqa_answers.vqa_answers import is_right
from mmjepa.reporting.html import EXAMPLES, examples, write_html_report
from mmjepa.reporting.plain_words import plain_words

LOG = [
    {"epoch": 0.5, "grad_norm": 1.0, "loss": 2.0, "train_align": 2.0},
    {"epoch": 1.5, "grad_norm": 1.0, "loss": 2.0, "train_align": 1.0, "train_ce": 3.0},
    {"epoch": 2.0, "grad_norm": 1.0, "loss": 1.0, "train_align": 0.5, "train_ce": 2.0},
]


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


def test_the_report_shows_what_statements_are_worth_and_the_answer_by_statements_of_each_example(reported):
    _, page, metrics, answers = reported
    cells = re.findall(r"<td>([^<]*)</td>", page)
    accuracy = cells[cells.index("open questions, accuracy") + 1 :][:3]
    names = ("open_accuracy_statements", "open_accuracy_statements_shuffled")
    assert [accuracy[0], accuracy[2]] == [f"{100 * metrics[name]:.1f}" for name in names] and accuracy[1] == "-"
    shown = [row for rows in examples(answers) for row in rows]
    assert page.count("<dt>by statements</dt>") == len(shown)
    assert f"<dt>by statements</dt><dd>{shown[0]['by_statements']}</dd>" in page


def test_what_needs_no_decoder_is_told_and_shown_before_the_answers(reported):
    _, page, _, _ = reported
    sentences = ["An image finds a text of its own", "Shuffling the images"]
    tables = ["The alignment alone, without the decoder", "Accuracy, beside what can be had"]
    places = [page.index(text) for text in (*sentences, *tables)]
    assert places == sorted(places)


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
    own = [row["align_cosine"] for row in answers if row["align_cosine"] is not None]
    assert np.mean(own) == pytest.approx(metrics["align_cosine"], abs=1e-5)
    other = [row["align_cosine_wrong"] for row in answers if row["align_cosine_wrong"] is not None]
    assert np.mean(other) == pytest.approx(metrics["align_cosine_wrong"], abs=1e-5)
