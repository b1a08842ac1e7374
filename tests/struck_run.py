"""The script, whose processes get a signal the COUNT-th time that a moment comes: no test has to guess when that is.

python tests/struck_run.py SIGKILL|SIGTERM preparing|step|evaluation|save COUNT [flags of the script]
"""

import os
import signal
import sys

from datasets.arrow_writer import ArrowWriter
from transformers import Trainer

from mmjepa import run_pathvqa
from mmjepa.training import reading

# What is called in each moment: as the images' file is closed, as a batch is over, and as all of a checkpoint but the
# state of the training is written.
MOMENTS = {
    "preparing": (ArrowWriter, "finalize"),
    "step": (Trainer, "training_step"),
    "evaluation": (Trainer, "prediction_step"),
    "save": (Trainer, "_save_rng_state"),
}


def strike_before(owner: object, name: str, number: signal.Signals, count: int) -> None:
    """Lets the `count`-th call of a function begin with a signal to all processes of this run."""
    called, calls = getattr(owner, name), iter(range(1, sys.maxsize))

    def strike_and_call(*args, **kwargs):
        if next(calls) == count:
            os.killpg(0, number)
        return called(*args, **kwargs)

    setattr(owner, name, strike_and_call)


if __name__ == "__main__":
    signal_name, moment, count = sys.argv[1:4]
    del sys.argv[1:4]
    strike = (*MOMENTS[moment], signal.Signals[signal_name], int(count))
    if moment == "preparing":  # tables of texts are written before
        prepare = reading.prepare

        def prepare_and_be_struck(*args):
            strike_before(*strike)
            return prepare(*args)

        reading.prepare = prepare_and_be_struck
    else:
        strike_before(*strike)
    run_pathvqa.main()
