"""Which end of a centerline is its tip: the end that best fits a peak of the tips' heatmap, else the likelier one.

Points are [x, y] in px of the heatmap; lengths are fractions of the heatmap's longer side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxrlines.core.findings import Keypoint
from cxrlines.core.heatmaps import KEYPOINT_SIGMA
from cxrlines.core.polyline import Points, resample
from cxrlines.reading.trace.bounds import Bounds, end_direction
from cxrlines.task import Device

REACH = 0.06
"""A tip's peak moves the end of a centerline that is no farther from it, along the centerline or beyond."""
BESIDE = 0.025
"""A tip's peak lies on a centerline that passes it no farther away."""
BRIDGE, STRAIGHT = 0.15, 0.85
"""A peak so far off is still a centerline's tip if it lies straight ahead (cosine)."""
PRIOR = 0.2
"""What the likelier end of a centerline has ahead of the other, in the units of a peak's height."""
SAME = 2
"""Decimals of a score: lines that share their last stretch fit a peak equally, but for rounding."""
DOWNWARD = (Device.ETT, Device.NGT)
"""Devices whose lower end is the tip where the tips' heatmap does not say."""


class Ending(NamedTuple):
    """A centerline (n, 2) from entry to tip, and the peak at which it ends; None where the heatmap does not say."""

    path: Points
    tip: Keypoint | None


class _Fit(NamedTuple):
    """How well a path ends at a peak (`score`), and the index of the point at which it leaves for it."""

    score: float
    leaves_at: int


class _Candidate(NamedTuple):
    """Line `line` may end at peak `tip` when it is followed along `path`."""

    score: float
    line: int
    path: Points
    tip: int
    leaves_at: int


def directed(
    device: Device, lines: Sequence[Points], tips: Sequence[Keypoint], bounds: Bounds, scale: float
) -> list[Ending]:
    """The centerlines of a device from entry to tip, in their order; the best fits choose their peak first.

    Of equal fits the longest line's is first. A peak ends one line; only where none is left may two lines end at the
    same one.

    Args:
        lines: (n, 2) px each, in either direction, 1 px between their points.
        tips: The peaks of the tips' heatmap.
        scale: px of the heatmap's longer side.
    """
    priors = [_priors(device, line, bounds) for line in lines]
    candidates = _candidates(lines, tips, priors, scale)
    chosen: dict[int, Ending] = {}
    used: set[int] = set()
    for may_reuse in (False, True):
        for candidate in candidates:
            if candidate.line not in chosen and (may_reuse or candidate.tip not in used):
                tip = tips[candidate.tip]
                path = _joined(candidate.path, candidate.leaves_at, tip, scale)
                chosen[candidate.line] = Ending(path, tip)
                used.add(candidate.tip)
    for k, line in enumerate(lines):
        if k not in chosen:
            forward, backward = priors[k]
            chosen[k] = Ending(line if forward >= backward else line[::-1], None)
    return [chosen[k] for k in range(len(lines))]


def distance_to_others(path: Points, others: Sequence[Points]) -> np.ndarray:
    """(n,) px from each point of a path (n, 2) to the nearest point of other ones; infinite where there is none."""
    found = np.full(len(path), np.inf)
    for other in others:
        square = (path[:, None, 0] - other[:, 0]) ** 2 + (path[:, None, 1] - other[:, 1]) ** 2
        np.minimum(found, np.sqrt(square.min(axis=1)), out=found)
    return found


def _candidates(
    lines: Sequence[Points], tips: Sequence[Keypoint], priors: Sequence[tuple[float, float]], scale: float
) -> list[_Candidate]:
    """Every way in which a line may end at a peak, the best first; of equal ones that of the longest line."""
    if not tips:
        return []
    found = []
    for k, line in enumerate(lines):
        shared = distance_to_others(line, [other[::2] for j, other in enumerate(lines) if j != k]) < 2.0
        for prior, path, shares in ((priors[k][0], line, shared), (priors[k][1], line[::-1], shared[::-1])):
            for j, tip in enumerate(tips):
                fit = _fit(path, shares, tip, scale)
                if fit is not None:
                    found.append(_Candidate(fit.score + prior, k, path, j, fit.leaves_at))
    return sorted(found, key=lambda candidate: (-round(candidate.score, SAME), -len(candidate.path)))


def _fit(path: Points, shared: np.ndarray, tip: Keypoint, scale: float) -> _Fit | None:
    """How well a path ends at a peak; None if it does not.

    What the path would lose beyond the peak counts against it; less where another line runs there as well (`shared`,
    (n,) bool).
    """
    distance = np.hypot(*(path - tip.xy).T) / scale
    fits = []
    # The path passes the peak, and would be cut there.
    nearest = int(distance.argmin())
    lost = float((~shared[nearest:]).sum()) / scale  # points are 1 px apart
    if distance[nearest] <= BESIDE and lost <= REACH:
        lost_shared = float(shared[nearest:].sum()) / scale
        fits.append(_Fit(tip.confidence - (distance[nearest] + lost) / (4 * REACH) - lost_shared / 2, nearest))
    # The path ends before the peak, and would be led on to it.
    step = end_direction(path, 0.04 * scale)
    ahead = tip.xy - path[-1]
    norm = float(np.hypot(*step) * np.hypot(*ahead))
    straight = norm > 0 and float(step @ ahead) / norm > STRAIGHT
    if distance[-1] <= (BRIDGE if straight else REACH):
        fits.append(_Fit(tip.confidence - float(distance[-1]) / (4 * REACH), len(path) - 1))
    return max(fits, default=None)


def _joined(path: Points, leaves_at: int, tip: Keypoint, scale: float) -> Points:
    """A path up to two standard deviations of the peak before it, and from there straight to the peak."""
    stop = max(1, leaves_at - round(2 * KEYPOINT_SIGMA * scale))
    return np.concatenate([path[:stop], resample(np.stack([path[stop - 1], tip.xy]), 1.0)[1:]])


def _priors(device: Device, line: Points, bounds: Bounds) -> tuple[float, float]:
    """What speaks for the last point of a centerline as its tip, and for the first, before the tips' heatmap."""
    # Catheters come in from outside: their tip is the end that is farther from the film's edge.
    first, last = line[[0, -1], 1] if device in DOWNWARD else bounds.distance(line[[0, -1]])
    return (PRIOR, 0.0) if last >= first else (0.0, PRIOR)
