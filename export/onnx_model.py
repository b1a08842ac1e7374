"""Greedy answers from the three ONNX graphs of onnx.py, in onnxruntime: it needs no PyTorch."""

import json
from pathlib import Path

import numpy as np
import onnxruntime


class OnnxModel:
    """The folder that `export_onnx` wrote, ready to answer.

    Args:
        folder: where the graphs are.
        session_options: for `onnxruntime.InferenceSession`, such as `providers`.

    Example:
        >>> model, processor = OnnxModel("onnx"), MMJepaProcessor.from_pretrained("onnx")
        >>> inputs = processor(images="slide.png", text="what is present?", return_tensors="np")
        >>> processor.decode(model.generate(**inputs), skip_special_tokens=True)
    """

    def __init__(self, folder: str | Path, **session_options):
        folder = Path(folder)
        self.settings = json.loads((folder / "generation_config.json").read_text())
        self.image_tower, self.text_encoder, self.decoder_step = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", **session_options)
            for name in ("image_tower", "text_encoder", "decoder_step")
        )

    def generate(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        pixel_values: np.ndarray,
        image_index: np.ndarray | None = None,
    ) -> np.ndarray:
        """Token ids (B, A) of the greedy answers, as `generate` of the model gives them with `num_beams=1`.

        Args:
            input_ids, attention_mask: questions (B, L), padded on the right.
            pixel_values: images (I, 3, H, W) in float32; `image_index` (B,) says which one each question is about.
        """
        settings = self.settings
        _, visual_tokens = self.image_tower.run(None, {"pixel_values": pixel_values})  # (I, M, D)
        (question_states,) = self.text_encoder.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
        inputs = {
            "visual_tokens": visual_tokens if image_index is None else visual_tokens[image_index],  # (B, M, D)
            "question_states": question_states,  # (B, L, D)
            "attention_mask": attention_mask,
        }
        answers = np.full((len(input_ids), 1), settings["decoder_start_token_id"])
        ended = np.zeros(len(input_ids), dtype=bool)
        steps = settings.get("max_new_tokens", 32)
        for step in range(steps):
            (logits,) = self.decoder_step.run(None, {"decoder_input_ids": answers, **inputs})  # (B, V)
            tokens = logits.argmax(axis=-1)
            if step == 0 and settings.get("forced_bos_token_id") is not None:
                tokens[:] = settings["forced_bos_token_id"]
            if step == steps - 1 and settings.get("forced_eos_token_id") is not None:
                tokens[:] = settings["forced_eos_token_id"]
            tokens[ended] = settings["pad_token_id"]
            answers = np.concatenate([answers, tokens[:, None]], axis=1)
            ended |= np.isin(tokens, settings["eos_token_id"])
            if ended.all():
                break
        return answers
