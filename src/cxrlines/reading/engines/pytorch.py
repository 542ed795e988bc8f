"""The networks of a bundle in PyTorch, on the GPU where there is one. PyTorch is imported when it is needed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrlines.core.transform import Size, height_width
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.engines.averaged import AveragedNetworks

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


class PyTorchNetwork:
    """A model in PyTorch, as `engines.Network`; it computes where its parameters lie."""

    def __init__(self, model: "Model", device: Any) -> None:
        self.model, self.device = model.to(device), device
        self.labels = tuple(model.labels)
        self.map_names = tuple(model.map_names) if gives_maps(model) else ()

    def start(self, films: np.ndarray, *, maps: bool = False) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """As `Network`. On a GPU it is waited for only when the result is asked for."""
        import torch

        with torch.inference_mode():
            shown = torch.from_numpy(films).to(self.device, non_blocking=True)
            if maps and self.map_names:
                features, heat = self.model.features_and_maps(shown)
                given = [self.model.classify(features).float(), torch.sigmoid(heat.float())]
            else:
                given = [self.model(shown).float()]

        def wait() -> tuple[np.ndarray, np.ndarray | None]:
            logits, *rest = (tensor.cpu().numpy() for tensor in given)
            return logits, rest[0] if rest else None

        return wait

    def embed(self, films: np.ndarray) -> np.ndarray:
        """As `Network`."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            features = self.model.features(torch.from_numpy(films).to(self.device))
            return np.asarray(functional.normalize(features.float().mean(dim=(2, 3))).cpu().numpy())


class PyTorchEngine(AveragedNetworks):
    """The models of a bundle in PyTorch, on the GPU where there is one.

    Args:
        fast: Whether models are made fast, which rounds otherwise: channels last, batch norms fused.

    Raises:
        BundleError: a config or weights that do not fit.
    """

    def __init__(self, bundle: Bundle, *, fast: bool = True) -> None:
        import torch

        device, networks = torch.device("cuda" if torch.cuda.is_available() else "cpu"), []
        with torch.inference_mode(False):
            for model, size in zip(load_models(bundle), bundle.sizes, strict=True):
                if fast:
                    fuse_batch_norms(model, size)  # on the CPU, as a GPU's TF32 rounds more than fusing may change
                    model = model.to(memory_format=torch.channels_last)
                networks.append(PyTorchNetwork(model, device))
        super().__init__(bundle, networks)
