"""Retrieval as a training target: films of similar labels and tips become near neighbours of each other.

A metric is learnt on the embedding that the index and the neighbours' blend search: the last feature map, pooled by its
mean, at length 1. The loss is the contrastive one of Khosla et al. (2020, Supervised contrastive learning) with graded
positives, as Dufumier et al. (2021, Contrastive learning with continuous proxy meta-data for 3D MRI classification)
weigh them: each film's softmax of its cosines with the others of the batch is drawn to the softmax of their similarity.
It is least where cosines differ as similarities do.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.task import DEVICE_OF, LABELS, STATE_OF, Device, Landmark, State
from cxrlines.training.targets.base import BatchOutputs, FilmSource, Losses, Sums, Target, TargetData

if TYPE_CHECKING:
    from torch import Tensor

_NEVER = -1e9
"""A logit of what is never a neighbour; finite, so that a film without any has no NaN."""


class RetrievalTarget(Target):
    """An embedding in which films with the same labels, and with tips in the same places, are near each other.

    Two films are as alike as the labels they share are among those that either has (Jaccard). Where the tips of a
    shared label's device are annotated on both films, the label counts by how near those tips lie. All pairs of a batch
    are learnt from, those of several processes too; with accumulation, pairs within a micro-batch.
    """

    key = "retrieval"
    own_films = True
    lacking = "have no labels; their targets are soft and presence"
    classifies = False

    # temperature of both softmaxes: the lower, the more only the most similar films count
    temperature: Annotated[float, Field(ge=0.01, le=1)] = 0.1
    # length scale of tip distances, as a share of the film's side: a shared label counts exp(-distance / this); null:
    # labels alone
    tips: Annotated[float, Field(gt=0, le=1)] | None = 0.1

    def data(self, films: FilmSource) -> TargetData:
        """`tips` (n, devices, most of one device, 2) and `carina` (n, 2) in shares of the film's side, NaN: unknown."""
        if self.tips is None:
            return TargetData({})
        carina = films.landmarks[:, list(Landmark).index(Landmark.CARINA)] / films.side
        return TargetData({"tips": tip_places(films.lines(), films.side), "carina": carina.astype(np.float32)})

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        from cxrlines.training import distributed

        embedding, mine = distributed.of_all(outputs.embedding)
        labels, _ = distributed.of_all(batch["labels"])
        nearness = None
        if self.tips is not None:
            (tips, _), (carina, _) = distributed.of_all(batch["tips"]), distributed.of_all(batch["carina"])
            nearness = tip_nearness(tips, carina, self.tips)
        similarity = label_similarity(labels, nearness)
        return [(1.0, retrieval_loss(embedding, similarity, self.temperature, mine))]

    def describe(self) -> tuple[str, str]:
        return f"neighbours of similar labels{'' if self.tips is None else ' and tips'}", "contrastive"


def retrieval_loss(embedding: "Tensor", similarity: "Tensor", temperature: float, mine: slice = slice(None)) -> Sums:
    """Mean over films of the Kullback-Leibler divergence from the softmax of similarities to that of cosines.

    `embedding` (b, c) of length 1; `similarity` (b, b) in [0, 1], NaN where unknown: such a pair is left out, and so is
    a film with itself. Only the films `mine` are summed up, each against all others. 0 where cosines and similarities
    of a film differ by a constant.
    """
    import torch
    from torch.nn import functional

    with torch.autocast(embedding.device.type, enabled=False):
        cosine = embedding[mine] @ embedding.T
    out = (similarity.isnan() | torch.eye(len(similarity), dtype=torch.bool, device=similarity.device))[mine]
    alike = similarity[mine].to(cosine.dtype).nan_to_num()
    predicted = (cosine / temperature).masked_fill(out, _NEVER).log_softmax(dim=1)
    wanted = (alike / temperature).masked_fill(out, _NEVER).log_softmax(dim=1)
    divergence = functional.kl_div(predicted, wanted, reduction="none", log_target=True).sum(dim=1)
    has_others = ~out.all(dim=1)
    return Sums.mean((divergence * has_others).sum(), has_others.sum())


