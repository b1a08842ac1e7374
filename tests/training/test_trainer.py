"""The Trainer: resumed runs, checkpoints, evaluation, and the flags of the library."""

import re
import resource
from dataclasses import fields

import numpy as np
import pytest
import torch
from accelerate.utils import ParallelismConfig
from small_trainings import logged, with_dropout
from tiny import DESCRIBED, VISION
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LabelSmoother

from mmjepa.data.collator import VqaCollator
from mmjepa.data.images import VqaData
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.training.arguments import FIXED_FLAGS, MMJepaTrainingArguments
from mmjepa.training.checkpoints import checkpoint_problems, newest_checkpoint


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
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": next(accuracies)}
    trainer.train()
    best = type(trainer.model).from_pretrained(tmp_path / "checkpoints" / "checkpoint-6")
    for name, value in best.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


def test_a_training_that_is_over_is_resumed_without_another_step(make_trainer, tmp_path):
    """As after a kill in the last evaluation. 8 steps end in the middle of the second epoch."""
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 8, "text_dropout": 0.1}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    assert resumed.train(resume_from_checkpoint=True).global_step == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize(("limit", "kept"), [(1, {"2", "6"}), (2, {"2", "6"}), (3, {"2", "5", "6"})])
def test_the_best_and_the_last_checkpoint_are_kept_whatever_the_limit(make_trainer, tmp_path, limit, kept):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 6}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_total_limit": limit}
    trainer = make_trainer(**settings, **best)
    accuracies = iter([0.1, 0.9, 0.2, 0.3, 0.4, 0.5])
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": next(accuracies)}
    folder, present = tmp_path / "checkpoints", []

    class LookCallback(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            present.append({path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")})

    trainer.add_callback(LookCallback())
    trainer.train()
    assert present[-1] == kept  # at the end of a training the library keeps the best alone, by a limit of 1
    assert not any(checkpoint_problems(path) for path in folder.glob("checkpoint-*"))
    assert trainer.state.best_model_checkpoint == str(folder / "checkpoint-2")


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before_it_whole(make_trainer, tmp_path):
    trainer = make_trainer(save_strategy="steps", save_steps=2, save_total_limit=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FullDiskCallback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:  # from here on the system refuses to write more than this into a file
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    trainer.add_callback(FullDiskCallback())
    try:
        with pytest.raises(OSError, match="checkpoint-4 can't be written .* GB are free there.*make room"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = make_trainer(save_strategy="steps", save_steps=2, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert newest_checkpoint(folder) == str(folder / "checkpoint-12")
    assert {line["step"] for line in resumed.state.log_history} == set(range(1, 13))


def test_of_equally_good_checkpoints_the_one_with_the_lowest_loss_is_kept(make_trainer, tmp_path):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_total_limit": None}
    trainer = make_trainer(**settings, **best, lr_img=1e-3, learning_rate=1e-3)
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": 0.0}
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert losses[3] > min(losses.values())
    assert trainer.state.best_global_step == min(losses, key=losses.get)

    trainer = make_trainer(**settings, **{**best, "metric_for_best_model": "eval_loss"})
    assert trainer.args.greater_is_better is False


def test_answers_are_measured_on_the_data_that_are_asked_about(make_trainer, data):
    other = VqaData(data.questions.select(range(5)), data.pixels)
    trainer = make_trainer()
    trainer.compute_answer_metrics = lambda model, data: {"rows": len(data)}
    assert trainer.evaluate()["eval_rows"] == 24
    assert trainer.evaluate(other)["eval_rows"] == 5
    assert trainer.evaluate({"other": other})["eval_other_rows"] == 5
    assert trainer.predict(other).metrics["test_rows"] == 5


def test_answers_are_given_in_the_precision_of_the_training(make_trainer, data, processor):
    trainer = make_trainer(bf16=True)
    dtypes = {}
    for name, module in trainer.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, given, made, name=name: dtypes.update({name: made.dtype}))

    def answer(model, data):
        dtypes.clear()  # of the losses
        answerer, questions = Answerer(model, processor, 8, {"max_new_tokens": 3}), data.questions
        states = answerer.encode_all_images(data.pixels)
        answerer.answer_questions(questions["question"], states, questions["image_id"])
        return {}

    trainer.compute_answer_metrics = answer
    trainer.evaluate()
    for tower in ("encoder.image_encoder", "encoder.text_encoder", "encoder.visual_prefix", "decoder"):
        assert {dtype for name, dtype in dtypes.items() if name.startswith(tower)} == {torch.bfloat16}, tower


@pytest.mark.parametrize(
    ("instruction", "width", "given", "expected"),
    [
        ("avx512_bf16", 384, {}, True),
        ("amx_tile", 384, {}, True),
        ("none", 384, {}, False),
        ("avx512_bf16", 32, {}, False),
        ("avx512_bf16", 384, {"precision": "32"}, False),
        ("avx512_bf16", 384, {"bf16": False}, False),
        ("avx512_bf16", 32, {"precision": "bf16"}, True),
    ],
)
def test_on_a_cpu_bfloat16_is_the_default_of_a_wide_model_that_it_computes_faster(
    make_trainer, monkeypatch, instruction, width, given, expected
):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name == instruction)
    trainer = make_trainer(config={"vision_config": {**VISION, "hidden_size": width}}, **given)
    computed = []
    projector = trainer.model.encoder.image_projector
    projector.register_forward_hook(lambda module, read, made: computed.append(made.dtype))
    trainer.evaluate()
    assert trainer.args.bf16 == expected and computed[0] == (torch.bfloat16 if expected else torch.float32)


def test_every_process_draws_views_of_its_own(make_trainer, monkeypatch):
    views = []
    for process in (0, 1, 0):
        trainer = make_trainer(augmentations=["crop"], max_steps=1)
        monkeypatch.setattr(MMJepaTrainingArguments, "process_index", process)
        trainer.model.register_forward_pre_hook(
            lambda module, given, named: views.append(named["pixel_values"]), with_kwargs=True
        )
        trainer.train()
    assert torch.equal(views[0], views[2]) and not torch.equal(views[0], views[1])


def test_the_last_step_is_left_out_by_flag(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=5, num_train_epochs=1, dataloader_drop_last=True)
    assert trainer.train().global_step == 4


def test_labels_are_smoothed_as_in_the_library(make_trainer, data):
    plain, smoothed = make_trainer(), make_trainer(label_smoothing_factor=0.1)
    batch = plain.data_collator(data.__getitems__(range(8)))
    with torch.no_grad():
        outputs = plain.model(**plain.model_inputs(batch))
        expected = LabelSmoother(0.1)(outputs, batch["labels"])
        smoothed.model.train()
        smoothed.get_batch_samples(iter([batch]), 1, "cpu")
        _, outputs = smoothed.compute_loss(smoothed.model, smoothed.model_inputs(batch), True)
    torch.testing.assert_close(outputs.loss_ce, expected)


# Another value than the default of each flag of the library, where it is not a boolean to turn round.
OTHER_VALUES = {
    "per_device_train_batch_size": 3,
    "num_train_epochs": 1.5,
    "max_steps": 3,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 2,
    "optim": "galore_adamw",
    "optim_args": "momentum=0.1",
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "optim_target_modules": ["fc1"],
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 0.0,
    "label_smoothing_factor": 0.1,
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "torch_empty_cache_steps": 1,
    "logging_strategy": "epoch",
    "logging_steps": 2,
    "include_num_input_tokens_seen": "all",
    "log_level": "error",
    "log_level_replica": "error",
    "run_name": "run",
    "eval_strategy": "epoch",
    "eval_steps": 2,
    "eval_delay": 1,
    "per_device_eval_batch_size": 5,
    "eval_accumulation_steps": 1,
    "include_for_metrics": ["inputs"],
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "seed": 3,
    "data_seed": 3,
    "accelerator_config": {"split_batches": True},
    "parallelism_config": ParallelismConfig(),
    "dataloader_num_workers": 1,
    "dataloader_prefetch_factor": 3,
    "dataloader_multiprocessing_context": "spawn",
    "remove_unused_columns": True,
    "label_names": ["answers"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "size",
    "ddp_find_unused_parameters": False,
    "ddp_bucket_cap_mb": 5,
    "ddp_broadcast_buffers": False,
    "ddp_static_graph": True,
    "ddp_timeout": 60,
    "debug": "underflow_overflow",
}
# What one of these flags needs beside it.
BESIDE = {
    "lr_scheduler_kwargs": {"lr_scheduler_type": "cosine_with_min_lr"},
    "lr_scheduler_type": {"lr_scheduler_kwargs": {"min_lr": 1e-6}},
    "optim_args": {"optim": "sgd"},
    "dataloader_persistent_workers": {"dataloader_num_workers": 1},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1},
    "dataloader_multiprocessing_context": {"dataloader_num_workers": 1},
    "dataloader_in_order": {"dataloader_num_workers": 1},
    "load_best_model_at_end": {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "loss"},
    "ddp_static_graph": {"align_warmup_epochs": 1},
    "activation_checkpointing_kwargs": {"activation_checkpointing": True},
    "gradient_checkpointing_kwargs": {"gradient_checkpointing": True},
}
ELSEWHERE = {
    "output_dir": "every test gives it",
    "report_to": "the test of TensorBoard",
    "use_cpu": "every test gives it",
    "disable_tqdm": "every test gives it",
    "resume_from_checkpoint": "the tests of the script",
    "do_train": "the tests of the script",
    "do_eval": "the tests of the script",
    "do_predict": "the tests of the script",
    "fp16": "a GPU",
    "tf32": "a GPU",
    "fp16_full_eval": "a GPU",
    "torch_compile": "the tests of the contract",
    "torch_compile_backend": "the tests of the contract",
    "torch_compile_mode": "the tests of the contract",
    "fsdp": "the tests of processes",
    "fsdp_config": "the tests of processes",
    "deepspeed": "the tests of processes",
    "ddp_backend": "the tests of processes",
    "local_rank": "set by launchers",
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"), "the tests of the Hub"),
    **dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), "the tests of the Hub"),
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), "trackio"),
}


