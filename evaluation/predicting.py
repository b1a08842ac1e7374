"""Answers to questions whose right answers nobody may know, as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.images import VqaData
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answering import answer_probabilities, answer_questions, answer_without_image, encode_all_images
from .controls import are_correct


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
        right one, "" where it is not known), and with row, prediction, prediction_probability and blank as in the
        rows of `evaluate_model`. Where the image can't be read, the last three are None.
    """
    columns = {name: list(data.questions[name]) for name in data.questions.column_names}
    questions, image_ids = columns["question"], columns["image_id"]
    features = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    asked = (model, processor, questions)
    predictions = answer_questions(*asked, features, image_ids, batch_size, **generate_kwargs)
    columns |= {
        "row": list(range(len(questions))),
        "prediction": predictions,
        "prediction_probability": answer_probabilities(*asked, predictions, features, image_ids, batch_size),
        "blank": answer_without_image(*asked, data.image_shape, batch_size, **generate_kwargs),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    nothing = dict.fromkeys(("prediction", "prediction_probability", "blank"))
    return [row | nothing if row["image_id"] in data.unreadable else row for row in rows]


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes `rows` of `predict` or of `evaluate_model` as parquet, for people.

    Its columns are image, question, answer (the model's), probability, answer_without_image; and, if any right answer
    is known, truth and correct, None where it is not. An image is called by its file, or by its number.
    """
    table: dict[str, list] = {
        "image": [row.get("image_file") or f"image {row['image_id']}" for row in rows],
        "question": [row["question"] for row in rows],
        "answer": [row["prediction"] for row in rows],
        "probability": [row["prediction_probability"] for row in rows],
        "answer_without_image": [row["blank"] for row in rows],
    }
    truths = [row["answer"] or None for row in rows]
    if any(truths):
        table["truth"] = truths
        table["correct"] = [
            None if truth is None or answer is None else are_correct([answer], [truth])[0]
            for answer, truth in zip(table["answer"], truths, strict=True)
        ]
    Dataset.from_dict(table).to_parquet(path)
