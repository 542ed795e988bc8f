"""Calibration: whether of the films given 70 % about 70 % are positive.

Expected calibration error over bins of equal width (Guo et al., On Calibration of Modern Neural Networks, 2017): the
mean over films of the distance between a bin's mean probability and its share of positives. Pooled over all labels,
the common ones outweigh the rare.
"""

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The bins that hold films, in rising order.

    Attributes:
        predicted: mean probability in each bin, float64 (bins,).
        observed: share of positives in each bin, float64 (bins,).
        count: films (or film-label pairs, if pooled) in each bin, int64 (bins,).
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def reliability(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> Reliability:
    """Sort probabilities of any shape into `bins` bins of equal width; each holds its lower edge, the last 1.

    Where `truth` is `task.UNKNOWN` they are left out. `ValueError` for what is no probability.
    """
    probability, truth = np.ravel(probability).astype(np.float64), np.ravel(truth).astype(np.float64)
    if np.isnan(probability).any() or (probability.size and not 0 <= probability.min() <= probability.max() <= 1):
        raise ValueError("calibration needs probabilities from 0 to 1; these scores are something else")
    probability, truth = probability[truth >= 0], truth[truth >= 0]
    which = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), probability, side="right") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    held = count > 0
    predicted, observed = (np.bincount(which, of, bins)[held] / count[held] for of in (probability, truth))
    return Reliability(predicted, observed, count[held])


def calibration_error(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> float | None:
    """Expected calibration error, 0 (perfect) to 1; arrays of any one shape are pooled; None without any truth."""
    curve = reliability(truth, probability, bins)
    if not len(curve.count):
        return None
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.count))
