#!/usr/bin/env python
"""Trains, evaluates and exports MMJepa on PathVQA or any data set of images, questions and answers.

    python run_pathvqa.py --fast_dev_run --batch_size 2    # PathVQA and the published DINOv2 and BART
    python run_pathvqa.py configs/demo.json --seed 1

The first argument may be a JSON or YAML file of flags; flags after it win. Left-out flags have the defaults that
`--help` shows.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import (
    set_seed,
)

from mmjepa.data.images import VqaData, check_readable, prepare
from mmjepa.data.loading import load_rows
from mmjepa.data.streaming import StreamedVqaData, stream_rows
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.evaluation.model_card import model_card
from mmjepa.evaluation.report import answer_table, draw_answers
from mmjepa.export.parts import export_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import DataArguments, MMJepaTrainingArguments, ModelArguments, parse_arguments
from mmjepa.training.building import build, set_text_mean
from mmjepa.training.run_folder import check_folder, clear_folder, find_checkpoint
from mmjepa.training.trainer import MMJepaTrainer

logger = logging.getLogger("mmjepa")


def limit_rows(rows: DatasetDict, data_args: DataArguments, training_args: MMJepaTrainingArguments) -> DatasetDict:
    """The first rows of each split, as many as the flags allow; few in a fast run."""
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_val_samples}
    if training_args.fast_dev_run:
        limits = dict.fromkeys(rows, 2 * training_args.per_device_train_batch_size)
    return DatasetDict(
        {split: data.select(range(min(len(data), limits.get(split) or len(data)))) for split, data in rows.items()}
    )


def needed_splits(args: MMJepaTrainingArguments) -> list[str]:
    """The splits whose images are looked at. Of train, evaluations need the texts alone."""
    asked = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    return [split for split, is_asked in asked.items() if is_asked]


def check_run(data_args: DataArguments, training_args: MMJepaTrainingArguments) -> None:
    """Raises ValueError where flags ask for nothing, or for what a stream or a run without training can't give."""
    if not (needed_splits(training_args) or training_args.export_dir or training_args.onnx_dir):
        raise ValueError(
            "there is nothing to do: leave out --do_train false or --do_eval false, or give --do_predict, "
            "--export_dir or --onnx_dir."
        )
    if training_args.push_to_hub and not training_args.do_train:
        raise ValueError("--push_to_hub pushes what a run trains: leave it out beside --do_train false.")
    if data_args.streaming:
        if training_args.max_steps <= 0:
            raise ValueError("a stream has no end: give --max_steps beside --streaming.")
        for flag in ("max_train_samples", "blank_images"):
            if getattr(data_args, flag):
                raise ValueError(f"--{flag} needs all rows beforehand: leave it out beside --streaming.")


def report_split(split: str, data: VqaData) -> None:
    logger.info("%s: %d questions about %d images", split, len(data.questions), len(data.pixels))
    if data.unreadable:
        logger.warning(
            "%s: %d images are missing or can't be decoded and are read as zeros; the first: %s",
            split,
            len(data.unreadable),
            ", ".join(data.unreadable[:10]),
        )


