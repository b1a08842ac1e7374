"""What is seen in a terminal and in a file: of progress bars, and of tables."""

import io
import json
import shutil
import sys
from itertools import count
from pathlib import Path

import pytest
from datasets import Dataset
from terminal import run_in_terminal, screen
from tqdm.auto import tqdm

from mmjepa.bars import calm_arguments, calm_bars

COMMAND = str(Path(sys.executable).with_name("mmjepa"))


class Terminal(io.StringIO):
    """Keeps what is written to a terminal."""

    def isatty(self):
        return True

    def screen(self):
        return screen(self.getvalue())


@pytest.fixture
def open_terminal(monkeypatch):
    """A function that puts a terminal in the place of stderr. pytest would put its own there after a fixture."""

    def put():
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    return put


def test_bars_of_this_project_and_its_libraries_leave_nothing_behind(open_terminal, monkeypatch):
    # A test before may have switched the bars of `datasets` off.
    monkeypatch.setattr(sys.modules["datasets.utils.tqdm"], "_hf_datasets_progress_bars_disabled", False)
    terminal = open_terminal()
    with calm_bars():
        Dataset.from_dict({"x": list(range(5))}).map(
            lambda row: row, desc="Preparing images", load_from_cache_file=False
        )
        for _ in tqdm(range(3), desc="Scoring", leave=True):
            pass
    drawn = terminal.getvalue()
    assert "Preparing images" in drawn and "Scoring" in drawn
    assert terminal.screen() == [""]


def test_a_bar_inside_another_takes_its_line(open_terminal):
    terminal = open_terminal()
    with calm_bars():
        outer = tqdm(total=2, desc="steps", mininterval=0)
        with tqdm(total=2, desc="losses", mininterval=0) as inner:
            inner.update()
            assert [line[:6] for line in terminal.screen()] == ["losses"]
        outer.update()
        assert [line[:5] for line in terminal.screen()] == ["steps"]
        outer.close()
    assert terminal.screen() == [""]


def test_the_library_s_own_names_of_its_work_are_said_plainly(open_terminal):
    terminal = open_terminal()
    with calm_bars():
        tqdm(total=3, desc="Generating train split").close()
    assert "Reading train" in terminal.getvalue() and "Generating" not in terminal.getvalue()


def test_a_file_gets_a_line_each_30_seconds_and_no_bar():
    written, seconds = io.StringIO(), count(step=10)  # each look at the clock is 10 seconds later
    bar = tqdm(
        **calm_arguments({"desc": "Preparing images", "unit": " images"}, written),
        total=3000,
        mininterval=0,
    )
    bar.fp.last, bar.fp.clock = next(seconds), lambda: next(seconds)
    for _ in range(6):
        bar.update(100)
    bar.close()
    said = [line.partition(",")[0] for line in written.getvalue().splitlines()]
    assert said == ["Preparing images: 300 of 3000 images", "Preparing images: 600 of 3000 images"]


def test_where_stderr_is_no_terminal_a_short_bar_prints_nothing(capsys):
    with calm_bars():
        for _ in tqdm(range(3), disable=None, mininterval=0):
            pass
    assert capsys.readouterr().err == ""


def test_bars_are_as_before_afterwards(capsys):
    with calm_bars():
        pass
    tqdm(total=1, desc="steps").close()
    assert "steps: " in capsys.readouterr().err


@pytest.mark.parametrize("columns", [60, 100])
def test_check_leaves_no_bar_in_a_terminal_and_its_lines_fit(slides, tmp_path, columns):
    shutil.copytree(slides, tmp_path / "slides")  # read and decoded for the first time
    seen, written, code = run_in_terminal([COMMAND, "check", str(tmp_path / "slides")], columns)
    assert code == 0 and "Training can start." in seen
    assert "%|" in written and "Generating" not in written and not any("%|" in line for line in seen)
    assert max(map(len, seen)) <= columns


@pytest.mark.slow
def test_tables_of_a_search_and_of_scores_fit_the_terminal(saved_folder, slides, tmp_path):
    answers = tmp_path / "answers.jsonl"
    row = {"question": "is it round?", "answer": "yes", "prediction": "yes", "image": "a.png"}
    answers.write_text("".join(json.dumps(row | {"image": f"{name}.png"}) + "\n" for name in "abc"))
    long = tmp_path / ("a long name of a folder, " * 4) / "images"
    shutil.copytree(slides, long)
    for words in (
        ["score", answers, answers, "--dataset_name", slides],
        ["search", long, "is it round?", "is it pink?", "--model", saved_folder],
    ):
        seen, _, code = run_in_terminal([COMMAND, *map(str, words)], 80)
        rows = [line for line in seen if line.startswith("|") or line[:4].strip().isdigit()]
        assert code == 0 and rows and max(map(len, rows)) <= 80, seen
