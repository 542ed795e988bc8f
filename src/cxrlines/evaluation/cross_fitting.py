"""Cross-fitting: each fold of films under what was fitted without it, and without its patients' films elsewhere.

What is judged on the films it was fitted on looks better than it is; cross-fitted figures do not.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error


class Part(NamedTuple):
    """A fold's films, and those that may be fitted on for it; each (n,) bool."""

    inside: np.ndarray
    others: np.ndarray


def parts_of(folds: np.ndarray, patients: np.ndarray) -> Iterator[Part]:
    """The part of each fold, from the fold and the patient of each film, (n,) both; `Error` for one fold only."""
    folds, patients = np.asarray(folds), np.asarray(patients)
    if folds.shape != patients.shape or folds.ndim != 1:
        raise ValueError(f"folds have shape {folds.shape} and patients {patients.shape}; both need one entry a film")
    known = np.unique(folds)
    if len(known) < 2:
        raise Error(f"all {len(folds)} films are of one fold", "cross-fitting needs two folds or more")
    for fold in known:
        inside = folds == fold
        yield Part(inside, ~np.isin(patients, patients[inside]))


def aligned_folds(studies: Sequence[str], folds: pd.Series) -> np.ndarray:
    """The folds (n,) of predicted studies, from study -> fold; `Error` for a study without a fold or in two."""
    if (twice := folds.index.duplicated()).any():
        raise Error(f"folds: the study of row {twice.argmax() + 1} is listed before", "give it one fold")
    fold = folds.set_axis(folds.index.astype(str)).reindex(list(studies))
    if (without := fold.isna().to_numpy()).any():
        raise Error(
            f"{without.sum()} of {len(studies)} predicted studies have no fold, the first in row "
            f"{without.argmax() + 1}",
            "give the folds that the members were trained with",
        )
    return fold.to_numpy()
