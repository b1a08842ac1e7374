"""What the library's Trainer can do, this one can do too: how it is made, searched with, stopped and started again."""

import multiprocessing
import signal
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small_trainings import logged
from tiny import FAST
from transformers import TrainerCallback, TrainingArguments
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend
from transformers.trainer_utils import BestRun

from mmjepa.data.collator import VqaCollator
from mmjepa.data.images import VqaData
from mmjepa.training.arguments import MMJepaTrainingArguments, parse_arguments
from mmjepa.training.building import build
from mmjepa.training.trainer import MMJepaTrainer

NAMES = {"loss", "train_align", "train_ce", "grad_norm", "learning_rate", "learning_rate_image"}


@pytest.fixture
def flags(tmp_path) -> dict:
    """Arguments that the library's class has too."""
    return {
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
    }


@pytest.mark.parametrize("kind", [TrainingArguments, MMJepaTrainingArguments, None])
def test_a_model_and_arguments_are_enough_for_a_trainer(make_model, flags, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without arguments the Trainer makes its folder where it is called
    trainer = MMJepaTrainer(make_model(), kind and kind(**flags))
    assert isinstance(trainer.args, MMJepaTrainingArguments) and trainer.args.eval_strategy == "no"
    with pytest.raises(ValueError, match="neither a data_collator nor a processing_class .*: give one"):
        trainer._make_collator()


@pytest.mark.parametrize("kind", [TrainingArguments, MMJepaTrainingArguments])
def test_a_model_arguments_data_and_processor_are_enough_to_train_and_evaluate(
    make_model, flags, kind, data, processor
):
    trainer = MMJepaTrainer(make_model(), kind(**flags), train_dataset=data, processing_class=processor)
    trainer.train()
    assert logged(trainer, "loss").keys() == {1, 2} and trainer.evaluate(data)["eval_loss"] > 0
    own = MMJepaTrainer(make_model(), kind(**flags), VqaCollator(processor, as_bytes=True), data, data, processor)
    own.train()
    assert own.evaluate()["eval_ce"] > 0


def test_plain_arguments_keep_their_values(make_model, flags):
    plain = TrainingArguments(**flags, learning_rate=0.5, weight_decay=0.25, lr_scheduler_type="constant", bf16=True)
    taken = MMJepaTrainer(make_model(), plain).args
    for name in ("learning_rate", "weight_decay", "lr_scheduler_type", "bf16", "eval_strategy", "max_steps", "seed"):
        assert getattr(taken, name) == getattr(plain, name), name
    assert taken.lr_img == MMJepaTrainingArguments.lr_img


def test_evaluations_that_are_asked_for_need_data(make_model, flags):
    with pytest.raises(ValueError, match="eval_dataset"):
        MMJepaTrainer(make_model(), MMJepaTrainingArguments(**flags, eval_strategy="epoch"))


def test_without_scored_answers_the_default_arguments_train_and_choose_by_the_loss(make_model, flags, data, processor):
    flags = {name: value for name, value in flags.items() if name != "save_strategy"} | {"num_train_epochs": 2}
    arguments = MMJepaTrainingArguments(**flags | {"max_steps": 7})
    trainer = MMJepaTrainer(make_model(), arguments, None, data, data, processing_class=processor)
    trainer.train()
    assert trainer.state.best_metric == min(logged(trainer, "eval_loss").values())


def test_every_training_starts_from_what_model_init_gives(make_model, flags, data, processor):
    made = []

    def model_init():
        made.append(make_model(lambda_answer=0.25, rank_threshold=0.4, alignment_text="question").train())
        return made[-1]

    arguments = MMJepaTrainingArguments(**flags)
    trainer = MMJepaTrainer(None, arguments, None, data, model_init=model_init, processing_class=processor)
    losses = []
    for _ in range(2):
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1] and len(made) == 3 and trainer.model is made[-1]
    assert trainer.model.config.rank_threshold is None and trainer.data_collator.alignment_text == "question"


@pytest.fixture
def search(monkeypatch):
    """A backend of a search in place of Optuna's, which tries the trials that it is told."""

    class Search:
        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            objectives = []
            for number in range(n_trials):
                trainer.objective = None
                trainer.train(resume_from_checkpoint=None, trial=SimpleNamespace(number=number, params={}))
                if trainer.objective is None:
                    trainer.objective = trainer.compute_objective(trainer.evaluate())
                objectives.append(trainer.objective)
                trainer.model = trainer.model_wrapped = None  # as Optuna's frees the memory
            best = min(range(n_trials), key=objectives.__getitem__)
            return BestRun(str(best), objectives[best], {"tried": objectives})

    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Search)
    optuna = ModuleType("optuna")
    optuna.__spec__, optuna.trial = ModuleSpec("optuna", None), SimpleNamespace(BaseTrial=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "optuna", optuna)


@pytest.mark.parametrize("eval_strategy", ["epoch", "no"])
def test_hyperparameters_of_both_classes_are_searched(make_model, flags, data, processor, search, eval_strategy):
    rates, texts = [1e-1, 1e-6], ["question", "answer"]
    flags |= {"max_steps": 6, "eval_strategy": eval_strategy, "load_best_model_at_end": False, "logging_steps": 6}
    trainer = MMJepaTrainer(
        args=MMJepaTrainingArguments(**flags),
        train_dataset=data,
        eval_dataset=data,
        processing_class=processor,
        model_init=lambda trial: make_model(alignment_text=texts[trial.number] if trial else "question").train(),
    )
    seen = []

    class LookCallback(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            seen.append((args.lr_img, args.learning_rate, trainer.data_collator.alignment_text))

    trainer.add_callback(LookCallback())
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"lr_img": rates[trial.number], "learning_rate": rates[trial.number] / 2},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=2,
        backend="optuna",
    )
    assert list(dict.fromkeys(seen)) == [(rate, rate / 2, text) for rate, text in zip(rates, texts, strict=True)]
    assert len(set(best.hyperparameters["tried"])) == 2


