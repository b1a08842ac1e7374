"""Weights as 8-bit integers, by torchao."""

import pytest
import torch
from transformers import TorchAoConfig

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

quantization = pytest.importorskip("torchao.quantization")


def test_int8_weights_load_and_answer_nearly_as_before(make_model, batch, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    quantized = MMJepaForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
    for part in (quantized.encoder.image_encoder, quantized.encoder.text_encoder, quantized.decoder):
        linear = next(module for module in part.modules() if isinstance(module, torch.nn.Linear))
        assert type(linear.weight).__module__.startswith("torchao")
    assert quantized.lm_head.weight is quantized.decoder.embed_tokens.weight

    # Rounding to 1/255 of a row's largest weight changes a linear layer's output by about 1 %.
    expected, logits = model(**batch).logits, quantized(**batch).logits
    assert 0 < (logits - expected).norm() / expected.norm() < 0.1
    question = {name: value for name, value in batch.items() if name != "labels"}
    answers = quantized.generate(**question, max_new_tokens=4)
    assert torch.equal(answers[:, :2], model.generate(**question, max_new_tokens=4)[:, :2])
