"""Calibration: whether of the films given 70 % about 70 % are positive.

Expected calibration error over bins of equal width (Guo et al., On Calibration of Modern Neural Networks, 2017): the
mean over films of the distance between a bin's mean probability and its share of positives. Pooled over all labels,
the common ones outweigh the rare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cxrlines.task import LABELS

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The bins that hold films, in rising order."""

    predicted: np.ndarray  # mean probability in each bin, float64 (bins,)
    observed: np.ndarray  # share of positives in each bin, float64 (bins,)
    count: np.ndarray  # films (or film-label pairs, if pooled) in each bin, int64 (bins,)


def reliability(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> Reliability:
    """Sort probabilities of any shape into `bins` bins of equal width; each holds its lower edge, the last 1.

    Where `truth` is `task.UNKNOWN` they are left out. `ValueError` for what is no probability.
    """
    probability, truth = np.ravel(probability).astype(np.float64), np.ravel(truth).astype(np.float64)
    if np.isnan(probability).any() or (probability.size and not 0 <= probability.min() <= probability.max() <= 1):
        raise ValueError("calibration needs probabilities from 0 to 1; these scores are something else")
    probability, truth = probability[truth >= 0], truth[truth >= 0]
    which = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), probability, side="right") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    held = count > 0
    predicted, observed = (np.bincount(which, of, bins)[held] / count[held] for of in (probability, truth))
    return Reliability(predicted, observed, count[held])


def calibration_error(truth: np.ndarray, probability: np.ndarray, bins: int = BINS) -> float | None:
    """Expected calibration error, 0 (perfect) to 1; arrays of any one shape are pooled; None without any truth."""
    curve = reliability(truth, probability, bins)
    if not len(curve.count):
        return None
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.count))


@dataclass(frozen=True)
class Calibration:
    """Platt scaling by label: label -> (slope, offset) on log odds; a label that is not in `lines` is left as it is.

    `alone` says of each such label why it could not be fitted.
    """

    lines: Mapping[str, tuple[float, float]]
    alone: Mapping[str, str] = field(default_factory=dict)

    def apply(self, p: np.ndarray, labels: Sequence[str] = LABELS) -> np.ndarray:
        """Probabilities (..., labels) calibrated: float64, of the same shape, 0 and 1 staying. `ValueError` on others.

        `labels` are those of the last axis, in order.
        """
        out = np.array(check_probabilities(p, labels), np.float64)
        for k, label in enumerate(labels):
            if label in self.lines:
                slope, offset = self.lines[label]
                with np.errstate(divide="ignore", over="ignore"):  # the odds of 1 are infinite
                    odds = np.log(out[..., k]) - np.log1p(-out[..., k])
                    out[..., k] = 1 / (1 + np.exp(-(slope * odds + offset)))
        return out


def check_probabilities(p: np.ndarray, labels: Sequence[str] = LABELS, name: str = "probabilities") -> np.ndarray:
    """The array, if it holds probabilities (..., labels); `ValueError` that names the first that is none."""
    p = np.asarray(p)
    if p.ndim == 0 or p.shape[-1] != len(labels):
        raise ValueError(f"{name} have shape {p.shape}; the last axis must be the {len(labels)} labels")
    wrong = ~((p >= 0) & (p <= 1))  # NaN as well
    if wrong.any():
        label = labels[np.argwhere(wrong)[0][-1]]
        raise ValueError(f"{name}: {p[wrong][0]:g} for {label}; they are from 0 to 1 ({int(wrong.sum())} are not)")
    return p
