"""Training rows read from parquet shards while training goes on, without downloading or preparing them beforehand."""

import glob
import logging
from collections.abc import Collection, Iterator, Mapping
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

from .columns import READ_BY, check_texts, find_columns, inner_feature, named_choices, one_text, single_texts
from .errors import DataError, shortened
from .images import check_readable, image_hash, prepare_image, prepared_shape
from .paths import FIRST_NAMES, ImageRoots, named_file, one_image
from .rows import with_own_columns
from .sampling import ImageGroupedSampler
from .table_files import find_parquet
from .tables import check_splits, check_where, naming_missing, naming_unreadable, rows_where, with_train_split

logger = logging.getLogger("mmjepa")

# A worker first checks the share of unreadable images after this many images of a pass.
JUDGED_IMAGES = 100


def stream_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
    allow_outside_images: bool = False,
    image_folder: str | None = None,
    train_split: str | None = None,
    where: Mapping[str, str] | None = None,
) -> tuple[IterableDataset, DatasetDict]:
    """The training rows as a stream, and the splits as `load_rows` gives them, but `train` with its texts alone.

    The texts of all training rows, without the images, are read first into a table on the disk: the majority answers
    that evaluations are compared with count all of them.

    Args:
        dataset_name: a Hub id or a folder, of parquet files; each is a shard.
        config_name: which configuration of a Hub data set.
        columns: name in this project -> name in the data set; other columns are found by their name.
        wanted: the splits to read, train among them; all by default.
        allow_outside_images, image_folder, train_split, where: as for `load_rows`.

    Raises:
        DataError: the data are not parquet files, have no train split, or a wanted split or a column is missing.
    """
    files = parquet_files(dataset_name, config_name, train_split)
    check_splits(dataset_name, files, wanted or ())
    columns, where, folder = columns or {}, where or {}, Path(dataset_name).absolute()
    train = load_dataset("parquet", data_files=files["train"], split="train", streaming=True)
    for column in where:
        check_where(train.column_names, column, "train")
    names = find_columns(train, columns, "train")
    names |= named_choices(train.features, names)
    kinds = {name: train.features[column] for column, name in names.items() if name != "image"}
    train = train.filter(is_wanted, fn_kwargs={"where": where}) if where else train
    image_column = next(column for column, name in names.items() if name == "image")
    first_images = (one_image(row[image_column]) for row in undecoded(train, image_column).take(FIRST_NAMES))
    roots = ImageRoots.of(folder, allow_outside_images, image_folder)
    roots = roots.found_for(filter(None, map(named_file, first_images)))
    rows = {}
    with naming_unreadable(folder):
        # In the cache of `datasets`, by the files' names and times of change: the first process alone reads them.
        rows["train"] = Dataset.from_generator(
            stream_texts,
            features=text_features(kinds),
            gen_kwargs={
                "files": files["train"],
                "names": {column: name for column, name in names.items() if name != "image"},
                "kinds": kinds,
                "where": where,
                "read_by": READ_BY,
            },
        )
    check_texts(rows["train"], columns, any(name.startswith("choice ") for name in kinds), "train")
    for split in (split for split in wanted or files if split != "train"):
        others = rows_where(load_dataset("parquet", data_files={split: files[split]}, split=split), where, split)
        rows[split] = with_own_columns(others, columns, roots, split)
    return own_columns_of_stream(train, names, kinds, roots), DatasetDict(rows)


def parquet_files(dataset_name: str, config_name: str | None, train_split: str | None) -> dict[str, list[str]]:
    """The parquet files of each split.

    Raises:
        DataError: the data are not parquet files, or have no train split.
    """
    own = find_parquet(Path(dataset_name).absolute()) if config_name is None else {}
    found = {split or "train": [glob.escape(str(path)) for path in paths] for split, paths in own.items()}
    if not found:
        with naming_missing(dataset_name):
            named = load_dataset_builder(dataset_name, config_name).config.data_files or {}
        found = {str(split): paths for split, paths in named.items()}
    files = with_train_split(found, train_split)
    if "train" not in files or not all(path.endswith(".parquet") for paths in files.values() for path in paths):
        raise DataError(
            f"{dataset_name} can't be streamed: give a Hub id or a folder of parquet files that has a train split, or "
            "leave out --streaming."
        )
    return files


def own_columns_of_stream(
    rows: IterableDataset, names: dict[str, str], kinds: dict[str, Any], roots: ImageRoots
) -> IterableDataset:
    """A stream with this project's columns: the encoded image and the texts.

    Args:
        names: name in the data set -> name in this project.
        kinds: the feature of each text, by its name in this project.
    """
    image_column = next(column for column, name in names.items() if name == "image")
    rows = undecoded(rows, image_column).select_columns(list(names))
    # A table's column can be renamed to the name it has, a stream's can't.
    rows = rows.rename_columns({column: name for column, name in names.items() if column != name})
    return rows.map(
        read_row,
        fn_kwargs={"kinds": kinds, "roots": roots},
        features=Features({"image": Image(decode=False)} | text_features(kinds)),
    )


