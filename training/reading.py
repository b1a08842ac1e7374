"""Flags -> the rows of a run, and the data that it trains on and evaluates."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets
from transformers import BaseImageProcessor

from ..configuration_mmjepa import MMJepaConfig
from ..data.columns import SET_COLUMN
from ..data.images import VqaData, check_readable, data_hash, image_hashes, prepare
from ..data.joining import join_sets, sets_of, short_names
from ..data.rows import drop_unanswered, first_rows, groups_of, hold_out, is_answered, load_rows
from ..data.streaming import StreamedVqaData, stream_rows
from ..evaluation.probe import probed_rows
from .arguments import MMJepaTrainingArguments
from .flags import DataArguments

logger = logging.getLogger("mmjepa")


def read_rows(
    data_args: DataArguments, training_args: MMJepaTrainingArguments, needs_train: bool
) -> tuple[IterableDataset | None, DatasetDict, dict[str, Any] | None]:
    """Reads the splits whose images a run looks at, and train, whose texts evaluations are compared with.

    Args:
        needs_train: a missing train split is an error; without it, train then has no rows.

    Returns:
        the training rows as a stream, None without --streaming; the rows of each split, images still encoded, with
        --streaming train's texts alone; and what was held out of train, as in `held_out` of [`MMJepaConfig`], None if
        nothing was.

    Raises:
        DataError: there is no such data set, here or on the Hub; or a split is missing and can't be held out of
            train.
    """
    wanted = list(dict.fromkeys((*(["train"] if needs_train else []), *training_args.splits)))
    held_out = None
    # The other processes read what the first one leaves in the cache of `datasets`.
    with training_args.main_process_first():
        stream, rows = read_splits(data_args, wanted)
        for split in rows:
            rows[split] = drop_unanswered(rows[split], split)
        lacking = without_validation(rows) if "validation" in wanted else []
        if lacking:
            # Not --seed: runs of other seeds, and later evaluations of their models, hold out the same images.
            rows, held_out = with_held_out(rows, lacking, data_args, training_args.data_seed or 0)
        elif data_args.group_column is not None:
            warn_of_shared_groups(rows, data_args.group_column)
        warn_of_shared_images(rows, data_args.preprocessing_num_workers)
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
    return stream, first_rows(rows, limits), held_out


def read_splits(data_args: DataArguments, wanted: list[str]) -> tuple[IterableDataset | None, DatasetDict]:
    """The training rows as a stream, None without --streaming, and the rows of each wanted split that exists.

    Several data sets are joined.

    Raises:
        DataError: there is no such data set, here or on the Hub.
    """
    names = data_args.dataset_name
    sets = {}
    for name, short_name in zip(names, short_names(names), strict=True):
        source = (name, data_args.dataset_config_name, data_args.columns(), wanted)
        if data_args.streaming:
            return stream_rows(*source, **data_args.rows())
        sets[short_name] = load_rows(*source, ["train"], **data_args.rows())
    return None, join_sets(sets) if len(sets) > 1 else next(iter(sets.values()))


def without_validation(rows: DatasetDict) -> list[str]:
    """The data sets that have no validation split; [""] stands for the only data set."""
    validated = set(sets_of(rows["validation"])) if "validation" in rows else set()
    return [name for name in dict.fromkeys(sets_of(rows["train"])) if name not in validated] if "train" in rows else []


def with_held_out(
    rows: DatasetDict, lacking: Sequence[str], data_args: DataArguments, seed: int
) -> tuple[DatasetDict, dict[str, Any]]:
    """`rows` with validation rows held out of train; and `held_out` of [`MMJepaConfig`], which says how.

    Args:
        lacking: the data sets that have no validation split.
    """
    share, groups = data_args.validation_split_percentage, data_args.group_column
    workers = data_args.preprocessing_num_workers
    is_lacking = np.isin(sets_of(rows["train"]), lacking)
    divided = rows["train"] if is_lacking.all() else rows["train"].select(np.flatnonzero(is_lacking))
    images = data_hash(divided, workers)
    held_out = {"percentage": share, "seed": seed, "group_column": groups, "images": images}
    train, validation = hold_out(divided, share, seed, groups, workers)
    logger.info(
        "There is no validation split%s: %d of %d rows of train are held out for it, those about %s",
        *("".join(f" of {name}" for name in lacking if name), len(validation), len(divided), described(held_out)),
    )
    if not is_lacking.all():
        train = concatenate_datasets([rows["train"].select(np.flatnonzero(~is_lacking)), train])
        validation = concatenate_datasets([rows["validation"], validation])
    return DatasetDict({**rows, "train": train, "validation": validation}), held_out


def warn_of_shared_images(rows: DatasetDict, num_threads: int) -> None:
    """Warns if an image that is evaluated in one data set is trained on in another."""
    if "train" not in rows or SET_COLUMN not in rows["train"].column_names:
        return
    trained_in = defaultdict(set)
    for image, name in zip(image_hashes(rows["train"], num_threads), sets_of(rows["train"]), strict=True):
        trained_in[image].add(name)
    for split in rows.keys() - {"train"}:
        evaluated = set(zip(image_hashes(rows[split], num_threads), sets_of(rows[split]), strict=True))
        if shared := [image for image, name in evaluated if trained_in[image] - {name}]:
            logger.warning(
                "%d of the %d images of %s are trained on in another data set: what is measured is too good",
                *(len(shared), len(evaluated), split),
            )


def warn_of_shared_groups(rows: DatasetDict, column: str) -> None:
    """Warns if a group has rows in train and in an evaluated split."""
    groups = {split: set(groups_of(data, column)) - {""} for split, data in rows.items()}
    train = groups.pop("train", set())
    for split in groups:
        if shared := train & groups[split]:
            logger.warning(
                "%d of the %d groups by %r of %s have rows of train too, such as %r: what is measured is too good",
                *(len(shared), len(groups[split]), column, split, min(shared)),
            )


def remember_hold_out(
    config: MMJepaConfig, held_out: dict[str, Any] | None, training_args: MMJepaTrainingArguments, is_new: bool
) -> None:
    """Warns if a saved model may have been trained on rows that are held out now.

    A training also notes what it holds out in the configuration, which every checkpoint has.
    """
    if held_out is not None and not is_new and training_args.process_index == 0:
        if note := hold_out_note(config.held_out or (), held_out):
            logger.warning(note)
    if training_args.do_train:
        earlier = [] if is_new else config.held_out or [None]
        config.held_out = [*earlier, held_out]


def described(held_out: dict[str, Any] | None) -> str:
    """What was held out, in words."""
    if held_out is None:
        return "nothing"
    things = f"the groups by {held_out['group_column']!r}" if held_out["group_column"] else "the images"
    return f"{held_out['percentage']:g} % of {things}, by seed {held_out['seed']} (data {held_out['images'][:8]})"


def hold_out_note(trainings: Sequence[dict[str, Any] | None], held_out: dict[str, Any]) -> str | None:
    """One line if what is held out now differs from what a model's trainings held out; None if it does not.

    Args:
        trainings: `held_out` of the model's configuration; empty if it is not known.
        held_out: of the rows that the model is evaluated on.
    """
    if not trainings:
        return (
            "It is not known on which rows the model was trained: those that are held out of train now may be among "
            "them."
        )
    for training in trainings:
        if training == held_out:
            continue
        differs = f"A training of the model held out {described(training)}, and now it is {described(held_out)}."
        rule = ("seed", "group_column")
        if (
            training is not None
            and all(training[name] == held_out[name] for name in rule)
            and held_out["percentage"] <= training["percentage"]
        ):
            return f"{differs} An image that is in both data was held out then too."
        if training is not None and training["images"] == held_out["images"]:
            return f"{differs} The model was trained on rows that are held out now: what is measured is too good."
        return f"{differs} If it was trained on these data, it was trained on rows that are held out now."
    return None


def floor_rows(rows: DatasetDict, split: str) -> Dataset:
    """The rows that majority and ranked answers are learnt from; none of the evaluated `split` itself."""
    if split != "train":
        return rows["train"]
    logger.warning("train is evaluated: majority and ranked answers, which would be learnt from it, are left out")
    return rows["train"].select([])


def probed_data(
    data: Mapping[str, Any],
    rows: DatasetDict,
    split: str,
    image_processor: BaseImageProcessor,
    config: MMJepaConfig,
    data_args: DataArguments,
    training_args: MMJepaTrainingArguments,
) -> VqaData | None:
    """The training rows and images to which the probes of an evaluated `split` are fitted.

    None where there is nothing to fit to: train itself is evaluated, its images are a stream, or too many of those
    that the probes need can't be read. An evaluation goes on without them.

    Args:
        data: of `prepare_splits`. Where a model was trained, its images are prepared.
    """
    train = rows["train"]
    if split == "train" or data_args.blank_images or "image" not in train.column_names:
        return None
    if "train" in data:
        return data["train"]
    chosen = probed_rows(train, rows[split], config.yes_no_words).index.tolist()
    if not chosen:
        return None
    with training_args.main_process_first():
        probed = prepare(train.select(chosen), image_processor, data_args.preprocessing_num_workers)
    if len(probed.unreadable) > data_args.max_unreadable_images * len(probed.pixels):
        logger.info("%d training images can't be read: there are no probes", len(probed.unreadable))
        return None
    return probed


def prepare_splits(
    stream: IterableDataset | None,
    rows: DatasetDict,
    image_processor: BaseImageProcessor,
    data_args: DataArguments,
    training_args: MMJepaTrainingArguments,
) -> dict[str, Any]:
    """[`VqaData`] of each split whose images are needed; with --streaming train is [`StreamedVqaData`].

    Raises:
        DataError: too many images of a split are missing or can't be decoded.
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
    """The images of `rows` prepared, or black ones with --blank_images.

    Raises:
        DataError: too many images can't be read.
    """
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
