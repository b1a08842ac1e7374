#!/usr/bin/env python
"""Trains, evaluates and exports MMJepa on PathVQA or any data set of images, questions and answers.

    python run_pathvqa.py --fast_dev_run --batch_size 2    # PathVQA and the published DINOv2 and BART
    python run_pathvqa.py configs/demo.json --seed 1

The first argument may be a JSON or YAML file of flags; flags after it win. Left-out flags have the defaults that
`--help` shows.
"""

import json
import logging
import os
import re
import shutil
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

PUBLISHED = {"image_encoder": "facebook/dinov2-base", "text_model": "facebook/bart-base"}
# Of a saved model's configuration only these can change: its weights are of the shape or the aim that the others say.
CHANGEABLE = ("lambda_align", "lambda_ce")
NEWEST = ("last", "true")  # what --resume_from_checkpoint says for the newest checkpoint of the output folder
CHECKPOINT = re.compile(r"checkpoint-\d+")
# By these a folder is known to hold a run. Its results stand beside them; all else a later run writes over.
RUN_SIGNS = re.compile(r"checkpoint-\d+|trainer_state\.json|all_results\.json|model(-\d+-of-\d+)?\.safetensors")
RESULTS = re.compile(r"(all|train|eval|test)_results\.json|(eval|test)_answers\.(jsonl|png)|README\.md")


def config_flag(name: str, help: str, **kwargs) -> Any:
    """A flag for a field of MMJepaConfig; None is `not given`, so that a saved model's value is not overwritten."""
    # The formatter adds "(default: None)" wherever %(default) is not in the text; .0 prints nothing of it.
    help += f" (default: {getattr(MMJepaConfig, name)}, or the saved model's)%(default).0s"
    return HfArg(default=None, help=help, **kwargs)


@dataclass
class ModelArguments:
    """Which model: a saved one, one from two published checkpoints (by default), or one from random weights."""

    model_name_or_path: str | None = HfArg(default=None, help="A saved MMJepa to train on or evaluate.")
    image_encoder: str | None = HfArg(
        default=None, help=f"A DINOv2 checkpoint; where no model is named, {PUBLISHED['image_encoder']}."
    )
    text_model: str | None = HfArg(
        default=None, help=f"A BART checkpoint; where no model is named, {PUBLISHED['text_model']}."
    )
    vision_config: str | None = HfArg(default=None, help="JSON of Dinov2Config fields, to start from random weights.")
    text_config: str | None = HfArg(default=None, help="JSON of BartConfig fields, to start from random weights.")
    tokenizer_name: str | None = HfArg(
        default=None, help="A BART tokenizer; by default the text model's, or one trained on the training texts."
    )
    num_image_tokens: int | None = config_flag(
        "num_image_tokens", "M, visual tokens of an image.", aliases=["--m_image_tokens"]
    )
    visual_prefix: str | None = config_flag("visual_prefix", "patches or pooled.")
    image_pooling: str | None = config_flag("image_pooling", "cls or mean.")
    project_image: bool | None = config_flag(
        "project_image", "Whether a linear layer maps the image embedding to the text width."
    )
    alignment_loss: str | None = config_flag("alignment_loss", "cosine, infonce or sigmoid.")
    alignment_target: str | None = config_flag("alignment_target", "embedding, centered or layer_norm.")
    lambda_align: float | None = config_flag("lambda_align", "Weight of the alignment loss.")
    lambda_ce: float | None = config_flag("lambda_ce", "Weight of the answer loss.")
    attn_implementation: str | None = HfArg(default=None, help="sdpa, eager or flash_attention_2.")
    bf16_teacher: bool = HfArg(default=False, help="The frozen teacher in bfloat16, in half its memory.")

    def __post_init__(self):
        parts = ("image_encoder", "text_model", "vision_config", "text_config", "tokenizer_name")
        given = [name for name in parts if getattr(self, name) is not None]
        if self.model_name_or_path is not None:
            if given:
                raise ValueError(
                    f"--{', --'.join(given)} beside --model_name_or_path, whose model has its own: leave out "
                    "--model_name_or_path to start a new model, else the others."
                )
        elif {"vision_config", "text_config"} & set(given):
            if not {"vision_config", "text_config"} <= set(given) or {"image_encoder", "text_model"} & set(given):
                raise ValueError(
                    f"--{', --'.join(given)}: give --vision_config and --text_config together, for random weights, or "
                    "name checkpoints with --image_encoder and --text_model."
                )
        else:
            for name, published in PUBLISHED.items():
                setattr(self, name, getattr(self, name) or published)
        self.vision_fields: dict = json.loads(self.vision_config or "{}")
        self.text_fields: dict = json.loads(self.text_config or "{}")

    def config_fields(self) -> dict[str, Any]:
        """The fields of MMJepaConfig that were given, but for its towers'."""
        names = {field.name for field in fields(MMJepaConfig)} & {field.name for field in fields(ModelArguments)}
        given = {name: getattr(self, name) for name in sorted(names - {"vision_config", "text_config"})}
        return {name: value for name, value in given.items() if value is not None}


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
    """The first rows of each split, as many as the flags allow; few in a fast run."""
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


