"""The Trainer of this model: two learning rates, an alignment-only warm-up, batches of whole images.

A training run as the library's `Trainer` calls its hooks. The class below has them in this order:

    1. get_train_dataloader      batches of whole images, shared out among the processes; or a stream
    2. create_optimizer          the image half and the decoder, each with a learning rate of its own
    3. create_scheduler          how long the alignment is trained alone; the decoder's rate starts after that
       each step:
    4. get_batch_samples         the step's batches, its tokens, texts and answers: what the losses are divided by
    5. _prepare_inputs           pixels as bytes -> random views -> normalised, on the device
    6. compute_loss              the model's loss, in the warm-up without the answers; adds to the sums that are logged
       (the library)             backward, clipping, optimizer and scheduler step
    7. log                       mean losses, learning rates and speed since the last line
       each evaluation:
    8. get_eval_dataloader       as 1, without leaving rows out
    9. evaluation_loop           5 and 6 on each batch; exact mean losses, then the scores of the answers
    10. _determine_best_metric   whether this is the best checkpoint so far
       each checkpoint, and at the end:
    11. _save_checkpoint         marks it as unfinished until all its files are there
    12. _save                    the whole model, under FSDP too
"""

import logging
import math
import os
import re
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, rotate_checkpoints

from ..data.batches import ImageGroupedSampler, SharedBatchSampler, VqaCollator
from ..data.images import VqaData, normalize_pixels
from ..data.streaming import StreamedVqaData
from ..encoder_mmjepa import MMJepaPatchesPrefix
from ..loading_mmjepa import share_weights
from ..losses_mmjepa import MMJepaTrainingStep
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .arguments import MMJepaTrainingArguments
from .augmentation import augment
from .nonfinite import NonfiniteStepsCallback
from .precision import in_float32
from .progress import LinePrinterCallback, LineProgressCallback
from .run_folder import UNFINISHED, faults, newest_checkpoint
from .stopping import StopRequest, outlive_first_signal

logger = logging.getLogger("mmjepa")


