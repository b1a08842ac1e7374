"""A data set by name or folder -> rows, images decoded and resized once, batches of whole images."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Array3D, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from torch.utils.data import Sampler
from transformers import BaseImageProcessor

from .processing_mmjepa import MMJepaProcessor, to_rgb

REQUIRED_COLUMNS = ("image", "question", "answer")
COLUMNS = (*REQUIRED_COLUMNS, "caption", "text")
ALIGNMENT_COLUMNS = ("question", "caption", "answer", "text")
SPLIT_OF_FILE = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
TABLE_READERS = {".csv": "csv", ".json": "json", ".jsonl": "json"}
# How many image groups the sampler looks through for one that fills a batch exactly.
PACKING_LOOKAHEAD = 64


def load_rows(
    dataset_name: str, config_name: str | None = None, columns: dict[str, str] | None = None
) -> DatasetDict:
    """The splits of a data set with columns `image`, `question`, `answer` and, where it has them, `caption`, `text`.

    Images stay encoded: `image` is bytes or a path (`datasets.Image(decode=False)`). A missing text is "".

    Args:
        dataset_name: a Hub id, or a folder: of `save_to_disk`, of parquet files as the Hub lays them out, or of
            train/validation/test tables (.csv, .json, .jsonl) whose image paths are relative to it.
        config_name: which configuration of a Hub data set.
        columns: name in the data set by name here, {"question": "prompt"}; other columns are found by their name.

    Raises:
        ValueError: a column is missing, or a folder has no data in one of these forms.
    """
    folder = Path(dataset_name)
    splits = load_folder(folder) if folder.is_dir() else load_dataset(dataset_name, config_name)
    return DatasetDict({split: rename_columns(rows, columns or {}, folder) for split, rows in splits.items()})


def load_folder(folder: Path) -> DatasetDict:
    """The splits in a local folder, whatever their columns."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        rows = load_from_disk(str(folder))
        return rows if isinstance(rows, DatasetDict) else DatasetDict(train=rows)
    tables = {
        SPLIT_OF_FILE[path.stem]: path
        for path in sorted(folder.iterdir())
        if path.suffix in TABLE_READERS and path.stem in SPLIT_OF_FILE
    }
    if tables:
        # Named files: by itself `datasets` takes a folder of images with a table for an image folder.
        reader = TABLE_READERS[next(iter(tables.values())).suffix]
        # An answer may be the word null or NA.
        options = {"keep_default_na": False} if reader == "csv" else {}
        return load_dataset(reader, data_files={split: str(path) for split, path in tables.items()}, **options)
    if any(folder.rglob("*.parquet")):
        return load_dataset(str(folder))
    raise ValueError(
        f"{folder} holds no data: give a folder of save_to_disk, of parquet files, or of train.csv, validation.csv, "
        "... (or .json, .jsonl)."
    )


def rename_columns(rows: Dataset, columns: dict[str, str], folder: Path) -> Dataset:
    """`rows` with this project's columns alone, by their names here; images encoded, texts without None."""
    found = {name.lower(): name for name in rows.column_names} | columns
    for name in REQUIRED_COLUMNS:
        if found.get(name) not in rows.column_names:
            raise ValueError(
                f"no column {found.get(name, name)!r} for the {name}: there are {', '.join(rows.column_names)}; name "
                f"the one that holds it with --{name}_column."
            )
    found = {name: found[name] for name in COLUMNS if found.get(name) in rows.column_names}
    rows = rows.select_columns(list(found.values()))
    rows = rows.rename_columns({column: name for name, column in found.items() if column != name})
    if isinstance(rows.features["image"], Value):
        rows = rows.map(absolute_path, fn_kwargs={"folder": str(folder)}, input_columns="image")
    texts = [name for name in rows.column_names if name != "image"]
    rows = rows.map(fill_missing, input_columns=texts, fn_kwargs={"columns": texts})
    return rows.cast(Features({"image": Image(decode=False)} | {name: Value("string") for name in texts}))


def absolute_path(image: str, folder: str) -> dict[str, str]:
    return {"image": str(Path(folder) / image)}


def fill_missing(*texts: Any, columns: list[str]) -> dict[str, str]:
    return {name: "" if text is None else str(text) for name, text in zip(columns, texts, strict=True)}


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


def prepare(rows: Dataset, image_processor: BaseImageProcessor, num_proc: int | None = None) -> VqaData:
    """Finds the distinct images of `rows` and decodes, resizes and crops each of them once.

    Images are the same where their encoded bytes are. The work is cached by `datasets` under a fingerprint of the rows
    and of the image processor's settings; `num_proc` processes share it.
    """
    hashes = rows.select_columns("image").map(
        image_hash, with_indices=True, remove_columns="image", num_proc=num_proc, desc="Hashing images"
    )["hash"]
    first_rows: dict[str, int] = {}
    for row, image in enumerate(hashes):
        first_rows.setdefault(image, row)
    image_ids = {image: number for number, image in enumerate(first_rows)}
    images = rows.select(first_rows.values()).select_columns("image")

    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    shape = (3, size["height"], size["width"])
    pixels = images.map(
        prepare_image,
        fn_kwargs={"image_processor": image_processor, "shape": shape},
        remove_columns="image",
        features=Features({"pixels": Array3D(shape, "uint8"), "readable": Value("bool")}),
        num_proc=num_proc,
        desc="Preparing images",
    )
    readable = pixels["readable"]
    unreadable = [
        image["path"] or f"row {row}"
        for image, row, is_readable in zip(images["image"], first_rows.values(), readable, strict=True)
        if not is_readable
    ] if not all(readable) else []
    questions = rows.remove_columns("image").add_column("image_id", [image_ids[image] for image in hashes])
    return VqaData(questions, pixels.remove_columns("readable"), unreadable)


