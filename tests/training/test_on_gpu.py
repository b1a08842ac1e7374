"""What a training step does on a GPU."""

import sys
import warnings
from contextlib import contextmanager

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@contextmanager
def noting_waits(places: list[str]):
    """Adds the line of Python, below PyTorch's own, of each operation that waits for the GPU."""

    def note(message, *args, **kwargs):
        if "synchronizing CUDA operation" not in str(message):  # that the mode is a prototype, for example
            return
        frame = sys._getframe(1)
        while frame.f_globals["__name__"].split(".")[0] in ("torch", "warnings"):
            frame = frame.f_back
        places.append(f"{frame.f_globals['__name__']}:{frame.f_lineno}")

    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = shown


@pytest.mark.parametrize("views", [{}, {"augmentations": ["crop", "flip", "stain"], "side_words": "none"}])
@pytest.mark.parametrize("align_warmup_epochs", [0, 1])
def test_a_training_step_waits_for_the_gpu_in_no_line_of_this_project(make_trainer, views, align_warmup_epochs):
    """The library waits itself, to see whether a mask can be left out."""
    trainer = make_trainer(use_cpu=False, max_steps=3, align_warmup_epochs=align_warmup_epochs, **views)
    assert trainer.args.device.type == "cuda"
    places: list[str] = []

    def watch(name: str) -> None:
        watched = getattr(trainer, name)

        def call(*args, **kwargs):
            if trainer.state.global_step == 0:  # the model looks once whether its targets were fitted
                return watched(*args, **kwargs)
            with noting_waits(places):
                return watched(*args, **kwargs)

        setattr(trainer, name, call)

    watch("training_step")
    watch("_get_num_items_in_batch")
    trainer.train()
    with noting_waits(places):
        torch.ones(1, device="cuda").item()
    assert places.pop().startswith(__name__)
    assert not [place for place in places if place.startswith("mmjepa")]
