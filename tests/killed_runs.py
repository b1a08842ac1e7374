"""Kills a training run repeatedly, resumes it each time, and compares it with a run that was not killed.

    make kill-test KILLS=25
    python tests/killed_runs.py --kills 8 --workers 2 --processes 2 --streaming

Each kill strikes at a random moment of a phase: while images are prepared, in a step, in an evaluation, in a save, and
after the training. Before the next one the run has saved a new checkpoint, so that it gets to its end.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import psutil
from datasets import Dataset
from tiny import TEXT, VISION

from mmjepa.data.drawn_slides import write_drawn_slides
from mmjepa.data.rows import load_rows
from mmjepa.training.checkpoints import UNFINISHED

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "run_pathvqa.py"
SAVE_STEPS = 2
# The most seconds that a kill waits after its phase has begun: about as long as the phase takes.
PHASES = {"preparing": 0.3, "step": 0.06, "evaluation": 0.1, "save": 0.03, "end": 0.5}
FLAGS = {
    "vision_config": VISION,
    "text_config": TEXT,  # with dropout
    "augmentations": ["crop", "flip", "stain"],
    "batch_size": 4,
    "max_val_samples": 6,
    "align_warmup_epochs": 0.3,
    "lr_img": 1e-3,
    "learning_rate": 1e-3,
    "save_strategy": "steps",
    "save_steps": SAVE_STEPS,
    "eval_strategy": "steps",
    "eval_steps": SAVE_STEPS,
    "metric_for_best_model": "eval_loss",
    "logging_steps": 1,
    "max_answer_tokens": 4,
    "streaming_buffer_size": 8,
    "preprocessing_num_workers": 1,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
    "resume_from_checkpoint": "true",
}


def write_flags(folder: Path, **flags: object) -> str:
    """Writes a file of flags and, beside it, drawn slides: four parquet files of train, one of each other split."""
    write_drawn_slides(folder / "slides", num_train=8, num_validation=4, num_test=1, image_size=32)
    for split, rows in load_rows(str(folder / "slides")).items():
        shards = 4 if split == "train" else 1
        for number in range(shards):
            shard: Dataset = rows.shard(shards, number)
            shard.to_parquet(folder / "shards" / f"{split}-{number:05d}-of-{shards:05d}.parquet")
    path = folder / "flags.json"
    data = {"dataset_name": str(folder / "shards"), "image_folder": str(folder / "slides")}
    path.write_text(json.dumps(FLAGS | data | flags))
    return str(path)


class Run:
    """A run of the script in `folder`, resumed from its newest checkpoint if there is one. Prepares images again."""

    def __init__(self, flags: str, folder: Path, processes: int = 1, script: Sequence[object] = (SCRIPT,)):
        folder.mkdir(exist_ok=True)
        self.folder, self.cache = folder, folder.with_name(f"{folder.name}_cache")
        self.log = folder.with_name(f"{folder.name}.log")
        self.start = self.log.stat().st_size if self.log.exists() else 0
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [*(launcher if processes > 1 else []), *map(str, script), flags]
        with open(self.log, "a") as log:
            self.process = psutil.Popen(
                [sys.executable, *command, "--output_dir", str(folder)],
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(self.cache), "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """What this run has printed, without the runs before it in the folder."""
        with open(self.log, errors="replace") as log:
            log.seek(self.start)
            return log.read()

    def finish(self) -> None:
        assert self.process.wait(timeout=600) == 0, self.output()[-8000:]
        assert not (self.folder / "nonfinite_rows.jsonl").exists(), self.output()[-8000:]

    def wait_until(self, happens: Callable[[], object]) -> None:
        """Waits until the running process has done something."""
        limit = time.monotonic() + 300
        while not happens():
            assert self.process.poll() is None, f"The run ended before its kill:\n{self.output()[-8000:]}"
            assert time.monotonic() < limit, f"Nothing happened:\n{self.output()[-8000:]}"
            time.sleep(0.001)

    def steps(self) -> list[int]:
        """The steps in its log."""
        return [int(line.split("/")[0][5:]) for line in self.output().splitlines() if line.startswith("step ")]

    def saved_step(self) -> int:
        """The step of its newest checkpoint."""
        states = self.folder.glob("checkpoint-*/trainer_state.json")
        whole = [path.parent for path in states if not (path.parent / UNFINISHED).exists()]
        return max((int(path.name.split("-")[1]) for path in whole), default=0)

    def wait_for(self, phase: str) -> None:
        """Waits until the run is in this phase and has saved a checkpoint itself."""
        if phase == "preparing":
            return self.wait_until(lambda: any(path.is_file() for path in self.cache.rglob("*")))
        if phase == "end":
            return self.wait_until(lambda: "\ntrained " in self.output())
        resumed = self.saved_step()
        self.wait_until(lambda: self.saved_step() > resumed)
        step = self.saved_step()
        if phase == "save":
            return self.wait_until(lambda: any(self.folder.glob(f"checkpoint-*/{UNFINISHED}")))
        every = SAVE_STEPS if phase == "evaluation" else 1
        self.wait_until(lambda: any(logged > step and logged % every == 0 for logged in self.steps()))

    def kill(self, phase: str, delay: float) -> None:
        """Kills all its processes with SIGKILL, `delay` seconds after the phase began."""
        self.wait_for(phase)
        time.sleep(delay)
        processes = [self.process, *self.process.children(recursive=True)]
        assert self.process.poll() is None, f"The run ended before its kill:\n{self.output()[-8000:]}"
        for process in processes:
            process.kill()
        assert self.process.wait(timeout=60) == -signal.SIGKILL
        psutil.wait_procs(processes, timeout=60)


def phases(kills: int) -> Iterator[str]:
    """The phases of the kills, in order. With five kills or more, the last comes after the training."""
    after_training = kills >= 5
    yield "preparing"
    for _, phase in zip(range(kills - 1 - after_training), cycle(["save", "evaluation", "step"]), strict=False):
        yield phase
    if after_training:
        yield "end"


def kill_and_resume(flags: str, folder: Path, kills: int, processes: int = 1, seed: int = 0) -> Counter:
    """Kills a run `kills` times, then lets it finish; counts the kills by phase, and the interrupted saves."""
    draw = random.Random(seed)
    struck: Counter = Counter()
    for phase in phases(kills):
        run = Run(flags, folder, processes)
        run.kill(phase, draw.uniform(0, PHASES[phase]))
        struck[phase] += 1
        struck["saves left undone"] += any(folder.glob(f"checkpoint-*/{UNFINISHED}"))
        print(f"killed: {phase}, newest checkpoint {run.saved_step()}", flush=True)
    Run(flags, folder, processes).finish()
    return struck


def numbers(folder: Path) -> dict:
    """All numbers of a run, without times and without the mean loss of its last part."""

    def without_times(line: dict) -> dict:
        return {
            name: value
            for name, value in line.items()
            if not name.endswith(("runtime", "_per_second", "_time")) and name != "train_loss"
        }

    state = json.loads((folder / "trainer_state.json").read_text())
    return {
        "log": [without_times(line) for line in state["log_history"]],
        "best": (state["best_metric"], state["best_global_step"]),
        "evaluation": without_times(json.loads((folder / "eval_results.json").read_text())),
        "answers": (folder / "eval_answers.jsonl").read_text(),
    }


def assert_same(folder: Path, whole: Path) -> None:
    """Raises AssertionError if two runs differ in a bit of their weights or in a number."""
    measured, expected = numbers(folder), numbers(whole)
    for name, value in expected.items():
        assert measured[name] == value, name
    checkpoints = sorted(path.name for path in whole.glob("checkpoint-*"))
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == checkpoints
    for name in ("", *checkpoints):
        weights = [(run / name / "model.safetensors").read_bytes() for run in (folder, whole)]
        assert weights[0] == weights[1], f"{name}/model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--workers", type=int, default=0, help="dataloader_num_workers")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.monotonic()
        steps = 2 * SAVE_STEPS * args.kills
        flags = write_flags(
            folder, max_steps=steps, dataloader_num_workers=args.workers, streaming=args.streaming or None
        )
        Run(flags, folder / "whole", args.processes).finish()
        struck = kill_and_resume(flags, folder / "killed", args.kills, args.processes, args.seed)
        assert_same(folder / "killed", folder / "whole")
    print(f"{steps} steps, {args.kills} kills in {time.monotonic() - start:.0f} s: {dict(struck)}")
    print("weights, logged numbers, evaluation and answers equal those of the run that was not killed")


if __name__ == "__main__":
    main()
