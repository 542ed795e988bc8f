"""Labels as a training target: binary cross-entropy, focal or asymmetric loss, with or without label smoothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from cxrlines.training.targets.base import BatchOutputs, CodePart, FilmSource, Losses, Sums, Target, TargetData
from cxrlines.training.targets.presence import STATES

if TYPE_CHECKING:
    from torch import Tensor


MAX_CLASS_WEIGHT = 20.0
"""A balanced label weighs its positives at most this much: 79 ETT-abnormal films in 30,083 would weigh 380."""
GAMMA = 2.0
"""Of the focal loss, as its authors found best (Lin et al. 2017)."""
GAMMA_POSITIVE, GAMMA_NEGATIVE, CLIP = 0.0, 4.0, 0.05
"""Of the asymmetric loss, as its authors train on MS-COCO (Ridnik et al. 2021)."""
LEAST_CLIP = 1e-4
"""The least clip above 0: beside a probability near 1 single precision has steps of 6e-8."""

Gamma = Annotated[float, Field(ge=0, le=20)]
_READ_BY = {"gamma": "focal", "alpha": "focal"} | dict.fromkeys(
    ("gamma_positive", "gamma_negative", "clip"), "asymmetric"
)


class LabelTarget(Target):
    """The labels: binary cross-entropy, focal or asymmetric loss; unknown labels are left out of the mean."""

    key = "labels"
    own_films = True
    mixes = True
    lacking = "have no labels; their targets are soft and presence"

    # balanced: positives are weighted by inverse label frequency (loss: bce)
    class_weights: Literal["none", "balanced"] = "none"
    # label smoothing s: a label y becomes y (1 - s) + s / 2; of k states that are exclusive, y (1 - s) + s / (k + 1)
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    loss: Literal["bce", "focal", "asymmetric"] = "bce"  # binary cross-entropy, focal loss or asymmetric loss
    gamma: Gamma | None = None  # focusing parameter of the focal loss; null: 2
    # focal loss: weight of positives; negatives weigh 1 - alpha
    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    gamma_positive: Gamma | None = None  # asymmetric loss: focusing parameter of positives; null: 0
    gamma_negative: Gamma | None = None  # asymmetric loss: focusing parameter of negatives; null: 4
    # asymmetric loss: margin subtracted from the probability of negatives; null: 0.05
    clip: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "LabelTarget":
        for name, loss in _READ_BY.items():
            if getattr(self, name) is not None and self.loss != loss:
                raise ValueError(f"{name} is {getattr(self, name):g}, but loss is {self.loss!r}; it belongs to {loss}")
        if self.class_weights == "balanced" and self.loss != "bce":
            instead = "alpha" if self.loss == "focal" else "gamma_positive and gamma_negative"
            raise ValueError(f"class_weights is 'balanced', but loss is {self.loss!r}, which has {instead} instead")
        if self.clip is not None and 0 < self.clip < LEAST_CLIP:
            raise ValueError(
                f"clip is {self.clip:g}: so little may be lost in single precision, and the loss of a sure false "
                f"positive is then infinite; allowed: 0, or from {LEAST_CLIP:g} on"
            )
        return self

    def data(self, films: FilmSource) -> TargetData:
        if self.class_weights == "none":
            return TargetData({})
        return TargetData({"positive_weight": np.tile(balanced_weights(films.labels), (len(films.labels), 1))})

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        labels = batch["labels"]
        if self.smoothing:
            labels = labels * (1 - self.smoothing) + self.smoothing / 2
            for states in STATES if outputs.exclusive else ():  # with "none" they sum to 1, and so do these
                for state in states:
                    labels[:, state] += self.smoothing * (1 / (len(states) + 1) - 1 / 2)
        if self.loss == "bce":
            return [(1.0, label_loss(outputs.logits, labels, batch.get("positive_weight")))]
        if self.loss == "focal":
            return [(1.0, focal_loss(outputs.logits, labels, self._or("gamma", GAMMA), self.alpha))]
        return [(1.0, asymmetric_loss(outputs.logits, labels, *self._asymmetry))]

    def describe(self) -> tuple[str, str]:
        by = "BCE"
        if self.loss == "focal":
            alpha = "" if self.alpha is None else f", alpha {self.alpha:g}"
            by = f"focal (gamma {self._or('gamma', GAMMA):g}{alpha})"
        elif self.loss == "asymmetric":
            by = "asymmetric (gamma {:g} and {:g}, clip {:g})".format(*self._asymmetry)
        weighted = ", balanced" if self.class_weights == "balanced" else ""
        return "labels", by + weighted + (f", smoothing {self.smoothing:g}" if self.smoothing else "")

    @property
    def _asymmetry(self) -> tuple[float, float, float]:
        return (
            self._or("gamma_positive", GAMMA_POSITIVE),
            self._or("gamma_negative", GAMMA_NEGATIVE),
            self._or("clip", CLIP),
        )

    def _or(self, name: str, default: float) -> float:
        value = getattr(self, name)
        return default if value is None else float(value)

    def code(self) -> tuple[CodePart, ...]:
        (part,) = super().code()
        unused = {
            "balanced_weights": self.class_weights == "none",
            "focal_loss": self.loss != "focal",
            "asymmetric_loss": self.loss != "asymmetric",
        }
        return (part._replace(without=tuple(name for name, is_so in unused.items() if is_so)),)


def label_loss(
    logits: "Tensor", labels: "Tensor", positive_weight: "Tensor | None" = None, film_weights: "Tensor | None" = None
) -> Sums:
    """Mean binary cross-entropy of `logits` against `labels` in [0, 1], NaN where unknown, both (batch, labels).

    `positive_weight`, broadcast to (batch, labels), weighs positives. `film_weights` (batch,) weigh the films; the sum
    is divided by the number of known labels, not by their weight, so that weights of mean 1 over the whole set change
    no film's step more than they say.
    """
    from torch.nn import functional

    known = labels.isfinite()
    weight = known.to(logits.dtype) if film_weights is None else known * film_weights[:, None]
    total = functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), weight=weight, pos_weight=positive_weight, reduction="sum"
    )
    return Sums.mean(total, known.sum())


def focal_loss(logits: "Tensor", labels: "Tensor", gamma: float, alpha: float | None = None) -> Sums:
    """The focal loss (Lin et al. 2017): cross-entropy times (1 - the probability of what is so) ^ `gamma`.

    Positives weigh `alpha` and negatives 1 - `alpha`; none: both 1. `logits` and `labels` as of `label_loss`; a label
    between 0 and 1 mixes the losses of a positive and a negative.
    """
    from torch.nn import functional

    there, absent = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    # Powers as exponentials of logarithms, which have a slope where the probability rounds to 0.
    positive, negative = -there * (gamma * absent).exp(), -absent * (gamma * there).exp()
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return _mixed(positive, negative, labels)


def asymmetric_loss(
    logits: "Tensor", labels: "Tensor", gamma_positive: float, gamma_negative: float, clip: float
) -> Sums:
    """The asymmetric loss (Ridnik et al. 2021): a focal loss of its own gamma for positives and for negatives.

    The probability p of a negative counts as max(p - `clip`, 0), so that one which is sure enough is left alone.
    `logits` and `labels` as of `focal_loss`.
    """
    import torch
    from torch.nn import functional

    there, absent = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    negative = -absent * (gamma_negative * there).exp()
    if clip:
        shifted = (torch.sigmoid(logits) - clip).clamp(min=1e-8)  # not 0, whose power below 1 has an infinite slope
        negative = -torch.log1p(-shifted) * shifted**gamma_negative
    return _mixed(-there * (gamma_positive * absent).exp(), negative, labels)


def _mixed(positive: "Tensor", negative: "Tensor", labels: "Tensor") -> Sums:
    """The mean over the known `labels` y of y `positive` + (1 - y) `negative`, all (batch, labels)."""
    known = labels.isfinite()
    there = labels.nan_to_num()
    return Sums.mean(((there * positive + (1 - there) * negative) * known).sum(), known.sum())


def balanced_weights(labels: np.ndarray) -> np.ndarray:
    """(labels,) float32: negatives per positive of each label of (films, labels), between 1 and `MAX_CLASS_WEIGHT`.

    Films whose label is NaN do not count.
    """
    positives = np.nansum(labels, axis=0)
    negatives = np.isfinite(labels).sum(axis=0) - positives
    return np.clip(negatives / np.maximum(positives, 1), 1, MAX_CLASS_WEIGHT).astype(np.float32)
