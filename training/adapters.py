"""Adapters of low rank (LoRA, arXiv 2106.09685) by the PEFT library: added before a training, merged after it."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer

from ..modeling_mmjepa import MMJepaForConditionalGeneration
from .arguments import MMJepaTrainingArguments
from .flags import ModelArguments
from .optimization import learning_rates

FOLDER = "adapter"  # of the output folder: the adapters beside the model that they are merged into
# The parts of the model that adapters change, by their names in `learning_rates`.
TOWERS = {"encoder": "encoder.image_encoder", "dec": "decoder"}
# The layers that no published checkpoint has: they start at random, so they are trained whole.
NEW_LAYERS = (
    *("encoder.image_projector", "encoder.visual_prefix", "encoder.prefix_norm"),
    *("alignment", "answer_prediction"),
)


def adapted_layers(model: MMJepaForConditionalGeneration, args: MMJepaTrainingArguments) -> list[str]:
    """The linear layers that get adapters: `lora_targets`, or else the attention's, of what is not frozen.

    Raises:
        ValueError: both parts are frozen, or they have no layer of a name in `lora_targets`.
    """
    rates = learning_rates(args)
    towers = tuple(f"{tower}." for part, tower in TOWERS.items() if rates[part] > 0)
    if not towers:
        raise ValueError(
            "--lora_r adapts the image encoder and the decoder, and both are frozen: leave out --lora_r, "
            "--freeze_image_encoder or --freeze_decoder."
        )
    layers = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name.startswith(towers)
    ]
    if args.lora_targets is None:
        return [name for name in layers if "attn." in name or "attention." in name]
    known = {name.rpartition(".")[2] for name in layers}
    if unknown := sorted(set(args.lora_targets) - known):
        raise ValueError(
            f"--lora_targets names {', '.join(unknown)}: the linear layers that learn, of "
            f"{' and '.join(tower.rstrip('.') for tower in towers)}, are {', '.join(sorted(known))}."
        )
    return [name for name in layers if name.rpartition(".")[2] in args.lora_targets]


def with_adapters(model: MMJepaForConditionalGeneration, args: MMJepaTrainingArguments) -> Any:
    """`model` with adapters, a `PeftModel`: they and the new layers are trained, all other weights stay.

    Raises:
        ValueError: as `adapted_layers`.
    """
    from peft import LoraConfig, get_peft_model  # an extra

    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=2 * args.lora_r if args.lora_alpha is None else args.lora_alpha,
        lora_dropout=args.lora_dropout or 0.0,
        target_modules=adapted_layers(model, args),
        # Of some models a layer is missing, or has no weights.
        modules_to_save=[name for name, layer in model.named_modules() if name in NEW_LAYERS and layer.state_dict()],
    )
    adapted = get_peft_model(model, config)
    # A new model was not read from anywhere. PEFT would look for it on the Hub, under an empty name.
    config.base_model_name_or_path = model.name_or_path or None
    return adapted


def adapter_base(arguments: ModelArguments) -> str | None:
    """The Python by which a model card makes the model that adapters change; None for random weights."""
    if arguments.model_name_or_path is not None:
        revision = f", revision={arguments.model_revision!r}" if arguments.model_revision else ""
        return f"AutoModel.from_pretrained({arguments.model_name_or_path!r}{revision}, trust_remote_code=True)"
    if arguments.image_encoder is None:
        return None
    fields = "".join(f", {name}={value!r}" for name, value in arguments.config_fields().items())
    return f"type(model).from_vision_text_pretrained({arguments.image_encoder!r}, {arguments.text_model!r}{fields})"


def merge_adapters(trainer: Trainer) -> None:
    """Saves the adapters of a trained model in `FOLDER`, and has the Trainer go on with the whole model."""
    trainer.save_model(str(Path(trainer.args.output_dir, FOLDER)))
    trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
