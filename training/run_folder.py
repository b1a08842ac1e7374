"""The folder of a run: what is in it, from which checkpoint to go on, what a new run may remove."""

import hashlib
import json
import logging
import math
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickletools import genops
from typing import Any
from zipfile import is_zipfile

from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors import SafetensorError, safe_open

from ..data.images import VqaData
from ..data.streaming import StreamedVqaData
from .arguments import MMJepaTrainingArguments

logger = logging.getLogger("mmjepa")

NEWEST = ("last", "true")  # what --resume_from_checkpoint says for the newest checkpoint of the output folder
CHECKPOINT = re.compile(r"checkpoint-\d+")
# Lies in a checkpoint while it is written. The library's just-in-time checkpoints have a file of this name too.
UNFINISHED = "checkpoint-is-incomplete.txt"
# A folder that has one of these holds a run.
RUN_SIGNS = re.compile(
    r"checkpoint-\d+|trainer_state\.json|all_results\.json|predictions\.parquet|adapter_model\.safetensors"
    r"|model(-\d+-of-\d+)?\.safetensors"
)
# What the weights of a checkpoint may be: of a model, of adapters (PEFT), of FSDP, whole or sharded, of DeepSpeed.
WEIGHTS = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "*/adapter_model.safetensors",
    f"{FSDP_MODEL_NAME}*",
    "global_step*/*model_states.pt",
)
LOGS = "logs/mmjepa_joint"  # where --log_dir puts them by default
RUN_FILE = "run.json"
# Flags that are not for a run that is made again: they would remove the first one, or take its place.
NOT_AGAIN = ("overwrite_output_dir", "hub_token", "push_to_hub")
VERSIONS = ("mmjepa", "torch", "transformers", "datasets", "accelerate")
# A run's results. What else it left, a later run overwrites.
RESULTS = re.compile(
    r"(all|train|eval|test|predict)_results\.json|(eval|test|predict)_answers\.(jsonl|png)|predictions\.parquet"
    r"|((test|predict)_)?report\.html|README\.md|run\.json"
)


def faults(checkpoint: Path) -> list[str]:
    """What keeps training from going on from a checkpoint: parts that are missing or cut off; none if it is whole."""
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
    """Files that an index in the checkpoint lists, and the bytes that each of them has at least.

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

    The index is a pickle. Its operations are listed, and none is done: `pickle.load` would call what it names.

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


def is_cut_off(path: Path) -> bool:
    """Whether a file of weights, states or JSON ends too early, as after a power failure or a copy that stopped."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):  # compares the file's length with its header
                pass
        except SafetensorError:
            return True
    elif path.suffix in (".pt", ".pth", ".bin"):
        return not is_zipfile(path)  # whose table of contents is at its end
    elif path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return True
    return False


