"""The model: a trainable image encoder, such as DINOv2, aligned to a frozen BART encoder, read by a BART decoder.

Symbols in the shape comments: B questions, I distinct images, L question tokens of width D, M visual tokens, A answer
tokens, V vocabulary.
"""

import inspect
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import BartForConditionalGeneration, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from .alignment_mmjepa import MMJepaStatements
from .configuration_mmjepa import AUTO_MODEL_CLASSES, TEXT_CONFIGS, VISION_CONFIGS, MMJepaConfig
from .encoder_mmjepa import MMJepaEncoder, MMJepaEncoderOutput, MMJepaImageFeatures
from .loading_mmjepa import (
    HUB_ARGUMENTS,
    LOADING_ARGUMENTS,
    known_arguments,
    load_config,
    load_image_encoder,
    load_tower,
    loading_arguments,
    refuse_unknown,
)
from .losses_mmjepa import (
    MMJepaAnswers,
    MMJepaTrainingStep,
    answers_of_batch,
    share_of_step,
    text_numbers,
)
from .scoring_mmjepa import MMJepaScoringModel

# Arguments of `forward` that only a loss reads.
LOSS_ARGUMENTS = (
    *("labels", "align_input_ids", "align_attention_mask", "align_signs", "statements", "answers", "image_ids"),
    *("return_loss", "return_logits", "num_items_in_batch", "training_step"),
)
# What the decoder reads, and what generation returns of the text encoder.
GENERATION_STATES = ("last_hidden_state", "attention_mask", "hidden_states", "attentions")

logger = logging.get_logger(__name__)


