"""Checks of what a flag or an argument of a command says: JSON, a folder, packages. Quick to import."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def check_source(name: str, value: str) -> None:
    """Raises ValueError where a value, called `name` on the command line, is a path and nothing is there."""
    # A Hub id is a name, or an owner and a name.
    if not value or ((value[0] in "/.~" or value.count("/") > 1) and not Path(value).exists()):
        raise ValueError(f"{name} is {value!r}: there is no such folder.")


def check_file(words: str, path: Path) -> None:
    """Raises ValueError where no file is at a path; `words` say what it is on the command line. A pipe is one too."""
    if not os.path.exists(path) or os.path.isdir(path):  # a Path raises OSError where it is long
        raise ValueError(f"{words} {str(path)[:200]}, which is no file: give a file that exists.")


def json_object(name: str, value: str) -> dict[str, Any]:
    """The JSON object that a value, called `name` on the command line, spells out.

    Raises:
        ValueError: it is no JSON, or another kind of JSON.
    """
    try:
        fields = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {value!r}, which is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f'{name} is {value!r}: give a JSON object, such as {{"hidden_size": 64}}.')
    return fields


def column_value(name: str, value: str) -> tuple[str, str]:
    """The column and the value of `COLUMN=VALUE`.

    Raises:
        ValueError: it is something else.
    """
    column, equals, wanted = (part.strip() for part in value.partition("="))
    if not column or not equals:
        raise ValueError(f"{name} is {value!r}: give a column and the value of the rows to read, such as q_lang=en.")
    return column, wanted


# The packages that an extra of this project installs.
EXTRAS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "lora": ("peft",), "slides": ("openslide",)}


def check_extra(name: str, extra: str) -> None:
    """Raises ValueError where not all packages of an extra are installed, which `name` needs."""
    if lacking := [package for package in EXTRAS[extra] if find_spec(package) is None]:
        raise ValueError(f"{name} needs {', '.join(lacking)}: pip install 'mmjepa[{extra}]'.")
