"""What stands around the code: version, workflows, forms, and the image for containers."""

import configparser
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
VERSION = SETUP["metadata"]["version"]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_file_that_states_the_version_states_that_of_setup_cfg():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == newest[1] == VERSION
    assert citation["license"] == SETUP["metadata"]["license"]


def steps(path: Path) -> list[dict]:
    """The steps of all jobs of a workflow."""
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_only_what_the_repository_has(path):
    content = yaml.safe_load(path.read_text())
    assert content[True], "the key `on` is YAML's true"
    assert all(job["timeout-minutes"] <= 120 for job in content["jobs"].values())
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        if step.get("uses", "").startswith("./"):
            assert (ROOT / step["uses"] / "action.yml").exists()
        for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
            assert target in TARGETS or target == "${{"


def test_a_release_publishes_what_its_build_checked():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert release[True] == {"push": {"tags": ["v*"]}}
    commands = [step["run"] for step in build["steps"] if "run" in step]
    assert commands.index("python -m build") < commands.index("python -m twine check --strict dist/*")
    uploaded = next(step["with"] for step in build["steps"] if "upload-artifact" in step.get("uses", ""))
    fetched = next(step["with"] for step in publish["steps"] if "download-artifact" in step.get("uses", ""))
    assert publish["needs"] == "build"
    assert (uploaded["name"], uploaded["path"]) == (fetched["name"], fetched["path"])
    # Trusted publishing: this right and no password.
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_the_site_demands(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    identities = [item["id"] for item in form["body"]]
    assert len(set(identities)) == len(identities)
    assert all(item["type"] in ("input", "textarea", "dropdown", "checkboxes") for item in form["body"])
    assert all(item["attributes"]["label"] for item in form["body"])


def test_pre_commit_runs_a_target_of_make():
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    assert [hook["entry"] for hook in hooks] == ["make quality"] and "quality" in TARGETS


def instructions() -> dict[str, list[str]]:
    """The lines of the Dockerfile by instruction."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    found: dict[str, list[str]] = {}
    for instruction, _, rest in (line.partition(" ") for line in lines):
        found.setdefault(instruction, []).append(rest)
    return found


def test_the_container_serves_the_page_as_another_user_than_root(monkeypatch):
    from typer.testing import CliRunner

    from mmjepa.cli import app

    found = instructions()
    assert found["USER"][-1] != "root"
    program, *arguments = yaml.safe_load(found["CMD"][-1])  # JSON is YAML
    assert program == "mmjepa"
    help_text = CliRunner().invoke(app, [arguments[0], "--help"], env={"COLUMNS": "200"}).output
    assert all(option in help_text for option in arguments if option.startswith("--"))
    assert found["EXPOSE"] == [arguments[arguments.index("--port") + 1]]


def test_what_the_container_installs_is_declared():
    install = next(shlex.split(line) for line in instructions()["RUN"] if "constraints.txt" in line)
    extras = re.search(r"\[(\w+)\]", install[-1])
    assert (ROOT / install[install.index("-c") + 1]).exists() and extras[1] in SETUP["options.extras_require"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"constraints.txt", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} & set(ignored)


def test_the_pages_and_the_reference_build_without_a_warning(tmp_path):
    """As `make docs` does it, in a copy: links, headings and docstrings."""
    copies = re.findall(r"\tcp -r (.*) (build/.*)/\n", (ROOT / "Makefile").read_text())
    assert [folder for _, folder in copies] == ["build/code/mmjepa", "build/docs"]
    for patterns, folder in copies:
        (tmp_path / folder).mkdir(parents=True)
        for path in (path for pattern in patterns.split() for path in ROOT.glob(pattern)):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / folder / path.name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "build" / "site" / "docs" / "reference" / "index.html").read_text()
    # Every docstring that the page names was found.
    names = re.findall(r"^::: mmjepa\.(?:\w+\.)*(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    assert names and all(f'.{name}"' in reference for name in names)


def test_the_drawn_diagrams_are_those_of_their_script():
    script = runpy.run_path(str(ROOT / "docs" / "draw_diagram.py"))
    assert len(script["BOXES"]) <= 12
    for name, colours in (("diagram.svg", "LIGHT"), ("diagram_dark.svg", "DARK")):
        assert (ROOT / "docs" / name).read_text() == script["diagram"](script[colours])
