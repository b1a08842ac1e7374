"""Whether answers of some probability are right about as often as it says, and whether the surest are right oftenest.

A calibration error says little alone. Of few answers even those of a perfect model are right more or less often than
their probabilities by chance: 50 answers whose probabilities lie anywhere between 0 and 1 show 17 points of error.
"""

from collections.abc import Sequence

import numpy as np

from .intervals import times_drawn

NUM_BINS = 15
COVERAGES = (0.5, 0.8)


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """The bin (R,) of each probability (R,): 15 of equal width."""
    return np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)


def reliability_curve(probabilities: Sequence[float], correct: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Mean probability, accuracy and number of answers of each bin that has any; 15 bins of equal width."""
    p, right = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    bins = bins_of(p)
    return [
        (float(p[bins == number].mean()), float(right[bins == number].mean()), int((bins == number).sum()))
        for number in np.unique(bins)
    ]


def risk_coverage_curve(probabilities: Sequence[float], correct: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Of the surest 1, 2, ... R answers their share of all (R,), the coverage, and the share of wrong ones, the risk.

    A model that only answers where it is sure has these (Geifman and El-Yaniv 2017, arXiv 1705.08500). Equally sure
    answers count as if in random order.
    """
    right = np.asarray(correct, dtype=float)
    _, group, counts = np.unique(-np.asarray(probabilities, dtype=float), return_inverse=True, return_counts=True)
    surest_first = np.repeat(np.bincount(group, right) / counts, counts)  # (R,)
    answered = np.arange(1, len(right) + 1)
    return answered / len(right), 1 - surest_first.cumsum() / answered


def calibration_metrics(
    probabilities: Sequence[float],
    correct: Sequence[bool],
    is_yes_no: Sequence[bool],
    image_ids: Sequence[int],
    seed: int,
) -> dict[str, float]:
    """How far probabilities are from accuracies, and how right the model is where it is surest.

    Args:
        probabilities: of the answers, one per question, at least one.
        correct: whether each is right.
        is_yes_no: whether the right answer is yes or no.
        seed: of the bootstrap over images and of the simulated perfect model.

    Returns:
        The numbers of `calibration_error`; accuracy_at_coverage_50, _80: accuracy of the most probable half, and four
        fifths, of the answers; and risk_coverage_area, the mean risk of `risk_coverage_curve` over all coverages. In
        random order it would be the share of wrong answers. All again with yes_no_ and open_ before their names, for
        these questions alone.
    """
    p, right, yes_no = np.asarray(probabilities, dtype=float), np.asarray(correct), np.asarray(is_yes_no, dtype=bool)
    images = np.asarray(image_ids)
    metrics: dict[str, float] = {}
    for prefix, rows in (("", np.ones_like(yes_no)), ("yes_no_", yes_no), ("open_", ~yes_no)):
        if rows.any():
            scores = calibration_error(p[rows], right[rows], images[rows], seed)
            _, risks = risk_coverage_curve(p[rows], right[rows])
            for coverage in COVERAGES:
                kept = max(1, round(coverage * len(risks)))
                scores[f"accuracy_at_coverage_{100 * coverage:.0f}"] = float(1 - risks[kept - 1])
            scores["risk_coverage_area"] = float(risks.mean())
            metrics |= {f"{prefix}{name}": value for name, value in scores.items()}
    return metrics


def calibration_error(
    probabilities: np.ndarray, correct: np.ndarray, image_ids: Sequence[int], seed: int
) -> dict[str, float]:
    """The expected calibration error, its interval, and what a perfectly calibrated model would show.

    Args:
        probabilities, correct, image_ids: of R answers (R,).

    Returns:
        calibration_error: the mean distance of `reliability_curve` from the diagonal, each bin weighted by its number
            of answers (Guo et al. 2017, arXiv 1706.04599).
        calibration_error_low, _high: its 95 % interval, by a bootstrap over images. Chance raises the error, and it
            raises that of a draw once more. So this is the basic interval (Davison and Hinkley 1997, section 5.2),
            which takes off twice as much; it can lie below the error itself.
        calibration_error_if_perfect: the mean error of answers that have the same probabilities and are right exactly
            as often as these say, each by its own chance. calibration_error_if_perfect_high: one such set in 40 has
            more. An error below it is no sign of a wrong probability.
        calibration_answers: R.
    """
    p = np.asarray(probabilities, dtype=float)
    images, image_of_row = np.unique(image_ids, return_inverse=True)
    counts = times_drawn(len(images), seed)  # (draws, I)
    gaps = np.zeros((len(images), NUM_BINS))  # (I, bins): sums of probabilities less sums of right ones
    np.add.at(gaps, (image_of_row, bins_of(p)), p - np.asarray(correct, dtype=float))
    error = np.abs(gaps.sum(axis=0)).sum() / len(p)
    drawn = np.abs(counts @ gaps).sum(axis=1) / (counts @ np.bincount(image_of_row))  # (draws,)
    low, high = np.maximum(0, 2 * error - np.quantile(drawn, (0.975, 0.025)))
    perfect = errors_if_perfect(p, seed)
    return {
        "calibration_error": float(error),
        "calibration_error_low": float(low),
        "calibration_error_high": float(high),
        "calibration_error_if_perfect": float(perfect.mean()),
        "calibration_error_if_perfect_high": float(np.quantile(perfect, 0.975)),
        "calibration_answers": len(p),
    }


def errors_if_perfect(probabilities: np.ndarray, seed: int, draws: int = 1000) -> np.ndarray:
    """Calibration errors (draws,) of answers with these probabilities (R,), each right with its own probability."""
    p = np.sort(probabilities)
    starts = np.flatnonzero(np.diff(bins_of(p), prepend=-1))
    random = np.random.default_rng(seed)
    # One draw after the other: all at once would need memory for draws times R numbers.
    gaps = [np.add.reduceat(p - (random.random(len(p)) < p), starts) for _ in range(draws)]
    return np.abs(gaps).sum(axis=1) / len(p)
