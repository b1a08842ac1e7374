"""Writes a trained model as a folder of parts, each for its own stock class, and puts it together again.

image_encoder/    Dinov2Model, or the class that it was started from, and its image processor
generator_bart/   BartForConditionalGeneration: the decoder, its embeddings and head, and the text encoder's layers;
                  its tokenizer
teacher_bart/     BartModel without decoder layers: the frozen text encoder with embeddings of its own; its tokenizer
adapters/         img_to_txt, visual_prefix, prefix_ln, alignment (what statements read, mean and whitening of their
                  targets, scales), answer_prediction (where there is one): state dicts, each as .safetensors and as
                  .pt; mm_config.json: the other fields of the configuration
processors/       MMJepaProcessor
mmjepa/           the whole model, as `save_pretrained` writes it

A new model can start from `--image_encoder image_encoder --text_model generator_bart`.
"""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BartForConditionalGeneration, BartModel, GenerationConfig

from ..configuration_mmjepa import VISION_CONFIGS, MMJepaConfig
from ..loading_mmjepa import load_config, load_image_encoder, load_tower, share_weights
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .command import export_saved_model


def adapter_modules(model: MMJepaForConditionalGeneration) -> dict[str, nn.Module]:
    """The modules that are neither the image encoder's nor BART's, by the name of their file."""
    modules = {
        "img_to_txt": model.encoder.image_projector,
        "visual_prefix": model.encoder.visual_prefix,
        "prefix_ln": model.encoder.prefix_norm,
        "alignment": model.alignment,
    }
    return modules | ({"answer_prediction": model.answer_prediction} if model.config.predict_answer else {})


def generator_bart(model: MMJepaForConditionalGeneration) -> BartForConditionalGeneration:
    """The decoder as a BART that reads visual tokens and question states as its `encoder_outputs`.

    Its encoder has the text encoder's layers. If embeddings are tied, it has the decoder's embeddings, because BART
    has one matrix where this model has two.
    """
    config = copy.deepcopy(model.config.text_config)
    config.tie_word_embeddings = model.config.tie_word_embeddings
    bart = BartForConditionalGeneration(config)
    bart.get_encoder().load_state_dict(model.encoder.text_encoder.state_dict())
    bart.get_decoder().load_state_dict(model.decoder.state_dict())
    bart.lm_head.load_state_dict(model.lm_head.state_dict())
    bart.model.shared.load_state_dict(model.decoder.embed_tokens.state_dict())
    bart.final_logits_bias.copy_(model.final_logits_bias)
    bart.tie_weights()
    bart.generation_config = copy.deepcopy(model.generation_config)
    return bart.to(model.dtype)


def teacher_bart(model: MMJepaForConditionalGeneration) -> BartModel:
    """The text encoder as a BART without decoder layers: a stock class then loads it with its own embeddings."""
    config = copy.deepcopy(model.config.text_config)
    config.decoder_layers = 0
    bart = BartModel(config)
    bart.get_encoder().load_state_dict(model.encoder.text_encoder.state_dict())
    bart.shared.load_state_dict(model.encoder.text_encoder.embed_tokens.state_dict())
    bart.tie_weights()
    return bart.to(model.dtype)


def export_parts(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, folder: str | Path) -> None:
    """Writes the folder of parts described at the top of this module."""
    folder = Path(folder)
    model.save_pretrained(folder / "mmjepa")
    processor.save_pretrained(folder / "mmjepa")
    processor.save_pretrained(folder / "processors")
    model.encoder.image_encoder.save_pretrained(folder / "image_encoder")
    processor.image_processor.save_pretrained(folder / "image_encoder")
    for name, bart in (("generator_bart", generator_bart(model)), ("teacher_bart", teacher_bart(model))):
        bart.save_pretrained(folder / name)
        processor.tokenizer.save_pretrained(folder / name)
    adapters = folder / "adapters"
    adapters.mkdir(exist_ok=True)
    for name, module in adapter_modules(model).items():
        state = {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
        save_file(state, adapters / f"{name}.safetensors")
        # Written a second time because the project's first description names `.pt` files.
        torch.save(state, adapters / f"{name}.pt")
    # The configurations of image encoder and BART are in their own folders.
    own = {name: value for name, value in model.config.to_diff_dict().items() if not name.endswith("_config")}
    (adapters / "mm_config.json").write_text(json.dumps(own, indent=2, sort_keys=True))
    for name in ("image_encoder", "generator_bart", "teacher_bart"):
        share_weights(folder / name, "config.json")
    share_weights(adapters, "mm_config.json")


def rebuild_from_parts(folder: str | Path) -> MMJepaForConditionalGeneration:
    """The model that [`export_parts`] wrote, put together from its parts. It gives the same answers."""
    folder = Path(folder)
    vision_config = load_config(folder / "image_encoder", "image encoder", VISION_CONFIGS)
    image_encoder = load_image_encoder(folder / "image_encoder", vision_config)
    generator = load_tower(BartForConditionalGeneration, folder / "generator_bart")
    teacher = load_tower(BartModel, folder / "teacher_bart")
    own = json.loads((folder / "adapters" / "mm_config.json").read_text())
    config = MMJepaConfig(vision_config=image_encoder.config, text_config=generator.config, **own)
    model = MMJepaForConditionalGeneration(config).to(image_encoder.dtype)
    model.load_towers(image_encoder, teacher.get_encoder(), generator)
    for name, module in adapter_modules(model).items():
        module.load_state_dict(load_adapter(folder / "adapters", name))
    model.generation_config = GenerationConfig.from_pretrained(folder / "generator_bart")
    return model.eval()


def load_adapter(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The state dict of an adapter. A folder that an older version exported has only the .pt file."""
    path = folder / f"{name}.safetensors"
    return load_file(path) if path.exists() else torch.load(folder / f"{name}.pt", weights_only=True)


def main(argv: list[str] | None = None) -> None:
    """Exports a saved model as parts, from the command line."""
    export_saved_model(export_parts, "a folder of parts", argv)


if __name__ == "__main__":
    main()
