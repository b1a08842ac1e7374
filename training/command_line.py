"""The command line, and what can be wrong with it, without the libraries that take seconds to import."""

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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

# What --precision may say -> the Trainer's flag for it.
PRECISIONS = {"bf16": "bf16", "bf16-mixed": "bf16", "fp16": "fp16", "16-mixed": "fp16", "32": None, "32-true": None}
# What --overfit settles: the same rows again and again at a constant rate, and nothing beside that.
OVERFITTING = {
    "do_eval": False,
    "do_predict": False,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "align_warmup_epochs": 0,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "use_cosine_schedule": False,
}
# Flags that say something about other flags too -> what their value says.
IMPLIED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "precision": lambda name: (
        {} if name not in PRECISIONS else {on: PRECISIONS[name] == on for on in ("bf16", "fp16")}
    ),
    "bf16": lambda on: {"fp16": False} if on else {},
    "use_cosine_schedule": lambda on: {"lr_scheduler_type": "cosine"} if on else {},
    "do_eval": lambda on: {} if on else {"eval_strategy": "no", "load_best_model_at_end": False},
    "eval_strategy": lambda when: {"load_best_model_at_end": False} if when == "no" else {},
    "save_strategy": lambda when: {"load_best_model_at_end": False} if when == "no" else {},
    "prediction_loss_only": lambda on: {"do_predict": False} if on else {},
    "predict_split": lambda _: {"do_predict": True},
    "predict_data": lambda _: {"do_predict": True},
    "fast_dev_run": lambda on: {"max_steps": 2} if on else {},
    "overfit": lambda _: OVERFITTING,
    "torch_compile_backend": lambda _: {"torch_compile": True},
    "torch_compile_mode": lambda _: {"torch_compile": True},
    "gradient_checkpointing": lambda on: {"activation_checkpointing": on},
    "gradient_checkpointing_kwargs": lambda fields: {"activation_checkpointing_kwargs": fields},
}
TRUE = ("true", "t", "yes", "y", "1")  # as the library reads a flag that is true or false


def read_command_line(argv: list[str]) -> list[str]:
    """The flags of a command line whose first argument may be a JSON or YAML file of flags; those after it win.

    A name may be spelt with hyphens, `--batch-size`; it comes back with underscores. A flag of the file that says
    otherwise than one after it is left out, whatever the names of the two.

    Raises:
        ValueError: the file or a flag's number or JSON can't be read, a flag is unknown, two flags contradict each
            other, or a folder does not exist.
    """
    of_file = []
    if argv and argv[0].endswith(FILE_SUFFIXES):
        of_file, argv = flags_of_file(Path(argv[0])), argv[1:]
    of_file, argv = (
        [flag_with_underscores(argument) if argument.startswith("--") else argument for argument in flags]
        for flags in (of_file, argv)
    )
    for flags in (of_file, argv):
        check_flags(flags)
        check_agreement(given_flags(flags))
    later = given_flags(argv)
    earlier = {flag: value for flag, value in given_flags(of_file).items() if not contradiction({flag: value} | later)}
    return as_arguments(earlier) + argv


def check_flags(argv: list[str]) -> None:
    """Raises ValueError where a flag is unknown, or its value can't be read or stands behind no flag."""
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
    return as_arguments({name: value for name, value in given.get("flags", given).items() if value is not None})


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags and their values as a command line has them."""
    arguments = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in values)]
    return arguments


def given_flags(argv: list[str]) -> dict[str, str | list[str]]:
    """Name as written -> value of a command line, as a file of flags has them; "true" where none stands."""
    flags: dict[str, list[str]] = {}
    name = ""
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            flags.pop(name, None)  # the later one wins, over a second name before it too
            flags[name] = [value] if equals else []
        elif name:
            flags[name].append(argument)
    return {name: values if len(values) > 1 else values[0] if values else "true" for name, values in flags.items()}


def check_agreement(given: Mapping[str, Any]) -> None:
    """Raises ValueError where two of the given flags say different things about the same thing."""
    if pair := contradiction(given):
        raise ValueError(f"{pair[0]} and {pair[1]} contradict each other: leave out one of them.")


def contradiction(given: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two of the flags, given by name as written, that contradict each other; None where all agree."""
    said: dict[str, tuple[str, Any]] = {}
    for flag, value in given.items():
        field, meaning = meant(flag, value)
        for name, claim in {**IMPLIED.get(field, lambda _: {})(meaning), field: meaning}.items():
            other, known = said.setdefault(name, (flag, claim))
            if known != claim:
                first, second = (
                    f"--{written}" if given[written] == "true" else f"--{written} {given[written]}"
                    for written in (other, flag)
                )
                return first, second
    return None


def meant(flag: str, value: Any) -> tuple[str, Any]:
    """The field that a flag stands for, which may be another name of it or cut short, and the value as a field has it.

    Numbers are floats, what is true or false is a bool, and all else is left as text, so that equals are equal.
    """
    flag = flag.replace("-", "_")
    field = flag_fields().get(flag) or next((of for name, of in flag_fields().items() if name.startswith(flag)), flag)
    kind = known_flags().get(field, "")
    value = getattr(value, "value", value)  # of an enumeration of the library
    if flag.startswith("no_") and field == flag.removeprefix("no_"):
        return field, False
    if kind == "bool":
        return field, str(value).lower() in TRUE
    if kind in NUMBERS and isinstance(value, (str, int, float)):
        with suppress(ValueError):  # a number is missing: the parser says so
            return field, float(value)
    return field, value


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
    return {"help": "", "help_all": ""} | {name: kind for name, kind, _ in all_flags()}


@cache
def flag_fields() -> dict[str, str]:
    """The names of all flags, second names too, and the fields that they set."""
    return {name: field for name, _, field in all_flags()}


def all_flags() -> Iterator[tuple[str, str, str]]:
    """Name, type and field of each flag."""
    library = Path(find_spec("transformers").origin).with_name("training_args.py")
    for path in (library, Path(__file__).with_name("arguments.py")):
        for name, kind, field in defined_flags(path):
            yield name, kind, field
            if kind == "bool":
                yield f"no_{name}", "", field


def defined_flags(path: Path) -> Iterator[tuple[str, str, str]]:
    """The flags that a file's dataclasses of arguments define: names, types and fields. It is read, not imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    kind = ast.unparse(field.annotation).removesuffix(" | None").removeprefix("None | ")
                    yield field.target.id, kind, field.target.id
                    for part in ast.walk(field):
                        if isinstance(part, ast.keyword) and part.arg == "aliases":
                            for name in ast.literal_eval(part.value):
                                yield name.removeprefix("--"), kind, field.target.id
