"""One training on several data sets."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tiny import FAST, FROM_RANDOM

from mmjepa import run_pathvqa
from mmjepa.configuration_mmjepa import MMJepaConfig


def write_set(folder, splits: dict[str, range]) -> str:
    """A folder of tables; each split has two questions about the image of each number."""
    folder.mkdir()
    for split, numbers in splits.items():
        rows = []
        for number in numbers:
            noise = np.random.default_rng(number).integers(0, 256, (30, 30, 3), np.uint8)
            PIL.Image.fromarray(noise).save(folder / f"{number}.png")
            answers = {"is it seen?": ("yes", "no")[number % 2], f"what is in {folder.name}?": f"cell {number % 3}"}
            rows += [{"image": f"{number}.png", "question": q, "answer": answer} for q, answer in answers.items()]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def sets(tmp_path) -> list[str]:
    """One set with a validation split, and one without, which trains on an image of that split."""
    return [
        write_set(tmp_path / "cells", {"train": range(12), "validation": range(12, 18)}),
        write_set(tmp_path / "slides", {"train": range(17, 40)}),
    ]


def test_sets_are_trained_on_together_and_evaluated_together_and_apart(sets, tmp_path, caplog):
    flags = [*FAST, *FROM_RANDOM, "--num_train_epochs", "1", "--report_to", "none", "--dataset_weights", "2", "0.5"]
    folder = tmp_path / "run"
    results = run_pathvqa.main([*flags, "--dataset_name", *sets, "--output_dir", str(folder)])
    assert "There is no validation split of slides: " in caplog.text
    assert "1 of the " in caplog.text and "are trained on in another data set" in caplog.text

    rows = [json.loads(line) for line in (folder / "eval_answers.jsonl").read_text().splitlines()]
    of_set = {name: [row for row in rows if row["dataset"] == name] for name in ("cells", "slides")}
    assert len(of_set["cells"]) == 12 and 2 <= len(of_set["slides"]) < 46
    for name, own in of_set.items():
        right = [row["prediction"] == row["answer"] for row in own]
        assert results[f"eval_accuracy_of_{name}"] == pytest.approx(np.mean(right))
        assert results[f"eval_num_questions_of_{name}"] == len(own)
        # Each set has floors of its own: "what is in cells?" is never asked in slides.
        assert f"eval_accuracy_majority_question_of_{name}" in results
    assert len({row["image_id"] for row in rows}) == len({row["image_file"] for row in rows if row["image_file"]})
    page = (folder / "report.html").read_text()
    assert "By data set" in page and '<th scope="row">slides</th>' in page
    assert "on cells and slides." in (folder / "README.md").read_text()
    steps = json.loads((folder / "trainer_state.json").read_text())["max_steps"]
    train_slides = 46 - len(of_set["slides"])
    assert steps == -(-(2 * 24 + round(train_slides / 2)) // 16)
    assert MMJepaConfig.from_pretrained(folder).held_out[0]["percentage"] == 10


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset_weights", "1"], "--dataset_weights has 1 numbers, and 2 data sets have training rows"),
        (["--dataset_weights", "1", "0"], "--dataset_weights has 0.0: give numbers above 0"),
        (["--streaming", "--max_steps", "2"], "--streaming reads one data set: --dataset_name has 2"),
    ],
)
def test_flags_that_do_not_fit_several_sets_are_refused(sets, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_pathvqa.main([*FAST, *FROM_RANDOM, "--dataset_name", *sets, *flags, "--output_dir", str(tmp_path / "run")])


def test_weights_are_refused_beside_a_stream(sets, tmp_path):
    flags = [*FAST, *FROM_RANDOM, "--dataset_name", sets[0], "--streaming", "--max_steps", "2"]
    with pytest.raises(ValueError, match="--dataset_weights needs all rows beforehand"):
        run_pathvqa.main([*flags, "--dataset_weights", "0.5", "--output_dir", str(tmp_path / "run")])


def test_lists_of_answers_of_a_set_without_validation_do_not_spoil_the_other_sets(sets, tmp_path):
    file = Path(sets[1], "train.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"answer": [row["answer"], "stroma"]}) + "\n" for row in rows))
    flags = [*FAST, *FROM_RANDOM, "--num_train_epochs", "1", "--report_to", "none", "--dataset_name", *sets]
    run_pathvqa.main([*flags, "--output_dir", str(tmp_path / "run")])
    answers = [json.loads(line) for line in (tmp_path / "run" / "eval_answers.jsonl").read_text().splitlines()]
    for row in answers:
        assert row["answers"] == ([row["answer"]] if row["dataset"] == "cells" else [row["answer"], "stroma"])


def test_a_set_that_is_given_twice_or_does_not_exist_is_refused(sets, tmp_path):
    flags = [*FAST, *FROM_RANDOM, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="cells' twice: give it once"):
        run_pathvqa.main([*flags, "--dataset_name", sets[0], sets[0]])
    with pytest.raises(ValueError, match="there is no such folder"):
        run_pathvqa.main([*flags, "--dataset_name", sets[0], str(tmp_path / "nothing")])
