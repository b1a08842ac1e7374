"""The folder of a run: what is in it, which checkpoint a run resumes from, what a new run may remove."""

import hashlib
import json
import logging
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datasets import Features, Value

from ..data.images import BATCH_SIZE, VqaData
from ..data.streaming import StreamedVqaData
from .arguments import MMJepaTrainingArguments
from .checkpoints import CHECKPOINT, checkpoint_problems, newest_checkpoint

logger = logging.getLogger("mmjepa")

NEWEST = ("last", "true")  # what --resume_from_checkpoint says for the newest checkpoint of the output folder
# A folder with one of these holds a run.
RUN_SIGNS = re.compile(
    r"checkpoint-\d+|trainer_state\.json|all_results\.json|predictions\.parquet|adapter|adapter_model\.safetensors"
    r"|model(-\d+-of-\d+)?\.safetensors"
)
LOGS = "logs/mmjepa_joint"  # where --log_dir puts them by default
RUN_FILE = "run.json"
# Flags that a repeated run leaves out: they would remove the first one, or take its place.
NOT_AGAIN = ("overwrite_output_dir", "hub_token", "push_to_hub")
VERSIONS = ("mmjepa", "torch", "transformers", "datasets", "accelerate")
# A run's results. A later run overwrites whatever else it left.
RESULTS = re.compile(
    r"(all|train|eval|test|predict)_results\.json|(eval|test|predict)_answers\.(jsonl|png)|predictions\.parquet"
    r"|((test|predict)_)?report\.html|README\.md|run\.json|taught_statements\.json"
)


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
    problems = checkpoint_problems(folder)
    if not problems:
        return str(folder)
    if CHECKPOINT.fullmatch(folder.name):
        raise ValueError(f"{folder} can't be resumed from ({', '.join(problems)}): name another checkpoint.")
    if (checkpoint := newest_checkpoint(folder)) is not None:
        return checkpoint
    if not newest:
        raise ValueError(
            f"{folder} holds no complete checkpoint to resume from: name a checkpoint or a run's folder that has one, "
            "or leave out --resume_from_checkpoint."
        )
    logger.warning("%s holds no complete checkpoint yet: training starts from the beginning", folder)
    return None


def starting_checkpoint(args: MMJepaTrainingArguments, model_name: str | None) -> str | None:
    """The checkpoint that training resumes from, None where it starts from the beginning or there is no training.

    Raises:
        ValueError: there is no such checkpoint, or the output folder is another run's.
    """
    checkpoint = find_checkpoint(args) if args.do_train else None
    if args.writes_results:
        check_folder(args, model_name, checkpoint)
    return checkpoint


def check_folder(args: MMJepaTrainingArguments, model_name: str | None, checkpoint: str | None) -> None:
    """Raises ValueError where the output folder is another run's, whose numbers and model would mix with this one's.

    An evaluation may write beside the model that it evaluates.
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
            f"{folder} holds an earlier run ({', '.join(held)}): name another --output_dir, resume it with "
            "--resume_from_checkpoint, or remove what that run left with --overwrite_output_dir."
        )
    elif held and not args.do_train and (model_name is None or folder.resolve() != Path(model_name).resolve()):
        raise ValueError(
            f"{folder} holds another run ({', '.join(held)}): name another --output_dir for this one's numbers, or "
            "remove what that run left with --overwrite_output_dir."
        )


def signs_of_run(folder: Path) -> list[str]:
    """Names of the files and folders that only a run writes."""
    return sorted(path.name for path in folder.glob("*") if RUN_SIGNS.fullmatch(path.name))


def clear_folder(args: MMJepaTrainingArguments) -> None:
    """Removes what an earlier run left in the output folder: all of it with --overwrite_output_dir, else its results.

    Without --overwrite_output_dir a run that does not train removes nothing, and so does an export alone, which writes
    nothing there. The first process removes.
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


def write_run_file(
    args: MMJepaTrainingArguments,
    flags: dict[str, str | list[str]],
    data: dict[str, VqaData],
    chosen: dict[str, str],
) -> None:
    """Writes what made a run into its folder: `run_pathvqa.py FOLDER/run.json --output_dir ANOTHER` repeats it.

    Args:
        flags: as they were given.
        data: by split. The hash of a stream is that of its texts, which are known beforehand.
        chosen: of `choices`.
    """
    again = {name: value for name, value in flags.items() if name not in NOT_AGAIN}
    if str(again.get("resume_from_checkpoint")).lower() in NEWEST:
        del again["resume_from_checkpoint"]  # the repeated run starts from the beginning
    run = {
        "flags": again,
        "chosen": chosen,
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
    """The installed version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the code that runs, with `-dirty` where files differ from it; None outside a repository."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed package may lie in a repository of its user.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def content_hash(data: VqaData) -> str:
    """A hash of the texts and the prepared pixels. It does not depend on where they lie.

    `datasets` keeps the hashes of the pixels beside them: a later run reads no pixels.
    """
    digest = hashlib.blake2b(digest_size=16)
    for rows in data.questions.iter(1000):
        digest.update(json.dumps(rows, default=str, sort_keys=True).encode())
    if not isinstance(data, StreamedVqaData):
        pixels, features = data.pixels.with_format("numpy"), Features({"hash": Value("string")})
        options = {"batched": True, "batch_size": BATCH_SIZE, "remove_columns": "pixels", "desc": "Hashing pixels"}
        hashed = pixels.map(pixel_hashes, features=features, **options)
        digest.update("".join(hashed.with_format(None)["hash"][:]).encode())
    return digest.hexdigest()


def pixel_hashes(images: dict[str, Any]) -> dict[str, list[str]]:
    """A hash of the pixels of each prepared image."""
    return {"hash": [hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest() for pixels in images["pixels"]]}
