"""A new model from two checkpoints: where they are found, what of them is read, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartForConditionalGeneration, Dinov2ForImageClassification, Dinov2Model

from mmjepa.export.parts import export_parts, rebuild_from_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

build = MMJepaForConditionalGeneration.from_vision_text_pretrained


def in_cache(cache: Path, name: str, revisions: dict[str, str]) -> None:
    """Puts folders as the revisions of a repository into a cache of the Hub's form."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for number, (revision, folder) in enumerate(revisions.items()):
        commit = f"{number + 1:040x}"
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)


@pytest.fixture
def cache(checkpoints, tmp_path):
    """A cache that holds each checkpoint as "old", and as "main" with other weights."""
    for half, model_class in (("vision", Dinov2Model), ("text", BartForConditionalGeneration)):
        model = model_class.from_pretrained(checkpoints[half])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        model.save_pretrained(tmp_path / half)
        in_cache(tmp_path / "cache", f"lab/{half}", {"old": checkpoints[half], "main": str(tmp_path / half)})
    return tmp_path / "cache"


def test_loading_arguments_reach_both_checkpoints_and_each_by_its_prefix(cache, checkpoints):
    def difference(model):
        """How far the weights of both halves are from those of the revision "old"."""
        old = build(checkpoints["vision"], checkpoints["text"])
        pairs = [
            (one.encoder.image_encoder.layernorm.weight, one.decoder.layernorm_embedding.weight)
            for one in (model, old)
        ]
        return [round((new - first).mean().item()) for new, first in zip(*pairs, strict=True)]

    found = {"cache_dir": cache, "local_files_only": True}
    assert difference(build("lab/vision", "lab/text", **found)) == [1, 1]
    assert difference(build("lab/vision", "lab/text", revision="old", **found)) == [0, 0]
    assert difference(build("lab/vision", "lab/text", vision_revision="old", **found)) == [0, 1]
    assert difference(build("lab/vision", "lab/text", revision="old", text_revision="main", **found)) == [0, 1]
    with pytest.raises(OSError):
        build("lab/vision", "lab/text", vision_revision="new", **found)


def test_a_subfolder_is_where_each_checkpoint_is_read(checkpoints, tmp_path):
    for half in ("vision", "text"):
        shutil.copytree(checkpoints[half], tmp_path / "both" / half)
    both = str(tmp_path / "both")
    model = build(both, both, vision_subfolder="vision", text_subfolder="text", num_image_tokens=3)
    assert model.config.num_image_tokens == 3
    expected = Dinov2Model.from_pretrained(checkpoints["vision"]).state_dict()
    torch.testing.assert_close(dict(model.encoder.image_encoder.state_dict()), dict(expected))


def test_no_loading_argument_is_written_into_the_configuration(checkpoints, tmp_path):
    model = build(checkpoints["vision"], checkpoints["text"], token="hf_secret", text_token="hf_other", proxies={})
    model.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.json"):
        written = path.read_text()
        assert not any(word in written for word in ("hf_", "proxies", '"token"', "local_files_only")), path


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16),
        ("auto", torch.float32),
    ],
)
def test_weights_have_the_type_that_is_asked_for_and_the_model_is_in_eval_mode(checkpoints, dtype, expected):
    model = build(checkpoints["vision"], checkpoints["text"], **({} if dtype is None else {"dtype": dtype}))
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert not any(module.training for module in model.modules())
    assert model.encoder.image_encoder.embeddings.cls_token.requires_grad
    assert not any(parameter.requires_grad for parameter in model.encoder.text_encoder.parameters())


def test_checkpoints_in_half_precision_are_loaded_in_float32_unless_told(checkpoints, tmp_path):
    Dinov2Model.from_pretrained(checkpoints["vision"]).half().save_pretrained(tmp_path)
    assert build(str(tmp_path), checkpoints["text"]).dtype == torch.float32
    assert build(str(tmp_path), checkpoints["text"], dtype="auto").dtype == torch.float32  # holds both


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("num_image_token", "num_image_tokens"),
        ("lambda_alig", "lambda_align"),
        ("revison", "revision"),
        ("vision_revison", "vision_revision"),
        ("vision_dtype", "vision_"),
        ("text_config", "text_"),
        ("device_map", "local_files_only"),
        ("trust_remote_code", "cache_dir"),
    ],
)
def test_a_name_that_is_no_argument_is_refused_with_its_neighbours(checkpoints, name, near):
    with pytest.raises(TypeError, match=f"unknown argument '{name}': give .*{near}"):
        build(checkpoints["vision"], checkpoints["text"], **{name: "main"})


# Weights


