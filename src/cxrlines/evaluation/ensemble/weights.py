"""Ensemble weights fitted per label on out-of-fold predictions, and the honest figure of what they gain.

A label's weights are those of a logistic regression of the truth on the members' log odds, none negative, scaled to
add up to 1. Its own slope and intercept are dropped: they change no ranking, and leave the weights to say whose
ranking to follow, however sure of themselves the members are. (Weights by the log loss of the blend itself favour one
sharp member over the mean of many, which ranks better: tried, and worse.) A prior in favour of equal weights keeps a
rare label from betting all on the member that happened to do well on its few films.

Weights judged on the films they were fitted on look better than they are, most with many members and rare labels.
`nested_fitted` therefore blends each fold under weights that its patients had no part in.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.evaluation.ensemble.average import (
    LEAST,
    FittedWeights,
    as_predictions,
    blended,
    check_columns,
    log_odds,
    stack,
)
from cxrlines.task import LABELS

FEWEST = 10
"""Below so many positive, or negative, films a label's weights are not fitted but equal."""

PRIOR = 3.0
"""Strength of the prior: like that of a Gamma distribution of shape 1 + `PRIOR` with its mode at equal weights. Of 1,
3 and 10, on real predictions with noise added, 3 lost least where members were alike and gained most where not."""


def fit_weights(
    frames: Sequence[pd.DataFrame], truth: pd.DataFrame, names: Sequence[str] | None = None
) -> FittedWeights:
    """The weights, label by label, under which the members' log odds together tell the classes apart best.

    The order of frames does not matter, and of members that say the same of every film, one counts: they share its
    weight. A label of fewer than `FEWEST` positive or negative films gets equal weights; `FittedWeights.equal` says
    so.

    Args:
        frames: out-of-fold predictions of the same studies, a member each.
        truth: `study` and the 11 labels, 0 or 1, of at least those studies.
        names: of the members, each once; by default "predictions 1" and on.

    Raises:
        Error: what `ensemble.stack` refuses, or a study without truth. ValueError: two members of one name.
    """
    names = _members(frames, names)
    studies, values = stack(frames, names)
    return _fit(values, truth_of(studies, truth)[list(LABELS)].to_numpy(), names)


