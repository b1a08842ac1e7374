"""Every flag: of the model, of the data, of the training and of what it writes."""

import logging
import os
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, Namespace
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, get_type_hints

import torch
from transformers import (
    HfArgumentParser,
    TrainingArguments,
)
from transformers.debug_utils import DebugOption
from transformers.hf_argparser import HfArg, string_to_bool
from transformers.training_args import ParallelMode

from ..configuration_mmjepa import MMJepaConfig
from .augmentation import AUGMENTATIONS
from .command_line import (
    IMPLIED,
    PRECISIONS,
    check_agreement,
    check_onnx_packages,
    json_object,
    meant,
    read_command_line,
)

logger = logging.getLogger("mmjepa")
# What --resume_from_checkpoint may say in place of a folder.
SWITCHES = {"true": "true", "last": "last", "false": None}
# Flags of the library that this Trainer can't follow: the value that each keeps, and why.
FIXED_FLAGS: dict[str, tuple[Any, str]] = {
    "train_sampling_strategy": ("random", "rows are grouped by image, see questions_per_image"),
    "length_column_name": ("length", "rows are grouped by image, see questions_per_image"),
    "remove_unused_columns": (False, "the collator reads the text columns"),
    "label_names": (None, "the answers are the labels"),
    "optim_target_modules": (None, "the image half and the decoder have rates of their own"),
    "use_liger_kernel": (False, "there are no such kernels for this model"),
    "liger_kernel_config": (None, "there are no such kernels for this model"),
    "use_cache": (False, "training reads whole answers"),
    "bf16_full_eval": (False, "it would leave the model in that precision; see precision"),
    "fp16_full_eval": (False, "it would leave the model in that precision; see precision"),
    "enable_jit_checkpoint": (False, "a SIGTERM or SIGINT saves a checkpoint anyway"),
    "parallelism_config": (None, "images and questions differ in number and can't be split alike"),
}
# Fields of accelerator_config that keep their value: each process has its share of a step's rows already.
FIXED_ACCELERATOR_FIELDS = {
    "split_batches": False,
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
}
# Optimizers that make parameter groups of their own, or that take their step in the backward pass.
REFUSED_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")


def default_workers() -> int:
    """Four, or as many as there are cores where there are fewer: more would only take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, cores)


@dataclass
class OutputArguments:
    """Where a run writes, what of it is kept, and what an earlier run's is for."""

    _argument_group_name = "output"

    output_dir: str = HfArg(default="./checkpoints", aliases=["--ckpt_dir"], help="Where checkpoints are written.")
    log_dir: str | None = HfArg(
        default=None,
        help="Folder of logs, by default `logs` in the output folder; TensorBoard's are in mmjepa_joint below it.",
    )
    export_dir: str | None = HfArg(
        default=None, help="Where the trained parts are written, each for a stock class to load."
    )
    onnx_dir: str | None = HfArg(default=None, help="Where the trained model is written as ONNX graphs.")
    resume_from_checkpoint: str | None = HfArg(
        default=None,
        help="Resumes training. Without a value, or with `true` or `last`: from the newest complete checkpoint in the "
        "output folder. With a run's folder: from the newest there. With a checkpoint: from that one.",
        metadata={"nargs": "?", "const": "last"},
    )
    overwrite_output_dir: bool = HfArg(
        default=False,
        help="Removes what an earlier run left in the output folder, its model and checkpoints too; other files stay.",
    )
    save_strategy: str = HfArg(default="epoch", help="When to save a checkpoint.")
    save_total_limit: int | None = HfArg(default=2, help="The best and the last checkpoint.")
    logging_steps: float = HfArg(default=20, help="Steps between two lines of the log.")
    report_to: list[str] | str | None = field(default="tensorboard", metadata={"help": "Where logs go."})


