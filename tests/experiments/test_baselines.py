"""The baselines: they train on the same data, and are scored as this project's model."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import FAST, TEXT, VISION

from mmjepa.data.rows import load_rows
from mmjepa.evaluation.scoring import read_predictions, score_table
from mmjepa.experiments.baseline_models import BASELINES
from mmjepa.experiments.baselines import main

# BLIP's towers are equally wide. No dropout, so that few steps are enough.
TOWERS = {
    "vision_config": VISION | {"hidden_size": TEXT["d_model"], "initializer_range": 0.1},
    "text_config": TEXT | {"dropout": 0.0, "init_std": 0.1},
}


@pytest.fixture(scope="module")
def train_baseline(saved_folder, tmp_path_factory):
    """A function that trains a tiny baseline -> its numbers and its folder."""

    def train(baseline: str, data: str, *flags: str) -> tuple[dict[str, float], Path]:
        folder = tmp_path_factory.mktemp(baseline)
        config = folder / "flags.json"
        config.write_text(json.dumps(TOWERS | {"max_answer_tokens": 8}))
        model = ["--model", saved_folder] if baseline == "linear_probe" else []
        asked = ["--baseline", baseline, *model, "--dataset_name", data, "--output_dir", str(folder)]
        return main([str(config), *asked, *FAST, *flags]), folder

    return train


@pytest.fixture(scope="module", params=BASELINES)
def trained(request, train_baseline, slides):
    """A baseline after three steps with all augmentations: its name, numbers and folder."""
    flags = ["--max_steps", "3", "--batch_size", "16", "--augmentations", "crop", "flip", "stain"]
    return request.param, *train_baseline(request.param, slides, *flags)


def test_a_baseline_writes_its_numbers_and_its_answers(trained, slides):
    _, numbers, folder = trained
    assert json.loads((folder / "all_results.json").read_text()).items() >= numbers.items()
    rows = [json.loads(line) for line in (folder / "eval_answers.jsonl").read_text().splitlines()]
    validation = load_rows(slides)["validation"]
    assert [row["question"] for row in rows] == validation["question"][:]
    assert {"answer", "prediction", "image_id"} <= rows[0].keys()


def test_its_scores_are_those_of_its_answers_in_a_file(trained):
    _, numbers, folder = trained
    scores = score_table(read_predictions(folder / "eval_answers.jsonl"))["accuracy"]
    names = {"all": "accuracy", "yes_no": "yes_no_accuracy", "open": "open_accuracy"}
    assert {name: scores[group][0] for group, name in names.items()} == pytest.approx(
        {name: numbers[f"eval_{name}"] for name in names.values()}
    )


def test_only_a_model_that_never_reads_the_image_gains_exactly_nothing_from_it(trained):
    baseline, numbers, folder = trained
    rows = [json.loads(line) for line in (folder / "eval_answers.jsonl").read_text().splitlines()]
    if baseline == "question_only":
        assert all({row["prediction"], row["blank"]} == set(row["all_shuffled"]) for row in rows)
        assert numbers["eval_image_gain"] == 0
    else:
        assert any(row["prediction"] != row["blank"] for row in rows)


@pytest.mark.parametrize("baseline", ["blip", "vision_encoder_decoder"])
def test_a_baseline_that_reads_images_writes_what_it_has_learnt_by_heart(baseline, train_baseline, slides, tmp_path):
    shutil.copytree(slides, tmp_path / "data")
    rows = (tmp_path / "data" / "train.csv").read_text().splitlines(keepends=True)
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.csv").write_text("".join(rows[: 1 + 14]))  # of two images
    flags = ["--num_train_epochs", "90", "--batch_size", "14", "--learning_rate", "1e-3"]
    numbers, _ = train_baseline(baseline, str(tmp_path / "data"), *flags)
    assert numbers["eval_accuracy"] == 1


def test_the_probe_trains_one_layer_alone(train_baseline, slides):
    numbers, _ = train_baseline("linear_probe", slides, "--max_steps", "1")
    answers = len(set(load_rows(slides)["train"]["answer"]))
    assert numbers["trained_parameters"] == (TEXT["d_model"] + TEXT["vocab_size"] + 1) * answers


@pytest.mark.parametrize("flags", [["--baseline", "linear_probe"], ["--baseline", "blip", "--model", "folder"]])
def test_a_saved_model_is_named_for_the_probe_alone(flags, capsys):
    with pytest.raises(SystemExit):
        main(["flags.json", *flags])
    assert "give both or neither" in capsys.readouterr().err
