"""Labels as a training target: binary cross-entropy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cxrlines.training.targets.base import BatchOutputs, CodePart, FilmSource, Losses, Sums, Target, TargetData

if TYPE_CHECKING:
    from torch import Tensor


MAX_CLASS_WEIGHT = 20.0
"""A balanced label weighs its positives at most this much: 79 ETT-abnormal films in 30,083 would weigh 380."""


class LabelTarget(Target):
    """Towards the labels, by binary cross-entropy; unknown labels are left out of the mean."""

    key = "labels"
    own_films = True
    lacking = "have no labels; their targets are soft and presence"

    class_weights: Literal["none", "balanced"] = "none"

    def data(self, films: FilmSource) -> TargetData:
        if self.class_weights == "none":
            return TargetData({})
        return TargetData({"positive_weight": np.tile(balanced_weights(films.labels), (len(films.labels), 1))})

    def loss(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        return [(1.0, label_loss(outputs.logits, batch["labels"], batch.get("positive_weight")))]

    def describe(self) -> tuple[str, str]:
        return "labels", "BCE"

    def code(self) -> tuple[CodePart, ...]:
        (part,) = super().code()
        return (part._replace(without=() if self.class_weights == "balanced" else ("balanced_weights",)),)


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


def balanced_weights(labels: np.ndarray) -> np.ndarray:
    """(labels,) float32: negatives per positive of each label of (films, labels), between 1 and `MAX_CLASS_WEIGHT`.

    Films whose label is NaN do not count.
    """
    positives = np.nansum(labels, axis=0)
    negatives = np.isfinite(labels).sum(axis=0) - positives
    return np.clip(negatives / np.maximum(positives, 1), 1, MAX_CLASS_WEIGHT).astype(np.float32)
