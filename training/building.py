"""Flags -> processor and model."""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoImageProcessor,
    BartConfig,
    BartTokenizer,
    BaseImageProcessor,
    BitImageProcessor,
    PreTrainedConfig,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils import has_file

from ..configuration_mmjepa import TEXT_CONFIGS, VISION_CONFIGS, MMJepaConfig, height_and_width
from ..data.images import prepared_shape
from ..evaluation.loading import naming_broken_files
from ..loading_mmjepa import load_config
from ..messages import is_message
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .flags import ModelArguments
from .weights import in_float32

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the second is a whole processor's
PUBLISHED_SIDE = 224  # pixels: what published image encoders are asked to see, even if trained on 518
# Fields of a saved model's configuration that may change. The others shape its weights or what they learnt.
CHANGEABLE = ("lambda_align", "lambda_ce", "lambda_answer")

logger = logging.getLogger("mmjepa")


def build(
    arguments: ModelArguments, train_rows: Dataset | None = None, is_trained: bool = False
) -> tuple[MMJepaProcessor, MMJepaForConditionalGeneration]:
    """The processor and the model that the flags name: saved, from two checkpoints, or from random weights.

    Args:
        train_rows: columns question and answer. A new tokenizer is trained on these texts; needed for random weights
            without --tokenizer_name.
        is_trained: whether the model will be trained; its weights are then float32, even if saved in half precision.

    Raises:
        ValueError: the tokenizer is not the model's, or a flag would change a field that is fixed in a saved model.
        OSError: there is no such checkpoint, or a file of it is broken.
    """
    if arguments.model_name_or_path is not None:
        with naming_broken_files(arguments.model_name_or_path, revision=arguments.model_revision):
            processor, model = load_saved(arguments)
    elif arguments.image_encoder is not None:
        with naming_broken_files(arguments.image_encoder, arguments.text_model):
            processor, model = join_checkpoints(arguments)
    else:
        processor, model = start_from_random_weights(arguments, train_rows)
    if is_trained:
        in_float32(model)
    if arguments.bf16_text_encoder:
        model.encoder.text_encoder.to(torch.bfloat16)
    return processor, model


def load_saved(arguments: ModelArguments) -> tuple[MMJepaProcessor, MMJepaForConditionalGeneration]:
    """A saved processor and model; flags may change the losses' weights, the attention and the size of images."""
    name, revision, own = arguments.model_name_or_path, arguments.model_revision, arguments.config_fields()
    saved = MMJepaConfig.from_pretrained(
        name, revision=revision
    )  # first: its error says if this is another kind of model
    processor = MMJepaProcessor.from_pretrained(name, revision=revision)
    if arguments.image_size is not None:
        check_image_size(arguments.image_size, saved.vision_config)
        processor.image_processor = whole_images(processor.image_processor, arguments.image_size)
    check_tokenizer(processor.tokenizer, saved.text_config, name)
    fixed = [field for field, value in own.items() if field not in CHANGEABLE and value != getattr(saved, field)]
    if fixed:
        raise ValueError(
            f"{name} is a model with {', '.join(f'{field} {getattr(saved, field)!r}' for field in fixed)}, which "
            f"can't change: leave out {', '.join(f'--{field}' for field in fixed)}, or start a new model."
        )
    model = MMJepaForConditionalGeneration.from_pretrained(
        name, revision=revision, attn_implementation=arguments.attn_implementation, **own
    )
    return processor, model


def join_checkpoints(arguments: ModelArguments) -> tuple[MMJepaProcessor, MMJepaForConditionalGeneration]:
    """A new model of an image encoder's and a BART checkpoint, and a processor of their two halves."""
    # First: their errors say if a checkpoint is of another kind of model.
    vision_config = load_config(arguments.image_encoder, "image encoder", VISION_CONFIGS)
    text_config = load_config(arguments.text_model, "text model", TEXT_CONFIGS)
    tokenizer_name = arguments.tokenizer_name or arguments.text_model
    tokenizer = load_tokenizer(tokenizer_name)
    image_processor = load_image_processor(arguments, vision_config)
    if not arguments.center_crop:
        size = arguments.image_size or prepared_shape(image_processor)[1]
        check_image_size(size, vision_config)
        image_processor = whole_images(image_processor, size)
    processor = join_processor(image_processor, tokenizer, text_config, tokenizer_name)
    model = MMJepaForConditionalGeneration.from_vision_text_pretrained(
        arguments.image_encoder,
        arguments.text_model,
        attn_implementation=arguments.attn_implementation,
        **arguments.config_fields(),
    )
    return processor, model


