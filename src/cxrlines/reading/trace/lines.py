"""From the heatmaps of a film to its lines, from entry to tip, and its landmarks; all in px of the heatmaps.

Lengths below are shares of the heatmaps' longer side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.findings import Keypoint, Line
from cxrlines.core.heatmaps import KEYPOINT_SIGMA
from cxrlines.core.polyline import Points, length, resample
from cxrlines.reading.trace.centerlines import sample, trace
from cxrlines.reading.trace.following import further_way
from cxrlines.reading.trace.keypoints import APART, find_keypoints
from cxrlines.task import DEVICES, MAPS, Device, Landmark, MapKind

REACH = 0.06
"""A tip's peak moves the end of a centerline that is no farther from it, along the centerline or beyond."""
BESIDE = 0.025
"""A tip's peak lies on a centerline that passes it no farther away."""
EDGE = 0.025
"""A centerline that ends no farther than this from the film's border leaves the film there."""
MIN_LENGTH = 0.05
"""The shortest line."""
USUAL = 0.08
"""Length over which confidence in a line builds up."""
PIECE = 0.50
"""Length of line that is as good as another look at it."""
CONFIDENCE = 0.25
"""What is less sure is no line, when centerlines are put together."""
MIN_CONFIDENCE = 0.7
"""Lines of less confidence are not given: of .25 to .85 a good trade of false positives for negatives on real films
(docs/experiments.md, 2026-11-25)."""
SECOND = 0.6
"""Of a device that a patient usually has once, a second line needs this share of the first one's weight."""
OWN = 0.5
"""The confidence that a further line of a device needs for what is not the way of those before."""
ALONE, SURE = 0.15, 0.7
"""A catheter with less of its way for itself beside one of another kind, and a lower mean probability, is that
one read again."""
BRIDGE, STRAIGHT = 0.15, 0.85
"""A peak so far off is still a centerline's tip if it lies straight ahead (cosine)."""
STEP = 0.01
"""Distance of the points of a path."""
DOWNWARD = (Device.ETT, Device.NGT)
"""Devices whose lower end is the tip where the tip's heatmap does not say."""
FADING = (Device.NGT,)
"""Devices that are followed on where their tip is not seen: in the mediastinum and below a real one is often too faint
for a centerline. A catheter that has been followed to its end would be led past it."""
IN_VEINS = (Device.CVC, Device.SWAN)
"""Devices that lie in the same veins: a heatmap that is not sure which it sees shows both."""
TIP_PEAK = 0.2
"""The least height of a peak at which a line ends for that to be its tip: of .15 to .5 a good trade of wrong tips for
ones that are not given, on phantoms and on training films (docs/experiments.md, 2026-11-28)."""

Channel = tuple[MapKind, Device | Landmark]
"""What a heatmap shows."""


class Bounds(NamedTuple):
    """The edges of the film in px of the heatmaps."""

    left: float
    top: float
    right: float
    bottom: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(...) px of points (..., 2) from the nearest edge; negative off the film."""
        x, y = points[..., 0], points[..., 1]
        return np.asarray(np.min([x - self.left, y - self.top, self.right - x, self.bottom - y], axis=0))


class _Fit(NamedTuple):
    """How well a centerline ends at a tip's peak (`score`), and at which of its points it leaves for it."""

    score: float
    leaves_at: int


class _Ending(NamedTuple):
    """A centerline from entry to tip, and the peak at which it ends; None where the tip's heatmap does not say."""

    path: Points
    tip: Keypoint | None


def find_lines(
    maps: np.ndarray,
    bounds: Bounds | None = None,
    channels: Sequence[Channel] = MAPS,
    least: Mapping[str, float] | None = None,
) -> list[Line]:
    """The lines of a film, in the order of `Device` and of confidence, one for each instance of a device.

    A line has a tip where it ends at a peak of the tip's heatmap of at least `TIP_PEAK`. Of others that end near the
    film's edge the way leads off the film; the rest are followed to their last point.

    A line's confidence comes from the mean probability of the heatmap along its path and its length (`_confidence`),
    raised by the peak of the tip's heatmap: c + (1 - c) c peak. A rank, not a probability.

    Args:
        maps: (maps, h, w) float32 in [0, 1].
        bounds: Where the film lies in the heatmaps, if it does not fill them.
        channels: What each heatmap shows.
        least: By `Device.name`, the least confidence of a line that is given; `MIN_CONFIDENCE` where none is named.

    Raises `ValueError` for heatmaps of another shape or with values that are not numbers.
    """
    return given_lines(traced_lines(maps, bounds, channels), maps, channels, least)


