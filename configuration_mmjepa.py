"""Every knob of MMJepa's architecture and losses, with its default and its check."""

import copy
from collections.abc import Mapping, Sequence

from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    BartConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    ViTConfig,
)
from transformers.configuration_utils import SubConfigSpec

# By `model_type`. These image encoders give the states of CLS, then of registers if they have them, then of patches.
VISION_CONFIGS = {
    config.model_type: config for config in (Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig, ViTConfig)
}
TEXT_CONFIGS = {BartConfig.model_type: BartConfig}
VISUAL_PREFIXES = ("patches", "pooled")
IMAGE_POOLINGS = ("cls", "mean")
ALIGNMENT_LOSSES = ("cosine", "infonce")
ALIGNMENT_READS = ("vector", "tokens")
ALIGNMENT_TARGETS = ("embedding", "centered", "whitened")
ALIGNMENT_TEXTS = ("proposition", "priority", "statement", "question", "caption", "answer", "text")
# By language, the answers that say that a question is true, and those that say that it is false.
YES_NO_WORDS = {"en": [["yes"], ["no"]]}

# Saving a model names only the one Auto class that it is registered for; a checkpoint loads with all of these.
AUTO_MODEL_CLASSES = (
    "AutoModel",
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModelForVisualQuestionAnswering",
    "AutoModelForZeroShotImageClassification",
)


