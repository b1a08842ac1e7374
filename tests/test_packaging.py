"""What the files import is what setup.cfg declares, and both files of constraints pin it."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = [ROOT.joinpath(*name.split(".")[1:]) for name in SETUP["options"]["packages"].split()]
TESTS = ROOT / "tests"
FILES = [path for folder in (*PACKAGES, ROOT / "benchmarks") for path in sorted(folder.glob("*.py"))]
FILES += sorted(TESTS.rglob("*.py"))
# Where it is not installed, nothing tells that the module has another name.
DISTRIBUTIONS = {"openslide": ["openslide-python"]} | packages_distributions()


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, dict[str, str]]:
    """The lower bounds of the distributions that setup.cfg declares, by extra; "" is what is always installed."""
    lists = {"": SETUP["options"]["install_requires"], **SETUP["options.extras_require"]}
    return {
        extra: {normal(name): bound for name, bound in re.findall(r"^([\w.-]+)>=([\d.]+)", lines, re.MULTILINE)}
        for extra, lines in lists.items()
    }


def pinned(file: str) -> dict[str, str]:
    pins = re.findall(r"^([\w.-]+)==(.+)$", (ROOT / file).read_text(), re.MULTILINE)
    return {normal(name): version for name, version in pins}


# A part of a file's name -> the extra whose packages the file may import.
EXTRA_OF = {"onnx": "onnx", "slide": "slides", "adapters": "lora"}


def imported(path: Path) -> set[str]:
    """The distributions that a file imports anywhere, apart from Python's own and the files of this project."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.partition(".")[0])
    own = {"mmjepa", *(file.stem for file in FILES)}
    return {normal(DISTRIBUTIONS.get(module, [module])[0]) for module in modules - sys.stdlib_module_names - own}


def test_what_the_code_reads_beside_it_is_installed_with_it():
    beside = {path for folder in PACKAGES for path in folder.glob("*.*") if folder != ROOT}
    installed = {
        path
        for package, pattern in SETUP["options.package_data"].items()
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    assert installed and {path for path in beside if path.suffix not in (".py", ".md", ".yaml")} == installed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_that_a_file_imports_is_declared(path):
    needs_tests = TESTS in path.parents or path.parent.name == "benchmarks"
    is_of_page = path.stem == "app" or path.parent.name == "page"
    of_package = next((extra for part, extra in EXTRA_OF.items() if part in path.stem), "app" if is_of_page else "")
    extra = "test" if needs_tests else of_package
    allowed = declared()[""] | declared()[extra]
    assert imported(path) <= allowed.keys()


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import os.path, yaml\nfrom . import sibling\ndef late():\n    from PIL.Image import open\n")
    assert imported(path) == {"pyyaml", "pillow"}


def test_the_versions_that_the_tests_are_run_with_are_pinned():
    assert {name for bounds in declared().values() for name in bounds} <= pinned("constraints.txt").keys()


def test_the_oldest_versions_are_pinned_at_the_lower_bounds():
    oldest = pinned("constraints-oldest.txt")
    for name, bound in declared()[""].items():
        assert f"{oldest[name]}.".startswith(f"{bound}."), name
