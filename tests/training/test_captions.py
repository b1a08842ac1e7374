"""Rows without a question: they teach the alignment alone."""

import csv
import json

import pytest
import torch
from small_trainings import logged
from tiny import DESCRIBED, FAST, FROM_RANDOM

from mmjepa import run_pathvqa
from mmjepa.data.images import VqaData


@pytest.fixture
def captions(data) -> VqaData:
    """24 captions of 6 images, without questions and answers."""
    empty = [""] * len(data.questions)
    rows = data.questions.select_columns(["image_id"]).add_column("question", empty).add_column("answer", empty)
    return VqaData(rows.add_column("caption", data.questions["answer"]), data.pixels)


@pytest.mark.parametrize("num_items_in_batch", [None, 0, torch.tensor(0)])
@pytest.mark.parametrize("alignment", ["cosine", "infonce"])
def test_the_loss_of_rows_without_answers_is_that_of_the_alignment(make_model, batch, alignment, num_items_in_batch):
    model = make_model(alignment_loss=alignment, lambda_answer=0.25)
    batch["labels"][:] = -100
    outputs = model(**batch, num_items_in_batch=num_items_in_batch)
    assert outputs.loss_ce == outputs.loss_answer == 0
    assert outputs.loss == model.config.lambda_align * outputs.loss_align > 0
    outputs.loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_steps_of_captions_alone_are_trained_on(make_trainer, captions):
    # One caption for all: a contrast of equal texts has nothing to learn.
    trainer = make_trainer(config=DESCRIBED | {"lambda_answer": 0.25}, lr_img=1e-2)
    trainer.train_dataset = captions
    before = trainer.model.encoder.image_projector.weight.clone()
    trainer.train()
    assert list(logged(trainer, "train_align")) == list(range(1, 13)) and not logged(trainer, "train_ce")
    assert (trainer.model.encoder.image_projector.weight - before).abs().max() > 1e-3


@pytest.mark.parametrize("patience", [None, 5])
def test_without_questions_the_checkpoint_with_the_lowest_loss_is_the_best(make_trainer, captions, caplog, patience):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3, "lr_img": 1e-2}
    trainer = make_trainer(
        **settings,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        early_stopping_patience=patience,
        save_total_limit=None,
    )
    trainer.train_dataset = trainer.eval_dataset = captions
    trainer.compute_answer_metrics = lambda model, data: {}
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert trainer.state.best_global_step == min(losses, key=losses.get)
    assert "there is no accuracy: the checkpoint with the lowest loss is the best one" in caplog.text


def test_evaluations_that_predict_the_loss_only_answer_nothing(make_trainer):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = make_trainer(**settings, metric_for_best_model="accuracy", prediction_loss_only=True)
    trainer.compute_answer_metrics = lambda model, data: pytest.fail("a question was answered")
    trainer.train()
    assert trainer.state.best_metric == min(logged(trainer, "eval_loss").values())


def test_a_data_set_of_captions_alone_goes_through_the_whole_script(image_file, tmp_path):
    """Targets are centred on the captions' mean; there are no answers to centre on, to choose by or to show."""
    lines = [["image", "question", "answer", "caption"], *([image_file, "", "", f"kind {row}"] for row in range(6))]
    for split in ("train", "validation", "test"):
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(lines)
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", str(tmp_path), "--allow_outside_images", "--do_predict"]
    flags += ["--max_epochs", "1", "--batch_size", "2", "--output_dir", str(tmp_path / "run")]
    flags += ["--lambda_answer", "0.25", "--alignment_loss", "cosine", "--alignment_target", "centered"]
    results = run_pathvqa.main(flags)
    assert results["eval_align"] > 0 and results["test_align"] > 0 and "eval_accuracy" not in results
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_metric"] == results["eval_loss"]