def evaluate_split(
    trainer: MMJepaTrainer, processor: MMJepaProcessor, data: VqaData, train_questions: Dataset, prefix: str
) -> dict[str, float]:
    """Losses, answers, controls and retrieval of a split: numbers, every answer, a table and a picture."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    batch_size = args.per_device_eval_batch_size
    answers: list[dict] = []
    # Grows while questions are answered: a stopped evaluation leaves its answers. In the end it holds all rows.
    answers_file = folder / f"{prefix}_answers.jsonl"

    def with_controls(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        with open(answers_file if trainer.is_world_process_zero() else os.devnull, "w") as stream:
            metrics, rows = evaluate_model(model, processor, data, train_questions, batch_size, args.seed, stream)
        answers.extend(rows)
        return metrics

    trainer.compute_answer_metrics = with_controls
    metrics = trainer.evaluate(data, metric_key_prefix=prefix)
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)
    if trainer.is_world_process_zero():
        with open(answers_file, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in answers)
        draw_answers(folder / f"{prefix}_answers.png", data, answers, seed=args.seed)
        print(answer_table({name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}))
        print(f"\npicture: {folder / f'{prefix}_answers.png'}")
    return metrics


def write_card(trainer: MMJepaTrainer, model_args: ModelArguments, dataset_name: str, results: dict) -> None:
    """The model card, README.md, beside the trained model."""
    parts = [name for name in (model_args.image_encoder, model_args.text_model) if name is not None]
    saved = model_args.model_name_or_path
    model_id = trainer.hub_model_id or trainer.args.output_dir
    card = model_card(model_id, results, dataset_name, [saved] if saved else parts, fine_tuned=saved is not None)
    card.save(Path(trainer.args.output_dir, "README.md"))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs what the flags ask for; returns this run's numbers, which are also in `all_results.json`."""
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    level = logging.INFO if training_args.process_index == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    set_seed(training_args.seed)
    splits = needed_splits(training_args)
    new_model = model_args.model_name_or_path is None
    check_run(data_args, training_args)
    checkpoint = find_checkpoint(training_args) if training_args.do_train else None
    if splits:
        check_folder(training_args, model_args.model_name_or_path, checkpoint)

    stream, rows = None, DatasetDict()
    if splits or new_model:
        # The others read what the first process leaves in the cache of `datasets`.
        with training_args.main_process_first():
            source = (data_args.dataset_name, data_args.dataset_config_name, data_args.columns())
            wanted = dict.fromkeys(("train", *splits))
            stream, rows = stream_rows(*source, wanted) if data_args.streaming else (None, load_rows(*source, wanted))
        rows = limit_rows(rows, data_args, training_args)
    processor, model = build(model_args, rows.get("train"))
    model.generation_config.max_new_tokens = data_args.max_answer_tokens
    if new_model and model.config.alignment_target == "centered":
        set_text_mean(model, processor, rows["train"], training_args.device)
    with training_args.main_process_first():
        data: dict[str, Any] = {
            split: prepare(rows[split], processor.image_processor, data_args.preprocessing_num_workers)
            for split in splits
            if stream is None or split != "train"
        }
    for split, split_data in data.items():
        check_readable(split, split_data.unreadable, len(split_data.pixels), data_args.max_unreadable_images)
        report_split(split, split_data)
    if data_args.blank_images:
        data = {split: split_data.blank() for split, split_data in data.items()}

    if stream is not None and training_args.do_train:
        data["train"] = StreamedVqaData(
            stream,
            rows["train"],
            processor.image_processor,
            batch_size=training_args.per_device_train_batch_size,
            questions_per_image=training_args.questions_per_image,
            buffer_size=data_args.streaming_buffer_size,
            seed=training_args.seed if training_args.data_seed is None else training_args.data_seed,
            max_unreadable=data_args.max_unreadable_images,
            process_index=training_args.process_index,
            num_processes=training_args.world_size,
        )

    def answer_scores(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        return evaluate_model(model, processor, data, None, training_args.per_device_eval_batch_size)[0]

    trainer = MMJepaTrainer(
        model=model,
        args=training_args,
        train_dataset=data.get("train"),
        eval_dataset=data.get("validation"),
        processing_class=processor,
        compute_answer_metrics=answer_scores,
    )
    # All that can be wrong with the flags was found out before anything is removed.
    if splits and trainer.is_world_process_zero():
        clear_folder(training_args)
    results: dict[str, float] = {}
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        results |= result.metrics | {"train_samples": len(data["train"].questions)}
        trainer.log_metrics("train", results)
        trainer.save_metrics("train", results)
        trainer.save_state()
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split in splits:
            results |= evaluate_split(trainer, processor, data[split], rows["train"], prefix)
    if training_args.do_train and trainer.is_world_process_zero():
        write_card(trainer, model_args, data_args.dataset_name, results)
        print(f"model:   {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub()
    model = trainer.whole_model()
    if trainer.is_world_process_zero():
        if training_args.export_dir is not None:
            export_parts(model, processor, training_args.export_dir)
        if training_args.onnx_dir is not None:
            from mmjepa.export.onnx import export_onnx  # its packages are an extra

            export_onnx(model, processor, training_args.onnx_dir)
    return results


if __name__ == "__main__":
    main()