def needed_splits(args: MMJepaTrainingArguments) -> list[str]:
    """The splits whose images are looked at. Of train, evaluations need the texts alone."""
    asked = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    return [split for split, is_asked in asked.items() if is_asked]


def check_run(data_args: DataArguments, training_args: MMJepaTrainingArguments) -> None:
    """Raises ValueError where flags ask for nothing, or for what a stream or a run without training can't give."""
    if not (needed_splits(training_args) or training_args.export_dir or training_args.onnx_dir):
        raise ValueError(
            "there is nothing to do: leave out --do_train false or --do_eval false, or give --do_predict, "
            "--export_dir or --onnx_dir."
        )
    if training_args.push_to_hub and not training_args.do_train:
        raise ValueError("--push_to_hub pushes what a run trains: leave it out beside --do_train false.")
    if data_args.streaming:
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


def evaluate_split(
    trainer: MMJepaTrainer, processor: MMJepaProcessor, data: VqaData, train_questions: Dataset, prefix: str
) -> dict[str, float]:
    """Losses, answers, controls and retrieval of a split: numbers, every answer, a table and a picture."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    batch_size = args.per_device_eval_batch_size
    answers: list[dict] = []
    # Grows while questions are answered: a stopped evaluation leaves its answers. In the end it holds all rows.
    answers_file = folder / f"{prefix}_answers.jsonl"

    def with_controls(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        with open(answers_file if trainer.is_world_process_zero() else os.devnull, "w") as stream:
            metrics, rows = evaluate_model(model, processor, data, train_questions, batch_size, args.seed, stream)
        answers.extend(rows)
        return metrics

    trainer.compute_answer_metrics = with_controls
    metrics = trainer.evaluate(data, metric_key_prefix=prefix)
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)
    if trainer.is_world_process_zero():
        with open(answers_file, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in answers)
        draw_answers(folder / f"{prefix}_answers.png", data, answers, seed=args.seed)
        print(answer_table({name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}))
        print(f"\npicture: {folder / f'{prefix}_answers.png'}")
    return metrics


def write_card(trainer: MMJepaTrainer, model_args: ModelArguments, dataset_name: str, results: dict) -> None:
    """The model card, README.md, beside the trained model."""
    parts = [name for name in (model_args.image_encoder, model_args.text_model) if name is not None]
    saved = model_args.model_name_or_path
    model_id = trainer.hub_model_id or trainer.args.output_dir
    card = model_card(model_id, results, dataset_name, [saved] if saved else parts, fine_tuned=saved is not None)
    card.save(Path(trainer.args.output_dir, "README.md"))


def is_complete(checkpoint: Path) -> bool:
    """Whether training can go on from it: a save that was cut off lacks the Trainer's state, which is written last."""
    # DeepSpeed has its optimizer in a folder whose name the file `latest` holds.
    deepspeed = (checkpoint / "latest").exists()
    optimizer = ("global_step*",) if deepspeed else ("optimizer*", "scheduler.pt")
    return all(any(checkpoint.glob(part)) for part in ("trainer_state.json", "model*.safetensors", *optimizer))


def find_checkpoint(args: MMJepaTrainingArguments) -> str | None:
    """The checkpoint that --resume_from_checkpoint means, None where training starts from the beginning.

    Raises:
        ValueError: the folder that it names holds no complete checkpoint.
    """
    named = args.resume_from_checkpoint
    if named is None or named == "false":
        return None
    newest = named in NEWEST
    folder = Path(args.output_dir if newest else named)
    if CHECKPOINT.fullmatch(folder.name) or is_complete(folder):
        return str(folder)
    found = [path for path in folder.glob("*") if CHECKPOINT.fullmatch(path.name) and is_complete(path)]
    if found:
        return str(max(found, key=lambda path: int(path.name.split("-")[1])))
    if not newest:
        raise ValueError(
            f"{folder} holds no complete checkpoint to go on from: name a checkpoint or a run's folder that has one, "
            "or leave out --resume_from_checkpoint."
        )
    logger.warning("%s holds no complete checkpoint yet: training starts from the beginning", folder)
    return None


