"""The library's Trainer with runs that can be stopped, or killed, at any time and resumed."""

import logging
import os
from contextlib import ExitStack
from pathlib import Path

from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..loading_mmjepa import share_weights
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from .adapters import merge_adapters
from .arguments import MMJepaTrainingArguments
from .checkpoints import let_lower_loss_win, marked_save, newest_checkpoint
from .stopping import StopCallback, StopRequest
from .weights import whole_copy

logger = logging.getLogger("mmjepa")


class ResumableTrainer(Trainer):
    """Saves whole checkpoints, or none; resumes from the newest whole one; leaves with one when it is told to stop.

    Attributes:
        stop_request: which signal has told this process to stop, if any.
        during_training: what is undone at the end of a training, whatever ends it.
    """

    args: MMJepaTrainingArguments

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stop_request = StopRequest()
        self.during_training = ExitStack()

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """The library's, but a SIGTERM or SIGINT saves a checkpoint and leaves.

        Raises:
            SystemExit: with 128 and the signal's number, as a shell has it, once the checkpoint is saved.
        """
        if resume_from_checkpoint is True:
            # The library takes the newest without a look into it.
            resume_from_checkpoint = newest_checkpoint(self.args.output_dir)
        stop = StopCallback(self.stop_request)
        self.add_callback(stop)
        try:
            with self.during_training, self.stop_request.listening():
                result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.remove_callback(StopCallback)
        if stop.is_stopping:
            if self.is_world_process_zero():
                logger.warning("Stopped after step %d: resume with --resume_from_checkpoint", self.state.global_step)
            raise SystemExit(self.stop_request.exit_code)
        if self.stop_request.reached_any(self.args):  # in the last step
            if self.args.lora_r is not None:
                merge_adapters(self)
            self.save_model()
            logger.warning("Stopped at the end of the training: the model is saved, and not evaluated")
            raise SystemExit(self.stop_request.exit_code)
        return result

    # Private in the library: no callback and no public method can skip an epoch.
    def _run_epoch(self, *args, **kwargs):
        """The library's, but where a training that is over is resumed it trains a step too many."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The library's. While it trains, the lower loss decides between equally good checkpoints."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.is_in_train:
            let_lower_loss_win(self.args.metric_for_best_model, metrics, self.state)
        return metrics

    # Private in the library: its public hooks come before the optimizer is saved, or after older ones are removed.
    def _save_checkpoint(self, model, trial):
        """The library's, marked as unfinished until all files are there. Older checkpoints are removed after that."""
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with marked_save(folder, self.args.should_save, self.accelerator.wait_for_everyone):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(
                str(folder.parent), limit, best_model_checkpoint=self.state.best_model_checkpoint, use_mtime=True
            )

    # Private in the library: `save_model` gathers FSDP's weights before it calls this.
    def _save(self, output_dir=None, state_dict=None):
        """The library's, but under FSDP the whole copy is saved, not the parts.

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
        """The model with all its weights on this process: itself, or under FSDP a copy, which all make together."""
        return whole_copy(self.model) if self.is_fsdp_enabled else self.model

    def create_model_card(self, *args, **kwargs):
        """The library writes a draft on every push. Here a card that is there stays as it is."""
        if not os.path.exists(os.path.join(self.args.output_dir, "README.md")):
            super().create_model_card(*args, **kwargs)
