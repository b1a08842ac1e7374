"""The field's image encoders and text models, as stand-ins of their files: joined, trained, saved, continued."""

import json
import shutil
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import FAST, FROM_RANDOM
from transformers import AutoModel, AutoProcessor

from mmjepa import run_pathvqa
from mmjepa.export.parts import export_parts, rebuild_from_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.training.arguments import parse_arguments
from mmjepa.training.building import build
from mmjepa.training.optimization import part_of

SIDES = {name: 3 * fields["patch_size"] for name, fields in published.VISION.items()}
# Tokens before the patches, by hand.
SPECIAL_TOKENS = {"facebook/dinov2-with-registers-base": 5, "facebook/dinov3-vitb16-pretrain-lvd1689m": 5}
QUESTIONS = {"question": ["what?"], "answer": ["a gland"]}
HALF = ["--image_mean", "0.5", "--image_std", "0.5"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A function that gives the folder of a published checkpoint's stand-in."""
    folders: dict[str, str] = {}

    def get(name: str) -> str:
        if name not in folders:
            torch.manual_seed(0)
            write = published.write_vision if name in published.VISION else published.write_text
            folders[name] = write(tmp_path_factory.mktemp("published") / "checkpoint", name)
        return folders[name]

    return get


def joined(vision: str, text: str, *flags: str):
    arguments = parse_arguments(["--image_encoder", vision, "--text_model", text, *flags, "--use_cpu"])[0]
    return build(arguments)


def with_square(row: int, column: int, side: int, patch: int) -> torch.Tensor:
    """A dark image (1, 3, side, side) with one bright patch."""
    pixels = torch.full((1, 3, side, side), -1.0)
    pixels[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 2.0
    return pixels


@pytest.mark.parametrize("name", published.VISION)
def test_visual_tokens_read_the_patches_of_every_image_encoder_in_their_places(stand_in, name):
    processor, model = joined(stand_in(name), stand_in("facebook/bart-base"), *HALF, "--num_image_tokens", "10")
    assert processor.image_processor.size["height"] == (SIDES[name] if name != "kaiko-ai/midnight" else 70)
    stock = AutoModel.from_pretrained(stand_in(name)).eval()
    patch, special = published.VISION[name]["patch_size"], SPECIAL_TOKENS.get(name, 1)
    sizes = {"interpolate_pos_encoding": True} if published.VISION[name]["model_type"] == "vit" else {}
    for rows, columns in ((3, 3), (2, 4)):  # neither is the configuration's size
        pixels = torch.randn(2, 3, rows * patch, columns * patch)
        patches = []
        hook = model.encoder.visual_prefix.register_forward_pre_hook(lambda _, given, seen=patches: seen.append(given))
        features = model.get_image_features(pixels)
        hook.remove()
        expected = stock(pixels, **sizes).last_hidden_state
        assert expected.shape[1] == special + rows * columns
        torch.testing.assert_close(features.last_hidden_state, expected)
        torch.testing.assert_close(patches[0][1], expected[:, special:])
        assert patches[0][2] == (rows, columns)
    # A bright square changes the patch that it covers most, and no query reads another place more than its own cell.
    dark = with_square(0, 0, 3 * patch, patch) * 0 - 1
    for row, column in ((0, 1), (2, 0)):
        moved = model.get_image_features(with_square(row, column, 3 * patch, patch))
        change = (moved.last_hidden_state - model.get_image_features(dark).last_hidden_state)[0, special:].norm(dim=-1)
        assert change.argmax() == 3 * row + column
        assert moved.visual_token_attentions[0, 1:].argmax(dim=-1).tolist() == list(range(9))


def test_stand_ins_have_the_published_names_of_weights(stand_in):
    weights = load_file(Path(stand_in("kaiko-ai/midnight"), "model.safetensors"))
    assert {"encoder.layer.0.mlp.weights_in.weight", "encoder.layer.0.attention.attention.query.weight"} <= set(
        weights
    )
    assert "layer.0.attention.q_proj.weight" in load_file(
        Path(stand_in("facebook/dinov3-vitb16-pretrain-lvd1689m"), "model.safetensors")
    )
    assert "vit.encoder.layer.0.layernorm_before.weight" in load_file(
        Path(stand_in("google/vit-base-patch16-224"), "model.safetensors")
    )


PAIRS = [
    ("facebook/dinov2-with-registers-base", "GanjinZero/biobart-v2-base"),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", "facebook/bart-large-cnn"),
    ("owkin/phikon", "facebook/bart-large"),
    ("kaiko-ai/midnight", "facebook/bart-base"),
]


@pytest.fixture(scope="module", params=PAIRS, ids=[vision for vision, _ in PAIRS])
def trained(request, stand_in, slides, tmp_path_factory):
    """The names of a pair, and the folder of a model that was trained from it for two steps."""
    vision, text = request.param
    folder = str(tmp_path_factory.mktemp("trained") / "run")
    flags = ["--image_encoder", stand_in(vision), "--text_model", stand_in(text), *two_steps(slides, folder)]
    run_pathvqa.main([*flags, *(HALF if vision == "kaiko-ai/midnight" else [])])
    return vision, text, folder


def two_steps(slides: str, folder: str) -> list[str]:
    flags = ["--dataset_name", slides, "--output_dir", folder, "--max_steps", "2", "--batch_size", "4", "--do_eval"]
    return [*FAST, *flags, "false", "--save_strategy", "no", "--align_warmup_epochs", "0", "--report_to", "none"]


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))