def start_from_random_weights(
    arguments: ModelArguments, train_rows: Dataset | None
) -> tuple[MMJepaProcessor, MMJepaForConditionalGeneration]:
    """A model of random weights by the flags' two configurations, and a processor that fits it."""
    text_fields = arguments.text_fields
    if arguments.tokenizer_name is not None:
        tokenizer = load_tokenizer(arguments.tokenizer_name)
    else:
        texts = {text for name in ("question", "answer") for text in train_rows[name][:]}
        tokenizer = train_tokenizer(sorted(texts), text_fields.get("vocab_size", 2000))
    # The tokenizer says how many tokens there are and which are special.
    token_fields = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    token_fields |= {"vocab_size": len(tokenizer), "decoder_start_token_id": tokenizer.eos_token_id}
    with naming_wrong_fields():
        config = MMJepaConfig(  # type: ignore[call-arg]  # attn_implementation is a field of the library's
            vision_config=arguments.vision_fields,
            text_config=text_fields | token_fields,
            tie_word_embeddings=text_fields.get("tie_word_embeddings", True),
            attn_implementation=arguments.attn_implementation,
            **arguments.config_fields(),
        )
        model = MMJepaForConditionalGeneration(config)
    size = arguments.image_size or min(height_and_width(config.vision_config.image_size))
    check_image_size(size, config.vision_config)
    image_processor = whole_images(new_image_processor(**arguments.colors), size)
    processor = join_processor(image_processor, tokenizer, config.text_config, arguments.tokenizer_name)
    # Published BART's settings: answers begin with <s> and end with </s>.
    model.generation_config.forced_bos_token_id = config.text_config.bos_token_id
    model.generation_config.forced_eos_token_id = config.text_config.eos_token_id
    return processor, model


@contextmanager
def naming_wrong_fields() -> Iterator[None]:
    """Turns an error while a model is made of the flags' fields into a ValueError that names the flags.

    The libraries raise whatever a wrong value leads to, such as KeyError for an unknown activation.
    """
    try:
        yield
    except Exception as error:
        if is_message(error):
            raise
        raise ValueError(
            f"no model can be made of --vision_config and --text_config: {type(error).__name__}: {error}"
        ) from error


def load_image_processor(arguments: ModelArguments, vision_config: PreTrainedConfig) -> BaseImageProcessor:
    """The image processor of an image encoder's checkpoint; flags may give its colours.

    Raises:
        ValueError: the checkpoint has none, and no flag says how colours are normalised.
    """
    name, colors = arguments.image_encoder, arguments.colors
    if not any(has_file(name, file) for file in IMAGE_PROCESSOR_FILES):
        if not colors or arguments.center_crop:
            raise ValueError(
                f"{name} has no {IMAGE_PROCESSOR_FILES[0]}, which says how images are cropped and colours normalised: "
                "give --image_mean and --image_std without --center_crop. Known are 0.485 0.456 0.406 and 0.229 0.224 "
                "0.225 (ImageNet) for facebook's DINOv2 and DINOv3, 0.5 and 0.5 for kaiko-ai/midnight and google's "
                "ViT; others are on the checkpoint's page."
            )
        size = min(PUBLISHED_SIDE, *height_and_width(vision_config.image_size))
        return whole_images(new_image_processor(**colors), size)
    if vision_config.model_type == "dinov3_vit":
        # Its own class needs torchvision, for training and for each use of the saved model.
        fields, _ = BitImageProcessor.get_image_processor_dict(name)
        image_processor = BitImageProcessor.from_dict(fields, do_center_crop=bool(fields.get("do_center_crop")))
    else:
        image_processor = AutoImageProcessor.from_pretrained(name)
    if not colors:
        return image_processor
    stated = {field: list(getattr(image_processor, field) or []) for field in colors}
    if stated != colors:
        logger.warning("%s states %s; the flags' %s are taken.", name, stated, colors)
    return type(image_processor).from_dict(image_processor.to_dict(), do_normalize=True, **colors)


