"""The distinct images of rows, each decoded and resized once."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import PIL.Image
import torch
import transformers
from datasets import Array3D, Dataset, Features, Value
from transformers import BaseImageProcessor

from ..processing_mmjepa import A_SLIDE, SLIDE_SUFFIXES, decode_image, why_unreadable
from .errors import DataError, shortened
from .paths import is_address, named_file
from .threads import InThreads

BATCH_SIZE = 100  # images that wait in memory to be written
# What decodes and resizes images. `datasets` knows a function by its name alone. These in the fingerprint keep it from
# taking images that older code has prepared out of its cache: raise the number when the code gives other results.
MADE_BY = {"preparation": 2, "pillow": PIL.__version__, "transformers": transformers.__version__}


@dataclass
class VqaData(torch.utils.data.Dataset):
    """Questions about prepared images.

    A row is a dict: `row`, its number; the columns of the question; and `pixels`, of its image.

    questions: columns question, answer, caption and text if present, and image_id, a row of `pixels`.
    pixels: one row per distinct image, uint8 (3, H, W), resized and cropped but neither rescaled nor normalised.
    unreadable: image_id -> name and reason, of the images that are missing or can't be decoded; they are zeros.
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
        """Many rows at once, as the DataLoader asks for them. An image is read once for all its rows."""
        columns = self.questions[list(indices)]
        image_ids = sorted(set(columns["image_id"]))
        pixels = dict(zip(image_ids, self.pixels[image_ids]["pixels"], strict=True))
        columns["row"] = indices
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{**row, "pixels": pixels[row["image_id"]]} for row in rows]

    def blank(self) -> "VqaData":
        """The same questions, all about one black image, to learn from the questions alone."""
        questions = self.questions.remove_columns("image_id").add_column("image_id", [0] * len(self))
        black = {"pixels": [np.zeros_like(self.pixels[0]["pixels"])]}
        return VqaData(questions, Dataset.from_dict(black, features=self.pixels.features))


def prepare(rows: Dataset, image_processor: BaseImageProcessor, num_threads: int | None = None) -> VqaData:
    """Finds the distinct images of `rows`; decodes, resizes and crops each of them once.

    Images are the same if their encoded bytes are. `datasets` caches the work under a fingerprint of the rows, of the
    image processor's settings and of `MADE_BY`. `num_threads` threads share the work.
    """
    shape = prepared_shape(image_processor)
    hashes = image_hashes(rows, num_threads)
    first_rows: dict[str, int] = {}
    for row, image in enumerate(hashes):
        first_rows.setdefault(image, row)
    images = rows.select_columns("image").select(list(first_rows.values()))

    pixels = images.map(
        InThreads(prepare_image, num_threads),
        batched=True,
        batch_size=BATCH_SIZE,
        fn_kwargs={"image_processor": same_processor(image_processor), "shape": shape, "made_by": MADE_BY},
        remove_columns="image",
        features=Features({"pixels": Array3D(shape, "uint8"), "fault": Value("string")}),
        writer_batch_size=BATCH_SIZE,
        desc="Preparing images",
    )
    unreadable = {
        number: f"{image_name(images[number]['image'], row)} ({fault})"
        for number, (row, fault) in enumerate(zip(first_rows.values(), pixels["fault"][:], strict=True))
        if fault
    }
    numbers = {image: number for number, image in enumerate(first_rows)}
    questions = rows.remove_columns("image").add_column("image_id", [numbers[image] for image in hashes])
    return VqaData(questions, pixels.remove_columns("fault"), unreadable)


