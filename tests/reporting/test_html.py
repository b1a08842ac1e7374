"""The report as a user opens it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from contrast import blended, contrast
from datasets import Dataset
from PIL import ImageColor

from mmjepa.data.images import VqaData
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.evaluation.intervals import mean_interval
from mmjepa.metrics.vqa_answers.vqa_answers import is_right
from mmjepa.reporting import html
from mmjepa.reporting.curves import loss_curves, score_curves
from mmjepa.reporting.html import EXAMPLES, examples, write_html_report
from mmjepa.reporting.plain_words import plain_words

LOG = [
    {"epoch": 0.5, "grad_norm": 1.0, "loss": 2.0, "train_align": 2.0},
    {"epoch": 1.5, "grad_norm": 1.0, "loss": 2.0, "train_align": 1.0, "train_ce": 3.0},
    {"epoch": 2.0, "grad_norm": 1.0, "loss": 1.0, "train_align": 0.5, "train_ce": 2.0},
]
LOG += [
    {"epoch": float(epoch), "eval_accuracy": 0.2 * epoch, "eval_accuracy_majority_question": 0.3}
    | {"eval_image_gain": 0.1 * epoch, "eval_image_gain_low": 0.05 * epoch, "eval_image_gain_high": 0.15 * epoch}
    for epoch in (1, 2)
]
LOG += [{"epoch": 2.0, "eval_accuracy": 0.9, "eval_image_gain": 0.8, "eval_accuracy_blank_images": 0.1}]  # at the end


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
    cells = re.findall(r'<t(?:d|h scope="row")>([^<]*)(?:<small>[^<]*</small>)?</t[dh]>', page)
    model = cells[cells.index("model") + 1 :][:3]
    shown = [metrics[name] for name in ("yes_no_accuracy", "open_accuracy", "accuracy") if name in metrics]
    assert [cell for cell in model if cell != "-"] == [f"{100 * value:.1f}" for value in shown]
    correct = np.array([is_right(row["prediction"], row["answer"]) for row in answers], dtype=float)
    _, low, high = mean_interval(correct, [row["image_id"] for row in answers], seed=0)
    assert f"<small>{100 * low:.1f} to {100 * high:.1f}</small>" in page
    assert all(sentence.split("(")[0] in page for sentence in plain_words(metrics))
    assert page.count("<svg") == 5 and "currentColor" in page
    assert page.count("where the decoder looked") > 0 if prefix == "patches" else "decoder looked" not in page


def test_the_interval_of_shuffled_images_is_that_of_the_mean_over_all_shuffles(reported):
    _, page, metrics, answers = reported
    assert metrics["num_shuffles"] == len(answers[0]["all_shuffled"]) == 5
    shares = [np.mean([is_right(text, row["answer"]) for text in row["all_shuffled"]]) for row in answers]
    mean, low, high = mean_interval(np.array(shares), [row["image_id"] for row in answers], seed=0)
    assert metrics["accuracy_shuffled_images"] == pytest.approx(mean)
    cells = re.findall(r'<t(?:d|h scope="row")>([^<]*)(?:<small>([^<]*)</small>)?</t[dh]>', page)
    overall = cells[[cell for cell, _ in cells].index("shuffled images") + 3]
    assert overall == (f"{100 * mean:.1f}", f"{100 * low:.1f} to {100 * high:.1f}")


def test_the_report_shows_what_statements_are_worth_and_the_answer_by_statements_of_each_example(reported):
    _, page, metrics, answers = reported
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)
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


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.found if found == tag]


def test_drawings_meters_headers_and_pictures_have_names_for_those_who_do_not_see_them(reported):
    prefix, page, metrics, answers = reported
    elements = Elements(page)
    labels = [drawing["aria-label"] for drawing in elements.named("svg")]
    assert labels[0] == "Losses while training: alignment and answer by epoch" and len(set(labels)) == len(labels) == 5
    assert {drawing["role"] for drawing in elements.named("svg")} == {"img"}
    meters = [meter["aria-label"] for meter in elements.named("meter")]
    kinds = [name.removeprefix("count_").replace("_", " ") for name in metrics if name.startswith("count_")]
    assert set(meters) == {f"accuracy, {kind}" for kind in kinds}
    headers = elements.named("th")
    assert {header.get("scope") for header in headers} == {"col", "row"} and "<th></th>" not in page
    alternatives = [image["alt"] for image in elements.named("img")]
    shown = [row for rows in examples(answers) for row in rows]
    assert {f"image {row['image_id']}" for row in shown} <= set(alternatives)
    if prefix == "patches":
        looked = [text for text in alternatives if text.startswith("where the decoder looked")]
        assert len(looked) == len(shown) and len(set(looked)) == len(shown)


@pytest.mark.parametrize("template", sorted(Path(html.__file__).parent.glob("*.jinja")), ids=lambda path: path.name)
def test_every_template_names_its_pictures_and_meters_by_what_they_show_and_scopes_its_headers(template):
    text = template.read_text()
    names = re.findall(r'<img [^>]*alt="([^"]*)"', text) + re.findall(r'<meter [^>]*aria-label="([^"]*)"', text)
    assert len(names) == text.count("<img ") + text.count("<meter ") and all("{{" in name for name in names)
    assert all(" scope=" in header for header in re.findall(r"<th\b[^>]*>", text))


def drawn_lines(figure) -> list[dict[str, list[tuple[float, float]]]]:
    """For each axes of a figure the points of its lines that have a name."""
    return [
        {line.get_label(): [tuple(point) for point in line.get_xydata().tolist()] for line in axes.get_lines()}
        for axes in figure.axes
    ]


def test_each_loss_has_axes_of_its_own():
    figure = loss_curves(LOG)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["alignment", "answer"]
    points = [next(iter(lines.values())) for lines in drawn_lines(figure)]
    assert points == [[(0.5, 2.0), (1.5, 1.0), (2.0, 0.5)], [(1.5, 3.0), (2.0, 2.0)]]


def test_accuracy_and_image_gain_are_drawn_by_epoch_without_the_evaluation_of_the_best_checkpoint():
    (lines,) = drawn_lines(score_curves(LOG))
    assert lines["accuracy"] == [(1.0, 0.2), (2.0, 0.4)]
    assert lines["image gain, 95 % interval"] == [(1.0, 0.1), (2.0, 0.2)]
    assert [y for _, y in lines["majority answer of the question"]] == [0.3, 0.3]
    assert score_curves(LOG[:3]) is None and loss_curves(LOG[:1]) is None


def test_the_texts_of_the_report_have_a_contrast_of_at_least_4_5_on_light_and_dark_pages():
    """By WCAG 2.1, on the page and on a card."""
    style = (Path(html.__file__).parent / "report.html.jinja").read_text()
    card = 0x11 / 0xFF  # the opacity of --card: #8881
    for scheme, page, text in (("light", (255,) * 3, (0, 0, 0)), ("dark", (18,) * 3, (255,) * 3)):
        grounds = [page, blended((0x88,) * 3, card, page)]
        named = re.findall(r"--(?:good|bad): (#\w{6})", style)
        colours = [ImageColor.getrgb(name) for name in (named[:2] if scheme == "light" else named[2:])]
        assert len(colours) == 2 and "--card: #8881" in style
        for ground in grounds:
            faded = [
                blended(text, float(opacity), ground) for opacity in re.findall(r"(?<!-)opacity: ([\d.]+)", style)
            ]
            assert all(contrast(colour, ground) >= 4.5 for colour in [text, *colours, *faded])
