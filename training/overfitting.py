"""A few rows learnt by heart. A training that can't do this has a fault, and this says which."""

import math
import time
from collections import defaultdict

from transformers import TrainerCallback

from .nonfinite import NonfiniteStepsCallback
from .progress import LinePrinterCallback
from .trainer import MMJepaTrainer

SECONDS = 60
STEPS_BETWEEN = 20  # two evaluations


class OverfitCallback(TrainerCallback):
    """Evaluates now and then; stops when every answer is right, when none can become right, or after `SECONDS`.

    losses: the answer loss at each evaluation; none where no label is learnt.
    accuracy: at the last evaluation.
    """

    def __init__(self):
        self.losses: list[float] = []
        self.accuracy = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        is_last = self.seconds > SECONDS or state.global_step == state.max_steps
        control.should_training_stop |= is_last
        control.should_evaluate = is_last or state.global_step == 1 or state.global_step % STEPS_BETWEEN == 0

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        # Both are missing where no row has a question.
        loss, self.accuracy = metrics.get("eval_ce"), metrics.get("eval_accuracy", 0.0)
        if loss is not None:
            self.losses.append(loss)
        control.should_training_stop |= self.accuracy == 1 or loss is None or not math.isfinite(loss)
        shown = "" if loss is None else f"  answer loss {loss:.4g}"
        print(f"step {state.global_step}{shown}  {self.accuracy:.0%} answered rightly")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


def overfit(trainer: MMJepaTrainer) -> dict[str, float]:
    """Trains until the model answers all training rows, for `SECONDS` at most; prints, where it fails, why.

    Args:
        trainer: with the arguments that `--overfit` fixes, and a `compute_answer_metrics`.

    Returns:
        overfit_accuracy: of the training rows, at the end; overfit_steps.
    """
    progress = OverfitCallback()
    trainer.eval_dataset = trainer.train_dataset
    trainer.pop_callback(LinePrinterCallback)
    trainer.pop_callback(NonfiniteStepsCallback)  # here a loss that is no number is a result
    trainer.add_callback(progress)
    trainer.train()
    steps, rows = trainer.state.global_step, sum(map(bool, trainer.train_dataset.questions["question"][:]))
    print(f"{progress.accuracy * rows:.0f} of {rows} rows are answered rightly after {steps} steps", end=", ")
    print(f"{progress.seconds:.0f} seconds.")
    if progress.accuracy < 1:
        print(f"Likely cause: {likely_cause(trainer, progress.losses)}")
    return {"overfit_accuracy": progress.accuracy, "overfit_steps": steps}


def likely_cause(trainer: MMJepaTrainer, losses: list[float]) -> str:
    """Why the rows were not learnt, and what to do. Most likely causes first.

    Args:
        losses: the answer loss at each evaluation.
    """
    data, config, args = trainer.train_dataset, trainer.model.config, trainer.args
    rates = f"--learning_rate {args.learning_rate:g} and --lr_img {args.lr_img:g}"
    if not losses:
        return "all labels are masked, because no row has a question. Check --question_column."
    if not all(map(math.isfinite, losses)):
        return f"the learning rate is too large: the loss is no number any more. Divide {rates} by 10."
    if trainer.align_warmup_steps >= trainer.state.global_step:
        return (
            "the whole time was alignment warm-up, in which the decoder gets no gradient. Lower --align_warmup_epochs."
        )
    if 0 in (config.lambda_ce, args.learning_rate):
        return "the decoder gets no gradient. Give --lambda_ce and --learning_rate above 0."
    if data.unreadable:
        names = ", ".join(list(data.unreadable.values())[:5])
        return (
            f"{len(data.unreadable)} of {len(data.pixels)} images can't be read and are black: {names}. Repair them."
        )
    if contradicting := contradictions(trainer):
        return (
            f"{contradicting} rows ask what another one asks of the same image and have another answer. Correct them."
        )
    steps = trainer.state.global_step
    if steps >= STEPS_BETWEEN and losses[-1] >= losses[0]:
        return f"the learning rate is too large: the loss does not fall. Divide {rates} by 10."
    if steps >= STEPS_BETWEEN and losses[-1] > 0.9 * losses[0]:
        return f"the learning rate is too small: the loss hardly falls. Multiply {rates} by 10."
    return (
        f"it takes more steps: the loss went from {losses[0]:.3g} to {losses[-1]:.3g}. Give fewer rows or a higher "
        f"rate than {rates}."
    )


def contradictions(trainer: MMJepaTrainer) -> int:
    """How many rows ask the same question of an image as an earlier row, and have another answer."""
    columns = (trainer.train_dataset.questions[name][:] for name in ("image_id", "question", "answer"))
    answers = defaultdict(set)
    for image_id, question, answer in zip(*columns, strict=True):
        answers[image_id, question].add(answer)
    return sum(len(found) - 1 for found in answers.values())
