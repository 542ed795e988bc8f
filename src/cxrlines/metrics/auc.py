"""ROC AUC (exact, ties counted half), Brier score and ROC curve of one set of scores.

Arrays: `truth` is 1, 0 or `task.UNKNOWN`, which is left out; `score` is any number that grows with the chance of a 1.
Shape (films,) for one label, (films, labels) for several. AUC without films of both classes is None, never 0.5.
"""

import numpy as np


def auc(truth: np.ndarray, score: np.ndarray) -> float | None:
    """The chance that a positive film scores above a negative one, ties counted half; None without both."""
    value = Ranking(truth, score).weighted_aucs(np.ones((1, len(truth)), np.int64))[0]
    return None if np.isnan(value) else float(value)


class Ranking:
    """The films of one label in the order of their scores: sorted once, to be weighted often.

    `truth` and `score` are (films,). `column` (films,) says which column of the weights is a film's: where patients are
    columns, all films of a patient count alike. By default each film has a column of its own.
    """

    def __init__(self, truth: np.ndarray, score: np.ndarray, column: np.ndarray | None = None) -> None:
        truth, score = np.asarray(truth), np.asarray(score)
        column = np.arange(len(truth)) if column is None else np.asarray(column)
        order = np.argsort(score)
        positive, negative = (order[truth[order] == value] for value in (1, 0))
        few, many = sorted((positive, negative), key=len)
        self._few, self._many = column[few], column[many]
        self._few_positive = few is positive
        # How many films of the larger class score less than each of the smaller one, and how many no more.
        self._less, self._no_more = (np.searchsorted(score[many], score[few], side) for side in ("left", "right"))

    def weighted_aucs(self, weights: np.ndarray) -> np.ndarray:
        """AUC under each row of `weights`: (resamples, columns) whole numbers, how often each column's films count.

        Returns float64 (resamples,), NaN where a resample holds one class only. Exact, as sums are of whole numbers.
        """
        films = len(self._few) + len(self._many)
        if not len(self._few):
            return np.full(len(weights), np.nan)
        kind = np.int32 if films * int(weights.max(initial=0)) < 1 << 30 else np.int64  # half the memory, if it holds
        weights = np.asarray(weights).astype(kind)
        many, below = np.empty(len(self._many), kind), np.zeros(len(self._many) + 1, kind)
        values = np.full(len(weights), np.nan)
        for at, row in enumerate(weights):
            few = row.take(self._few).astype(np.int64)
            # Room that is there already, as most of the time would go into getting it.
            np.cumsum(row.take(self._many, out=many, mode="clip"), out=below[1:])
            pairs = int(below[-1]) * int(few.sum())
            doubled = int(few @ (below.take(self._less) + below.take(self._no_more)))  # a tie is half a pair
            if pairs:
                values[at] = (doubled if self._few_positive else 2 * pairs - doubled) / (2 * pairs)
        return values


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
    truth, score = np.asarray(truth), np.asarray(score)
    known = (truth == 0) | (truth == 1)
    truth, score = truth[known], score[known]
    order = np.argsort(-score, kind="stable")
    truth = truth[order]
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    true, false = (np.r_[0, np.cumsum(truth == value)[last]] for value in (1, 0))
    turns = np.diff(true)[1:] * np.diff(false)[:-1] != np.diff(true)[:-1] * np.diff(false)[1:]
    corner = np.r_[True, turns, True]
    return false[corner] / false[-1], true[corner] / true[-1]
