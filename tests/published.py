"""Stand-ins of published checkpoints: their files, fields and names of weights, with small random weights.

Each entry is `config.json` as it is published, without what is only said about labels. `SMALL_VISION` and `SMALL_TEXT`
replace the sizes: width, layers, heads and images. Patches have the published size.
"""

import json
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    GenerationConfig,
    ViTForImageClassification,
)

SMALL_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_TEXT = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2}
SMALL_TEXT |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
SMALL_TEXT |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
DINOV2 = {
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "image_size": 70,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "model_type": "dinov2",
    "num_channels": 3,
    "patch_size": 14,
    "qkv_bias": True,
    "torch_dtype": "float32",
    "transformers_version": "4.31.0.dev0",
    "use_swiglu_ffn": False,
}
BACKBONE = {
    "apply_layernorm": True,
    "out_features": ["stage2"],
    "out_indices": [2],
    "reshape_hidden_states": True,
    "stage_names": ["stem", "stage1", "stage2"],
}
VIT = {
    "attention_probs_dropout_prob": 0.0,
    "encoder_stride": 16,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "image_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_channels": 3,
    "patch_size": 16,
    "qkv_bias": True,
    "torch_dtype": "float32",
    "transformers_version": "4.34.0",
}
DINOV3 = {
    "architectures": ["DINOv3ViTModel"],
    "attention_dropout": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "image_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "key_bias": False,
    "layer_norm_eps": 1e-05,
    "layerscale_value": 1.0,
    "mlp_bias": True,
    "model_type": "dinov3_vit",
    "num_channels": 3,
    "num_register_tokens": 4,
    "patch_size": 16,
    "pos_embed_jitter": None,
    "pos_embed_rescale": 2.0,
    "pos_embed_shift": None,
    "proj_bias": True,
    "query_bias": True,
    "rope_theta": 100.0,
    "torch_dtype": "float32",
    "transformers_version": "4.56.0.dev0",
    "use_gated_mlp": False,
    "value_bias": True,
}
VISION = {
    "facebook/dinov2-base": DINOV2,
    "facebook/dinov2-giant": DINOV2 | {"use_swiglu_ffn": True},
    "kaiko-ai/midnight": DINOV2 | BACKBONE | {"use_swiglu_ffn": True},
    "owkin/phikon-v2": DINOV2 | BACKBONE | {"image_size": 64, "patch_size": 16},
    "facebook/dinov2-with-registers-base": DINOV2
    | BACKBONE
    | {
        "architectures": ["Dinov2WithRegistersModel"],
        "model_type": "dinov2_with_registers",
        "num_register_tokens": 4,
    },
    "facebook/dinov3-vitb16-pretrain-lvd1689m": DINOV3,
    "owkin/phikon": VIT | {"architectures": ["ViTModel"]},
    "google/vit-base-patch16-224": VIT | {"architectures": ["ViTForImageClassification"]},
}
BIT = {
    "crop_size": {"height": 42, "width": 42},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_processor_type": "BitImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 48},
} | IMAGENET
PREPROCESSORS = {
    "facebook/dinov2-base": BIT,
    "facebook/dinov2-giant": BIT,
    "kaiko-ai/midnight": None,
    "owkin/phikon-v2": BIT | {"crop_size": {"height": 48, "width": 48}},
    "facebook/dinov2-with-registers-base": BIT,
    "facebook/dinov3-vitb16-pretrain-lvd1689m": {
        "crop_size": None,
        "data_format": "channels_first",
        "default_to_square": True,
        "do_center_crop": None,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 48, "width": 48},
    }
    | IMAGENET,
    "owkin/phikon": {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "ViTImageProcessor",
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 48, "width": 48},
    }
    | IMAGENET,
    "google/vit-base-patch16-224": {"do_normalize": True, "do_resize": True, "resample": 2, "size": 48} | HALF,
}
# timm's form: H-optimus-0.
TIMM = {
    "architecture": "vit_giant_patch14_reg4_dinov2",
    "num_classes": 0,
    "num_features": 1536,
    "global_pool": "token",
    "pretrained_cfg": {
        "custom_load": True,
        "input_size": [3, 224, 224],
        "fixed_input_size": True,
        "mean": [0.707223, 0.578729, 0.703617],
        "std": [0.211883, 0.230117, 0.177517],
        "num_classes": 0,
        "license": "Apache 2.0",
    },
}

