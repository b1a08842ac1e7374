"""Features of images on disk: each image is encoded once, and a run that was interrupted goes on where it stopped.

The files lie in the folder mmjepa/features of the Hugging Face home (HF_HOME), in a folder of each model.
"""

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ..data.errors import DataError
from ..data.image_files import FoundImages
from ..data.images import MADE_BY, image_bytes, prepare_image, prepared_shape
from ..encoder_mmjepa import MMJepaImageFeatures
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import Answerer, evaluating
from .cache_files import cache_folder, text_hash, weights_hash, write_whole
from .shares import batches


class FeatureCache:
    """The features of images that one model has encoded, in files of a few images each.

    Images are named by a hash of their encoded bytes. A file is written as a whole or not at all: what a run has
    encoded when it is interrupted is kept. Several runs may use one cache at a time.

    Args:
        folder: of this model; it is made where it does not exist.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.places: dict[str, tuple[Path, int]] = {}  # image -> its file and its row there
        self.images: dict[str, str] = {}  # key of [`FoundImages`] -> image
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    self._note(path, file.metadata())
            except SafetensorError:  # cut off, as after a power failure: its images are encoded again
                path.unlink(missing_ok=True)

    def _note(self, path: Path, metadata: dict[str, str]) -> None:
        self.places |= {image: (path, row) for row, image in enumerate(json.loads(metadata["images"]))}
        self.images |= json.loads(metadata["keys"])

    def add(self, keys: dict[str, str], images: list[str], features: MMJepaImageFeatures | None) -> None:
        """Keeps which image each of the `keys` has, and the features of `images`, one per row; None if there are none.

        They are kept in half precision.
        """
        metadata = {"images": json.dumps(images), "keys": json.dumps(keys)}
        tensors: dict[str, torch.Tensor] = {}
        if features is not None:
            tensors["image_embeds"] = features.image_embeds.to("cpu", torch.float16)  # (I, D)
            tensors["visual_tokens"] = features.visual_tokens.to("cpu", torch.float16)  # (I, M, D)
        path = self.folder / f"{text_hash([*keys, *images])}.safetensors"
        write_whole(path, tensors, metadata)
        self._note(path, metadata)

    def read(self, images: Sequence[str], *names: str) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Places in `images`, and the features of these images by their `names`, one per row; file by file."""
        in_file: dict[Path, list[int]] = {}
        for place, image in enumerate(images):
            in_file.setdefault(self.places[image][0], []).append(place)
        for path, places in in_file.items():
            rows = [self.places[images[place]][1] for place in places]
            with safe_open(path, "pt") as file:
                yield places, [file.get_tensor(name)[rows] for name in names]


def model_folder(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor) -> Path:
    """Where a model's features are kept: elsewhere if a weight, a setting or the preparation of images differs."""

    def is_read(name: str) -> bool:
        return name.startswith("encoder.") and not name.startswith("encoder.text_encoder.")

    return cache_folder("features") / weights_hash(model, is_read, processor.image_processor.to_dict(), MADE_BY)


def open_cache(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor) -> FeatureCache:
    """The cache of a model for images."""
    return FeatureCache(model_folder(model, processor))


class ReadImage(NamedTuple):
    """A file that was read: `image`, a hash of its bytes; `pixels` (3, H, W), uint8, or None; what is wrong, or ""."""

    image: str
    pixels: torch.Tensor | None
    fault: str


def read_image(
    image: dict[str, Any], image_processor: BaseImageProcessor, shape: tuple[int, int, int], known: Container[str]
) -> ReadImage:
    """Reads an encoded image and prepares it, if it is not among the `known` ones."""
    try:
        encoded = image_bytes(image)
    except ValueError as error:
        return ReadImage("", None, str(error))
    name = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    if name in known:
        return ReadImage(name, None, "")
    prepared = prepare_image({"image": {"bytes": encoded, "path": None}}, image_processor, shape)
    return ReadImage(name, torch.from_numpy(prepared["pixels"]), prepared["fault"])


def encode_images(
    answerer: Answerer, found: FoundImages, cache: FeatureCache, show_progress: bool = False
) -> dict[int, str]:
    """Encodes what `cache` lacks of the images `found`.

    Returns:
        number of an image that can't be read -> what is wrong with it.

    Raises:
        DataError: no image can be read.
    """
    model, image_processor = answerer.model, answerer.processor.image_processor
    shape = prepared_shape(image_processor)
    lacking = [number for number, key in enumerate(found.keys) if cache.images.get(key) not in cache.places]
    faults: dict[int, str] = {}

    def read(number: int) -> ReadImage:
        return read_image(found.images[number], image_processor, shape, cache.places)

    is_off = None if show_progress and lacking else True  # None: shown in a terminal
    with tqdm(total=len(lacking), desc="Encoding images", unit=" images", disable=is_off) as bar, evaluating(model):
        for numbers, read_images in read_ahead(lacking, answerer.batch_size, read):
            keys: dict[str, str] = {}
            new: dict[str, torch.Tensor] = {}
            for number, (image, pixels, fault) in zip(numbers, read_images, strict=True):
                if fault:
                    faults[number] = fault
                    continue
                keys[found.keys[number]] = image
                if image not in cache.places:
                    new[image] = pixels
            features = None
            if new:
                pixels = torch.stack(list(new.values())).to(model.device)  # (I, 3, H, W)
                features = model.get_image_features(answerer.normalized(pixels))
            if keys:
                cache.add(keys, list(new), features)
            bar.update(len(numbers))
    if len(faults) == len(found):
        number, fault = next(iter(faults.items()))
        raise DataError(f"none of the {len(found)} images can be read, such as {found.names[number]} ({fault}).")
    return faults


def read_ahead(
    numbers: Sequence[int], batch_size: int, read: Callable[[int], ReadImage]
) -> Iterator[tuple[Sequence[int], list[ReadImage]]]:
    """Batches of `numbers` with what `read` gives for each. While a batch is used, threads read the next one."""
    pool = ThreadPoolExecutor()
    waiting: list[tuple[Sequence[int], list[Future]]] = []
    try:
        for batch in batches(numbers, batch_size):
            waiting.append((batch, [pool.submit(read, number) for number in batch]))
            if len(waiting) > 1:
                first, results = waiting.pop(0)
                yield first, [result.result() for result in results]
        for last, results in waiting:
            yield last, [result.result() for result in results]
    finally:
        pool.shutdown(cancel_futures=True)
