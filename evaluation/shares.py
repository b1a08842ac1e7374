"""Work in batches, and divided among processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import distributed

Result = TypeVar("Result")


def batches(items: Sequence, batch_size: int) -> Iterator[Sequence]:
    """`items` in their order, `batch_size` at a time."""
    return (items[start : start + batch_size] for start in range(0, len(items), batch_size))


def in_shares(items: Sequence, work: Callable[[Sequence], list]) -> list:
    """`work(items)`: one result per item, in order. With torch.distributed each process does a share.

    Process r of n works on items r, r + n, ...; every process gets all results. Results are pickled: tensors in
    them must be on the CPU.
    """
    if not distributed.is_initialized():
        return work(items)
    shares: list[list] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(shares, work(own_share(items)))
    results = [None] * len(items)
    for rank, share in enumerate(shares):
        results[rank :: len(shares)] = share
    return results


def from_first(work: Callable[[], Result]) -> Result:
    """`work()` of the first process, which alone does it, for every process. Tensors in it must be on the CPU."""
    if not distributed.is_initialized():
        return work()
    results: list = [work() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(results, src=0)
    return results[0]


def own_share(items: Sequence) -> Sequence:
    """The part of `items` that this process works on."""
    if not distributed.is_initialized():
        return items
    return items[distributed.get_rank() :: distributed.get_world_size()]
