"""Ending a training that is told to stop, with a checkpoint from which it resumes as if it had not been stopped.

The library's `enable_jit_checkpoint` knows SIGTERM alone, waits three seconds, and saves between a step's backward
pass and its update, when the step's random numbers are drawn already: the resumed step would draw others. The run
would then evaluate and write its model as if it had been trained to its end.
"""

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

from .arguments import MMJepaTrainingArguments

SIGNALS = (signal.SIGTERM, signal.SIGINT)
MESSAGE = "\n{}: a checkpoint is saved after this step and its evaluation. Another signal ends the run at once.\n"


class StopRequest:
    """Which signal has told this process to stop, if any; truthy where one has."""

    number: signal.Signals | None = None
    time: float

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as a shell has it; of SIGTERM where another process got the signal."""
        return 128 + (self.number or signal.SIGTERM)

    def reached_any(self, args: MMJepaTrainingArguments) -> bool:
        """Whether a signal has reached any of the processes. All call it together and get the same answer."""
        if args.world_size == 1:
            return bool(self)
        return reduce(torch.tensor(float(bool(self)), device=args.device), "sum").item() > 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes a SIGTERM or SIGINT, and forgets that of an earlier training.

        A second one acts as if nobody listened, if it comes over a second later. Sooner it is the same one: torchrun
        passes on to its processes what the terminal has sent to all of them.
        Python lets the main thread alone change what a signal does, so another thread notes nothing.
        """
        self.number = None
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in SIGNALS}

        def restore() -> None:
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def note(number: int, frame: object) -> None:
            if not self:
                self.number, self.time = signal.Signals(number), monotonic()
                os.write(2, MESSAGE.format(self.number.name).encode())  # a logger may be in the middle of a line
            elif monotonic() - self.time > 1:
                restore()
                signal.raise_signal(number)

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()


class StopCallback(TrainerCallback):
    """Ends a training that is told to stop: the library saves a checkpoint and leaves its loop.

    A step comes first, with its evaluation, and after an epoch's last step the epoch's evaluation. No random number is
    drawn between them and the checkpoint, and it holds every line of the log: the resumed run equals one that was not
    stopped, bitwise.
    """

    def __init__(self, request: StopRequest):
        self.request = request
        self.is_stopping = False  # a training that is told in its last step ends as usual
        self.saved_step: int | None = None

    def on_step_end(self, args, state, control, **kwargs):
        self._stop_if_told(args, state, control)

    def on_evaluate(self, args, state, control, **kwargs):
        self._stop_if_told(args, state, control)
        control.should_save |= self.is_stopping

    def on_save(self, args, state, control, **kwargs):
        self.saved_step = state.global_step
        self._stop_if_told(args, state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        """Called when the loop is left too, where the library takes it for the end of the epoch."""
        if self.is_stopping:
            if state.epoch % 1:
                control.should_log = control.should_evaluate = False
            is_saved = self.saved_step == state.global_step
            control.should_save = control.should_log or control.should_evaluate or not is_saved

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.is_stopping and "train_runtime" in logs:
            # After this line the library loads the best checkpoint and, by a limit of 1, removes all others. That is
            # for the end of a training: here it would remove the checkpoint that the run resumes from.
            state.best_model_checkpoint = None

    def _stop_if_told(self, args: MMJepaTrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        if control.should_training_stop:  # it ends anyway
            return
        # After an epoch's evaluation this strategy saves the best alone, whatever callbacks want. A step later, then.
        if args.save_strategy == SaveStrategy.BEST and not (state.epoch or 0) % 1:
            return
        self.is_stopping = control.should_training_stop = self.request.reached_any(args)


def ignore_first_signal(worker: int) -> None:
    """Lets a worker of a loader outlive a signal to all processes of a run, until the run itself leaves.

    Torch's workers end at a SIGTERM, and the step that is under way would fail. One over a second later ends them.
    """
    told = math.inf

    def note(number: int, frame: object) -> None:
        nonlocal told
        if monotonic() - told > 1:
            os._exit(128 + number)
        told = min(told, monotonic())

    for number in SIGNALS:
        signal.signal(number, note)
