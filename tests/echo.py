"""A model that answers with what it was asked, and a processor of characters: every answer is known in advance."""

import numpy as np
import torch
from datasets import Array3D, Dataset, Features
from tiny import DESCRIBED
from torch import nn
from torch.nn import functional as F
from transformers import BatchFeature, BitImageProcessorPil

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.images import VqaData
from mmjepa.encoder_mmjepa import MMJepaImageFeatures


class CharacterProcessor:
    """Tokens are the characters' codes, those below 3 are special; images are only divided by 255."""

    image_processor = BitImageProcessorPil(image_mean=[0.0] * 3, image_std=[1.0] * 3)

    def tokenizer(self, texts, **kwargs):
        return {"input_ids": [[ord(character) for character in text] for text in texts]}

    def __call__(self, text, return_tensors):
        rows = [torch.tensor(ids) for ids in self.tokenizer(text)["input_ids"]]
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return BatchFeature({"input_ids": input_ids, "attention_mask": (input_ids > 0).long()})

    def decode(self, ids, skip_special_tokens):
        return ["".join(chr(code) for code in row if code > 2) for row in ids.tolist()]


class EchoModel(nn.Module):
    """Answers with the grey value of the image and the question: "7 is it?". Counts what it encodes."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")
        self.config = MMJepaConfig(**DESCRIBED)
        self.images_encoded, self.batches = [], []

    def get_image_features(self, pixel_values):
        assert not self.training and not torch.is_grad_enabled()
        grey = (pixel_values[:, 0, 0, 0] * 255).round()
        self.images_encoded += grey.int().tolist()
        return MMJepaImageFeatures(image_embeds=grey[:, None].expand(-1, 4), visual_tokens=grey[:, None, None])

    def encode_texts(self, input_ids, attention_mask):
        return F.one_hot(attention_mask.sum(dim=1) % 4, 4).float()

    def generate(self, input_ids, attention_mask, image_features, image_index):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(attention_mask.sum(dim=1).tolist())
        greys = image_features.visual_tokens[image_index, 0, 0].int().tolist()
        prefixes = [torch.tensor([ord(character) for character in f"{grey} "]) for grey in greys]
        return nn.utils.rnn.pad_sequence([torch.cat(row) for row in zip(prefixes, input_ids, strict=True)], True)


def vqa_data(questions, answers, image_ids, pixels):
    features = Features({"pixels": Array3D(pixels.shape[1:], "uint8")})
    return VqaData(
        questions=Dataset.from_dict({"question": questions, "answer": answers, "image_id": image_ids}),
        pixels=Dataset.from_dict({"pixels": pixels}, features=features),
    )


def echo_data():
    """Six questions about three grey images. The model is right about the second and the fourth."""
    questions = ["is it round?", "why?", "is it round?", "what is it?", "why?", "where?"]
    image_ids = [0, 0, 1, 1, 2, 2]
    answers = ["yes", "10 why?", "no", "20 what is it?", "liver", "left"]
    greys = np.array([10, 20, 30], dtype=np.uint8)[:, None, None, None]
    return vqa_data(questions, answers, image_ids, pixels=greys.repeat(3, 1).repeat(2, 2).repeat(2, 3))
