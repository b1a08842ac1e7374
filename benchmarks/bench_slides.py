"""Searches generated slides of several sizes with a tiny model: does memory stay flat, and how many tiles a second?

python benchmarks/bench_slides.py [--gigapixels 1 4] [--workers 2] [--json]

A slide is mostly glass: tissue covers a twentieth of it. Each is searched in a process of its own, twice; the second
search takes the features from the disk.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
import torch
from measuring import environment, show

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.drawn_slides.painting import draw_slide
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.building import new_image_processor, train_tokenizer, whole_images

MPP = 0.25
FILE_TILE = 256  # pixels
TISSUE = 0.2  # of the width, and a quarter of the height
LEVELS = (1, 4, 16, 64)
IMAGE_SIZE = 224
STATEMENTS = ("is necrosis seen?", "is a gland seen?")
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": 16,
}
TEXT = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
TEXT |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}


def write_slide(path: Path, side: int) -> None:
    """A pyramid of `side` x `side` pixels at level 0, written tile by tile."""
    pixels = np.asarray(draw_slide(np.random.default_rng(0), FILE_TILE)[0])
    tissue, glass = (zlib.compress(tile.tobytes()) for tile in (pixels, np.full_like(pixels, 243)))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for downsample in LEVELS:
            across = -(-side // downsample // FILE_TILE)
            per_centimetre = 1e4 / (MPP * downsample)
            file.write(
                tiles_of(across, tissue, glass),
                shape=(side // downsample, side // downsample, 3),
                dtype=np.uint8,
                tile=(FILE_TILE, FILE_TILE),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(downsample > 1),
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def tiles_of(across: int, tissue: bytes, glass: bytes) -> Iterator[bytes]:
    """The encoded tiles of a level of `across` x `across`, row by row; tissue lies in the middle."""
    for row in range(across):
        for column in range(across):
            place = abs((column + 0.5) / across - 0.5), abs((row + 0.5) / across - 0.5)
            yield tissue if place[0] < TISSUE / 2 and place[1] < 0.125 else glass


def make_model() -> tuple[MMJepaForConditionalGeneration, MMJepaProcessor]:
    """A tiny model of images of 224 x 224 pixels with random weights."""
    tokenizer = train_tokenizer(list(STATEMENTS), vocab_size=300)
    torch.manual_seed(0)
    config = MMJepaConfig(vision_config=TOWER, text_config={**TEXT, "vocab_size": len(tokenizer)}, num_image_tokens=4)
    processor = MMJepaProcessor(whole_images(new_image_processor(), IMAGE_SIZE), tokenizer)
    return MMJepaForConditionalGeneration(config).eval(), processor


def search_once(path: str, workers: int) -> dict[str, float]:
    """Searches a slide twice, and measures this process and the largest of its workers."""
    from mmjepa.evaluation.searching_slides import search_slides

    model, processor = make_model()
    before, times, tiles = peak_gigabytes(resource.RUSAGE_SELF), [], 0
    for statement in STATEMENTS:
        started = time.perf_counter()
        options = {"taught": [], "num_workers": workers, "say": lambda note: None}
        (result,) = search_slides(model, processor, [Path(path)], [statement], **options)
        times.append(time.perf_counter() - started)
        tiles = len(result.tiles)
    return {
        "tiles": tiles,
        "first search, s": times[0],
        "tiles/s": tiles / times[0],
        "next statement, s": times[1],
        "peak memory, GB": peak_gigabytes(resource.RUSAGE_SELF),
        "of it before the search, GB": before,
        "largest worker, GB": peak_gigabytes(resource.RUSAGE_CHILDREN),
    }


def peak_gigabytes(who: int) -> float:
    """The largest resident memory so far of this process, or of its largest child that has ended."""
    return resource.getrusage(who).ru_maxrss / 1024**2


def measure(gigapixels: list[float], workers: int) -> dict:
    """One row per size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder  # of the processes that search: their features are not kept
        for size in gigapixels:
            path, side = Path(folder, f"{size}.tif"), int((size * 1e9) ** 0.5)
            write_slide(path, side)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(search_once, str(path), workers).result()
            rows.append({"gigapixels": size, "file, MB": path.stat().st_size / 1e6, **found})
            path.unlink()
    return {"environment": environment("tiny") | {"workers": workers}, "slides": rows}


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Searching slides: memory and tiles per second.")
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[1, 4], help="sizes of the slides")
    parser.add_argument("--workers", type=int, default=2, help="processes that read tiles")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args(argv)
    show(measure(arguments.gigapixels, arguments.workers), arguments.json)


if __name__ == "__main__":
    main()
