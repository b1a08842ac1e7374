#!/usr/bin/env python
"""Trains, evaluates and exports MMJepa on PathVQA or any data set of images, questions and answers.

    python run_pathvqa.py --dataset_name flaviagiammarino/path-vqa --image_encoder facebook/dinov2-base \
        --text_model facebook/bart-base
    python run_pathvqa.py configs/demo.json --seed 1

The first argument may be a JSON or YAML file of flags; flags after it win. Left-out flags have the defaults that
`--help` shows.
"""

import json
import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import yaml
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BartConfig,
    Dinov2Config,
    HfArgumentParser,
    set_seed,
)
from transformers.hf_argparser import HfArg
from transformers.trainer_utils import get_last_checkpoint

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data_pathvqa import VqaCollator, load_rows, prepare
from mmjepa.evaluation_pathvqa import evaluate_model
from mmjepa.export_mmjepa import export_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.report_mmjepa import answer_table, draw_answers
from mmjepa.trainer_mmjepa import MMJepaTrainer, MMJepaTrainingArguments

logger = logging.getLogger("mmjepa")


@dataclass
class ModelArguments:
    """Which model: a saved one, one from two published checkpoints, or one from random weights."""

    model_name_or_path: str | None = HfArg(default=None, help="A saved MMJepa to train on or evaluate.")
    image_encoder: str | None = HfArg(default=None, help="A DINOv2 checkpoint, such as facebook/dinov2-base.")
    text_model: str | None = HfArg(default=None, help="A BART checkpoint, such as facebook/bart-base.")
    vision_config: str | None = HfArg(default=None, help="JSON of Dinov2Config fields, to start from random weights.")
    text_config: str | None = HfArg(default=None, help="JSON of BartConfig fields, to start from random weights.")
    tokenizer_name: str | None = HfArg(
        default=None, help="A BART tokenizer; by default the text model's, or one trained on the training texts."
    )
    num_image_tokens: int = HfArg(default=8, aliases=["--m_image_tokens"], help="M, visual tokens of an image.")
    visual_prefix: str = HfArg(default="patches", help="patches or pooled.")
    image_pooling: str = HfArg(default="cls", help="cls or mean.")
    alignment_loss: str = HfArg(default="cosine", help="cosine, infonce or sigmoid.")
    alignment_target: str = HfArg(default="embedding", help="embedding, centered or layer_norm.")
    lambda_align: float = HfArg(default=0.5, help="Weight of the alignment loss.")
    lambda_ce: float = HfArg(default=1.0, help="Weight of the answer loss.")
    attn_implementation: str | None = HfArg(default=None, help="sdpa, eager or flash_attention_2.")

    def __post_init__(self):
        from_checkpoints = self.image_encoder is not None and self.text_model is not None
        from_random = self.vision_config is not None and self.text_config is not None
        if [self.model_name_or_path is not None, from_checkpoints, from_random].count(True) != 1:
            raise ValueError(
                "give the model in exactly one way: --model_name_or_path, or --image_encoder and --text_model, or "
                "--vision_config and --text_config."
            )
        if from_random:
            self.vision_config, self.text_config = json.loads(self.vision_config), json.loads(self.text_config)


