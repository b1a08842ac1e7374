"""What the documents tell a user to type: every command and flag exists, and what is cheap runs as it stands."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from fresh_process import run_fresh
from PIL import Image
from safetensors.torch import load_file
from tiny import FAST, FROM_RANDOM
from torch.distributed.run import get_args_parser as torchrun_parser
from typer.main import get_command
from typer.testing import CliRunner

from mmjepa import run_pathvqa
from mmjepa.cli import app
from mmjepa.data.drawn_slides import write_drawn_slides
from mmjepa.data.drawn_slides.painting import draw_slide
from mmjepa.data.drawn_slides.questions import ask_questions
from mmjepa.experiments.baselines import read_flags
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import flag_parser, parse_arguments

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "experiments/README.md"]
DOCUMENTS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"make", "python", "python3", "pip", "uv", "torchrun", "accelerate", "source", "hf", "tensorboard"}
# What a word of a command begins with that names a file of the repository.
FOLDERS = ("benchmarks/", "configs/", "experiments/", "tests/")
# Pages whose commands are run one after the other: each uses what those before it have written.
RUN = ["docs/start.md", "docs/training.md", "docs/evaluation.md", "docs/onnx.md"]
# Commands that are parsed and not run, by a word in them, with the reason.
NOT_RUN = {
    "make": "what it runs is installed and downloaded",
    "pip": "it installs",
    "venv": "it installs",
    "source": "it only sets the shell's paths",
    "mmjepa": "tests/test_cli.py and tests of evaluation run it",
    "hf": "it asks for a password",
    "app": "it serves until it is stopped; tests/test_app.py asks it",
    "--push_to_hub": "tests/test_push_to_hub.py pushes",
    "mmjepa.experiments.run_study": "hours of training",
    "mmjepa.export.onnx": "tests/export/test_onnx.py runs it, where its packages are installed",
}
# Flags that a page names and no program of this project has, and those of tests and benchmarks.
OF_OTHERS = {"--jobs", "--scaling", "--steps", "--size", "--kills", "--workers", "--shm_size", "--images_per_question"}
PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
IN_A_LANGUAGE = re.compile(r"^```\w+\n.*?^```\n", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```\n(.*?)^```\n|(?<=\n\n)((?: {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)


def python_blocks(document: str) -> list[str]:
    return PYTHON.findall((ROOT / document).read_text())


def commands(document: str) -> list[list[str]]:
    """The words of all commands: each line of a block, and code in the text that begins with a program's name."""
    text = IN_A_LANGUAGE.sub("", (ROOT / document).read_text())
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
        case ["make", target, *variables]:
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
            assert all(f"{variable.partition('=')[0]} ?=" in makefile for variable in variables)
        case ["python3" | "python", "-m", "venv", _] | ["uv", "venv"] | ["source", _]:
            pass
        case ["pip", "install", *arguments] | ["uv", "pip", "install", *arguments]:
            setup = configparser.ConfigParser()
            setup.read(ROOT / "setup.cfg")
            for extra in re.findall(r"\.\[(\w+)\]", " ".join(arguments)):
                assert extra in setup["options.extras_require"]
            assert "-c" not in arguments or (ROOT / arguments[arguments.index("-c") + 1]).exists()
        case ["python", "-m", "pytest", file, "-k", names]:
            assert all(re.search(rf"def test_\w*{name}", (ROOT / file).read_text()) for name in names.split(" or "))
        case ["python", "-m", "pytest", *files]:
            assert all(file.startswith("tests/") for file in files)
        case ["mmjepa", "train", *flags]:
            check_flags(flags)
        case ["mmjepa", "evaluate", model, *flags]:
            check_flags([*flags, "--model_name_or_path", model, "--do_train", "false"])
        case ["mmjepa", command, *arguments]:
            get_command(app).commands[command].make_context(command, arguments)
        case ["python", "-m", "mmjepa.experiments.baselines", *arguments]:
            check_flags(read_flags(arguments)[1])
        case ["python", "-m", module, *arguments]:
            only_parse(module, arguments)
        case ["python", "run_pathvqa.py", *flags]:
            check_flags([flag for flag in flags if not flag.endswith("/run.json")])  # only a run has it
        case ["torchrun", *arguments]:
            parsed = torchrun_parser().parse_args(arguments)
            assert parsed.training_script == "run_pathvqa.py"
            check_flags(parsed.training_script_args)
        case ["accelerate", "launch", *arguments]:
            parsed = launch_command_parser().parse_args(arguments)
            load_config_from_file(str(ROOT / parsed.config_file))
            assert parsed.training_script == "run_pathvqa.py"
            check_flags(parsed.training_script_args)
        case ["hf", "auth", "login"] | ["tensorboard", "--logdir", _]:
            pass
        case ["python", script, *_]:
            assert script.startswith(("benchmarks/", "tests/"))
        case _:
            pytest.fail(f"{document}: what is this command, and does it work? {shlex.join(words)}")


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    options = [option for command in get_command(app).commands.values() for option in command.params]
    of_commands = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    return {f"--{flag}" for flag in flag_parser().flags} | of_commands | OF_OTHERS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_that_a_document_names_exists(document, known_flags):
    """Under any of its names; those of torchrun and pip stand in commands."""
    named = re.findall(r"`(--\w[\w-]*)", (ROOT / document).read_text())
    assert {flag[:2] + flag[2:].replace("-", "_") for flag in named} <= known_flags


