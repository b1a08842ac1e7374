"""What can be had without the right image, and the gain over it."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmjepa.evaluation.controls import image_gain, majority_answers, other_images
from mmjepa.metrics.vqa_answers.vqa_answers import score_answers

PATHVQA = Path(__file__).parents[3] / "shared" / "data" / "pathvqa"


def test_no_image_stands_in_for_itself_and_all_its_rows_get_the_same_other_one():
    image_ids = [5, 5, 2, 9, 9, 9, 0]
    for seed in range(20):
        other_of = dict(zip(image_ids, other_images(image_ids, seed), strict=True))
        assert other_images(image_ids, seed) == [other_of[image_id] for image_id in image_ids]
        assert sorted(other_of.values()) == [0, 2, 5, 9]
        assert all(image_id != other for image_id, other in other_of.items())


def test_the_majority_answer_falls_back_to_fewer_first_words():
    rows = [("is it red now?", "yes"), ("is it red here?", "yes"), ("is it big?", "no"), ("is that so?", "no")]
    train = Dataset.from_dict({"question": [row[0] for row in rows], "answer": [row[1] for row in rows]})
    questions = ["Is it red today?", "is it old?", "is this new?", "where?"]
    # "is it red": yes 2 of 2; "is it": yes 2 of 3; "is" and all: 2 yes, 2 no, and yes came first.
    assert majority_answers(train, questions) == ["yes", "yes", "yes", "yes"]
    assert majority_answers(train, ["is that right?"]) == ["no"]


def test_the_majority_answer_of_the_whole_question_beats_that_of_its_start():
    rows = [("is it a b?", "yes"), ("is it a b?", "yes"), ("is it a?", "no")]
    train = Dataset.from_dict({"question": [row[0] for row in rows], "answer": [row[1] for row in rows]})
    whole = (None, 3, 2, 1, 0)
    assert majority_answers(train, ["is it a b?", "is it a?", "is it a c?"], whole) == ["yes", "no", "yes"]


@pytest.mark.skipif(not PATHVQA.is_dir(), reason="PathVQA is not on this machine")
def test_the_majority_answers_of_pathvqa_score_as_its_description_says():
    splits = {}
    for split in ("train", "validation"):
        with open(PATHVQA / f"{split}.csv", newline="", encoding="utf-8") as file:
            splits[split] = Dataset.from_list(list(csv.DictReader(file)))
    questions, truths = list(splits["validation"]["question"]), list(splits["validation"]["answer"])
    scores = score_answers(majority_answers(splits["train"], questions), truths, questions)
    assert scores["accuracy"] == pytest.approx(0.453, abs=0.003)
    assert scores["yes_no_accuracy"] == pytest.approx(0.814, abs=0.003)
    assert scores["open_accuracy"] == pytest.approx(0.092, abs=0.003)


def test_the_interval_of_the_image_gain_draws_whole_images():
    # 20 images of 50 questions, all gained, and 20 of 150, none gained. Drawing rows gives 0.23 to 0.27.
    correct, shuffled = ([True] * 50 + [False] * 150) * 20, [False] * 4000
    images = np.repeat(np.arange(40), [50, 150] * 20)
    gain = image_gain(correct, shuffled, image_ids=images, seed=0)
    half = 1.96 * math.sqrt(20 * 37.5**2 + 20 * 37.5**2) / 4000  # of 50 - 0.25 * 50 and 0 - 0.25 * 150
    assert gain["image_gain"] == 0.25
    assert gain["image_gain_low"] == pytest.approx(0.25 - half, abs=0.02)
    assert gain["image_gain_high"] == pytest.approx(0.25 + half, abs=0.02)


def test_the_interval_of_the_image_gain_is_that_of_the_normal_approximation_for_many_images():
    random = np.random.default_rng(0)
    correct, shuffled = random.random(4000) < 0.7, random.random(4000) < 0.4
    gain = image_gain(correct, shuffled, image_ids=np.arange(4000), seed=0)
    difference = correct.astype(float) - shuffled
    half = 1.96 * difference.std() / math.sqrt(4000)
    assert gain["image_gain"] == pytest.approx(difference.mean())
    assert gain["image_gain_low"] == pytest.approx(difference.mean() - half, abs=0.003)
    assert gain["image_gain_high"] == pytest.approx(difference.mean() + half, abs=0.003)


def test_the_image_gain_pairs_the_two_answers_of_a_row():
    # Equal answers are no gain, and of 2000 next to no uncertainty, however uncertain each accuracy is.
    correct = [True, False] * 1000
    gain = image_gain(correct, correct, image_ids=list(range(2000)), seed=0)
    assert gain["image_gain"] == 0 and -0.002 < gain["image_gain_low"] < 0 < gain["image_gain_high"] < 0.002
