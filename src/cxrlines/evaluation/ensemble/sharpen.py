"""Temperature of soft labels: a teacher's probabilities made more or less confident.

As in the silver solution: below one half p becomes p^T, but one half at most; above it, the same of its complement.
So T < 1 draws a probability towards one half, where it stays within some distance of it altogether, and T > 1 drives
it away, with a jump on either side. One half itself stays. Arrays end in the labels, in the order of `task.LABELS`.
"""

import numpy as np

from cxrlines.evaluation.predictions import check_pairs
from cxrlines.metrics.auc import why_undefined
from cxrlines.metrics.calibration import check_probabilities
from cxrlines.task import LABELS, UNKNOWN

COLDEST, HOTTEST = 0.25, 4.0
"""Bounds of a temperature that is chosen from data."""

MIN_PROBABILITY = 1e-6
"""A probability counts as at least this much in the log loss, so that no single film's is infinite."""


def sharpen(p: np.ndarray, temperature: float | np.ndarray | None) -> np.ndarray:
    """Probabilities `p` (..., labels) at a temperature: a new array of the same shape and floating type.

    Symmetric: 1 - p becomes 1 minus what p becomes. A larger p never becomes smaller than a smaller one. `temperature`
    is above 0, for all labels or (labels,) one each; 1 or None changes nothing. `ValueError` for another shape, or
    values out of range or NaN.
    """
    p = check_probabilities(p, name="soft labels")
    p = p if np.issubdtype(p.dtype, np.floating) else p.astype(np.float64)
    if temperature is None:
        return p.copy()
    heat = np.asarray(temperature, np.float64)
    if heat.shape not in ((), (len(LABELS),)) or not ((heat > 0) & np.isfinite(heat)).all():
        raise ValueError(
            f"temperature is {np.array2string(heat, threshold=20)}; it is one number above 0, or {len(LABELS)}, one a "
            "label (below 1 softens, above 1 sharpens, none leaves soft labels as they are)"
        )
    exact = p.astype(np.float64)
    sharp = np.where(exact < 0.5, np.minimum(exact**heat, 0.5), 1 - np.minimum((1 - exact) ** heat, 0.5))
    return np.where(exact == 0.5, 0.5, sharp).astype(p.dtype)


def kept(p: np.ndarray, above: float) -> np.ndarray:
    """(n,) bool: whether any label of a film (n, labels) is above the threshold, as films worth soft labels are."""
    p = check_probabilities(p, name="soft labels")
    if not 0 <= above <= 1:
        raise ValueError(f"keep above is {above}; it is a probability, from 0 (all but zeros) to 1 (none)")
    return np.asarray((p > above).any(axis=-1))


def dynamic_temperatures(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The temperature of each label, (labels,) float64, at which the sharpened `p` has the least log loss.

    `p` (n, labels) are out-of-fold probabilities of the teacher, never of films it was trained on; `truth` (n, labels)
    0, 1 or `UNKNOWN`. `ValueError` for other shapes or values.

    Below 1 for a teacher that is too sure of itself, above 1 for one that is not sure enough; 1 where a label has one
    class only, or no probability that a temperature changes. The best of temperatures from `COLDEST` to `HOTTEST` on a
    logarithmic grid, then of finer ones about it, to 0.1 %: where many probabilities stop at one half, the loss may
    have more than one dip.
    """
    p, truth = check_pairs(p, truth)
    best = np.ones(len(LABELS))
    for k in range(len(LABELS)):
        changes = (p[:, k] > 0) & (p[:, k] < 1) & (p[:, k] != 0.5) & (truth[:, k] != UNKNOWN)
        if why_undefined(truth[:, k]) or not changes.any():
            continue
        # What counts is the smaller of p and 1 - p, and whether the truth is on its side.
        exact, positive = p[changes, k], truth[changes, k] == 1
        lesser, wrong = np.minimum(exact, 1 - exact), positive == (exact < 0.5)
        low, high = COLDEST, HOTTEST
        for _ in range(4):
            tried = np.geomspace(low, high, 33)
            at = int(np.argmin([_loss(lesser, wrong, heat) for heat in tried]))
            low, high = tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)]
        best[k] = tried[at]
    return best


def _loss(lesser: np.ndarray, wrong: np.ndarray, heat: float) -> float:
    """Sum of log losses of films whose less likely side has probability `lesser`; `wrong` where that one is true."""
    chance = np.clip(lesser**heat, MIN_PROBABILITY, 0.5)
    return float(-np.log(np.where(wrong, chance, 1 - chance)).sum())
