"""The script, from flags to files: on drawn slides, on stand-ins of published checkpoints and of PathVQA itself."""

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import FAST, FROM_RANDOM, TEXT, VISION
from transformers import (
    BartForConditionalGeneration,
    Dinov2Model,
    GenerationConfig,
    SchedulerType,
    TrainingArguments,
)
from transformers.training_args import ParallelMode
from transformers.utils.import_utils import is_torch_greater_or_equal
from typer.testing import CliRunner

from mmjepa import cli, run_pathvqa
from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.columns import LATER_COLUMNS
from mmjepa.data.rows import load_rows
from mmjepa.data.threads import default_workers
from mmjepa.export.parts import rebuild_from_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import MMJepaTrainingArguments, flag_parser, parse_arguments
from mmjepa.training.building import build
from mmjepa.training.command_line import early_parser, given_flags, read_command_line
from mmjepa.training.flags import (
    CONFIG_FIELDS,
    FIXED_FLAGS,
    DataArguments,
    ModelArguments,
    OutputFlags,
    TrainingFlags,
)
from mmjepa.training.reading import read_rows
from mmjepa.training.run_folder import find_checkpoint


@pytest.fixture
def folders(tmp_path) -> list[str]:
    return ["--ckpt_dir", str(tmp_path / "checkpoints"), "--log_dir", str(tmp_path / "logs")]


def parsed(*flags):
    return parse_arguments([*FROM_RANDOM, *flags])


@pytest.mark.parametrize(
    ("flag", "value", "group", "name", "expected"),
    [
        ("batch_size", "5", 2, "per_device_train_batch_size", 5),
        ("per_device_train_batch_size", "5", 2, "train_batch_size", 5),
        ("num_workers", "3", 2, "dataloader_num_workers", 3),
        ("max_train_samples", "7", 1, "max_train_samples", 7),
        ("max_val_samples", "7", 1, "max_val_samples", 7),
        ("max_eval_samples", "7", 1, "max_val_samples", 7),
        ("fast_dev_run", "true", 2, "max_steps", 2),
        ("max_epochs", "9", 2, "num_train_epochs", 9),
        ("lr_img", "0.5", 2, "lr_img", 0.5),
        ("lr_dec", "0.25", 2, "learning_rate", 0.25),
        ("m_image_tokens", "3", 0, "num_image_tokens", 3),
        ("log_dir", "here", 2, "log_dir", "here"),
        ("ckpt_dir", "there", 2, "output_dir", "there"),
        ("export_dir", "out", 2, "export_dir", "out"),
        ("use_cosine_schedule", "true", 2, "lr_scheduler_type", "cosine"),
        ("warmup_ratio", "0.5", 2, "warmup_steps", 0.5),
        ("gradient_checkpointing", "true", 2, "gradient_checkpointing", True),
        ("accumulate_grad_batches", "4", 2, "gradient_accumulation_steps", 4),
        ("gradient_clip_val", "2.5", 2, "max_grad_norm", 2.5),
        ("precision", "bf16", 2, "bf16", True),
        ("precision", "fp16", 2, "fp16", True),
        ("precision", "bf16-mixed", 2, "bf16", True),
        ("precision", "16-mixed", 2, "fp16", True),
        ("project_image", "false", 0, "project_image", False),
        ("lambda_align", "0.1", 0, "lambda_align", 0.1),
        ("lambda_ce", "2", 0, "lambda_ce", 2.0),
        ("align_warmup_epochs", "2", 2, "align_warmup_epochs", 2.0),
    ],
)
def test_every_flag_reaches_what_it_sets(flag, value, group, name, expected):
    arguments = parsed(f"--{flag}", value, "--use_cpu")
    assert getattr(arguments[group], name) == expected
    default = getattr(parsed("--use_cpu")[group], name)
    assert default != expected


def test_defaults_are_the_documented_ones():
    model, data, training = parsed("--use_cpu")
    assert (training.per_device_train_batch_size, training.dataloader_num_workers) == (16, default_workers())
    assert 1 <= default_workers() <= 4
    assert (training.num_train_epochs, training.lr_img, training.learning_rate) == (3, 3e-4, 3e-5)
    rows = Dataset.from_dict({"question": ["is it?"], "answer": ["yes"]})
    config = build(model, rows)[1].config
    assert (config.num_image_tokens, config.visual_prefix, config.aligned_token) == (8, "patches", True)
    assert (config.alignment_text, config.alignment_loss, config.alignment_target) == (
        "proposition",
        "infonce",
        "whitened",
    )
    assert (config.alignment_reads, config.truth_weight, training.wrong_statements) == ("tokens", 1.0, 2)
    assert (config.lambda_align, config.lambda_ce, config.lambda_answer) == (0.5, 1.0, 0.25)
    assert (training.align_warmup_epochs, training.warmup_steps, training.max_grad_norm) == (1, 0.06, 1.0)
    assert (training.log_dir, training.output_dir, training.export_dir) == (
        "./checkpoints/logs",
        "./checkpoints",
        None,
    )
    assert not (training.use_cosine_schedule or training.gradient_checkpointing or training.bf16 or training.fp16)
    assert data.dataset_name == ["flaviagiammarino/path-vqa"]


def test_every_flag_of_a_name_of_the_configuration_is_passed_to_it():
    flags = {field.name for field in fields(MMJepaConfig)} & {field.name for field in fields(ModelArguments)}
    assert flags == {"vision_config", "text_config", *CONFIG_FIELDS}


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_file_of_flags_works_and_flags_after_it_win(tmp_path, suffix):
    flags = {"vision_config": VISION, "text_config": TEXT, "batch_size": 6, "lr_img": 0.01, "use_cpu": True}
    flags["augmentations"] = ["flip", "stain"]
    path = tmp_path / f"run{suffix}"
    path.write_text(json.dumps(flags) if suffix == ".json" else yaml.safe_dump(flags))
    model, _, training = parse_arguments([str(path), "--lr_img", "0.02"])
    assert model.vision_fields == VISION
    assert (training.per_device_train_batch_size, training.lr_img) == (6, 0.02)
    assert training.augmentations == ["flip", "stain"]