def label_similarity(labels: "Tensor", nearness: "Tensor | None" = None) -> "Tensor":
    """How alike films are by their `labels` (b, labels) in [0, 1], NaN where unknown: (b, b) in [0, 1].

    The labels that both have, over those that either has, among those known of both; 1 where neither has any, NaN where
    none is known of both. With `nearness` (b, b, devices) in [0, 1] a shared label counts by that of its device.
    """
    import torch

    known, labels = labels.isfinite(), labels.nan_to_num()
    of_both = known[:, None] & known[None]
    shared = torch.minimum(labels[:, None], labels[None]) * of_both
    either = (torch.maximum(labels[:, None], labels[None]) * of_both).sum(dim=2)
    if nearness is not None:
        devices = nearness.unbind(dim=2)  # a list of columns as an index would make a GPU wait
        shared = shared * torch.stack([devices[place] for place in _DEVICES], dim=2)
    alike = torch.where(either > 0, shared.sum(dim=2) / either.clamp(min=1e-6), 1.0)
    return torch.where(of_both.any(dim=2), alike, torch.nan)


_DEVICES = [list(Device).index(DEVICE_OF[label]) for label in LABELS]
"""The place of each label's device among the devices."""


def tip_nearness(tips: "Tensor", carina: "Tensor", reach: float) -> "Tensor":
    """How near the tips of each device lie on two films: (b, b, devices), exp(-distance / `reach`) in [0, 1].

    `tips` (b, devices, k, 2), NaN where there is none, and `carina` (b, 2), NaN where unknown, are in one unit. The
    distance is the mean over both films' tips of that to the other's nearest; where both carinas are known, measured
    from these. A pair of which one film's tips are unknown is as near as the batch's others are on average, so that
    being annotated makes no film a worse or a better neighbour; 1 where there are no others.
    """
    import torch

    there = tips.isfinite().all(dim=3)
    moved = (carina[:, None] - carina[None]).nan_to_num()
    apart = tips[:, None, :, :, None] - tips[None, :, :, None, :] - moved[:, :, None, None, None]
    distance = apart.square().sum(dim=5).sqrt().nan_to_num(nan=torch.inf)
    nearest = torch.where(there[:, None], distance.amin(dim=4), 0.0).sum(dim=3) / there.sum(dim=2)[:, None].clamp(min=1)
    near = torch.exp(-(nearest + nearest.transpose(0, 1)) / 2 / reach)
    some = there.any(dim=2)
    known = some[:, None] & some[None] & ~torch.eye(len(tips), dtype=torch.bool, device=tips.device)[:, :, None]
    count = known.sum(dim=(0, 1))
    usual = torch.where(count > 0, torch.where(known, near, 0.0).sum(dim=(0, 1)) / count.clamp(min=1), 1.0)
    return torch.where(known, near, usual)


def tip_places(lines: Sequence[Sequence[DrawnLine]], side: tuple[int, int]) -> np.ndarray:
    """The tips that are seen of the lines of n films: (n, devices, most of one device, 2) float32 [x, y].

    A line whose label says that its tip is off the film has none. In shares of `side`, the film's width and height in
    the points' px; NaN where a film has no more of a device.
    """
    seen = [[one for one in film if one.tip_seen and STATE_OF[one.label] is not State.INCOMPLETE] for film in lines]
    ends = [[[one.points[-1] for one in film if DEVICE_OF[one.label] is device] for device in Device] for film in seen]
    most = max((len(one) for film in ends for one in film), default=0)
    tips = np.full((len(lines), len(Device), max(1, most), 2), np.nan, np.float32)
    for row, film in zip(tips, ends, strict=True):
        for places, found in zip(row, film, strict=True):
            places[: len(found)] = np.reshape(found, (-1, 2)) / side
    return tips
