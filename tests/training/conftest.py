"""What the tests of training share."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from small_trainings import with_dropout

from mmjepa.data.images import prepare
from mmjepa.training.arguments import MMJepaTrainingArguments
from mmjepa.training.trainer import MMJepaTrainer


@pytest.fixture(scope="session")
def data(image_processor):
    """24 questions about 6 images."""
    random = np.random.default_rng(0)
    images = [PILImage.fromarray(random.integers(0, 255, (28, 28, 3), np.uint8)) for _ in range(6)]
    words = ["is", "what", "seen", "present", "tumour", "yes", "no", "liver"]
    rows = {
        "image": [images[row % 6] for row in range(24)],
        "question": [" ".join(random.choice(words, 3 + row % 4)) + "?" for row in range(24)],
        "answer": [" ".join(random.choice(words, 1 + row % 3)) for row in range(24)],
    }
    rows = Dataset.from_dict(rows).cast_column("image", Image()).cast_column("image", Image(decode=False))
    return prepare(rows, image_processor)


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
