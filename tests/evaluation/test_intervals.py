"""Intervals hold what they promise: 95 % of them include the truth, with few images and near 100 % too."""

import math

import numpy as np
import pytest

from mmjepa.evaluation.intervals import STUDENT, mean_interval, named_interval, statistic_interval, student


def shares_of_images(random, share, likeness, num_images):
    """The probability of each image's questions to be right (I,); with `likeness` 0 it is the same for all."""
    if likeness == 0:
        return np.full(num_images, share)
    size = 1 / likeness - 1
    return random.beta(share * size, (1 - share) * size, num_images)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
@pytest.mark.parametrize(("questions", "likeness"), [(1, 0), (8, 0), (8, 0.1)])
@pytest.mark.parametrize("num_images", [10, 40])
def test_intervals_of_scores_include_the_truth_as_often_as_they_say(share, questions, likeness, num_images):
    random, images = np.random.default_rng(0), np.repeat(np.arange(num_images), questions)
    held = []
    for _ in range(1000):
        shares = shares_of_images(random, share, likeness, num_images)
        _, low, high = mean_interval((random.random(len(images)) < shares[images]).astype(float), images, seed=0)
        held.append(low <= share <= high)
    assert np.mean(held) >= 0.92


@pytest.mark.parametrize(("share", "other"), [(0.6, 0.5), (0.9, 0.7), (0.98, 0.95)])
@pytest.mark.parametrize("questions", [1, 8])
def test_intervals_of_paired_differences_of_ten_images_include_the_truth_as_often_as_they_say(share, other, questions):
    random, images = np.random.default_rng(0), np.repeat(np.arange(10), questions)
    held = []
    for _ in range(1000):
        chances = random.random(len(images))  # which both models have: they fail at the same questions
        first, second = (chances < shares_of_images(random, one, 0.2, 10)[images] for one in (share, other))
        _, low, high = mean_interval(np.subtract(first, second, dtype=float), images, seed=0, least=-1)
        held.append(low <= share - other <= high)
    assert np.mean(held) >= 0.92


def test_questions_of_an_image_of_their_own_have_wilsons_interval():
    # Wilson 1927, as in Agresti and Coull 1998: of 10, 9 right.
    values = np.array([1.0] * 9 + [0])
    assert mean_interval(values, range(10), seed=0) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-4)
    assert mean_interval(np.ones(3), range(3), seed=0) == pytest.approx((1, 3 / (3 + 1.96**2), 1), abs=1e-4)


def test_equal_answers_of_an_image_are_worth_one_answer():
    once = mean_interval(np.array([1.0, 0] * 8), range(16), seed=0)
    copied = mean_interval(np.repeat([1.0, 0] * 8, 50), np.repeat(np.arange(16), 50), seed=0)
    assert once[0] == copied[0] and once[1:] == pytest.approx(copied[1:], abs=0.03)
    assert copied[2] - copied[1] >= once[2] - once[1]


@pytest.mark.parametrize("least", [0, -1])
def test_one_image_says_next_to_nothing(least):
    mean, low, high = mean_interval(np.ones(50), np.zeros(50), seed=0, least=least)
    assert mean == high == 1 and low < 0.25


@pytest.mark.parametrize("constant", [1.0, 0.0, -1.0])
def test_of_few_images_that_differ_alike_some_others_may_differ_otherwise(constant):
    mean, low, high = mean_interval(np.full(9, constant), range(9), seed=0, least=-1)
    assert mean == constant and -1 <= low <= mean <= high <= 1 and 0.25 < high - low < 0.75


def test_of_many_images_the_interval_is_the_bootstraps_over_images():
    random = np.random.default_rng(0)
    images = np.repeat(np.arange(200), 5)
    values = (random.random(1000) < random.random(200)[images]).astype(float)
    _, low, high = mean_interval(values, images, seed=0)
    half = 1.96 * values.reshape(200, 5).mean(axis=1).std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.005)


def test_rows_that_do_not_count_change_nothing():
    values, images = np.array([1.0, 0, 1, 1] * 4), np.arange(16) // 2
    more, others = np.append(values, [np.nan] * 5), np.append(images, [0, 1, 20, 21, 22])
    assert mean_interval(more, others, seed=0) == mean_interval(values, images, seed=0)


def test_a_score_that_is_a_mean_over_images_has_the_interval_of_one():
    for num_images in (12, 60):
        values = np.random.default_rng(0).random(num_images) < 0.6

        def mean(times, values=values):
            return times @ values / times.sum(axis=1)

        mean_, low, high = statistic_interval(mean, num_images, seed=0)
        assert (mean_, low, high) == pytest.approx(mean_interval(values.astype(float), range(num_images), seed=0))
    assert statistic_interval(lambda times: np.ones(len(times)), 3, seed=0)[1] < 0.5


def test_students_quantiles_are_those_of_its_density():
    for degrees in (1, 2, 7, 30, 31, 60):
        points = np.linspace(0, student(degrees), 200_001)
        scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
        density = scale * (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
        assert 0.5 + np.trapezoid(density, points) == pytest.approx(0.975, abs=1e-5)
    assert STUDENT == sorted(STUDENT, reverse=True)


def test_a_named_interval_has_three_numbers():
    assert named_interval("score", np.ones(3), range(3), seed=0).keys() == {"score", "score_low", "score_high"}