def test_the_flags_that_are_known_before_the_imports_are_this_projects_and_of_the_same_types():
    early, late = early_parser().flags, flag_parser().flags
    library = {
        name for name, action in late.items() if action.dest in {field.name for field in fields(TrainingArguments)}
    }
    own = {field.name for group in (ModelArguments, DataArguments, TrainingFlags) for field in fields(group)}
    assert own <= early.keys() < late.keys() and late.keys() - early.keys() <= library | {"help", "help_all"}
    for name, action in early.items():
        assert (action.dest, action.type, action.nargs) == (late[name].dest, late[name].type, late[name].nargs), name
    assert early["batch_size"].type is int and early["learning_rate"].type is float
    assert "debug" in late["log_level"].choices


def test_no_flag_of_the_library_is_taken_for_one_of_this_project_before_the_imports_though_it_is_cut_short():
    early, late = early_parser(), flag_parser()
    for flag in late.flags.keys() - early.flags.keys():
        for length in range(3, len(flag) + 1):
            assert flag[:length] in early.flags or read_command_line([f"--{flag[:length]}", "x"])


def test_help_shows_this_projects_flags_in_groups_and_the_trainers_only_where_asked(capsys):
    shown = {}
    for flag in ("--help", "--help_all"):
        with pytest.raises(SystemExit, match="0"):
            parse_arguments([flag])
        shown[flag] = capsys.readouterr().out
    titles = re.findall(r"^(\w+):$", shown["--help"], re.MULTILINE)
    assert titles == ["options", "model", "data", "training", "output", "Trainer"]
    own = {name for group in (ModelArguments, DataArguments) for name in vars(group)["__annotations__"]}
    assert {name for name in (*own, "lr_img", "log_dir") if f"--{name} " not in shown["--help"]} <= {
        "num_image_tokens",
        "max_val_samples",
    }
    assert "--num_image_tokens, --m_image_tokens int" in shown["--help"]
    assert "--adam_beta1" not in shown["--help"] and "--adam_beta1" in shown["--help_all"]
    assert "--no_" not in shown["--help_all"] and "--log-dir" not in shown["--help_all"]


