"""Whether answers of some probability are right about as often as it says."""

from collections.abc import Sequence

import numpy as np

NUM_BINS = 15
COVERAGES = (0.5, 0.8)


def reliability_curve(probabilities: Sequence[float], correct: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Mean probability, accuracy and number of answers of each bin that has any; 15 bins of equal width."""
    p, right = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        (float(p[bins == number].mean()), float(right[bins == number].mean()), int((bins == number).sum()))
        for number in np.unique(bins)
    ]


def calibration_metrics(probabilities: Sequence[float], correct: Sequence[bool]) -> dict[str, float]:
    """How far probabilities are from accuracies, and the accuracy where the model is surest.

    Args:
        probabilities: of the answers, one per question, at least one.
        correct: whether each is right.

    Returns:
        calibration_error: the expected calibration error (Guo et al. 2017, arXiv 1706.04599): the mean distance of
            `reliability_curve` from the diagonal, each bin weighted by its number of answers.
        accuracy_at_coverage_50, _80: accuracy of the most probable half, and four fifths, of the answers.
    """
    curve = reliability_curve(probabilities, correct)
    error = sum(count * abs(mean - accuracy) for mean, accuracy, count in curve) / len(correct)
    surest_first = np.asarray(correct, dtype=float)[np.argsort(-np.asarray(probabilities, dtype=float), kind="stable")]
    metrics = {"calibration_error": error}
    for coverage in COVERAGES:
        kept = surest_first[: max(1, round(coverage * len(correct)))]
        metrics[f"accuracy_at_coverage_{coverage:.0%}".rstrip("%")] = float(kept.mean())
    return metrics
