"""Leaving a training that is told to stop, with a checkpoint from which it goes on as if it had not been stopped.

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

SIGNALS = (signal.SIGTERM, signal.SIGINT)
MESSAGE = "\n{}: a checkpoint is saved after this step and its evaluation. Another signal ends the run at once.\n"


class StopRequest:
    """Which signal has told this process to stop, if any; truthy where one has."""

    number: signal.Signals | None = None
    time: float

    def __bool__(self) -> bool:
        return self.number is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes a SIGTERM or SIGINT, and forgets that of an earlier training.

        A second one, over a second later, acts as if nobody listened. Sooner it is the same one: torchrun
        passes on to its processes what the terminal has sent to all of them.
        Python lets the main thread alone change what a signal does; in another nothing is noted.
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


def outlive_first_signal(worker: int) -> None:
    """Lets a worker of a loader go on after a signal to all processes of a run, until the run itself leaves.

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
