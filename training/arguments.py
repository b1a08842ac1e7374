"""What a command line asks for, in three objects: of the model, of the data and of the training."""

import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.training_args import OptimizerNames, ParallelMode

from ..data.sides import NO_WORDS, SIDE_WORDS
from .agreement import PRECISIONS, GivenFlag, check_agreement
from .augmentation import AUGMENTATIONS
from .command_line import FlagParser, flag_with_underscores, read_command_line
from .flags import FIXED_FLAGS, LIBRARY_BOUNDS, DataArguments, ModelArguments, TrainingFlags, check_bounds
from .values import check_extra

logger = logging.getLogger("mmjepa")
# What --resume_from_checkpoint may say in place of a folder.
SWITCHES = {"true": "true", "last": "last", "false": None}
# Fields of accelerator_config that keep their value: each process has its share of a step's rows already.
FIXED_ACCELERATOR_FIELDS = {
    "split_batches": False,
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
}
# Optimizers that make parameter groups of their own, or that take their step in the backward pass.
REFUSED_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")


@dataclass
class MMJepaTrainingArguments(TrainingFlags, TrainingArguments):
    """transformers' `TrainingArguments` with the fields of [`TrainingFlags`].

    Raises:
        ValueError: a value is not allowed, or two given arguments contradict each other.
    """

    given = frozenset[str]()  # the arguments that were given, not left out for their defaults

    def __new__(cls, *args, **given):
        arguments = super().__new__(cls)
        arguments.given = frozenset(given)  # names alone: the Hub's token may be among the values
        return arguments

    def __post_init__(self):
        self._settle()
        if self.log_dir is None:
            self.log_dir = os.path.join(self.output_dir, "logs")
        self._choose_precision()
        self._check_values()
        self._check_predictions()
        self.predict_split = self.predict_split or "test"
        if self.ddp_find_unused_parameters is None and self.align_warmup_epochs > 0:
            # During the warm-up the decoder takes no part in the loss, which DDP refuses unless told.
            self.ddp_find_unused_parameters = True
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
        values = {name: getattr(self, name) for name in sorted(self.given) if getattr(self, name) is not None}
        given = [GivenFlag(f"--{name} {value}", name, value) for name, value in values.items()]
        check_agreement(given)
        for flag in given:
            for name, value in flag.implied().items():
                if name not in self.given:
                    setattr(self, name, value)
        if (said := str(self.resume_from_checkpoint).lower()) in SWITCHES:
            self.resume_from_checkpoint = SWITCHES[said]

    def _choose_precision(self):
        """Sets `use_cpu` and `bf16` by the device, where the flags leave them open."""
        if not torch.accelerator.is_available():
            # Without it the library refuses bfloat16, and each of several processes takes itself for the only one.
            self.use_cpu = True
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision is {self.precision!r}: allowed are auto, {', '.join(PRECISIONS)}.")
        if self.precision == "auto" and not (self.bf16 or self.fp16 or self.use_cpu or "bf16" in self.given):
            # Older GPUs emulate bf16, slower than float32.
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)

    def _check_values(self):
        """Raises ValueError where a flag of this project has a value that is not allowed."""
        check_bounds(self, LIBRARY_BOUNDS)
        if self.do_train and self.lr_img == self.learning_rate == 0:
            raise ValueError("lr_img and learning_rate are both 0, which trains nothing: give one of them.")
        self._check_adapters()
        if self.onnx_dir is not None:
            check_extra("onnx_dir", "onnx")
            from transformers.exporters import OnnxExporter

            OnnxExporter()  # an error now, not after the training, where torch is too old for it
        if wrong := [weight for weight in self.dataset_weights or () if not 0 < weight < math.inf]:
            raise ValueError(f"--dataset_weights has {wrong[0]}: give numbers above 0.")
        if unknown := set(self.augmentations or ()) - set(AUGMENTATIONS):
            raise ValueError(f"augmentations hold {', '.join(unknown)}: allowed are {', '.join(AUGMENTATIONS)}.")
        if self.side_words not in (allowed := [*SIDE_WORDS, NO_WORDS]):
            raise ValueError(
                f"side_words is {self.side_words!r}: allowed are {', '.join(allowed)}; with {NO_WORDS}, images whose "
                "texts name a side are not flipped."
            )

    def _check_adapters(self):
        """Raises ValueError where flags of LoRA stand alone, or where it can't run."""
        if self.lora_r is None:
            if given := [name for name in ("lora_alpha", "lora_dropout", "lora_targets") if getattr(self, name)]:
                raise ValueError(f"--{', --'.join(given)} is about adapters: give --lora_r too, their rank.")
            return
        check_extra("--lora_r", "lora")
        if self.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
            raise ValueError(
                "--lora_r does not run under FSDP, where no process has the whole model to merge adapters into: start "
                "it with torchrun, or leave out --lora_r."
            )

    def _check_predictions(self):
        """Raises ValueError where flags name two things to answer, or questions about nothing."""
        if self.predict_split and self.predict_data:
            raise ValueError("--predict_split and --predict_data both say what is answered: leave out one of them.")
        if self.predict_question and not self.predict_data:
            raise ValueError("--predict_question asks about the images of --predict_data: give that too.")

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
    def swapped_words(self) -> str:
        """The language whose words of sides are swapped with the images, or "none"."""
        return self.side_words if "flip" in (self.augmentations or ()) else NO_WORDS

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
                f"optim is {OptimizerNames(self.optim).value!r}: the image half and the decoder have rates of their "
                f"own, which {', '.join(REFUSED_OPTIMIZERS)} can't give them; choose another, such as 'adamw_torch'."
            )
        if DebugOption.UNDERFLOW_OVERFLOW in self.debug:
            raise ValueError("debug is 'underflow_overflow', which can't read masks: leave it out.")
        if self.ddp_static_graph and self.align_warmup_epochs > 0:
            raise ValueError(
                "ddp_static_graph is True, but the decoder takes no part in the alignment warm-up: leave it out, or "
                "give align_warmup_epochs 0."
            )


def flag_parser(show_all: bool = False) -> FlagParser:
    """The parser of all flags, the library's too; its `--help` shows the library's with `show_all`."""
    return FlagParser((ModelArguments, DataArguments, MMJepaTrainingArguments), show_all)


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, MMJepaTrainingArguments]:
    """The three groups of flags from a command line whose first argument may be a JSON or YAML file of flags.

    Raises:
        ValueError: as `read_command_line` and `check_run`; or flags contradict each other.
    """
    parser = flag_parser(show_all="--help_all" in map(flag_with_underscores, argv))
    argv = read_command_line(argv, parser)
    given, unused = parser.parse_given(argv)
    if unused:
        raise ValueError(f"{' '.join(unused)} belongs to no flag: a flag is written --name value.")
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
        if training_args.dataset_weights:
            raise ValueError("--dataset_weights needs all rows beforehand: leave it out beside --streaming.")
        for flag in ("max_train_samples", "blank_images"):
            if getattr(data_args, flag):
                raise ValueError(f"--{flag} needs all rows beforehand: leave it out beside --streaming.")
