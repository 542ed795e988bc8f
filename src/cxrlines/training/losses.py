"""The losses a stage may name: of labels, of a teacher's features, of maps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrlines.task import DEVICE_OF, LABELS, MAPS, Device, MapKind

MOST_WEIGHT = 20.0
"""A balanced label weighs its positives at most this much: 79 ETT-abnormal films in 30,083 would weigh 380."""


LINE_PIXELS = 20.0
"""Weight of the lines' cross-entropy, a mean over pixels of which one in a hundred is a line."""

PRESENCE_GROUPS = [
    *([i for i, label in enumerate(LABELS) if DEVICE_OF[label] == device] for device in Device),
    list(range(len(LABELS))),
]
"""The labels behind each column of `data.external.PRESENCE`: a device's own, and any at all."""


def label_loss(
    logits: Tensor, targets: Tensor, positive_weight: Tensor | None = None, film_weights: Tensor | None = None
) -> Tensor:
    """Mean binary cross-entropy of `logits` against `targets` in [0, 1], both (batch, labels).

    `film_weights` (batch,) weigh the films; the sum is divided by their number, not by their weight, so that weights of
    mean 1 over the whole set change no film's step more than they say.
    """
    weight = film_weights[:, None].expand_as(logits) if film_weights is not None else None
    return functional.binary_cross_entropy_with_logits(logits, targets, weight=weight, pos_weight=positive_weight)


def presence_loss(logits: Tensor, presence: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Cross-entropy of "one of these labels holds" against `presence` (batch, groups), NaN where unknown.

    `logits` are (batch, labels); each group names the labels of a device. One of them holds with probability
    1 - prod(1 - p), the noisy-or. 0 where nothing is known of the whole batch.
    """
    of = [logits[:, list(group)] for group in groups]
    none = torch.stack([functional.logsigmoid(-some).sum(dim=1) for some in of], dim=1)
    # Where next to nothing is likely, 1 - prod(1 - p) is the sum of p, whose logarithm keeps a slope to learn by.
    little = torch.stack([functional.logsigmoid(some).logsumexp(dim=1) for some in of], dim=1)
    some = torch.where(none > -1e-4, little, torch.log(-torch.expm1(none.clamp(max=-1e-4))))
    known = torch.isfinite(presence)
    there = torch.where(known, presence, torch.zeros_like(presence))
    loss = -(there * some + (1 - there) * none)
    return torch.where(known, loss, torch.zeros_like(loss)).sum() / known.sum().clamp(min=1)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error between two feature maps (batch, channels, height, width) before pooling."""
    return functional.mse_loss(student, teacher)


def balanced_weights(labels: np.ndarray) -> Tensor:
    """(labels,) float32: negatives per positive of each label of (films, labels), between 1 and `MOST_WEIGHT`."""
    positives = labels.sum(axis=0)
    return torch.tensor(np.clip((len(labels) - positives) / np.maximum(positives, 1), 1, MOST_WEIGHT)).float()


def maps_loss(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Loss of maps: lines by cross-entropy and Dice, tips and landmarks by the focal loss of key points.

    `logits` and `wanted` (in [0, 1]) are (batch, 9, height, width) in `task.MAPS` order, `known` (batch, 9) 1 where the
    truth is known. Lines: mean cross-entropy over the pixels times `LINE_PIXELS`, plus 1 - Dice over the batch for each
    device that is there. Points: the penalty-reduced focal loss of CenterNet (Zhou et al., 2019, alpha 2, beta 4), a
    film and map. Each part is a mean over what is known; 0 where nothing is.
    """
    lines = [channel for channel, (kind, _) in enumerate(MAPS) if kind is MapKind.LINE]
    points = [channel for channel, (kind, _) in enumerate(MAPS) if kind is not MapKind.LINE]
    return _line_loss(logits[:, lines], wanted[:, lines], known[:, lines]) + _point_loss(
        logits[:, points], wanted[:, points], known[:, points]
    )


def _line_loss(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    seen = known[:, :, None, None]
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(2, 3))
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    said, truth = torch.sigmoid(logits) * seen, wanted * seen
    both, total = (said * truth).sum(dim=(0, 2, 3)), (said + truth).sum(dim=(0, 2, 3))
    there = (truth.sum(dim=(0, 2, 3)) > 0).to(logits.dtype)
    missed = (1 - (2 * both + 1) / (total + 1)) * there
    return LINE_PIXELS * entropy + missed.sum() / there.sum().clamp(min=1)


def _point_loss(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    said = torch.sigmoid(logits)
    hit = (wanted >= 1).to(logits.dtype)
    right = hit * (1 - said) ** 2 * functional.logsigmoid(logits)
    wrong = (1 - hit) * (1 - wanted) ** 4 * said**2 * functional.logsigmoid(-logits)
    each = -(right + wrong).sum(dim=(2, 3)) * known
    return each.sum() / known.sum().clamp(min=1)
