"""The answer of a closed list that a text is most similar to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np
from tqdm.auto import tqdm


def nearest_answers(texts: Iterable[str], answers: Sequence[str]) -> dict[str, str]:
    """Text -> the one of `answers` most similar to it, the first of equally similar ones.

    Similarity is the ratio of `difflib.SequenceMatcher`. It takes long, but can't be more than twice the letters that
    both texts have over the letters of both: answers are compared by the largest such bound first, until no bound is
    above the best ratio.
    """
    letters = {letter: place for place, letter in enumerate(sorted(set("".join(answers))))}
    counts = np.array([letter_counts(answer, letters) for answer in answers])  # (A, C)
    lengths = np.array(list(map(len, answers)))
    known = {answer: answer for answer in reversed(answers)}
    distinct = list(dict.fromkeys(texts))
    for text in tqdm(distinct, desc="Comparing with the closed list", unit=" answers", disable=None):
        if text not in known:
            shared = np.minimum(counts, letter_counts(text, letters)).sum(axis=1)
            bounds = 2 * shared / np.maximum(lengths + len(text), 1)
            known[text] = answers[nearest(text, answers, bounds)]
    return {text: known[text] for text in distinct}


def letter_counts(text: str, letters: dict[str, int]) -> np.ndarray:
    """How often a text has each of `letters` (C,)."""
    counts = np.zeros(len(letters), dtype=np.int32)
    for letter, count in Counter(text).items():
        if letter in letters:
            counts[letters[letter]] = count
    return counts


def nearest(text: str, answers: Sequence[str], bounds: np.ndarray) -> int:
    """The place of the most similar answer.

    Args:
        bounds: (A,), which the ratio of no answer is above.
    """
    matcher = SequenceMatcher(b=text, autojunk=False)  # it keeps an index of b
    best, highest = 0, -1.0
    for place in np.argsort(-bounds, kind="stable").tolist():
        if bounds[place] < highest:
            break
        matcher.set_seq1(answers[place])
        ratio = matcher.ratio()
        if ratio > highest or (ratio == highest and place < best):
            best, highest = place, ratio
    return best
