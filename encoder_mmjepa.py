"""From pixels and a question to what the decoder reads: image encoder, frozen text encoder and visual prefix.

Symbols in the shape comments: B questions, I distinct images, P patches of width Dv, S special tokens before them (CLS
and registers), L question tokens of width D, M visual tokens, Q learned queries.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs

from .alignment_mmjepa import INITIAL_TRUTH_SCALE, MMJepaAlignment
from .configuration_mmjepa import MMJepaConfig, height_and_width
from .loading_mmjepa import image_encoder_class, known_arguments, share_weights
from .losses_mmjepa import CLIP_LOGIT_SCALE, MMJepaAnswerPrediction
from .targets_mmjepa import TargetSpace, l2_normalize

# How likely a visual token is to read a patch outside of its cell at the start, relative to one inside.
OUTSIDE_CELL = 0.003


@dataclass
class MMJepaImageFeatures(ModelOutput):
    """Features of I images. Compute them once, reuse them for any number of questions.

    image_embeds (I, D): the aligned image embedding p, not normalised.
    visual_tokens (I, M, D): what the decoder reads.
    visual_token_attentions (I, M, P): how much each visual token reads of each patch, the mean over heads; the aligned
    embedding's row is 0. None with the pooled prefix.
    last_hidden_state (I, S+P, Dv), hidden_states, attentions: of the image encoder; answers don't need them.
    pooler_output (I, M, D): the visual tokens, under the name that the library's models give them.
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
    image_embeds (I, D), visual_tokens (I, M, D): of the images; image_index (B,): which one each question is about.
    question_embeds (B, D): the mean of each question's token states.
    hidden_states, attentions: of the text encoder; image_hidden_states, image_attentions: of the image encoder.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    question_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: tuple[torch.Tensor, ...] | None = None
    image_attentions: tuple[torch.Tensor, ...] | None = None


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `states` (B, L, D) over the positions where `mask` (B, L) is 1 -> (B, D).

    A row without any 1 gives zeros. Averages in float32: in bfloat16 a sum over 256 tokens loses 2 digits.
    """
    weights = mask.to(states.device).unsqueeze(-1).float()  # (B, L, 1)
    total = (states.float() * weights).sum(dim=1)  # (B, D)
    return (total / weights.sum(dim=1).clamp(min=1)).to(states.dtype)


def padding_last(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same rows (B, L) with the padding moved behind the text; the text keeps its order.

    BART counts positions from the first column whatever the mask says. Without this, a question padded on the left
    would read differently from the same question padded on the right.
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
    """The share of each of the `cells` (Q, 2, 2) that lies on each patch of a grid of h x w -> (Q, P).

    A cell's shares add up to 1. A patch's shares add up to Q / P: the cells have equal areas and cover the image.
    """
    axes = []
    for (start, end), size in zip(cells.permute(1, 2, 0), grid, strict=True):  # (Q,) each
        edges = torch.arange(size + 1, device=cells.device) / size  # (size+1,)
        overlap = torch.minimum(end[:, None], edges[1:]) - torch.maximum(start[:, None], edges[:-1])  # (Q, size)
        axes.append(overlap.clamp(min=0) / (end - start)[:, None])
    return (axes[0][:, :, None] * axes[1][:, None]).flatten(1)  # (Q, P)


class MMJepaPooledPrefix(nn.Module):
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


class MMJepaPatchesPrefix(nn.Module):
    """The aligned embedding as one visual token; learned queries that cross-attend to the patches make the others.

    A resampler (arXiv 2204.14198). The image is cut into as many cells as there are queries. A query starts as the
    code of its cell's centre and reads its cell: a bias on the attention scores makes all other patches unlikely, and
    the content of a patch can outweigh it. Without the bias all tokens start as the mean of the image, and training
    from random weights stayed there. The bias follows from the grid of patches, so images of other sizes and shapes
    are read the same way.
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
        # Not by the library's attention interface: its flash attention silently ignores a bias, and only its eager
        # form returns the weights. Q is small.
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (I, heads, Q, P)
        bias = self._cell_bias(grid).to(scores.device, non_blocking=True)  # (Q, P)
        weights = (scores.float() + bias).softmax(dim=-1)  # (I, heads, Q, P)
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


