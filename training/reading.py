"""Flags -> the rows of a run, and the data that it trains on and evaluates."""

import logging
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset
from datasets.exceptions import DatasetNotFoundError
from transformers import BaseImageProcessor

from ..data.images import VqaData, check_readable, hold_out, prepare
from ..data.loading import drop_unanswered, first_rows, is_answered, load_rows
from ..data.streaming import StreamedVqaData, stream_rows
from .arguments import DataArguments, MMJepaTrainingArguments

logger = logging.getLogger("mmjepa")


def read_rows(
    data_args: DataArguments, training_args: MMJepaTrainingArguments, needs_train: bool
) -> tuple[IterableDataset | None, DatasetDict]:
    """The training rows as a stream, None without --streaming; and the rows of each split, images still encoded.

    The splits are those whose images are looked at, and train, whose texts evaluations are compared with. Beside a
    stream train has its texts alone. Without `needs_train` it has no rows where the data set has no such split.

    Raises:
        ValueError: there is no such data set, here or on the Hub; or a split is missing and can't be held out of
            train.
    """
    wanted = list(dict.fromkeys((*(["train"] if needs_train else []), *training_args.splits)))
    source = (data_args.dataset_name, data_args.dataset_config_name, data_args.columns(), wanted)
    # The other processes read what the first one leaves in the cache of `datasets`.
    with training_args.main_process_first():
        try:
            if data_args.streaming:
                stream, rows = stream_rows(*source, data_args.allow_outside_images)
            else:
                stream, rows = None, load_rows(*source, ["train"], data_args.allow_outside_images)
        except (DatasetNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"--dataset_name is {data_args.dataset_name!r}: there is no such folder here, and no such data set "
                f"was found on the Hub ({error})."
            ) from error
        for split in rows:
            rows[split] = drop_unanswered(rows[split], split)
        if "validation" in wanted and "validation" not in rows:
            rows["train"], rows["validation"] = hold_out(
                rows["train"],
                data_args.validation_split_percentage,
                # Not --seed: runs of other seeds, and later evaluations of their models, hold out the same images.
                training_args.data_seed or 0,
                data_args.preprocessing_num_workers,
            )
            logger.info(
                "There is no validation split: of train %d rows, those about %g %% of the images, are held out for it",
                *(len(rows["validation"]), data_args.validation_split_percentage),
            )
    if stream is not None:
        stream = stream.filter(is_answered)
    if any("answers" in data.column_names for data in rows.values()):
        logger.info("Answers are lists: the most frequent one is trained on, and each of them counts as right")
    if not rows.get("train"):
        logger.info("There are no training rows: evaluations are without majority answers and ranked answers")
        rows["train"] = Dataset.from_dict({"question": [], "answer": []})
    limits = {"train": training_args.overfit or data_args.max_train_samples, "validation": data_args.max_val_samples}
    if training_args.fast_dev_run:
        limits = dict.fromkeys(rows, 2 * training_args.per_device_train_batch_size)
    return stream, first_rows(rows, limits)


def floor_rows(rows: DatasetDict, split: str) -> Dataset:
    """What majority and ranked answers are learnt from, where `split` is evaluated: none of its own rows."""
    if split != "train":
        return rows["train"]
    logger.warning("train is evaluated: majority and ranked answers, which would be learnt from it, are left out")
    return rows["train"].select([])


def prepare_splits(
    stream: IterableDataset | None,
    rows: DatasetDict,
    image_processor: BaseImageProcessor,
    data_args: DataArguments,
    training_args: MMJepaTrainingArguments,
) -> dict[str, Any]:
    """[`VqaData`] of each split that is looked at; with --streaming train is [`StreamedVqaData`].

    Raises:
        ValueError: too many images of a split are missing or can't be decoded.
    """
    splits = [split for split in training_args.splits if stream is None or split != "train"]
    data = {split: prepare_split(split, rows[split], image_processor, data_args, training_args) for split in splits}
    if stream is None or not training_args.do_train:
        return data
    train = StreamedVqaData(
        stream,
        rows["train"],
        image_processor,
        batch_size=training_args.per_device_train_batch_size,
        questions_per_image=training_args.questions_per_image,
        buffer_size=data_args.streaming_buffer_size,
        seed=training_args.seed if training_args.data_seed is None else training_args.data_seed,
        max_unreadable=data_args.max_unreadable_images,
        process_index=training_args.process_index,
        num_processes=training_args.world_size,
    )
    return {"train": train, **data}


def prepare_split(
    name: str,
    rows: Dataset,
    image_processor: BaseImageProcessor,
    data_args: DataArguments,
    training_args: MMJepaTrainingArguments,
) -> VqaData:
    """The images of `rows` prepared, or black ones; ValueError where too many can't be read."""
    with training_args.main_process_first():
        data = prepare(rows, image_processor, data_args.preprocessing_num_workers)
    unreadable = list(data.unreadable.values())
    check_readable(name, unreadable, len(data.pixels), data_args.max_unreadable_images)
    report_split(name, data)
    return data.blank() if data_args.blank_images else data


def report_split(split: str, data: VqaData) -> None:
    """Logs how large a split is and which of its images can't be read."""
    logger.info("%s: %d questions about %d images", split, len(data.questions), len(data.pixels))
    if data.unreadable:
        logger.warning(
            "%s: %d images are missing or can't be decoded and are read as zeros; the first: %s",
            split,
            len(data.unreadable),
            ", ".join(list(data.unreadable.values())[:10]),
        )
