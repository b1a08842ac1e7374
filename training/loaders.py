"""How rows are put into batches and loaded: whole images' questions together, shared out among the processes."""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader

from ..configuration_mmjepa import MMJepaConfig
from ..data.collator import VqaCollator
from ..data.images import VqaData
from ..data.joining import sets_of
from ..data.sampling import ImageGroupedSampler, SharedBatchSampler
from ..processing_mmjepa import MMJepaProcessor
from .arguments import MMJepaTrainingArguments
from .stopping import ignore_first_signal

LOADER_FLAGS = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory", "multiprocessing_context")


def own_collator(processor: MMJepaProcessor | None, config: MMJepaConfig) -> VqaCollator:
    """The collator of a model of `config`, which leaves pixels as bytes. Raises ValueError without a processor."""
    if processor is None:
        raise ValueError("there is neither a data_collator nor a processing_class to make one with: give one.")
    return VqaCollator(processor, config.alignment_text, config.yes_no_words, as_bytes=True)


def grouped_loader(
    data: VqaData,
    args: MMJepaTrainingArguments,
    batch_size: int,
    num_processes: int,
    collator: Callable,
    whole_steps: bool = False,
    weights: Sequence[float] | None = None,
    **changed: Any,
) -> tuple[DataLoader, ImageGroupedSampler]:
    """A loader of each process's batches in turn, and the sampler that orders its rows.

    Args:
        batch_size: of one process.
        whole_steps: leave out a last step with fewer rows.
        weights: how often each row comes.
        changed: arguments of the loader, in place of those that the flags give.
    """
    sampler = ImageGroupedSampler(
        data.questions["image_id"][:],
        batch_size=batch_size * num_processes,
        questions_per_image=args.questions_per_image,
        seed=args.seed if args.data_seed is None else args.data_seed,
        weights=weights,
    )
    batches = SharedBatchSampler(sampler, num_processes, whole_steps)
    arguments = {**loader_arguments(args), **changed}
    return DataLoader(data, batch_sampler=batches, collate_fn=collator, **arguments), sampler


def row_weights(questions: Dataset, weights: Sequence[float] | None) -> list[float] | None:
    """How often each row comes in an epoch, by the `weights` of its data sets in their order; None without them.

    Raises:
        ValueError: there are other numbers of weights and of data sets with training rows.
    """
    if weights is None:
        return None
    sets = sets_of(questions)
    names = list(dict.fromkeys(sets))
    if len(names) != len(weights):
        raise ValueError(
            f"--dataset_weights has {len(weights)} numbers, and {len(names)} data sets have training rows "
            f"({', '.join(names)}): give one for each."
        )
    weight_of = dict(zip(names, weights, strict=True))
    return [weight_of[name] for name in sets]


def loader_arguments(args: MMJepaTrainingArguments) -> dict[str, Any]:
    """What the flags say about a loader."""
    arguments = {name: getattr(args, f"dataloader_{name}") for name in (*LOADER_FLAGS, "in_order")}
    # Pinned memory is for copies to a GPU.
    arguments["pin_memory"] &= args.device.type not in ("cpu", "mps")
    return {**arguments, "worker_init_fn": ignore_first_signal}
