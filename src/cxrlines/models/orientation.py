"""Quality probe: is it a frontal chest film, how was it turned, is it inverted, is it badly cropped.

A small network of a file `quality.safetensors`, made by `cxrlines quality`, classifies eight poses (four rotations,
inverted or not) and all that is no frontal chest film, and whether much of it is cut off. The rules beside it, and
what is done with its answer, are in `io/prepare.py`.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.models.weights import WeightsError, imagenet_tensors, load_into, save_weights

BACKBONE = "tf_efficientnet_lite0"
SIZE = 112
"""px a side of the film that it sees."""
POSES = tuple((rotation, inverted) for inverted in (False, True) for rotation in (0, 90, 180, 270))
"""(degrees a film was turned counter-clockwise, whether it is inverted), in the order of the classes."""
OTHER = len(POSES)
"""Class of what is no frontal chest film."""
MIRRORED = tuple(POSES.index(((360 - rotation) % 360, inverted)) for rotation, inverted in POSES)
"""Class of the mirrored film by class of the film: turned to the other side."""
_STAGES, _WIDTH, _MID, _GRID = 4, 80, 32, 4
_FROZEN = 2
SIDE = 320
"""px a side to which a film is shrunk before it is turned to be looked at again."""
FRONTAL = 0.5
"""Probability of a frontal chest film below which nothing is read."""
CUT_OFF = 0.5
"""Probability of being cut off from which it is noted."""
SURE = 0.9
"""Probability of a pose among the poses from which a film is turned back."""
NOT_A_FILM = Note(Code.NOT_A_CHEST_FILM, "not a frontal chest film, as far as the image shows: nothing was read")


class OrientationNet(nn.Module):
    """The first four stages of EfficientNet-Lite0 and two layers on a grid of 4 x 4.

    A film is standardised first, so that brightness and contrast do not matter.

    Args:
        start: `imagenet` as the weights to begin with (`WeightsError` where they cannot be had), or `none`.
    """

    def __init__(self, start: str = "none") -> None:
        super().__init__()
        whole: Any = timm.create_model(BACKBONE, in_chans=1)
        if start == "imagenet":
            counters = {name: t for name, t in whole.state_dict().items() if name.endswith("num_batches_tracked")}
            load_into(whole, counters | imagenet_tensors(BACKBONE)[0])
        self.early = nn.Sequential(whole.conv_stem, whole.bn1, *whole.blocks[:_FROZEN])
        self.late = whole.blocks[_FROZEN:_STAGES]
        self.mix = nn.Conv2d(_WIDTH, _MID, 1)
        self.hidden = nn.Linear(_MID * _GRID**2, 64)
        self.out = nn.Linear(64, OTHER + 2)

    def train(self, mode: bool = True) -> "OrientationNet":
        """But batch norm keeps ImageNet's means: batches of films and of all else have none in common."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, films: Tensor) -> Tensor:
        """Logits (n, 10) of films (n, SIZE, SIZE) uint8: the eight `POSES`, `OTHER`, and of being cut off."""
        x = films[:, None].float()
        mean, spread = x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True)
        x = 0.5 * (x - mean) / (spread + 2)  # the spread that photographs have in ImageNet's scale
        with torch.no_grad():  # edges and textures need no training, and cost the most
            x = self.early(x)
        x = functional.relu(self.mix(self.late(x)))
        x = functional.adaptive_avg_pool2d(x, _GRID).flatten(1)
        x = functional.dropout(x, 0.2, self.training)
        logits: Tensor = self.out(functional.relu(self.hidden(x)))
        return logits


class _Scores(NamedTuple):
    """Probabilities (8,) of the poses among the poses, of a frontal chest film, and of being cut off."""

    poses: np.ndarray
    frontal: float
    cropped: float

    def notes(self) -> tuple[Note, ...]:
        text = "much of the chest may be cut off: lines and tips beyond the edge are not seen"
        return (Note(Code.CROPPED, text),) if self.cropped >= CUT_OFF else ()


class Probe:
    """Assesses films by an `OrientationNet`; `lab.probe.fit` makes one, `read_probe` reads one.

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
        pixels = _reduced(pixels, SIZE)
        scores = self._scores(pixels)
        if scores.frontal < FRONTAL:
            return Quality(scores.frontal, usable=False, notes=(NOT_A_FILM,))
        best = int(np.argmax(scores.poses))
        if best == 0:
            return Quality(scores.frontal, 0, False, scores.cropped, scores.notes())
        rotation, inverted = POSES[best]
        turned = Quality(scores.frontal, rotation, inverted)
        righted = np.rot90(_square(pixels, SIDE), -rotation // 90)
        again = self._scores(255 - righted if inverted else righted)
        rotated = f"turned by {rotation} degrees counter-clockwise"
        if min(scores.poses[best], again.poses[0]) < SURE or again.frontal < FRONTAL:
            pose = " and ".join([*([rotated] if rotation else []), *(["inverted"] if inverted else [])])
            note = Note(Code.POSE_UNSURE, f"it may be {pose}, but that is not sure: it was read as it is")
            return Quality(scores.frontal, 0, False, scores.cropped, (note, *scores.notes()))
        notes = []
        if rotation:
            text = f"it is {rotated}, and was turned upright before reading; points are of the original"
            notes.append(Note(Code.TURNED, text))
        if inverted:
            notes.append(Note(Code.INVERTED, "it is inverted (bone is black), and was inverted back before reading"))
        return replace(turned, cropped=again.cropped, notes=(*notes, *again.notes()))

    def _scores(self, pixels: np.ndarray) -> _Scores:
        film = _square(np.ascontiguousarray(pixels), SIZE)
        threads = torch.get_num_threads()
        try:
            if threads > 1:
                torch.set_num_threads(1)  # of this thread alone; others, once they compute, keep their number
            with torch.inference_mode():
                logits = self.net(torch.from_numpy(np.stack([film, film[:, ::-1]]))).double().numpy()
        finally:
            if threads > 1:
                torch.set_num_threads(threads)
        classes = np.exp(logits[:, : OTHER + 1] - logits[:, : OTHER + 1].max(axis=1, keepdims=True))
        classes /= classes.sum(axis=1, keepdims=True)
        classes = (classes[0] + classes[1][[*MIRRORED, OTHER]]) / 2
        cropped = float(1 / (1 + np.exp(-logits[:, OTHER + 1].mean())))
        return _Scores(classes[:OTHER] / classes[:OTHER].sum(), float(1 - classes[OTHER]), cropped)


def read_probe(path: Path) -> Probe:
    """The probe of a file that `write_orientation_net` wrote. `WeightsError` if it holds another, or is damaged."""
    net = OrientationNet()
    counters = {name: t for name, t in net.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        net.load_state_dict(counters | load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())
        raise WeightsError(f"no probe of quality: {path}: {why}", "`cxrlines quality` fits one") from error
    return Probe(net, Path(path))


def write_orientation_net(net: OrientationNet, path: Path, meta: Mapping[str, str]) -> Path:
    """Its weights in 16 bits, without the counters of batches."""
    kept = {name: t.half() for name, t in net.state_dict().items() if t.is_floating_point()}
    save_weights(path, kept, meta)
    return path


@functools.cache
def _unpickled(path: Path, identity: str) -> Probe:
    """The probe of a file, in a process that was given it by another."""
    probe = read_probe(path)
    if probe.identity != identity:
        raise WeightsError(f"{path}: was changed while it was in use", "start again")
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
