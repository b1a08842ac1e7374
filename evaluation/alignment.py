"""Whether an image finds its own text: cosines, and retrieval beside chance."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

import torch
from torch.nn import functional as F

from .answering import batches
from .controls import named_interval

RECALL_RANKS = (1, 5, 10)
IMAGES_PER_BLOCK = 256


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
        image_ids, text_ids, other_ids: for each row an image, its text, and another image to compare with.

    Returns:
        align_cosine, align_cosine_wrong: mean cosine of the rows' texts to their own and to the other image. Rows
            whose text belongs to the other image too are left out of the second.
        retrieval_images: how many images have a text.
        retrieval_recall_at_1, _5, _10: share of images that have one of their own texts among the k nearest of all
            texts. A text just as near as the own one counts as nearer: else a collapsed embedding would score 1.
        retrieval_recall_at_<k>_low, _high: its 95 % interval, by a bootstrap over images.
        retrieval_recall_at_<k>_chance: what k texts drawn at random would give.
        retrieval_recall_at_<k>_popular: what the k texts that most images share would give, the same for every image.
            Half of PathVQA's images are asked what is present: naming that question says nothing about an image.
    """
    images, texts = F.normalize(image_embeds.float(), dim=-1), F.normalize(text_embeds.float(), dim=-1)
    pairs = set(zip(image_ids, text_ids, strict=True))
    wrong = [pair for pair in zip(other_ids, text_ids, strict=True) if pair not in pairs]
    metrics = {"align_cosine": fmean(cosines(images, texts, list(zip(image_ids, text_ids, strict=True))))}
    if wrong:
        metrics["align_cosine_wrong"] = fmean(cosines(images, texts, wrong))

    texts_of: dict[int, list[int]] = defaultdict(list)
    for image_id, text_id in sorted(pairs):
        texts_of[image_id].append(text_id)
    ranks = own_text_ranks(images, texts, texts_of)
    own_counts = Counter(map(len, texts_of.values()))
    metrics["retrieval_images"] = len(texts_of)
    most_shared = [text_id for text_id, _ in Counter(text_id for _, text_id in pairs).most_common()]
    for k in RECALL_RANKS:
        metrics |= named_interval(
            f"retrieval_recall_at_{k}", (ranks < k).cpu().float().numpy(), list(texts_of), seed=0
        )
        chances = [count * chance_of_hit(own, len(texts), k) for own, count in own_counts.items()]
        metrics[f"retrieval_recall_at_{k}_chance"] = sum(chances) / len(ranks)
        found = sum(not set(most_shared[:k]).isdisjoint(own) for own in texts_of.values())
        metrics[f"retrieval_recall_at_{k}_popular"] = found / len(ranks)
    return metrics


def cosines(images: torch.Tensor, texts: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Cosine of each pair of a row of `images` (N, D) and one of `texts` (T, D)."""
    image_ids, text_ids = torch.tensor(pairs).unbind(dim=1)
    return F.cosine_similarity(images[image_ids].float(), texts[text_ids].float(), dim=-1).tolist()


def own_text_ranks(images: torch.Tensor, texts: torch.Tensor, texts_of: dict[int, list[int]]) -> torch.Tensor:
    """For each image of `texts_of`, how many texts of others are at least as near as its nearest own one."""
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
    """Probability that k of `texts` texts, drawn without replacement, include one of the `own` (hypergeometric)."""
    k = min(k, texts)
    return 1 - math.comb(texts - own, k) / math.comb(texts, k)
