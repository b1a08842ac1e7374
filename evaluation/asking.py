"""Questions about one image: what the model answers, how sure it is, and what it says about a black image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from ..metrics.vqa_answers.vqa_answers import normalize_answer
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import Answerer, evaluating
from .attention import attention_maps
from .loading import load_model_and_processor


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


def ask(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    image: Image.Image | str,
    questions: Sequence[str],
    num_candidates: int = 4,
    **generate_kwargs,
) -> list[Reply]:
    """A reply to each of `questions` about `image`, a PIL image or a file.

    Args:
        num_candidates: how many other answers a reply names at most.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Raises:
        ValueError: there is no question, one is empty, or the image can't be read.
    """
    if not questions or not all(question.strip() for question in questions):
        raise ValueError(f"questions are {list(questions)}: give at least one, and none that is empty.")
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)  # (1, 3, H, W)
    with evaluating(model):
        features = model.get_image_features(pixel_values)
    answerer = Answerer(model, processor, len(questions), generate_kwargs)
    image_ids = [0] * len(questions)
    predictions = answerer.answer_questions(questions, features, image_ids)
    probabilities = answerer.answer_probabilities(questions, predictions, features, image_ids)
    black = answerer.encode_blank_image(pixel_values.shape[1:])
    blank = answerer.answer_without_image(questions, black)
    blank_probabilities = answerer.probabilities_without_image(questions, predictions, black)
    images = pixel_values.expand(len(questions), -1, -1, -1)  # (B, 3, H, W)
    maps = attention_maps(model, processor, questions, predictions, images)
    return [
        Reply(
            question=question,
            prediction=predictions[row],
            probability=probabilities[row],
            blank=blank[row],
            blank_probability=blank_probabilities[row],
            candidates=other_answers(answerer, question, predictions[row], pixel_values, num_candidates),
            attention=None if maps is None else maps[row],
        )
        for row, question in enumerate(questions)
    ]


def other_answers(
    answerer: Answerer, question: str, answer: str, pixel_values: torch.Tensor, count: int
) -> list[tuple[str, float]]:
    """At most `count` answers that a beam search finds beside `answer`, and their probabilities.

    Args:
        pixel_values: of the one image, (1, 3, H, W).
    """
    if count == 0:
        return []
    model, processor = answerer.model, answerer.processor
    text = processor(text=[question], return_tensors="pt").to(model.device)
    beams = count + 1
    with evaluating(model):
        output = model.generate(
            **text,
            pixel_values=pixel_values,
            **answerer.generate_kwargs
            | {
                "num_beams": beams,
                "num_return_sequences": beams,
                "length_penalty": 0.0,  # makes a sequence's score the logarithm of its probability
                "do_sample": False,
                "return_dict_in_generate": True,
                "output_scores": True,
            },
        )
    texts = [found.strip() for found in processor.decode(output.sequences, skip_special_tokens=True)]
    probabilities = output.sequences_scores.exp().tolist()
    others: dict[str, float] = {}
    for found, probability in zip(texts, probabilities, strict=True):
        if normalize_answer(found) not in {normalize_answer(known) for known in (answer, *others)}:
            others[found] = probability
    return list(others.items())[:count]
