"""Runs a study: the same training with different flags and seeds, described in a small YAML file.

    python -m mmjepa.experiments.run_study experiments/prefix.yaml [--jobs N] [--limit SECONDS]

Finished runs are recorded in `runs/<study>/results.jsonl`. Started again, a study continues with the missing runs.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from ..data.threads import available_cores
from .study_report import METRICS, Results, draw_study, study_table

logger = logging.getLogger("mmjepa")

ROOT = Path(__file__).parents[1]
# A study compares final numbers only. These flags override its base; its own flags override these.
CELL_FLAGS = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
    "report_to": "none",
    "overwrite_output_dir": True,
}


@dataclass
class Study:
    """A study, as its file describes it.

    Args:
        name: the file's name without extension.
        base: the path of a file of flags, relative to the repository.
        flags: flags of all cells; they override `base`.
        axes: flag -> its values; each combination of values is a cell.
        cells: name -> flags, instead of `axes`. The first cell is the reference that others are compared with.
        seeds: each cell runs once with each seed.
        limit: seconds after which a run is stopped.
        metrics: names of the numbers in all_results.json that the table shows.
        keep_models: whether the trained weights are kept.
    """

    name: str
    base: str
    flags: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    limit: float = math.inf
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    keep_models: bool = False

    def __post_init__(self):
        if bool(self.axes) == bool(self.cells):
            raise ValueError(f"study {self.name} has axes {self.axes} and cells {self.cells}: give one of the two.")
        if self.axes:
            combinations = [dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())]
            self.cells = {cell_name(flags): flags for flags in combinations}

    @classmethod
    def from_file(cls, path: Path) -> "Study":
        content = yaml.safe_load(path.read_text())
        allowed = [field.name for field in fields(cls) if field.name != "name"]
        if unknown := content.keys() - set(allowed):
            raise ValueError(f"{path} has {', '.join(unknown)}: allowed are {', '.join(allowed)}.")
        return cls(name=path.stem, **content)


def cell_name(flags: dict[str, Any]) -> str:
    """A cell's name, such as `num_image_tokens=4,visual_prefix=pooled`. It also names a folder."""
    return ",".join(f"{name}={value}" for name, value in flags.items())


