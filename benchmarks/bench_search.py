"""Searching images: encoding files beside the image encoder alone, and a second search over 10,000 encoded images.

python benchmarks/bench_search.py [--size tiny] [--steps 3] [--json]
"""

import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measuring import cpu_seconds, environment, interleaved_seconds, parse_arguments, show
from peers import PROJECT, SIZES, Size, make_models
from PIL import Image
from torch.nn.functional import normalize
from transformers import BitImageProcessorPil

from mmjepa.data.image_files import find_images
from mmjepa.encoder_mmjepa import MMJepaImageFeatures
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.feature_cache import FeatureCache, encode_images, model_folder
from mmjepa.evaluation.searching import truth_probabilities

BATCH_SIZE = 16
FILES = 32  # that are encoded
IMAGES = 10_000  # that were encoded before the second search


def measure(size_name: str, rounds: int) -> dict:
    """CPU seconds, which other programs on the machine hardly change."""
    size = SIZES[size_name]
    model = make_models(size, [PROJECT])[PROJECT].eval()
    edges = {"height": size.image_size, "width": size.image_size}
    # Nothing here reads a text: without a tokenizer no vocabulary has to be downloaded.
    processor: Any = SimpleNamespace(image_processor=BitImageProcessorPil(size=edges, do_center_crop=False))
    with tempfile.TemporaryDirectory() as folder:
        encoding = encoding_seconds(size, Answerer(model, processor, BATCH_SIZE), Path(folder), rounds)
    with tempfile.TemporaryDirectory() as folder:
        searching = searching_seconds(model, processor, Path(folder), rounds)
    return {
        "environment": environment(size_name),
        "encoder_share": encoding["encoder alone"] / encoding["files"],
        "second_search_seconds": searching["1 statement"],
        "encoding": [{"of": name, "CPU seconds": value} for name, value in encoding.items()],
        "second search": [{"of": name, "CPU seconds": value} for name, value in searching.items()],
    }


def encoding_seconds(size: Size, answerer: Answerer, folder: Path, rounds: int) -> dict[str, float]:
    """Of encoding `FILES` JPEG files into a new cache each time, and of the image encoder for their pixels alone."""
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    edges = (size.image_size, size.image_size)
    for number in range(FILES):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize(edges).save(folder / "images" / f"{number}.jpg", quality=90)
    batch = torch.from_numpy(random.integers(0, 256, (BATCH_SIZE, 3, *edges), dtype=np.uint8))
    found = find_images(str(folder / "images"))
    caches = iter(range(rounds + 1))

    def files() -> None:
        encode_images(answerer, found, FeatureCache(folder / f"cache {next(caches)}"))

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(FILES // BATCH_SIZE):
            answerer.model.get_image_features(answerer.normalized(batch.to(answerer.model.device)))

    files()  # warm
    return interleaved_seconds({"files": files, "encoder alone": alone}, rounds, cpu_seconds)


def searching_seconds(model: torch.nn.Module, processor: Any, folder: Path, rounds: int) -> dict[str, float]:
    """Of finding the model's cache and scoring `IMAGES` images of it by one statement, and by as many as tokens.

    As many statements as an image has visual tokens are compared with the projected tokens, as in training.
    """
    config = model.config
    width, tokens = config.text_config.d_model, config.num_image_tokens
    images = [str(number) for number in range(IMAGES)]
    cache = FeatureCache(folder)
    for start in range(0, IMAGES, BATCH_SIZE):
        part = images[start : start + BATCH_SIZE]
        shape = (len(part), tokens, width)
        features = MMJepaImageFeatures(image_embeds=torch.randn(len(part), width), visual_tokens=torch.randn(shape))
        cache.add({}, part, features)

    def search(count: int) -> None:
        model_folder(model, processor)  # reads all weights: another model has other features
        embeds = normalize(torch.randn(count, width), dim=-1).to(model.device)
        truth_probabilities(model, FeatureCache(folder), images, embeds)

    ways = {"1 statement": partial(search, 1), f"{tokens} statements": partial(search, tokens)}
    return interleaved_seconds(ways, rounds, cpu_seconds)


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse_arguments("Searching images by statements.", argv)
    show(measure(arguments.size, arguments.steps), arguments.json)


if __name__ == "__main__":
    main()
