"""Logistic regression whose slopes are never negative: the one fit behind calibration, ensemble weights and neighbours.

A prior may hold the slopes near a mode, and the intercept near 0, so that a label of few positive films moves little.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, xlogy

from cxrlines.metrics.means import CLIP

_STEPS, _GAIN = 200, 1e-11


def log_odds(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p at least `CLIP` from 0 and 1."""
    return np.asarray(logit(np.clip(probability, CLIP, 1 - CLIP)))


class Logistic(NamedTuple):
    """A fitted regression; `loss` is its summed log loss, without the priors."""

    intercept: float
    slopes: np.ndarray
    loss: float


def fit_logistic(
    x: np.ndarray, positive: np.ndarray, *, mode: float = 1.0, prior: float = 0.0, spread: float = np.inf
) -> Logistic:
    """The regression of `positive` (n,) bool on `x` (n, k); the order of rows changes no bit of it.

    Newton's method with steps halved until they help; what is minimised is convex, so there is one answer. The slopes'
    prior is a Gamma distribution of shape 1 + `prior`, highest at `mode`, where the search begins: slopes are above 0;
    with `prior` 0 there is none, and they are 0 or more. `spread`: standard deviation of the intercept's, in log odds.
    """
    order = np.lexsort((positive, *x.T))  # sums round differently in another order
    design, positive = np.column_stack([np.ones(len(x)), x])[order], positive[order]
    least = np.r_[-np.inf, np.zeros(x.shape[1])]

    def log_loss(at: np.ndarray) -> float:
        eta = design @ at
        return float(np.logaddexp(0, eta).sum() - eta[positive].sum())

    def objective(at: np.ndarray) -> float:
        penalty = (prior * at[1:] / mode - xlogy(prior, at[1:])).sum() + (at[0] / spread) ** 2 / 2
        return log_loss(at) + float(penalty)

    at = np.r_[0.0, np.full(x.shape[1], mode)]
    now = objective(at)
    for _ in range(_STEPS):
        chance = expit(design @ at)
        inverse = np.divide(1, at[1:], out=np.zeros(x.shape[1]), where=at[1:] > 0)
        slope = design.T @ (chance - positive) + np.r_[at[0] / spread**2, prior * (1 / mode - inverse)]
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(
            np.r_[spread**-2.0, prior * inverse**2]
        )
        free = (at > least) | (slope < 0)
        step = _newton(curve, slope, free)
        if (blocked := (at <= least) & (step < 0)).any():
            step = _newton(curve, slope, free & ~blocked)
        if -slope @ step < _GAIN:  # too little for the objective to show: the last step
            at = np.maximum(at + step, least)
            break
        length = 1.0
        while objective(tried := np.maximum(at + length * step, least)) > now + slope @ (tried - at) / 4:
            length /= 2
            if length < 1e-6:
                break
        if (value := objective(tried)) >= now:  # as near as rounding lets it come
            break
        at, now = tried, value
    return Logistic(float(at[0]), at[1:], log_loss(at))


def _newton(curve: np.ndarray, slope: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The step of the free parameters to the least of the quadratic; 0 for the others."""
    step = np.zeros(len(slope))
    # Of the intercept little is known where all is clear: `curve` may be singular.
    step[free] = -np.linalg.lstsq(curve[np.ix_(free, free)], slope[free], rcond=None)[0]
    return step
