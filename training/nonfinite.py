"""Steps whose loss or gradient is not a finite number: they are skipped, and their rows written down."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, gather_object, reduce
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase, TrainerCallback

from .loss_meter import LossMeter

logger = logging.getLogger("mmjepa")

ROWS_FILE = "nonfinite_rows.jsonl"


class NonfiniteStepsCallback(TrainerCallback):
    """Skips the update of such a step. The step counts, and the learning rates go on.

    In float16 too large gradients are usual, and the library's scaler skips their steps: there the loss alone counts.
    Under DeepSpeed, which keeps the gradients to itself, the check is DeepSpeed's.

    Args:
        meter: has the loss and the batches of the step, and the norm of its gradients.

    Raises:
        FloatingPointError: there were more than `max_nonfinite_steps` in this run.
    """

    def __init__(self, meter: LossMeter):
        self.meter = meter
        self.num_skipped = 0

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, processing_class=None, **kwargs):
        if PartialState().distributed_type == DistributedType.DEEPSPEED:
            return
        norm = self.meter.grad_norm
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        has_scaler = getattr(optimizer, "scaler", None) is not None
        numbers = [self.meter.step_loss] if has_scaler else [self.meter.step_loss, norm]
        wrong = torch.stack([~torch.isfinite(number) for number in numbers]).any().float()
        if args.world_size > 1:  # the losses are those of each process
            wrong = reduce(wrong, "sum")
        if not wrong:
            return
        if not has_scaler:
            for parameter in model.parameters():
                parameter.grad = None  # an optimizer passes over what has no gradient
        self.num_skipped += 1
        rows = rows_of_batches(self.meter.batches, processing_class.tokenizer)
        if args.world_size > 1:
            rows = gather_object(rows)
        path, step = Path(args.output_dir, ROWS_FILE), state.global_step + 1
        if state.is_world_process_zero:
            write_rows(path, step, rows)
        loss = float(self.meter.step_loss)
        said = f"step {step}: the loss is {loss:.4g}, the norm of the gradient {float(norm):.4g}"
        if self.num_skipped > args.max_nonfinite_steps:
            first = ", ".join(str(row.get("row", row["question"])) for row in rows[:8])
            raise FloatingPointError(
                f"{said}. That is one such step more than --max_nonfinite_steps {args.max_nonfinite_steps} allows. "
                f"Its rows ({first}{', ...' if len(rows) > 8 else ''}) and those of the earlier ones are in {path}: "
                "look at them, or give a smaller --lr_img and --learning_rate"
                + (", or --precision 32." if args.bf16 or args.fp16 else ".")
            )
        logger.warning(
            "%s: it is skipped, as %d of at most %d. Its %d rows are in %s",
            *(said, self.num_skipped, args.max_nonfinite_steps, len(rows), path),
        )


def rows_of_batches(
    batches: list[dict[str, torch.Tensor]], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """The rows of `batches`: image, texts and, but of a stream, their numbers in the training data."""
    rows = []
    for batch in batches:
        texts = {
            "question": tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True),
            "answer": tokenizer.batch_decode(
                batch["labels"].clamp(min=0).where(batch["labels"] >= 0, tokenizer.pad_token_id),
                skip_special_tokens=True,
            ),
            "image_id": batch["image_ids"][batch["image_index"]].tolist(),
        }
        columns = ({"row": batch["row_ids"].tolist()} if "row_ids" in batch else {}) | texts
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [row for row in rows if row["image_id"] >= 0]  # without a stand-in for no rows


def write_rows(path: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Appends the rows of a step to the file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.writelines(json.dumps({"step": step, **row}) + "\n" for row in rows)
