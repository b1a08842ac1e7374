"""What a model answers on a set of questions, how good that is, and what of it the image brought.

Accuracy says little alone: half of PathVQA's answers follow from the question's wording. The same questions are
therefore answered by controls that can't see the right image, and `image_gain` is the distance to one of them.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import numpy as np
import torch
from datasets import Dataset
from torch import distributed
from tqdm.auto import tqdm

from ..data.batches import alignment_text
from ..data.images import VqaData
from ..data.loading import is_answered
from ..encoder_mmjepa import MMJepaImageFeatures
from ..metrics.vqa_answers.vqa_answers import normalize_answer, right_answers, score_answers
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .alignment import alignment_metrics, cosines
from .answering import (
    answer_probabilities,
    answer_questions,
    answer_without_image,
    encode_all_images,
    encode_all_texts,
    encode_blank_image,
    own_share,
    probabilities_without_image,
)
from .calibration import calibration_metrics
from .collapse import warn_of_collapse
from .controls import are_correct, image_gain, majority_answers, named_interval, other_images, with_answers
from .ranking import best_threshold, rank_questions, training_answers

CONTROL_SCORES = ("accuracy", "yes_no_accuracy", "open_accuracy")
WHOLE_QUESTION = (None, 3, 2, 1, 0)  # first words, for `majority_answers`


def evaluate_model(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    train_questions: Dataset | None,
    batch_size: int,
    seed: int = 0,
    answers_file: TextIO | None = None,
    show_progress: bool = False,
    with_probabilities: bool = False,
    **generate_kwargs,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Answers every question of `data` and scores the answers, the controls and the alignment.

    Args:
        data: a row without a question counts for the alignment alone; one with a question and no answer counts for
            nothing. Where questions have a column `answers`, an answer that equals any of a row's is right.
        train_questions: columns question and answer, from which the majority answers are learnt and answers are
            ranked; none of the rows of `data` may be among them. Without a row in it neither is done. With None each
            question is answered about its own image alone, as is done while training: no controls, no ranking, no
            alignment.
        batch_size: questions, images or texts at once.
        seed: of the shuffled images and of the bootstrap.
        answers_file: takes the rows of this process as lines of JSON while they are answered, without controls.
        show_progress: a bar of this process's answers, those of the controls too; the first process's alone.
        with_probabilities: gives the probabilities of the answers that were written, and `calibration_metrics`; with
            controls also the probabilities of the same answers about a black image.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Returns:
        The numbers, and one row per question. Numbers are those of `score_answers`; for each control
        `accuracy_<control>`, `yes_no_accuracy_<control>` and `open_accuracy_<control>` with the controls
        shuffled_images, blank_images, majority (of the question's first words) and majority_question; those of
        `image_gain` and `majority_lead`, and num_images, of how many images they are; those of `alignment_metrics`;
        those of `score_ranking`, if the model ranks answers. Rows have row (the question's place in `data`), image_id,
        question, answer (the right one), the other columns of `data`'s questions, such as answers (all, where there
        are lists), and prediction; with controls shuffled and blank, the predictions about another and about a black
        image, and align_cosine and align_cosine_wrong of the row's own and of another image, None where it has no
        alignment text or shares it with the other; with ranking ranked and ranked_probability; with probabilities
        prediction_probability, and with controls too blank_probability, that of the same prediction about a black
        image, and from_image, the first less the second. With torch.distributed every process gets them all.
    """
    texts = zip(data.questions["question"], data.questions["answer"], strict=True)
    rows = [row for row, (question, answer) in enumerate(texts) if question != "" and answer.strip() != ""]
    asked = data.questions.select(rows)
    names = dict.fromkeys(("image_id", "question", "answer", *asked.column_names))
    columns: dict[str, list] = {"row": rows} | {name: list(asked[name]) for name in names}
    questions, image_ids, truths = columns["question"], columns["image_id"], right_answers_of(columns)
    # With controls each question is answered about two images, and each distinct one about none.
    asked_with = [questions, questions, list(set(questions))] if train_questions is not None else [questions]
    bar = tqdm(
        total=sum(len(own_share(texts)) for texts in asked_with),
        desc="answers",
        leave=False,
        dynamic_ncols=True,
        disable=not show_progress or (distributed.is_initialized() and distributed.get_rank() > 0),
    )

    def answer(
        questions: list[str],
        features: MMJepaImageFeatures,
        image_ids: Sequence[int],
        on_batch: Callable[[Sequence[int], list[str]], None] | None = None,
    ) -> list[str]:
        def advance(batch: Sequence[int], predictions: list[str]) -> None:
            bar.update(len(batch))
            if on_batch is not None:
                on_batch(batch, predictions)

        return answer_questions(
            model, processor, questions, features, image_ids, batch_size, advance, **generate_kwargs
        )

    def write(batch: Sequence[int], predictions: list[str]) -> None:
        for place, prediction in zip(batch, predictions, strict=True):
            row = {name: values[place] for name, values in columns.items()} | {"prediction": prediction}
            answers_file.write(json_line(row))
        answers_file.flush()

    features = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    on_batch = None if answers_file is None else write
    columns["prediction"] = answer(questions, features, image_ids, on_batch=on_batch)
    metrics = score_answers(columns["prediction"], truths, questions)
    if with_probabilities:
        columns["prediction_probability"] = answer_probabilities(
            model, processor, questions, columns["prediction"], features, image_ids, batch_size
        )
        if questions:
            correct = are_correct(columns["prediction"], truths)
            metrics |= calibration_metrics(columns["prediction_probability"], correct)
    if train_questions is not None and questions:
        columns["shuffled"] = answer(questions, features, other_images(image_ids, seed))
        blank = encode_blank_image(model, processor.image_processor, data.image_shape)
        columns["blank"] = answer_without_image(
            model,
            processor,
            questions,
            blank,
            batch_size,
            lambda rows, _: bar.update(len(rows)),
            **generate_kwargs,
        )
        if with_probabilities:
            columns["blank_probability"] = probabilities_without_image(
                model, processor, questions, columns["prediction"], blank, batch_size
            )
            columns["from_image"] = [
                seen - unseen
                for seen, unseen in zip(columns["prediction_probability"], columns["blank_probability"], strict=True)
            ]
        learnt_from = with_answers(train_questions)
        metrics |= score_controls(columns, learnt_from, image_ids, seed)
        if model.config.predict_answer and len(learnt_from) > 0:
            answers = training_answers(model, processor, learnt_from, batch_size)
            ranked = rank_questions(model, processor, questions, features, image_ids, batch_size, answers)
            columns["ranked"], columns["ranked_probability"] = map(list, zip(*ranked, strict=True))
            metrics |= score_ranking(columns, answers.texts, model.config.rank_threshold)
    bar.close()
    if train_questions is not None:
        alignment, cosines = score_alignment(model, processor, data, features.image_embeds, batch_size, seed)
        metrics |= alignment
        for name, values in cosines.items():
            columns[name] = [values.get(row) for row in rows]
    warn_of_collapse(model, features.visual_tokens, metrics)
    return metrics, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON: a number that is none (NaN) as null, a date as text."""
    known = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    return json.dumps(known, default=str) + "\n"


def right_answers_of(columns: dict[str, list]) -> list:
    """What counts as right for each question: its `answers` where the rows have lists of them, else its `answer`."""
    return columns.get("answers", columns["answer"])


def score_controls(
    columns: dict[str, list[str]], train_questions: Dataset, image_ids: Sequence[int], seed: int
) -> dict[str, float]:
    """Scores of the four controls, in the three numbers of the table; the image gain, and the lead over the majority
    answers of the question, each with its interval; and the number of images.

    Args:
        train_questions: without a row in it there are no majority answers.
        columns: question, answer, prediction, shuffled and blank, as in the rows of `evaluate_model`.
    """
    questions, truths = columns["question"], right_answers_of(columns)
    metrics: dict[str, float] = score_majority(train_questions, questions, truths)
    for control, column in (("shuffled_images", "shuffled"), ("blank_images", "blank")):
        scores = score_answers(columns[column], truths, questions)
        metrics |= {f"{name}_{control}": scores[name] for name in CONTROL_SCORES if name in scores}
    correct, correct_shuffled = (are_correct(columns[name], truths) for name in ("prediction", "shuffled"))
    metrics |= image_gain(correct, correct_shuffled, image_ids, seed)
    if len(train_questions) > 0:
        majority = are_correct(majority_answers(train_questions, questions, WHOLE_QUESTION), truths)
        metrics |= named_interval("majority_lead", np.subtract(correct, majority, dtype=float), image_ids, seed)
    return metrics | {"num_images": len(set(image_ids))}


def score_majority(train_questions: Dataset, questions: list[str], truths: list[str]) -> dict[str, float]:
    """Scores of the two controls that need no model, majority and majority_question.

    They are learnt from the training rows that ask and have an answer; without such rows there are none.
    """
    metrics: dict[str, float] = {}
    train_questions = with_answers(train_questions)
    if len(train_questions) == 0:
        return metrics
    for control, first_words in (("majority", (3, 2, 1, 0)), ("majority_question", WHOLE_QUESTION)):
        answers = majority_answers(train_questions, questions, first_words)
        scores = score_answers(answers, truths, questions)
        metrics |= {f"{name}_{control}": scores[name] for name in CONTROL_SCORES if name in scores}
    return metrics


def score_ranking(columns: dict[str, list], answers: list[str], threshold: float | None) -> dict[str, float]:
    """Scores of the answers that were ranked, and of ranking where it is sure and decoding where it is not.

    Args:
        columns: question, answer, prediction, ranked and ranked_probability, as in the rows of `evaluate_model`.
        answers: the list that was ranked.
        threshold: the probability from which ranking is sure; None takes the best one for these questions.

    Returns:
        `accuracy_ranked`, `yes_no_accuracy_ranked`, `open_accuracy_ranked`; the same with `_ranked_or_decoded`;
        and with `_rank_ceiling` what choosing from the list can reach; `rank_threshold`, and `rank_share`, the share
        of questions that it ranks.
    """
    questions, truths, ranked = columns["question"], right_answers_of(columns), columns["ranked"]
    if threshold is None:
        correct, decoded_correct = are_correct(ranked, truths), are_correct(columns["prediction"], truths)
        threshold = best_threshold(correct, decoded_correct, columns["ranked_probability"])
    sure = [probability >= threshold for probability in columns["ranked_probability"]]
    either = [
        rank if is_sure else decoded
        for rank, decoded, is_sure in zip(ranked, columns["prediction"], sure, strict=True)
    ]
    metrics = {"rank_threshold": threshold, "rank_share": sum(sure) / len(sure)}
    known = {normalize_answer(answer) for answer in answers}
    best = [next((answer for answer in right_answers(truth) if answer in known), "none of them") for truth in truths]
    for name, texts in (("ranked", ranked), ("ranked_or_decoded", either), ("rank_ceiling", best)):
        scores = score_answers(texts, truths, questions)
        metrics |= {f"{score}_{name}": scores[score] for score in CONTROL_SCORES if score in scores}
    return metrics


def score_alignment(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    image_embeds: torch.Tensor,
    batch_size: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Whether the images, `image_embeds` (N, D), find their alignment texts, and not those of other images.

    Returns:
        The numbers of `alignment_metrics`; and align_cosine and align_cosine_wrong of the rows that have one.
    """
    texts = [alignment_text(row, model.config.alignment_text) if is_answered(row) else "" for row in data.questions]
    rows = [row for row, text in enumerate(texts) if text != ""]
    if not rows:
        return {}, {"align_cosine": {}, "align_cosine_wrong": {}}
    image_ids = [data.questions["image_id"][row] for row in rows]
    distinct = sorted({texts[row] for row in rows})
    text_ids = [bisect_left(distinct, texts[row]) for row in rows]
    text_embeds = encode_all_texts(model, processor, distinct, batch_size, model.encode_texts)
    other_ids = other_images(image_ids, seed)
    metrics = alignment_metrics(image_embeds, text_embeds, image_ids, text_ids, other_ids)
    own = cosines(image_embeds, text_embeds, list(zip(image_ids, text_ids, strict=True)))
    other = cosines(image_embeds, text_embeds, list(zip(other_ids, text_ids, strict=True)))
    pairs = set(zip(image_ids, text_ids, strict=True))
    wrong = [pair not in pairs for pair in zip(other_ids, text_ids, strict=True)]
    return metrics, {
        "align_cosine": dict(zip(rows, own, strict=True)),
        "align_cosine_wrong": {
            row: cosine for row, cosine, is_wrong in zip(rows, other, wrong, strict=True) if is_wrong
        },
    }
