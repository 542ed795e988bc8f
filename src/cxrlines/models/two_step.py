"""The two-step model: heatmaps by a segmenter, read beside the film by a classifier; and models from their config."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.models.classifier import Classifier


class TwoStep(nn.Module):
    """A frozen segmenter's heatmaps beside the film, read by a classifier; used as a `Classifier` is.

    Args:
        segmenter: a classifier with a decoder, for gray films. It is never trained here, and always evaluates.
        classifier: one whose `in_channels` are 1 + the segmenter's heatmaps.
    """

    def __init__(self, segmenter: Classifier, classifier: Classifier) -> None:
        super().__init__()
        self.segmenter = segmenter.eval().requires_grad_(False)
        self.classifier = classifier

    def train(self, mode: bool = True) -> "TwoStep":
        super().train(mode)
        self.segmenter.eval()
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The classifier's."""
        return self.classifier.labels

    @property
    def map_names(self) -> tuple[str, ...]:
        """The segmenter's."""
        return self.segmenter.map_names

    @property
    def backbone(self) -> nn.Module:
        """The classifier's."""
        return self.classifier.backbone

    @property
    def decoder(self) -> nn.Module | None:
        """The segmenter's."""
        return self.segmenter.decoder

    def features(self, x: Tensor, maps: Tensor | None = None) -> Tensor:
        """The last feature map of films x (b, 1, h, w), with heatmaps (b, maps, h/2, w/2), none: the segmenter's."""
        return self.classifier.features(self._seen(x, self.maps(x) if maps is None else maps))

    def maps(self, x: Tensor) -> Tensor:
        """The segmenter's heatmaps (b, maps, h/2, w/2), probabilities, of films x (b, 1, h, w)."""
        with torch.no_grad():
            return torch.sigmoid(self.segmenter.features_and_maps(x)[1])

    def classify(self, features: Tensor) -> Tensor:
        """Logits (b, labels) of a feature map that `features` gave."""
        return self.classifier.classify(features)

    def features_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `features` gives, and the logits (b, maps, h/2, w/2) of the films' heatmaps."""
        with torch.no_grad():
            logits = self.segmenter.features_and_maps(x)[1]
        return self.features(x, torch.sigmoid(logits)), logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, labels) of films x (b, 1, h, w)."""
        return self.classify(self.features(x))

    def config(self) -> dict[str, Any]:
        """What `model_of` needs to build this model again; plain JSON values."""
        return {"segmenter": self.segmenter.config(), "classifier": self.classifier.config()}

    def _seen(self, x: Tensor, maps: Tensor) -> Tensor:
        if not x.is_floating_point():
            x = x.to(maps.dtype) / 255
        larger = functional.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat((x, larger.to(x.dtype)), dim=1)


Model = Classifier | TwoStep
"""What reads films."""


def model_of(config: Mapping[str, Any]) -> Model:
    """The model of a `config()`, with random weights to be replaced by `weights.load_into`.

    Raises `TypeError` or `ValueError` for a config that is none.
    """
    if "segmenter" in config:
        if "classifier" not in config:
            raise ValueError("config: it has a segmenter, but no classifier; a two-step model has both")
        return TwoStep(Classifier.from_config(config["segmenter"]), Classifier.from_config(config["classifier"]))
    return Classifier.from_config(config)
