"""Runs that are killed or told to stop: they go on as if they had not been stopped."""

import json
import os
import signal
from pathlib import Path

import pytest
from killed_runs import ROOT, Run, assert_same, write_flags
from small_trainings import logged
from transformers import TrainerCallback

from mmjepa.training.checkpoints import UNFINISHED, newest_checkpoint
from mmjepa.training.stopping import StopRequest, ignore_first_signal

STRUCK_RUN = ROOT / "tests" / "struck_run.py"


class SignalCallback(TrainerCallback):
    """Sends this process a signal in a step, or in the evaluation after it."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_substep_end(self, args, state, control, **kwargs):  # the first batch of two
        if state.global_step + 1 == self.step:
            signal.raise_signal(self.number)  # os.kill may be noticed later, or by another thread


@pytest.mark.parametrize("step", [1, 4, 6], ids=["first", "last of an epoch", "in mid epoch"])
def test_a_run_that_is_told_to_stop_goes_on_as_if_it_had_not_been(make_trainer, tmp_path, step):
    """Four steps an epoch, each of two batches; dropout and views on."""
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "max_steps": 8}
    settings |= {"text_dropout": 0.1, "augmentations": ["crop", "flip"], "eval_strategy": "epoch", "save_steps": 100}
    settings |= {"save_strategy": "steps"}
    whole = make_trainer(**settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    handler = signal.getsignal(signal.SIGTERM)
    stopped = make_trainer(**settings)
    stopped.add_callback(SignalCallback(step, signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        stopped.train()
    assert left.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is handler
    assert newest_checkpoint(tmp_path / "checkpoints") == str(tmp_path / "checkpoints" / f"checkpoint-{step}")
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    for name in ("loss", "train_align", "train_ce", "grad_norm", "eval_loss"):
        assert logged(resumed, name) == logged(whole, name), name
    for name, value in whole.model.state_dict().items():
        assert value.equal(resumed.model.state_dict()[name]), name


class SignalInEvaluationCallback(TrainerCallback):
    """Sends this process a signal in the evaluation after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_prediction_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("strategy", "step"), [("steps", 4), ("epoch", 6), ("best", 4)])
def test_a_stop_in_an_evaluation_keeps_its_checkpoint_though_another_is_the_best(
    make_trainer, tmp_path, strategy, step
):
    """Six steps an epoch. By a limit of 1 the library keeps the best alone at the end of a training."""
    settings = {"save_strategy": strategy, "save_steps": 2, "save_total_limit": 1, "max_steps": 8, "text_dropout": 0.1}
    settings |= {"eval_strategy": "epoch" if strategy == "epoch" else "steps", "eval_steps": 2}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}

    def make(**more):
        trainer = make_trainer(**settings, **more)
        trainer.compute_answer_metrics = lambda model, data: {"accuracy": 1 / trainer.state.global_step}
        return trainer

    whole = make(output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make()
    stopped.add_callback(SignalInEvaluationCallback(step))
    with pytest.raises(SystemExit):
        stopped.train()
    assert newest_checkpoint(tmp_path / "checkpoints") == str(tmp_path / "checkpoints" / f"checkpoint-{step}")
    resumed = make()
    resumed.train(resume_from_checkpoint=True)
    for name in ("loss", "train_ce", "grad_norm", "eval_loss", "eval_accuracy"):
        assert logged(resumed, name) == logged(whole, name), name
    assert resumed.state.best_global_step == whole.state.best_global_step


def test_a_training_that_is_told_in_its_last_step_keeps_its_model(make_trainer, tmp_path):
    trainer = make_trainer(gradient_accumulation_steps=2, max_steps=2)
    trainer.add_callback(SignalCallback(2, signal.SIGINT))
    with pytest.raises(SystemExit, match=str(128 + signal.SIGINT)):
        trainer.train()
    assert (tmp_path / "checkpoints" / "model.safetensors").exists()


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in seconds, as the only item of a list: it passes where a test changes it."""
    now = [100.0]
    monkeypatch.setattr("mmjepa.training.stopping.monotonic", lambda: now[0])
    return now


def test_a_second_signal_ends_the_run_at_once(make_trainer, clock):
    class TwiceCallback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGINT)
            clock[0] += 1.1
            signal.raise_signal(signal.SIGINT)

    trainer = make_trainer()
    trainer.add_callback(TwiceCallback())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def test_the_same_signal_may_come_several_times_within_a_second(clock):
    request = StopRequest()
    with request.listening():
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            clock[0] += 0.5
        assert request.number is signal.SIGINT
        clock[0] += 0.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_worker_of_a_loader_outlives_the_first_signal_and_not_one_over_a_second_later(clock, monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ignore_first_signal(0)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            clock[0] += 0.5
        assert not left
        clock[0] += 0.1
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert left == [128 + signal.SIGTERM]


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> str:
    return write_flags(tmp_path_factory.mktemp("killed"), max_steps=12, dataloader_num_workers=0)


@pytest.fixture(scope="module")
def whole(flags) -> Path:
    """The folder of a run that was not stopped."""
    run = Run(flags, Path(flags).with_name("whole"))
    run.finish()
    return run.folder


def struck(flags: str, folder: Path, number: signal.Signals, moment: str, count: int = 1) -> Run:
    """A run whose processes have got a signal the `count`-th time that a moment came. It has ended."""
    run = Run(flags, folder, script=[STRUCK_RUN, number.name, moment, count])
    assert run.process.wait(timeout=600) == (-number if number == signal.SIGKILL else 128 + number), run.output()
    return run


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_bitwise_like_one_that_is_not(flags, whole, tmp_path):
    folder = tmp_path / "killed"
    run = struck(flags, folder, signal.SIGKILL, "preparing")
    assert any(path.is_file() for path in run.cache.rglob("*")) and run.saved_step() == 0
    run = struck(flags, folder, signal.SIGKILL, "save", 2)
    assert any(folder.glob(f"checkpoint-*/{UNFINISHED}")) and run.saved_step() == 2
    run = struck(flags, folder, signal.SIGKILL, "evaluation", 2)
    assert run.saved_step() == 4 and run.steps()[-1] == 6
    Run(flags, folder).finish()
    assert_same(folder, whole)


@pytest.mark.slow
def test_the_script_leaves_on_sigterm_with_its_code_and_its_workers_wait_for_it(flags, whole, tmp_path):
    """All processes of the run get it, as from a scheduler."""
    workers = json.loads(Path(flags).read_text()) | {"dataloader_num_workers": 2}
    with_workers = tmp_path / "flags.json"
    with_workers.write_text(json.dumps(workers))
    run = struck(str(with_workers), tmp_path / "stopped", signal.SIGTERM, "step", 3)
    assert run.saved_step() == max(run.steps()) >= 3 and "resume with --resume_from_checkpoint" in run.output()
    Run(flags, tmp_path / "stopped").finish()
    assert_same(tmp_path / "stopped", whole)
