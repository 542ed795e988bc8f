"""Figures of merit of one set of scores: ROC AUC (exact, ties counted half), Brier score, ROC curve.

Arrays: `truth` is 0 or 1, `score` a number that grows with the chance of a 1; shape (films,) for one label,
(films, labels) for several. AUC is undefined where a label has one class only; that is None here, never 0.5.
"""

import numpy as np


def auc(truth: np.ndarray, score: np.ndarray) -> float | None:
    """The chance that a positive film scores above a negative one, ties counted half; None without both."""
    truth, score = np.asarray(truth), np.asarray(score)
    value = weighted_auc(truth, score, np.ones((1, len(truth)), np.int64))[0]
    return None if np.isnan(value) else float(value)


def weighted_auc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under each row of `weights`: (resamples, films) whole numbers, how often each film counts.

    Returns float64 (resamples,), NaN where a resample holds one class only. The films are sorted once for all
    resamples; counts are whole numbers below 2**53, hence exact in float64.
    """
    positive = np.asarray(truth) == 1
    order = np.argsort(score, kind="stable")
    ranked = np.asarray(score)[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.empty(0, np.int64)
    if len(starts) == 0:
        return np.full(len(weights), np.nan)
    weights = np.asarray(weights)[:, order].astype(np.float64)
    negatives = np.where(positive[order], 0.0, weights)
    positives = weights - negatives
    if len(starts) < len(ranked):  # films of equal score become one
        negatives = np.add.reduceat(negatives, starts, axis=1)
        positives = np.add.reduceat(positives, starts, axis=1)
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
    """Why one label has no AUC, in words; None if it has one."""
    films, positives = len(truth), int(np.sum(truth))
    if films == 0:
        return "no films"
    if positives == 0:
        return f"none of {films} films is positive"
    if positives == films:
        return f"all {films} films are positive"
    return None


def brier(truth: np.ndarray, probability: np.ndarray) -> float | None:
    """The mean squared difference of probability and truth, over all films and labels; None without films."""
    difference = np.asarray(probability, np.float64) - np.asarray(truth, np.float64)
    return float(np.mean(difference**2)) if difference.size else None


def roc_curve(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, each float64 (points,), from (0, 0) to (1, 1); corners only.

    One point a distinct score, less those on a straight line between their neighbours. `ValueError` if the
    label has one class only.
    """
    reason = why_undefined(truth)
    if reason:
        raise ValueError(f"no ROC curve: {reason}")
    positive = np.asarray(truth) == 1
    order = np.argsort(-np.asarray(score), kind="stable")
    last = np.flatnonzero(np.diff(np.asarray(score)[order], append=-np.inf))
    true = np.r_[0, np.cumsum(positive[order])[last]]
    false = np.r_[0, np.cumsum(~positive[order])[last]]
    turns = np.diff(true)[1:] * np.diff(false)[:-1] != np.diff(true)[:-1] * np.diff(false)[1:]
    corner = np.r_[True, turns, True]
    return false[corner] / false[-1], true[corner] / true[-1]