def test_a_trained_pair_is_loaded_by_auto_classes_and_answers_in_its_words(trained, stand_in):
    vision, text, folder = trained
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    expected = published.VISION[vision]
    assert model.config.vision_config.model_type == expected["model_type"]
    assert type(model.encoder.image_encoder) is type(AutoModel.from_pretrained(stand_in(vision)))
    colors = published.PREPROCESSORS[vision] or published.HALF
    assert list(processor.image_processor.image_mean) == colors["image_mean"]
    before = MMJepaForConditionalGeneration.from_vision_text_pretrained(stand_in(vision), stand_in(text))
    for part in ("encoder.image_encoder", "decoder"):
        old, new = (dict(one.get_submodule(part).named_parameters()) for one in (before, model))
        assert old.keys() == new.keys() and any(not torch.equal(old[name], new[name]) for name in old)
    inputs = processor(images=picture(), text="is necrosis seen?", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=4)
    assert 2 <= tokens.shape[1] <= 5 and len(processor.decode(tokens, skip_special_tokens=True)) == 1
    vocabulary = len(json.loads(Path(stand_in(text), "vocab.json").read_text()))
    assert vocabulary <= model.config.text_config.vocab_size <= vocabulary + 1


def test_settings_for_summaries_are_not_those_of_answers(trained):
    _, text, folder = trained
    settings = json.loads(Path(folder, "generation_config.json").read_text())
    summaries = {"min_length", "length_penalty", "no_repeat_ngram_size", "num_beams", "early_stopping", "max_length"}
    assert not summaries & {name for name, value in settings.items() if value is not None}
    assert settings.get("forced_bos_token_id") == published.TEXT[text].get("forced_bos_token_id")
    assert settings["forced_eos_token_id"] == 2


def test_a_trained_pair_is_trained_on(trained, slides, tmp_path):
    vision, _, folder = trained
    run_pathvqa.main(["--model_name_or_path", folder, *two_steps(slides, str(tmp_path / "more"))])
    first, then = (MMJepaForConditionalGeneration.from_pretrained(one) for one in (folder, tmp_path / "more"))
    old, new = (one.encoder.image_encoder.state_dict() for one in (first, then))
    assert old.keys() == new.keys()
    registers = [name for name in old if "register" in name]
    assert bool(registers) == (vision in SPECIAL_TOKENS)
    assert all(not torch.equal(old[name], new[name]) for name in [*registers, "embeddings.cls_token"])


