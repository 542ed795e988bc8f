"""Quality probe: is it a frontal chest film, how was it turned, is it inverted, is it badly cropped.

A small network of a file `quality.safetensors`, and the same as `quality.onnx`, made by `cxrlines quality`, classifies
eight poses (four rotations, inverted or not) and all that is no frontal chest film, and whether much of it is cut off.
The rules beside it, and what is done with its answer, are in `io/prepare.py`.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import OTHER, POSES, Quality
from cxrlines.reading.bundle import EMBEDDED, PROBE_FILE
from cxrlines.reading.engines.onnx import OnnxError, session_of

SIZE = 112
"""px a side of the film that the network sees."""
MIRRORED = tuple(POSES.index(((360 - rotation) % 360, inverted)) for rotation, inverted in POSES)
"""Class of the mirrored film by class of the film: turned to the other side."""
SIDE = 320
"""px a side to which a film is shrunk before it is turned to be looked at again."""
FRONTAL = 0.5
"""Probability of a frontal chest film below which nothing is read."""
SURELY_FRONTAL = 0.95
"""Probability of one from which nothing is noted: of 907 real films none has less than .999."""
CUT_OFF = 0.5
"""Probability of being cut off from which it is noted."""
SURE = 0.9
"""Probability of a pose among the poses from which a film is turned back."""
DOUBT = Note(
    Code.PERHAPS_NO_CHEST_FILM,
    "it may be no frontal chest film: findings are doubtful, and no position rule is applied",
)
NOT_A_FILM = Note(Code.NOT_A_CHEST_FILM, "not a frontal chest film, as far as the image shows: nothing was read")


class _Scores(NamedTuple):
    """Probabilities (8,) of the poses among the poses, of a frontal chest film, and of being cut off."""

    poses: np.ndarray
    frontal: float
    cropped: float

    def notes(self) -> tuple[Note, ...]:
        text = "much of the chest may be cut off: lines and tips beyond the edge are not seen"
        return (Note(Code.CROPPED, text),) if self.cropped >= CUT_OFF else ()


class Probe:
    """Assesses films by the network of `models/orientation`; `lab.probe.fit` makes one, `read_probe` reads one.

    The film and its mirror image are looked at, and the mean of both counts. A turn is made only where the turned
    film, looked at again, is upright as surely.

    One read from a file goes to other processes as its path, and is read once in each.

    Attributes:
        run: logits (n, 10) of films (n, SIZE, SIZE) uint8: the eight `POSES`, `OTHER`, and of being cut off.
        identity: SHA-256, in hex, of the network's weights.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], identity: str, path: Path | None = None) -> None:
        self.run, self.identity, self.path = run, identity, path

    @classmethod
    def of_net(cls, net: Any, path: Path | None = None) -> "Probe":
        """By an `OrientationNet` in PyTorch, in one thread: its pictures are too small for two to be of use."""
        net = net.eval()
        tensors = {name: tensor.cpu().contiguous().numpy() for name, tensor in net.state_dict().items()}
        return cls(partial(_in_pytorch, net), _identity(tensors), path)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Probe, (self.run, self.identity)
        return _unpickled, (self.path, self.identity)

    def __call__(self, pixels: np.ndarray) -> Quality:
        """The quality of a film (h, w) uint8 within its frame; notes and usability are those of the probe alone."""
        pixels = _reduced(pixels, SIZE)
        scores = self._scores(pixels)
        if scores.frontal < FRONTAL:
            return Quality(scores.frontal, usable=False, notes=(NOT_A_FILM,))
        doubt = (DOUBT,) if scores.frontal < SURELY_FRONTAL else ()
        best = int(np.argmax(scores.poses))
        if best == 0:
            return Quality(scores.frontal, 0, False, scores.cropped, (*doubt, *scores.notes()))
        rotation, inverted = POSES[best]
        turned = Quality(scores.frontal, rotation, inverted)
        righted = np.rot90(_square(pixels, SIDE), -rotation // 90)
        again = self._scores(255 - righted if inverted else righted)
        rotated = f"turned by {rotation} degrees counter-clockwise"
        if min(scores.poses[best], again.poses[0]) < SURE or again.frontal < FRONTAL:
            pose = " and ".join([*([rotated] if rotation else []), *(["inverted"] if inverted else [])])
            note = Note(Code.POSE_UNSURE, f"it may be {pose}, but that is not sure: it was read as it is")
            return Quality(scores.frontal, 0, False, scores.cropped, (*doubt, note, *scores.notes()))
        notes = []
        if rotation:
            text = f"it is {rotated}, and was turned upright before reading; points are of the original"
            notes.append(Note(Code.TURNED, text))
        if inverted:
            notes.append(Note(Code.INVERTED, "it is inverted (bone is black), and was inverted back before reading"))
        return replace(turned, cropped=again.cropped, notes=(*doubt, *notes, *again.notes()))

    def _scores(self, pixels: np.ndarray) -> _Scores:
        film = _square(np.ascontiguousarray(pixels), SIZE)
        logits = self.run(np.stack([film, film[:, ::-1]])).astype(np.float64)
        classes = np.exp(logits[:, : OTHER + 1] - logits[:, : OTHER + 1].max(axis=1, keepdims=True))
        classes /= classes.sum(axis=1, keepdims=True)
        classes = (classes[0] + classes[1][[*MIRRORED, OTHER]]) / 2
        cropped = float(1 / (1 + np.exp(-logits[:, OTHER + 1].mean())))
        return _Scores(classes[:OTHER] / classes[:OTHER].sum(), float(1 - classes[OTHER]), cropped)


def _in_pytorch(net: Any, films: np.ndarray) -> np.ndarray:
    import torch

    threads = torch.get_num_threads()
    try:
        if threads > 1:
            torch.set_num_threads(1)  # of this thread alone; others, once they compute, keep their number
        with torch.inference_mode():
            return np.asarray(net(torch.from_numpy(films)).numpy())
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def _identity(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()


def read_probe(path: Path) -> Probe:
    """The probe of a file `quality.safetensors`: its ONNX file beside it, or PyTorch where there is none.

    `Error` if it holds another network, or is damaged.
    """
    onnx = Path(path).with_suffix(".onnx")
    if not onnx.is_file():
        from cxrlines.models.orientation import read_orientation_net

        return Probe.of_net(read_orientation_net(path), Path(path))
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        halves = load_file(path)
        session = session_of(onnx.read_bytes(), str(onnx), threads=1)
    except (OSError, SafetensorError, OnnxError) as error:
        raise Error(f"no probe of quality: {path}: {error}", "`cxrlines quality` fits one") from error
    # As PyTorch holds them: in 32 bits, beside each batch norm the counter of its batches.
    tensors = {name: values.astype(np.float32) for name, values in halves.items()}
    counters = (name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean"))
    tensors |= {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in counters}
    return Probe(lambda films: session.run(["logits"], {"films": films})[0], _identity(tensors), Path(path))


def embedded_probe() -> Probe:
    """The embedded probe, which ships with the package."""
    return read_probe(EMBEDDED / PROBE_FILE)


@functools.cache
def _unpickled(path: Path, identity: str) -> Probe:
    """The probe of a file, in a process that was given it by another."""
    probe = read_probe(path)
    if probe.identity != identity:
        raise Error(f"{path}: was changed while it was in use", "start again")
    return probe


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    """A film (h, w) uint8 stretched to a square; what shrinks is averaged, what grows is interpolated."""
    height, width = pixels.shape
    film = cv2.resize(pixels, (min(width, side), min(height, side)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(film, (side, side), interpolation=cv2.INTER_LINEAR))


def _reduced(pixels: np.ndarray, size: int) -> np.ndarray:
    """A film (h, w) uint8 averaged over whole px, where it is several times as large as the network's `size`.

    In a third of the time, and within two gray levels of what it would be otherwise; some px of two edges are left out.
    """
    by = min(pixels.shape) // (4 * size)
    if by < 2:
        return pixels
    height, width = (side // by for side in pixels.shape)
    whole = pixels[: height * by, : width * by]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))
