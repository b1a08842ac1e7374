"""The models that are compared, on equal terms: equal sizes, random weights, one random batch."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from accelerate.utils import send_to_device
from measuring import DEVICE, autocast
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BartConfig,
    BartForCausalLM,
    BlipConfig,
    BlipForQuestionAnswering,
    Dinov2Config,
    Dinov2Model,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from mmjepa.alignment_mmjepa import MMJepaStatements
from mmjepa.configuration_mmjepa import MMJepaConfig
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


def one_image_a_question(batch: dict) -> dict:
    """The same batch with the image repeated for each question, as data sets store it."""
    image_index = batch["image_index"]
    repeated = {**batch, "pixel_values": batch["pixel_values"][image_index], "image_ids": image_index}
    del repeated["image_index"]
    return repeated


def question_then_answer(batch: dict) -> dict[str, torch.Tensor]:
    """Inputs of a decoder without a text encoder, with the image repeated for each question. The decoder reads the
    question as the start of its own text, followed by the answer. Only the answer has a loss."""
    inputs, targets = [], []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        question, answer = ids[mask == 1], labels[labels != -100]
        tokens = torch.cat([question, answer])
        inputs.append(tokens[:-1])
        targets.append(torch.where(torch.arange(len(tokens), device=DEVICE) < len(question), -100, tokens)[1:])
    return {
        "pixel_values": one_image_a_question(batch)["pixel_values"],
        "decoder_input_ids": pad_sequence(inputs, True, PAD),  # (B, L+A)
        "labels": pad_sequence(targets, True, -100),
    }


def question_then_answer_sharing(batch: dict) -> dict[str, torch.Tensor]:
    """The same with each image once."""
    return question_then_answer(batch) | {name: batch[name] for name in ("pixel_values", "image_index")}


def blip_inputs(batch: dict) -> dict[str, torch.Tensor]:
    """Inputs of BLIP. It shifts the labels itself and also reads them as its decoder's inputs, without the -100."""
    inputs = one_image_a_question(batch)
    answered = inputs["labels"] != -100
    return {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")} | {
        "decoder_input_ids": inputs["labels"].masked_fill(~answered, PAD),
        "decoder_attention_mask": answered.long(),
    }


class SharingEncoderDecoder(nn.Module):
    """A `VisionEncoderDecoderModel` that encodes each image once: it takes the states of each question's image as its
    `encoder_outputs`. The library's documentation does not show this use."""

    def __init__(self, model: VisionEncoderDecoderModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, image_index: torch.Tensor, **inputs) -> Seq2SeqLMOutput:
        return self.model(encoder_outputs=self.encode(pixel_values, image_index), **inputs)

    def generate(self, pixel_values: torch.Tensor, image_index: torch.Tensor, **inputs) -> torch.Tensor:
        return self.model.generate(encoder_outputs=self.encode(pixel_values, image_index), **inputs)

    def encode(self, pixel_values: torch.Tensor, image_index: torch.Tensor) -> BaseModelOutput:
        states = self.model.encoder(pixel_values).last_hidden_state  # (I, N, D)
        return BaseModelOutput(last_hidden_state=states[image_index])  # (B, N, D)


TRAINING_INPUTS: dict[str, Callable] = {
    PROJECT: dict,
    ROW_BY_ROW: one_image_a_question,
    SHARING_ENCODER_DECODER: question_then_answer_sharing,
    VISION_ENCODER_DECODER: question_then_answer,
    BLIP: blip_inputs,
}


def make_models(size: Size, names: Collection[str] = tuple(TRAINING_INPUTS)) -> dict[str, nn.Module]:
    """Models by name. This project's two forms share one model, and so do those of `VisionEncoderDecoderModel`."""
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {}
    if PROJECT in names:
        config = MMJepaConfig(vision_config=size.vision, text_config=size.text)
        models[PROJECT] = models[ROW_BY_ROW] = MMJepaForConditionalGeneration(config)
    if VISION_ENCODER_DECODER in names:
        bart = BartForCausalLM(BartConfig(**size.text, is_decoder=True, add_cross_attention=True))
        dinov2 = Dinov2Model(Dinov2Config(**size.vision))
        models[VISION_ENCODER_DECODER] = VisionEncoderDecoderModel(encoder=dinov2, decoder=bart)
        models[SHARING_ENCODER_DECODER] = SharingEncoderDecoder(models[VISION_ENCODER_DECODER])
    if BLIP in names:
        models[BLIP] = BlipForQuestionAnswering(blip_config(size))
    return {name: model.to(DEVICE) for name, model in models.items()}


def blip_config(size: Size) -> BlipConfig:
    """BLIP with DINOv2's patches and with the layers and widths of both towers."""
    width, heads = size.vision["hidden_size"], size.vision["num_attention_heads"]
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": size.vision["num_hidden_layers"],
        "num_attention_heads": heads,
        "image_size": size.image_size,
        "patch_size": size.vision["patch_size"],
        "initializer_range": 0.02,
    }
    text = {
        "vocab_size": size.text["vocab_size"],
        "hidden_size": size.text["d_model"],
        "encoder_hidden_size": width,
        "intermediate_size": size.text["decoder_ffn_dim"],
        "num_hidden_layers": size.text["decoder_layers"],
        "num_attention_heads": size.text["decoder_attention_heads"],
        "max_position_embeddings": size.text["max_position_embeddings"],
    }
    tokens = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS, "sep_token_id": EOS}
    return BlipConfig(vision_config=vision, text_config=text | tokens)


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
