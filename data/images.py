"""The distinct images of rows, each decoded and resized once."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import (
    Array3D,
    Dataset,
    Features,
    Value,
)
from transformers import BaseImageProcessor

from ..processing_mmjepa import decode_image


@dataclass
class VqaData(torch.utils.data.Dataset):
    """Questions about prepared images.

    A row is a dict of its number `row`, the question's columns, and its image's `pixels`.

    questions: columns question, answer, where present caption and text, and image_id, a row of `pixels`.
    pixels: one row per distinct image, uint8 (3, H, W), resized and cropped but neither rescaled nor normalised.
    unreadable: image_id -> name of the images that are missing or can't be decoded; they are zeros.
    """

    questions: Dataset
    pixels: Dataset
    unreadable: dict[int, str] = field(default_factory=dict)

    def __post_init__(self):
        self.pixels = self.pixels.with_format("torch", dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def image_shape(self) -> torch.Size:
        """(3, H, W), the same for all images."""
        return self.pixels[0]["pixels"].shape

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Many rows at once, as the DataLoader asks for them: an image is read once for all its rows among them."""
        columns = self.questions[list(indices)]
        image_ids = sorted(set(columns["image_id"]))
        pixels = dict(zip(image_ids, self.pixels[image_ids]["pixels"], strict=True))
        columns["row"] = indices
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{**row, "pixels": pixels[row["image_id"]]} for row in rows]

    def blank(self) -> "VqaData":
        """The same questions, all about one black image: a model can learn from the questions alone."""
        questions = self.questions.remove_columns("image_id").add_column("image_id", [0] * len(self))
        black = {"pixels": [np.zeros_like(self.pixels[0]["pixels"])]}
        return VqaData(questions, Dataset.from_dict(black, features=self.pixels.features))


def prepare(rows: Dataset, image_processor: BaseImageProcessor, num_proc: int | None = None) -> VqaData:
    """Finds the distinct images of `rows` and decodes, resizes and crops each of them once.

    Images are the same where their encoded bytes are. The work is cached by `datasets` under a fingerprint of the rows
    and of the image processor's settings; `num_proc` processes share it.
    """
    shape = prepared_shape(image_processor)
    hashes = image_hashes(rows, num_proc)
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
    unreadable = {
        number: image_name(images[number]["image"], row)
        for number, (row, readable) in enumerate(zip(first_rows.values(), pixels["readable"][:], strict=True))
        if not readable
    }
    numbers = {image: number for number, image in enumerate(first_rows)}
    questions = rows.remove_columns("image").add_column("image_id", [numbers[image] for image in hashes])
    return VqaData(questions, pixels.remove_columns("readable"), unreadable)


def hold_out(rows: Dataset, percentage: float, seed: int, num_proc: int | None = None) -> tuple[Dataset, Dataset]:
    """`rows` divided by image: those that stay, and those about a random `percentage` of the images.

    Both have at least one image, but 100 percent leaves no rows.

    Raises:
        ValueError: all rows are about one image.
    """
    hashes = np.asarray(image_hashes(rows, num_proc))
    images = np.unique(hashes)
    if percentage == 100:
        return rows.select([]), rows
    if len(images) < 2:
        raise ValueError(
            f"there is no validation split, and of {len(images)} training images none can be held out: give a "
            "validation split, or --do_eval false."
        )
    count = min(max(round(len(images) * percentage / 100), 1), len(images) - 1)
    is_held_out = np.isin(hashes, np.random.default_rng(seed).permutation(images)[:count])
    return rows.select(np.flatnonzero(~is_held_out)), rows.select(np.flatnonzero(is_held_out))


def image_hashes(rows: Dataset, num_proc: int | None = None) -> list[str]:
    """The key of each row's image, as `image_hash` makes it."""
    images = rows.select_columns("image")
    hashed = images.map(
        image_hash, with_indices=True, remove_columns="image", num_proc=num_proc, desc="Hashing images"
    )
    return hashed["hash"][:]


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
    """The key of an image: a hash of its encoded bytes, or its name where it is missing."""
    encoded = image_bytes(example["image"])
    name = image_name(example["image"], row)
    return {"hash": hashlib.blake2b(encoded, digest_size=16).hexdigest() if encoded else name}


def prepare_image(
    example: dict[str, Any], image_processor: BaseImageProcessor, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Pixels (3, H, W), uint8, of an encoded image; zeros, and not readable, where it can't be decoded and resized."""
    try:
        image = decode_image(image_bytes(example["image"]))
        return {"pixels": resized_pixels(image, image_processor), "readable": True}
    except Exception:  # it can't be decoded, or resized: one image must not end the run
        # Where the settings are at fault an ordinary image fails too, and its error ends the run.
        resized_pixels(PIL.Image.new("RGB", shape[:0:-1]), image_processor)
        return {"pixels": np.zeros(shape, np.uint8), "readable": False}


def resized_pixels(image: PIL.Image.Image, image_processor: BaseImageProcessor) -> np.ndarray:
    """Pixels (3, H, W), uint8, of an RGB image, resized and cropped but neither rescaled nor normalised.

    Raises:
        ValueError: the image is so long that, resized, it has more pixels than Pillow opens.
    """
    shortest = dict(image_processor.size).get("shortest_edge") if image_processor.do_resize else None
    num_pixels = (shortest or 0) ** 2 * max(image.size) / min(image.size)
    if num_pixels > 2 * (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(
            f"an image of {image.size} has {num_pixels:.0f} pixels once resized, more than Pillow opens: cut it."
        )
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
        f"{names}. A relative path was looked for in the data set's folder; addresses of the web are not fetched. "
        "Check the paths, --image_column and, in a CSV file, the quotes around texts with commas"
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