@pytest.mark.parametrize("own_rate", [None, 0.25])
def test_an_optimizer_class_of_ones_own_is_used(make_model, flags, data, processor, own_rate):
    class Mine(torch.optim.SGD):
        pass

    settings = {"momentum": 0.5} | ({} if own_rate is None else {"lr": own_rate})
    trainer = MMJepaTrainer(
        make_model(),
        MMJepaTrainingArguments(**flags, lr_img=0.5, learning_rate=0.125, weight_decay=0.0625, align_warmup_epochs=0),
        None,
        data,
        processing_class=processor,
        optimizer_cls_and_kwargs=(Mine, settings),
    )
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is Mine and {group["momentum"] for group in optimizer.param_groups} == {0.5}
    assert {group["lr"] for group in optimizer.param_groups} == ({0.5, 0.125} if own_rate is None else {own_rate})
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0625, 0.0}
    trainer.train()
    assert NAMES <= trainer.state.log_history[0].keys()


def test_an_optimizer_of_ones_own_is_used(make_model, flags, data, processor):
    model = make_model()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.25)
    arguments = MMJepaTrainingArguments(**flags, lr_scheduler_type="constant", warmup_steps=0, align_warmup_epochs=1)
    trainer = MMJepaTrainer(model, arguments, None, data, processing_class=processor, optimizers=(optimizer, None))
    before = model.encoder.image_projector.weight.clone()
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer and not before.equal(model.encoder.image_projector.weight)
    assert logged(trainer, "learning_rate") == {1: 0.25, 2: 0.25}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("way", ["model", "model_init"])
def test_a_model_in_half_precision_is_trained_and_saved_in_float32(
    make_model, flags, data, processor, dtype, way, caplog, tmp_path
):
    given = {"model": make_model().to(dtype)} if way == "model" else {"model_init": lambda: make_model().to(dtype)}
    arguments = MMJepaTrainingArguments(**flags, precision="32", warmup_steps=0, align_warmup_epochs=0)
    trainer = MMJepaTrainer(**given, args=arguments, train_dataset=data, processing_class=processor)
    trainer.train()
    assert {weight.dtype for weight in trainer.model.state_dict().values()} == {torch.float32}
    changed = [weight != weight.to(dtype) for weight in trainer.model.decoder.layers.parameters()]
    assert torch.cat([weight.flatten() for weight in changed]).float().mean() > 0.9
    assert f"The model's weights are {str(dtype)[6:]}: they are trained, and saved, in float32" in caplog.text
    trainer.save_model()
    assert type(trainer.model).from_pretrained(tmp_path / "run").dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_script_trains_a_model_that_was_saved_in_half_precision_in_float32(make_model, processor, tmp_path, dtype):
    """And evaluates it as it is saved; the frozen text encoder may be told to be in half precision."""
    make_model().to(dtype).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    arguments = parse_arguments(["--model_name_or_path", str(tmp_path), *FAST])[0]
    assert {weight.dtype for weight in build(arguments, is_trained=True)[1].parameters()} == {torch.float32}
    assert {weight.dtype for weight in build(arguments)[1].parameters()} == {dtype}
    arguments.bf16_text_encoder = True
    model = build(arguments, is_trained=True)[1]
    assert model.encoder.text_encoder.dtype == torch.bfloat16 and model.decoder.dtype == torch.float32


def test_a_text_encoder_that_alone_is_in_half_precision_stays_so(make_model, flags, data, processor, caplog):
    model = make_model()
    model.encoder.text_encoder.to(torch.bfloat16)
    trainer = MMJepaTrainer(model, MMJepaTrainingArguments(**flags), None, data, processing_class=processor)
    trainer.train()
    assert model.encoder.text_encoder.dtype == torch.bfloat16 and "they are trained" not in caplog.text


def test_persistent_workers_of_an_evaluation_end_with_it(make_trainer, data):
    trainer = make_trainer(dataloader_num_workers=1, dataloader_persistent_workers=True, max_steps=7)
    before = set(multiprocessing.active_children())
    workers = []

    class LookCallback(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            workers.append(len(set(multiprocessing.active_children()) - before))

    trainer.add_callback(LookCallback())
    for _ in range(3):
        trainer.evaluate()
        trainer.evaluate(VqaData(data.questions.select(range(5)), data.pixels))
        assert not set(multiprocessing.active_children()) - before
    trainer.train()
    assert workers == [0, 1]  # those of the training are kept between its epochs


def test_a_training_after_one_that_was_stopped_goes_to_its_end(make_trainer):
    class StopOnceCallback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.remove_callback(StopOnceCallback)
            signal.raise_signal(signal.SIGTERM)

    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "early_stopping_patience": 2}
    trainer = make_trainer(eval_strategy="epoch", save_strategy="epoch", **best)
    trainer.compute_answer_metrics = lambda model, data: {"accuracy": 0.5}
    trainer.add_callback(StopOnceCallback())
    with pytest.raises(SystemExit):
        trainer.train()
    assert trainer.state.global_step == 1
    assert trainer.train().global_step == 12 and not trainer.stop_request
    names = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert len(set(names)) == len(names) and "MMJepaEarlyStoppingCallback" not in names
