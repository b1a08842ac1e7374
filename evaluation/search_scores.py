"""Whether a statement finds the images that show it, among those of which the rows say whether they do."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.statements import sign_of
from ..metrics.vqa_answers.rules import normalize_answer
from ..metrics.vqa_answers.vqa_answers import as_list
from .controls import right_answers_of
from .intervals import statistic_interval
from .statement_scorer import StatementScorer

LEAST_IMAGES = 5  # that must show a statement, and that must not, for it to be searched for
PRECISION_RANK = 10
PLACES = "where"  # how questions about places start


class Search(NamedTuple):
    """A statement, the question it answers, n images of which the rows tell whether it is true, and whether it is."""

    text: str
    question: str
    image_ids: np.ndarray  # (n,)
    truths: np.ndarray  # (n,) bool


def score_search(
    scorer: StatementScorer, columns: dict[str, list], shuffles: Sequence[Sequence[int]], seed: int
) -> dict[str, float]:
    """How well statements find images, for each statement that is true of at least 5 and false of at least 5.

    Args:
        shuffles: for each shuffle the other image of each row.

    Returns:
        search_map: the mean average precision over statements; search_map_low, _high: its 95 % interval over images:
            statements share images, and are found or missed with them.
        search_map_chance: that of a random order. search_map_shuffled: each image scored by its other image, the
            mean over the shuffles.
            search_map_vector: ranked by the cosine to the images' vectors.
        search_precision_at_10, with _chance, _shuffled and _vector: share of true ones among the first 10, or among as
            many as are true if these are fewer. By chance it is the share of true images.
        search_statements: how many statements there are.
        search_map_where, with _chance, _shuffled and _vector: of statements whose question starts with "where";
            search_statements_where: how many these are.

        An empty dict if there is no such statement.
    """
    searches = searchable_statements(scorer, columns)
    if not searches:
        return {}
    images = np.concatenate([search.image_ids for search in searches]).tolist()
    texts = [search.text for search in searches for _ in search.image_ids]
    ends = np.cumsum([len(search.image_ids) for search in searches])[:-1]

    def found(scores: np.ndarray) -> np.ndarray:
        """Average precision and precision at 10 (2, S) of each statement."""
        by_search = zip(np.split(scores, ends), searches, strict=True)
        pairs = [
            (average_precision(one, search.truths), precision_at(PRECISION_RANK, one, search.truths))
            for one, search in by_search
        ]
        return np.array(pairs).T

    logits = scorer.logits(images, texts)
    precisions = {"": found(logits), "_vector": found(scorer.cosines(images, texts))}
    others_of = [dict(zip(columns["image_id"], others, strict=True)) for others in shuffles]
    shuffled = [found(scorer.logits([other_of[image] for image in images], texts)) for other_of in others_of]
    precisions["_shuffled"] = np.mean(shuffled, axis=0)
    chances = [(chance_of_precision(search.truths), search.truths.mean()) for search in searches]
    precisions["_chance"] = np.array(chances).T
    places = np.array([search.question.lower().startswith(PLACES) for search in searches])
    metrics: dict[str, float] = {"search_statements": len(searches)}
    for name, (average, at_rank) in precisions.items():
        metrics[f"search_map{name}"] = float(average.mean())
        metrics[f"search_precision_at_{PRECISION_RANK}{name}"] = float(at_rank.mean())
        if places.any():
            metrics[f"search_map_where{name}"] = float(average[places].mean())
    if places.any():
        metrics["search_statements_where"] = int(places.sum())
    low, high = map_interval(np.split(logits, ends), searches, columns["image_id"], seed)
    return metrics | {"search_map_low": low, "search_map_high": high}


def searchable_statements(scorer: StatementScorer, columns: dict[str, list]) -> list[Search]:
    """The statements that are true of at least `LEAST_IMAGES` images of the rows and false of as many.

    A statement is true of an image where a row says so. It is false of it where a row answers the same question
    otherwise. All other images are left out, and those of which two rows say the contrary.
    """
    words = scorer.model.config.yes_no_words
    spellings: dict[str, str] = {}  # answers that are equal once normalised are one
    # A question, and whether it is answered by yes or no -> image -> its right answers.
    asked: dict[tuple[str, bool], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    rows = zip(columns["image_id"], columns["question"], right_answers_of(columns), strict=True)
    for image_id, question, truth in rows:
        answers = as_list(truth)
        of_image = asked[question, sign_of(answers[0], words) != 0][image_id]
        of_image |= {spellings.setdefault(normalize_answer(answer), answer) for answer in answers}
    searches = []
    for (question, _), answers_of in asked.items():
        told: dict[str, dict[int, set[bool]]] = defaultdict(lambda: defaultdict(set))  # text -> image -> truths
        for image_id, right in answers_of.items():
            for statement in (scorer.statement(question, answer) for answer in right):
                told[statement.text][image_id].add(statement.sign > 0)
        for text, told_of in told.items():
            if sum(True in truths for truths in told_of.values()) < LEAST_IMAGES:
                continue
            judged = {image_id: told_of.get(image_id, {False}) for image_id in answers_of}
            known = {image_id: True in truths for image_id, truths in judged.items() if len(truths) == 1}
            if LEAST_IMAGES <= sum(known.values()) <= len(known) - LEAST_IMAGES:
                searches.append(Search(text, question, np.array(list(known)), np.array(list(known.values()))))
    return sorted(searches, key=lambda search: search.text)


def average_precision(scores: np.ndarray, truths: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean, over the true ones of n images, of the share of true ones among those that score as high.

    Equal scores rank equally: if all are equal, it is the share of true images.

    Args:
        scores, truths: (n,).
        weights: how often a bootstrap drew each image (..., n), by default once. An image does not rank before its own
            copies: else drawing images twice would raise the precision.

    Returns:
        The average precision of each draw (...,), NaN where no true image was drawn.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = -scores[order]
    last = np.searchsorted(ranked, ranked, side="right") - 1  # of those that score as high
    drawn = np.ones(len(scores)) if weights is None else weights[..., order]  # (..., n)
    true = drawn * truths[order]
    seen, found = drawn.cumsum(axis=-1)[..., last], true.cumsum(axis=-1)[..., last]
    precisions = (found - drawn + 1) / (seen - drawn + 1)  # of the true ones; the others weigh nothing
    counts = true.sum(axis=-1)
    return (true * precisions).sum(axis=-1) / np.where(counts > 0, counts, np.nan)


def chance_of_precision(truths: np.ndarray) -> float:
    """The mean average precision of all orders of n images: above their share of true ones, as each leads itself."""
    others = (truths.sum() - 1) / (len(truths) - 1)  # the share of true ones among the images beside a true one
    return float(others + (1 - others) * (1 / np.arange(1, len(truths) + 1)).mean())


def precision_at(rank: int, scores: np.ndarray, truths: np.ndarray) -> float:
    """The share of true ones of n among the first `rank`, or among as many as are true if these are fewer.

    Of equal scores at the last rank, the share of true ones counts.
    """
    rank = min(rank, int(truths.sum()))
    lowest = np.sort(scores)[-rank]
    above, equal = scores > lowest, scores == lowest
    return float((truths[above].sum() + (rank - above.sum()) * truths[equal].mean()) / rank)


def map_interval(
    scores: Sequence[np.ndarray], searches: Sequence[Search], image_ids: Sequence[int], seed: int
) -> tuple[float, float]:
    """The 95 % interval of the mean average precision over the images of `image_ids`."""
    images = np.unique(image_ids)

    def mean_average_precision(times_drawn: np.ndarray) -> np.ndarray:
        """Of how often each image counts (D, I): (D,)."""
        precisions = [
            average_precision(one, search.truths, times_drawn[:, np.searchsorted(images, search.image_ids)])
            for one, search in zip(scores, searches, strict=True)
        ]
        return np.nanmean(precisions, axis=0)

    _, low, high = statistic_interval(mean_average_precision, len(images), seed)
    return low, high
