"""An image encoder that says the same of every image is noticed."""

import logging
import math

import numpy as np
import pytest
import torch

from mmjepa.evaluation.collapse import LEAST_RANK, effective_rank
from mmjepa.evaluation.evaluate import evaluate_model

ALIKE, MEAN = "The 6 images are nearly equal to the model", "as near to the texts of others as to their own"


@pytest.fixture
def collapsed(make_model):
    """A model whose image encoder gives the same vector for every patch of every image."""
    model = make_model(lambda_align=0.5)
    torch.nn.init.zeros_(model.encoder.image_encoder.layernorm.weight)
    torch.nn.init.normal_(model.encoder.image_encoder.layernorm.bias)
    return model


@pytest.fixture
def few_are_enough(monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.collapse.MIN_IMAGES", 6)


@pytest.mark.usefixtures("few_are_enough")
def test_a_collapsed_image_encoder_is_said_in_a_sentence_each_with_what_to_try(collapsed, data, processor, caplog):
    evaluate_model(collapsed, processor, data, data.questions, batch_size=8, max_new_tokens=2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [sum(text in message for message in warnings) for text in (ALIKE, MEAN)] == [1, 1]
    assert all(
        "try --" in message or "try a" in message for message in warnings if ALIKE in message or MEAN in message
    )


@pytest.mark.usefixtures("few_are_enough")
def test_equal_tokens_are_said_while_training_too_and_different_ones_never(
    collapsed, make_model, data, processor, caplog
):
    evaluate_model(make_model(lambda_align=0.5), processor, data, None, batch_size=8, max_new_tokens=2)
    assert not caplog.text
    evaluate_model(collapsed, processor, data, None, batch_size=8, max_new_tokens=2)
    assert ALIKE in caplog.text and MEAN not in caplog.text


def test_without_an_alignment_or_with_few_images_nothing_is_said(collapsed, data, processor, caplog, monkeypatch):
    evaluate_model(collapsed, processor, data, data.questions, batch_size=8, max_new_tokens=2)
    assert not caplog.text
    monkeypatch.setattr("mmjepa.evaluation.collapse.MIN_IMAGES", 6)
    collapsed.config.lambda_align = 0.0
    evaluate_model(collapsed, processor, data, data.questions, batch_size=8, max_new_tokens=2)
    assert ALIKE in caplog.text and MEAN not in caplog.text


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_the_singular_values():
    embeds = torch.randn(20, 3, 4)
    rows = embeds.flatten(1).double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.sqrt(np.linalg.eigvalsh(rows.T @ rows))
    shares = values / values.sum()
    assert effective_rank(embeds) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert effective_rank(7 * embeds) == pytest.approx(effective_rank(embeds))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_embeddings_along_orthogonal_directions_have_as_many_ranks(rank):
    assert effective_rank(torch.eye(8)[:rank].repeat(30, 1)) == pytest.approx(rank, rel=1e-4)


def test_equal_embeddings_and_points_on_a_line_are_collapsed_and_few_different_ones_are_not():
    direction, mean = torch.nn.functional.normalize(torch.randn(2, 64), dim=-1)
    noise, places = torch.randn(300, 64) / 8, torch.randn(300, 1)
    # Noise alone has a high rank: it does not hide that its mean is all that the embeddings have.
    for embeds in (mean + 1e-4 * noise, places * direction + 1e-4 * noise, mean + places * direction / 2):
        assert effective_rank(embeds) < LEAST_RANK
    assert effective_rank(mean + noise[:30]) > LEAST_RANK and effective_rank(noise) > 10 * LEAST_RANK


def test_embeddings_that_are_no_numbers_have_no_rank_and_zeros_have_one():
    assert math.isnan(effective_rank(torch.full((30, 4), math.nan)))
    assert effective_rank(torch.zeros(30, 4)) == 1
