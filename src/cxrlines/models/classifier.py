"""A film's eleven logits: normalisation, a backbone, a head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxrlines.models.backbones import Start, make_backbone, pixel_statistics
from cxrlines.models.heads import make_head


class Classifier(nn.Module):
    """Films to logits in `task.LABELS` order.

    Input: (b, in_channels, h, w), uint8 in 0-255 or floating point in [0, 1], as the store and the augmentation give
    them. Normalisation happens inside, with the pixel mean and standard deviation the backbone was trained with, so
    that training and reading cannot differ in it.

    Args:
        backbone: any timm model.
        head: one of `heads.HEADS`.
        in_channels: 1 for a gray film, 3 for a film with lines drawn in.
        weights: `"imagenet"`, or `"none"` for random ones.
        dropout: before the last layer; None is the head's own (0.5 for `attention`, else 0).
        drop_path: stochastic depth of the backbone.
        mean, std: pixel statistics, one each a channel; None takes the backbone's.

    Raises:
        ValueError: an unknown backbone or head, or a value out of range.
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
    ) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, in_channels=in_channels, weights=weights, drop_path=drop_path)
        self.head = make_head(head, self.backbone.channels, dropout)
        usual_mean, usual_std = pixel_statistics(backbone, in_channels)
        self._config: dict[str, Any] = {
            "backbone": backbone,
            "head": head,
            "in_channels": in_channels,
            "dropout": dropout,
            "drop_path": drop_path,
            "mean": list(usual_mean if mean is None else mean),
            "std": list(usual_std if std is None else std),
        }
        # Not in the state: a grey student can then start from a colour teacher's weights.
        for name in ("mean", "std"):
            values = torch.tensor(self._config[name], dtype=torch.float32)
            if values.shape != (in_channels,):
                raise ValueError(f"{name}: {len(values)} values for {in_channels} input channels")
            self.register_buffer(name, values.reshape(1, -1, 1, 1), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map (b, c, h/32, w/32) before pooling of films x (b, in_channels, h, w)."""
        if not x.is_floating_point():
            x = x.to(self.mean.dtype) / 255
        return self.backbone((x - self.mean) / self.std)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (b, 11) of a feature map that `features` gave."""
        return self.head(features)

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