def test_the_help_before_the_imports_is_that_after_them(capsys):
    shown = []
    for parse in (read_command_line, parse_arguments):
        with pytest.raises(SystemExit, match="0"):
            parse(["--help"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_every_flag_of_this_project_stands_in_a_table_of_the_docs():
    pages = Path(run_pathvqa.__file__).parent.glob("docs/flags*.md")
    cells = [cell for page in pages for cell in re.findall(r"^\| (`--.*?) \|", page.read_text(), re.MULTILINE)]
    tables = set(re.findall(r"--(\w+)", " ".join(cells)))
    classes = (ModelArguments, DataArguments, TrainingFlags, OutputFlags)
    own = {name for group in classes for name in vars(group)["__annotations__"]}
    assert own - FIXED_FLAGS.keys() <= tables


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batchsize", "3"], "there is no --batchsize: did you mean --batch_size"),
        (["--batch_size", "x"], "--batch_size is 'x': give a number, of type int"),
        (["--max_val_samples=1.5"], "--max_val_samples is '1.5': give a number, of type int"),
        (["--vision_config", "{hidden_size: 3}"], "--vision_config is '{hidden_size: 3}', which is no JSON"),
        (["--text_config=[3]"], r"--text_config is '\[3\]': give a JSON object"),
        (["--lr_scheduler_kwargs", "{'min_lr': 1}"], "--lr_scheduler_kwargs is .* which is no JSON"),
        (["--seed", "1", "configs/demo.json"], "configs/demo.json: a file of flags must be the first argument"),
        (["nothing.json", "--seed", "1"], "nothing.json, the file of flags, does not exist"),
        (["--dataset_name", "/no/such/folder"], "--dataset_name is '/no/such/folder': there is no such folder"),
        (["--model_name_or_path", "./nothing"], "--model_name_or_path is './nothing': there is no such folder"),
        (["--seed", "1", "2"], "2 belongs to no flag"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said_by_the_flags_name(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(flags)


def test_a_flag_that_takes_several_values_takes_several_tables():
    tables = ["a.json", "b.json"]
    assert parsed("--predict_data", *tables, "--use_cpu")[2].predict_data == tables


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"seed": 1,}', "flags.json, the file of flags, can't be read: .*line 1"), ("[1]", "holds a list")],
)
def test_a_file_that_holds_no_flags_is_named(tmp_path, text, message):
    (tmp_path / "flags.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments([str(tmp_path / "flags.json")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batchsize 3", "there is no --batchsize"),
        ("--lr_img much", "--lr_img is 'much': give a number"),
        ("--bf16 --fp16", "--bf16 and --fp16 contradict each other"),
    ],
)
def test_the_script_says_what_is_wrong_with_the_flags_before_it_imports_pytorch(tmp_path, flags, message):
    """A module named torch that can't be imported stands in the way of the one that can."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    run = run_python(run_pathvqa.__file__, *flags.split(), path=str(tmp_path))
    assert run.returncode != 0 and run.stderr.count("\n") == 1
    assert message in run.stderr


def test_without_a_gpu_bfloat16_is_computed_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    training = parsed("--precision", "bf16")[2]
    assert training.bf16 and training.device.type == "cpu"


def test_a_data_set_that_is_nowhere_is_named(folders, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="'no/such': there is no such folder here"):
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, "--dataset_name", "no/such"])


def test_each_part_that_is_not_named_is_the_published_one():
    for flags, expected in (
        ([], ("facebook/dinov2-base", "facebook/bart-base")),
        (["--image_encoder", "mine"], ("mine", "facebook/bart-base")),
        (["--text_model", "mine"], ("facebook/dinov2-base", "mine")),
    ):
        model, _, _ = parse_arguments([*flags, "--fast_dev_run", "--batch_size", "2", "--use_cpu"])
        assert (model.image_encoder, model.text_model) == expected


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([*FROM_RANDOM, "--model_name_or_path", "x"], "--vision_config, --text_config beside --model_name_or_path"),
        (["--model_name_or_path", "x", "--tokenizer_name", "y"], "--tokenizer_name beside --model_name_or_path"),
        ([*FROM_RANDOM, "--text_model", "x"], "--text_model, --vision_config, --text_config"),
        (FROM_RANDOM[:2], "--vision_config: give --vision_config and --text_config together"),
    ],
)
def test_a_model_named_in_two_ways_or_half_is_refused_by_the_flags_names(flags, named):
    with pytest.raises(ValueError, match=named):
        parse_arguments([*flags, "--use_cpu"])


@pytest.mark.parametrize("precision", ["32", "32-true"])
def test_float32_is_used_where_asked_for_though_the_gpu_has_bfloat16(gpus, precision):
    _, _, training = parsed("--precision", precision)
    assert not (training.bf16 or training.fp16)


def test_bfloat16_is_the_default_only_where_the_gpu_does_not_emulate_it(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not parsed()[2].bf16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert parsed()[2].bf16


def contradicting() -> list[list[str]]:
    """Pairs of flags that say different things about the same thing, of each kind of which there are such."""
    return [
        pair.split()
        for pair in (
            "--precision 32 --bf16",
            "--precision 32-true --fp16 true",
            "--precision bf16 --bf16 false",
            "--precision bf16-mixed --fp16",
            "--bf16 --fp16",
            "--use_cosine_schedule --lr_scheduler_type constant",
            "--lr_scheduler_type linear --use_cosine_schedule",
            "--do_eval false --eval_strategy epoch",
            "--do_eval false --load_best_model_at_end",
            "--eval_strategy no --load_best_model_at_end",
            "--save_strategy no --load_best_model_at_end true",
            "--predict_split validation --do_predict false",
            "--predict_data x.png --do_predict false",
            "--prediction_loss_only --do_predict",
            "--prediction_loss_only --predict_split test",
            "--fast_dev_run --max_steps 100",
            "--overfit 4 --use_cosine_schedule",
            "--overfit 4 --align_warmup_epochs 1",
            "--torch_compile false --torch_compile_mode default",
            "--gradient_checkpointing false --activation_checkpointing",
            "--do_eval true --no_do_eval",
            *("--batch_size 4 --per_device_train_batch_size 8", "--num_workers 1 --dataloader_num_workers 2"),
            *("--max_epochs 1 --num_train_epochs 2", "--lr_dec 1e-3 --learning_rate 1e-4"),
            *("--warmup_ratio 0.1 --warmup_steps 5", "--ckpt_dir here --output_dir there"),
            "--per-device-train-batch-size 3 --batch_size 4",
            "--per_device_train_batch 3 --batch_size 4",
        )
    ]


@pytest.mark.parametrize("flags", contradicting(), ids=" ".join)
def test_two_flags_that_contradict_each_other_are_refused_by_their_names(flags, tmp_path):
    first, second = (flag.replace("-", "_").replace("__", "--", 1) for flag in flags if flag.startswith("--"))
    message = rf"^{first}( \S+)? and {second}( \S+)? contradict each other: leave out one of them\.$"
    (tmp_path / "flags.json").write_text(json.dumps(given_flags(flags)))
    is_cut_short = "--per_device_train_batch" in flags  # before the imports such a name may be the library's
    for parser in [flag_parser()] if is_cut_short else [early_parser(), flag_parser()]:
        with pytest.raises(ValueError, match=message):
            read_command_line(flags, parser)
        with pytest.raises(ValueError, match="contradict each other"):  # so they are in a file
            read_command_line([str(tmp_path / "flags.json")], parser)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "32", "bf16": True}, "--bf16 True and --precision 32"),
        ({"use_cosine_schedule": True, "lr_scheduler_type": SchedulerType.CONSTANT}, "--lr_scheduler_type"),
        ({"do_eval": False, "eval_strategy": "epoch"}, "--do_eval False and --eval_strategy epoch"),
    ],
)
def test_so_are_two_arguments_of_the_class(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        MMJepaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)


def test_flags_that_say_the_same_thing_are_honoured_together():
    training = parsed("--precision", "bf16", "--bf16", "true", "--fp16", "false", "--use_cpu")[2]
    assert training.bf16 and not training.fp16
    training = parsed("--use_cosine_schedule", "--lr_scheduler_type", "cosine", "--use_cpu")[2]
    assert training.lr_scheduler_type == "cosine"
    training = parsed("--batch_size", "4", "--per_device_train_batch_size", "4", "--use_cpu")[2]
    assert training.per_device_train_batch_size == 4
    training = parsed("--use_cosine_schedule", "false", "--lr_scheduler_type", "constant", "--use_cpu")[2]
    assert training.lr_scheduler_type == "constant"
    assert parsed("--do_eval", "false", "--eval_strategy", "no", "--use_cpu")[2].eval_strategy == "no"


def test_float32_is_used_where_bf16_is_switched_off(gpus):
    assert not parsed("--bf16", "false")[2].bf16
    assert not MMJepaTrainingArguments(output_dir="here", bf16=False).bf16


def test_flags_after_a_file_win_over_those_in_it_that_say_otherwise_by_other_names(tmp_path):
    path = tmp_path / "flags.json"
    in_file = {"precision": "32", "use_cosine_schedule": True, "per_device_train_batch_size": 16, "seed": 3}
    path.write_text(json.dumps(in_file | {"eval_strategy": "steps", "max_steps": 100}))
    flags = ["--bf16", "--lr_scheduler_type", "constant", "--batch_size", "4", "--do_eval", "false", "--fast_dev_run"]
    training = parsed_from(str(path), *flags, "--use_cpu")
    assert training.bf16 and training.lr_scheduler_type == "constant" and training.per_device_train_batch_size == 4
    assert (training.eval_strategy, training.max_steps, training.seed) == ("no", 2, 3)
    for parser in (early_parser(), flag_parser()):
        assert (
            not {"precision", "use_cosine_schedule"}
            & given_flags(read_command_line([str(path), *flags], parser)).keys()
        )


def parsed_from(*argv: str) -> MMJepaTrainingArguments:
    return parse_arguments([argv[0], *FROM_RANDOM, *argv[1:]])[2]


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("True", "true"), ("LAST", "last"), ("true", "true"), ("False", None), ("false", None), (True, "true")],
)
def test_a_switch_of_resuming_is_known_in_any_case(value, meaning, tmp_path):
    given = MMJepaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, resume_from_checkpoint=value)
    assert given.resume_from_checkpoint == meaning
    assert find_checkpoint(given) is None  # a folder without a checkpoint: training starts from the beginning


@pytest.fixture
def gpus(monkeypatch) -> int:
    """A machine that says that it has three GPUs."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    return 3


def test_of_several_gpus_one_is_used_and_the_log_says_how_to_use_all(gpus, caplog):
    _, _, training = parsed("--batch_size", "4")
    assert training.n_gpu == 1 and training.parallel_mode == ParallelMode.NOT_PARALLEL
    assert training.train_batch_size == 4
    assert caplog.text.count("torchrun --nproc_per_node 3") == 1


