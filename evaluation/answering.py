"""Encodes images and texts and answers questions, in batches; with several processes each does a share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch import distributed, nn
from torch.nn import functional as F

from ..data.images import normalize_pixels
from ..encoder_mmjepa import MMJepaImageFeatures
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the model in eval mode without gradients, and afterwards back in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def batches(items: Sequence, batch_size: int) -> Iterator[Sequence]:
    return (items[start : start + batch_size] for start in range(0, len(items), batch_size))


def in_shares(items: Sequence, work: Callable[[Sequence], list]) -> list:
    """`work(items)`, a list with one result per item, in order; with torch.distributed each process does a share.

    Process r of n works on items r, r + n, ...; every process gets all results. Results are pickled: tensors in
    them have to be on the CPU.
    """
    if not distributed.is_initialized():
        return work(items)
    shares: list[list] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(shares, work(own_share(items)))
    results = [None] * len(items)
    for rank, share in enumerate(shares):
        results[rank :: len(shares)] = share
    return results


def own_share(items: Sequence) -> Sequence:
    """What of `items` this process does."""
    if not distributed.is_initialized():
        return items
    return items[distributed.get_rank() :: distributed.get_world_size()]


def encode_all_images(
    model: MMJepaForConditionalGeneration, image_processor: Any, pixels: Dataset, batch_size: int
) -> MMJepaImageFeatures:
    """States of the N images of a [`VqaData`]'s `pixels`, each encoded once, on the model's device."""

    def encode(image_ids: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        states: list[tuple[torch.Tensor, torch.Tensor]] = []
        for batch in batches(image_ids, batch_size):
            values = normalize_pixels(pixels[batch]["pixels"].to(model.device), image_processor)  # (I, 3, H, W)
            output = model.get_image_features(values)
            states += zip(output.image_embeds.cpu(), output.visual_tokens.cpu(), strict=True)
        return states

    with evaluating(model):
        image_embeds, visual_tokens = zip(*in_shares(range(len(pixels)), encode), strict=True)
        return MMJepaImageFeatures(
            image_embeds=torch.stack(image_embeds).to(model.device),  # (N, D)
            visual_tokens=torch.stack(visual_tokens).to(model.device),  # (N, M, D)
        )


def encode_blank_image(
    model: MMJepaForConditionalGeneration, image_processor: Any, shape: Sequence[int]
) -> MMJepaImageFeatures:
    """States of one black image of `shape` (3, H, W)."""
    blank = torch.zeros(1, *shape, dtype=torch.uint8, device=model.device)
    with evaluating(model):
        return model.get_image_features(normalize_pixels(blank, image_processor))


def map_questions(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    image_features: MMJepaImageFeatures,
    image_ids: Sequence[int],
    batch_size: int,
    answer: Callable[[Sequence[int], dict[str, Any]], list],
) -> list:
    """A result for each question, in their order, of `answer(rows, inputs)`, which is called for batches of them.

    Args:
        questions: R of them.
        image_features: of N images, as `encode_all_images` makes them.
        image_ids: the image of each question, R numbers below N.
        answer: takes the rows of a batch's questions and the model's inputs, input_ids, attention_mask, image_features
            and image_index, and gives one result per row.
    """
    if not questions:
        return []
    lengths = [len(ids) for ids in processor.tokenizer(list(questions), truncation=True)["input_ids"]]
    # Questions of one length in a batch need no padding, and every process gets short and long ones alike.
    by_length = sorted(range(len(questions)), key=lengths.__getitem__)

    def answer_share(rows: Sequence[int]) -> list:
        results: list = []
        for batch in batches(rows, batch_size):
            ids, image_index = torch.tensor([image_ids[row] for row in batch]).unique(return_inverse=True)
            features = MMJepaImageFeatures(
                image_embeds=image_features.image_embeds[ids], visual_tokens=image_features.visual_tokens[ids]
            )
            text = processor(text=[questions[row] for row in batch], return_tensors="pt").to(model.device)
            images = {"image_features": features, "image_index": image_index.to(model.device)}
            results += answer(batch, {**text, **images})
        return results

    with evaluating(model):
        results = dict(zip(by_length, in_shares(by_length, answer_share), strict=True))
    return [results[row] for row in range(len(questions))]


def answer_questions(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    image_features: MMJepaImageFeatures,
    image_ids: Sequence[int],
    batch_size: int,
    on_batch: Callable[[Sequence[int], list[str]], None] | None = None,
    **generate_kwargs,
) -> list[str]:
    """An answer to each question, in their order, written by the decoder.

    Args:
        questions, image_features, image_ids: as for `map_questions`.
        on_batch: is called after each batch of this process with the rows of its questions and their answers.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.
    """

    def write(rows: Sequence[int], inputs: dict[str, Any]) -> list[str]:
        output = model.generate(**inputs, **generate_kwargs)
        predictions = [text.strip() for text in processor.decode(output, skip_special_tokens=True)]
        if on_batch is not None:
            on_batch(rows, predictions)
        return predictions

    return map_questions(model, processor, questions, image_features, image_ids, batch_size, write)


def answer_without_image(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    blank: MMJepaImageFeatures,
    batch_size: int,
    on_batch: Callable[[Sequence[int], list[str]], None] | None = None,
    **generate_kwargs,
) -> list[str]:
    """An answer to each question about `blank`, the black image of `encode_blank_image`.

    Equal questions are answered once; `on_batch` is called as by `answer_questions` for the distinct ones.
    """
    distinct = sorted(set(questions))
    image_ids = [0] * len(distinct)
    answers = answer_questions(model, processor, distinct, blank, image_ids, batch_size, on_batch, **generate_kwargs)
    answer_of = dict(zip(distinct, answers, strict=True))
    return [answer_of[question] for question in questions]


def answer_probabilities(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    answers: Sequence[str],
    image_features: MMJepaImageFeatures,
    image_ids: Sequence[int],
    batch_size: int,
) -> list[float]:
    """The probability that the decoder gives to each of `answers`, one per question: the product over its tokens, the
    end of the answer among them; the other arguments as for `map_questions`."""

    def score(rows: Sequence[int], inputs: dict[str, Any]) -> list[float]:
        labels = written_labels(processor, [answers[row] for row in rows]).to(model.device)  # (B, A)
        # Not by `labels`: processes have different numbers of batches, and they would wait for each other's losses.
        decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
        logits = model(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits.float()  # (B, A, V)
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (B, A), 0 at -100
        return (-losses.sum(dim=1)).exp().tolist()

    return map_questions(model, processor, questions, image_features, image_ids, batch_size, score)


def probabilities_without_image(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    answers: Sequence[str],
    blank: MMJepaImageFeatures,
    batch_size: int,
) -> list[float]:
    """The probability of each of `answers` where the question is asked about `blank`, as `answer_probabilities`.

    Equal pairs of question and answer are scored once.
    """
    distinct = sorted(set(zip(questions, answers, strict=True)))
    asked, given = ([pair[place] for pair in distinct] for place in (0, 1))
    found = answer_probabilities(model, processor, asked, given, blank, [0] * len(distinct), batch_size)
    probability_of = dict(zip(distinct, found, strict=True))
    return [probability_of[pair] for pair in zip(questions, answers, strict=True)]


def written_labels(processor: MMJepaProcessor, answers: Sequence[str]) -> torch.Tensor:
    """The labels (B, A) of answers that the model wrote.

    Not by the processor, which warns where an answer is cut: nobody can do anything about what an untrained model
    writes.
    """
    tokens = processor.tokenizer(answers, padding=True, truncation=True, padding_side="right", return_tensors="pt")
    return tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)


def encode_all_texts(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    texts: Sequence[str],
    batch_size: int,
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The targets (T, D) of T texts, on the model's device; `encode` is its `encode_texts` or its `encode_answers`."""

    def encode_share(texts: Sequence[str]) -> list[torch.Tensor]:
        embeds: list[torch.Tensor] = []
        for batch in batches(texts, batch_size):
            text = processor(text=list(batch), return_tensors="pt").to(model.device)
            embeds += encode(text["input_ids"], text["attention_mask"]).cpu()
        return embeds

    with evaluating(model):
        return torch.stack(in_shares(texts, encode_share)).to(model.device)