@strict
class MMJepaConfig(PreTrainedConfig):
    """Configuration of [`MMJepaForConditionalGeneration`].

    Args:
        vision_config: the image encoder, of width Dv: a `Dinov2Config`, `Dinov2WithRegistersConfig`, `DINOv3ViTConfig`
            or `ViTConfig`, or the dict of one; `model_type` says which, and is "dinov2" by default.
        text_config: a `BartConfig` or its dict, of width D: its encoder half is the frozen text encoder, its decoder
            half writes the answers. Generation takes its special tokens from it.
        num_image_tokens: M, how many visual tokens the decoder reads for an image.
        visual_prefix: how an image becomes M tokens. "patches": the first token is the aligned image embedding, and
            M - 1 learned queries that cross-attend to the patch states make the others; each starts by reading its own
            cell of the image. "pooled": an MLP makes all tokens of the aligned image embedding.
        aligned_token: False leaves the aligned image embedding out of "patches"; then M queries read the patches.
        image_pooling: the image embedding is the CLS state ("cls") or the mean of the patch states ("mean").
        project_image: whether a linear layer maps the image embedding to the text width. Can only be switched off
            where Dv == D.
        alignment_loss: "cosine", 1 - cos of image and text; or "infonce" (arXiv 1807.03748), which also pushes wrong
            pairs of the batch apart; equal texts, and what else is true of an image, never count as wrong.
        alignment_reads: what a statement is compared with. "tokens": the image's vector and what the statement reads
            of the visual tokens, those that the decoder reads. "vector": the image's vector alone. By default
            "tokens", and "vector" with "cosine", which knows nothing else.
        alignment_target: what the image predicts: the text encoder's pooled "embedding", the same "centered" on the
            mean of the training texts, or "whitened": the training texts then vary equally in all directions.
        alignment_text: which text of a row the image is aligned to. Collator, `fit_targets` and evaluation read this
            field; the model does not. "proposition": a question that is answered by yes or no is itself a statement,
            which is true or false; another question and its answer together are a true one, and a row without a
            question has its caption, answer or text. "priority": the first of question, caption, answer and text that
            the row has. "statement": question and answer together, or "priority" if the row has no question. Other
            values name a column.
        yes_no_words: by language, the answers that mean yes and those that mean no, [["yes"], ["no"]]; {} for none.
            Read where alignment_text is.
        truth_weight: weight, in the alignment loss, of telling true statements from false ones. With 0 the model has
            no weights for it, and can't score statements. By default 1, and 0 with "cosine".
        truth_temperature: what the logits of statements are divided by, measured on the validation split at the end of
            training; None if it was not measured.
        truth_measured: what the validation split said of statements at the end of training: accuracy, the same with
            shuffled images (shuffled), and the gain over it with its 95 % interval (gain, gain_low, gain_high); None
            if it was not measured.
        rank_threshold: the probability from which a ranked answer is as good as a written one, measured on the
            validation split at the end of training; None if it was not measured.
        held_out: which training images were held out: for each training of the model a dict of percentage, seed,
            group_column and a hash of the images. None if none were, or if that is not known.
        lambda_align, lambda_ce, lambda_answer: weights of the alignment, the answers' tokens and the answers'
            embeddings in the total loss.
        predict_answer: whether the decoder's first state predicts the embedding of the answer (VL-JEPA, arXiv
            2512.10942), which also scores a closed list of answers (`rank_answers`). If False, the model has no
            weights for it, and lambda_answer is 0. By default True if lambda_answer is above 0.
        tie_word_embeddings: whether the decoder's output head is its embedding matrix. The text encoder always has an
            embedding matrix of its own: if the decoder shared it, training would change the text encoder.
        position_turns: the highest frequency, in turns over the image, of the position codes as which the queries of
            "patches" start.
        initializer_factor: standard deviation of the new linear layers' initial weights, in units of
            1 / sqrt(inputs of the layer).

    Raises:
        StrictDataclassFieldValidationError: a value is of another type than the field, also where it is set later.
        ValueError: a value is not allowed; the message names the field, the value and what is allowed.
    """

    model_type = "mmjepa"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type=Dinov2Config.model_type),
        "text_config": SubConfigSpec(config_class=BartConfig),
    }
    # What the library's Trainer does not gather in an evaluation; the logits it does.
    keys_to_ignore_at_inference = [
        "past_key_values",
        "loss_align",
        "loss_ce",
        "loss_answer",
        "encoder_last_hidden_state",
        "image_embeds",
        "text_embeds",
        "logits_per_image",
    ]

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_image_tokens: int = 8
    visual_prefix: str = "patches"
    aligned_token: bool = True
    image_pooling: str = "cls"
    project_image: bool = True
    alignment_loss: str = "infonce"
    alignment_reads: str | None = None
    alignment_target: str = "whitened"
    alignment_text: str = "proposition"
    yes_no_words: dict | None = None
    truth_weight: float | int | None = None
    truth_temperature: float | int | None = None
    truth_measured: dict | None = None
    lambda_align: float | int = 0.5
    lambda_ce: float | int = 1.0
    lambda_answer: float | int = 0.25
    predict_answer: bool | None = None
    rank_threshold: float | int | None = None
    held_out: list | None = None
    tie_word_embeddings: bool = True
    position_turns: float | int = 2.0
    initializer_factor: float | int = 1.0
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        # The library would read another model's dict as if it were one of these.
        self._check_sub_config("vision_config", VISION_CONFIGS)
        self._check_sub_config("text_config", TEXT_CONFIGS)
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = dict.fromkeys(AUTO_MODEL_CLASSES, "modeling_mmjepa.MMJepaForConditionalGeneration")
        compares_pairs = self.alignment_loss == "infonce"
        if self.alignment_reads is None:
            self.alignment_reads = "tokens" if compares_pairs else "vector"
        if self.truth_weight is None:
            self.truth_weight = 1.0 if compares_pairs else 0.0
        if self.yes_no_words is None:
            self.yes_no_words = copy.deepcopy(YES_NO_WORDS)
        # Configurations saved before predict_answer was a field have lambda_answer alone.
        if self.predict_answer is None:
            self.predict_answer = self.lambda_answer > 0
        elif not self.predict_answer:
            self.lambda_answer = 0.0
        # The library's Trainers look for them here.
        for name in ("bos", "eos", "pad", "decoder_start"):
            setattr(self, f"{name}_token_id", getattr(self.text_config, f"{name}_token_id"))
        self._check_values()

    def _check_values(self):
        self._check_choice("visual_prefix", VISUAL_PREFIXES)
        if self.visual_prefix == "patches" and hasattr(self, "position_sharpness"):
            raise ValueError(
                "position_sharpness is no field: a model saved with it read only a part of its images; train it again."
            )
        self._check_choice("image_pooling", IMAGE_POOLINGS)
        self._check_choice("alignment_loss", ALIGNMENT_LOSSES)
        self._check_choice("alignment_reads", ALIGNMENT_READS)
        self._check_choice("alignment_target", ALIGNMENT_TARGETS)
        self._check_choice("alignment_text", ALIGNMENT_TEXTS)
        if self.num_image_tokens < 1:
            raise ValueError(f"num_image_tokens is {self.num_image_tokens!r}: give an integer of at least 1.")
        if self.visual_prefix == "patches" and self.num_image_tokens < 1 + self.aligned_token:
            raise ValueError(
                f"num_image_tokens is {self.num_image_tokens}: with visual_prefix 'patches' the first token is the "
                "aligned embedding; give at least 2, or aligned_token False."
            )
        for name in ("lambda_align", "lambda_ce", "lambda_answer", "truth_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give a number of at least 0.")
        if self.alignment_loss == "cosine" and (self.alignment_reads != "vector" or self.truth_weight > 0):
            raise ValueError(
                f"alignment_loss 'cosine' with alignment_reads {self.alignment_reads!r} and truth_weight "
                f"{self.truth_weight!r}: it compares each text with one vector, and knows no wrong texts; leave both "
                "fields out, or choose 'infonce'."
            )
        self._check_yes_no_words()
        if self.truth_temperature is not None and not self.truth_temperature > 0:
            raise ValueError(f"truth_temperature is {self.truth_temperature!r}: give a number above 0, or None.")
        if self.lambda_answer > 0 and not self.predict_answer:
            raise ValueError(
                f"lambda_answer is {self.lambda_answer!r}, but predict_answer is False: the model has no weights for "
                "this loss; leave lambda_answer at 0, or start a new model with predict_answer True."
            )
        if self.rank_threshold is not None and not self.rank_threshold >= 0:
            raise ValueError(f"rank_threshold is {self.rank_threshold!r}: give a number of at least 0, or None.")
        for name in ("position_turns", "initializer_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give a number above 0.")
        # The first gives questions their mask if they come without one; both are needed to shift answers.
        for name in ("pad_token_id", "decoder_start_token_id"):
            if getattr(self.text_config, name) is None:
                raise ValueError(f"text_config.{name} is None: give the tokenizer's number for it.")
        head_width = self.text_config.d_model // self.text_config.decoder_attention_heads
        if self.visual_prefix == "patches" and head_width % 4 != 0:
            raise ValueError(
                f"text_config has d_model / decoder_attention_heads = {head_width}: visual_prefix 'patches' gives "
                "each head a position code, which needs a multiple of 4; choose another width or 'pooled'."
            )
        if not self.project_image and self.vision_config.hidden_size != self.text_config.d_model:
            raise ValueError(
                f"project_image is False, but the image encoder is {self.vision_config.hidden_size} wide and the text "
                f"model {self.text_config.d_model}: only equal widths can do without the projection; set it to True."
            )

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in the library, which only warns about a dict of another model and then makes random weights.

        Raises:
            ValueError: `config_dict` is of another model type, or a value is not allowed.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"the checkpoint is of model type {model_type!r}, not {cls.model_type!r}: to build a model from a "
                "DINOv2 and a BART checkpoint, use MMJepaForConditionalGeneration.from_vision_text_pretrained."
            )
        if "alignment_loss" in config_dict:  # saved before these were fields
            config_dict = {"alignment_reads": "vector", "truth_weight": 0.0, **config_dict}
        loaded = super().from_dict(config_dict, **kwargs)
        # The library sets the fields in `kwargs` after `__post_init__` checked the others.
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config._check_values()
        return loaded

    def _check_sub_config(self, name: str, allowed: Mapping[str, type[PreTrainedConfig]]):
        config = getattr(self, name)
        default = next(iter(allowed))
        if isinstance(config, dict):
            model_type = config.get("model_type", default)
        else:
            model_type = default if config is None else config.model_type
        if model_type not in allowed:
            classes = " or ".join(config_class.__name__ for config_class in allowed.values())
            raise ValueError(f"{name} is of model type {model_type!r}: give a {classes}, or its dict.")

    def _check_yes_no_words(self):
        for language, words in self.yes_no_words.items():
            are_two_lists = (
                isinstance(words, list | tuple)
                and len(words) == 2
                and all(isinstance(part, list | tuple) for part in words)
                and all(isinstance(word, str) for part in words for word in part)
            )
            if not are_two_lists:
                raise ValueError(
                    f"yes_no_words has {words!r} for {language!r}: give the answers that mean yes and those that mean "
                    'no, as in {"en": [["yes"], ["no"]]}, or {} for none.'
                )

    def _check_choice(self, name: str, allowed: tuple[str, ...]):
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} is {getattr(self, name)!r}: allowed are {', '.join(map(repr, allowed))}.")


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """`patch_size` or `image_size` of a vision configuration, which may be one number for both, as two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


MMJepaConfig.register_for_auto_class()

if __package__ == "mmjepa":  # the package itself, not a checkpoint's copy of this file
    AutoConfig.register(MMJepaConfig.model_type, MMJepaConfig, exist_ok=True)

__all__ = ["MMJepaConfig"]
