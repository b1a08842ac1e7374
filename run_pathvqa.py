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
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset, DatasetDict
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoImageProcessor,
    BartConfig,
    BartTokenizer,
    BaseImageProcessor,
    BitImageProcessor,
    Dinov2Config,
    HfArgumentParser,
    set_seed,
)
from transformers.hf_argparser import HfArg
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mmjepa.card_mmjepa import model_card
from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data_pathvqa import TEXT_COLUMNS, VqaData, alignment_text, check_readable, load_rows, prepare
from mmjepa.evaluation_pathvqa import (
    answer_questions,
    batches,
    encode_all_images,
    evaluate_model,
    evaluating,
    in_shares,
)
from mmjepa.export_mmjepa import export_parts
from mmjepa.metrics.vqa_answers.vqa_answers import score_answers
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.report_mmjepa import answer_table, draw_answers
from mmjepa.streaming_pathvqa import StreamedVqaData, stream_rows
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
    bf16_teacher: bool = HfArg(default=False, help="The frozen teacher in bfloat16, in half its memory.")

    def __post_init__(self):
        from_checkpoints = self.image_encoder is not None and self.text_model is not None
        from_random = self.vision_config is not None and self.text_config is not None
        if [self.model_name_or_path is not None, from_checkpoints, from_random].count(True) != 1:
            raise ValueError(
                "give the model in exactly one way: --model_name_or_path, or --image_encoder and --text_model, or "
                "--vision_config and --text_config."
            )
        self.vision_fields: dict = json.loads(self.vision_config or "{}")
        self.text_fields: dict = json.loads(self.text_config or "{}")


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
    max_unreadable_images: float = HfArg(
        default=0.1, help="Share of a split's images that may be missing or broken; they are read as zeros."
    )
    blank_images: bool = HfArg(
        default=False, help="Train and evaluate on black images: what do the questions alone give?"
    )
    max_answer_tokens: int = HfArg(default=32, help="Tokens generated at most.")
    streaming: bool = HfArg(
        default=False, help="Read training rows from parquet files while training; needs --max_steps."
    )
    streaming_buffer_size: int = HfArg(
        default=1000, help="Rows of a stream among which a worker shuffles images and gathers their questions."
    )

    def __post_init__(self):
        if not 0 <= self.max_unreadable_images <= 1:
            raise ValueError(f"--max_unreadable_images is {self.max_unreadable_images}: give a share from 0 to 1.")

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
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in values)]
    return flags


def load_processor(arguments: ModelArguments, training_texts: list[str]) -> MMJepaProcessor:
    """The saved processor, or one from the checkpoints' parts, or one that fits the configurations."""
    if arguments.model_name_or_path is not None:
        return MMJepaProcessor.from_pretrained(arguments.model_name_or_path)
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
        vision_config=arguments.vision_fields,
        text_config=arguments.text_fields,
        tie_word_embeddings=arguments.text_fields.get("tie_word_embeddings", True),
        attn_implementation=arguments.attn_implementation,
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


def set_text_mean(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, rows: Dataset, device: torch.device
) -> None:
    """Centres the alignment target on the mean of the teacher's embeddings of the distinct alignment texts.

    Each is encoded once, on `device`, by one of the processes.
    """

    def pool(texts: Sequence[str]) -> list[torch.Tensor]:
        pooled: list[torch.Tensor] = []
        for batch in batches(texts, 256):
            text = processor(text=batch, return_tensors="pt").to(device)
            pooled += model.encoder.encode_texts(text["input_ids"], text["attention_mask"]).float().cpu()
        return pooled

    texts = rows.select_columns([name for name in TEXT_COLUMNS if name in rows.column_names])
    distinct = sorted({alignment_text(row) for row in texts} - {""})
    teacher, own_device = model.encoder.teacher, model.device
    with evaluating(model):
        teacher.to(device)
        model.alignment.text_mean.copy_(torch.stack(in_shares(distinct, pool)).mean(dim=0))
        teacher.to(own_device)


def limit_rows(rows: DatasetDict, data_args: DataArguments, training_args: MMJepaTrainingArguments) -> DatasetDict:
    """The first rows of each split, as many as the flags allow; few in a fast run.

    Raises:
        ValueError: there is no train or no validation split.
    """
    if missing := {"train", "validation"} - set(rows):
        raise ValueError(
            f"{data_args.dataset_name} has the splits {', '.join(rows)} but no {' and no '.join(sorted(missing))}: "
            "training, and the majority answers that every evaluation is compared with, need both."
        )
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_val_samples}
    if training_args.fast_dev_run:
        limits = dict.fromkeys(rows, 2 * training_args.per_device_train_batch_size)
    return DatasetDict(
        {split: data.select(range(min(len(data), limits.get(split) or len(data)))) for split, data in rows.items()}
    )


def score_validation(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, data: VqaData, batch_size: int
) -> dict[str, float]:
    """Scores of the answers alone, by which the best checkpoint is chosen; the controls wait for the end."""
    states = encode_all_images(model, processor.image_processor, data.pixels, batch_size)
    questions = data.questions
    predictions = answer_questions(model, processor, questions["question"], states, questions["image_id"], batch_size)
    return score_answers(predictions, questions["answer"], questions["question"])


