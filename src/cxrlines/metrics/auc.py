"""ROC AUC (exact, ties counted half), Brier score and ROC curve of one set of scores.

Arrays: `truth` is 1, 0 or `task.UNKNOWN`, which is left out; `score` is any number that grows with the chance of a 1.
Shape (films,) for one label, (films, labels) for several. AUC without films of both classes is None, never 0.5.
"""

import numpy as np


def auc(truth: np.ndarray, score: np.ndarray) -> float | None:
    """The chance that a positive film scores above a negative one, ties counted half; None without both."""
    value = weighted_auc(truth, score, np.ones((1, len(truth)), np.int64))[0]
    return None if np.isnan(value) else float(value)


def weighted_auc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under each row of `weights`: (resamples, films) whole numbers, how often each film counts.

    Returns float64 (resamples,), NaN where a resample holds one class only. The films are sorted once for all
    resamples; counts are whole numbers below 2**53, hence exact in float64.
    """
    order = np.argsort(score, kind="stable")
    truth, ranked = np.asarray(truth)[order], np.asarray(score)[order]
    if not len(ranked):
        return np.full(len(weights), np.nan)
    weights = np.asarray(weights)[:, order].astype(np.float64)
    positives, negatives = (np.where(truth == value, weights, 0.0) for value in (1, 0))
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    if len(starts) < len(ranked):  # films of equal score become one
        positives, negatives = (np.add.reduceat(counts, starts, axis=1) for counts in (positives, negatives))
    below = np.cumsum(negatives, axis=1)
    pairs = below[:, -1] * positives.sum(axis=1)
    below -= 0.5 * negatives
    won = np.einsum("rg,rg->r", positives, below)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def macro_auc(truth: np.ndarray, score: np.ndarray) -> float | None:
    """The mean AUC over the labels (columns) that have both classes; None if none has."""
    aucs = [auc(truth[:, label], score[:, label]) for label in range(truth.shape[1])]
    defined = [value for value in aucs if value is not None]
    return float(np.mean(defined)) if defined else None


def why_undefined(truth: np.ndarray) -> str | None:
    """Why one label, (films,), has no AUC, in words; None if it has one."""
    truth = np.asarray(truth)
    positives, films = int((truth == 1).sum()), int(((truth == 0) | (truth == 1)).sum())
    if films == 0:
        return "no known truth" if len(truth) else "no films"
    if positives == 0:
        return f"none of {films} films is positive"
    return f"all {films} films are positive" if positives == films else None


def brier(truth: np.ndarray, probability: np.ndarray) -> float | None:
    """The mean squared difference of probability and truth, over all films and labels; None without any truth."""
    truth, probability = np.asarray(truth, np.float64), np.asarray(probability, np.float64)
    squares = ((probability - truth) ** 2)[truth >= 0]
    return float(np.mean(squares)) if squares.size else None


def roc_curve(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, each float64 (points,), from (0, 0) to (1, 1); corners only.

    One point a distinct score, less those on a straight line between their neighbours. `ValueError` if the
    label has one class only.
    """
    if reason := why_undefined(truth):
        raise ValueError(f"no ROC curve: {reason}")
    order = np.argsort(-np.asarray(score), kind="stable")
    truth = np.asarray(truth)[order]
    last = np.flatnonzero(np.diff(np.asarray(score)[order], append=-np.inf))
    true, false = (np.r_[0, np.cumsum(truth == value)[last]] for value in (1, 0))
    turns = np.diff(true)[1:] * np.diff(false)[:-1] != np.diff(true)[:-1] * np.diff(false)[1:]
    corner = np.r_[True, turns, True]
    return false[corner] / false[-1], true[corner] / true[-1]
