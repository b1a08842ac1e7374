"""Statements about one image: how probably each is true, of a black image too, and where it looked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from ..configuration_mmjepa import MMJepaConfig
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from ..scoring_mmjepa import check_tells_truth
from .answerer import Answerer, evaluating
from .asking import EncodedImage, encode_image
from .attention import most_read_place
from .taught import TaughtStatement, Wording, nearest_taught, taught_to


@dataclass
class Judgement:
    """How probably a statement is true of an image, and what one should know about it.

    wording: how the model was asked, and the nearest statements that it was taught.
    probability: that the statement is true of the image.
    blank_probability: that it is true of a black image.
    attention (h, w): how much of each patch the statement read; it adds up to at most 1. None where a statement reads
        no patches.
    """

    wording: Wording
    probability: float
    blank_probability: float
    attention: torch.Tensor | None

    @property
    def place(self) -> tuple[str, float] | None:
        """Which ninth of the image the statement read most, and its share of what was read of all patches."""
        return None if self.attention is None else most_read_place(self.attention)


def judge(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    image: Image.Image | str | EncodedImage,
    statements: Sequence[str],
    taught: Sequence[TaughtStatement] | None = None,
) -> list[Judgement]:
    """A judgement of each of `statements` about `image`: a PIL image, a file, or what `encode_image` made of one.

    Args:
        taught: what the model was taught; by default what was kept in the folder that it was loaded from.

    Raises:
        ValueError: there is no statement, one is empty, the model can't score statements, or the image can't be read.
    """
    check_statements(model.config, statements)
    encoded = image if isinstance(image, EncodedImage) else encode_image(model, processor, image)
    answerer = Answerer(model, processor, batch_size=32)
    wordings = nearest_taught(answerer, statements, taught_to(model) if taught is None else taught)
    embeds = answerer.encode_all_texts([wording.asked for wording in wordings], model.encode_texts)  # (S, D)
    with evaluating(model):
        probabilities = model.score_statements(embeds, image_features=encoded.features)[0].tolist()
        blank_probabilities = model.score_statements(embeds, image_features=encoded.black)[0].tolist()
        read = model.statement_attentions(embeds, encoded.features)  # (1, S, P), or none
    maps = [None] * len(wordings) if read is None else read[0].unflatten(1, encoded.grid).cpu()
    return [Judgement(*parts) for parts in zip(wordings, probabilities, blank_probabilities, maps, strict=True)]


def check_statements(config: MMJepaConfig, statements: Sequence[str]) -> None:
    """Raises ValueError where there is no statement, one is empty, or the model can't tell whether they are true."""
    if not statements or not all(statement.strip() for statement in statements):
        raise ValueError(f"statements are {list(statements)}: give at least one, and none that is empty.")
    check_tells_truth(config)


def truth_note(config: MMJepaConfig) -> str | None:
    """One line where it was not measured, or not found, that the model tells true statements from false ones."""
    measured = config.truth_measured
    if measured is None:
        return (
            "Whether this model tells true statements from false ones was not measured: its probabilities may be "
            "chance."
        )
    if measured["gain_low"] > 0:
        return None
    return (
        f"On validation this model told true from false in {100 * measured['accuracy']:.1f} % of cases, "
        f"with other images in {100 * measured['shuffled']:.1f} %: its probabilities may be chance."
    )


def statement_notes(config: MMJepaConfig, wordings: Sequence[Wording]) -> list[str]:
    """What people should know before they read how probable statements are, each in one line."""
    notes = [truth_note(config), *(wording.note for wording in wordings)]
    if not all(wording.near for wording in wordings):
        notes.append("It is not known which statements this model was taught: word them as its training data do.")
    return list(dict.fromkeys(note for note in notes if note))
