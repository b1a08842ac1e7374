"""The folder of parts: each loads with its stock class, and together they answer as the model did."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import BartForConditionalGeneration, BartModel, Dinov2Model

from mmjepa.export.parts import export_parts, main, rebuild_from_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor


@pytest.fixture(params=[("patches", "cosine", True), ("pooled", "infonce", False)], ids=["patches", "pooled"])
def exported(request, make_model, processor, tmp_path):
    """A model whose halves have moved apart, and the folder it was exported to."""
    prefix, alignment_loss, tied = request.param
    model = make_model(
        visual_prefix=prefix,
        alignment_loss=alignment_loss,
        alignment_target="whitened",
        tie_word_embeddings=tied,
        lambda_answer=0.25 if tied else 0.0,
        truth_temperature=1.7,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        model.final_logits_bias.normal_()
        model.alignment.targets.mean.normal_()
        model.alignment.targets.whitening.normal_()
    model.generation_config.forced_bos_token_id = 0
    export_parts(model, processor, tmp_path)
    return model, tmp_path


def test_rebuilt_model_has_the_same_losses_and_answers(exported, batch):
    model, folder = exported
    rebuilt = rebuild_from_parts(folder)
    torch.testing.assert_close(rebuilt(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(rebuilt(**batch).loss, model(**batch).loss)
    questions = {name: value for name, value in batch.items() if name != "labels"}
    answers = [one.generate(**questions, max_new_tokens=6) for one in (model, rebuilt)]
    assert torch.equal(*answers)


@pytest.mark.parametrize("exported", [("patches", "infonce", True)], ids=["patches"], indirect=True)
def test_rebuilt_model_scores_statements_as_before(exported, batch):
    model, folder = exported
    rebuilt = rebuild_from_parts(folder)
    scores = [
        one.score_statements(one.encode_texts(batch["input_ids"], batch["attention_mask"]), batch["pixel_values"])
        for one in (model, rebuilt)
    ]
    assert rebuilt.config.truth_temperature == 1.7
    torch.testing.assert_close(*scores, atol=1e-6, rtol=0)


def test_native_folder_has_the_same_answers(exported, batch):
    model, folder = exported
    native = MMJepaForConditionalGeneration.from_pretrained(folder / "mmjepa")
    assert torch.equal(native(**batch).logits, model(**batch).logits)
    assert MMJepaProcessor.from_pretrained(folder / "processors").tokenizer("is it?")["input_ids"]


def test_each_part_loads_whole_with_its_stock_class(exported, batch):
    model, folder = exported
    loaded = {
        stock_class: stock_class.from_pretrained(folder / part, output_loading_info=True)
        for stock_class, part in [
            (Dinov2Model, "image_encoder"),
            (BartForConditionalGeneration, "generator_bart"),
            (BartModel, "teacher_bart"),
        ]
    }
    for _, info in loaded.values():
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    dinov2, generator, teacher = (part.eval() for part, _ in loaded.values())
    pixels, ids = batch["pixel_values"], batch["input_ids"]
    torch.testing.assert_close(dinov2(pixels).last_hidden_state, model.encoder.image_encoder(pixels).last_hidden_state)
    mask = batch["attention_mask"]
    expected = model.encoder.text_encoder(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(teacher.get_encoder()(ids, attention_mask=mask).last_hidden_state, expected)
    encoder_outputs = model.encoder(**{name: value for name, value in batch.items() if name != "labels"})
    stock = generator(
        encoder_outputs=(encoder_outputs.last_hidden_state,),
        attention_mask=encoder_outputs.attention_mask,
        decoder_input_ids=ids,
    )
    ours = model(encoder_outputs=encoder_outputs, decoder_input_ids=ids)
    torch.testing.assert_close(stock.logits, ours.logits)


def test_adapters_are_plain_state_dicts_and_json(exported):
    model, folder = exported
    state = torch.load(folder / "adapters" / "img_to_txt.pt", weights_only=True)
    assert torch.equal(state["weight"], model.encoder.image_projector.weight)
    for name in ("visual_prefix", "prefix_ln"):
        assert all(isinstance(value, torch.Tensor) for value in torch.load(folder / f"adapters/{name}.pt").values())
    own = json.loads((folder / "adapters" / "mm_config.json").read_text())
    assert own["visual_prefix"] == model.config.visual_prefix


def test_adapters_in_both_formats_are_equal_and_either_suffices(exported):
    model, folder = exported
    for path in (folder / "adapters").glob("*.pt"):
        safe = load_file(path.with_suffix(".safetensors"))
        torch.testing.assert_close(torch.load(path, weights_only=True), safe, atol=0, rtol=0)
    for kept in (".safetensors", ".pt"):
        copied = shutil.copytree(folder, folder / f"with{kept}")
        for path in (copied / "adapters").iterdir():
            if path.suffix not in (kept, ".json"):
                path.unlink()
        rebuilt = rebuild_from_parts(copied)
        torch.testing.assert_close(dict(rebuilt.state_dict()), dict(model.state_dict()), atol=0, rtol=0)


def test_the_command_exports_a_saved_model_without_data(saved_folder, batch, tmp_path):
    main([saved_folder, str(tmp_path)])
    model = MMJepaForConditionalGeneration.from_pretrained(saved_folder)
    assert torch.equal(rebuild_from_parts(tmp_path)(**batch).logits, model(**batch).logits)
