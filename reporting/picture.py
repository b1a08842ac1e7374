"""Answers beside their images, and where in an image the decoder looked."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F
from transformers import BaseImageProcessor

from ..data.images import VqaData
from ..evaluation.controls import right_answers_of_row
from ..metrics.vqa_answers.vqa_answers import is_right

PICTURE_COLUMNS = 4


def draw_answers(
    path: str | Path, data: VqaData, answers: list[dict[str, Any]], image_count: int = 12, seed: int = 0
) -> None:
    """Writes a PNG of some images, each with a question, the prediction (green: right, red: wrong) and the answer.

    `seed` draws the images, and one question about each. The answers have no influence on the draw.

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
        draw_answer(axes, image, row)
    figure.savefig(path, dpi=100)


def draw_answer(axes: Axes, image: torch.Tensor, row: dict[str, Any]) -> None:
    """One image (3, H, W), uint8, below its question and above prediction and answer."""
    correct = is_right(row["prediction"], right_answers_of_row(row))
    axes.imshow(image.permute(1, 2, 0).numpy())
    # parse_math: else a dollar sign would start a formula.
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


def with_attention(pixels: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """An image (3, H, W), uint8: in colour where the decoder looked most, grey where it did not look.

    `attention` (h, w) is shown relative to its largest value.
    """
    weights = (attention / attention.max().clamp(min=1e-9))[None, None]
    weights = F.interpolate(weights, pixels.shape[1:], mode="bilinear")[0]  # (1, H, W)
    image = pixels.float()
    faded = image.mean(dim=0, keepdim=True) * 0.35 + 40
    return (weights * image + (1 - weights) * faded).round().to(torch.uint8)


def draw_attention(picture: Image.Image, attention: torch.Tensor, image_processor: BaseImageProcessor) -> Image.Image:
    """`picture` in colour where the decoder looked, and grey elsewhere.

    `attention` (h, w) covers what the model sees: the whole picture, or its middle if the image processor crops.
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
    weights[top : top + height, left : left + width] = F.interpolate(
        attention[None, None], (height, width), mode="bilinear"
    )
    return Image.fromarray(with_attention(pixels, weights).permute(1, 2, 0).numpy())