def test_exported_parts_of_every_image_encoder_are_put_together_and_start_a_new_model(trained, tmp_path):
    model = MMJepaForConditionalGeneration.from_pretrained(trained[2])
    processor = AutoProcessor.from_pretrained(trained[2])
    export_parts(model, processor, tmp_path)
    inputs = processor(images=picture(), text="what is present?", return_tensors="pt")
    labels = inputs["input_ids"]
    torch.testing.assert_close(
        rebuild_from_parts(tmp_path)(**inputs, labels=labels).loss, model(**inputs, labels=labels).loss
    )
    again, new = joined(str(tmp_path / "image_encoder"), str(tmp_path / "generator_bart"))
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    states = [one.get_image_features(inputs["pixel_values"]).last_hidden_state for one in (new, model)]
    torch.testing.assert_close(*states)


@pytest.mark.slow
@pytest.mark.parametrize("trained", PAIRS[:2], indirect=True, ids=[vision for vision, _ in PAIRS[:2]])
def test_onnx_graphs_of_encoders_with_registers_answer_as_the_model(trained, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    pytest.importorskip("torch", minversion="2.11", reason="transformers exports to ONNX with torch 2.11 and newer")
    from mmjepa.export.onnx import export_onnx
    from mmjepa.export.onnx_model import OnnxModel

    model = MMJepaForConditionalGeneration.from_pretrained(trained[2]).eval()
    processor = AutoProcessor.from_pretrained(trained[2])
    export_onnx(model, processor, tmp_path)
    given = {"images": picture(), "text": ["what is present?", "yes?"], "image_index": [0, 0]}
    answers = OnnxModel(tmp_path).generate(**processor(**given, return_tensors="np"))
    assert answers.tolist() == model.generate(**processor(**given, return_tensors="pt")).tolist()


# Training


@pytest.mark.parametrize("name", [vision for vision, _ in PAIRS])
def test_every_weight_of_an_image_encoder_learns_and_recomputing_gives_the_same(stand_in, name):
    _, model = joined(stand_in(name), stand_in("facebook/bart-base"), *HALF)
    batch = {
        "pixel_values": torch.randn(2, 3, 64, 64),
        "input_ids": torch.randint(4, 200, (2, 5)),
        "labels": torch.randint(4, 200, (2, 3)),
    }
    model.train()
    model._looked_for_targets = True

    def gradients():
        torch.manual_seed(0)  # of dropout, and of the scale of places that DINOv3 draws
        model.zero_grad()
        model(**batch).loss.backward()
        named = model.encoder.image_encoder.named_parameters()
        return {key: weight.grad for key, weight in named if weight.requires_grad}

    plain = gradients()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in plain.values())
    assert {part_of(f"encoder.image_encoder.{key}") for key in plain} == {"encoder"}
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(), plain, atol=1e-8, rtol=1e-3)


@pytest.mark.parametrize("name", ["facebook/dinov2-with-registers-base", "facebook/dinov3-vitb16-pretrain-lvd1689m"])
def test_a_drop_path_rate_of_the_checkpoint_is_kept(stand_in, tmp_path, name):
    folder = shutil.copytree(stand_in(name), tmp_path / "dropping")
    fields = json.loads((folder / "config.json").read_text())
    published.write_json(folder / "config.json", fields | {"drop_path_rate": 0.5})
    _, model = joined(str(folder), stand_in("facebook/bart-base"))
    model.config.vision_config.pos_embed_rescale = None
    pixels = torch.randn(2, 3, 64, 64)

    def outputs():
        return [model.get_image_features(pixels).image_embeds for _ in range(4)]

    assert all(torch.equal(one, outputs()[0]) for one in outputs())
    model.train()
    assert len({one.sum().item() for one in outputs()}) > 1


# What is refused


