"""The exit codes that docs/start.md and `mmjepa --help` state, of the command as users start it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import FAST, FROM_RANDOM

COMMAND = Path(sys.executable).with_name("mmjepa")
ROOT = Path(__file__).parent.parent


def started(*words) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([COMMAND, *map(str, words)], **pipes)


def test_what_is_done_ends_with_0(slides):
    run = started("check", slides)
    said, _ = run.communicate()
    assert run.returncode == 0 and "Training can start." in said


@pytest.mark.slow
def test_a_run_that_fails_ends_with_1(tmp_path):
    run = started("train", *FROM_RANDOM, *FAST, "--dataset_name", tmp_path, "--output_dir", tmp_path / "out")
    said, _ = run.communicate()
    assert run.returncode == 1 and said.splitlines()[-1].startswith("mmjepa train: ") and "holds no data" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing", "No such command 'nothing'"),
        ("check --nothing", "No such option: --nothing"),
        ("check ./nothing", "there is no such folder"),
        ("train --batchsize 3", "there is no --batchsize"),
        # Found when the libraries are imported.
        pytest.param("train --lr_img -1", "--lr_img is -1.0: give", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_call_ends_with_2(words, message, tmp_path):
    run = started(*words.split())
    said, _ = run.communicate()
    assert run.returncode == 2 and message in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_an_interrupted_training_saves_a_checkpoint_and_ends_with_130(slides, tmp_path):
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", slides, "--max_steps", "100000", "--logging_steps", "1"]
    run = started("train", *flags, "--eval_strategy", "no", "--save_strategy", "no", "--output_dir", tmp_path / "out")
    for line in run.stdout:
        if line.startswith("step 2/"):
            break
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate()
    assert run.returncode == 130, said
    assert list((tmp_path / "out").glob("checkpoint-*/model.safetensors"))


def test_the_codes_are_stated_where_users_look(slides):
    stated = [(ROOT / "docs/start.md").read_text(), started("--help").communicate()[0]]
    for code in ("0", "1", "2", "130", "143"):
        assert f"| {code} |" in stated[0] and f" {code} " in " ".join(stated[1].split())