def run_python(*arguments: str, path: str = "") -> subprocess.CompletedProcess:
    """Python in a process of its own, as a user starts it; modules are looked for in `path` first."""
    environment = {"PYTHONPATH": os.pathsep.join([path, *sys.path]), "TQDM_MININTERVAL": "0"}
    return subprocess.run([sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True)


def unhelpful_lines(run: subprocess.CompletedProcess) -> list[str]:
    assert run.returncode == 0, run.stderr
    unhelpful = re.compile(r"warn|fail|deprecat|missing|not installed|torch|\[RANK|Glyph", re.IGNORECASE)
    lines = re.split(r"[\r\n]+", run.stderr + run.stdout)
    return [line for line in lines if unhelpful.search(line) and ": try " not in line]  # it says what to do


@pytest.mark.slow
def test_a_run_prints_nothing_that_a_user_can_do_nothing_about(slides, tmp_path):
    """Training and both exports, with the workers and bars that a user has."""
    folder = tmp_path / "run"
    flags = [*FROM_RANDOM, "--dataset_name", slides, "--max_epochs", "2", "--batch_size", "8", "--logging_steps", "1"]
    # The tiny model reads 32 tokens: statements would be cut, and the run says so.
    flags += ["--alignment_text", "priority"]
    flags += ["--output_dir", str(folder), "--export_dir", str(tmp_path / "export")]
    if find_spec("onnxscript") is not None and is_torch_greater_or_equal("2.11"):
        flags += ["--onnx_dir", str(tmp_path / "onnx")]
    run = run_python(run_pathvqa.__file__, *flags)
    assert not unhelpful_lines(run)
    assert "INFO train: 56 questions about 8 images" in run.stderr
    # Two evaluations while training and one at the end, each in one line; bars that end with the last question.
    evaluations = [line for line in run.stdout.splitlines() if line.startswith("eval  epoch")]
    assert len(evaluations) == 3
    assert all(re.search(r"loss [\d.]+  align .* accuracy .* majority answer", line) for line in evaluations)
    assert evaluations[0].endswith(" left") and re.search(r"image gain [+-][\d.]+ points$", evaluations[2])
    assert "{" not in run.stdout
    assert "%|" not in run.stderr  # bars are for terminals
    assert run.stdout.startswith("\ndevice: ")  # what was chosen comes first, and what to do next last
    assert run.stdout.splitlines()[-1].startswith("next: ")
    assert list((folder / "logs" / "mmjepa_joint").glob("events*"))


@pytest.mark.parametrize("does", ["evaluates", "exports"])
@pytest.mark.slow
def test_what_uses_a_saved_model_prints_nothing_that_a_user_can_do_nothing_about(does, saved_folder, slides, tmp_path):
    if does == "exports":
        run = run_python("-m", "mmjepa.export.parts", saved_folder, str(tmp_path))
    else:
        flags = ["--model_name_or_path", saved_folder, "--do_train", "false", "--dataset_name", slides]
        run = run_python(run_pathvqa.__file__, *flags, "--output_dir", str(tmp_path))
        assert re.search(r"^eval  loss .* image gain", run.stdout, re.MULTILINE)
    # Where texts are longer than a model reads, a user can do something.
    assert not [line for line in unhelpful_lines(run) if "is truncated" not in line]


def test_run_on_drawn_slides_writes_everything_a_user_is_promised(slides, folders, tmp_path, capsys):
    export = tmp_path / "export"
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--max_epochs", "2", "--do_predict"]
    results = run_pathvqa.main([*flags, "--export_dir", str(export), "--logging_steps", "1"])
    checkpoints = tmp_path / "checkpoints"

    assert results == json.loads((checkpoints / "all_results.json").read_text())
    for name in ("accuracy", "yes_no_accuracy", "open_accuracy", "image_gain", "align", "ce"):
        assert f"eval_{name}" in results
    for control in ("majority", "shuffled_images", "blank_images"):
        assert f"eval_accuracy_{control}" in results
    assert "train_runtime" in results and "test_accuracy" in results
    assert "image gain" in capsys.readouterr().out

    rows = [json.loads(line) for line in (checkpoints / "eval_answers.jsonl").read_text().splitlines()]
    correct = sum(row["prediction"] == row["answer"] for row in rows) / len(rows)
    assert results["eval_accuracy"] == pytest.approx(correct)
    assert PILImage.open(checkpoints / "eval_answers.png").size[0] > 500
    assert len(list(checkpoints.glob("checkpoint-*"))) <= 2
    events = EventAccumulator(str(tmp_path / "logs" / "mmjepa_joint"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"eval_answers", "test_answers"}

    saved = MMJepaForConditionalGeneration.from_pretrained(checkpoints)
    rebuilt = rebuild_from_parts(export)
    # What validation says of statements goes with the model; the test split has its temperature.
    truth = {name: results[f"eval_truth_{name}"] for name in ("accuracy", "gain", "gain_low", "gain_high")}
    assert saved.config.truth_measured == pytest.approx(truth | {"shuffled": results["eval_truth_accuracy_shuffled"]})
    assert saved.config.truth_temperature == results["eval_truth_temperature"] == results["test_truth_temperature"]
    processor = MMJepaProcessor.from_pretrained(checkpoints)
    inputs = processor(images=np.zeros((32, 32, 3), np.uint8), text=rows[0]["question"], return_tensors="pt")
    assert torch.equal(saved.generate(**inputs), rebuilt.generate(**inputs))


def test_answers_name_their_image_file_and_keep_the_other_columns_of_the_data_set(folders, tmp_path):
    """Columns of any type, also of the names that answers have; all lines have the same names and are strict JSON."""
    folder = tmp_path / "table"
    (folder / "case 1").mkdir(parents=True)
    for name in ("a", "b"):
        PILImage.new("RGB", (30, 30), {"a": "red", "b": "blue"}[name]).save(folder / "case 1" / f"{name}.png")
    rows = {
        "case": [7, 8],
        "scores": [float("nan"), 0.5],
        "seen_on": [date(2026, 11, 25), None],
        "tags": [["stomach", "biopsy"], []],
        "mask": [{"bytes": encoded(PILImage.new("L", (30, 30))), "path": "mask.jpg"}] * 2,
        **{f"{name}": ["theirs"] * 2 for name in LATER_COLUMNS},
    }
    types = {"case": Value("int32"), "scores": Value("float32"), "seen_on": Value("date32")}
    types |= {"tags": List(Value("string")), "mask": Image()}
    texts = {name: Value("string") for name in ("image", "question", "answer", *LATER_COLUMNS)}
    rows |= {"image": ["case 1/a.png", "case 1/b.png"], "question": ["is it red?"] * 2, "answer": ["yes", "no"]}
    for split in ("train", "validation"):
        Dataset.from_dict(rows, features=Features(types | texts)).to_parquet(folder / f"{split}.parquet")
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(folder), "--fast_dev_run", "--lambda_answer", "0.25"]
    run_pathvqa.main([*flags, "--align_warmup_epochs", "0"])

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    lines = (tmp_path / "checkpoints" / "eval_answers.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=refuse) for line in lines)
    theirs = {f"table_{name}": "theirs" for name in LATER_COLUMNS}
    known = {"image_file": "case 1/a.png", "question": "is it red?", "answer": "yes", "image_id": 0, "row": 0}
    others = {"case": 7, "scores": None, "seen_on": "2026-11-25", "tags": ["stomach", "biopsy"]}
    assert first.items() >= (known | others | theirs).items()
    assert list(first) == list(second)
    own = {"prediction", "prediction_probability", "shuffled", "all_shuffled", "blank", "blank_probability"}
    own |= {"from_image", "ranked", "ranked_probability", "align_cosine", "align_cosine_wrong", "by_statements"}
    assert set(first) - set(known | others | theirs) == own
    assert second["image_file"] == "case 1/b.png"
    assert (second["scores"], second["seen_on"], second["tags"]) == (0.5, None, [])


def test_without_do_eval_training_evaluates_nothing_and_needs_no_validation_split(path_vqa, folders, tmp_path):
    Path(path_vqa, "data", "validation-00000-of-00001.parquet").unlink()
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", path_vqa, "--max_epochs", "1", "--batch_size", "4"]
    results = run_pathvqa.main([*flags, "--do_eval", "false", "--align_warmup_epochs", "0"])
    assert results["train_samples"] == 12 and not any("eval" in name for name in results)
    history = json.loads((tmp_path / "checkpoints" / "trainer_state.json").read_text())["log_history"]
    assert not any("eval" in name for line in history for name in line)


def test_test_images_are_touched_only_when_asked_for_and_a_missing_split_is_an_error_that_lists_the_others(
    path_vqa, folders, prepared
):
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", path_vqa, "--max_epochs", "1", "--batch_size", "4"]
    run_pathvqa.main([*flags, "--align_warmup_epochs", "0"])
    assert prepared == [12, 9]  # and not the 6 of test
    Path(path_vqa, "data", "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="has the splits train, validation but no test"):
        run_pathvqa.main([*flags, "--do_predict", "--overwrite_output_dir"])


@pytest.fixture
def new_images(tmp_path) -> Path:
    """A folder of three images and a table of questions about them, two of them with an answer."""
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("red", "blue", "grey"):
        PILImage.new("RGB", (30, 40), name).save(folder / f"{name}.png")
    lines = ["image,question,answer", "red.png,is it?,yes", "red.png,what is present?,the liver", "blue.png,is it?,"]
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


def count_images(monkeypatch) -> list[int]:
    """How many images each call of the image encoder is given, from now on."""
    counts: list[int] = []
    forward = Dinov2Model.forward

    def count_and_encode(self, pixel_values, *args, **kwargs):
        counts.append(len(pixel_values))
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(Dinov2Model, "forward", count_and_encode)
    return counts


def predict_alone(saved_folder, folders, *flags) -> dict[str, float]:
    """A run of a saved model that reads no data set and trains nothing."""
    alone = ["--do_train", "false", "--do_eval", "false", "--dataset_name", "there/is-none"]
    return run_pathvqa.main(["--model_name_or_path", saved_folder, *FAST, *folders, *alone, *flags])


def test_new_images_are_answered_without_a_data_set(saved_folder, folders, new_images, tmp_path, monkeypatch):
    counts = count_images(monkeypatch)
    questions = ["is necrosis seen?", "where?"]
    results = predict_alone(saved_folder, folders, "--predict_data", str(new_images), "--predict_question", *questions)
    assert results == {} and sum(counts) == 3 + 1  # each image, and the black one, once
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    assert list(table) == ["image", "question", "prediction", "prediction_probability", "blank", "blank_probability"]
    files = [str(new_images / f"{name}.png") for name in ("blue", "grey", "red")]
    assert list(zip(table["image"], table["question"], strict=True)) == list(itertools.product(files, questions))

    model = MMJepaForConditionalGeneration.from_pretrained(saved_folder)
    processor = MMJepaProcessor.from_pretrained(saved_folder)
    for row in table.itertuples():
        for image, answer in ((row.image, row.prediction), (np.zeros((28, 28, 3), np.uint8), row.blank)):
            inputs = processor(images=image, text=row.question, return_tensors="pt")
            assert processor.decode(model.generate(**inputs), skip_special_tokens=True)[0].strip() == answer


def test_answers_to_a_table_stand_beside_the_truths_that_it_has(saved_folder, folders, new_images, tmp_path):
    results = predict_alone(saved_folder, folders, "--predict_data", str(new_images / "table.csv"))
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    assert list(table["image"]) == ["red.png", "red.png", "blue.png"]
    assert list(table["answer"].fillna("")) == ["yes", "the liver", ""]
    right = table["prediction"] == table["answer"]
    assert list(table["correct"][:2]) == list(right[:2]) and pd.isna(table["correct"][2])
    assert results["predict_accuracy"] == right.sum() / 2
    with pytest.raises(ValueError, match=r"holds another run .*predictions\.parquet"):
        predict_alone(saved_folder, folders, "--predict_data", str(new_images / "table.csv"))


def test_lists_of_right_answers_and_unanswered_rows_count_alike_wherever_answers_are_scored(
    saved_folder, folders, new_images, tmp_path, monkeypatch
):
    """By the script about a table and about a split, and by the command about what both leave."""
    rows = [
        {"image": "red.png", "question": "is it?", "answers": ["no", "no", "yes"]},
        {"image": "blue.png", "question": "what is present?", "answers": ["liver"]},
        {"image": "grey.png", "question": "where?", "answers": []},
    ]
    (new_images / "table.csv").unlink()
    (new_images / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(
        "mmjepa.evaluation.answerer.Answerer.answer_questions",
        lambda answerer, questions, *args, **kwargs: ["yes"] * len(questions),
    )
    asked = predict_alone(saved_folder, folders, "--predict_data", str(new_images / "test.jsonl"))
    assert asked["predict_accuracy"] == 1 / 2
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    assert list(table["correct"][:2]) == [True, False] and pd.isna(table["correct"][2])
    flags = ["--model_name_or_path", saved_folder, *FAST, "--dataset_name", str(new_images)]
    flags += ["--do_train", "false", "--do_eval", "false", "--do_predict", "--output_dir", str(tmp_path / "split")]
    assert run_pathvqa.main(flags)["test_accuracy"] == 1 / 2
    for file in ("checkpoints/predictions.parquet", "split/predictions.parquet", "split/test_answers.jsonl"):
        report = json.loads(CliRunner().invoke(cli.app, ["score", str(tmp_path / file), "--json"]).stdout)
        assert (report["questions"], report["rules"]["accuracy"]["all"][0]) == (2, 1 / 2)


def test_any_split_is_answered_and_evaluated_in_place_of_test(path_vqa, saved_folder, folders, tmp_path, caplog):
    flags = ["--model_name_or_path", saved_folder, *FAST, *folders, "--dataset_name", path_vqa, "--do_train", "false"]
    results = run_pathvqa.main([*flags, "--do_eval", "false", "--predict_split", "train"])
    assert "predict_image_gain" in results and not any(name.startswith(("eval", "test")) for name in results)
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    assert len(table) == 12
    lines = (tmp_path / "checkpoints" / "predict_answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    for name in ("answer", "prediction", "prediction_probability", "blank", "blank_probability"):
        assert list(table[name]) == [row[name] for row in answers]
    assert table["correct"].mean() == results["predict_accuracy"]
    # The majority answers of train, and a list of its answers, say nothing about train.
    assert not any("majority" in name or "ranked" in name for name in results)
    assert "train is evaluated: majority and ranked answers" in caplog.text
    with pytest.raises(ValueError, match="has the splits .* but no extra: .*--predict_split"):
        run_pathvqa.main([*flags, "--predict_split", "extra", "--overwrite_output_dir"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--predict_split", "train", "--predict_data", "x"], "--predict_split and --predict_data"),
        (["--predict_question", "where?"], "--predict_question asks about the images of --predict_data"),
        (
            ["--predict_split", "train", "--streaming", "--max_steps", "2"],
            "--predict_split train needs all its images",
        ),
    ],
)
def test_what_is_predicted_is_named_once(flags, named):
    with pytest.raises(ValueError, match=named):
        parsed("--use_cpu", *flags)


@pytest.fixture
def bart_folder(checkpoints, tmp_path) -> Path:
    """A BART without tokenizer files."""
    return shutil.copytree(checkpoints["text"], tmp_path / "bart")


def processor_of(checkpoints, image_processor, text_model: Path) -> MMJepaProcessor:
    image_processor.save_pretrained(checkpoints["vision"])
    flags = ["--image_encoder", checkpoints["vision"], "--text_model", str(text_model), "--use_cpu"]
    return build(parse_arguments(flags)[0])[0]


def test_a_bart_folder_without_tokenizer_files_is_refused(bart_folder, checkpoints, image_processor):
    for path in bart_folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=rf"{bart_folder} has 5 tokens, .*vocabulary of 300.*--tokenizer_name"):
        processor_of(checkpoints, image_processor, bart_folder)


@pytest.mark.parametrize("fault", ["more tokens", "far fewer tokens", "other special tokens", "none"])
def test_a_tokenizer_of_another_vocabulary_is_refused(fault, bart_folder, checkpoints, tokenizer, image_processor):
    tokenizer.save_pretrained(bart_folder)
    bart = BartForConditionalGeneration.from_pretrained(bart_folder)
    if fault == "more tokens":
        bart.resize_token_embeddings(len(tokenizer) - 1)
    elif fault == "far fewer tokens":
        bart.resize_token_embeddings(3 * len(tokenizer))
    elif fault == "other special tokens":
        bart.config.pad_token_id = 7
    bart.save_pretrained(bart_folder)
    if fault == "none":
        assert len(processor_of(checkpoints, image_processor, bart_folder).tokenizer) == len(tokenizer)
    else:
        with pytest.raises(ValueError, match=str(bart_folder)):
            processor_of(checkpoints, image_processor, bart_folder)


@pytest.mark.slow
def test_the_model_is_written_as_onnx_graphs_that_answer_alike(slides, folders, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    pytest.importorskip("torch", minversion="2.11", reason="transformers exports to ONNX with torch 2.11 and newer")
    from mmjepa.export.onnx_model import OnnxModel

    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--fast_dev_run", "--max_answer_tokens", "6"]
    run_pathvqa.main([*flags, "--onnx_dir", str(tmp_path / "onnx")])
    model = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    row = load_rows(slides)["validation"][0]
    answers = []
    for folder, tensors in (("checkpoints", "pt"), ("onnx", "np")):
        processor = MMJepaProcessor.from_pretrained(tmp_path / folder)
        inputs = processor(images=row["image"]["path"], text=row["question"], return_tensors=tensors)
        asked = model if tensors == "pt" else OnnxModel(tmp_path / "onnx")
        answers.append(asked.generate(**inputs).tolist())
    assert answers[0] == answers[1]


def test_onnx_without_its_packages_is_refused_before_training(monkeypatch):
    monkeypatch.setattr("mmjepa.training.values.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"onnxruntime, onnxscript: pip install 'mmjepa\[onnx\]'"):
        parsed("--onnx_dir", "onnx")


def test_blank_images_can_not_be_shuffled_and_answers_are_those_to_the_black_image(slides, folders):
    results = run_pathvqa.main(
        [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--blank_images", "--max_epochs", "1"]
    )
    assert "eval_image_gain" not in results
    assert results["eval_accuracy"] == results["eval_accuracy_blank_images"]


def test_a_bfloat16_text_encoder_is_saved_in_bfloat16_and_all_else_in_float32(slides, folders, tmp_path):
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--fast_dev_run"]
    run_pathvqa.main([*flags, "--bf16_text_encoder", "--align_warmup_epochs", "0"])
    saved = load_file(tmp_path / "checkpoints" / "model.safetensors")
    for name, weight in saved.items():
        assert weight.dtype == (torch.bfloat16 if name.startswith("encoder.text_encoder.") else torch.float32), name
    model = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_centered_targets_are_centred_on_the_alignment_texts_once(folders, tmp_path):
    """One row has a question, one a caption alone; a saved model keeps its mean, whatever it is trained on."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "red.jpg").write_bytes(encoded(PILImage.new("RGB", (30, 30), "red")))
    lines = ["image,question,answer,caption", "red.jpg,is it?,yes,", "red.jpg,,no,a red slide"]
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(lines))
    run_pathvqa.main(
        [*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(folder), "--max_epochs", "1", "--batch_size", "1"]
        + ["--alignment_target", "centered", "--alignment_text", "priority"]
    )
    saved = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    processor = MMJepaProcessor.from_pretrained(tmp_path / "checkpoints")
    text = processor(text=["a red slide", "is it?"], return_tensors="pt")
    mean = saved.encoder.encode_texts(**text).mean(0)
    torch.testing.assert_close(saved.alignment.targets.mean, mean, atol=1e-5, rtol=0)

    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join([*lines[:2], "red.jpg,what is seen?,no,"]))
    again = ["--model_name_or_path", str(tmp_path / "checkpoints"), "--output_dir", str(tmp_path / "again")]
    run_pathvqa.main([*again, *FAST, "--dataset_name", str(folder), "--fast_dev_run"])
    further = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(further.alignment.targets.mean, saved.alignment.targets.mean)


def test_a_saved_model_that_is_trained_further_keeps_its_generation_settings_unless_a_flag_says_otherwise(
    saved_folder, slides, folders, tmp_path
):
    start = shutil.copytree(saved_folder, tmp_path / "start")
    saved = GenerationConfig.from_pretrained(start)
    saved.update(num_beams=2, length_penalty=0.5, max_new_tokens=5)
    saved.save_pretrained(start)
    flags = ["--model_name_or_path", str(start), *FAST, *folders, "--dataset_name", slides, "--fast_dev_run"]
    flags += ["--do_eval", "false"]
    run_pathvqa.main(flags)
    assert GenerationConfig.from_pretrained(tmp_path / "checkpoints").to_diff_dict() == saved.to_diff_dict()
    run_pathvqa.main([*flags, "--max_answer_tokens", "3", "--overwrite_output_dir"])
    saved.max_new_tokens = 3
    assert GenerationConfig.from_pretrained(tmp_path / "checkpoints").to_diff_dict() == saved.to_diff_dict()


def encoded(image: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture
def path_vqa(tmp_path) -> str:
    """A folder of parquet shards of the published data set's schema: the same bytes on every row of an image."""
    random = np.random.default_rng(0)
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    folder = tmp_path / "path-vqa" / "data"
    folder.mkdir(parents=True)
    for split, images in (("train", 4), ("validation", 3), ("test", 2)):
        rows = []
        for _ in range(images):
            bytes_ = encoded(PILImage.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)))
            for question, answer in (
                ("is necrosis seen?", "yes"),
                ("what is present?", "the liver"),
                ("is it?", "no"),
            ):
                rows.append({"image": {"bytes": bytes_, "path": None}, "question": question, "answer": answer})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder.parent)


def test_published_checkpoints_and_data_set_are_trained_offline(
    path_vqa, checkpoints, tokenizer, image_processor, folders, tmp_path, monkeypatch
):
    """The path of --dataset_name flaviagiammarino/path-vqa --image_encoder dinov2 --text_model bart, on stand-ins."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer.save_pretrained(checkpoints["text"])
    image_processor.save_pretrained(checkpoints["vision"])
    flags = ["--image_encoder", checkpoints["vision"], "--text_model", checkpoints["text"], "--dataset_name", path_vqa]
    results = run_pathvqa.main([*flags, *FAST, *folders, "--batch_size", "4", "--max_epochs", "1", "--do_predict"])
    assert results["train_samples"] == 12 and results["eval_count_what"] == 3 and results["test_count_what"] == 2

    trained = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    start = Dinov2Model.from_pretrained(checkpoints["vision"])
    assert not torch.equal(trained.encoder.image_encoder.layernorm.weight, start.layernorm.weight)
    assert trained.generation_config.forced_bos_token_id == 0
    assert trained.generation_config.forced_eos_token_id == 2
    assert trained.generation_config.num_beams in (None, 1)


@pytest.fixture
def broken_table(tmp_path) -> str:
    """A folder of tables of three images, of which one can be read."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(encoded(PILImage.new("RGB", (30, 30), "red")))
    (folder / "broken.jpg").write_bytes(b"not an image")
    lines = ["image,question,answer", "good.jpg,is it?,yes", "broken.jpg,is it?,no", "missing.jpg,is it?,no"]
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return str(folder)


def test_missing_and_broken_images_are_counted_and_named(folders, broken_table, caplog):
    flags = ["--dataset_name", broken_table, "--fast_dev_run", "--max_unreadable_images", "0.7"]
    with caplog.at_level("WARNING"):
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, *flags])
    assert "train: 2 images are missing or can't be decoded" in caplog.text
    assert "broken.jpg" in caplog.text and "missing.jpg" in caplog.text and "good.jpg" not in caplog.text


def test_more_unreadable_images_than_the_flag_allows_are_refused(folders, broken_table):
    with pytest.raises(ValueError, match=r"train: 2 of 3 images \(67%\).*0.6 by --max_unreadable_images"):
        flags = ["--dataset_name", broken_table, "--max_unreadable_images", "0.6"]
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, *flags])


