#!/usr/bin/env python
"""Trains, evaluates and exports MMJepa on PathVQA or any data set of images, questions and answers.

    python run_pathvqa.py --fast_dev_run --batch_size 2    # PathVQA and the published DINOv2 and BART
    python run_pathvqa.py configs/demo.json --seed 1

The first argument may be a JSON or YAML file of flags; flags after it win. Flags that are left out have the defaults
that `--help` shows.
"""

# ruff: noqa: E402
import sys

from mmjepa.messages import checking_the_call, end_run, hide_unhelpful_messages, show_messages

# What is wrong with the flags is said before the imports that take seconds.
if __name__ == "__main__":
    hide_unhelpful_messages()
    from mmjepa.training.command_line import read_command_line

    try:
        with checking_the_call():
            read_command_line(sys.argv[1:])
    except (Exception, KeyboardInterrupt) as error:
        end_run(sys.argv[0], error)

from datasets import DatasetDict, disable_progress_bars
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from mmjepa.bars import calm_bars
from mmjepa.data.images import VqaData
from mmjepa.data.new_images import load_new_rows
from mmjepa.evaluation.controls import score_majority
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.export.parts import export_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.reporting.outcome import outcome_lines
from mmjepa.reporting.table import show_lines
from mmjepa.training.adapters import with_adapters
from mmjepa.training.arguments import flag_parser, parse_arguments
from mmjepa.training.building import build
from mmjepa.training.choices import choice_lines, choices
from mmjepa.training.command_line import given_flags, read_command_line
from mmjepa.training.flags import MAX_ANSWER_TOKENS
from mmjepa.training.overfitting import overfit
from mmjepa.training.reading import (
    floor_rows,
    prepare_split,
    prepare_splits,
    probed_data,
    read_rows,
    remember_hold_out,
)
from mmjepa.training.run_folder import clear_folder, starting_checkpoint, write_run_file
from mmjepa.training.running import answer_new_images, evaluate_split, train, write_card
from mmjepa.training.targets import fit_targets
from mmjepa.training.trainer import MMJepaTrainer


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs what the flags ask for; returns this run's numbers, which are also in `all_results.json`."""
    # Parse.
    argv = sys.argv[1:] if argv is None else argv
    with checking_the_call():
        model_args, data_args, training_args = parse_arguments(argv)
    show_messages(is_first_process=training_args.process_index == 0)
    if training_args.disable_tqdm:
        disable_progress_bars()
        disable_progress_bar()
    set_seed(training_args.seed)
    checkpoint = starting_checkpoint(training_args, model_args.model_name_or_path)

    # Load. A saved model that is only exported, or only asked about new images, needs no rows.
    is_new = model_args.model_name_or_path is None
    needs_rows = is_new or training_args.splits
    needs_train = is_new or training_args.do_train
    stream, rows, held_out = None, DatasetDict(), None
    if needs_rows:
        stream, rows, held_out = read_rows(data_args, training_args, needs_train)
    new_rows = None
    if training_args.predict_data:
        questions = training_args.predict_question or ()
        new_rows = load_new_rows(
            training_args.predict_data,
            questions,
            data_args.columns(),
            data_args.allow_outside_images,
            data_args.image_folder,
        )

    # Build.
    processor, model = build(model_args, rows.get("train"), training_args.do_train)
    remember_hold_out(model.config, held_out, training_args, is_new)
    if is_new or data_args.max_answer_tokens is not None:
        most = model.config.text_config.max_position_embeddings
        if (data_args.max_answer_tokens or 0) > most:
            raise ValueError(
                f"--max_answer_tokens is {data_args.max_answer_tokens}: the text model has {most} at most."
            )
        model.generation_config.max_new_tokens = data_args.max_answer_tokens or MAX_ANSWER_TOKENS
    if is_new:
        fit_targets(model, processor, rows["train"], training_args.device)
    if training_args.do_train and training_args.lora_r is not None:
        model = with_adapters(model, training_args)
    data = prepare_splits(stream, rows, processor.image_processor, data_args, training_args)
    if new_rows is not None:
        new_data = prepare_split("predict_data", new_rows, processor.image_processor, data_args, training_args)

    def answer_scores(model: MMJepaForConditionalGeneration, data: VqaData) -> dict[str, float]:
        """Scores during training, which choose the best checkpoint, and the image gain; controls come at the end."""
        metrics, answers = evaluate_model(
            model,
            processor,
            data,
            None,
            training_args.per_device_eval_batch_size,
            show_progress=not training_args.disable_tqdm,
        )
        asked = [row["question"] for row in answers]
        truths = [row.get("answers", row["answer"]) for row in answers]
        return metrics | (score_majority(rows["train"], asked, truths) if asked else {})

    trainer = MMJepaTrainer(
        model=model,
        args=training_args,
        train_dataset=data.get("train"),
        eval_dataset=data.get("validation"),
        processing_class=processor,
        compute_answer_metrics=answer_scores,
    )

    if training_args.overfit is not None:
        return overfit(trainer)

    # Train. All errors about flags have been found by now, so the folder may be cleared.
    clear_folder(training_args)
    if training_args.do_train and trainer.is_world_process_zero():
        chosen = choices(model_args, training_args, processor, model, data, held_out)
        write_run_file(training_args, given_flags(read_command_line(argv, flag_parser())), data, chosen)
        show_lines(choice_lines(chosen))
    results = train(trainer, checkpoint) if training_args.do_train else {}

    # Evaluate and predict.
    def train_data(split: str) -> VqaData | None:
        return probed_data(data, rows, split, processor.image_processor, model.config, data_args, training_args)

    if training_args.do_eval:
        results |= evaluate_split(trainer, data["validation"], rows["train"], "eval", train_data("validation"))
    if new_rows is not None:
        results |= answer_new_images(trainer, new_data)
    elif training_args.do_predict:
        split = training_args.predict_split
        prefix = "test" if split == "test" else "predict"
        results |= evaluate_split(trainer, data[split], floor_rows(rows, split), prefix, train_data(split))

    # Hand out.
    if training_args.do_train and trainer.is_world_process_zero():
        write_card(trainer, model_args, data_args.dataset_name, results)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    model = trainer.whole_model()
    if training_args.export_dir is not None and trainer.is_world_process_zero():
        export_parts(model, processor, training_args.export_dir)
    if training_args.onnx_dir is not None and trainer.is_world_process_zero():
        from mmjepa.export.onnx import export_onnx  # its packages are an extra

        export_onnx(model, processor, training_args.onnx_dir)
    if training_args.do_train and trainer.is_world_process_zero():
        show_lines(outcome_lines(results, training_args.output_dir))
    return results


if __name__ == "__main__":
    try:
        with calm_bars():
            main()
    except (Exception, KeyboardInterrupt) as error:
        end_run(sys.argv[0], error)
