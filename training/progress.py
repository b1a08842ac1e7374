"""What a run shows of its progress: bars, and one line per logged step and per evaluation."""

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

LOSSES = ("align", "ce", "answer")


def training_line(logs: dict[str, float], state: TrainerState) -> str:
    """Step, epoch, losses, rates and speed."""
    parts = [f"step {state.global_step}/{state.max_steps}", f"epoch {state.epoch:.2f}", f"loss {logs['loss']:.4g}"]
    parts += losses_of(logs, "train")
    parts += [f"{name} {logs[name]:.3g}" for name in ("learning_rate", "learning_rate_image") if name in logs]
    return "  ".join([*parts, f"{logs['samples_per_second']:.0f} questions/s"])


def evaluation_line(logs: dict[str, float], prefix: str, time_left: float | None) -> str:
    """Epoch, losses, accuracy, the accuracy of the questions alone, and what the image adds, as far as known."""
    parts = [f"{prefix}  epoch {logs['epoch']:.2f}" if logs.get("epoch") else prefix]  # 0: nothing was trained
    if (loss := logs.get(f"{prefix}_loss")) is not None:
        parts.append(f"loss {loss:.4g}")
    parts += losses_of(logs, prefix)
    if (accuracy := logs.get(f"{prefix}_accuracy")) is not None:
        parts.append(f"accuracy {100 * accuracy:.1f} %")
    if (floor := logs.get(f"{prefix}_accuracy_majority_question")) is not None:
        parts.append(f"majority answer {100 * floor:.1f} %")
    if (gain := logs.get(f"{prefix}_image_gain")) is not None:
        parts.append(f"image gain {100 * gain:+.1f} points")
    if time_left is not None:
        parts.append(f"{tqdm.format_interval(time_left)} left")
    return "  ".join(parts)


def losses_of(logs: dict[str, float], prefix: str) -> list[str]:
    """The losses in a line of the log, as "name value"."""
    return [f"{name} {logs[f'{prefix}_{name}']:.4g}" for name in LOSSES if f"{prefix}_{name}" in logs]


class LinesMixin(TrainerCallback):
    """Shows one line of the logged numbers, where the library shows all of them. Other loggers still get all."""

    start: tuple[float, int] | None = None  # time and step at which the training began; None outside it

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.start = time.monotonic(), state.global_step

    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        self.start = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            tqdm.write(self.line(logs, state))  # above the bars, where there are some

    def line(self, logs: dict[str, Any], state: TrainerState) -> str:
        if "grad_norm" in logs:
            return training_line(logs, state)
        if "train_runtime" in logs:
            took = tqdm.format_interval(logs["train_runtime"])
            return f"trained {state.global_step} steps in {took}  mean loss {logs['train_loss']:.4g}"
        prefixes = [name.removesuffix("_runtime") for name in logs if name.endswith("_runtime")]
        if prefixes:
            return evaluation_line(logs, prefixes[0], self.time_left(state))
        return "  ".join(f"{name} {value}" for name, value in logs.items())

    def time_left(self, state: TrainerState) -> float | None:
        """Seconds that the training still takes at its speed so far; None outside it."""
        if self.start is None or state.global_step == self.start[1]:
            return None
        seconds_a_step = (time.monotonic() - self.start[0]) / (state.global_step - self.start[1])
        return (state.max_steps - state.global_step) * seconds_a_step


class LinePrinterCallback(LinesMixin, PrinterCallback):
    """Lines without bars, for --disable_tqdm."""


class LineProgressCallback(LinesMixin, ProgressCallback):
    """Lines above the library's bars. The bar of an evaluation's losses ends before the questions are answered."""

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("losses", refresh=False)
            if self.prediction_bar.n == self.prediction_bar.total:
                self.on_evaluate(args, state, control)  # closes it
