"""Targets are centred by the model itself, and one that trains uncentred says so."""

import logging

import pytest
import torch
from tiny import DESCRIBED
from torch.nn import functional as F

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

TEXTS = ["what is present?", "is necrosis seen?", "where is the tumour?", "in the liver", ""]
ANSWERS = ["yes", "no", "yes", "in the liver", ""]


@pytest.fixture
def fresh(checkpoints):
    return MMJepaForConditionalGeneration.from_vision_text_pretrained(
        checkpoints["vision"], checkpoints["text"], num_image_tokens=5
    )


@pytest.fixture
def centered(fresh, processor):
    fresh.center_targets(processor, TEXTS, ANSWERS)
    return fresh


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What transformers' loggers warn of."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if "centred" in record.getMessage()]


def test_targets_become_the_distance_to_the_mean_of_the_distinct_texts(centered, processor):
    for given, mean, encode in (
        (TEXTS, centered.alignment.text_mean, centered.encode_texts),
        (ANSWERS, centered.answer_prediction.answer_mean, centered.encode_answers),
    ):
        distinct = [processor(text=text, return_tensors="pt") for text in sorted(set(given) - {""})]
        pooled = torch.cat([centered.encoder.encode_texts(**text) for text in distinct])
        torch.testing.assert_close(mean, pooled.mean(dim=0))
        targets = torch.cat([encode(**text) for text in distinct])
        torch.testing.assert_close(targets, F.normalize(pooled - pooled.mean(dim=0), dim=-1))
        assert targets.sum(dim=0).norm() < 1 < F.normalize(pooled, dim=-1).sum(dim=0).norm()


def test_a_tokenizer_and_batches_of_any_size_give_the_same_means(fresh, centered, processor):
    expected = centered.alignment.text_mean.clone()
    fresh.center_targets(processor.tokenizer, iter(TEXTS), batch_size=3)
    torch.testing.assert_close(fresh.alignment.text_mean, expected)


def test_without_any_text_a_mean_stays_as_it_is(centered, processor):
    means = centered.alignment.text_mean.clone(), centered.answer_prediction.answer_mean.clone()
    centered.center_targets(processor, [""])
    assert torch.equal(centered.alignment.text_mean, means[0])
    assert torch.equal(centered.answer_prediction.answer_mean, means[1])


@pytest.mark.parametrize("fields", [{}, {"alignment_target": "layer_norm"}], ids=["embedding", "layer_norm"])
def test_targets_that_have_no_mean_are_left_alone(make_model, processor, fields):
    model = make_model(**{**DESCRIBED, **fields})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.center_targets(processor, TEXTS, ANSWERS)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)


def test_a_model_that_trains_uncentred_warns_once(fresh, batch, warnings):
    fresh(**batch)
    assert warnings() == []  # it does not train
    fresh.train()
    for _ in range(2):
        fresh(**batch)
    (warning,) = warnings()
    assert "mean of the training texts and answers" in warning and "model.center_targets(" in warning


def test_answers_that_no_row_has_are_not_missed(fresh, batch, processor, warnings):
    fresh.center_targets(processor, TEXTS)
    captions = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    fresh.train()(**captions)
    assert warnings() == []


def test_a_centred_model_trains_without_a_warning_also_once_saved_and_loaded(centered, batch, tmp_path, warnings):
    centered.save_pretrained(tmp_path)
    for model in (centered, MMJepaForConditionalGeneration.from_pretrained(tmp_path)):
        model.train()(**batch)
    assert warnings() == []


def test_an_uncentred_model_compiles_as_one_graph(fresh, batch):
    pytest.importorskip("torch", minversion="2.13", reason="torch 2.8 breaks the graph where labels are picked out")
    torch.compile(fresh.train(), backend="eager", fullgraph=True)(**batch).loss.backward()
