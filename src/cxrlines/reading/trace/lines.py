"""From the maps of a film to its lines, from entry to tip, and its landmarks; all in px of the maps.

Lengths below are shares of the maps' longer side.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.reading.trace.centerlines import sample, trace
from cxrlines.reading.trace.peaks import SIGMA, Keypoint, find_keypoints
from cxrlines.task import MAPS, Device, Landmark, MapKind

REACH = 0.06
"""A tip's peak moves the end of a course that is no farther from it, along the course or beyond."""
BESIDE = 0.025
"""A tip's peak lies on a course that passes it no farther away."""
EDGE = 0.025
"""A course that ends no farther than this from the film's border leaves the film there."""
LEAST = 0.05
"""The shortest line."""
USUAL = 0.08
"""Length over which confidence in a line builds up."""
PIECE = 0.50
"""Length of line that is as good as another look at it."""
CONFIDENCE = 0.25
"""What is less sure is no line, when courses are put together."""
TOLD = 0.7
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
"""A peak so far off is still a course's tip if it lies straight ahead (cosine)."""
STEP = 0.01
"""Distance of the points of a path."""
ONCE = (Device.ETT,)
"""Devices of which a film shows one at most."""
DOWNWARD = (Device.ETT, Device.NGT)
"""Devices whose lower end is the tip where the tip map does not say."""


@dataclass(frozen=True, eq=False)
class Line:
    """A line that was found.

    `path`: float64 (n, 2), [x, y] from entry to tip. `tip`: float64 (2,), the path's last point; None where the line
    leaves the film. `confidence`: 0 to 1, from the mean probability of the map along the path and its length
    (`_confidence`), raised by the peak of the tip's map: c + (1 - c) c peak. A rank, not a probability.
    """

    device: Device
    path: np.ndarray
    tip: np.ndarray | None
    confidence: float


Bounds = tuple[float, float, float, float]
"""Left, top, right and bottom edge of the film."""


def find_lines(maps: np.ndarray, bounds: Bounds | None = None) -> list[Line]:
    """The lines of a film, in the order of `Device` and of confidence, one for each instance of a device.

    Args:
        maps: (9, h, w) float32 in [0, 1], in the order of `task.MAPS`.
        bounds: Where the film lies in the maps, if it does not fill them.

    Raises `ValueError` for maps of another shape or with values that are not numbers.
    """
    maps = _checked(maps)
    bounds = bounds or _whole(maps)
    found: list[Line] = []
    for device in Device:
        line_map = maps[MAPS.index((MapKind.LINE, device))]
        if line_map.max() < CONFIDENCE:
            continue
        tips = find_keypoints(maps[MAPS.index((MapKind.TIP, device))])
        found += [line for line in _lines_of(device, line_map, tips, bounds) if line.confidence >= TOLD]
    return _without_doubles(found, maps)


def _without_doubles(lines: list[Line], maps: np.ndarray) -> list[Line]:
    """The lines without central catheters that are a Swan-Ganz catheter read again, or the other way around.

    Both lie in the same veins, and maps that are not sure which they see show both.
    """
    scale = float(max(maps.shape))
    kept: list[Line] = []
    catheters = [line for line in lines if line.device in (Device.CVC, Device.SWAN)]
    for line in sorted(catheters, key=lambda line: -line.confidence * float(lengths(line.path)[-1])):
        others = [other.path for other in kept if other.device is not line.device]
        line_map = maps[MAPS.index((MapKind.LINE, line.device))]
        if (
            not others
            or (_apart(line.path, others) > BESIDE * scale).mean() > ALONE
            or sample(line_map, line.path).mean() > SURE
        ):
            kept.append(line)
    return [line for line in lines if line not in catheters or line in kept]


def _apart(path: Points, others: list[Points]) -> np.ndarray:
    """(n,) px from each point of a path to the nearest of other ones."""
    return cKDTree(np.concatenate(others)).query(path)[0]


def find_landmarks(maps: np.ndarray, bounds: Bounds | None = None) -> dict[Landmark, Keypoint]:
    """The landmarks of a film, each at the highest peak of its heat map; those that are not seen are left out.

    `maps` and `bounds` are as for `find_lines`. A peak in the padding around a film is none of it.
    """
    maps = _checked(maps)
    bounds = bounds or _whole(maps)
    found = {}
    for landmark in Landmark:
        for spot in find_keypoints(maps[MAPS.index((MapKind.LANDMARK, landmark))]):
            if _border_distance(spot.xy, bounds) >= -1:  # a peak at the film's edge is right to a px
                found[landmark] = replace(spot, xy=np.clip(spot.xy, bounds[:2], bounds[2:]))
                break
    return found


