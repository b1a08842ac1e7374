"""The model: a trainable DINOv2 image encoder aligned to a frozen BART encoder, read by a BART decoder.

Symbols in the shape comments: B questions, I distinct images, P patches of width Dv, L question tokens of width D,
M visual tokens, A answer tokens, V vocabulary.
"""

import inspect
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F
from transformers import AutoConfig, BartForConditionalGeneration, Dinov2Model, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bart.modeling_bart import BartDecoder, BartEncoder, shift_tokens_right
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from .configuration_mmjepa import MMJepaConfig

# Logarithms of the scale of contrastive scores, at the start and at most (CLIP, arXiv 2103.00020).
CLIP_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)
# How likely a visual token is to read a patch outside of its cell at the start, relative to one inside.
OUTSIDE_CELL = 0.003

# Arguments of `from_pretrained` that say where files are, and those that are about files of weights alone.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LOADING_ARGUMENTS = (*HUB_ARGUMENTS, "use_safetensors", "variant")
MASK_TOKEN = ("embeddings.mask_token",)  # of DINOv2: only its own pretraining reads it
# Arguments of `forward` that a loss alone reads.
LOSS_ARGUMENTS = (
    *("labels", "align_input_ids", "align_attention_mask", "image_ids", "return_loss", "return_logits"),
    *("num_items_in_batch", "num_rows_in_batch", "num_answers_in_batch", "answer_smoothing"),
)
# What the decoder reads, and what generation hands out of the text encoder.
GENERATION_STATES = ("last_hidden_state", "attention_mask", "hidden_states", "attentions")

logger = logging.get_logger(__name__)


@dataclass
class MMJepaImageFeatures(ModelOutput):
    """What the model knows of I images; made once, it answers any number of questions about them.

    image_embeds (I, D): the aligned image embedding p, not normalised.
    visual_tokens (I, M, D): what the decoder reads.
    visual_token_attentions (I, M, P): how much each visual token reads of each patch, the mean over heads; the aligned
    embedding's row is 0. None with the pooled prefix.
    last_hidden_state (I, 1+P, Dv), hidden_states, attentions: of the image encoder; answering does without them.
    pooler_output (I, M, D): the visual tokens, by the name that the library's models give them.
    """

    image_embeds: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    visual_token_attentions: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    pooler_output: torch.Tensor | None = None

    def __post_init__(self):
        self.pooler_output = self.visual_tokens
        super().__post_init__()


@dataclass
class MMJepaEncoderOutput(ModelOutput):
    """What the decoder reads of B questions about I images.

    last_hidden_state (B, M+L, D) and its attention_mask (B, M+L): visual tokens, then the question's token states,
    padding last.
    image_embeds (I, D), image_index (B,): the image embeddings, and which one each question is about.
    question_embeds (B, D): the mean of each question's token states.
    hidden_states, attentions: of the text encoder; image_hidden_states, image_attentions: of the image encoder.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    question_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: tuple[torch.Tensor, ...] | None = None
    image_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MMJepaOutput(ModelOutput):
    """Output of [`MMJepaForConditionalGeneration`].

    loss, loss_align, loss_ce, loss_answer: scalars; loss is their sum, weighted by the configuration's lambdas.
    logits (B, A, V): next-token scores of the decoder.
    image_embeds (I, D), text_embeds (B, D): the aligned image embeddings and the normalised alignment targets.
    encoder_*: the visual tokens and question states the decoder read, and the text encoder's own hidden states and
    attentions; image_*: the image encoder's; decoder_* and cross_attentions: the decoder's.
    """

    loss: torch.Tensor | None = None
    loss_align: torch.Tensor | None = None
    loss_ce: torch.Tensor | None = None
    loss_answer: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: tuple[torch.Tensor, ...] | None = None
    image_attentions: tuple[torch.Tensor, ...] | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


def refuse_unknown(function: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises TypeError where a name of `given` is not one of `allowed`, with the most similar ones of these."""
    for name in sorted(set(given) - set(allowed)):
        near = get_close_matches(name, allowed) or sorted(allowed)
        raise TypeError(f"{function} got an unknown argument {name!r}: give {' or '.join(near)}, or leave it out.")


