"""Compares images prepared once with images decoded for every row; measures the start, and how a step waits for data.

python benchmarks/bench_data.py [--size tiny] [--steps 5] [--json]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import datasets
import PIL.Image
import torch
from datasets import Dataset, disable_caching, enable_caching
from huggingface_hub import constants
from measuring import DEVICE, environment, interleaved_seconds, parse_arguments, seconds, show
from peers import PROJECT, SIZES, TrainingStep, make_models, make_optimizer, random_batch
from torch.utils.data import DataLoader

from mmjepa import run_pathvqa
from mmjepa.data import images
from mmjepa.data.collator import NOT_FOR_THE_MODEL, VqaCollator
from mmjepa.data.columns import each_row
from mmjepa.data.drawn_slides import write_drawn_slides
from mmjepa.data.images import VqaData, prepare
from mmjepa.data.pixels import normalize_pixels
from mmjepa.data.rows import load_rows
from mmjepa.data.sampling import ImageGroupedSampler
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training import reading, run_folder
from mmjepa.training.building import new_image_processor, train_tokenizer, whole_images

# The slides are drawn twice as large as the model reads them, so that they have to be resized.
SOURCE_SCALE = 2
QUESTIONS_PER_SLIDE = 7
QUESTIONS_PER_IMAGE = 8
WORKERS = (0, 1, 2)
# A tenth of PathVQA, in its shape: 7.6 questions an image of 224 pixels.
START_QUESTIONS = 2000
CONFIG = Path(__file__).parents[1] / "configs" / "pathvqa_scratch.json"


def make_rows(folder: str, image_size: int, questions: int) -> Dataset:
    """At least `questions` questions about slides, read from PNG files on the disk like a user's data."""
    path = Path(folder) / "slides"
    slides = -(-questions // QUESTIONS_PER_SLIDE)
    write_drawn_slides(path, num_train=slides, num_validation=0, image_size=SOURCE_SCALE * image_size)
    return load_rows(str(path))["train"]


def make_processor(rows: Dataset, image_size: int) -> MMJepaProcessor:
    """A processor for square images of `image_size`, with a tokenizer trained on the rows' texts."""
    texts = sorted({text for name in ("question", "answer") for text in rows[name]})
    return MMJepaProcessor(whole_images(new_image_processor(), image_size), train_tokenizer(texts, vocab_size=1000))


def make_data(folder: str, image_size: int, questions: int) -> tuple[VqaData, MMJepaProcessor]:
    """At least `questions` prepared questions, and their processor."""
    rows = make_rows(folder, image_size, questions)
    processor = make_processor(rows, image_size)
    return prepare(rows, processor.image_processor), processor


def make_loader(data: VqaData, processor: MMJepaProcessor, batch_size: int, workers: int) -> DataLoader:
    """Loads batches like the Trainer."""
    sampler = ImageGroupedSampler(data.questions["image_id"], batch_size, QUESTIONS_PER_IMAGE, seed=0)
    options = {"num_workers": workers, "pin_memory": DEVICE == "cuda"}
    return DataLoader(data, batch_size, sampler=sampler, collate_fn=VqaCollator(processor, as_bytes=True), **options)


def row_by_row_loader(rows: Dataset, processor: MMJepaProcessor, batch_size: int, workers: int) -> DataLoader:
    """Loads batches the usual way: shuffled, and every row decodes and resizes its own image."""

    def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
        images = [PIL.Image.open(example["image"]["path"]) for example in examples]
        questions, answers = ([example[name] for example in examples] for name in ("question", "answer"))
        return processor(images=images, text=questions, answers=answers, return_tensors="pt")

    return DataLoader(rows, batch_size, shuffle=True, collate_fn=collate, num_workers=workers)


def data_waits(
    data: VqaData,
    processor: MMJepaProcessor,
    batch_size: int,
    train: Callable[[dict[str, torch.Tensor]], None],
    steps: int,
) -> list[dict]:
    """One row per number of workers: how long `train` waits for its batches, without the first (workers start)."""
    rows = []
    for workers in WORKERS:
        batches = iter(make_loader(data, processor, batch_size, workers))
        next(batches)
        waited = worked = 0.0
        for _ in range(steps):
            started = time.perf_counter()
            batch = {name: tensor.to(DEVICE, non_blocking=True) for name, tensor in next(batches).items()}
            waited += time.perf_counter() - started
            batch = {name: tensor for name, tensor in batch.items() if not name.startswith(NOT_FOR_THE_MODEL)}
            batch["pixel_values"] = normalize_pixels(batch["pixel_values"], processor.image_processor)
            worked += seconds(lambda batch=batch: train(batch))
        rows.append(
            {"workers": workers, "ms per batch": 1000 * waited / steps, "data wait share": waited / (waited + worked)}
        )
    return rows


def cpu_seconds(function: Callable[[], object]) -> float:
    """The CPU seconds of one call, of all threads. A busy machine changes them little."""
    started = time.process_time()
    function()
    return time.process_time() - started


def starts(folder: str, questions: int) -> list[dict]:
    """CPU seconds from the script's `main` to the end of the first step, and what of it is the data's.

    A cold start finds neither rows and images in the cache of `datasets` nor embeddings of texts, a warm one what the
    cold one left there.
    """
    path = Path(folder) / "start"
    write_drawn_slides(path, num_train=-(-questions // QUESTIONS_PER_SLIDE), num_validation=0, image_size=224)
    flags = [str(CONFIG), "--dataset_name", str(path), "--max_steps", "1", "--do_eval", "false", "--report_to", "none"]
    flags += ["--save_strategy", "no", "--disable_tqdm", "true", "--align_warmup_epochs", "0"]
    flags += ["--output_dir", f"{folder}/run", "--overwrite_output_dir"]
    rows = []
    for start in ("cold", "warm"):
        with CpuSeconds(reading, "read_splits") as reads, CpuSeconds(reading, "prepare") as prepares:
            with CpuSeconds(images, "image_hashes") as hashes, CpuSeconds(run_folder, "content_hash") as fingerprints:
                with redirect_stdout(sys.stderr):
                    whole = cpu_seconds(lambda: run_pathvqa.main(flags))
        data = reads.total + prepares.total + fingerprints.total
        hashing = hashes.total + fingerprints.total
        rows.append({"start": start, "CPU s": whole, "data, CPU s": data, "of it hashing, CPU s": hashing})
    return rows


class CpuSeconds:
    """Adds up the CPU seconds of a module's function while it is entered."""

    def __init__(self, module: ModuleType, name: str):
        self.module, self.name, self.function, self.total = module, name, getattr(module, name), 0.0

    def __enter__(self) -> "CpuSeconds":
        setattr(self.module, self.name, self)
        return self

    def __exit__(self, *error) -> None:
        setattr(self.module, self.name, self.function)

    def __call__(self, *args, **kwargs):
        started = time.process_time()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.total += time.process_time() - started


def shortcuts(rows: Dataset) -> dict[str, float]:
    """How many times as fast the data are read as row by row: hashing their image files, reading their texts."""
    texts = rows.select_columns(["question", "answer"])
    disable_caching()
    try:
        once = cpu_seconds(lambda: images.image_hashes(rows))
        each = cpu_seconds(lambda: [images.image_hash(row) for row in rows.select_columns("image")])
        whole = cpu_seconds(lambda: list(each_row(texts)))
        alone = cpu_seconds(lambda: list(texts))
    finally:
        enable_caching()
    return {"hashing_speedup_vs_row_by_row": each / once, "texts_speedup_vs_row_by_row": alone / whole}


def read_all(loader: DataLoader) -> None:
    """Reads every batch once."""
    for _ in loader:
        pass


def measure(size_name: str, rounds: int) -> dict:
    """Rows per second of both loaders, images prepared per second, and the share of time that a step waits."""
    size = SIZES[size_name]
    model = make_models(size, [PROJECT])[PROJECT]
    step = TrainingStep(PROJECT, model, make_optimizer(model), random_batch(size, QUESTIONS_PER_IMAGE))

    def train(batch: dict[str, torch.Tensor]) -> None:
        step.inputs = {**batch, "return_logits": False}
        step()

    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(folder, size.image_size, size.questions * max(rounds + 2, 8))
        processor = make_processor(rows, size.image_size)
        preparing = seconds(lambda: prepare(rows, processor.image_processor))
        data = prepare(rows, processor.image_processor)  # from the cache, as in every later run
        loaders = []
        for workers in WORKERS:
            once = make_loader(data, processor, size.questions, workers)
            per_row = row_by_row_loader(rows, processor, size.questions, workers)
            functions = {
                "once": lambda loader=once: read_all(loader),
                "per row": lambda loader=per_row: read_all(loader),
            }
            medians = interleaved_seconds(functions, rounds)
            loaders.append(
                {
                    "workers": workers,
                    "rows/s": len(rows) / medians["once"],
                    "decoded for each row, rows/s": len(rows) / medians["per row"],
                    "speedup": medians["per row"] / medians["once"],
                }
            )
        waits = data_waits(data, processor, size.questions, train, rounds)
        ratios = shortcuts(rows)
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        constants.HF_HOME = str(Path(folder) / "home")  # of the texts' embeddings
        started = starts(folder, START_QUESTIONS if size_name == "base" else size.questions)
    return {
        "environment": environment(size_name) | {"cores": os.cpu_count()},
        "speedup_vs_decode_per_row": loaders[0]["speedup"],
        "rows_per_second": loaders[0]["rows/s"],
        "images_prepared_per_second": len(data.pixels) / preparing,
        "data_wait_share": min(row["data wait share"] for row in waits),
        **ratios,
        "starts": started,
        "loaders": loaders,
        "waits": waits,
    }


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse_arguments("Reading and preparing images, once or for every row.", argv)
    show(measure(arguments.size, arguments.steps), arguments.json)


if __name__ == "__main__":
    main()