def traced_lines(maps: np.ndarray, bounds: Bounds | None = None, channels: Sequence[Channel] = MAPS) -> list[Line]:
    """All lines that are traced, also those of too little confidence to be given: from `CONFIDENCE` on.

    Arguments, order and errors as of `find_lines`.
    """
    heat, bounds = _checked(maps, bounds, channels)
    return [
        line
        for device in Device
        if (MapKind.LINE, device) in heat
        for line in _lines_of(device, heat[MapKind.LINE, device], heat[MapKind.TIP, device], bounds)
    ]


def given_lines(
    traced: Sequence[Line],
    maps: np.ndarray,
    channels: Sequence[Channel] = MAPS,
    least: Mapping[str, float] | None = None,
) -> list[Line]:
    """Those of traced lines, in px of the heatmaps, that are given, in their order; arguments as of `find_lines`."""
    heat = dict(zip(channels, maps, strict=True))
    found = [line for line in traced if line.confidence >= (least or {}).get(line.device.name, MIN_CONFIDENCE)]
    # Without central catheters that are a Swan-Ganz catheter read again, or the other way around.
    scale = float(max(maps.shape))
    kept: list[Line] = []
    catheters = [line for line in found if line.device in IN_VEINS]
    for line in sorted(catheters, key=lambda line: -line.confidence * length(line.path)):
        others = [other.path for other in kept if other.device is not line.device]
        alone = (_apart(line.path, others) > BESIDE * scale).mean() > ALONE
        if alone or sample(heat[MapKind.LINE, line.device], line.path).mean() > SURE:
            kept.append(line)
    return [line for line in found if line not in catheters or line in kept]


def find_landmarks(
    maps: np.ndarray, bounds: Bounds | None = None, channels: Sequence[Channel] = MAPS
) -> dict[Landmark, Keypoint]:
    """The landmarks of a film, each at the highest peak of its heatmap; those that are not seen are left out.

    Arguments as of `find_lines`. A peak in the padding around a film is none of it.
    """
    heat, bounds = _checked(maps, bounds, channels)
    found = {}
    for landmark in Landmark:
        for spot in find_keypoints(heat[MapKind.LANDMARK, landmark]) if (MapKind.LANDMARK, landmark) in heat else []:
            if bounds.distance(spot.xy) >= -1:  # a peak at the film's edge is right to a px
                found[landmark] = replace(spot, xy=np.clip(spot.xy, bounds[:2], bounds[2:]))
                break
    return found


def _lines_of(device: Device, line_map: np.ndarray, tip_map: np.ndarray, bounds: Bounds) -> list[Line]:
    if line_map.max() < CONFIDENCE:
        return []
    scale = float(max(line_map.shape))
    spec = DEVICES[device]
    tips = find_keypoints(tip_map)
    centerlines = trace(line_map, np.array([tip.xy for tip in tips]).reshape(-1, 2), many=not spec.exclusive)
    ends = _directed(device, [line.points for line in centerlines], tips, bounds, scale)
    weights = [_confidence(line.own, line_map) * length(line.own) for line in centerlines]
    kept: list[Line] = []
    first = 0.0
    for weight, end in sorted(zip(weights, ends, strict=True), key=lambda one: -one[0]):
        line = _line(device, end, line_map, bounds)
        if length(line.path) < MIN_LENGTH * scale or line.confidence < CONFIDENCE:
            continue
        if kept and (spec.exclusive or (not spec.several and weight < SECOND * first)):
            break
        # Another line needs confidence in what is not the way of those before.
        alone = _apart(line.path, [other.path for other in kept]) > BESIDE * scale
        if kept and _confidence(line.path[alone], line_map) < OWN:
            continue
        first = first or weight
        kept.append(line)
    kept.sort(key=lambda line: -line.confidence)
    followed = [_followed(line, line_map, bounds) for line in kept]
    return [replace(line, path=resample(line.path, STEP * scale)) for line in followed]