FLAGS = [field.name for field in fields(TrainingArguments) if field.name not in ELSEWHERE]
SPAWNS = "dataloader_multiprocessing_context"  # and imports everything again


@pytest.mark.parametrize("flag", [pytest.param(SPAWNS, marks=pytest.mark.slow), *sorted({*FLAGS} - {SPAWNS})])
def test_every_flag_of_the_library_trains_or_is_refused_by_name(make_trainer, flag):
    (default,) = (field.default for field in fields(TrainingArguments) if field.name == flag)
    arguments = {"max_steps": 2, **BESIDE.get(flag, {}), flag: OTHER_VALUES.get(flag, default is False)}
    refused = {*FIXED_FLAGS, "optim", "debug", "ddp_static_graph", "accelerator_config"}
    if flag in refused:
        with pytest.raises(ValueError, match=flag):
            make_trainer(**arguments)
        return
    trainer = make_trainer(**arguments)
    assert trainer.train().global_step >= 2
    assert np.isfinite(trainer.evaluate()["eval_loss"])


class NoFloat64(TorchDispatchMode):
    """Refuses what Apple's devices can't compute."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for tensor in tree_leaves(made):
            assert not (isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64), function
        return made


def test_nothing_is_computed_in_float64(make_trainer, data, processor):
    config = {"alignment_loss": "infonce", "alignment_target": "centered"}
    trainer = make_trainer(config=config, align_warmup_epochs=1, augmentations=["crop", "flip", "stain"])
    trainer.compute_answer_metrics = lambda model, data: evaluate_model(
        model, processor, data, data.questions, batch_size=8, max_new_tokens=3
    )[0]
    with NoFloat64():
        trainer.train()
        trainer.evaluate()


@pytest.mark.parametrize("trainer_class", [Trainer, Seq2SeqTrainer])
def test_the_librarys_own_trainers_train_and_evaluate(make_model, data, processor, tmp_path, trainer_class):
    """Accumulated batches count the alignment once, by their shares of the answer tokens, which are equal here."""
    scored, weights, losses = [], [], []
    flags = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "remove_unused_columns": False}
    flags |= {"max_steps": 1, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0, "logging_steps": 1}
    if trainer_class is Seq2SeqTrainer:
        flags |= {"predict_with_generate": True, "generation_max_length": 6}
    arguments_class = Seq2SeqTrainingArguments if trainer_class is Seq2SeqTrainer else TrainingArguments
    for batch_size, accumulation in ((24, 1), (6, 4)):
        flags |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        torch.manual_seed(1)
        trainer = trainer_class(
            model=with_dropout(make_model(**DESCRIBED), 0.0),  # contrastive losses compare within a batch
            args=arguments_class(**flags),
            train_dataset=[{**row, "answer": "yes"} for row in data],
            eval_dataset=list(data),
            data_collator=VqaCollator(processor),
            compute_metrics=lambda given: scored.append(given) or {"rows": len(given.predictions)},
        )
        trainer.train()
        losses.append(logged(trainer, "loss")[1])
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
    np.testing.assert_allclose(*losses, rtol=1e-4)
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-3)
    assert trainer.evaluate()["eval_rows"] == 24
    (given,) = scored
    if trainer_class is Seq2SeqTrainer:
        assert given.predictions.ndim == 2 and len(given.predictions) == len(given.label_ids) == 24
    else:
        assert given.predictions.shape == (*given.label_ids.shape, trainer.model.config.text_config.vocab_size)


def test_evaluation_gives_the_losses_of_one_large_batch(make_trainer, data, processor):
    trainer = make_trainer(config=DESCRIBED, per_device_eval_batch_size=5)
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": 0.25}
    metrics = trainer.evaluate()
    batch = trainer.model_inputs(trainer.data_collator(data.__getitems__(range(24))))
    with torch.no_grad():
        expected = trainer.model.eval()(**batch)
    assert metrics["eval_align"] == pytest.approx(expected.loss_align.item(), rel=1e-5)
    assert metrics["eval_ce"] == pytest.approx(expected.loss_ce.item(), rel=1e-5)
    assert metrics["eval_accuracy"] == 0.25


def test_tensorboard_shows_losses_rates_and_speed_by_their_own_names(make_trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(report_to="tensorboard", eval_strategy="epoch", lr_img=0.5, learning_rate=0.25)
    trainer.train()
    trainer.evaluate()  # of the best checkpoint: no further point of the curves
    events = EventAccumulator(str(tmp_path / "logs" / "mmjepa_joint"))
    events.Reload()
    expected = {"train_align", "train_ce", "val_align", "val_ce", "samples_per_second"}
    assert expected <= set(events.Tags()["scalars"])
    for name in ("val_ce", "eval_loss"):
        assert [event.step for event in events.Scalars(name)] == [6, 12]
    for name in ("final_ce", "final_loss"):
        assert [event.step for event in events.Scalars(name)] == [12]
    for name, peak in (("learning_rate_image", 0.5), ("learning_rate", 0.25)):
        assert [event.value for event in events.Scalars(name)] == pytest.approx(
            [peak * (11 - step) / 12 for step in range(12)]
        )
    values = [event.value for event in events.Scalars("train_ce")]
    assert values == pytest.approx(list(logged(trainer, "train_ce").values()))


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_a_line_is_shown_per_step_and_evaluation_and_other_loggers_get_all_numbers(make_trainer, capsys, disable_tqdm):
    trainer = make_trainer(disable_tqdm=disable_tqdm, eval_strategy="epoch", logging_steps=6)
    scores = {"accuracy": 0.5, "accuracy_majority_question": 0.25, "image_gain": 0.125, "bleu_1": 0.1}
    trainer.compute_answer_metrics = lambda model, data: scores
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    number = r"[\d.e-]+"
    losses = rf"loss {number}  align {number}  ce {number}  answer {number}  "
    rates = rf"learning_rate {number}  learning_rate_image {number}  \d+ questions/s"
    evaluation = rf"{losses}accuracy 50.0 %  majority answer 25.0 %  image gain \+12.5 points"
    expected = [rf"step 6/12  epoch 1.00  {losses}{rates}", rf"eval  epoch 1.00  {evaluation}  \d\d:\d\d left"]
    expected += [line.replace("6/12", "12/12").replace("1.00", "2.00") for line in expected]
    expected.append(rf"trained 12 steps in \d\d:\d\d  mean loss {number}")
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert list(logged(trainer, "eval_bleu_1").values()) == [0.1, 0.1]


def test_the_text_encoder_is_bitwise_unchanged_by_a_training_run(make_trainer):
    trainer = make_trainer(lr_img=0.1, learning_rate=0.1, weight_decay=0.1)
    before = {name: value.clone() for name, value in trainer.model.encoder.text_encoder.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.encoder.text_encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_alignment_text_that_is_not_the_question_is_trained_on(make_trainer, data, processor):
    rows = [{**row, "question": "", "caption": "a liver"} for row in data.__getitems__([0, 1])]
    batch = VqaCollator(processor, as_bytes=True)(rows)
    assert batch["align_input_ids"].shape[0] == 2
    trainer = make_trainer()
    loss = trainer.compute_loss(trainer.model, trainer.model_inputs(batch))
    assert loss.isfinite()


def test_augmentations_change_training_images_alone(make_trainer):
    trainer = make_trainer(augmentations=["crop", "flip", "stain"])
    rows = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    plain = make_trainer().model_inputs(dict(rows))["pixel_values"]
    trained = []
    for training in (True, True, False):
        trainer.model.train(training)
        trained.append(trainer.model_inputs(dict(rows))["pixel_values"])
    assert not torch.equal(trained[0], plain) and not torch.equal(trained[0], trained[1])
    assert torch.equal(trained[2], plain)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("precision", "bf32"),
        ("lr_img", -1.0),
        ("encoder_lr_factor", -0.5),
        ("questions_per_image", 0),
        ("early_stopping_patience", 0),
        ("augmentations", ["crop", "blur"]),
        ("side_words", "xx"),
    ],
)
def test_a_bad_argument_is_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=argument):
        MMJepaTrainingArguments(output_dir=str(tmp_path), **{argument: value})


@pytest.mark.parametrize(("patience", "last_step"), [(1, 9), (2, 12), (None, 15)])
def test_training_stops_early_after_evaluations_without_a_better_answer(make_trainer, patience, last_step):
    """An evaluation every 3 steps: the first two are in the warm-up, the third is the first that counts."""
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "max_steps": 15}
    trainer = make_trainer(**settings, align_warmup_epochs=1, early_stopping_patience=patience)
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": 0.5}
    trainer.train()
    assert trainer.state.global_step == last_step


@pytest.mark.parametrize(
    "flags",
    [{"do_eval": False}, {"eval_strategy": "no", "load_best_model_at_end": False}, {"load_best_model_at_end": False}],
)
def test_early_stopping_without_a_best_checkpoint_is_refused(tmp_path, flags):
    with pytest.raises(ValueError, match="early_stopping_patience is 2, .*--eval_strategy epoch"):
        MMJepaTrainingArguments(output_dir=str(tmp_path), early_stopping_patience=2, use_cpu=True, **flags)


def test_training_further_forgets_what_was_measured_of_other_weights(make_trainer, tmp_path):
    measured = {"rank_threshold": 0.4, "truth_temperature": 2.0, "truth_measured": {"accuracy": 0.9}}
    trainer = make_trainer(config={"lambda_answer": 0.25, **measured}, max_steps=1)
    trainer.train()
    trainer.save_model()
    saved = type(trainer.model.config).from_pretrained(tmp_path / "checkpoints")
    assert [getattr(saved, name) for name in measured] == [None] * 3
