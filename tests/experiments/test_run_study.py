"""The runner of studies, with a stub in place of the training script."""

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.experiments.run_study import ROOT, Study, StudyRunner, visible_gpus
from mmjepa.experiments.study_report import study_table
from mmjepa.training.arguments import parse_arguments

# Writes its folder's name into a journal. Then it fails or waits for ever, if the flags say so and nobody has repaired
# it, or it gives the accuracy of its seed.
STUB = """
import json, os, signal, sys
from pathlib import Path

flags = json.loads(Path(sys.argv[1]).read_text())
folder = Path(flags["output_dir"])
parent = folder.parent.parent
with open(parent / "journal", "a") as file:
    file.write(folder.name + "\\n")
if not (parent / "repaired").exists():
    if flags.get("fails"):
        print("Traceback", file=sys.stderr)
        sys.exit("RuntimeError: no a | b")
    if flags.get("waits"):
        pipe = open(parent / "pipe", "w") if (parent / "pipe").exists() else sys.stdout
        os.fork()
        print("started", file=pipe, flush=True)
        signal.pause()
accuracy = flags.get("accuracies", [0.5] * 3)[flags["seed"]]
numbers = {
    "eval_accuracy": accuracy,
    "eval_image_gain": accuracy - 0.4,
    "eval_image_gain_low": accuracy - 0.5,
    "eval_image_gain_high": accuracy - 0.3,
    "threads": int(os.environ["OMP_NUM_THREADS"]),
    "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
}
(folder / "all_results.json").write_text(json.dumps(numbers))
(folder / "model.safetensors").touch()
"""
CELLS = {"first": {}, "second": {"lambda_align": 0}}


def unpadded(table: str) -> str:
    """A table without what aligns its columns."""
    return re.sub(r"-{2,}", "-", re.sub(r" +", " ", table))


@pytest.fixture
def make_runner(tmp_path):
    """A runner of the study `study` in tmp_path; its keyword arguments are what the study's file says."""
    (tmp_path / "stub.py").write_text(STUB)

    def make(jobs: int = 1, gpus: tuple[str, ...] = (), **content) -> StudyRunner:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({"base": "configs/demo.json"} | content, sort_keys=False))
        return StudyRunner(Study.from_file(file), tmp_path, tmp_path / "stub.py", jobs, gpus)

    return make


def run(runner: StudyRunner) -> list[str]:
    """Runs the study -> the folders of the runs that were started, in their order, of all times so far."""
    asyncio.run(runner.run())
    return (runner.folder.parent / "journal").read_text().splitlines()


def lines_of(runner: StudyRunner) -> list[dict]:
    return [json.loads(line) for line in runner.results_file.read_text().splitlines()]


def test_cells_are_the_product_of_the_axes(make_runner):
    study = make_runner(axes={"visual_prefix": ["patches", "pooled"], "num_image_tokens": [1, 4]}).study
    assert study.cells == {
        "visual_prefix=patches,num_image_tokens=1": {"visual_prefix": "patches", "num_image_tokens": 1},
        "visual_prefix=patches,num_image_tokens=4": {"visual_prefix": "patches", "num_image_tokens": 4},
        "visual_prefix=pooled,num_image_tokens=1": {"visual_prefix": "pooled", "num_image_tokens": 1},
        "visual_prefix=pooled,num_image_tokens=4": {"visual_prefix": "pooled", "num_image_tokens": 4},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cells": CELLS, "seed": 1}, "has seed: allowed are base, flags, axes, cells, seeds"),
        ({"cells": CELLS, "axes": {"seed": [1]}}, "give one of the two"),
        ({}, "give one of the two"),
    ],
)
def test_a_study_that_is_wrong_says_what_is_allowed(make_runner, content, message):
    with pytest.raises(ValueError, match=message):
        make_runner(**content)


def test_every_cell_gets_its_first_seed_before_any_gets_its_second(make_runner):
    runner = make_runner(cells=CELLS, seeds=[2, 0])
    assert run(runner) == ["first-2", "second-2", "first-0", "second-0"]
    assert [(line["cell"], line["seed"]) for line in lines_of(runner)] == [
        ("first", 2),
        ("second", 2),
        ("first", 0),
        ("second", 0),
    ]


