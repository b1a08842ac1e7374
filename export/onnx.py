"""Writes the model as ONNX graphs, which `OnnxModel` in onnx_model.py runs.

image_tower.onnx        pixel_values (I, 3, H, W) -> image_embeds (I, D), visual_tokens (I, M, D)
text_encoder.onnx       input_ids, attention_mask (B, L), padded on the right
                        -> question_states (B, L, D), text_embeds (B, D): the unit targets
decoder_step.onnx       decoder_input_ids (B, A), visual_tokens (B, M, D), question_states (B, L, D),
                        attention_mask (B, L) -> logits (B, V) of the next token
statement_scorer.onnx   image_embeds (I, D), visual_tokens (I, M, D), text_embeds (S, D)
                        -> logits (I, S) of being true; missing if the model can't score statements (`truth_weight` 0)

A graph's weights, in float32, are in a file beside it: its name and `.data`. The folder also holds the processor and
`generation_config.json` with the special tokens, the length of answers and `truth_temperature`, which divides the
logits of being true. Images have the size that the processor makes; I, B, S, L and A are free.
"""

import copy
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim
from transformers import GenerationConfig
from transformers.exporters import OnnxConfig, OnnxExporter

from ..data.images import prepared_shape
from ..encoder_mmjepa import masked_mean
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .command import export_saved_model

