"""A run's results as one HTML file that needs nothing else: numbers, curves, and answers with where it looked."""

import base64
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from transformers import BaseImageProcessor

from ..data.images import VqaData, normalize_pixels
from ..metrics.vqa_answers.rules import is_yes_no
from ..metrics.vqa_answers.vqa_answers import is_right
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .attention import attention_maps
from .calibration import reliability_curve
from .controls import mean_interval, right_answers_of_row
from .plain_words import plain_words
from .report import table_rows

EXAMPLES = 8  # of wrong and of right answers
PICTURE_SIDE = 192  # pixels
LOSSES = {"train_align": "alignment", "train_ce": "answer", "train_answer": "predicted answer"}
# Row of the table -> the column of rows that holds its answers.
ANSWERS = {
    "model": "prediction",
    "model, answers ranked": "ranked",
    "shuffled images": "shuffled",
    "blank images": "blank",
}
COLOURS = ("#3b82c4", "#d97706", "#2f9e6e")  # read on white and on black
TEXT_COLOUR = "#010203"  # becomes that of the page's text


def write_html_report(
    path: str | Path,
    title: str,
    metrics: dict[str, float],
    data: VqaData,
    answers: list[dict[str, Any]],
    log_history: list[dict[str, float]],
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
) -> None:
    """Writes the report of an evaluation.

    Args:
        title: what was evaluated.
        metrics: the numbers of `evaluate_model`, by their names without prefix.
        data: what was asked; the right answers are those of the rows.
        answers: the rows of `evaluate_model`, at least one, with controls and probabilities.
        log_history: of the Trainer's state; without training steps there is no curve of losses.
        model, processor: draw where the decoder looked.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    plots = {
        "Losses while training": loss_curves(log_history),
        "Are probabilities right?": reliability_plot(answers),
        "Cosine of image and text": cosine_plot(answers),
    }
    wrong, right = examples(answers)
    page = environment.get_template("report.html.jinja").render(
        title=title,
        sentences=plain_words(metrics),
        table=table_rows(metrics),
        intervals=intervals(answers),
        kinds=kind_rows(metrics),
        plots={name: svg(figure) for name, figure in plots.items() if figure is not None},
        galleries={
            "Wrong answers, the surest first": pictures(wrong, data, model, processor),
            "Right answers, the surest first": pictures(right, data, model, processor),
        },
    )
    Path(path).write_text(page, encoding="utf-8")


def are_right(answers: list[dict[str, Any]], column: str = "prediction") -> list[bool]:
    """Whether what the rows have in `column` is right."""
    return [is_right(row[column], right_answers_of_row(row)) for row in answers]


def intervals(answers: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """95 % intervals of the accuracies in `table_rows`, in percent, by row and column, of answers that rows have."""
    image_ids = [row["image_id"] for row in answers]
    yes_no = np.array([is_yes_no(right_answers_of_row(row)[0]) for row in answers])
    counted = {"yes/no": yes_no, "open": ~yes_no, "overall": np.ones_like(yes_no)}
    shown: dict[str, dict[str, str]] = {}
    for name, column in ANSWERS.items():
        if column in answers[0]:
            correct = np.array(are_right(answers, column), dtype=float)
            shown[name] = {}
            for kind, counts in counted.items():
                if counts.any():
                    _, low, high = mean_interval(np.where(counts, correct, np.nan), image_ids, seed=0)
                    shown[name][kind] = f"{100 * low:.1f} to {100 * high:.1f}"
    return shown


def kind_rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Accuracy and number of the questions of each kind, the most frequent kind first."""
    counts = {name.removeprefix("count_"): int(n) for name, n in metrics.items() if name.startswith("count_")}
    return [
        {"kind": kind.replace("_", " "), "count": number, "accuracy": metrics[f"accuracy_{kind}"]}
        for kind, number in sorted(counts.items(), key=lambda item: -item[1])
    ]


