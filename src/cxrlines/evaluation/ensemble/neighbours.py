"""Retrieval as a member: the labels of a film's nearest training films, blended with a classifier's probabilities.

    log odds of the blend = those of the classifier + weight * evidence
    evidence              = log odds of the label among the neighbours - log odds of it among all films searched

A label's weight is fitted out of fold, by a logistic regression of the truth on both, and is 0 unless neighbours pay
for themselves (`PAYS`). As in `evaluation.fitted`, its own slope and intercept are dropped. (The weights of `fitted`
share out a whole between members and leave each some of it; they cannot say that neighbours are of no use.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from cxrlines.core.errors import Error
from cxrlines.core.nearest import nearest_rows
from cxrlines.evaluation.ensemble.average import as_predictions, log_odds, stack
from cxrlines.evaluation.ensemble.weights import FEWEST, nested_parts, patients_of, truth_of
from cxrlines.task import LABELS

COUNT = 20
"""Neighbours a film is told by."""
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
    """What neighbours count for: `weights` (11,) float64, 0 or more, and label -> why its weight is 0."""

    weights: np.ndarray
    zero: dict[str, str]

    def blend(self, probability: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        """Probabilities (films, 11) of a classifier's and the `evidence` of those films' neighbours."""
        odds = log_odds(probability) + self.weights * evidence
        return np.where(self.weights > 0, 1 / (1 + np.exp(-odds)), probability)


def evidence_of(
    queries: np.ndarray,
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    patients: Sequence[str] | None = None,
    patients_searched: Sequence[str] | None = None,
    count: int = COUNT,
) -> np.ndarray:
    """What the nearest films say of each query, float64 (q, 11) in log odds; 0 where they are like any films.

    Args:
        queries: (q, c) float32, of length 1.
        vectors: (n, c) of the films searched, likewise; labels: (n, 11), 0 or 1.
        patients, patients_searched: of the queries and the films; a patient's films are never his own neighbours.
        count: neighbours a query.
    """
    if not len(vectors):
        raise ValueError("there are no films to search for neighbours; give labelled films of other patients")
    own = None if patients is None else np.asarray(patients)
    searched = None if patients_searched is None else np.asarray(patients_searched)

    def barred(places: np.ndarray) -> np.ndarray:
        assert own is not None and searched is not None
        return own[places, None] == searched[None]

    rows, _ = nearest_rows(queries, vectors, count, None if own is None or searched is None else barred)
    found = (rows >= 0)[:, :, None]
    share = (labels.sum(axis=0) + 0.5) / (len(labels) + 1)
    positive = (labels[rows] * found).sum(axis=1)
    near = (positive + PRIOR_FILMS * share) / (found.sum(axis=1) + PRIOR_FILMS)
    return log_odds(near) - log_odds(share)


def fit_neighbours(
    predictions: pd.DataFrame, truth: pd.DataFrame, folds: pd.Series, embeddings: Embeddings, *, count: int = COUNT
) -> NeighbourWeights:
    """The weight of each label, from films judged by neighbours of other folds and patients.

    Args:
        predictions: a classifier's, out of fold: `study` and the 11 labels, probabilities.
        truth: `study` and the labels, 0 or 1, of at least those studies; with `patient` if patients have several films.
        folds: study -> fold.
        embeddings: of the films of `predictions`, row by row.
        count: neighbours a film.

    Raises:
        ValueError: what `fitted.nested_fitted` refuses, or embeddings that are not a row a film.
    """
    films = _Films.of(predictions, truth, folds, embeddings)
    everyone = np.ones(len(films.labels), bool)
    return _fit(films.values, films.evidence(everyone, everyone, count), films.labels)


def nested_neighbours(
    predictions: pd.DataFrame, truth: pd.DataFrame, folds: pd.Series, embeddings: Embeddings, *, count: int = COUNT
) -> pd.DataFrame:
    """The blend with each fold's films under weights its patients had no part in: what neighbours are really worth.

    Weights for a fold are fitted on films of other folds, whose neighbours come from neither their fold nor that one.

    Args: as `fit_neighbours`; three folds or more.

    Returns:
        `study` and the labels, rows in the order of `predictions`.
    """
    films = _Films.of(predictions, truth, folds, embeddings)
    if len(set(films.fold)) < 3:
        raise Error(
            f"there are {len(set(films.fold))} folds",
            "nested neighbours need three or more: one judged, and of two others each has the other's films as "
            "neighbours",
        )
    blend = np.empty_like(films.values)
    for inside, others in films.parts:
        weights = _fit(films.values[others], films.evidence(others, others, count), films.labels[others])
        blend[inside] = weights.blend(films.values[inside], films.evidence(inside, ~inside, count))
    return as_predictions(films.studies, blend)


@dataclass(frozen=True, eq=False)
class _Films:
    """Films in the order of the predictions, everything by row."""

    studies: list[str]
    values: np.ndarray
    labels: np.ndarray
    fold: np.ndarray
    patient: np.ndarray
    parts: list[tuple[np.ndarray, np.ndarray]]
    embeddings: Embeddings

    @classmethod
    def of(cls, predictions: pd.DataFrame, truth: pd.DataFrame, folds: pd.Series, embeddings: Embeddings) -> "_Films":
        studies, values = stack([predictions], ["the classifier"])
        known = truth_of(studies, truth)
        parts = list(nested_parts(studies, known, folds))
        fold = folds.set_axis(folds.index.astype(str)).loc[studies].to_numpy()
        if isinstance(embeddings, Mapping) and (absent := sorted(set(fold) - set(embeddings))):
            raise ValueError(f"there are no embeddings for fold {absent[0]}; give those of the model that held it out")
        for one in embeddings.values() if isinstance(embeddings, Mapping) else (embeddings,):
            if one.ndim != 2 or len(one) != len(studies):
                raise ValueError(f"embeddings are {one.shape} for {len(studies)} predicted films; give a row a film")
        labels = known[list(LABELS)].to_numpy(np.float64)
        return cls(studies, values[0], labels, fold, patients_of(known).to_numpy(), parts, embeddings)

    def evidence(self, asked: np.ndarray, searched: np.ndarray, count: int) -> np.ndarray:
        """Of the films `asked`, (n,) bool, each told by those `searched` that are of other folds and patients."""
        found = np.zeros_like(self.labels)
        for one in sorted(set(self.fold[asked])):
            vectors = self.embeddings[one] if isinstance(self.embeddings, Mapping) else self.embeddings
            mine, theirs = asked & (self.fold == one), searched & (self.fold != one)
            found[mine] = evidence_of(
                vectors[mine],
                vectors[theirs],
                self.labels[theirs],
                patients=self.patient[mine],
                patients_searched=self.patient[theirs],
                count=count,
            )
        return found[asked]


def _fit(values: np.ndarray, evidence: np.ndarray, labels: np.ndarray) -> NeighbourWeights:
    """`values`, `evidence`, `labels` (films, 11)."""
    weights, zero = np.zeros(len(LABELS)), {}
    for k, label in enumerate(LABELS):
        positive = labels[:, k] == 1
        films, positives = len(positive), int(positive.sum())
        if min(positives, films - positives) < FEWEST:
            zero[label] = f"{positives} of {films} films are positive; {FEWEST} of either kind are needed to fit"
            continue
        odds = log_odds(values[:, k])
        alone, _ = _regression(np.column_stack([np.ones(films), odds]), positive)
        together, slopes = _regression(np.column_stack([np.ones(films), odds, evidence[:, k]]), positive)
        if alone - together < PAYS or slopes[2] <= 0:
            zero[label] = f"neighbours gain {max(alone - together, 0):.1f} in log likelihood, less than {PAYS:g}"
            continue
        weights[k] = slopes[2] / max(slopes[1], LEAST_SLOPE)
    return NeighbourWeights(weights, zero)


def _regression(design: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """The least log loss, summed, of a logistic regression whose slopes are 0 or more, and its numbers."""

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        eta = design @ at
        chance = 1 / (1 + np.exp(-np.clip(eta, -500, 500)))
        return float(np.logaddexp(0, eta).sum() - eta[positive].sum()), design.T @ (chance - positive)

    bounds = [(None, None)] + [(0, None)] * (design.shape[1] - 1)
    start = np.r_[0.0, 1.0, np.zeros(design.shape[1] - 2)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.fun), found.x
