"""Measures the memory of a training step of this project, and how much of it flags save.

python benchmarks/bench_memory.py [--size tiny] [--json]
"""

from collections.abc import Callable

import torch
from measuring import environment, parse_arguments, peak_bytes, say, show
from peers import PROJECT, SIZES, Size, TrainingStep, make_models, make_optimizer, random_batch
from transformers import Adafactor, PreTrainedModel

QUESTIONS_PER_IMAGE = 8


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """What `--gradient_checkpointing` does."""
    model.gradient_checkpointing_enable()


def bf16_text_encoder(model: PreTrainedModel) -> None:
    """What `--bf16_text_encoder` does."""
    model.encoder.text_encoder.to(torch.bfloat16)


def small_optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    """What `--optim adafactor` uses."""
    return Adafactor([weight for weight in model.parameters() if weight.requires_grad])


# Flags -> the changes of the model, and the function that makes the optimizer.
Recipe = tuple[list[Callable[[PreTrainedModel], None]], Callable[[PreTrainedModel], torch.optim.Optimizer]]
RECIPES: dict[str, Recipe] = {
    "as it stands": ([], make_optimizer),
    "--gradient_checkpointing": ([checkpoint_gradients], make_optimizer),
    "--bf16_text_encoder": ([bf16_text_encoder], make_optimizer),
    "--optim adafactor": ([], small_optimizer),
    "all three": ([checkpoint_gradients, bf16_text_encoder], small_optimizer),
}


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors that an optimizer keeps between steps."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def memory_row(size: Size, flags: str) -> dict:
    """Gigabytes held between steps, and the most that a step adds, including gradients.

    Steps have 8 questions per image.
    """
    prepare, optimizer_of = RECIPES[flags]
    torch.manual_seed(0)
    model = make_models(size, [PROJECT])[PROJECT]
    for change in prepare:
        change(model)
    optimizer = optimizer_of(model)
    peaks = {}
    for questions in (size.questions, 4 * size.questions):
        step = TrainingStep(PROJECT, model, optimizer, random_batch(size, QUESTIONS_PER_IMAGE, questions))
        peak = peaks[f"step of {questions} questions, GB"] = peak_bytes(step.forward_backward) / 1e9
        say(f"{flags}, step of {questions} questions: {peak:.3g} GB")
        step.update()
    weights = sum(weight.nbytes for weight in model.parameters())
    row = {"flags": flags, "weights, GB": weights / 1e9, "optimizer, GB": optimizer_bytes(optimizer) / 1e9}
    return row | peaks


def measure(size_name: str) -> dict:
    """One row of memory per recipe."""
    rows = [memory_row(SIZES[size_name], flags) for flags in RECIPES]
    return {"environment": environment(size_name), "recipes": rows}


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse_arguments("The memory of a training step.", argv)
    show(measure(arguments.size), arguments.json)


if __name__ == "__main__":
    main()
