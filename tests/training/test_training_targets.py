"""The targets that a training computes once are those of the texts; a sample of answers stands for all."""

import pytest
import torch
from datasets import Dataset

from mmjepa.data.collator import VqaCollator
from mmjepa.losses_mmjepa import MMJepaAnswerPrediction
from mmjepa.training import targets as module
from mmjepa.training.targets import TrainingTargets


@pytest.fixture
def made(make_model, processor, data):
    """A model, targets of the texts of `data`, and a batch of 24 rows that names them by their numbers."""
    model = make_model()
    model.fit_targets(processor, data.questions["question"], data.questions["answer"])
    targets = TrainingTargets(data.questions, model.config, 2)
    targets.embed(model, processor, torch.device("cpu"))
    collator = VqaCollator(processor, as_bytes=True, numbers=targets.numbers)
    return model, targets, collator(data.__getitems__(list(range(24))))


def test_statements_and_answers_are_those_of_the_texts(made, data, processor):
    model, targets, batch = made
    inputs = targets.of_batch(batch, torch.zeros(24, dtype=torch.long))
    texts = VqaCollator(processor)(data.__getitems__(list(range(24))))
    expected = model.encode_texts(texts["align_input_ids"], texts["align_attention_mask"])
    torch.testing.assert_close(inputs["statements"]["embeds"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(inputs["statements"]["signs"], texts["align_signs"])
    answers = inputs["answers"]
    own = processor(text=data.questions["answer"], return_tensors="pt")
    torch.testing.assert_close(answers["targets"][answers["right"]], model.encode_answers(**own), atol=1e-4, rtol=1e-4)
    assert answers["log_counts"].exp().sum().item() == pytest.approx(24)
    assert "align_input_ids" not in batch


def test_targets_on_the_disk_are_those_in_memory(made, make_model, processor, data, monkeypatch):
    model, targets, batch = made
    torch.manual_seed(1)
    expected = targets.of_batch(batch, torch.zeros(24, dtype=torch.long))["statements"]
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    targets.embed(model, processor, torch.device("cpu"))
    assert not isinstance(targets.statement_embeds.rows, torch.Tensor)
    torch.manual_seed(1)
    torch.testing.assert_close(
        targets.of_batch(batch, torch.zeros(24, dtype=torch.long))["statements"], expected, atol=1e-3, rtol=0
    )


def test_a_sample_of_answers_gives_the_denominator_of_all_on_average(make_config, monkeypatch):
    """At 128 rows and 3,000 answers, half of which occur once, as PathVQA's do."""
    torch.manual_seed(0)
    prediction = MMJepaAnswerPrediction(make_config())
    torch.nn.init.constant_(prediction.logit_scale, 1.0)
    counts = [1] * 1500 + [2] * 1000 + [40] * 499 + [9000]
    rows = {"question": ["what?"] * 3000, "answer": [f"answer {number}" for number in range(3000)]}
    targets = TrainingTargets(Dataset.from_dict(rows), make_config(), 0)
    targets.answer_counts = torch.tensor(counts, dtype=torch.float)
    targets.device = torch.device("cpu")
    targets.answer_embeds = torch.nn.functional.normalize(torch.randn(3000, 64), dim=-1)
    right = torch.randint(-1, 3000, (128,))
    states = torch.randn(128, 64)
    with torch.no_grad():
        exact = prediction(states, targets._answers(right))
        monkeypatch.setattr(module, "MAX_ANSWERS", 300)
        samples = [targets._answers(right) for _ in range(60)]
        assert 300 < sum(len(sample["targets"]) for sample in samples) / 60 < 500
        for sample in samples:
            chosen = sample["targets"][sample["right"].clamp(min=0)]
            assert torch.equal(chosen[right >= 0], targets.answer_embeds[right[right >= 0]])
        losses = torch.stack([prediction(states, sample) for sample in samples])
    own = prediction.scores(states, targets.answer_embeds) + targets.answer_counts.log()
    own = own.gather(1, right.clamp(min=0)[:, None])[:, 0]
    denominators = (losses + own).exp().mean(dim=0)[right >= 0]
    torch.testing.assert_close(denominators, (exact + own).exp()[right >= 0], rtol=0.05, atol=0)


def test_a_row_whose_text_has_no_number_takes_the_texts_of_its_batch(made, data, processor):
    _, targets, _ = made
    rows = data.__getitems__([0, 1])
    rows[0] = {**rows[0], "question": "never asked in training?"}
    batch = VqaCollator(processor, as_bytes=True, numbers=targets.numbers)(rows)
    assert "statement_ids" not in batch and "align_input_ids" in batch
