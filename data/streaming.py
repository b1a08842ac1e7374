"""Training rows read from parquet shards while training goes on, without downloading or preparing them beforehand."""

import logging
from collections.abc import Collection, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    Value,
    load_dataset,
    load_dataset_builder,
)
from datasets import Sequence as ListOf
from datasets.distributed import split_dataset_by_node
from transformers import BaseImageProcessor

from .batches import ImageGroupedSampler
from .images import check_readable, image_hash, prepare_image, prepared_shape
from .loading import (
    READ_BY,
    DataError,
    check_splits,
    find_columns,
    inner_feature,
    naming_unreadable,
    one_image,
    shortened,
    single_texts,
    split_name,
    with_absolute_path,
    with_own_columns,
)

logger = logging.getLogger("mmjepa")

# After how many images of a pass a worker first checks the share of them that can't be read.
JUDGED_IMAGES = 100


def stream_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
    allow_outside_images: bool = False,
) -> tuple[IterableDataset, DatasetDict]:
    """The training rows as a stream, and the splits as `load_rows` gives them, but `train` with its texts alone.

    The texts of all training rows, without the images, are read beforehand into a table on the disk: the majority
    answers that evaluations are compared with count them all.

    Args:
        dataset_name: a Hub id or a folder, of parquet files; each is a shard.
        config_name: which configuration of a Hub data set.
        columns: name in the data set by name here; other columns are found by their name.
        wanted: the splits that are read, train among them; all by default.
        allow_outside_images: images may lie outside of the folder.

    Raises:
        DataError: the data are not parquet files, have no train split, or a wanted split or a column is missing.
    """
    found = load_dataset_builder(dataset_name, config_name).config.data_files or {}
    files = {split_name(split, found): paths for split, paths in found.items()}
    if "train" not in files or not all(path.endswith(".parquet") for paths in files.values() for path in paths):
        raise DataError(
            f"{dataset_name} can't be streamed: give a Hub id or a folder of parquet files that has a train split, or "
            "leave out --streaming."
        )
    check_splits(dataset_name, files, wanted or ())
    columns, folder = columns or {}, Path(dataset_name).absolute()
    train = load_dataset("parquet", data_files=files["train"], split="train", streaming=True)
    names = find_columns(train.column_names, columns, "train")
    image_column = next(column for column, name in names.items() if name == "image")
    texts = {column: name for column, name in names.items() if name != "image"}
    kinds = {name: train.features[column] for column, name in texts.items()}
    rows = {}
    with naming_unreadable(folder):
        # In the cache of `datasets`, by the files' names and times of change: the first process alone reads them.
        rows["train"] = Dataset.from_generator(
            read_texts,
            features=Features({name: Value("string") for name in texts.values()}),
            gen_kwargs={"files": files["train"], "names": texts, "kinds": kinds, "read_by": READ_BY},
        )
    for split in (split for split in wanted or files if split != "train"):
        others = load_dataset("parquet", data_files={split: files[split]}, split=split)
        rows[split] = with_own_columns(others, columns, folder, split, allow_outside_images)
    train = train.select_columns(list(names))
    feature, encoded = train.features[image_column], Image(decode=False)
    if Image in (type(feature), type(inner_feature(feature))):
        train = train.cast_column(image_column, encoded if isinstance(feature, Image) else ListOf(encoded))
    # A table's column can be renamed to the name it has, a stream's can't.
    train = train.rename_columns({column: name for column, name in names.items() if column != name})
    train = train.map(
        read_row,
        fn_kwargs={"kinds": kinds, "folder": str(folder), "allow_outside": allow_outside_images},
        features=Features({"image": Image(decode=False)} | {name: Value("string") for name in texts.values()}),
    )
    return train, DatasetDict(rows)


def read_row(row: dict[str, Any], kinds: dict[str, Any], folder: str, allow_outside: bool) -> dict[str, Any]:
    """The image, with bytes or an absolute path, and the texts of a row; `kinds` are the texts' features."""
    texts = single_texts({name: row[name] for name in kinds}, kinds)
    return {**with_absolute_path(one_image(row["image"]), folder, allow_outside), **texts}


