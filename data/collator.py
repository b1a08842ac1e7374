"""Rows -> the model's inputs."""

import re
import zlib
from typing import Any

import torch

from ..configuration_mmjepa import YES_NO_WORDS
from ..processing_mmjepa import MMJepaProcessor
from .columns import TEXT_COLUMNS
from .images import normalize_pixels, prepared_shape
from .statements import TextNumbers, YesNoWords, statement_of

# Words of questions and answers that are wrong for a mirrored image.
SIDES = re.compile(
    r"\b((left|right)(most|wards?|sided|hand)?|(top|bottom|upper|lower)(most)?|(up|down)(wards?|side)"
    r"|(north|south|east|west)(ern|wards?)?|above|below|beneath|under|underneath|over"
    r"|(under|over)-?(lies|lie|lying|lain)|(sub|supra)jacent|(anti|counter)?-?clockwise"
    r"|((super|infer|anter|poster)ior|dorsal|ventral|caudal|rostral)(ly)?)\b",
    re.IGNORECASE,
)


class VqaCollator:
    """Rows of [`VqaData`] -> the model's inputs, each distinct image once.

    pixel_values (I, 3, H, W) float32, image_ids (I,), image_index (B,), input_ids and attention_mask (B, L), labels
    (B, A), align_signs (B,), whether each row's alignment text is true (1) or false (-1) of its image, and, if some
    row's alignment text is not its question, align_input_ids and align_attention_mask (B, L').

    A row without a question teaches only the alignment: its labels are all -100. A row without an alignment text
    teaches only the answer: its align_attention_mask is 0. No rows give a stand-in that teaches nothing, a blank
    question about a black image with the image_id -1: a process without rows still has to take part in the step.

    Args:
        alignment_text, yes_no_words: which text of a row the image is aligned to, as in [`MMJepaConfig`].
        as_bytes: leaves pixel_values uint8, for a Trainer that augments and normalises them on the device. Adds
            keep_sides (I,), whether a text about the image names left or right, top or bottom, and row_ids (B,), the
            rows' numbers, which a stream does not have.
        numbers: of the statements and answers whose targets were computed beforehand. Where all texts of a batch have
            one, it holds statement_ids (B,) and answer_ids (B,) in place of the alignment texts, -1 for no text.
    """

    def __init__(
        self,
        processor: MMJepaProcessor,
        alignment_text: str = "proposition",
        yes_no_words: YesNoWords = YES_NO_WORDS,
        as_bytes: bool = False,
        numbers: TextNumbers | None = None,
    ):
        self.processor = processor
        self.alignment_text = alignment_text
        self.yes_no_words = yes_no_words
        self.as_bytes = as_bytes
        self.numbers = numbers

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not rows:
            return self._stand_in()
        images = {row["image_id"]: row["pixels"] for row in rows}
        positions = {image_id: position for position, image_id in enumerate(images)}
        questions = [row["question"] for row in rows]
        pixels = torch.stack(list(images.values()))  # (I, 3, H, W)
        batch = {
            "pixel_values": pixels if self.as_bytes else normalize_pixels(pixels, self.processor.image_processor),
            "image_ids": torch.tensor([image_number(image_id) for image_id in images]),
            "image_index": torch.tensor([positions[row["image_id"]] for row in rows]),
            **self.processor(text=questions, answers=[row["answer"] for row in rows], return_tensors="pt"),
        }
        batch["labels"][[not question for question in questions]] = -100
        texts, signs = zip(*(statement_of(row, self.alignment_text, self.yes_no_words) for row in rows), strict=True)
        batch["align_signs"] = torch.tensor(signs)
        answers = [row["answer"] if row["question"] else "" for row in rows]
        if self.numbers is not None and self.numbers.has_all(texts, answers):
            batch |= self.numbers.of(texts, answers)
        elif list(texts) != questions or "" in texts:
            tokens = self.processor(text=list(texts), return_tensors="pt")
            has_text = torch.tensor([text != "" for text in texts])
            batch["align_input_ids"] = tokens["input_ids"]
            batch["align_attention_mask"] = tokens["attention_mask"] * has_text[:, None]
        if self.as_bytes:
            with_sides = {row["image_id"] for row in rows if names_side(row)}
            if "row" in rows[0]:
                batch["row_ids"] = torch.tensor([row["row"] for row in rows])
            batch["keep_sides"] = torch.tensor([image_id in with_sides for image_id in images])
        return batch

    def _stand_in(self) -> dict[str, torch.Tensor]:
        black = torch.zeros(prepared_shape(self.processor.image_processor), dtype=torch.uint8)
        batch = self([{"question": "", "answer": "", "image_id": 0, "pixels": black}])
        return {**batch, "image_ids": torch.full_like(batch["image_ids"], -1)}


def names_side(row: dict[str, Any]) -> bool:
    """Whether a text of the row names left or right, top or bottom of its image."""
    return any(SIDES.search(row.get(name) or "") for name in TEXT_COLUMNS)


def image_number(image_id: int | str) -> int:
    """The image's number, the same on every process; the id of a streamed image is a string."""
    return image_id if isinstance(image_id, int) else zlib.crc32(image_id.encode())
