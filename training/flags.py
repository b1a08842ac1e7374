"""Every flag of this project, once: of the model, of the data, of the training and of what a run writes.

Quick to import: errors about flags come before the libraries are imported, which takes seconds. A field says all that
there is to know about its flag: its default, second names, help, which numbers it takes, and how its value is checked.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

from ..data.threads import default_workers
from .values import check_source, column_value, json_object

MAX_ANSWER_TOKENS = 32  # how many a new model writes, by default


class Bound(NamedTuple):
    """The numbers that a flag takes, and how an error says it."""

    allows: Callable[[float], bool]
    words: str


AT_LEAST_0 = Bound(lambda number: number >= 0, "a number of at least 0")
AT_LEAST_1 = Bound(lambda number: number >= 1, "a number of at least 1")
A_LIMIT = Bound(lambda number: number >= 1, "at least 1, or leave it out for its default")
MORE_THAN_0 = Bound(lambda number: number > 0, "a number above 0")
BELOW_1 = Bound(lambda number: 0 <= number < 1, "a share of at least 0 and below 1")
A_SHARE = Bound(lambda number: 0 <= number <= 1, "a share from 0 to 1")
A_PERCENTAGE = Bound(
    lambda number: 0 < number <= 100, "more than 0 and at most 100, or --do_eval false to hold nothing out"
)


def flag(
    default: Any = MISSING,
    *,
    help: str,
    default_factory: Any = MISSING,
    aliases: tuple[str, ...] = (),
    bound: Bound | None = None,
    check: Callable[[str, str], Any] | None = None,
    **more: Any,
) -> Any:
    """A field of a dataclass that is a flag.

    Args:
        aliases: second names, with dashes.
        bound: which numbers it takes; [`check_bounds`] says what is wrong.
        check: raises ValueError where a text of the command line can't be its value; called with the flag as it is
            written and the text.
        more: `of_config`, see [`config_flag`]; `published`, see [`published_flag`]; `fixed`, why the flag keeps its
            default; or arguments of argparse's `add_argument`.
    """
    metadata = {"help": help, "aliases": list(aliases), "bound": bound, "check": check, **more}
    return field(default=default, default_factory=default_factory, metadata=metadata)


def config_flag(help: str, **more: Any) -> Any:
    """A flag for the field of `MMJepaConfig` by the same name.

    None means `not given`, so that a saved model's value is not overwritten. `--help` adds the default.
    """
    return flag(None, help=help, of_config=True, **more)


def published_flag(help: str, checkpoint: str) -> Any:
    """A flag for a part of a new model; where no model is named at all, the part is the published checkpoint."""
    help = f"{help}; where no model is named, {checkpoint}."
    return flag(None, help=help, check=check_source, published=checkpoint)


def check_bounds(arguments: Any, more: dict[str, Bound] | None = None) -> None:
    """Raises ValueError where a field is a number that its flag does not take; `more` are bounds by name."""
    bounds = {own.name: own.metadata.get("bound") for own in fields(arguments)} | (more or {})
    for name, bound in bounds.items():
        value = getattr(arguments, name)
        if bound is not None and value is not None and not bound.allows(value):
            raise ValueError(f"--{name} is {value!r}: give {bound.words}.")


def with_underscores(name: str) -> str:
    """A flag's name as `--help` shows it; every command takes hyphens too."""
    return name.replace("-", "_")


