"""`--overfit`: a sound training learns a few rows by heart, a faulty one is told what is wrong."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import FAST, FROM_RANDOM

from mmjepa import run_pathvqa
from mmjepa.training.overfitting import overfit

SOUND = ["--lr_img", "1e-3", "--learning_rate", "1e-3"]


@pytest.fixture
def run(tmp_path, slides, monkeypatch):
    """A function that runs the script with --overfit 10, by default on drawn slides, however long that takes."""
    monkeypatch.setattr("mmjepa.training.overfitting.SECONDS", math.inf)

    def run(*flags, data=slides) -> dict[str, float]:
        folder = str(tmp_path / "run")
        return run_pathvqa.main(
            [*FROM_RANDOM, *FAST, "--output_dir", folder, "--dataset_name", str(data), "--overfit", "10", *flags]
        )

    return run


def write_data(folder, rows, num_images=2):
    for number in range(num_images):
        pixels = np.random.default_rng(number).integers(0, 255, (28, 28, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    pd.DataFrame(rows, columns=["image", "question", "answer"]).to_csv(folder / "train.csv", index=False)
    return folder


def test_ten_rows_are_learnt_by_heart_and_nothing_is_saved(run, tmp_path, capsys):
    result = run(*SOUND)
    assert result["overfit_accuracy"] == 1
    assert "10 of 10 rows are answered rightly" in capsys.readouterr().out
    assert not [path for path in tmp_path.joinpath("run").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (["--learning_rate", "1e-9", "--lr_img", "1e-9"], "learning rate is too small"),
        (["--learning_rate", "30", "--lr_img", "30"], "learning rate is too large"),
        (["--lambda_ce", "0", "--lambda_answer", "0"], "decoder gets no gradient"),
    ],
)
def test_flags_that_keep_a_model_from_learning_are_named(run, capsys, flags, cause):
    assert run(*flags, "--max_steps", "20")["overfit_accuracy"] < 1
    assert cause in capsys.readouterr().out


FAULTS = {
    "no question": ([("0.png", "", "yes"), ("1.png", "", "no")], "all labels are masked"),
    "a missing image": ([("0.png", "is it?", "yes"), ("lost.png", "is it?", "no")], "1 of 2 images can't be read"),
    "two answers": ([("0.png", "is it?", "yes"), ("0.png", "is it?", "no")], "1 rows ask what another one asks"),
    "none": ([("0.png", "is it?", "yes"), ("1.png", "is it?", "no")], "it takes more steps"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_rows_that_cannot_be_learnt_are_named(run, capsys, tmp_path, case):
    rows, cause = FAULTS[case]
    run("--max_steps", "2", "--max_unreadable_images", "0.5", data=write_data(tmp_path, rows))
    assert cause in capsys.readouterr().out


def test_a_training_that_is_all_alignment_warm_up_is_named(make_trainer, monkeypatch, capsys):
    monkeypatch.setattr("mmjepa.training.overfitting.SECONDS", 0)
    trainer = make_trainer(max_steps=10, align_warmup_epochs=5)
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": 0.0}
    assert overfit(trainer) == {"overfit_accuracy": 0, "overfit_steps": 1}
    assert "the whole time was alignment warm-up" in capsys.readouterr().out


def test_what_overfitting_cannot_do_is_refused(run):
    with pytest.raises(ValueError, match="--overfit trains on a few rows from the start"):
        run("--do_train", "false")
