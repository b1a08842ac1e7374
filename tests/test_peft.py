"""LoRA adapters on the decoder and the image encoder, as the PEFT library makes them."""

import copy

import pytest
import torch

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

peft = pytest.importorskip("peft")


@pytest.fixture(params=[None, "SEQ_2_SEQ_LM"], ids=["any model", "seq2seq"])
def lora(request, make_model):
    """A tiny model and the same with adapters, both in eval mode."""
    model = make_model()
    config = peft.LoraConfig(
        task_type=request.param,
        r=4,
        target_modules=r"(decoder|encoder\.image_encoder)\..*\.(q_proj|v_proj)",
        modules_to_save=["visual_prefix"],
    )
    return model, peft.get_peft_model(copy.deepcopy(model), config).eval()


def train(model, batch, steps=5):
    """Losses of a few steps."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def test_adapters_start_as_the_model_and_train_alone(lora, batch):
    model, adapted = lora
    torch.testing.assert_close(adapted(**batch).logits, model(**batch).logits)
    losses = train(adapted, batch)
    assert losses[-1] < losses[0]
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for part in ("encoder.image_encoder", "encoder.visual_prefix", "decoder"):
        assert any(f".{part}." in name for name in trained), part
    assert not any("text_encoder" in name for name in trained)
    weights = dict(adapted.get_base_model().named_parameters())
    for name, weight in model.named_parameters():
        for adapted_name in (name, name.replace("_proj.", "_proj.base_layer.")):
            if adapted_name in weights:
                assert torch.equal(weights[adapted_name], weight), name


def test_adapters_are_saved_loaded_and_merged(lora, batch, tmp_path):
    model, adapted = lora
    train(adapted, batch)
    expected = adapted(**batch).logits
    adapted.save_pretrained(tmp_path / "adapters")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapters").eval()
    assert torch.equal(loaded(**batch).logits, expected)

    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-4, rtol=0)
    question = {name: value for name, value in batch.items() if name != "labels"}
    assert torch.equal(merged.generate(**question, max_new_tokens=4), adapted.generate(**question, max_new_tokens=4))
    merged.save_pretrained(tmp_path / "merged")
    whole = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.equal(whole(**batch).logits, merged(**batch).logits)


def test_adapters_train_under_reentrant_checkpointing(lora, batch):
    _, adapted = lora
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    adapted.enable_input_require_grads()
    train(adapted, batch, steps=1)
