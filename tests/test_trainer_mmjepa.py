"""The Trainer: the update it makes, when the warm-up ends, and that a resumed run is the run that was not stopped."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage

from mmjepa.data_pathvqa import VqaCollator, prepare
from mmjepa.trainer_mmjepa import MMJepaTrainer, MMJepaTrainingArguments


@pytest.fixture(scope="module")
def data(image_processor):
    """24 questions about 6 images."""
    random = np.random.default_rng(0)
    images = [PILImage.fromarray(random.integers(0, 255, (28, 28, 3), np.uint8)) for _ in range(6)]
    words = ["is", "what", "seen", "present", "tumour", "yes", "no", "liver"]
    rows = {
        "image": [images[row % 6] for row in range(24)],
        "question": [" ".join(random.choice(words, 3 + row % 4)) + "?" for row in range(24)],
        "answer": [" ".join(random.choice(words, 1 + row % 3)) for row in range(24)],
    }
    rows = Dataset.from_dict(rows).cast_column("image", Image()).cast_column("image", Image(decode=False))
    return prepare(rows, image_processor)


@pytest.fixture
def make_trainer(make_model, data, processor, tmp_path):
    """A function that makes a trainer of a model that is the same each time, with training arguments of one's own."""

    def make(text_dropout: float = 0.0, **arguments) -> MMJepaTrainer:
        torch.manual_seed(1)
        model = make_model()
        for module in model.decoder.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = text_dropout
        arguments = {
            "output_dir": str(tmp_path / "checkpoints"),
            "log_dir": str(tmp_path / "logs"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "align_warmup_epochs": 0,
            "warmup_steps": 0,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "metric_for_best_model": None,
            "dataloader_num_workers": 0,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **arguments,
        }
        return MMJepaTrainer(
            model=model,
            args=MMJepaTrainingArguments(**arguments),
            train_dataset=data,
            eval_dataset=data,
            data_collator=VqaCollator(processor),
            processing_class=processor,
        )

    return make


def logged(trainer, name):
    """The logged values of `name` by step."""
    return {line["step"]: line[name] for line in trainer.state.log_history if name in line}


def test_four_accumulated_batches_of_four_equal_one_of_sixteen(make_trainer):
    weights, losses = [], []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        trainer = make_trainer(
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            questions_per_image=1,
            max_steps=1,
            optim="sgd",
            lr_img=0.5,
            learning_rate=0.5,
        )
        trainer.train()
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
        losses.append([logged(trainer, name)[1] for name in ("loss", "train_align", "train_ce")])
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_warmup_trains_the_alignment_alone_and_ends_at_its_epoch(make_trainer):
    trainer = make_trainer(align_warmup_epochs=1)  # an epoch is 6 steps
    before = {name: weight.detach().clone() for name, weight in trainer.model.decoder.named_parameters()}
    trainer.train()
    assert sorted(logged(trainer, "train_align")) == list(range(1, 13))
    assert sorted(logged(trainer, "train_ce")) == list(range(7, 13))

    trainer = make_trainer(align_warmup_epochs=1, num_train_epochs=1)
    trainer.train()
    for name, weight in trainer.model.decoder.named_parameters():
        assert torch.equal(weight, before[name]), name
    projector = trainer.model.encoder.image_projector.weight
    assert not torch.equal(projector, make_trainer().model.encoder.image_projector.weight)


@pytest.mark.parametrize("stop_at", [2, 8])
def test_resumed_run_repeats_the_uninterrupted_ones_losses(make_trainer, tmp_path, stop_at):
    """Stopped in the middle of the warm-up (step 2) and of the second epoch (step 8), dropout on."""
    settings = {"align_warmup_epochs": 1, "text_dropout": 0.1, "save_strategy": "steps", "save_steps": stop_at}
    settings |= {"save_total_limit": None, "augmentations": ["crop", "flip", "stain"]}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / f"checkpoint-{stop_at}"))
    for name in ("loss", "train_align", "train_ce"):
        expected = {step: value for step, value in logged(whole, name).items()}
        assert logged(resumed, name) == pytest.approx(expected), name
    assert sorted(logged(resumed, "train_ce")) == list(range(7, 13))


