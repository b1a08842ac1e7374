"""Whether an answer's probability says how often such answers are right."""

from collections.abc import Sequence

import numpy as np

NUM_BINS = 15
COVERAGES = (0.5, 0.8)


def reliability_curve(probabilities: Sequence[float], correct: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Mean probability, accuracy and number of the answers in each of 15 bins of equal width that has any."""
    p, right = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        (float(p[bins == number].mean()), float(right[bins == number].mean()), int((bins == number).sum()))
        for number in np.unique(bins)
    ]


def calibration_metrics(probabilities: Sequence[float], correct: Sequence[bool]) -> dict[str, float]:
    """The distance of probabilities from accuracies, and the accuracy where the model is surest.

    Args:
        probabilities: of the answers, one per question, at least one.
        correct: whether each is right.

    Returns:
        calibration_error: the expected calibration error, the mean distance of `reliability_curve` from the diagonal,
            bins counted by their answers (Guo et al. 2017, arXiv 1706.04599).
        accuracy_at_coverage_50, _80: of the half, and of the four fifths, of the answers that are most probable.
    """
    curve = reliability_curve(probabilities, correct)
    error = sum(count * abs(mean - accuracy) for mean, accuracy, count in curve) / len(correct)
    surest_first = np.asarray(correct, dtype=float)[np.argsort(-np.asarray(probabilities, dtype=float), kind="stable")]
    metrics = {"calibration_error": error}
    for coverage in COVERAGES:
        kept = surest_first[: max(1, round(coverage * len(correct)))]
        metrics[f"accuracy_at_coverage_{coverage:.0%}".rstrip("%")] = float(kept.mean())
    return metrics
