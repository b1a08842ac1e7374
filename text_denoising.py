"""Denoising of the training texts by a text model that starts from random weights, before the main run.

A random teacher gives each token a state that says little of the sentence. A minute of BART's own pretraining task makes
the states of a question say what it asks, and the decoder begins by knowing how to read them.
"""

from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BartForConditionalGeneration,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from .modeling_mmjepa import MMJepaForConditionalGeneration

MASKED_SHARE = 0.3  # of a text's tokens, as in BART (arXiv 1910.13461)


class DenoisingCollator:
    """Texts -> their tokens (B, L), a share of them masked, and all of them as labels (B, L), -100 at padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [row["text"] for row in rows]
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, return_special_tokens_mask=True, return_tensors="pt"
        )
        masked = (torch.rand(tokens["input_ids"].shape) < MASKED_SHARE) & ~tokens["special_tokens_mask"].bool()
        return {
            "input_ids": tokens["input_ids"].masked_fill(masked, self.tokenizer.mask_token_id),
            "attention_mask": tokens["attention_mask"],
            "labels": tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100),
        }


def denoise_texts(
    model: MMJepaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    arguments: Seq2SeqTrainingArguments,
) -> None:
    """Trains a BART of the model's sizes to restore masked `texts` and gives its halves to teacher and decoder."""
    bart = BartForConditionalGeneration(model.config.text_config)
    Seq2SeqTrainer(
        model=bart,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": texts}),
        data_collator=DenoisingCollator(tokenizer),
    ).train()
    bart.to(model.device)
    model.encoder.teacher.load_state_dict(bart.get_encoder().state_dict())
    model.decoder.load_state_dict(bart.get_decoder().state_dict())
    model.lm_head.load_state_dict(bart.lm_head.state_dict())