def write_wrong_paths(folder):
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("image,question,answer\na.jpg,is it?,yes\nb.jpg,is it?,no\n")
    return [str(folder / "a.jpg"), str(folder / "b.jpg")]


def write_unquoted_commas(folder):
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("image,question,answer\na.jpg,small, is it?,yes\nb.jpg,red, is it?,no\n")
    return [str(folder / "small"), str(folder / "red")]


def write_parquet_of_wrong_paths(folder):
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    images = [{"path": path, "bytes": None} for path in ("/no/a.jpg", "b.jpg")]
    for split in ("train", "validation"):
        rows = {"image": images, "question": ["is it?"] * 2, "answer": ["yes", "no"]}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet", batch_size=2)
    return ["/no/a.jpg", str(folder / "b.jpg")]


@pytest.mark.parametrize("write", [write_wrong_paths, write_unquoted_commas, write_parquet_of_wrong_paths])
def test_a_split_without_a_readable_image_is_always_refused_with_paths_tried(folders, tmp_path, write):
    folder = tmp_path / "table"
    folder.mkdir()
    paths = write(folder)
    flags = ["--dataset_name", str(folder), "--max_unreadable_images", "1"]
    with pytest.raises(ValueError, match=r"train: 2 of 2 images .* data set's folder.* quotes") as error:
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, *flags])
    assert all(path in str(error.value) for path in paths)


