"""The configurations of the tiny model, and the flags of its runs."""

import json

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
    "mlp_ratio": 2,
    "initializer_range": 0.2,
}
TEXT = {
    "vocab_size": 300,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 32,
    "init_std": 0.2,
}

TINY_VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
TINY_TEXT = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "vocab_size": 320,
}
FROM_RANDOM = ["--vision_config", json.dumps(TINY_VISION), "--text_config", json.dumps(TINY_TEXT)]
FAST = ["--dataloader_num_workers", "0", "--preprocessing_num_workers", "1", "--disable_tqdm", "true", "--use_cpu"]
