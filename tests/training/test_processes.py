"""Runs of several processes: they train and evaluate as one process does, whatever number of rows there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from safetensors.torch import load_file
from tiny import TEXT, VISION
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from transformers.utils.import_utils import is_torch_greater_or_equal

from mmjepa import run_pathvqa
from mmjepa.data.rows import load_rows
from mmjepa.data.sampling import ImageGroupedSampler, SharedBatchSampler
from mmjepa.training.arguments import MMJepaTrainingArguments

ROOT = Path(__file__).parents[2]

# 3 full steps of 8 rows and one of a single row, which leaves the second process without any; two epochs. Of 17
# evaluated rows there are two full steps and one of a single row.
NUM_ROWS = {"train": 25, "validation": 17, "test": 5}
FLAGS = {
    "vision_config": VISION,
    "text_config": {**TEXT, "dropout": 0.0},  # its random numbers differ between processes
    "alignment_text": "proposition",
    "alignment_loss": "infonce",  # compares rows of both processes
    "alignment_target": "whitened",
    "wrong_statements": 0,  # each process draws its own; tests/test_shared_losses.py has some
    "lambda_answer": 0.25,
    "num_train_epochs": 2,
    "align_warmup_epochs": 1,
    "lr_img": 1e-2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 6,  # in the middle of the second epoch
    "load_best_model_at_end": False,
    "max_answer_tokens": 6,
    "dataloader_num_workers": 0,
    "preprocessing_num_workers": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--main_process_port", "0", "--config_file"]

# With torch 2.8 and accelerate 1.8 the processes wait for each other without end.
FSDP_WORKS = is_torch_greater_or_equal("2.13")
FSDP = pytest.param("fsdp", marks=pytest.mark.skipif(not FSDP_WORKS, reason="FSDP was seen to work with torch 2.13"))


def start(launcher: list[str], folder: Path, *flags: str, script: str = "run_pathvqa.py") -> subprocess.Popen:
    """A run in two processes whose output goes to `folder`."""
    folders = ["--output_dir", str(folder), "--log_dir", str(folder / "logs")]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, str(ROOT / script), *flags, *folders],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(run: subprocess.Popen) -> None:
    output, _ = run.communicate(timeout=600)
    assert run.returncode == 0 and "it is skipped, as" not in output, output[-8000:]


def batches_of(size: int) -> list[str]:
    return ["--per_device_train_batch_size", str(size), "--per_device_eval_batch_size", str(size)]


def logged(folder: Path) -> dict[tuple[int, str], float]:
    """The numbers that training logged, by step and name."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    terms = {f"{phase}_{term}" for phase in ("train", "eval") for term in ("align", "ce", "answer")}
    names = terms | {"loss", "grad_norm", "eval_loss", "eval_accuracy"}
    return {(line["step"], name): line[name] for line in history for name in names & line.keys()}


def answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "eval_answers.jsonl").read_text().splitlines()]


def scores(folder: Path) -> dict[str, float]:
    """The numbers of the last evaluation but its times."""
    numbers = json.loads((folder / "eval_results.json").read_text())
    return {name: value for name, value in numbers.items() if "second" not in name and "time" not in name}


@pytest.fixture(scope="module")
def flags(slides, tmp_path_factory) -> str:
    """A file of the flags that all runs have in common. Their rows are beside it."""
    folder = tmp_path_factory.mktemp("processes")
    for split, rows in load_rows(slides).items():
        rows.select(range(NUM_ROWS[split])).to_parquet(folder / "shards" / f"{split}.parquet")
    data = {"dataset_name": str(folder / "shards"), "image_folder": slides}
    (folder / "flags.json").write_text(json.dumps({**FLAGS, **data}))
    return str(folder / "flags.json")


def start_two(kind: str, folder: Path, *flags: str) -> subprocess.Popen:
    """A run in two processes of 4 rows a batch, of the kind "ddp" or "fsdp"."""
    if kind == "ddp":
        return start(TORCHRUN, folder, *flags, *batches_of(4))
    fsdp = [*ACCELERATE, str(ROOT / "configs" / "fsdp.yaml")]
    return start(fsdp, folder, *flags, *batches_of(4), script="tests/fsdp_on_cpu.py")


