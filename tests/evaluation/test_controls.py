"""What can be had without the right image, and the gain over it."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmjepa.evaluation.controls import (
    NUM_SHUFFLES,
    majority_answers,
    other_images,
    score_controls,
    score_shuffles,
    shuffled_images,
)
from mmjepa.evaluation.intervals import named_interval
from mmjepa.metrics.vqa_answers.vqa_answers import score_answers

PATHVQA = Path(__file__).parents[3] / "shared" / "data" / "pathvqa"
NOTHING_LEARNT = Dataset.from_dict({"question": [], "answer": []})


def test_no_image_stands_in_for_itself_and_all_its_rows_get_the_same_other_one():
    image_ids = [5, 5, 2, 9, 9, 9, 0]
    for places in (1, 2, 3):
        other_of = dict(zip(image_ids, other_images(image_ids, places), strict=True))
        assert other_images(image_ids, places) == [other_of[image_id] for image_id in image_ids]
        assert sorted(other_of.values()) == [0, 2, 5, 9]
        assert all(image_id != other for image_id, other in other_of.items())


def test_an_image_gets_another_one_in_each_of_five_shuffles_and_the_global_seed_has_no_part_in_it():
    image_ids = [image for image in range(40) for _ in range(3)]
    np.random.seed(1)
    shuffles = shuffled_images(image_ids)
    np.random.seed(2)
    assert shuffles == shuffled_images(image_ids) and len(shuffles) == NUM_SHUFFLES == 5
    for row, image_id in enumerate(image_ids):
        assert len({image_id, *(others[row] for others in shuffles)}) == 6


def test_few_images_have_as_few_shuffles_as_they_have_other_images():
    assert shuffled_images([4, 4, 7]) == [[7, 7, 4]]
    assert len(shuffled_images([1, 2, 3])) == 2
    assert shuffled_images([3, 3, 3]) == shuffled_images([]) == []


def shuffled_columns(by_shuffle, answers, image_ids):
    """Rows whose answers are right where they are "yes"."""
    columns = {"question": ["is it?"] * len(image_ids), "answer": ["yes"] * len(image_ids), "image_id": image_ids}
    all_shuffled = [list(row) for row in zip(*by_shuffle, strict=True)]
    return columns | {"prediction": answers, "blank": answers, "all_shuffled": all_shuffled}


def test_the_accuracy_with_shuffled_images_is_the_mean_of_the_shuffles_and_its_spread_their_lowest_and_highest():
    random = np.random.default_rng(0)
    by_shuffle = random.choice(["yes", "no"], (5, 200)).tolist()
    answers, image_ids = ["yes"] * 150 + ["no"] * 50, (np.arange(200) // 4).tolist()
    metrics = score_controls(shuffled_columns(by_shuffle, answers, image_ids), NOTHING_LEARNT, seed=0)
    accuracies = [np.mean(np.array(answers) == "yes") for answers in by_shuffle]
    assert metrics["accuracy_shuffled_images"] == pytest.approx(np.mean(accuracies))
    assert metrics["yes_no_accuracy_shuffled_images"] == metrics["accuracy_shuffled_images"]
    assert metrics["accuracy_shuffled_images_min"] == pytest.approx(min(accuracies))
    assert metrics["accuracy_shuffled_images_max"] == pytest.approx(max(accuracies))
    assert metrics["image_gain"] == pytest.approx(0.75 - np.mean(accuracies)) and metrics["num_shuffles"] == 5
    differences = np.array([answer == "yes" for answer in answers]) - (np.array(by_shuffle) == "yes").mean(axis=0)
    expected = named_interval("image_gain", differences, image_ids, seed=0, least=-1)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_the_lead_over_the_majority_pairs_the_two_answers_of_a_row():
    # Right and wrong exactly where the majority answer is: no lead and no uncertainty.
    truths = ["yes", "yes", "no"] * 20
    columns = {"question": ["is it?"] * 60, "answer": truths, "image_id": list(range(60))}
    columns |= {"prediction": ["yes"] * 60, "blank": ["no"] * 60}
    metrics = score_controls(columns, Dataset.from_dict({name: columns[name] for name in ("question", "answer")}), 0)
    # Unpaired, the interval of 60 answers of which two thirds are right would reach to 0.17.
    assert (
        metrics["majority_lead"] == 0
        and -0.07 < metrics["majority_lead_low"] < 0 < metrics["majority_lead_high"] < 0.07
    )
    assert metrics["accuracy_majority_question"] == pytest.approx(2 / 3)


def image_gain(correct, correct_shuffled, image_ids):
    """The image gain of answers that are right or wrong, with one shuffle."""
    answers, shuffled = (["yes" if right else "no" for right in rights] for rights in (correct, correct_shuffled))
    columns = shuffled_columns([shuffled], answers, list(image_ids))
    metrics = score_shuffles("shuffled_images", "image_gain", [shuffled], columns, correct, seed=0)
    return {name: value for name, value in metrics.items() if name.startswith("image_gain")}


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
    gain = image_gain(correct, shuffled, image_ids=images)
    half = 1.96 * math.sqrt(20 * 37.5**2 + 20 * 37.5**2) / 4000  # of 50 - 0.25 * 50 and 0 - 0.25 * 150
    assert gain["image_gain"] == 0.25
    assert gain["image_gain_low"] == pytest.approx(0.25 - half, abs=0.02)
    assert gain["image_gain_high"] == pytest.approx(0.25 + half, abs=0.02)


def test_the_interval_of_the_image_gain_is_that_of_the_normal_approximation_for_many_images():
    random = np.random.default_rng(0)
    correct, shuffled = random.random(4000) < 0.7, random.random(4000) < 0.4
    gain = image_gain(correct, shuffled, image_ids=range(4000))
    difference = correct.astype(float) - shuffled
    half = 1.96 * difference.std() / math.sqrt(4000)
    assert gain["image_gain"] == pytest.approx(difference.mean())
    assert gain["image_gain_low"] == pytest.approx(difference.mean() - half, abs=0.003)
    assert gain["image_gain_high"] == pytest.approx(difference.mean() + half, abs=0.003)


def test_the_image_gain_pairs_the_two_answers_of_a_row():
    # Equal answers are no gain, and of 2000 next to no uncertainty, however uncertain each accuracy is.
    correct = [True, False] * 1000
    gain = image_gain(correct, correct, image_ids=list(range(2000)))
    assert gain["image_gain"] == 0 and -0.002 < gain["image_gain_low"] < 0 < gain["image_gain_high"] < 0.002
