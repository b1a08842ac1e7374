"""What the documents tell a user to type: every command and flag exists, and what is cheap runs as it stands."""

import configparser
import json
import re
import shlex
import shutil
import sys
from argparse import ArgumentParser
from importlib import import_module
from itertools import groupby
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from fresh_process import run_fresh
from PIL import Image
from tiny import FAST, FROM_RANDOM
from torch.distributed.run import get_args_parser as torchrun_parser
from typer.main import get_command

from mmjepa import run_pathvqa
from mmjepa.cli import app
from mmjepa.data.drawn_slides import write_drawn_slides
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import (
    DataArguments,
    FlagParser,
    MMJepaTrainingArguments,
    ModelArguments,
    parse_arguments,
)

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "experiments/README.md", "docs/experiments.md", "docs/performance.md"]
PROGRAMS = {"make", "python", "python3", "pip", "uv", "torchrun", "accelerate", "source"}
# What a word of a command begins with that names a file of the repository.
FOLDERS = ("benchmarks/", "configs/", "experiments/", "tests/")
# README's commands that are parsed and not run, by a word in them, with the reason.
NOT_RUN = {
    "make": "what it runs is installed and downloaded",
    "pip": "it installs",
    "venv": "it installs",
    "source": "it only sets the shell's paths",
    "torchrun": "several GPUs; tests/training/test_processes.py runs several processes",
    "accelerate": "several GPUs; tests/training/test_processes.py runs several processes",
    "mmjepa": "tests/test_cli.py and tests of evaluation run it",
    "mmjepa.experiments.run_study": "hours of training",
    "mmjepa.export.onnx": "tests/export/test_onnx.py runs it, where its packages are installed",
    "--streaming": "10,000 steps; tests/data/test_streaming.py trains on a stream",
}
PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```\n(.*?)^```\n|(?<=\n\n)((?: {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)


def python_blocks(document: str) -> list[str]:
    return PYTHON.findall((ROOT / document).read_text())


def commands(document: str) -> list[list[str]]:
    """The words of all commands: each line of a block, and code in the text that begins with a program's name."""
    text = PYTHON.sub("", (ROOT / document).read_text())
    blocks = "".join(fenced or indented for fenced, indented in BLOCK.findall(text))
    lines = blocks.replace("\\\n", " ").splitlines()
    lines += [code for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text)) if program(code.split()) in PROGRAMS]
    found = []
    for line in lines:
        words = shlex.split(re.sub(r"<[^<>]*>", "NAME", line), comments=True)
        found += [list(group) for is_and, group in groupby(words, "&&".__eq__) if not is_and]
    return found


def program(words: list[str]) -> str:
    return Path(words[0]).name


class ParsedError(Exception):
    """The flags are parsed: the rest of a program is not run."""


@pytest.fixture
def only_parse(monkeypatch):
    """A function that calls a module's `main` as far as to its parsed flags; unknown ones exit, as for a user."""
    parse_args = ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise ParsedError

    def call(module: str, words: list[str]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(ArgumentParser, "parse_args", parse_and_stop)
            patched.setattr(sys, "argv", [module, *words])
            with pytest.raises(ParsedError):
                import_module(module).main()

    return call


def check_flags(words: list[str]) -> None:
    """The flags of run_pathvqa.py, and how they go together; but no file of DeepSpeed, which need not be installed."""
    words = [word for word in words if word != "..."]
    if "--deepspeed" in words:
        place = words.index("--deepspeed")
        json.loads((ROOT / words[place + 1]).read_text())
        del words[place : place + 2]
    parse_arguments([str(ROOT / word) if word.startswith(FOLDERS) else word for word in [*words, "--use_cpu"]])


@pytest.mark.parametrize(
    ("document", "words"),
    [pytest.param(document, words, id=shlex.join(words)) for document in DOCUMENTS for words in commands(document)],
)
def test_every_command_of_the_documents_is_one_that_exists(document, words, only_parse):
    for word in words:
        assert not word.startswith(FOLDERS) or "NAME" in word or (ROOT / word).exists()
    match [program(words), *words[1:]]:
        case ["make", *targets]:
            assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)
        case ["python3" | "python", "-m", "venv", _] | ["uv", "venv"] | ["source", _]:
            pass
        case ["pip", "install", *arguments] | ["uv", "pip", "install", *arguments]:
            setup = configparser.ConfigParser()
            setup.read(ROOT / "setup.cfg")
            for extra in re.findall(r"\.\[(\w+)\]", " ".join(arguments)):
                assert extra in setup["options.extras_require"]
            assert "-c" not in arguments or (ROOT / arguments[arguments.index("-c") + 1]).exists()
        case ["python", "-m", "pytest", file, "-k", name]:
            assert re.search(rf"def test_\w*{name}", (ROOT / file).read_text())
        case ["mmjepa", "train", *flags]:
            check_flags(flags)
        case ["mmjepa", command, *arguments]:
            get_command(app).commands[command].make_context(command, arguments)
        case ["python", "-m", module, *arguments]:
            only_parse(module, arguments)
        case ["python", "run_pathvqa.py", *flags]:
            check_flags(flags)
        case ["torchrun", *arguments]:
            parsed = torchrun_parser().parse_args(arguments)
            assert parsed.training_script == "run_pathvqa.py"
            check_flags(parsed.training_script_args)
        case ["accelerate", "launch", *arguments]:
            parsed = launch_command_parser().parse_args(arguments)
            load_config_from_file(str(ROOT / parsed.config_file))
            assert parsed.training_script == "run_pathvqa.py"
            check_flags(parsed.training_script_args)
        case ["python", script]:
            assert script.startswith("benchmarks/")
        case _:
            pytest.fail(f"{document}: what is this command, and does it work? {shlex.join(words)}")