def test_best_checkpoint_is_loaded_whole_at_the_end(make_trainer, tmp_path):
    """Weights saved under other names than the model's would be left out of the load, with a warning alone."""
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = make_trainer(**settings, metric_for_best_model="accuracy", lr_img=0.01)
    accuracies = iter([0.9, 0.1])
    trainer.compute_answer_metrics = lambda model: {"accuracy": next(accuracies)}
    trainer.train()
    best = type(trainer.model).from_pretrained(tmp_path / "checkpoints" / "checkpoint-6")
    for name, value in best.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


def test_two_learning_rates_reach_every_trained_parameter_once(make_trainer):
    trainer = make_trainer(lr_img=1e-3, learning_rate=2e-4, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in rates
            rates[id(parameter)] = group["lr"]
            if group["weight_decay"] > 0:
                assert "norm" not in names[id(parameter)] and "bias" not in names[id(parameter)]
    trained = {id(parameter) for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert set(rates) == trained
    for parameter, rate in rates.items():
        assert rate == (2e-4 if names[parameter].startswith(("decoder.", "lm_head.")) else 1e-3), names[parameter]


def test_evaluation_gives_the_losses_of_one_large_batch(make_trainer, data, processor):
    trainer = make_trainer(per_device_eval_batch_size=5)
    trainer.compute_answer_metrics = lambda model: {"accuracy": 0.25}
    metrics = trainer.evaluate()
    batch = trainer._prepare_inputs(VqaCollator(processor)(data.__getitems__(range(24))))
    with torch.no_grad():
        expected = trainer.model.eval()(**batch)
    assert metrics["eval_align"] == pytest.approx(expected.loss_align.item(), rel=1e-5)
    assert metrics["eval_ce"] == pytest.approx(expected.loss_ce.item(), rel=1e-5)
    assert metrics["eval_accuracy"] == 0.25


def test_tensorboard_shows_losses_rates_and_speed_by_their_own_names(make_trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(report_to="tensorboard", eval_strategy="epoch")
    trainer.train()
    events = EventAccumulator(str(tmp_path / "logs" / "mmjepa_joint"))
    events.Reload()
    expected = {"train_align", "train_ce", "val_align", "val_ce", "lr_img", "lr_dec", "samples_per_second"}
    assert expected <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("val_ce")] == [6, 12]
    values = [event.value for event in events.Scalars("train_ce")]
    assert values == pytest.approx(list(logged(trainer, "train_ce").values()))


def test_teacher_is_bitwise_unchanged_by_a_training_run(make_trainer):
    trainer = make_trainer(lr_img=0.1, learning_rate=0.1, weight_decay=0.1)
    before = {name: value.clone() for name, value in trainer.model.encoder.teacher.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.encoder.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_alignment_text_that_is_not_the_question_is_trained_on(make_trainer, data, processor):
    rows = [{**row, "question": "", "caption": "a liver"} for row in data.__getitems__([0, 1])]
    batch = VqaCollator(processor)(rows)
    assert batch["align_input_ids"].shape[0] == 2
    trainer = make_trainer()
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    assert loss.isfinite()


def test_augmentations_change_training_images_alone(make_trainer):
    trainer = make_trainer(augmentations=["crop", "flip", "stain"])
    rows = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    plain = make_trainer()._prepare_inputs(dict(rows))["pixel_values"]
    trained = []
    for training in (True, True, False):
        trainer.model.train(training)
        trained.append(trainer._prepare_inputs(dict(rows))["pixel_values"])
    assert not torch.equal(trained[0], plain) and not torch.equal(trained[0], trained[1])
    assert torch.equal(trained[2], plain)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("precision", "bf32"), ("lr_img", -1.0), ("questions_per_image", 0), ("augmentations", ["crop", "blur"])],
)
def test_a_bad_argument_is_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=argument):
        MMJepaTrainingArguments(output_dir=str(tmp_path), **{argument: value})
