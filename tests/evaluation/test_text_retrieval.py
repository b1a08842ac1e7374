"""Texts that find their images, beside computations by hand and a model that is told which image is which."""

import csv
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmjepa.data.statements import statement_of
from mmjepa.encoder_mmjepa import MMJepaImageFeatures
from mmjepa.evaluation.alignment import alignment_metrics
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.text_retrieval import RECALL_RANKS, image_ranks, score_text_retrieval

PATHVQA = Path(__file__).parents[3] / "shared" / "data" / "pathvqa"
# Image 0 has texts 0, 1 and 2, image 2 has text 3, image 5 has text 4. Text 5 belongs to two images.
PAIRS = [(0, 0), (0, 1), (0, 1), (0, 2), (2, 3), (5, 4), (1, 5), (2, 5)]
OWN = {0: [0, 1, 2], 2: [3], 5: [4]}
OTHER = {0: 2, 1: 0, 2: 5, 5: 1}


def scored(image_embeds, text_embeds, pairs=PAIRS, other_of=OTHER):
    answerer = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(truth_weight=0, alignment_reads="vector")))
    features = MMJepaImageFeatures(image_embeds=image_embeds, visual_tokens=image_embeds[:, None])
    return score_text_retrieval(answerer, features, text_embeds, pairs, other_of, seed=0)


def test_recall_and_ranks_equal_a_computation_by_hand():
    images, texts = torch.randn(12, 8), torch.randn(6, 8)
    metrics = scored(images, texts)

    def rank(text, image):
        cosines = F.cosine_similarity(images, texts[text][None]).tolist()
        return sorted(cosines, reverse=True).index(cosines[image]) + 1

    ranks = {"": {i: [rank(t, i) for t in own] for i, own in OWN.items()}}
    ranks["_shuffled"] = {i: [rank(t, OTHER[i]) for t in own] for i, own in OWN.items()}
    for suffix, of_images in ranks.items():
        for k in RECALL_RANKS:
            recall = np.mean([np.mean([one <= k for one in own]) for own in of_images.values()])
            assert metrics[f"text_retrieval_recall_at_{k}{suffix}"] == pytest.approx(recall)
        medians = [np.median(own) for own in of_images.values()]
        assert metrics[f"text_retrieval_median_rank{suffix}"] == np.median(medians)
    assert metrics["text_retrieval_recall_at_5_chance"] == pytest.approx(5 / 12)
    assert metrics["text_retrieval_median_rank_chance"] == 6.5
    assert (metrics["text_retrieval_texts"], metrics["text_retrieval_images"]) == (5, 3)


def test_no_order_that_is_the_same_for_all_texts_finds_more_than_the_popular_one():
    """Six images have texts of their own, the first one half of all: a mean over texts would reward naming it."""
    pairs = [(0, text) for text in range(5)] + [(image, 4 + image) for image in range(1, 6)]
    always_the_same = torch.randn(10).argsort()
    for order in (torch.arange(10), always_the_same):
        scores = torch.linspace(1, 0.1, 10)[order.argsort()]  # the first of the order scores highest
        images = torch.stack([scores, (1 - scores**2).sqrt()], dim=1)
        metrics = scored(images, torch.tensor([[1.0, 0.0]]).repeat(10, 1), pairs, {i: (i + 1) % 6 for i in range(6)})
        found = {k: metrics[f"text_retrieval_recall_at_{k}"] for k in (1, 5)}
        popular = {k: metrics[f"text_retrieval_recall_at_{k}_popular"] for k in (1, 5)}
        assert popular == {1: pytest.approx(1 / 6), 5: pytest.approx(5 / 6)}
        assert all(found[k] <= popular[k] + 1e-9 for k in (1, 5))
        if order is not always_the_same:
            assert found == popular


def test_images_that_all_look_alike_are_not_found():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(1, 64, generator=generator)
    rounded = vector.repeat(300, 1) * (1 + 1e-7 * torch.randn(300, 64, generator=generator))
    for images in (torch.ones(300, 64), rounded, torch.full((300, 64), torch.nan)):
        metrics = scored(images, torch.randn(6, 64, generator=generator))
        assert metrics["text_retrieval_recall_at_10"] == 0 and metrics["text_retrieval_median_rank"] == 300


def test_numbers_under_autocast_are_those_without_it():
    images, texts = 0.05 * torch.randn(300, 64) + 1, 0.05 * torch.randn(200, 64) + 1  # cosines that are nearly equal
    ids = list(range(200))
    pairs, others = list(zip(ids, ids, strict=True)), [*ids[1:], 0]

    def numbers():
        found = scored(images, texts, pairs, dict(zip(ids, others, strict=True)))
        return found | alignment_metrics(images, texts, ids, ids, others)

    exact = numbers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert numbers() == exact


def test_a_text_of_several_images_is_not_asked_and_without_others_there_are_no_numbers():
    assert scored(torch.randn(12, 8), torch.randn(6, 8), [(1, 5), (2, 5)]) == {}


def test_an_equal_score_ranks_before_the_right_one():
    scores = torch.tensor([[0.5, 0.1], [0.5, 0.3], [0.2, 0.2]])
    assert image_ranks(scores, [0, 1]).tolist() == [2, 1]
    assert image_ranks(scores, [2, 0]).tolist() == [3, 3]


def test_statements_that_read_tokens_are_ranked_as_the_model_scores_them(make_model, processor, data, monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.text_retrieval.IMAGES_PER_BLOCK", 4)
    model = make_model()
    torch.nn.init.normal_(model.alignment.reader.v_proj.weight, std=3)
    answerer = Answerer(model, processor, batch_size=3)
    features = answerer.encode_all_images(data.pixels)
    texts = ["is it?", "a liver", "what is seen?", "yes", "no", "where?"]
    embeds = answerer.encode_all_texts(texts, model.encode_texts)
    pairs, other_of = [(image, image) for image in range(6)], {image: (image + 1) % 6 for image in range(6)}
    metrics = score_text_retrieval(answerer, features, embeds, pairs, other_of, seed=0)
    tables = {
        "": model.score_statements(embeds, image_features=features).double(),  # (N, T)
        "_vector": F.cosine_similarity(features.image_embeds[:, None], embeds[None], dim=-1),
    }
    ranks = {name: (table >= table.diagonal()).sum(dim=0) for name, table in tables.items()}
    assert not ranks[""].equal(ranks["_vector"])
    for name, of_texts in ranks.items():
        assert metrics[f"text_retrieval_median_rank{name}"] == np.median(of_texts)
        assert metrics[f"text_retrieval_recall_at_1{name}"] == pytest.approx((of_texts == 1).double().mean().item())


@pytest.mark.skipif(not PATHVQA.is_dir(), reason="PathVQA is not on this machine")
def test_on_pathvqa_naming_one_image_finds_next_to_nothing_and_naming_one_text_seven_percent():
    images_of = defaultdict(set)
    with open(PATHVQA / "validation.csv", newline="") as file:
        for row in csv.DictReader(file):
            images_of[statement_of(row, "statement", {}).text].add(row["image"])
    num_images = len(set().union(*images_of.values()))
    assert max(map(len, images_of.values())) / num_images == pytest.approx(0.073, abs=0.0005)
    own = defaultdict(int)
    for (image,) in (images for images in images_of.values() if len(images) == 1):
        own[image] += 1
    assert max(own.values()) / sum(own.values()) == pytest.approx(0.0065, abs=0.00005)  # a mean over texts
    assert 1 / len(own) == pytest.approx(0.0012, abs=0.00005)  # a mean over images
