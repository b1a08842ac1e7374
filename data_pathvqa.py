"""A data set by name or folder -> rows, images decoded and resized once, batches of whole images."""

import hashlib
import json
import math
import os
import re
import zlib
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import torch
from datasets import (
    Array3D,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from torch.utils.data import Sampler
from transformers import BaseImageProcessor

from .processing_mmjepa import MMJepaProcessor, to_rgb

REQUIRED_COLUMNS = ("image", "question", "answer")
TEXT_COLUMNS = ("question", "answer", "caption", "text")
ALIGNMENT_COLUMNS = ("question", "caption", "answer", "text")
# Other names that splits go by, in folders and on the Hub.
SPLIT_NAMES = {name: name for name in ("train", "validation", "test")} | dict.fromkeys(
    ("valid", "val", "dev"), "validation"
)
# Words of questions and answers that are wrong of a mirrored image.
SIDES = re.compile(r"\b(left|right|top|bottom|upper|lower|above|below)\b", re.IGNORECASE)
TABLE_SUFFIXES = (".csv", ".json", ".jsonl")
# How many image groups the sampler looks through for one that fills a batch exactly.
PACKING_LOOKAHEAD = 64


def load_rows(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    wanted: Collection[str] | None = None,
) -> DatasetDict:
    """The splits of a data set with columns `image`, `question`, `answer` and, where it has them, `caption`, `text`.

    Images stay encoded: `image` is bytes or a path (`datasets.Image(decode=False)`). A missing text is "".

    Args:
        dataset_name: a Hub id, or a folder: of `save_to_disk`, of parquet files as the Hub lays them out, or of
            train/validation/test tables (.csv, .json, .jsonl) whose image paths are relative to it.
        config_name: which configuration of a Hub data set.
        columns: name in the data set by name here, {"question": "prompt"}; other columns are found by their name.
        wanted: the splits, by their names here, that are read; all by default.

    Raises:
        ValueError: a wanted split or a column is missing, or a folder has no data in one of these forms.
    """
    folder = Path(dataset_name)
    splits = load_folder(folder, config_name) if folder.is_dir() else load_dataset(dataset_name, config_name)
    found = {SPLIT_NAMES.get(split, split): rows for split, rows in splits.items()}
    check_splits(dataset_name, found, wanted or ())
    return DatasetDict(
        {split: with_own_columns(found[split], columns or {}, folder.absolute(), split) for split in wanted or found}
    )


def check_splits(dataset_name: str, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises ValueError where a wanted split is not among those found."""
    if missing := [split for split in wanted if split not in found]:
        raise ValueError(
            f"{dataset_name} has the splits {', '.join(found)} but no {' and no '.join(missing)}: train is always "
            "needed, for the answers that evaluations are compared with; validation unless --do_eval false; test for "
            "--do_predict."
        )


def load_folder(folder: Path, config_name: str | None = None) -> DatasetDict:
    """The splits in a local folder, whatever their columns."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        rows = load_from_disk(str(folder))
        return rows if isinstance(rows, DatasetDict) else DatasetDict(train=rows)
    tables: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TABLE_SUFFIXES and path.stem in SPLIT_NAMES:
            first = tables.setdefault(SPLIT_NAMES[path.stem], path)
            if first != path:
                raise ValueError(f"{folder} holds {first.name} and {path.name}: leave one table for each split.")
    if tables:
        # Table by table: by itself `datasets` takes a folder of images and tables for an image folder.
        return DatasetDict({split: load_table(path) for split, path in tables.items()})
    if any(folder.rglob("*.parquet")):
        return load_dataset(str(folder), config_name)
    raise ValueError(
        f"{folder} holds no data: give a folder of save_to_disk, of parquet files, or of train.csv, validation.csv, "
        "... (or .json, .jsonl)."
    )


def load_table(path: Path) -> Dataset:
    """The rows of a CSV or JSON file; all columns of a CSV file are text, so that 007, NA and null stay answers."""
    if path.suffix != ".csv":
        return load_dataset("json", data_files=str(path), split="train")
    # By pandas, with which `datasets` reads it: a column without a name gets one there.
    features = Features({name: Value("string") for name in pd.read_csv(path, nrows=0).columns})
    return load_dataset("csv", data_files=str(path), split="train", features=features, keep_default_na=False)


def with_own_columns(rows: Dataset, columns: dict[str, str], folder: Path, split: str) -> Dataset:
    """`rows` with this project's columns alone, by their names here; images encoded, texts without None."""
    names = find_columns(rows.column_names, columns, split)
    rows = rows.select_columns(list(names)).rename_columns(names)
    texts = [name for name in rows.column_names if name != "image"]
    # Apart from the images, whose bytes would otherwise be copied.
    filled = rows.select_columns(texts).map(
        fill_missing,
        input_columns=texts,
        fn_kwargs={"columns": texts},
        features=Features({name: Value("string") for name in texts}),
        desc="Reading texts",
    )
    images = rows.select_columns("image").cast_column("image", Image(decode=False))
    return concatenate_datasets([with_absolute_paths(images, folder), filled], axis=1)


def find_columns(column_names: list[str], columns: dict[str, str], split: str) -> dict[str, str]:
    """Name here by name there, of this project's columns; raises ValueError where a needed one is missing."""
    by_name = {name.lower(): name for name in column_names if name not in columns.values()} | columns
    found = {name: by_name[name] for name in ("image", *TEXT_COLUMNS) if by_name.get(name) in column_names}
    missing = [name for name in dict.fromkeys((*REQUIRED_COLUMNS, *columns)) if name not in found]
    if missing:
        raise ValueError(
            f"{split} has no column {', '.join(repr(by_name.get(name, name)) for name in missing)}: there are "
            f"{', '.join(column_names)}; needed are {', '.join(REQUIRED_COLUMNS)}. Name the columns that hold "
            f"them with {', '.join(f'--{name}_column' for name in missing)}."
        )
    return {column: name for name, column in found.items()}


def fill_missing(*texts: Any, columns: list[str]) -> dict[str, str]:
    return {name: "" if text is None else str(text) for name, text in zip(columns, texts, strict=True)}


def with_absolute_paths(images: Dataset, folder: Path) -> Dataset:
    """Encoded `images` with absolute paths, where an image has a path and no bytes."""
    parts = images.flatten()
    if not parts.data["image.bytes"].null_count:
        return images  # a map would copy the bytes
    files = [absolute_path(path, folder) for path in parts.unique("image.path") if path]
    return images.map(
        with_absolute_path,
        # Part of the fingerprint: an image that was moved, exchanged or repaired since is not to come from the cache.
        fn_kwargs={"folder": str(folder), "states": [(file, file_state(Path(file))) for file in files]},
        input_columns="image",
        features=images.features,
        desc="Finding images",
    )


def with_absolute_path(
    image: dict[str, Any] | None, folder: str, states: list | None = None
) -> dict[str, dict[str, Any] | None]:
    if image is None or image["bytes"] or not image["path"]:
        return {"image": image}
    return {"image": {**image, "path": absolute_path(image["path"], Path(folder))}}


def absolute_path(path: str, folder: Path) -> str:
    """Where an image file lies: in `folder`, or else in the working directory, where `datasets` would read it."""
    file = folder / path
    return os.path.abspath(path) if os.path.exists(path) and not os.path.exists(file) else str(file)


def file_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file that is there."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: no path at all, such as text with a null character
        return None
    return state.st_size, state.st_mtime_ns


@dataclass
class VqaData(torch.utils.data.Dataset):
    """Questions about prepared images; a row is a dict of the question's columns and its image's `pixels`.

    questions: columns question, answer, where present caption and text, and image_id, a row of `pixels`.
    pixels: a row a distinct image, uint8 (3, H, W), resized and cropped but neither rescaled nor normalised.
    unreadable: names of the images that are missing or can't be decoded; they are zeros.
    """

    questions: Dataset
    pixels: Dataset
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.pixels = self.pixels.with_format("torch", dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Many rows at once, which is how the DataLoader asks: an image is read once for all its rows among them."""
        columns = self.questions[list(indices)]
        image_ids = sorted(set(columns["image_id"]))
        pixels = dict(zip(image_ids, self.pixels[image_ids]["pixels"], strict=True))
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{**row, "pixels": pixels[row["image_id"]]} for row in rows]

    def blank(self) -> "VqaData":
        """The same questions, all about one black image: what a model learns from it, the questions alone give."""
        questions = self.questions.remove_columns("image_id").add_column("image_id", [0] * len(self))
        black = {"pixels": [np.zeros_like(self.pixels[0]["pixels"])]}
        return VqaData(questions, Dataset.from_dict(black, features=self.pixels.features))


def prepare(rows: Dataset, image_processor: BaseImageProcessor, num_proc: int | None = None) -> VqaData:
    """Finds the distinct images of `rows` and decodes, resizes and crops each of them once.

    Images are the same where their encoded bytes are. The work is cached by `datasets` under a fingerprint of the rows
    and of the image processor's settings; `num_proc` processes share it.
    """
    shape = prepared_shape(image_processor)
    hashes = rows.select_columns("image").map(
        image_hash, with_indices=True, remove_columns="image", num_proc=num_proc, desc="Hashing images"
    )["hash"][:]
    first_rows: dict[str, int] = {}
    for row, image in enumerate(hashes):
        first_rows.setdefault(image, row)
    images = rows.select_columns("image").select(list(first_rows.values()))

    pixels = images.map(
        prepare_image,
        fn_kwargs={"image_processor": same_processor(image_processor), "shape": shape},
        remove_columns="image",
        features=Features({"pixels": Array3D(shape, "uint8"), "readable": Value("bool")}),
        writer_batch_size=100,  # so many images wait in memory to be written
        num_proc=num_proc,
        desc="Preparing images",
    )
    unreadable = [
        image_name(images[number]["image"], row)
        for number, (row, readable) in enumerate(zip(first_rows.values(), pixels["readable"][:], strict=True))
        if not readable
    ]
    numbers = {image: number for number, image in enumerate(first_rows)}
    questions = rows.remove_columns("image").add_column("image_id", [numbers[image] for image in hashes])
    return VqaData(questions, pixels.remove_columns("readable"), unreadable)


def prepared_shape(image_processor: BaseImageProcessor) -> tuple[int, int, int]:
    """(3, H, W) of the images that the image processor makes; raises ValueError where they have several sizes."""
    size = image_processor.size if image_processor.do_resize else {}
    size = dict(image_processor.crop_size if image_processor.do_center_crop else size)
    if not (size.get("height") and size.get("width")):
        raise ValueError(
            f"the image processor leaves images of different sizes, by its size {image_processor.size}: a batch needs "
            "one, by a `size` of height and width or by `do_center_crop` and `crop_size`."
        )
    return 3, size["height"], size["width"]


def same_processor(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """A copy that has the same fingerprint whether the image processor was made here or loaded from a checkpoint."""
    return type(image_processor).from_dict(json.loads(image_processor.to_json_string()))


def image_bytes(image: dict[str, Any] | None) -> bytes:
    """The encoded bytes of an undecoded image; empty where there is none."""
    if image is None or not (image["bytes"] or image["path"]):
        return b""
    try:
        return image["bytes"] or Path(image["path"]).read_bytes()
    except (OSError, ValueError):
        return b""


def image_name(image: dict[str, Any] | None, row: int) -> str:
    return (image or {}).get("path") or f"row {row}"


def image_hash(example: dict[str, Any], row: int) -> dict[str, str]:
    """What tells images apart: their encoded bytes, or the name of one that is missing."""
    encoded = image_bytes(example["image"])
    name = image_name(example["image"], row)
    return {"hash": hashlib.blake2b(encoded, digest_size=16).hexdigest() if encoded else name}


def prepare_image(
    example: dict[str, Any], image_processor: BaseImageProcessor, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Pixels (3, H, W), uint8, of an encoded image; zeros, and not readable, where it can't be decoded and resized."""
    try:
        image = to_rgb(PIL.Image.open(BytesIO(image_bytes(example["image"]))))
        return {"pixels": resized_pixels(image, image_processor), "readable": True}
    # Broken files make Pillow's decoders raise errors of a dozen types; one image must not end the run.
    except Exception:
        # An ordinary image fails too, and ends the run, where the settings are at fault.
        resized_pixels(PIL.Image.new("RGB", shape[:0:-1]), image_processor)
        return {"pixels": np.zeros(shape, np.uint8), "readable": False}


def resized_pixels(image: PIL.Image.Image, image_processor: BaseImageProcessor) -> np.ndarray:
    """Pixels (3, H, W), uint8, of an RGB image, resized and cropped but neither rescaled nor normalised.

    Raises:
        ValueError: the image is so long that, resized, it has more pixels than Pillow opens of an image.
    """
    shortest = dict(image_processor.size).get("shortest_edge") if image_processor.do_resize else None
    num_pixels = (shortest or 0) ** 2 * max(image.size) / min(image.size)
    if num_pixels > 2 * (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"an image of {image.size} has {num_pixels:.0f} pixels once resized: give a less long one.")
    pixels = image_processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    return pixels.numpy().round().clip(0, 255).astype(np.uint8)


def check_readable(split: str, unreadable: Sequence[str], num_images: int, max_share: float) -> None:
    """Raises ValueError where more than the share `max_share` of the images are `unreadable`, or all of them."""
    share = len(unreadable) / max(num_images, 1)
    if share < 1 and share <= max_share:
        return
    names = " and ".join(repr(name) for name in unreadable[:2])
    raise ValueError(
        f"{split}: {len(unreadable)} of {num_images} images ({share:.0%}) are missing or can't be decoded, such as "
        f"{names}. A relative path was looked for in the data set's folder, then in the working directory. Check the "
        "paths, --image_column and, in a CSV file, the quotes around texts with commas"
        + ("." if share == 1 else f", or allow more than a share of {max_share} by --max_unreadable_images.")
    )


def normalize_pixels(pixels: torch.Tensor, image_processor: BaseImageProcessor) -> torch.Tensor:
    """Pixels (I, 3, H, W) from 0 to 255 rescaled and normalised, float32 on their device, as the processor does it."""
    values = pixels.float()
    if image_processor.do_rescale:
        values = values * image_processor.rescale_factor
    if image_processor.do_normalize:
        mean, std = (
            torch.tensor(statistic, device=pixels.device).view(-1, 1, 1)
            for statistic in (image_processor.image_mean, image_processor.image_std)
        )
        values = (values - mean) / std
    return values


def alignment_text(row: dict[str, Any]) -> str:
    """What the row's image is aligned to: the first of question, caption, answer and text that is not empty."""
    return next((row[name] for name in ALIGNMENT_COLUMNS if row.get(name)), "")


class VqaCollator:
    """Rows of [`VqaData`] -> the model's inputs, each distinct image once.

    pixel_values (I, 3, H, W) float32, image_ids (I,), image_index (B,), input_ids and attention_mask (B, L), labels
    (B, A) and, where some row's alignment text is not its question, align_input_ids and align_attention_mask (B, L').

    No rows make a stand-in, a blank question about a black image whose labels are all -100 and whose image_ids are -1:
    a process without rows in a step still has to take part in it.

    Args:
        as_bytes: leaves pixel_values uint8, for a Trainer that augments and normalises them on the device, and says
            by keep_sides (I,) of which images a text names left or right, top or bottom.
    """

    def __init__(self, processor: MMJepaProcessor, as_bytes: bool = False):
        self.processor = processor
        self.as_bytes = as_bytes

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not rows:
            black = torch.zeros(prepared_shape(self.processor.image_processor), dtype=torch.uint8)
            batch = self([{"question": "", "answer": "", "image_id": 0, "pixels": black}])
            return {
                **batch,
                "labels": torch.full_like(batch["labels"], -100),
                "image_ids": torch.full_like(batch["image_ids"], -1),
            }
        images = {row["image_id"]: row["pixels"] for row in rows}
        positions = {image_id: position for position, image_id in enumerate(images)}
        questions = [row["question"] for row in rows]
        pixels = torch.stack(list(images.values()))  # (I, 3, H, W)
        batch = {
            "pixel_values": pixels if self.as_bytes else normalize_pixels(pixels, self.processor.image_processor),
            "image_ids": torch.tensor([image_number(image_id) for image_id in images]),
            "image_index": torch.tensor([positions[row["image_id"]] for row in rows]),
            **self.processor(text=questions, answers=[row["answer"] for row in rows], return_tensors="pt"),
        }
        texts = [alignment_text(row) for row in rows]
        if texts != questions:
            tokens = self.processor(text=texts, return_tensors="pt")
            batch |= {f"align_{name}": tokens[name] for name in ("input_ids", "attention_mask")}
        if self.as_bytes:
            with_sides = {row["image_id"] for row in rows if names_side(row)}
            batch["keep_sides"] = torch.tensor([image_id in with_sides for image_id in images])
        return batch


def names_side(row: dict[str, Any]) -> bool:
    """Whether a text of the row is about left or right, top or bottom of its image."""
    return any(SIDES.search(row.get(name) or "") for name in TEXT_COLUMNS)


def image_number(image_id: int | str) -> int:
    """The image's number, on every process the same; a streamed image is known by a string."""
    return image_id if isinstance(image_id, int) else zlib.crc32(image_id.encode())


class ImageGroupedSampler(Sampler[int]):
    """An order of all rows whose consecutive slices of `batch_size` hold the questions of few images.

    Images come in a random order, each with at most `questions_per_image` of its questions together; a batch is filled
    with whole such groups where some of the next groups fit. Being an order of rows and not of batches, it leaves
    batches, processes and resuming to the Trainer's own loaders. `questions_per_image=1` is a plain shuffle.

    Args:
        image_ids: the image of each row.
        seed: with the epoch, decides the order.
    """

    def __init__(self, image_ids: Sequence[Any], batch_size: int, questions_per_image: int, seed: int):
        self.image_ids = np.asarray(image_ids)
        self.batch_size = batch_size
        self.questions_per_image = questions_per_image
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[int]:
        return packed(self._groups(), self.batch_size)

    def _groups(self) -> list[list[int]]:
        """Rows of one image each, at most `questions_per_image` together, in this epoch's order."""
        random = np.random.default_rng((self.seed, self.epoch))
        rows_of = defaultdict(list)
        for row in random.permutation(len(self.image_ids)).tolist():
            rows_of[self.image_ids[row]].append(row)
        step = self.questions_per_image
        groups = [rows[start : start + step] for rows in rows_of.values() for start in range(0, len(rows), step)]
        return [groups[place] for place in random.permutation(len(groups))]


def packed(groups: Sequence[list[int]], batch_size: int) -> Iterator[int]:
    """The rows of `groups`, in an order whose consecutive slices of `batch_size` hold whole groups where some fit."""
    room = batch_size
    waiting = deque(groups)
    while waiting:
        fitting = (place for place, group in enumerate(islice(waiting, PACKING_LOOKAHEAD)) if len(group) <= room)
        place = next(fitting, None)
        if place is None:
            group, waiting[0] = waiting[0][:room], waiting[0][room:]
        else:
            group = waiting[place]
            del waiting[place]
        yield from group
        room = room - len(group) or batch_size


class SharedBatchSampler(Sampler[list[int]]):
    """Batches of an [`ImageGroupedSampler`]'s order, one after the other for process 0, 1, ... of each step.

    A step's rows are those of one process with batches as large as the whole step. They are shared out evenly and, as
    far as that allows, by image. In the last step shares may differ by a row, and be empty where it has fewer rows
    than there are processes: accelerate would fill them up with rows of the first step, which count twice then.
    `whole_steps` leaves out a last step with fewer rows.
    """

    batch_size = None  # tells accelerate that batches differ in size
    drop_last = False  # tells accelerate that there is nothing left for it to drop

    def __init__(self, sampler: ImageGroupedSampler, num_processes: int, whole_steps: bool = False):
        self.sampler = sampler
        self.num_processes = num_processes
        self.whole_steps = whole_steps

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.sampler.batch_size)
        return (full + (rest > 0 and not self.whole_steps)) * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)
        while rows := list(islice(order, self.sampler.batch_size)):
            if self.whole_steps and len(rows) < self.sampler.batch_size:
                return
            groups = defaultdict(list)
            for row in rows:
                groups[self.sampler.image_ids[row]].append(row)
            rows = list(packed(list(groups.values()), -(-len(rows) // self.num_processes)))
            cuts = [-(-len(rows) * process // self.num_processes) for process in range(self.num_processes + 1)]
            yield from (rows[start:end] for start, end in pairwise(cuts))