def changed(folder, target, change):
    """A copy of a checkpoint whose weights `change` has changed in place."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def rename(old, new):
    return lambda weights: weights.update({new: weights.pop(old)})


@pytest.mark.parametrize(
    ("half", "change", "message"),
    [
        (
            "vision",
            lambda weights: weights.update({"embeddings.register_tokens": torch.zeros(1, 4, 32)}),
            "Dinov2Model of its configuration does not take: embeddings.register_tokens",
        ),
        (
            "vision",
            lambda weights: weights.update({"encoder.layer.2.norm1.weight": torch.ones(32)}),
            r"does not take: (encoder\.)?layers?\.2\.norm1\.weight",
        ),
        ("vision", lambda weights: weights.pop("layernorm.bias"), "too few for a Dinov2Model .*: layernorm.bias"),
        (
            "text",
            lambda weights: weights.update({"model.decoder.layers.2.fc1.bias": torch.zeros(64)}),
            r"does not take: (model\.)?decoder\.layers\.2\.fc1\.bias",
        ),
        (
            "text",
            lambda weights: weights.pop("model.decoder.layers.1.fc1.bias"),
            "too few for a BartForConditionalGeneration .*: model.decoder.layers.1.fc1.bias",
        ),
    ],
    ids=["registers", "a layer more", "a weight less", "a text layer more", "a text weight less"],
)
def test_weights_that_are_not_those_of_the_configuration_are_an_error(checkpoints, tmp_path, half, change, message):
    folders = {**checkpoints, half: changed(checkpoints[half], tmp_path / half, change)}
    with pytest.raises(ValueError, match=message):
        build(folders["vision"], folders["text"])


def test_a_head_of_another_task_and_a_missing_mask_token_do_not_matter(checkpoints, tmp_path):
    dinov2 = Dinov2ForImageClassification.from_pretrained(checkpoints["vision"])
    dinov2.save_pretrained(tmp_path / "classifier")
    classifier = changed(
        tmp_path / "classifier", tmp_path / "unmasked", lambda weights: weights.pop("dinov2.embeddings.mask_token")
    )
    expected = build(checkpoints["vision"], checkpoints["text"]).encoder.image_encoder.layernorm.state_dict()
    model = build(classifier, checkpoints["text"])
    torch.testing.assert_close(dict(model.encoder.image_encoder.layernorm.state_dict()), dict(expected))


def test_register_tokens_among_the_weights_of_a_classifier_are_an_error(checkpoints, tmp_path):
    Dinov2ForImageClassification.from_pretrained(checkpoints["vision"]).save_pretrained(tmp_path / "classifier")
    folder = changed(
        tmp_path / "classifier",
        tmp_path / "registers",
        lambda weights: weights.update({"dinov2.embeddings.register_tokens": torch.zeros(1, 4, 32)}),
    )
    with pytest.raises(ValueError, match="register_tokens"):
        build(folder, checkpoints["text"])


def test_exported_parts_with_register_tokens_are_not_put_together_without(make_model, processor, tmp_path):
    export_parts(make_model(), processor, tmp_path)
    whole = tmp_path / "image_encoder"
    shutil.move(whole, tmp_path / "before")
    changed(
        tmp_path / "before",
        whole,
        lambda weights: weights.update({"embeddings.register_tokens": torch.zeros(1, 4, 32)}),
    )
    with pytest.raises(ValueError, match="register_tokens"):
        rebuild_from_parts(tmp_path)


# Other functions that hand arguments on


def calls(model, batch):
    """Public functions that hand on what they do not know, each as a function of further arguments."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    answers = torch.tensor([[0, 5, 2]])
    pixels = batch["pixel_values"]
    return {
        "forward": lambda **more: model(**batch, **more),
        "encoder": lambda **more: model.encoder(**inputs, **more),
        "get_image_features": lambda **more: model.get_image_features(pixels, **more),
        "generate": lambda **more: model.generate(**inputs, max_new_tokens=2, **more),
        "rank_answers": lambda **more: model.rank_answers(model.encode_answers(answers), **inputs, **more),
        "answer_log_likelihoods": lambda **more: model.answer_log_likelihoods(answers, **inputs, **more),
    }


@pytest.mark.parametrize(
    "function", ["forward", "encoder", "get_image_features", "generate", "rank_answers", "answer_log_likelihoods"]
)
def test_a_misspelt_argument_is_refused_by_every_function_that_hands_arguments_on(make_model, batch, function):
    call = calls(make_model(lambda_answer=0.25), batch)[function]
    call(output_attentions=None)
    with pytest.raises((TypeError, ValueError), match="image_indx"):
        call(image_indx=batch["image_index"])


def test_a_misspelt_argument_is_refused_where_a_saved_model_is_loaded(saved_folder):
    with pytest.raises(TypeError, match="num_image_token"):
        MMJepaForConditionalGeneration.from_pretrained(saved_folder, num_image_token=3)


def test_a_token_is_not_written_into_the_configuration_of_a_saved_model(saved_folder, tmp_path):
    MMJepaForConditionalGeneration.from_pretrained(saved_folder, token="hf_secret").save_pretrained(tmp_path)
    assert "hf_secret" not in json.dumps([path.read_text() for path in tmp_path.glob("*.json")])
