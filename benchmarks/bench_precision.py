"""Compares bfloat16 with float32 on a CPU: a training step, the image encoder, and answers of four tokens.

python benchmarks/bench_precision.py [--size tiny] [--steps 3] [--json]
"""

import copy
from collections.abc import Callable

import torch
from measuring import cpu_seconds, environment, interleaved_seconds, parse_arguments, show
from peers import PROJECT, SIZES, TrainingStep, make_answering, make_models, make_optimizer, random_batch

from mmjepa.training.adapted_arguments import cpu_multiplies_bf16

NEW_TOKENS = 4


def measure(size_name: str, rounds: int) -> dict:
    """How many times as fast bfloat16 is, in CPU seconds: by autocast, and answering also with its weights cast."""
    size = SIZES[size_name]
    model = make_models(size, [PROJECT])[PROJECT]
    batch = random_batch(size, questions_per_image=8)
    half = copy.deepcopy(model).to(torch.bfloat16).eval()
    half_batch = batch | {"pixel_values": batch["pixel_values"].bfloat16()}
    step = TrainingStep(PROJECT, model, make_optimizer(model), batch)
    whole = copy.deepcopy(model).eval()

    @torch.inference_mode()
    def encode() -> None:
        whole.get_image_features(batch["pixel_values"])

    answer = make_answering(PROJECT, whole, batch, NEW_TOKENS)
    rows = [
        {"work": "training step"} | ratio(step, in_bf16(step), rounds),
        {"work": "image encoder"} | ratio(encode, in_bf16(encode), rounds),
        {"work": "answers"} | ratio(answer, in_bf16(answer), rounds),
        {"work": "answers, weights cast"}
        | ratio(answer, make_answering(PROJECT, half, half_batch, NEW_TOKENS), rounds),
    ]
    has_bf16 = {"bf16 instructions": cpu_multiplies_bf16()}
    return {
        "environment": environment(size_name) | has_bf16,
        "bf16_training_speedup": rows[0]["speedup"],
        "work": rows,
    }


def in_bf16(function: Callable[[], object]) -> Callable[[], object]:
    """The same under autocast."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            function()

    return run


def ratio(whole: Callable[[], object], half: Callable[[], object], rounds: int) -> dict[str, float]:
    """CPU seconds of the same work in both types."""
    for work in (whole, half):
        work()  # warm
    seconds = interleaved_seconds({"float32": whole, "bfloat16": half}, rounds, cpu_seconds)
    return seconds | {"speedup": seconds["float32"] / seconds["bfloat16"]}


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse_arguments("bfloat16 and float32 on a CPU.", argv)
    show(measure(arguments.size, arguments.steps), arguments.json)


if __name__ == "__main__":
    main()