@dataclass
class MMJepaTrainingArguments(OutputArguments, TrainingArguments):
    """transformers' training arguments with this project's defaults, some second names, and a few flags more."""

    _argument_group_name = "training"

    per_device_train_batch_size: int = HfArg(
        default=16, aliases=["--batch_size"], help="Questions per batch and process."
    )
    per_device_eval_batch_size: int = HfArg(default=64, help="Questions per batch of an evaluation.")
    dataloader_num_workers: int = HfArg(
        default_factory=default_workers,
        aliases=["--num_workers"],
        help="Processes that load data: 4, or as many as there are cores where there are fewer.",
    )
    num_train_epochs: float = HfArg(default=3, aliases=["--max_epochs"], help="How many times every question is seen.")
    lr_img: float = HfArg(
        default=3e-4, help="Peak learning rate of the image encoder, projector, visual prefix and alignment loss."
    )
    learning_rate: float = HfArg(default=3e-5, aliases=["--lr_dec"], help="Peak learning rate of the text decoder.")
    encoder_lr_factor: float = HfArg(
        default=1.0,
        help="What lr_img is multiplied by for the image encoder alone; below 1 a pretrained one changes more slowly "
        "than the new layers, 0 freezes it.",
    )
    use_cosine_schedule: bool = HfArg(default=False, help="Decay by a cosine instead of --lr_scheduler_type.")
    warmup_steps: float = HfArg(
        default=0.06,
        aliases=["--warmup_ratio"],
        help="Learning-rate warm-up: a share of all steps if below 1, else a number of steps.",
    )
    gradient_accumulation_steps: int = HfArg(
        default=1, aliases=["--accumulate_grad_batches"], help="Batches whose gradients are added up for a step."
    )
    max_grad_norm: float = HfArg(
        default=1.0,
        aliases=["--gradient_clip_val"],
        help="Largest norm of the gradients; longer ones are scaled down to it.",
    )
    precision: str = HfArg(
        default="auto",
        help="bf16 (or bf16-mixed), fp16 (16-mixed) or 32 (32-true); auto is bf16 on a GPU that has it, else 32.",
    )
    do_train: bool = HfArg(default=True, help="Whether to train.")
    do_eval: bool = HfArg(
        default=True,
        help="Whether to evaluate the validation split at the end, controls included; false also switches off the "
        "evaluations while training (--eval_strategy) and with them the choice of the best checkpoint.",
    )
    do_predict: bool = HfArg(
        default=False,
        help="Whether to answer the test split, or what --predict_split or --predict_data name, which switch it on; "
        "the answers are in predictions.parquet.",
    )
    predict_split: str | None = HfArg(
        default=None, help="The split of the data set that is answered and evaluated in place of test."
    )
    predict_data: list[str] | None = HfArg(
        default=None,
        help="New images to answer about, without a data set: images, folders of images, or tables (.csv, .json, "
        ".jsonl, .parquet) of images and, if they have them, questions and answers.",
    )
    predict_question: list[str] | None = HfArg(
        default=None, help="What is asked about images of --predict_data without a question; one question or more."
    )
    align_warmup_epochs: float = HfArg(
        default=1.0, help="Epochs at the start that train the alignment alone; at most half of the training."
    )
    questions_per_image: int = HfArg(
        default=8, help="How many questions of an image may follow each other in the training order; 1 shuffles all."
    )
    max_nonfinite_steps: int = HfArg(
        default=5,
        help="How many steps whose loss or gradient is not a finite number are skipped before the run stops; their "
        "rows are in nonfinite_rows.jsonl.",
    )
    augmentations: list[str] | None = HfArg(
        default=None, help="Random views of training images: any of crop, flip, stain; none by default."
    )
    fast_dev_run: bool = HfArg(default=False, help="Two training steps and little data: does everything run?")
    overfit: int | None = HfArg(
        default=None,
        help="Trains on this many rows until the model answers all of them, for about a minute at most, and says what "
        "is wrong where it does not. Nothing is saved.",
    )
    remove_unused_columns: bool = HfArg(default=False, help="The collator reads the text columns.")
    eval_strategy: str = HfArg(default="epoch", help="When to evaluate.")
    load_best_model_at_end: bool = HfArg(
        default=True, help="Whether the best checkpoint is saved at the end, not the last."
    )
    metric_for_best_model: str | None = HfArg(default="accuracy", help="The number that chooses the best checkpoint.")
    early_stopping_patience: int | None = HfArg(
        default=None,
        help="Stop after this many evaluations in a row without a better --metric_for_best_model; those during the "
        "alignment warm-up don't count.",
    )

    given = frozenset[str]()  # the arguments that were given, not left out for their defaults

    def __new__(cls, *args, **given):
        arguments = super().__new__(cls)
        arguments.given = frozenset(given)  # names alone: the Hub's token may be among the values
        return arguments

    def __post_init__(self):
        self._settle()
        if self.log_dir is None:
            self.log_dir = os.path.join(self.output_dir, "logs")
        if not torch.accelerator.is_available():
            # Without it the library refuses bfloat16, and each of several processes takes itself for the only one.
            self.use_cpu = True
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision is {self.precision!r}: allowed are auto, {', '.join(PRECISIONS)}.")
        if self.precision == "auto" and not (self.bf16 or self.fp16 or self.use_cpu or "bf16" in self.given):
            # Older GPUs emulate bf16, slower than float32.
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        for name, low in (
            ("gradient_accumulation_steps", 1),
            ("seed", 0),
            ("lr_img", 0),
            ("encoder_lr_factor", 0),
            ("align_warmup_epochs", 0),
            ("questions_per_image", 1),
            ("max_nonfinite_steps", 0),
            ("early_stopping_patience", 1),
            ("overfit", 1),
        ):
            if getattr(self, name) is not None and not getattr(self, name) >= low:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give a number of at least {low}.")
        if self.do_train and self.lr_img == self.learning_rate == 0:
            raise ValueError("lr_img and learning_rate are both 0, which trains nothing: give one of them.")
        if self.onnx_dir is not None:
            check_onnx_packages("onnx_dir")
            from transformers.exporters import OnnxExporter

            OnnxExporter()  # an error now, not after the training, where torch is too old for it
        if unknown := set(self.augmentations or ()) - set(AUGMENTATIONS):
            raise ValueError(f"augmentations hold {', '.join(unknown)}: allowed are {', '.join(AUGMENTATIONS)}.")
        if self.ddp_find_unused_parameters is None and self.align_warmup_epochs > 0:
            # During the warm-up the decoder takes no part in the loss, which DDP refuses unless told.
            self.ddp_find_unused_parameters = True
        if self.predict_split and self.predict_data:
            raise ValueError("--predict_split and --predict_data both say what is answered: leave out one of them.")
        if self.predict_question and not self.predict_data:
            raise ValueError("--predict_question asks about the images of --predict_data: give that too.")
        self.predict_split = self.predict_split or "test"
        if self.overfit is not None:
            self._set_overfitting()
        super().__post_init__()
        self._check_fixed_flags()
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}, but no best checkpoint is kept: "
                "leave out --do_eval false and --load_best_model_at_end false, and give --eval_strategy epoch or "
                "steps; or leave out --early_stopping_patience."
            )
        if self.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
            # The Trainer would split images and questions into equal shares, but they differ in number.
            logger.warning(
                "Training on one of %d GPUs; to use all: torchrun --nproc_per_node %d run_pathvqa.py ...",
                *[self.n_gpu] * 2,
            )
            self._n_gpu = 1

    def __getstate__(self) -> dict[str, Any]:
        """Without the Hub's token: the Trainer pickles its arguments beside the model, and pushes them with it."""
        return {**self.__dict__, "hub_token": None}

    def _settle(self):
        """Sets what the given arguments say about others; ValueError where two of them contradict each other.

        With an eval_strategy beside `do_eval` false, for example, the library would set `do_eval` again.
        """
        given = {name: getattr(self, name) for name in sorted(self.given) if getattr(self, name) is not None}
        check_agreement(given)
        for name, value in given.items():
            for implied, meaning in IMPLIED.get(name, lambda _: {})(meant(name, value)[1]).items():
                if implied not in self.given:
                    setattr(self, implied, meaning)
        if (said := str(self.resume_from_checkpoint).lower()) in SWITCHES:
            self.resume_from_checkpoint = SWITCHES[said]

    def _set_overfitting(self):
        """What --overfit sets beside what it implies: only the answers are of interest."""
        self.metric_for_best_model, self.early_stopping_patience, self.augmentations = None, None, None
        self.report_to, self.disable_tqdm = "none", True
        self.dataloader_num_workers = 0  # an epoch is often one step
        if self.max_steps <= 0:
            self.max_steps = 10_000  # a minute ends before

    @property
    def splits(self) -> list[str]:
        """The splits whose images are looked at. Of train, evaluations need the texts alone."""
        asked = [("train", self.do_train), ("validation", self.do_eval)]
        asked.append((self.predict_split, self.do_predict and not self.predict_data))
        return list(dict.fromkeys(split for split, is_asked in asked if is_asked))

    @property
    def writes_results(self) -> bool:
        """Whether the output folder gets anything; an export alone writes elsewhere."""
        return self.overfit is None and (self.do_train or self.do_eval or self.do_predict)

    def _check_fixed_flags(self):
        """Raises ValueError where a flag of the library asks for what this project's Trainer would do otherwise."""
        for name, (value, reason) in FIXED_FLAGS.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it stays {value!r} here, because {reason}.")
        for name, value in FIXED_ACCELERATOR_FIELDS.items():
            if getattr(self.accelerator_config, name) != value:
                raise ValueError(
                    f"accelerator_config has {name} {getattr(self.accelerator_config, name)!r}: it stays {value!r} "
                    "here, because each process has its share of a step's rows already."
                )
        if self.optim.startswith(REFUSED_OPTIMIZERS):
            raise ValueError(
                f"optim is {self.optim.value!r}: the image half and the decoder have rates of their own, which "
                f"{', '.join(REFUSED_OPTIMIZERS)} can't give them; choose another, such as 'adamw_torch'."
            )
        if DebugOption.UNDERFLOW_OVERFLOW in self.debug:
            raise ValueError("debug is 'underflow_overflow', which can't read masks: leave it out.")
        if self.ddp_static_graph and self.align_warmup_epochs > 0:
            raise ValueError(
                "ddp_static_graph is True, but the decoder takes no part in the alignment warm-up: leave it out, or "
                "give align_warmup_epochs 0."
            )


