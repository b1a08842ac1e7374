"""Trains a small model that anyone would compare with on the same data, and scores it as this project's model.

    python -m mmjepa.experiments.baselines configs/pathvqa_scratch.json --dataset_name pathvqa --baseline blip \\
        --seed 0 --output_dir runs/baselines/blip-0

The first argument is a file of flags; this project's flags work after it. A baseline has the same widths, layers,
tokenizer, prepared images, augmentations, batches, epochs, --learning_rate, schedule and weight decay. It differs in
what only this project's model has: the alignment, its losses and its warm-up. The linear probe reads the image encoder
of a trained model, --model, and its images are not augmented.

The output folder gets all_results.json, and eval_answers.jsonl, which `mmjepa score` reads.
"""

import argparse
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from datasets import Dataset
from transformers import BaseImageProcessor, Trainer, set_seed

from ..data.collator import VqaCollator, tokens_of_views
from ..data.images import VqaData
from ..data.pixels import normalize_pixels
from ..evaluation.answerer import evaluating
from ..evaluation.controls import right_answers_of, score_controls, shuffled_images
from ..evaluation.evaluate import Columns, columns_of_asked_rows, json_line
from ..evaluation.loading import load_model_and_processor
from ..evaluation.shares import batches
from ..messages import show_messages
from ..metrics.vqa_answers.vqa_answers import score_answers
from ..reporting.table import answer_table, terminal_width
from ..training.arguments import MMJepaTrainingArguments, parse_arguments
from ..training.augmentation import augment
from ..training.building import build
from ..training.callbacks import SamplerEpochCallback
from ..training.flags import MAX_ANSWER_TOKENS
from ..training.loaders import grouped_loader
from ..training.reading import prepare_splits, read_rows
from ..training.run_folder import clear_folder
from .baseline_models import BASELINES, Baseline, Batch
from .run_study import CELL_FLAGS


class BaselineTrainer(Trainer):
    """The library's Trainer with this project's batches and views, on one device."""

    model: Baseline
    args: MMJepaTrainingArguments
    train_dataset: VqaData
    data_collator: VqaCollator

    def __init__(self, *args, image_processor: BaseImageProcessor, **kwargs):
        super().__init__(*args, **kwargs)
        self.image_processor = image_processor

    def get_train_dataloader(self):
        batch_size = self.args.per_device_train_batch_size
        loader, sampler = grouped_loader(self.train_dataset, self.args, batch_size, 1, self.data_collator)
        self.add_callback(SamplerEpochCallback(sampler.set_epoch))
        return loader

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(model_inputs(inputs, self.image_processor, self.args.augmentations or ()))

    def answers_about(self, data: VqaData) -> list[str]:
        """The greedy answers to all questions of `data`."""
        lengths = defaultdict(list)
        for row, ids in enumerate(self.model.tokenizer(data.questions["question"][:], truncation=True)["input_ids"]):
            lengths[len(ids)].append(row)
        answers: dict[int, str] = {}
        with evaluating(self.model), self.accelerator.autocast():
            for rows in lengths.values():
                for batch in batches(rows, self.args.per_device_eval_batch_size):
                    inputs = self._prepare_inputs(self.data_collator(data.__getitems__(batch)))
                    answered = self.model.answer(model_inputs(inputs, self.image_processor))
                    answers |= dict(zip(batch, answered, strict=True))
        return [answers[row] for row in range(len(data))]


def model_inputs(batch: Batch, image_processor: BaseImageProcessor, augmentations: Collection[str] = ()) -> Batch:
    """A collator's batch with normalised random views of its images, and with the texts about these views."""
    views, flips = augment(batch["pixel_values"], augmentations, batch["keep_sides"])
    return {**batch, "pixel_values": normalize_pixels(views, image_processor)} | tokens_of_views(batch, flips)


def answer_split(trainer: BaselineTrainer, data: VqaData) -> Columns:
    """The columns of the rows with question and answer, and the predictions and controls of `evaluate_model`."""
    columns = columns_of_asked_rows(data)
    asked = VqaData(data.questions.select(columns["row"]), data.pixels)
    columns |= {"prediction": trainer.answers_about(asked), "blank": trainer.answers_about(asked.blank())}
    others = [with_images(asked, image_ids) for image_ids in shuffled_images(columns["image_id"])]
    columns["all_shuffled"] = list(zip(*map(trainer.answers_about, others), strict=True))
    return columns


def with_images(data: VqaData, image_ids: list[int]) -> VqaData:
    """The same questions about other images."""
    return VqaData(data.questions.remove_columns("image_id").add_column("image_id", image_ids), data.pixels)


def score_columns(columns: Columns, train_questions: Dataset, seed: int) -> dict[str, float]:
    """The numbers of the answers and of the controls, by their names in `evaluate_model`."""
    scores = score_answers(columns["prediction"], right_answers_of(columns), columns["question"])
    return scores | score_controls(columns, train_questions, seed)


def count_weights(baseline: Baseline) -> dict[str, int]:
    """The number of all parameters and of those that are trained."""
    weights = list(baseline.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def read_flags(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """This command's own flags, and those of this project, the file of flags first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="a file of flags, such as configs/pathvqa_scratch.json")
    parser.add_argument("--baseline", choices=BASELINES, required=True)
    parser.add_argument("--model", help="the trained model whose image encoder the linear probe reads")
    own, flags = parser.parse_known_args(argv)
    if (own.baseline == "linear_probe") != (own.model is not None):
        parser.error("--model names the trained model of --baseline linear_probe: give both or neither.")
    one_run = [part for name, value in CELL_FLAGS.items() for part in (f"--{name}", str(value))]
    return own, [own.config, *one_run, *flags]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Trains and scores a baseline; returns its numbers, which are also in `all_results.json`."""
    own, flags = read_flags(argv)
    model_args, data_args, args = parse_arguments(flags)
    show_messages(is_first_process=True)
    set_seed(args.seed)
    _, rows, _ = read_rows(data_args, args, needs_train=True)
    if own.model is None:
        processor, model = build(model_args, rows["train"])
    else:
        model, processor = load_model_and_processor(own.model)
        args.augmentations = None  # a probe reads the images as they are
    data = prepare_splits(None, rows, processor.image_processor, data_args, args)
    max_new_tokens = data_args.max_answer_tokens or MAX_ANSWER_TOKENS
    baseline = BASELINES[own.baseline](model, processor, rows["train"]["answer"][:], max_new_tokens)
    trainer = BaselineTrainer(
        baseline,
        args,
        # With the question as alignment text a batch has no other texts.
        VqaCollator(processor, "question", as_bytes=True, side_words=args.swapped_words),
        data["train"],
        image_processor=processor.image_processor,
    )
    clear_folder(args)
    results = trainer.train().metrics | count_weights(baseline) | {"learning_rate": args.learning_rate}
    trainer.save_metrics("train", results)

    columns = answer_split(trainer, data["validation"])
    numbers = score_columns(columns, rows["train"], args.seed)
    scores = {f"eval_{name}": number for name, number in numbers.items()}
    trainer.save_metrics("eval", scores)
    with open(Path(args.output_dir, "eval_answers.jsonl"), "w") as file:
        file.writelines(json_line(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
    print(answer_table(numbers, terminal_width()))
    return results | scores


if __name__ == "__main__":
    main()
