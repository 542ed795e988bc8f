"""Retrieval as a member: the labels of a film's nearest training films, blended with a classifier's probabilities.

    log odds of the blend = those of the classifier + weight * evidence
    evidence              = log odds of the label among the neighbours - log odds of it among all films searched

A label's weight is fitted out of fold, by a logistic regression of the truth on both, and is 0 unless neighbours pay
for themselves (`PAYS`). As in `fitted_weights`, its own slope and intercept are dropped. (The weights of `fitted`
share out a whole between members and leave each some of it; they cannot say that neighbours are of no use.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from cxrlines.core.errors import Error
from cxrlines.core.nearest import nearest_rows
from cxrlines.evaluation.cross_fitting import Part, aligned_folds, parts_of
from cxrlines.evaluation.ensemble.fitted_weights import too_few
from cxrlines.evaluation.logistic import fit_logistic, log_odds
from cxrlines.evaluation.predictions import as_predictions, stack, truth_of
from cxrlines.task import UNKNOWN

COUNT = 20
"""Neighbours of a film."""
PRIOR_FILMS = 2.0
"""So many films of the average share stand with a film's neighbours, so that none of 20 is not never."""
PAYS = 2.7
"""Log likelihood that the neighbours of all films together must gain. By chance alone, 1 weight in 100 would."""

LEAST_SLOPE = 0.1
"""A classifier that knows next to nothing of a label counts for at least this, so that the weight stays finite."""

Embeddings = np.ndarray | Mapping[Any, np.ndarray]
"""(n, c), of length 1, a row a film; or fold -> that, by the model that held this fold out."""


