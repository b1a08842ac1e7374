"""The targets of a training's statements and answers, computed once before it: the text encoder is frozen."""

import copy
import math
import tempfile
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..alignment_mmjepa import MMJepaStatements
from ..configuration_mmjepa import MMJepaConfig
from ..data.collator import VqaCollator
from ..data.columns import TEXT_COLUMNS, each_row
from ..data.sides import NO_WORDS, add_mirrored
from ..data.statements import AnswerLists, TextNumbers, answer_counts, statement_of
from ..data.wrong_statements import StatementList
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from ..targets_mmjepa import TargetSpace
from .text_embeddings import TextEmbeddings
from .weights import text_encoder_on

MAX_BYTES = 2**30  # of statements' targets in memory; more of them lie on the disk, in half the size
# Of more distinct answers than this, each step compares with about as many, drawn anew.
MAX_ANSWERS = 16384


def fitted_texts(questions: Dataset, config: MMJepaConfig) -> tuple[list[str], list[str]]:
    """What the targets of a new model are fitted to: the statements of the training rows, and their answers."""
    texts = questions.select_columns([name for name in TEXT_COLUMNS if name in questions.column_names])
    statements = [statement_of(row, config.alignment_text, config.yes_no_words).text for row in each_row(texts)]
    return statements, texts["answer"][:]


def fit_targets(
    model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, questions: Dataset, device: torch.device
) -> None:
    """The model's `fit_targets` to the texts of the training rows, encoded on `device` and kept on disk."""
    with text_encoder_on(device, model):
        embeddings = TextEmbeddings(model, processor, device)
        for targets, texts in zip(model.target_spaces(), fitted_texts(questions, model.config), strict=False):
            targets.fit(pooled for _, pooled in embeddings.parts(texts))


