"""A model whose parts lie on several devices, as `device_map` puts them there.

The devices are pretended: fake tensors have a device and a shape and no values, and PyTorch refuses to put two of
different devices together as it does with real ones.
"""

import pytest
import torch
from accelerate.utils import send_to_device
from tiny import VISION
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers.initialization import no_init_weights

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

PARTS = (
    "encoder.image_encoder",
    "encoder.image_projector",
    "encoder.visual_prefix",
    "encoder.prefix_norm",
    "encoder.text_encoder",
    "alignment",
    "answer_prediction",
    "decoder",
    "lm_head",
)


def split(model, places):
    """Puts each part on its device, and what it is given there too, as accelerate's hooks do."""
    for name, place in zip(PARTS, places, strict=True):
        device = torch.device("cpu", place)

        def follow(module, args, kwargs, device=device):
            return send_to_device(args, device), send_to_device(kwargs, device)

        part = model.get_submodule(name)
        part.register_forward_pre_hook(follow, with_kwargs=True)
        for module in part.modules():
            own = dict(module.named_parameters(recurse=False))
            for key, value in own.items():
                setattr(module, key, torch.nn.Parameter(torch.empty_like(value, device=device)))
            for key, value in list(module.named_buffers(recurse=False)):
                setattr(module, key, torch.empty_like(value, device=device))
            if own:
                module.register_forward_pre_hook(follow, with_kwargs=True)
    return model


@pytest.mark.parametrize(
    ("alignment_loss", "places", "image_encoder"),
    [
        ("infonce", (0, 0, 0, 0, 1, 1, 1, 1, 1), "dinov2"),
        ("infonce", (1, 2, 3, 4, 5, 6, 7, 8, 0), "dinov2"),
        ("cosine", (0, 1, 2, 3, 4, 5, 6, 7, 8), "dinov2"),
        ("infonce", (1, 2, 3, 4, 5, 6, 7, 8, 0), "dinov2_with_registers"),
        ("infonce", (1, 2, 3, 4, 5, 6, 7, 8, 0), "dinov3_vit"),
        ("infonce", (1, 2, 3, 4, 5, 6, 7, 8, 0), "vit"),
    ],
)
def test_a_model_split_over_devices_answers_and_learns(make_config, alignment_loss, places, image_encoder):
    vision = VISION | {"model_type": image_encoder}
    config = make_config(alignment_loss=alignment_loss, lambda_answer=0.25, vision_config=vision)
    shapes = ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
    with FakeTensorMode(shape_env=shapes), no_init_weights(), torch.device("cpu:0"):
        model = split(MMJepaForConditionalGeneration(config).train(), places)
        model._looked_for_targets = True  # looking reads values, which fake tensors have not
        questions = torch.ones(3, 6, dtype=torch.long)
        inputs = {
            "input_ids": questions,
            "attention_mask": questions,
            "pixel_values": torch.randn(3, 3, 28, 28),
        }
        output = model(**inputs, labels=questions, num_items_in_batch=torch.tensor(18, device="cpu:0"))
        assert output.loss.device == questions.device and output.logits.device.index == places[-1]
        model.encode_texts(questions, questions)
        if alignment_loss == "infonce":
            assert model.score_statements(torch.randn(4, 64), inputs["pixel_values"]).shape == (3, 4)
        scores = model.rank_answers(model.encode_answers(questions, questions), **inputs)
        assert scores.shape == (3, 3)
        assert model.answer_log_likelihoods(questions, **inputs).shape == (3, 3)