class StudyRunner:
    """Runs the cells of a study in parallel and writes their results.

    Args:
        runs: the folder in which the study's folder is made.
        script: the script that each run starts, with a file of flags as its only argument.
        jobs: how many runs go on at once; they share the cores.
        gpus: as CUDA_VISIBLE_DEVICES names them; they are given to the jobs in turn.
    """

    def __init__(self, study: Study, runs: Path, script: Path, jobs: int = 1, gpus: Sequence[str] = ()):
        self.study, self.script, self.jobs, self.gpus = study, script, jobs, gpus
        self.folder = runs / study.name
        self.results_file = self.folder / "results.jsonl"
        self.base = yaml.safe_load((ROOT / study.base).read_text())

    def all_runs(self) -> Iterator[tuple[str, int]]:
        """Each cell and seed. Every cell gets its first seed before any cell gets its second."""
        return ((cell, seed) for seed in self.study.seeds for cell in self.study.cells)

    def flags_of(self, cell: str, seed: int) -> dict[str, Any]:
        return self.base | CELL_FLAGS | self.study.flags | self.study.cells[cell] | {"seed": seed}

    def results(self) -> Results:
        """The last line of each cell and seed. A line counts only while its flags are those of the study."""
        lines = self.results_file.read_text().splitlines() if self.results_file.exists() else []
        last = {(line["cell"], line["seed"]): line for line in map(json.loads, lines)}
        return {run: last[run] for run in self.all_runs() if run in last and last[run]["flags"] == self.flags_of(*run)}

    def open_runs(self) -> list[tuple[str, int]]:
        """Runs that are missing, failed, or were stopped by a lower limit than today's."""

        def is_closed(line: dict[str, Any]) -> bool:
            return line["status"] == "done" or (line["status"] == "limit" and line["seconds"] >= self.study.limit)

        results = self.results()
        return [run for run in self.all_runs() if not (run in results and is_closed(results[run]))]

    async def run(self) -> None:
        """Runs the open runs. If it is cancelled, it ends the processes that it started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_report()
        queue = iter(self.open_runs())

        async def work(job: int) -> None:
            for cell, seed in queue:  # shared: the next run goes to the first job that is free
                self.record(await self.run_cell(cell, seed, self.environment(job)))

        await asyncio.gather(*(work(job) for job in range(self.jobs)))

    def environment(self, job: int) -> dict[str, str]:
        """The environment of the runs of one job: its share of the cores, and where there are GPUs, one of them."""
        own = {
            "OMP_NUM_THREADS": str(max(1, available_cores() // self.jobs)),
            # Threads that wait for each other sleep. Else they take the cores of all that runs beside them.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[job % len(self.gpus)]} if self.gpus else {}
        return own | os.environ | gpu

    async def run_cell(self, cell: str, seed: int, environment: dict[str, str]) -> dict[str, Any]:
        """Runs a cell with a seed in its own process group -> its line of results."""
        flags, folder = self.flags_of(cell, seed), self.folder / f"{cell}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "all_results.json").unlink(missing_ok=True)
        flags_file = folder / "flags.json"
        flags_file.write_text(json.dumps(flags | {"output_dir": str(folder)}, indent=2))
        logger.info("%s, seed %s: started, log in %s", cell, seed, folder / "log")
        start = time.monotonic()
        with open(folder / "log", "wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, self.script, flags_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        try:
            ended, _ = await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=self.study.limit)
        finally:
            # The whole group, because data loaders survive when only the process is killed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        line: dict[str, Any] = {"cell": cell, "seed": seed, "status": "limit", "seconds": time.monotonic() - start}
        if ended:
            line |= self.outcome(folder, process.returncode)
        return line | {"overrides": self.study.cells[cell], "flags": flags}

    def outcome(self, folder: Path, exit_status: int) -> dict[str, Any]:
        """Status and numbers of a run that ended by itself; of a failed one the last line of its log."""
        numbers = folder / "all_results.json"
        if exit_status != 0 or not numbers.exists():
            log = (folder / "log").read_text(errors="replace").strip()
            return {"status": "failed", "error": log.split("\n")[-1] or f"exit status {exit_status}"}
        if not self.study.keep_models:
            for weights in folder.glob("model*.safetensors"):
                weights.unlink()
        return {"status": "done", "metrics": json.loads(numbers.read_text())}

    def record(self, line: dict[str, Any]) -> None:
        """Appends a line of results immediately, so that it is not lost when the runner is killed."""
        logger.info("%s, seed %s: %s after %.0f s", line["cell"], line["seed"], line["status"], line["seconds"])
        with open(self.results_file, "a") as file:
            file.write(json.dumps(line) + "\n")
        self.write_report()

    def write_report(self) -> None:
        """Writes the table and the plot of the results so far."""
        cells, seeds, results = list(self.study.cells), self.study.seeds, self.results()
        (self.folder / "table.md").write_text(study_table(cells, seeds, self.study.metrics, results) + "\n")
        draw_study(self.folder / "study.png", cells, seeds, results)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    number = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",")[:number] if given else [str(gpu) for gpu in range(number)]


async def run_until_signal(runner: StudyRunner) -> None:
    """Runs a study. Ctrl-C and SIGTERM cancel it."""
    task = asyncio.ensure_future(runner.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


def main(argv: list[str] | None = None) -> None:
    """Runs the study of a file and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument(
        "--jobs",
        type=int,
        default=available_cores(),
        help="runs at once, which share cores and GPUs; by default one per core",
    )
    parser.add_argument("--limit", type=float, help="seconds after which a run is stopped, instead of the study's")
    parser.add_argument("--dataset_name", help="the data set, instead of the study's")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder in which the study's folder is made")
    parser.add_argument("--script", type=Path, default=ROOT / "run_pathvqa.py", help="the script that each run starts")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    study = Study.from_file(args.study)
    if args.limit is not None:
        study.limit = args.limit
    if args.dataset_name is not None:
        study.flags["dataset_name"] = args.dataset_name
    runner = StudyRunner(study, args.runs, args.script, args.jobs, visible_gpus())
    try:
        asyncio.run(run_until_signal(runner))
    except asyncio.CancelledError:
        sys.exit("stopped: the same command continues with the missing runs")
    print((runner.folder / "table.md").read_text())
    if failed := runner.open_runs():
        sys.exit(f"{len(failed)} runs failed; the same command tries them again")


if __name__ == "__main__":
    main()
