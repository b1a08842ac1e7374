"""Numbers as a table and answers as a picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..data.images import VqaData
from ..metrics.vqa_answers.vqa_answers import is_right
from .controls import right_answers_of_row

# Name of a row of the table -> suffix of the names of its scores.
TABLE_ROWS = {
    "model": "",
    "model, answers ranked": "_ranked",
    "model, ranked or decoded": "_ranked_or_decoded",
    "shuffled images": "_shuffled_images",
    "blank images": "_blank_images",
    "majority answer of the kind": "_majority",
    "majority answer of the question": "_majority_question",
}
TABLE_COLUMNS = {"yes/no": "yes_no_accuracy", "open": "open_accuracy", "overall": "accuracy"}
PICTURE_COLUMNS = 4


def answer_table(metrics: dict[str, float]) -> str:
    """A Markdown table of the accuracies of the model and of the controls in percent, and the image gain below it.

    Args:
        metrics: the numbers of `evaluate_model`, by their names without prefix. Absent ones are shown as a dash, rows
            without any are left out.
    """
    gain, low, high = (100 * metrics[f"image_gain{end}"] for end in ("", "_low", "_high"))
    interval = f"95 % interval {low:+.1f} to {high:+.1f}"
    table = markdown_table(table_rows(metrics))
    return f"{table}\n\nimage gain (model - shuffled images): {gain:+.1f} points, {interval}"


def table_rows(metrics: dict[str, float]) -> list[dict[str, str]]:
    """The cells of `answer_table`."""
    rows = []
    for name, suffix in TABLE_ROWS.items():
        scores = {column: metrics.get(score + suffix) for column, score in TABLE_COLUMNS.items()}
        if all(score is None for score in scores.values()):
            continue
        shown = {column: "-" if score is None else f"{100 * score:.1f}" for column, score in scores.items()}
        rows.append({"accuracy, %": name} | shown)
    return rows


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of cells as an aligned Markdown table: the first column on the left, the others on the right.

    Args:
        rows: at least one. All have the same keys, which are the names of the columns.
    """
    columns = [[name, *(row[name] for row in rows)] for name in rows[0]]
    widths = [max(3, *map(len, column)) for column in columns]  # a rule has at least three characters
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def draw_answers(
    path: str | Path, data: VqaData, answers: list[dict[str, Any]], image_count: int = 12, seed: int = 0
) -> None:
    """Writes a PNG of some images, each with a question, the prediction (green: right, red: wrong) and the answer.

    The images, and one question about each, are drawn at random by `seed`, whatever the answers are.

    Args:
        answers: the rows of `evaluate_model` on `data`.
    """
    rows_of: dict[int, list[dict[str, Any]]] = {}
    for row in answers:
        rows_of.setdefault(row["image_id"], []).append(row)
    random = np.random.default_rng(seed)
    image_ids = random.permutation(list(rows_of))[:image_count].tolist()
    pixels = data.pixels[image_ids]["pixels"]  # (images, 3, H, W)

    height = -(-len(image_ids) // PICTURE_COLUMNS)
    figure = Figure(figsize=(3 * PICTURE_COLUMNS, 3.8 * height), layout="constrained")
    grid = figure.subplots(height, PICTURE_COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image_id, image in zip(grid, image_ids, pixels, strict=False):
        row = rows_of[image_id][random.integers(len(rows_of[image_id]))]
        correct = is_right(row["prediction"], right_answers_of_row(row))
        axes.imshow(image.permute(1, 2, 0).numpy())
        # A dollar sign is text here, not the start of a formula.
        axes.set_title(textwrap.fill(row["question"], 32), fontsize=9, parse_math=False)
        lines = (f"prediction: {row['prediction']} {'✓' if correct else '✗'}", f"answer: {row['answer']}")
        axes.text(
            0.5,
            -0.04,
            "\n".join(textwrap.fill(line, 32) for line in lines),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=9,
            color="green" if correct else "red",
            parse_math=False,
        )
    figure.savefig(path, dpi=100)
