"""The models that are compared, on equal terms: equal sizes, random weights, one random batch."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from accelerate.utils import send_to_device
from measuring import DEVICE, autocast
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import BartConfig, BlipForQuestionAnswering, Dinov2Config

from mmjepa.alignment_mmjepa import MMJepaStatements
from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.experiments.baseline_models import (
    SharingEncoderDecoder,
    blip_config,
    blip_inputs,
    one_image_a_question,
    question_then_answer,
    question_then_answer_sharing,
    vision_encoder_decoder,
)
from mmjepa.losses_mmjepa import MMJepaAnswers
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

PROJECT, ROW_BY_ROW = "this project", "row by row"
SHARING_ENCODER_DECODER = "VisionEncoderDecoderModel, sharing"
VISION_ENCODER_DECODER = "VisionEncoderDecoderModel, as documented"
BLIP = "BlipForQuestionAnswering, as documented"
BOS, PAD, EOS = 0, 1, 2
DISTINCT_ANSWERS = 3200  # PathVQA's training split has 3,185
WRONG_STATEMENTS = 2  # of each row, as in training by default


@dataclass(frozen=True)
class Size:
    """Sizes of models and batch. `vision` and `text` are fields of `Dinov2Config` and `BartConfig`."""

    image_size: int
    questions: int
    vision: dict[str, int]
    text: dict[str, int]

    @property
    def image_tokens(self) -> int:
        return 1 + (self.image_size // self.vision["patch_size"]) ** 2


def bart_fields(layers: int, width: int, heads: int, **fields: int) -> dict[str, int]:
    """Fields of a `BartConfig` whose encoder and decoder are equally large."""
    halves = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * width))
    }
    return {"d_model": width, **halves, **fields}


def dinov2_fields(layers: int, width: int, heads: int, **fields: int) -> dict[str, int]:
    """Fields of a `Dinov2Config` with patches of 14 pixels."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": 14,
        **fields,
    }


SIZES = {
    "base": Size(  # as published: facebook/dinov2-base and facebook/bart-base
        image_size=224,
        questions=16,
        vision=dinov2_fields(12, 768, 12, image_size=518),
        text=bart_fields(6, 768, 12, vocab_size=50265, max_position_embeddings=1024),
    ),
    "small": Size(  # nearly that of configs/pathvqa_scratch.json
        image_size=112,
        questions=64,
        vision=dinov2_fields(4, 128, 4, image_size=112),
        text=bart_fields(3, 128, 4, vocab_size=4000, max_position_embeddings=128),
    ),
    "tiny": Size(
        image_size=56,
        questions=16,
        vision=dinov2_fields(2, 32, 2, image_size=56),
        text=bart_fields(2, 32, 2, vocab_size=1000, max_position_embeddings=64),
    ),
}


def random_batch(
    size: Size,
    questions_per_image: int,
    questions: int | None = None,
    image_size: int | None = None,
    question_lengths: tuple[int, int] = (6, 16),
) -> dict:
    """Random inputs of `MMJepaForConditionalGeneration` with the shapes of PathVQA, on the device.

    Questions have 6 to 16 tokens. Half of the answers have three, like `<s>yes</s>`, the others four to eight. The
    targets of statements and answers are given, because the Trainer encodes each text once, before training.
    """
    questions, image_size = questions or size.questions, image_size or size.image_size
    random = torch.Generator().manual_seed(0)

    def unit_vectors(*shape: int) -> torch.Tensor:
        return normalize(torch.randn(*shape, size.text["d_model"], generator=random), dim=-1)

    def text(shortest: int, longest: int) -> torch.Tensor:
        length = torch.randint(shortest, longest + 1, (), generator=random)
        ids = torch.randint(5, size.text["vocab_size"], (length,), generator=random)
        ids[0], ids[-1] = BOS, EOS
        return ids

    input_ids = pad_sequence([text(*question_lengths) for _ in range(questions)], True, PAD)  # (B, L)
    answers = [text(3, 3) if row % 2 else text(4, 8) for row in range(questions)]
    image_index = torch.arange(questions) // questions_per_image  # (B,)
    statements: MMJepaStatements = {
        "embeds": unit_vectors(questions),
        "ids": torch.arange(questions),
        "wrong_embeds": unit_vectors(questions, WRONG_STATEMENTS),
        "has_wrong": torch.ones(questions, WRONG_STATEMENTS, dtype=torch.bool),
    }
    answer_list: MMJepaAnswers = {
        "targets": unit_vectors(DISTINCT_ANSWERS),
        "log_counts": torch.zeros(DISTINCT_ANSWERS),
        "right": torch.arange(questions),
    }
    images = torch.randn(int(image_index[-1]) + 1, 3, image_size, image_size, generator=random)
    batch = {
        "pixel_values": images,
        "image_index": image_index,
        "image_ids": torch.arange(len(images)),
        "input_ids": input_ids,
        "attention_mask": (input_ids != PAD).long(),
        "labels": pad_sequence(answers, True, -100),  # (B, A)
        "statements": statements,
        "answers": answer_list,
    }
    return send_to_device(batch, DEVICE)


