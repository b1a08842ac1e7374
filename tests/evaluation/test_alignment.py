"""Cosines and retrieval, beside computations by hand and the counting of all draws."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmjepa.evaluation.alignment import alignment_metrics, chance_of_hit


@pytest.mark.parametrize("own, texts, k", [(1, 6, 1), (2, 6, 1), (2, 6, 3), (3, 6, 5), (1, 3, 5), (4, 5, 2)])
def test_the_chance_of_a_hit_equals_counting_all_draws(own, texts, k):
    draws = list(itertools.combinations(range(texts), min(k, texts)))
    hits = sum(any(text < own for text in draw) for draw in draws)
    assert chance_of_hit(own, texts, k) == pytest.approx(hits / len(draws))


def test_alignment_numbers_equal_a_computation_by_hand():
    generator = torch.Generator().manual_seed(0)
    images = 3 * torch.randn(5, 8, generator=generator)
    texts = F.normalize(torch.randn(12, 8, generator=generator), dim=-1)
    image_ids, text_ids, other_ids = [0, 0, 1, 2, 4, 4, 4], [0, 3, 3, 5, 6, 7, 0], [1, 1, 2, 4, 0, 0, 0]
    metrics = alignment_metrics(images, texts, image_ids, text_ids, other_ids)

    def cosine(image, text):
        return F.cosine_similarity(images[image], texts[text], dim=0).item()

    assert metrics["align_cosine"] == pytest.approx(np.mean([*map(cosine, image_ids, text_ids)]), abs=1e-6)
    # Text 3 belongs to images 0 and 1 and text 0 to images 0 and 4: neither is wrong there.
    wrong = [(1, 0), (2, 3), (4, 5), (0, 6), (0, 7)]
    assert metrics["align_cosine_wrong"] == pytest.approx(np.mean([cosine(*pair) for pair in wrong]), abs=1e-6)

    own_texts = {0: {0, 3}, 1: {3}, 2: {5}, 4: {6, 7, 0}}
    for k in (1, 5, 10):
        hits, chances = [], []
        for image, own in own_texts.items():
            nearest = sorted(range(12), key=lambda text, image=image: -cosine(image, text))[:k]
            hits.append(bool(own & set(nearest)))
            draws = list(itertools.combinations(range(12), k))
            chances.append(np.mean([bool(own & set(draw)) for draw in draws]))
        assert metrics[f"retrieval_recall_at_{k}"] == pytest.approx(np.mean(hits))
        assert metrics[f"retrieval_recall_at_{k}_chance"] == pytest.approx(np.mean(chances))


def test_retrieval_in_blocks_equals_retrieval_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(9, 4, generator=generator), torch.randn(20, 4, generator=generator)
    pairs = (images, texts, list(range(9)), list(range(3, 12)), [*range(1, 9), 0])
    at_once = alignment_metrics(*pairs)
    monkeypatch.setattr("mmjepa.evaluation.alignment.IMAGES_PER_BLOCK", 2)
    assert alignment_metrics(*pairs) == at_once


def test_retrieval_stands_beside_the_texts_that_most_images_share():
    """Of six images four have text 0, two have text 1, and each has one of its own."""
    image_ids = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    text_ids = [0, 0, 0, 0, 1, 1, 10, 11, 12, 13, 14, 15]
    metrics = alignment_metrics(torch.randn(6, 4), torch.randn(20, 4), image_ids, text_ids, [*range(1, 6), 0] * 2)
    assert metrics["retrieval_recall_at_1_popular"] == pytest.approx(4 / 6)
    assert metrics["retrieval_recall_at_5_popular"] == 1.0


def test_texts_that_all_look_alike_are_not_retrieved():
    rounded = torch.randn(4).repeat(20, 1) * (1 + 1e-7 * torch.randn(20, 4))
    for texts in (torch.ones(20, 4), rounded, torch.full((20, 4), torch.nan)):
        metrics = alignment_metrics(torch.ones(3, 4), texts, [0, 1, 2], [0, 1, 2], [1, 2, 0])
        assert metrics["retrieval_recall_at_10"] == 0.0
