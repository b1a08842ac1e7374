"""The nearest answer of a closed list is that of comparing with each."""

from difflib import SequenceMatcher

import numpy as np

from mmjepa.evaluation.nearest_answer import common_letters, letter_places, nearest_answers


def test_the_nearest_answer_is_the_first_of_the_most_similar_ones():
    random = np.random.default_rng(0)
    words = ["liver", "left", "lobe", "of", "the", "lung", "cell", "cells", "red", "x"]
    texts = {" ".join(random.choice(words, random.integers(0, 5))) for _ in range(300)}
    answers = sorted(" ".join(random.choice(words, random.integers(1, 4))) for _ in range(80))
    answers = list(dict.fromkeys(answers))
    for text, nearest in nearest_answers(texts | {"", "zzz", answers[3]}, answers).items():
        ratios = [SequenceMatcher(a=answer, b=text, autojunk=False).ratio() for answer in answers]
        assert nearest == (text if text in answers else answers[int(np.argmax(ratios))])


def test_the_bound_of_similarity_is_the_longest_common_subsequence():
    assert common_letters("abcbdab", letter_places("bdcaba")) == 4
    assert common_letters("", letter_places("liver")) == common_letters("liver", letter_places("")) == 0
    assert common_letters("liver", letter_places("the liver")) == 5
