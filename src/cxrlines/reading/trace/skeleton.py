"""From a heatmap of lines to its skeleton in segments: what is probable enough, one pixel wide, cut at its junctions.

Points are [x, y] in px of the heatmap; lengths are fractions of the heatmap's longer side unless they say px.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.polyline import Points, length, lengths

SMOOTHING = 0.8
"""Standard deviation in px by which a heatmap is smoothed first; a line 1.5 px wide keeps two thirds of its height."""
HIGH, LOW = 0.20, 0.08
"""Smoothed probability that starts a line, and that continues it (hysteresis)."""
VALLEY = 0.01
"""Laplacian of the smoothed heatmap above which a pixel lies between two ridges, not on one."""
SPUR = 0.03
"""Shorter side branches come from the thinning."""
JUNCTION = 0.05
"""Junctions that are nearer to each other are one: a crossing at a small angle."""
DIRECTION = (0.012, 0.05)
"""Where along a segment its direction at an end is measured: not in the junction itself."""
MAX_AREA, MAX_LENGTH, MAX_SEGMENTS = 0.12, 6.0, 100
"""The most of a heatmap that the lines of one device cover, their total length, and their number of segments. What lies
below the first is taken for haze; a heatmap that exceeds one of them even so is noise, and has no lines."""
TIP_NEAR = 0.03
"""A free end that is no farther from a tip's peak is that tip."""

Pixel = tuple[int, int]


class Pose(NamedTuple):
    """An end of a line: its place (2,), and the unit vector by which it would go on; None where it is too short."""

    place: np.ndarray
    direction: np.ndarray | None


@dataclass
class Segment:
    """A stretch of skeleton between junctions.

    Attributes:
        points: (n, 2) px, neighbouring pixels in order.
        nodes: The junction at its start and at its end; -1 for a free end.
        tipped: Whether its start, and its end, is the tip of a line.
    """

    points: Points
    nodes: list[int]
    tipped: list[bool] = field(default_factory=lambda: [False, False])

    def end(self, side: int, scale: float, min_length: float = 0.0) -> Pose:
        """The pose of the start (side 0) or the end (1). `scale` and `min_length` as of `pose_of`."""
        return pose_of(self.points if side == 0 else self.points[::-1], scale, min_length)


def pose_of(points: Points, scale: float, min_length: float = 0.0) -> Pose:
    """The pose of a polyline's first point, looking away from the rest.

    Args:
        points: (n, 2) px.
        scale: px of the heatmap's longer side.
        min_length: A shorter polyline has no direction, nor has one below 2 px.
    """
    along = lengths(points)
    if along[-1] < max(2.0, min_length * scale):
        return Pose(points[0], None)
    near = np.searchsorted(along, min(DIRECTION[0] * scale, along[-1] / 3))
    far = np.searchsorted(along, min(DIRECTION[1] * scale, along[-1]))
    step = points[near] - points[min(far, len(points) - 1)]
    return Pose(points[0], step / max(float(np.hypot(*step)), 1e-9))


def segments_of(line_map: np.ndarray, tips: Points) -> list[Segment]:
    """The skeleton of a heatmap (h, w) cut at its junctions, without spurs.

    `tips` (k, 2) are places where a line ends: a short side branch that leads to one is no spur.
    """
    scale = float(max(line_map.shape))
    ridges = _ridges(line_map)
    if ridges.mean() > MAX_AREA:
        return []
    skeleton = thin(ridges)
    if skeleton.sum() > MAX_LENGTH * scale:
        return []
    rows, columns = np.divmod(np.flatnonzero(skeleton), skeleton.shape[1])
    pixels = list(zip(columns.tolist(), rows.tolist(), strict=True))
    neighbours = _neighbours(skeleton, pixels)
    node_of = _junctions([pixel for pixel in pixels if len(neighbours[pixel]) > 2])
    segments = _without_spurs(_trace_segments(pixels, neighbours, node_of), tips, scale)
    segments = _merge_junctions(segments, len(node_of), scale)
    return segments if len(segments) <= MAX_SEGMENTS else []