def examples(answers: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The most probable wrong and right answers, each about an image of its own."""
    judged = zip(answers, are_right(answers), strict=True)
    chosen: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for row, correct in sorted(judged, key=lambda pair: -pair[0]["prediction_probability"]):
        rows = chosen[correct]
        if len(rows) < EXAMPLES and row["image_id"] not in {other["image_id"] for other in rows}:
            rows.append(row)
    return chosen[False], chosen[True]


def pictures(
    rows: list[dict[str, Any]], data: VqaData, model: MMJepaForConditionalGeneration, processor: MMJepaProcessor
) -> list[dict[str, Any]]:
    """The rows, each with its picture and the picture with the decoder's attention over it, as data URLs."""
    if not rows:
        return []
    pixels = data.pixels[[row["image_id"] for row in rows]]["pixels"]  # (B, 3, H, W)
    values = normalize_pixels(pixels.to(model.device), processor.image_processor)
    asked, answered = ([row[name] for row in rows] for name in ("question", "prediction"))
    maps = attention_maps(model, processor, asked, answered, values)  # (B, h, w), or none
    return [
        row
        | {
            "same_without_image": is_right(row["blank"], row["prediction"]),
            "picture": data_url(pixels[place]),
            "attention": None if maps is None else data_url(with_attention(pixels[place], maps[place])),
        }
        for place, row in enumerate(rows)
    ]


def with_attention(pixels: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """An image (3, H, W), uint8, grey where the decoder did not look and in colour where it looked most.

    `attention` (h, w) is shown relative to its largest value.
    """
    weights = (attention / attention.max().clamp(min=1e-9))[None, None]
    weights = torch.nn.functional.interpolate(weights, pixels.shape[1:], mode="bilinear")[0]  # (1, H, W)
    image = pixels.float()
    faded = image.mean(dim=0, keepdim=True) * 0.35 + 40
    return (weights * image + (1 - weights) * faded).round().to(torch.uint8)


def draw_attention(picture: Image.Image, attention: torch.Tensor, image_processor: BaseImageProcessor) -> Image.Image:
    """`picture` in colour where the decoder looked and grey elsewhere.

    `attention` (h, w) is about what the model sees: all of the picture, or its middle if the image processor crops.
    """
    whole, seen = (
        image_processor(picture, do_center_crop=crop, return_tensors="pt")["pixel_values"].shape[2:]
        for crop in (False, image_processor.do_center_crop)
    )
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (3, H, W)
    sides = pixels.shape[1:]
    height, width = (min(side, round(side * part / all)) for side, part, all in zip(sides, seen, whole, strict=True))
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    weights = torch.zeros(sides)  # (H, W)
    weights[top : top + height, left : left + width] = torch.nn.functional.interpolate(
        attention[None, None], (height, width), mode="bilinear"
    )
    return Image.fromarray(with_attention(pixels, weights).permute(1, 2, 0).numpy())


def data_url(pixels: torch.Tensor, side: int = PICTURE_SIDE) -> str:
    """An image (3, H, W), uint8, as a data URL; its longer side has `side` pixels there."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = side / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def plot() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def loss_curves(log_history: Sequence[dict[str, float]]) -> Figure | None:
    """Each term of the loss over the epochs; a grey ground where the alignment was trained alone."""
    lines = [line for line in log_history if "grad_norm" in line]
    if len(lines) < 2:
        return None
    figure, axes = plot()
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
    """How often answers of about one probability are right; the size of a point is their number."""
    curve = reliability_curve([row["prediction_probability"] for row in answers], are_right(answers))
    means, accuracies, counts = (np.array(values) for values in zip(*curve, strict=True))
    figure, axes = plot()
    axes.plot([0, 1], [0, 1], color="#808080", linestyle="--", label="as they should be")
    axes.plot(means, accuracies, color=COLOURS[0], linewidth=1)
    axes.scatter(means, accuracies, s=10 + 190 * counts / counts.max(), color=COLOURS[0], label="answers")
    axes.set_xlabel("probability")
    axes.set_ylabel("share that is right")
    axes.legend(frameon=False)
    return figure


def cosine_plot(answers: list[dict[str, Any]]) -> Figure | None:
    own, other = (
        [row[name] for row in answers if row.get(name) is not None] for name in ("align_cosine", "align_cosine_wrong")
    )
    if not own:
        return None
    figure, axes = plot()
    axes.margins(y=0.3)  # room for the legend
    bins = np.linspace(min(own + other), max(own + other) + 1e-6, 40)
    axes.hist(own, bins, color=COLOURS[0], alpha=0.6, label="own text")
    axes.hist(other, bins, color=COLOURS[1], alpha=0.6, label="another image's text")
    axes.set_xlabel("cosine")
    axes.set_ylabel("questions")
    axes.legend(frameon=False)
    return figure


def svg(figure: Figure) -> Markup:
    """A figure as an SVG element whose text has the page's colour."""
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
    # Without the XML header, whose addresses nothing here reads.
    return Markup(drawing[drawing.index("<svg") :].replace(TEXT_COLOUR, "currentColor"))