def check_streaming(data_args: DataArguments, training_args: MMJepaTrainingArguments) -> None:
    """Raises ValueError where a flag asks for what a stream can't give."""
    if training_args.max_steps <= 0:
        raise ValueError("a stream has no end: give --max_steps beside --streaming.")
    for flag in ("max_train_samples", "blank_images"):
        if getattr(data_args, flag):
            raise ValueError(f"--{flag} needs all rows beforehand: leave it out beside --streaming.")


def report_split(split: str, data: VqaData) -> None:
    logger.info("%s: %d questions about %d images", split, len(data.questions), len(data.pixels))
    if data.unreadable:
        logger.warning(
            "%s: %d images are missing or can't be decoded and are read as zeros; the first: %s",
            split,
            len(data.unreadable),
            ", ".join(data.unreadable[:10]),
        )


def evaluate_split(trainer: MMJepaTrainer, processor: MMJepaProcessor, data: dict, split: str, prefix: str) -> None:
    """Losses, answers, controls and retrieval of a split: numbers, every answer, a table and a picture."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    train_questions, batch_size = data["train"].questions, args.per_device_eval_batch_size
    answers: list[dict] = []
    # Grows while questions are answered: a stopped evaluation leaves its answers. In the end it holds all rows.
    answers_file = folder / f"{prefix}_answers.jsonl"

    def with_controls(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        with open(answers_file if trainer.is_world_process_zero() else os.devnull, "w") as stream:
            metrics, rows = evaluate_model(model, processor, data, train_questions, batch_size, args.seed, stream)
        answers.extend(rows)
        return metrics

    trainer.compute_answer_metrics = with_controls
    metrics = trainer.evaluate(data[split], metric_key_prefix=prefix)
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)
    if trainer.is_world_process_zero():
        with open(answers_file, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in answers)
        draw_answers(folder / f"{prefix}_answers.png", data[split], answers, seed=args.seed)
        print(answer_table({name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}))
        print(f"\npicture: {folder / f'{prefix}_answers.png'}\nmodel:   {folder}")


def write_card(trainer: MMJepaTrainer, model_args: ModelArguments, dataset_name: str, results: dict) -> None:
    """The model card, README.md, beside the saved model."""
    sources = (model_args.model_name_or_path, model_args.image_encoder, model_args.text_model)
    model_id = trainer.hub_model_id or trainer.args.output_dir
    card = model_card(model_id, results, dataset_name, base_models=[name for name in sources if name is not None])
    card.save(Path(trainer.args.output_dir, "README.md"))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs what the flags ask for; the first process returns the numbers that are also in `all_results.json`."""
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    level = logging.INFO if training_args.process_index == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    set_seed(training_args.seed)
    if data_args.streaming:
        check_streaming(data_args, training_args)

    # The others read what the first process leaves in the cache of `datasets`.
    with training_args.main_process_first():
        source = (data_args.dataset_name, data_args.dataset_config_name, data_args.columns())
        stream, rows = stream_rows(*source) if data_args.streaming else (None, load_rows(*source))
    rows = limit_rows(rows, data_args, training_args)
    training_texts = sorted({text for name in ("question", "answer") for text in rows["train"][name]})
    processor = load_processor(model_args, training_texts)
    model = build_model(model_args)
    if model_args.bf16_teacher:
        model.encoder.teacher.to(torch.bfloat16)
    model.generation_config.max_new_tokens = data_args.max_answer_tokens
    if model_args.model_name_or_path is None and model.config.alignment_target == "centered":
        set_text_mean(model, processor, rows["train"], training_args.device)
    with training_args.main_process_first():
        data: dict[str, Any] = {
            split: prepare(rows[split], processor.image_processor, data_args.preprocessing_num_workers)
            for split in rows
            if stream is None or split != "train"
        }
    for split, split_data in data.items():
        check_readable(split, split_data.unreadable, len(split_data.pixels), data_args.max_unreadable_images)
        report_split(split, split_data)
    if data_args.blank_images:
        data = {split: split_data.blank() for split, split_data in data.items()}

    if stream is not None:
        data["train"] = StreamedVqaData(
            stream,
            rows["train"],
            processor.image_processor,
            batch_size=training_args.per_device_train_batch_size,
            questions_per_image=training_args.questions_per_image,
            buffer_size=data_args.streaming_buffer_size,
            seed=training_args.seed,
            max_unreadable=data_args.max_unreadable_images,
            process_index=training_args.process_index,
            num_processes=training_args.world_size,
        )

    def answer_scores(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        return score_validation(model, processor, data, training_args.per_device_eval_batch_size)

    trainer = MMJepaTrainer(
        model=model,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=processor,
        compute_answer_metrics=answer_scores,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        metrics = result.metrics | {"train_samples": len(data["train"].questions)}
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split in data and (training_args.do_eval if prefix == "eval" else training_args.do_predict):
            evaluate_split(trainer, processor, data, split, prefix)
    results: dict[str, float] = {}
    if trainer.is_world_process_zero():
        results = json.loads(Path(training_args.output_dir, "all_results.json").read_text())
        write_card(trainer, model_args, data_args.dataset_name, results)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    model = trainer.whole_model()
    if trainer.is_world_process_zero():
        if training_args.export_dir is not None:
            export_parts(model, processor, training_args.export_dir)
        if training_args.onnx_dir is not None:
            from mmjepa.onnx_mmjepa import export_onnx  # its packages are an extra

            export_onnx(model, processor, training_args.onnx_dir)
    return results


if __name__ == "__main__":
    main()
