"""What a model answers on a set of questions, how good that is, and what of it the image brought.

Accuracy says little alone: half of PathVQA's answers follow from the question's wording. The same questions are
therefore answered by controls that can't see the right image, and `image_gain` is the distance to one of them.
"""

import json
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np
import torch
from datasets import Dataset
from torch import distributed, nn
from torch.nn import functional as F

from .data_pathvqa import VqaData, alignment_text, normalize_pixels
from .metrics.vqa_answers.vqa_answers import normalize_answer, score_answers
from .modeling_mmjepa import MMJepaForConditionalGeneration, MMJepaImageStates
from .processing_mmjepa import MMJepaProcessor

CONTROL_SCORES = ("accuracy", "yes_no_accuracy", "open_accuracy")
RECALL_RANKS = (1, 5, 10)
IMAGES_PER_BLOCK = 256


def evaluate_model(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    train_questions: Dataset,
    batch_size: int,
    seed: int = 0,
    stream: TextIO | None = None,
    **generate_kwargs,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Answers every question of `data` and scores the answers, the controls and the alignment.

    Args:
        train_questions: columns question and answer, from which the majority answers are learnt.
        batch_size: questions, images or texts at once.
        seed: of the shuffled images and of the bootstrap.
        stream: takes this process's answers as soon as they are given, as `answer_questions` writes them.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Returns:
        The numbers, and a row a question. Numbers are those of `score_answers`; for each control `accuracy_<control>`,
        `yes_no_accuracy_<control>` and `open_accuracy_<control>` with the controls shuffled_images, blank_images,
        majority (of the question's first words) and majority_question; those of `image_gain` and
        `alignment_metrics`. Rows have question, answer (the right one), prediction, shuffled, blank and image_id.
        With torch.distributed every process gets them all.
    """
    image_ids = list(data.questions["image_id"])
    other_ids = other_images(image_ids, seed)
    image_states = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    rows = answer_with_controls(model, processor, data, image_states, other_ids, batch_size, stream, **generate_kwargs)
    metrics = score_with_controls(rows, train_questions)
    correct, correct_shuffled = are_correct(rows, "prediction"), are_correct(rows, "shuffled")
    metrics |= image_gain(correct, correct_shuffled, image_ids, seed)

    texts = [alignment_text(row) for row in data.questions]
    distinct = sorted(set(texts))
    text_ids = [bisect_left(distinct, text) for text in texts]
    text_embeds = encode_all_texts(model, processor, distinct, batch_size)
    metrics |= alignment_metrics(image_states.image_embeds, text_embeds, image_ids, text_ids, other_ids)
    return metrics, rows


def answer_with_controls(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    image_states: MMJepaImageStates,
    other_ids: Sequence[int],
    batch_size: int,
    stream: TextIO | None = None,
    **generate_kwargs,
) -> list[dict[str, Any]]:
    """The rows that `evaluate_model` returns: each question answered about its image, another image and a blank one.

    Args:
        image_states: of all images of `data`.
        other_ids: the other image of each row.
        stream: takes the answers about the right image as soon as they are given.
    """

    def answer(questions: list[str], image_states: MMJepaImageStates, image_ids: Sequence[int], **kwargs) -> list[str]:
        kwargs |= generate_kwargs
        return answer_questions(model, processor, questions, image_states, image_ids, batch_size, **kwargs)

    questions, truths, image_ids = (list(data.questions[name]) for name in ("question", "answer", "image_id"))
    predictions = answer(questions, image_states, image_ids, stream=stream)
    shuffled = answer(questions, image_states, other_ids)
    # Without an image equal questions have equal answers.
    distinct = sorted(set(questions))
    blank_states = encode_blank_image(model, processor.image_processor, data.pixels)
    blank_answers = dict(zip(distinct, answer(distinct, blank_states, [0] * len(distinct)), strict=True))
    blank = [blank_answers[question] for question in questions]
    names = ("question", "answer", "prediction", "shuffled", "blank", "image_id")
    columns = (questions, truths, predictions, shuffled, blank, image_ids)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; afterwards in the mode it was in."""
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
    """`work(items)`, a list with one result an item, in order; under torch.distributed each process does a share.

    Process r of n works on items r, r + n, ..., and all get all results. Results are pickled, tensors from the CPU.
    """
    if not distributed.is_initialized():
        return work(items)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    shares: list[list] = [[] for _ in range(world_size)]
    distributed.all_gather_object(shares, work(items[rank::world_size]))
    results = [None] * len(items)
    for rank, share in enumerate(shares):
        results[rank::world_size] = share
    return results


def encode_all_images(
    model: MMJepaForConditionalGeneration, image_processor: Any, pixels: Dataset, batch_size: int
) -> MMJepaImageStates:
    """States of the N images of a [`VqaData`]'s `pixels`, each encoded once, on the model's device."""

    def encode(image_ids: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        states: list[tuple[torch.Tensor, torch.Tensor]] = []
        for batch in batches(image_ids, batch_size):
            values = normalize_pixels(pixels[batch]["pixels"].to(model.device), image_processor)  # (I, 3, H, W)
            output = model.encode_images(values)
            states += zip(output.image_embeds.cpu(), output.visual_tokens.cpu(), strict=True)
        return states

    with evaluating(model):
        image_embeds, visual_tokens = zip(*in_shares(range(len(pixels)), encode), strict=True)
        return MMJepaImageStates(
            image_embeds=torch.stack(image_embeds).to(model.device),  # (N, D)
            visual_tokens=torch.stack(visual_tokens).to(model.device),  # (N, M, D)
        )


def encode_blank_image(
    model: MMJepaForConditionalGeneration, image_processor: Any, pixels: Dataset
) -> MMJepaImageStates:
    """States of one black image as large as those of a [`VqaData`]'s `pixels`."""
    blank = torch.zeros_like(pixels[:1]["pixels"])  # (1, 3, H, W)
    with evaluating(model):
        return model.encode_images(normalize_pixels(blank.to(model.device), image_processor))


def answer_questions(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    image_states: MMJepaImageStates,
    image_ids: Sequence[int],
    batch_size: int,
    stream: TextIO | None = None,
    **generate_kwargs,
) -> list[str]:
    """An answer to each question, in their order.

    Args:
        questions: R of them.
        image_states: of N images, as `encode_all_images` makes them.
        image_ids: the image of each question, R numbers below N.
        stream: takes a line of JSON for each answer of this process, batch by batch: its row, question and prediction.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.
    """
    lengths = [len(ids) for ids in processor.tokenizer(list(questions), truncation=True)["input_ids"]]
    # Questions of one length in a batch need no padding, and every process gets short and long ones alike.
    by_length = sorted(range(len(questions)), key=lengths.__getitem__)

    def answer(rows: Sequence[int]) -> list[str]:
        answers: list[str] = []
        for batch in batches(rows, batch_size):
            ids, image_index = torch.tensor([image_ids[row] for row in batch]).unique(return_inverse=True)
            states = MMJepaImageStates(
                image_embeds=image_states.image_embeds[ids], visual_tokens=image_states.visual_tokens[ids]
            )
            text = processor(text=[questions[row] for row in batch], return_tensors="pt")
            output = model.generate(
                **text.to(model.device),
                image_states=states,
                image_index=image_index.to(model.device),
                **generate_kwargs,
            )
            decoded = [text.strip() for text in processor.batch_decode(output, skip_special_tokens=True)]
            answers += decoded
            if stream is not None:
                for row, prediction in zip(batch, decoded, strict=True):
                    line = {"row": row, "question": questions[row], "prediction": prediction}
                    stream.write(json.dumps(line) + "\n")
                stream.flush()
        return answers

    with evaluating(model):
        answers = dict(zip(by_length, in_shares(by_length, answer), strict=True))
    return [answers[row] for row in range(len(questions))]


def encode_all_texts(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, texts: Sequence[str], batch_size: int
) -> torch.Tensor:
    """The unit alignment targets (T, D) of T texts, on the model's device."""

    def encode(texts: Sequence[str]) -> list[torch.Tensor]:
        embeds: list[torch.Tensor] = []
        for batch in batches(texts, batch_size):
            text = processor(text=list(batch), return_tensors="pt").to(model.device)
            embeds += model.encode_texts(text["input_ids"], text["attention_mask"]).cpu()
        return embeds

    with evaluating(model):
        return torch.stack(in_shares(texts, encode)).to(model.device)


def majority_answers(
    train_questions: Dataset, questions: Sequence[str], first_words: Sequence[int | None] = (3, 2, 1, 0)
) -> list[str]:
    """The training set's most frequent answer to questions that start alike, for each of `questions`.

    Args:
        train_questions: columns question and answer, at least one row.
        first_words: how many first words must be equal, and to how many to fall back where no training question
            starts so; None is the whole question, 0 is any.
    """
    answers_after: dict[tuple, Counter] = defaultdict(Counter)
    for question, answer in zip(train_questions["question"], train_questions["answer"], strict=True):
        for start in question_starts(question, first_words):
            answers_after[start][normalize_answer(answer)] += 1
    starts = [
        next(start for start in question_starts(question, first_words) if start in answers_after)
        for question in questions
    ]
    return [answers_after[start].most_common(1)[0][0] for start in starts]


def question_starts(question: str, first_words: Sequence[int | None]) -> list[tuple]:
    words = question.lower().split()
    # The count is part of the key: "is it" as a whole question is not "is it" as the start of another.
    return [(count, *words[:count]) for count in first_words]


def other_images(image_ids: Sequence[int], seed: int) -> list[int]:
    """For each row another of the rows' images than its own: the images change places along one random ring.

    Rows that share an image share the other one too. A single image has no other and stays.
    """
    ring = np.random.default_rng(seed).permutation(np.unique(image_ids))
    other_of = dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))
    return [other_of[image_id] for image_id in image_ids]


def are_correct(rows: list[dict[str, Any]], column: str) -> list[bool]:
    return [normalize_answer(row[column]) == normalize_answer(row["answer"]) for row in rows]


def image_gain(
    correct: Sequence[bool], correct_shuffled: Sequence[bool], image_ids: Sequence[int], seed: int, draws: int = 1000
) -> dict[str, float]:
    """What the right image adds to accuracy, `image_gain`, and its 95 % interval, `image_gain_low` and `_high`.

    A paired bootstrap over images (Efron 1979): whole images are drawn with replacement, because the questions of one
    image are right or wrong together; each row keeps both of its answers.
    """
    _, image_of_row = np.unique(image_ids, return_inverse=True)
    gained = np.bincount(image_of_row, np.subtract(correct, correct_shuffled, dtype=float))  # (I,) answers more right
    rows = np.bincount(image_of_row)  # (I,)
    random = np.random.default_rng(seed)
    times_drawn = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)  # (draws, I)
    low, high = np.quantile((times_drawn @ gained) / (times_drawn @ rows), (0.025, 0.975))
    return {
        "image_gain": float(gained.sum() / rows.sum()),
        "image_gain_low": float(low),
        "image_gain_high": float(high),
    }