@dataclass
class MMJepaOutput(ModelOutput):
    """Output of [`MMJepaForConditionalGeneration`].

    loss, loss_align, loss_ce, loss_answer: scalars; loss is their sum, weighted by the configuration's lambdas.
    logits (B, A, V): next-token scores of the decoder.
    image_embeds (I, D), text_embeds (B, D): the aligned image embeddings and the normalised alignment targets.
    logits_per_image (I, B): of each text being true of each image, before `truth_temperature` divides them. Only where
    there is neither a loss nor an answer, and the model can score statements.
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
    logits_per_image: torch.Tensor | None = None


class MMJepaForConditionalGeneration(MMJepaScoringModel, GenerationMixin):
    """Answers questions about images; trains the alignment and the answers together.

    Example:
        >>> model = MMJepaForConditionalGeneration.from_vision_text_pretrained(
        ...     "facebook/dinov2-base", "facebook/bart-base"
        ... )
    """

    def __init__(self, config: MMJepaConfig):
        super().__init__(config)
        self._looked_for_targets = False
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, dtype: torch.dtype | str = torch.float32, **kwargs
    ) -> "MMJepaForConditionalGeneration":
        """Builds the model from an image encoder and a BART (folders or Hub ids); the rest starts at random.

        It is in eval mode, as after `from_pretrained`. Before it trains, `fit_targets` has to see the texts.

        Args:
            vision: checkpoint of a `Dinov2Model`, `Dinov2WithRegistersModel`, `DINOv3ViTModel` or `ViTModel`.
            text: checkpoint of a BART model; its encoder becomes the text encoder, its decoder the generator. Its
                generation settings give the special and forced tokens.
            dtype: of the weights; with "auto" that of the checkpoints, or the smallest type that holds both.
            kwargs: fields of [`MMJepaConfig`] and attn_implementation; `tie_word_embeddings` is by default the BART
                checkpoint's. And the arguments with which `from_pretrained` finds files: cache_dir, force_download,
                local_files_only, proxies, revision, subfolder, token, use_safetensors and variant. They are for both
                checkpoints, or for one of them with vision_ or text_ in front, as in `vision_revision`.

        Raises:
            ValueError: a checkpoint is of another model type, or its weights are not those of its configuration.
            TypeError: an argument is none of these.
        """
        given = {f"{half}_{name}" for half in ("vision", "text") for name in LOADING_ARGUMENTS}
        own = {field.name for field in fields(MMJepaConfig)} - {"vision_config", "text_config", "dtype"}
        own.add("attn_implementation")
        refuse_unknown("from_vision_text_pretrained", kwargs, {*LOADING_ARGUMENTS, *given, *own})
        config_kwargs = {name: value for name, value in kwargs.items() if name in own}

        found = {half: loading_arguments(kwargs, half, HUB_ARGUMENTS) for half in ("vision", "text")}
        vision_config = load_config(vision, "image encoder", VISION_CONFIGS, **found["vision"])
        text_config = load_config(text, "text model", TEXT_CONFIGS, **found["text"])
        config = MMJepaConfig(vision_config=vision_config, text_config=text_config, **config_kwargs)
        if "tie_word_embeddings" not in config_kwargs:
            config.tie_word_embeddings = text_config.tie_word_embeddings
        vision_loading, text_loading = loading_arguments(kwargs, "vision"), loading_arguments(kwargs, "text")
        image_encoder = load_image_encoder(vision, vision_config, dtype=dtype, **vision_loading)
        bart = load_tower(BartForConditionalGeneration, text, dtype=dtype, **text_loading)
        model = cls(config).to(torch.promote_types(image_encoder.dtype, bart.dtype))
        model.load_towers(image_encoder, bart.get_encoder(), bart)
        for name in ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos"):
            token_id = getattr(bart.generation_config, f"{name}_token_id")
            setattr(model.generation_config, f"{name}_token_id", token_id)
        return model.eval()

    def load_towers(
        self, image_encoder: PreTrainedModel, text_encoder: BartEncoder, generator: BartForConditionalGeneration
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
        self.decoder.embed_tokens = value  # type: ignore[assignment]

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True):
        """Resizes the decoder's embeddings, its output head and, apart from them, the text encoder's embeddings."""
        self.encoder.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.encoder.train(self.encoder.training)
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        bias = self.final_logits_bias[:, : embeddings.num_embeddings]
        self.final_logits_bias = F.pad(bias, (0, embeddings.num_embeddings - bias.shape[1]))
        return embeddings

    def _warn_of_targets_never_fitted(self, labels: torch.Tensor | None) -> None:
        """Looks once: reading from a device waits for it."""
        if self._looked_for_targets or torch.compiler.is_compiling():
            return
        self._looked_for_targets = True
        has_answers = labels is not None and (labels != -100).any()
        spaces = dict(zip(("texts", "answers") if has_answers else ("texts",), self.target_spaces(), strict=False))
        unfitted = [name for name, targets in spaces.items() if not targets.is_fitted]
        if unfitted:
            logger.warning(
                f"The model trains on targets that were never fitted to the training {' and '.join(unfitted)}: all "
                "texts look alike to it. Call model.fit_targets(processor, texts, answers) before training."
            )

    def generate(self, inputs: torch.Tensor | None = None, *args, **kwargs):
        """As in the library. Arguments that only a loss reads, such as labels in a Trainer's batch, are ignored.

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
        """Repeats for each beam what the decoder reads, the states and their mask, and drops the rest.

        Nothing reads pixels and image embeddings after the encoder. Repeated, they would take memory, and
        `image_index` would be wrong. The given `encoder_outputs` are not changed.
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
        align_signs: torch.Tensor | None = None,
        statements: MMJepaStatements | None = None,
        answers: MMJepaAnswers | None = None,
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
        training_step: MMJepaTrainingStep | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MMJepaOutput:
        """
        Args:
            input_ids, attention_mask: questions (B, L). Without a mask, padding tokens are taken as padding. Left and
                right padding give the same.
            pixel_values: images (I, 3, H, W). `image_index` (B,) says which one each question is about; it may be left
                out if I == B, or where texts are only compared with images: without a loss and without an answer.
                `image_features` of `get_image_features` can replace the images, and `encoder_outputs` of
                `model.encoder` can replace images and questions.
            image_ids: a number for each image (I,), by which the contrastive losses recognise an image on another
                process.
            labels: answers (B, A), -100 where there is no loss.
            align_input_ids, align_attention_mask: alignment texts (B, L'), if they are not the questions.
            align_signs: (B,), 1 where a row's alignment text is true of its image, -1 where it is false; by default
                all are true.
            statements: the alignment texts with their targets computed beforehand, in place of the three above. They
                may bring wrong statements to compare with.
            answers: the answers that the predicted one is compared with, and which of them is right for each row. By
                default those of the batch, as `labels` have them.
            decoder_input_ids: (B, A), by default the labels shifted right. decoder_inputs_embeds (B, A, D) can replace
                them. Without any of these the decoder does not run.
            return_loss: returns the loss without labels too: then it is the alignment term alone, as in the warm-up.
            return_logits: False saves the scores of padding in training; with labels `logits` is then None.
            num_items_in_batch: answer tokens of the whole optimizer step, as the library's Trainer counts them. The
                losses are divided by the counts of the step, so that accumulated batches add up to one large batch.
                By default the step is this batch.
            training_step: the step's other counts, and how answers are smoothed. Without a count, this batch's share
                of the step's answer tokens stands for its share of that count.

        Raises:
            ValueError: no images, or images, questions, answers and `image_index` disagree; or a contrastive loss is
                to be computed of `encoder_outputs` without the texts' ids; or there is nothing to learn from in
                training.
            TypeError: an unknown argument.
        """
        kwargs = known_arguments(MMJepaForConditionalGeneration.forward, kwargs)
        step: MMJepaTrainingStep = {} if training_step is None else training_step
        refuse_unknown("training_step", step, MMJepaTrainingStep.__annotations__)
        is_decoded = decoder_input_ids is not None or decoder_inputs_embeds is not None
        has_loss = labels is not None or bool(return_loss)
        is_compared = self.config.truth_weight > 0 and not (self.training or has_loss or is_decoded)
        images = pixel_values if image_features is None else image_features.image_embeds
        if is_compared and image_index is None and None not in (input_ids, images) and len(input_ids) != len(images):
            return self._compare(input_ids, attention_mask, pixel_values, image_features, **kwargs)
        encoder_outputs = self._encode(
            encoder_outputs, input_ids, attention_mask, pixel_values, image_index, image_features, **kwargs
        )
        self._check_labels(labels, len(encoder_outputs.last_hidden_state), is_decoded or return_loss)
        decoder_outputs, logits = self._decode(
            encoder_outputs,
            labels,
            return_logits,
            input_ids=decoder_input_ids,
            inputs_embeds=decoder_inputs_embeds,
            attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        text_embeds = self._text_embeds(encoder_outputs, align_input_ids, align_attention_mask, statements)  # (B, D)

        loss = loss_align = loss_ce = loss_answer = None
        if has_loss:
            if statements is None:
                text = (
                    (input_ids, attention_mask) if align_input_ids is None else (align_input_ids, align_attention_mask)
                )
                statements = self._statements(text_embeds, *text, align_signs)
            # Parts of a model may lie on several devices: the terms of the loss are added up where the labels are.
            device = (encoder_outputs.last_hidden_state if labels is None else labels).device
            num_items, share = (None, 1.0) if labels is None else share_of_step(labels, num_items_in_batch)
            loss_align = self._align(encoder_outputs, statements, image_ids, device, step.get("num_rows"), share)
            loss = self.config.lambda_align * loss_align
        if labels is not None:
            loss_ce, loss_answer = self._predict_answer(
                decoder_outputs.last_hidden_state, logits, labels, answers, num_items, share, step
            )
            loss = loss + self.config.lambda_ce * loss_ce
            if loss_answer is not None:
                loss = loss + self.config.lambda_answer * loss_answer
        if self.training and loss is not None:
            self._warn_of_targets_never_fitted(labels)
        logits_per_image = None
        if is_compared and text_embeds is not None and encoder_outputs.image_embeds is not None:
            logits_per_image = self._truth_logits(encoder_outputs, text_embeds)

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
            logits_per_image=logits_per_image,
        )

    def _compare(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        image_features: MMJepaImageFeatures | None,
        **kwargs: Any,
    ) -> MMJepaOutput:
        """`forward` for S texts and I images that are no pairs, as in the library's zero-shot classification."""
        if image_features is None:
            image_features = self.get_image_features(pixel_values, **kwargs)
        text_embeds = self.encode_texts(input_ids, attention_mask)  # (S, D)
        return MMJepaOutput(
            image_embeds=image_features.image_embeds,
            text_embeds=text_embeds,
            logits_per_image=self._truth_logits(image_features, text_embeds),
        )

    def _encode(
        self,
        encoder_outputs: MMJepaEncoderOutput | tuple | None,
        input_ids: torch.Tensor | None,
        *inputs: Any,
        **kwargs: Any,
    ) -> MMJepaEncoderOutput:
        """Step 1 of `forward`: what the decoder reads of questions and images, as given or encoded here."""
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("neither input_ids nor encoder_outputs given: give the questions' input_ids (B, L).")
            return self.encoder(input_ids, *inputs, return_dict=True, **kwargs)
        return encoder_outputs if isinstance(encoder_outputs, ModelOutput) else MMJepaEncoderOutput(*encoder_outputs)

    def _check_labels(self, labels: torch.Tensor | None, num_questions: int, does_without: bool | None) -> None:
        if labels is not None and len(labels) != num_questions:
            raise ValueError(
                f"labels hold {len(labels)} answers for {num_questions} questions: give one answer a question, shape "
                "(B, A)."
            )
        if self.training and labels is None and not does_without:
            raise ValueError(
                "there are no labels to learn from: give the answers' labels (B, A), or return_loss for the alignment "
                "alone. The label_smoothing_factor of the library's Trainer keeps labels from the model: leave it at "
                "0, and put answer_smoothing into the batches' training_step or use MMJepaTrainer, which smooths them."
            )

    def _decode(
        self,
        encoder_outputs: MMJepaEncoderOutput,
        labels: torch.Tensor | None,
        return_logits: bool,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        use_cache: bool | None,
        **kwargs: Any,
    ) -> tuple[BaseModelOutputWithPastAndCrossAttentions, torch.Tensor | None]:
        """Step 2 of `forward`: the decoder's outputs for the answers, and their scores (B, A, V) if asked for."""
        if labels is not None and input_ids is None and inputs_embeds is None:
            input_ids, use_cache = self.prepare_decoder_input_ids_from_labels(labels), False
        if input_ids is None and inputs_embeds is None:
            return BaseModelOutputWithPastAndCrossAttentions(), None
        outputs = self.decoder(
            input_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=encoder_outputs.attention_mask,
            use_cache=use_cache,
            **kwargs,
        )
        return outputs, self._score(outputs.last_hidden_state) if return_logits or labels is None else None

    def _align(
        self,
        encoder_outputs: MMJepaEncoderOutput,
        statements: MMJepaStatements,
        image_ids: torch.Tensor | None,
        device: torch.device,
        num_rows: torch.Tensor | int | None,
        share: torch.Tensor | float,
    ) -> torch.Tensor:
        """Step 3 of `forward`: the alignment loss on `device`, divided by the step's `num_rows`.

        Without that number it is the mean over the rows of this batch that have a text, times the batch's `share`.
        """
        losses = self.alignment(
            encoder_outputs.image_embeds,
            encoder_outputs.visual_tokens,
            encoder_outputs.image_index,
            statements,
            image_ids,
        )  # (B,)
        total = losses.to(device).sum()
        if num_rows is not None:
            return total / num_rows
        return total / (statements["ids"] >= 0).sum().clamp(min=1).to(device) * share

    def _predict_answer(
        self,
        states: torch.Tensor,
        logits: torch.Tensor | None,
        labels: torch.Tensor,
        answers: MMJepaAnswers | None,
        num_items: torch.Tensor,
        share: torch.Tensor,
        step: MMJepaTrainingStep,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Step 4 of `forward`: the losses of the answers' tokens and, if the model predicts them, of their embeddings.

        Args:
            states: the decoder's (B, A, D), and their scores `logits` (B, A, V) if they were computed.
            num_items, share: the step's answer tokens, and the share of them in this batch.
        """
        places = step.get("answer_places")
        if places is None:
            places = (labels != -100).flatten().nonzero()[:, 0]  # (T,)
        if logits is not None:
            answer_logits = logits.flatten(0, 1)[places.to(logits.device)]  # (T, V)
        else:
            # Half of PathVQA's answers are one word: most of (B, A) is padding that needs no vocabulary scores.
            answer_logits = self._score(states.flatten(0, 1)[places.to(states.device)])
        answer_labels = labels.flatten()[places].to(answer_logits.device)
        smoothing = step.get("answer_smoothing", 0.0)
        loss = F.cross_entropy(answer_logits.float(), answer_labels, reduction="sum", label_smoothing=smoothing)
        loss = loss.to(labels.device) / num_items.clamp(min=1)
        if not (self.config.predict_answer or self.config.lambda_answer > 0):
            return loss, None
        num_answers = step.get("num_answers")
        if num_answers is None:
            num_answers = (labels != -100).any(dim=-1).sum().clamp(min=1) / share
        losses = self._answer_prediction()(states[:, 0], answers or self._answers_of(labels))  # (B,)
        return loss, losses.to(labels.device).sum() / num_answers

    def _text_embeds(
        self,
        encoder_outputs: MMJepaEncoderOutput,
        align_input_ids: torch.Tensor | None,
        align_attention_mask: torch.Tensor | None,
        statements: MMJepaStatements | None,
    ) -> torch.Tensor | None:
        """Unit targets (B, D) of the alignment texts, or of the questions if these are the texts."""
        if statements is not None:
            return statements["embeds"]
        if align_input_ids is not None:
            return self.encode_texts(align_input_ids, align_attention_mask)
        if encoder_outputs.question_embeds is not None:
            return self.alignment.targets(encoder_outputs.question_embeds)
        return None

    def _statements(
        self,
        embeds: torch.Tensor,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        signs: torch.Tensor | None,
    ) -> MMJepaStatements:
        """The alignment texts (B, L) with their targets `embeds` (B, D), as the alignment loss reads them."""
        if input_ids is not None:
            ids = text_numbers(*self.encoder.ordered_text(input_ids, attention_mask))
        elif self.config.alignment_loss == "cosine":
            ids = torch.arange(len(embeds), device=embeds.device)
        else:
            raise ValueError(
                f"alignment_loss {self.config.alignment_loss!r} compares the texts of a batch, and there is neither "
                "input_ids nor align_input_ids: give one of them beside encoder_outputs."
            )
        return {"embeds": embeds, "ids": ids, "signs": torch.ones_like(ids) if signs is None else signs}

    def _answers_of(self, labels: torch.Tensor) -> MMJepaAnswers:
        """The answers of a batch, `labels` (B, A), as its prediction is compared with them.

        Half of PathVQA's answers are yes or no: each distinct answer is encoded once.
        """
        distinct, rows = labels.unique(dim=0, return_inverse=True)
        has_token = distinct != -100
        input_ids = distinct.masked_fill(~has_token, self.config.text_config.pad_token_id)
        pooled = self.encoder.encode_texts(input_ids, has_token.long())
        numbers = text_numbers(input_ids, has_token.long())
        targets = self._answer_prediction().targets(pooled)
        return answers_of_batch(targets[rows.to(pooled.device)], numbers[rows])


MMJepaForConditionalGeneration.register_for_auto_class("AutoModel")

if __package__ == "mmjepa":  # the package itself, not a checkpoint's copy of this file
    for name in AUTO_MODEL_CLASSES:
        getattr(transformers, name).register(MMJepaConfig, MMJepaForConditionalGeneration, exist_ok=True)

__all__ = ["MMJepaForConditionalGeneration", "MMJepaOutput"]