def _followed(line: Line, line_map: np.ndarray, bounds: Bounds) -> Line:
    """A line with the faint rest of its way: back where it does not start at the film's border, and on from where it
    was followed to if it is one of `FADING`."""
    if line.confidence < OWN:
        return line
    edge = EDGE * max(line_map.shape)
    if bounds.distance(line.path[0]) > edge:
        back = _way_on(line.path[::-1], line_map, bounds)
        line = replace(line, path=np.concatenate([back[::-1], line.path]))
    if line.device in FADING and line.followed_to is not None:
        path = np.concatenate([line.path, _way_on(line.path, line_map, bounds)])
        leaves = bounds.distance(path[-1]) <= edge
        line = replace(line, path=path, followed_to=None if leaves else path[-1].copy())
    return line


def _way_on(path: Points, line_map: np.ndarray, bounds: Bounds) -> Points:
    """(n, 2): the way of a path beyond its last point, as far as it is on the film; n = 0 where there is none."""
    scale = float(max(line_map.shape))
    ahead = path[-1] - path[-min(len(path), 1 + round(0.04 * scale))]
    others = line_map.copy()  # without the path itself
    beside = max(1, round(APART / 2 * scale))
    cv2.polylines(others, [np.round(path[:-beside]).astype(np.int32)], False, 0.0, 2 * beside - 1)
    way = further_way(others, path[-1], float(np.arctan2(ahead[1], ahead[0])))
    way = way[np.logical_and.accumulate(bounds.distance(way) >= 0)]
    return _to_border(way, bounds, scale) if len(way) else way


def _apart(path: Points, others: Sequence[Points]) -> np.ndarray:
    """(n,) px from each point of a path to the nearest of other ones; infinite where there is none."""
    found = np.full(len(path), np.inf)
    for other in others:
        square = (path[:, None, 0] - other[:, 0]) ** 2 + (path[:, None, 1] - other[:, 1]) ** 2
        np.minimum(found, np.sqrt(square.min(axis=1)), out=found)
    return found


def _directed(device: Device, lines: list[Points], tips: list[Keypoint], bounds: Bounds, scale: float) -> list[_Ending]:
    """The centerlines from entry to tip, each with the tip's peak at which it ends; the best fits choose first.

    A peak ends one line; only where none is left may two lines end at the same one.
    """
    priors = [_priors(device, line, bounds) for line in lines]
    fits = []
    for k, line in enumerate(lines):
        shared = _apart(line, [other[::2] for j, other in enumerate(lines) if j != k]) < 2.0
        for back in (False, True):
            path, along_others = (line[::-1], shared[::-1]) if back else (line, shared)
            for j, tip in enumerate(tips):
                fit = _fit(path, along_others, tip, scale)
                if fit is not None:
                    fits.append((fit.score + priors[k][back], k, path, j, fit.leaves_at))
    fits.sort(key=lambda fit: -fit[0])
    chosen: dict[int, _Ending] = {}
    used: set[int] = set()
    for again in (False, True):
        for _, k, path, j, leaves_at in fits:
            if k not in chosen and (again or j not in used):
                chosen[k] = _Ending(_ended(path, leaves_at, tips[j], scale), tips[j])
                used.add(j)
    for k, line in enumerate(lines):
        if k not in chosen:
            chosen[k] = _Ending(line if priors[k][0] >= priors[k][1] else line[::-1], None)
    return [chosen[k] for k in range(len(lines))]


def _fit(path: Points, shared: np.ndarray, tip: Keypoint, scale: float) -> _Fit | None:
    """How well a path ends at a tip's peak; None if it does not.

    What the path would lose beyond the peak counts against it; less where another line runs there as well (`shared`).
    """
    distance = np.hypot(*(path - tip.xy).T) / scale
    fits = []
    # Beside the path: cut there.
    nearest = int(distance.argmin())
    lost = float((~shared[nearest:]).sum()) / scale  # points are 1 px apart
    if distance[nearest] <= BESIDE and lost <= REACH:
        also = float(shared[nearest:].sum()) / scale
        fits.append(_Fit(tip.confidence - (distance[nearest] + lost) / (4 * REACH) - also / 2, nearest))
    # Beyond its end: led on.
    step = path[-1] - path[-min(len(path), 1 + round(0.04 * scale))]
    ahead = tip.xy - path[-1]
    norm = float(np.hypot(*step) * np.hypot(*ahead))
    straight = norm > 0 and float(step @ ahead) / norm > STRAIGHT
    if distance[-1] <= (BRIDGE if straight else REACH):
        fits.append(_Fit(tip.confidence - float(distance[-1]) / (4 * REACH), len(path) - 1))
    return max(fits, default=None)