def _lines_of(device: Device, line_map: np.ndarray, tips: list[Keypoint], bounds: Bounds) -> list[Line]:
    scale = float(max(line_map.shape))
    courses = trace(line_map, np.array([tip.xy for tip in tips]).reshape(-1, 2), many=device not in ONCE)
    ends = _directed(device, [course.points for course in courses], tips, bounds, scale)
    weights = [_confidence(course.own, line_map) * float(lengths(course.own)[-1]) for course in courses]
    kept: list[Line] = []
    first = 0.0
    for weight, (path, spot) in sorted(zip(weights, ends, strict=True), key=lambda one: -one[0]):
        line = _line(device, path, spot, line_map, bounds)
        if lengths(line.path)[-1] < LEAST * scale or line.confidence < CONFIDENCE:
            continue
        if kept and (device in ONCE or (device is not Device.CVC and weight < SECOND * first)):
            break
        if kept:  # another line is believed in for what is not the way of those before
            alone = _apart(line.path, [other.path for other in kept]) > BESIDE * scale
            own = _confidence(line.path[alone], line_map)
            if own < OWN:
                continue
        first = first or weight
        kept.append(line)
    kept.sort(key=lambda line: -line.confidence)
    return [replace(line, path=resample(line.path, STEP * scale)) for line in kept]


def _directed(
    device: Device, courses: list[Points], tips: list[Keypoint], bounds: Bounds, scale: float
) -> list[tuple[Points, Keypoint | None]]:
    """The courses from entry to tip, each with the tip's peak at which it ends; the best fits choose first.

    A peak ends one line; only where none is left may two lines end at the same one.
    """
    priors = [_priors(device, course, bounds, scale) for course in courses]
    shared = [_shared_with(course, courses, k) for k, course in enumerate(courses)]
    fits = []
    for k, course in enumerate(courses):
        for back in (False, True):
            path, also = (course[::-1], shared[k][::-1]) if back else (course, shared[k])
            for j, tip in enumerate(tips):
                fit = _fit(path, also, tip, scale)
                if fit is not None:
                    fits.append((fit[0] + priors[k][back], k, back, j, fit[1]))
    fits.sort(key=lambda fit: -fit[0])
    chosen: dict[int, tuple[Points, Keypoint | None]] = {}
    used: set[int] = set()
    for again in (False, True):
        for _, k, back, j, nearest in fits:
            if k not in chosen and (again or j not in used):
                chosen[k] = _ended(courses[k][::-1] if back else courses[k], nearest, tips[j], scale), tips[j]
                used.add(j)
    for k, course in enumerate(courses):
        if k not in chosen:
            chosen[k] = (course if priors[k][0] >= priors[k][1] else course[::-1]), None
    return [chosen[k] for k in range(len(courses))]


def _shared_with(course: Points, courses: list[Points], k: int) -> np.ndarray:
    """(n,) bool: where a course runs along another one."""
    others = [other[::2] for j, other in enumerate(courses) if j != k]
    if not others:
        return np.zeros(len(course), bool)
    return cKDTree(np.concatenate(others)).query(course)[0] < 2.0


def _fit(path: Points, shared: np.ndarray, tip: Keypoint, scale: float) -> tuple[float, int] | None:
    """How well a path ends at a tip's peak, and at which of its points it leaves for it; None if it does not.

    What the path would lose beyond the peak counts against it; less where another line runs there as well.
    """
    distance = np.hypot(*(path - tip.xy).T) / scale
    fits = []
    # Beside the path: cut there.
    nearest = int(distance.argmin())
    lost = float((~shared[nearest:]).sum()) / scale  # points are 1 px apart
    if distance[nearest] <= BESIDE and lost <= REACH:
        also = float(shared[nearest:].sum()) / scale
        fits.append((tip.confidence - (distance[nearest] + lost) / (4 * REACH) - also / 2, nearest))
    # Beyond its end: led on.
    step = path[-1] - path[-min(len(path), 1 + round(0.04 * scale))]
    ahead = tip.xy - path[-1]
    length = float(np.hypot(*step) * np.hypot(*ahead))
    straight = length > 0 and float(step @ ahead) / length > STRAIGHT
    if distance[-1] <= (BRIDGE if straight else REACH):
        fits.append((tip.confidence - float(distance[-1]) / (4 * REACH), len(path) - 1))
    return max(fits, default=None)


