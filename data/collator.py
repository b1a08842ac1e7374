"""Rows -> the model's inputs."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch

from ..configuration_mmjepa import YES_NO_WORDS
from ..processing_mmjepa import MMJepaProcessor
from .columns import TEXT_COLUMNS
from .images import prepared_shape
from .pixels import normalize_pixels
from .sides import MIRRORS, NO_WORDS, keeps_sides, mirrored_text
from .statements import TextNumbers, YesNoWords, statement_of

# How the names of what the texts of all views are made of begin, before what the model calls it.
MIRRORED = "mirrored_"
# How the names of what a batch holds for the Trainer alone begin.
NOT_FOR_THE_MODEL = (
    *(MIRRORED, "row_views", "keep_sides", "row_ids", "statement_ids", "answer_ids"),
    *("host_ids", "answer_places"),
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
            keep_sides (I,), whether a text about the image would be wrong for its mirror image, and row_ids (B,), the
            rows' numbers, which a stream does not have; and answer_places (T,), those of the answers' tokens in the
            flattened labels, if all views have the same labels.
        numbers: of the statements and answers whose targets were computed beforehand. Where all texts of a batch have
            one, it holds statement_ids (B,) and answer_ids (B,) in place of the alignment texts, -1 for no text; and
            host_ids (2, B), in numpy, which is not moved to a device: each row's statement and its image's number.
        side_words: the language whose words of sides are swapped in texts about mirror images, or "none". A batch that
            has such words also holds the V different texts of the views of its images: `mirrored_input_ids` (V, L) and
            so on, and row_views (4, B), which of them is whose. [`tokens_of_views`] chooses among them.
    """

    def __init__(
        self,
        processor: MMJepaProcessor,
        alignment_text: str = "proposition",
        yes_no_words: YesNoWords = YES_NO_WORDS,
        as_bytes: bool = False,
        numbers: TextNumbers | None = None,
        side_words: str = NO_WORDS,
    ):
        self.processor = processor
        self.alignment_text = alignment_text
        self.yes_no_words = yes_no_words
        self.as_bytes = as_bytes
        self.numbers = numbers
        self.side_words = side_words

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not rows:
            return self._stand_in()
        images = {row["image_id"]: row["pixels"] for row in rows}
        positions = {image_id: position for position, image_id in enumerate(images)}
        pixels = torch.stack(list(images.values()))  # (I, 3, H, W)
        views, row_views = views_of(rows, self.side_words)
        texts, signs = zip(
            *(statement_of(view, self.alignment_text, self.yes_no_words) for view in views), strict=True
        )
        ids = self._text_numbers(views[: len(rows)], texts[: len(rows)])
        tokens = self._question_tokens(views) | ({} if ids else self._alignment_tokens(views, texts))
        batch: dict[str, Any] = {
            "pixel_values": pixels if self.as_bytes else normalize_pixels(pixels, self.processor.image_processor),
            "image_ids": torch.tensor([image_number(image_id) for image_id in images]),
            "image_index": torch.tensor([positions[row["image_id"]] for row in rows]),
            "align_signs": torch.tensor(signs[: len(rows)]),
            **{name: values[: len(rows)] for name, values in tokens.items()},
            **ids,
        }
        if ids:
            numbers = batch["image_ids"][batch["image_index"]]  # (B,)
            batch["host_ids"] = torch.stack([ids["statement_ids"], numbers]).numpy()
        if self.as_bytes and len(views) == len(rows):
            batch["answer_places"] = (batch["labels"] != -100).flatten().nonzero()[:, 0]
        if len(views) > len(rows):
            batch |= {f"{MIRRORED}{name}": values for name, values in tokens.items()} | {"row_views": row_views}
        if self.as_bytes:
            kept = {row["image_id"] for row in rows if row_keeps_sides(row, self.side_words)}
            batch["keep_sides"] = torch.tensor([image_id in kept for image_id in images])
            if "row" in rows[0]:
                batch["row_ids"] = torch.tensor([row["row"] for row in rows])
        return batch

    def _question_tokens(self, rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
        """Those of the rows' questions and answers; each distinct text is cut into tokens once."""
        questions, question_of_row = distinct([row["question"] for row in rows])
        answers, answer_of_row = distinct([row["answer"] for row in rows])
        of_questions = self.processor(text=questions, return_tensors="pt")
        tokens = {name: values[question_of_row] for name, values in of_questions.items()}  # (B, L)
        tokens["labels"] = self.processor(answers=answers, return_tensors="pt")["labels"][answer_of_row]  # (B, A)
        tokens["labels"][[not row["question"] for row in rows]] = -100
        return tokens

    def _alignment_tokens(self, rows: list[dict[str, str]], texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Those of the rows' alignment texts, if some text is not its row's question."""
        if list(texts) == [row["question"] for row in rows] and "" not in texts:
            return {}
        tokens = self.processor(text=list(texts), return_tensors="pt")
        has_text = torch.tensor([text != "" for text in texts])
        return {
            "align_input_ids": tokens["input_ids"],
            "align_attention_mask": tokens["attention_mask"] * has_text[:, None],
        }

    def _text_numbers(self, rows: list[dict[str, str]], texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Those of the rows' alignment texts and answers, if all have one."""
        answers = [row["answer"] if row["question"] else "" for row in rows]
        if self.numbers is None or not self.numbers.has_all(texts, answers):
            return {}
        return self.numbers.of(texts, answers)

    def _stand_in(self) -> dict[str, torch.Tensor]:
        black = torch.zeros(prepared_shape(self.processor.image_processor), dtype=torch.uint8)
        batch = self([{"question": "", "answer": "", "image_id": 0, "pixels": black}])
        return {**batch, "image_ids": torch.full_like(batch["image_ids"], -1)}


def distinct(texts: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """The distinct ones of B texts, and the number (B,) of each text's among them."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(places), torch.tensor([places[text] for text in texts])


def views_of(rows: list[dict[str, Any]], side_words: str) -> tuple[list[dict[str, str]], torch.Tensor]:
    """The different texts of B rows about their images and about the mirror images.

    Returns:
        The texts of V views, the first B of the rows as they are; and the number (4, B) of each row's view where its
        image is as it is, mirrored from left to right, from top to bottom, and both.
    """
    views = [{name: row.get(name) or "" for name in TEXT_COLUMNS} for row in rows]
    row_views = torch.arange(len(rows)).repeat(4, 1)
    for row, texts in enumerate(views[: len(rows)]):
        for flip, mirror in enumerate(MIRRORS):
            mirrored = {name: mirrored_text(text, *mirror, side_words) for name, text in texts.items()}
            if mirrored != texts:
                row_views[flip, row] = len(views)
                views.append(mirrored)
    return views, row_views


def row_keeps_sides(row: dict[str, Any], side_words: str) -> bool:
    """Whether a text of the row would be wrong for the mirror image, and its words can't be swapped."""
    return any(keeps_sides(row.get(name) or "", side_words) for name in TEXT_COLUMNS)


def tokens_of_views(batch: dict[str, torch.Tensor], flips: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the model reads of each row's texts about the view of its image; nothing where all views have the same.

    Args:
        flips: (I,), of each image 1 if it is mirrored from left to right, plus 2 if from top to bottom.
    """
    if "row_views" not in batch:
        return {}
    row_flips = flips[batch["image_index"]]  # (B,)
    views = batch["row_views"].gather(0, row_flips[None])[0]  # (B,)
    return {name.removeprefix(MIRRORED): batch[name][views] for name in batch if name.startswith(MIRRORED)}


def image_number(image_id: int | str) -> int:
    """The image's number, the same on every process; the id of a streamed image is a string."""
    return image_id if isinstance(image_id, int) else zlib.crc32(image_id.encode())
