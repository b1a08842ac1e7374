"""Questions about whole images -> batches: in which order rows come, and what tensors they become."""

import re
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from ..processing_mmjepa import MMJepaProcessor
from .images import normalize_pixels, prepared_shape
from .loading import TEXT_COLUMNS

PRIORITY = ("question", "caption", "answer", "text")
# Words of questions and answers that are wrong of a mirrored image.
SIDES = re.compile(
    r"\b((left|right)(most|wards?|sided|hand)?|(top|bottom|upper|lower)(most)?|(up|down)(wards?|side)"
    r"|(north|south|east|west)(ern|wards?)?|above|below|beneath|under|underneath|over"
    r"|(under|over)-?(lies|lie|lying|lain)|(sub|supra)jacent|(anti|counter)?-?clockwise"
    r"|((super|infer|anter|poster)ior|dorsal|ventral|caudal|rostral)(ly)?)\b",
    re.IGNORECASE,
)
# How many image groups the sampler looks through for one that fills a batch exactly.
PACKING_LOOKAHEAD = 64


def alignment_text(row: dict[str, Any], setting: str) -> str:
    """What the row's image is aligned to by `alignment_text` of the configuration; empty where it has no such text."""
    if setting == "statement" and row.get("question"):
        return f"{row['question']} {row['answer']}".strip()
    names = PRIORITY if setting in ("priority", "statement") else (setting,)
    return next((row[name] for name in names if row.get(name)), "")


class VqaCollator:
    """Rows of [`VqaData`] -> the model's inputs, each distinct image once.

    pixel_values (I, 3, H, W) float32, image_ids (I,), image_index (B,), input_ids and attention_mask (B, L), labels
    (B, A) and, where some row's alignment text is not its question, align_input_ids and align_attention_mask (B, L').

    A row without a question teaches the alignment alone: its labels are all -100. A row without an alignment text
    teaches the answer alone: its align_attention_mask is 0. No rows make a stand-in that teaches nothing, a blank
    question about a black image whose image_ids are -1: a process without rows in a step still has to take part in it.

    Args:
        alignment_text: what of a row the image is aligned to, as in [`MMJepaConfig`].
        as_bytes: leaves pixel_values uint8, for a Trainer that augments and normalises them on the device, and says
            by keep_sides (I,) of which images a text names left or right, top or bottom, and by row_ids (B,), but of
            a stream, which rows these are.
    """

    def __init__(self, processor: MMJepaProcessor, alignment_text: str = "statement", as_bytes: bool = False):
        self.processor = processor
        self.alignment_text = alignment_text
        self.as_bytes = as_bytes

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not rows:
            black = torch.zeros(prepared_shape(self.processor.image_processor), dtype=torch.uint8)
            batch = self([{"question": "", "answer": "", "image_id": 0, "pixels": black}])
            return {**batch, "image_ids": torch.full_like(batch["image_ids"], -1)}
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
        batch["labels"][[not question for question in questions]] = -100
        texts = [alignment_text(row, self.alignment_text) for row in rows]
        if texts != questions or "" in texts:
            tokens = self.processor(text=texts, return_tensors="pt")
            has_text = torch.tensor([text != "" for text in texts])
            batch["align_input_ids"] = tokens["input_ids"]
            batch["align_attention_mask"] = tokens["attention_mask"] * has_text[:, None]
        if self.as_bytes:
            with_sides = {row["image_id"] for row in rows if names_side(row)}
            if "row" in rows[0]:
                batch["row_ids"] = torch.tensor([row["row"] for row in rows])
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