def check_folder(args: MMJepaTrainingArguments, model_name: str | None, checkpoint: str | None) -> None:
    """Raises ValueError where the output folder is another run's, whose numbers and model would mix with this one's.

    An evaluation may go beside the model that it evaluates.
    """
    folder = Path(args.output_dir)
    held = signs_of_run(folder)
    if args.resume_from_checkpoint in NEWEST and checkpoint is None:
        # Only a run that was stopped in its first save, which may begin again.
        held = [name for name in held if not CHECKPOINT.fullmatch(name)]
    if args.overwrite_output_dir:
        sources = [Path(name).resolve() for name in (model_name, args.resume_from_checkpoint) if name is not None]
        if args.resume_from_checkpoint in NEWEST or any(
            folder.resolve() in (source, *source.parents) for source in sources
        ):
            raise ValueError(
                f"--overwrite_output_dir would remove what this run starts from, in {folder}: leave it out, or name "
                "another --output_dir."
            )
    elif held and args.do_train and checkpoint is None:
        raise ValueError(
            f"{folder} holds an earlier run ({', '.join(held)}): name another --output_dir, go on with "
            "--resume_from_checkpoint, or remove what that run left with --overwrite_output_dir."
        )
    elif held and not args.do_train and (model_name is None or folder.resolve() != Path(model_name).resolve()):
        raise ValueError(
            f"{folder} holds another run ({', '.join(held)}): name another --output_dir for this one's numbers, or "
            "remove what that run left with --overwrite_output_dir."
        )


def signs_of_run(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if RUN_SIGNS.fullmatch(path.name))


def clear_folder(args: MMJepaTrainingArguments) -> None:
    """Removes what an earlier run left in the output folder: all that tells of it, or, gone on with, its results."""
    folder = Path(args.output_dir)
    signs = signs_of_run(folder)
    if signs and (args.do_train or args.overwrite_output_dir):
        for path in folder.glob("*"):
            if RESULTS.fullmatch(path.name):
                path.unlink()
    if args.overwrite_output_dir:
        for path in (folder / name for name in signs):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)  # all_results.json is a result too


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs what the flags ask for; returns this run's numbers, which are also in `all_results.json`."""
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    level = logging.INFO if training_args.process_index == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    set_seed(training_args.seed)
    splits = needed_splits(training_args)
    new_model = model_args.model_name_or_path is None
    check_run(data_args, training_args)
    checkpoint = find_checkpoint(training_args) if training_args.do_train else None
    if splits:
        check_folder(training_args, model_args.model_name_or_path, checkpoint)

    stream, rows = None, DatasetDict()
    if splits or new_model:
        # The others read what the first process leaves in the cache of `datasets`.
        with training_args.main_process_first():
            source = (data_args.dataset_name, data_args.dataset_config_name, data_args.columns())
            wanted = dict.fromkeys(("train", *splits))
            stream, rows = stream_rows(*source, wanted) if data_args.streaming else (None, load_rows(*source, wanted))
        rows = limit_rows(rows, data_args, training_args)
    training_texts = (
        sorted({text for name in ("question", "answer") for text in rows["train"][name]}) if new_model else []
    )
    processor = load_processor(model_args, training_texts)
    model = build_model(model_args)
    if model_args.bf16_teacher:
        model.encoder.teacher.to(torch.bfloat16)
    model.generation_config.max_new_tokens = data_args.max_answer_tokens
    if new_model and model.config.alignment_target == "centered":
        set_text_mean(model, processor, rows["train"], training_args.device)
    with training_args.main_process_first():
        data: dict[str, Any] = {
            split: prepare(rows[split], processor.image_processor, data_args.preprocessing_num_workers)
            for split in splits
            if stream is None or split != "train"
        }
    for split, split_data in data.items():
        check_readable(split, split_data.unreadable, len(split_data.pixels), data_args.max_unreadable_images)
        report_split(split, split_data)
    if data_args.blank_images:
        data = {split: split_data.blank() for split, split_data in data.items()}

    if stream is not None and training_args.do_train:
        data["train"] = StreamedVqaData(
            stream,
            rows["train"],
            processor.image_processor,
            batch_size=training_args.per_device_train_batch_size,
            questions_per_image=training_args.questions_per_image,
            buffer_size=data_args.streaming_buffer_size,
            seed=training_args.seed if training_args.data_seed is None else training_args.data_seed,
            max_unreadable=data_args.max_unreadable_images,
            process_index=training_args.process_index,
            num_processes=training_args.world_size,
        )

    def answer_scores(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        return score_validation(model, processor, data, training_args.per_device_eval_batch_size)

    trainer = MMJepaTrainer(
        model=model,
        args=training_args,
        train_dataset=data.get("train"),
        eval_dataset=data.get("validation"),
        processing_class=processor,
        compute_answer_metrics=answer_scores,
    )
    # All that can be wrong with the flags was found out before anything is removed.
    if splits and trainer.is_world_process_zero():
        clear_folder(training_args)
    results: dict[str, float] = {}
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        results |= result.metrics | {"train_samples": len(data["train"].questions)}
        trainer.log_metrics("train", results)
        trainer.save_metrics("train", results)
        trainer.save_state()
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split in splits:
            results |= evaluate_split(trainer, processor, data[split], rows["train"], prefix)
    if training_args.do_train and trainer.is_world_process_zero():
        write_card(trainer, model_args, data_args.dataset_name, results)
        print(f"model:   {training_args.output_dir}")
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
