"""Losses of rows that are shared out, among processes or accumulated batches, at the size of a user's step."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional as F

from mmjepa.alignment_mmjepa import MMJepaAlignment
from mmjepa.losses_mmjepa import MMJepaAnswerPrediction, answers_of_batch

ROWS, IMAGES, TOKENS, WIDTH = 128, 40, 5, 64


@pytest.fixture
def statements() -> dict[str, torch.Tensor]:
    """Of the rows: some false, some missing, some equal; most rows have wrong ones of their own."""
    ids = torch.randint(0, ROWS // 2, (ROWS,))
    embeds = F.normalize(torch.randn(ROWS // 2, WIDTH), dim=-1)[ids]
    ids[::11] = -1
    return {
        "embeds": embeds,
        "ids": ids,
        "signs": torch.where(torch.rand(ROWS) < 0.3, -1, 1),
        "wrong_embeds": F.normalize(torch.randn(ROWS, 2, WIDTH), dim=-1),
        "has_wrong": torch.rand(ROWS, 2) < 0.6,
    }


def of_rows(batch: dict, rows: slice) -> dict:
    """A share of a batch: these rows, and the images that they are about under their own numbers."""
    images, image_index = batch["image_index"][rows].unique(return_inverse=True)
    of_images = {name: batch[name][images] for name in ("image_embeds", "visual_tokens", "image_ids")}
    statements = {name: values[rows] for name, values in batch["statements"].items()}
    answers = {name: batch[name][rows] for name in ("states", "answer_embeds", "answer_numbers")}
    return {**of_images, **answers, "image_index": image_index, "statements": statements}


def losses_and_gradients(
    alignment: MMJepaAlignment, prediction: MMJepaAnswerPrediction, batch: dict
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both losses of each row (2, B), and the gradient of their sum in all weights."""
    batch = dict(batch)
    states, embeds, numbers = (batch.pop(name) for name in ("states", "answer_embeds", "answer_numbers"))
    losses = torch.stack([alignment(**batch), prediction(states, answers_of_batch(embeds, numbers))])
    weights = [*alignment.parameters(), *prediction.parameters()]
    return losses.detach(), torch.cat([gradient.flatten() for gradient in torch.autograd.grad(losses.sum(), weights)])


def compute_share(rank: int, folder: Path) -> None:
    """One of two processes, which writes what its shares of the rows give."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    alignment, prediction, batch = torch.load(folder / "whole.pt", weights_only=False)
    shares = [(slice(0, end), slice(end, ROWS))[rank] for end in (64, 37)]
    torch.save(
        [losses_and_gradients(alignment, prediction, of_rows(batch, rows)) for rows in shares], folder / f"{rank}.pt"
    )
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_losses_and_gradients_of_one(make_config, statements, tmp_path):
    """With 64 rows each, and with 37 and 91. Most images have rows on both, wrong statements stay with their row."""
    alignment, prediction = MMJepaAlignment(make_config()), MMJepaAnswerPrediction(make_config())
    for scale in (alignment.logit_scale, alignment.truth_scale, alignment.truth_bias, prediction.logit_scale):
        torch.nn.init.constant_(scale, 1.5)
    numbers = torch.randint(-1, 30, (ROWS,))
    batch = {
        "image_embeds": torch.randn(IMAGES, WIDTH),
        "visual_tokens": torch.randn(IMAGES, TOKENS, WIDTH),
        "image_ids": torch.arange(IMAGES),
        "image_index": torch.randint(0, IMAGES, (ROWS,)),
        "statements": statements,
        "states": torch.randn(ROWS, WIDTH),
        "answer_embeds": F.normalize(torch.randn(31, WIDTH), dim=-1)[numbers],
        "answer_numbers": numbers,
    }
    losses, gradient = losses_and_gradients(alignment, prediction, batch)
    torch.save((alignment, prediction, batch), tmp_path / "whole.pt")
    multiprocessing.spawn(compute_share, (tmp_path,), nprocs=2)
    for first, second in zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True):
        torch.testing.assert_close(torch.cat([first[0], second[0]], dim=1), losses, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(first[1] + second[1], gradient, atol=1e-3, rtol=1e-3)


@pytest.fixture
def step(make_model, statements):
    """A model, and the inputs of a step of 128 rows. The second half are captions alone: they have no answers."""
    model = make_model(truth_weight=1.0)
    labels = torch.randint(5, 300, (ROWS, 5))
    labels[torch.rand(ROWS, 5) < 0.3] = -100
    labels[64:] = -100
    right = torch.where((labels != -100).any(dim=1), torch.randint(0, 30, (ROWS,)), -1)
    answers = {"targets": F.normalize(torch.randn(30, WIDTH), dim=-1), "log_counts": torch.rand(30), "right": right}
    inputs = {
        "input_ids": torch.randint(5, 300, (ROWS, 6)),
        "pixel_values": torch.randn(IMAGES, 3, 28, 28),
        "image_index": torch.randint(0, IMAGES, (ROWS,)),
        "labels": labels,
        "statements": statements,
        "answers": answers,
    }
    return model, inputs


def gradients(model, inputs: dict, size: int) -> dict[str, torch.Tensor]:
    """The gradients of each loss in all weights, of a step in batches of `size` rows, counted as the Trainer does."""
    counts = {
        "num_items_in_batch": (inputs["labels"] != -100).sum(),
        "training_step": {
            "num_rows": (inputs["statements"]["ids"] >= 0).sum(),
            "num_answers": (inputs["answers"]["right"] >= 0).sum(),
        },
    }
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    totals: dict[str, torch.Tensor] = {}
    for start in range(0, ROWS, size):
        rows = slice(start, start + size)
        batch = {name: inputs[name][rows] for name in ("input_ids", "image_index", "labels")}
        batch["statements"] = {name: values[rows] for name, values in inputs["statements"].items()}
        batch["answers"] = {**inputs["answers"], "right": inputs["answers"]["right"][rows]}
        outputs = model(**batch, pixel_values=inputs["pixel_values"], **counts)
        for name in ("loss_align", "loss_ce", "loss_answer"):
            found = torch.autograd.grad(outputs[name], weights, retain_graph=True, allow_unused=True)
            flat = torch.cat(
                [
                    (torch.zeros_like(weight) if gradient is None else gradient).flatten()
                    for weight, gradient in zip(weights, found, strict=True)
                ]
            )
            totals[name] = totals.get(name, 0) + flat
    return totals


def test_accumulated_batches_have_the_gradients_of_one_for_answers_and_truth(step):
    """The contrast compares the statements of a batch, and truth is what a truth_weight of 2 adds to one of 1."""
    model, inputs = step
    whole, accumulated = gradients(model, inputs, ROWS), gradients(model, inputs, 64)
    for name in ("loss_ce", "loss_answer"):
        torch.testing.assert_close(accumulated[name], whole[name], atol=1e-5, rtol=1e-3)
    model.alignment.truth_weight = 2.0
    of_truth = [
        gradients(model, inputs, size)["loss_align"] - first["loss_align"]
        for size, first in ((ROWS, whole), (64, accumulated))
    ]
    assert of_truth[0].abs().max() > 1e-2
    torch.testing.assert_close(of_truth[1], of_truth[0], atol=1e-5, rtol=1e-3)
    assert (accumulated["loss_align"] - whole["loss_align"]).abs().max() > 1e-2
