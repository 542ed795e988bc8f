"""Intervals by resampling patients: films of one patient are alike, so patients are drawn, not films.

The percentile cluster bootstrap: as many patients as there are, drawn with replacement, each with all its
films; the figure computed anew; the interval holds the middle 95 % of the figures. In a resample where a
label has one
class only its AUC is undefined: the label's interval comes from the other resamples, and the macro AUC of
that resample is the mean over the labels that are defined in it.

One patient cannot be resampled: every draw would be the same, and an interval of no width would look like certainty. So
there are no draws of fewer than two patients, and no interval comes of them.
"""

from collections.abc import Iterator

import numpy as np

from cxrlines.metrics.auc import weighted_auc

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
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is needed, {RESAMPLES} are usual")
    names, patient_of = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    if len(names) < 2:
        yield np.empty((0, len(patient_of)), np.int64)
        return
    rng = np.random.default_rng(seed)
    even = np.full(len(names), 1 / max(len(names), 1))
    step = max(1, _CELLS // max(len(patient_of), 1))
    for start in range(0, resamples, step):
        drawn = rng.multinomial(len(names), even, size=min(step, resamples - start))
        yield drawn[:, patient_of]


def resampled_aucs(
    truth: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """AUC of each label in each resample of patients: float64 (resamples, labels), NaN where undefined.

    Without rows where there are fewer than two patients. `truth` and `scores` are (films, labels), `patients` (films,).
    """
    parts = [
        np.stack([weighted_auc(truth[:, k], scores[:, k], weights) for k in range(truth.shape[1])], axis=1)
        for weights in patient_weights(patients, resamples, seed)
    ]
    return np.concatenate(parts)


def macro_of(aucs: np.ndarray) -> np.ndarray:
    """The macro AUC of each resample, (resamples, labels) -> (resamples,); NaN where no label is defined."""
    defined = ~np.isnan(aucs)
    count = defined.sum(axis=1)
    return np.divide(np.nansum(aucs, axis=1), count, out=np.full(len(aucs), np.nan), where=count > 0)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> Interval | None:
    """The middle `level` of the values that are numbers, (resamples,); None if there are none."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
