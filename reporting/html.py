"""A run's results as one HTML file that needs no other: numbers, curves, and answers with what was looked at."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image

from ..data.images import VqaData
from ..data.pixels import normalize_pixels
from ..evaluation.answerer import evaluating
from ..evaluation.attention import attention_maps
from ..evaluation.controls import right_answers_of_row, rows_are_correct, share_right
from ..evaluation.intervals import mean_interval
from ..metrics.vqa_answers.rules import is_yes_no
from ..metrics.vqa_answers.vqa_answers import is_right
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .curves import cosine_plot, loss_curves, reliability_plot, risk_coverage_plot, score_curves, svg
from .picture import with_attention
from .plain_words import advice, plain_words
from .reply_text import attention_text
from .table import set_rows, statement_rows, table_rows

EXAMPLES = 8  # of wrong and of right answers
PICTURE_SIDE = 192  # pixels
# A row of the table -> the column of the answers' rows that it is about.
ANSWERS = {
    "model": "prediction",
    "model, answers ranked": "ranked",
    "model, by statements": "by_statements",
    "shuffled images": "all_shuffled",
    "blank images": "blank",
}


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
        metrics: the numbers of `evaluate_model`, by their names without a prefix.
        data: what was asked. The right answers are those of the rows.
        answers: the rows of `evaluate_model`, at least one, with controls and probabilities.
        log_history: of the Trainer's state. Without training steps there is no curve of losses.
        model, processor: draw where the decoder looked.
    """
    plots = {
        "Losses while training": loss_curves(log_history),
        "Accuracy and image gain": score_curves(log_history),
        "Are probabilities right?": reliability_plot(answers),
        "How many answers are wrong where it is surest?": risk_coverage_plot(answers),
        "Cosine of image and text": cosine_plot(answers),
    }
    wrong, right = examples(answers)
    page = page_text(
        "report.html.jinja",
        title=title,
        sentences=[*plain_words(metrics), *advice(metrics)],
        table=table_rows(metrics),
        intervals=intervals(answers),
        statements=statement_rows(metrics),
        sets=set_rows(metrics),
        kinds=kind_rows(metrics),
        plots={name: svg(figure, f"{name}:") for name, figure in plots.items() if figure is not None},
        galleries={
            "Wrong answers, the surest first": pictures(wrong, data, model, processor),
            "Right answers, the surest first": pictures(right, data, model, processor),
        },
    )
    Path(path).write_text(page, encoding="utf-8")


def page_text(template: str, **values: Any) -> str:
    """A page of this folder's `template`, in which all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**values)


def intervals(answers: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """95 % intervals, in percent, of the accuracies in `table_rows`: row of the table -> column -> "low to high".

    Only for answers that the rows have.
    """
    image_ids = [row["image_id"] for row in answers]
    yes_no = np.array([is_yes_no(right_answers_of_row(row)[0]) for row in answers])
    counted = {"yes/no": yes_no, "open": ~yes_no, "overall": np.ones_like(yes_no)}
    shown: dict[str, dict[str, str]] = {}
    for name, column in ANSWERS.items():
        if column in answers[0]:
            correct = np.array([share_right(row[column], right_answers_of_row(row)) for row in answers])
            shown[name] = {}
            for kind, counts in counted.items():
                if counts.any():
                    _, low, high = mean_interval(np.where(counts, correct, np.nan), image_ids, seed=0)
                    shown[name][kind] = f"{100 * low:.1f} to {100 * high:.1f}"
    return shown


def kind_rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """For each kind of question its number and accuracy, the most frequent kind first."""
    counts = {name.removeprefix("count_"): int(n) for name, n in metrics.items() if name.startswith("count_")}
    return [
        {"kind": kind.replace("_", " "), "count": number, "accuracy": metrics[f"accuracy_{kind}"]}
        for kind, number in sorted(counts.items(), key=lambda item: -item[1])
    ]


def examples(answers: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The most probable wrong and right answers, each about an image of its own."""
    judged = zip(answers, rows_are_correct(answers), strict=True)
    chosen: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for row, correct in sorted(judged, key=lambda pair: -pair[0]["prediction_probability"]):
        rows = chosen[correct]
        if len(rows) < EXAMPLES and row["image_id"] not in {other["image_id"] for other in rows}:
            rows.append(row)
    return chosen[False], chosen[True]


def pictures(
    rows: list[dict[str, Any]], data: VqaData, model: MMJepaForConditionalGeneration, processor: MMJepaProcessor
) -> list[dict[str, Any]]:
    """The rows, each with its picture as a data URL, and again with the decoder's attention over it."""
    if not rows:
        return []
    pixels = data.pixels[[row["image_id"] for row in rows]]["pixels"]  # (B, 3, H, W)
    values = normalize_pixels(pixels.to(model.device), processor.image_processor)
    asked, answered = ([row[name] for row in rows] for name in ("question", "prediction"))
    with evaluating(model):
        features = model.get_image_features(values)
    maps = attention_maps(model, processor, asked, answered, features, model.encoder.patch_grid(values))  # (B, h, w)
    return [
        row
        | {
            "same_without_image": is_right(row["blank"], row["prediction"]),
            "image_name": row.get("image_file") or f"image {row['image_id']}",
            "picture": data_url(pixels[place]),
            "looked": None if maps is None else attention_text(maps[place]),
            "attention": None if maps is None else data_url(with_attention(pixels[place], maps[place])),
        }
        for place, row in enumerate(rows)
    ]


def data_url(pixels: torch.Tensor, side: int = PICTURE_SIDE) -> str:
    """An image (3, H, W), uint8, as a data URL; its longer side has `side` pixels there."""
    return image_url(Image.fromarray(pixels.permute(1, 2, 0).numpy()), side)


def image_url(image: Image.Image, side: int = PICTURE_SIDE) -> str:
    """An RGB image as a data URL; its longer side has `side` pixels there."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
