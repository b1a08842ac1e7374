"""How make sets up its environment: it installs into one that is there, and never removes it. Here a stub installs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# In place of Python: writes down what it is called for. It is too old where a file `old` lies beside it, and has pip
# once `ensurepip` was called.
STUB = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in
    "-c "*) [ ! -e "$(dirname "$0")/old" ];;
    "-m ensurepip") touch "$(dirname "$0")/pip";;
    "-m pip "*) [ -e "$(dirname "$0")/pip" ];;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
esac
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with what make reads, and a stub in place of the machine's Python."""
    for name in ("Makefile", "setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(STUB)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(clone: Path) -> subprocess.CompletedProcess:
    command = ["make", ".venv/installed", f"PYTHON={clone / 'python'}"]
    own = os.environ | {"MAKEFLAGS": ""}  # not those of the make that runs the tests
    return subprocess.run(command, cwd=clone, env=own, capture_output=True, text=True)


def calls(folder: Path) -> str:
    """What the stub in a folder was called for."""
    return (folder / "calls").read_text() if (folder / "calls").exists() else ""


@pytest.fixture
def by_hand(clone) -> Path:
    """The programs' folder of an environment that README's "Install" has made: nothing says that make has made it."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(clone / "python", clone / ".venv" / "bin" / "python")
    (clone / ".venv" / "bin" / "pip").touch()
    return clone / ".venv" / "bin"


def test_an_environment_is_made_where_there_is_none(clone):
    run = make(clone)
    assert run.returncode == 0, run.stderr
    assert calls(clone) == "-m venv .venv\n"
    assert "-m ensurepip" in calls(clone / ".venv" / "bin")
    assert (clone / ".venv" / "package" / "mmjepa").resolve() == clone


def test_an_environment_that_was_made_by_hand_is_installed_into_and_kept(clone, by_hand):
    run = make(clone)
    assert run.returncode == 0, run.stderr
    assert not calls(clone) and (by_hand / "pip").exists()
    assert "-m pip install -q -c constraints.txt -e .[dev]" in calls(by_hand) and "ensurepip" not in calls(by_hand)


def test_an_environment_without_pip_gets_it_first(clone, by_hand):
    """As `uv venv` makes it."""
    (by_hand / "pip").unlink()
    run = make(clone)
    assert run.returncode == 0, run.stderr
    assert calls(by_hand).index("-m ensurepip") < calls(by_hand).index("-m pip install")


def test_requirements_that_are_newer_are_installed_into_the_same_environment(clone, by_hand):
    make(clone)
    assert "up to date" in make(clone).stdout
    (by_hand / "calls").unlink()
    os.utime(clone / "setup.cfg", (2e9, 2e9))  # in 2033
    run = make(clone)
    assert run.returncode == 0, run.stderr
    assert not calls(clone) and "-m pip install" in calls(by_hand)
    assert not list(clone.glob("mmjepa"))  # the link to the clone is replaced, and not followed


@pytest.mark.parametrize("fault", ["old", "none"])
def test_an_environment_without_a_python_that_is_new_enough_is_refused_and_left_as_it_is(clone, by_hand, fault):
    (by_hand / "old").touch()
    if fault == "none":
        (by_hand / "python").unlink()
    run = make(clone)
    assert run.returncode == 2 and "move it away, then call make PYTHON=" in run.stderr
    assert not calls(clone) and "install" not in calls(by_hand) and (by_hand / "pip").exists()
