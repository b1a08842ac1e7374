"""Warns where an image encoder has collapsed: all images look alike to it."""

import logging

import torch
from torch import distributed

from ..modeling_mmjepa import MMJepaForConditionalGeneration
from .intervals import MIN_IMAGES

logger = logging.getLogger("mmjepa")

# Share of the visual tokens' mean square that is variance across images. Measured: 0.2 of a model with random weights,
# 0.6 of one trained on the demo's slides.
LEAST_VARIANCE = 1e-3
# How much nearer an image is to its own text than to another's. Measured: 0.015 to 0.2 of models trained with an
# alignment, 0.01 of those trained without one.
LEAST_COSINE_GAP = 0.005


def variance_share(visual_tokens: torch.Tensor) -> float:
    """Variance across images over the mean square of `visual_tokens` (N, M, D): 0 where all images have the same."""
    tokens = visual_tokens.float()
    return (tokens.var(dim=0, correction=0).mean() / tokens.square().mean().clamp(min=1e-30)).item()


def warn_of_collapse(
    model: MMJepaForConditionalGeneration, visual_tokens: torch.Tensor, metrics: dict[str, float]
) -> None:
    """Warns where visual tokens (N, M, D) do not tell images apart, or where `metrics` say so of the alignment.

    Only the first process warns, and only of at least `MIN_IMAGES` images: a blanked data set has one.
    """
    if len(visual_tokens) < MIN_IMAGES or (distributed.is_initialized() and distributed.get_rank() > 0):
        return
    share = variance_share(visual_tokens)
    if share < LEAST_VARIANCE:
        logger.warning(
            "The visual tokens of the %d images are nearly equal (their variance is %.1e of their mean square): try a "
            "smaller --lr_img or --encoder_lr_factor, a longer --warmup_steps, or another --image_encoder.",
            *(len(visual_tokens), share),
        )
    own, wrong = metrics.get("align_cosine"), metrics.get("align_cosine_wrong")
    if metrics.get("retrieval_images", 0) < MIN_IMAGES or model.config.lambda_align == 0 or wrong is None:
        return
    if own - wrong < LEAST_COSINE_GAP:
        logger.warning(
            "The images are as near to the texts of others as to their own (cosines %.3f and %.3f), as one mean "
            "embedding for all of them would be: try --alignment_loss infonce, --alignment_target whitened, a larger "
            "--batch_size, or a longer training.",
            *(wrong, own),
        )
