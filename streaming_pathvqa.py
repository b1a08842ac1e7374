"""Training rows read from parquet shards while training goes on, without downloading or preparing them beforehand."""

from collections.abc import Collection, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, Image, IterableDataset, load_dataset, load_dataset_builder
from datasets.distributed import split_dataset_by_node
from transformers import BaseImageProcessor

from .data_pathvqa import (
    SPLIT_NAMES,
    ImageGroupedSampler,
    check_splits,
    fill_missing,
    find_columns,
    image_hash,
    prepare_image,
    prepared_shape,
    with_own_columns,
)


def stream_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
) -> tuple[IterableDataset, DatasetDict]:
    """The training rows as a stream; the other splits as `load_rows` gives them, with the texts alone as `train`.

    The texts of all training rows are read beforehand: they are few bytes, and the majority answers that evaluations
    are compared with count them all.

    Args:
        dataset_name: a Hub id or a folder, of parquet files; each is a shard.
        config_name: which configuration of a Hub data set.
        columns: name in the data set by name here; other columns are found by their name.
        wanted: the splits that are read, train among them; all by default.

    Raises:
        ValueError: the data are not parquet files, have no train split, or a wanted split or a column is missing.
    """
    found = load_dataset_builder(dataset_name, config_name).config.data_files or {}
    files = {SPLIT_NAMES.get(split, split): list(paths) for split, paths in found.items()}
    if "train" not in files or not all(path.endswith(".parquet") for paths in files.values() for path in paths):
        raise ValueError(
            f"{dataset_name} can't be streamed: give a Hub id or a folder of parquet files that has a train split, or "
            "leave out --streaming."
        )
    check_splits(dataset_name, files, wanted or ())
    columns = columns or {}
    train = load_dataset("parquet", data_files=files["train"], split="train", streaming=True)
    names = find_columns(train.column_names, columns, "train")
    image_column = next(column for column, name in names.items() if name == "image")
    texts = load_dataset(
        "parquet",
        data_files=files["train"],
        split="train",
        streaming=True,
        columns=[column for column in names if column != image_column],
    )
    rows = {"train": Dataset.from_list([with_texts(row, names) for row in texts])}
    for split in (split for split in wanted or files if split != "train"):
        others = load_dataset("parquet", data_files={split: files[split]}, split=split)
        rows[split] = with_own_columns(others, columns, Path(), split)
    train = train.select_columns(list(names)).cast_column(image_column, Image(decode=False))
    # Of a stream, unlike of a table, a column can't be renamed to what it is called already.
    train = train.rename_columns({column: name for column, name in names.items() if column != name})
    return train, DatasetDict(rows)


def with_texts(row: dict[str, Any], names: dict[str, str]) -> dict[str, str]:
    """The texts of a row, by their names here."""
    return fill_missing(*row.values(), columns=[names[column] for column in row])


class StreamedVqaData(torch.utils.data.IterableDataset):
    """The rows of a stream as [`VqaData`] gives them, without end: one pass over all rows follows another.

    Processes read different shards, or, where the shards are no multiple of the processes, different ones of all rows;
    the workers of a process read different shards. Rows wait in a buffer, out of which they come in the order of
    [`ImageGroupedSampler`]: an image's questions together, if they were in the buffer together.

    Args:
        rows: a stream as `stream_rows` makes it.
        questions: the texts of all its rows.
        batch_size: rows of a batch on one process.
        buffer_size: rows that wait, in each worker.
        seed: decides, with the number of the pass, the order of the shards and of the rows in each buffer.
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
        """The rows of this process and worker, each once."""
        seed = self.seed + number
        shuffled = self.rows.shuffle(seed=seed, buffer_size=1)  # the shards; their rows wait for the buffer
        rows = iter(split_dataset_by_node(shuffled, self.process_index, self.num_processes))
        for block_number in count():
            block = list(islice(rows, self.buffer_size))
            if not block:
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
                pixels[image] = torch.from_numpy(prepare_image(row, self.image_processor, shape)["pixels"])
            texts = {name: text for name, text in row.items() if name != "image"}
            yield {**fill_missing(*texts.values(), columns=list(texts)), "image_id": image, "pixels": pixels[image]}
