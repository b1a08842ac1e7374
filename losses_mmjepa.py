"""The losses that train the model, over the batches of all processes.

Symbols in the shape comments: B rows of this process, G rows of all processes, I images, K answers, L tokens, D the
text encoder's width.
"""

import math
from typing import TypedDict

import torch
from torch import distributed, nn
from torch.nn import functional as F

from .configuration_mmjepa import MMJepaConfig

# Logarithms of the scale of contrastive scores, at the start and at most (CLIP, arXiv 2103.00020).
CLIP_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)


class MMJepaTrainingStep(TypedDict, total=False):
    """What the losses of one batch need to know about its optimizer step.

    Divided by the counts of the whole step, the losses of accumulated batches add up to that of one large batch.

    num_rows: rows of the step that have an alignment text.
    num_answers: rows of the step that have an answer.
    answer_smoothing: share of each answer token's probability that is spread over the vocabulary; 0 by default.
    """

    num_rows: torch.Tensor | int
    num_answers: torch.Tensor | int
    answer_smoothing: float


def share_of_step(
    labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many answer tokens the optimizer step has, and the share of them that `labels` (B, A) hold.

    Without a number, this batch is the step. The share is 1 if the step has no answer token, as with captions alone.
    """
    num_own = (labels != -100).sum()
    num_items = torch.as_tensor(num_own if num_items_in_batch is None else num_items_in_batch, device=labels.device)
    return num_items, torch.where(num_items > 0, num_own / num_items.clamp(min=1), 1.0)


def l2_normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last axis, computed in float32: bfloat16 keeps only 3 digits of a norm."""
    return F.normalize(embeds.float(), dim=-1).to(embeds.dtype)


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


def equal_rows(ids: torch.Tensor, other_ids: torch.Tensor) -> torch.Tensor:
    """Which of `ids` (B, L) equal which of `other_ids` (G, L), token by token -> (B, G)."""
    return (ids[:, None] == other_ids).all(dim=-1)


def scaled_cosines(logit_scale: nn.Parameter, embeds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Scores (B, G) of unit vectors (B, D) and (G, D), in float32."""
    # Autocast would compute a product of float32 in bfloat16.
    with torch.autocast(targets.device.type, enabled=False):
        targets = targets.to(embeds.device)  # a model may lie on several devices
        return logit_scale.float().exp() * embeds.float() @ targets.float().T


class MMJepaAlignmentLoss(nn.Module):
    """How far image embeddings are from the embeddings of their texts, one number per row.

    The contrastive losses compare each image with the texts of all processes, as open_clip does: under
    torch.distributed every process has to compute the loss. Accumulated batches are not compared with each other.
    """

    text_mean: torch.Tensor

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        self.loss = config.alignment_loss
        self.target = config.alignment_target
        # Vectors of one number: FSDP can't divide a tensor without dimensions.
        if self.loss != "cosine":
            self.logit_scale = nn.Parameter(torch.empty(1))
        if self.loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.empty(1))
        if self.target == "centered":
            # The mean of the text encoder's embeddings over the training texts: `center_targets` sets it.
            self.register_buffer("text_mean", torch.zeros(config.text_config.d_model))

    def text_targets(self, pooled: torch.Tensor) -> torch.Tensor:
        """Unit targets (B, D) of the text encoder's pooled embeddings (B, D)."""
        if self.target == "centered":
            pooled = pooled - self.text_mean.to(pooled.device)
        elif self.target == "layer_norm":
            pooled = F.layer_norm(pooled.float(), pooled.shape[-1:]).to(pooled.dtype)
        return l2_normalize(pooled)

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        image_index: torch.Tensor,
        text_ids: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Losses (B,), one per row.

        Args:
            image_embeds, text_embeds: of images (I, D), and unit targets of the rows' texts (B, D).
            image_index: the image (B,) of each row.
            text_ids: token ids (B, L') of the texts, -1 where there is no token. The contrastive losses compare them
                to find equal texts, whose embeddings are only nearly equal. A row without any token has no text: its
                loss is 0, and no image is pushed away from it.
            image_ids: a number for each image (I,), the same on every process; negative for a stand-in that is no
                image. By default, images of different processes are different.
        """
        image_count = len(image_embeds)
        image_embeds = F.normalize(image_embeds.float(), dim=-1)[image_index]  # (B, D)
        text_embeds = text_embeds.float()
        has_text = torch.ones_like(image_index, dtype=torch.bool) if text_ids is None else (text_ids >= 0).any(dim=-1)
        if self.loss == "cosine":
            return (1 - (image_embeds * text_embeds).sum(dim=-1)) * has_text
        if image_ids is None:
            process = distributed.get_rank() if is_distributed() else 0
            image_ids = torch.arange(image_count, device=text_ids.device) + (process << 32)
        (texts, all_text_ids, all_images), own = gather_rows(text_embeds, text_ids, image_ids[image_index])
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        logits = scaled_cosines(self.logit_scale, image_embeds, texts)  # (B, G)
        places = torch.arange(len(texts), device=texts.device)
        right = places[own, None] == places  # (B, G)
        # A text equal to the row's own, or one that belongs to the row's own image, is not wrong for it.
        same_text = equal_rows(all_text_ids[own], all_text_ids)
        same_image = all_images[own, None] == all_images
        no_pair = (all_images < 0) | (all_text_ids < 0).all(dim=-1)  # (G,)
        not_wrong = (same_text | same_image | no_pair) & ~right
        if self.loss == "infonce":
            losses = -logits.masked_fill(not_wrong, float("-inf")).log_softmax(dim=-1)[right]
        else:
            signs = right.float() * 2 - 1  # 1 for the right pair, -1 for a wrong one
            pairs = -F.logsigmoid(signs * (logits + self.logit_bias.float()))
            losses = pairs.masked_fill(not_wrong, 0).sum(dim=-1)
        return losses * has_text


class MMJepaAnswerPrediction(nn.Module):
    """Predicts the text encoder's embedding of the answer from image and question (VL-JEPA, arXiv 2512.10942).

    The decoder's state at its first position has read the image and the question, and no answer yet. The loss compares
    its prediction with the answers of all processes: under torch.distributed every process has to compute it.
    """

    answer_mean: torch.Tensor

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        width = config.text_config.d_model
        self.projector = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.empty(1))
        # The mean of the text encoder's embeddings of the training answers: `center_targets` sets it.
        self.register_buffer("answer_mean", torch.zeros(width))

    def targets(self, pooled: torch.Tensor) -> torch.Tensor:
        """Unit targets (B, D) of the text encoder's pooled embeddings (B, D) of answers."""
        return l2_normalize(pooled - self.answer_mean.to(pooled.device))

    def scores(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How well each of K answers' `targets` (K, D) fits the decoder's first states (B, D) -> (B, K), float32."""
        return scaled_cosines(self.logit_scale, l2_normalize(self.projector(states).float()), targets)

    def forward(self, states: torch.Tensor, targets: torch.Tensor, answer_ids: torch.Tensor) -> torch.Tensor:
        """Losses (B,): -log of the softmax's share of the rows with the right answer.

        Args:
            states: the decoder's first states (B, D).
            targets: unit targets (B, D) of the right answers.
            answer_ids: token ids (B, A) of the right answers, -1 where there is no token. They tell which answers are
                equal. A row without any token has no answer: its loss is 0.
        """
        (all_targets, all_ids), own = gather_rows(targets.float(), answer_ids)
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        has_answer = (all_ids >= 0).any(dim=-1)  # (G,)
        # A row without an answer keeps its own column, or it would have none.
        logits = self.scores(states, all_targets)
        right = equal_rows(all_ids[own], all_ids)  # (B, G)
        log_shares = logits.masked_fill(~(has_answer | right), float("-inf")).log_softmax(dim=-1)
        return -log_shares.masked_fill(~right, float("-inf")).logsumexp(dim=-1) * has_answer[own]
