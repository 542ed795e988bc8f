"""The losses a stage may name: of labels, of a teacher's features, of maps.

Each gives sums over the films of one process. `total_loss` adds them over all processes and only then divides, so that
a batch split over several processes has the loss and the gradient that it has on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrlines.task import DEVICE_OF, LABELS, MAPS, Device, MapKind
from cxrlines.training import distributed

MOST_WEIGHT = 20.0
"""A balanced label weighs its positives at most this much: 79 ETT-abnormal films in 30,083 would weigh 380."""


LINE_PIXELS = 20.0
"""Weight of the lines' cross-entropy, a mean over pixels of which one in a hundred is a line."""

PRESENCE_GROUPS = [
    *([i for i, label in enumerate(LABELS) if DEVICE_OF[label] == device] for device in Device),
    list(range(len(LABELS))),
]
"""The labels behind each column of `data.external.PRESENCE`: a device's own, and any at all."""

_LINES = sum(kind is MapKind.LINE for kind, _ in MAPS)
assert all(kind is MapKind.LINE for kind, _ in MAPS[:_LINES])  # slices, since a list of channels makes a GPU wait


@dataclass(frozen=True)
class Sums:
    """A loss over some films as (terms,) tensors that add up over films: sum and count of each of its terms.

    The value over a whole batch is the mean of total / (count + smooth) over the terms that are there: those whose
    `there`, over the whole batch, is above 0. Where none is, it is 0. Most losses have one term, with `there` = count.
    """

    total: Tensor
    count: Tensor
    there: Tensor
    smooth: float = 0.0

    @classmethod
    def mean(cls, total: Tensor, count: Tensor | int) -> "Sums":
        """A plain mean of `count` things whose sum is `total`, both without dimensions."""
        total = total[None]
        counted = count.to(total.dtype)[None] if isinstance(count, Tensor) else torch.full_like(total, count)
        return cls(total, counted, counted)

    def value(self) -> Tensor:
        """The loss, if these sums are those of the whole batch."""
        there = self.there > 0
        terms = torch.where(there, self.total / torch.where(there, self.count + self.smooth, 1.0), 0.0)
        return terms.sum() / there.sum().clamp(min=1)


def total_loss(parts: Sequence[tuple[float, Sums]]) -> Tensor:
    """The weighted sum of losses, each over the films of all processes; all of them must call it."""
    rows = [torch.stack([sums.total, sums.count, sums.there]) for _, sums in parts]
    whole = distributed.everywhere(torch.cat(rows, dim=1)).split([row.shape[1] for row in rows], dim=1)
    values = [
        weight * Sums(total, count, there, mine.smooth).value()
        for (weight, mine), (total, count, there) in zip(parts, whole, strict=True)
    ]
    return torch.stack(values).sum()


def label_loss(
    logits: Tensor, targets: Tensor, positive_weight: Tensor | None = None, film_weights: Tensor | None = None
) -> Sums:
    """Mean binary cross-entropy of `logits` against `targets` in [0, 1], both (batch, labels).

    `film_weights` (batch,) weigh the films; the sum is divided by their number, not by their weight, so that weights of
    mean 1 over the whole set change no film's step more than they say.
    """
    weight = film_weights[:, None].expand_as(logits) if film_weights is not None else None
    total = functional.binary_cross_entropy_with_logits(
        logits, targets, weight=weight, pos_weight=positive_weight, reduction="sum"
    )
    return Sums.mean(total, logits.numel())


def presence_loss(logits: Tensor, presence: Tensor, groups: Sequence[Sequence[int]]) -> Sums:
    """Cross-entropy of "one of these labels holds" against `presence` (batch, groups), NaN where unknown.

    `logits` are (batch, labels); each group names the labels of a device. One of them holds with probability
    1 - prod(1 - p), the noisy-or. The mean is over what is known of the whole batch.
    """
    columns = logits.unbind(dim=1)
    of = [torch.stack([columns[label] for label in group], dim=1) for group in groups]
    none = torch.stack([functional.logsigmoid(-some).sum(dim=1) for some in of], dim=1)
    # Where next to nothing is likely, 1 - prod(1 - p) is the sum of p, whose logarithm keeps a slope to learn by.
    little = torch.stack([functional.logsigmoid(some).logsumexp(dim=1) for some in of], dim=1)
    some = torch.where(none > -1e-4, little, torch.log(-torch.expm1(none.clamp(max=-1e-4))))
    known = torch.isfinite(presence)
    there = torch.where(known, presence, torch.zeros_like(presence))
    loss = -(there * some + (1 - there) * none)
    return Sums.mean(torch.where(known, loss, torch.zeros_like(loss)).sum(), known.sum())


def feature_loss(student: Tensor, teacher: Tensor) -> Sums:
    """Mean squared error between two feature maps (batch, channels, height, width) before pooling."""
    return Sums.mean(functional.mse_loss(student, teacher, reduction="sum"), student.numel())


def balanced_weights(labels: np.ndarray) -> Tensor:
    """(labels,) float32: negatives per positive of each label of (films, labels), between 1 and `MOST_WEIGHT`."""
    positives = labels.sum(axis=0)
    return torch.tensor(np.clip((len(labels) - positives) / np.maximum(positives, 1), 1, MOST_WEIGHT)).float()


def maps_loss(logits: Tensor, wanted: Tensor, known: Tensor) -> list[tuple[float, Sums]]:
    """Loss of maps, in weighted parts: lines by cross-entropy and Dice, tips and landmarks by the focal loss of points.

    `logits` and `wanted` (in [0, 1], 1 at a point's own pixel alone) are (batch, 9, height, width) in `task.MAPS`
    order, `known` (batch, 9) 1 where the truth is known. Lines: mean cross-entropy over the pixels times `LINE_PIXELS`,
    plus 1 - Dice for each device that is there, its overlap and sizes summed over all films of the batch. Points: the
    penalty-reduced focal loss of CenterNet (Zhou et al., 2019, alpha 2, beta 4), a film and map. Each part is a mean
    over what is known.
    """
    lines, points = slice(0, _LINES), slice(_LINES, None)
    return [
        *_line_losses(logits[:, lines], wanted[:, lines], known[:, lines]),
        (1.0, _point_loss(logits[:, points], wanted[:, points], known[:, points])),
    ]


def _line_losses(logits: Tensor, wanted: Tensor, known: Tensor) -> list[tuple[float, Sums]]:
    seen = known[:, :, None, None]
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(2, 3))
    predicted, truth = torch.sigmoid(logits) * seen, wanted * seen
    both, sizes = (predicted * truth).sum(dim=(0, 2, 3)), (predicted + truth).sum(dim=(0, 2, 3))
    # 1 - (2 both + 1) / (sizes + 1), with a sum above and a sum below the line.
    dice = Sums(sizes - 2 * both, sizes, truth.sum(dim=(0, 2, 3)), smooth=1.0)
    return [(LINE_PIXELS, Sums.mean((entropy * known).sum(), known.sum())), (1.0, dice)]


def _point_loss(logits: Tensor, wanted: Tensor, known: Tensor) -> Sums:
    predicted = torch.sigmoid(logits)
    hit = (wanted >= 1).to(logits.dtype)
    right = hit * (1 - predicted) ** 2 * functional.logsigmoid(logits)
    wrong = (1 - hit) * (1 - wanted) ** 4 * predicted**2 * functional.logsigmoid(-logits)
    return Sums.mean((-(right + wrong).sum(dim=(2, 3)) * known).sum(), known.sum())
