"""The tiny parts that all tests share, each made once."""

# ruff: noqa: E402
import gc
import json
import logging
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # the libraries read it as they are imported

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TEXT, VISION
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizer,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.drawn_slides import write_drawn_slides
from mmjepa.data.images import prepare
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

# Seconds that `datasets` waits after a stream, for Arrow's threads, because a process may end then: this one goes on.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


@pytest.fixture(scope="session", autouse=True)
def imports_are_no_garbage():
    """What the imports have left is not looked through whenever a training collects its garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def features_cache(tmp_path_factory, monkeypatch) -> Path:
    """Where a test's searches keep what they encode, in place of the user's own folder."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(home))
    return home / "mmjepa" / "features"


@pytest.fixture(scope="session", autouse=True)
def skipped_steps() -> list[str]:
    """The warnings of skipped steps since the last test, those in the fixtures of larger scopes too."""
    skipped: list[str] = []

    class Notes(logging.Handler):
        def emit(self, record):
            if "it is skipped, as" in record.getMessage():
                skipped.append(record.getMessage())

    logging.getLogger("mmjepa").addHandler(Notes(logging.WARNING))
    return skipped


@pytest.fixture(autouse=True)
def no_step_is_skipped_unnoticed(skipped_steps, request):
    """Fails a test in whose runs a step had no finite loss or gradient, unless it is marked `skips_steps`."""
    yield
    found = skipped_steps.copy()
    skipped_steps.clear()
    assert not found or request.node.get_closest_marker("skips_steps"), found


@pytest.fixture(scope="session")
def make_config():
    """A function that makes a tiny configuration of the default form, with fields of one's own."""

    def make(**fields) -> MMJepaConfig:
        towers = {"vision_config": VISION, "text_config": TEXT}
        return MMJepaConfig(**{**towers, "num_image_tokens": 5, **fields})

    return make


@pytest.fixture(scope="session")
def make_model(make_config):
    """A function that makes a tiny model in eval mode, with configuration fields of one's own."""

    def make(**fields) -> MMJepaForConditionalGeneration:
        return MMJepaForConditionalGeneration(make_config(**fields)).eval()

    return make


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four questions about two images, with padding in questions and answers."""
    input_ids = torch.randint(5, 300, (4, 6))
    attention_mask = torch.ones_like(input_ids)
    labels = torch.randint(5, 300, (4, 5))
    for row, (question, answer) in enumerate([(6, 5), (4, 3), (3, 4), (5, 2)]):
        input_ids[row, question:] = 1
        attention_mask[row, question:] = 0
        labels[row, answer - 1] = 2
        labels[row, answer:] = -100
    return {
        "pixel_values": torch.randn(2, 3, 28, 28),
        "image_index": torch.tensor([0, 1, 1, 0]),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
    }


@pytest.fixture
def inputs(batch):
    """The batch without answers: four questions about two images."""
    return {name: value for name, value in batch.items() if name != "labels"}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Folders of a tiny DINOv2 and a tiny BART as transformers saves them, with published bart-base's settings."""
    folder = tmp_path_factory.mktemp("checkpoints")
    Dinov2Model(Dinov2Config(**VISION)).save_pretrained(folder / "vision")
    bart = BartForConditionalGeneration(BartConfig(**TEXT))
    bart.generation_config.update(forced_bos_token_id=0, num_beams=4, no_repeat_ngram_size=3, early_stopping=True)
    bart.save_pretrained(folder / "text")
    return {"vision": str(folder / "vision"), "text": str(folder / "text")}


@pytest.fixture(scope="session")
def tokenizer() -> BartTokenizer:
    """A byte-level BPE in published BART's format, trained on a few sentences, for texts of at most 32 tokens."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = ["what is present?", "is necrosis seen?", "where is the tumour?", "yes", "no", "in the liver"]
    byte_level = ByteLevelBPETokenizer()
    byte_level.train_from_iterator(
        texts, vocab_size=TEXT["vocab_size"], min_frequency=1, special_tokens=tokens, show_progress=False
    )
    model = json.loads(byte_level.to_str())["model"]
    return BartTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        model_max_length=TEXT["max_position_embeddings"],
    )


@pytest.fixture(scope="session")
def image_processor() -> BitImageProcessorPil:
    """DINOv2's image processor for 28 x 28 pixels. The backend is fixed: torchvision's gives slightly other pixels."""
    size = VISION["image_size"]
    return BitImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


@pytest.fixture(scope="session")
def processor(image_processor, tokenizer) -> MMJepaProcessor:
    return MMJepaProcessor(image_processor, tokenizer)


@pytest.fixture(scope="session")
def saved_folder(make_model, processor, tmp_path_factory) -> str:
    """A folder with a tiny model and its processor, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = make_model()
    model.generation_config.forced_bos_token_id = 0
    model.generation_config.max_new_tokens = 8
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def image_file(tmp_path_factory) -> str:
    """A PNG of 40 x 30 pixels of noise."""
    path = tmp_path_factory.mktemp("image") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="session")
def slides(tmp_path_factory) -> str:
    """A folder of drawn slides: 56 questions about 8 to train on, 31 about 4 to validate, 22 about 3 to test."""
    folder = tmp_path_factory.mktemp("data") / "slides"
    write_drawn_slides(folder, num_train=8, num_validation=4, num_test=3, image_size=32)
    return str(folder)


@pytest.fixture(scope="session")
def data(image_processor):
    """24 questions about 6 images."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (28, 28, 3), np.uint8)) for _ in range(6)]
    words = ["is", "what", "seen", "present", "tumour", "yes", "no", "liver"]
    rows = {
        "image": [images[row % 6] for row in range(24)],
        "question": [" ".join(random.choice(words, 3 + row % 4)) + "?" for row in range(24)],
        "answer": [" ".join(random.choice(words, 1 + row % 3)) for row in range(24)],
    }
    encoded = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    rows = encoded.cast_column("image", datasets.Image(decode=False))
    return prepare(rows, image_processor)


@pytest.fixture
def prepared(monkeypatch) -> list[int]:
    """The numbers of rows of the splits whose images the script has prepared, in order."""
    counts: list[int] = []

    def count_and_prepare(rows, *rest):
        counts.append(len(rows))
        return prepare(rows, *rest)

    monkeypatch.setattr("mmjepa.training.reading.prepare", count_and_prepare)
    return counts
