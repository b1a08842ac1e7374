"""Curves of a training and of its answers, as SVG."""

from collections.abc import Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..evaluation.calibration import reliability_curve, risk_coverage_curve
from ..evaluation.controls import right_answers_of_row, rows_are_correct
from ..metrics.vqa_answers.rules import is_yes_no

LOSSES = {"train_align": "alignment", "train_ce": "answer", "train_answer": "predicted answer"}
COLOURS = ("#3b82c4", "#d97706", "#2f9e6e")  # readable on white and on black
TEXT_COLOUR = "#010203"  # the page replaces it with the colour of its text


def new_panels(count: int) -> tuple[Figure, list[Any]]:
    """A figure with `count` empty axes, one below the other, that share what they are drawn over."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    panels = list(figure.subplots(count, sharex=True, squeeze=False)[:, 0])
    for axes in panels:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def new_plot() -> tuple[Figure, Any]:
    """An empty figure and its axes."""
    figure, (axes,) = new_panels(1)
    return figure, axes


def loss_curves(log_history: Sequence[dict[str, float]]) -> Figure | None:
    """Each term of the loss over the epochs, on axes of its own: their sizes differ, and only each one's fall counts.

    The background is grey while the alignment was trained alone. None with fewer than two logged steps.
    """
    lines = [line for line in log_history if "grad_norm" in line]
    if len(lines) < 2:
        return None
    curves = {label: points_of(lines, name) for name, label in LOSSES.items()}
    drawn = [(colour, *curve) for colour, curve in zip(COLOURS, curves.items(), strict=True) if curve[1]]
    figure, panels = new_panels(len(drawn))
    warmup = [line["epoch"] for line in lines if "train_align" in line and "train_ce" not in line]
    for axes, (colour, label, points) in zip(panels, drawn, strict=True):
        axes.plot(*zip(*points, strict=True), color=colour)
        axes.set_title(label, loc="left", fontsize="medium")
        if warmup:
            axes.axvspan(0, max(warmup), color="#808080", alpha=0.25, label="alignment alone")
    if warmup:
        panels[0].legend(frameon=False)
    panels[-1].set_xlabel("epoch")
    return figure


def points_of(lines: Sequence[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Epoch and value of the logged lines that have the number `name`."""
    return [(line["epoch"], line[name]) for line in lines if name in line]


def score_curves(log_history: Sequence[dict[str, float]]) -> Figure | None:
    """Accuracy and image gain of the evaluations while training, and the majority answer; None with fewer than two.

    The evaluation at the end has all controls. It is left out: it may be of an earlier checkpoint, the best one.
    """
    lines = [line for line in log_history if "eval_accuracy" in line and "eval_accuracy_blank_images" not in line]
    if len(lines) < 2:
        return None
    figure, axes = new_plot()
    axes.plot(*zip(*points_of(lines, "eval_accuracy"), strict=True), "o-", color=COLOURS[0], label="accuracy")
    if gains := points_of(lines, "eval_image_gain"):
        epochs, values = zip(*gains, strict=True)
        ends = (points_of(lines, f"eval_image_gain_{end}") for end in ("low", "high"))
        axes.fill_between(epochs, *([value for _, value in points] for points in ends), color=COLOURS[1], alpha=0.25)
        axes.plot(epochs, values, "o-", color=COLOURS[1], label="image gain, 95 % interval")
    if majority := points_of(lines, "eval_accuracy_majority_question"):
        axes.axhline(majority[0][1], color="#808080", linestyle="--", label="majority answer of the question")
    axes.set_xlabel("epoch")
    axes.set_ylabel("share")
    axes.set_ylim(min(0, axes.get_ylim()[0]), 1)
    axes.legend(frameon=False, fontsize="small")
    return figure


def by_kind(answers: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[bool]]]:
    """For yes/no and for open questions, where there are any, the answers' probabilities and whether they are right.

    The names say how many answers there are.
    """
    yes_no = [is_yes_no(right_answers_of_row(row)[0]) for row in answers]
    found = {}
    for kind, wanted in (("yes/no", True), ("open", False)):
        rows = [row for row, is_kind in zip(answers, yes_no, strict=True) if is_kind == wanted]
        if rows:
            name = f"{kind} ({len(rows):,} answers)"
            found[name] = [row["prediction_probability"] for row in rows], rows_are_correct(rows)
    return found


def reliability_plot(answers: list[dict[str, Any]]) -> Figure:
    """How often answers of about the same probability are right. A larger point stands for more answers."""
    figure, axes = new_plot()
    axes.plot([0, 1], [0, 1], color="#808080", linestyle="--", label="as they should be")
    for colour, (kind, judged) in zip(COLOURS, by_kind(answers).items(), strict=False):
        means, accuracies, counts = (np.array(values) for values in zip(*reliability_curve(*judged), strict=True))
        axes.plot(means, accuracies, color=colour, linewidth=1)
        axes.scatter(means, accuracies, s=10 + 190 * counts / len(answers), color=colour, label=kind)
    axes.set_xlabel("probability")
    axes.set_ylabel("share that is right")
    axes.legend(frameon=False)
    return figure


def risk_coverage_plot(answers: list[dict[str, Any]]) -> Figure:
    """The share of wrong answers among the surest ones, for each share of questions that is answered."""
    figure, axes = new_plot()
    for colour, (kind, judged) in zip(COLOURS, by_kind(answers).items(), strict=False):
        axes.plot(*risk_coverage_curve(*judged), color=colour, label=kind)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of questions answered, the surest first")
    axes.set_ylabel("share that is wrong")
    axes.legend(frameon=False)
    return figure


def cosine_plot(answers: list[dict[str, Any]]) -> Figure | None:
    """Cosines of images to their own text and to another image's text; None where no row has a text."""
    own, other = (
        [row[name] for row in answers if row.get(name) is not None] for name in ("align_cosine", "align_cosine_wrong")
    )
    if not own:
        return None
    figure, axes = new_plot()
    axes.margins(y=0.3)  # room for the legend
    bins = np.linspace(min(own + other), max(own + other) + 1e-6, 40)
    axes.hist(own, bins, color=COLOURS[0], alpha=0.6, label="own text")
    axes.hist(other, bins, color=COLOURS[1], alpha=0.6, label="another image's text")
    axes.set_xlabel("cosine")
    axes.set_ylabel("questions")
    axes.legend(frameon=False)
    return figure


def svg(figure: Figure, name: str) -> Markup:
    """A figure as an SVG element whose text has the colour of the page's text.

    Screen readers read it as one image, by `name` and what is drawn over what.
    """
    for axes in figure.axes:
        axes.tick_params(colors=TEXT_COLOUR)
        for spine in axes.spines.values():
            spine.set_color(TEXT_COLOUR)
    for text in figure.findobj(Text):
        text.set_color(TEXT_COLOUR)
    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = " and ".join(axes.get_title(loc="left") or axes.get_ylabel() for axes in figure.axes)
    label = escape(f"{name} {drawn} by {figure.axes[-1].get_xlabel()}")
    # Without the XML header: it holds addresses that nothing reads.
    drawing = file.getvalue().partition("<svg ")[2].replace(TEXT_COLOUR, "currentColor")
    return Markup(f'<svg role="img" aria-label="{label}" {drawing}')