def data_hash(rows: Dataset, num_threads: int | None = None) -> str:
    """A hash of the distinct images of `rows`, in any order."""
    keys = sorted(set(image_hashes(rows, num_threads)))
    return hashlib.blake2b("\n".join(keys).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def image_hashes(rows: Dataset, num_threads: int | None = None) -> list[str]:
    """The key of each row's image: that of `image_hash`, or the row's number where it has none.

    A file that many rows name is read once.
    """
    images = rows.select_columns("image")
    first_row: dict[str, int] = {}  # of each file
    places = [
        row if file is None else first_row.setdefault(file, row) for row, file in enumerate(files_of_images(images))
    ]
    distinct = sorted(set(places))
    hashed = images.select(distinct).map(
        InThreads(image_hash, num_threads),
        batched=True,
        batch_size=BATCH_SIZE,
        remove_columns="image",
        desc="Hashing images",
    )
    hash_at = dict(zip(distinct, hashed["hash"][:], strict=True))
    return [hash_at[place] or f"row {row}" for row, place in enumerate(places)]


def files_of_images(images: Dataset) -> list[str | None]:
    """The file of each of the encoded `images`, None where a row has the bytes itself, or no image."""
    if not images.flatten().data["image.bytes"].null_count:
        return [None] * len(images)  # without a look into the bytes
    named = images.map(
        named_files,
        batched=True,
        batch_size=BATCH_SIZE,
        remove_columns="image",
        features=Features({"file": Value("string")}),
        desc="Finding distinct images",
    )
    return named["file"][:]


def named_files(images: dict[str, list]) -> dict[str, list[str | None]]:
    """`named_file` of many images."""
    return {"file": list(map(named_file, images["image"]))}


def prepared_shape(image_processor: BaseImageProcessor) -> tuple[int, int, int]:
    """(3, H, W) of the images that the image processor makes.

    Raises:
        ValueError: they differ in size.
    """
    size = image_processor.size if image_processor.do_resize else {}
    size = dict(image_processor.crop_size if image_processor.do_center_crop else size)
    if not (size.get("height") and size.get("width")):
        raise ValueError(
            f"the image processor leaves images of different sizes, by its size {image_processor.size}: a batch needs "
            "one, by a `size` of height and width or by `do_center_crop` and `crop_size`."
        )
    return 3, size["height"], size["width"]


def same_processor(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """A copy whose fingerprint is the same for a new image processor and for a loaded one."""
    return type(image_processor).from_dict(json.loads(image_processor.to_json_string()))


def image_bytes(image: dict[str, Any] | None) -> bytes:
    """The encoded bytes of an undecoded image.

    Raises:
        ValueError: there is none, or its file can't be read; the message gives the reason.
    """
    if image is None or not (image["bytes"] or image["path"]):
        raise ValueError("the row has none")
    if image["bytes"]:
        return image["bytes"]
    if is_address(image["path"]):
        raise ValueError("it is an address of the web, and is not fetched")
    if image["path"].lower().endswith(SLIDE_SUFFIXES):
        raise ValueError(A_SLIDE)
    try:
        encoded = Path(image["path"]).read_bytes()
    except FileNotFoundError as error:
        raise ValueError("there is no such file") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{getattr(error, 'strerror', None) or error}") from error
    if not encoded:
        raise ValueError("the file is empty")
    return encoded


def image_name(image: dict[str, Any] | None, row: int) -> str:
    """Its path, shortened if long, or the row that has it."""
    return shortened((image or {}).get("path") or f"row {row}")


def image_hash(example: dict[str, Any]) -> dict[str, str]:
    """The key of an image: a hash of its encoded bytes, its name if it is missing, or "" if it has none."""
    try:
        return {"hash": hashlib.blake2b(image_bytes(example["image"]), digest_size=16).hexdigest()}
    except ValueError:
        return {"hash": (example["image"] or {}).get("path") or ""}


def prepare_image(
    example: dict[str, Any],
    image_processor: BaseImageProcessor,
    shape: tuple[int, int, int],
    made_by: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`pixels` (3, H, W), uint8, of an encoded image, and `fault`, what is wrong with it, or "".

    The pixels of an image that can't be decoded and resized are zeros. `made_by` is only for the fingerprint.
    """
    try:
        image, fault = decoded_or_fault(example["image"])
        if image is not None:
            return {"pixels": resized_pixels(image, image_processor), "fault": ""}
    except Exception as error:  # it can't be resized: one image must not end the run
        # If the settings are wrong, an ordinary image fails too. Its error ends the run.
        resized_pixels(PIL.Image.new("RGB", shape[:0:-1]), image_processor)
        fault = shortened(f"{error}" or type(error).__name__)
    return {"pixels": np.zeros(shape, np.uint8), "fault": fault}


def decoded_or_fault(image: dict[str, Any] | None) -> tuple[PIL.Image.Image | None, str]:
    """An encoded image as 8-bit RGB, or None and the reason why it can't be read."""
    try:
        encoded = image_bytes(image)
    except ValueError as error:
        return None, str(error)
    try:
        return decode_image(encoded), ""
    except Exception as error:  # Pillow's decoders raise errors of a dozen types
        cause = error.__cause__
        return None, why_unreadable(encoded, cause if isinstance(cause, Exception) else error)


def resized_pixels(image: PIL.Image.Image, image_processor: BaseImageProcessor) -> np.ndarray:
    """Pixels (3, H, W), uint8, of an RGB image, resized and cropped but neither rescaled nor normalised.

    Raises:
        ValueError: the resized image would have more pixels than Pillow opens, because it is very long.
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
    """Raises DataError if more than the share `max_share` of the images are `unreadable`, or all of them."""
    share = len(unreadable) / max(num_images, 1)
    if share < 1 and share <= max_share:
        return
    names = " and ".join(unreadable[:2])
    raise DataError(
        f"{split}: {len(unreadable)} of {num_images} images ({share:.0%}) are missing or can't be decoded, such as "
        f"{names}. A relative path was looked for in the data set's folder; addresses of the web are not fetched. "
        "Check the paths, --image_column and, in a CSV file, the quotes around texts with commas"
        + ("." if share == 1 else f", or allow more than a share of {max_share} by --max_unreadable_images.")
    )
