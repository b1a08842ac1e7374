"""Steps whose loss or gradient is not a finite number."""

import json
import math

import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from small_trainings import logged

from mmjepa.training.nonfinite import NonfiniteStepsCallback

pytestmark = pytest.mark.skips_steps


def spoil(trainer, bad_row: int, number: float = math.nan):
    """Makes the loss of every batch that holds a row `number`, and notes the weights before and after its step."""
    seen = []
    compute_loss = trainer.compute_loss

    def spoiled(model, inputs, *args, **kwargs):
        is_bad = any(bad_row in batch["row_ids"] for batch in trainer.meter.batches)
        loss = compute_loss(model, inputs, *args, **kwargs)
        seen.append((is_bad, {name: value.clone() for name, value in model.state_dict().items()}))
        if is_bad:
            loss = loss * number
            trainer.meter.step_loss = loss.detach()
        return loss

    trainer.compute_loss = spoiled
    return seen


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "nonfinite_rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_step_without_a_finite_loss_changes_nothing_and_its_rows_are_written_down(
    make_trainer, data, tmp_path, caplog, number
):
    """24 rows in steps of 4: each row is in one step of each of the two epochs."""
    trainer = make_trainer(lr_img=1e-2)
    seen = spoil(trainer, bad_row=7, number=number)
    trainer.train()
    assert [is_bad for is_bad, _ in seen].count(True) == 2 and len(seen) == 12
    for (is_bad, before), (_, after) in zip(seen, seen[1:], strict=False):
        assert all(torch.equal(before[name], after[name]) for name in before) == is_bad
    rows = rows_of(tmp_path / "checkpoints")
    assert len(rows) == 8 and {row["step"] for row in rows} == {step for step, (bad, _) in enumerate(seen, 1) if bad}
    assert [row["row"] for row in rows].count(7) == 2
    for row in rows:
        known = data.questions[row["row"]]
        assert (row["question"], row["answer"]) == (known["question"], known["answer"])
        assert row["image_id"] == known["image_id"]
    assert "1 of at most 5" in caplog.text and "2 of at most 5" in caplog.text
    assert all(math.isfinite(value) for value in logged(trainer, "train_ce").values())
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_more_of_them_than_allowed_end_the_run_with_their_rows(make_trainer, tmp_path):
    trainer = make_trainer(max_nonfinite_steps=1)
    spoil(trainer, bad_row=7)
    with pytest.raises(FloatingPointError, match=r"loss is nan.*max_nonfinite_steps 1 allows.*nonfinite_rows.jsonl"):
        trainer.train()
    assert len(rows_of(tmp_path / "checkpoints")) == 8


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is(make_trainer, tmp_path):
    trainer = make_trainer()
    bias = trainer.model.encoder.image_encoder.layernorm.bias
    trainer.num_gradients = 0

    def spoil_third(gradient):
        trainer.num_gradients += 1
        return gradient * math.inf if trainer.num_gradients == 3 else gradient

    bias.register_hook(spoil_third)
    trainer.train()
    assert {row["step"] for row in rows_of(tmp_path / "checkpoints")} == {3}
    assert bias.isfinite().all()


def test_under_deepspeed_the_check_is_left_to_it(make_trainer, tmp_path, monkeypatch):
    """It keeps the gradients to itself. Not installed here, it is only said to be there."""
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.meter.step_loss = torch.tensor(math.nan)
    monkeypatch.setattr(PartialState(), "distributed_type", DistributedType.DEEPSPEED)
    (check,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, NonfiniteStepsCallback))
    check.on_pre_optimizer_step(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert check.num_skipped == 0 and not (tmp_path / "checkpoints" / "nonfinite_rows.jsonl").exists()
