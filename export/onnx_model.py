"""Answers questions and scores statements with the ONNX graphs of onnx.py. It needs onnxruntime and no PyTorch."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

SETTINGS = {f"{name}_token_id" for name in ("decoder_start", "bos", "eos", "pad", "forced_bos", "forced_eos")}
SETTINGS |= {"max_new_tokens", "truth_temperature", "transformers_version"}


class OnnxModel:
    """Answers with the graphs in a folder that `export_onnx` wrote.

    Args:
        folder: where the graphs are.
        sess_options, providers, provider_options: for `onnxruntime.InferenceSession`.

    Raises:
        ValueError: the folder's generation settings are not those that `export_onnx` writes.

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
        names = ["image_tower", "text_encoder", "decoder_step"]
        scores_statements = (folder / "statement_scorer.onnx").exists()
        self.image_tower, self.text_encoder, self.decoder_step, *scorers = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", sess_options, providers, provider_options)
            for name in [*names, *["statement_scorer"] * scores_statements]
        )
        self.statement_scorer = scorers[0] if scores_statements else None

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
            pixel_values: images (I, 3, H, W) in float32.
            image_index: the number of the image that each question is about, (B,). Not needed if I == B.

        Raises:
            ValueError: I != B without `image_index`, or it does not name one of the images for each question.
        """
        image_index = checked_image_index(image_index, len(input_ids), len(pixel_values))
        text = padding_last(input_ids, attention_mask)
        _, visual_tokens = self.image_tower.run(None, {"pixel_values": pixel_values})  # (I, M, D)
        (question_states,) = self.text_encoder.run(["question_states"], text)
        inputs = {
            "visual_tokens": visual_tokens[image_index],  # (B, M, D)
            "question_states": question_states,  # (B, L, D)
            "attention_mask": text["attention_mask"],
        }
        return self.decode(inputs)

    def score_statements(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, pixel_values: np.ndarray
    ) -> np.ndarray:
        """How probably each of S statements is true of each of I images -> (I, S), as `score_statements` of the model.

        Args:
            input_ids, attention_mask: statements (S, L), padded on either side.
            pixel_values: images (I, 3, H, W) in float32.

        Raises:
            ValueError: the exported model can't tell true statements from false ones.
        """
        if self.statement_scorer is None:
            raise ValueError(
                "there is no statement_scorer.onnx: the exported model was not trained to tell true statements from "
                "false ones (truth_weight 0); export one that was."
            )
        image_embeds, visual_tokens = self.image_tower.run(None, {"pixel_values": pixel_values})
        (text_embeds,) = self.text_encoder.run(["text_embeds"], padding_last(input_ids, attention_mask))
        inputs = {"image_embeds": image_embeds, "visual_tokens": visual_tokens, "text_embeds": text_embeds}
        (logits,) = self.statement_scorer.run(None, inputs)  # (I, S)
        return 1 / (1 + np.exp(-logits / self.settings.get("truth_temperature", 1.0)))

    def decode(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The tokens (B, A) of B answers, step by step.

        Args:
            inputs: those of the graph decoder_step, without decoder_input_ids.
        """
        settings = self.settings
        eos, forced_eos = settings.get("eos_token_id"), settings.get("forced_eos_token_id")
        count = len(inputs["attention_mask"])
        answers = np.full((count, 1), settings["decoder_start_token_id"])
        ended = np.zeros(count, dtype=bool)
        for step in range(settings["max_new_tokens"]):
            (logits,) = self.decoder_step.run(None, {"decoder_input_ids": answers, **inputs})  # (B, V)
            tokens = logits.argmax(axis=-1)
            if step == 0 and settings.get("forced_bos_token_id") is not None:
                tokens[:] = settings["forced_bos_token_id"]
            if step == settings["max_new_tokens"] - 1 and forced_eos is not None:
                tokens[:] = np.min(forced_eos)  # of several tokens the library takes the lowest
            tokens[ended] = settings["pad_token_id"]
            answers = np.concatenate([answers, tokens[:, None]], axis=1)
            ended |= np.isin(tokens, [] if eos is None else eos)
            if ended.all():
                break
        return answers


def padding_last(input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
    """The text encoder's inputs, texts (B, L) with their padding moved behind the text as in the model.

    Positions count from the first column.
    """
    order = np.argsort(attention_mask == 0, axis=1, kind="stable")  # (B, L)
    rows = {"input_ids": input_ids, "attention_mask": attention_mask}
    return {name: np.take_along_axis(values, order, axis=1) for name, values in rows.items()}


def checked_image_index(image_index: np.ndarray | None, num_questions: int, num_images: int) -> np.ndarray:
    """`image_index`, by default question i about image i; ValueError if it doesn't fit questions and images."""
    image_index = np.arange(num_images) if image_index is None else np.asarray(image_index)
    in_range = (image_index >= 0) & (image_index < num_images)
    if image_index.shape != (num_questions,) or image_index.dtype.kind not in "iu" or not in_range.all():
        raise ValueError(
            f"image_index is {image_index.tolist()} for {num_questions} questions about {num_images} "
            f"images: give one of the numbers 0 to {num_images - 1} for each question."
        )
    return image_index
