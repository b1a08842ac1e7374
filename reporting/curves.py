"""Curves of a training and of its answers, as SVG."""

from collections.abc import Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ..evaluation.calibration import reliability_curve
from ..evaluation.controls import rows_are_correct

LOSSES = {"train_align": "alignment", "train_ce": "answer", "train_answer": "predicted answer"}
COLOURS = ("#3b82c4", "#d97706", "#2f9e6e")  # readable on white and on black
TEXT_COLOUR = "#010203"  # the page replaces it with the colour of its text


def new_plot() -> tuple[Figure, Any]:
    """An empty figure and its axes."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def loss_curves(log_history: Sequence[dict[str, float]]) -> Figure | None:
    """Each term of the loss over the epochs. The background is grey while the alignment was trained alone.

    None with fewer than two logged steps.
    """
    lines = [line for line in log_history if "grad_norm" in line]
    if len(lines) < 2:
        return None
    figure, axes = new_plot()
    for colour, (name, label) in zip(COLOURS, LOSSES.items(), strict=True):
        points = [(line["epoch"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour)
    if warmup := [line["epoch"] for line in lines if "train_align" in line and "train_ce" not in line]:
        axes.axvspan(0, max(warmup), color="#808080", alpha=0.25, label="alignment alone")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    return figure


def reliability_plot(answers: list[dict[str, Any]]) -> Figure:
    """How often answers of about the same probability are right. A larger point stands for more answers."""
    curve = reliability_curve([row["prediction_probability"] for row in answers], rows_are_correct(answers))
    means, accuracies, counts = (np.array(values) for values in zip(*curve, strict=True))
    figure, axes = new_plot()
    axes.plot([0, 1], [0, 1], color="#808080", linestyle="--", label="as they should be")
    axes.plot(means, accuracies, color=COLOURS[0], linewidth=1)
    axes.scatter(means, accuracies, s=10 + 190 * counts / counts.max(), color=COLOURS[0], label="answers")
    axes.set_xlabel("probability")
    axes.set_ylabel("share that is right")
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


def svg(figure: Figure) -> Markup:
    """A figure as an SVG element. Its text has the colour of the page's text."""
    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        axes = figure.axes[0]
        axes.tick_params(colors=TEXT_COLOUR)
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts()):
            text.set_color(TEXT_COLOUR)
        for spine in axes.spines.values():
            spine.set_color(TEXT_COLOUR)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawing = file.getvalue()
    # Without the XML header: it holds addresses that nothing reads.
    return Markup(drawing[drawing.index("<svg") :].replace(TEXT_COLOUR, "currentColor"))
