"""AUC of the films that are watched while a stage trains."""

from collections.abc import Sequence

import numpy as np

from cxrlines.metrics.auc import auc


def label_aucs(labels: np.ndarray, scores: np.ndarray) -> list[float | None]:
    """The AUC of each label among the films where it is known (not NaN); None where they are not of both classes."""
    known = np.isfinite(labels)
    return [auc(labels[rows, k], scores[rows, k]) for k, rows in enumerate(known.T)]


def watched_aucs(names: Sequence[str], labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """`macro_auc` as `auc`, and the AUC of each label as `auc LABEL`; the `names` are those of the columns."""
    each = zip(names, label_aucs(labels, scores), strict=True)
    return {"auc": macro_auc(labels, scores), **{f"auc {label}": value for label, value in each}}


def macro_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The mean AUC over the labels with both classes among the films where they are known (not NaN); None if none."""
    defined = [value for value in label_aucs(labels, scores) if value is not None]
    return float(np.mean(defined)) if defined else None