@dataclass(frozen=True, eq=False)
class NeighbourWeights:
    """What neighbours count for: `weights` (labels,) float64, 0 or more, and label -> why its weight is 0."""

    weights: np.ndarray
    zero: dict[str, str]

    def blend(self, probability: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        """Probabilities (films, labels) of a classifier's and the `evidence` of those films' neighbours."""
        odds = log_odds(probability) + self.weights * evidence
        return np.where(self.weights > 0, expit(odds), probability)


def evidence_of(
    queries: np.ndarray,
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    patients: Sequence[str],
    patients_searched: Sequence[str],
    count: int = COUNT,
) -> np.ndarray:
    """The evidence of each query's `count` nearest films, float64 (q, labels) in log odds; 0 where they are like any.

    `queries` (q, c) and `vectors` (n, c) of the films searched are float32, of length 1; `labels` (n, labels) 0, 1 or
    `UNKNOWN`. A patient's films are never his own neighbours.
    """
    if not len(vectors):
        raise ValueError("there are no films to search for neighbours; give labelled films of other patients")
    own, searched = np.asarray(patients), np.asarray(patients_searched)
    rows, _ = nearest_rows(queries, vectors, count, lambda places: own[places, None] == searched[None])
    positive, known = labels == 1, labels != UNKNOWN
    share = (positive.sum(axis=0) + 0.5) / (known.sum(axis=0) + 1)
    found = (rows >= 0)[:, :, None]
    positives, films = (positive[rows] & found).sum(axis=1), (known[rows] & found).sum(axis=1)
    return log_odds((positives + PRIOR_FILMS * share) / (films + PRIOR_FILMS)) - log_odds(share)


def fit_neighbours(
    predictions: pd.DataFrame, truth: pd.DataFrame, folds: pd.Series, embeddings: Embeddings
) -> NeighbourWeights:
    """The weight of each label, from films scored by neighbours of other folds and patients.

    `predictions` are a classifier's, out of fold: `study` and the labels, probabilities. `truth` has `study` and the
    labels, 0, 1 or `UNKNOWN`, of at least those studies, and `patient` if patients have several films; `folds`: study
    -> fold; `embeddings` are of the films of `predictions`, row by row. `ValueError` on what
    `fitted_weights.cross_fitted_blend` refuses, or on embeddings that are not a row a film.
    """
    films = _Films.of(predictions, truth, folds, embeddings)
    return films.fit(np.ones(len(films.studies), bool))


def cross_fitted_neighbours(
    predictions: pd.DataFrame, truth: pd.DataFrame, folds: pd.Series, embeddings: Embeddings
) -> pd.DataFrame:
    """The blend with each fold's films under weights its patients had no part in: what neighbours are really worth.

    Weights for a fold are fitted on films of other folds, whose neighbours come from neither their fold nor that one.
    Arguments as of `fit_neighbours`, three folds or more. Gives `study` and the labels in the order of `predictions`.
    """
    films = _Films.of(predictions, truth, folds, embeddings)
    if len(films.parts) < 3:
        raise Error(
            f"there are {len(films.parts)} folds",
            "cross-fitted neighbours need three or more: one scored, and of two others each has the other's films as "
            "neighbours",
        )
    blend = np.empty_like(films.values)
    for inside, others in films.parts:
        blend[inside] = films.fit(others).blend(films.values[inside], films.evidence(inside, ~inside))
    return as_predictions(films.studies, blend, films.labels)


@dataclass(frozen=True, eq=False)
class _Films:
    """Films in the order of the predictions, everything by row."""

    studies: list[str]
    labels: list[str]
    values: np.ndarray
    truth: np.ndarray
    fold: np.ndarray
    patient: np.ndarray
    parts: list[Part]
    embeddings: Embeddings

    @classmethod
    def of(cls, predictions: pd.DataFrame, truth: pd.DataFrame, folds: pd.Series, embeddings: Embeddings) -> "_Films":
        _, studies, labels, values = stack([predictions], ["the classifier"])
        known = truth_of(studies, truth, labels)
        fold = aligned_folds(studies, folds)
        if isinstance(embeddings, Mapping) and (absent := sorted(set(fold) - set(embeddings))):
            raise ValueError(f"there are no embeddings for fold {absent[0]}; give those of the model that held it out")
        for one in embeddings.values() if isinstance(embeddings, Mapping) else (embeddings,):
            if one.ndim != 2 or len(one) != len(studies):
                raise ValueError(f"embeddings are {one.shape} for {len(studies)} predicted films; give a row a film")
        parts = list(parts_of(fold, known.patients))
        return cls(studies, labels, values[0], known.labels, fold, known.patients, parts, embeddings)

    def evidence(self, queries: np.ndarray, searched: np.ndarray) -> np.ndarray:
        """Of the films `queries`, (n,) bool, from those `searched` that are of other folds and patients."""
        found = np.zeros_like(self.values)
        for one in np.unique(self.fold[queries]):
            vectors = self.embeddings[one] if isinstance(self.embeddings, Mapping) else self.embeddings
            mine, theirs = queries & (self.fold == one), searched & (self.fold != one)
            patients = {"patients": self.patient[mine], "patients_searched": self.patient[theirs]}
            found[mine] = evidence_of(vectors[mine], vectors[theirs], self.truth[theirs], **patients)
        return found[queries]

    def fit(self, films: np.ndarray) -> NeighbourWeights:
        """The weights fitted on `films`, (n,) bool, each with the others as its neighbours."""
        evidence = self.evidence(films, films)
        odds, truth = log_odds(self.values[films]), self.truth[films]
        weights, zero = np.zeros(len(self.labels)), {}
        for k, label in enumerate(self.labels):
            known = truth[:, k] != UNKNOWN
            if reason := too_few(truth[known, k]):
                zero[label] = reason
                continue
            x, positive = np.column_stack([odds[known, k], evidence[known, k]]), truth[known, k] == 1
            alone, together = fit_logistic(x[:, :1], positive), fit_logistic(x, positive)
            gain = alone.loss - together.loss
            if gain < PAYS or together.slopes[1] <= 0:
                zero[label] = f"neighbours gain {max(gain, 0):.1f} in log likelihood, less than {PAYS:g}"
            else:
                weights[k] = together.slopes[1] / max(together.slopes[0], LEAST_SLOPE)
        return NeighbourWeights(weights, zero)
