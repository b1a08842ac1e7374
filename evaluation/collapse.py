"""Warns where an image encoder has collapsed: all images look alike to it."""

import logging
import math

import torch
from torch import distributed
from torch.nn import functional as F

from ..modeling_mmjepa import MMJepaForConditionalGeneration
from .intervals import MIN_IMAGES

logger = logging.getLogger("mmjepa")

# The least effective rank of what tells images apart. Measured on 2026-11-26 (docs/experiments_log.md, section 13), of
# image embeddings and visual tokens: on the demo's 300 slides 22 and 135 after training, 25 and 118 with random
# weights; on microscopy's 94 images 4.9 and 10 with random weights, and 2.2 and 4.2 for the 30 of them that look most
# alike. An encoder whose differences between images are multiplied by 0.01 or less has 1.0 to 1.6. One unit vector
# with noise of 0.0001 in each of its 128 numbers has 1.1, points on a line have 1.1 to 2.0.
LEAST_RANK = 2.0
TOKENS_OF_IMAGES = 256  # of so many images the rank of the visual tokens is measured: they are wide
# How much nearer an image is to its own text than to another's. Measured: 0.015 to 0.2 of models trained with an
# alignment, 0.01 of those trained without one.
LEAST_COSINE_GAP = 0.005


def effective_rank(embeds: torch.Tensor) -> float:
    """How many directions N embeddings (N, ...) share out among them: RankMe (arXiv 2210.02885), from 1 to min(N, D).

    It is the exponential of the entropy of the singular values, as shares of their sum. Embeddings are made unit
    vectors, which is how they are compared, and their mean stays: equal ones have rank 1. Without the mean only the
    noise around it would count, which fills all dimensions. NaN if a number is not finite.

    LiDAR (arXiv 2312.04000) is not measured: it needs 50 views of each image, and what changes between views counts as
    noise. Here it is what statements about places are about.
    """
    rows = F.normalize(embeds.flatten(1).float().cpu(), dim=-1)  # (N, D)
    if not rows.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(rows)
    return torch.special.entr(values / values.sum().clamp(min=1e-30)).sum().exp().item()


def warn_of_collapse(
    model: MMJepaForConditionalGeneration, visual_tokens: torch.Tensor, metrics: dict[str, float]
) -> None:
    """Warns where visual tokens (N, M, D) do not tell images apart, or where `metrics` say so of the alignment.

    Only the first process warns, and only of at least `MIN_IMAGES` images: a blanked data set has one.
    """
    count = len(visual_tokens)
    if count < MIN_IMAGES or (distributed.is_initialized() and distributed.get_rank() > 0):
        return
    tokens_rank = effective_rank(visual_tokens[:: math.ceil(count / TOKENS_OF_IMAGES)])
    ranks = {"visual tokens": tokens_rank, "embeddings": metrics["image_effective_rank"]}
    if collapsed := [f"{rank:.1f} of their {name}" for name, rank in ranks.items() if rank < LEAST_RANK]:
        logger.warning(
            "The %d images are nearly equal to the model, or differ along one line (effective rank %s): try a smaller "
            "--lr_img or --encoder_lr_factor, a longer --warmup_steps, or another --image_encoder.",
            *(count, ", ".join(collapsed)),
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
