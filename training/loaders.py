"""How rows are put into batches and loaded: whole images' questions together, shared out among the processes."""

from typing import Any

from ..data.batches import ImageGroupedSampler
from ..data.images import VqaData
from .arguments import MMJepaTrainingArguments
from .stopping import ignore_first_signal

LOADER_FLAGS = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory", "multiprocessing_context")


def grouped_sampler(data: VqaData, args: MMJepaTrainingArguments, rows_a_step: int) -> ImageGroupedSampler:
    """An order of the rows whose steps of `rows_a_step`, of all processes, hold the questions of few images."""
    return ImageGroupedSampler(
        data.questions["image_id"],
        batch_size=rows_a_step,
        questions_per_image=args.questions_per_image,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )


def loader_arguments(args: MMJepaTrainingArguments) -> dict[str, Any]:
    """What the flags say about a loader."""
    arguments = {name: getattr(args, f"dataloader_{name}") for name in (*LOADER_FLAGS, "in_order")}
    # Pinned memory is for copies to a GPU.
    arguments["pin_memory"] &= args.device.type not in ("cpu", "mps")
    return {"worker_init_fn": ignore_first_signal, **arguments}
