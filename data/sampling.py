"""Whole images -> batches of their questions: the order in which rows come, and each process's share of it."""

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
from torch.utils.data import Sampler

# How many image groups the sampler searches for one that fills a batch exactly.
PACKING_LOOKAHEAD = 64


class ImageGroupedSampler(Sampler[int]):
    """An order of the rows in which each slice of `batch_size` rows holds the questions of few images.

    Images come in a random order, each with at most `questions_per_image` of its questions together. A batch is filled
    with whole groups if one of the next groups fits. The sampler gives rows and not batches, so that batching,
    processes and resuming stay with the Trainer's own loaders. `questions_per_image=1` is a plain shuffle.

    Args:
        image_ids: the image of each row.
        seed: with the epoch, decides the order.
        weights: how often each row comes in an epoch, 1 by default. Of rows of weight 2.5 all come twice, and the
            questions of half of the images, drawn anew in each epoch, once more.
    """

    def __init__(
        self,
        image_ids: Sequence[Any],
        batch_size: int,
        questions_per_image: int,
        seed: int,
        weights: Sequence[float] | None = None,
    ):
        self.image_ids = np.asarray(image_ids)
        self.weights = np.ones(len(self.image_ids)) if weights is None else np.asarray(weights, dtype=float)
        self.batch_size = batch_size
        self.questions_per_image = questions_per_image
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        values, counts = np.unique(self.weights, return_counts=True)
        return sum(round(value % 1 * count) + int(value) * count for value, count in zip(values, counts, strict=True))

    def __iter__(self) -> Iterator[int]:
        return packed(self._groups(), self.batch_size)

    def _groups(self) -> list[list[int]]:
        """Rows of one image each, at most `questions_per_image` together, in this epoch's order."""
        random = np.random.default_rng((self.seed, self.epoch))
        groups: list[list[int]] = []
        for rows in self._passes(random):
            rows_of = defaultdict(list)
            for row in random.permutation(rows).tolist():
                rows_of[self.image_ids[row]].append(row)
            step = self.questions_per_image
            groups += [rows[start : start + step] for rows in rows_of.values() for start in range(0, len(rows), step)]
        return [groups[place] for place in random.permutation(len(groups))]

    def _passes(self, random: np.random.Generator) -> Iterator[np.ndarray]:
        """The rows of each pass of an epoch. A row is at most once in each."""
        for number in range(math.ceil(self.weights.max(initial=1))):
            whole = np.flatnonzero(self.weights >= number + 1)
            shares = sorted({weight for weight in self.weights.tolist() if number < weight < number + 1})
            yield np.concatenate([whole, *(self._share(weight, random) for weight in shares)])

    def _share(self, weight: float, random: np.random.Generator) -> np.ndarray:
        """As many rows of `weight` as its fraction says: those of images drawn at random."""
        rows = np.flatnonzero(self.weights == weight)
        images, image_of_row = np.unique(self.image_ids[rows], return_inverse=True)
        order = np.argsort(random.permutation(len(images))[image_of_row], kind="stable")
        return rows[order[: round(weight % 1 * len(rows))]]


def packed(groups: Sequence[list[int]], batch_size: int) -> Iterator[int]:
    """The rows of `groups`, ordered so that each slice of `batch_size` rows holds whole groups if some fit."""
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
    """Divides the rows of each step of an [`ImageGroupedSampler`] among the processes.

    Gives batches, in each step that of process 0, then that of process 1, and so on. Together they hold the rows that
    one process would have with batches as large as the whole step. Shares are equal and, as far as that allows, by
    image. In the last step they may differ by a row, and be empty if there are fewer rows than processes: accelerate
    would fill them up with rows of the first step, which would count twice.

    Args:
        whole_steps: leaves out a last step with fewer rows.
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
