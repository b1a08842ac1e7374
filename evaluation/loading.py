"""Loads a saved model and its processor, and says which file is broken where this fails."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import is_zipfile

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FILES = ("*.json", "*.safetensors", "pytorch_model*.bin")


def load_model_and_processor(
    name_or_path: str, revision: str | None = None
) -> tuple[MMJepaForConditionalGeneration, MMJepaProcessor]:
    """A saved model in eval mode and its processor, from a folder or from the Hub at `revision`.

    Raises:
        OSError: there is no such model, or a file of it is broken.
    """
    with naming_broken_files(name_or_path, revision=revision):
        model = MMJepaForConditionalGeneration.from_pretrained(name_or_path, revision=revision)
        return model, MMJepaProcessor.from_pretrained(name_or_path, revision=revision)


@contextmanager
def naming_broken_files(*names: str, revision: str | None = None) -> Iterator[None]:
    """Raises OSError with the name of the broken file, if loading one of the checkpoints `names` fails because of it.

    The libraries raise errors of a dozen types, such as `SafetensorError: header too large` for a Git LFS pointer.
    From a folder without a configuration they make a model of their default size, with other weights.
    """
    for name in names:
        if Path(name).is_file():
            raise OSError(f"{name} is a file: give the folder that `save_pretrained` has written it to.")
        if Path(name, "adapter_config.json").exists() and not Path(name, "config.json").exists():
            raise OSError(
                f"the folder {name} has adapters without their model: give the training's output folder, where they "
                "are merged at the end, or merge them by PEFT's PeftModel.from_pretrained(model, folder)"
                ".merge_and_unload().save_pretrained(another folder)."
            )
        if Path(name).is_dir() and not Path(name, "config.json").exists():
            raise OSError(f"the folder {name} has no config.json: give a folder that `save_pretrained` has written.")
    try:
        yield
    except Exception as error:
        for name in names:
            if problem := broken_file(checkpoint_folder(name, revision)):
                raise OSError(problem) from error
        raise


def checkpoint_folder(name_or_path: str, revision: str | None) -> Path:
    """Where a checkpoint's files would lie on this machine; the folder may not exist."""
    if Path(name_or_path).exists():
        return Path(name_or_path)
    try:
        return Path(snapshot_download(name_or_path, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not downloaded, or no id of the Hub
        return Path(name_or_path)


def broken_file(folder: Path) -> str | None:
    """Names the first broken file of a checkpoint and says what to do; None where all are whole."""
    for path in (path for pattern in FILES for path in sorted(folder.glob(pattern))):
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        if is_pointer:
            return f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` there, or download the file."
        if is_cut_off(path):
            return f"{path} of {path.stat().st_size:,} bytes is cut off or damaged: copy or download it again."
    return None


def is_cut_off(path: Path) -> bool:
    """Whether a file of weights, states or JSON ends too early, as after a power failure or a copy that stopped."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):  # compares the file's length with its header
                pass
        except SafetensorError:
            return True
    elif path.suffix in (".pt", ".pth", ".bin"):
        with path.open("rb") as file:
            is_old = file.read(2) == b"\x80\x02"  # torch before 1.6 wrote no archive, whose end tells if it is whole
        return not is_old and not is_zipfile(path)
    elif path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return True
    return False
