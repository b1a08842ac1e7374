"""What the benchmarks share: measuring time, floating-point operations and memory, and printing tables."""

import argparse
import json
import statistics
import sys
import time
import weakref
from collections.abc import Callable

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmjepa.reporting.table import markdown_table

STARTED = time.perf_counter()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# torch counts only the attention kernels of GPUs.
CPU_ATTENTION_FLOPS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


def parse_arguments(
    description: str, argv: list[str] | None, flags: dict[str, str] | None = None, rounds: int = 3
) -> argparse.Namespace:
    """Parses the options that all benchmarks have, and `flags`: the switches of one, each with its help.

    Args:
        rounds: by default; what is slow takes few, so that a benchmark ends within five minutes on two cores.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--size", default="base", choices=("base", "small", "tiny"), help="base: dinov2-base and bart-base"
    )
    parser.add_argument("--steps", type=int, default=rounds, help="rounds; medians are printed")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    for name, help in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=help)
    return parser.parse_args(argv)


def say(text: str) -> None:
    """Prints a line beside the results, while they are measured."""
    print(text, file=sys.stderr, flush=True)


def autocast() -> torch.autocast:
    """bfloat16 on a GPU; float32 on a CPU, unless autocast is on already."""
    return torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda" or torch.is_autocast_enabled("cpu"))


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes. On a GPU events measure it, because a call returns before its work is done."""
    if DEVICE == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def cpu_seconds(function: Callable[[], object]) -> float:
    """The CPU seconds of one call, of all threads: other programs on the machine hardly change them."""
    started = time.process_time()
    function()
    return time.process_time() - started


def interleaved_seconds(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    measure: Callable[[Callable[[], object]], float] = seconds,
) -> dict[str, float]:
    """Median seconds of each function. They take turns in each round, so that a slow minute slows all of them.

    Args:
        measure: `seconds` or `cpu_seconds`.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        for name, function in functions.items():
            times[name].append(measure(function))
            say(f"round {number + 1} of {rounds}, {name}: {times[name][-1]:.3g} s")
    return {name: statistics.median(values) for name, values in times.items()}


class MatrixProducts:
    """Products (rows, width) x (width, 4 width), the largest of a transformer layer; `flops` are those of one call."""

    def __init__(self, rows: int, width: int):
        dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
        self.left = torch.randn(rows, width, device=DEVICE, dtype=dtype)
        self.right = torch.randn(width, 4 * width, device=DEVICE, dtype=dtype)
        self.repeats = 10
        self.flops = self.repeats * 2 * rows * width * 4 * width

    def __call__(self):
        for _ in range(self.repeats):
            self.left @ self.right


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the living tensors that operations made; `peak` is the most at once.

    This is what a GPU's allocator counts, but on any device. A kernel's scratch memory is not counted.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in storages((args, kwargs)):
            self._know(storage, 0)  # it existed before, like a weight: its views need no memory
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            self._know(storage, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _know(self, storage: torch.UntypedStorage, size: int):
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.live += size
            weakref.finalize(storage, self._forget, storage._cdata, size)

    def _forget(self, key: int, size: int):
        self.known.discard(key)
        self.live -= size


def storages(tree: object) -> list[torch.UntypedStorage]:
    """The storages of all tensors in nested lists, tuples and dicts."""
    return [leaf.untyped_storage() for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that a call holds in addition to what was held before it."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as memory:
        function()
    return memory.peak


def count_flops_and_peak(function: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations of the matrix products of a call, backward included, and its `peak_bytes`."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION_FLOPS) as counter:
        peak = peak_bytes(function)
    return counter.get_total_flops(), peak


def environment(size: str) -> dict[str, object]:
    """Size, device, precision and versions, which every benchmark prints."""
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    precision = "bfloat16" if DEVICE == "cuda" else "float32"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"size": size, "device": device, "precision": precision} | versions


def show(results: dict, as_json: bool) -> None:
    """Prints results: lists of rows as Markdown tables, or everything as one JSON object."""
    say(f"measured in {time.perf_counter() - STARTED:.0f} s")
    if as_json:
        print(json.dumps(results))
        return
    print(", ".join(f"{name} {value}" for name, value in results["environment"].items()))
    numbers = {name: value for name, value in results.items() if not isinstance(value, (list, dict))}
    lists = [value for value in results.values() if isinstance(value, list)]
    for rows in [*lists, [numbers]] if numbers else lists:
        print("\n" + table(rows))


def table(rows: list[dict]) -> str:
    """Rows with equal keys as a Markdown table. A single row becomes a table of two columns."""
    if len(rows) == 1:
        rows = [{"figure": name, "value": value} for name, value in rows[0].items()]
    return markdown_table([{name: cell(value) for name, value in row.items()} for row in rows])


def cell(value: object) -> str:
    """A value as text; floats with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
