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
# The model as it was first described (configs/pathvqa_reference.json).
DESCRIBED = {
    "visual_prefix": "pooled",
    "alignment_text": "priority",
    "alignment_loss": "cosine",
    "alignment_target": "embedding",
    "lambda_answer": 0.0,
}
# For tests of what holds in both forms.
FORMS = {"default": {}, "described": DESCRIBED}
FROM_RANDOM = ["--vision_config", json.dumps(VISION), "--text_config", json.dumps(TEXT)]
FAST = ["--dataloader_num_workers", "0", "--preprocessing_num_workers", "1", "--disable_tqdm", "true", "--use_cpu"]
