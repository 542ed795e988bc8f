"""Bootstrap confidence intervals: films of one patient are alike, so patients are resampled, not films.

The percentile cluster bootstrap: as many patients as there are, drawn with replacement, each with all films. The
interval holds the middle 95 % of the figures. A label of one class in a resample has no AUC there: its interval comes
from the other resamples, and the macro AUC of that resample from the other labels. Of fewer than two patients every
draw would be the same, so there are no draws, and no interval.
"""

from collections.abc import Iterator

import numpy as np

from cxrlines.metrics.auc import Ranking

RESAMPLES = 1000
LEVEL = 0.95
Interval = tuple[float, float]
_CELLS = 1 << 20  # weights held at a time (8 MB of float64), so that memory stays flat with films and resamples


def patient_weights(patients: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each film counts in each resample: int64 (some resamples, films) at a time.

    `patients` (films,) are any identifiers; equal ones are drawn together. The same patients in any order,
    and the same seed, give the same draws, so that two models on the same films can be compared pair by pair.
    Of fewer than two patients there is one block without resamples: (0, films).
    """
    names, patient_of = np.unique(np.array([str(patient) for patient in patients], object), return_inverse=True)
    for draws in _draws(len(names), resamples, seed, max(1, _CELLS // max(1, len(patient_of)))):
        yield draws[:, patient_of]


def _draws(patients: int, resamples: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """How often each patient is drawn in each resample: int64 (at most `step` resamples, patients) at a time."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is needed, {RESAMPLES} are usual")
    if patients < 2:
        yield np.empty((0, patients), np.int64)
        return
    rng = np.random.default_rng(seed)
    even = np.full(patients, 1 / patients)
    for start in range(0, resamples, step):
        yield rng.multinomial(patients, even, size=min(step, resamples - start))


def resampled_aucs(
    truth: np.ndarray, scores: np.ndarray, patients: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """AUC of each label in each resample of patients: float64 (resamples, labels), NaN where undefined.

    Without rows where there are fewer than two patients. `truth` and `scores` are (films, labels), `patients` (films,).
    """
    names, patient_of = np.unique(np.array([str(patient) for patient in patients], object), return_inverse=True)
    rankings = [Ranking(truth[:, k], scores[:, k], patient_of) for k in range(truth.shape[1])]
    blocks = [
        np.stack([ranking.weighted_aucs(draws) for ranking in rankings], axis=1)
        for draws in _draws(len(names), resamples, seed, max(1, _CELLS // max(1, len(names))))
    ]
    return np.concatenate(blocks)


def macro_of(aucs: np.ndarray) -> np.ndarray:
    """The macro AUC of each resample, (resamples, labels) -> (resamples,); NaN where no label is defined."""
    count = (~np.isnan(aucs)).sum(axis=1)
    return np.divide(np.nansum(aucs, axis=1), count, out=np.full(len(aucs), np.nan), where=count > 0)


def percentile_interval(values: np.ndarray) -> Interval | None:
    """The middle `LEVEL` of the values that are numbers, (resamples,); None if there are none."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
