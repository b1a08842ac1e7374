"""Stock models to compare with, of the widths and layers of this project's model, and a linear probe of it.

They read the batches of [`VqaCollator`]: images `pixel_values` (I, 3, H, W), questions `input_ids` and
`attention_mask` (B, L) about the images `image_index` (B,), answers `labels` (B, A).
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BlipConfig,
    BlipForQuestionAnswering,
    Dinov2Config,
    Dinov2Model,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor

Batch = dict[str, Any]


class Baseline(nn.Module):
    """A model that learns from batches and answers their questions.

    Args:
        model: this project's model, whose configuration gives the sizes.
        processor: of `model`.
        answers: those of the training rows.
        max_new_tokens: the most tokens that an answer has.
    """

    def __init__(
        self,
        model: MMJepaForConditionalGeneration,
        processor: MMJepaProcessor,
        answers: Sequence[str],
        max_new_tokens: int,
    ):
        super().__init__()
        self.tokenizer = processor.tokenizer
        self.limits: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": max_new_tokens}

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def answer(self, batch: Batch) -> list[str]:
        """The answers to the B questions of a batch, which are equally long."""
        raise NotImplementedError

    def texts_of(self, tokens: Any) -> list[str]:
        """Of tokens (B, A) that a model wrote."""
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


class QuestionOnly(Baseline):
    """BART, which reads the question and never the image."""

    def __init__(self, model, processor, answers, max_new_tokens):
        super().__init__(model, processor, answers, max_new_tokens)
        self.bart = BartForConditionalGeneration(model.config.text_config)

    def forward(self, batch):
        return self.bart(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss

    def answer(self, batch):
        question = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return self.texts_of(self.bart.generate(**question, **self.limits))  # type: ignore[misc]  # the library's own


class LinearProbe(Baseline):
    """A linear layer from a trained model's image embedding and the question's bag of tokens to a training answer.

    Nothing else learns. Embeddings are standardised before the layer, as in MAE's linear probes (He et al. 2022, arXiv
    2111.06377).
    """

    def __init__(self, model, processor, answers, max_new_tokens):
        super().__init__(model, processor, answers, max_new_tokens)
        self.encoder = model.encoder.requires_grad_(False)
        self.answers = sorted(set(answers))
        # A batch has the tokens of its answers, not their texts.
        labels = processor(answers=self.answers)["labels"]
        self.number_of = {without_padding(ids): number for number, ids in enumerate(labels)}
        width = model.config.text_config.d_model
        self.standardize = nn.BatchNorm1d(width, affine=False)
        self.classifier = nn.Linear(width + model.config.text_config.vocab_size, len(self.answers))

    def train(self, mode: bool = True):
        super().train(mode)
        self.encoder.eval()
        return self

    def scores(self, batch: Batch) -> torch.Tensor:
        """Of each answer for each question (B, K)."""
        with torch.no_grad():
            embeds = self.encoder.get_image_features(batch["pixel_values"]).image_embeds  # (I, D)
        image = self.standardize(embeds.float()[batch["image_index"]])  # (B, D)
        words = image.new_zeros(len(image), self.classifier.in_features - image.shape[1])  # (B, V)
        words = words.scatter(1, batch["input_ids"], batch["attention_mask"].to(words.dtype))
        return self.classifier(torch.cat([image, words], dim=1))

    def forward(self, batch):
        answers = [self.number_of[without_padding(ids)] for ids in batch["labels"].tolist()]
        return F.cross_entropy(self.scores(batch).float(), torch.tensor(answers, device=batch["labels"].device))

    def answer(self, batch):
        return [self.answers[number] for number in self.scores(batch).argmax(dim=1).tolist()]


def without_padding(labels: Sequence[int]) -> tuple[int, ...]:
    """The tokens of one answer."""
    return tuple(number for number in labels if number != -100)


class Blip(Baseline):
    """BLIP's model for questions about images (Li et al. 2022, arXiv 2201.12086), from random weights.

    Raises:
        ValueError: the two towers differ in width, which the library's class does not allow.
    """

    def __init__(self, model, processor, answers, max_new_tokens):
        super().__init__(model, processor, answers, max_new_tokens)
        vision, text = model.config.vision_config, model.config.text_config
        if vision.hidden_size != text.d_model:
            raise ValueError(
                f"the image encoder has a width of {vision.hidden_size} and the text model one of {text.d_model}: "
                "for BLIP, give a --vision_config whose hidden_size equals the d_model in --text_config."
            )
        config = blip_config(vision, text, vision.image_size)
        config.text_config.hidden_dropout_prob = text.dropout
        self.blip = BlipForQuestionAnswering(config)

    def forward(self, batch):
        return self.blip(**blip_inputs(batch, self.tokenizer.pad_token_id)).loss

    def answer(self, batch):
        inputs = one_image_a_question(batch)
        inputs = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
        return self.texts_of(self.blip.generate(**inputs, **self.limits))


class VisionEncoderDecoder(Baseline):
    """DINOv2 and BART's decoder, which reads the question as the start of its own text.

    The decoder has the layers of both halves of BART, and positions for the texts of both.
    """

    def __init__(self, model, processor, answers, max_new_tokens):
        super().__init__(model, processor, answers, max_new_tokens)
        config = deepcopy(model.config.text_config)
        config.decoder_layers += config.encoder_layers
        config.max_position_embeddings *= 2
        stock = vision_encoder_decoder(model.config.vision_config, config)
        self.sharing = SharingEncoderDecoder(stock)
        self.start: dict[str, Any] = {
            "decoder_start_token_id": config.bos_token_id,
            "pad_token_id": config.pad_token_id,
        }

    def forward(self, batch):
        return self.sharing(**question_then_answer_sharing(batch, self.tokenizer.pad_token_id)).loss

    def answer(self, batch):
        questions = batch["input_ids"]  # (B, L)
        images = {name: batch[name] for name in ("pixel_values", "image_index")}
        tokens = self.sharing.generate(**images, decoder_input_ids=questions, **self.start, **self.limits)
        return self.texts_of(tokens[:, questions.shape[1] :])


BASELINES: dict[str, type[Baseline]] = {
    "question_only": QuestionOnly,
    "linear_probe": LinearProbe,
    "blip": Blip,
    "vision_encoder_decoder": VisionEncoderDecoder,
}


class SharingEncoderDecoder(nn.Module):
    """A `VisionEncoderDecoderModel` that encodes each image once: it takes the states of each question's image as its
    `encoder_outputs`. The library's documentation does not show this use."""

    def __init__(self, model: VisionEncoderDecoderModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, image_index: torch.Tensor, **inputs) -> Seq2SeqLMOutput:
        return self.model(encoder_outputs=self.encode(pixel_values, image_index), **inputs)

    def generate(self, pixel_values: torch.Tensor, image_index: torch.Tensor, **inputs) -> Any:
        encoded = self.encode(pixel_values, image_index)
        return self.model.generate(encoder_outputs=encoded, **inputs)  # type: ignore[misc]  # the library's own mixin

    def encode(self, pixel_values: torch.Tensor, image_index: torch.Tensor) -> BaseModelOutput:
        states = self.model.encoder(pixel_values).last_hidden_state  # (I, N, D)
        return BaseModelOutput(last_hidden_state=states[image_index])  # (B, N, D)