def _ended(path: Points, nearest: int, tip: Keypoint, scale: float) -> Points:
    """A path up to where its tip's peak is two of its deviations away, and from there straight to it."""
    stop = max(1, nearest - round(2 * SIGMA * scale))
    return np.concatenate([path[:stop], resample(np.stack([path[stop - 1], tip.xy]), 1.0)[1:]])


def _line(device: Device, path: Points, spot: Keypoint | None, line_map: np.ndarray, bounds: Bounds) -> Line:
    scale = float(max(line_map.shape))
    path, cut = _on_film(path, bounds)
    path = _to_border(path[::-1], bounds, scale)[::-1]
    leaves = cut or (spot is None and _border_distance(path[-1], bounds) <= EDGE * scale)
    if leaves:
        path = _to_border(path, bounds, scale)
    confidence = _confidence(path, line_map)
    if spot is not None:
        confidence += (1 - confidence) * confidence * spot.confidence
    return Line(device, path, None if leaves else path[-1].copy(), confidence)


def _confidence(path: Points, line_map: np.ndarray) -> float:
    """How much the map believes in a path: c = probability (1 - exp(-length / USUAL)), and 1 - (1 - c)^(1 + length /
    PIECE), as if the path were seen piece by piece. Lengths are shares of the map's longer side.
    """
    if len(path) < 2:
        return 0.0
    length = float(lengths(path)[-1]) / max(line_map.shape)
    short = min(1.0, float(sample(line_map, path).mean())) * (1 - float(np.exp(-length / USUAL)))
    return 1 - (1 - short) ** (1 + length / PIECE)


def _priors(device: Device, course: Points, bounds: Bounds, scale: float) -> tuple[float, float]:
    """How much speaks for the last point of a course as its tip, and for the first, before the tip map is asked."""
    first, last = course[0], course[-1]
    if device in DOWNWARD:
        return (0.2, 0.0) if last[1] >= first[1] else (0.0, 0.2)
    # Catheters come in from outside: their tip is the end that is farther from the film's border.
    return (0.2, 0.0) if _border_distance(last, bounds) >= _border_distance(first, bounds) else (0.0, 0.2)


def _on_film(path: Points, bounds: Bounds) -> tuple[Points, bool]:
    """The longest stretch of a path that is on the film, or a point where none is; and whether its end was cut off."""
    inside = np.array([_border_distance(point, bounds) >= 0 for point in path])
    runs = np.split(np.arange(len(path)), np.flatnonzero(np.diff(inside)) + 1)
    longest = max((run for run in runs if inside[run[0]]), key=len, default=np.arange(1))
    return path[longest], bool(longest[-1] < len(path) - 1)


def _border_distance(point: np.ndarray, bounds: Bounds) -> float:
    left, top, right, bottom = bounds
    return float(min(point[0] - left, point[1] - top, right - point[0], bottom - point[1]))


def _to_border(path: Points, bounds: Bounds, scale: float) -> Points:
    """A path led on to the film's border where it ends just short of it: thinning takes half a width from each end."""
    gap = _border_distance(path[-1], bounds)
    if not 0 < gap <= EDGE * scale:
        return path
    step = path[-1] - path[-min(len(path), 1 + round(0.03 * scale))]
    length = float(np.hypot(*step))
    if length == 0:
        return path
    left, top, right, bottom = bounds
    low, high = np.array([left, top]), np.array([right, bottom])
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(step > 0, (high - path[-1]) / step, np.where(step < 0, (low - path[-1]) / step, np.inf))
    onward = float(steps.min())
    if onward * length > 2 * EDGE * scale:
        return path
    return np.concatenate([path, [path[-1] + onward * step]])


def _whole(maps: np.ndarray) -> Bounds:
    """The edges of maps (9, h, w) that a film fills."""
    return -0.5, -0.5, maps.shape[2] - 0.5, maps.shape[1] - 0.5


def _checked(maps: np.ndarray) -> np.ndarray:
    maps = np.ascontiguousarray(maps, np.float32)
    if maps.ndim != 3 or len(maps) != len(MAPS) or min(maps.shape[1:]) < 8:
        raise ValueError(
            f"maps: needs ({len(MAPS)}, h, w) of at least 8 px a side, in the order of task.MAPS; got {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise ValueError("maps: holds values that are not numbers; the network that made them has diverged")
    return maps