def _ridges(line_map: np.ndarray) -> np.ndarray:
    """(h, w) bool: what is probable enough, or continues what is, without the valleys between neighbouring lines."""
    smooth = cv2.GaussianBlur(line_map, (0, 0), SMOOTHING)
    haze = 0.0
    if np.count_nonzero(smooth >= LOW) > MAX_AREA * (smooth.size - 1):  # else it is below LOW, and changes nothing
        haze = float(np.quantile(smooth, 1 - MAX_AREA))
    low = smooth >= max(LOW, haze)
    ridges = np.zeros(low.shape, bool)
    left, top, width, height = cv2.boundingRect(low.view(np.uint8))
    inner = (slice(top, top + height), slice(left, left + width))  # around it nothing is probable enough
    low, high = low[inner], smooth[inner] >= max(HIGH, min(2 * haze, (1 + haze) / 2))
    if high.any():
        count, component = cv2.connectedComponents(low.view(np.uint8), connectivity=8)
        has_high = np.zeros(count, bool)
        has_high[component[high]] = True
        curvature = cv2.Laplacian(cv2.GaussianBlur(line_map, (0, 0), 1.0), cv2.CV_32F, ksize=1)[inner]
        ridges[inner] = has_high[component] & low & (curvature <= VALLEY)
    return ridges


def thin(mask: np.ndarray) -> np.ndarray:
    """A mask (h, w) bool thinned to lines one pixel wide that are connected as it is (Guo and Hall, 1989)."""
    skeleton = np.zeros(mask.shape, bool)
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inner = (slice(top, top + height), slice(left, left + width))  # around it all is empty and stays so
    thinned: np.ndarray = mask[inner].astype(np.uint8)
    while thinned.any():
        before = thinned
        for keeps in _KEEPS:
            thinned = cv2.bitwise_and(thinned, cv2.LUT(_neighbourhoods(thinned), keeps))
        if (thinned == before).all():
            skeleton[inner] = thinned
            break
    return skeleton


def _neighbourhoods(mask: np.ndarray) -> np.ndarray:
    """(h, w) uint8: by `_NEIGHBOUR_BITS`, which neighbours of each pixel are set in a mask (h, w) of 0 and 1."""
    return np.asarray(cv2.filter2D(mask, cv2.CV_8U, _NEIGHBOUR_BITS, borderType=cv2.BORDER_CONSTANT))


_NEIGHBOUR_BITS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)  # clockwise from above


def _keeps(subiteration: int) -> np.ndarray:
    """(256,) uint8 by neighbourhood, coded by `_NEIGHBOUR_BITS`: 0 where Guo and Hall's conditions delete the pixel."""
    bits = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(bool)
    following = np.roll(bits, -1, 1)
    # Their C(P): the number of runs of neighbours, counted at the four straight ones.
    runs = (~bits[:, ::2] & (bits[:, 1::2] | following[:, 1::2])).sum(1)
    # Their N(P): pairs of neighbours that are not both empty, counted from either of two starts.
    pairs = np.minimum((bits[:, ::2] | bits[:, 1::2]).sum(1), (bits[:, 1::2] | following[:, 1::2]).sum(1))
    a, b, c, d = (4, 5, 7, 6) if subiteration == 0 else (0, 1, 3, 2)
    needed = (bits[:, a] | bits[:, b] | ~bits[:, c]) & bits[:, d]
    return np.asarray((runs != 1) | (pairs < 2) | (pairs > 3) | needed, np.uint8)


_KEEPS = (_keeps(0), _keeps(1))


def _leading(neighbourhood: int) -> list[Pixel]:
    """Offsets to the neighbours of a pixel, the straight ones first, by the code of its neighbourhood.

    A diagonal one is left out where a straight one leads to it.
    """
    clockwise = [(0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)]
    there = [bool(neighbourhood >> k & 1) for k in range(8)]
    straight = [k for k in (0, 2, 4, 6) if there[k]]
    diagonal = [k for k in (1, 3, 5, 7) if there[k] and not there[k - 1] and not there[(k + 1) % 8]]
    return [clockwise[k] for k in straight + diagonal]


_LEADING = [_leading(neighbourhood) for neighbourhood in range(256)]


