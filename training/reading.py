"""Flags -> the rows of a run, and the data that it trains on and evaluates."""

import logging
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset
from transformers import BaseImageProcessor

from ..data.images import VqaData, check_readable, prepare
from ..data.loading import first_rows, load_rows
from ..data.streaming import StreamedVqaData, stream_rows
from .arguments import DataArguments, MMJepaTrainingArguments

logger = logging.getLogger("mmjepa")


def read_rows(
    data_args: DataArguments, training_args: MMJepaTrainingArguments
) -> tuple[IterableDataset | None, DatasetDict]:
    """The training rows as a stream, None without --streaming; and the rows of each split, images still encoded.

    The splits are train, whose texts are always needed, and those whose images are looked at. Beside a stream train
    has its texts alone.
    """
    splits = dict.fromkeys(("train", *training_args.splits))
    source = (data_args.dataset_name, data_args.dataset_config_name, data_args.columns(), splits)
    # The other processes read what the first one leaves in the cache of `datasets`.
    with training_args.main_process_first():
        stream, rows = stream_rows(*source) if data_args.streaming else (None, load_rows(*source))
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_val_samples}
    if training_args.fast_dev_run:
        limits = dict.fromkeys(rows, 2 * training_args.per_device_train_batch_size)
    return stream, first_rows(rows, limits)


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