@dataclass
class ModelArguments:
    """Which model: a saved one, one from two published checkpoints (by default), or one from random weights."""

    _argument_group_name = "model"

    model_name_or_path: str | None = flag(None, check=check_source, help="A saved MMJepa to train on or evaluate.")
    model_revision: str | None = flag(None, help="Its branch, tag or commit on the Hub.")
    image_encoder: str | None = published_flag(
        "A checkpoint of DINOv2, with registers or without, DINOv3 or ViT", "facebook/dinov2-base"
    )
    text_model: str | None = published_flag("A BART checkpoint", "facebook/bart-base")
    vision_config: str | None = flag(
        None,
        check=json_object,
        help="JSON of Dinov2Config fields, to start from random weights; model_type names another image encoder: "
        "dinov2_with_registers, dinov3_vit or vit.",
    )
    text_config: str | None = flag(
        None, check=json_object, help="JSON of BartConfig fields, to start from random weights."
    )
    tokenizer_name: str | None = flag(
        None,
        check=check_source,
        help="A BART tokenizer; by default the text model's, or one trained on the training texts.",
    )
    image_size: int | None = flag(
        None,
        help="Side in pixels of the images that the model sees, a multiple of its patches' side (default: as "
        "published, pretrained or saved). DINOv2 and ViT interpolate their position embeddings.",
    )
    image_mean: list[float] | None = flag(
        None,
        help="Mean of red, green and blue, from 0 to 1, or one number for all; needed where --image_encoder has no "
        "preprocessor_config.json, and taken before the file's.",
    )
    image_std: list[float] | None = flag(None, help="Standard deviation of red, green and blue, beside --image_mean.")
    center_crop: bool = flag(
        False,
        help="Keep the published image processor's crop, which cuts off the borders of an image. Without it the whole "
        "image is resized to a square.",
    )
    num_image_tokens: int | None = config_flag("M, the visual tokens of an image.", aliases=("--m_image_tokens",))
    visual_prefix: str | None = config_flag("patches or pooled.")
    image_pooling: str | None = config_flag("cls or mean.")
    project_image: bool | None = config_flag("Whether a linear layer maps the image embedding to the text width.")
    alignment_loss: str | None = config_flag("cosine or infonce.")
    alignment_reads: str | None = config_flag(
        "What a statement is compared with: tokens (what it reads of the visual tokens) or vector."
    )
    alignment_target: str | None = config_flag("embedding, centered or whitened.")
    alignment_text: str | None = config_flag(
        "Which text of a row the image is aligned to: proposition (a question of yes or no as it is, true or false; "
        "else question and answer), priority (the first of question, caption, answer, text), statement (question and "
        "answer), or a column."
    )
    yes_no_words: str | None = config_flag(
        "By language, the answers that mean yes and those that mean no, as JSON; {} for none.", check=json_object
    )
    truth_weight: float | None = config_flag(
        "Weight, in the alignment loss, of telling true statements from false ones; 0 leaves it out."
    )
    aligned_token: bool | None = config_flag(
        "Whether the first visual token of patches is the aligned image embedding."
    )
    lambda_align: float | None = config_flag("Weight of the alignment loss.")
    lambda_ce: float | None = config_flag("Weight of the answer loss.")
    lambda_answer: float | None = config_flag(
        "Weight of the loss of the answer's predicted embedding; a new model with 0 does not predict it."
    )
    attn_implementation: str | None = flag(None, help="sdpa, eager or flash_attention_2.")
    bf16_text_encoder: bool = flag(False, help="Keep the frozen text encoder in bfloat16, which halves its memory.")

    def __post_init__(self):
        parts = ("image_encoder", "text_model", "vision_config", "text_config", "tokenizer_name")
        given = [name for name in parts if getattr(self, name) is not None]
        self.colors = self.check_colors()
        if self.model_name_or_path is not None:
            given += self.colors
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
            for part in fields(self):
                if (checkpoint := part.metadata.get("published")) and not getattr(self, part.name):
                    setattr(self, part.name, checkpoint)
        if self.center_crop and (self.image_encoder is None or self.image_size is not None):
            raise ValueError(
                "--center_crop keeps the image processor of --image_encoder as it is: leave it out, with "
                "--model_name_or_path, --vision_config and --image_size."
            )
        self.vision_fields = json_object("--vision_config", self.vision_config or "{}")
        self.text_fields = json_object("--text_config", self.text_config or "{}")

    def check_colors(self) -> dict[str, list[float]]:
        """image_mean and image_std of red, green and blue as flags give them, or nothing; ValueError if wrong."""
        colors = {"image_mean": self.image_mean, "image_std": self.image_std}
        colors = {name: values for name, values in colors.items() if values is not None}
        if len(colors) == 1:
            raise ValueError(f"--{next(iter(colors))} is given alone: give --image_mean and --image_std together.")
        for name, values in colors.items():
            lowest = 0.0 if name == "image_mean" else 1e-3
            if len(values) not in (1, 3) or not all(lowest <= value <= 1 for value in values):
                raise ValueError(
                    f"--{name} is {' '.join(map(str, values))}: give one number, or three for red, green and blue, "
                    f"from {lowest} to 1; colours are divided by 255 first."
                )
        return {name: values * (3 // len(values)) for name, values in colors.items()}

    def config_fields(self) -> dict[str, Any]:
        """The fields of MMJepaConfig that flags give, without the towers' configurations."""
        given = {name: getattr(self, name) for name in CONFIG_FIELDS}
        if self.yes_no_words is not None:
            given["yes_no_words"] = json_object("--yes_no_words", self.yes_no_words)
        return {name: value for name, value in given.items() if value is not None}


CONFIG_FIELDS = tuple(own.name for own in fields(ModelArguments) if "of_config" in own.metadata)


@dataclass
class DataArguments:
    """Which data set, a Hub id or a local folder; which of its columns and rows, and how they are read."""

    _argument_group_name = "data"

    dataset_name: list[str] = flag(
        default_factory=lambda: ["flaviagiammarino/path-vqa"],
        check=check_source,
        help="Hub id, a table (CSV, TSV, JSON, JSONL, parquet), or a folder of tables, of images and metadata.csv, of "
        "parquet files or of save_to_disk; several are trained on together and evaluated together and apart.",
    )
    dataset_config_name: str | None = flag(None, help="The data set's configuration on the Hub.")
    train_split: str | None = flag(
        None, help="The split that is trained on, by its name in the data set, where it is not train."
    )
    where: list[str] | None = flag(
        None,
        check=column_value,
        help="COLUMN=VALUE, such as q_lang=en: only rows of the data set with this value are read; several must all "
        "hold.",
    )
    image_folder: str | None = flag(
        None,
        check=check_source,
        help="The folder that image paths are relative to; by default the table's, or the only folder beside the "
        "table that holds the images.",
    )
    image_column: str | None = flag(None, help="Name of the image column, where it is not `image`.")
    question_column: str | None = flag(None, help="Name of the question column, where it is not `question`.")
    answer_column: str | None = flag(None, help="Name of the answer column, where it is not `answer`.")
    caption_column: str | None = flag(None, help="Name of the caption column, where it is not `caption`.")
    text_column: str | None = flag(None, help="Name of the text column, where it is not `text`.")
    max_train_samples: int | None = flag(None, bound=A_LIMIT, help="Train on this many rows.")
    max_val_samples: int | None = flag(
        None, aliases=("--max_eval_samples",), bound=A_LIMIT, help="Evaluate this many rows."
    )
    validation_split_percentage: float = flag(
        10,
        bound=A_PERCENTAGE,
        help="Percentage of the training images that is held out where there is no validation split, about: an "
        "image's content and --data_seed decide about each. 100, without training, evaluates all of them.",
    )
    group_column: str | None = flag(
        None,
        help="A column, such as a patient, slide or case, whose rows are held out together; by default each image "
        "is held out by itself.",
    )
    preprocessing_num_workers: int = flag(2, bound=A_LIMIT, help="Threads that decode and resize the images, once.")
    max_unreadable_images: float = flag(
        0.1, bound=A_SHARE, help="Share of a split's images that may be missing or broken; they are read as zeros."
    )
    allow_outside_images: bool = flag(
        False,
        help="Read images that a table names outside of its folder too. Give it for tables that you trust.",
    )
    blank_images: bool = flag(
        False, help="Train and evaluate on black images: what can be answered from the questions alone?"
    )
    max_answer_tokens: int | None = flag(
        None,
        bound=A_LIMIT,
        help=f"How many tokens an answer may have (default: {MAX_ANSWER_TOKENS}, or the saved model's)",
    )
    streaming: bool = flag(False, help="Read training rows from parquet files while training; needs --max_steps.")
    streaming_buffer_size: int = flag(
        1000,
        bound=A_LIMIT,
        help="Rows of a stream that each worker holds, to shuffle them and to gather an image's questions.",
    )

    def __post_init__(self):
        check_bounds(self)
        if isinstance(self.dataset_name, str):
            self.dataset_name = [self.dataset_name]
        if len(self.dataset_name) > 1 and self.streaming:
            raise ValueError(f"--streaming reads one data set: --dataset_name has {len(self.dataset_name)}.")
        if twice := [name for name in self.dataset_name if self.dataset_name.count(name) > 1]:
            raise ValueError(
                f"--dataset_name has {twice[0]!r} twice: give it once, and its share by --dataset_weights."
            )

    def columns(self) -> dict[str, str]:
        """The columns that flags name."""
        named = {name: getattr(self, f"{name}_column") for name in ("image", "question", "answer", "caption", "text")}
        return {name: column for name, column in named.items() if column is not None}

    def rows(self) -> dict[str, Any]:
        """What `load_rows` is told of images and rows, beside the data set's name and columns."""
        return {
            "allow_outside_images": self.allow_outside_images,
            "image_folder": self.image_folder,
            "train_split": self.train_split,
            "where": dict(column_value("--where", text) for text in self.where or ()),
        }


@dataclass
class OutputFlags:
    """Where a run writes, what is kept of it, and what happens to an earlier run."""

    _argument_group_name = "output"

    output_dir: str = flag("./checkpoints", aliases=("--ckpt_dir",), help="Where checkpoints are written.")
    log_dir: str | None = flag(
        None,
        help="Folder of logs, by default `logs` in the output folder; TensorBoard's are in mmjepa_joint below it.",
    )
    export_dir: str | None = flag(None, help="Where the trained parts are written, each for a stock class to load.")
    onnx_dir: str | None = flag(None, help="Where the trained model is written as ONNX graphs.")
    resume_from_checkpoint: str | None = flag(
        None,
        help="Resumes training. Without a value, or with `true` or `last`: from the newest complete checkpoint in the "
        "output folder. With a run's folder: from the newest there. With a checkpoint: from that one.",
        nargs="?",
        const="last",
    )
    overwrite_output_dir: bool = flag(
        False,
        help="Removes what an earlier run left in the output folder, its model and checkpoints too; other files stay.",
    )
    save_strategy: str = flag("epoch", help="When to save a checkpoint.")
    save_total_limit: int | None = flag(2, help="How many checkpoints are kept: the best and the last.")
    logging_steps: float = flag(20, help="Steps between two lines of the log.")
    report_to: list[str] | str | None = flag(
        "tensorboard",
        nargs="+",
        help="Where logs go: one or more of tensorboard, wandb, trackio and the like; or none.",
    )


@dataclass
class TrainingFlags(OutputFlags):
    """transformers' training arguments with this project's defaults, some second names, and a few more flags."""

    _argument_group_name = "training"

    per_device_train_batch_size: int = flag(16, aliases=("--batch_size",), help="Questions per batch and process.")
    per_device_eval_batch_size: int = flag(64, help="Questions per batch of an evaluation.")
    dataloader_num_workers: int = flag(
        default_factory=default_workers,
        aliases=("--num_workers",),
        help="Processes that load data: 4, or the number of cores if there are fewer.",
    )
    num_train_epochs: float = flag(3, aliases=("--max_epochs",), help="How many times every question is seen.")
    lr_img: float = flag(
        3e-4,
        bound=AT_LEAST_0,
        help="Peak learning rate of the image encoder, projector, visual prefix and alignment loss.",
    )
    learning_rate: float = flag(3e-5, aliases=("--lr_dec",), help="Peak learning rate of the text decoder.")
    encoder_lr_factor: float = flag(
        1.0,
        bound=AT_LEAST_0,
        help="What lr_img is multiplied by for the image encoder alone; below 1 a pretrained one changes more slowly "
        "than the new layers, 0 freezes it.",
    )
    freeze_image_encoder: bool = flag(
        False,
        help="Keep the image encoder as it is: it gets no gradient and stays in eval mode. lr_img is then the rate of "
        "the new layers alone.",
    )
    freeze_decoder: bool = flag(
        False,
        help="Keep the decoder as it is, with its token embeddings and the output head: no gradient, eval mode. The "
        "new layers and the image encoder learn to be read by it.",
    )
    lora_r: int | None = flag(
        None,
        bound=AT_LEAST_1,
        help="Train adapters of this rank (LoRA) on the image encoder and the decoder in place of their weights; the "
        "new layers are trained whole. Needs pip install 'mmjepa[lora]'.",
    )
    lora_alpha: float | None = flag(
        None, bound=MORE_THAN_0, help="Adapters are multiplied by lora_alpha / lora_r (default: twice lora_r)."
    )
    lora_dropout: float | None = flag(None, bound=BELOW_1, help="Dropout before the adapters; none by default.")
    lora_targets: list[str] | None = flag(
        None,
        help="Last parts of the names of the linear layers that get adapters, such as q_proj v_proj fc1 (default: all "
        "of the attention).",
    )
    use_cosine_schedule: bool = flag(False, help="Decay by a cosine instead of --lr_scheduler_type.")
    warmup_steps: float = flag(
        0.06,
        aliases=("--warmup_ratio",),
        help="Learning-rate warm-up: a share of all steps if below 1, else a number of steps.",
    )
    gradient_accumulation_steps: int = flag(
        1,
        aliases=("--accumulate_grad_batches",),
        bound=AT_LEAST_1,
        help="Batches whose gradients are added up for a step.",
    )
    max_grad_norm: float = flag(
        1.0,
        aliases=("--gradient_clip_val",),
        help="Gradient clipping norm: longer gradients are scaled down to it.",
    )
    precision: str = flag(
        "auto",
        help="bf16 (or bf16-mixed), fp16 (16-mixed) or 32 (32-true); auto is bf16 on a GPU that has it, and on a CPU "
        "that has it if the image encoder is at least 384 wide, else 32.",
    )
    do_train: bool = flag(True, help="Whether to train.")
    do_eval: bool = flag(
        True,
        help="Whether to evaluate the validation split at the end, controls included; false also switches off the "
        "evaluations while training (--eval_strategy) and with them the choice of the best checkpoint.",
    )
    do_predict: bool = flag(
        False,
        help="Whether to answer the test split, or what --predict_split or --predict_data name, which switch it on; "
        "the answers are in predictions.parquet.",
    )
    predict_split: str | None = flag(
        None, help="The split of the data set that is answered and evaluated in place of test."
    )
    predict_data: list[str] | None = flag(
        None,
        help="New images to answer about, without a data set: images, folders of images, or tables (.csv, .json, "
        ".jsonl, .parquet) of images and, if they have them, questions and answers.",
    )
    predict_question: list[str] | None = flag(
        None, help="Asked about images of --predict_data that have no question; one question or more."
    )
    align_warmup_epochs: float = flag(
        1.0, bound=AT_LEAST_0, help="Epochs at the start that train the alignment alone; at most half of the training."
    )
    wrong_statements: int = flag(
        2,
        bound=AT_LEAST_0,
        help="Statements that are false of the image, drawn for each question: the question with an answer that other "
        "images have.",
    )
    dataset_weights: list[float] | None = flag(
        None,
        help="For each --dataset_name how often its images are seen in an epoch: 0.5 takes half of them, drawn anew "
        "in each epoch, and 2 takes all twice; by default 1.",
    )
    questions_per_image: int = flag(
        8,
        bound=AT_LEAST_1,
        help="How many questions of an image may follow each other in the training order; 1 shuffles all.",
    )
    max_nonfinite_steps: int = flag(
        5,
        bound=AT_LEAST_0,
        help="How many steps whose loss or gradient is not a finite number are skipped before the run stops; their "
        "rows are in nonfinite_rows.jsonl.",
    )
    augmentations: list[str] | None = flag(
        None, help="Random views of training images: any of crop, flip, stain; none by default."
    )
    side_words: str = flag(
        "en",
        help="The language whose words of sides, such as left and right, are swapped in texts about a flipped image: "
        "en. With none, images whose texts name a side are not flipped.",
    )
    fast_dev_run: bool = flag(False, help="Two training steps and little data: does everything run?")
    overfit: int | None = flag(
        None,
        bound=AT_LEAST_1,
        help="Trains on this many rows until the model answers all of them, for about a minute at most, and says what "
        "is wrong where it does not. Nothing is saved.",
    )
    remove_unused_columns: bool = flag(
        False, fixed="the collator reads the text columns", help="The collator reads the text columns."
    )
    eval_strategy: str = flag("epoch", help="When to evaluate.")
    load_best_model_at_end: bool = flag(True, help="Whether the best checkpoint is saved at the end, not the last.")
    metric_for_best_model: str | None = flag("accuracy", help="The number that chooses the best checkpoint.")
    early_stopping_patience: int | None = flag(
        None,
        bound=AT_LEAST_1,
        help="Stop after this many evaluations in a row without a better --metric_for_best_model; those during the "
        "alignment warm-up don't count.",
    )


# Flags of the library that this Trainer can't follow: the value that each keeps, and why.
FIXED_FLAGS: dict[str, tuple[Any, str]] = {
    "train_sampling_strategy": ("random", "rows are grouped by image, see questions_per_image"),
    "length_column_name": ("length", "rows are grouped by image, see questions_per_image"),
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
FIXED_FLAGS |= {
    own.name: (own.default, own.metadata["fixed"]) for own in fields(TrainingFlags) if "fixed" in own.metadata
}
# Bounds of flags of the library.
LIBRARY_BOUNDS = {"seed": AT_LEAST_0}
