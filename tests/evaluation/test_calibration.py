import numpy as np
import pytest

from mmjepa.evaluation.calibration import calibration_metrics, reliability_curve


def test_the_calibration_error_equals_a_computation_by_hand():
    probabilities, correct = [0.95, 0.97, 0.5, 0.52], [True, False, False, False]
    # Two bins: accuracy 1/2 at 0.96, and 0 at 0.51.
    assert reliability_curve(probabilities, correct) == [
        (pytest.approx(0.51), 0.0, 2),
        (pytest.approx(0.96), 0.5, 2),
    ]
    metrics = calibration_metrics(probabilities, correct)
    assert metrics["calibration_error"] == pytest.approx((2 * 0.46 + 2 * 0.51) / 4)
    assert metrics["accuracy_at_coverage_50"] == 0.5 and metrics["accuracy_at_coverage_80"] == pytest.approx(1 / 3)


def test_answers_that_are_right_as_often_as_they_say_are_calibrated():
    random = np.random.default_rng(0)
    probabilities = random.uniform(size=20000)
    metrics = calibration_metrics(probabilities, random.uniform(size=20000) < probabilities)
    assert metrics["calibration_error"] < 0.02
    assert metrics["accuracy_at_coverage_50"] == pytest.approx(0.75, abs=0.02)
