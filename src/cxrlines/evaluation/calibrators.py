"""Calibration of probabilities, label by label, on predictions of unseen films; thresholds on them; honest figures.

A label's log odds become slope x log odds + offset (Platt 1999, on log odds). The slope is above 0, so the order of
films, and with it the AUC, stays. Two numbers a label, held near slope 1 and offset 0 by a prior, can be estimated from
the few positive films of a rare label; isotonic regression cannot, and makes ties. With many films the prior vanishes.

A calibration holds for the very predictor that it was fitted on. An out-of-fold prediction comes from one fold's
models; the mean over folds is another, less extreme predictor: even where each fold is calibrated, their mean is not
sure enough (Ranjan and Gneiting, Combining probability forecasts, 2010). How much surer it may be shows in how far
calibrated folds disagree about films that none of them saw: `fit_mean`.

The figures here are cross-fitted. Arrays end in the labels, in the order of `task.LABELS`; truth is 0, 1 or `UNKNOWN`,
which is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.optimize import root
from scipy.special import expit

from cxrlines.evaluation.cross_fitting import parts_of
from cxrlines.evaluation.logistic import fit_logistic, log_odds
from cxrlines.evaluation.predictions import check_pairs
from cxrlines.metrics.auc import brier, why_undefined
from cxrlines.metrics.calibration import Calibration, calibration_error, check_probabilities
from cxrlines.task import LABELS, UNKNOWN

PRIOR = 3.0
"""Of the slope: like a Gamma distribution of shape 1 + `PRIOR` with its mode at 1. Of 0.01 to 30, fitted on 200 and on
1,000 films of real predictions, as they were and distorted, 3 had the least log loss on the others, or nearly."""
SPREAD = 1.0
"""Of the offset: standard deviation of its prior, in log odds. Chosen with `PRIOR`, of 0.3 to 10."""

Wanted = Literal["sensitivity", "precision"]
Wish = tuple[Wanted, float]
WANTED: tuple[Wish, ...] = (("sensitivity", 0.9), ("sensitivity", 0.95), ("precision", 0.5), ("precision", 0.8))
"""What thresholds are looked for by default."""

BeforeAfter = dict[str, dict[str, dict[str, float | None]]]
"""{"all" or label: {"brier" or "ece": {"before": figure, "after": figure}}}."""


@dataclass(frozen=True)
class Threshold:
    """Where to call a label so that a wanted sensitivity or precision is reached.

    The rates are cross-fitted, each fold called at the threshold of the others; a fold for which the others give none
    is left out. They are None where there is one fold only, no threshold, or nothing to divide by.
    """

    wanted: Wanted
    at_least: float  # how much of it, above 0 and at most 1
    probability: float | None  # a film of this calibrated probability or more is called; None: cannot be reached
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    positives: int  # positive films the threshold rests on


def fit_calibration(p: np.ndarray, truth: np.ndarray) -> Calibration:
    """The calibration of each label; one without known positive, or without negative, films is left alone.

    `p` (n, labels) are probabilities of the predictor that will be calibrated, never of films it was trained on;
    `truth` (n, labels). The order of films does not matter. `ValueError` for other shapes or values.
    """
    p, truth = check_pairs(p, truth)
    lines, alone = {}, {}
    for k, label in enumerate(LABELS):
        if reason := why_undefined(truth[:, k]):
            alone[label] = f"{reason}: its probabilities are left as they are"
            continue
        known = truth[:, k] != UNKNOWN
        fit = fit_logistic(log_odds(p[known, k])[:, None], truth[known, k] == 1, prior=PRIOR, spread=SPREAD)
        lines[label] = float(fit.slopes[0]), fit.intercept
    return Calibration(lines, alone)


def cross_fitted_calibration(p: np.ndarray, truth: np.ndarray, folds: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """(n, labels): each fold calibrated by a fit on the other folds, and on none of its patients.

    `p` and `truth` as for `fit_calibration`; `folds` and `patients` (n,), of each film. `ValueError` as there, and for
    one fold only.
    """
    p, truth = check_pairs(p, truth)
    out = np.empty_like(p)
    for inside, others in parts_of(folds, patients):
        out[inside] = fit_calibration(p[others], truth[others]).apply(p[inside])
    return out


def fit_mean(each: np.ndarray) -> Calibration:
    """The calibration of the mean over folds, from calibrated predictions of films that none saw; without labels.

    Where fold k is calibrated, its probability p and log odds l have E[y] = E[p] and E[y l] = E[p l] for the truth y.
    Both are linear in what y is paired with, so that E[y m] of the mean log odds m over folds is known too, as the mean
    over folds of E[p l]. Slope and offset are those by which the mean over folds, calibrated, has that E[y] and E[y m].
    Folds that agree give slope 1; else it is above 1.

    `each` (folds, n, labels) are calibrated probabilities of the same films. `ValueError` for other shapes or values.
    """
    each = check_probabilities(each)
    if each.ndim != 3 or not each.shape[1]:
        raise ValueError(f"probabilities have shape {each.shape}; (folds, films, {len(LABELS)}), of a film at least")
    lines, alone = {}, {}
    for k, label in enumerate(LABELS):
        p, odds = each[..., k], log_odds(each[..., k])
        if line := _mean_line(p.mean(axis=0), odds.mean(axis=0), float((p * odds).mean())):
            lines[label] = line
        else:
            alone[label] = "no slope and offset give the mean over folds the moments of its folds"
    return Calibration(lines, alone)


def _mean_line(p: np.ndarray, odds: np.ndarray, product: float) -> tuple[float, float] | None:
    """(slope, offset) by which `p` (n,) keeps its mean and has this mean product with `odds` (n,); None: none does."""
    x = log_odds(p)
    pairs = np.stack([np.ones_like(odds), odds])

    def miss(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = expit(at[0] * x + at[1])
        weighted = pairs * (q * (1 - q))
        return (pairs * q).mean(axis=1) - (p.mean(), product), np.stack([(weighted * x).mean(1), weighted.mean(1)], 1)

    found = root(miss, [1.0, 0.0], jac=True)
    return (float(found.x[0]), float(found.x[1])) if found.success and found.x[0] > 0 else None


def calibration_figures(p: np.ndarray, truth: np.ndarray, folds: np.ndarray, patients: np.ndarray) -> BeforeAfter:
    """`before_and_after` of probabilities and of what `cross_fitted_calibration` makes of them."""
    p, truth = check_pairs(p, truth)
    return before_and_after(truth, p, cross_fitted_calibration(p, truth, folds, patients))


def before_and_after(truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> BeforeAfter:
    """Brier score and expected calibration error, of all labels pooled ("all") and of each; arrays are (n, labels)."""

    def figures(k: int | slice) -> dict[str, dict[str, float | None]]:
        pairs = {"before": before[:, k], "after": after[:, k]}
        of = {"brier": brier, "ece": calibration_error}
        return {name: {when: figure(truth[:, k], p) for when, p in pairs.items()} for name, figure in of.items()}

    return {"all": figures(slice(None))} | {label: figures(k) for k, label in enumerate(LABELS)}


def fit_thresholds(
    p: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    patients: np.ndarray,
    calibration: Calibration,
    wanted: Sequence[Wish] = WANTED,
) -> dict[str, tuple[Threshold, ...]]:
    """Label -> a threshold for each wish, on calibrated probabilities.

    For a sensitivity the highest threshold that reaches it, for a precision the lowest. `p` is before calibration;
    `truth`, `folds` and `patients` as for `cross_fitted_calibration`, but one fold is enough. `calibration` is that of
    the probabilities that will be compared with the thresholds. `ValueError` as `fit_calibration`, or for a wish out of
    range.
    """
    p, truth = check_pairs(p, truth)
    for what, at_least in wanted:
        if what not in get_args(Wanted) or not 0 < at_least <= 1:
            raise ValueError(f"wanted is {what} {at_least}; it is sensitivity or precision, above 0 and at most 1")
    parts = list(parts_of(folds, patients)) if len(np.unique(folds)) > 1 else []
    found: dict[str, tuple[Threshold, ...]] = {}
    for k, label in enumerate(LABELS):
        known = truth[:, k] != UNKNOWN
        score, positive = p[known, k], truth[known, k] == 1
        each = []
        for what, at_least in wanted:
            at = _pick(score, positive, what, at_least)
            if at is not None:
                row = np.zeros(len(LABELS))
                row[k] = at
                at = float(calibration.apply(row)[k])
            called, judged = np.zeros((2, len(score)), bool)
            for inside, others in parts if at is not None else ():
                near = _pick(score[others[known]], positive[others[known]], what, at_least)
                if near is not None:
                    judged |= inside[known]
                    called[inside[known]] = score[inside[known]] >= near
            sensitivity, specificity = _share(called, positive & judged), _share(~called, ~positive & judged)
            rates = sensitivity, specificity, _share(positive, called)
            each.append(Threshold(what, at_least, at, *rates, int(positive.sum())))
        found[label] = tuple(each)
    return found


def _share(of: np.ndarray, among: np.ndarray) -> float | None:
    return float((of & among).sum() / among.sum()) if among.any() else None


def _pick(score: np.ndarray, positive: np.ndarray, what: Wanted, at_least: float) -> float | None:
    """The threshold, half way to the next lower score, so that rounding decides nothing; None if out of reach."""
    if not positive.any():
        return None
    scores = np.unique(score)[::-1]
    rank = np.searchsorted(-scores, -score)
    called = np.bincount(rank, minlength=len(scores)).cumsum()
    true = np.bincount(rank[positive], minlength=len(scores)).cumsum()
    share = true / positive.sum() if what == "sensitivity" else true / called
    reached = np.flatnonzero(share >= at_least - 1e-12)
    if not len(reached):
        return None
    k = int(reached[0] if what == "sensitivity" else reached[-1])
    half = (scores[k] + (scores[k + 1] if k + 1 < len(scores) else 0.0)) / 2
    return float(half if k + 1 == len(scores) or half > scores[k + 1] else scores[k])
