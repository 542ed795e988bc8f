"""A film's eleven logits, and where wanted its maps: normalisation, a backbone, a head, a decoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxrlines.models.backbones import Start, make_backbone, pixel_statistics
from cxrlines.models.decoder import MapDecoder
from cxrlines.models.heads import make_head
from cxrlines.task import EXCLUSIVE, LABEL_INDEX, LABELS_OF


class Classifier(nn.Module):
    """Films to logits in `task.LABELS` order.

    Input: (b, in_channels, h, w), uint8 in 0-255 or floating point in [0, 1], as the store and the augmentation give
    them. Normalisation happens inside, with the pixel mean and standard deviation the backbone was trained with, so
    that training and reading cannot differ in it.

    Args:
        backbone: any timm model.
        head: one of `heads.HEADS`.
        in_channels: 1 for a gray film, 3 for a film with lines drawn in, 10 for a film with its 9 maps.
        weights: `"imagenet"`, or `"none"` for random ones.
        dropout: before the last layer; None is the head's own (0.5 for `attention`, else 0).
        drop_path: stochastic depth of the backbone.
        mean, std: pixel statistics, one each a channel; None takes the backbone's.
        decoder: whether it also gives maps of lines, tips and landmarks.
        exclusive: whether the states of an ETT exclude each other: a softmax over them and "none", else a sigmoid each.

    Raises:
        Error: an unknown backbone or head, a value out of range, or a decoder on a backbone that can have none.
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
        drop_path: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        decoder: bool = False,
        exclusive: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, in_channels=in_channels, weights=weights, drop_path=drop_path)
        self.head = make_head(head, self.backbone.channels, dropout)
        self.decoder = MapDecoder(*self.backbone.levels) if decoder else None
        self.exclusive = exclusive
        usual_mean, usual_std = pixel_statistics(backbone, in_channels)
        self._config: dict[str, Any] = {
            "backbone": backbone,
            "head": head,
            "in_channels": in_channels,
            "dropout": dropout,
            "drop_path": drop_path,
            "mean": list(usual_mean if mean is None else mean),
            "std": list(usual_std if std is None else std),
        } | {name: True for name, on in (("decoder", decoder), ("exclusive", exclusive)) if on}
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
        """Logits (b, 11) of a feature map that `features` gave."""
        logits = self.head(features)
        return _exclusive(logits) if self.exclusive else logits

    def features_and_maps(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `features` gives, and the logits (b, 9, h/2, w/2) of the films' maps; only with a decoder.

        With `rows` (m,) int64 the maps are those films' alone, (m, 9, h/2, w/2), and the decoder is run on no other.
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
        """Logits (b, 11) in `task.LABELS` order of films x (b, in_channels, h, w)."""
        return self.classify(self.features(x))

    def config(self) -> dict[str, Any]:
        """What `from_config` needs to build this model again; plain JSON values."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Classifier":
        """The model of a `config()`, with random weights to be replaced by `weights.load_into`."""
        return cls(**config, weights="none")


def _exclusive(logits: Tensor) -> Tensor:
    """Logits whose sigmoids, for the states of an exclusive device, are a softmax over them and "none" (logit 0)."""
    columns = list(logits.unbind(dim=1))  # a list of columns as an index would make a GPU wait
    for device in EXCLUSIVE:
        mine = [LABEL_INDEX[label] for label in LABELS_OF[device]]
        scores = [torch.zeros_like(columns[0]), *(logits[:, label] for label in mine)]
        for place, label in enumerate(mine, start=1):
            others = torch.stack(scores[:place] + scores[place + 1 :], dim=1)
            columns[label] = scores[place] - others.logsumexp(dim=1)
    return torch.stack(columns, dim=1)
