"""The checkpoints of a run: how one is saved, what is wrong with it, which is the newest, the best, and which go."""

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickletools import genops
from typing import Any

from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors import SafetensorError
from transformers import TrainerState

from ..evaluation.loading import is_cut_off

logger = logging.getLogger("mmjepa")

CHECKPOINT = re.compile(r"checkpoint-\d+")
# A checkpoint holds this file while it is written, and so does a just-in-time checkpoint of the library.
UNFINISHED = "checkpoint-is-incomplete.txt"
# What the weights of a checkpoint may be: of a model, of adapters (PEFT), of FSDP, whole or sharded, of DeepSpeed.
WEIGHTS = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "*/adapter_model.safetensors",
    f"{FSDP_MODEL_NAME}*",
    "global_step*/*model_states.pt",
)


@contextmanager
def marked_save(checkpoint: Path, is_writer: bool, wait: Callable[[], object]) -> Iterator[None]:
    """Marks a checkpoint as unfinished while the body writes it, until the files of all processes are there.

    Args:
        is_writer: whether this process marks; one of them does.
        wait: waits for all processes.

    Raises:
        OSError: it can't be written, because the disk is full for example. Older checkpoints are as they were.
    """
    if is_writer:
        shutil.rmtree(checkpoint, ignore_errors=True)  # what a run that was killed left
        checkpoint.mkdir(parents=True)
        (checkpoint / UNFINISHED).touch()
    wait()
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise OSError(
            f"{checkpoint} can't be written ({error}); {shutil.disk_usage(checkpoint.parent).free / 1e9:.2f} GB are "
            "free there. Older checkpoints are as they were: make room, then resume with --resume_from_checkpoint."
        ) from error
    wait()
    if is_writer:
        (checkpoint / UNFINISHED).unlink()


def let_lower_loss_win(metric: str | None, metrics: dict[str, float], state: TrainerState) -> None:
    """Of equally good checkpoints the one with the lowest loss is the best, where the library keeps the first.

    It forgets the best number so far. The library compares next, and takes the new one.

    Args:
        metric: `metric_for_best_model`.
        metrics: of the evaluation that was just logged.
    """
    name = f"eval_{(metric or '').removeprefix('eval_')}"
    if state.best_metric is None or metrics.get(name) != state.best_metric or "eval_loss" not in metrics:
        return
    losses = {line["step"]: line["eval_loss"] for line in state.log_history if "eval_loss" in line}
    if metrics["eval_loss"] < losses.get(state.best_global_step, math.inf):
        state.best_metric = None


def checkpoint_problems(checkpoint: Path) -> list[str]:
    """Why training can't resume from `checkpoint`: the parts that are missing or cut off. Empty if it is whole."""
    if (checkpoint / UNFINISHED).exists():
        return ["its save was cut off"]
    # DeepSpeed has its optimizer in a folder whose name the file `latest` holds.
    deepspeed = (checkpoint / "latest").exists()
    optimizer = ("global_step*",) if deepspeed else ("optimizer*", "scheduler.pt")
    missing = [part for part in ("trainer_state.json", *optimizer) if not any(checkpoint.glob(part))]
    if not any(any(checkpoint.glob(weights)) for weights in WEIGHTS):
        missing.append(WEIGHTS[0])
    files = sorted([*checkpoint.glob("*"), *checkpoint.glob("*/*.pt"), *checkpoint.glob("*/*.safetensors")])
    cut_off = [str(path.relative_to(checkpoint)) for path in files if is_cut_off(path)]
    for name, end in listed_files(checkpoint):
        if not (checkpoint / name).exists():
            missing.append(name)
        elif (checkpoint / name).stat().st_size < end:
            cut_off.append(name)
    return [f"{name} is missing" for name in missing] + [f"{name} is cut off" for name in cut_off]


def listed_files(checkpoint: Path) -> Iterator[tuple[str, float]]:
    """Files that an index in the checkpoint lists, and how many bytes each of them has at least.

    Weights in several files have an index in JSON. FSDP's shards lie in folders of torch's distributed checkpoints,
    whose index is written last; it says where in which file each tensor ends.
    """
    for index in checkpoint.glob("*.safetensors.index.json"):
        if not is_cut_off(index):
            for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
                yield name, 0
    for folder in (*checkpoint.glob(f"{FSDP_MODEL_NAME}_*/"), *checkpoint.glob("optimizer_*/")):
        index = folder / ".metadata"
        ends: dict[str, float] = {index.name: 1}
        if index.exists():
            try:
                ends |= ends_of_shards(index)
            except ValueError:
                ends = {index.name: math.inf}
        yield from ((f"{folder.name}/{name}", end) for name, end in sorted(ends.items()))


def ends_of_shards(index: Path) -> dict[str, int]:
    """File -> where the last of its tensors ends, by the index of one of torch's distributed checkpoints.

    The index is a pickle. This lists its operations and runs none of them: `pickle.load` would call what it names.

    Raises:
        ValueError: it is cut off.
    """
    values: list[Any] = []
    memo: list[Any] = []
    for operation, argument, _ in genops(index.read_bytes()):
        if operation.name == "MEMOIZE":
            memo.append(values[-1])
        elif operation.name != "FRAME":
            values.append(memo[argument] if operation.name.endswith("BINGET") else argument)
    ends: dict[str, int] = {}
    for place, value in enumerate(values):  # each tensor has relative_path, offset and length, in this order
        if value == "relative_path":
            name, _, offset, _, length = values[place + 1 : place + 6]
            ends[name] = max(offset + length, ends.get(name, 0))
    return ends


def newest_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint in a run's folder, or None. Warns of newer ones that are broken."""
    found = [path for path in Path(folder).glob("*") if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if not (problems := checkpoint_problems(path)):
            return str(path)
        logger.warning("%s is broken (%s): training does not resume from it", path, ", ".join(problems))
    return None
