"""Callbacks of a training: what TensorBoard shows, the order of each epoch, when to stop early.

Those with more to them have files of their own: `nonfinite.py`, `progress.py` and `stopping.py`.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback

from .progress import LinePrinterCallback, LineProgressCallback


class MMJepaTensorBoardCallback(TensorBoardCallback):
    """Writes numbers by their own names, such as `train_align` and `val_ce`, where the library adds a prefix.

    Names of an evaluation after the training begin with `final_`: its model is the best checkpoint, so its numbers are
    no further points of the training's curves.
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

    def __init__(self, set_epoch: Callable[[int], None]):
        self.set_epoch = set_epoch

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.set_epoch(int(state.epoch or 0))


class MMJepaEarlyStoppingCallback(EarlyStoppingCallback):
    """The library's, but evaluations during the alignment warm-up don't count: no answers are learnt there."""

    align_warmup_steps = 0  # set when the number of steps is known

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if state.global_step > self.align_warmup_steps:
            super().on_evaluate(args, state, control, metrics, **kwargs)


def replace_library_callbacks(trainer: Trainer, log_dir: str) -> None:
    """Puts this project's callbacks in the place of the library's, where it has added those."""
    own_callbacks: dict[type[TrainerCallback], Callable[[], TrainerCallback]] = {
        TensorBoardCallback: lambda: MMJepaTensorBoardCallback(log_dir),
        PrinterCallback: LinePrinterCallback,
        ProgressCallback: LineProgressCallback,
    }
    for library_callback, make in own_callbacks.items():
        if trainer.pop_callback(library_callback) is not None:
            trainer.add_callback(make())