# Fields of DataArguments that are numbers of at least 1.
LIMITS = (
    "max_train_samples",
    "max_val_samples",
    "preprocessing_num_workers",
    "max_answer_tokens",
    "streaming_buffer_size",
)
MAX_ANSWER_TOKENS = 32  # how many a new model writes, by default
PUBLISHED = {"image_encoder": "facebook/dinov2-base", "text_model": "facebook/bart-base"}
# Fields of MMJepaConfig that are flags by the same name.
CONFIG_FIELDS = (
    "num_image_tokens",
    "visual_prefix",
    "image_pooling",
    "project_image",
    "alignment_loss",
    "alignment_target",
    "alignment_text",
    "aligned_token",
    "lambda_align",
    "lambda_ce",
    "lambda_answer",
)


def config_flag(name: str, help: str, **kwargs) -> Any:
    """A flag for a field of MMJepaConfig; None is `not given`, so that a saved model's value is not overwritten."""
    help += f" (default: {getattr(MMJepaConfig, name)}, or the saved model's)"
    return HfArg(default=None, help=help, **kwargs)


@dataclass
class ModelArguments:
    """Which model: a saved one, one from two published checkpoints (by default), or one from random weights."""

    _argument_group_name = "model"

    model_name_or_path: str | None = HfArg(default=None, help="A saved MMJepa to train on or evaluate.")
    model_revision: str | None = HfArg(default=None, help="Its branch, tag or commit on the Hub.")
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
    image_size: int | None = HfArg(
        default=None,
        help="Pixels a side of the images that the model sees, a multiple of its patches' side (default: as "
        "published, pretrained or saved). DINOv2 interpolates its position embeddings.",
    )
    center_crop: bool = HfArg(
        default=False,
        help="Keep the published image processor's crop, which cuts the borders of an image off. Without it the whole "
        "image is resized to a square.",
    )
    num_image_tokens: int | None = config_flag(
        "num_image_tokens", "M, the visual tokens of an image.", aliases=["--m_image_tokens"]
    )
    visual_prefix: str | None = config_flag("visual_prefix", "patches or pooled.")
    image_pooling: str | None = config_flag("image_pooling", "cls or mean.")
    project_image: bool | None = config_flag(
        "project_image", "Whether a linear layer maps the image embedding to the text width."
    )
    alignment_loss: str | None = config_flag("alignment_loss", "cosine, infonce or sigmoid.")
    alignment_target: str | None = config_flag("alignment_target", "embedding, centered or layer_norm.")
    alignment_text: str | None = config_flag(
        "alignment_text",
        "What of a row its image is aligned to: priority (the first of question, caption, answer, text), statement "
        "(question and answer), or a column.",
    )
    aligned_token: bool | None = config_flag(
        "aligned_token", "Whether the first visual token of patches is the aligned image embedding."
    )
    lambda_align: float | None = config_flag("lambda_align", "Weight of the alignment loss.")
    lambda_ce: float | None = config_flag("lambda_ce", "Weight of the answer loss.")
    lambda_answer: float | None = config_flag(
        "lambda_answer", "Weight of the loss of the answer's predicted embedding; a new model with 0 is without it."
    )
    attn_implementation: str | None = HfArg(default=None, help="sdpa, eager or flash_attention_2.")
    bf16_text_encoder: bool = HfArg(
        default=False, help="Keep the frozen text encoder in bfloat16, which halves its memory."
    )

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
        if self.center_crop and (self.image_encoder is None or self.image_size is not None):
            raise ValueError(
                "--center_crop keeps the image processor of --image_encoder as it is: leave it out, with "
                "--model_name_or_path, --vision_config and --image_size."
            )
        self.vision_fields = json_object("vision_config", self.vision_config or "{}")
        self.text_fields = json_object("text_config", self.text_config or "{}")

    def config_fields(self) -> dict[str, Any]:
        """The fields of MMJepaConfig that were given by flag, without the towers' configurations."""
        given = {name: getattr(self, name) for name in CONFIG_FIELDS}
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class DataArguments:
    """Which data set, a Hub id or a local folder; which of its columns and rows, and how they are read."""

    _argument_group_name = "data"

    dataset_name: str = HfArg(
        default="flaviagiammarino/path-vqa",
        help="Hub id, a table (CSV, TSV, JSON, JSONL, parquet), or a folder of tables, of images and metadata.csv, of "
        "parquet files or of save_to_disk.",
    )
    dataset_config_name: str | None = HfArg(default=None, help="The data set's configuration on the Hub.")
    image_column: str | None = HfArg(default=None, help="Name of the image column, where it is not `image`.")
    question_column: str | None = HfArg(default=None, help="Name of the question column, where it is not `question`.")
    answer_column: str | None = HfArg(default=None, help="Name of the answer column, where it is not `answer`.")
    caption_column: str | None = HfArg(default=None, help="Name of the caption column, where it is not `caption`.")
    text_column: str | None = HfArg(default=None, help="Name of the text column, where it is not `text`.")
    max_train_samples: int | None = HfArg(default=None, help="Train on this many rows.")
    max_val_samples: int | None = HfArg(default=None, aliases=["--max_eval_samples"], help="Evaluate this many rows.")
    validation_split_percentage: float = HfArg(
        default=10,
        help="Percentage of the training images that is held out where there is no validation split, about: an "
        "image's content and --data_seed decide about each. 100, without training, evaluates all of them.",
    )
    group_column: str | None = HfArg(
        default=None,
        help="A column, such as a patient, slide or case, whose rows are held out together; by default each image is "
        "for itself.",
    )
    preprocessing_num_workers: int = HfArg(default=2, help="Processes that decode and resize the images, once.")
    max_unreadable_images: float = HfArg(
        default=0.1, help="Share of a split's images that may be missing or broken; they are read as zeros."
    )
    allow_outside_images: bool = HfArg(
        default=False,
        help="Read images that a table names outside of its folder too. Give it for tables that you trust.",
    )
    blank_images: bool = HfArg(
        default=False, help="Train and evaluate on black images: what can be answered from the questions alone?"
    )
    max_answer_tokens: int | None = HfArg(
        default=None,
        help=f"How many tokens an answer may have (default: {MAX_ANSWER_TOKENS}, or the saved model's)%(default).0s",
    )
    streaming: bool = HfArg(
        default=False, help="Read training rows from parquet files while training; needs --max_steps."
    )
    streaming_buffer_size: int = HfArg(
        default=1000,
        help="Rows of a stream that each worker holds, to shuffle them and to gather an image's questions.",
    )

    def __post_init__(self):
        if not 0 <= self.max_unreadable_images <= 1:
            raise ValueError(f"--max_unreadable_images is {self.max_unreadable_images}: give a share from 0 to 1.")
        if not 0 < self.validation_split_percentage <= 100:
            raise ValueError(
                f"--validation_split_percentage is {self.validation_split_percentage}: give more than 0 and at most "
                "100, or --do_eval false to hold nothing out."
            )
        for name in LIMITS:
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise ValueError(f"--{name} is {limit}: give at least 1, or leave it out for its default.")

    def columns(self) -> dict[str, str]:
        """The columns that were named by flag."""
        named = {name: getattr(self, f"{name}_column") for name in ("image", "question", "answer", "caption", "text")}
        return {name: column for name, column in named.items() if column is not None}