def image_bytes(image: dict[str, Any] | None) -> bytes:
    """The encoded bytes of an undecoded image; empty where there is none."""
    if image is None or not (image["bytes"] or image["path"]):
        return b""
    if image["bytes"]:
        return image["bytes"]
    path = Path(image["path"])
    return path.read_bytes() if path.is_file() else b""


def image_hash(row: dict[str, Any], index: int) -> dict[str, str]:
    """A name of the image's encoded bytes; images without any are each their own."""
    encoded = image_bytes(row["image"])
    missing = (row["image"] or {}).get("path") or f"row {index}"
    return {"hash": hashlib.blake2b(encoded, digest_size=16).hexdigest() if encoded else missing}


def prepare_image(
    row: dict[str, Any], image_processor: BaseImageProcessor, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Pixels (3, H, W), uint8, of an encoded image; zeros, and not readable, where it is missing or broken."""
    try:
        image = to_rgb(PIL.Image.open(BytesIO(image_bytes(row["image"]))))
    # Broken files make Pillow's decoders raise errors of a dozen types; one image must not end the run.
    except Exception:
        return {"pixels": np.zeros(shape, np.uint8), "readable": False}
    pixels = image_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return {"pixels": pixels.round().clip(0, 255).astype(np.uint8), "readable": True}


def normalize_pixels(pixels: torch.Tensor, image_processor: BaseImageProcessor) -> torch.Tensor:
    """uint8 pixels (I, 3, H, W) rescaled and normalised, float32 on their device, as the image processor does it."""
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

    pixel_values (I, 3, H, W) uint8, image_index (B,), input_ids and attention_mask (B, L), labels (B, A) and, where some
    row's alignment text is not its question, align_input_ids and align_attention_mask (B, L').

    Args:
        blank: gives black images in the place of all: what do the questions alone teach?
    """

    def __init__(self, processor: MMJepaProcessor, blank: bool = False):
        self.processor = processor
        self.blank = blank

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = {row["image_id"]: row["pixels"] for row in rows}
        positions = {image_id: position for position, image_id in enumerate(images)}
        pixel_values = torch.stack(list(images.values()))  # (I, 3, H, W)
        questions = [row["question"] for row in rows]
        batch = {
            "pixel_values": torch.zeros_like(pixel_values) if self.blank else pixel_values,
            "image_index": torch.tensor([positions[row["image_id"]] for row in rows]),
            **self.processor(text=questions, answers=[row["answer"] for row in rows], return_tensors="pt"),
        }
        texts = [alignment_text(row) for row in rows]
        if texts != questions:
            tokens = self.processor(text=texts, return_tensors="pt")
            batch |= {f"align_{name}": tokens[name] for name in ("input_ids", "attention_mask")}
        return batch


class ImageGroupedSampler(Sampler[int]):
    """An order of all rows whose consecutive slices of `batch_size` hold the questions of few images.

    Images come in a random order, each with at most `questions_per_image` of its questions together; a batch is filled
    with whole such groups where some of the next groups fit. Being an order of rows and not of batches, it leaves
    batches, processes and resuming to the Trainer's own loaders. `questions_per_image=1` is a plain shuffle.

    Args:
        image_ids: the image of each row.
        seed: with the epoch, decides the order.
    """

    def __init__(self, image_ids: Sequence[int], batch_size: int, questions_per_image: int, seed: int):
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
        room = self.batch_size
        groups = deque(self._groups())
        while groups:
            fitting = (place for place, group in enumerate(islice(groups, PACKING_LOOKAHEAD)) if len(group) <= room)
            place = next(fitting, None)
            if place is None:
                group, groups[0] = groups[0][:room], groups[0][room:]
            else:
                group = groups[place]
                del groups[place]
            yield from group
            room = room - len(group) or self.batch_size

    def _groups(self) -> list[list[int]]:
        """Rows of one image each, at most `questions_per_image` together, in this epoch's order."""
        random = np.random.default_rng((self.seed, self.epoch))
        rows_of = defaultdict(list)
        for row in random.permutation(len(self.image_ids)).tolist():
            rows_of[self.image_ids[row]].append(row)
        step = self.questions_per_image
        groups = [rows[start : start + step] for rows in rows_of.values() for start in range(0, len(rows), step)]
        return [groups[place] for place in random.permutation(len(groups))]
