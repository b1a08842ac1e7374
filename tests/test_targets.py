"""Targets are centred by the model itself, and one that trains without_fitted_targets says so."""

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
def fitted(fresh, processor):
    fresh.fit_targets(processor, TEXTS, ANSWERS)
    return fresh


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What transformers' loggers warn of."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if "fitted" in record.getMessage()]


def pooled_embeddings(model, processor, texts):
    distinct = [processor(text=text, return_tensors="pt") for text in sorted(set(texts) - {""})]
    return torch.cat([model.encoder.encode_texts(**text) for text in distinct])


@pytest.mark.parametrize("given", [TEXTS, [f"{TEXTS[0]} {number}" for number in range(300)]], ids=["few", "many"])
def test_whitened_training_texts_have_no_mean_and_vary_equally(fresh, processor, given):
    fresh.fit_targets(processor, given, given)
    for targets in (fresh.alignment.targets, fresh.answer_prediction.targets):
        pooled = pooled_embeddings(fresh, processor, given)
        torch.testing.assert_close(targets.mean, pooled.mean(dim=0), atol=1e-5, rtol=1e-5)
        centered = (pooled - pooled.mean(dim=0)).double()
        values, vectors = torch.linalg.eigh(centered.T @ centered / len(pooled))
        values = values.clamp(min=0) + 0.01 * values.mean()
        white = centered @ vectors / values.sqrt() @ vectors.T
        torch.testing.assert_close(targets(pooled), F.normalize(white, dim=-1).float(), atol=1e-3, rtol=0)


def test_centred_targets_are_the_distance_to_the_mean(make_model, processor):
    model = make_model(alignment_target="centered")
    model.fit_targets(processor, TEXTS, ANSWERS)
    for given, encode in ((TEXTS, model.encode_texts), (ANSWERS, model.encode_answers)):
        pooled = pooled_embeddings(model, processor, given)
        texts = [processor(text=text, return_tensors="pt") for text in sorted(set(given) - {""})]
        targets = torch.cat([encode(**text) for text in texts])
        torch.testing.assert_close(targets, F.normalize(pooled - pooled.mean(dim=0), dim=-1), atol=1e-5, rtol=1e-5)
        assert targets.sum(dim=0).norm() < 1 < F.normalize(pooled, dim=-1).sum(dim=0).norm()


def test_a_tokenizer_and_batches_of_any_size_give_the_same_targets(fresh, fitted, processor):
    expected = {name: value.clone() for name, value in fresh.alignment.targets.state_dict().items()}
    fresh.fit_targets(processor.tokenizer, iter(TEXTS), batch_size=3)
    torch.testing.assert_close(dict(fresh.alignment.targets.state_dict()), expected, atol=1e-4, rtol=1e-4)


def test_without_any_text_targets_stay_as_they_are(fitted, processor):
    before = {name: value.clone() for name, value in fitted.state_dict().items()}
    fitted.fit_targets(processor, [""])
    torch.testing.assert_close(dict(fitted.state_dict()), before, atol=0, rtol=0)


def test_one_text_can_not_be_whitened_and_is_centred(fresh, processor):
    fresh.fit_targets(processor, TEXTS[:1])
    assert torch.equal(fresh.alignment.targets.whitening, torch.eye(64)) and fresh.alignment.targets.is_fitted


def test_targets_that_are_not_fitted_are_left_alone(make_model, processor):
    model = make_model(**DESCRIBED)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.fit_targets(processor, TEXTS, ANSWERS)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)


def test_a_model_that_trains_uncentred_warns_once(fresh, batch, warnings):
    fresh(**batch)
    assert warnings() == []  # it does not train
    fresh.train()
    for _ in range(2):
        fresh(**batch)
    (warning,) = warnings()
    assert "fitted to the training texts and answers" in warning and "model.fit_targets(" in warning


def test_answers_that_no_row_has_are_not_missed(fresh, batch, processor, warnings):
    fresh.fit_targets(processor, TEXTS)
    captions = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    fresh.train()(**captions)
    assert warnings() == []


def test_a_fitted_model_trains_without_a_warning_also_once_saved_and_loaded(fitted, batch, tmp_path, warnings):
    fitted.save_pretrained(tmp_path)
    for model in (fitted, MMJepaForConditionalGeneration.from_pretrained(tmp_path)):
        model.train()(**batch)
    assert warnings() == []


def test_a_model_that_is_not_fitted_compiles_as_one_graph(fresh, batch):
    pytest.importorskip("torch", minversion="2.13", reason="torch 2.8 breaks the graph where labels are picked out")
    torch.compile(fresh.train(), backend="eager", fullgraph=True)(**batch).loss.backward()
