"""The Trainer of this model: batches of whole images, an alignment-only warm-up, exact mean losses, answers.

A training run calls its methods in this order:

    get_train_dataloader            batches of whole images, shared out among the processes; or a stream
    set_initial_training_values     the seed of this process; weights without a learning rate are frozen
    create_optimizer                the image half and the decoder, each with a learning rate of its own
    create_scheduler                how long the alignment is trained alone; the decoder's rate starts after that
    each step: _get_num_items_in_batch     what the losses of its batches are divided by
               compute_loss         pixels -> random views -> the model's loss; adds to the sums that are logged
               log                  mean losses, learning rates and speed since the last line
    each evaluation: evaluation_loop     exact mean losses, then the scores of the answers
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..data.collator import NOT_FOR_THE_MODEL, tokens_of_views
from ..data.pixels import normalize_pixels
from ..data.streaming import StreamedVqaData
from ..losses_mmjepa import MMJepaTrainingStep
from ..processing_mmjepa import MMJepaProcessor
from . import optimization
from .adapted_arguments import asks_questions, choose_by_loss, choose_cpu_precision, own_arguments
from .augmentation import augment, check_are_bytes
from .callbacks import MMJepaEarlyStoppingCallback, SamplerEpochCallback, replace_library_callbacks
from .loaders import grouped_loader, loader_arguments, own_collator, row_weights
from .loss_meter import COUNTS, LossMeter
from .nonfinite import NonfiniteStepsCallback
from .resumable import ResumableTrainer
from .targets import TrainingTargets
from .weights import in_float32

logger = logging.getLogger("mmjepa")


class MMJepaTrainer(ResumableTrainer):
    """The library's Trainer for [`MMJepaForConditionalGeneration`]. Its base saves, stops and resumes.

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
        args = own_arguments(args, evaluates=eval_dataset is not None)
        if model is not None:  # else a `model_init` makes one later
            choose_cpu_precision(args, model)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, *rest, **kwargs)
        self.makes_collator = data_collator is None
        if isinstance(self.processing_class, MMJepaProcessor):
            self._make_collator()
        # The model smooths its answer loss itself; the library's smoother takes the labels away from it.
        self.label_smoother = None
        self.compute_answer_metrics = compute_answer_metrics
        self.targets: TrainingTargets | None = None  # of a training whose collator is this project's
        self.align_warmup_steps = 0  # set when the number of steps is known
        self.meter = LossMeter()
        self.add_callback(NonfiniteStepsCallback(self.meter))
        replace_library_callbacks(self, self.args.log_dir)

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Raises what its base does; FloatingPointError after too many steps without a finite loss or gradient."""
        if self.compute_metrics is None and not (self._answers_questions and asks_questions(self.eval_dataset)):
            choose_by_loss(self.args)
        if self.model_init is None:
            in_float32(self.model)
        if self.args.early_stopping_patience is not None:
            self.add_callback(MMJepaEarlyStoppingCallback(self.args.early_stopping_patience))
            # An evaluation of another split would make it warn.
            self.during_training.callback(self.remove_callback, MMJepaEarlyStoppingCallback)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def call_model_init(self, trial=None):
        return in_float32(super().call_model_init(trial))

    def set_initial_training_values(self, args, dataloader):
        """The library's. By now the model is made and loaded, and its optimizer is not: what must lie between."""
        # They were measured of the weights that change now; the evaluation at the end measures them anew.
        for name in ("rank_threshold", "truth_temperature", "truth_measured"):
            setattr(self.model.config, name, None)
        # Every process draws its own views and dropout. A resumed run takes its state from the checkpoint.
        torch.manual_seed(args.seed + args.process_index)
        if self.targets is not None:
            self.targets.embed(self.model, self.processing_class, args.device)
        self.during_training.enter_context(optimization.frozen_without_rate(self.model, args))
        logger.info(optimization.count_parameters(self.model))
        return super().set_initial_training_values(args, dataloader)

    def get_train_dataloader(self):
        """Whole images' questions in each batch, the rows of a step shared out among the processes."""
        self.meter.forget()  # auto_find_batch_size starts again after a batch that was too large
        data, args, batch_size = self.train_dataset, self.args, self._train_batch_size
        self._make_collator()
        collator = self.data_collator
        if self.makes_collator:
            num_wrong, side_words = args.wrong_statements, args.swapped_words
            self.targets = TrainingTargets(data.questions, self.model.config, num_wrong, side_words)
            collator = self.targets.naming(collator)
        if isinstance(data, StreamedVqaData):
            # Accelerate does not prepare it: it would share out the rows a second time.
            return DataLoader(data, batch_size, collate_fn=collator, **loader_arguments(args))
        weights = row_weights(data.questions, args.dataset_weights)
        loader, sampler = self._grouped_loader(
            data, batch_size, collator, whole_steps=args.dataloader_drop_last, weights=weights
        )
        self.remove_callback(SamplerEpochCallback)  # of an earlier training
        self.add_callback(SamplerEpochCallback(sampler.set_epoch))
        return loader

    def get_eval_dataloader(self, eval_dataset=None):
        """As for training, but every row once. Its workers end with the evaluation."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(data, str):
            data = self.eval_dataset[data]
        # The next evaluation makes a loader of its own, and would leave the workers of this one behind.
        self._make_collator()
        return self._grouped_loader(data, self.args.eval_batch_size, self.data_collator, persistent_workers=False)[0]

    def get_test_dataloader(self, test_dataset):
        return self.get_eval_dataloader(test_dataset)

    def _grouped_loader(self, data, batch_size, collator, **changed):
        self.accelerator.even_batches = False  # it would fill up the last step with rows of the first
        processes = self.accelerator.num_processes
        loader, sampler = grouped_loader(data, self.args, batch_size, processes, collator, **changed)
        return self.accelerator.prepare(loader), sampler

    def _make_collator(self) -> None:
        """A collator of the model at hand, where none was given; a search may try several alignment texts."""
        if self.makes_collator:
            self.data_collator = own_collator(self.processing_class, self.model.config)

    def create_optimizer(self, model=None):
        """Two learning rates, or three with an encoder_lr_factor; the library's groups where a factory makes them."""
        if self.optimizer is None:
            model = self.model if model is None else model
            given = self.optimizer_cls_and_kwargs
            kind, settings = given or self.get_optimizer_cls_and_kwargs(self.args, model)
            if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
                return super().create_optimizer(model)
            with_decay = set(self.get_decay_parameter_names(model))
            only_rate = settings.get("lr") if given else None
            self.optimizer = optimization.make_optimizer(model, self.args, kind, settings, with_decay, only_rate)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """The library's, but the decoder's rate starts after the alignment warm-up."""
        steps_an_epoch = math.ceil(len(self.train_dataset.questions) / self.get_total_train_batch_size(self.args))
        self.align_warmup_steps = optimization.count_align_warmup_steps(
            self.model, self.args, steps_an_epoch, num_training_steps
        )
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MMJepaEarlyStoppingCallback):
                callback.align_warmup_steps = self.align_warmup_steps
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        optimization.start_decoder_after(self.align_warmup_steps, scheduler, self.args, num_training_steps)
        return scheduler

    # Private in the library: no public method knows how many batches a resumed training drops.
    def _run_epoch(self, *args, **kwargs):
        """The library's. The images of a stream's dropped batches are not decoded."""
        if isinstance(self.train_dataset, StreamedVqaData):
            drops = self.args.dataloader_in_order and not self.args.ignore_data_skip
            self.train_dataset.dropped_batches = kwargs["steps_trained_in_current_epoch"] if drops else 0
        super()._run_epoch(*args, **kwargs)

    @property
    def in_align_warmup(self) -> bool:
        """Whether the next step trains the alignment alone. It follows the step's number, and so holds on a resume."""
        return self.state.global_step < self.align_warmup_steps

    def _get_num_items_in_batch(self, batch_samples, device):
        """Answer tokens of the step's batches; the meter counts texts and answers too, all in one reduction."""
        of_all = self.args.world_size > 1 and self.args.average_tokens_across_devices
        self.meter.start_step(batch_samples, device, of_all)
        return self.meter.step_counts["ce"]

    def _get_grad_norm(self, model, grad_norm=None):
        """The library's, of the gradients before they were clipped; kept for the check of each step."""
        self.meter.grad_norm = super()._get_grad_norm(model, grad_norm)
        return self.meter.grad_norm

    def model_inputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A collator's batch on the device -> what the model reads: its bytes of pixels become normalised views.

        The views are random in training, as `augmentations` says; texts about a mirrored image name its sides as they
        are now. Pixels that are normalised already stay.
        """
        kinds = self.args.augmentations if self.model.training else ()
        pixels, flips = batch["pixel_values"], torch.zeros_like(batch["image_ids"])  # (I, 3, H, W), (I,)
        if self.args.augmentations:
            check_are_bytes(pixels)
        if kinds:
            pixels, flips = augment(pixels, kinds, batch.get("keep_sides"))
        if batch["pixel_values"].dtype == torch.uint8:
            pixels = normalize_pixels(pixels, self.processing_class.image_processor)
        views = {**batch, "pixel_values": pixels} | tokens_of_views(batch, flips)
        inputs = {name: value for name, value in views.items() if not name.startswith(NOT_FOR_THE_MODEL)}
        if "statement_ids" in batch:
            inputs |= self.targets.of_batch(batch, flips[batch["image_index"]])
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss, in the warm-up that of the alignment alone; adds it to the sums for the log."""
        batch, inputs = inputs, self.model_inputs(inputs)
        counts = {name: count({**batch, **inputs}) for name, count in COUNTS.items()}
        if model.training:
            optimization.keep_frozen_towers_in_eval_mode(self.model)
            tokens = counts["ce"] if num_items_in_batch is None else num_items_in_batch
            divisors = {**self.meter.step_counts, "ce": tokens}
            step = MMJepaTrainingStep(
                num_rows=self.meter.step_counts["align"],
                num_answers=self.meter.step_counts["answer"],
                answer_smoothing=self.args.label_smoothing_factor,
            )
            if "answer_places" in batch:
                step["answer_places"] = batch["answer_places"]
            inputs = {**inputs, "return_logits": False, "training_step": step}
        else:
            divisors, num_items_in_batch = counts, None  # the batch's own means
            inputs = {**inputs, "return_logits": self.compute_metrics is not None}
        if model.training and self.in_align_warmup:
            inputs = {**inputs, "labels": None, "return_loss": True}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.meter.add(inputs, loss, outputs, counts, divisors, model.training)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        """Adds the mean losses, learning rates and speed since the last training line to a training line."""
        if "grad_norm" in logs:  # a training line, not an evaluation's or the last summary
            logs["samples_per_second"] = self.meter.take_speed() * self.args.world_size
            logs |= {f"train_{name}": mean for name, mean in self.meter.take_means(self.args.device).items()}
            logs |= optimization.logged_rates(self.optimizer)
        super().log(logs, start_time)

    def loss_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        """The library's `evaluation_loop` with exact mean losses. The lines of a training don't count it."""
        with self.meter.set_aside():
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            means = self.meter.take_means(self.args.device)
        # The library's is a mean of the batches' means, which depends on how the rows were shared out.
        means["loss"] = sum(getattr(self.model.config, f"lambda_{name}") * mean for name, mean in means.items())
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in means.items()})
        return output

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        """The losses, and the scores of `compute_answer_metrics`."""
        output = self.loss_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._answers_questions:
            # The library casts `forward` alone: the image features and `generate` would be in another precision.
            with self.meter.set_aside(), self.accelerator.autocast():
                scores = self.compute_answer_metrics(self.whole_model(), dataloader.dataset)
            output.metrics.update({f"{metric_key_prefix}_{name}": score for name, score in scores.items()})
        return output

    @property
    def _answers_questions(self) -> bool:
        return self.compute_answer_metrics is not None and not self.args.prediction_loss_only
