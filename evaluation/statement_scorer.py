"""Scores of pairs of an image and a statement."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..data.statements import Statement, statement_of
from ..encoder_mmjepa import MMJepaImageFeatures
from .answerer import Answerer, evaluating
from .shares import batches, in_shares

STATEMENTS_PER_BLOCK = 4096
# Takes statements (S, D) and the features of one image, and gives scores (S,).
ScoreOfImage = Callable[[torch.Tensor, MMJepaImageFeatures], torch.Tensor]


class StatementScorer:
    """Scores any pairs of the images of `features` and of texts. Each distinct text is encoded once.

    Methods take `image_ids` and `texts`, the image and the text of each of R pairs, and give R scores. With
    torch.distributed each process scores a share of the images, and every process gets all scores.
    """

    def __init__(self, answerer: Answerer, features: MMJepaImageFeatures):
        self.answerer, self.model, self.features = answerer, answerer.model, features
        self.places: dict[str, int] = {}  # text -> its row in `embeds`
        self.embeds = torch.empty(0)  # (S, D)

    def logits(self, image_ids: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        """How likely each text is true of its image (R,): the logits before the temperature."""
        return self._map_pairs(
            image_ids, texts, lambda embeds, image: self.model.statement_logits(embeds, image_features=image)[0]
        )

    def cosines(self, image_ids: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        """The cosine (R,) of each text and the vector of its image."""
        return self._map_pairs(
            image_ids, texts, lambda embeds, image: F.cosine_similarity(embeds.float(), image.image_embeds.float())
        )

    def answer_logits(self, image_ids: Sequence[int], questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """How likely each answer to a question is right (R,): "no" is as likely as its statement is false."""
        statements = [self.statement(*pair) for pair in zip(questions, answers, strict=True)]
        signs = np.array([statement.sign for statement in statements], dtype=float)
        return signs * self.logits(image_ids, [statement.text for statement in statements])

    def statement(self, question: str, answer: str) -> Statement:
        """What an answer states."""
        config = self.model.config
        return statement_of({"question": question, "answer": answer}, config.alignment_text, config.yes_no_words)

    def _map_pairs(self, image_ids: Sequence[int], texts: Sequence[str], score: ScoreOfImage) -> np.ndarray:
        """What `score` gives of each pair. Equal pairs are scored once."""
        if not texts:
            return np.zeros(0)
        text_ids = self._encoded(texts)
        pairs, place_of_pair = np.unique(np.asarray(image_ids) * len(self.embeds) + text_ids, return_inverse=True)
        images, text_ids = np.divmod(pairs, len(self.embeds))  # sorted by image
        starts = np.flatnonzero(np.diff(images, prepend=-1))
        groups = list(zip(images[starts].tolist(), np.split(text_ids, starts[1:]), strict=True))

        def score_share(groups: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
            return [self._score_image(image, ids, score) for image, ids in groups]

        with evaluating(self.model):
            return np.concatenate(in_shares(groups, score_share))[place_of_pair]

    def _score_image(self, image: int, text_ids: np.ndarray, score: ScoreOfImage) -> np.ndarray:
        """The scores (S,) of one image and some texts."""
        features = MMJepaImageFeatures(
            image_embeds=self.features.image_embeds[[image]],  # (1, D)
            visual_tokens=self.features.visual_tokens[[image]],  # (1, M, D)
        )
        # In blocks: a question with thousands of answers must not need memory for all of them.
        scores = [score(self.embeds[ids], features) for ids in batches(text_ids.tolist(), STATEMENTS_PER_BLOCK)]
        return torch.cat(scores).float().cpu().numpy()

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        """The rows (R,) of the texts in `embeds`, to which new texts are added."""
        # Texts of similar length in a batch need little padding.
        new = sorted(set(texts) - self.places.keys(), key=lambda text: (len(text), text))
        if new:
            embeds = self.answerer.encode_all_texts(new, self.model.encode_texts)  # (new, D)
            self.embeds = torch.cat([self.embeds.to(embeds), embeds]) if self.places else embeds
            self.places |= {text: place for place, text in enumerate(new, start=len(self.places))}
        return np.array([self.places[text] for text in texts])
