"""Networks that read films: a backbone with a head for the labels and a decoder for heatmaps, alone or in two steps.

`Classifier` is normalisation, a backbone, a head, and where wanted a decoder. `TwoStep` reads the heatmaps of one
beside the film by another. `model_of` makes either from its config.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.models import HEADS
from cxrlines.models.backbones import Start, make_backbone, pixel_statistics
from cxrlines.models.decoders import MapDecoder
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
        decoder: one of `models.DECODERS`, for heatmaps of lines, tips and landmarks besides; None for labels alone.
        exclusive: whether the states of an exclusive device (ETT) exclude each other: a softmax over them and "none",
            else a sigmoid each.
        labels: in `task.LABELS` order.
        maps: names of the decoder's heatmaps, in `task.MAP_NAMES` order.

    Raises:
        Error: an unknown backbone, head or decoder, a value out of range, or a backbone that can have no decoder.
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
        decoder: str | None = None,
        exclusive: bool = False,
        labels: Sequence[str] = LABELS,
        maps: Sequence[str] = tuple(MAP_NAMES),
    ) -> None:
        super().__init__()
        self.labels, self.map_names = _of_vocabulary("labels", labels, LABELS), _of_vocabulary("maps", maps, MAP_NAMES)
        self.backbone = make_backbone(backbone, in_channels=in_channels, weights=weights)
        self.head = make_head(head, self.backbone.channels, dropout, self.labels)
        self.decoder = MapDecoder(decoder, *self.backbone.levels, len(self.map_names)) if decoder else None
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
        self._config |= {"decoder": decoder, "maps": list(self.map_names)} if decoder else {}
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
        return self.logits_of(self.head(features))

    def logits_of(self, scores: Tensor) -> Tensor:
        """Logits (b, labels) of the head's scores (b, labels): these, but for the states of an exclusive device."""
        return self._exclude(scores) if self.exclusive else scores

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

        The config may be one of an older version (`current`).
        """
        return cls(**current(config), weights="none")

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


def current(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `Classifier.config()` as this version writes it, with what is left out where it is usual.

    One of cxrlines 0.2 or older names no labels and heatmaps: they are RANZCR CLiP's. An older one also says `true` for
    a U-Net's decoder.
    """
    known = {name: value for name, value in config.items() if name != "drop_path"}  # of training alone
    known |= {"decoder": "unet"} if known.get("decoder") is True else {}
    return {"labels": list(RANZCR_LABELS), "maps": list(RANZCR_MAPS), "decoder": None, "exclusive": False} | known


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


def _of_vocabulary(field: str, names: Sequence[str], vocabulary: Collection[str]) -> tuple[str, ...]:
    if not names or list(names) != [name for name in vocabulary if name in names]:
        raise ValueError(f"{field}: {', '.join(names)}; allowed, in this order: {', '.join(vocabulary)}")
    return tuple(names)
