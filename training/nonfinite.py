"""Steps whose loss or gradient is not a finite number: they are skipped, and their rows written down."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

if TYPE_CHECKING:
    from .trainer import MMJepaTrainer

logger = logging.getLogger("mmjepa")

ROWS_FILE = "nonfinite_rows.jsonl"


class NonfiniteStepsCallback(TrainerCallback):
    """Skips the update of such a step; the step counts, and the learning rates go on.

    In float16 too large gradients are usual, and the library's scaler skips their steps: there the loss alone counts.
    Under DeepSpeed, which keeps the gradients to itself, the check is DeepSpeed's.

    Raises:
        FloatingPointError: there were more than `max_nonfinite_steps` in this run.
    """

    def __init__(self, trainer: "MMJepaTrainer"):
        self.trainer = trainer
        self.num_skipped = 0

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.trainer.is_deepspeed_enabled:
            return
        accelerator, parameters = self.trainer.accelerator, [p for p in model.parameters() if p.grad is not None]
        norm: Any = get_total_norm([parameter.grad for parameter in parameters])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        numbers = [self.trainer.step_loss] if accelerator.scaler is not None else [self.trainer.step_loss, norm]
        wrong = torch.stack([~torch.isfinite(number) for number in numbers]).any().float()
        if args.world_size > 1:  # the losses are those of each process
            wrong = accelerator.reduce(wrong, "sum")
        if not wrong:
            return
        if accelerator.scaler is None:
            for parameter in parameters:
                parameter.grad = None  # an optimizer passes over what has no gradient
        self.num_skipped += 1
        step, path = state.global_step + 1, Path(args.output_dir, ROWS_FILE)
        rows = gather_object(rows_of_step(self.trainer)) if args.world_size > 1 else rows_of_step(self.trainer)
        if state.is_world_process_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a") as file:
                file.writelines(json.dumps({"step": step, **row}) + "\n" for row in rows)
        said = (
            f"step {step}: the loss is {float(self.trainer.step_loss):.4g}, the norm of the gradient {float(norm):.4g}"
        )
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


def rows_of_step(trainer: "MMJepaTrainer") -> list[dict[str, Any]]:
    """The rows of this process: their numbers in the training data, which a stream has not, image and texts."""
    tokenizer = trainer.processing_class.tokenizer
    rows = []
    for batch in trainer.step_batches:
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
    return [row for row in rows if row["image_id"] >= 0]  # without a stand-in of no rows
