"""Weights as 8-bit integers, by torchao; and what the recipe of QLoRA keeps whole."""

import re

import pytest
import torch
from test_documents import python_blocks
from transformers import TorchAoConfig
from transformers.quantizers.quantizers_utils import should_convert_module

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


def as_the_documents_skip() -> list[str]:
    """The layers that docs/python.md keeps whole under QLoRA."""
    (block,) = [text for text in python_blocks("docs/python.md") if "BitsAndBytesConfig" in text]
    return [*re.findall(r'"([\w.]+)"', re.findall(r"new_layers = \[(.*)\]", block)[0]), "lm_head"]


def test_the_recipe_of_qlora_keeps_the_new_layers_whole_and_rounds_the_towers_alone(make_model):
    """By the library's own rule of which layers a configuration leaves out."""
    skipped = as_the_documents_skip()
    linear = [name for name, layer in make_model().named_modules() if isinstance(layer, torch.nn.Linear)]
    whole = {name for name in linear if not should_convert_module(name, skipped)}
    towers = ("encoder.image_encoder.", "encoder.text_encoder.", "decoder.")
    assert whole == {name for name in linear if not name.startswith(towers)}
    assert all(any(name.startswith(part) for name in whole) for part in skipped)  # each name is one of the model's