@dataclass
class DataArguments:
    """Which rows: a Hub id or a local folder, its columns, and how many of them."""

    dataset_name: str = HfArg(
        default="flaviagiammarino/path-vqa",
        help="Hub id, or a folder: save_to_disk, parquet, or JSON or CSV with image paths.",
    )
    dataset_config_name: str | None = HfArg(default=None, help="The data set's configuration on the Hub.")
    image_column: str | None = HfArg(default=None, help="Name of the image column, where it is not `image`.")
    question_column: str | None = HfArg(default=None, help="Name of the question column, where it is not `question`.")
    answer_column: str | None = HfArg(default=None, help="Name of the answer column, where it is not `answer`.")
    caption_column: str | None = HfArg(default=None, help="Name of the caption column, where it is not `caption`.")
    text_column: str | None = HfArg(default=None, help="Name of the text column, where it is not `text`.")
    max_train_samples: int | None = HfArg(default=None, help="Train on so many rows.")
    max_val_samples: int | None = HfArg(default=None, aliases=["--max_eval_samples"], help="Evaluate so many rows.")
    preprocessing_num_workers: int = HfArg(default=2, help="Processes that decode and resize the images, once.")
    blank_images: bool = HfArg(default=False, help="Train without images: what do the questions alone give?")
    max_answer_tokens: int = HfArg(default=32, help="Tokens generated at most.")

    def columns(self) -> dict[str, str]:
        """The columns that were named by flag."""
        named = {name: getattr(self, f"{name}_column") for name in ("image", "question", "answer", "caption", "text")}
        return {name: column for name, column in named.items() if column is not None}


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, MMJepaTrainingArguments]:
    """The three groups of flags from a command line whose first argument may be a JSON or YAML file of flags."""
    parser = HfArgumentParser((ModelArguments, DataArguments, MMJepaTrainingArguments))
    if argv and argv[0].endswith((".json", ".yaml", ".yml")):
        argv = flags_of_file(Path(argv[0])) + argv[1:]
    return parser.parse_args_into_dataclasses(args=argv)


def flags_of_file(path: Path) -> list[str]:
    """The flags that a JSON or YAML file (JSON is YAML) spells out."""
    flags = []
    for name, value in yaml.safe_load(path.read_text()).items():
        if value is not None:
            flags += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return flags


def load_processor(arguments: ModelArguments, training_texts: list[str]) -> MMJepaProcessor:
    """The saved processor, or one from the checkpoints' parts, or one that fits the configurations."""
    if arguments.model_name_or_path is not None:
        return MMJepaProcessor.from_pretrained(arguments.model_name_or_path)
    tokenizer_name = arguments.tokenizer_name or arguments.text_model
    if tokenizer_name is not None:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    else:
        tokenizer = train_tokenizer(training_texts, arguments.text_config.get("vocab_size", 2000))
    if arguments.image_encoder is not None:
        image_processor = AutoImageProcessor.from_pretrained(arguments.image_encoder)
        text_config = BartConfig.from_pretrained(arguments.text_model)
    else:
        # The tokenizer says how many tokens there are and which are special.
        arguments.text_config["vocab_size"] = len(tokenizer)
        for name in ("bos", "eos", "pad"):
            arguments.text_config[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
        arguments.text_config["decoder_start_token_id"] = tokenizer.eos_token_id
        text_config = BartConfig(**arguments.text_config)
        image_processor = image_processor_of_size(Dinov2Config(**arguments.vision_config).image_size)
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config.max_position_embeddings)
    return MMJepaProcessor(image_processor=image_processor, tokenizer=tokenizer)


def build_model(arguments: ModelArguments) -> MMJepaForConditionalGeneration:
    """The saved model, or one from two checkpoints, or one from random weights."""
    if arguments.model_name_or_path is not None:
        return MMJepaForConditionalGeneration.from_pretrained(
            arguments.model_name_or_path, attn_implementation=arguments.attn_implementation
        )
    own_names = {field.name for field in fields(MMJepaConfig)} & {field.name for field in fields(ModelArguments)}
    own = {name: getattr(arguments, name) for name in own_names - {"vision_config", "text_config"}}
    if arguments.image_encoder is not None:
        return MMJepaForConditionalGeneration.from_vision_text_pretrained(
            arguments.image_encoder, arguments.text_model, attn_implementation=arguments.attn_implementation, **own
        )
    config = MMJepaConfig(
        vision_config=arguments.vision_config,
        text_config=arguments.text_config,
        tie_word_embeddings=arguments.text_config.get("tie_word_embeddings", True),
        attn_implementation=arguments.attn_implementation,
        **own,
    )
    model = MMJepaForConditionalGeneration(config)
    # Published BART's settings: answers begin with <s> and end with </s>.
    model.generation_config.forced_bos_token_id = config.text_config.bos_token_id
    model.generation_config.forced_eos_token_id = config.text_config.eos_token_id
    return model


def image_processor_of_size(size: int) -> "BaseImageProcessor":
    """DINOv2's own image processor for square images of `size` pixels."""


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs what the flags ask for; returns the numbers that are also in `all_results.json`."""
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    set_seed(training_args.seed)
