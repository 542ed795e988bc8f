"""Soft labels made more or less sure of themselves: a teacher's probabilities to the power of a temperature.

As in the silver solution: below one half p becomes p^T, but one half at most; above it, the same of its complement.
So T < 1 draws a probability towards one half, where it stays within some distance of it altogether, and T > 1 drives
it away, with a jump on either side. One half itself stays. Arrays end in the 11 labels, in their order.
"""

import numpy as np

from cxrlines.task import LABELS

COLDEST, HOTTEST = 0.25, 4.0
"""Bounds of a temperature that is chosen from data."""

LEAST = 1e-6
"""A chance counts as at least this much in the log loss, so that no single film's is infinite."""


def sharpen(p: np.ndarray, temperature: float | np.ndarray | None) -> np.ndarray:
    """Probabilities `p` (..., 11) at a temperature: a new array of the same shape and floating type.

    Symmetric: 1 - p becomes 1 minus what p becomes. A larger p never becomes smaller than a smaller one.

    Args:
        p: from 0 to 1.
        temperature: above 0, for all labels or (11,) one each; 1 or None changes nothing.

    Raises:
        ValueError: for another shape, or values out of range or NaN.
    """
    p = _probabilities(p)
    if temperature is None:
        return p.copy()
    heat = np.asarray(temperature, np.float64)
    if heat.shape not in ((), (len(LABELS),)) or not ((heat > 0) & np.isfinite(heat)).all():
        raise ValueError(
            f"temperature is {np.array2string(heat, threshold=20)}; it is one number above 0, or {len(LABELS)}, one a "
            "label (below 1 softens, above 1 sharpens, none leaves soft labels as they are)"
        )
    exact = p.astype(np.float64)
    sharp = np.where(exact < 0.5, _below_half(exact, heat), 1 - _below_half(1 - exact, heat))
    return np.where(exact == 0.5, 0.5, sharp).astype(p.dtype)


def kept(p: np.ndarray, above: float) -> np.ndarray:
    """(n,) bool: whether any label of a film (n, 11) is above the threshold, as films worth a soft label are."""
    p = _probabilities(p)
    if not 0 <= above <= 1:
        raise ValueError(f"keep above is {above}; it is a probability, from 0 (all but zeros) to 1 (none)")
    return np.asarray((p > above).any(axis=-1))


def dynamic_temperatures(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The temperature of each label at which the sharpened `p` predicts the truth with the least log loss.

    Below 1 for a teacher that is too sure of itself, above 1 for one that is not sure enough; 1 where a label has one
    class only, or no probability that a temperature changes. The best of temperatures from `COLDEST` to `HOTTEST` on a
    logarithmic grid, then of finer ones about it, to 0.1 %: where many probabilities stop at one half, the loss may
    have more than one dip.

    Args:
        p: (n, 11) out-of-fold probabilities of the teacher, never of films it was trained on.
        truth: (n, 11) 0 or 1.

    Returns:
        (11,) float64.

    Raises:
        ValueError: for other shapes or values.
    """
    p, truth = _probabilities(p), np.asarray(truth)
    if p.ndim != 2 or truth.shape != p.shape or not np.isin(truth, (0, 1)).all():
        raise ValueError(
            f"truth has shape {truth.shape} for probabilities of shape {p.shape}; it must hold a 0 or 1 for each, "
            f"(films, {len(LABELS)})"
        )
    best = np.ones(len(LABELS))
    for k in range(len(LABELS)):
        positive, exact = truth[:, k] == 1, p[:, k].astype(np.float64)
        changes = (exact > 0) & (exact < 1) & (exact != 0.5)
        if positive.all() or not positive.any() or not changes.any():
            continue
        # What counts is the smaller of p and 1 - p, and whether the truth is on its side.
        lesser = np.minimum(exact, 1 - exact)[changes]
        wrong = (positive == (exact < 0.5))[changes]
        low, high = COLDEST, HOTTEST
        for _ in range(4):
            tried = np.geomspace(low, high, 33)
            losses = [_loss(lesser, wrong, heat) for heat in tried]
            at = int(np.argmin(losses))
            low, high = tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)]
        best[k] = tried[at]
    return best


def _below_half(p: np.ndarray, heat: np.ndarray | float) -> np.ndarray:
    return np.minimum(p**heat, 0.5)


def _loss(lesser: np.ndarray, wrong: np.ndarray, heat: float) -> float:
    """Sum of log losses of films whose less likely side has probability `lesser`; `wrong` where that one is true."""
    chance = np.maximum(_below_half(lesser, heat), LEAST)
    return float(-np.log(np.where(wrong, chance, 1 - chance)).sum())


def _probabilities(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p)
    if p.ndim == 0 or p.shape[-1] != len(LABELS):
        raise ValueError(f"soft labels have shape {p.shape}; the last axis must be the {len(LABELS)} labels")
    p = p if np.issubdtype(p.dtype, np.floating) else p.astype(np.float64)
    wrong = ~((p >= 0) & (p <= 1))  # NaN as well
    if wrong.any():
        label = LABELS[np.argwhere(wrong)[0][-1]]
        raise ValueError(
            f"soft labels: {p[wrong][0]:g} for {label}; they are probabilities from 0 to 1 ({int(wrong.sum())} of "
            f"{p.size} are not)"
        )
    return p