TRAINING_INPUTS: dict[str, Callable] = {
    PROJECT: dict,
    ROW_BY_ROW: one_image_a_question,
    SHARING_ENCODER_DECODER: partial(question_then_answer_sharing, pad=PAD),
    VISION_ENCODER_DECODER: partial(question_then_answer, pad=PAD),
    BLIP: partial(blip_inputs, pad=PAD),
}


def make_models(size: Size, names: Collection[str] = tuple(TRAINING_INPUTS)) -> dict[str, nn.Module]:
    """Models by name. This project's two forms share one model, and so do those of `VisionEncoderDecoderModel`."""
    torch.manual_seed(0)
    vision, text = Dinov2Config(**size.vision), BartConfig(**size.text)
    models: dict[str, nn.Module] = {}
    if PROJECT in names:
        config = MMJepaConfig(vision_config=size.vision, text_config=size.text)
        models[PROJECT] = models[ROW_BY_ROW] = MMJepaForConditionalGeneration(config)
    if VISION_ENCODER_DECODER in names:
        models[VISION_ENCODER_DECODER] = vision_encoder_decoder(vision, text)
        models[SHARING_ENCODER_DECODER] = SharingEncoderDecoder(models[VISION_ENCODER_DECODER])
    if BLIP in names:
        models[BLIP] = BlipForQuestionAnswering(blip_config(vision, text, size.image_size))
    return {name: model.to(DEVICE) for name, model in models.items()}


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """The Trainer's default: fused AdamW of the trained weights."""
    return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5, fused=True)


class TrainingStep:
    """What the Trainer does with a batch: forward, backward, gradient clipping, update."""

    def __init__(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict):
        self.model, self.optimizer = model.train(), optimizer
        # Like this project's Trainer: it asks only for the scores that the loss needs.
        # And it knows beforehand where the answers' tokens are: to look for them waits for a GPU.
        places = (batch["labels"] != -100).flatten().nonzero()[:, 0]  # (T,)
        own = {"return_logits": False, "training_step": {"answer_places": places}}
        options = own if name in (PROJECT, ROW_BY_ROW) else {}
        self.inputs = TRAINING_INPUTS[name](batch) | options
        self.questions = len(batch["labels"])

    def __call__(self):
        self.forward_backward()
        self.update()

    def loss(self) -> torch.Tensor:
        with autocast():
            return self.model(**self.inputs).loss

    def forward_backward(self):
        self.loss().backward()

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def state_bytes(self) -> int:
        """Weights and AdamW's two averages."""
        trained = sum(weight.nbytes for weight in self.model.parameters() if weight.requires_grad)
        return sum(weight.nbytes for weight in self.model.parameters()) + 2 * trained


def make_answering(name: str, model: nn.Module, batch: dict, new_tokens: int) -> Callable[[], torch.Tensor]:
    """A function that answers all questions of the batch greedily, with `new_tokens` tokens each (B, tokens)."""
    is_sharing = name in (PROJECT, SHARING_ENCODER_DECODER)
    images = {name: batch[name] for name in ("pixel_values", "image_index")}
    inputs = images if is_sharing else {"pixel_values": images["pixel_values"][images["image_index"]]}
    limits = {"do_sample": False, "min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
    if name in (VISION_ENCODER_DECODER, SHARING_ENCODER_DECODER):
        limits |= {"decoder_start_token_id": BOS, "pad_token_id": PAD}
        inputs["decoder_input_ids"] = batch["input_ids"]
    else:
        inputs |= {name: batch[name] for name in ("input_ids", "attention_mask")}

    @torch.inference_mode()
    def answer() -> torch.Tensor:
        with autocast():
            return model.generate(**inputs, **limits)[:, -new_tokens:]

    return answer