def alignment_metrics(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_ids: Sequence[int],
    text_ids: Sequence[int],
    other_ids: Sequence[int],
) -> dict[str, float]:
    """How near images are to their own texts, and how well that tells the texts apart.

    Args:
        image_embeds, text_embeds: N images and T distinct texts, (N, D) and (T, D).
        image_ids, text_ids, other_ids: a row a pair of an image and its text, and another image to compare with.

    Returns:
        align_cosine, align_cosine_wrong: mean cosine of the rows' texts to their own and to the other image. Rows
            whose text belongs to the other image too are left out of the second.
        retrieval_recall_at_1, _5, _10: share of images that have one of their own texts among the k nearest of all
            texts; texts as near as the own one count as nearer, or a collapsed embedding would score 1.
        retrieval_recall_at_<k>_chance: what k texts drawn at random would give.
    """
    images, texts = F.normalize(image_embeds.float(), dim=-1), F.normalize(text_embeds.float(), dim=-1)
    pairs = set(zip(image_ids, text_ids, strict=True))
    wrong = [pair for pair in zip(other_ids, text_ids, strict=True) if pair not in pairs]
    metrics = {"align_cosine": mean_cosine(images, texts, list(zip(image_ids, text_ids, strict=True)))}
    if wrong:
        metrics["align_cosine_wrong"] = mean_cosine(images, texts, wrong)

    texts_of: dict[int, list[int]] = defaultdict(list)
    for image_id, text_id in sorted(pairs):
        texts_of[image_id].append(text_id)
    ranks = own_text_ranks(images, texts, texts_of)
    own_counts = Counter(map(len, texts_of.values()))
    for k in RECALL_RANKS:
        metrics[f"retrieval_recall_at_{k}"] = (ranks < k).float().mean().item()
        chances = [count * chance_of_hit(own, len(texts), k) for own, count in own_counts.items()]
        metrics[f"retrieval_recall_at_{k}_chance"] = sum(chances) / len(ranks)
    return metrics