class MMJepaPreTrainedModel(PreTrainedModel):
    """What both model classes share: configuration, initial weights, saving and loading."""

    config: MMJepaConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMJepaPooledPrefix", "MMJepaPatchesPrefix"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """As in the library, but weights are saved under the names they have here.

        By default transformers 5 writes DINOv2's attention under the names of old checkpoints. `from_pretrained` maps
        them back. The Trainer does not when it resumes or loads the best checkpoint (`_load_from_checkpoint`,
        `_load_best_model`): it only warns, and trains on with an attention that was not loaded.
        """
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)
        share_weights(save_directory, "config.json")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialises the new layers alone: each tower initialises its own as its library class does.

        Linear layers start with variance 1 / inputs, so that a token of unit variance keeps it. BERT's 0.02 is made
        for width 768: in a narrow model it would make the image's part of the visual tokens too small for the decoder
        to use.
        """
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_factor * module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MMJepaPatchesPrefix):
            centres = image_cells(len(module.queries)).mean(dim=-1)  # (Q, 2)
            head_width = module.queries.shape[1] // module.num_heads
            codes = sincos_positions(centres, head_width, self.config.position_turns)  # (Q, D/heads)
            init.copy_(module.queries, codes.repeat(1, module.num_heads))
            # With keys of 0 only the cells decide at the start. With random keys some patches would not be read.
            init.zeros_(module.k_proj.weight)
        elif isinstance(module, MMJepaAnswerPrediction):
            init.constant_(module.logit_scale, CLIP_LOGIT_SCALE)
        elif isinstance(module, MMJepaAlignment):
            if module.loss == "infonce":
                init.constant_(module.logit_scale, CLIP_LOGIT_SCALE)
            if module.truth_weight > 0:
                init.constant_(module.truth_scale, INITIAL_TRUTH_SCALE)
                init.zeros_(module.truth_bias)
        elif isinstance(module, TargetSpace):
            if module.kind != "embedding":
                init.zeros_(module.mean)
            if module.kind == "whitened":
                init.copy_(module.whitening, torch.eye(len(module.whitening)))


