"""Probes of image embeddings, beside fits by hand and embeddings of which it is known what they tell."""

import numpy as np
import pytest
import torch
from echo import CharacterProcessor, EchoModel, vqa_data
from torch.nn import functional as F

from mmjepa.encoder_mmjepa import MMJepaImageFeatures
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.evaluation.probe import PENALTIES, linear_probe, nearest_probe

NUM_IMAGES = 40
# Of image i, which is light or dark: its answers.
ASKED = {
    "is it light?": lambda image: "yes" if image % 2 else "no",
    "Is it old?": lambda image: "yes" if image % 10 else "no",  # of which the embedding tells nothing
    "is it a slide?": lambda image: "yes",
    "where is it?": lambda image: "left",
}


class SeeingModel(EchoModel):
    """The embedding of an image says whether its grey value is odd, and beside that which of four images it is."""

    def get_image_features(self, pixel_values):
        features = super().get_image_features(pixel_values)
        grey = features.visual_tokens[:, 0, 0].long()
        embeds = torch.cat([F.one_hot(grey % 2, 2), 0.1 * F.one_hot(grey % 4, 4)], dim=1)
        return MMJepaImageFeatures(image_embeds=embeds.float(), visual_tokens=features.visual_tokens)

    def encode_texts(self, input_ids, attention_mask):
        return F.one_hot(attention_mask.sum(dim=1) % 6, 6).float()


def grey_data(num_images=NUM_IMAGES):
    rows = [(image, question) for image in range(num_images) for question in ASKED]
    greys = np.arange(1, num_images + 1, dtype=np.uint8)[:, None, None, None]
    return vqa_data(
        [question for _, question in rows],
        [ASKED[question](image) for image, question in rows],
        [image for image, _ in rows],
        greys.repeat(3, 1).repeat(2, 2).repeat(2, 3),
    )


def probed(data, train_data):
    metrics, _ = evaluate_model(
        SeeingModel(), CharacterProcessor(), data, train_data.questions, batch_size=8, train_data=train_data
    )
    return {name.removeprefix("probe_"): value for name, value in metrics.items() if name.startswith("probe")}


def test_probes_say_what_the_embedding_tells_beside_the_majority_and_shuffled_images(monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.probe.LEAST_OF_EACH", 4)
    found = probed(grey_data(20), grey_data())
    # "is it a slide?" has one answer only, and "where is it?" none of yes and no.
    assert (found["questions"], found["rows"], found["images"]) == (2, 40, 20)
    assert found["accuracy_majority"] == pytest.approx((10 + 18) / 40)
    for probe in ("linear", "knn"):
        # Whether it is light is seen, and all are taken for old.
        assert found[f"{probe}_accuracy"] == found[f"{probe}_accuracy_macro"] == pytest.approx((20 + 18) / 40)
        assert found[f"{probe}_lead"] == pytest.approx(10 / 40) and found[f"{probe}_lead_low"] > 0
        assert found[f"{probe}_accuracy_low"] < found[f"{probe}_accuracy"] < found[f"{probe}_accuracy_high"]
        assert found[f"{probe}_accuracy_shuffled"] < found[f"{probe}_accuracy"]


def test_questions_with_few_training_rows_of_an_answer_are_left_out():
    found = probed(grey_data(20), grey_data())  # four images of 40 are not old, five are needed
    assert found["questions"] == 1 and found["linear_accuracy"] == found["knn_accuracy"] == 1
    assert probed(grey_data(20), grey_data(19)) == {}


def test_the_images_of_at_most_so_many_training_rows_are_encoded(monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.probe.MOST_ROWS", 90)  # of 120
    model, data = SeeingModel(), grey_data(2)
    evaluate_model(model, CharacterProcessor(), data, data.questions, batch_size=8, train_data=grey_data())
    # Two evaluated images and the black one; nine of ten rows were drawn, and they are of one question.
    assert 25 < len(model.images_encoded) - 3 < 40


def test_without_images_of_train_there_is_no_probe():
    data = grey_data(20)
    metrics, _ = evaluate_model(SeeingModel(), CharacterProcessor(), data, data.questions, batch_size=8)
    assert not any(name.startswith("probe") for name in metrics)


@pytest.mark.parametrize(("count", "width"), [(40, 5), (20, 30)])
def test_the_linear_probe_is_the_ridge_regression_that_predicts_left_out_rows_best(count, width):
    random = np.random.default_rng(width)
    known, vectors = random.normal(size=(count, width)), random.normal(size=(500, width))
    answers = known[:, 0] + random.normal(size=count) > 0.3

    def fitted(rows, penalty):
        centred, targets = known[rows] - known[rows].mean(axis=0), np.where(answers[rows], 1.0, -1.0)
        gram = centred.T @ centred + penalty * np.eye(width)
        weights = np.linalg.solve(gram, centred.T @ (targets - targets.mean()))
        return lambda points: (points - known[rows].mean(axis=0)) @ weights + targets.mean()

    def left_out_error(penalty):
        rows = np.arange(count)
        return sum((fitted(rows != row, penalty)(known[row]) - (1 if answers[row] else -1)) ** 2 for row in rows)

    squares = np.linalg.svd(known - known.mean(axis=0), compute_uv=False) ** 2
    best = min(PENALTIES * squares.mean(), key=left_out_error)
    expected = fitted(np.ones(count, dtype=bool), best)(vectors) > 0
    assert 0 < expected.mean() < 1
    assert linear_probe(known, answers, vectors).tolist() == expected.tolist()


def test_the_nearest_images_vote_by_their_cosines():
    random = np.random.default_rng(0)
    known = random.normal(size=(50, 4))
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    answers = random.random(50) < 0.5
    vectors = known[:30] + 0.1
    expected = []
    for vector in vectors:
        nearest = sorted(((vector @ one, said) for one, said in zip(known, answers, strict=True)), reverse=True)[:20]
        expected.append(sum(np.exp(cosine / 0.07) * (1 if said else -1) for cosine, said in nearest) > 0)
    assert 0 < np.mean(expected) < 1 and nearest_probe(known, answers, vectors).tolist() == expected


def test_embeddings_that_are_all_equal_give_the_linear_probe_the_majority():
    answers = np.arange(30) % 3 > 0
    assert linear_probe(np.ones((30, 4)) / 2, answers, np.ones((3, 4)) / 2).all()
    assert not linear_probe(np.ones((30, 4)) / 2, ~answers, np.ones((3, 4)) / 2).any()
