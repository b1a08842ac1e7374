"""Answers chosen from a closed list: the whole list is scored in one step of the decoder, and nothing is written."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from ..encoder_mmjepa import MMJepaImageFeatures
from ..metrics.vqa_answers.vqa_answers import normalize_answer
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answering import answer_questions, encode_all_texts, map_questions


@dataclass
class AnswerList:
    """K answers to choose from, encoded once.

    texts: the answers, each as it is most often written.
    embeds (K, D): their targets, of `encode_answers`.
    log_shares (K,): the logarithms of their shares of the training answers. A model that was trained on answers as
        often as they occur scores how much more likely an answer is than this.
    """

    texts: list[str]
    embeds: torch.Tensor
    log_shares: torch.Tensor


def training_answers(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, train_questions: Dataset, batch_size: int
) -> AnswerList:
    """The distinct answers of the training questions; those that are equal once normalised are one."""
    spellings: dict[str, Counter[str]] = {}
    for question, answer in zip(train_questions["question"], train_questions["answer"], strict=True):
        if question:
            spellings.setdefault(normalize_answer(answer), Counter())[answer] += 1
    texts = [counter.most_common(1)[0][0] for counter in spellings.values()]
    embeds = encode_all_texts(model, processor, texts, batch_size, model.encode_answers)
    counts = torch.tensor([counter.total() for counter in spellings.values()], device=model.device)
    return AnswerList(texts, embeds, (counts / counts.sum()).log())


def rank_questions(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    image_features: MMJepaImageFeatures,
    image_ids: Sequence[int],
    batch_size: int,
    answers: AnswerList,
) -> list[tuple[str, float]]:
    """The most probable of `answers` to each question, and its probability; the other arguments as for
    `answer_questions`."""

    def rank(rows: Sequence[int], inputs: dict[str, Any]) -> list[tuple[str, float]]:
        scores = model.rank_answers(answers.embeds, **inputs) + answers.log_shares  # (B, K)
        probabilities, places = scores.softmax(dim=-1).max(dim=-1)
        return [(answers.texts[place], p) for place, p in zip(places.tolist(), probabilities.tolist(), strict=True)]

    return map_questions(model, processor, questions, image_features, image_ids, batch_size, rank)


def rank_or_decode(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    image_features: MMJepaImageFeatures,
    image_ids: Sequence[int],
    batch_size: int,
    answers: AnswerList,
    threshold: float,
    **generate_kwargs,
) -> list[str]:
    """Ranked answers where their probability is at least `threshold`, and written ones to the other questions."""
    ranked = rank_questions(model, processor, questions, image_features, image_ids, batch_size, answers)
    results = [text for text, _ in ranked]
    unsure = [row for row, (_, probability) in enumerate(ranked) if probability < threshold]
    if unsure:
        unsure_questions, unsure_ids = [questions[row] for row in unsure], [image_ids[row] for row in unsure]
        written = answer_questions(
            model, processor, unsure_questions, image_features, unsure_ids, batch_size, **generate_kwargs
        )
        for row, text in zip(unsure, written, strict=True):
            results[row] = text
    return results


def best_threshold(
    ranked_correct: Sequence[bool], decoded_correct: Sequence[bool], probabilities: Sequence[float]
) -> float:
    """The threshold of `rank_or_decode` with the most right answers; of equally good ones that which ranks most.

    2 where ranking no question is best, which no probability reaches.
    """
    surest_first = sorted(range(len(probabilities)), key=lambda row: -probabilities[row])
    threshold, best, gained = 2.0, 0, 0
    for place, row in enumerate(surest_first):
        gained += int(ranked_correct[row]) - int(decoded_correct[row])
        last = place + 1 == len(surest_first)
        # Questions of equal probability are ranked together or not at all.
        if gained >= best and (last or probabilities[surest_first[place + 1]] < probabilities[row]):
            threshold, best = probabilities[row], gained
    return threshold