def text_features(kinds: Collection[str]) -> Features:
    """The features of a row's texts as they are read: choices have been put into its answer."""
    return Features({name: Value("string") for name in kinds if not name.startswith("choice ")})


def undecoded(rows: IterableDataset, image_column: str) -> IterableDataset:
    """A stream whose images stay encoded."""
    feature, encoded = rows.features[image_column], Image(decode=False)
    if Image not in (type(feature), type(inner_feature(feature))):
        return rows
    return rows.cast_column(image_column, encoded if isinstance(feature, Image) else ListOf(encoded))


def is_wanted(row: dict[str, Any], where: Mapping[str, str]) -> bool:
    """Whether the columns of a row have the values of `where`."""
    return all(one_text(row[column]).strip() == value for column, value in where.items())


def read_row(row: dict[str, Any], kinds: dict[str, Any], roots: ImageRoots) -> dict[str, Any]:
    """The image, as bytes or an absolute path, and the texts of a row.

    Args:
        kinds: the feature of each text.
    """
    texts = single_texts({name: row[name] for name in kinds}, kinds)
    image = one_image(row["image"])
    path = named_file(image)
    return {"image": image if image is None or path is None else {**image, "path": roots.absolute(path)}, **texts}


def stream_texts(
    files: list[str], names: dict[str, str], kinds: dict[str, Any], where: dict[str, str], read_by: int
) -> Iterator[dict[str, str]]:
    """The texts of all rows; only their columns of the files are read. `read_by` is only for the fingerprint."""
    columns = list(dict.fromkeys([*names, *where]))
    for row in load_dataset("parquet", data_files=files, split="train", streaming=True, columns=columns):
        if is_wanted(row, where):
            yield single_texts({names[column]: row[column] for column in names}, kinds)


class StreamedVqaData(torch.utils.data.IterableDataset):
    """The rows of a stream as [`VqaData`] gives them, without end: one pass over all rows follows another.

    Each process reads its own shards. If their number is no multiple of the processes', each process reads all shards
    and keeps its own rows. The workers of a process divide its shards. Rows wait in a buffer and leave it in the order
    of [`ImageGroupedSampler`]: an image's questions together, if they were in the buffer together.

    Args:
        rows: a stream of `stream_rows`.
        questions: the texts of all its rows.
        batch_size: rows of a batch on one process.
        buffer_size: how many rows wait in each worker.
        seed: with the number of the pass, decides the order of the shards and of the rows in each buffer.
        max_unreadable: the share of the images that may be missing or broken. Each worker checks it for the images
            that it has read in a pass, after `JUDGED_IMAGES` of them and at the end. The first ten are logged at once.

    Attributes:
        dropped_batches: so many of this process's first batches are dropped by who reads them, as a resumed training
            does: most of their images are not decoded, but zeros.
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
        self.dropped_batches = 0
        self.dropped_rows = 0  # of this worker, still to come

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        # Workers give their batches in turn, but one without shards gives none: so many are dropped at least.
        self.dropped_rows = self.dropped_batches // (worker.num_workers if worker else 1) * self.batch_size
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
        # The shards alone, one after the other: their rows wait for the buffer. Several at once are read by threads,
        # which end with the pass, seconds late.
        shuffled = self.rows.shuffle(seed=seed, buffer_size=1, max_buffer_input_shards=1)
        rows = iter(split_dataset_by_node(shuffled, self.process_index, self.num_processes))
        for block_number in count():
            block = list(islice(rows, self.buffer_size))
            if not block:
                check_readable("train", self.unreadable, self.num_images, self.max_unreadable)
                return
            yield from self._grouped(block, seed, block_number)

    def _grouped(self, block: list[dict[str, Any]], seed: int, block_number: int) -> Iterator[dict[str, Any]]:
        """The rows of a full buffer, grouped by image; each image is prepared once."""
        hashes = [image_hash(row)["hash"] or f"row {number}" for number, row in enumerate(block)]
        sampler = ImageGroupedSampler(hashes, self.batch_size, self.questions_per_image, seed)
        sampler.set_epoch(block_number)
        shape = prepared_shape(self.image_processor)
        pixels: dict[str, torch.Tensor] = {}
        for number in sampler:
            row, image = block[number], hashes[number]
            texts = {name: text for name, text in row.items() if name != "image"}
            if self.dropped_rows > 0:
                self.dropped_rows -= 1
                yield {**texts, "image_id": image, "pixels": torch.zeros(shape, dtype=torch.uint8)}
                continue
            if image not in pixels:
                prepared = prepare_image(row, self.image_processor, shape)
                pixels[image] = torch.from_numpy(prepared["pixels"])
                self._count(row, prepared["fault"])
            yield {**texts, "image_id": image, "pixels": pixels[image]}

    def _count(self, row: dict[str, Any], fault: str) -> None:
        """Counts the image of `row`; warns if it has a fault, and raises DataError if too many have one."""
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
