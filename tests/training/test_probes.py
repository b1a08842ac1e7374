"""Probes of a run: fitted to the images that it trained on, and to the same ones when it is evaluated again."""

import numpy as np
import PIL.Image
import pytest
from tiny import FAST, FROM_RANDOM

from mmjepa import run_pathvqa


@pytest.fixture
def data_set(tmp_path) -> str:
    """A folder of light and dark images: 40 to train on and 10 to validate."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, numbers in (("train", range(40)), ("validation", range(40, 50))):
        lines = ["image,question,answer"]
        for number in numbers:
            noise = np.random.default_rng(number).integers(0, 60, (28, 28, 3), np.uint8)
            PIL.Image.fromarray(noise + np.uint8(190 * (number % 2))).save(folder / f"{number}.png")
            lines.append(f"{number}.png,is it light?,{('no', 'yes')[number % 2]}")
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return str(folder)


def test_a_run_and_a_later_evaluation_of_its_model_fit_the_same_probes(data_set, tmp_path, prepared, caplog):
    flags = [*FAST, "--dataset_name", data_set, "--report_to", "none"]
    trained = ["--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    first = run_pathvqa.main([*flags, *FROM_RANDOM, *trained])
    assert first["eval_probe_questions"] == 1 and first["eval_probe_rows"] == 10
    assert first["eval_probe_linear_accuracy"] == 1 and first["eval_probe_accuracy_majority"] == 0.5
    again = [*flags, "--model_name_or_path", str(tmp_path / "run"), "--do_train", "false"]
    later = run_pathvqa.main([*again, "--output_dir", str(tmp_path / "again")])
    of_probes = {name: value for name, value in first.items() if "probe" in name}
    assert {name: later[name] for name in of_probes} == pytest.approx(of_probes)
    assert prepared == [40, 10, 10, 40]
    assert "linear probe" in (tmp_path / "again" / "report.html").read_text()

    # Their images may be missing where a model is evaluated, and train itself is no test of what was fitted to it.
    for number in range(40):
        (tmp_path / "data" / f"{number}.png").unlink()
    without = run_pathvqa.main([*again, "--output_dir", str(tmp_path / "without")])
    assert without["eval_accuracy"] == later["eval_accuracy"] and "eval_probe_rows" not in without
    assert "40 training images can't be read: there are no probes" in caplog.text


def test_train_itself_is_evaluated_without_probes(data_set, tmp_path):
    flags = [*FAST, *FROM_RANDOM, "--dataset_name", data_set, "--report_to", "none", "--num_train_epochs", "1"]
    predicted = ["--do_eval", "false", "--do_predict", "--predict_split", "train"]
    results = run_pathvqa.main([*flags, *predicted, "--output_dir", str(tmp_path / "run")])
    assert "predict_accuracy" in results and not any("probe" in name for name in results)
