"""Changes random bytes of images and tables and reads them. Only a result or a clear error may follow.

    make fuzz SECONDS=600
    python tests/fuzzing.py --seconds 60 --seed 3

Clear errors are ValueError and TypeError of this project. For anything else the file is kept, and the exit status is
1.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
from datasets import Dataset

from mmjepa.data.collator import VqaCollator
from mmjepa.data.images import prepare
from mmjepa.data.rows import drop_unanswered, load_rows
from mmjepa.processing_mmjepa import MMJepaProcessor

CHECKPOINT = Path(__file__).parent / "checkpoints" / "0.1.0"
IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000")
TABLES = {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}
REFUSED = (ValueError, TypeError)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """`content` with bytes changed; or a piece removed, doubled or replaced by special values; or cut off."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        place, length = chance.randrange(len(changed) + 1), chance.choice([1, 2, 4, 50])
        piece = changed[place : place + length]
        changed[place : place + length] = chance.choice(
            [chance.randbytes(len(piece)), b"", bytes(piece) * 2, b"\xff" * len(piece), b"\0" * len(piece), b"\n,\"'{"]
        )
    return bytes(changed[: chance.randrange(len(changed) + 1)] if chance.random() < 0.1 else changed)


def image_files() -> dict[str, bytes]:
    """A small image in each format."""
    with tempfile.TemporaryDirectory() as folder:
        image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
        for name in IMAGE_FORMATS:
            image.save(f"{folder}/{name}", name)
        return {name: Path(folder, name).read_bytes() for name in IMAGE_FORMATS}


def table_files() -> dict[str, bytes]:
    """A small table in each format."""
    rows = [{"image": f"{name}.png", "question": f"what is {name}, then?", "answer": "yes"} for name in "abab"]
    with tempfile.TemporaryDirectory() as folder:
        for suffix, write in TABLES.items():
            getattr(Dataset.from_list(rows), write)(f"{folder}/table.{suffix}")
        return {suffix: Path(folder, f"table.{suffix}").read_bytes() for suffix in TABLES}


def read_image(processor: MMJepaProcessor, content: bytes, name: str, folder: Path) -> None:
    pixels = processor(images=content, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 28, 28) and pixels.isfinite().all()


def read_table(processor: MMJepaProcessor, content: bytes, name: str, folder: Path) -> None:
    for image in "ab":
        PIL.Image.new("RGB", (9, 9), "red").save(folder / f"{image}.png")
    (folder / f"train.{name}").write_bytes(content)
    data = prepare(drop_unanswered(load_rows(str(folder))["train"], "train"), processor.image_processor)
    batch = VqaCollator(processor)(data.__getitems__(list(range(len(data)))))
    assert batch["pixel_values"].isfinite().all()


def until(end: float) -> Iterator[None]:
    """Yields until `time.monotonic()` is `end`."""
    while time.monotonic() < end:
        yield


def fuzz(times: Iterable[object], seed: int, kept: Path) -> tuple[Counter, list[str]]:
    """Reads one file for each item of `times` -> how many of each kind were read, refused or faulty; and the faults.

    Files that show a fault are written into `kept`.
    """
    chance = random.Random(seed)
    processor = MMJepaProcessor.from_pretrained(CHECKPOINT)
    readers: dict[Callable, dict[str, bytes]] = {read_image: image_files(), read_table: table_files()}
    counts: Counter = Counter()
    found: list[str] = []
    for _ in times:
        # Reading an image takes a hundredth of the time of reading a table.
        read = read_table if chance.random() < 0.02 else read_image
        name, whole = chance.choice(sorted(readers[read].items()))
        content = mutated(whole, chance)
        with tempfile.TemporaryDirectory() as folder:
            try:
                read(processor, content, name, Path(folder))
                counts[name, "read"] += 1
            except REFUSED:
                counts[name, "refused"] += 1
            except Exception as error:
                counts[name, "found"] += 1
                kept.mkdir(parents=True, exist_ok=True)
                path = kept / f"{len(found)}.{name.lower()}"
                path.write_bytes(content)
                found.append(f"{path}: {type(error).__name__}: {error}")
    return counts, found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Reads images and tables with bytes changed at random.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"), help="folder for files that show a fault")
    arguments = parser.parse_args(argv)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = cache  # thousands of tables that nobody reads again
        counts, found = fuzz(until(time.monotonic() + arguments.seconds), arguments.seed, arguments.kept)
    for name in sorted({name for name, _ in counts}):
        print(f"{name:9}", *(f"{counts[name, what]:6} {what}" for what in ("read", "refused", "found")))
    print("\n".join(found))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