def test_every_flag_that_the_readme_names_exists():
    """Under any of its names; those of torchrun and pip stand in commands."""
    parser = FlagParser((ModelArguments, DataArguments, MMJepaTrainingArguments), show_all=True)
    named = set(re.findall(r"`(--\w+)", (ROOT / "README.md").read_text()))
    assert len(named) > 40
    assert named <= set(parser._option_string_actions)


@pytest.fixture(scope="module")
def clone(tmp_path_factory, saved_folder) -> Path:
    """A folder with the files of configs/, and what `make demo` leaves: its slides and, tiny, its model."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_drawn_slides(folder / "runs" / "drawn_slides", num_train=8, num_validation=4, num_test=2)
    shutil.copytree(saved_folder, folder / "runs" / "demo")
    return folder


def test_the_readmes_commands_run_one_after_the_other_on_small_data_and_models(clone, monkeypatch):
    """Each as it stands, with flags after it that make it small."""
    monkeypatch.chdir(clone)
    small = [*FAST, "--dataset_name", "runs/drawn_slides", "--fast_dev_run"]
    ran = []
    for words in commands("README.md"):
        if any(word in NOT_RUN for word in [program(words), *words]):
            continue
        ran.append(words)
        match words:
            case ["python", "run_pathvqa.py", *flags]:
                is_new = "--model_name_or_path" not in flags and not flags[0].startswith("configs/")
                run_pathvqa.main([*flags, *small, *(FROM_RANDOM if is_new else [])])
            case ["python", "-m", module, *arguments]:
                import_module(module).main(arguments)
    assert len(ran) == 7
    for written in ("try", "pathvqa", "demo-1"):
        assert (clone / "runs" / written / "model.safetensors").exists()
    assert (clone / "runs" / "again" / "eval_answers.jsonl").exists()
    assert (clone / "runs" / "test" / "test_answers.jsonl").exists()
    assert (clone / "export" / "generator_bart" / "model.safetensors").exists()


def answers_of(folder: Path, image: Path, questions: list[str]) -> list[str]:
    """The answers of this package's own classes."""
    model, processor = MMJepaForConditionalGeneration.from_pretrained(folder), MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=Image.open(image), text=questions, image_index=[0] * len(questions), return_tensors="pt")
    return processor.decode(model.generate(**inputs), skip_special_tokens=True)


def test_the_readmes_python_answers_about_the_slide_that_the_demo_leaves_without_this_package(clone, tmp_path):
    blocks = [block for block in python_blocks("README.md") if "mmjepa." not in block]
    code = "import builtins, json\nsaid = []\nprint = said.append\n" + "".join(blocks)
    code += "builtins.print(json.dumps([said, questions, answers]))\n"
    said, questions, answers = json.loads(run_fresh(code, folder=clone, HF_MODULES_CACHE=tmp_path))
    image = clone / "runs" / "drawn_slides" / "example.png"
    (first,) = answers_of(clone / "runs" / "demo", image, ["where is the gland?"])
    assert len(blocks) == 3 and said == [first, first]
    assert answers == answers_of(clone / "runs" / "demo", image, questions)


def test_no_other_document_has_python_to_run():
    """README's is run above and in tests/export/test_onnx.py, the model card's in tests/evaluation/."""
    assert not any(python_blocks(document) for document in DOCUMENTS if document != "README.md")
