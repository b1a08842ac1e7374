"""Answers to questions whose right answers nobody may know, as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.images import VqaData
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answering import (
    answer_probabilities,
    answer_questions,
    answer_without_image,
    encode_all_images,
    encode_blank_image,
    probabilities_without_image,
)
from .controls import are_correct, right_answers_of_row

# Columns of what a model says, in the rows and in the table.
PREDICTED = ("prediction", "prediction_probability", "blank", "blank_probability")


def predict(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    batch_size: int,
    **generate_kwargs,
) -> list[dict[str, Any]]:
    """Answers every question of `data`; each image is encoded once.

    Returns:
        One row per question, with the columns of `data`'s questions, among them question, image_id and answer (the
        right one, "" where it is not known), and with row, prediction, prediction_probability, blank and
        blank_probability as in the rows of `evaluate_model`. Where the image can't be read, the last four are None.
    """
    columns = {name: list(data.questions[name]) for name in data.questions.column_names}
    questions, image_ids = columns["question"], columns["image_id"]
    features = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    asked = (model, processor, questions)
    blank = encode_blank_image(model, processor.image_processor, data.image_shape)
    predictions = answer_questions(*asked, features, image_ids, batch_size, **generate_kwargs)
    columns |= {
        "row": list(range(len(questions))),
        "prediction": predictions,
        "prediction_probability": answer_probabilities(*asked, predictions, features, image_ids, batch_size),
        "blank": answer_without_image(*asked, blank, batch_size, **generate_kwargs),
        "blank_probability": probabilities_without_image(*asked, predictions, blank, batch_size),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    nothing = dict.fromkeys(PREDICTED)
    return [row | nothing if row["image_id"] in data.unreadable else row for row in rows]


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes `rows` of `predict` or of `evaluate_model` as parquet, for people and for `mmjepa score`.

    Its columns are image, question, prediction, prediction_probability, blank and blank_probability; and, if any right
    answer is known, answer, answers where rows have lists of them, and correct, None where no answer is known. An
    image is called by its file, or by its number.
    """
    table: dict[str, list] = {
        "image": [row.get("image_file") or f"image {row['image_id']}" for row in rows],
        **{name: [row[name] for row in rows] for name in ("question", *PREDICTED)},
    }
    known = [row["answer"].strip() != "" for row in rows]
    if any(known):
        table["answer"] = [row["answer"] if is_known else None for row, is_known in zip(rows, known, strict=True)]
        if any("answers" in row for row in rows):
            table["answers"] = [
                right_answers_of_row(row) if is_known else [] for row, is_known in zip(rows, known, strict=True)
            ]
        table["correct"] = [
            are_correct([row["prediction"]], [right_answers_of_row(row)])[0]
            if is_known and row["prediction"] is not None
            else None
            for row, is_known in zip(rows, known, strict=True)
        ]
    Dataset.from_dict(table).to_parquet(path)
