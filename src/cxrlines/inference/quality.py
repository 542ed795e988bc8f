"""Whether a film can be read at all: a frontal chest film, upright, not inverted, not badly cropped.

Rules look at what is plain: the view the file names, px a side, bits, gray values. A probe, where the bundle has one
(`quality.safetensors`, made by `fit_quality`), looks at the film through the bundle's first network: linear layers on
its last features, pooled. It tells eight poses (four rotations, inverted or not) from all else, and refuses what lies
further from every pose than the films it was fitted on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cxrlines.data.films import Film
from cxrlines.data.store import shrink
from cxrlines.inference.bundle import MANIFEST, Bundle, BundleError
from cxrlines.models.two_step import Model, TwoStep
from cxrlines.models.weights import WeightsError, load_weights

FILE = "quality.safetensors"
SIZE = 160
"""px a side of the film that the probe sees."""
GRID = 2
"""Features are means over GRID x GRID parts of the film, so that they tell where in it something is."""
POSES = tuple((rotation, inverted) for inverted in (False, True) for rotation in (0, 90, 180, 270))
"""(degrees a film was turned counter-clockwise, whether it is inverted), in the order of the probe's classes."""
OTHER = len(POSES)
"""Class of what is no frontal chest film."""
LEAST_SIDE = 100
"""px; a line is about 1 mm wide, a third of a px on a smaller film."""
LEAST_SPREAD = 8
"""Gray levels between the 1st and 99th percentile; less shows nothing."""
LATERAL = ("LL", "RL", "LATERAL")
"""DICOM View Position (0018,5101) of side views."""
SURE = 0.9
"""Probability of a pose among the poses from which a film is turned back."""


@dataclass(frozen=True)
class Quality:
    """What a film is, and what was done to read it.

    Attributes:
        frontal_chest: Probability of a frontal chest film; None where the bundle has no probe or a rule refused first.
        rotation: Degrees (0, 90, 180, 270) it was found turned counter-clockwise, and was turned back to be read.
        inverted: Whether it was found inverted (bone black), and was turned round to read it.
        cropped: Probability that so much of the chest is cut off that findings may be missing; None without a probe.
        notes: All that a reader of the findings should know, a sentence each.
        usable: Whether the film was read; if not, `notes` begins with why.
    """

    frontal_chest: float | None = None
    rotation: int = 0
    inverted: bool = False
    cropped: float | None = None
    notes: tuple[str, ...] = ()
    usable: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, probabilities to four digits."""
        return {
            "usable": self.usable,
            "frontal_chest": None if self.frontal_chest is None else round(self.frontal_chest, 4),
            "rotation": self.rotation,
            "inverted": self.inverted,
            "cropped": None if self.cropped is None else round(self.cropped, 4),
            "notes": list(self.notes),
        }


AS_IT_IS = Quality()
"""Of a film that nothing is known of."""


def by_rule(film: Film) -> Quality:
    """What can be said of a film without a network."""
    height, width = film.pixels.shape
    low, high = np.percentile(film.pixels[:: max(1, height // 512), :: max(1, width // 512)], (1, 99))
    if film.view in LATERAL:
        return Quality(usable=False, notes=(f"not a frontal chest film: its DICOM view position is {film.view}",))
    if high - low < LEAST_SPREAD:
        said = f"not a frontal chest film: it is almost all of one gray value ({low:.0f} to {high:.0f} of 0 to 255)"
        return Quality(usable=False, notes=(said,))
    notes = []
    if min(height, width) < LEAST_SIDE:
        notes.append(f"it is {width} x {height} px: below {LEAST_SIDE} px a side lines are hardly seen")
    if film.bits == 1:
        notes.append("it has 1 bit a pixel: grays, and with them most lines, are lost")
    return Quality(notes=tuple(notes))


def turned_back(pixels: np.ndarray, quality: Quality) -> np.ndarray:
    """A film (h, w) uint8 as it should have been taken: upright, bone white."""
    pixels = np.rot90(pixels, -quality.rotation // 90)
    return np.ascontiguousarray(255 - pixels if quality.inverted else pixels)


def on_original(points: np.ndarray, quality: Quality, shape: tuple[int, int]) -> np.ndarray:
    """Points (n, 2) [x, y] px of the film that `turned_back` gave, as px of the original of `shape` (height, width)."""
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T
    height, width = shape
    match quality.rotation:
        case 90:  # np.rot90 takes (x, y) to (y, side - x); the film was turned so, and this undoes the undoing
            x, y = y, height - 1 - x
        case 180:
            x, y = width - 1 - x, height - 1 - y
        case 270:
            x, y = width - 1 - y, x
    return np.stack([x, y], axis=1)


class Probe:
    """Linear layers on a network's pooled features; `fit_quality` makes one.

    Args:
        network: what sees the films: a bundle's first model.
        tensors: float32, with d features, k kept directions:
            mean (d), basis (k, d) orthonormal rows, whiten (k, k), centres (8, k) of the poses once whitened,
            weights (9, k) and bias (9) of the classes, crop_weights (k) and crop_bias (1), rest (1) the usual squared
            length outside the basis, limit (1) of the distance.

    Raises ValueError where they do not belong together.
    """

    def __init__(self, network: Model, tensors: Mapping[str, np.ndarray]) -> None:
        self.network, self.tensors = network, dict(tensors)
        kept, features = np.shape(self.tensors.get("basis", np.zeros((0, 0))))
        shapes = {
            "mean": (features,),
            "basis": (kept, features),
            "whiten": (kept, kept),
            "centres": (len(POSES), kept),
            "weights": (OTHER + 1, kept),
            "bias": (OTHER + 1,),
            "crop_weights": (kept,),
            "crop_bias": (1,),
            "rest": (1,),
            "limit": (1,),
        }
        found = {name: np.shape(value) for name, value in self.tensors.items()}
        if found != shapes or not kept:
            raise ValueError(f"its tensors are {found}; wanted are {shapes} with features and kept directions alike")

    def __call__(self, pixels: np.ndarray) -> Quality:
        """The quality of a film (h, w) uint8; notes and usability are those of the probe alone."""
        film = shrink(pixels, SIZE, "stretch")[0]
        features = pooled(self.network, film[None])
        if features.shape[1] != len(self.tensors["mean"]):
            raise ValueError(f"the network gives {features.shape[1]} features, not {len(self.tensors['mean'])}")
        scores, crop, distance = (values[0] for values in self.scores(features))
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        frontal = float(1 - chances[OTHER])
        strange = distance / float(self.tensors["limit"][0])
        if frontal < 0.5 or strange > 1:
            frontal = min(frontal, 0.5 / max(1.0, float(strange)))
            why = "not a frontal chest film, as far as can be told from the image: nothing was read"
            return Quality(frontal, usable=False, notes=(why,))
        best = int(np.argmax(chances[:OTHER]))
        sure = float(chances[best] / chances[:OTHER].sum())
        rotation, inverted = POSES[best] if sure >= SURE else (0, False)
        notes = []
        if sure < SURE and best:
            notes.append(f"it may be {_posed(*POSES[best])}, but that is not sure: it was read as it is")
        elif best:
            notes.append(
                f"it is {_posed(rotation, inverted)}: it was righted before reading; points are of the original"
            )
        cropped = float(1 / (1 + np.exp(-np.clip(crop, -50, 50))))
        if cropped >= 0.5:
            notes.append("much of the chest may be cut off: lines and tips beyond the edge are not seen")
        return Quality(frontal, rotation, inverted, cropped, tuple(notes))

    def scores(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits (n, 9) of the classes, (n) of being cropped, and distances (n) of pooled features (n, d)."""
        t = self.tensors
        whitened, rest = projected(features, t["mean"], t["basis"], t["whiten"])
        near = ((whitened[:, None] - t["centres"]) ** 2).mean(axis=2).min(axis=1)
        return (
            whitened @ t["weights"].T + t["bias"],
            whitened @ t["crop_weights"] + t["crop_bias"],
            near + rest / t["rest"],
        )


