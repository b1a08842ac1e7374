"""The tutorial: the notebook and the script are those of docs/write_tutorial.py, and the notebook runs."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def test_notebook_and_script_have_the_steps_of_the_file_that_writes_them():
    written = runpy.run_path(str(ROOT / "docs" / "write_tutorial.py"))
    assert json.loads(NOTEBOOK.read_text()) == written["notebook"]()
    assert (ROOT / "docs" / "tutorial.sh").read_text() == written["script"]()


def test_the_kept_notebook_has_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_and_its_model_reads_the_image(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "docs").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "docs")
    # The shell of a cell starts programs of this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(tmp_path / "docs" / NOTEBOOK.name, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path / "docs")}}).execute()
    results = json.loads((tmp_path / "runs" / "tutorial" / "all_results.json").read_text())
    assert results["eval_image_gain_low"] > 0.1
    assert (tmp_path / "runs" / "tutorial" / "report.html").exists()
    shown = [
        "".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells if "outputs" in cell
    ]
    assert "gland" in shown[4] and "%" in shown[5] and "necrosis" in shown[6]
