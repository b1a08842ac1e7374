"""Whether a text that is true of one image finds it among all images."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from ..encoder_mmjepa import MMJepaImageFeatures
from .answerer import Answerer, evaluating
from .intervals import named_interval
from .shares import batches, in_shares

RECALL_RANKS = (1, 5, 10)
MOST_TEXTS = 5000  # each is scored against every image
IMAGES_PER_BLOCK = 64
# Scores that differ by less than this share of their size are equal: products of equal rows differ by rounding.
ROUNDING = 1e-5


def score_text_retrieval(
    answerer: Answerer,
    features: MMJepaImageFeatures,
    text_embeds: torch.Tensor,
    pairs: Collection[tuple[int, int]],
    other_of: Mapping[int, int],
    seed: int,
) -> dict[str, float]:
    """How high each text of one image alone ranks this image among all N.

    A text that several images share is left out: it is right to rank any of them first. Numbers are means over images
    of the means over their texts. So a ranking that is the same for all texts finds no more than k of these images.

    Args:
        features: of the N images.
        text_embeds: of T distinct texts, (T, D).
        pairs: image and text, where the text is true of the image.
        other_of: an image -> another one, which shuffled images put into its place.
        seed: of the bootstrap, and of the drawn texts where there are more than `MOST_TEXTS`.

    Returns:
        text_retrieval_recall_at_1, _5, _10: how often the image is among the first k, by the scores of statements
            where the model tells true from false, else by the images' vectors. Equal scores rank before it.
        text_retrieval_recall_at_<k>_low, _high: its 95 % interval, by a bootstrap over images.
        text_retrieval_recall_at_<k>_vector: by the vectors, where statements read more than these.
        text_retrieval_recall_at_<k>_shuffled: how often the other image is there.
        text_retrieval_recall_at_<k>_chance: what a random order gives.
        text_retrieval_recall_at_<k>_popular: what the best order gives that is the same for all texts. It begins with
            images that have such a text.
        text_retrieval_median_rank: the median over images of the median over their texts, 1 is the best;
            text_retrieval_median_rank_vector and _shuffled; text_retrieval_median_rank_chance: in the middle.
        text_retrieval_texts, text_retrieval_images: how many texts there are, and of how many images.

        An empty dict if no text belongs to one image alone.
    """
    images_of: dict[int, list[int]] = defaultdict(list)
    for image_id, text_id in sorted(set(pairs)):
        images_of[text_id].append(image_id)
    own = [(text_id, images[0]) for text_id, images in sorted(images_of.items()) if len(images) == 1]
    if not own:
        return {}
    if len(own) > MOST_TEXTS:
        drawn = np.random.default_rng(seed).choice(len(own), MOST_TEXTS, replace=False)
        own = [own[place] for place in np.sort(drawn)]
    text_ids, image_ids = (list(column) for column in zip(*own, strict=True))
    num_images, num_asked = len(features.image_embeds), len(set(image_ids))
    scores = image_scores(answerer, features, text_embeds[text_ids])  # name -> (N, T)
    ranks = {name: image_ranks(values, image_ids) for name, values in scores.items()}
    ranks["_shuffled"] = image_ranks(scores[""], [other_of[image_id] for image_id in image_ids])

    metrics: dict[str, float] = {"text_retrieval_texts": len(own), "text_retrieval_images": num_asked}
    for k in RECALL_RANKS:
        name = f"text_retrieval_recall_at_{k}"
        for suffix, of_texts in ranks.items():
            recalls = pd.Series(of_texts <= k, dtype=float).groupby(image_ids).mean()
            metrics[f"{name}{suffix}"] = float(recalls.mean())
            if not suffix:
                metrics |= named_interval(name, recalls.to_numpy(), recalls.index.tolist(), seed)
        metrics[f"{name}_chance"] = min(1.0, k / num_images)
        metrics[f"{name}_popular"] = min(1.0, k / num_asked)
    for suffix, of_texts in ranks.items():
        medians = pd.Series(of_texts).groupby(image_ids).median()
        metrics[f"text_retrieval_median_rank{suffix}"] = float(medians.median())
    return metrics | {"text_retrieval_median_rank_chance": (num_images + 1) / 2}


def image_scores(
    answerer: Answerer, features: MMJepaImageFeatures, text_embeds: torch.Tensor
) -> dict[str, torch.Tensor]:
    """How well T texts (T, D) fit N images, (N, T) each: "" as the model scores statements, "_vector" by the cosine.

    Where both rank alike, there is "" alone.
    """
    model, config = answerer.model, answerer.model.config
    by_vector = cosine_table(features.image_embeds, text_embeds).cpu()  # (N, T)
    if config.truth_weight == 0 or config.alignment_reads == "vector":
        return {"": by_vector}

    def score_share(image_ids: Sequence[int]) -> list[torch.Tensor]:
        rows: list[torch.Tensor] = []
        for block in batches(image_ids, IMAGES_PER_BLOCK):
            some = MMJepaImageFeatures(
                image_embeds=features.image_embeds[list(block)], visual_tokens=features.visual_tokens[list(block)]
            )
            rows += model.statement_logits(text_embeds, image_features=some).float().cpu()  # (block, T)
        return rows

    with evaluating(model):
        return {"": torch.stack(in_shares(range(len(by_vector)), score_share)), "_vector": by_vector}


def cosine_table(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosines (N, T), float32, of embeddings (N, D) and (T, D)."""
    # Autocast would compute the product in bfloat16, in which many cosines are equal.
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def image_ranks(scores: torch.Tensor, image_ids: list[int]) -> np.ndarray:
    """The rank (T,) of each text's image by its column of `scores` (N, T); 1 is the best."""
    own = scores[image_ids, range(len(image_ids))]  # (T,)
    return (~are_below(scores, own)).sum(dim=0).numpy()


def are_below(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Which scores are below that of the right one, `right`; the others rank before it.

    Neither an equal score is below it, nor one that is no number: a model that says the same of all finds nothing.
    """
    return scores < right - ROUNDING * right.abs()
