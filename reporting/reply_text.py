"""Replies to questions about an image and judgements of statements, as text and as JSON objects."""

from typing import Any

import torch

from ..evaluation.asking import Reply
from ..evaluation.attention import most_read_place
from ..evaluation.judging import Judgement


def reply_text(reply: Reply) -> str:
    """The question; the answer, its probability, and what a black image gives; how much attention the image has."""
    blank = "the same" if reply.is_same_without_image else reply.blank
    text = (
        f"{reply.question}\n  {reply.prediction}  ({100 * reply.probability:.0f} %; with a black image "
        f"{100 * reply.blank_probability:.0f} %, and the answer is {blank})"
    )
    return text if reply.attention is None else f"{text}\n  {attention_text(reply.attention)}"


def attention_text(attention: torch.Tensor) -> str:
    """How much of the decoder's attention the image has, and which ninth of it has most, by a map (h, w)."""
    place, share = most_read_place(attention)
    return (
        f"the image has {100 * attention.sum().item():.0f} % of the decoder's attention, its {place} has most "
        f"({100 * share:.0f} % of that)"
    )


def reply_json(reply: Reply) -> dict[str, Any]:
    """What is known of a reply, under the names that files of answers have."""
    return {
        "question": reply.question,
        "prediction": reply.prediction,
        "prediction_probability": reply.probability,
        "blank": reply.blank,
        "blank_probability": reply.blank_probability,
        "from_image": reply.from_image,
        "image_attention": reply.image_attention,
        "candidates": dict(reply.candidates),
    }


def judgement_text(judgement: Judgement) -> str:
    """The statement as it was asked, and below it how probably it is true, and the place that it read most."""
    line = (
        f"{judgement.wording.asked}\n  true with a probability of {100 * judgement.probability:.0f} %  (with a black "
        f"image {100 * judgement.blank_probability:.0f} %)"
    )
    if judgement.place is None:
        return line
    place, share = judgement.place
    return f"{line}, read most: {place} ({100 * share:.0f} % of what was read)"


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """What is known of a statement: `place` is the ninth of the image that it read most."""
    wording = judgement.wording
    place, share = judgement.place or (None, None)
    return {
        "statement": wording.given,
        "asked": wording.asked,
        "probability": judgement.probability,
        "blank_probability": judgement.blank_probability,
        "place": place,
        "place_share": share,
        "nearest_taught": wording.near,
        "note": wording.note,
    }