def newest_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint in a run's folder, None where there is none. Warns of newer ones that are broken."""
    found = [path for path in Path(folder).glob("*") if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if not (wrong := faults(path)):
            return str(path)
        logger.warning("%s is broken (%s): training does not go on from it", path, ", ".join(wrong))
    return None


def find_checkpoint(args: MMJepaTrainingArguments) -> str | None:
    """The checkpoint that --resume_from_checkpoint means, None where training starts from the beginning.

    Raises:
        ValueError: it names a checkpoint that is broken, or a folder that holds no whole one.
    """
    named = args.resume_from_checkpoint
    if named is None:
        return None
    newest = named in NEWEST
    folder = Path(args.output_dir if newest else named)
    wrong = faults(folder)
    if not wrong:
        return str(folder)
    if CHECKPOINT.fullmatch(folder.name):
        raise ValueError(f"{folder} can't be gone on from ({', '.join(wrong)}): name another checkpoint.")
    if (checkpoint := newest_checkpoint(folder)) is not None:
        return checkpoint
    if not newest:
        raise ValueError(
            f"{folder} holds no complete checkpoint to go on from: name a checkpoint or a run's folder that has one, "
            "or leave out --resume_from_checkpoint."
        )
    logger.warning("%s holds no complete checkpoint yet: training starts from the beginning", folder)
    return None


def starting_checkpoint(args: MMJepaTrainingArguments, model_name: str | None) -> str | None:
    """The checkpoint from which training goes on, None where it starts from the beginning or there is no training.

    Raises:
        ValueError: there is no such checkpoint, or the output folder is another run's.
    """
    checkpoint = find_checkpoint(args) if args.do_train else None
    if args.writes_results:
        check_folder(args, model_name, checkpoint)
    return checkpoint


def check_folder(args: MMJepaTrainingArguments, model_name: str | None, checkpoint: str | None) -> None:
    """Raises ValueError where the output folder is another run's, whose numbers and model would mix with this one's.

    An evaluation may go beside the model that it evaluates.
    """
    folder = Path(args.output_dir)
    held = signs_of_run(folder)
    if args.resume_from_checkpoint in NEWEST and checkpoint is None:
        # Checkpoints of which none is complete are of a run that was stopped in its first save. It may begin again.
        held = [name for name in held if not CHECKPOINT.fullmatch(name)]
    if args.overwrite_output_dir:
        sources = [Path(name).resolve() for name in (model_name, args.resume_from_checkpoint) if name is not None]
        if args.resume_from_checkpoint in NEWEST or any(
            folder.resolve() in (source, *source.parents) for source in sources
        ):
            raise ValueError(
                f"--overwrite_output_dir would remove what this run starts from, in {folder}: leave it out, or name "
                "another --output_dir."
            )
    elif held and args.do_train and checkpoint is None:
        raise ValueError(
            f"{folder} holds an earlier run ({', '.join(held)}): name another --output_dir, go on with "
            "--resume_from_checkpoint, or remove what that run left with --overwrite_output_dir."
        )
    elif held and not args.do_train and (model_name is None or folder.resolve() != Path(model_name).resolve()):
        raise ValueError(
            f"{folder} holds another run ({', '.join(held)}): name another --output_dir for this one's numbers, or "
            "remove what that run left with --overwrite_output_dir."
        )


def signs_of_run(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if RUN_SIGNS.fullmatch(path.name))


def clear_folder(args: MMJepaTrainingArguments) -> None:
    """Removes what an earlier run left in the output folder: with --overwrite_output_dir all, else before training its
    results. The first process does it. An export alone, which writes nothing there, removes nothing.
    """
    if args.process_index > 0 or not args.writes_results:
        return
    folder = Path(args.output_dir)
    signs = signs_of_run(folder)
    if signs and (args.do_train or args.overwrite_output_dir):
        for path in folder.glob("*"):
            if RESULTS.fullmatch(path.name):
                path.unlink()
    if args.overwrite_output_dir:
        # TensorBoard would draw the logs of both runs as one.
        for path in (*(folder / name for name in signs), folder / LOGS):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)  # all_results.json is a result too


def write_run_file(args: MMJepaTrainingArguments, flags: dict[str, str | list[str]], data: dict[str, VqaData]) -> None:
    """What made a run, in its folder: `run_pathvqa.py FOLDER/run.json --output_dir ANOTHER` makes it again.

    Args:
        flags: as they were given.
        data: by split; of a stream its texts count, which are known beforehand.
    """
    again = {name: value for name, value in flags.items() if name not in NOT_AGAIN}
    if str(again.get("resume_from_checkpoint")).lower() in NEWEST:
        del again["resume_from_checkpoint"]  # the run is made from its beginning
    run = {
        "flags": again,
        "processes": args.world_size,
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in VERSIONS}},
        "git_commit": git_commit(),
        "data": {
            split: {"questions": len(part.questions), "hash": content_hash(part)} for split, part in data.items()
        },
    }
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n")


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the code that runs, with `-dirty` where files differ; None where it is in no repository."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed package may lie in a repository of its user's.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def content_hash(data: VqaData) -> str:
    """A hash of the texts and of the prepared pixels, wherever they lie."""
    digest = hashlib.blake2b(digest_size=16)
    for row in data.questions:
        digest.update(json.dumps(row, default=str, sort_keys=True).encode())
    if not isinstance(data, StreamedVqaData):
        for batch in data.pixels.with_format("numpy").iter(batch_size=100):
            digest.update(batch["pixels"].tobytes())
    return digest.hexdigest()