def vision_encoder_decoder(vision: Dinov2Config, text: BartConfig) -> VisionEncoderDecoderModel:
    """DINOv2 and the decoder of BART, from random weights."""
    decoder = BartConfig(**{**text.to_dict(), "is_decoder": True, "add_cross_attention": True})
    # Generation makes its cache for as many layers as the encoder has, though there is none.
    decoder.encoder_layers = decoder.decoder_layers
    return VisionEncoderDecoderModel(encoder=Dinov2Model(vision), decoder=BartForCausalLM(decoder))


def blip_config(vision: Dinov2Config, text: BartConfig, image_size: int) -> BlipConfig:
    """BLIP with DINOv2's patches and with the layers and widths of both towers.

    Its two text halves are equally large: both have the layers of BART's decoder.
    """
    vision_fields = {
        "hidden_size": vision.hidden_size,
        "intermediate_size": int(vision.mlp_ratio * vision.hidden_size),
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": image_size,
        "patch_size": vision.patch_size,
        "initializer_range": vision.initializer_range,
    }
    text_fields = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.d_model,
        "encoder_hidden_size": vision.hidden_size,
        "intermediate_size": text.decoder_ffn_dim,
        "num_hidden_layers": text.decoder_layers,
        "num_attention_heads": text.decoder_attention_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "initializer_range": text.init_std,
        "bos_token_id": text.bos_token_id,
        "pad_token_id": text.pad_token_id,
        "eos_token_id": text.eos_token_id,
        "sep_token_id": text.eos_token_id,  # which ends its answers
    }
    return BlipConfig(vision_config=vision_fields, text_config=text_fields)


def one_image_a_question(batch: Batch) -> dict[str, Any]:
    """The same batch with the image repeated for each question, as data sets store it."""
    image_index = batch["image_index"]
    repeated = {**batch, "pixel_values": batch["pixel_values"][image_index], "image_ids": image_index}
    del repeated["image_index"]
    return repeated


def question_then_answer(batch: Batch, pad: int) -> dict[str, torch.Tensor]:
    """Inputs of a decoder without a text encoder, with the image repeated for each question. The decoder reads the
    question as the start of its own text, followed by the answer. Only the answer has a loss."""
    inputs, targets = [], []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        question, answer = ids[mask == 1], labels[labels != -100]
        tokens = torch.cat([question, answer])
        inputs.append(tokens[:-1])
        targets.append(torch.cat([torch.full_like(question, -100), answer])[1:])
    return {
        "pixel_values": one_image_a_question(batch)["pixel_values"],
        "decoder_input_ids": pad_sequence(inputs, True, pad),  # (B, L+A)
        "labels": pad_sequence(targets, True, -100),
    }


def question_then_answer_sharing(batch: Batch, pad: int) -> dict[str, torch.Tensor]:
    """The same with each image once."""
    return question_then_answer(batch, pad) | {name: batch[name] for name in ("pixel_values", "image_index")}


def blip_inputs(batch: Batch, pad: int) -> dict[str, torch.Tensor]:
    """Inputs of BLIP. It shifts the labels itself and also reads them as its decoder's inputs, without the -100."""
    inputs = one_image_a_question(batch)
    answered = inputs["labels"] != -100
    return {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")} | {
        "decoder_input_ids": inputs["labels"].masked_fill(~answered, pad),
        "decoder_attention_mask": answered.long(),
    }