def load_tokenizer(name: str) -> BartTokenizer:
    # Not AutoTokenizer: it asks for a config.json beside the vocab.json and merges.txt that make a BART tokenizer.
    """The BART tokenizer of a checkpoint, or of a folder with only its vocabulary."""
    return BartTokenizer.from_pretrained(name)


def join_processor(
    image_processor: BaseImageProcessor, tokenizer: BartTokenizer, text_config: BartConfig, tokenizer_name: str | None
) -> MMJepaProcessor:
    """Joins both halves to one processor, which cuts texts to the text model's maximum length.

    Raises:
        ValueError: the tokenizer, read from `tokenizer_name`, is not the text model's.
    """
    check_tokenizer(tokenizer, text_config, tokenizer_name)
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config.max_position_embeddings)
    return MMJepaProcessor(image_processor=image_processor, tokenizer=tokenizer)


def check_tokenizer(tokenizer: BartTokenizer, config: BartConfig, name: str | None) -> None:
    """Raises ValueError if `tokenizer`, read from `name`, can't be that of a model of `config`."""
    # bart-large-cnn has no embedding for <mask>, its tokenizer's last token. No text contains it.
    highest = max(number for token, number in tokenizer.get_vocab().items() if token != tokenizer.mask_token)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "pad", "eos")}
    wrong = any(number != getattr(config, kind) for kind, number in special.items())
    # A folder without a tokenizer's files gives a tokenizer of special tokens alone. A model may have more embeddings
    # than there are tokens, but not twice as many.
    few = len(tokenizer) <= len(tokenizer.all_special_ids) or 2 * len(tokenizer) < config.vocab_size
    if few or highest >= config.vocab_size or wrong:
        found = ", ".join(f"{kind} {number}" for kind, number in special.items())
        expected = ", ".join(f"{kind} {getattr(config, kind)}" for kind in special)
        raise ValueError(
            f"the tokenizer in {name} has {len(tokenizer)} tokens, {found}; the model has a vocabulary of "
            f"{config.vocab_size}, {expected}: put the model's tokenizer.json, or vocab.json and merges.txt, there "
            "(facebook/bart-base has those of every English BART), or name another BART tokenizer with "
            "--tokenizer_name for a new model."
        )


def new_image_processor(
    image_mean: list[float] = IMAGENET_DEFAULT_MEAN, image_std: list[float] = IMAGENET_DEFAULT_STD
) -> BaseImageProcessor:
    """DINOv2's image processor, by default with the mean and deviation of ImageNet's colours."""
    return BitImageProcessor(image_mean=image_mean, image_std=image_std)


def whole_images(image_processor: BaseImageProcessor, size: int) -> BaseImageProcessor:
    """A copy of the image processor that resizes to a square of `size` pixels and cuts nothing off.

    The published one resizes the shorter side to 256 pixels and keeps the middle 224 x 224. Questions are also about
    the borders: where something is, how many there are.
    """
    square = {"height": size, "width": size}
    return type(image_processor).from_dict(image_processor.to_dict(), size=square, do_center_crop=False)


def check_image_size(size: int, vision_config: PreTrainedConfig) -> None:
    """Raises ValueError if `size` is no multiple of a patch's side: the model would not see the rest."""
    patch = math.lcm(*height_and_width(vision_config.patch_size))
    if size < patch or size % patch:
        below = max(patch, size - size % patch)
        raise ValueError(
            f"images of {size} pixels a side can't be cut into patches of {patch}: give an --image_size of {below} or "
            f"{below + patch}."
        )


def train_tokenizer(texts: list[str], vocab_size: int) -> BartTokenizer:
    """Trains a byte-level BPE of at most `vocab_size` tokens on `texts`, in published BART's format."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    byte_level = ByteLevelBPETokenizer(add_prefix_space=False)
    byte_level.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=tokens, show_progress=False)
    model = json.loads(byte_level.to_str())["model"]
    return BartTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
