"""The command `mmjepa`: its commands do what the script and the exports do."""

import json
import os
import re
import runpy
import subprocess
import sys

import pytest
from tiny import FAST, FROM_RANDOM
from typer.testing import CliRunner

from mmjepa.cli import app


@pytest.fixture
def call(monkeypatch):
    """A function that calls the command, and gives what it printed and its exit status."""
    monkeypatch.setattr(sys, "argv", ["mmjepa"])
    return lambda *words: CliRunner().invoke(app, list(map(str, words)), prog_name="mmjepa")


def test_help_shows_the_commands_in_the_order_in_which_they_are_used(call):
    shown = call("--help").output
    places = [shown.index(f"│ {name} ") for name in ("check", "train", "evaluate", "score", "export", "app")]
    assert places == sorted(places)


def test_a_model_is_trained_evaluated_and_exported(call, slides, tmp_path):
    model, again = tmp_path / "model", tmp_path / "again"
    data = [*FAST, "--dataset_name", slides, "--batch_size", "4"]
    run = call("train", *FROM_RANDOM, *data, "--fast_dev_run", "--output_dir", model)
    assert run.exit_code == 0, run.output
    (tmp_path / "flags.json").write_text(json.dumps({"max_val_samples": 5}))
    run = call("evaluate", model, tmp_path / "flags.json", *data, "--output_dir", again)
    assert run.exit_code == 0, run.output
    assert len((again / "eval_answers.jsonl").read_text().splitlines()) == 5
    assert not (again / "model.safetensors").exists()
    run = call("export", model, tmp_path / "parts")
    assert run.exit_code == 0, run.output
    assert (tmp_path / "parts" / "generator_bart" / "model.safetensors").exists()


def test_the_help_of_train_is_that_of_the_script_under_its_own_name(call):
    shown = call("train", "--help").output
    assert shown.startswith("usage: mmjepa train [flags.json]") and "--lr_img" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--batchsize", "3"], "mmjepa train: there is no --batchsize: did you mean --batch_size"),
        (["evaluate", "./nothing"], "mmjepa evaluate: --model_name_or_path is './nothing': there is no such folder"),
        (["evaluate", "--batch_size", "3"], "name it first, then the flags"),
        (["export", "./nothing", "out"], "'./nothing': there is no such folder"),
        (["app", "./nothing"], "'./nothing': there is no such folder"),
        (["check", "./nothing"], "'./nothing': there is no such folder"),
    ],
)
def test_what_is_wrong_is_said_before_pytorch_is_imported(tmp_path, words, message):
    """A module named torch that can't be imported stands in the way of the one that can."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    code = "import sys; sys.argv[0] = 'mmjepa'; from mmjepa.cli import app; app()"
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "COLUMNS": "200"}
    run = subprocess.run([sys.executable, "-c", code, *words], env=os.environ | environment, capture_output=True)
    assert run.returncode != 0 and message in run.stderr.decode()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image": ["a.png", "b.png"], "question": "?", "answer": "yes"}],
            "train, row 0: a question is about one image",
        ),
        ([{"picture": "a.png", "question": "?", "answer": "yes"}], "train has no column 'image'"),
        ([{"image": "a.png", "question": "?", "answer": ""}], "none of the 1 rows has an answer"),
        ([{"image": f"{name}.png", "question": "?", "answer": "a"} for name in "ab"], "train: 2 of 2 images"),
        (None, "holds no data: give a folder of"),
    ],
)
@pytest.mark.parametrize("command", ["train", "script", "check"])
def test_what_is_wrong_with_the_data_is_one_line(call, tmp_path, monkeypatch, rows, message, command):
    if rows is not None:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", str(tmp_path), "--fast_dev_run", "--do_eval", "false"]
    flags += ["--output_dir", str(tmp_path / "out")]
    if command == "script":
        monkeypatch.setattr(sys, "argv", ["run_pathvqa.py", *flags])
        with pytest.raises(SystemExit, match=re.escape(message)) as error:
            runpy.run_module("mmjepa.run_pathvqa", run_name="__main__")
        lines = [str(error.value)]
    else:
        run = call("check", tmp_path) if command == "check" else call("train", *flags)
        assert run.exit_code == 1
        lines = [line for line in run.output.splitlines() if message in line]
        assert "Traceback" not in run.output
    assert len(lines) == 1 and "\n" not in lines[0]


def test_an_image_in_base64_is_no_path_and_is_not_shown_as_a_whole(call):
    run = call("ask", "A" * 100_000, "what is it?")
    assert run.exit_code == 2 and "is no file" in run.output and len(run.output) < 2000


def test_an_export_without_its_packages_says_how_to_install_them(call, saved_folder, monkeypatch):
    monkeypatch.setattr("mmjepa.training.command_line.find_spec", lambda name: None)
    run = call("export", saved_folder, "onnx", "--onnx")
    assert run.exit_code == 2 and "pip install 'mmjepa[onnx]'" in " ".join(run.output.replace("│", " ").split())


def test_the_page_without_gradio_says_how_to_install_it(call, saved_folder, monkeypatch):
    monkeypatch.setattr("mmjepa.cli.find_spec", lambda name: None)
    run = call("app", saved_folder)
    assert run.exit_code == 2 and "pip install 'mmjepa[app]'" in " ".join(run.output.replace("│", " ").split())


def test_the_page_is_served_where_it_is_asked_for(call, saved_folder, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs gradio, the extra [app]")
    launched = {}
    monkeypatch.setattr("gradio.Blocks.launch", lambda page, **options: launched.update(options))
    run = call("app", saved_folder, "--port", "7999", "--host", "0.0.0.0")
    assert run.exit_code == 0, run.output
    assert (launched["server_name"], launched["server_port"], launched["share"]) == ("0.0.0.0", 7999, False)
