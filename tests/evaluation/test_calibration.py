import numpy as np
import pytest

from mmjepa.evaluation.calibration import (
    calibration_error,
    calibration_metrics,
    errors_if_perfect,
    reliability_curve,
    risk_coverage_curve,
)


def metrics_of(probabilities, correct, is_yes_no=None):
    """The numbers of answers each about an image of its own."""
    count = len(probabilities)
    return calibration_metrics(probabilities, correct, is_yes_no or [True] * count, range(count), seed=0)


def test_the_calibration_error_equals_a_computation_by_hand():
    probabilities, correct = [0.95, 0.97, 0.5, 0.52], [True, False, False, False]
    # Two bins: accuracy 1/2 at 0.96, and 0 at 0.51.
    assert reliability_curve(probabilities, correct) == [
        (pytest.approx(0.51), 0.0, 2),
        (pytest.approx(0.96), 0.5, 2),
    ]
    metrics = metrics_of(probabilities, correct)
    assert metrics["calibration_error"] == pytest.approx((2 * 0.46 + 2 * 0.51) / 4)
    assert metrics["accuracy_at_coverage_50"] == 0.5 and metrics["accuracy_at_coverage_80"] == pytest.approx(1 / 3)


def test_answers_that_are_right_as_often_as_they_say_are_calibrated():
    random = np.random.default_rng(0)
    probabilities = random.uniform(size=20000)
    metrics = metrics_of(probabilities, random.uniform(size=20000) < probabilities)
    assert metrics["calibration_error"] < 0.02
    assert metrics["accuracy_at_coverage_50"] == pytest.approx(0.75, abs=0.02)


def test_fifty_answers_of_a_perfectly_calibrated_model_are_off_by_seventeen_points():
    # Probabilities anywhere between 0 and 1. Beside the mean of the module: each set judged by `reliability_curve`.
    probabilities = (np.arange(50) + 0.5) / 50
    random = np.random.default_rng(1)
    by_hand = [
        sum(
            count * abs(mean - accuracy)
            for mean, accuracy, count in reliability_curve(probabilities, random.random(50) < probabilities)
        )
        / 50
        for _ in range(500)
    ]
    assert errors_if_perfect(probabilities, seed=0).mean() == pytest.approx(np.mean(by_hand), abs=0.005)
    assert np.mean(by_hand) == pytest.approx(0.168, abs=0.01)
    # As docs/numbers.md says: 4 points with 1,000 answers.
    assert errors_if_perfect((np.arange(1000) + 0.5) / 1000, seed=0).mean() == pytest.approx(0.04, abs=0.005)


def test_a_calibrated_model_is_told_from_one_that_is_too_sure():
    found = []
    for too_sure_by in (0, 0.15):
        random = np.random.default_rng(0)
        probabilities = random.uniform(0.3, 1, size=400)
        right = random.random(400) < probabilities - too_sure_by
        metrics = calibration_error(probabilities, right, range(400), seed=0)
        assert metrics["calibration_error_low"] <= too_sure_by + 0.02
        assert metrics["calibration_error_high"] >= too_sure_by
        assert metrics["calibration_answers"] == 400
        found.append(metrics["calibration_error"] > metrics["calibration_error_if_perfect_high"])
    assert found == [False, True]


def test_the_interval_of_the_calibration_error_covers_that_of_many_answers():
    """It takes off what chance adds: the interval of the draws' own errors would lie above it nearly always."""
    covered, draws = [], 60
    for seed in range(draws):
        random = np.random.default_rng(seed)
        probabilities = random.uniform(0.2, 1, size=200)
        right = random.random(200) < probabilities - 0.1
        metrics = calibration_error(probabilities, right, range(200), seed)
        covered.append(metrics["calibration_error_low"] <= 0.1 <= metrics["calibration_error_high"])
    assert np.mean(covered) > 0.75


def test_yes_no_and_open_questions_are_scored_apart():
    probabilities, correct = [0.9, 0.8, 0.7, 0.6], [True, False, False, True]
    metrics = metrics_of(probabilities, correct, [True, True, False, False])
    for prefix, rows in (("yes_no_", slice(0, 2)), ("open_", slice(2, 4))):
        alone = metrics_of(probabilities[rows], correct[rows])
        for name in ("calibration_error", "calibration_answers", "accuracy_at_coverage_50", "risk_coverage_area"):
            assert metrics[prefix + name] == alone[name]
    assert metrics["calibration_answers"] == 4
    assert not any(name.startswith("open_") for name in metrics_of(probabilities, correct))


def test_risk_and_coverage_equal_a_computation_by_hand_and_equally_sure_answers_come_in_any_order():
    coverages, risks = risk_coverage_curve([0.2, 0.9, 0.5, 0.5], [False, True, True, False])
    assert coverages.tolist() == [0.25, 0.5, 0.75, 1]
    assert risks.tolist() == pytest.approx([0, 0.25, 1 / 3, 0.5])  # half of the two at 0.5 is right
    metrics = metrics_of([0.2, 0.9, 0.5, 0.5], [False, True, True, False])
    assert metrics["risk_coverage_area"] == pytest.approx((0.25 + 1 / 3 + 0.5) / 4)
    # If nothing is surer than anything else, the risk is the share of wrong answers at every coverage.
    assert metrics_of([0.5] * 4, [True, False, False, False])["risk_coverage_area"] == 0.75
