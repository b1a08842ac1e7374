"""Answers to questions whose right answers nobody may know, as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.columns import SET_COLUMN
from ..data.images import VqaData
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import Answerer
from .controls import are_correct, right_answers_of_row

# The columns that the model fills, in the rows and in the table.
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
        One row per question. It has the columns of `data`'s questions, among them question, image_id and answer (the
        right one, "" where it is not known); and row, prediction, prediction_probability, blank and blank_probability
        as in the rows of `evaluate_model`. Where the image can't be read, the last four are None.
    """
    columns = {name: data.questions[name][:] for name in data.questions.column_names}
    questions, image_ids = columns["question"], columns["image_id"]
    answerer = Answerer(model, processor, batch_size, generate_kwargs)
    features = answerer.encode_all_images(data.pixels)
    blank = answerer.encode_blank_image(data.image_shape)
    predictions = answerer.answer_questions(questions, features, image_ids)
    columns |= {
        "row": list(range(len(questions))),
        "prediction": predictions,
        "prediction_probability": answerer.answer_probabilities(questions, predictions, features, image_ids),
        "blank": answerer.answer_without_image(questions, blank),
        "blank_probability": answerer.probabilities_without_image(questions, predictions, blank),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    nothing = dict.fromkeys(PREDICTED)
    return [row | nothing if row["image_id"] in data.unreadable else row for row in rows]


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes `rows` of `predict` or of `evaluate_model` as parquet, for people and for `mmjepa score`.

    The columns are image, question, prediction, prediction_probability, blank and blank_probability, and dataset
    where there are several data sets. If any right
    answer is known, there are also answer, answers (where rows have lists of them) and correct (None where no answer
    is known). An image is named by its file or by its number.
    """
    table: dict[str, list] = {
        "image": [row.get("image_file") or f"image {row['image_id']}" for row in rows],
        **{name: [row[name] for row in rows] for name in ("question", *PREDICTED)},
    }
    if rows and SET_COLUMN in rows[0]:
        table[SET_COLUMN] = [row[SET_COLUMN] for row in rows]
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
