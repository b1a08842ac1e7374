"""Rows -> the model's inputs."""

import zlib
from typing import Any

import torch

from ..processing_mmjepa import MMJepaProcessor
from .columns import TEXT_COLUMNS
from .images import normalize_pixels, prepared_shape
from .sides import NO_WORDS, keeps_sides, mirrored_text

PRIORITY = ("question", "caption", "answer", "text")
# A row's tokens for each mirroring of its image are named by this and what the model calls them.
MIRRORED = "mirrored_"
# How the names of what a batch has for the Trainer alone begin.
NOT_FOR_THE_MODEL = (MIRRORED, "keep_sides", "row_ids")


def alignment_text(row: dict[str, Any], setting: str) -> str:
    """Which text of a row the image is aligned to; "" if the row has no such text.

    Args:
        setting: `alignment_text` of [`MMJepaConfig`].
    """
    if setting == "statement" and row.get("question"):
        return f"{row['question']} {row['answer']}".strip()
    names = PRIORITY if setting in ("priority", "statement") else (setting,)
    return next((row[name] for name in names if row.get(name)), "")


class VqaCollator:
    """Rows of [`VqaData`] -> the model's inputs, each distinct image once.

    pixel_values (I, 3, H, W) float32, image_ids (I,), image_index (B,), input_ids and attention_mask (B, L), labels
    (B, A) and, if some row's alignment text is not its question, align_input_ids and align_attention_mask (B, L').

    A row without a question teaches only the alignment: its labels are all -100. A row without an alignment text
    teaches only the answer: its align_attention_mask is 0. No rows give a stand-in that teaches nothing, a blank
    question about a black image with the image_id -1: a process without rows still has to take part in the step.

    Args:
        alignment_text: which text of a row the image is aligned to, as in [`MMJepaConfig`].
        as_bytes: leaves pixel_values uint8, for a Trainer that augments and normalises them on the device. Adds
            keep_sides (I,), whether a text about the image would be wrong for its mirror image, and row_ids (B,), the
            rows' numbers, which a stream does not have.
        side_words: the language whose words of sides are swapped for mirror images, or "none". Where a row has such
            words, the batch also has `mirrored_input_ids` (4, B, L) and the like, for the model's other tensors of
            texts too: the tokens of the image as it is, mirrored from left to right, from top to bottom, and both.
            [`tokens_of_views`] chooses among them.
    """

    def __init__(
        self,
        processor: MMJepaProcessor,
        alignment_text: str = "statement",
        as_bytes: bool = False,
        side_words: str = NO_WORDS,
    ):
        self.processor = processor
        self.alignment_text = alignment_text
        self.as_bytes = as_bytes
        self.side_words = side_words

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not rows:
            return self._stand_in()
        images = {row["image_id"]: row["pixels"] for row in rows}
        positions = {image_id: position for position, image_id in enumerate(images)}
        pixels = torch.stack(list(images.values()))  # (I, 3, H, W)
        batch = {
            "pixel_values": pixels if self.as_bytes else normalize_pixels(pixels, self.processor.image_processor),
            "image_ids": torch.tensor([image_number(image_id) for image_id in images]),
            "image_index": torch.tensor([positions[row["image_id"]] for row in rows]),
            **self._tokens(rows),
        }
        if self.as_bytes:
            if "row" in rows[0]:
                batch["row_ids"] = torch.tensor([row["row"] for row in rows])
            kept = {
                row["image_id"] for row in rows if any(keeps_sides(text, self.side_words) for text in texts_of(row))
            }
            batch["keep_sides"] = torch.tensor([image_id in kept for image_id in images])
            batch |= self._mirrored_tokens(rows)
        return batch

    def _tokens(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """What the model reads of the rows' texts."""
        questions = [row["question"] for row in rows]
        tokens = dict(self.processor(text=questions, answers=[row["answer"] for row in rows], return_tensors="pt"))
        tokens["labels"][[not question for question in questions]] = -100
        texts = [alignment_text(row, self.alignment_text) for row in rows]
        if texts != questions or "" in texts:
            aligned = self.processor(text=texts, return_tensors="pt")
            has_text = torch.tensor([text != "" for text in texts])
            tokens["align_input_ids"] = aligned["input_ids"]
            tokens["align_attention_mask"] = aligned["attention_mask"] * has_text[:, None]
        return tokens

    def _mirrored_tokens(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The tokens of the rows for the four mirrorings; none where all texts are right for mirror images too."""
        views = [[mirrored_row(row, flip, self.side_words) for row in rows] for flip in range(4)]
        if all(view == views[0] for view in views):
            return {}
        tokens = self._tokens([row for view in views for row in view])  # (4*B, ...)
        return {f"{MIRRORED}{name}": value.unflatten(0, (4, len(rows))) for name, value in tokens.items()}

    def _stand_in(self) -> dict[str, torch.Tensor]:
        black = torch.zeros(prepared_shape(self.processor.image_processor), dtype=torch.uint8)
        batch = self([{"question": "", "answer": "", "image_id": 0, "pixels": black}])
        return {**batch, "image_ids": torch.full_like(batch["image_ids"], -1)}


def texts_of(row: dict[str, Any]) -> list[str]:
    """The texts that a row has."""
    return [row[name] for name in TEXT_COLUMNS if row.get(name)]


def mirrored_row(row: dict[str, Any], flip: int, side_words: str) -> dict[str, str]:
    """The texts of a row about the mirrored image; `flip` as [`tokens_of_views`] counts it."""
    horizontal, vertical = bool(flip & 1), bool(flip & 2)
    return {name: mirrored_text(row.get(name) or "", horizontal, vertical, side_words) for name in TEXT_COLUMNS}


def tokens_of_views(batch: dict[str, torch.Tensor], flips: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tokens of each row's texts for the view of its image, where they differ between views of the batch.

    Args:
        flips: (I,), of each image 1 if it is mirrored from left to right, plus 2 if from top to bottom.
    """
    row_flips = flips[batch["image_index"]]  # (B,)
    rows = torch.arange(len(row_flips), device=flips.device)
    return {
        name.removeprefix(MIRRORED): views[row_flips, rows]
        for name, views in batch.items()
        if name.startswith(MIRRORED)
    }


def image_number(image_id: int | str) -> int:
    """The image's number, the same on every process; the id of a streamed image is a string."""
    return image_id if isinstance(image_id, int) else zlib.crc32(image_id.encode())
