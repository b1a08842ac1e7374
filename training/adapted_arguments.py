"""Arguments that are adapted to what a Trainer is given: another class, a model, no data or no questions."""

import logging
from dataclasses import fields

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..data.images import VqaData
from .arguments import MMJepaTrainingArguments
from .loss_meter import COUNTS

# Channels of the image encoder from which bfloat16 is worth it on a CPU (docs/performance.md). Narrower models spend
# their time elsewhere than in matrix products.
BF16_CPU_WIDTH = 384

logger = logging.getLogger("mmjepa")


def own_arguments(args: TrainingArguments | None, evaluates: bool) -> MMJepaTrainingArguments:
    """Arguments of the library's class with this project's fields beside theirs, which keep their values.

    Args:
        evaluates: whether there are data to evaluate. Without, the evaluations by default are switched off, and those
            that were asked for are not.
    """
    if not isinstance(args, MMJepaTrainingArguments):
        args = TrainingArguments(output_dir="tmp_trainer") if args is None else args  # as in the library
        given = {field.name: getattr(args, field.name) for field in fields(TrainingArguments) if field.init}
        given["remove_unused_columns"] = False  # the collator reads the text columns
        if not (args.bf16 or args.fp16):
            given["precision"] = "32"
        args = MMJepaTrainingArguments(**given)
    wants_best = "load_best_model_at_end" in args.given and args.load_best_model_at_end
    if not evaluates and "eval_strategy" not in args.given and not wants_best:
        args.do_eval, args.eval_strategy, args.load_best_model_at_end = False, IntervalStrategy.NO, False
    return args


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 itself, by AVX512-BF16 or AMX. Others emulate it, slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_cpu_precision(args: MMJepaTrainingArguments, model: PreTrainedModel) -> None:
    """Switches `bf16` on where `precision` leaves it open, and the model trains faster in it on this CPU."""
    is_open = args.precision == "auto" and not (args.bf16 or args.fp16 or "bf16" in args.given)
    is_wide = model.config.vision_config.hidden_size >= BF16_CPU_WIDTH
    if is_open and is_wide and args.device.type == "cpu" and cpu_multiplies_bf16():
        args.bf16, args.mixed_precision = True, "bf16"  # the library derives the second where arguments are made


def asks_questions(data: VqaData | dict[str, VqaData] | None) -> bool:
    """Whether any row of the evaluated data, of one set or several by name, has a question."""
    parts = data.values() if isinstance(data, dict) else [data]
    return any(any(part.questions["question"][:]) for part in parts if part is not None)


def choose_by_loss(args: MMJepaTrainingArguments) -> None:
    """Where evaluations answer no question, of captions alone for example, the lowest loss is the best."""
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    if args.eval_strategy != "no" and metric not in ("loss", *COUNTS):
        logger.warning(
            "No question is answered while training, so there is no %s: the checkpoint with the lowest loss is the "
            "best one",
            metric,
        )
        args.metric_for_best_model, args.greater_is_better = "loss", False
