"""What a model answers on a set of questions, how good that is, and how much of it is due to the image.

Accuracy says little alone: half of PathVQA's answers follow from the question's wording. The same questions are
therefore answered by controls that can't see the right image, and `image_gain` is the distance to one of them.
"""

import json
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, TextIO

from datasets import Dataset

from ..data.batches import alignment_text
from ..data.images import VqaData
from ..metrics.vqa_answers.vqa_answers import score_answers
from ..modeling_mmjepa import MMJepaForConditionalGeneration, MMJepaImageFeatures
from ..processing_mmjepa import MMJepaProcessor
from .alignment import alignment_metrics
from .answering import answer_questions, encode_all_images, encode_all_texts, encode_blank_image
from .controls import are_correct, image_gain, majority_answers, other_images

CONTROL_SCORES = ("accuracy", "yes_no_accuracy", "open_accuracy")


def evaluate_model(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    train_questions: Dataset,
    batch_size: int,
    seed: int = 0,
    answers_file: TextIO | None = None,
    **generate_kwargs,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Answers every question of `data` and scores the answers, the controls and the alignment.

    Args:
        train_questions: columns question and answer, from which the majority answers are learnt.
        batch_size: questions, images or texts at once.
        seed: of the shuffled images and of the bootstrap.
        answers_file: an open file, to which this process writes a line of JSON for each of its questions as soon as it
            is answered: its row below without the controls' answers.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Returns:
        The numbers, and one row per question. Numbers are those of `score_answers`; for each control
        `accuracy_<control>`, `yes_no_accuracy_<control>` and `open_accuracy_<control>`, where the controls are
        shuffled_images, blank_images, majority (of the question's first words) and majority_question; those of
        `image_gain` and `alignment_metrics`. Rows have row (the question's place in `data`), image_id, question,
        answer (the right one), prediction, shuffled and blank. With torch.distributed every process gets them all.
    """
    image_ids = list(data.questions["image_id"])
    other_ids = other_images(image_ids, seed)
    features = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    rows = answer_with_controls(
        model, processor, data, features, other_ids, batch_size, answers_file, **generate_kwargs
    )
    metrics = score_with_controls(rows, train_questions)
    correct, correct_shuffled = are_correct(rows, "prediction"), are_correct(rows, "shuffled")
    metrics |= image_gain(correct, correct_shuffled, image_ids, seed)

    texts = [alignment_text(row, model.config.alignment_text) for row in data.questions]
    pairs = [
        (image, text, other) for image, text, other in zip(image_ids, texts, other_ids, strict=True) if text != ""
    ]
    if pairs:
        own_ids, own_texts, wrong_ids = zip(*pairs, strict=True)
        distinct = sorted(set(own_texts))
        text_ids = [bisect_left(distinct, text) for text in own_texts]
        text_embeds = encode_all_texts(model, processor, distinct, batch_size)
        metrics |= alignment_metrics(features.image_embeds, text_embeds, own_ids, text_ids, wrong_ids)
    return metrics, rows


def answer_with_controls(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    image_features: MMJepaImageFeatures,
    other_ids: Sequence[int],
    batch_size: int,
    answers_file: TextIO | None = None,
    **generate_kwargs,
) -> list[dict[str, Any]]:
    """The rows that `evaluate_model` returns: each question answered about its image, another image and a blank one.

    Args:
        image_features: of all images of `data`.
        other_ids: the other image of each row.
        answers_file: as in `evaluate_model`.
    """

    def answer(questions: list[str], features: MMJepaImageFeatures, image_ids: Sequence[int], **kwargs) -> list[str]:
        kwargs |= generate_kwargs
        return answer_questions(model, processor, questions, features, image_ids, batch_size, **kwargs)

    questions, truths, image_ids = (list(data.questions[name]) for name in ("question", "answer", "image_id"))
    rows: list[dict[str, Any]] = [
        {"row": row, "image_id": image_id, "question": question, "answer": truth}
        for row, (image_id, question, truth) in enumerate(zip(image_ids, questions, truths, strict=True))
    ]

    def write(batch: Sequence[int], predictions: list[str]) -> None:
        lines = (rows[row] | {"prediction": prediction} for row, prediction in zip(batch, predictions, strict=True))
        answers_file.writelines(json.dumps(line) + "\n" for line in lines)
        answers_file.flush()

    predictions = answer(questions, image_features, image_ids, on_batch=write if answers_file is not None else None)
    shuffled = answer(questions, image_features, other_ids)
    # Without an image equal questions have equal answers.
    distinct = sorted(set(questions))
    blank_features = encode_blank_image(model, processor.image_processor, data.pixels)
    blank_answers = dict(zip(distinct, answer(distinct, blank_features, [0] * len(distinct)), strict=True))
    blank = [blank_answers[question] for question in questions]
    return [
        row | {"prediction": prediction, "shuffled": other, "blank": without}
        for row, prediction, other, without in zip(rows, predictions, shuffled, blank, strict=True)
    ]


def score_with_controls(rows: list[dict[str, Any]], train_questions: Dataset) -> dict[str, float]:
    """Scores of the rows' answers and, in the three numbers of the table, of the four controls."""
    questions, truths = [row["question"] for row in rows], [row["answer"] for row in rows]
    controls = {
        "shuffled_images": [row["shuffled"] for row in rows],
        "blank_images": [row["blank"] for row in rows],
        "majority": majority_answers(train_questions, questions),
        "majority_question": majority_answers(train_questions, questions, first_words=(None, 3, 2, 1, 0)),
    }
    metrics = score_answers([row["prediction"] for row in rows], truths, questions)
    for control, answers in controls.items():
        scores = score_answers(answers, truths, questions)
        metrics |= {f"{name}_{control}": scores[name] for name in CONTROL_SCORES if name in scores}
    return metrics
