"""Weights that are trained are float32, whatever a saved model's are."""

import logging

import torch
from transformers import PreTrainedModel

logger = logging.getLogger("mmjepa")

HALF = (torch.float16, torch.bfloat16)


def in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """`model` itself, its weights in float32 where those that are trained were in half precision; says so.

    In half precision most updates are lost: at a rate of 3e-5 they are smaller than what rounds to the same number.
    In which precision is computed is `precision`'s to say, not the weights'. A frozen part that alone is in half
    precision, such as the text encoder of `--bf16_text_encoder`, is left so, and so is what is quantized.
    """
    halves = {weight.dtype for weight in model.parameters() if weight.requires_grad and weight.dtype in HALF}
    if halves and not getattr(model, "is_quantized", False):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in halves))
        logger.warning("The model's weights are %s: they are trained, and saved, in float32", names)
        model.float()
    return model