def _neighbours(skeleton: np.ndarray, pixels: list[Pixel]) -> dict[Pixel, list[Pixel]]:
    """The neighbours of each pixel of a skeleton (h, w) bool, as `_leading` says; `pixels` are its own, by row."""
    codes = _neighbourhoods(skeleton.astype(np.uint8))[skeleton].tolist()
    return {(x, y): [(x + dx, y + dy) for dx, dy in _LEADING[code]] for (x, y), code in zip(pixels, codes, strict=True)}


def _components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """A number for each of `count` things; those that pairs join, directly or through others, share one."""
    component = list(range(count))
    for one, other in pairs:
        old, new = component[one], component[other]
        if old != new:
            component = [new if number == old else number for number in component]
    return component


def _junctions(crossings: list[Pixel]) -> dict[Pixel, int]:
    """The junction that each crossing pixel belongs to: pixels within 2 px of each other are one."""
    index = {pixel: k for k, pixel in enumerate(crossings)}
    offsets = ((1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (-1, 1))  # and their opposites
    pairs = [
        (k, index[x + dx, y + dy]) for (x, y), k in index.items() for dx, dy in offsets if (x + dx, y + dy) in index
    ]
    return dict(zip(crossings, _components(len(crossings), pairs), strict=True))


def _trace_segments(
    pixels: list[Pixel], neighbours: dict[Pixel, list[Pixel]], node_of: dict[Pixel, int]
) -> list[Segment]:
    """The segments of a skeleton between its junctions and free ends; each pixel outside of junctions is in one.

    Args:
        pixels: Of the skeleton.
        neighbours: Of each of them.
        node_of: The junction of each pixel that is in one.
    """
    segments = []
    visited: set[Pixel] = set()
    # From junctions and free ends first; what is left then are closed rings, cut anywhere.
    free = [p for p in pixels if len(neighbours[p]) <= 1 and p not in node_of]
    for start in [*node_of, *free, *pixels]:
        for first in neighbours[start]:
            if first in visited or first in node_of or (start in visited and start not in node_of):
                continue
            visited |= {first} if start in node_of else {first, start}
            path, before, at = [start, first], start, first
            while at not in node_of:
                onward = next((p for p in neighbours[at] if p != before and (p not in visited or p in node_of)), None)
                if onward is None:
                    break
                before, at = at, onward
                path.append(at)
                if at not in node_of:
                    visited.add(at)
            nodes = [node_of.get(path[0], -1), node_of.get(path[-1], -1)]
            segments.append(Segment(np.array(path, np.float64), nodes))
    return segments


def _merge_junctions(segments: list[Segment], count: int, scale: float) -> list[Segment]:
    """The segments without short ones between two of the `count` junctions, which become one junction."""
    joined, kept = [], []
    for segment in segments:
        if min(segment.nodes) >= 0 and length(segment.points) < JUNCTION * scale:
            joined.append((segment.nodes[0], segment.nodes[1]))
        else:
            kept.append(segment)
    merged = _components(count, joined)
    for segment in kept:
        segment.nodes = [merged[node] if node >= 0 else -1 for node in segment.nodes]
    return kept


def _without_spurs(segments: list[Segment], tips: Points, scale: float) -> list[Segment]:
    """The segments without short side branches, except those that lead to one of `tips` (k, 2).

    The shortest go first, as long as the junction that they leave keeps two others.
    """
    degree = Counter(node for segment in segments for node in segment.nodes)
    spurs: set[int] = set()
    for segment in sorted(segments, key=lambda s: len(s.points)):
        junction = max(segment.nodes)
        is_branch = segment.nodes.count(-1) == 1 and degree[junction] > 2
        if is_branch and length(segment.points) < SPUR * scale and not _leads_to_tip(segment, tips, scale):
            spurs.add(id(segment))
            degree[junction] -= 1
    return [segment for segment in segments if id(segment) not in spurs]


def _leads_to_tip(branch: Segment, tips: Points, scale: float) -> bool:
    """Whether a tip is near the free end of a branch, and nearer to that than to its junction."""
    points = branch.points if branch.nodes[0] >= 0 else branch.points[::-1]
    to_junction, to_end = (float(np.hypot(*(tips - end).T).min(initial=np.inf)) for end in points[[0, -1]])
    return to_end < min(TIP_NEAR * scale, to_junction - 1)
