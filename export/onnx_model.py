"""Greedy answers from the three ONNX graphs of onnx.py, in onnxruntime: it needs no PyTorch."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

SETTINGS = {f"{name}_token_id" for name in ("decoder_start", "bos", "eos", "pad", "forced_bos", "forced_eos")}
SETTINGS |= {"max_new_tokens", "transformers_version"}


class OnnxModel:
    """The folder that `export_onnx` wrote, ready to answer.

    Args:
        folder: where the graphs are.
        sess_options, providers, provider_options: for `onnxruntime.InferenceSession`.

    Raises:
        ValueError: the folder's generation settings are not the ones that `export_onnx` writes.

    Example:
        >>> model, processor = OnnxModel("onnx"), MMJepaProcessor.from_pretrained("onnx")
        >>> inputs = processor(images="slide.png", text="what is present?", return_tensors="np")
        >>> processor.decode(model.generate(**inputs), skip_special_tokens=True)
    """

    def __init__(self, folder: str | Path, sess_options=None, providers=None, provider_options=None):
        folder = Path(folder)
        self.settings = json.loads((folder / "generation_config.json").read_text())
        unknown = sorted(self.settings.keys() - SETTINGS)
        if unknown or "max_new_tokens" not in self.settings:
            raise ValueError(
                f"{folder}/generation_config.json has {', '.join(unknown) or 'no max_new_tokens'}: greedy answers "
                f"know {', '.join(sorted(SETTINGS))}, and need max_new_tokens; export the model again."
            )
        self.image_tower, self.text_encoder, self.decoder_step = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", sess_options, providers, provider_options)
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
            input_ids, attention_mask: questions (B, L), padded on either side.
            pixel_values: images (I, 3, H, W) in float32; `image_index` (B,) says which one each question is about,
                and may be left out where I == B.

        Raises:
            ValueError: I != B without `image_index`, or it is not the numbers of B of the images.
        """
        image_index = np.arange(len(pixel_values)) if image_index is None else np.asarray(image_index)
        in_range = (image_index >= 0) & (image_index < len(pixel_values))
        if image_index.shape != (len(input_ids),) or image_index.dtype.kind not in "iu" or not in_range.all():
            raise ValueError(
                f"image_index is {image_index.tolist()} for {len(input_ids)} questions about {len(pixel_values)} "
                f"images: give one of the numbers 0 to {len(pixel_values) - 1} for each question."
            )
        # As the model does: positions count from the first column, so padding goes behind the text.
        order = np.argsort(attention_mask == 0, axis=1, kind="stable")  # (B, L)
        input_ids, attention_mask = (np.take_along_axis(rows, order, axis=1) for rows in (input_ids, attention_mask))
        settings = self.settings
        _, visual_tokens = self.image_tower.run(None, {"pixel_values": pixel_values})  # (I, M, D)
        (question_states,) = self.text_encoder.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
        inputs = {
            "visual_tokens": visual_tokens[image_index],  # (B, M, D)
            "question_states": question_states,  # (B, L, D)
            "attention_mask": attention_mask,
        }
        eos, forced_eos = settings.get("eos_token_id"), settings.get("forced_eos_token_id")
        answers = np.full((len(input_ids), 1), settings["decoder_start_token_id"])
        ended = np.zeros(len(input_ids), dtype=bool)
        for step in range(settings["max_new_tokens"]):
            (logits,) = self.decoder_step.run(None, {"decoder_input_ids": answers, **inputs})  # (B, V)
            tokens = logits.argmax(axis=-1)
            if step == 0 and settings.get("forced_bos_token_id") is not None:
                tokens[:] = settings["forced_bos_token_id"]
            if step == settings["max_new_tokens"] - 1 and forced_eos is not None:
                tokens[:] = np.min(forced_eos)  # of several the library takes the lowest
            tokens[ended] = settings["pad_token_id"]
            answers = np.concatenate([answers, tokens[:, None]], axis=1)
            ended |= np.isin(tokens, [] if eos is None else eos)
            if ended.all():
                break
        return answers