def _ended(path: Points, leaves_at: int, tip: Keypoint, scale: float) -> Points:
    """A path up to where its tip's peak is two of its deviations away, and from there straight to it."""
    stop = max(1, leaves_at - round(2 * KEYPOINT_SIGMA * scale))
    return np.concatenate([path[:stop], resample(np.stack([path[stop - 1], tip.xy]), 1.0)[1:]])


def _line(device: Device, end: _Ending, line_map: np.ndarray, bounds: Bounds) -> Line:
    scale = float(max(line_map.shape))
    # The longest stretch that is on the film, or a point where none is.
    inside = bounds.distance(end.path) >= 0
    runs = np.split(np.arange(len(end.path)), np.flatnonzero(np.diff(inside)) + 1)
    longest = max((run for run in runs if inside[run[0]]), key=len, default=np.arange(1))
    path = _to_border(end.path[longest][::-1], bounds, scale)[::-1]
    cut = longest[-1] < len(end.path) - 1
    seen = end.tip is not None and end.tip.confidence >= TIP_PEAK
    leaves = cut or (not seen and bounds.distance(path[-1]) <= EDGE * scale)
    if leaves:
        path = _to_border(path, bounds, scale)
    confidence = _confidence(path, line_map)
    if end.tip is not None:
        confidence += (1 - confidence) * confidence * end.tip.confidence
    last = path[-1].copy()
    if leaves:
        return Line(device, path, None, confidence)
    return Line(device, path, last, confidence) if seen else Line(device, path, None, confidence, followed_to=last)


def _confidence(path: Points, line_map: np.ndarray) -> float:
    """How much the heatmap believes in a path: c = probability (1 - exp(-length / USUAL)), and
    1 - (1 - c)^(1 + length / PIECE), as if the path were seen piece by piece.
    """
    if len(path) < 2:
        return 0.0
    share = length(path) / max(line_map.shape)
    short = min(1.0, float(sample(line_map, path).mean())) * (1 - float(np.exp(-share / USUAL)))
    return float(1 - (1 - short) ** (1 + share / PIECE))


def _priors(device: Device, line: Points, bounds: Bounds) -> tuple[float, float]:
    """How much speaks for the last point of a centerline as its tip, and for the first, before the tip's heatmap."""
    # Catheters come in from outside: their tip is the end that is farther from the film's border.
    first, last = line[[0, -1], 1] if device in DOWNWARD else bounds.distance(line[[0, -1]])
    return (0.2, 0.0) if last >= first else (0.0, 0.2)


def _to_border(path: Points, bounds: Bounds, scale: float) -> Points:
    """A path led on to the film's border where it ends just short of it: thinning takes half a width from each end."""
    gap = bounds.distance(path[-1])
    step = path[-1] - path[-min(len(path), 1 + round(0.03 * scale))]
    size = float(np.hypot(*step))
    if not 0 < gap <= EDGE * scale or size == 0:
        return path
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(step > 0, (high - path[-1]) / step, np.where(step < 0, (low - path[-1]) / step, np.inf))
    onward = float(steps.min())
    return path if onward * size > 2 * EDGE * scale else np.concatenate([path, [path[-1] + onward * step]])


def _checked(
    maps: np.ndarray, bounds: Bounds | None, channels: Sequence[Channel]
) -> tuple[dict[Channel, np.ndarray], Bounds]:
    """The heatmaps by what they show, and the edges of the film."""
    maps = np.ascontiguousarray(maps, np.float32)
    if maps.ndim != 3 or len(maps) != len(channels) or min(maps.shape[1:]) < 8:
        raise ValueError(f"maps: needs ({len(channels)}, h, w) of at least 8 px a side; got {maps.shape}")
    if not np.isfinite(maps).all():
        raise ValueError("maps: holds values that are not numbers; the network that made them has diverged")
    whole = Bounds(-0.5, -0.5, maps.shape[2] - 0.5, maps.shape[1] - 0.5)
    return dict(zip(channels, maps, strict=True)), bounds or whole