SPECIAL_TOKENS = ("decoder_start", "bos", "eos", "pad", "forced_bos", "forced_eos")
LENGTHS = ("max_length", "max_new_tokens")
# Settings of `generate` without effect on greedy answers: they change neither the most probable token nor the end of
# an answer. They concern only sampling, beams, caches and what is returned.
WITHOUT_EFFECT = (
    *("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("early_stopping", "length_penalty", "renormalize_logits"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "disable_compile", "compile_config"),
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"),
    *("transformers_version", "_from_model_config"),
)


class ImageTower(nn.Module):
    """Pixels (I, 3, H, W) -> `image_embeds` and `visual_tokens`: the first graph."""

    def __init__(self, model: MMJepaForConditionalGeneration):
        super().__init__()
        self.encoder = model.encoder

    def forward(self, pixel_values):
        states = self.encoder.get_image_features(pixel_values)
        return {"image_embeds": states.image_embeds, "visual_tokens": states.visual_tokens}


class TextEncoder(nn.Module):
    """Token ids and mask (B, L) -> a question's states and a statement's target: the second graph."""

    def __init__(self, model: MMJepaForConditionalGeneration):
        super().__init__()
        self.text_encoder, self.targets = model.encoder.text_encoder, model.alignment.targets

    def forward(self, input_ids, attention_mask):
        states = self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state  # (B, L, D)
        return {"question_states": states, "text_embeds": self.targets(masked_mean(states, attention_mask))}


class DecoderStep(nn.Module):
    """Reads the whole answer so far at every step. Answers are short: passing a cache would cost more."""

    def __init__(self, model: MMJepaForConditionalGeneration):
        super().__init__()
        self.decoder, self.lm_head, self.bias = model.decoder, model.lm_head, model.final_logits_bias

    def forward(self, decoder_input_ids, visual_tokens, question_states, attention_mask):
        visual_mask = attention_mask.new_ones(visual_tokens.shape[:2])  # (B, M)
        states = self.decoder(
            decoder_input_ids,
            encoder_hidden_states=torch.cat([visual_tokens, question_states], dim=1),  # (B, M+L, D)
            encoder_attention_mask=torch.cat([visual_mask, attention_mask], dim=1),
            use_cache=False,
        ).last_hidden_state
        return {"logits": self.lm_head(states[:, -1]) + self.bias}  # (B, V)


class StatementScorer(nn.Module):
    """Images' states and statements' targets -> logits (I, S) of being true: the fourth graph."""

    def __init__(self, model: MMJepaForConditionalGeneration):
        super().__init__()
        self.alignment = model.alignment

    def forward(self, image_embeds, visual_tokens, text_embeds):
        read, _ = self.alignment.cosines(image_embeds, visual_tokens, text_embeds)
        return {"logits": self.alignment.truth_logits(read)}


def example_inputs(
    model: MMJepaForConditionalGeneration, image_shape: tuple[int, int, int]
) -> dict[str, tuple[nn.Module, dict, dict]]:
    """For each graph its module, inputs to trace it with, and the names of the axes that stay free.

    transformers' own `export_for_generation` leaves the encoder out and fixes the cache at one token.

    Args:
        image_shape: (3, H, W) of the images.
    """
    config = model.config
    images, questions, length, tokens = Dim("images"), Dim("questions"), Dim("length"), Dim("tokens")
    statements = Dim("statements")
    width = config.text_config.d_model
    # Each free axis has at least size 2 here: the tracer takes an axis of size 1 for a constant.
    ids = torch.full((2, 5), config.text_config.bos_token_id)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    step = {
        "decoder_input_ids": ids[:, :3].contiguous(),
        "visual_tokens": torch.zeros(2, config.num_image_tokens, width),
        "question_states": torch.zeros(2, 5, width),
        "attention_mask": text["attention_mask"],
    }
    text_axes = {0: questions, 1: length}
    step_axes = {"decoder_input_ids": {0: questions, 1: tokens}, "visual_tokens": {0: questions}}
    step_axes |= {"question_states": text_axes, "attention_mask": text_axes}
    pixels = {"pixel_values": torch.zeros(2, *image_shape)}
    graphs = {
        "image_tower": (ImageTower(model), pixels, {"pixel_values": {0: images}}),
        "text_encoder": (TextEncoder(model), text, dict.fromkeys(text, text_axes)),
        "decoder_step": (DecoderStep(model), step, step_axes),
    }
    if config.truth_weight > 0:
        # Two images and three statements: the tracer would take equal numbers for one.
        states = {"image_embeds": torch.ones(2, width), "visual_tokens": step["visual_tokens"]}
        scored = states | {"text_embeds": torch.ones(3, width)}
        scored_axes = dict.fromkeys(states, {0: images}) | {"text_embeds": {0: statements}}
        graphs["statement_scorer"] = (StatementScorer(model), scored, scored_axes)
    return graphs


def greedy_settings(settings: GenerationConfig) -> GenerationConfig:
    """The part of a model's `settings` that greedy answers depend on. Without a length it has the library's default.

    Raises:
        ValueError: another setting would make `generate` answer differently from [`OnnxModel`].
    """
    defaults = GenerationConfig._get_default_generation_params()
    tokens = [f"{name}_token_id" for name in SPECIAL_TOKENS]
    for name, value in settings.to_diff_dict().items():
        if name not in (*tokens, *LENGTHS, *WITHOUT_EFFECT) and value not in (None, defaults.get(name)):
            raise ValueError(
                f"the model's generation settings have {name} {value!r}, and the exported graphs answer greedily "
                f"without it: take {name} out of its generation_config.json, or answer with the model itself."
            )
    if settings.max_new_tokens is not None:
        steps = settings.max_new_tokens
    else:  # `max_length` counts the answers' first token, its default does not
        steps = defaults["max_length"] if settings.max_length is None else settings.max_length - 1
    kept = GenerationConfig(**{name: getattr(settings, name) for name in tokens}, max_new_tokens=steps)
    if kept.decoder_start_token_id is None:
        kept.decoder_start_token_id = kept.bos_token_id
    if kept.pad_token_id is None:
        eos = kept.eos_token_id
        kept.pad_token_id = eos[0] if isinstance(eos, list) else eos
    return kept


def export_onnx(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, folder: str | Path) -> None:
    """Writes the folder described at the top of this module; the model itself stays as it is.

    Raises:
        ValueError: the model's generation settings ask for more than greedy answers.
    """
    folder = Path(folder)
    settings = greedy_settings(model.generation_config)
    processor.save_pretrained(folder)
    if model.config.truth_temperature is not None:
        settings.truth_temperature = model.config.truth_temperature  # type: ignore[attr-defined]
    settings.save_pretrained(folder)
    model = copy.deepcopy(model).cpu().float().eval()
    image_shape = prepared_shape(processor.image_processor)
    for name, (module, inputs, axes) in example_inputs(model, image_shape).items():
        with redirect_stdout(StringIO()):  # the exporter prints each of its stages
            program = OnnxExporter().export(module.eval(), inputs, OnnxConfig(dynamic_shapes=axes)).program
        for node in program.graph.all_nodes():
            node.metadata_props.clear()  # they name this machine's source files
        OnnxExporter.save_program(program, folder / f"{name}.onnx")


def main(argv: list[str] | None = None) -> None:
    """Exports a saved model as ONNX graphs, from the command line."""
    export_saved_model(export_onnx, "ONNX graphs", argv)


if __name__ == "__main__":
    main()
