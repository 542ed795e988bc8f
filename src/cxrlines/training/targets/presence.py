"""Presence of devices as a training target: cross-entropy of the noisy-or of a device's labels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.task import DEVICE_OF, EXCLUSIVE, LABELS, Device
from cxrlines.training.targets.base import BatchOutputs, FilmSource, Losses, Sums, Target, TargetData

if TYPE_CHECKING:
    from torch import Tensor


GROUPS = [
    *([i for i, label in enumerate(LABELS) if DEVICE_OF[label] == device] for device in Device),
    list(range(len(LABELS))),
]
"""The labels behind each column of `io.external.PRESENCE`: a device's own, and any at all."""
STATES = [[i for i, label in enumerate(LABELS) if DEVICE_OF[label] == device] for device in EXCLUSIVE]
"""The labels of each exclusive device."""


class PresenceTarget(Target):
    """The presence of each device: as an external set says it, or the own films' labels and lines; so that a film
    teaches the presence of a device whose state nobody knows. It is there by the noisy-or of its labels; where a
    member's states are `exclusive`, by their sum, and presence then moves all of them alike."""

    key = "presence"
    mixes = True

    def data(self, films: FilmSource) -> TargetData:
        presence = films.presence()
        if not np.isfinite(presence).any():
            raise Error(
                f"targets.presence: of no film of the set {films.set} is the presence of a tube known",
                "take a set that does, PadChest for one, or train towards soft labels",
            )
        return TargetData({"presence": presence})

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        exclusive = STATES if outputs.exclusive else []
        return [(1.0, presence_loss(outputs.scores, batch["presence"], GROUPS, exclusive))]

    def describe(self) -> tuple[str, str]:
        return "tubes the set names", "BCE (noisy-or)"


def presence_loss(
    scores: "Tensor", presence: "Tensor", groups: Sequence[Sequence[int]], exclusive: Sequence[Sequence[int]] = ()
) -> Sums:
    """Cross-entropy of "one of these labels holds" against `presence` (batch, groups), NaN where unknown.

    `scores` are (batch, labels) logits; each group names the labels of a device. One of them holds with probability
    1 - prod(1 - p), the noisy-or. Of the labels of each list in `exclusive`, all in the same groups, at most one holds:
    theirs are the scores of a softmax with "none" (score 0), and count as one label. The mean is over what is known of
    the whole batch.
    """
    import torch
    from torch.nn import functional

    columns = dict(enumerate(scores.unbind(dim=1)))
    for states in exclusive:
        own = torch.stack([columns.pop(state) for state in states], dim=1)
        # log(P(some) / P(none)). Its slope is given to all states alike, so that which one it is stays as it was: by
        # their shares, the likeliest would gain most at each step until it is sure, though nobody said which it is.
        level = own.mean(dim=1)
        columns[states[0]] = (own.logsumexp(dim=1) - level).detach() + level
    of = [torch.stack([columns[label] for label in group if label in columns], dim=1) for group in groups]
    none = torch.stack([functional.logsigmoid(-some).sum(dim=1) for some in of], dim=1)
    # Where next to nothing is likely, 1 - prod(1 - p) is the sum of p, whose logarithm keeps a slope to learn by.
    little = torch.stack([functional.logsigmoid(some).logsumexp(dim=1) for some in of], dim=1)
    some = torch.where(none > -1e-4, little, torch.log(-torch.expm1(none.clamp(max=-1e-4))))
    known = torch.isfinite(presence)
    there = torch.where(known, presence, torch.zeros_like(presence))
    loss = -(there * some + (1 - there) * none)
    return Sums.mean(torch.where(known, loss, torch.zeros_like(loss)).sum(), known.sum())
