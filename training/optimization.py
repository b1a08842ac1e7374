"""At which learning rates the weights are trained, which are frozen, how long the alignment is trained alone."""

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel, get_scheduler

from ..encoder_mmjepa import MMJepaPatchesPrefix
from .arguments import MMJepaTrainingArguments

logger = logging.getLogger("mmjepa")

# Groups of parameters -> the names that their learning rates have in the log.
RATE_NAMES = {"img": "learning_rate_image", "encoder": "learning_rate_encoder", "dec": "learning_rate"}


def part_of(name: str) -> str:
    """The part that a parameter belongs to by its name: "encoder" (of images), "dec", or "img", the new layers."""
    parts = set(name.split("."))
    return "dec" if {"decoder", "lm_head"} & parts else "encoder" if "image_encoder" in parts else "img"


def learning_rates(args: MMJepaTrainingArguments) -> dict[str, float]:
    """Part of the model -> its peak learning rate."""
    return {"img": args.lr_img, "encoder": args.lr_img * args.encoder_lr_factor, "dec": args.learning_rate}


@contextmanager
def frozen_without_rate(model: nn.Module, args: MMJepaTrainingArguments) -> Iterator[None]:
    """Freezes the weights whose learning rate is 0, for as long as it lasts."""
    rates = learning_rates(args)
    named = model.named_parameters()
    weights = [weight for name, weight in named if weight.requires_grad and rates[part_of(name)] == 0]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def keep_frozen_towers_in_eval_mode(model: nn.Module) -> None:
    """Puts the image encoder and the decoder in eval mode where none of their weights is trained.

    In training mode, dropout and dropped layers would change what a part says that can't learn to deal with it.
    """
    for tower in (model.encoder.image_encoder, model.decoder):
        if not any(weight.requires_grad for weight in tower.parameters()):
            tower.eval()


def count_parameters(model: nn.Module) -> str:
    """How many parameters are trained, of how many."""
    weights = list(model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return f"trained: {trained:,} of {sum(weight.numel() for weight in weights):,} parameters"


def make_optimizer(
    model: nn.Module,
    args: MMJepaTrainingArguments,
    optimizer_class: type[Optimizer],
    settings: dict[str, Any],
    names_with_decay: Collection[str],
    only_rate: float | None = None,
) -> Optimizer:
    """An optimizer with two learning rates, or three with an encoder_lr_factor, each with and without weight decay.

    The frozen text encoder is in no group.

    Args:
        settings: of `optimizer_class`.
        names_with_decay: the parameters that the library gives weight decay. Vectors and queries get none here.
        only_rate: the peak learning rate of all weights, in place of those of `args`.
    """
    rates = learning_rates(args) if only_rate is None else dict.fromkeys(RATE_NAMES, only_rate)
    queries = {id(module.queries) for module in model.modules() if isinstance(module, MMJepaPatchesPrefix)}
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            if part == "encoder" and rates[part] == rates["img"]:
                part = "img"
            decays = name in names_with_decay and parameter.ndim > 1 and id(parameter) not in queries
            groups[part, decays].append(parameter)
    return optimizer_class(
        [
            {
                "params": parameters,
                "name": part,
                "lr": rates[part],
                "weight_decay": args.weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in groups.items()
        ],
        **settings,
    )


def logged_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current learning rates by their names in the log. The library's `learning_rate` is that of any group."""
    return {RATE_NAMES[group["name"]]: float(group["lr"]) for group in optimizer.param_groups if "name" in group}


def count_align_warmup_steps(
    model: PreTrainedModel, args: MMJepaTrainingArguments, steps_an_epoch: int, num_training_steps: int
) -> int:
    """Steps of the alignment warm-up: none where nothing of an alignment is trained, at most half of all."""
    aligned = {"image_encoder", "image_projector", "alignment"}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if model.config.lambda_align == 0 or not any(aligned & set(name.split(".")) for name in trained):
        return 0
    steps, most = math.ceil(args.align_warmup_epochs * steps_an_epoch), num_training_steps // 2
    if steps > most:
        logger.warning(
            "align_warmup_epochs %s is %d of %d training steps: the alignment is trained alone in the first %d, "
            "so that the decoder learns in the other half.",
            *(args.align_warmup_epochs, steps, num_training_steps, most),
        )
    return min(steps, most)


def start_decoder_after(
    align_warmup_steps: int, scheduler: LRScheduler, args: MMJepaTrainingArguments, num_training_steps: int
) -> None:
    """Lets the decoder's rate start after the alignment warm-up, with a warm-up of its own.

    It changes `scheduler` itself. Schedules that depend on more than the step, such as `reduce_lr_on_plateau`, stay as
    they are.
    """
    if not (align_warmup_steps and isinstance(scheduler, LambdaLR)):
        return
    steps = num_training_steps - align_warmup_steps
    own_schedule = get_scheduler(
        args.lr_scheduler_type,
        SGD([torch.zeros(1)]),
        args.get_warmup_steps(steps),
        steps,
        args.lr_scheduler_kwargs,
    )
    factor = own_schedule.lr_lambdas[0]

    def delayed_factor(step: int) -> float:
        return factor(step - align_warmup_steps) if step >= align_warmup_steps else 0.0

    for place, group in enumerate(scheduler.optimizer.param_groups):
        if group.get("name") == "dec":
            scheduler.lr_lambdas[place] = delayed_factor
            group["lr"] = 0.0
