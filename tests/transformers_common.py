"""transformers' own common tests, on this model: `make test-transformers`.

They come from the source distribution of the installed version. It holds the tests of models, training and processors,
which lie directly in the library's `tests/`. It doesn't hold the generation and export tests, which lie in folders
there.
"""

import copy
import importlib
import sys
import tempfile
from types import SimpleNamespace
from unittest import TestCase

import pytest
import torch
from PIL import Image
from tiny import TEXT, VISION
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
from transformers.testing_utils import torch_device

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

# What can't hold for this model. The tests skip by themselves what needs other hardware or another architecture; the
# summary names the reason of every skip.
SKIPS = {
    "test_apply_chat_template_image_0": "wants to go on with a begun answer: here a chat ends with a question",
    "test_apply_chat_template_image_1": "wants to go on with a begun answer: here a chat ends with a question",
    "test_attention_outputs": (
        "wants the outputs of a text model: here the decoder also reads visual tokens, and the image encoder's "
        "attentions and the two embeddings are returned too"
    ),
    "test_generation_tester_mixin_inheritance": "the source distribution does not hold the generation tests",
    "test_processor_text_has_no_visual": "wants a row without an image: here every question is about one",
    "test_retain_grad_hidden_states_attentions": "wants gradients on the encoder's states: the text encoder is frozen",
}

# By this name the tests know to give labels, and how the loss has to read them.
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["mmjepa"] = "MMJepaForConditionalGeneration"

# Stand-ins for what the tests import and the distribution doesn't hold. Noise stands for every picture.
folder = tempfile.TemporaryDirectory()
picture = f"{folder.name}/noise.png"
Image.effect_noise((40, 30), 64).save(picture)
sys.modules["fetch_hub_objects_for_ci"] = SimpleNamespace(url_to_local_path=lambda url: picture)
sys.modules["tests.exporters.test_export"] = SimpleNamespace(ExportTesterMixin=object)
sys.modules["tests.generation.test_utils"] = SimpleNamespace(GenerationTesterMixin=object)

# Imported by name and not by statement: these have to come after the stand-ins.
ModelTesterMixin = importlib.import_module("tests.test_modeling_common").ModelTesterMixin
TrainingTesterMixin = importlib.import_module("tests.test_training_mixin").TrainingTesterMixin
ProcessorTesterMixin = importlib.import_module("tests.test_processing_common").ProcessorTesterMixin


class SkippingTestCase(TestCase):
    """Skips what `SKIPS` names."""

    def setUp(self):
        super().setUp()
        if self._testMethodName in SKIPS:
            self.skipTest(SKIPS[self._testMethodName])


class ModelTester:
    """What the library's tests ask about a model: its sizes, a configuration and inputs."""

    is_training = True
    batch_size = 4
    seq_length = 6
    hidden_size = TEXT["d_model"]
    num_hidden_layers = TEXT["decoder_layers"]
    num_attention_heads = TEXT["decoder_attention_heads"]

    def __init__(self, fields: dict[str, str]):
        self.fields = fields

    def prepare_config_and_inputs_for_common(self):
        # With the tiny model's large weights, other attention kernels differ by more rounding than the tests allow.
        vision, text = {**VISION, "initializer_range": 0.05}, {**TEXT, "init_std": 0.05}
        config = MMJepaConfig(vision_config=vision, text_config=text, num_image_tokens=4, **self.fields)
        tokens = torch.randint(5, TEXT["vocab_size"], (2, self.batch_size, self.seq_length), device=torch_device)
        inputs = {
            "input_ids": tokens[0],
            "attention_mask": torch.ones_like(tokens[0]),
            "pixel_values": random_images(self.batch_size).to(torch_device),
            "decoder_input_ids": tokens[1],
        }
        return config, inputs

    def get_config(self) -> MMJepaConfig:
        """For the training test alone: it reads the vocabulary's size from the top, and wants gradients to vanish."""
        config, _ = self.prepare_config_and_inputs_for_common()
        config.vocab_size = TEXT["vocab_size"]
        config.text_config.dropout = 0.0
        return config


def random_images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, VISION["image_size"], VISION["image_size"])


class WithoutGenerate(torch.nn.Module):
    """The model for the training test, which would go on to generate: without an image, as a causal model does."""

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        self.model = MMJepaForConditionalGeneration(config)

    def forward(self, **batch):
        return self.model(**batch)


class ModelTests(ModelTesterMixin, TrainingTesterMixin):
    all_model_classes = (MMJepaForConditionalGeneration,)
    additional_model_inputs = ["pixel_values", "decoder_input_ids"]
    is_encoder_decoder = True
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True
    training_overfit_seq_length = 16
    fields: dict[str, str] = {}

    @property
    def model_tester(self) -> ModelTester:
        return ModelTester(self.fields)

    def _get_trainable_model_class(self):
        return WithoutGenerate

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        batch = super()._create_text_training_batch(batch_size, seq_length, vocab_size)
        return {**batch, "pixel_values": random_images(batch_size)}


class PatchesCosineTest(ModelTests, SkippingTestCase):
    fields = {"visual_prefix": "patches", "alignment_loss": "cosine"}


class PatchesInfoNCETest(ModelTests, SkippingTestCase):
    fields = {"visual_prefix": "patches", "alignment_loss": "infonce"}


class PooledCosineTest(ModelTests, SkippingTestCase):
    fields = {"visual_prefix": "pooled", "alignment_loss": "cosine"}


class PooledInfoNCETest(ModelTests, SkippingTestCase):
    fields = {"visual_prefix": "pooled", "alignment_loss": "infonce"}


class ProcessorTest(ProcessorTesterMixin, SkippingTestCase):
    processor_class = MMJepaProcessor
    parts: dict = {}

    @classmethod
    def _setup_component(cls, attribute):
        return cls.parts[attribute]


@pytest.fixture(scope="module", autouse=True)
def processor_parts(image_processor, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 512  # the chats of these tests are longer than this project's
    ProcessorTest.parts = {"image_processor": image_processor, "tokenizer": tokenizer}