class MMJepaEncoder(MMJepaPreTrainedModel):
    """Image encoder, frozen text encoder and visual prefix: from pixels and a question to what the decoder reads."""

    def __init__(self, config: MMJepaConfig):
        super().__init__(config)
        model_class, made_with = image_encoder_class(config.vision_config)
        self.image_encoder = model_class(config.vision_config, **made_with)
        self.text_encoder = BartEncoder(config.text_config)
        vision_width, text_width = config.vision_config.hidden_size, config.text_config.d_model
        self.image_projector = nn.Linear(vision_width, text_width) if config.project_image else nn.Identity()
        self.visual_prefix = (MMJepaPooledPrefix if config.visual_prefix == "pooled" else MMJepaPatchesPrefix)(config)
        self.prefix_norm = nn.LayerNorm(text_width)
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True):
        """The text encoder stays frozen and in eval mode: its dropout would change a text's target at every step.

        The image encoder's mask token, which only its own pretraining uses, is frozen too. This is done here and not
        once in `__init__`: loading a checkpoint makes new parameters that require gradients (transformers'
        `set_param_for_module`), and then calls `eval()`.
        """
        super().train(mode)
        self.text_encoder.train(False).requires_grad_(False)
        mask_token = getattr(self.image_encoder.embeddings, "mask_token", None)
        if mask_token is not None:
            mask_token.requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.text_encoder.embed_tokens = value  # type: ignore[assignment]

    # The library finds an image encoder by one of its own names for it, and saved weights are named `image_encoder`.
    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.image_encoder if modality == "image" else super().get_encoder(modality)

    def set_encoder(self, encoder: nn.Module, modality: str | None = None) -> None:
        if modality == "image":
            self.image_encoder = encoder  # type: ignore[assignment]
        else:
            super().set_encoder(encoder, modality)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> MMJepaImageFeatures:
        """Features of the images `pixel_values` (I, 3, H, W), normalised as the image processor does it."""
        if pixel_values.ndim != 4 or not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values is {pixel_values.dtype} of shape {tuple(pixel_values.shape)}: give images "
                "(I, 3, H, W) as floats, rescaled and normalised by the processor."
            )
        kwargs = known_arguments(MMJepaEncoder.get_image_features, kwargs)
        if self.config.vision_config.model_type == "vit":  # the others take images of any size by themselves
            kwargs["interpolate_pos_encoding"] = True
        outputs = self.image_encoder(pixel_values, **kwargs)
        states = outputs.last_hidden_state  # (I, S+P, Dv)
        grid = self.patch_grid(pixel_values)
        patches = states[:, -grid[0] * grid[1] :]  # (I, P, Dv): the special tokens are before them in every class
        pooled = states[:, 0] if self.config.image_pooling == "cls" else patches.mean(dim=1)  # (I, Dv)
        image_embeds = self.image_projector(l2_normalize(pooled))  # (I, D)
        tokens, read = self.visual_prefix(image_embeds, patches, grid)  # (I, M, D), (I, M, P)
        return MMJepaImageFeatures(
            image_embeds=image_embeds,
            visual_tokens=self.prefix_norm(tokens),
            visual_token_attentions=read,
            last_hidden_state=states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def patch_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """How many rows and columns of patches images (I, 3, H, W) have."""
        height, width = height_and_width(self.config.vision_config.patch_size)
        return pixel_values.shape[-2] // height, pixel_values.shape[-1] // width

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
        """Visual tokens and question states (B, M+L, D) of questions (B, L) about images or their features.

        Args:
            pixel_values, image_features: the images (I, 3, H, W), or what `get_image_features` made of them.
            image_index: the image (B,) of each question; needed unless I == B.

        Raises:
            ValueError: no images, both pixels and features, I != B without `image_index`, or an index out of range.
            TypeError: an unknown argument.
        """
        known = known_arguments(MMJepaEncoder.forward, kwargs)
        if (pixel_values is None) == (image_features is None):
            given = "neither" if pixel_values is None else "both"
            raise ValueError(
                f"{given} of pixel_values and image_features given: give the images' pixel_values (I, 3, H, W), or "
                "the image_features that get_image_features made of them."
            )
        if image_features is None:
            image_features = self.get_image_features(pixel_values, **known)
        on_training_path = self.training and not input_ids.is_cpu
        image_index = resolve_image_index(
            image_index, len(image_features.visual_tokens), input_ids, check_range=not on_training_path
        )

        input_ids, attention_mask = self.ordered_text(input_ids, attention_mask)
        question = self._read_questions(input_ids, attention_mask, **known)
        # Parts of a model may lie on several devices: the output is put together where the text encoder is.
        states = question.last_hidden_state  # (B, L, D)
        visual_tokens = image_features.visual_tokens.to(states.device)
        tokens = visual_tokens[image_index.to(states.device)]  # (B, M, D)
        attention_mask = attention_mask.to(states.device)
        visual_mask = attention_mask.new_ones(tokens.shape[:2])  # (B, M)
        output = MMJepaEncoderOutput(
            last_hidden_state=torch.cat([tokens, states.to(tokens.dtype)], dim=1),  # (B, M+L, D)
            attention_mask=torch.cat([visual_mask, attention_mask], dim=1),  # (B, M+L)
            image_embeds=image_features.image_embeds,
            visual_tokens=image_features.visual_tokens,
            image_index=image_index,
            question_embeds=masked_mean(states, attention_mask),
            hidden_states=question.hidden_states,
            attentions=question.attentions,
            image_hidden_states=image_features.hidden_states,
            image_attentions=image_features.attentions,
        )
        return output.to_tuple() if return_dict is False else output

    @torch.no_grad()
    def _read_questions(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """The text encoder's output for questions (B, L). Equal ones are read once, but not in training.

        To find them waits for the device, as generation does at each token, and a compiled graph has fixed shapes.
        """
        if self.training or torch.compiler.is_compiling():
            return self.text_encoder(input_ids, attention_mask=attention_mask, **kwargs)
        texts = torch.stack([input_ids, attention_mask.to(input_ids.dtype)], dim=1)  # (B, 2, L)
        distinct, rows = texts.unique(dim=0, return_inverse=True)  # (Q, 2, L), (B,)
        if len(distinct) == len(rows):
            return self.text_encoder(input_ids, attention_mask=attention_mask, **kwargs)
        output = self.text_encoder(distinct[:, 0], attention_mask=distinct[:, 1], **kwargs)

        def of_rows(states: torch.Tensor) -> torch.Tensor:
            return states[rows.to(states.device)]

        return BaseModelOutput(
            last_hidden_state=of_rows(output.last_hidden_state),  # (B, L, D)
            hidden_states=output.hidden_states and tuple(map(of_rows, output.hidden_states)),
            attentions=output.attentions and tuple(map(of_rows, output.attentions)),
        )

    def ordered_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None):
        if attention_mask is None:
            attention_mask = (input_ids != self.config.text_config.pad_token_id).long()
        return padding_last(input_ids, attention_mask)


def resolve_image_index(
    image_index: torch.Tensor | None, num_images: int, input_ids: torch.Tensor, check_range: bool = True
) -> torch.Tensor:
    """The image (B,) of each question: as given and checked, or one image a question in order.

    Indexing alone would read -1 as the last image. Reading the range waits for the device, and a compiled graph can't
    branch on what it reads. So in training on a device, and under compilation, an assertion runs on the device.
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


# Names of weights saved before targets could be whitened.
register_checkpoint_conversion_mapping(
    MMJepaConfig.model_type,
    [
        WeightRenaming(r"^alignment\.text_mean$", "alignment.targets.mean"),
        WeightRenaming(r"^answer_prediction\.answer_mean$", "answer_prediction.targets.mean"),
    ],
    overwrite=True,
)

__all__ = ["MMJepaEncoder", "MMJepaEncoderOutput", "MMJepaImageFeatures", "MMJepaPreTrainedModel"]
