"""The answer of a closed list that a text is most similar to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np
from tqdm.auto import tqdm


def nearest_answers(texts: Iterable[str], answers: Sequence[str]) -> dict[str, str]:
    """Text -> the one of `answers` most similar to it, the first of equally similar ones.

    Similarity is the ratio of `difflib.SequenceMatcher`: twice the letters that it matches over the letters of both.
    That takes long, and can't be more than by the letters that both texts have, nor than by those that they have in
    the same order. Answers are compared by the largest first bound first, until none is above the best ratio.
    """
    letters = {letter: place for place, letter in enumerate(sorted(set("".join(answers))))}
    counts = np.array([letter_counts(answer, letters) for answer in answers])  # (A, C)
    lengths = np.array(list(map(len, answers)))
    known = {answer: answer for answer in answers}
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
    places = letter_places(text)
    best, highest = 0, -1.0
    for place in np.argsort(-bounds, kind="stable").tolist():
        answer = answers[place]
        if bounds[place] < highest:
            break
        if 2 * common_letters(answer, places) / max(len(answer) + len(text), 1) < highest:
            continue
        matcher.set_seq1(answer)
        ratio = matcher.ratio()
        if ratio > highest or (ratio == highest and place < best):
            best, highest = place, ratio
    return best


def letter_places(text: str) -> dict[str, int]:
    """Letter -> a number with a bit set at each place of the text that has it."""
    places: dict[str, int] = {}
    for place, letter in enumerate(text):
        places[letter] = places.get(letter, 0) | 1 << place
    return places


def common_letters(answer: str, places: dict[str, int]) -> int:
    """The length of the longest common subsequence of an answer and a text (Hyyro 2004, with bits for rows).

    Args:
        places: of `letter_places` of the text.
    """
    length = max(map(int.bit_length, places.values()), default=0)
    full = (1 << length) - 1
    row = full
    for letter in answer:
        matched = row & places.get(letter, 0)
        row = (row + matched | row - matched) & full
    return length - row.bit_count()