@pytest.mark.parametrize(
    "fields",
    [published.TIMM, published.TIMM | {"model_type": "dinov2"}],
    ids=["as published", "with a model type"],
)
def test_a_checkpoint_of_timm_is_refused_by_name(stand_in, tmp_path, fields):
    published.write_json(tmp_path / "config.json", fields)
    torch.save({}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # whole, but no archive
    for make in (joined, MMJepaForConditionalGeneration.from_vision_text_pretrained):
        with pytest.raises(
            ValueError, match=r"timm \(vit_giant_patch14_reg4_dinov2\).*dinov2_with_registers"
        ) as error:
            make(str(tmp_path), stand_in("facebook/bart-base"))
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("model_type", ["clip", "siglip", "swin", "resnet", "mmjepa", None])
def test_another_image_encoder_is_refused_with_what_is_read(stand_in, tmp_path, model_type):
    published.write_json(tmp_path / "config.json", {"model_type": model_type, "patch_size": 14, "hidden_size": 32})
    for make in (joined, MMJepaForConditionalGeneration.from_vision_text_pretrained):
        with pytest.raises(ValueError, match=f"of model type {model_type!r}: .* image encoder.* dinov3_vit or vit"):
            make(str(tmp_path), stand_in("facebook/bart-base"))


@pytest.mark.parametrize("model_type", ["mbart", "t5", "pegasus", "led", "bert"])
def test_another_text_model_is_refused_with_what_is_read(stand_in, tmp_path, model_type):
    published.write_json(tmp_path / "config.json", {"model_type": model_type, "d_model": 32, "vocab_size": 100})
    for make in (joined, MMJepaForConditionalGeneration.from_vision_text_pretrained):
        with pytest.raises(ValueError, match=f"of model type '{model_type}': .* text model.* model_type bart in"):
            make(stand_in("facebook/dinov2-base"), str(tmp_path))


@pytest.mark.parametrize(
    ("model_type", "weights"),
    [("dinov2", "facebook/dinov2-with-registers-base"), ("vit", "facebook/dinov2-base")],
)
def test_weights_of_another_class_than_the_configuration_says_are_refused(stand_in, tmp_path, model_type, weights):
    folder = shutil.copytree(stand_in(weights), tmp_path / "mixed")
    fields = json.loads((folder / "config.json").read_text())
    published.write_json(folder / "config.json", fields | {"model_type": model_type})
    with pytest.raises((ValueError, RuntimeError)):
        joined(str(folder), stand_in("facebook/bart-base"))


# Colours


def test_without_a_preprocessor_file_flags_give_the_colours_and_the_error_says_which(stand_in):
    midnight, bart = stand_in("kaiko-ai/midnight"), stand_in("facebook/bart-base")
    with pytest.raises(ValueError, match=r"no preprocessor_config.json.*0.485 .*DINOv2.*0.5 and 0.5 for kaiko-ai/mid"):
        joined(midnight, bart)
    processor, _ = joined(midnight, bart, *HALF)
    pixels = processor(images=Image.new("RGB", (50, 50), "white"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, torch.ones(1, 3, 70, 70))
    stains = ["--image_mean", "0.7", "0.6", "0.7", "--image_std", "0.2", "0.2", "0.1", "--image_size", "42"]
    pixels = joined(midnight, bart, *stains)[0](images=Image.new("RGB", (50, 50), "white"), return_tensors="pt")
    torch.testing.assert_close(pixels["pixel_values"][0, :, 0, 0], torch.tensor([1.5, 2.0, 3.0]))


def test_colours_of_flags_are_taken_before_those_of_the_file_and_a_line_says_so(stand_in, caplog):
    dinov2, bart = stand_in("facebook/dinov2-base"), stand_in("facebook/bart-base")
    with caplog.at_level("WARNING"):
        assert list(joined(dinov2, bart)[0].image_processor.image_mean) == published.IMAGENET["image_mean"]
        assert not caplog.text
        assert list(joined(dinov2, bart, *HALF)[0].image_processor.image_std) == [0.5] * 3
    assert dinov2 in caplog.text and "0.485" in caplog.text and "0.5" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (HALF[:2], "--image_mean is given alone"),
        (["--image_mean", "123", "--image_std", "0.5"], "--image_mean is 123.0: .*divided by 255"),
        (["--image_mean", "0.5", "--image_std", "0"], "--image_std is 0.0"),
        (["--image_mean", "0.5", "0.5", "--image_std", "0.5"], "--image_mean is 0.5 0.5: give one number, or three"),
        ([*HALF, "--model_name_or_path", "me/model"], "--image_mean, --image_std beside --model_name_or_path"),
    ],
)
def test_colours_that_are_none_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments([*flags, "--use_cpu"])


def test_a_model_of_random_weights_gets_the_colours_of_flags():
    processor, _ = build(parse_arguments([*FROM_RANDOM, *HALF, "--use_cpu"])[0], QUESTIONS)
    assert list(processor.image_processor.image_mean) == [0.5] * 3
