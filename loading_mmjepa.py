"""Weights of stock models read and checked, saved weights made readable, unknown arguments refused."""

import inspect
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import TransformersKwargs

# Arguments of `from_pretrained` that say where files are, and those that are about files of weights alone.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LOADING_ARGUMENTS = (*HUB_ARGUMENTS, "use_safetensors", "variant")
MASK_TOKEN = ("embeddings.mask_token",)  # of an image encoder: only its own pretraining reads it


def refuse_unknown(function: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises TypeError if a name of `given` is not in `allowed`; the message suggests the most similar ones."""
    for name in sorted(set(given) - set(allowed)):
        near = get_close_matches(name, allowed) or sorted(allowed)
        raise TypeError(f"{function} got an unknown argument {name!r}: give {' or '.join(near)}, or leave it out.")


def known_arguments(forward: Callable, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `kwargs` that `forward` passes on: not the ones that are None, which PEFT gives.

    Raises:
        TypeError: a name is unknown. The library's layers would ignore it.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    # torch.compile can't read a difference of sets in torch 2.11.
    unknown = [name for name in given if name not in TransformersKwargs.__optional_keys__]
    if unknown:
        _, *named, _ = inspect.signature(forward).parameters  # without self and kwargs
        refuse_unknown(forward.__name__, unknown, named)
    return given


def loading_arguments(given: Mapping[str, Any], half: str, names: Iterable[str] = LOADING_ARGUMENTS) -> dict[str, Any]:
    """Those of `names` that are in `given`, with `half` and an underscore in front or else without it."""
    found = {name: given.get(f"{half}_{name}", given.get(name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def load_config(
    name: str | Path, part: str, allowed: Mapping[str, type[PreTrainedConfig]], **loading
) -> PreTrainedConfig:
    """The configuration of the checkpoint `name`, of the class that its `model_type` has in `allowed`.

    Args:
        part: what the checkpoint is for, in an error.
        loading: arguments of `from_pretrained`.

    Raises:
        ValueError: the checkpoint is of another model type, or of timm. The library would read it as if it were of
            the class that it is asked for, or say only that timm is not installed.
    """
    fields, _ = PreTrainedConfig.get_config_dict(name, **loading)
    model_type, read = fields.get("model_type"), " or ".join(allowed)
    if "architecture" in fields or "pretrained_cfg" in fields:
        raise ValueError(
            f"{name} is a checkpoint of timm ({fields.get('architecture')}), whose layers and weights transformers' "
            f"classes can't take: give, as the {part}, a checkpoint in transformers' format, with model_type {read} "
            "in its config.json."
        )
    if model_type not in allowed:
        raise ValueError(
            f"{name} is of model type {model_type!r}: give, as the {part}, a checkpoint with model_type {read} in its "
            "config.json."
        )
    return allowed[model_type].from_pretrained(name, **loading)


def image_encoder_class(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], dict[str, Any]]:
    """The stock class of a vision configuration, and what it is made with beside the configuration."""
    # Nothing reads ViT's pooler, which would be a weight without gradient.
    return MODEL_MAPPING[type(config)], {"add_pooling_layer": False} if config.model_type == "vit" else {}


def load_image_encoder(name: str | Path, config: PreTrainedConfig, **loading) -> PreTrainedModel:
    """A stock image encoder of the class of `config` with the weights of the checkpoint `name`, see [`load_tower`]."""
    model_class, made_with = image_encoder_class(config)
    return load_tower(model_class, name, MASK_TOKEN, **made_with, **loading)


def load_tower(
    model_class: type[PreTrainedModel], name: str | Path, without: Iterable[str] = (), **loading
) -> PreTrainedModel:
    """A stock model of `model_class` with the weights of the checkpoint `name`, a folder or Hub id.

    Weights of a task's head beside the base model are ignored.

    Args:
        without: weights that may be missing.
        loading: arguments of `from_pretrained`.

    Raises:
        ValueError: the checkpoint lacks weights of the model, or has weights that the model does not take, such as
            register tokens. The library only reports that, and the model would compute something else than the one
            that was trained.
    """
    model, info = model_class.from_pretrained(name, output_loading_info=True, **loading)
    base = model.base_model
    parts = {part for part, _ in (*base.named_children(), *base.named_parameters(recurse=False))}
    not_taken = {
        weight
        for weight in info["unexpected_keys"]
        if weight.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in parts
    }
    for weights, problem in (
        (not_taken, f"that a {model_class.__name__} of its configuration does not take"),
        (set(info["missing_keys"]) - set(without), f"too few for a {model_class.__name__} of its configuration"),
    ):
        if weights:
            raise ValueError(
                f"{name} has weights {problem}: {', '.join(sorted(weights))}. Give a checkpoint whose config.json is "
                "of the model that its weights were trained in."
            )
    return model


def share_weights(folder: str | os.PathLike, like: str) -> None:
    """Gives the weights in `folder` the file mode of the file `like` there; does nothing if there is no such file.

    safetensors writes files that only their owner can read, whatever the umask (its issue 782).
    """
    model = Path(folder, like)
    if model.exists():
        for weights in Path(folder).glob("*.safetensors"):
            shutil.copymode(model, weights)
