"""Writes a tiny model of this version, with what it answers, for tests/test_checkpoints.py of later versions.

python tests/checkpoints/write.py

Run it once a release, before the version in setup.cfg changes.
"""

import configparser
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.building import new_image_processor, train_tokenizer, whole_images

FOLDER = Path(__file__).parent
QUESTIONS = ["what is present?", "is necrosis seen?", "where is the gland?"]
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28, "patch_size": 7}
TEXT = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
TEXT |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32}


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def replies(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor) -> dict:
    """The answers to `QUESTIONS` about `image`, their tokens, and some scores of the first one."""
    inputs = processor(images=image(), text=QUESTIONS, image_index=[0, 0, 0], return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs)  # (3, A)
        scores = model(**inputs, decoder_input_ids=tokens[:, :1]).logits[:, -1, :8]  # (3, 8)
    answers = processor.decode(tokens, skip_special_tokens=True)
    return {"answers": answers, "tokens": tokens.tolist(), "scores": scores.flatten().tolist()}


def main() -> None:
    setup = configparser.ConfigParser()
    setup.read(FOLDER.parents[1] / "setup.cfg")
    folder = FOLDER / setup["metadata"]["version"]
    if folder.exists():
        raise SystemExit(f"{folder} exists: a kept checkpoint is not written again.")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(QUESTIONS, 300)
    text = {**TEXT, "vocab_size": len(tokenizer), "init_std": 0.2}
    vision = {**VISION, "initializer_range": 0.2}
    # With a tied head a model of random weights repeats one token.
    config = MMJepaConfig(vision_config=vision, text_config=text, num_image_tokens=4, tie_word_embeddings=False)
    model = MMJepaForConditionalGeneration(config).eval()
    model.generation_config.max_new_tokens = 8
    processor = MMJepaProcessor(whole_images(new_image_processor(), VISION["image_size"]), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.unlink()  # that of the version at hand has to read it
    (folder / "replies.json").write_text(json.dumps(replies(model, processor), indent=2) + "\n")


if __name__ == "__main__":
    main()
