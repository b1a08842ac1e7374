"""The losses of a training in numbers: by what a step's are divided, and their means for the log."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import reduce

from ..modeling_mmjepa import MMJepaOutput


def has_alignment_text(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which rows of a collator's batch have an alignment text (B,)."""
    if "statement_ids" in batch:
        return batch["statement_ids"] >= 0
    return batch.get("align_attention_mask", batch["attention_mask"]).any(dim=1)


# How many items each loss averages over, counted in a batch. The collator's stand-in for no rows counts 0 of each.
COUNTS: dict[str, Callable[[dict[str, torch.Tensor]], torch.Tensor]] = {
    "align": lambda batch: has_alignment_text(batch).sum(),
    "ce": lambda batch: (batch["labels"] != -100).sum(),  # tokens of answers
    "answer": lambda batch: (batch["labels"] != -100).any(dim=1).sum(),  # answers
}


class LossMeter:
    """Counts the items of a step, and sums up losses and rows between two lines of the log.

    Attributes:
        batches: of the step under way, on this process.
        step_loss: (), the sum of the losses of those batches.
        step_counts: texts ("align"), answers ("answer") and their tokens ("ce") of the step, at least 1, each ().
        grad_norm: of the step's gradients before they were clipped.
    """

    def __init__(self):
        self.batches: list[dict[str, torch.Tensor]] = []
        self.step_loss = torch.zeros(())
        self.step_counts: dict[str, torch.Tensor] = {}
        self.grad_norm: Any = None
        self.forget()
        self.line_time = time.perf_counter()  # when the rows in num_rows began to be trained on

    def forget(self) -> None:
        """Drops the sums since the last line."""
        self.sums: dict[str, Any] = defaultdict(float)  # of each loss its sum and the number of items in it
        self.num_rows: Any = 0

    def start_step(self, batches: list[dict[str, torch.Tensor]], device: torch.device, of_all: bool) -> None:
        """Counts the items of the step that begins.

        Args:
            batches: all of the step on this process.
            of_all: whether to count those of all processes; all call it then.
        """
        sums = [torch.as_tensor(sum(count(batch) for batch in batches)) for count in COUNTS.values()]
        counts = torch.stack(sums).to(device, non_blocking=True)  # one vector: processes wait for each other once
        if of_all:
            counts = reduce(counts, "sum")
        self.batches, self.step_loss = batches, torch.zeros((), device=device)
        self.step_counts = dict(zip(COUNTS, counts.clamp(min=1), strict=True))

    def add(
        self,
        batch: dict[str, torch.Tensor],
        loss: torch.Tensor,
        outputs: MMJepaOutput,
        counts: dict[str, torch.Tensor],
        divisors: dict[str, torch.Tensor],
        is_training: bool,
    ) -> None:
        """Adds the rows and losses of a batch to the sums.

        Args:
            loss: (), the total, as it is trained on.
            outputs: the mean of each loss, None where the model has not computed it.
            counts: the items of this batch.
            divisors: what the model has divided each loss by.
        """
        self.num_rows += (batch["image_ids"][batch["image_index"]] >= 0).sum()  # without a stand-in
        if is_training:
            self.step_loss += loss.detach()
        for name in COUNTS:
            if (mean := getattr(outputs, f"loss_{name}")) is not None:
                sums = torch.stack([mean.detach() * divisors[name], counts[name]])
                if is_training:  # a step that is skipped has no part in the log's means
                    sums = sums.where(sums.isfinite().all(), 0)
                self.sums[name] += sums

    def take_means(self, device: torch.device) -> dict[str, float]:
        """Mean losses of all processes since the last call, of those there were: in the warm-up `align` alone."""
        # Not in float64, which Apple's devices lack.
        zeros = torch.zeros(2, device=device)
        own = torch.stack([zeros + self.sums[name] for name in COUNTS])  # (losses, 2)
        self.sums.clear()
        totals = dict(zip(COUNTS, reduce(own, "sum").tolist(), strict=True))
        return {name: total / count for name, (total, count) in totals.items() if count}

    def take_speed(self) -> float:
        """Rows a second on this process since the last call."""
        now = time.perf_counter()
        speed = float(self.num_rows) / (now - self.line_time)
        self.num_rows, self.line_time = 0, now
        return speed

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Has sums of its own while it lasts. The training's, and its clock, then go on as if no time had passed."""
        sums, num_rows, start = self.sums, self.num_rows, time.perf_counter()
        self.forget()
        try:
            yield
        finally:
            self.sums, self.num_rows = sums, num_rows
            self.line_time += time.perf_counter() - start
