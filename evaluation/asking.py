"""One image, some questions: what the model answers, how sure it is, and what it says about a black image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from ..metrics.vqa_answers.vqa_answers import normalize_answer
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answering import (
    answer_probabilities,
    answer_questions,
    answer_without_image,
    encode_blank_image,
    evaluating,
    probabilities_without_image,
)
from .attention import attention_maps
from .loading import load_model_and_processor


@dataclass
class Reply:
    """An answer, and what is to be known about it.

    prediction: the answer.
    probability: that the decoder gives to it, the product over its tokens.
    blank: the answer to the same question about a black image.
    blank_probability: that the decoder gives to `prediction` about a black image.
    candidates: other answers and their probabilities, the most probable first.
    attention (h, w): the share of the decoder's attention that reaches each patch; None with a pooled prefix.
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
        """By how much the image makes the prediction more probable than a black one does."""
        return self.probability - self.blank_probability

    @property
    def is_same_without_image(self) -> bool:
        """Whether a black image gives the same answer, which can still be the right one, read from the image."""
        return normalize_answer(self.prediction) == normalize_answer(self.blank)


def load_saved(
    name_or_path: str, revision: str | None = None
) -> tuple[MMJepaForConditionalGeneration, MMJepaProcessor]:
    """A saved model in eval mode, on the GPU where there is one, and its processor.

    Args:
        name_or_path: a folder, or an id on the Hub, there at `revision`.

    Raises:
        OSError: there is no such model, or a file of it is broken.
    """
    folder = Path(name_or_path)
    if not folder.exists() and folder.parent != Path() and folder.parent.exists():
        # Asked of the Hub, a mistyped folder would take a minute to fail.
        raise OSError(f"there is no folder {name_or_path}: give that of a saved model, or a model's id on the Hub.")
    disable_progress_bar()
    model, processor = load_model_and_processor(name_or_path, revision)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


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
        num_candidates: the most other answers that a reply names.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Raises:
        ValueError: there is no question, one is empty, or the image can't be read.
    """
    if not questions or not all(question.strip() for question in questions):
        raise ValueError(f"questions are {list(questions)}: give at least one, and none that is empty.")
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)  # (1, 3, H, W)
    with evaluating(model):
        features = model.get_image_features(pixel_values)
    image_ids = [0] * len(questions)
    asked = (model, processor, questions)
    about_image = (features, image_ids, len(questions))
    predictions = answer_questions(*asked, *about_image, **generate_kwargs)
    probabilities = answer_probabilities(*asked, predictions, *about_image)
    black = encode_blank_image(model, processor.image_processor, pixel_values.shape[1:])
    blank = answer_without_image(*asked, black, len(questions), **generate_kwargs)
    blank_probabilities = probabilities_without_image(*asked, predictions, black, len(questions))
    maps = attention_maps(*asked, predictions, pixel_values.expand(len(questions), -1, -1, -1))
    return [
        Reply(
            question=question,
            prediction=predictions[row],
            probability=probabilities[row],
            blank=blank[row],
            blank_probability=blank_probabilities[row],
            candidates=other_answers(
                model, processor, question, predictions[row], pixel_values, num_candidates, **generate_kwargs
            ),
            attention=None if maps is None else maps[row],
        )
        for row, question in enumerate(questions)
    ]


def other_answers(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    question: str,
    answer: str,
    pixel_values: torch.Tensor,
    count: int,
    **generate_kwargs,
) -> list[tuple[str, float]]:
    """At most `count` answers that a beam search finds beside `answer`, with their probabilities."""
    if count == 0:
        return []
    text = processor(text=[question], return_tensors="pt").to(model.device)
    beams = count + 1
    with evaluating(model):
        output = model.generate(
            **text,
            pixel_values=pixel_values,
            **generate_kwargs
            | {
                "num_beams": beams,
                "num_return_sequences": beams,
                "length_penalty": 0.0,  # a sequence's score is then the logarithm of its probability
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
