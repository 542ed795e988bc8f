"""Averages of several members' probabilities, (members, films, labels), label by label: (films, labels) float64.

What a run's ensemble and the reader of its bundle share. The order of members changes no bit: sums are sorted.
"""

from collections.abc import Sequence

import numpy as np

CLIP = 1e-5
"""Probabilities nearer to 0 or 1 than this count as so near, so that no single film decides a mean of log odds."""
GRID = 257
"""Quantiles that stand for a member's predictions of reference films: ranks among these are right to 1 / 256."""


def plain_mean(values: np.ndarray) -> np.ndarray:
    """The mean over members."""
    return np.asarray(np.sort(values, axis=0).mean(axis=0))


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean under weights (members, labels), each label's adding up to 1."""
    return np.asarray(np.minimum(np.sort(values * weights[:, None], axis=0).sum(axis=0), 1.0))  # rounded up at most


def blended(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The probability of the mean log odds under weights (members, labels), each label's adding up to 1."""
    clipped = np.clip(values, CLIP, 1 - CLIP)
    odds = np.sort((np.log(clipped) - np.log1p(-clipped)) * weights[:, None], axis=0).sum(axis=0)
    return np.asarray(1 / (1 + np.exp(-odds)))


def power_mean(values: np.ndarray, power: float) -> np.ndarray:
    """(mean of p^k)^(1/k) with k = `power`, above 0."""
    highest = values.max(axis=0)
    shares = np.sort(values / np.where(highest > 0, highest, 1), axis=0)  # powers of small numbers would vanish
    return np.asarray(highest * (shares**power).mean(axis=0) ** (1 / power))


def quantiles_of(values: np.ndarray) -> np.ndarray:
    """`GRID` quantiles of probabilities (films,), evenly spaced from the lowest to the highest: (GRID,)."""
    return np.quantile(values, np.linspace(0, 1, GRID))


def rank_among(quantiles: Sequence[float] | np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where probabilities of any shape stand among films with these evenly spaced quantiles: 0 lowest, 1 highest.

    Linear between quantiles. A probability that many reference films share has their middle rank, as
    `ensemble(how="rank")` gives it; one beyond all has the last one's.
    """
    steps = np.asarray(quantiles, np.float64)
    distinct, where = np.unique(steps, return_inverse=True)
    places = np.linspace(0, 1, len(steps)) if len(steps) > 1 else np.full(1, 0.5)
    return np.asarray(np.interp(values, distinct, np.bincount(where, places) / np.bincount(where)))
