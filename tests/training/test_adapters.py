"""LoRA by the script's flags: what is trained, saved at checkpoints, merged at the end, and refused."""

import json
import re
import shutil
import signal
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import FAST, FROM_RANDOM
from transformers import Trainer

from mmjepa import run_pathvqa
from mmjepa.evaluation.loading import load_model_and_processor
from mmjepa.evaluation.taught import read_taught
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.training.adapters import adapted_layers
from mmjepa.training.arguments import MMJepaTrainingArguments, parse_arguments

peft = pytest.importorskip("peft")

NEW = (
    "encoder.visual_prefix.",
    "encoder.image_projector.",
    "encoder.prefix_norm.",
    "alignment.",
    "answer_prediction.",
)


@pytest.fixture(scope="module")
def parts(checkpoints, image_processor, tokenizer, tmp_path_factory) -> list[str]:
    """Flags that name stand-ins of published checkpoints, whole with their processor's files."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("vision", "text"):
        shutil.copytree(checkpoints[name], folder / name)
    image_processor.save_pretrained(folder / "vision")
    tokenizer.save_pretrained(folder / "text")
    return ["--image_encoder", str(folder / "vision"), "--text_model", str(folder / "text")]


def train(parts: list[str], slides: str, folder: Path, *flags: str) -> Path:
    """The folder of a training of four steps with two checkpoints, of which the first, with more loss, is "best"."""
    steps = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "5"]
    steps += ["--eval_strategy", "steps", "--eval_steps", "2", "--metric_for_best_model", "loss"]
    steps += ["--greater_is_better", "true", "--align_warmup_epochs", "0", "--warmup_steps", "0"]
    steps += ["--lora_r", "4", "--lr_dec", "1e-2", "--num_image_tokens", "5"]
    run_pathvqa.main(
        [
            *parts,
            *FAST,
            *steps,
            "--dataset_name",
            slides,
            "--output_dir",
            str(folder),
            "--max_val_samples",
            "4",
            *flags,
        ]
    )
    return folder


@pytest.fixture(scope="module")
def trained(parts, slides, tmp_path_factory) -> Path:
    return train(parts, slides, tmp_path_factory.mktemp("runs") / "lora")


def test_the_saved_model_is_whole_and_has_the_adapters_merged_into_its_attention_alone(trained, parts):
    _, vision, _, text = parts
    base = MMJepaForConditionalGeneration.from_vision_text_pretrained(vision, text, num_image_tokens=5)
    model, _ = load_model_and_processor(str(trained))
    weights = model.state_dict()
    changed = {name for name, weight in base.state_dict().items() if not weight.equal(weights[name])}
    attention = {name for name in changed if re.search(r"attn\.|attention\.", name) and not name.startswith(NEW)}
    assert {name for name in changed if not name.startswith(NEW)} == attention
    for tower in ("encoder.image_encoder.", "decoder."):
        assert any(name.startswith(tower) for name in attention)
    assert all(any(name.startswith(part) for name in changed) for part in NEW)
    # What tells how to read its scores was measured of the merged model, and goes with it.
    assert model.config.truth_temperature > 0 and model.config.rank_threshold is not None
    assert read_taught(str(trained))


def test_the_best_checkpoints_adapters_and_new_layers_are_the_saved_ones(trained):
    best = json.loads((trained / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert best == str(trained / "checkpoint-2")
    saved, of_best, last = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (trained / "adapter", Path(best), trained / "checkpoint-4")
    )
    assert all(weight.equal(of_best[name]) for name, weight in saved.items())
    assert not any(weight.equal(last[name]) for name, weight in saved.items() if "lora_B" in name or "prefix" in name)


def test_the_adapter_on_its_base_gives_the_saved_model_by_the_code_of_its_card(trained):
    blocks = re.findall(r"```python\n(.*?)```", (trained / "README.md").read_text(), re.DOTALL)
    model = MMJepaForConditionalGeneration.from_pretrained(trained)
    known = {"model": model}
    exec(blocks[1], known)
    for name, weight in model.state_dict().items():
        assert weight.equal(known["merged"].state_dict()[name]), name


def test_checkpoints_hold_adapters_alone_and_a_training_goes_on_from_them_bitwise(trained, parts, slides, tmp_path):
    checkpoint = trained / "checkpoint-2"
    assert not (checkpoint / "model.safetensors").exists()
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert all("lora_" in name or any(f".{part}" in name for part in NEW) for name in saved)
    resumed = train(parts, slides, tmp_path / "resumed", "--resume_from_checkpoint", str(checkpoint))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        expected = load_file(trained / name)
        assert all(weight.equal(expected[key]) for key, weight in load_file(resumed / name).items())
    states = [
        torch.load(folder / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
        for folder in (trained, resumed)
    ]
    assert len(states[0]) == len(states[1]) > 0
    assert all(states[0][key]["exp_avg"].equal(states[1][key]["exp_avg"]) for key in states[0])


def test_a_folder_of_adapters_in_place_of_a_model_is_refused_in_a_line_that_says_how_to_merge(trained):
    for folder in (trained / "adapter", trained / "checkpoint-2"):
        with pytest.raises(OSError, match=rf"{folder} has adapters without their model.*merge_and_unload"):
            load_model_and_processor(str(folder))


def test_a_training_that_is_told_to_stop_in_its_last_step_merges_its_adapters(
    saved_folder, slides, tmp_path, monkeypatch
):
    take_step, steps = Trainer.training_step, count(1)

    def take_step_and_be_told(*args, **kwargs):
        if next(steps) == 2:
            signal.raise_signal(signal.SIGTERM)
        return take_step(*args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", take_step_and_be_told)
    flags = ["--model_name_or_path", saved_folder, *FAST, "--dataset_name", slides, "--fast_dev_run"]
    flags += ["--align_warmup_epochs", "0", "--warmup_steps", "0", "--do_eval", "false", "--lora_r", "2"]
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        run_pathvqa.main([*flags, "--output_dir", str(tmp_path)])
    before, after = (load_file(Path(name) / "model.safetensors") for name in (saved_folder, tmp_path))
    assert before.keys() == after.keys() and (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    adapted = [name for name in before if not name.startswith(NEW) and not before[name].equal(after[name])]
    assert adapted and all("attn." in name or "attention." in name for name in adapted)


def test_a_saved_model_is_the_base_of_its_adapters(saved_folder, slides, tmp_path):
    folder = tmp_path / "lora"
    flags = ["--model_name_or_path", saved_folder, *FAST, "--dataset_name", slides, "--output_dir", str(folder)]
    flags += ["--fast_dev_run", "--align_warmup_epochs", "0", "--warmup_steps", "0", "--do_eval", "false"]
    run_pathvqa.main([*flags, "--lora_r", "2", "--freeze_image_encoder", "--lora_targets", "fc1"])
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == saved_folder and config["lora_alpha"] == 4
    before, after = (load_file(Path(name) / "model.safetensors") for name in (saved_folder, folder))
    changed = {name for name, weight in before.items() if not weight.equal(after[name])}
    assert {name for name in changed if not name.startswith(NEW)} == {
        f"decoder.layers.{layer}.fc1.weight" for layer in (0, 1)
    }


def arguments(*flags: str) -> MMJepaTrainingArguments:
    return parse_arguments([*FROM_RANDOM, "--use_cpu", *flags])[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_r", "0"], "lora_r is 0: give a number of at least 1"),
        (["--lora_r", "-4"], "lora_r is -4"),
        (["--lora_r", "4", "--lora_dropout", "1"], "lora_dropout is 1.0: give a share of at least 0 and below 1"),
        (["--lora_alpha", "8"], "lora_alpha is about adapters: give --lora_r too"),
        (["--lora_r", "4", "--fsdp", "full_shard"], "does not run under FSDP"),
        (["--freeze_decoder", "--lr_dec", "1e-4"], "--freeze_decoder and --lr_dec 1e-4 contradict each other"),
        (["--freeze_image_encoder", "--encoder_lr_factor", "0.1"], "contradict each other"),
        (["--freeze_decoder", "--lr_img", "0"], "both 0, which trains nothing"),
    ],
)
def test_flags_that_train_nothing_or_say_two_things_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        arguments(*flags)


def test_adapters_without_peft_are_refused_before_training(monkeypatch):
    monkeypatch.setattr("mmjepa.training.values.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"--lora_r needs peft: pip install 'mmjepa\[lora\]'"):
        arguments("--lora_r", "4")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--lora_targets", "q_proj", "query"],
            r"names query: the linear layers that learn, of encoder.image_encoder and decoder, are fc1, fc2, k_proj",
        ),
        (["--freeze_decoder", "--lora_targets", "out_proj"], "names out_proj: .*, of encoder.image_encoder, are fc1"),
        (["--freeze_decoder", "--freeze_image_encoder"], "both are frozen: leave out --lora_r"),
    ],
)
def test_adapters_without_a_layer_to_adapt_are_refused(make_model, flags, message):
    with pytest.raises(ValueError, match=message):
        adapted_layers(make_model(), arguments("--lora_r", "4", *flags))
