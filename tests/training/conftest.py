"""What the tests of training share."""

import pytest
import torch
from small_trainings import with_dropout

from mmjepa.training.arguments import MMJepaTrainingArguments
from mmjepa.training.trainer import MMJepaTrainer


@pytest.fixture
def make_trainer(make_model, data, processor, tmp_path):
    """A function that makes a trainer of a model that is the same each time, with training arguments of one's own."""

    def make(text_dropout: float = 0.0, config: dict | None = None, **arguments) -> MMJepaTrainer:
        torch.manual_seed(1)
        model = with_dropout(make_model(**config or {}), text_dropout)
        arguments = {
            "output_dir": str(tmp_path / "checkpoints"),
            "log_dir": str(tmp_path / "logs"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "align_warmup_epochs": 0,
            "warmup_steps": 0,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "metric_for_best_model": None,
            "dataloader_num_workers": 0,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **arguments,
        }
        return MMJepaTrainer(
            model=model,
            args=MMJepaTrainingArguments(**arguments),
            train_dataset=data,
            eval_dataset=data,
            processing_class=processor,
        )

    return make
