"""Whether two models differ by more than chance: a paired permutation test over images."""

from itertools import product

import numpy as np

DRAWS = 9999
EXACT_IMAGES = 13  # up to so many, all flips are tried: 8,192
FLIPS_PER_BLOCK = 500


def sign_flip_p_values(sums: np.ndarray, seed: int) -> np.ndarray:
    """How often differences at least as large as those seen come up if the two models are exchanged at random.

    If neither is better, all differences of an image may as well have the other sign (Fisher 1935). All columns have
    the same flips. Of many images, 9,999 random flips are tried, and the flip that was seen counts among them (Phipson
    and Smyth 2010): no p-value is below 0.0001.

    Args:
        sums: (I, K), for each image the sum over its rows of the first score less the second; K comparisons.
        seed: of the flips.

    Returns:
        (K,), two-sided.
    """
    num_images = len(sums)
    seen = np.abs(sums.sum(axis=0)) - 1e-9  # of equal sums, rounding might make one the smaller
    if num_images <= EXACT_IMAGES:
        signs = np.array(list(product((1, -1), repeat=num_images)))  # (2**I, I)
        return (np.abs(signs @ sums) >= seen).mean(axis=0)
    random = np.random.default_rng(seed)
    extreme = np.ones(sums.shape[1])
    for start in range(0, DRAWS, FLIPS_PER_BLOCK):  # in blocks: all flips of many images would not fit into memory
        signs = random.integers(0, 2, (min(FLIPS_PER_BLOCK, DRAWS - start), num_images)) * 2.0 - 1
        extreme += (np.abs(signs @ sums) >= seen).sum(axis=0)
    return extreme / (DRAWS + 1)


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values (K,), corrected for there being K of them (Holm 1979).

    Where no model differs from the other by any rule, in at most 5 % of cases is one of them below 0.05.
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(steps)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