@pytest.mark.parametrize("share", ["10", "-0.1"])
def test_a_share_of_unreadable_images_is_between_0_and_1(share):
    with pytest.raises(ValueError, match=f"--max_unreadable_images is {float(share)}"):
        parsed("--max_unreadable_images", share)


@pytest.fixture
def single_csv(tmp_path) -> str:
    """A table of 30 questions about 10 images, of which the last has no answer."""
    folder = tmp_path / "table"
    folder.mkdir()
    lines = ["image;question;answer"]
    for number in range(10):
        PILImage.new("RGB", (30, 30), (25 * number, 0, 0)).save(folder / f"{number}.png")
        lines += [f"{number}.png;is it {word}?;{('yes', 'no')[number % 2]}" for word in ("red", "dark", "large")]
    (folder / "data.csv").write_text("\n".join(lines).removesuffix("no"))
    return str(folder / "data.csv")


def test_a_single_csv_is_trained_on_and_whole_images_of_it_are_held_out(single_csv, folders, tmp_path, caplog):
    flags = [*FAST, "--dataset_name", single_csv, "--validation_split_percentage", "30"]
    with caplog.at_level("INFO"):
        results = run_pathvqa.main([*FROM_RANDOM, *flags, *folders, "--max_epochs", "1", "--batch_size", "7"])
    held_out = [json.loads(line) for line in (tmp_path / "checkpoints" / "eval_answers.jsonl").open()]
    assert results["train_samples"] + len(held_out) == 29
    assert 1 <= len({row["image_id"] for row in held_out}) <= 6
    assert "train: 1 of 30 rows have no answer and are left out; the first, counted from 0: 29" in caplog.text
    assert f"{len(held_out)} of 29 rows of train are held out for it, those about 30 % of the images" in caplog.text

    # The saved model is evaluated on what it was not trained on, by another seed too; or on all.
    saved = ["--model_name_or_path", str(tmp_path / "checkpoints"), "--do_train", "false", "--seed", "7"]
    again = run_pathvqa.main([*flags, *saved, "--output_dir", str(tmp_path / "again")])
    assert again["eval_ce"] == pytest.approx(results["eval_ce"], abs=1e-5)
    assert "A training of the model held out" not in caplog.text
    run_pathvqa.main([*flags[:-1], "100", *saved, "--output_dir", str(tmp_path / "all")])
    assert "The model was trained on rows that are held out now" in caplog.text
    assert len((tmp_path / "all" / "eval_answers.jsonl").read_text().splitlines()) == 29