def test_flags_of_a_cell_win_over_the_studys_over_the_runners_over_the_bases(make_runner):
    flags = {"learning_rate": 0.5, "eval_strategy": "epoch", "lambda_align": 2}
    runner = make_runner(cells=CELLS, flags=flags)
    run(runner)
    given = json.loads((runner.folder / "second-0" / "flags.json").read_text())
    assert given["lambda_align"] == 0
    assert (given["learning_rate"], given["eval_strategy"]) == (0.5, "epoch")
    assert (given["save_strategy"], given["seed"]) == ("no", 0)
    assert given["num_image_tokens"] == 10  # of configs/demo.json
    assert given["output_dir"] == str(runner.folder / "second-0")


@pytest.mark.parametrize(("given", "threads"), [(None, 3), ("2", 2)])
def test_runs_side_by_side_share_the_cores_that_the_study_may_use(make_runner, monkeypatch, given, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    runner = make_runner(jobs=2, cells=CELLS)
    assert sorted(run(runner)) == ["first-0", "second-0"]
    assert [line["metrics"]["threads"] for line in lines_of(runner)] == [threads, threads]


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"),
    [(2, ("4", "6"), ["4", "6"]), (2, ("4",), ["4", "4"]), (1, ("4", "6"), ["4", "4"]), (2, (), ["", ""])],
)
def test_each_job_has_a_gpu_and_shares_it_where_there_are_fewer(make_runner, monkeypatch, jobs, gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runner = make_runner(jobs=jobs, gpus=gpus, cells=CELLS)
    run(runner)
    assert sorted(line["metrics"]["gpu"] for line in lines_of(runner)) == expected


@pytest.mark.parametrize(
    ("given", "number", "gpus"),
    [(None, 3, ["0", "1", "2"]), ("5,2", 2, ["5", "2"]), ("GPU-8a,GPU-1c", 2, ["GPU-8a", "GPU-1c"]), ("", 0, [])],
)
def test_the_gpus_of_a_study_are_those_that_it_was_given(monkeypatch, given, number, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: number)
    assert visible_gpus() == gpus


def test_what_is_done_is_not_run_again(make_runner):
    run(make_runner(cells=CELLS))
    assert run(make_runner(cells=CELLS, seeds=[0, 1])) == ["first-0", "second-0", "first-1", "second-1"]


def test_what_is_done_with_other_flags_is_run_again(make_runner):
    run(make_runner(cells=CELLS))
    assert run(make_runner(cells=CELLS | {"second": {"lambda_align": 1}})) == ["first-0", "second-0", "second-0"]


def test_a_failed_run_tells_the_last_line_of_its_log_and_is_tried_again(make_runner, tmp_path):
    runner = make_runner(cells={"first": {"fails": True}, "second": {}})
    run(runner)
    failed, done = lines_of(runner)
    assert (failed["status"], failed["error"]) == ("failed", "RuntimeError: no a | b")
    assert done["status"] == "done"
    assert "| first | seed 0 failed: RuntimeError: no a \\| b |" in unpadded((runner.folder / "table.md").read_text())

    (tmp_path / "repaired").touch()
    assert run(runner) == ["first-0", "second-0", "first-0"]
    assert [line["status"] for line in lines_of(runner)] == ["failed", "done", "done"]
    assert "failed" not in (runner.folder / "table.md").read_text()


def test_a_run_that_leaves_no_numbers_has_failed(make_runner, tmp_path):
    runner = make_runner(cells={"first": {}})
    (tmp_path / "stub.py").write_text("")
    asyncio.run(runner.run())
    assert [(line["status"], line["error"]) for line in lines_of(runner)] == [("failed", "exit status 0")]


def test_a_run_is_ended_at_the_limit_and_is_run_again_only_under_a_higher_one(make_runner, tmp_path):
    runner = make_runner(cells={"first": {"waits": True}}, limit=0.2)
    for _ in range(2):
        asyncio.run(runner.run())
        assert [line["status"] for line in lines_of(runner)] == ["limit"]
    assert "| first | seed 0 ended by the limit after" in (runner.folder / "table.md").read_text()

    (tmp_path / "repaired").touch()
    runner.study.limit = math.inf
    run(runner)
    assert [line["status"] for line in lines_of(runner)] == ["limit", "done"]


@pytest.mark.parametrize("keep_models", [False, True])
def test_weights_stay_only_where_the_study_keeps_them(make_runner, keep_models):
    runner = make_runner(cells=CELLS, keep_models=keep_models)
    run(runner)
    assert (runner.folder / "first-0" / "model.safetensors").exists() == keep_models
    assert (runner.folder / "first-0" / "all_results.json").exists()


def test_the_table_pairs_each_seed_with_the_same_seed_of_the_first_cell(make_runner):
    cells = {
        "base": {"accuracies": [0.5, 0.6, 0.7]},
        "better": {"accuracies": [0.6, 0.61, 0.72]},
        "mixed": {"accuracies": [0.4, 0.7, 0.7]},
    }
    runner = make_runner(cells=cells, seeds=[0, 1, 2], metrics=["eval_accuracy", "eval_open_accuracy"])
    run(runner)
    done = "seed 0 done; seed 1 done; seed 2 done"
    assert unpadded((runner.folder / "table.md").read_text()).splitlines() == [
        "Mean (each seed):",
        "",
        "| cell | runs | accuracy | open_accuracy |",
        "| - | -: | -: | -: |",
        f"| base | {done} | 0.600 (0.500, 0.600, 0.700) | - |",
        f"| better | {done} | 0.643 (0.600, 0.610, 0.720) | - |",
        f"| mixed | {done} | 0.600 (0.400, 0.700, 0.700) | - |",
        "",
        "Difference to base, mean (each seed):",
        "",
        "| cell | accuracy | open_accuracy |",
        "| - | -: | -: |",
        "| better | +0.043 (+0.100, +0.010, +0.020), all seeds agree | - |",
        "| mixed | +0.000 (-0.100, +0.100, +0.000) | - |",
    ]
    assert (runner.folder / "study.png").stat().st_size > 0


def test_one_pair_of_seeds_is_no_difference():
    def done(accuracy: float) -> dict:
        return {"status": "done", "metrics": {"eval_accuracy": accuracy}}

    results = {("base", 0): done(0.5), ("base", 1): done(0.5), ("other", 1): done(0.7), ("other", 2): done(0.9)}
    table = unpadded(study_table(["base", "other"], [0, 1, 2], ["eval_accuracy"], results))
    assert "| other | seed 0 open; seed 1 done; seed 2 done | 0.800 (0.700, 0.900) |" in table
    assert table.endswith("| other | - |")


def test_nothing_is_left_running_after_sigterm(make_runner, tmp_path):
    runner = make_runner(cells={"first": {"waits": True}, "second": {"waits": True}}, seeds=[0, 1])
    os.mkfifo(tmp_path / "pipe")
    reader, writer = (os.open(tmp_path / "pipe", flag | os.O_NONBLOCK) for flag in (os.O_RDONLY, os.O_WRONLY))
    os.set_blocking(reader, True)
    command = [sys.executable, "-m", "mmjepa.experiments.run_study", tmp_path / "study.yaml", "--jobs", "2"]
    command += ["--runs", tmp_path, "--script", tmp_path / "stub.py", "--dataset_name", "elsewhere"]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    with open(reader) as pipe:
        # Of each run that was started and of the child that it has forked.
        assert [pipe.readline() for _ in range(4)] == ["started\n"] * 4
        process.send_signal(signal.SIGTERM)
        assert pipe.read() == ""  # comes only when the last process that could write has ended
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "the same command continues" in errors
    assert sorted((tmp_path / "journal").read_text().splitlines()) == ["first-0", "second-0"]
    assert not runner.results_file.exists()
    assert json.loads((runner.folder / "first-0" / "flags.json").read_text())["dataset_name"] == "elsewhere"


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_run_of_the_studies_has_known_flags_and_a_valid_configuration(file, tmp_path):
    runner = StudyRunner(Study.from_file(file), tmp_path, Path())
    for cell, seed in runner.all_runs():
        flags = tmp_path / "flags.json"
        flags.write_text(json.dumps(runner.flags_of(cell, seed) | {"output_dir": str(tmp_path)}))
        model_args, _, training_args = parse_arguments([str(flags)])
        assert training_args.seed == seed
        fields = {"vision_config": model_args.vision_fields, "text_config": model_args.text_fields}
        MMJepaConfig(**fields, **model_args.config_fields())
