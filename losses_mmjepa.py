"""What the losses share, over the batches of all processes, and the loss of the predicted answers.

Symbols in the shape comments: B rows of this process, G rows of all processes, K answers, L tokens, D the text
encoder's width.
"""

import math
from typing import TypedDict

import torch
from torch import distributed, nn
from torch.nn import functional as F

from .configuration_mmjepa import MMJepaConfig
from .targets_mmjepa import TargetSpace, l2_normalize

# Logarithms of the scale of contrastive scores, at the start and at most (CLIP, arXiv 2103.00020).
CLIP_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)
# An odd factor whose powers, modulo 2^64, mix all bits (Knuth's multiplier for 64 bits).
HASH_FACTOR = 6364136223846793005


class MMJepaTrainingStep(TypedDict, total=False):
    """What the losses of one batch need to know about its optimizer step.

    Divided by the counts of the whole step, the losses of accumulated batches add up to that of one large batch.

    num_rows: rows of the step that have an alignment text.
    num_answers: rows of the step that have an answer.
    answer_smoothing: share of each answer token's probability that is spread over the vocabulary; 0 by default.
    answer_places (T,): the places of this batch's answer tokens in its flattened labels. By default they are looked
        for, which waits for the device.
    """

    num_rows: torch.Tensor | int
    num_answers: torch.Tensor | int
    answer_smoothing: float
    answer_places: torch.Tensor


def share_of_step(
    labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many answer tokens the optimizer step has, and the share of them that `labels` (B, A) hold.

    Without a number, this batch is the step. The share is 1 if the step has no answer token, as with captions alone.
    """
    num_own = (labels != -100).sum()
    num_items = torch.as_tensor(num_own if num_items_in_batch is None else num_items_in_batch, device=labels.device)
    return num_items, torch.where(num_items > 0, num_own / num_items.clamp(min=1), 1.0)


def is_distributed() -> bool:
    """Whether there are several processes to gather from."""
    return distributed.is_available() and distributed.is_initialized()


def all_gather(values: torch.Tensor) -> list[torch.Tensor]:
    """`values` of every process, in the order of the processes; they have one shape."""
    blocks = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(blocks, values)
    return blocks


def gather_rows(*columns: torch.Tensor) -> tuple[list[torch.Tensor], slice]:
    """The rows of all processes, process by process, of tensors (B,) or (B, W), and where this process's rows are.

    The gathered rows have no gradients. Processes may have different numbers of rows, and rows of different lengths;
    -1 fills up the shorter ones. All columns are sent together as bytes, so the processes wait for each other only
    twice.
    """
    if not is_distributed():
        return list(columns), slice(0, len(columns[0]))
    tables = [column.detach().reshape(len(column), -1) for column in columns]  # (B, W) each
    own_sizes = torch.tensor([len(tables[0]), *(table.shape[1] for table in tables)], device=columns[0].device)
    sizes = torch.stack(all_gather(own_sizes)).T.tolist()
    counts, widths = sizes[0], list(map(max, sizes[1:]))
    padded = [F.pad(table, (0, width - table.shape[1]), value=-1) for table, width in zip(tables, widths, strict=True)]
    rows = torch.cat([table.contiguous().view(torch.uint8) for table in padded], dim=1)  # (B, bytes)
    blocks = all_gather(F.pad(rows, (0, 0, 0, max(counts) - len(rows))))
    rows = torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])  # (G, bytes)
    parts = rows.split([width * table.element_size() for table, width in zip(tables, widths, strict=True)], dim=1)
    gathered = [
        part.contiguous().view(column.dtype).reshape(len(rows), *([-1] if column.ndim > 1 else []))
        for part, column in zip(parts, columns, strict=True)
    ]
    start = sum(counts[: distributed.get_rank()])
    return gathered, slice(start, start + len(tables[0]))


def text_numbers(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """A number (B,) for each text (B, L), the same wherever its tokens are the same; -1 for a text without tokens.

    Padding comes last, and does not count. The numbers tell which texts are equal: embeddings of equal texts are only
    nearly equal, and distances of more than 25 rows are not exact (torch.cdist). They are hashes of 62 bits.
    """
    factors = torch.full_like(input_ids[0], HASH_FACTOR).cumprod(dim=0)  # (L,), products wrap around
    sums = ((input_ids + 1) * factors * attention_mask).sum(dim=-1)  # (B,)
    return torch.where(attention_mask.any(dim=-1), (sums ^ (sums >> 29)) & (2**62 - 1), -1)


def scaled_cosines(logit_scale: nn.Parameter, embeds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Scores (B, G) of unit vectors (B, D) and (G, D), in float32."""
    # Autocast would compute a product of float32 in bfloat16.
    with torch.autocast(targets.device.type, enabled=False):
        targets = targets.to(embeds.device)  # a model may lie on several devices
        return logit_scale.float().exp() * embeds.float() @ targets.float().T


class MMJepaAnswers(TypedDict):
    """The answers that a prediction is compared with, and which of them is right for each of B rows.

    targets (K, D): the unit targets of K distinct answers, of `encode_answers`.
    log_counts (K,): the logarithms of how often each occurs; -inf leaves one out.
    right (B,): the number of each row's answer, -1 where it has none.
    """

    targets: torch.Tensor
    log_counts: torch.Tensor
    right: torch.Tensor


def answers_of_batch(targets: torch.Tensor, numbers: torch.Tensor) -> MMJepaAnswers:
    """The answers in the batches of all processes, each once. Under torch.distributed every process calls this.

    Args:
        targets: unit targets (B, D) of each row's answer.
        numbers: of `text_numbers` (B,); -1 where a row has no answer.
    """
    (all_targets, all_numbers), own = gather_rows(targets.float(), numbers)
    is_equal = all_numbers[:, None] == all_numbers  # (G, G)
    first = is_equal.int().argmax(dim=1)  # of the rows with the same answer, (G,)
    stands_for_it = (first == torch.arange(len(first), device=first.device)) & (all_numbers >= 0)  # (G,)
    log_counts = is_equal.sum(dim=1).float().log().masked_fill(~stands_for_it, float("-inf"))
    return {"targets": all_targets, "log_counts": log_counts, "right": torch.where(numbers >= 0, first[own], -1)}


class MMJepaAnswerPrediction(nn.Module):
    """Predicts the text encoder's embedding of the answer from image and question (VL-JEPA, arXiv 2512.10942).

    The decoder's state at its first position has read the image and the question, and no answer yet.
    """

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        width = config.text_config.d_model
        self.projector = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.empty(1))
        # Without the mean taken away answers are nearly equal, whatever the alignment compares.
        kind = "whitened" if config.alignment_target == "whitened" else "centered"
        self.targets = TargetSpace(kind, width)

    def scores(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How well each of K answers' `targets` (K, D) fits the decoder's first states (B, D) -> (B, K), float32."""
        return scaled_cosines(self.logit_scale, l2_normalize(self.projector(states).float()), targets)

    def forward(self, states: torch.Tensor, answers: MMJepaAnswers) -> torch.Tensor:
        """Losses (B,): the cross-entropy of the right answer among all `answers`; 0 where a row has none.

        Args:
            states: the decoder's first states (B, D).
        """
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        right = answers["right"].to(states.device)
        logits = self.scores(states, answers["targets"]) + answers["log_counts"].to(states.device)  # (B, K)
        # Without any answer in the batch, all of `log_counts` are -inf.
        logits = logits.masked_fill((right < 0)[:, None], 0)
        return F.cross_entropy(logits, right, reduction="none", ignore_index=-1)