def known_arguments(forward: Callable, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What `forward` hands on of `kwargs`, without what is None, as PEFT gives what it leaves out.

    Raises:
        TypeError: a name is unknown, which the library's layers take and drop.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    unknown = given.keys() - TransformersKwargs.__optional_keys__
    if unknown:
        _, *named, _ = inspect.signature(forward).parameters  # without self and kwargs
        refuse_unknown(forward.__name__, unknown, named)
    return given


def load_tower(
    model_class: type[PreTrainedModel], name: str | Path, without: Iterable[str] = (), **loading
) -> PreTrainedModel:
    """A stock model of `model_class` with all weights that the checkpoint `name` (a folder or Hub id) has for it.

    A head of another task, beside the base model, is left out. `loading` is for `from_pretrained`.

    Args:
        without: weights that may be missing.

    Raises:
        ValueError: the checkpoint has weights that the model does not take, such as register tokens, or lacks some:
            the library only reports that, and the model's states would not be those that the checkpoint was trained
            for.
    """
    model, info = model_class.from_pretrained(name, output_loading_info=True, **loading)
    base = model.base_model
    parts = {part for part, _ in (*base.named_children(), *base.named_parameters(recurse=False))}
    not_taken = {
        weight
        for weight in info["unexpected_keys"]
        if weight.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in parts
    }
    for weights, problem in (
        (not_taken, f"that a {model_class.__name__} of its configuration does not take"),
        (set(info["missing_keys"]) - set(without), f"too few for a {model_class.__name__} of its configuration"),
    ):
        if weights:
            raise ValueError(
                f"{name} has weights {problem}: {', '.join(sorted(weights))}. Give a checkpoint whose config.json is "
                "of the model that its weights were trained in."
            )
    return model


def l2_normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last axis, computed in float32: bfloat16 keeps only 3 digits of a norm."""
    return F.normalize(embeds.float(), dim=-1).to(embeds.dtype)


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `states` (B, L, D) over the positions where `mask` (B, L) is 1 -> (B, D).

    A row without any 1 gives zeros. Averages in float32: in bfloat16 a sum over 256 tokens loses 2 digits.
    """
    weights = mask.to(states.device).unsqueeze(-1).float()  # (B, L, 1)
    total = (states.float() * weights).sum(dim=1)  # (B, D)
    return (total / weights.sum(dim=1).clamp(min=1)).to(states.dtype)


def padding_last(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same rows (B, L) with their padding moved behind the text, the order of the text kept.

    BART's position embeddings count from the first column whatever the mask says, so a left-padded question would
    otherwise read differently from the same question right-padded.
    """
    order = attention_mask.long().argsort(dim=-1, descending=True, stable=True)  # (B, L)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def sincos_positions(places: torch.Tensor, channels: int, turns: float) -> torch.Tensor:
    """Sine and cosine position codes (N, channels), float32, of `places` (N, 2), rows and columns as fractions.

    Half of the channels code the row and half the column. Frequencies run from a quarter turn to `turns` turns over
    the image.
    """
    frequencies = torch.pi / 2 * (4 * turns) ** torch.linspace(0, 1, channels // 4)  # (C/4,)
    angles = places[..., None] * frequencies  # (N, 2, C/4)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (N, C)


def image_cells(count: int) -> torch.Tensor:
    """Cuts the image into `count` cells of equal area -> (Q, 2, 2): from and to, of rows and of columns, as fractions.

    The cells lie in about as many rows as columns. Rows differ by at most one cell, the longer ones in the middle. A
    row of n cells has n / count of the image's height.
    """
    num_rows = max(1, round(count**0.5))
    from_the_middle = sorted(range(num_rows), key=lambda row: abs(row - (num_rows - 1) / 2))
    longer_rows = from_the_middle[: count % num_rows]
    cells: list[list[list[float]]] = []
    for row in range(num_rows):
        in_row = count // num_rows + (row in longer_rows)
        rows = [len(cells) / count, (len(cells) + in_row) / count]
        cells += [[rows, [column / in_row, (column + 1) / in_row]] for column in range(in_row)]
    return torch.tensor(cells)


def cell_shares(cells: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Which share of each of the `cells` (Q, 2, 2) lies on which patch of a grid of h x w -> (Q, P).

    A cell's shares add up to 1. Those of a patch add up to Q / P, as the cells are of equal area and are the image.
    """
    axes = []
    for (start, end), size in zip(cells.permute(1, 2, 0), grid, strict=True):  # (Q,) each
        edges = torch.arange(size + 1, device=cells.device) / size  # (size+1,)
        overlap = torch.minimum(end[:, None], edges[1:]) - torch.maximum(start[:, None], edges[:-1])  # (Q, size)
        axes.append(overlap.clamp(min=0) / (end - start)[:, None])
    return (axes[0][:, :, None] * axes[1][:, None]).flatten(1)  # (Q, P)


class PooledPrefix(nn.Module):
    """M visual tokens from the one image embedding: an MLP whose output is cut into M vectors."""

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        width = config.text_config.d_model
        self.num_image_tokens = config.num_image_tokens
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, config.num_image_tokens * width)

    def forward(
        self, image_embeds: torch.Tensor, patch_states: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, None]:
        """Visual tokens (I, M, D); they attend to no patch."""
        tokens = self.fc2(F.gelu(self.fc1(image_embeds)))  # (I, M*D)
        return tokens.unflatten(-1, (self.num_image_tokens, -1)), None


class PatchesPrefix(nn.Module):
    """The aligned embedding as a visual token, and others by learned queries that cross-attend to the patch states (a
    resampler, arXiv 2204.14198).

    The image is cut into as many cells as there are queries. A query starts as the code of its cell's centre and reads
    its cell: a bias on the attention scores makes all other patches unlikely, and what a patch shows can outweigh it.
    Queries that start alike make all tokens start as the mean of the image, and training from random weights stayed
    there. The bias follows from the grid of patches, so images of other sizes and shapes are read the same way.
    """

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        width = config.text_config.d_model
        self.num_heads = config.text_config.decoder_attention_heads
        self.aligned_token = config.aligned_token
        # Q = M - 1 where the aligned embedding is a token, else M.
        self.queries = nn.Parameter(torch.empty(config.num_image_tokens - config.aligned_token, width))  # (Q, D)
        self.patch_norm = nn.LayerNorm(config.vision_config.hidden_size, eps=config.vision_config.layer_norm_eps)
        self.k_proj = nn.Linear(config.vision_config.hidden_size, width)
        self.v_proj = nn.Linear(config.vision_config.hidden_size, width)
        self.o_proj = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(
        self, image_embeds: torch.Tensor, patch_states: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual tokens (I, M, D), and how much each of them reads of each patch (I, M, P), the mean over heads.

        What a token reads adds up to 1; the aligned embedding attends to no patch, its row is 0.
        """
        patches = self.patch_norm(patch_states)  # (I, P, Dv)
        query = self._split_heads(self.queries[None])  # (1, heads, Q, D/heads)
        key = self._split_heads(self.k_proj(patches))  # (I, heads, P, D/heads)
        value = self._split_heads(self.v_proj(patches))  # (I, heads, P, D/heads)
        # Not by the library's attention interface: its flash attention leaves a bias out without a word, and only its
        # eager form returns the weights. Q is small.
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (I, heads, Q, P)
        weights = (scores.float() + self._cell_bias(grid).to(scores.device)).softmax(dim=-1)  # (I, heads, Q, P)
        read = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)  # (I, Q, D)
        tokens = self.queries + self.o_proj(read)
        tokens = tokens + self.fc2(F.gelu(self.fc1(self.mlp_norm(tokens))))
        # Without it, training enlarges what a token saw relative to where it is, and "where" questions are not learnt.
        tokens = tokens + self.queries  # (I, Q, D)
        attention = weights.mean(dim=1)  # (I, Q, P)
        if self.aligned_token:
            tokens = torch.cat([image_embeds[:, None], tokens], dim=1)  # (I, M, D)
            attention = F.pad(attention, (0, 0, 1, 0))  # (I, M, P)
        return tokens, attention

    def _cell_bias(self, grid: tuple[int, int]) -> torch.Tensor:
        """What is added to the scores (Q, P): 0 in a query's own cell, log OUTSIDE_CELL outside of it."""
        shares = cell_shares(image_cells(len(self.queries)), grid)  # (Q, P)
        return (shares * shares.shape[1] / shares.shape[0] + OUTSIDE_CELL).log()

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def all_gather(values: torch.Tensor) -> list[torch.Tensor]:
    """`values` of every process, in the order of the processes; they have one shape."""
    blocks = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(blocks, values)
    return blocks


def gather_rows(*columns: torch.Tensor) -> tuple[list[torch.Tensor], slice]:
    """Rows of all processes, one process after the other, of tensors (B,) or (B, W), and which of them are this
    process's. Without gradients.

    Processes may have different numbers of rows, and rows of different lengths, which -1 fills up. The columns travel
    together as bytes: the processes wait for each other twice, however many columns there are.
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
    # Autocast would make a product of float32 bfloat16 again.
    with torch.autocast(targets.device.type, enabled=False):
        targets = targets.to(embeds.device)  # a model may lie on several devices
        return logit_scale.float().exp() * embeds.float() @ targets.float().T


class AlignmentLoss(nn.Module):
    """How far image embeddings are from the embeddings of their texts, one number per row.

    The contrastive losses compare each image with the texts of the batch, of all processes together (as open_clip
    does): under torch.distributed every process has to ask for the loss. Accumulated batches add no wrong pairs: each
    is compared within itself.
    """

    text_mean: torch.Tensor

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        self.loss = config.alignment_loss
        self.target = config.alignment_target
        # Vectors of one number: FSDP can't share out a number without dimensions.
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
            text_ids: token ids (B, L') of the texts, -1 where there is no token. The contrastive losses know
                equal texts by them: equal texts have embeddings that are only nearly equal. A row without any token
                has no text: its loss is 0, and it is wrong for no image.
            image_ids: a number for each image (I,), the same on every process; negative where an image stands in for
                none. By default images of different processes are different.
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


class AnswerPrediction(nn.Module):
    """Predicts the text encoder's embedding of the answer from image and question (VL-JEPA, arXiv 2512.10942).

    The decoder's state at its first position has read the image and the question, and no answer yet. The loss compares
    its prediction with the answers of the batch, of all processes together: every process has to ask for it.
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
        """Losses (B,): -log of the share of the batch's softmax that rows with the right answer have.

        Args:
            states: the decoder's first states (B, D).
            targets: unit targets (B, D) of the right answers.
            answer_ids: token ids (B, A) of the right answers, -1 where there is no token, by which equal answers are
                known. A row without any token has no answer: its loss is 0.
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


def share_weights(folder: str | os.PathLike, like: str) -> None:
    """Lets all read the weights in `folder` who may read the file `like` there; does nothing where there is none.

    safetensors writes them for their owner alone, whatever the umask (its issue 782).
    """
    model = Path(folder, like)
    if model.exists():
        for weights in Path(folder).glob("*.safetensors"):
            shutil.copymode(model, weights)


class MMJepaPreTrainedModel(PreTrainedModel):
    config_class = MMJepaConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["PooledPrefix", "PatchesPrefix"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """As in the library, but weights are saved under the names they have here.

        By default transformers 5 writes DINOv2's attention under the names of old checkpoints. `from_pretrained` maps
        them back, but the Trainer's resume and its loading of the best checkpoint do not (`_load_from_checkpoint`,
        `_load_best_model`): they only warn, and go on with an attention that was not loaded.
        """
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)
        share_weights(save_directory, "config.json")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """The new layers alone: each tower initialises its own the way its library class does.

        Linear layers start with variance 1 / inputs, so that a token of unit variance keeps it; BERT's 0.02, made for
        width 768, would shrink the image's part of a narrow model's visual tokens below what the decoder can hear.
        """
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_factor * module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, PatchesPrefix):
            centres = image_cells(len(module.queries)).mean(dim=-1)  # (Q, 2)
            head_width = module.queries.shape[1] // module.num_heads
            codes = sincos_positions(centres, head_width, self.config.position_turns)  # (Q, D/heads)
            init.copy_(module.queries, codes.repeat(1, module.num_heads))
            # Keys of 0 leave the start to the cells: random ones, and what an image shows, would hide patches.
            init.zeros_(module.k_proj.weight)
        elif isinstance(module, AnswerPrediction):
            init.constant_(module.logit_scale, CLIP_LOGIT_SCALE)
            init.zeros_(module.answer_mean)
        elif isinstance(module, AlignmentLoss):
            if module.loss != "cosine":
                init.constant_(module.logit_scale, CLIP_LOGIT_SCALE if module.loss == "infonce" else math.log(10))
            if module.loss == "sigmoid":
                init.constant_(module.logit_bias, -10.0)  # this and the scale of 10 as in SigLIP
            if module.target == "centered":
                init.zeros_(module.text_mean)


class MMJepaEncoder(MMJepaPreTrainedModel):
    """Image encoder, frozen text encoder and visual prefix: from pixels and a question to what the decoder reads."""

    def __init__(self, config: MMJepaConfig):
        super().__init__(config)
        self.image_encoder = Dinov2Model(config.vision_config)
        self.text_encoder = BartEncoder(config.text_config)
        vision_width, text_width = config.vision_config.hidden_size, config.text_config.d_model
        self.image_projector = nn.Linear(vision_width, text_width) if config.project_image else nn.Identity()
        self.visual_prefix = (PooledPrefix if config.visual_prefix == "pooled" else PatchesPrefix)(config)
        self.prefix_norm = nn.LayerNorm(text_width)
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True):
        """The text encoder stays frozen and in eval mode: its dropout would give the same text a new target each step.

        So does DINOv2's mask token, which only its own pretraining uses. Frozen here and not once in `__init__`,
        because loading a checkpoint makes parameters anew with gradients on (transformers' `set_param_for_module`) and
        then calls `eval()`.
        """
        super().train(mode)
        self.text_encoder.train(False).requires_grad_(False)
        if self.config.vision_config.use_mask_token:
            self.image_encoder.embeddings.mask_token.requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.text_encoder.embed_tokens = value

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> MMJepaImageFeatures:
        """Features of the images `pixel_values` (I, 3, H, W), normalised as the image processor does it."""
        if pixel_values.ndim != 4 or not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values is {pixel_values.dtype} of shape {tuple(pixel_values.shape)}: give images "
                "(I, 3, H, W) as floats, rescaled and normalised by the processor."
            )
        kwargs = known_arguments(MMJepaEncoder.get_image_features, kwargs)
        outputs = self.image_encoder(pixel_values, **kwargs)
        states = outputs.last_hidden_state  # (I, 1+P, Dv)
        pooled = states[:, 0] if self.config.image_pooling == "cls" else states[:, 1:].mean(dim=1)  # (I, Dv)
        image_embeds = self.image_projector(l2_normalize(pooled))  # (I, D)
        patch_height, patch_width = self.image_encoder.embeddings.patch_embeddings.patch_size
        grid = (pixel_values.shape[-2] // patch_height, pixel_values.shape[-1] // patch_width)
        tokens, read = self.visual_prefix(image_embeds, states[:, 1:], grid)  # (I, M, D), (I, M, P)
        return MMJepaImageFeatures(
            image_embeds=image_embeds,
            visual_tokens=self.prefix_norm(tokens),
            visual_token_attentions=read,
            last_hidden_state=states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The text encoder's mean token state (B, D) of texts (B, L), not normalised. Without gradient."""
        input_ids, attention_mask = self.ordered_text(input_ids, attention_mask)
        # A row without text attends to its first padding token: attention to nothing at all is not a number.
        attended = torch.cat([torch.ones_like(attention_mask[:, :1]), attention_mask[:, 1:]], dim=1)
        states = self.text_encoder(input_ids, attention_mask=attended).last_hidden_state  # (B, L, D)
        return masked_mean(states, attention_mask)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_features: MMJepaImageFeatures | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMJepaEncoderOutput | tuple:
        """Visual tokens and question states (B, M+L, D) of questions (B, L) about images (I, 3, H, W) or their states.

        Raises:
            ValueError: no images, both pixels and states, I != B without `image_index`, or an index out of range.
            TypeError: an argument that nothing reads.
        """
        kwargs = known_arguments(MMJepaEncoder.forward, kwargs)
        if (pixel_values is None) == (image_features is None):
            given = "neither" if pixel_values is None else "both"
            raise ValueError(
                f"{given} of pixel_values and image_features given: give the images' pixel_values (I, 3, H, W), or "
                "the image_features that get_image_features made of them."
            )
        if image_features is None:
            image_features = self.get_image_features(pixel_values, **kwargs)
        on_training_path = self.training and not input_ids.is_cpu
        image_index = resolve_image_index(
            image_index, len(image_features.visual_tokens), input_ids, check_range=not on_training_path
        )

        input_ids, attention_mask = self.ordered_text(input_ids, attention_mask)
        with torch.no_grad():
            question = self.text_encoder(input_ids, attention_mask=attention_mask, **kwargs)
        # A model may lie on several devices: what is put together goes where the text encoder is.
        states = question.last_hidden_state  # (B, L, D)
        visual_tokens = image_features.visual_tokens.to(states.device)
        tokens = visual_tokens[image_index.to(states.device)]  # (B, M, D)
        attention_mask = attention_mask.to(states.device)
        visual_mask = attention_mask.new_ones(tokens.shape[:2])  # (B, M)
        output = MMJepaEncoderOutput(
            last_hidden_state=torch.cat([tokens, states.to(tokens.dtype)], dim=1),  # (B, M+L, D)
            attention_mask=torch.cat([visual_mask, attention_mask], dim=1),  # (B, M+L)
            image_embeds=image_features.image_embeds,
            image_index=image_index,
            question_embeds=masked_mean(states, attention_mask),
            hidden_states=question.hidden_states,
            attentions=question.attentions,
            image_hidden_states=image_features.hidden_states,
            image_attentions=image_features.attentions,
        )
        return output.to_tuple() if return_dict is False else output

    def ordered_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None):
        if attention_mask is None:
            attention_mask = (input_ids != self.config.text_config.pad_token_id).long()
        return padding_last(input_ids, attention_mask)


def resolve_image_index(
    image_index: torch.Tensor | None, num_images: int, input_ids: torch.Tensor, check_range: bool = True
) -> torch.Tensor:
    """The image (B,) of each question: as given and checked, or one image a question in order.

    Reading the range waits for the device. In training on one, and in a graph under compilation, which can't branch
    on what it reads, an assertion runs on the device: indexing alone would take -1 for the last image.
    """
    batch_size = input_ids.shape[0]
    if image_index is None:
        if num_images != batch_size:
            raise ValueError(
                f"{num_images} images for {batch_size} questions: give one image a question, or `image_index` to say "
                "which image each question is about."
            )
        return torch.arange(batch_size, device=input_ids.device)
    if image_index.shape != (batch_size,):
        raise ValueError(
            f"image_index has shape {tuple(image_index.shape)} for {batch_size} questions: give one image number a "
            f"question, shape ({batch_size},)."
        )
    if image_index.is_floating_point() or image_index.dtype == torch.bool:
        raise ValueError(f"image_index is {image_index.dtype}: give each question the whole number of its image.")
    image_index = image_index.long()  # bytes would be taken for a mask
    if torch.compiler.is_compiling() or not check_range:
        in_range = ((image_index >= 0) & (image_index < num_images)).all()
        torch._assert_async(in_range, f"image_index is out of range: allowed are 0 to {num_images - 1}.")
    else:
        low, high = image_index.min().item(), image_index.max().item()
        if low < 0 or high >= num_images:
            raise ValueError(
                f"image_index runs from {low} to {high}, but there are {num_images} images: allowed are 0 to "
                f"{num_images - 1}."
            )
    return image_index


class MMJepaForConditionalGeneration(MMJepaPreTrainedModel, GenerationMixin):
    """Answers questions about images; trains the alignment and the answers together.

    Example:
        >>> model = MMJepaForConditionalGeneration.from_vision_text_pretrained(
        ...     "facebook/dinov2-base", "facebook/bart-base"
        ... )
    """

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: MMJepaConfig):
        super().__init__(config)
        self.encoder = MMJepaEncoder(config)
        self.decoder = BartDecoder(config.text_config)
        self.lm_head = nn.Linear(config.text_config.d_model, config.text_config.vocab_size, bias=False)
        # BART's own buffer, kept so that a BART checkpoint's scores are reproduced and given back on export.
        self.register_buffer("final_logits_bias", torch.zeros(1, config.text_config.vocab_size))
        self.alignment = AlignmentLoss(config)
        if config.predict_answer:
            self.answer_prediction = AnswerPrediction(config)
        self._looked_for_means = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self.lm_head:
            init.normal_(module.weight, std=self.config.text_config.init_std)
        elif module is self:
            init.zeros_(self.final_logits_bias)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, dtype: torch.dtype | str = torch.float32, **kwargs
    ) -> "MMJepaForConditionalGeneration":
        """Builds the model from a DINOv2 and a BART checkpoint (folders or Hub ids); the rest starts at random.

        It is in eval mode, as after `from_pretrained`. Before it trains, `center_targets` has to see the texts.

        Args:
            vision: checkpoint of a `Dinov2Model`.
            text: checkpoint of a BART model; its encoder becomes the text encoder, its decoder the generator. Its
                generation settings give the special and forced tokens.
            dtype: of the weights; with "auto" that of the checkpoints, or the smallest type that holds both.
            kwargs: fields of [`MMJepaConfig`] and attn_implementation; `tie_word_embeddings` is by default the BART
                checkpoint's. And what `from_pretrained` takes to find files: cache_dir, force_download,
                local_files_only, proxies, revision, subfolder, token, use_safetensors and variant, for both
                checkpoints, or for one with vision_ or text_ in front, as in `vision_revision`.

        Raises:
            ValueError: a checkpoint is of another model type, or its weights are not those of its configuration.
            TypeError: an argument is none of these.
        """
        given = {f"{half}_{name}" for half in ("vision", "text") for name in LOADING_ARGUMENTS}
        own = {field.name for field in fields(MMJepaConfig)} - {"vision_config", "text_config", "dtype"}
        own.add("attn_implementation")
        refuse_unknown("from_vision_text_pretrained", kwargs, {*LOADING_ARGUMENTS, *given, *own})
        config_kwargs = {name: value for name, value in kwargs.items() if name in own}

        def loading(half: str, names: Iterable[str]) -> dict[str, Any]:
            found = {name: kwargs.get(f"{half}_{name}", kwargs.get(name)) for name in names}
            return {name: value for name, value in found.items() if value is not None}

        vision_config = AutoConfig.from_pretrained(vision, **loading("vision", HUB_ARGUMENTS))
        text_config = AutoConfig.from_pretrained(text, **loading("text", HUB_ARGUMENTS))
        config = MMJepaConfig(vision_config=vision_config, text_config=text_config, **config_kwargs)
        if "tie_word_embeddings" not in config_kwargs:
            config.tie_word_embeddings = text_config.tie_word_embeddings
        image_encoder = load_tower(
            Dinov2Model, vision, MASK_TOKEN, dtype=dtype, **loading("vision", LOADING_ARGUMENTS)
        )
        bart = load_tower(BartForConditionalGeneration, text, dtype=dtype, **loading("text", LOADING_ARGUMENTS))
        model = cls(config).to(torch.promote_types(image_encoder.dtype, bart.dtype))
        model.load_towers(image_encoder, bart.get_encoder(), bart)
        for name in ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos"):
            token_id = getattr(bart.generation_config, f"{name}_token_id")
            setattr(model.generation_config, f"{name}_token_id", token_id)
        return model.eval()

    def load_towers(
        self, image_encoder: Dinov2Model, text_encoder: BartEncoder, generator: BartForConditionalGeneration
    ) -> None:
        """Copies the weights of stock models into this one. Only the decoder and the head of `generator` are read."""
        self.encoder.image_encoder.load_state_dict(image_encoder.state_dict())
        self.encoder.text_encoder.load_state_dict(text_encoder.state_dict())
        self.decoder.load_state_dict(generator.get_decoder().state_dict())
        self.lm_head.load_state_dict(generator.lm_head.state_dict())
        self.final_logits_bias.copy_(generator.final_logits_bias)
        self.tie_weights()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.decoder.embed_tokens = value

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True):
        """Resizes the decoder's embeddings, its output head and, apart from them, the text encoder's embeddings."""
        self.encoder.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.encoder.train(self.encoder.training)
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        bias = self.final_logits_bias[:, : embeddings.num_embeddings]
        self.final_logits_bias = F.pad(bias, (0, embeddings.num_embeddings - bias.shape[1]))
        return embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder inputs (B, A) that predict `labels` (B, A): shifted right, -100 made padding."""
        text_config = self.config.text_config
        return shift_tokens_right(labels, text_config.pad_token_id, text_config.decoder_start_token_id)

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> MMJepaImageFeatures:
        """Encodes images (I, 3, H, W) once, for any number of later `forward` or `generate(image_features=...)`."""
        return self.encoder.get_image_features(pixel_values, **kwargs)

    @torch.no_grad()
    def center_targets(
        self,
        processor: Callable[..., Mapping[str, torch.Tensor]],
        texts: Iterable[str],
        answers: Iterable[str] = (),
        batch_size: int = 256,
    ) -> None:
        """Centres a new model's targets, before it trains: embeddings of different texts are hardly apart uncentred.

        Those of the alignment, where `alignment_target` is "centered", become the distance to the mean embedding of
        the distinct `texts`; those of the predicted answers the distance to the mean of the distinct `answers`. The
        means are saved with the model: a loaded model keeps the ones that it was trained with.

        Args:
            processor: a [`MMJepaProcessor`] or its tokenizer.
            texts: what the training images are aligned to (`alignment_text` of the configuration says which of a
                row's texts); empty ones are left out, and without any the mean stays as it is. The same of `answers`.
            batch_size: texts at once.
        """
        for mean, given in ((self._text_mean(), texts), (self._answer_mean(), answers)):
            distinct = sorted({text for text in given if text})
            if mean is None or not distinct:
                continue
            total = torch.zeros(mean.shape, dtype=torch.float64)
            for start in range(0, len(distinct), batch_size):
                tokens = processor(
                    text=distinct[start : start + batch_size], padding=True, truncation=True, return_tensors="pt"
                )
                device = self.encoder.text_encoder.device
                total += (
                    self.encoder.encode_texts(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
                    .cpu()
                    .double()
                    .sum(dim=0)
                )
            mean.copy_(total / len(distinct))

    def _text_mean(self) -> torch.Tensor | None:
        return self.alignment.text_mean if self.config.alignment_target == "centered" else None

    def _answer_mean(self) -> torch.Tensor | None:
        return self.answer_prediction.answer_mean if self.config.predict_answer else None

    def _warn_of_targets_never_centered(self, labels: torch.Tensor | None) -> None:
        """Looks once: reading from a device waits for it."""
        if self._looked_for_means or torch.compiler.is_compiling():
            return
        self._looked_for_means = True
        has_answers = labels is not None and (labels != -100).any()
        means = {"texts": self._text_mean(), "answers": self._answer_mean() if has_answers else None}
        uncentered = [name for name, mean in means.items() if mean is not None and not mean.any()]
        if uncentered:
            logger.warning(
                f"The model trains on targets that were never centred on the mean of the training "
                f"{' and '.join(uncentered)}: all texts look alike to it. Call "
                "model.center_targets(processor, texts, answers) before training."
            )

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The unit alignment targets (B, D) of texts (B, L), to compare with the images' `image_embeds`."""
        return self.alignment.text_targets(self.encoder.encode_texts(input_ids, attention_mask))

    def encode_answers(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The unit targets (K, D) of K answers (K, A), to be kept and given to `rank_answers`.

        Raises:
            ValueError: the model does not predict embeddings of answers.
        """
        return self._answer_prediction().targets(self.encoder.encode_texts(input_ids, attention_mask))

    @torch.no_grad()
    def rank_answers(self, answer_embeds: torch.Tensor, **inputs) -> torch.Tensor:
        """Scores (B, K), float32, of K answers to B questions about I images, in one step of the decoder.

        Trained on answers as often as they occur, the scores say how much more likely an answer is than it is by
        itself: add the logarithms of the answers' frequencies to compare rare answers with frequent ones, and take
        the softmax for probabilities.

        Args:
            answer_embeds: (K, D) of `encode_answers`.
            inputs: questions and images as for `forward`: input_ids, attention_mask, pixel_values, image_index,
                image_features or encoder_outputs.

        Example:
            >>> answer_embeds = model.encode_answers(**processor(text=answers, return_tensors="pt"))
            >>> scores = model.rank_answers(answer_embeds, **processor(image, questions, return_tensors="pt"))
            >>> best = [answers[row] for row in scores.argmax(dim=-1)]

        Raises:
            ValueError: the model does not predict embeddings of answers.
        """
        prediction = self._answer_prediction()
        encoder_outputs = inputs.get("encoder_outputs") or self.encoder(**inputs)
        states = self._decode_start(encoder_outputs)  # (B, D)
        return prediction.scores(states, answer_embeds)

    @torch.no_grad()
    def answer_log_likelihoods(self, answer_labels: torch.Tensor, batch_size: int = 256, **inputs) -> torch.Tensor:
        """The decoder's log-likelihoods (B, K), float32, of K answers to B questions: the exact, slow score.

        Args:
            answer_labels: (K, A), -100 where there is no token, as the processor's `labels`.
            batch_size: pairs of question and answer at once.
            inputs: questions and images as for `rank_answers`.
        """
        encoder_outputs = inputs.get("encoder_outputs") or self.encoder(**inputs)
        states = encoder_outputs.last_hidden_state  # (B, M+L, D)
        answer_labels = answer_labels.to(states.device)
        count, num_answers = len(states), len(answer_labels)
        pairs = torch.cartesian_prod(torch.arange(count), torch.arange(num_answers)).to(states.device)
        likelihoods = []
        for rows, answers in (chunk.unbind(dim=1) for chunk in pairs.split(batch_size)):
            labels = answer_labels[answers]  # (pairs, A)
            outputs = self.decoder(
                self.prepare_decoder_input_ids_from_labels(labels),
                encoder_hidden_states=states[rows],
                encoder_attention_mask=encoder_outputs.attention_mask[rows],
                use_cache=False,
            )
            logits = self._score(outputs.last_hidden_state).float()  # (pairs, A, V)
            labels = labels.to(logits.device)
            tokens = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (pairs, A), 0 at -100
            likelihoods.append(-tokens.sum(dim=1))
        return torch.cat(likelihoods).view(count, num_answers)

    def _answer_prediction(self) -> AnswerPrediction:
        if not self.config.predict_answer:
            raise ValueError(
                f"predict_answer is False, lambda_answer is {self.config.lambda_answer}: this model has no weights "
                "that predict embeddings of answers; start a new one with a lambda_answer above 0, or leave it at 0 "
                "and compare answers by `answer_log_likelihoods`."
            )
        return self.answer_prediction

    def _decode_start(self, encoder_outputs: MMJepaEncoderOutput) -> torch.Tensor:
        """The decoder's state (B, D) at its first position, which every answer starts with."""
        states, start = encoder_outputs.last_hidden_state, self.config.text_config.decoder_start_token_id
        return self.decoder(
            torch.full((len(states), 1), start, device=states.device),
            encoder_hidden_states=states,
            encoder_attention_mask=encoder_outputs.attention_mask,
            use_cache=False,
        ).last_hidden_state[:, 0]

    def generate(self, inputs: torch.Tensor | None = None, *args, **kwargs):
        """As in the library; what a loss alone reads, such as labels in a Trainer's batch, is left out.

        Raises:
            ValueError: neither questions nor `encoder_outputs` are given, or no images.
        """
        if inputs is None and kwargs.get("input_ids") is None and kwargs.get("encoder_outputs") is None:
            # The library would make up an input_ids of the start token, and the model answer it.
            raise ValueError(
                f"there is no question in what generate is given ({', '.join(kwargs) or 'nothing'}): give the "
                "questions' input_ids (B, L), which the processor makes of `text`, or encoder_outputs."
            )
        kwargs = {name: value for name, value in kwargs.items() if name not in LOSS_ARGUMENTS}
        return super().generate(inputs, *args, **kwargs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **model_kwargs
    ):
        """Repeats for each beam what the decoder reads, its states and their mask, and drops the rest.

        Pixels and image embeddings have no use after the encoder. Repeated, they would take memory, and images would
        no longer be where `image_index` says. The given `encoder_outputs` stay as they are.
        """
        encoded = model_kwargs["encoder_outputs"]
        encoder_arguments = inspect.signature(MMJepaEncoder.forward).parameters
        kept = {name: value for name, value in model_kwargs.items() if name not in encoder_arguments}
        kept["encoder_outputs"] = MMJepaEncoderOutput(**{name: encoded.get(name) for name in GENERATION_STATES})
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kept)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        align_input_ids: torch.Tensor | None = None,
        align_attention_mask: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        image_features: MMJepaImageFeatures | None = None,
        encoder_outputs: MMJepaEncoderOutput | tuple | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        return_loss: bool | None = None,
        return_logits: bool = True,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_rows_in_batch: torch.Tensor | int | None = None,
        num_answers_in_batch: torch.Tensor | int | None = None,
        answer_smoothing: float = 0.0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMJepaOutput:
        """
        Args:
            input_ids, attention_mask: questions (B, L). Without a mask, padding tokens are taken as padding. Left and
                right padding give the same.
            pixel_values: images (I, 3, H, W); `image_index` (B,) says which one each question is about, and may be
                left out where I == B. `image_features` of `get_image_features` can stand in their place, and
                `encoder_outputs` of `model.encoder` in the place of images and questions.
            image_ids: a number for each image (I,), by which the contrastive losses know an image on another process.
            labels: answers (B, A), -100 where there is no loss.
            align_input_ids, align_attention_mask: alignment texts (B, L') where they are not the questions.
            decoder_input_ids: (B, A), by default the labels shifted right; decoder_inputs_embeds (B, A, D) can stand
                in their place. Without any of these the decoder is not run.
            return_loss: gives the loss without labels too: then it is the alignment term alone, as in the warm-up.
            return_logits: without, training saves the scores of padding, and with labels `logits` is None.
            num_items_in_batch, num_rows_in_batch, num_answers_in_batch: answer tokens, rows with an alignment text and
                rows with an answer of the whole optimizer step, by which the three terms are normalised so that
                accumulated batches add up to one large batch; this batch's by default. With the tokens alone, as the
                library's Trainer gives them, the other two count by the batch's share of them.
            answer_smoothing: share of each answer token's probability that is spread over the vocabulary.

        Raises:
            ValueError: no images, or images, questions, answers and `image_index` disagree; or a contrastive loss is
                asked for of `encoder_outputs` alone, without the texts' ids; or there is nothing to learn from in
                training.
            TypeError: an argument that nothing reads.
        """
        kwargs = known_arguments(MMJepaForConditionalGeneration.forward, kwargs)
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("neither input_ids nor encoder_outputs given: give the questions' input_ids (B, L).")
            encoder_outputs = self.encoder(
                input_ids, attention_mask, pixel_values, image_index, image_features, return_dict=True, **kwargs
            )
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = MMJepaEncoderOutput(*encoder_outputs)

        if labels is not None and len(labels) != len(encoder_outputs.last_hidden_state):
            raise ValueError(
                f"labels hold {len(labels)} answers for {len(encoder_outputs.last_hidden_state)} questions: give one "
                "answer a question, shape (B, A)."
            )
        has_decoder_inputs = decoder_input_ids is not None or decoder_inputs_embeds is not None
        if self.training and labels is None and not has_decoder_inputs and not return_loss:
            raise ValueError(
                "there are no labels to learn from: give the answers' labels (B, A), or return_loss for the alignment "
                "alone. The label_smoothing_factor of the library's Trainer keeps labels from the model: leave it at "
                "0, and put answer_smoothing into the batches or use MMJepaTrainer, which smooths them."
            )
        if labels is not None and not has_decoder_inputs:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            use_cache, has_decoder_inputs = False, True
        decoder_outputs, logits = BaseModelOutputWithPastAndCrossAttentions(), None
        if has_decoder_inputs:
            decoder_outputs = self.decoder(
                decoder_input_ids,
                inputs_embeds=decoder_inputs_embeds,
                attention_mask=decoder_attention_mask,
                encoder_hidden_states=encoder_outputs.last_hidden_state,
                encoder_attention_mask=encoder_outputs.attention_mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
            if return_logits or labels is None:
                logits = self._score(decoder_outputs.last_hidden_state)  # (B, A, V)

        text_embeds = None
        if align_input_ids is not None:
            text_embeds = self.encode_texts(align_input_ids, align_attention_mask)  # (B, D)
        elif encoder_outputs.question_embeds is not None:
            text_embeds = self.alignment.text_targets(encoder_outputs.question_embeds)  # (B, D)

        loss = loss_align = loss_ce = loss_answer = None
        # A model may lie on several devices: the terms are added up where the labels are.
        device = encoder_outputs.last_hidden_state.device if labels is None else labels.device
        if labels is not None or return_loss:
            text_ids = self._text_ids(
                *((input_ids, attention_mask) if align_input_ids is None else (align_input_ids, align_attention_mask))
            )
            losses = self.alignment(
                encoder_outputs.image_embeds, text_embeds, encoder_outputs.image_index, text_ids, image_ids
            ).to(device)  # (B,)
            num_rows = len(losses) if text_ids is None else (text_ids >= 0).any(dim=-1).sum().clamp(min=1).to(device)
            loss_align = losses.sum() / (num_rows if num_rows_in_batch is None else num_rows_in_batch)
        if labels is not None:
            answered = labels != -100
            num_items = answered.sum() if num_items_in_batch is None else num_items_in_batch
            num_items = torch.as_tensor(num_items, device=labels.device)
            # A step of captions alone has no answer token to share it out by.
            share = torch.where(num_items > 0, answered.sum() / num_items.clamp(min=1), 1.0)
            if num_rows_in_batch is None:
                loss_align = loss_align * share
            states = decoder_outputs.last_hidden_state  # (B, A, D)
            if logits is not None:
                answer_logits = logits[answered.to(logits.device)]  # (answer tokens, V)
            else:
                # Half of PathVQA's answers are one word: most of (B, A) is padding that needs no vocabulary scores.
                answer_logits = self._score(states[answered.to(states.device)])
            answer_labels = labels[answered].to(answer_logits.device)
            loss_ce = F.cross_entropy(
                answer_logits.float(), answer_labels, reduction="sum", label_smoothing=answer_smoothing
            )
            loss_ce = loss_ce.to(device) / num_items.clamp(min=1)
            loss = self.config.lambda_align * loss_align + self.config.lambda_ce * loss_ce
            if self.config.predict_answer or self.config.lambda_answer > 0:
                losses = self._answer_losses(states[:, 0], labels).to(device)  # (B,)
                num_answers = answered.any(dim=-1).sum().clamp(min=1) / share
                loss_answer = losses.sum() / (num_answers if num_answers_in_batch is None else num_answers_in_batch)
                loss = loss + self.config.lambda_answer * loss_answer
        elif return_loss:
            loss = self.config.lambda_align * loss_align
        if self.training and loss is not None:
            self._warn_of_targets_never_centered(labels)

        return MMJepaOutput(
            loss=loss,
            loss_align=loss_align,
            loss_ce=loss_ce,
            loss_answer=loss_answer,
            logits=logits,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            image_hidden_states=encoder_outputs.image_hidden_states,
            image_attentions=encoder_outputs.image_attentions,
            image_embeds=encoder_outputs.image_embeds,
            text_embeds=text_embeds,
        )

    def _text_ids(self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Token ids (B, L) with -1 where there is no token, by which texts are told apart and missing ones are known;
        None where there are no ids and cosine does without them."""
        if input_ids is None:
            if self.config.alignment_loss == "cosine":
                return None
            raise ValueError(
                f"alignment_loss {self.config.alignment_loss!r} compares the texts of a batch, and there is neither "
                "input_ids nor align_input_ids: give one of them beside encoder_outputs."
            )
        input_ids, attention_mask = self.encoder.ordered_text(input_ids, attention_mask)
        return input_ids.masked_fill(attention_mask == 0, -1)

    def _answer_losses(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses (B,) of the answers' embeddings predicted from the decoder's first states (B, D).

        Half of PathVQA's answers are yes or no: each distinct answer is encoded once.
        """
        distinct, rows = labels.unique(dim=0, return_inverse=True)
        has_token = distinct != -100
        pooled = self.encoder.encode_texts(
            distinct.masked_fill(~has_token, self.config.text_config.pad_token_id), has_token.long()
        )
        prediction = self._answer_prediction()
        targets = prediction.targets(pooled)[rows.to(pooled.device)]  # (B, D)
        return prediction(states, targets, distinct.masked_fill(~has_token, -1)[rows])

    def _score(self, answer_states: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(answer_states)
        return logits + self.final_logits_bias.to(logits.device)


MMJepaForConditionalGeneration.register_for_auto_class("AutoModel")

if __package__ == "mmjepa":  # the package itself, not a checkpoint's copy of this file
    from . import register_auto_classes

    register_auto_classes()

__all__ = ["MMJepaForConditionalGeneration", "MMJepaPreTrainedModel", "MMJepaEncoder", "MMJepaImageFeatures"]