# Beam search, lengths and repetitions are in these files too: for summaries.
BART = {
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["BartForConditionalGeneration"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_layerdrop": 0.0,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "normalize_embedding": True,
    "num_beams": 4,
    "pad_token_id": 1,
    "scale_embedding": False,
    "task_specific_params": {"summarization": {"length_penalty": 1.0, "max_length": 128, "min_length": 12}},
    "torch_dtype": "float32",
    "transformers_version": "4.12.0.dev0",
    "use_cache": True,
}
TEXT = {
    "facebook/bart-base": BART | {"forced_bos_token_id": 0},
    "facebook/bart-large": BART | {"architectures": ["BartModel"]},
    "facebook/bart-large-cnn": BART
    | {"forced_bos_token_id": 0, "length_penalty": 2.0, "max_length": 142, "min_length": 56},
    "GanjinZero/biobart-v2-base": BART,
}
GENERATION = {
    "facebook/bart-large-cnn": {
        "_from_model_config": True,
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "pad_token_id": 1,
        "transformers_version": "4.27.0.dev0",
    }
}
SPECIAL = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "cls": "<s>", "pad": "<pad>", "mask": "<mask>"}
WORDS = {
    "GanjinZero/biobart-v2-base": ["adenocarcinoma", "immunohistochemistry", "is necrosis seen?", "yes no"],
}


def write_vision(folder: Path, name: str) -> str:
    """The stand-in of the image encoder `name` in a new folder -> its path."""
    folder.mkdir()
    fields = VISION[name] | SMALL_VISION
    config = AutoConfig.for_model(**fields)
    is_classifier = "Classification" in fields["architectures"][0]
    model = ViTForImageClassification(config) if is_classifier else AutoModel.from_config(config)
    with torch.no_grad():  # published weights tell places and tokens apart
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    model.save_pretrained(folder)
    write_json(folder / "config.json", fields)
    if PREPROCESSORS[name] is not None:
        write_json(folder / "preprocessor_config.json", PREPROCESSORS[name])
    return str(folder)


def write_text(folder: Path, name: str) -> str:
    """The stand-in of the text model `name` with its tokenizer in a new folder -> its path."""
    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    words = ["what is present?", "where is the gland?", *WORDS.get(name, [])]
    tokens = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(words, 400, 1, special_tokens=tokens, show_progress=False)
    count = tokenizer.get_vocab_size()
    tokenizer.save_model(str(folder))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "__type": "AddedToken"}
    special = {
        f"{kind}_token": {"content": token, **added, "lstrip": kind == "mask"} for kind, token in SPECIAL.items()
    }
    settings = {"errors": "replace", "add_prefix_space": False, "tokenizer_class": "BartTokenizer"}
    write_json(folder / "tokenizer_config.json", special | settings)
    # bart-large-cnn has no embedding for <mask>, the last token.
    fields = TEXT[name] | SMALL_TEXT | {"vocab_size": count + (name != "facebook/bart-large-cnn")}
    config = BartConfig(**{key: value for key, value in fields.items() if key not in GenerationConfig().to_dict()})
    model = (BartModel if fields["architectures"] == ["BartModel"] else BartForConditionalGeneration)(config)
    # facebook/bart-large is as old as to be no archive.
    is_archive = name != "facebook/bart-large"
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_archive)
    write_json(folder / "config.json", fields)
    if name in GENERATION:
        write_json(folder / "generation_config.json", GENERATION[name])
    return str(folder)


def write_json(path: Path, fields: dict) -> None:
    path.write_text(json.dumps(fields, indent=2))
