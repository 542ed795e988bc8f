"""Whether a film can be read at all: a frontal chest film, upright, not inverted, not badly cropped.

Rules look at what is plain: the view the file names, px a side, bits, gray values. A probe, where the bundle has one
(`quality.safetensors`, made by `cxrlines quality`), is a small network of its own (`models/poses.py`): it tells eight
poses (four rotations, inverted or not) from all that is no frontal chest film, and whether much of it is cut off.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrlines.data.films import Film
from cxrlines.data.store import shrink
from cxrlines.inference.bundle import Bundle, BundleError
from cxrlines.inference.manifest import MANIFEST
from cxrlines.models.poses import MIRRORED, OTHER, POSES, SIZE, PoseNet, read_pose_net
from cxrlines.models.weights import WeightsError

FILE = "quality.safetensors"
SIDE = 320
"""px a side to which a film is shrunk before it is turned to be looked at again."""
FRONTAL = 0.5
"""Probability of a frontal chest film below which nothing is read."""
NOT_A_FILM = "not a frontal chest film, as far as can be told from the image: nothing was read"
LEAST_SIDE = 100
"""px; a line is about 1 mm wide, a third of a px on a smaller film."""
FRAME = 6
"""Gray levels by which a row of a frame of one value may vary, by the noise of a JPEG."""
LEAST_WITHIN = 0.3
"""Share of a side that a film within a frame has at least."""
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


def within_frame(pixels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a film (h, w) uint8 within a frame of one gray value, such as an export adds.

    All of a side of which less than `LEAST_WITHIN` would be left, and of one without a frame.
    """
    step = max(1, max(pixels.shape) // 512)  # letters in a frame are wider, so that one with letters stays

    def inside(lines: np.ndarray) -> slice:
        varied = np.flatnonzero(np.ptp(lines, axis=1) > FRAME)
        first, last = (int(varied[0]), int(varied[-1]) + 1) if len(varied) else (0, 0)
        return slice(first, last) if last - first >= LEAST_WITHIN * len(lines) else slice(0, len(lines))

    rows = inside(pixels[:, ::step])
    return rows, inside(pixels[rows][::step].T)


class Probe:
    """What a `PoseNet` says of a film, as a `Quality`; `quality_fit` makes one.

    The film and its mirror image are looked at, and the mean of both counts. A turn is made only where the righted
    film, looked at again, is upright as surely.
    """

    def __init__(self, net: PoseNet) -> None:
        self.net = net.eval()

    def __call__(self, pixels: np.ndarray) -> Quality:
        """The quality of a film (h, w) uint8; notes and usability are those of the probe alone."""
        pixels = pixels[within_frame(pixels)]
        poses, frontal, cropped = self._told(pixels)
        if frontal < FRONTAL:
            return Quality(frontal, usable=False, notes=(NOT_A_FILM,))
        best = int(np.argmax(poses))
        if best == 0:
            return Quality(frontal, 0, False, cropped, _cut(cropped))
        turned = Quality(frontal, *POSES[best], cropped)
        again, still_frontal, cropped_again = self._told(turned_back(shrink(pixels, SIDE, "stretch")[0], turned))
        if min(poses[best], again[0]) < SURE or still_frontal < FRONTAL:
            note = f"it may be {_posed(*POSES[best])}, but that is not sure: it was read as it is"
            return Quality(frontal, 0, False, cropped, (note, *_cut(cropped)))
        note = f"it is {_posed(*POSES[best])}: it was righted before reading; points are of the original"
        return replace(turned, cropped=cropped_again, notes=(note, *_cut(cropped_again)))

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
        return Probe(read_pose_net(path))
    except WeightsError as error:
        raise BundleError(f"{path}: {error}; fit it anew, or leave it out of {MANIFEST}") from error


def judge(film: Film, probe: Probe | None) -> Quality:
    """The quality of a film, by rule and by the probe where there is one."""
    ruled = by_rule(film)
    if probe is None or not ruled.usable:
        return ruled
    seen = probe(film.pixels)
    return replace(seen, notes=seen.notes + ruled.notes)


def _cut(cropped: float) -> tuple[str, ...]:
    return ("much of the chest may be cut off: lines and tips beyond the edge are not seen",) if cropped >= 0.5 else ()


def _posed(rotation: int, inverted: bool) -> str:
    turned = f"turned by {rotation} degrees counter-clockwise" if rotation else ""
    return " and ".join(part for part in (turned, "inverted" if inverted else "") if part)