@pytest.fixture
def clone(tmp_path_factory, saved_folder) -> Path:
    """A folder with the files of configs/, and what `make demo` leaves: its slides and, tiny, its model."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_drawn_slides(folder / "runs" / "drawn_slides", num_train=8, num_validation=4, num_test=2)
    shutil.copytree(saved_folder, folder / "runs" / "demo")
    return folder


def run_commands(documents: list[str]) -> list[list[str]]:
    """Runs each command that is not in `NOT_RUN` as it stands, with flags after it that make it small."""
    small = [*FAST, "--dataset_name", "runs/drawn_slides", "--fast_dev_run"]
    ran = []
    for words in (words for document in documents for words in commands(document)):
        match words:
            case ["mmjepa", "evaluate", model, *flags]:
                run_pathvqa.main(["--model_name_or_path", model, "--do_train", "false", *flags, *small])
            case _ if any(word in NOT_RUN for word in [program(words), *words]):
                continue
            case ["python", "run_pathvqa.py", *flags]:
                is_new = "--model_name_or_path" not in flags and not flags[0].startswith("configs/")
                run_pathvqa.main([*flags, *small, *(FROM_RANDOM if is_new else [])])
            case ["python", "-m", module, *arguments]:
                import_module(module).main(arguments)
        ran.append(words)
    return ran


@pytest.mark.slow
def test_the_commands_of_the_pages_run_one_after_the_other_on_small_data_and_models(clone, monkeypatch):
    monkeypatch.chdir(clone)
    assert len(run_commands(RUN)) == 8
    for written in ("try", "pathvqa", "demo-1"):
        assert (clone / "runs" / written / "model.safetensors").exists()
    assert (clone / "runs" / "again" / "eval_answers.jsonl").exists()
    assert (clone / "runs" / "test" / "test_answers.jsonl").exists()
    assert (clone / "runs" / "asked" / "predictions.parquet").exists()
    assert (clone / "export" / "generator_bart" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_readmes_commands_run_one_after_the_other_on_small_data_and_models(clone, monkeypatch):
    monkeypatch.chdir(clone)
    assert run_commands(["README.md"])


def answers_of(folder: Path, image: Path, questions: list[str]) -> list[str]:
    """The answers of this package's own classes."""
    model, processor = MMJepaForConditionalGeneration.from_pretrained(folder), MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=Image.open(image), text=questions, image_index=[0] * len(questions), return_tensors="pt")
    return processor.decode(model.generate(**inputs), skip_special_tokens=True)


@pytest.mark.parametrize("document", ["README.md", "docs/start.md"])
@pytest.mark.slow
def test_the_python_of_the_first_pages_answers_about_the_demos_slide_without_this_package(document, clone, tmp_path):
    blocks = [block for block in python_blocks(document) if "mmjepa." not in block]
    code = "import builtins, json\nquestions, answers, said = [], [], []\nprint = said.append\n" + "".join(blocks)
    code += "builtins.print(json.dumps([said, questions, answers]))\n"
    said, questions, answers = json.loads(run_fresh(code, folder=clone, HF_MODULES_CACHE=tmp_path))
    image = clone / "runs" / "drawn_slides" / "example.png"
    (first,) = answers_of(clone / "runs" / "demo", image, ["where is the gland?"])
    assert said and set(said) == {first}
    assert answers == (answers_of(clone / "runs" / "demo", image, questions) if questions else [])


@pytest.fixture
def with_own_images(clone, monkeypatch) -> Path:
    """The clone as working directory, with a folder of images and one table."""
    monkeypatch.chdir(clone)
    folder, random, rows = clone / "my_data", np.random.default_rng(0), []
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    for number in range(1, 9):
        slide, facts = draw_slide(random)
        slide.save(folder / "slides" / f"{number:04}.png")
        rows += [(f"slides/{number:04}.png", *pair) for pair in ask_questions(random, facts)]
    pd.DataFrame(rows, columns=["image", "question", "answer"]).to_csv(folder / "train.csv", index=False)
    pd.DataFrame(rows[:5], columns=["image", "question", "answer"]).to_csv(folder / "test.csv", index=False)
    return clone