def mean_cosine(images: torch.Tensor, texts: torch.Tensor, pairs: list[tuple[int, int]]) -> float:
    image_ids, text_ids = torch.tensor(pairs).unbind(dim=1)
    return (images[image_ids] * texts[text_ids]).sum(dim=-1).mean().item()


def own_text_ranks(images: torch.Tensor, texts: torch.Tensor, texts_of: dict[int, list[int]]) -> torch.Tensor:
    """For each image of `texts_of`, how many texts not its own are as near as its nearest own one."""
    ranks = []
    # Blocks of images, so that many images times many texts need not be held at once.
    for block in batches(list(texts_of), IMAGES_PER_BLOCK):
        cosines = images[block] @ texts.T  # (block, T)
        own = torch.zeros_like(cosines, dtype=torch.bool)
        for row, image_id in enumerate(block):
            own[row, texts_of[image_id]] = True
        nearest_own = cosines.masked_fill(~own, -math.inf).amax(dim=1, keepdim=True)  # (block, 1)
        ranks.append(((cosines >= nearest_own) & ~own).sum(dim=1))
    return torch.cat(ranks)


def chance_of_hit(own: int, texts: int, k: int) -> float:
    """Probability that k of `texts` texts, drawn without replacement, hold one of the `own` (hypergeometric)."""
    k = min(k, texts)
    return 1 - math.comb(texts - own, k) / math.comb(texts, k)
