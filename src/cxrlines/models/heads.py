"""Heads: from a feature map (b, c, h, w) to one logit a label (b, labels)."""

import itertools
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cxrlines.core.errors import Error
from cxrlines.models import HEADS
from cxrlines.task import DEVICE_OF, LABELS


class AveragePool(nn.Module):
    """Global average pooling: (b, c, h, w) -> (b, c)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class GeneralisedMeanPool(nn.Module):
    """Generalised mean (Radenović et al., 2018): the mean of x^p to the power 1/p, p learnt from 3.

    p = 1 is the average of the positive part, p -> infinity the maximum.
    """

    def __init__(self, p: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.floor = floor

    def forward(self, features: Tensor) -> Tensor:
        # In float32: a cube leaves the range of half precision.
        with torch.autocast(features.device.type, enabled=False):
            powers = features.float().clamp(min=self.floor) ** self.p
            return powers.mean(dim=(2, 3)) ** (1 / self.p)


class AverageMaxPool(nn.Module):
    """Average and maximum side by side: (b, c, h, w) -> (b, 2c)."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features.mean(dim=(2, 3)), features.amax(dim=(2, 3))), dim=1)


class AttentionHead(nn.Module):
    """The head of one device: features gated by one learnt map, pooled, and read by a small net."""

    def __init__(self, channels: int, outputs: int, dropout: float) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        widths = (channels, 64, 32, 16, 1)
        for before, after in itertools.pairwise(widths):
            steps += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.gate = nn.Sequential(*steps[:-1], nn.Sigmoid())
        self.read = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Dropout(dropout), nn.Linear(channels, outputs)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.read((features * self.gate(features)).mean(dim=(2, 3)))


class DeviceHeads(nn.Module):
    """The multi-head model: an attention head for each device, with an output for each of its labels."""

    def __init__(self, channels: int, dropout: float, labels: Sequence[str] = LABELS) -> None:
        super().__init__()
        outputs = Counter(DEVICE_OF[label].name for label in labels)  # devices in label order
        self.heads = nn.ModuleDict({name: AttentionHead(channels, n, dropout) for name, n in outputs.items()})

    def forward(self, features: Tensor) -> Tensor:
        # Labels are in LABELS order, device by device, so the heads' outputs side by side are the labels.
        return torch.cat([head(features) for head in self.heads.values()], dim=1)


def make_head(name: str, channels: int, dropout: float | None = None, labels: Sequence[str] = LABELS) -> nn.Module:
    """The head `name` for a feature map of `channels`; `dropout` None means 0.5 for `attention`, else none.

    `labels` are in `task.LABELS` order.

    Raises:
        Error: an unknown name, or a dropout outside [0, 1).
    """
    if name not in HEADS:
        raise Error(f"head: {name!r} is unknown", f"take one of: {', '.join(HEADS)}")
    if dropout is not None and not 0 <= dropout < 1:
        raise Error(f"dropout: {dropout!r} is not possible", "give a share from 0 to below 1")
    if name == "attention":
        return DeviceHeads(channels, 0.5 if dropout is None else dropout, labels)
    pool = {"gap": AveragePool, "gem": GeneralisedMeanPool, "concat": AverageMaxPool}[name]()
    pooled = 2 * channels if name == "concat" else channels
    return nn.Sequential(pool, nn.Dropout(dropout or 0.0), nn.Linear(pooled, len(labels)))
