"""Flags -> processor, tokenizer and model."""

import json
from collections.abc import Sequence

import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoImageProcessor,
    BartConfig,
    BartTokenizer,
    BaseImageProcessor,
    BitImageProcessor,
    Dinov2Config,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..configuration_mmjepa import MMJepaConfig
from ..data.batches import alignment_text
from ..data.loading import TEXT_COLUMNS
from ..evaluation.answering import batches, evaluating, in_shares
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .arguments import ModelArguments

# Of a saved model's configuration only these can change: its weights are of the shape or the aim that the others say.
CHANGEABLE = ("lambda_align", "lambda_ce")


def load_processor(arguments: ModelArguments, training_texts: list[str]) -> MMJepaProcessor:
    """The saved processor, or one from the checkpoints' parts, or one that fits the configurations.

    Raises:
        ValueError: the tokenizer is not the model's.
    """
    if arguments.model_name_or_path is not None:
        processor = MMJepaProcessor.from_pretrained(arguments.model_name_or_path)
        config = MMJepaConfig.from_pretrained(arguments.model_name_or_path)
        check_tokenizer(processor.tokenizer, config.text_config, arguments.model_name_or_path)
        return processor
    tokenizer_name = arguments.tokenizer_name or arguments.text_model
    if tokenizer_name is not None:
        # Not AutoTokenizer: it asks for a config.json beside the vocab.json and merges.txt that make a BART tokenizer.
        tokenizer = BartTokenizer.from_pretrained(tokenizer_name)
    else:
        tokenizer = train_tokenizer(training_texts, arguments.text_fields.get("vocab_size", 2000))
    if arguments.image_encoder is not None:
        image_processor = AutoImageProcessor.from_pretrained(arguments.image_encoder)
        text_config = BartConfig.from_pretrained(arguments.text_model)
    else:
        # The tokenizer says how many tokens there are and which are special.
        arguments.text_fields["vocab_size"] = len(tokenizer)
        for name in ("bos", "eos", "pad"):
            arguments.text_fields[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
        arguments.text_fields["decoder_start_token_id"] = tokenizer.eos_token_id
        text_config = BartConfig(**arguments.text_fields)
        image_processor = image_processor_of_size(Dinov2Config(**arguments.vision_fields).image_size)
    check_tokenizer(tokenizer, text_config, tokenizer_name)
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config.max_position_embeddings)
    return MMJepaProcessor(image_processor=image_processor, tokenizer=tokenizer)


def check_tokenizer(tokenizer: BartTokenizer, config: BartConfig, name: str | None) -> None:
    """Raises ValueError where the tokens of `tokenizer`, read from `name`, can't be those of a model of `config`."""
    # A folder without a tokenizer's files gives one of special tokens alone. Vocabularies may be padded, not doubled.
    # bart-large-cnn has no embedding of <mask>, its tokenizer's last token, which no text holds.
    highest = max(number for token, number in tokenizer.get_vocab().items() if token != tokenizer.mask_token)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "pad", "eos")}
    wrong = any(number != getattr(config, kind) for kind, number in special.items())
    few = len(tokenizer) <= len(tokenizer.all_special_ids) or 2 * len(tokenizer) < config.vocab_size
    if few or highest >= config.vocab_size or wrong:
        found = ", ".join(f"{kind} {number}" for kind, number in special.items())
        expected = ", ".join(f"{kind} {getattr(config, kind)}" for kind in special)
        raise ValueError(
            f"the tokenizer in {name} has {len(tokenizer)} tokens, {found}; the model has a vocabulary of "
            f"{config.vocab_size}, {expected}: put the model's tokenizer.json, or vocab.json and merges.txt, there, "
            "or name another BART tokenizer with --tokenizer_name for a new model."
        )


def build_model(arguments: ModelArguments) -> MMJepaForConditionalGeneration:
    """The saved model, or one from two checkpoints, or one from random weights.

    Raises:
        ValueError: a flag asks of a saved model what can't change.
    """
    own, attention = arguments.config_fields(), arguments.attn_implementation
    if arguments.model_name_or_path is not None:
        saved = MMJepaConfig.from_pretrained(arguments.model_name_or_path)
        fixed = [name for name, value in own.items() if name not in CHANGEABLE and value != getattr(saved, name)]
        if fixed:
            raise ValueError(
                f"{arguments.model_name_or_path} is a model with "
                f"{', '.join(f'{name} {getattr(saved, name)!r}' for name in fixed)}, which can't change: leave out "
                f"{', '.join(f'--{name}' for name in fixed)}, or start a new model."
            )
        return MMJepaForConditionalGeneration.from_pretrained(
            arguments.model_name_or_path, attn_implementation=attention, **own
        )
    if arguments.image_encoder is not None:
        return MMJepaForConditionalGeneration.from_vision_text_pretrained(
            arguments.image_encoder, arguments.text_model, attn_implementation=attention, **own
        )
    config = MMJepaConfig(
        vision_config=arguments.vision_fields,
        text_config=arguments.text_fields,
        tie_word_embeddings=arguments.text_fields.get("tie_word_embeddings", True),
        attn_implementation=attention,
        **own,
    )
    model = MMJepaForConditionalGeneration(config)
    # Published BART's settings: answers begin with <s> and end with </s>.
    model.generation_config.forced_bos_token_id = config.text_config.bos_token_id
    model.generation_config.forced_eos_token_id = config.text_config.eos_token_id
    return model


def image_processor_of_size(size: int) -> BaseImageProcessor:
    """DINOv2's image processor, but it resizes to a square of `size` pixels without cutting anything off.

    The published one cuts the longer sides. Questions are about what lies there too: where it is, how many there are.
    """
    return BitImageProcessor(
        size={"height": size, "width": size},
        do_center_crop=False,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def train_tokenizer(texts: list[str], vocab_size: int) -> BartTokenizer:
    """A byte-level BPE in published BART's format, trained on `texts`; their words get at most `vocab_size` tokens."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    byte_level = ByteLevelBPETokenizer(add_prefix_space=False)
    byte_level.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=tokens, show_progress=False)
    model = json.loads(byte_level.to_str())["model"]
    return BartTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def center_targets(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, rows: Dataset, device: torch.device
) -> None:
    """Centres the model's targets: of the alignment, where it is "centered", on the mean of the text encoder's
    embeddings of the distinct alignment texts, and of the predicted answers on that of the distinct answers.

    Each is encoded once, on `device`, by one of the processes.
    """
    config = model.config

    def pool(texts: Sequence[str]) -> list[torch.Tensor]:
        pooled: list[torch.Tensor] = []
        for batch in batches(texts, 256):
            text = processor(text=batch, return_tensors="pt").to(device)
            pooled += model.encoder.encode_texts(text["input_ids"], text["attention_mask"]).float().cpu()
        return pooled

    texts = rows.select_columns([name for name in TEXT_COLUMNS if name in rows.column_names])
    means: list[tuple[torch.Tensor, set[str]]] = []
    if config.alignment_target == "centered":
        means.append((model.alignment.text_mean, {alignment_text(row, config.alignment_text) for row in texts}))
    if config.lambda_answer > 0:
        means.append((model.answer_prediction.answer_mean, set(texts["answer"])))
    text_encoder, own_device = model.encoder.text_encoder, model.device
    with evaluating(model):
        text_encoder.to(device)
        for mean, distinct in means:
            mean.copy_(torch.stack(in_shares(sorted(distinct - {""}), pool)).mean(dim=0))
        text_encoder.to(own_device)