def nested_fitted(
    frames: Sequence[pd.DataFrame], truth: pd.DataFrame, folds: pd.Series, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """The blend with each fold's films under weights fitted without its patients: what `fitted` is really worth.

    A patient with a film in a fold has no part in that fold's weights, with films of other folds neither.

    Args:
        frames, truth, names: as for `fit_weights`; `truth` with `patient` if patients have several films.
        folds: study -> fold, of at least the studies of `frames`; two folds or more.

    Returns:
        `study` and the labels, rows in the order of the first frame.

    Raises:
        Error: as `fit_weights`; a study without a fold, or one fold only.
    """
    names = _members(frames, names)
    studies, values = stack(frames, names)
    known = truth_of(studies, truth)
    labels = known[list(LABELS)].to_numpy()
    blend = np.empty(values.shape[1:])
    for inside, others in nested_parts(studies, known, folds):
        weights = _fit(values[:, others], labels[others], names)
        blend[inside] = blended(values[:, inside], weights.weights)
    return as_predictions(studies, blend)


def nested_parts(
    studies: Sequence[str], known: pd.DataFrame, folds: pd.Series
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each fold, (n,) bool: its films, and those of patients that have none in it. `known` as `truth_of` gives it.

    `Error` for a study without a fold or in two, or one fold only.
    """
    if folds.index.duplicated().any():
        row = int(np.flatnonzero(folds.index.duplicated())[0]) + 1
        raise Error(f"folds: the study of row {row} is listed before", "give it one fold")
    fold = folds.set_axis(folds.index.astype(str)).reindex(list(studies))
    if fold.isna().any():
        raise Error(
            f"{int(fold.isna().sum())} of {len(studies)} predicted studies have no fold, the first in row "
            f"{int(np.flatnonzero(fold.isna())[0]) + 1}",
            "give the folds that the members were trained with",
        )
    if fold.nunique() < 2:
        raise Error(f"all studies are of fold {fold.iloc[0]}", "nested weights need two folds or more")
    patient = patients_of(known)
    for one in sorted(fold.unique()):
        inside = (fold == one).to_numpy()
        yield inside, ~patient.isin(patient[inside]).to_numpy()


def patients_of(known: pd.DataFrame) -> pd.Series:
    """The patient of each study; a study of no known patient is its own."""
    patient = known["patient"].fillna(known["study"]) if "patient" in known else known["study"]
    return patient.astype(str)


def _members(frames: Sequence[pd.DataFrame], names: Sequence[str] | None) -> list[str]:
    members = list(names) if names else [f"predictions {i + 1}" for i in range(len(frames))]
    twice = sorted({name for name in members if members.count(name) > 1})
    if twice:
        raise ValueError(f"two members are called {twice[0]}; weights go by name, so call each member differently")
    return members


def truth_of(studies: Sequence[str], truth: pd.DataFrame) -> pd.DataFrame:
    """The rows of `truth` of the studies, in their order."""
    check_columns(truth, "truth")
    table = truth.assign(study=truth["study"].astype(str))
    table = table[table["study"].isin(studies)]
    if table["study"].duplicated().any():
        row = int(np.flatnonzero(table["study"].duplicated())[0]) + 1
        raise Error(f"truth: the study of row {row} is listed before", "keep one row a study")
    absent = len(studies) - len(table)
    if absent:
        row = int(np.flatnonzero(~np.isin(list(studies), table["study"]))[0]) + 1
        raise Error(
            f"{absent} of {len(studies)} predicted studies have no truth, the first in row {row}",
            "fit on predictions of labelled films only",
        )
    values = table[list(LABELS)].to_numpy(np.float64)
    if not np.isin(values, (0, 1)).all():
        row, column = np.argwhere(~np.isin(values, (0, 1)))[0]
        raise Error(
            f"truth: {LABELS[column]} in row {row + 1} of the predicted studies is {values[row, column]:g}",
            "labels are 0 or 1",
        )
    return table.set_index("study", drop=False).loc[list(studies)]


def _fit(values: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> FittedWeights:
    """`values` (members, films, 11), `truth` (films, 11) 0 or 1."""
    count = len(values)
    weights, equal = np.full((count, len(LABELS)), 1 / count), {}
    for k, label in enumerate(LABELS):
        positive = truth[:, k] == 1
        films, positives = len(positive), int(positive.sum())
        if min(positives, films - positives) < FEWEST:
            equal[label] = f"{positives} of {films} films are positive; {FEWEST} of either kind are needed to fit"
            continue
        # Members in an order of their own, and each once: neither the order they come in nor a copy matters.
        columns = [values[m, :, k].tobytes() for m in range(count)]
        distinct = sorted(set(columns))
        odds = log_odds(np.stack([np.frombuffer(column) for column in distinct], axis=1))
        found = dict(zip(distinct, _shares(odds, positive), strict=True))
        weights[:, k] = [found[column] / columns.count(column) for column in columns]
    return FittedWeights(tuple(names), weights, equal)


def _shares(odds: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The weights (members,), above 0 and adding up to 1, of log odds (films, members)."""
    members = odds.shape[1]
    centred = odds - odds.mean(axis=0)
    together = centred.mean(axis=1, keepdims=True)
    steepness = _slopes(together, positive, 1 / max(float(together.std()), LEAST))[0]  # of the equal blend
    slopes = _slopes(centred, positive, steepness / members)
    return slopes / slopes.sum()


def _slopes(x: np.ndarray, positive: np.ndarray, mode: float) -> np.ndarray:
    """The slopes (n,), all above 0, of a logistic regression on x (films, n) whose prior is highest at `mode`.

    Newton's method with steps halved until they help; the function is convex, so there is one answer.
    """
    design = np.column_stack([np.ones(len(x)), x])

    def loss(at: np.ndarray) -> float:
        if (at[1:] <= 0).any():
            return np.inf
        eta = design @ at
        prior = PRIOR * (at[1:] / mode - np.log(at[1:])).sum()
        return float(np.logaddexp(0, eta).sum() - eta[positive].sum() + prior)

    share = positive.mean()
    at = np.r_[np.log(share / (1 - share)), np.full(x.shape[1], mode)]
    now = loss(at)
    for _ in range(200):
        chance = 1 / (1 + np.exp(-np.clip(design @ at, -500, 500)))
        slope = design.T @ (chance - positive) + PRIOR * np.r_[0, 1 / mode - 1 / at[1:]]
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + PRIOR * np.diag(np.r_[0, 1 / at[1:] ** 2])
        step = -np.linalg.lstsq(curve, slope, rcond=None)[0]  # of the intercept little is known where all is clear
        gain = float(-slope @ step)
        if gain < 1e-9:
            break
        length = 1.0
        while (tried := loss(at + length * step)) > now - length * gain / 4 and length > 1e-6:
            length /= 2
        if tried >= now:  # as near as rounding lets it come
            break
        at, now = at + length * step, tried
    return np.asarray(at[1:])
