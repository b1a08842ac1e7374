"""An image encoder that says the same of every image is noticed."""

import logging

import pytest
import torch

from mmjepa.evaluation.collapse import variance_share
from mmjepa.evaluation.evaluate import evaluate_model

ALIKE, MEAN = "visual tokens of the 6 images are nearly equal", "as near to the texts of others as to their own"


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


def test_the_share_of_the_variance_across_images_is_one_without_a_common_part_and_falls_with_it():
    tokens = torch.randn(1000, 3, 8)
    assert variance_share(tokens) == pytest.approx(1, abs=0.01)
    assert variance_share(tokens + 3) == pytest.approx(0.1, abs=0.01)  # 1 of 1 + 9
    assert variance_share(torch.zeros(5, 3, 8)) == 0