def read_texts(
    files: list[str], names: dict[str, str], kinds: dict[str, Any], read_by: int
) -> Iterator[dict[str, str]]:
    """The texts of all rows, by their names here; of each file, their columns alone are read. `read_by` is not read:
    it is in the fingerprint."""
    for row in load_dataset("parquet", data_files=files, split="train", streaming=True, columns=list(names)):
        yield single_texts({names[column]: value for column, value in row.items()}, kinds)


class StreamedVqaData(torch.utils.data.IterableDataset):
    """The rows of a stream as [`VqaData`] gives them, without end: one pass over all rows follows another.

    Each process reads shards of its own. Where the shards are no multiple of the processes, each reads all and keeps
    rows of its own. The workers of a process divide its shards. Rows wait in a buffer and leave it in the order of
    [`ImageGroupedSampler`]: an image's questions together, if they were in the buffer together.

    Args:
        rows: a stream as `stream_rows` makes it.
        questions: the texts of all its rows.
        batch_size: rows of a batch on one process.
        buffer_size: rows that wait, in each worker.
        seed: decides, with the number of the pass, the order of the shards and of the rows in each buffer.
        max_unreadable: the share of the images that may be missing or broken. Each worker checks it for the images
            that it has read in a pass, from the `JUDGED_IMAGES`th on and at the end. The first ten are logged at once.
    """

    def __init__(
        self,
        rows: IterableDataset,
        questions: Dataset,
        image_processor: BaseImageProcessor,
        batch_size: int,
        questions_per_image: int,
        buffer_size: int,
        seed: int,
        max_unreadable: float,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        self.rows = rows
        self.questions = questions
        self.image_processor = image_processor
        self.batch_size = batch_size
        self.questions_per_image = questions_per_image
        self.buffer_size = buffer_size
        self.seed = seed
        self.max_unreadable = max_unreadable
        self.process_index = process_index
        self.num_processes = num_processes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in count():
            rows = self.one_pass(number)
            first = next(rows, None)
            if first is None:  # more workers than shards: none for this one
                return
            yield first
            yield from rows

    def one_pass(self, number: int) -> Iterator[dict[str, Any]]:
        """The rows of this process and worker, each once.

        Raises:
            DataError: more images than `max_unreadable` allows can't be read.
        """
        self.num_images = 0  # of this pass
        self.unreadable: list[str] = []
        seed = self.seed + number
        shuffled = self.rows.shuffle(seed=seed, buffer_size=1)  # the shards; their rows wait for the buffer
        rows = iter(split_dataset_by_node(shuffled, self.process_index, self.num_processes))
        for block_number in count():
            block = list(islice(rows, self.buffer_size))
            if not block:
                check_readable("train", self.unreadable, self.num_images, self.max_unreadable)
                return
            yield from self._grouped(block, seed, block_number)

    def _grouped(self, block: list[dict[str, Any]], seed: int, block_number: int) -> Iterator[dict[str, Any]]:
        """The rows of a full buffer, by image; each image is prepared once."""
        hashes = [image_hash(row, number)["hash"] for number, row in enumerate(block)]
        sampler = ImageGroupedSampler(hashes, self.batch_size, self.questions_per_image, seed)
        sampler.set_epoch(block_number)
        shape = prepared_shape(self.image_processor)
        pixels: dict[str, torch.Tensor] = {}
        for number in sampler:
            row, image = block[number], hashes[number]
            if image not in pixels:
                prepared = prepare_image(row, self.image_processor, shape)
                pixels[image] = torch.from_numpy(prepared["pixels"])
                self._count(row, prepared["fault"])
            texts = {name: text for name, text in row.items() if name != "image"}
            yield {**texts, "image_id": image, "pixels": pixels[image]}

    def _count(self, row: dict[str, Any], fault: str) -> None:
        """Counts the image of `row`; warns where it has a fault, and raises DataError where too many have one."""
        self.num_images += 1
        if not fault:
            return
        name = (row["image"] or {}).get("path") or f"that of {row['question']!r}"
        name = f"{shortened(name)} ({fault})"
        self.unreadable.append(name)
        if len(self.unreadable) <= 10:
            logger.warning("train: an image is missing or can't be decoded and is read as zeros: %s", name)
        if self.num_images >= JUDGED_IMAGES:
            check_readable("train", self.unreadable, self.num_images, self.max_unreadable)