def test_an_image_folder_with_metadata_and_lists_of_answers_is_trained_on(folders, tmp_path, caplog):
    for split in ("train", "validation"):
        folder = tmp_path / "slides" / split
        folder.mkdir(parents=True)
        lines = []
        for number in range(4):
            PILImage.new("RGB", (30, 30), (60 * number, 0, 0)).save(folder / f"{number}.png")
            row = {"file_name": f"{number}.png", "question": "is it red?", "answer": ["maybe", "yes", "yes"]}
            lines.append(json.dumps(row))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(tmp_path / "slides"), "--max_epochs", "1"]
    with caplog.at_level("INFO"):
        results = run_pathvqa.main(flags)
    assert results["train_samples"] == 4 and results["eval_accuracy_majority"] == 1
    assert caplog.text.count("Answers are lists") == 1
    row = json.loads((tmp_path / "checkpoints" / "eval_answers.jsonl").read_text().splitlines()[0])
    assert (row["answer"], row["answers"]) == ("yes", ["yes", "maybe"])


def test_an_image_folder_with_metadata_csv_is_trained_on(folders, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    lines = ["file_name,question,answer"]
    for number in range(4):
        PILImage.new("RGB", (30, 30), (60 * number, 0, 0)).save(folder / f"{number}.png")
        lines += [f"{number}.png,is it red?,yes", f"{number}.png,how many?,00{number}"]
    (folder / "metadata.csv").write_text("\n".join(lines))
    results = run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(folder), "--max_epochs", "1"])
    assert results["train_samples"] == 6 and results["eval_count_how_many"] == 1