def projected(
    features: np.ndarray, mean: np.ndarray, basis: np.ndarray, whiten: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) in the whitened basis, (n, k), and their squared length outside it, (n)."""
    centred = features - mean
    inside = centred @ basis.T
    rest = (centred**2).sum(axis=1) - (inside**2).sum(axis=1)
    return inside @ whiten, np.maximum(rest, 0)


@torch.inference_mode()
def pooled(network: Model, films: np.ndarray) -> np.ndarray:
    """Features of films (n, SIZE, SIZE) uint8 that the probe is a layer on: float32 (n, channels * GRID * GRID)."""
    seer = network.segmenter if isinstance(network, TwoStep) else network
    x = torch.from_numpy(films[:, None]).to(next(seer.parameters()).device)
    return functional.adaptive_avg_pool2d(seer.features(x).float(), GRID).flatten(1).cpu().numpy()


def load_probe(bundle: Bundle) -> Probe | None:
    """The bundle's probe; None if it has none. `BundleError` if it is unfit."""
    if FILE not in bundle.manifest.files:
        return None
    return read_probe(bundle.folder / FILE, bundle)


def read_probe(path: Path, bundle: Bundle) -> Probe:
    """The probe of a file, for a bundle's first model. `BundleError` if it is unfit."""
    try:
        return Probe(bundle.models[0], {name: value.numpy() for name, value in load_weights(path)[0].items()})
    except (WeightsError, ValueError) as error:
        raise BundleError(f"{path}: {error}; fit it anew, or leave it out of {MANIFEST}") from error


def judge(film: Film, probe: Probe | None) -> Quality:
    """The quality of a film, by rule and by the probe where there is one."""
    ruled = by_rule(film)
    if probe is None or not ruled.usable:
        return ruled
    seen = probe(film.pixels)
    return replace(seen, notes=seen.notes + ruled.notes)


def _posed(rotation: int, inverted: bool) -> str:
    turned = f"turned by {rotation} degrees counter-clockwise" if rotation else ""
    return " and ".join(part for part in (turned, "inverted" if inverted else "") if part)
