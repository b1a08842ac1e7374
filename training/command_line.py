"""The command line, and what can be wrong with it, without the libraries that take seconds to import."""

import ast
import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

FILE_SUFFIXES = (".json", ".yaml", ".yml")
NUMBERS = {"int": int, "float": float}
JSON_FLAGS = ("vision_config", "text_config")
# What these name lies in a local folder or on the Hub.
SOURCE_FLAGS = ("model_name_or_path", "image_encoder", "text_model", "tokenizer_name", "dataset_name")


def read_command_line(argv: list[str]) -> list[str]:
    """The flags of a command line whose first argument may be a JSON or YAML file of flags; those after it win.

    A name may be spelt with hyphens, `--batch-size`; it comes back with underscores.

    Raises:
        ValueError: the file or a flag's number or JSON can't be read, a flag is unknown, or a folder does not exist.
    """
    if argv and argv[0].endswith(FILE_SUFFIXES):
        argv = flags_of_file(Path(argv[0])) + argv[1:]
    argv = [flag_with_underscores(argument) if argument.startswith("--") else argument for argument in argv]
    flag = ""
    for argument in argv:
        name, _, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if name:
            flag = name[2:]
            check_name(flag)
        elif not flag and value.endswith(FILE_SUFFIXES):
            raise ValueError(f"{value} stands behind other arguments: give a file of flags as the first argument.")
        if value:
            check_value(flag, value)
            flag = ""
    return argv


def with_underscores(name: str) -> str:
    """A flag's name as `--help` shows it; every command takes hyphens too."""
    return name.replace("-", "_")


def flag_with_underscores(argument: str) -> str:
    """A flag, `--name` or `--name=value`, whose name is spelt with underscores."""
    name, equals, value = argument[2:].partition("=")
    return f"--{with_underscores(name)}{equals}{value}"


def flags_of_file(path: Path) -> list[str]:
    """The flags that a JSON or YAML file spells out, or that a run has written into its run.json.

    HfArgumentParser reads such files too, but takes no flags beside them, no second names such as `batch_size`, and
    no dict for a flag that is JSON.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}, the file of flags, does not exist.")
    try:
        given = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no JSON, or no text at all
        raise ValueError(f"{path}, the file of flags, can't be read: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}, the file of flags, holds a {type(given).__name__}: give flags and their values.")
    flags = []
    for name, value in given.get("flags", given).items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in values)]
    return flags


def given_flags(argv: list[str]) -> dict[str, str | list[str]]:
    """Name -> value of what `read_command_line` has read, as a file of flags has them; "true" where none stands."""
    flags: dict[str, list[str]] = {}
    name = ""
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            flags.pop(name, None)  # the later one wins, over a second name before it too
            flags[name] = [value] if equals else []
        else:
            flags[name].append(argument)
    return {name: values if len(values) > 1 else values[0] if values else "true" for name, values in flags.items()}


def check_name(flag: str) -> None:
    """Raises ValueError where there is no such flag; its name may be cut short, as argparse allows it."""
    if not any(name.startswith(flag) for name in known_flags()):
        close = get_close_matches(flag, known_flags(), n=1, cutoff=0.7)
        meant = f"did you mean --{close[0]}? " if close else ""
        raise ValueError(f"there is no --{flag}: {meant}--help shows the flags, --help_all the Trainer's too.")


def check_value(flag: str, value: str) -> None:
    """Raises ValueError where a flag's value is neither the number nor the JSON nor the folder that it has to be."""
    number = NUMBERS.get(known_flags().get(flag))
    try:
        number and number(value)
    except ValueError as error:
        raise ValueError(f"--{flag} is {value!r}: give a number, of type {number.__name__}.") from error
    if flag in JSON_FLAGS or value.startswith("{"):
        json_object(flag, value)
    if flag in SOURCE_FLAGS:
        check_source(f"--{flag}", value)


def check_source(name: str, value: str) -> None:
    """Raises ValueError where a value, called `name` on the command line, is a path and nothing is there."""
    # A Hub id is a name, or an owner and a name.
    if not value or ((value[0] in "/.~" or value.count("/") > 1) and not Path(value).exists()):
        raise ValueError(f"{name} is {value!r}: there is no such folder.")


def json_object(flag: str, value: str) -> dict[str, Any]:
    """The JSON object that a flag's value spells out.

    Raises:
        ValueError: it is no JSON, or another kind of JSON.
    """
    try:
        fields = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{flag} is {value!r}, which is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f'--{flag} is {value!r}: give a JSON object, such as {{"hidden_size": 64}}.')
    return fields


def check_onnx_packages(flag: str) -> None:
    """Raises ValueError where the packages of an ONNX export, an extra, are not all installed."""
    if lacking := [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]:
        raise ValueError(f"{flag} needs {', '.join(lacking)}: pip install 'mmjepa[onnx]'.")


@cache
def known_flags() -> dict[str, str]:
    """The names of all flags, second names too, and their types: this project's and those of the library's Trainer."""
    library = Path(find_spec("transformers").origin).with_name("training_args.py")
    flags = {"help": "", "help_all": ""}
    for path in (library, Path(__file__).with_name("arguments.py")):
        for name, kind in defined_flags(path):
            flags |= {name: kind} | ({f"no_{name}": ""} if kind == "bool" else {})
    return flags


def defined_flags(path: Path) -> Iterator[tuple[str, str]]:
    """The flags that a file's dataclasses of arguments define, and their types. The file is read, not imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    kind = ast.unparse(field.annotation).removesuffix(" | None").removeprefix("None | ")
                    yield field.target.id, kind
                    for part in ast.walk(field):
                        if isinstance(part, ast.keyword) and part.arg == "aliases":
                            yield from ((name.removeprefix("--"), kind) for name in ast.literal_eval(part.value))