class TrainingTargets:
    """What the losses compare with: the distinct statements of the training rows, wrong ones, and all answers.

    Args:
        questions: the texts of the training rows, with image_id where they have one.
        num_wrong: how many wrong statements are drawn for a row at each step.
        side_words: the language whose words of sides are swapped in texts about mirror images, or "none".

    Attributes:
        numbers: of statements and answers, for the collator.
    """

    def __init__(self, questions: Dataset, config: MMJepaConfig, num_wrong: int, side_words: str = NO_WORDS):
        self.questions, self.num_wrong, self.side_words = questions, num_wrong, side_words
        names = [name for name in (*TEXT_COLUMNS, "answers", "image_id") if name in questions.column_names]
        self.statements = StatementList(
            each_row(questions.select_columns(names)),
            AnswerLists(questions if num_wrong else questions.select([]), config.yes_no_words),
            config.alignment_text,
            config.yes_no_words,
            side_words,
        )
        answers = answer_counts(questions)
        numbers = {key: place for place, key in enumerate(answers)}
        mirrored = torch.tensor(add_mirrored(numbers, side_words), dtype=torch.long)  # (4, answers of rows)
        # Answers that only mirror images have are spelt as they are compared.
        self.answers = [spelling for spelling, _ in answers.values()] + list(numbers)[len(answers) :]
        counts = torch.tensor([count for _, count in answers.values()], dtype=torch.float)
        # All four views of an image are equally frequent.
        self.answer_counts = torch.zeros(len(numbers)).index_add(0, mirrored.flatten(), counts.repeat(4) / 4)  # (K,)
        self.mirrored_answers = torch.cat([mirrored, torch.full((4, 1), -1)], dim=1)  # the last column: no answer
        self.answer_embeds: torch.Tensor | None = None  # where the model predicts no answers
        self.numbers = TextNumbers(self.statements.numbers, numbers)

    def naming(self, collator: VqaCollator) -> VqaCollator:
        """A copy of `collator` that names texts by their numbers, and swaps words of sides in mirrored ones."""
        collator = copy.copy(collator)
        collator.numbers, collator.side_words = self.numbers, self.side_words
        return collator

    def embed(self, model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, device: torch.device) -> None:
        """Encodes all texts on `device`, where the targets then lie; with torch.distributed each process a share."""
        self.answer_counts = self.answer_counts.to(device)
        self.mirrored_statements = self.statements.mirrored.to(device)
        self.mirrored_answers = self.mirrored_answers.to(device)
        # As `fit_targets` has asked for them.
        statements, answers = fitted_texts(self.questions, model.config)
        with text_encoder_on(device, model):
            embeddings = TextEmbeddings(model, processor, device)
            self.statement_embeds = TargetTable(
                embeddings, statements, self.statements.texts, model.alignment.targets, device
            )  # (T, D)
            if model.config.predict_answer:
                table = TargetTable(embeddings, answers, self.answers, model.answer_prediction.targets, device)
                self.answer_embeds = table[torch.arange(len(self.answers))]  # (K, D)

    def of_batch(self, batch: dict[str, Any], flips: torch.Tensor) -> dict[str, Any]:
        """`statements` and `answers` of a collator's batch, as the model reads them; wrong statements are drawn.

        Args:
            flips: (B,), of each row's image 1 if it is mirrored from left to right, plus 2 if from top to bottom. The
                statements and answers are then those about the mirror image.
        """
        ids = self.mirrored_statements[flips, batch["statement_ids"]]
        statements: MMJepaStatements = {
            "embeds": self.statement_embeds[ids],
            "ids": ids,
            "signs": batch["align_signs"],
        }
        if self.num_wrong:
            statement_ids, image_ids = batch["host_ids"]
            drawn = self.statements.draw_wrong(statement_ids, image_ids, self.num_wrong)
            drawn = drawn.to(ids.device, non_blocking=True)
            wrong = self.mirrored_statements[flips[:, None], drawn]  # (B, K)
            statements |= {"wrong_embeds": self.statement_embeds[wrong], "has_wrong": wrong >= 0}
        inputs: dict[str, Any] = {"statements": statements}
        if self.answer_embeds is not None:
            inputs["answers"] = self._answers(self.mirrored_answers[flips, batch["answer_ids"]])
        return inputs

    def _answers(self, right: torch.Tensor) -> dict[str, torch.Tensor]:
        """All training answers, or a sample of them, and which is right for each row.

        Of a sample, the softmax's denominator is right on average: each answer that is drawn stands for those that
        are not, and counts by one over its probability. The right answers of the batch are always in it.
        """
        counts = self.answer_counts
        if len(counts) <= MAX_ANSWERS:
            return {"targets": self.answer_embeds, "log_counts": counts.log(), "right": right}
        odds = (counts * (MAX_ANSWERS / counts.sum())).clamp(max=1)  # frequent answers are always drawn
        odds[right[right >= 0]] = 1
        drawn = (torch.rand(len(odds)).to(odds) < odds).nonzero()[:, 0]
        place = torch.full((len(odds) + 1,), -1, device=right.device)  # the last one is that of -1
        place[drawn] = torch.arange(len(drawn), device=right.device)
        return {
            "targets": self.answer_embeds[drawn],
            "log_counts": (counts[drawn] / odds[drawn]).log(),
            "right": place[right],
        }


class TargetTable:
    """Targets (T, D) of texts: on `device`, or in a temporary file where they take too much memory.

    Args:
        fitted: the texts that the targets were fitted to. They are encoded apart from the others, because these
            depend on more settings.
        targets: the model's, of its alignment or of its answers.
    """

    @torch.no_grad()
    def __init__(
        self,
        embeddings: TextEmbeddings,
        fitted: Sequence[str],
        texts: Sequence[str],
        targets: TargetSpace,
        device: torch.device,
    ):
        self.device = device
        shape = (len(texts), embeddings.model.config.text_config.d_model)
        fits = 4 * math.prod(shape) <= MAX_BYTES
        self.rows: np.ndarray | torch.Tensor
        if fits:
            self.rows = np.empty(shape, np.float32)
        else:
            self.rows = np.memmap(tempfile.TemporaryFile(), np.float16, "w+", shape=shape)
        for part, pooled in chain(embeddings.parts(fitted), embeddings.parts(set(texts).difference(fitted))):
            embeds = targets(pooled.to(device)).float().cpu().numpy()  # (part, D)
            row_of = {text: row for row, text in enumerate(part)}
            places = [place for place, text in enumerate(texts) if text in row_of]
            self.rows[places] = embeds[[row_of[texts[place]] for place in places]]
        if fits:
            self.rows = torch.from_numpy(self.rows).to(device)

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The targets (..., D) of texts by their numbers; for -1, which is no text, those of any."""
        if isinstance(self.rows, torch.Tensor):
            return self.rows[numbers]
        return torch.from_numpy(self.rows[numbers.cpu().numpy()]).to(self.device).float()
