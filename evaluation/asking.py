"""Questions about one image: what the model answers, how sure it is, and what it says about a black image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from ..encoder_mmjepa import MMJepaImageFeatures
from ..metrics.vqa_answers.rules import normalize_answer
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import Answerer, evaluating
from .attention import attention_maps
from .loading import load_model_and_processor
from .shares import batches


@dataclass
class Reply:
    """An answer, and what one should know about it.

    prediction: the answer.
    probability: the decoder's, the product over the answer's tokens.
    blank: the answer to the same question about a black image.
    blank_probability: the decoder's for `prediction` about a black image.
    candidates: other answers and their probabilities, the most probable first.
    attention (h, w): the share of the decoder's attention that reaches each patch, see `attention_maps`; None with a
        pooled prefix.
    """

    question: str
    prediction: str
    probability: float
    blank: str
    blank_probability: float
    candidates: list[tuple[str, float]]
    attention: torch.Tensor | None

    @property
    def from_image(self) -> float:
        """How much more probable the image makes the prediction than a black one does."""
        return self.probability - self.blank_probability

    @property
    def image_attention(self) -> float | None:
        """The share of the decoder's attention that reaches the patches, all together."""
        return None if self.attention is None else self.attention.sum().item()

    @property
    def is_same_without_image(self) -> bool:
        """Whether a black image gives the same answer. The answer can still be right, and read from the image."""
        return normalize_answer(self.prediction) == normalize_answer(self.blank)


def load_saved(
    name_or_path: str, revision: str | None = None
) -> tuple[MMJepaForConditionalGeneration, MMJepaProcessor]:
    """A saved model in eval mode, on the GPU where there is one, and its processor.

    Args:
        name_or_path: a folder, or an id on the Hub.
        revision: branch, tag or commit on the Hub.

    Raises:
        OSError: there is no such model, or a file of it is broken.
    """
    folder = Path(name_or_path)
    if not folder.exists() and folder.parent != Path() and folder.parent.exists():
        # The Hub would be asked for a mistyped folder, and takes a minute to fail.
        raise OSError(f"there is no folder {name_or_path}: give that of a saved model, or a model's id on the Hub.")
    disable_progress_bar()
    model, processor = load_model_and_processor(name_or_path, revision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), processor  # type: ignore[arg-type]  # the library wraps `to` and loses `self`


@dataclass
class EncodedImage:
    """An image, encoded once for all that is asked about it, and a black image of its size.

    features, black: of the image and of the black one.
    grid: how many rows and columns of patches they have.
    """

    features: MMJepaImageFeatures
    black: MMJepaImageFeatures
    grid: tuple[int, int]


def encode_image(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, image: Image.Image | str
) -> EncodedImage:
    """Encodes a PIL image or a file. Raises ValueError where it can't be read."""
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)  # (1, 3, H, W)
    black = Answerer(model, processor, batch_size=1).encode_blank_image(pixel_values.shape[1:])
    with evaluating(model):
        return EncodedImage(model.get_image_features(pixel_values), black, model.encoder.patch_grid(pixel_values))


def ask(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    image: Image.Image | str | EncodedImage,
    questions: Sequence[str],
    num_candidates: int = 4,
    **generate_kwargs,
) -> list[Reply]:
    """A reply to each of `questions` about `image`: a PIL image, a file, or what `encode_image` made of one.

    Args:
        num_candidates: how many other answers a reply names at most.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Raises:
        ValueError: there is no question, one is empty, or the image can't be read.
    """
    if not questions or not all(question.strip() for question in questions):
        raise ValueError(f"questions are {list(questions)}: give at least one, and none that is empty.")
    encoded = image if isinstance(image, EncodedImage) else encode_image(model, processor, image)
    features, black = encoded.features, encoded.black
    answerer = Answerer(model, processor, len(questions), generate_kwargs)
    image_ids = [0] * len(questions)
    predictions = answerer.answer_questions(questions, features, image_ids)
    probabilities = answerer.answer_probabilities(questions, predictions, features, image_ids)
    blank = answerer.answer_without_image(questions, black)
    blank_probabilities = answerer.probabilities_without_image(questions, predictions, black)
    image_index = torch.zeros(len(questions), dtype=torch.long, device=model.device)  # (B,)
    maps = attention_maps(model, processor, questions, predictions, features, encoded.grid, image_index)
    candidates = other_answers(answerer, questions, predictions, features, num_candidates)
    return [
        Reply(
            question=question,
            prediction=predictions[row],
            probability=probabilities[row],
            blank=blank[row],
            blank_probability=blank_probabilities[row],
            candidates=candidates[row],
            attention=None if maps is None else maps[row],
        )
        for row, question in enumerate(questions)
    ]


def other_answers(
    answerer: Answerer,
    questions: Sequence[str],
    answers: Sequence[str],
    image_features: MMJepaImageFeatures,
    count: int,
) -> list[list[tuple[str, float]]]:
    """For each question at most `count` answers that a beam search finds beside its answer, and their probabilities.

    Args:
        image_features: of the one image.
    """
    if count == 0:
        return [[] for _ in questions]
    beams = count + 1
    settings = answerer.generate_kwargs | {
        "num_beams": beams,
        "num_return_sequences": beams,
        "length_penalty": 0.0,  # makes a sequence's score the logarithm of its probability
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_scores": True,
    }

    def search(rows: Sequence[int], inputs: dict[str, Any]) -> list[list[tuple[str, float]]]:
        output = answerer.model.generate(**inputs, **settings)
        texts = answerer.processor.decode(output.sequences, skip_special_tokens=True)  # B * beams
        found = list(zip(map(str.strip, texts), output.sequences_scores.exp().tolist(), strict=True))
        return [beside(answers[row], own, count) for row, own in zip(rows, batches(found, beams), strict=True)]

    return answerer.map_questions(questions, image_features, [0] * len(questions), search)


def beside(answer: str, found: Sequence[tuple[str, float]], count: int) -> list[tuple[str, float]]:
    """The first `count` of the answers `found` and their probabilities, without `answer` and without equal ones."""
    others: dict[str, float] = {}
    for text, probability in found:
        if normalize_answer(text) not in {normalize_answer(known) for known in (answer, *others)}:
            others[text] = probability
    return list(others.items())[:count]
