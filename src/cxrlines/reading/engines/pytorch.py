"""The networks of a bundle in PyTorch, on the GPU where there is one. PyTorch is imported when it is needed."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrlines.core.heatmaps import STRIDE
from cxrlines.core.transform import Size, height_width
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.engines import Engine, Shown

if TYPE_CHECKING:
    from torch import Tensor

    from cxrlines.models.classifier import Model


CLOSE = 1e-4
"""Logits that differ by no more are the same: float32 rounds some 1e-6 of it away."""


def load_models(bundle: Bundle) -> list["Model"]:
    """The models of a bundle on the CPU, ready to evaluate, in the manifest's order.

    `BundleError` for a config or weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from cxrlines.models.classifier import model_of
    from cxrlines.models.weights import load_into

    models = []
    for entry in bundle.manifest.models:
        path = bundle.folder / entry.file  # its sha256 was checked with the bundle's
        try:
            model = model_of(entry.config)
            load_into(model, load_file(path))
        except (ValueError, TypeError, OSError, SafetensorError) as error:
            raise BundleError(f"{path}: {error}") from error
        models.append(model.eval())
    return models


def gives_maps(model: Any) -> bool:
    """Whether a model has a decoder, its own or its segmenter's."""
    return getattr(model, "decoder", None) is not None


def fuse_batch_norms(model: Any, size: Size) -> int:
    """Fuse an evaluating model's batch norms in place, as far as that changes nothing; returns how many.

    Its logits of a film of `size` must stay the same, to `CLOSE`; else nothing is fused.
    """
    import torch

    from cxrlines.models.fuse_bn import fuse, in_float32, watched

    def logits() -> "list[Tensor]":
        if not gives_maps(model):
            return [model(film)]
        features, maps = model.features_and_maps(film)
        return [model.classify(features), maps]

    place = next(model.parameters(), None)
    if place is None:
        return 0
    film = torch.rand((1, 1, *height_width(size)), generator=torch.Generator().manual_seed(0)).to(place)
    with torch.inference_mode(False), torch.no_grad(), in_float32():
        with watched(model) as pairs:
            before = logits()
        undo = fuse(model, pairs)
        after = logits()
    if all(torch.allclose(one, other, rtol=CLOSE, atol=CLOSE) for one, other in zip(before, after, strict=True)):
        return len(pairs)
    undo()
    return 0


class PyTorchEngine(Engine):
    """The models of a bundle on the device that reads.

    Probabilities are those of the bundle's average over members, each the mean over its folds and views; where the
    manifest calibrates folds, the mean over folds of the calibrated average of each. Heatmaps are means over the models
    that give any, at the size of the largest one's.

    Args:
        fast: Whether models are made fast, which rounds otherwise: channels last, batch norms fused.

    Raises:
        BundleError: a config or weights that do not fit.
    """

    def __init__(self, bundle: Bundle, *, fast: bool = True) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.manifest, self.map_names, self.averaging = bundle.manifest, bundle.map_names, bundle.averaging
        self.models: list[tuple[Any, Size]] = []
        with torch.inference_mode(False):
            for model, size in zip(load_models(bundle), bundle.sizes, strict=True):
                if fast:
                    fuse_batch_norms(model, size)  # on the CPU, as a GPU's TF32 rounds more than fusing may change
                    model = model.to(memory_format=torch.channels_last)
                self.models.append((model.to(self.device), size))
        with_maps = [size for model, size in self.models if gives_maps(model)]
        self.map_size = max(with_maps, key=lambda size: math.prod(height_width(size)), default=None)

    def __call__(self, films: Sequence[Shown], *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """As `Engine`. A view a pass, so that memory does not grow with them."""
        import torch
        from torch.nn import functional

        rows: list[Tensor] = []
        folds: list[int] = []
        members: list[str] = []
        shown: list[Tensor] = []
        sides = tuple(side // STRIDE for side in height_width(self.map_size or 0))
        with torch.inference_mode():
            batches = {size: self._on_device([film[size] for film in films]) for size in films[0]}
            for (model, size), entry in zip(self.models, self.manifest.models, strict=True):
                plain, *others = batches[size]
                labels = [model.labels.index(label) for label in self.manifest.labels]
                if maps and gives_maps(model):
                    features, logits = model.features_and_maps(plain)
                    scores = [model.classify(features)]
                    heat = torch.sigmoid(logits[:, self._maps_of(model)].float())
                    if heat.shape[2:] != sides:
                        heat = functional.interpolate(heat, sides, mode="bilinear", align_corners=False)
                    shown.append(heat)
                else:
                    scores = [model(plain)]
                scores += [model(view) for view in others]
                rows += [torch.sigmoid(score[:, labels].double()) for score in scores]
                folds += [entry.fold] * len(scores)
                members += [entry.name] * len(scores)
            mean = self._mean(torch.stack(rows).cpu().numpy(), np.array(folds), np.array(members))
            return mean, torch.stack(shown).mean(dim=0).cpu().numpy() if shown else None

    def embed(self, films: Sequence[Shown]) -> np.ndarray:
        """As `Engine`."""
        import torch
        from torch.nn import functional

        model, size = self.models[0]
        with torch.inference_mode():
            plain = self._on_device([film[size][:1] for film in films])[0]
            return functional.normalize(model.features(plain).float().mean(dim=(2, 3))).cpu().numpy()

    def _maps_of(self, model: Any) -> list[int]:
        """Which of a model's heatmaps are the bundle's, in the bundle's order."""
        return [list(model.map_names).index(name) for name in self.map_names]

    def _on_device(self, films: Sequence[np.ndarray]) -> "Tensor":
        """Films (views, h, w) as (views, b, 1, h, w)."""
        import torch

        return torch.from_numpy(np.stack(films, axis=1)[:, :, None]).to(self.device)

    def _mean(self, rows: np.ndarray, folds: np.ndarray, members: np.ndarray) -> np.ndarray:
        """The ensemble's probabilities (b, labels) of those of its models and views (n, b, labels)."""
        if self.manifest.fold_calibration is None:
            return self._averaged(rows, members)
        calibration = Calibration(self.manifest.fold_calibration)
        each = [self._averaged(rows[folds == fold], members[folds == fold]) for fold in np.unique(folds)]
        return np.asarray(np.mean([calibration.apply(row, self.manifest.labels) for row in each], axis=0))

    def _averaged(self, rows: np.ndarray, members: np.ndarray) -> np.ndarray:
        """The average (b, labels) over members, of each the mean over its models and views (n, b, labels)."""
        names = list(dict.fromkeys(members.tolist()))
        values = np.stack([rows[members == name].mean(axis=0) for name in names])
        return self.averaging.apply(values, names, self.manifest.labels)
