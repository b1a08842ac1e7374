"""The weights of a model that is trained: in float32, and whole where processes hold parts of them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..modeling_mmjepa import MMJepaForConditionalGeneration

logger = logging.getLogger("mmjepa")

HALF = (torch.float16, torch.bfloat16)


def in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """`model` itself, its weights in float32 where those that are trained were in half precision; says so.

    In half precision most updates are lost: at a rate of 3e-5 they are smaller than what rounds to the same number.
    The flag `precision` says in which precision is computed, and the weights don't. A frozen part that alone is in
    half precision, such as the text encoder of `--bf16_text_encoder`, stays so, and so does what is quantized.
    """
    halves = {weight.dtype for weight in model.parameters() if weight.requires_grad and weight.dtype in HALF}
    if halves and not getattr(model, "is_quantized", False):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in halves))
        logger.warning("The model's weights are %s: they are trained, and saved, in float32", names)
        model.float()
    return model


@contextmanager
def text_encoder_on(device: torch.device, model: MMJepaForConditionalGeneration) -> Iterator[None]:
    """Has the text encoder on `device` while it lasts: it is fast there, and the rest of the model may come later."""
    text_encoder, own_device = model.encoder.text_encoder, model.encoder.text_encoder.device
    text_encoder.to(device)
    try:
        yield
    finally:
        text_encoder.to(own_device)


def whole_copy(model: MMJepaForConditionalGeneration) -> MMJepaForConditionalGeneration:
    """A copy of a model under FSDP that has all weights on this process. All processes make it together.

    The parts under FSDP only run where all processes run them together, but processes answer different numbers of
    questions.
    """
    weights = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in model.state_dict().items()
    }
    with torch.device("meta"):
        copy = MMJepaForConditionalGeneration(model.config)
    copy.load_state_dict(weights, assign=True)
    copy.tie_weights()
    copy.generation_config = model.generation_config
    return copy.train(model.training)
