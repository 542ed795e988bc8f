"""The classifier: normalisation, a backbone, a head for the labels, and where wanted a decoder for heatmaps."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxrlines.models.backbones import Start, make_backbone, pixel_statistics
from cxrlines.models.decoder import MapDecoder
from cxrlines.models.heads import make_head
from cxrlines.task import DEVICE_OF, EXCLUSIVE, LABELS, MAP_NAMES, RANZCR_LABELS, RANZCR_MAPS


class Classifier(nn.Module):
    """Films to logits, one a label.

    Input: (b, in_channels, h, w), uint8 in 0-255 or floating point in [0, 1], as the store and the augmentation give
    them. Normalisation happens inside, with the pixel mean and standard deviation the backbone was trained with, so
    that training and reading cannot differ in it.

    Args:
        backbone: any timm model.
        head: one of `models.HEADS`.
        in_channels: 1 for a gray film, 3 for a film with lines drawn in, 1 + maps for a film with heatmaps.
        weights: `"imagenet"`, or `"none"` for random ones.
        dropout: before the last layer; None is the head's own (0.5 for `attention`, else 0).
        mean, std: pixel statistics, one each a channel; None takes the backbone's.
        decoder: whether it also predicts heatmaps of lines, tips and landmarks.
        exclusive: whether the states of an exclusive device (ETT) exclude each other: a softmax over them and "none",
            else a sigmoid each.
        labels: in `task.LABELS` order.
        maps: names of the decoder's heatmaps, in `task.MAP_NAMES` order.

    Raises:
        Error: an unknown backbone or head, a value out of range, or a decoder on a backbone that can have none.
        ValueError: other labels or heatmaps than the vocabulary's, or in another order.
        WeightsError: ImageNet weights that cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        head: str,
        *,
        in_channels: int = 1,
        weights: Start = "imagenet",
        dropout: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        decoder: bool = False,
        exclusive: bool = False,
        labels: Sequence[str] = LABELS,
        maps: Sequence[str] = tuple(MAP_NAMES),
    ) -> None:
        super().__init__()
        self.labels, self.map_names = _of_vocabulary("labels", labels, LABELS), _of_vocabulary("maps", maps, MAP_NAMES)
        self.backbone = make_backbone(backbone, in_channels=in_channels, weights=weights)
        self.head = make_head(head, self.backbone.channels, dropout, self.labels)
        self.decoder = MapDecoder(*self.backbone.levels, len(self.map_names)) if decoder else None
        self.exclusive = exclusive
        usual_mean, usual_std = pixel_statistics(backbone, in_channels)
        self._config: dict[str, Any] = {
            "backbone": backbone,
            "head": head,
            "in_channels": in_channels,
            "dropout": dropout,
            "mean": list(usual_mean if mean is None else mean),
            "std": list(usual_std if std is None else std),
            "labels": list(self.labels),
        }
        self._config |= {"decoder": True, "maps": list(self.map_names)} if decoder else {}
        self._config |= {"exclusive": True} if exclusive else {}
        # Not in the state: a grey student can then start from a colour teacher's weights.
        for name in ("mean", "std"):
            values = torch.tensor(self._config[name], dtype=torch.float32)
            if values.shape != (in_channels,):
                raise ValueError(f"{name}: {len(values)} values for {in_channels} input channels")
            self.register_buffer(name, values.reshape(1, -1, 1, 1), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map (b, c, h/32, w/32) before pooling of films x (b, in_channels, h, w)."""
        return self.backbone(self._normal(x))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (b, labels) of a feature map that `features` gave."""
        logits = self.head(features)
        return self._exclude(logits) if self.exclusive else logits

    def features_and_maps(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `features` gives, and the logits of the films' heatmaps (b, maps, h/2, w/2); only with one.

        With `rows` (m,) int64 the heatmaps are those films' alone, (m, maps, h/2, w/2); the decoder runs on no other.
        """
        assert self.decoder is not None
        x = self._normal(x)
        last, pyramid = self.backbone.pyramid(x)
        if rows is not None and len(rows) < len(x):
            x, pyramid = x[rows], [level[rows] for level in pyramid]
        return last, self.decoder(x, pyramid)

    def _normal(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            x = x.to(self.mean.dtype) / 255
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, labels) of films x (b, in_channels, h, w)."""
        return self.classify(self.features(x))

    def config(self) -> dict[str, Any]:
        """What `from_config` needs to build this model again; plain JSON values."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Classifier":
        """The model of a `config()`, with random weights to be replaced by `weights.load_into`.

        A config of cxrlines 0.2 or older names no labels and heatmaps: they are RANZCR CLiP's.
        """
        known = {name: value for name, value in config.items() if name != "drop_path"}  # of training alone
        return cls(**{"labels": RANZCR_LABELS, "maps": RANZCR_MAPS} | known, weights="none")

    def _exclude(self, logits: Tensor) -> Tensor:
        """Logits whose sigmoids, for an exclusive device's states, are a softmax over them and "none" (logit 0)."""
        columns = list(logits.unbind(dim=1))  # a list of columns as an index would make a GPU wait
        for device in EXCLUSIVE:
            mine = [place for place, label in enumerate(self.labels) if DEVICE_OF[label] is device]
            scores = [torch.zeros_like(columns[0]), *(logits[:, label] for label in mine)]
            for place, label in enumerate(mine, start=1):
                others = torch.stack(scores[:place] + scores[place + 1 :], dim=1)
                columns[label] = scores[place] - others.logsumexp(dim=1)
        return torch.stack(columns, dim=1)


def _of_vocabulary(field: str, names: Sequence[str], vocabulary: Collection[str]) -> tuple[str, ...]:
    if not names or list(names) != [name for name in vocabulary if name in names]:
        raise ValueError(f"{field}: {', '.join(names)}; allowed, in this order: {', '.join(vocabulary)}")
    return tuple(names)
