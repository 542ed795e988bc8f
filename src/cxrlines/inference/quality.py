"""The network that assesses films: a frontal chest film or not, upright, not inverted, not badly cropped.

`quality.safetensors`, made by `cxrlines quality`, is a small network of its own (`models/poses.py`): it classifies
eight poses (four rotations, inverted or not) and all that is no frontal chest film, and whether much of it is cut off.
What rules say of a film, and what is done with the answer, is in `data/prepare.py`.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cxrlines.data.notes import Code, Note
from cxrlines.data.prepare import Quality, shrink, turned_back
from cxrlines.inference.bundle import Bundle, BundleError
from cxrlines.inference.manifest import MANIFEST
from cxrlines.models.poses import MIRRORED, OTHER, POSES, SIZE, PoseNet, read_pose_net
from cxrlines.models.weights import WeightsError

FILE = "quality.safetensors"
SIDE = 320
"""px a side to which a film is shrunk before it is turned to be looked at again."""
FRONTAL = 0.5
"""Probability of a frontal chest film below which nothing is read."""
NOT_A_FILM = Note(
    Code.NOT_A_CHEST_FILM, "not a frontal chest film, as far as can be told from the image: nothing was read"
)
SURE = 0.9
"""Probability of a pose among the poses from which a film is turned back."""


class Probe:
    """What a `PoseNet` says of a film, as a `Quality`; `quality_fit` makes one.

    The film and its mirror image are looked at, and the mean of both counts. A turn is made only where the righted
    film, looked at again, is upright as surely.
    """

    def __init__(self, net: PoseNet, identity: str = "") -> None:
        self.net, self.identity = net.eval(), identity

    def __call__(self, pixels: np.ndarray) -> Quality:
        """The quality of a film (h, w) uint8 within its frame; notes and usability are those of the probe alone."""
        poses, frontal, cropped = self._told(pixels)
        if frontal < FRONTAL:
            return Quality(frontal, usable=False, notes=(NOT_A_FILM,))
        best = int(np.argmax(poses))
        if best == 0:
            return Quality(frontal, 0, False, cropped, _cut(cropped))
        turned = Quality(frontal, *POSES[best], cropped)
        again, still_frontal, cropped_again = self._told(turned_back(shrink(pixels, SIDE, "stretch")[0], turned))
        if min(poses[best], again[0]) < SURE or still_frontal < FRONTAL:
            said = f"it may be {_posed(*POSES[best])}, but that is not sure: it was read as it is"
            note = Note(Code.POSE_UNSURE, said)
            return Quality(frontal, 0, False, cropped, (note, *_cut(cropped)))
        said = f"it is {_posed(*POSES[best])}: it was righted before reading; points are of the original"
        codes = [code for code, true in ((Code.TURNED, turned.rotation), (Code.INVERTED, turned.inverted)) if true]
        notes = tuple(Note(code, said) for code in codes)
        return replace(turned, cropped=cropped_again, notes=(*notes, *_cut(cropped_again)))

    def _told(self, pixels: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Probabilities (8,) of the poses among the poses, of a frontal chest film, and of being cut off."""
        film = shrink(pixels, SIZE, "stretch")[0]
        scores = told(self.net, np.stack([film, film[:, ::-1]]))
        chances = np.exp(scores[:, : OTHER + 1] - scores[:, : OTHER + 1].max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        chances = (chances[0] + chances[1][[*MIRRORED, OTHER]]) / 2
        cropped = float(1 / (1 + np.exp(-scores[:, OTHER + 1].mean())))
        return chances[:OTHER] / chances[:OTHER].sum(), float(1 - chances[OTHER]), cropped


def told(net: PoseNet, films: np.ndarray) -> np.ndarray:
    """Logits (n, 10) float64 of films (n, SIZE, SIZE) uint8, as `PoseNet` orders them."""
    with torch.inference_mode():
        scores: np.ndarray = net(torch.from_numpy(np.ascontiguousarray(films))).double().numpy()
    return scores


def load_probe(bundle: Bundle) -> Probe | None:
    """The bundle's probe; None if it has none. `BundleError` if it is unfit."""
    return read_probe(bundle.folder / FILE) if FILE in bundle.manifest.files else None


def read_probe(path: Path) -> Probe:
    """The probe of a file. `BundleError` if it is unfit."""
    try:
        return Probe(read_pose_net(path), hashlib.sha256(path.read_bytes()).hexdigest())
    except WeightsError as error:
        raise BundleError(f"{path}: {error}; fit it anew, or leave it out of {MANIFEST}") from error


CUT_OFF = Note(Code.CROPPED, "much of the chest may be cut off: lines and tips beyond the edge are not seen")


def _cut(cropped: float) -> tuple[Note, ...]:
    return (CUT_OFF,) if cropped >= 0.5 else ()


def _posed(rotation: int, inverted: bool) -> str:
    turned = f"turned by {rotation} degrees counter-clockwise" if rotation else ""
    return " and ".join(part for part in (turned, "inverted" if inverted else "") if part)
