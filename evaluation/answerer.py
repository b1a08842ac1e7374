"""A model at work: it encodes images and texts, and writes, ranks and scores answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..data.pixels import normalize_pixels
from ..encoder_mmjepa import MMJepaImageFeatures
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .shares import batches, in_shares

if TYPE_CHECKING:
    from datasets import Dataset  # its import takes longer than an answer


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


@dataclass
class AnswerList:
    """K answers to choose from, encoded once.

    texts: the answers, each in its most frequent spelling.
    embeds (K, D): their targets, of `encode_answers`.
    log_shares (K,): the logarithms of their shares of the training answers. A model was trained on answers as often as
        they occur: its score says how much more likely an answer is than its share.
    """

    texts: list[str]
    embeds: torch.Tensor
    log_shares: torch.Tensor


@dataclass
class Answerer:
    """Answers questions about images, in batches and in eval mode. The model keeps the mode that it was in.

    With torch.distributed each process works on a share, and every process gets all results. Methods that take
    questions take `questions`, R of them, and give R results in their order. `image_features` are of N images, and
    `image_ids` names the image of each question by R numbers below N.

    batch_size: questions, images or texts at once.
    generate_kwargs: for `model.generate`, such as `max_new_tokens`.
    """

    model: MMJepaForConditionalGeneration
    processor: MMJepaProcessor
    batch_size: int
    generate_kwargs: dict[str, Any] = field(default_factory=dict)

    def encode_all_images(self, pixels: "Dataset") -> MMJepaImageFeatures:
        """Features of the N images of a [`VqaData`]'s `pixels`, each encoded once, on the model's device."""
        model = self.model

        def encode(image_ids: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            states: list[tuple[torch.Tensor, torch.Tensor]] = []
            for batch in batches(image_ids, self.batch_size):
                values = self.normalized(pixels[batch]["pixels"].to(model.device))  # (I, 3, H, W)
                output = model.get_image_features(values)
                states += zip(output.image_embeds.cpu(), output.visual_tokens.cpu(), strict=True)
            return states

        with evaluating(model):
            image_embeds, visual_tokens = zip(*in_shares(range(len(pixels)), encode), strict=True)
            return MMJepaImageFeatures(
                image_embeds=torch.stack(image_embeds).to(model.device),  # (N, D)
                visual_tokens=torch.stack(visual_tokens).to(model.device),  # (N, M, D)
            )

    def encode_blank_image(self, shape: Sequence[int]) -> MMJepaImageFeatures:
        """Features of one black image of `shape` (3, H, W)."""
        blank = torch.zeros(1, *shape, dtype=torch.uint8, device=self.model.device)
        with evaluating(self.model):
            return self.model.get_image_features(self.normalized(blank))

    def encode_all_texts(
        self, texts: Sequence[str], encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The targets (T, D) of T texts, on the model's device.

        Args:
            encode: the model's `encode_texts` or its `encode_answers`.
        """

        def encode_share(texts: Sequence[str]) -> list[torch.Tensor]:
            embeds: list[torch.Tensor] = []
            for batch in batches(texts, self.batch_size):
                text = self.processor(text=list(batch), return_tensors="pt").to(self.model.device)
                embeds += encode(text["input_ids"], text["attention_mask"]).cpu()
            return embeds

        with evaluating(self.model):
            return torch.stack(in_shares(texts, encode_share)).to(self.model.device)

    def map_questions(
        self,
        questions: Sequence[str],
        image_features: MMJepaImageFeatures,
        image_ids: Sequence[int],
        answer: Callable[[Sequence[int], dict[str, Any]], list],
    ) -> list:
        """The results of `answer(rows, inputs)`, which is called with batches of questions of similar length.

        Args:
            answer: takes the rows of a batch's questions and the model's inputs: input_ids, attention_mask,
                image_features and image_index. Gives one result per row.
        """
        if not questions:
            return []
        distinct = list(dict.fromkeys(questions))
        tokens = self.processor.tokenizer(distinct, truncation=True)["input_ids"]
        places = {text: (len(ids), number) for number, (text, ids) in enumerate(zip(distinct, tokens, strict=True))}
        # Questions of one length in a batch need no padding, and every process gets short and long ones alike. The
        # model reads equal questions of a batch once.
        by_length = sorted(range(len(questions)), key=lambda row: places[questions[row]])

        def answer_share(rows: Sequence[int]) -> list:
            results: list = []
            for batch in batches(rows, self.batch_size):
                inputs = self.inputs([questions[row] for row in batch], image_features, [image_ids[r] for r in batch])
                results += answer(batch, inputs)
            return results

        with evaluating(self.model):
            results = dict(zip(by_length, in_shares(by_length, answer_share), strict=True))
        return [results[row] for row in range(len(questions))]

    def inputs(
        self, questions: list[str], image_features: MMJepaImageFeatures, image_ids: list[int]
    ) -> dict[str, Any]:
        """The model's inputs for one batch: only the images that its questions are about are among them."""
        ids, image_index = torch.tensor(image_ids).unique(return_inverse=True)
        features = MMJepaImageFeatures(
            image_embeds=image_features.image_embeds[ids], visual_tokens=image_features.visual_tokens[ids]
        )
        text = self.processor(text=questions, return_tensors="pt").to(self.model.device)
        return {**text, "image_features": features, "image_index": image_index.to(self.model.device)}

    def answer_questions(
        self,
        questions: Sequence[str],
        image_features: MMJepaImageFeatures,
        image_ids: Sequence[int],
        on_batch: Callable[[Sequence[int], list[str]], None] | None = None,
    ) -> list[str]:
        """The answers that the decoder writes.

        Args:
            on_batch: is called after each batch of this process with the rows of its questions and their answers.
        """

        def write(rows: Sequence[int], inputs: dict[str, Any]) -> list[str]:
            output = self.model.generate(**inputs, **self.generate_kwargs)
            predictions = [text.strip() for text in self.processor.decode(output, skip_special_tokens=True)]
            if on_batch is not None:
                on_batch(rows, predictions)
            return predictions

        return self.map_questions(questions, image_features, image_ids, write)

    def answer_without_image(
        self,
        questions: Sequence[str],
        blank: MMJepaImageFeatures,
        on_batch: Callable[[Sequence[int], list[str]], None] | None = None,
    ) -> list[str]:
        """The answers about `blank`, the black image of `encode_blank_image`. Equal questions are answered once.

        Args:
            on_batch: as for `answer_questions`, but its rows are those of the distinct questions.
        """
        distinct = sorted(set(questions))
        answers = self.answer_questions(distinct, blank, [0] * len(distinct), on_batch)
        answer_of = dict(zip(distinct, answers, strict=True))
        return [answer_of[question] for question in questions]

    def answer_probabilities(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        image_features: MMJepaImageFeatures,
        image_ids: Sequence[int],
    ) -> list[float]:
        """The probability that the decoder gives to each of `answers`, one per question.

        It is the product of the probabilities of the answer's tokens and of the end after them.
        """

        def score(rows: Sequence[int], inputs: dict[str, Any]) -> list[float]:
            labels = written_labels(self.processor, [answers[row] for row in rows]).to(self.model.device)  # (B, A)
            # `labels` would also compute losses, for which processes wait for each other, and these have different
            # numbers of batches.
            decoder_input_ids = self.model.prepare_decoder_input_ids_from_labels(labels)
            output = self.model(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False)
            logits = output.logits.float()  # (B, A, V)
            losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (B, A), 0 at -100
            return (-losses.sum(dim=1)).exp().tolist()

        return self.map_questions(questions, image_features, image_ids, score)

    def probabilities_without_image(
        self, questions: Sequence[str], answers: Sequence[str], blank: MMJepaImageFeatures
    ) -> list[float]:
        """The probabilities of `answers` about `blank`, the black image. Equal pairs are scored once."""
        distinct = sorted(set(zip(questions, answers, strict=True)))
        asked, given = ([pair[place] for pair in distinct] for place in (0, 1))
        found = self.answer_probabilities(asked, given, blank, [0] * len(distinct))
        probability_of = dict(zip(distinct, found, strict=True))
        return [probability_of[pair] for pair in zip(questions, answers, strict=True)]

    def rank_questions(
        self,
        questions: Sequence[str],
        image_features: MMJepaImageFeatures,
        image_ids: Sequence[int],
        answers: AnswerList,
    ) -> list[tuple[str, float]]:
        """The most probable of `answers` to each question, and its probability. The decoder writes nothing."""

        def rank(rows: Sequence[int], inputs: dict[str, Any]) -> list[tuple[str, float]]:
            scores = self.model.rank_answers(answers.embeds, **inputs) + answers.log_shares  # (B, K)
            probabilities, places = scores.softmax(dim=-1).max(dim=-1)
            return [
                (answers.texts[place], p) for place, p in zip(places.tolist(), probabilities.tolist(), strict=True)
            ]

        return self.map_questions(questions, image_features, image_ids, rank)

    def rank_or_decode(
        self,
        questions: Sequence[str],
        image_features: MMJepaImageFeatures,
        image_ids: Sequence[int],
        answers: AnswerList,
        threshold: float,
    ) -> list[str]:
        """Ranked answers where their probability is at least `threshold`, written ones to the other questions."""
        ranked = self.rank_questions(questions, image_features, image_ids, answers)
        results = [text for text, _ in ranked]
        unsure = [row for row, (_, probability) in enumerate(ranked) if probability < threshold]
        asked, about = [questions[row] for row in unsure], [image_ids[row] for row in unsure]
        for row, text in zip(unsure, self.answer_questions(asked, image_features, about), strict=True):
            results[row] = text
        return results

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (I, 3, H, W), uint8, as the model reads them."""
        return normalize_pixels(pixels, self.processor.image_processor)


def written_labels(processor: MMJepaProcessor, answers: Sequence[str]) -> torch.Tensor:
    """The labels (B, A) of answers that the model wrote.

    The processor would warn where it cuts an answer off. What an untrained model writes, nobody can shorten.
    """
    tokens = processor.tokenizer(answers, padding=True, truncation=True, padding_side="right", return_tensors="pt")
    return tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
