"""What a training has chosen, where the flags left it open: shown as it starts, and kept in run.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.images import VqaData, prepared_shape
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .arguments import MMJepaTrainingArguments
from .flags import ModelArguments
from .reading import described


def choices(
    model_args: ModelArguments,
    training_args: MMJepaTrainingArguments,
    processor: MMJepaProcessor,
    model: MMJepaForConditionalGeneration,
    data: Mapping[str, VqaData],
    held_out: dict[str, Any] | None,
) -> dict[str, str]:
    """What is chosen -> the choice in words, with the flags that change it.

    Args:
        data: of each split that is trained on or evaluated.
        held_out: of train, as in `held_out` of [`MMJepaConfig`]; None if nothing was.
    """
    image_processor, tokenizer = processor.image_processor, processor.tokenizer
    _, height, width = prepared_shape(image_processor)
    seen = "their middle" if image_processor.do_center_crop else "whole"
    mean, deviation = map(numbers_text, (image_processor.image_mean, image_processor.image_std))
    colors = f"less {mean}, divided by {deviation}" if image_processor.do_normalize else "as they are"
    validation = "the validation split" if "validation" in data else "none"
    if held_out is not None:
        validation = f"held out of train: {described(held_out)} (--validation_split_percentage, --data_seed)"
    best = training_args.load_best_model_at_end
    return {
        "device": device_text(training_args),
        "model": f"{start_of(model_args)}, {model.num_parameters():,} parameters",
        "images": f"{seen}, {height} x {width} pixels (--image_size)",
        "colours": f"{colors} (--image_mean, --image_std)",
        "tokenizer": f"{tokenizer_source(model_args)}, {len(tokenizer):,} tokens (--tokenizer_name)",
        "texts": f"read up to {tokenizer.model_max_length} tokens, answers written up to "
        f"{model.generation_config.max_new_tokens} (--max_answer_tokens)",
        "validation": validation,
        "changes": f"of training images: {', '.join(training_args.augmentations or ()) or 'none'} (--augmentations)",
        "steps": steps_text(training_args),
        "kept": f"the {f'best checkpoint by {training_args.metric_for_best_model}' if best else 'last checkpoint'}",
    }


def numbers_text(numbers: float | Sequence[float] | None) -> str:
    """The numbers of colours, or the one that all have."""
    return " ".join(f"{number:.3g}" for number in np.atleast_1d(np.array(numbers, float)))


def device_text(arguments: MMJepaTrainingArguments) -> str:
    """On what is computed, and how precisely."""
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32"
    processes = "1 process" if arguments.world_size == 1 else f"{arguments.world_size} processes"
    return f"{arguments.device.type}, {processes}, in {precision} (--precision)"


def steps_text(arguments: MMJepaTrainingArguments) -> str:
    """How long is trained, on how much at once, and how fast."""
    questions = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    length = f"{arguments.num_train_epochs:g} epochs" if arguments.max_steps <= 0 else f"{arguments.max_steps} steps"
    rates = f"rates {arguments.lr_img:g} and {arguments.learning_rate:g} (--lr_img, --learning_rate)"
    return f"{length}, {questions} questions a step (--batch_size), {rates}"


def start_of(arguments: ModelArguments) -> str:
    """What the training starts from."""
    if arguments.model_name_or_path is not None:
        return f"the saved {arguments.model_name_or_path}"
    if arguments.image_encoder is not None:
        return f"new, of {arguments.image_encoder} and {arguments.text_model}"
    return "new, of random weights"


def tokenizer_source(arguments: ModelArguments) -> str:
    """Where the tokenizer comes from."""
    named = arguments.tokenizer_name or arguments.model_name_or_path or arguments.text_model
    return "trained on the training texts" if named is None else f"of {named}"


def choice_lines(chosen: Mapping[str, str]) -> list[str]:
    """A line for each choice."""
    return [f"{f'{name}:':12}{choice}" for name, choice in chosen.items()]
