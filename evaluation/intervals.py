"""95 % intervals of scores, and of differences of scores, over images.

The questions of one image are right or wrong together, so images are counted, not rows. Of many images a bootstrap
draws whole images (Efron 1979). It is too narrow where images are few, or where nearly all of them score alike: a
bootstrap of three right answers is sure of 100 %. There a score has Wilson's interval (1927) for the number of rows
that the images are worth (Korn and Graubard 1998), and a difference of scores has Student's.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

MIN_IMAGES = 30  # with fewer, a bootstrap over images gives too narrow an interval
MIN_UNLIKE = 10  # images that are not entirely right, or not entirely wrong; with fewer, so too
ENDS = (0.025, 0.975)
Z = 1.959964  # of the normal distribution, 97.5 %
# Of Student's distribution with 1, 2, ... degrees of freedom, 97.5 %.
STUDENT = (
    [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281]
    + [2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860]
    + [2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423]
)
Interval = tuple[float, float, float]  # an estimate, and the 95 % interval around it


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's distribution; above 30 degrees of freedom by Abramowitz and Stegun 26.7.5."""
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    return Z + (Z**3 + Z) / (4 * degrees) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)


@lru_cache(maxsize=1)  # all scores of the same images have the same draws
def times_drawn(num_images: int, seed: int, draws: int = 1000) -> np.ndarray:
    """How often a bootstrap draws each image with replacement (draws, I)."""
    random = np.random.default_rng(seed)
    return random.multinomial(num_images, np.full(num_images, 1 / num_images), size=draws)


def mean_interval(values: np.ndarray, image_ids: Sequence[Any], seed: int, least: float = 0) -> Interval:
    """The mean of the rows' values, and its 95 % interval.

    Args:
        values: (R,), at most 1, NaN where the row does not count. With differences of two scores of each row, the
            interval is that of a paired test.
        image_ids: (R,).
        seed: of the bootstrap.
        least: the least value that a row can have: 0 of a score, -1 of a difference of two.
    """
    counts = ~np.isnan(values)
    _, image_of_row = np.unique(image_ids, return_inverse=True)
    sums = np.bincount(image_of_row, np.where(counts, values, 0))  # (I,)
    rows = np.bincount(image_of_row, counts)  # (I,)
    mean = float(sums.sum() / rows.sum())
    asked = rows > 0
    constants = {0, 1, least}
    unlike = min(int((sums[asked] != constant * rows[asked]).sum()) for constant in constants)
    if asked.sum() >= MIN_IMAGES and unlike >= MIN_UNLIKE:
        drawn = times_drawn(len(rows), seed)
        drawn_rows = drawn @ rows
        low, high = np.quantile((drawn @ sums)[drawn_rows > 0] / drawn_rows[drawn_rows > 0], ENDS)
        return mean, float(low), float(high)
    num_images = int(asked.sum())
    # Of a ratio of sums over images (Cochran 1977, section 6.4).
    deviations = (sums - mean * rows)[asked]
    variance = num_images * float(deviations @ deviations) / max(num_images - 1, 1) / float(rows.sum()) ** 2
    if least < 0:
        return mean, *student_ends(mean, variance, num_images)
    return mean, *wilson_ends(mean, variance, num_images, int(rows.sum()))


def wilson_ends(mean: float, variance: float, num_images: int, num_rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a score, for the number of rows that the images are worth.

    That is the number of rows over the design effect: how much larger the variance between images makes that of the
    mean than independent rows would have it. Few images estimate it badly, for which Student's quantiles correct
    (Korn and Graubard 1998). Where all rows are alike there is no variance, and each image counts as one row.

    Args:
        variance: of the mean.
    """
    binomial = mean * (1 - mean)
    if num_images == 1 or binomial <= 0 or variance <= 0:
        size: float = num_images
    else:
        effect = max(variance * (num_rows - 1) / binomial, 1.0)
        size = num_rows / effect * (student(num_rows - 1) / student(num_images - 1)) ** 2
    center = (mean + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z / (1 + Z**2 / size) * math.sqrt(max(binomial, 0) / size + Z**2 / (4 * size**2))
    return max(center - half, 0.0), min(center + half, 1.0)


def student_ends(mean: float, variance: float, num_images: int) -> tuple[float, float]:
    """Student's 95 % interval of a difference of two scores.

    Where all rows differ alike there is no variance. Then the share of images that differ otherwise is at most
    Wilson's upper limit for none of `num_images`.

    Args:
        variance: of the mean.
    """
    if variance > 0 and num_images > 1:
        half = student(num_images - 1) * math.sqrt(variance)
        return max(mean - half, -1.0), min(mean + half, 1.0)
    otherwise = Z**2 / (num_images + Z**2)
    return mean - otherwise * (mean + 1), mean + otherwise * (1 - mean)


def statistic_interval(statistic: Callable[[np.ndarray], np.ndarray], num_images: int, seed: int) -> Interval:
    """Any score of images that is no mean of rows, such as BLEU, and its 95 % interval.

    Where a bootstrap is too narrow, the variance is the jackknife's (Efron and Stein 1981), and no image is worth more
    than one row.

    Args:
        statistic: takes how often each image counts (D, I), gives scores (D,) from 0 to 1, NaN where there is none.
        seed: of the bootstrap.
    """
    score = float(statistic(np.ones((1, num_images)))[0])
    if num_images >= MIN_IMAGES and min(score, 1 - score) * num_images >= MIN_UNLIKE:
        low, high = np.nanquantile(statistic(times_drawn(num_images, seed)), ENDS)
        return score, float(low), float(high)
    if num_images == 1:
        return score, *wilson_ends(score, 0, 1, 1)
    without_one = statistic(1 - np.eye(num_images))  # (I,)
    variance = (num_images - 1) * float(np.nanvar(without_one))
    return score, *wilson_ends(score, variance, num_images, num_images)


def named_interval(
    name: str, values: np.ndarray, image_ids: Sequence[Any], seed: int, least: float = 0
) -> dict[str, float]:
    """`mean_interval` as the numbers `<name>`, `<name>_low` and `<name>_high`."""
    ends = (name, f"{name}_low", f"{name}_high")
    return dict(zip(ends, mean_interval(values, image_ids, seed, least), strict=True))