def test_a_saved_model_is_evaluated_without_a_training_split_and_without_majority_answers(
    saved_folder, single_csv, tmp_path, caplog
):
    alone = Path(single_csv).rename(tmp_path / "table" / "validation.csv")
    flags = ["--model_name_or_path", saved_folder, "--dataset_name", str(alone), "--do_train", "false"]
    with caplog.at_level("INFO"):
        results = run_pathvqa.main([*FAST, *flags, "--output_dir", str(tmp_path / "again")])
    assert "eval_accuracy_shuffled_images" in results and "eval_image_gain" in results
    assert not any("majority" in name for name in results)
    assert caplog.text.count("no training rows: evaluations are without majority answers") == 1


def test_training_without_a_training_split_is_refused(single_csv, folders, tmp_path):
    alone = Path(single_csv).rename(tmp_path / "table" / "validation.csv")
    with pytest.raises(ValueError, match="has the splits validation but no train"):
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(alone)])


def test_rows_of_a_stream_without_an_answer_are_left_out(folders, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    image = {"bytes": encoded(PILImage.new("RGB", (30, 30), "red")), "path": None}
    rows = [{"image": image, "question": f"is it {n}?", "answer": "yes" if n % 2 else None} for n in range(8)]
    for split in ("train", "validation"):
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    arguments = parsed(*FAST, *folders, "--dataset_name", str(folder), "--streaming", "--max_steps", "1")[1:]
    stream, rows, _ = read_rows(*arguments, needs_train=True)
    expected = [f"is it {n}?" for n in (1, 3, 5, 7)]
    assert [row["question"] for row in stream] == expected
    assert rows["train"]["question"][:] == rows["validation"]["question"][:] == expected


@pytest.mark.parametrize(
    "flag", ["max_train_samples", "max_val_samples", "preprocessing_num_workers", "max_answer_tokens"]
)
@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_below_1_is_refused_with_what_is_allowed(flag, limit):
    with pytest.raises(ValueError, match=f"--{flag} is {limit}: give at least 1, or leave it out"):
        parsed(f"--{flag}", limit)


@pytest.mark.parametrize(
    ("percentage", "words"),
    [("0", "more than 0 and at most 100"), ("101", "more than 0"), ("100", "leaves nothing to train on")],
)
def test_a_percentage_that_leaves_no_validation_or_no_training_is_refused(percentage, words):
    with pytest.raises(ValueError, match=f"--validation_split_percentage.*{words}"):
        parsed("--validation_split_percentage", percentage)