@pytest.fixture(scope="module")
def runs(flags, tmp_path_factory) -> dict[str, Path]:
    """Folders of a run of one process with 8 rows a batch and of runs of two processes with 4 each."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("one", "ddp", "fsdp")}
    started = [start_two(kind, folders[kind], flags) for kind in ("ddp", "fsdp") if kind == "ddp" or FSDP_WORKS]
    run_pathvqa.main([flags, *batches_of(8), "--output_dir", str(folders["one"]), "--log_dir", str(folders["one"])])
    for run in started:
        finish(run)
    return folders


@pytest.mark.parametrize("kind", ["ddp", FSDP])
@pytest.mark.slow
def test_two_processes_train_like_one_with_the_same_global_batch(runs, kind):
    one, two = logged(runs["one"]), logged(runs[kind])
    assert {step for step, name in one if name == "train_align"} == set(range(1, 9))
    assert {step for step, name in one if name == "train_ce"} == set(range(5, 9))
    assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("kind", ["ddp", FSDP])
@pytest.mark.slow
def test_two_processes_evaluate_like_one_to_the_last_answer(runs, kind):
    one, two = answers(runs["one"]), answers(runs[kind])
    assert len(one) == 17
    probabilities = ("prediction_probability", "blank_probability", "from_image", "ranked_probability")
    for name in (*probabilities, "align_cosine", "align_cosine_wrong"):
        assert [row.pop(name) for row in two] == pytest.approx([row.pop(name) for row in one], abs=1e-4)
    assert two == one
    assert len(scores(runs["one"])) > 30
    assert scores(runs[kind]) == pytest.approx(scores(runs["one"]), abs=1e-4)


@pytest.mark.parametrize("kind", ["ddp", FSDP])
@pytest.mark.slow
def test_two_processes_save_the_model_of_one(runs, kind):
    one, two = (load_file(runs[name] / "model.safetensors") for name in ("one", kind))
    assert set(one) == set(two)
    # A key's bias adds the same to all scores of a query: its gradient is rounding noise, which Adam scales up.
    for name in (name for name in one if not name.endswith(("k_proj.bias", "key.bias"))):
        assert torch.allclose(one[name], two[name], atol=1e-3), name
    files = [{path.name for path in runs[name].glob("*.py")} for name in ("one", kind)]
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", ["ddp", FSDP])
@pytest.mark.slow
def test_two_processes_go_on_in_mid_epoch_as_if_not_stopped(runs, flags, kind, tmp_path):
    checkpoint = str(runs[kind] / "checkpoint-6")
    finish(start_two(kind, tmp_path, flags, "--resume_from_checkpoint", checkpoint))
    whole, resumed = logged(runs[kind]), logged(tmp_path)
    assert {step for step, name in resumed if name == "train_ce"} == set(range(5, 9))
    assert resumed == pytest.approx(whole, abs=1e-6)
    assert answers(tmp_path) == answers(runs[kind])


@pytest.mark.parametrize(
    "launcher", [TORCHRUN, [*ACCELERATE, str(ROOT / "configs" / "ddp.yaml")]], ids=["torch", "acc"]
)
@pytest.mark.slow
def test_without_a_gpu_the_launched_processes_are_one_run_though_not_told_to_use_the_cpu(
    launcher, flags, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    only_train = ["--num_train_epochs", "1", "--align_warmup_epochs", "0", "--do_eval", "false", "--save_steps", "9"]
    finish(start(launcher, tmp_path, flags, *batches_of(4), *only_train, "--use_cpu", "false"))
    # 25 rows in steps of 2 x 4. A process by itself would have 7.
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 4


@pytest.mark.slow
def test_two_processes_train_on_a_stream(flags, tmp_path):
    launcher = [*ACCELERATE, str(ROOT / "configs" / "ddp.yaml")]
    finish(start(launcher, tmp_path, flags, *batches_of(4), "--streaming", "--max_steps", "8"))
    # 25 rows are an epoch of warm-up: over at the fifth step of 8.
    assert {step for step, name in logged(tmp_path) if name == "train_ce"} == {5, 6, 7, 8}
    assert len(answers(tmp_path)) == 17
    assert scores(tmp_path)["eval_ce"] > 0


@pytest.mark.parametrize(("num_rows", "num_processes"), [(96, 4), (97, 4), (99, 2), (3, 4), (8, 1)])
def test_processes_share_out_the_steps_of_one(num_rows, num_processes):
    image_ids = np.random.default_rng(0).integers(0, 12, num_rows)

    def steps(num_processes):
        sampler = SharedBatchSampler(ImageGroupedSampler(image_ids, 16, 8, seed=0), num_processes)
        shares = list(sampler)
        assert len(shares) == len(sampler)
        return [shares[start : start + num_processes] for start in range(0, len(shares), num_processes)]

    one, many = steps(1), steps(num_processes)
    assert sorted(row for (rows,) in one for row in rows) == list(range(num_rows))
    assert [sorted(sum(shares, [])) for shares in many] == [sorted(rows) for (rows,) in one]
    for shares in many:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_are_cut_between_images():
    image_ids = np.repeat(np.arange(40), 4)
    shares = SharedBatchSampler(ImageGroupedSampler(image_ids, 24, 4, seed=0), 3)
    assert {len(set(image_ids[rows].tolist())) for rows in list(shares)[:-3]} == {2}


def test_deepspeed_config_takes_its_numbers_from_the_flags(tmp_path):
    """As far as it can be read where DeepSpeed is not installed."""
    # The library's class has this base only where DeepSpeed is installed.
    config = object.__new__(type("Config", (HfTrainerDeepSpeedConfig, HfDeepSpeedConfig), {}))
    HfDeepSpeedConfig.__init__(config, str(ROOT / "configs" / "deepspeed_zero2.json"))
    config._dtype, config.mismatches = None, []
    flags = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 3, "max_grad_norm": 0.5}
    arguments = MMJepaTrainingArguments(**flags, gradient_accumulation_steps=2)
    config.trainer_config_process(arguments)
    config.trainer_config_finalize(arguments, model=None, num_training_steps=10)
    assert config.config["train_batch_size"] == 6
    assert config.config["train_micro_batch_size_per_gpu"] == 3
    assert config.config["gradient_accumulation_steps"] == 2
    assert config.config["gradient_clipping"] == 0.5
    assert "auto" not in json.dumps(config.config)
    assert not config.is_zero3()
