"""Files of what is computed once, and names for them that tell what it was computed of."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import save

from ..modeling_mmjepa import MMJepaForConditionalGeneration

NOT_OF_FEATURES = ("_name_or_path", "transformers_version")  # of the configuration


def write_whole(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that is there as a whole or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        # Its `save_file` writes files that only their owner can read, whatever the umask.
        unfinished.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def cache_folder(kind: str) -> Path:
    """Where what is computed once is kept."""
    return Path(constants.HF_HOME, "mmjepa", kind)


def text_hash(texts: Iterable[str]) -> str:
    """A hash of texts in their order, as a file's name."""
    return hashlib.blake2b(json.dumps(list(texts)).encode(), digest_size=16).hexdigest()


def weights_hash(model: MMJepaForConditionalGeneration, is_read: Callable[[str], bool], *settings: Any) -> str:
    """A hash of the weights whose names `is_read` accepts, and of the configuration and other settings."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_OF_FEATURES}
    read = {name: weights for name, weights in model.state_dict().items() if is_read(name)}
    return tensors_hash(read, config, *settings)


def tensors_hash(tensors: Mapping[str, torch.Tensor], *settings: Any) -> str:
    """A hash of named tensors and of settings."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep_newest(folder: Path, max_bytes: int) -> None:
    """Deletes the files of `folder` that were changed longest ago, until the others have at most `max_bytes`."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has deleted it
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > max_bytes:
            path.unlink(missing_ok=True)
