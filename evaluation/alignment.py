"""Whether images and texts find each other: cosines, and retrieval beside chance."""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

import torch
from torch.nn import functional as F

from ..data.images import VqaData
from ..data.rows import is_answered
from ..data.statements import statement_of
from ..encoder_mmjepa import MMJepaImageFeatures
from .answerer import Answerer
from .collapse import effective_rank
from .controls import other_images
from .intervals import named_interval
from .shares import batches
from .text_retrieval import RECALL_RANKS, are_below, cosine_table, score_text_retrieval

IMAGES_PER_BLOCK = 256


def score_alignment(
    answerer: Answerer, data: VqaData, features: MMJepaImageFeatures
) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Whether images find their own alignment texts, and texts their images. False texts do not count.

    Args:
        features: of the N images of `data`.

    Returns:
        The numbers of `alignment_metrics` and `score_text_retrieval`, and text_effective_rank, that of the distinct
        texts' targets; and align_cosine and align_cosine_wrong by row, of the rows that have one.
    """
    model = answerer.model
    config = model.config
    said = [statement_of(row, config.alignment_text, config.yes_no_words) for row in data.questions]
    texts = [
        text if sign > 0 and is_answered(row) else "" for row, (text, sign) in zip(data.questions, said, strict=True)
    ]
    rows = [row for row, text in enumerate(texts) if text != ""]
    if not rows:
        return {}, {"align_cosine": {}, "align_cosine_wrong": {}}
    image_of_row = data.questions["image_id"][:]  # at once: a column is slow to read number by number
    image_ids = [image_of_row[row] for row in rows]
    other_ids = other_images(image_ids)
    distinct = sorted({texts[row] for row in rows})
    text_ids = [bisect_left(distinct, texts[row]) for row in rows]
    text_embeds = answerer.encode_all_texts(distinct, model.encode_texts)  # (T, D)
    image_embeds = features.image_embeds
    metrics = alignment_metrics(image_embeds, text_embeds, image_ids, text_ids, other_ids)
    metrics["text_effective_rank"] = effective_rank(text_embeds)
    own_pairs, other_pairs = (list(zip(ids, text_ids, strict=True)) for ids in (image_ids, other_ids))
    other_of = dict(zip(image_ids, other_ids, strict=True))
    if len(other_of) > 1:  # else a text has only its image to find
        metrics |= score_text_retrieval(answerer, features, text_embeds, own_pairs, other_of, seed=0)
    own, other = (cosines(image_embeds, text_embeds, pairs) for pairs in (own_pairs, other_pairs))
    shared = set(own_pairs)
    wrong = {row: cosine for row, cosine, pair in zip(rows, other, other_pairs, strict=True) if pair not in shared}
    return metrics, {"align_cosine": dict(zip(rows, own, strict=True)), "align_cosine_wrong": wrong}


def alignment_metrics(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_ids: Sequence[int],
    text_ids: Sequence[int],
    other_ids: Sequence[int],
) -> dict[str, float]:
    """How near images are to their own texts, and how well this tells the texts apart.

    Args:
        image_embeds, text_embeds: N images and T distinct texts, (N, D) and (T, D).
        image_ids, text_ids, other_ids: of each row its image, its text, and another image to compare with.

    Returns:
        align_cosine, align_cosine_wrong: mean cosine of the rows' texts to their own and to the other image. The
            second leaves out rows whose text is also one of the other image.
        retrieval_images: how many images have a text.
        retrieval_recall_at_1, _5, _10: share of images with one of their own texts among the k nearest of all texts.
            An equally near text of another image counts as nearer: else a collapsed embedding would score 1.
        retrieval_recall_at_<k>_low, _high: its 95 % interval.
        retrieval_recall_at_<k>_chance: what k texts drawn at random would give.
        retrieval_recall_at_<k>_popular: what the k texts that most images share would give, the same for every image.
            Half of PathVQA's images are asked what is present: finding that question says nothing about an image.
    """
    pairs = set(zip(image_ids, text_ids, strict=True))
    wrong = [pair for pair in zip(other_ids, text_ids, strict=True) if pair not in pairs]
    metrics = {"align_cosine": fmean(cosines(image_embeds, text_embeds, list(zip(image_ids, text_ids, strict=True))))}
    if wrong:
        metrics["align_cosine_wrong"] = fmean(cosines(image_embeds, text_embeds, wrong))

    texts_of: dict[int, list[int]] = defaultdict(list)
    for image_id, text_id in sorted(pairs):
        texts_of[image_id].append(text_id)
    ranks = own_text_ranks(image_embeds, text_embeds, texts_of)
    own_counts = Counter(map(len, texts_of.values()))
    metrics["retrieval_images"] = len(texts_of)
    most_shared = [text_id for text_id, _ in Counter(text_id for _, text_id in pairs).most_common()]
    for k in RECALL_RANKS:
        metrics |= named_interval(
            f"retrieval_recall_at_{k}", (ranks < k).cpu().float().numpy(), list(texts_of), seed=0
        )
        chances = [count * chance_of_hit(own, len(text_embeds), k) for own, count in own_counts.items()]
        metrics[f"retrieval_recall_at_{k}_chance"] = sum(chances) / len(ranks)
        found = sum(not set(most_shared[:k]).isdisjoint(own) for own in texts_of.values())
        metrics[f"retrieval_recall_at_{k}_popular"] = found / len(ranks)
    return metrics


def cosines(images: torch.Tensor, texts: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Cosine of each pair of a row of `images` (N, D) and one of `texts` (T, D)."""
    image_ids, text_ids = torch.tensor(pairs).unbind(dim=1)
    return F.cosine_similarity(images[image_ids].float(), texts[text_ids].float(), dim=-1).tolist()


def own_text_ranks(images: torch.Tensor, texts: torch.Tensor, texts_of: dict[int, list[int]]) -> torch.Tensor:
    """For each image of `texts_of`, how many texts of others are at least as near as the nearest of its own.

    Args:
        images, texts: embeddings, (N, D) and (T, D).
        texts_of: image -> its own texts.
    """
    ranks = []
    # In blocks: the cosines of all images to all texts might not fit into memory.
    for block in batches(list(texts_of), IMAGES_PER_BLOCK):
        cosines = cosine_table(images[block], texts)  # (block, T)
        own = torch.zeros_like(cosines, dtype=torch.bool)
        for row, image_id in enumerate(block):
            own[row, texts_of[image_id]] = True
        nearest_own = cosines.masked_fill(~own, -math.inf).amax(dim=1, keepdim=True)  # (block, 1)
        ranks.append((~are_below(cosines, nearest_own) & ~own).sum(dim=1))
    return torch.cat(ranks)


def chance_of_hit(own: int, texts: int, k: int) -> float:
    """Probability that k texts, drawn of `texts` without replacement, include one of `own` ones (hypergeometric)."""
    k = min(k, texts)
    return 1 - math.comb(texts - own, k) / math.comb(texts, k)
