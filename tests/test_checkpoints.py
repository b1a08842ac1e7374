"""What earlier versions saved loads and answers as it did."""

import importlib.util
import json
from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

FOLDER = Path(__file__).parent / "checkpoints"
SPEC = importlib.util.spec_from_file_location("write", FOLDER / "write.py")
write = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(write)


@pytest.mark.parametrize("classes", [(MMJepaForConditionalGeneration, MMJepaProcessor), (AutoModel, AutoProcessor)])
@pytest.mark.parametrize("folder", sorted(FOLDER.glob("*/config.json")), ids=lambda path: path.parent.name)
def test_a_model_that_a_version_saved_answers_as_it_did(folder, classes):
    model, processor = (one.from_pretrained(folder.parent) for one in classes)
    expected, replies = json.loads((folder.parent / "replies.json").read_text()), write.replies(model, processor)
    assert replies["answers"] == expected["answers"] and replies["tokens"] == expected["tokens"]
    assert replies["scores"] == pytest.approx(expected["scores"], abs=2e-3)
