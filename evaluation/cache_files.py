"""Files of what is computed once, and names for them that tell what it was computed of."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from ..modeling_mmjepa import MMJepaForConditionalGeneration

NOT_OF_FEATURES = ("_name_or_path", "transformers_version")  # of the configuration


def write_whole(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that is there as a whole or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata)
    os.replace(unfinished, path)


def cache_folder(kind: str) -> Path:
    """Where what is computed once is kept."""
    return Path(constants.HF_HOME, "mmjepa", kind)


def text_hash(texts: Iterable[str]) -> str:
    """A hash of texts in their order, as a file's name."""
    return hashlib.blake2b(json.dumps(list(texts)).encode(), digest_size=16).hexdigest()


def weights_hash(model: MMJepaForConditionalGeneration, is_read: Callable[[str], bool], *settings: Any) -> str:
    """A hash of the weights whose names `is_read` accepts, and of the configuration and other settings."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_OF_FEATURES}
    digest = hashlib.blake2b(json.dumps([config, *settings], sort_keys=True, default=str).encode(), digest_size=16)
    for name, weights in model.state_dict().items():
        if is_read(name):
            digest.update(name.encode())
            digest.update(weights.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
