"""What flags say about other flags, and which of them contradict each other."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

# What --precision may say -> the Trainer's flag for it.
PRECISIONS = {"bf16": "bf16", "bf16-mixed": "bf16", "fp16": "fp16", "16-mixed": "fp16", "32": None, "32-true": None}
# What --overfit sets: the same rows again and again at a constant rate, and nothing beside that.
OVERFITTING = {
    "do_eval": False,
    "do_predict": False,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "align_warmup_epochs": 0,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "use_cosine_schedule": False,
}
# Flags that set other flags too -> what their value sets.
IMPLIED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "precision": lambda name: (
        {} if name not in PRECISIONS else {on: PRECISIONS[name] == on for on in ("bf16", "fp16")}
    ),
    "bf16": lambda on: {"fp16": False} if on else {},
    "use_cosine_schedule": lambda on: {"lr_scheduler_type": "cosine"} if on else {},
    "freeze_image_encoder": lambda on: {"encoder_lr_factor": 0.0} if on else {},
    "freeze_decoder": lambda on: {"learning_rate": 0.0} if on else {},
    "do_eval": lambda on: {} if on else {"eval_strategy": "no", "load_best_model_at_end": False},
    "eval_strategy": lambda when: {"load_best_model_at_end": False} if when == "no" else {},
    "save_strategy": lambda when: {"load_best_model_at_end": False} if when == "no" else {},
    "prediction_loss_only": lambda on: {"do_predict": False} if on else {},
    "predict_split": lambda _: {"do_predict": True},
    "predict_data": lambda _: {"do_predict": True},
    "fast_dev_run": lambda on: {"max_steps": 2} if on else {},
    "overfit": lambda _: OVERFITTING,
    "torch_compile_backend": lambda _: {"torch_compile": True},
    "torch_compile_mode": lambda _: {"torch_compile": True},
    "gradient_checkpointing": lambda on: {"activation_checkpointing": on},
    "gradient_checkpointing_kwargs": lambda fields: {"activation_checkpointing_kwargs": fields},
}


class GivenFlag(NamedTuple):
    """A flag as it was given."""

    shown: str  # as an error shows it, such as `--batch_size 4`
    field: str  # what it sets: `per_device_train_batch_size`
    value: Any  # 4
    arguments: Sequence[str] = ()  # its part of a command line

    def implied(self) -> dict[str, Any]:
        """The other fields that the flag sets, and their values."""
        return IMPLIED.get(self.field, lambda _: {})(self.value)


def check_agreement(given: Iterable[GivenFlag]) -> None:
    """Raises ValueError where two of the given flags say different things about the same thing."""
    if pair := contradiction(given):
        raise ValueError(f"{pair[0]} and {pair[1]} contradict each other: leave out one of them.")


def contradiction(given: Iterable[GivenFlag]) -> tuple[str, str] | None:
    """Two flags that contradict each other, as an error shows them; None where all agree."""
    said: dict[str, tuple[GivenFlag, Any]] = {}
    for flag in given:
        for name, value in {**flag.implied(), flag.field: flag.value}.items():
            earlier, known = said.setdefault(name, (flag, value))
            if known != value:
                return earlier.shown, flag.shown
    return None
