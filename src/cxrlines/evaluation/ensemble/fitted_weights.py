"""Ensemble weights fitted per label on out-of-fold predictions, and the cross-fitted blend that shows what they gain.

A label's weights are those of a logistic regression of the truth on the members' log odds, none negative, scaled to
add up to 1. Its own slope and intercept are dropped: they change no ranking, and leave the weights to say whose
ranking to follow, however sure of themselves the members are. (Weights by the log loss of the blend itself favour one
sharp member over the mean of many, which ranks better: tried, and worse.) A prior in favour of equal weights keeps a
rare label from betting all on the member that happened to do well on its few films.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlines.evaluation.cross_fitting import aligned_folds, parts_of
from cxrlines.evaluation.ensemble.average import FittedWeights
from cxrlines.evaluation.logistic import fit_logistic, log_odds
from cxrlines.evaluation.predictions import Stack, as_predictions, stack, truth_of
from cxrlines.metrics.means import CLIP, blended
from cxrlines.task import UNKNOWN

FEWEST = 10
"""Below so many positive, or negative, films a label's weights are not fitted but equal."""

PRIOR = 3.0
"""Strength of the prior: like that of a Gamma distribution of shape 1 + `PRIOR` with its mode at equal weights. Of 1,
3 and 10, on real predictions with noise added, 3 lost least where members were alike and gained most where not."""


def fit_weights(
    frames: Sequence[pd.DataFrame], truth: pd.DataFrame, names: Sequence[str] | None = None
) -> FittedWeights:
    """The weights, label by label, under which the members' log odds together tell the classes apart best.

    `frames` are out-of-fold predictions of the same studies, a member each, in any order; `truth` has `study` and the
    labels, 0, 1 or `UNKNOWN`, of at least those studies; `names` are the members', each once, by default
    "predictions 1" and on. Members that say the same of every film count as one and share its weight. A label of fewer
    than `FEWEST` positive or negative films gets equal weights; `FittedWeights.equal` says so. `Error` on what
    `predictions.stack` refuses or a study without truth, `ValueError` on two members of one name.
    """
    films = stack(frames, names)
    return _fit(films, truth_of(films.studies, truth, films.labels).labels)


def cross_fitted_blend(
    frames: Sequence[pd.DataFrame], truth: pd.DataFrame, folds: pd.Series, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """The blend with each fold's films under weights fitted without its patients: what `fitted` is really worth.

    A patient with a film in a fold has no part in that fold's weights, with films of other folds neither. Arguments as
    of `fit_weights`, `truth` with `patient` if patients have several films; `folds`: study -> fold, of at least those
    studies, two folds or more. Gives `study` and the labels, rows in the order of the first frame. `Error` as
    `fit_weights`, on a study without a fold, or on one fold only.
    """
    films = stack(frames, names)
    known = truth_of(films.studies, truth, films.labels)
    blend = np.empty(films.values.shape[1:])
    for inside, others in parts_of(aligned_folds(films.studies, folds), known.patients):
        weights = _fit(films._replace(values=films.values[:, others]), known.labels[others])
        blend[inside] = blended(films.values[:, inside], weights.weights)
    return as_predictions(films.studies, blend, films.labels)


def too_few(truth: np.ndarray) -> str | None:
    """Why nothing is fitted on the truth of a label, (films,) without unknown ones; None where enough is known."""
    films, positives = len(truth), int((truth == 1).sum())
    if min(positives, films - positives) >= FEWEST:
        return None
    return f"{positives} of {films} films are positive; {FEWEST} of either kind are needed to fit"


def _fit(films: Stack, truth: np.ndarray) -> FittedWeights:
    """The weights of members' predictions under the truth, (films, labels)."""
    twice = sorted({name for name in films.members if films.members.count(name) > 1})
    if twice:
        raise ValueError(f"two members are called {twice[0]}; weights go by name, so call each member differently")
    count = len(films.members)
    weights, equal = np.full((count, len(films.labels)), 1 / count), {}
    for k, label in enumerate(films.labels):
        known = truth[:, k] != UNKNOWN
        if reason := too_few(truth[known, k]):
            equal[label] = reason
            continue
        # Members in an order of their own, and each once: neither the order they come in nor a copy matters.
        columns = [films.values[m, known, k].tobytes() for m in range(count)]
        distinct = sorted(set(columns))
        odds = log_odds(np.stack([np.frombuffer(column) for column in distinct], axis=1))
        shares = dict(zip(distinct, _shares(odds, truth[known, k] == 1), strict=True))
        weights[:, k] = [shares[column] / columns.count(column) for column in columns]
    return FittedWeights(tuple(films.members), weights, equal, tuple(films.labels))


def _shares(odds: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The weights (members,), above 0 and adding up to 1, of log odds (films, members)."""
    centred = odds - odds.mean(axis=0)
    together = centred.mean(axis=1, keepdims=True)
    # The equal blend's own steepness, shared out, is where the prior of each slope has its mode.
    mode = 1 / max(float(together.std()), CLIP)
    steepness = float(fit_logistic(together, positive, mode=mode, prior=PRIOR).slopes[0])
    slopes = fit_logistic(centred, positive, mode=steepness / odds.shape[1], prior=PRIOR).slopes
    return slopes / slopes.sum()
