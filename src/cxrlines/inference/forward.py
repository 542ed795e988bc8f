"""The models of a bundle at work: prepared films in, mean probabilities and mean maps out."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrlines.inference.bundle import Bundle
from cxrlines.inference.folded import fold
from cxrlines.models.two_step import Model

Shown = dict[int, np.ndarray]
"""A film as models see it: px a side -> uint8 (views, size, size), the plain view first."""


def gives_maps(model: Model) -> bool:
    """Whether a model has a decoder, its own or its segmenter's."""
    return getattr(model, "decoder", None) is not None


class Forward:
    """A copy of a bundle's models on the device that reads, the GPU where there is one.

    Args:
        fast: Whether they are made fast, which rounds otherwise: channels last, batch norms folded.
    """

    def __init__(self, bundle: Bundle, *, fast: bool = True) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A copy, as two readers of one bundle would fold the same norms at once, and a folded model cannot be trained.
        self.models: list[tuple[Model, int]] = [
            (copy.deepcopy(model).to(self.device), size)
            for model, size in zip(bundle.models, bundle.sizes, strict=True)
        ]
        for model, size in self.models if fast else ():
            fold(model.to(memory_format=torch.channels_last), size)
        self.map_size = max((size for model, size in self.models if gives_maps(model)), default=None)
        """px a side of the film whose maps are given; None where no model gives any."""

    @torch.inference_mode()
    def __call__(self, films: Sequence[Shown], *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities, float64 (b, 11), and if wanted and there are any the maps, float32 (b, 9, h, w) in [0, 1].

        Both are means over the models; probabilities also over the views. Films must have the same number of views. A
        view a pass, so that memory does not grow with them. Maps are of the plain view, of a film of `map_size`.
        """
        batches = {
            size: torch.from_numpy(np.stack([film[size] for film in films], axis=1)[:, :, None]).to(self.device)
            for size in films[0]
        }
        scores: list[Tensor] = []
        shown: list[Tensor] = []
        for model, size in self.models:
            plain, *others = batches[size]
            if maps and gives_maps(model):
                features, logits = model.features_and_maps(plain)
                scores.append(model.classify(features))
                shown.append(self._sized(torch.sigmoid(logits.float())))
            else:
                scores.append(model(plain))
            scores += [model(view) for view in others]
        mean = torch.stack([torch.sigmoid(score.double()) for score in scores]).mean(dim=0).cpu().numpy()
        return mean, torch.stack(shown).mean(dim=0).cpu().numpy() if shown else None

    @torch.inference_mode()
    def embed(self, films: Sequence[Shown]) -> np.ndarray:
        """The first model's last feature map of the plain views, mean over places, at length 1: float32 (b, c)."""
        model, size = self.models[0]
        plain = torch.from_numpy(np.stack([film[size][:1] for film in films])).to(self.device)
        pooled = model.features(plain).float().mean(dim=(2, 3))
        return functional.normalize(pooled).cpu().numpy()

    def _sized(self, maps: Tensor) -> Tensor:
        """Maps at the size of the largest model's."""
        side = (self.map_size or 0) // 2
        if maps.shape[2] == side:
            return maps
        return functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
