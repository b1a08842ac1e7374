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
        One row per question, with those names of the rows of `evaluate_model` that need no right answers: row,
        image_id, question, answer (the right one, "" where it is not known), prediction, prediction_probability and
        blank. Where the image can't be read, the last three are None.
    """
    questions, image_ids = list(data.questions["question"]), list(data.questions["image_id"])
    features = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    asked = (model, processor, questions)
    predictions = answer_questions(*asked, features, image_ids, batch_size, **generate_kwargs)
    columns = {
        "row": range(len(questions)),
        "image_id": image_ids,
        "question": questions,
        "answer": list(data.questions["answer"]),
        "prediction": predictions,
        "prediction_probability": answer_probabilities(*asked, predictions, features, image_ids, batch_size),
        "blank": answer_without_image(*asked, data.pixels, batch_size, **generate_kwargs),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    nothing = dict.fromkeys(("prediction", "prediction_probability", "blank"))
    return [row | nothing if row["image_id"] in data.unreadable else row for row in rows]


def write_predictions(path: Path, rows: Sequence[dict[str, Any]], image_names: Sequence[str | None]) -> None:
    """Writes `rows` of `predict` or of `evaluate_model` as parquet, for people.

    Its columns are image, question, answer (the model's), probability, answer_without_image; and, if any right answer
    is known, truth and correct, None where it is not.

    Args:
        image_names: of each question of the data that the rows were made of; None calls an image by its number.
    """
    table: dict[str, list] = {
        "image": [image_names[row["row"]] or f"image {row['image_id']}" for row in rows],
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
