"""Work of many rows side by side: how many processes a machine has room for, and threads of one process."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any


def available_cores() -> int:
    """The cores that this process may run on; a container or a scheduler may keep some of the machine's for others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


def default_workers() -> int:
    """Four, or the number of cores if there are fewer: more processes would only take turns."""
    return min(4, available_cores())


class InThreads:
    """Makes a function of one row a function of a batch of rows, for `Dataset.map` with `batched`.

    Processes of `Dataset.map` would be forked, and a child of a process that uses a GPU can wait forever. Pillow and
    hashlib let other threads run while they work. `datasets` computes fingerprints by pickling: the number
    of threads is left out there, because the results don't depend on it.

    Args:
        function: gets a row, further values of the row (such as its number), and `kwargs`; returns a dict.
    """

    def __init__(self, function: Callable[..., dict[str, Any]], num_threads: int | None = None):
        self.function, self.num_threads = function, num_threads or 1

    def __call__(self, batch: dict[str, Sequence], *values: Sequence, **kwargs: Any) -> dict[str, list]:
        rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        with ThreadPoolExecutor(self.num_threads) as pool:
            results = list(pool.map(partial(self.function, **kwargs), rows, *values))
        return {name: [result[name] for result in results] for name in results[0]}

    def __reduce__(self):
        return InThreads, (self.function,)
