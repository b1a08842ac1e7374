"""The update that the Trainer makes: accumulated batches, the two learning rates, when the warm-up ends."""

import numpy as np
import pytest
import torch
from small_trainings import logged
from tiny import DESCRIBED, VISION
from transformers import TrainerCallback

from mmjepa.data.images import VqaData
from mmjepa.training.arguments import MMJepaTrainingArguments


class StopAt(TrainerCallback):
    """Ends the training after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("config", [DESCRIBED, {}], ids=["described", "truth"])
def test_four_accumulated_batches_of_four_equal_one_of_sixteen(make_trainer, data, config):
    """A contrast compares within a batch: here all texts are compared alone, or all statements are false."""
    if config == {}:
        answers = data.questions["answer"]
        config = {"yes_no_words": {"en": [[], sorted(set(answers))]}}
        # Rows without an answer have no statement either: the batches of a step have different counts.
        some = ["" if row % 5 == 0 else answer for row, answer in enumerate(answers)]
        data = VqaData(data.questions.remove_columns("answer").add_column("answer", some), data.pixels)
    weights, losses = [], []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        trainer = make_trainer(
            config=config,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            questions_per_image=1,
            max_steps=1,
            optim="sgd",
            lr_img=0.5,
            learning_rate=0.5,
        )
        trainer.train_dataset = data
        trainer.train()
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
        names = ["loss", *(name for name in ("train_align", "train_ce", "train_answer") if logged(trainer, name))]
        losses.append([logged(trainer, name)[1] for name in names])
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_warmup_trains_the_alignment_alone_and_ends_at_its_epoch(make_trainer):
    # A batch here is one image's rows, among which a contrastive loss has nothing to compare.
    trainer = make_trainer(config=DESCRIBED, align_warmup_epochs=1)  # an epoch is 6 steps
    before = {name: weight.detach().clone() for name, weight in trainer.model.decoder.named_parameters()}
    trainer.train()
    assert sorted(logged(trainer, "train_align")) == list(range(1, 13))
    assert sorted(logged(trainer, "train_ce")) == list(range(7, 13))

    trainer = make_trainer(config=DESCRIBED, align_warmup_epochs=1)
    trainer.add_callback(StopAt(6))
    trainer.train()
    for name, weight in trainer.model.decoder.named_parameters():
        assert torch.equal(weight, before[name]), name
    projector = trainer.model.encoder.image_projector.weight
    assert not torch.equal(projector, make_trainer(config=DESCRIBED).model.encoder.image_projector.weight)


def test_two_learning_rates_reach_every_trained_parameter_once(make_trainer):
    config = {"truth_weight": 1.0}
    trainer = make_trainer(config=config, lr_img=1e-3, learning_rate=2e-4, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in rates
            rates[id(parameter)] = group["lr"]
            if group["weight_decay"] > 0:
                name = names[id(parameter)]
                assert parameter.ndim > 1 and not any(part in name for part in ("norm", "bias", "queries", "logit"))
    trained = {id(parameter) for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert set(rates) == trained
    for parameter, rate in rates.items():
        assert rate == (2e-4 if names[parameter].startswith(("decoder.", "lm_head.")) else 1e-3), names[parameter]


def test_the_image_encoder_learns_at_a_share_of_the_new_layers_rate(make_trainer):
    """One step of plain SGD moves each weight by its rate times its gradient."""
    settings = {"optim": "sgd", "lr_img": 0.5, "learning_rate": 0.25, "lr_scheduler_type": "constant"}
    settings |= {"max_grad_norm": 1e9, "max_steps": 1}
    moves, factor = [], 0.1
    for encoder_lr_factor in (1.0, factor):
        trainer = make_trainer(**settings, encoder_lr_factor=encoder_lr_factor)
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        moves.append({name: weight.detach() - before[name] for name, weight in trainer.model.named_parameters()})
    alike, scaled = moves
    assert alike["encoder.image_encoder.encoder.layer.0.mlp.fc1.weight"].abs().max() > 1e-3
    for name, move in alike.items():
        share = factor if name.startswith("encoder.image_encoder.") else 1
        torch.testing.assert_close(scaled[name], share * move, atol=1e-6, rtol=1e-3, msg=name)
    rates = [logged(trainer, f"learning_rate_{part}")[1] for part in ("image", "encoder")]
    assert rates == [0.5, 0.5 * factor]


class GradientsCallback(TrainerCallback):
    """Notes which weights have a gradient in a step, and which the optimizer knows."""

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
        self.optimized = {id(weight) for group in optimizer.param_groups for weight in group["params"]}


# Flags that take the learning rate away, and the beginnings of the names of the weights that have none then.
FROZEN = {
    "freeze_image_encoder": ("encoder.image_encoder.",),
    "freeze_decoder": ("decoder.", "lm_head."),
    "encoder_lr_factor": ("encoder.image_encoder.",),
    "lr_img": ("encoder.", "alignment."),
    "learning_rate": ("decoder.", "lm_head."),
}


@pytest.mark.parametrize("flag", FROZEN)
def test_weights_whose_rate_is_0_have_no_gradient_and_no_state_and_stay(make_trainer, flag, tmp_path):
    settings = {
        flag: True if flag.startswith("freeze") else 0.0,
        "align_warmup_epochs": 1,
        "save_strategy": "steps",
        "save_steps": 8,
    }
    trainer = make_trainer(**settings)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    seen = GradientsCallback()
    trainer.add_callback(seen)
    trainer.train()
    frozen = {name for name in before if name.startswith(FROZEN[flag])}
    weights = dict(trainer.model.named_parameters())
    assert seen.with_gradient and not seen.with_gradient & frozen
    assert not seen.optimized & {id(weights[name]) for name in frozen}
    assert all(weights[name].equal(before[name]) for name in frozen)
    assert any(not weights[name].equal(before[name]) for name in trained - frozen)
    assert {name for name, weight in weights.items() if weight.requires_grad} == trained  # for a later training

    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-8"))
    assert all(weights[name].equal(weight) for name, weight in resumed.model.named_parameters())
    trainer.save_model()
    loaded = type(trainer.model).from_pretrained(tmp_path / "checkpoints")
    assert {name for name, weight in loaded.named_parameters() if weight.requires_grad} == trained


@pytest.mark.parametrize(
    ("flag", "dropout"),
    [
        ("freeze_image_encoder", {"config": {"vision_config": {**VISION, "drop_path_rate": 0.5}}}),
        ("freeze_decoder", {"text_dropout": 0.5}),
    ],
)
def test_a_frozen_part_says_in_training_what_it_says_in_an_answer(make_trainer, flag, dropout):
    """Dropout and dropped layers, which change the losses of a part that learns, change none here."""
    runs = []
    for more in ({}, dropout):
        for settings in ({}, {flag: True}):
            trainer = make_trainer(**settings, **more, max_steps=3)
            trainer.train()
            runs.append(logged(trainer, "loss"))
    learning, frozen, disturbed, undisturbed = runs
    assert disturbed != learning and undisturbed == frozen


@pytest.mark.parametrize("is_reentrant", [True, False])
@pytest.mark.parametrize("flag", ["freeze_image_encoder", "freeze_decoder"])
def test_gradient_checkpointing_with_a_frozen_part_trains_the_same_weights(make_trainer, flag, is_reentrant):
    weights = []
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": is_reentrant}}
    for settings in ({}, checkpointing):
        trainer = make_trainer(**{flag: True}, **settings, max_steps=2, optim="sgd", lr_img=0.1)
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        weights.append(dict(trainer.model.named_parameters()))
        frozen = {name for name in before if name.startswith(FROZEN[flag]) or ".text_encoder." in name}
        still = {name for name, weight in weights[-1].items() if weight.equal(before[name])}
        assert frozen <= still and len(still - frozen) < 5
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=1e-4, msg=name)


def test_a_training_says_how_many_parameters_it_trains(make_trainer, caplog):
    with caplog.at_level("INFO", "mmjepa"):
        trainer = make_trainer(freeze_decoder=True, freeze_image_encoder=True, max_steps=1)
        trainer.train()
    weights = list(trainer.model.named_parameters())
    towers = ("encoder.image_encoder.", "encoder.text_encoder.", "decoder.", "lm_head.")
    trained = sum(weight.numel() for name, weight in weights if not name.startswith(towers))
    assert f"trained: {trained:,} of {sum(weight.numel() for _, weight in weights):,} parameters" in caplog.text


def test_the_norm_that_is_clipped_is_that_of_the_trained_weights_alone(make_trainer):
    norms = []
    for factor in (0.0, 1.0):
        trainer = make_trainer(encoder_lr_factor=factor, max_steps=1, max_grad_norm=1e9)
        trainer.train()
        norms.append(logged(trainer, "grad_norm")[1])
    assert 0 < norms[0] < norms[1]


def test_rates_that_train_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="lr_img and learning_rate are both 0"):
        MMJepaTrainingArguments(output_dir=str(tmp_path), lr_img=0, learning_rate=0)


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(1, 3), (0.5, 1), (2, 6)])
def test_the_warmup_leaves_half_of_the_training_to_the_answers(make_trainer, caplog, epochs, warmup_steps):
    trainer = make_trainer(align_warmup_epochs=1, num_train_epochs=epochs)  # an epoch is 6 steps
    with caplog.at_level("WARNING", "mmjepa"):
        trainer.train()
    assert min(logged(trainer, "train_ce")) == warmup_steps + 1
    assert ("the decoder learns in the other half" in caplog.text) == (epochs < 2)


def test_a_fast_run_takes_one_step_of_each_phase(make_trainer):
    trainer = make_trainer(align_warmup_epochs=1, fast_dev_run=True)
    trainer.train()
    assert list(logged(trainer, "train_align")) == [1, 2] and list(logged(trainer, "train_ce")) == [2]


def test_without_an_alignment_there_is_no_warmup(make_trainer):
    trainer = make_trainer(config={"lambda_align": 0.0}, align_warmup_epochs=1)
    trainer.train()
    assert list(logged(trainer, "train_ce")) == list(range(1, 13))


def test_the_decoders_rate_warms_up_when_the_decoder_starts_to_learn(make_trainer):
    settings = {"lr_img": 1.0, "learning_rate": 1.0, "lr_scheduler_type": "cosine", "optim": "sgd"}
    trainer = make_trainer(
        align_warmup_epochs=1, num_train_epochs=3, warmup_steps=0.25, max_grad_norm=1e-6, **settings
    )
    trainer.train()  # 18 steps, 6 of them of the alignment alone; a line has the rate of the step after it
    rates = {name: [0.0, *logged(trainer, name).values()] for name in ("learning_rate_image", "learning_rate")}
    assert rates["learning_rate"][:7] == [0.0] * 7
    assert rates["learning_rate"][7:10] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates["learning_rate_image"][:6] == pytest.approx([0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    decayed = [(1 + np.cos(np.pi * step / 9)) / 2 for step in range(10)]
    assert rates["learning_rate"][9:] == pytest.approx(decayed)
