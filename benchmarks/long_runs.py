"""Measures whether memory stays constant in a long training, and how much memory many rows need.

python benchmarks/long_runs.py [--steps 2000] [--images 20000]
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from measuring import table
from PIL import Image

from mmjepa.data.drawn_slides import write_drawn_slides

ROOT = Path(__file__).parents[1]
QUESTIONS_PER_IMAGE = 5
EARLY_STEP = 200  # by then everything has been allocated once


def memory(process: psutil.Process) -> float:
    """Gigabytes of a process and its children. Shared memory is counted once (PSS)."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total / 1e9


def flat_memory(steps: int) -> dict:
    """Memory of a small training with evaluations and checkpoints, early and at its end."""
    with tempfile.TemporaryDirectory() as folder:
        write_drawn_slides(f"{folder}/slides", num_train=300, num_validation=20)
        flags = ["--dataset_name", f"{folder}/slides", "--output_dir", f"{folder}/run", "--max_steps", str(steps)]
        flags += ["--batch_size", "16", "--logging_steps", "50", "--eval_steps", "100", "--save_steps", "100"]
        command = [sys.executable, str(ROOT / "run_pathvqa.py"), str(ROOT / "configs" / "demo.json"), *flags]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        held = {}
        for line in run.stdout:
            if step := re.match(r"step (\d+)/", line):
                held[int(step[1])] = memory(psutil.Process(run.pid))
        if run.wait() != 0:
            raise RuntimeError(f"the run ended with status {run.returncode}")
    early, late = held[EARLY_STEP], held[steps]
    return {"steps": steps, "GB at step 200": early, "GB at the end": late, "growth": late / early - 1}


def write_images(folder: Path, images: int) -> None:
    """JPEG images of 256 x 256 pixels, all different, and train.csv with five questions about each."""
    (folder / "images").mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for number in range(images):
        blocks = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        blocks.resize((256, 256)).save(folder / "images" / f"{number}.jpg")
        rows += [(f"images/{number}.jpg", f"is it of kind {kind}?", "yes") for kind in range(QUESTIONS_PER_IMAGE)]
    pd.DataFrame(rows, columns=["image", "question", "answer"]).to_csv(folder / "train.csv", index=False)


def peak_memory(command: list[str], cache: str) -> dict:
    """The most memory that a command holds, and its seconds."""
    start, most = time.monotonic(), 0.0
    environment = os.environ | {"HF_DATASETS_CACHE": cache}
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while run.poll() is None:
        most = max(most, memory(psutil.Process(run.pid)))
        time.sleep(0.5)
    if run.returncode != 0:
        raise RuntimeError(f"{command} ended with status {run.returncode}")
    return {"peak GB": most, "seconds": time.monotonic() - start}


def many_rows(images: int) -> list[dict]:
    """Memory and time of `mmjepa check` on many rows, and of a two-step training that prepares all their images."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder, "data"), f"{folder}/run"
        write_images(data, images)
        flags = ["--dataset_name", str(data), "--output_dir", run, "--max_steps", "2", "--max_val_samples", "100"]
        script, config = str(ROOT / "run_pathvqa.py"), str(ROOT / "configs" / "demo.json")
        commands = {
            "look: mmjepa check": ["-c", "from mmjepa.cli import app; app()", "check", str(data)],
            "read, prepare and train two steps": [script, config, *flags],
        }
        rows = QUESTIONS_PER_IMAGE * images
        return [
            {"what": name, "rows": rows, "images": images} | peak_memory([sys.executable, *command], f"{folder}/cache")
            for name, command in commands.items()
        ]


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measures the memory of long runs and of many rows.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args(argv)
    print(table([flat_memory(arguments.steps)]), flush=True)
    print("\n" + table(many_rows(arguments.images)))


if __name__ == "__main__":
    main()
