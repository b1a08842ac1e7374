"""What a run does with its Trainer: it trains, it evaluates a split, it writes the model card."""

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.trainer_utils import speed_metrics

from ..data.columns import each_row
from ..data.images import VqaData
from ..evaluation.controls import right_answers_of_row
from ..evaluation.evaluate import evaluate_model, json_line
from ..evaluation.predicting import predict, write_predictions
from ..evaluation.taught import count_statements, write_taught
from ..metrics.vqa_answers.vqa_answers import score_answers
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..reporting.card import SPLITS, model_card
from ..reporting.plain_words import advice, plain_words
from ..reporting.table import answer_table, fitted, terminal_width
from .adapters import adapter_base, merge_adapters
from .callbacks import MMJepaTensorBoardCallback
from .flags import ModelArguments
from .run_folder import RUN_FILE
from .trainer import MMJepaTrainer

PREDICTIONS = "predictions.parquet"


def train(trainer: MMJepaTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains, from `checkpoint` where there is one; saves the model, what it was taught, and the numbers.

    The numbers are returned.
    """
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.args.lora_r is not None:
        merge_adapters(trainer)
    trainer.save_model()
    if trainer.is_world_process_zero():
        config = trainer.model.config
        rows = each_row(trainer.train_dataset.questions)
        write_taught(trainer.args.output_dir, count_statements(rows, config.alignment_text, config.yes_no_words))
    metrics = result.metrics | {"train_samples": len(trainer.train_dataset.questions)}
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    return metrics


def evaluate_split(
    trainer: MMJepaTrainer,
    data: VqaData,
    train_questions: Dataset,
    prefix: str,
    train_data: VqaData | None = None,
) -> dict[str, float]:
    """Losses, answers, controls and retrieval of a split, returned and written to the output folder.

    It writes, with `prefix` before their names, the numbers, every answer, a picture of some answers, and a report of
    all in HTML. The validation split has the prefix "eval", and its report is report.html. Other splits have the table
    of predictions too.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    start = time.time()
    losses = trainer.loss_loop(
        trainer.get_eval_dataloader(data), "Evaluation", prediction_loss_only=True, metric_key_prefix=prefix
    ).metrics
    model = trainer.whole_model()  # under FSDP a copy, which the first process can't make alone
    # Grows while questions are answered: a stopped evaluation leaves its answers. At the end it holds all rows.
    answers_file = folder / f"{prefix}_answers.jsonl"
    with (
        open(answers_file if trainer.is_world_process_zero() else os.devnull, "w") as file,
        trainer.accelerator.autocast(),
    ):
        numbers, answers = evaluate_model(
            model,
            trainer.processing_class,
            data,
            train_questions,
            args.per_device_eval_batch_size,
            args.seed,
            file,
            show_progress=not args.disable_tqdm,
            with_probabilities=True,
            train_data=train_data,
        )
    num_steps = math.ceil(len(data) / (args.eval_batch_size * args.world_size))
    metrics = {
        **losses,
        **{f"{prefix}_{name}": number for name, number in numbers.items()},
        **speed_metrics(prefix, start, num_samples=len(data), num_steps=num_steps),
    }
    trainer.log(metrics)
    trainer.save_metrics(prefix, metrics)
    if args.do_train and prefix == "eval" and (measured := measured_fields(numbers)):
        # What was measured on the validation split goes with the model; the test split is answered by it.
        trainer.model.config.update(measured)
        if trainer.is_world_process_zero():
            trainer.model.config.save_pretrained(folder)
    if trainer.is_world_process_zero() and answers:
        with open(answers_file, "w") as file:
            file.writelines(map(json_line, answers))
        show_evaluation(trainer, model, data, prefix, metrics, answers)
    return metrics


def measured_fields(numbers: dict[str, float]) -> dict[str, Any]:
    """The fields of the configuration that an evaluation gives.

    Args:
        numbers: of `evaluate_model`.
    """
    fields: dict[str, Any] = {
        name: numbers[name] for name in ("rank_threshold", "truth_temperature") if name in numbers
    }
    if "truth_gain" in numbers:
        truth = {name: numbers[f"truth_{name}"] for name in ("accuracy", "gain", "gain_low", "gain_high")}
        fields["truth_measured"] = truth | {"shuffled": numbers["truth_accuracy_shuffled"]}
    return fields


def show_evaluation(
    trainer: MMJepaTrainer,
    model: MMJepaForConditionalGeneration,
    data: VqaData,
    prefix: str,
    metrics: dict[str, float],
    answers: list[dict],
) -> None:
    """Writes picture, report and table of predictions; prints what was measured, and in which files it is."""
    # No training waits for matplotlib before its first step.
    from ..reporting.html import write_html_report
    from ..reporting.picture import draw_answers

    args, folder = trainer.args, Path(trainer.args.output_dir)
    numbers = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    files = {"picture": folder / f"{prefix}_answers.png"}
    files["report"] = folder / ("report.html" if prefix == "eval" else f"{prefix}_report.html")
    draw_answers(files["picture"], data, answers, seed=args.seed)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, MMJepaTensorBoardCallback):
            callback.add_picture(files["picture"], trainer.state.global_step)
    title = f"{folder.absolute().name}: answers to {len(answers)} questions of {SPLITS.get(f'{prefix}_', prefix)}"
    log_history = trainer.state.log_history
    write_html_report(files["report"], title, numbers, data, answers, log_history, model, trainer.processing_class)
    width = terminal_width()
    tips = [] if args.do_train else advice(numbers)  # a training ends with them
    sentences = [fitted(sentence, width) for sentence in (*plain_words(numbers), *tips)]
    print("\n".join([answer_table(numbers, width), "", *sentences, ""]))
    if prefix != "eval":
        files["answers"] = folder / PREDICTIONS
        write_predictions(files["answers"], answers)
    files["numbers"] = folder / "all_results.json"
    print("\n".join(f"{name + ':':9}{file}" for name, file in files.items()))


