"""The networks of a bundle in PyTorch, on the GPU where there is one. PyTorch is imported when it is needed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrlines.core.heatmaps import STRIDE
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.engines import Engine, Shown
from cxrlines.reading.manifest import Manifest
from cxrlines.task import LABELS, LABELS_OF, MAPS, Device

if TYPE_CHECKING:
    from torch import Tensor

    from cxrlines.models.two_step import Model


def load_models(bundle: Bundle) -> list["Model"]:
    """The models of a bundle on the CPU, ready to evaluate, in the manifest's order.

    `BundleError` for a config or weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from cxrlines.models.two_step import model_of
    from cxrlines.models.weights import load_into

    models = []
    for entry in bundle.manifest.models:
        data = bundle.read(entry.file)
        try:
            model = model_of(entry.config)
            load_into(model, _widened(load(data), model.state_dict(), bundle.manifest))
        except (ValueError, TypeError, SafetensorError) as error:
            raise BundleError(f"{bundle.folder / entry.file}: {error}") from error
        models.append(model.eval())
    return models


def _widened(
    tensors: Mapping[str, "Tensor"], wanted: Mapping[str, "Tensor"], manifest: Manifest
) -> dict[str, "Tensor"]:
    """Tensors of a model with fewer labels or heatmaps than the vocabulary has, filled up to the vocabulary's.

    What is filled in is computed and left out (`PyTorchEngine`).
    """
    whole = dict(tensors)
    absent = [device for device in Device if not {*manifest.labels} & {*LABELS_OF[device]}]
    for name, want in wanted.items():
        have = whole.get(name)
        if have is None and any(f".{device.name}." in name for device in absent):  # that device's own head
            whole[name] = want
        for own, every in ((manifest.labels, LABELS), (manifest.channels, MAPS)):
            if have is not None and have.shape != want.shape == (len(every), *have.shape[1:]) and len(have) == len(own):
                whole[name] = want.new_zeros(want.shape)
                whole[name][[every.index(one) for one in own]] = have.to(want.dtype)
    return whole


def _own(outputs: "Tensor", columns: "Tensor") -> "Tensor":
    """A model's outputs (b, n, ...) that are the bundle's own; the model may have just them, or the vocabulary's."""
    return outputs[:, columns] if outputs.shape[1] > len(columns) else outputs


def gives_maps(model: Any) -> bool:
    """Whether a model has a decoder, its own or its segmenter's."""
    return getattr(model, "decoder", None) is not None


class PyTorchEngine(Engine):
    """The models of a bundle on the device that reads.

    Probabilities are means over models and views; where the manifest calibrates folds, the mean over folds of the
    calibrated mean of each. Heatmaps are means over the models that give any, at the size of the largest one's.

    Args:
        fast: Whether models are made fast, which rounds otherwise: channels last, batch norms fused.

    Raises:
        BundleError: a config or weights that do not fit.
    """

    def __init__(self, bundle: Bundle, *, fast: bool = True) -> None:
        import torch

        from cxrlines.models.fuse_bn import fuse_batch_norms

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.manifest = bundle.manifest
        # Of the vocabulary's; tensors, as a list of columns would make a GPU wait.
        self.labels = torch.tensor([LABELS.index(label) for label in self.manifest.labels], device=self.device)
        self.channels = torch.tensor([MAPS.index(what) for what in self.manifest.channels], device=self.device)
        self.models: list[tuple[Any, int]] = []
        with torch.inference_mode(False):
            for model, size in zip(load_models(bundle), bundle.sizes, strict=True):
                if fast:
                    fuse_batch_norms(model, size)  # on the CPU, as a GPU's TF32 rounds more than fusing may change
                    model = model.to(memory_format=torch.channels_last)
                self.models.append((model.to(self.device), size))
        self.map_size = max((size for model, size in self.models if gives_maps(model)), default=None)

    def __call__(self, films: Sequence[Shown], *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """As `Engine`. A view a pass, so that memory does not grow with them."""
        import torch
        from torch.nn import functional

        rows: list[Tensor] = []
        folds: list[int] = []
        shown: list[Tensor] = []
        side = (self.map_size or 0) // STRIDE
        with torch.inference_mode():
            batches = {size: self._on_device([film[size] for film in films]) for size in films[0]}
            for (model, size), entry in zip(self.models, self.manifest.models, strict=True):
                plain, *others = batches[size]
                if maps and gives_maps(model):
                    features, logits = model.features_and_maps(plain)
                    scores = [model.classify(features)]
                    heat = torch.sigmoid(_own(logits, self.channels).float())
                    if heat.shape[2] != side:
                        heat = functional.interpolate(heat, (side, side), mode="bilinear", align_corners=False)
                    shown.append(heat)
                else:
                    scores = [model(plain)]
                scores += [model(view) for view in others]
                rows += [torch.sigmoid(_own(score, self.labels).double()) for score in scores]
                folds += [entry.fold] * len(scores)
            mean = self._mean(torch.stack(rows).cpu().numpy(), np.array(folds))
            return mean, torch.stack(shown).mean(dim=0).cpu().numpy() if shown else None

    def embed(self, films: Sequence[Shown]) -> np.ndarray:
        """As `Engine`."""
        import torch
        from torch.nn import functional

        model, size = self.models[0]
        with torch.inference_mode():
            plain = self._on_device([film[size][:1] for film in films])[0]
            return functional.normalize(model.features(plain).float().mean(dim=(2, 3))).cpu().numpy()

    def _on_device(self, films: Sequence[np.ndarray]) -> "Tensor":
        """Films (views, size, size) as (views, b, 1, size, size)."""
        import torch

        return torch.from_numpy(np.stack(films, axis=1)[:, :, None]).to(self.device)

    def _mean(self, rows: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """The ensemble's probabilities (b, labels) of those of its models and views (n, b, labels)."""
        if self.manifest.fold_calibration is None:
            return np.asarray(rows.mean(axis=0))
        calibration = Calibration(self.manifest.fold_calibration)
        each = [rows[folds == fold].mean(axis=0) for fold in np.unique(folds)]
        return np.asarray(np.mean([calibration.apply(row, self.manifest.labels) for row in each], axis=0))