@pytest.mark.slow
def test_the_way_to_a_model_of_ones_own_images_runs_step_by_step(with_own_images):
    """Each command of docs/own_images.md as it stands; new models are made small by flags after it."""
    ran = []
    for words in commands("docs/own_images.md"):
        if {"hf", "app", "--push_to_hub"} & set(words) or words[0] != "mmjepa" or "NAME" in words:
            continue
        ran.append(words[1])
        if words[1] in ("train", "evaluate"):
            words = [*words, *FAST]
        if words[1] == "train" and not words[2].startswith("configs/"):
            words += FROM_RANDOM
        if "--overfit" in words:
            words += ["--max_steps", "2"]
        run = CliRunner().invoke(app, words[1:], prog_name="mmjepa")
        assert run.exit_code == 0, f"{words}: {run.output} {run.exception}"
    assert ran == ["check", "train", "train", "train", "train", "ask", "evaluate", "score", "score", "evaluate"]
    assert (with_own_images / "runs" / "mine" / "report.html").exists()
    assert (with_own_images / "runs" / "mine_test" / "predictions.parquet").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.slow
def test_the_python_of_the_documents_trains_measures_and_adapts_a_saved_model(with_own_images, capsys):
    pytest.importorskip("peft")
    # Packages that no extra installs, by a word of the blocks that need them.
    optional = {"BitsAndBytesConfig": "bitsandbytes", "hyperparameter_search(": "optuna"}
    lacking = [word for word, package in optional.items() if find_spec(package) is None]
    blocks = [block for block in python_blocks("docs/python.md") if not any(word in block for word in lacking)]
    exec("".join(blocks), {})
    assert "Shuffling the images" in capsys.readouterr().out
    demo, trained, adapted = (
        load_file(with_own_images / "runs" / name / "model.safetensors") for name in ("demo", "python", "lora")
    )
    name = "decoder.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(trained[name], demo[name]) and not torch.equal(adapted[name], trained[name])
    name = "decoder.layers.0.fc1.weight"
    assert torch.equal(adapted[name], trained[name])
    if find_spec("bitsandbytes") is not None:
        merged = load_file(with_own_images / "runs" / "qlora" / "model.safetensors")
        assert torch.equal(merged[name], demo[name])
        for name in ("decoder.layers.0.self_attn.q_proj.weight", "alignment.reader.q_proj.weight"):
            assert not torch.equal(merged[name], demo[name])


BASH = re.compile(r"^```bash\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def test_the_script_for_several_nodes_is_read_by_bash_and_its_training_exists():
    (script,) = BASH.findall((ROOT / "docs" / "recipes.md").read_text())
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --time=24:00:00 --signal=TERM@" in script  # to the processes, not to the script alone
    (flags,) = re.findall(r"python run_pathvqa.py (.*)'", script)
    check_flags(shlex.split(flags))


PAGES = [document for document in DOCUMENTS if document.startswith("docs/")]


@pytest.mark.parametrize("page", sorted({*PAGES} - {"docs/experiments_log.md"}))
def test_a_page_is_read_in_a_few_minutes(page):
    assert len((ROOT / page).read_text().split()) <= 900


def test_every_page_is_in_the_navigation_once():
    nav = re.search(r"^nav:\n(.*?)^\w", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE | re.DOTALL)[1]
    listed = re.findall(r"docs/\w+\.md", nav)
    assert sorted(listed) == PAGES


def test_no_other_document_has_python_to_run():
    """That of three is run above, that of docs/onnx.md in tests/export/, the model card's in tests/reporting/."""
    others = set(DOCUMENTS) - {"README.md", "docs/start.md", "docs/python.md", "docs/onnx.md"}
    assert not any(python_blocks(document) for document in others)


def files_of_the_house() -> list[str]:
    """Every file that CONTRIBUTING's "house" names, below the folder that was named last before it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (house,) = re.findall(r"^## The house in ten lines\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    folder, files = "", []
    for name in re.findall(r"`(\w[\w/]*/|\w+\.py)`", house):
        if name.endswith("/"):
            folder = name
        else:
            files.append(folder + name)
    return files


def test_contributing_names_every_file_of_the_package_once():
    """All but `__init__.py` and `__main__.py`, which say nothing that their folder's other files do not."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = [ROOT.joinpath(*package.split(".")[1:]) for package in setup["options"]["packages"].split()]
    files = [path for folder in folders for path in folder.glob("*.py") if not path.name.startswith("__")]
    assert sorted(files_of_the_house()) == sorted(str(path.relative_to(ROOT)) for path in files)