def answer_new_images(trainer: MMJepaTrainer, data: VqaData) -> dict[str, float]:
    """Writes the table of predictions. Where right answers are known, returns and writes the scores."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    with trainer.accelerator.autocast():
        rows = predict(trainer.whole_model(), trainer.processing_class, data, args.per_device_eval_batch_size)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / PREDICTIONS, rows)
        print(f"answers: {folder / PREDICTIONS}")
    known = [row for row in rows if row["answer"].strip() and row["prediction"] is not None]
    if not known:
        return {}
    predictions, questions = ([row[name] for row in known] for name in ("prediction", "question"))
    scores = score_answers(predictions, list(map(right_answers_of_row, known)), questions)
    metrics = {f"predict_{name}": value for name, value in scores.items()}
    trainer.log_metrics("predict", metrics)
    trainer.save_metrics("predict", metrics)
    return metrics


def write_card(
    trainer: MMJepaTrainer, model_args: ModelArguments, dataset_names: Sequence[str], results: dict[str, float]
) -> None:
    """The model card, README.md, beside the trained model."""
    parts = [name for name in (model_args.image_encoder, model_args.text_model) if name is not None]
    saved = model_args.model_name_or_path
    model_id = trainer.hub_model_id or trainer.args.output_dir
    card = model_card(
        model_id,
        results,
        dataset_names,
        [saved] if saved else parts,
        fine_tuned=saved is not None,
        adapter_base=None if trainer.args.lora_r is None else adapter_base(model_args),
        run=json.loads(Path(trainer.args.output_dir, RUN_FILE).read_text()),
        chosen_by=None if trainer.state.best_model_checkpoint is None else trainer.args.metric_for_best_model,
    )
    card.save(Path(trainer.args.output_dir, "README.md"))
