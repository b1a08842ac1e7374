"""A saved model whose files are broken is named in one line, by every command that loads one."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import FAST
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.evaluation.loading import load_model_and_processor

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"


def point(path: Path) -> None:
    path.write_bytes(POINTER)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def broken(saved_folder, tmp_path):
    """A function that copies the saved model, breaks a file of it and gives the folder."""

    def copy(name: str, break_file, source: str = saved_folder) -> Path:
        folder = tmp_path / Path(source).name
        shutil.copytree(source, folder)
        weights = folder / "model.safetensors"
        if name == "pytorch_model.bin":
            torch.save(load_file(weights), folder / name)
            weights.unlink()
        break_file(folder / name)
        return folder

    return copy


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("break_file", "message"),
    [(point, "is a Git LFS pointer"), (cut, "cut off or damaged"), (empty, "of 0 bytes is cut off or damaged")],
)
def test_a_file_that_is_a_pointer_or_cut_off_is_named(broken, name, break_file, message):
    folder = broken(name, break_file)
    with pytest.raises(OSError, match=f"^{folder / name} .*{message}"):
        load_model_and_processor(str(folder))


def test_a_folder_without_a_configuration_is_named(broken):
    folder = broken("config.json", Path.unlink)
    with pytest.raises(OSError, match=f"{folder} has no config.json"):
        load_model_and_processor(str(folder))


def other_size(config: Path) -> None:
    config.write_text(config.read_text().replace('"num_image_tokens": 5', '"num_image_tokens": 3'))


def without_tokenizer(tokenizer: Path) -> None:
    for path in tokenizer.parent.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("name", "break_file", "message"),
    [
        ("config.json", other_size, "You set `ignore_mismatched_sizes` to `False`"),
        ("tokenizer.json", without_tokenizer, "Couldn't instantiate the backend tokenizer"),
    ],
)
def test_files_that_do_not_belong_together_end_in_one_line(broken, image_file, name, break_file, message):
    folder = broken(name, break_file)
    run = CliRunner().invoke(app, ["ask", image_file, "what?", "--model", str(folder)], prog_name="mmjepa")
    assert isinstance(run.exception, SystemExit)
    assert run.output.rstrip("\n").split("\n")[-1].startswith(f"mmjepa ask: {message}")


def test_an_error_about_whole_files_stays_as_it_is(saved_folder, monkeypatch):
    def fail(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr("mmjepa.evaluation.loading.MMJepaProcessor.from_pretrained", fail)
    with pytest.raises(KeyError, match="a bug"):
        load_model_and_processor(saved_folder)


@pytest.mark.parametrize("break_file", [point, cut])
@pytest.mark.parametrize(
    "words",
    [
        "ask {png} what? --model {broken}",
        "app {broken}",
        "evaluate {broken} {run}",
        "train --model_name_or_path {broken} {run}",
        "export {broken} {out}",
        "export {broken} {out} --onnx",
    ],
)
def test_every_command_that_loads_a_model_names_broken_weights_in_one_line(
    broken, slides, image_file, tmp_path, words, break_file
):
    weights = broken("model.safetensors", break_file) / "model.safetensors"
    values = {"{png}": [image_file], "{broken}": [str(weights.parent)], "{out}": [str(tmp_path / "out")]}
    values["{run}"] = [*FAST, "--dataset_name", slides, "--output_dir", str(tmp_path / "out")]
    run = CliRunner().invoke(
        app, [part for word in words.split() for part in values.get(word, [word])], prog_name="mmjepa"
    )
    assert isinstance(run.exception, SystemExit) and run.exit_code == 1
    assert run.output.rstrip("\n").split("\n")[-1].startswith(f"mmjepa {words.split()[0]}: {weights} ")


@pytest.mark.parametrize("tower", ["image_encoder", "text_model"])
def test_a_new_model_names_the_broken_weights_of_a_tower(
    broken, checkpoints, image_processor, tokenizer, slides, tmp_path, tower
):
    source = {"image_encoder": checkpoints["vision"], "text_model": checkpoints["text"]}
    folder = broken("model.safetensors", point, source[tower])
    image_processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    other = tmp_path / "other"
    shutil.copytree(next(path for name, path in source.items() if name != tower), other)
    image_processor.save_pretrained(other)
    tokenizer.save_pretrained(other)
    flags = [f"--{name}={folder if name == tower else other}" for name in source]
    words = [
        "train",
        *flags,
        *FAST,
        "--dataset_name",
        slides,
        "--output_dir",
        str(tmp_path / "out"),
        "--image_size",
        "28",
    ]
    run = CliRunner().invoke(app, words, prog_name="mmjepa")
    assert run.output.rstrip("\n").split("\n")[-1].startswith(f"mmjepa train: {folder}/model.safetensors is a Git LFS")