class MMJepaTensorBoardCallback(TensorBoardCallback):
    """Writes numbers by their own names, such as `train_align` and `val_ce`, where the library adds a prefix.

    Those of an evaluation after the training, of the best checkpoint, are no further point of the training's curves:
    their names begin with `final_`.
    """

    NAMES = {f"eval_{name}": f"val_{name}" for name in ("align", "ce", "answer")}

    def __init__(self, log_dir: str):
        super().__init__()
        self.logging_dir = os.path.join(log_dir, "mmjepa_joint")
        self.is_training = False

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.is_training = True

    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        self.is_training = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if self.tb_writer is None:
            self._init_summary_writer(args)
        for name, value in logs.items():
            shown = self.NAMES.get(name, name) if self.is_training else re.sub("^eval_", "final_", name)
            if isinstance(value, (int, float)):
                self.tb_writer.add_scalar(shown, value, state.global_step)
        self.tb_writer.flush()

    def add_picture(self, path: Path, step: int) -> None:
        """Shows an image file under its name."""
        if self.tb_writer is not None:
            with Image.open(path) as picture:
                self.tb_writer.add_image(path.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            self.tb_writer.flush()


class SamplerEpochCallback(TrainerCallback):
    """Tells the sampler its epoch.

    A `set_epoch` of the batch sampler would be called by transformers 5.21 to 5.23 and accelerate 1.8 to 1.15, except
    where several processes resume in the middle of an epoch. There the batch sampler is out of their reach, below a
    `SkipBatchSampler` and a `BatchSamplerShard`, and the resumed epoch would have the order of the first.
    """

    def __init__(self, sampler: ImageGroupedSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


class StopBeforeEpochCallback(TrainerCallback):
    """Leaves between two epochs, before the second one's loader draws a random number."""

    def __init__(self, leave_if_told: Callable[[], None]):
        self.leave_if_told = leave_if_told

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.leave_if_told()


class MMJepaEarlyStoppingCallback(EarlyStoppingCallback):
    """The library's, but evaluations during the alignment warm-up don't count: no answers are learnt there."""

    align_warmup_steps = 0  # set when the number of steps is known

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if state.global_step > self.align_warmup_steps:
            super().on_evaluate(args, state, control, metrics, **kwargs)


# What each loss is a mean of, counted in a batch. Of the stand-in that the collator makes of no rows, all are 0.
COUNTS: dict[str, Callable[[dict[str, torch.Tensor]], torch.Tensor]] = {
    "align": lambda batch: batch.get("align_attention_mask", batch["attention_mask"]).any(dim=1).sum(),  # texts
    "ce": lambda batch: (batch["labels"] != -100).sum(),  # tokens of answers
    "answer": lambda batch: (batch["labels"] != -100).any(dim=1).sum(),  # answers
}


# Groups of parameters -> the names that their learning rates have in the log.
RATE_NAMES = {"img": "learning_rate_image", "encoder": "learning_rate_encoder", "dec": "learning_rate"}


def part_of(name: str) -> str:
    """The part that a parameter belongs to by its name: "encoder" (of images), "dec", or "img", the new layers."""
    parts = set(name.split("."))
    return "dec" if {"decoder", "lm_head"} & parts else "encoder" if "image_encoder" in parts else "img"


def learning_rates(args: MMJepaTrainingArguments) -> dict[str, float]:
    """Part of the model -> its peak learning rate."""
    return {"img": args.lr_img, "encoder": args.lr_img * args.encoder_lr_factor, "dec": args.learning_rate}


@contextmanager
def without_gradient(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Freezes weights for as long as it lasts."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def own_arguments(args: TrainingArguments | None) -> MMJepaTrainingArguments:
    """Arguments of the library's class with this project's fields beside theirs, which keep their values."""
    if isinstance(args, MMJepaTrainingArguments):
        return args
    args = TrainingArguments(output_dir="tmp_trainer") if args is None else args  # as in the library
    given = {field.name: getattr(args, field.name) for field in fields(TrainingArguments) if field.init}
    given["remove_unused_columns"] = False  # the collator reads the text columns
    if not (args.bf16 or args.fp16):
        given["precision"] = "32"
    return MMJepaTrainingArguments(**given)


class MMJepaTrainer(Trainer):
    """The library's Trainer for [`MMJepaForConditionalGeneration`].

    A model in half precision is trained, and saved, in float32. Weights whose learning rate is 0 are frozen while it
    trains. Without an `eval_dataset` nothing is evaluated while training, unless the arguments ask for it by name.

    Args:
        args: of the library's class too; the fields of [`MMJepaTrainingArguments`] then have their defaults.
        compute_answer_metrics: called with the model and the evaluated data after the losses of every evaluation. The
            numbers that it returns, by names without prefix, are added to the evaluation's. It is no
            `compute_metrics`, because it answers by `generate` and encodes each image once.
        kwargs: as for `Trainer`; `processing_class` is a [`MMJepaProcessor`], `data_collator` by default a
            [`VqaCollator`] that leaves pixels as bytes. A learning rate in `optimizer_cls_and_kwargs` is that of all
            weights, as in the library.
    """

    args: MMJepaTrainingArguments

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        *rest,
        compute_answer_metrics: Callable[[Any, Any], dict[str, float]] | None = None,
        **kwargs,
    ):
        args = own_arguments(args)
        wants_best = "load_best_model_at_end" in args.given and args.load_best_model_at_end
        if eval_dataset is None and "eval_strategy" not in args.given and not wants_best:
            args.do_eval, args.eval_strategy, args.load_best_model_at_end = False, IntervalStrategy.NO, False
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, *rest, **kwargs)
        self.has_own_collator = data_collator is None
        if isinstance(self.processing_class, MMJepaProcessor):
            self._make_collator()
        # The model smooths its answer loss itself; the library's smoother takes the labels away from it.
        self.label_smoother = None
        self.compute_answer_metrics = compute_answer_metrics
        self.align_warmup_steps = 0  # set when the number of steps is known
        self.loss_sums: dict[str, Any] = defaultdict(float)  # of each loss its sum and what it is a sum of
        self.num_rows: Any = 0  # trained on since the last line of the log
        self.counts_in_step: dict[str, torch.Tensor] = {}
        self.stop_request = StopRequest()
        self.current_trial: Any = None  # of a search of hyperparameters
        self.add_callback(StopBeforeEpochCallback(self._leave_if_told))
        self.step_batches: list[dict[str, torch.Tensor]] = []
        self.step_loss = torch.zeros(())  # sum of the losses of those batches on this process
        self.add_callback(NonfiniteStepsCallback(self))
        self.log_time = time.perf_counter()  # when the rows in num_rows began to be trained on
        own_callbacks = {
            TensorBoardCallback: lambda: MMJepaTensorBoardCallback(self.args.log_dir),
            PrinterCallback: LinePrinterCallback,
            ProgressCallback: LineProgressCallback,
        }
        for librarys, make in own_callbacks.items():
            if self.pop_callback(librarys) is not None:
                self.add_callback(make())

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """The library's, but a SIGTERM or SIGINT saves a checkpoint and leaves.

        Raises:
            SystemExit: with 128 and the signal's number, as a shell has it, once the checkpoint is saved.
            FloatingPointError: too many steps had a loss or a gradient that is not a finite number.
        """
        if resume_from_checkpoint is True:
            # The library takes the newest without a look into it.
            resume_from_checkpoint = newest_checkpoint(self.args.output_dir)
        self._choose_a_metric_that_is_measured()
        self.current_trial = trial
        if self.model_init is None:
            in_float32(self.model)
        if self.args.early_stopping_patience is not None:
            self.add_callback(MMJepaEarlyStoppingCallback(self.args.early_stopping_patience))
        try:
            with self.stop_request.listening():
                result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            # An evaluation of another split would make it warn.
            self.remove_callback(MMJepaEarlyStoppingCallback)
        if self._is_told_to_stop():  # in the last step
            self.save_model()
            logger.warning("Stopped at the end of the training: the model is saved, and not evaluated")
            raise SystemExit(128 + (self.stop_request.number or signal.SIGTERM))
        return result

    def call_model_init(self, trial=None):
        return in_float32(super().call_model_init(trial))

    def _inner_training_loop(self, *args, **kwargs):
        """The library's, with the weights that have no learning rate frozen. By now the model is made and loaded."""
        # It was measured of the weights that change now; the evaluation at the end measures it anew.
        self.model.config.rank_threshold = None
        # Every process draws its own views and dropout. A resumed run takes its state from the checkpoint.
        torch.manual_seed(self.args.seed + self.args.process_index)
        rates = learning_rates(self.args)
        weights = [
            weight
            for name, weight in self.model.named_parameters()
            if weight.requires_grad and rates[part_of(name)] == 0
        ]
        with without_gradient(weights):
            return super()._inner_training_loop(*args, **kwargs)

    def get_train_dataloader(self):
        """Part 1: whole images' questions in each batch, the rows of a step shared out among the processes."""
        # auto_find_batch_size starts again after a batch that was too large.
        self.loss_sums.clear()
        self.num_rows = 0
        if isinstance(self.train_dataset, StreamedVqaData):
            # Accelerate does not prepare it: it would share out the rows a second time.
            return DataLoader(self.train_dataset, batch_size=self._train_batch_size, **self._dataloader_arguments)
        sampler = self._grouped_sampler(self.train_dataset, self._train_batch_size)
        self.remove_callback(SamplerEpochCallback)  # of an earlier training
        self.add_callback(SamplerEpochCallback(sampler))
        return self._dataloader(self.train_dataset, sampler, self.args.dataloader_drop_last)

    def _grouped_sampler(self, data: VqaData, batch_size: int) -> ImageGroupedSampler:
        return ImageGroupedSampler(
            data.questions["image_id"],
            batch_size=batch_size * self.accelerator.num_processes,
            questions_per_image=self.args.questions_per_image,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def _dataloader(
        self, data: VqaData, sampler: ImageGroupedSampler, whole_steps: bool = False, **arguments
    ) -> DataLoader:
        self.accelerator.even_batches = False  # it would fill up the last step with rows of the first
        batches = SharedBatchSampler(sampler, self.accelerator.num_processes, whole_steps)
        arguments = self._dataloader_arguments | arguments
        return self.accelerator.prepare(DataLoader(data, batch_sampler=batches, **arguments))

    def _make_collator(self) -> None:
        """A collator of the model at hand, where none was given; a search may try several alignment texts."""
        if self.has_own_collator:
            if self.processing_class is None:
                raise ValueError("there is neither a data_collator nor a processing_class to make one with: give one.")
            self.data_collator = VqaCollator(self.processing_class, self.model.config.alignment_text, as_bytes=True)

    @property
    def _dataloader_arguments(self) -> dict[str, Any]:
        self._make_collator()
        names = (
            "num_workers",
            "prefetch_factor",
            "persistent_workers",
            "pin_memory",
            "multiprocessing_context",
            "in_order",
        )
        arguments = {name: getattr(self.args, f"dataloader_{name}") for name in names}
        # Pinned memory is for copies to a GPU.
        arguments["pin_memory"] &= self.args.device.type not in ("cpu", "mps")
        return {"collate_fn": self.data_collator, "worker_init_fn": outlive_first_signal, **arguments}

    def create_optimizer(self, model=None):
        """Part 2: two learning rates, or three with an encoder_lr_factor, each with and without weight decay.

        The frozen text encoder is in no group.
        """
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        rates = learning_rates(self.args)
        if self.optimizer_cls_and_kwargs is None:
            optimizer_class, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
        else:
            optimizer_class, optimizer_kwargs = self.optimizer_cls_and_kwargs
            rates = dict.fromkeys(rates, optimizer_kwargs["lr"]) if "lr" in optimizer_kwargs else rates
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            return super().create_optimizer(model)  # a factory makes groups of its own
        with_decay = set(self.get_decay_parameter_names(model))
        queries = {id(module.queries) for module in model.modules() if isinstance(module, MMJepaPatchesPrefix)}
        groups = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                part = part_of(name)
                if part == "encoder" and rates[part] == rates["img"]:
                    part = "img"
                decays = name in with_decay and parameter.ndim > 1 and id(parameter) not in queries
                groups[part, decays].append(parameter)
        self.optimizer = optimizer_class(
            [
                {
                    "params": parameters,
                    "name": part,
                    "lr": rates[part],
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                }
                for (part, decays), parameters in groups.items()
            ],
            **optimizer_kwargs,
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Part 3: the library's, but the decoder's rate starts after the alignment warm-up, with a warm-up of its own.

        Schedules that depend on more than the step, such as `reduce_lr_on_plateau`, are left as they are.
        """
        self.align_warmup_steps = self.count_align_warmup_steps(num_training_steps)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MMJepaEarlyStoppingCallback):
                callback.align_warmup_steps = self.align_warmup_steps
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.align_warmup_steps and isinstance(scheduler, LambdaLR):
            start = self.align_warmup_steps
            steps = num_training_steps - start
            own_schedule = get_scheduler(
                self.args.lr_scheduler_type,
                SGD([torch.zeros(1)]),
                self.args.get_warmup_steps(steps),
                steps,
                self.args.lr_scheduler_kwargs,
            )
            factor = own_schedule.lr_lambdas[0]
            for place, group in enumerate(scheduler.optimizer.param_groups):
                if group.get("name") == "dec":
                    scheduler.lr_lambdas[place] = lambda step: factor(step - start) if step >= start else 0.0
                    group["lr"] = 0.0
        return scheduler

    @property
    def in_align_warmup(self) -> bool:
        """Whether the next step trains the alignment alone. It follows the step's number, and so holds on a resume."""
        return self.state.global_step < self.align_warmup_steps

    def count_align_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of the alignment warm-up: none where nothing of an alignment is trained, at most half of all."""
        aligned = {"image_encoder", "image_projector", "alignment"}
        trained = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        if self.model.config.lambda_align == 0 or not any(aligned & set(name.split(".")) for name in trained):
            return 0
        rows_a_step = self.get_total_train_batch_size(self.args)
        steps_an_epoch = math.ceil(len(self.train_dataset.questions) / rows_a_step)
        steps, most = math.ceil(self.args.align_warmup_epochs * steps_an_epoch), num_training_steps // 2
        if steps > most:
            logger.warning(
                "align_warmup_epochs %s is %d of %d training steps: the alignment is trained alone in the first %d, "
                "so that the decoder learns in the other half.",
                self.args.align_warmup_epochs,
                steps,
                num_training_steps,
                most,
            )
        return min(steps, most)

    def _run_epoch(self, **kwargs):
        """The library's, but where a training that is over is resumed it trains a step too many."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)
        else:
            self.control.should_training_stop = True

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Part 4: counts, beside the answers' tokens, the step's texts and answers, by which two losses are divided.

        They are those of all batches of the step and, with several processes, of all processes. Before that, between
        two steps, is the place to leave.
        """
        if (self.state.epoch or 0) % 1:  # an epoch's loader is there already at its first step, and has drawn
            self._leave_if_told()
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        sums = {name: sum(COUNTS[name](batch) for batch in batches) for name in ("align", "answer")}
        counts = torch.stack([torch.as_tensor(count, device=device) for count in sums.values()])
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts, "sum")
        self.step_batches, self.step_loss = batches, torch.zeros((), device=device)
        self.counts_in_step = dict(zip(sums, counts.clamp(min=1), strict=True))
        return batches, num_items_in_batch

    def _prepare_inputs(self, inputs):
        """Part 5: pixels as bytes become random views, in training alone, and are normalised, on the device."""
        inputs = dict(super()._prepare_inputs(inputs))
        keep_sides = inputs.pop("keep_sides", None)
        inputs.pop("row_ids", None)
        if inputs["pixel_values"].dtype == torch.uint8:
            pixels = inputs["pixel_values"]
            if self.model.training and self.args.augmentations:
                pixels = augment(pixels, self.args.augmentations, keep_sides)
            inputs["pixel_values"] = normalize_pixels(pixels, self.processing_class.image_processor)
        elif self.args.augmentations:
            raise ValueError(
                "augmentations are made of pixels as bytes, and the collator gives normalised ones: give "
                "VqaCollator(processor, as_bytes=True), or no augmentations."
            )
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Part 6: the model's loss, in the warm-up that of the alignment alone; adds it to the sums for the log."""
        counts = {name: count(inputs) for name, count in COUNTS.items()}
        if model.training:
            tokens = counts["ce"] if num_items_in_batch is None else num_items_in_batch
            divisors = {**self.counts_in_step, "ce": tokens}
            step = MMJepaTrainingStep(
                num_rows=self.counts_in_step["align"],
                num_answers=self.counts_in_step["answer"],
                answer_smoothing=self.args.label_smoothing_factor,
            )
            inputs = {**inputs, "return_logits": False, "training_step": step}
        else:
            divisors, num_items_in_batch = counts, None  # the batch's own means
            inputs = {**inputs, "return_logits": self.compute_metrics is not None}
        if model.training and self.in_align_warmup:
            inputs = {**inputs, "labels": None, "return_loss": True}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.num_rows += (inputs["image_ids"][inputs["image_index"]] >= 0).sum()  # without a stand-in
        if model.training:
            self.step_loss += loss.detach()
        for name in COUNTS:
            if (mean := getattr(outputs, f"loss_{name}")) is not None:
                sums = torch.stack([mean.detach() * divisors[name], counts[name]])
                if model.training:  # a step that is skipped has no part in the log's means
                    sums = sums.where(sums.isfinite().all(), 0)
                self.loss_sums[name] += sums
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        """Part 7: adds the mean losses, learning rates and speed since the last training line to a training line."""
        if "grad_norm" in logs:  # a training line, not an evaluation's or the last summary
            now = time.perf_counter()
            logs["samples_per_second"] = float(self.num_rows) * self.args.world_size / (now - self.log_time)
            self.num_rows, self.log_time = 0, now
            logs |= {f"train_{name}": value for name, value in self._mean_losses().items()}
            # The library's `learning_rate` is that of the first group, whichever that is.
            rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups if "name" in group}
            logs |= {RATE_NAMES[name]: float(rate) for name, rate in rates.items()}
        super().log(logs, start_time)

    def _mean_losses(self) -> dict[str, float]:
        """Mean losses of all processes since the last call, of those that there were: in the warm-up `align` alone."""
        # Not in float64, which Apple's devices lack.
        zeros = torch.zeros(2, device=self.args.device)
        own = torch.stack([zeros + self.loss_sums[name] for name in COUNTS])  # (losses, 2)
        self.loss_sums.clear()
        totals = dict(zip(COUNTS, self.accelerator.reduce(own, "sum").tolist(), strict=True))
        return {name: total / count for name, (total, count) in totals.items() if count}

    def get_eval_dataloader(self, eval_dataset=None):
        """Part 8: whole images' questions in each batch, every row once. Its workers end with the evaluation."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(data, str):
            data = self.eval_dataset[data]
        sampler = self._grouped_sampler(data, self.args.eval_batch_size)
        # The next evaluation makes a loader of its own, and would leave the workers of this one behind.
        return self._dataloader(data, sampler, persistent_workers=False)

    def get_test_dataloader(self, test_dataset):
        return self.get_eval_dataloader(test_dataset)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        """Part 9: the library's, with exact mean losses and the scores of `compute_answer_metrics`.

        The sums and the clock of the training lines are left as if no evaluation had come between.
        """
        training, self.loss_sums = (self.loss_sums, self.num_rows), defaultdict(float)
        start = time.perf_counter()
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        metrics = self._mean_losses()
        config = self.model.config
        # The library's is a mean of the batches' means, which depends on how the rows were shared out.
        metrics["loss"] = sum(getattr(config, f"lambda_{name}") * mean for name, mean in metrics.items())
        self.loss_sums, self.num_rows = training
        if self._answers_questions:
            # The library casts `forward` alone: the image features and `generate` would be in another precision.
            with self.accelerator.autocast():
                metrics |= self.compute_answer_metrics(self.whole_model(), dataloader.dataset)
        self.log_time += time.perf_counter() - start
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _determine_best_metric(self, metrics, trial):
        """Part 10: of equally good checkpoints the one with the lowest loss, where the library keeps the first."""
        is_best = super()._determine_best_metric(metrics, trial)
        name = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        if is_best or metrics.get(name) != self.state.best_metric or "eval_loss" not in metrics:
            return is_best
        losses = {line["step"]: line["eval_loss"] for line in self.state.log_history if "eval_loss" in line}
        if not metrics["eval_loss"] < losses.get(self.state.best_global_step, math.inf):
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def _choose_a_metric_that_is_measured(self):
        """Where evaluations answer no question, of captions alone for example, the lowest loss is the best."""
        data = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        are_asked = any(any(part.questions["question"]) for part in data.values() if part is not None)
        is_measured = self.compute_metrics is not None or (self._answers_questions and are_asked)
        if self.args.eval_strategy == "no" or is_measured:
            return
        metric = (self.args.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in ("loss", *COUNTS):
            logger.warning(
                "No question is answered while training, so there is no %s: the checkpoint with the lowest loss is "
                "the best one",
                metric,
            )
            self.args.metric_for_best_model, self.args.greater_is_better = "loss", False

    @property
    def _answers_questions(self) -> bool:
        return self.compute_answer_metrics is not None and not self.args.prediction_loss_only

    def _is_told_to_stop(self) -> bool:
        """Whether a signal has reached any of the processes: they stop after the same step."""
        told = bool(self.stop_request)
        if self.args.world_size > 1:
            told = self.accelerator.reduce(torch.tensor(float(told), device=self.args.device), "sum").item() > 0
        return told

    def _leave_if_told(self):
        """Saves a checkpoint and leaves where a process was told to stop, but not before the first step."""
        if self.state.global_step == self._initial_global_step or not self._is_told_to_stop():
            return
        folder = Path(self._get_output_dir(self.current_trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        is_saved = not faults(folder)
        self.accelerator.wait_for_everyone()
        if not is_saved:
            self._save_checkpoint(self.model, self.current_trial)
        if self.is_world_process_zero():
            logger.warning("Stopped after step %d: go on with --resume_from_checkpoint", self.state.global_step)
        raise SystemExit(128 + (self.stop_request.number or signal.SIGTERM))

    def _save_checkpoint(self, model, trial):
        """Part 11: the library's, marked as unfinished until the files of all processes are there.

        Older checkpoints are removed after that.

        Raises:
            OSError: it can't be written, because the disk is full for example. The older ones are as they were.
        """
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed left
            folder.mkdir(parents=True)
            (folder / UNFINISHED).touch()
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{folder} can't be written ({error}); {shutil.disk_usage(folder.parent).free / 1e9:.2f} GB are free "
                "there. Older checkpoints are as they were: make room, then go on with --resume_from_checkpoint."
            ) from error
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (folder / UNFINISHED).unlink()
            rotate_checkpoints(
                str(folder.parent), limit, best_model_checkpoint=self.state.best_model_checkpoint, use_mtime=True
            )

    def _save(self, output_dir=None, state_dict=None):
        """Part 12: under FSDP the whole copy is saved, not the parts.

        With the parts `save_pretrained` waits for ever, because the first process alone gathers them to see which
        weights are tied. It would also save torch's code beside them, because torch made their class.
        """
        parts, self.model = self.model, self.whole_model()
        super()._save(output_dir, None if self.is_fsdp_enabled else state_dict)
        self.model = parts
        folder = Path(output_dir or self.args.output_dir)
        for adapters in (folder, *folder.glob("*/")):  # each further adapter has a folder of its own
            share_weights(adapters, "adapter_config.json")

    def whole_model(self) -> MMJepaForConditionalGeneration:
        """The model with all its weights on this process: itself, or under FSDP a copy, which all make together.

        The parts under FSDP only run where all processes run them together, but processes answer different numbers of
        questions.
        """
        if not self.is_fsdp_enabled:
            return self.model
        weights = {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in self.model.state_dict().items()
        }
        with torch.device("meta"):
            model = MMJepaForConditionalGeneration(self.model.config)
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        model.generation_config = self.model.generation_config
        return model.train(self.model.training)

    def create_model_card(self, **kwargs):
        """The library writes a draft on every push. Here a card that is there stays as it is."""
        if not os.path.exists(os.path.join(self.args.output_dir, "README.md")):
            super().create_model_card(**kwargs)