class FlagHelp(ArgumentDefaultsHelpFormatter):
    """Shows each name of a flag once, not with hyphens too, and defaults that say something."""

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        value = self._format_args(action, getattr(action.type, "__name__", "value"))
        return " ".join([", ".join(names), *([] if action.nargs == 0 else [value])])

    def _get_help_string(self, action: Action) -> str:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class FlagParser(HfArgumentParser):
    """This project's flags in groups, one a class; those of the library's Trainer are shown only by `--help_all`."""

    def __init__(self, argument_classes: tuple[type, ...], show_all: bool):
        self.show_all = show_all
        super().__init__(
            argument_classes,
            usage="%(prog)s [flags.json] [--flag value ...]",
            description="Trains, evaluates and exports MMJepa. A JSON or YAML file of flags may come first; flags "
            "after it win.",
            formatter_class=FlagHelp,
        )
        self.add_argument("--help_all", action="help", help="show the flags of the library's Trainer too, and exit")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see --help.")

    def _add_dataclass_arguments(self, dtype: type) -> None:
        types = get_type_hints(dtype)
        ungrouped = {field.name: field for field in fields(dtype) if field.init}
        for owner in dtype.__mro__:
            own = [ungrouped.pop(name) for name in vars(owner).get("__annotations__", {}) if name in ungrouped]
            if not own:
                continue
            is_librarys = owner is TrainingArguments
            title = getattr(owner, "_argument_group_name", "Trainer")
            pointer = "All other flags of transformers' TrainingArguments work too: --help_all shows them."
            group = self.add_argument_group(title, pointer if is_librarys else owner.__doc__)
            for flag in own:
                flag.type = types[flag.name]
                self._parse_dataclass_field(group, flag)
            for action in group._group_actions:
                is_hidden = is_librarys and not self.show_all or action.dest in FIXED_FLAGS
                if is_hidden or action.option_strings[0].startswith("--no_"):
                    action.help = SUPPRESS
                elif action.type is string_to_bool:
                    action.metavar = "true|false"

    def parse_given(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The fields that a command line names, and their values; and what of it stands behind no flag."""
        not_given = object()
        names = Namespace(**{action.dest: not_given for action in self._actions})
        named, unused = self.parse_known_args(argv, names)
        return {name: value for name, value in vars(named).items() if value is not not_given}, unused


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, MMJepaTrainingArguments]:
    """The three groups of flags from a command line whose first argument may be a JSON or YAML file of flags.

    Raises:
        ValueError: as `read_command_line` and `check_run`; or flags contradict each other.
    """
    argv = read_command_line(argv)
    parser = FlagParser((ModelArguments, DataArguments, MMJepaTrainingArguments), show_all="--help_all" in argv)
    given, unused = parser.parse_given(argv)
    if unused:
        raise ValueError(f"{' '.join(unused)} stands behind no flag: a flag is written --name value.")
    try:
        model_args, data_args, training_args = parser.parse_dict(given)
    except (ValueError, ImportError) as error:  # the library's too, about its own flags
        raise ValueError(str(error)) from error
    check_run(data_args, training_args)
    return model_args, data_args, training_args


def check_run(data_args: DataArguments, training_args: MMJepaTrainingArguments) -> None:
    """Raises ValueError where flags ask for nothing, or for what a stream or a run without training can't give."""
    if training_args.overfit is not None:
        if not training_args.do_train or training_args.resume_from_checkpoint or data_args.streaming:
            raise ValueError(
                "--overfit trains on a few rows from the start: leave out --do_train false, --resume_from_checkpoint "
                "and --streaming, or leave out --overfit."
            )
        if training_args.world_size > 1:
            raise ValueError("--overfit runs in one process: start it without torchrun or accelerate.")
    elif not (training_args.writes_results or training_args.export_dir or training_args.onnx_dir):
        raise ValueError(
            "there is nothing to do: leave out --do_train false or --do_eval false, or give --do_predict, "
            "--export_dir or --onnx_dir."
        )
    if training_args.do_train and data_args.validation_split_percentage == 100:
        raise ValueError("--validation_split_percentage 100 leaves nothing to train on: give less.")
    if training_args.push_to_hub and not training_args.do_train:
        raise ValueError("--push_to_hub pushes what a run trains: leave it out beside --do_train false.")
    if data_args.streaming:
        if training_args.max_steps <= 0:
            raise ValueError("a stream has no end: give --max_steps beside --streaming.")
        if training_args.do_predict and training_args.predict_split == "train":
            raise ValueError("--predict_split train needs all its images beforehand: leave it out beside --streaming.")
        if data_args.group_column is not None:
            raise ValueError("--group_column holds out whole groups, and a stream holds out nothing: leave out one.")
        for flag in ("max_train_samples", "blank_images"):
            if getattr(data_args, flag):
                raise ValueError(f"--{flag} needs all rows beforehand: leave it out beside --streaming.")
