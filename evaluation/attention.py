"""Where in an image the decoder looks while it writes an answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..encoder_mmjepa import MMJepaImageFeatures
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import evaluating, written_labels

PLACES = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")


@contextmanager
def weights_returned(model: MMJepaForConditionalGeneration) -> Iterator[None]:
    """Makes the decoder return its attention weights. Only the eager implementation does."""
    fast = model.decoder.config._attn_implementation
    model.decoder.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.decoder.config._attn_implementation = fast


def attention_maps(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    questions: Sequence[str],
    answers: Sequence[str],
    image_features: MMJepaImageFeatures,
    grid: tuple[int, int],
    image_index: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The share of the decoder's attention that reaches each patch while it writes each of B answers (B, h, w).

    The decoder attends to visual tokens: the mean over its layers, its heads and the answer's tokens. Each visual
    token attends to patches. A map is the product of the two (attention rollout, arXiv 2005.00928, over these two
    steps). Its sum is the image's share of the attention. The rest went to the question and to the aligned embedding,
    which is of the whole image and has no place.

    Args:
        answers: the answer to each of the B questions.
        image_features: of I images.
        grid: how many rows and columns of patches they have.
        image_index: the image (B,) of each question; by default one image a question.

    Returns:
        None where the visual tokens come from the image's embedding alone (`visual_prefix="pooled"`).
    """
    if model.config.visual_prefix != "patches":
        return None
    text = processor(text=list(questions), return_tensors="pt").to(model.device)
    labels = written_labels(processor, list(answers)).to(model.device)  # (B, A)
    with evaluating(model):
        with weights_returned(model):
            output = model(
                **text,
                image_features=image_features,
                image_index=image_index,
                decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
                output_attentions=True,
                use_cache=False,
            )
        weights = torch.stack(output.cross_attentions).float().mean(dim=(0, 2))  # (B, A, M+L)
        answered = (labels != -100).float()  # (B, A)
        looked = (weights * answered[..., None]).sum(dim=1) / answered.sum(dim=1, keepdim=True)  # (B, M+L)
        read = image_features.visual_token_attentions  # (I, M, P)
        read = read if image_index is None else read[image_index]  # (B, M, P)
        maps = looked[:, None, : read.shape[1]] @ read  # (B, 1, P)
    return maps.view(len(maps), *grid).cpu()


def ninths(attention: torch.Tensor) -> torch.Tensor:
    """The share of maps (..., h, w) that lies on each ninth of the image (..., 9), in the order of `PLACES`."""
    # Each patch in nine parts: the ninths are equally large whatever the number of patches.
    parts = attention.repeat_interleave(3, dim=-2).repeat_interleave(3, dim=-1)  # (..., 3h, 3w)
    sums = parts.unflatten(-1, (3, -1)).unflatten(-3, (3, -1)).sum(dim=(-3, -1)).flatten(-2)  # (..., 9)
    return sums / sums.sum(dim=-1, keepdim=True).clamp(min=1e-9)


def most_read_place(attention: torch.Tensor) -> tuple[str, float]:
    """The ninth of the image on which most of a map (h, w) lies, and its share of the map."""
    share, place = ninths(attention).max(dim=0)
    return PLACES[int(place)], share.item()
