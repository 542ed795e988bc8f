"""The models of a bundle at work: prepared films in, mean probabilities and mean maps out."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrlines.evaluation.calibrators import Calibration
from cxrlines.models.fuse_bn import fold
from cxrlines.models.two_step import Model
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.manifest import Manifest

Shown = dict[int, np.ndarray]
"""A film as models see it: px a side -> uint8 (views, size, size), the plain view first."""


def gives_maps(model: Model) -> bool:
    """Whether a model has a decoder, its own or its segmenter's."""
    return getattr(model, "decoder", None) is not None


def averaged(rows: np.ndarray, folds: Sequence[int], manifest: Manifest) -> np.ndarray:
    """The ensemble's probabilities (b, 11) of those of its models, (n, b, 11), each of which is of a fold.

    Their mean; where the manifest calibrates folds, the mean over folds of the calibrated mean of each.
    """
    if manifest.fold_calibration is None:
        return rows.mean(axis=0)
    calibration = Calibration(manifest.fold_calibration)
    each = [calibration.apply(rows[np.equal(folds, fold)].mean(axis=0)) for fold in sorted(set(folds))]
    return np.mean(each, axis=0)


class Forward:
    """A copy of a bundle's models on the device that reads, the GPU where there is one.

    Args:
        fast: Whether they are made fast, which rounds otherwise: channels last, batch norms folded.
    """

    @torch.inference_mode(False)
    def __init__(self, bundle: Bundle, *, fast: bool = True) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models: list[tuple[Model, int]] = []
        for model, size in zip(bundle.models, bundle.sizes, strict=True):
            # A copy: two readers of a bundle would fold the same norms at once, and a folded model cannot be trained.
            own = copy.deepcopy(model)
            if fast:
                fold(own, size)  # on the CPU, as a GPU's TF32 rounds more than folding may change
                own = own.to(memory_format=torch.channels_last)
            self.models.append((own.to(self.device), size))
        self._manifest = bundle.manifest
        self.map_size = max((size for model, size in self.models if gives_maps(model)), default=None)
        """px a side of the film whose maps are given; None where no model gives any."""

    @torch.inference_mode()
    def __call__(self, films: Sequence[Shown], *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities, float64 (b, 11), and if wanted and there are any the maps, float32 (b, 9, h, w) in [0, 1].

        Probabilities are `averaged` over models and views, maps the mean over models. Films must have the same number
        of views. A view a pass, so that memory does not grow with them. Maps are of the plain view, of a film of
        `map_size`.
        """
        batches = {
            size: torch.from_numpy(np.stack([film[size] for film in films], axis=1)[:, :, None]).to(self.device)
            for size in films[0]
        }
        scores: list[Tensor] = []
        folds: list[int] = []
        shown: list[Tensor] = []
        for (model, size), entry in zip(self.models, self._manifest.models, strict=True):
            plain, *others = batches[size]
            folds += [entry.fold] * (1 + len(others))
            if maps and gives_maps(model):
                features, logits = model.features_and_maps(plain)
                scores.append(model.classify(features))
                shown.append(self._sized(torch.sigmoid(logits.float())))
            else:
                scores.append(model(plain))
            scores += [model(view) for view in others]
        rows = torch.stack([torch.sigmoid(score.double()) for score in scores]).cpu().numpy()
        mean = averaged(rows, folds, self._manifest)
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
