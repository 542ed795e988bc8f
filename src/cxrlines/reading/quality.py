"""The network that assesses films: a frontal chest film or not, upright, not inverted, not badly cropped.

`quality.safetensors`, made by `cxrlines quality`, is a small network (`models/orientation.py`): it classifies
eight poses (four rotations, inverted or not) and all that is no frontal chest film, and whether much of it is cut off.
What rules say of a film, and what is done with the answer, is in `io/prepare.py`.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.io.prepare import shrink, turned_back
from cxrlines.models.orientation import MIRRORED, OTHER, POSES, SIZE, OrientationNet, read_orientation_net
from cxrlines.models.weights import WeightsError
from cxrlines.reading.bundle import EMBEDDED, Bundle, BundleError
from cxrlines.reading.manifest import MANIFEST

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
    """What a `OrientationNet` says of a film, as a `Quality`; `quality_fit` makes one, `read_probe` reads one.

    The film and its mirror image are looked at, and the mean of both counts. A turn is made only where the righted
    film, looked at again, is upright as surely.

    It computes in one thread, whatever the process is set to: its pictures are too small for two to be of use. One read
    from a file goes to other processes as its path, and is read once in each.

    Attributes:
        identity: SHA-256, in hex, of the network's weights.
    """

    def __init__(self, net: OrientationNet, path: Path | None = None) -> None:
        self.net, self.path = net.eval(), path
        digest = hashlib.sha256()
        for name, tensor in sorted(net.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Probe, (self.net,)) if self.path is None else (_unpickled, (self.path, self.identity))

    def __call__(self, pixels: np.ndarray) -> Quality:
        """The quality of a film (h, w) uint8 within its frame; notes and usability are those of the probe alone."""
        pixels = _reduced(pixels)
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
        notes = []
        if turned.rotation:
            text = f"it is {_posed(turned.rotation, False)}, and was turned upright before reading"
            notes.append(Note(Code.TURNED, f"{text}; points are of the original"))
        if turned.inverted:
            notes.append(Note(Code.INVERTED, "it is inverted (bone is black), and was inverted back before reading"))
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


def told(net: OrientationNet, films: np.ndarray) -> np.ndarray:
    """Logits (n, 10) float64 of films (n, SIZE, SIZE) uint8, as `OrientationNet` orders them."""
    with torch.inference_mode(), _one_thread():
        scores: np.ndarray = net(torch.from_numpy(np.ascontiguousarray(films))).double().numpy()
    return scores


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """What this thread computes, it computes by itself; other threads, once they compute, keep their number."""
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


def load_probe(bundle: Bundle) -> Probe | None:
    """The bundle's probe; None if it has none. `BundleError` if it is unfit."""
    if FILE not in bundle.manifest.files:
        return None
    try:
        return read_probe(bundle.folder / FILE)
    except WeightsError as error:
        raise BundleError(f"{bundle.folder / MANIFEST}: {error.what}", "copy or pack the bundle again") from error


def read_probe(path: Path) -> Probe:
    """The probe of a file. `WeightsError` if it holds another network, or is damaged."""
    try:
        return Probe(read_orientation_net(path), Path(path))
    except WeightsError as error:
        what = error.what if str(path) in error.what else f"{path}: {error.what}"
        raise WeightsError(f"no probe of quality: {what}", "`cxrlines quality` fits one") from error


def box_probe() -> Probe:
    """The probe that ships with the package."""
    return read_probe(EMBEDDED / FILE)


@functools.cache
def _unpickled(path: Path, identity: str) -> Probe:
    """The probe of a file, in a process that was given it by another."""
    probe = read_probe(path)
    if probe.identity != identity:
        raise WeightsError(f"{path}: was changed while it was in use", "start again")
    return probe


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """A film (h, w) uint8 averaged over whole px, where it is several times as large as what the network sees.

    In a third of the time, and within two gray levels of what it would be otherwise; some px of two edges are left out.
    """
    by = min(pixels.shape) // (4 * SIZE)
    if by < 2:
        return pixels
    height, width = (side // by for side in pixels.shape)
    whole = pixels[: height * by, : width * by]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))


CUT_OFF = Note(Code.CROPPED, "much of the chest may be cut off: lines and tips beyond the edge are not seen")


def _cut(cropped: float) -> tuple[Note, ...]:
    return (CUT_OFF,) if cropped >= 0.5 else ()


def _posed(rotation: int, inverted: bool) -> str:
    turned = f"turned by {rotation} degrees counter-clockwise" if rotation else ""
    return " and ".join(part for part in (turned, "inverted" if inverted else "") if part)
