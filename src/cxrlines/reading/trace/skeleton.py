"""From a map of lines to its skeleton in segments: what is probable enough, one pixel wide, cut at its junctions.

Points are [x, y] in px of the map; lengths below are shares of the map's longer side.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.spatial import cKDTree

from cxrlines.core.polyline import Points, lengths

SOFT = 0.8
"""Deviation in px by which a map is smoothed before it is cut; a line 1.5 px wide keeps two thirds of its height."""
HIGH, LOW = 0.20, 0.08
"""Smoothed probability that starts a line, and that continues it."""
VALLEY = 0.01
"""Laplacian of the smoothed map above which a pixel lies between two ridges, not on one."""
SPUR = 0.03
"""Side branches that are shorter come from the thinning."""
JUNCTION = 0.05
"""Junctions that are nearer to each other are one: a crossing at a small angle."""
DIRECTION = (0.012, 0.05)
"""Where along a segment its direction at an end is measured: not in the junction itself."""
AREA, LENGTH, PIECES = 0.12, 6.0, 100
"""Lines of one device cover no more of a map, are together no longer, and in no more pieces: what is below the first
stands back as haze, and a map with more than that is noise and shows none."""
TIP_NEAR = 0.03
"""An end that is no farther from a tip's place is that tip."""


Pose = tuple[np.ndarray, np.ndarray | None]


@dataclass
class Segment:
    """A stretch of skeleton between junctions: its points, and the junction at either end (-1: a free end)."""

    points: Points
    nodes: list[int]
    tipped: list[bool] = field(default_factory=lambda: [False, False])

    def end(self, side: int, scale: float, least: float = 0.0) -> Pose:
        """The point at an end and the unit vector by which the line would go on from there, if it is `least` long."""
        points = self.points if side == 0 else self.points[::-1]
        along = lengths(points)
        if along[-1] < max(2.0, least * scale):
            return points[0], None
        near = np.searchsorted(along, min(DIRECTION[0] * scale, along[-1] / 3))
        far = np.searchsorted(along, min(DIRECTION[1] * scale, along[-1]))
        step = points[near] - points[min(far, len(points) - 1)]
        return points[0], step / max(float(np.hypot(*step)), 1e-9)


def _ridges(line_map: np.ndarray) -> np.ndarray:
    """(h, w) bool: what is probable enough, or continues what is, without the valleys between neighbouring lines."""
    soft = cv2.GaussianBlur(line_map, (0, 0), SOFT)
    haze = float(np.quantile(soft, 1 - AREA))
    low = soft >= max(LOW, haze)
    count, label = cv2.connectedComponents(low.astype(np.uint8), connectivity=8)
    sure = np.zeros(count, bool)
    sure[label[soft >= max(HIGH, min(2 * haze, (1 + haze) / 2))]] = True
    kept = sure[label] & low
    bent = cv2.Laplacian(cv2.GaussianBlur(line_map, (0, 0), 1.0), cv2.CV_32F, ksize=1)
    return kept & (bent <= VALLEY)


def thin(mask: np.ndarray) -> np.ndarray:
    """A bool mask thinned to lines one pixel wide that are connected as it is (Guo and Hall, 1989)."""
    thinned: np.ndarray = mask.astype(np.uint8)
    if not thinned.any():
        return mask.copy()
    left, top, width, height = cv2.boundingRect(thinned)
    inner = (slice(top, top + height), slice(left, left + width))  # around it all is empty and stays so
    thinned = thinned[inner].copy()
    while True:
        before = thinned
        for kept in _KEPT:
            code = cv2.filter2D(thinned, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            thinned = cv2.bitwise_and(thinned, cv2.LUT(code, kept))
        if (thinned == before).all():
            whole = np.zeros(mask.shape, bool)
            whole[inner] = thinned
            return whole


_NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)  # bits clockwise from above


def _kept(step: int) -> np.ndarray:
    """(256,) uint8: 0 for each neighbourhood in which a pixel may go, else 1."""
    bits = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(bool)
    following = np.roll(bits, -1, 1)
    # Runs of neighbours, counted at the four straight ones; and pairs of neighbours that are not both empty.
    runs = (~bits[:, ::2] & (bits[:, 1::2] | following[:, 1::2])).sum(1)
    pairs = np.minimum((bits[:, ::2] | bits[:, 1::2]).sum(1), (bits[:, 1::2] | following[:, 1::2]).sum(1))
    a, b, c, d = (4, 5, 7, 6) if step == 0 else (0, 1, 3, 2)
    needed = (bits[:, a] | bits[:, b] | ~bits[:, c]) & bits[:, d]
    return ((runs != 1) | (pairs < 2) | (pairs > 3) | needed).astype(np.uint8)


_KEPT = (_kept(0), _kept(1))


def segments_of(line_map: np.ndarray, tips: Points) -> list[Segment]:
    """The skeleton of a map (h, w) cut at its junctions, without spurs; junctions are numbered from 0.

    `tips` (k, 2) are places where a line ends: a short side branch that leads to one is no spur.
    """
    scale = float(max(line_map.shape))
    ridges = _ridges(line_map)
    if ridges.mean() > AREA:
        return []
    skeleton = thin(ridges)
    if skeleton.sum() > LENGTH * scale:
        return []
    rows, columns = np.nonzero(skeleton)
    pixels = list(zip(columns.tolist(), rows.tolist(), strict=True))
    there = set(pixels)
    near = {pixel: _neighbours(pixel, there) for pixel in pixels}
    crossings = [pixel for pixel in pixels if len(near[pixel]) > 2]
    node_of = _cluster(crossings, 2.0)
    segments = _walk(pixels, near, node_of)
    _prune(segments, tips, scale)
    # What was a junction only because of a spur, and junctions close to each other, are merged.
    short = [s for s in segments if min(s.nodes) >= 0 and lengths(s.points)[-1] < JUNCTION * scale]
    merged = _Groups(max(node_of.values(), default=-1) + 1)
    for segment in short:
        merged.join(*segment.nodes)
    kept = [s for s in segments if all(s is not other for other in short)]
    for segment in kept:
        segment.nodes = [merged.of(node) if node >= 0 else -1 for node in segment.nodes]
    return kept if len(kept) <= PIECES else []


def _neighbours(pixel: tuple[int, int], there: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pixels next in the skeleton; a diagonal one only where no straight one leads to it."""
    x, y = pixel
    straight = [p for p in ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y)) if p in there]
    for dx, dy in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
        if (x + dx, y + dy) in there and (x + dx, y) not in there and (x, y + dy) not in there:
            straight.append((x + dx, y + dy))
    return straight


class _Groups:
    """Numbers that were joined, directly or through others, share a group."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def of(self, number: int) -> int:
        while self._parent[number] != number:
            number = self._parent[number]
        return number

    def join(self, one: int, other: int) -> None:
        self._parent[self.of(one)] = self.of(other)


def _cluster(pixels: list[tuple[int, int]], reach: float) -> dict[tuple[int, int], int]:
    """The junction each pixel belongs to: pixels within `reach` of each other are one."""
    if not pixels:
        return {}
    groups = _Groups(len(pixels))
    for one, other in cKDTree(np.array(pixels)).query_pairs(reach):
        groups.join(one, other)
    return {pixel: groups.of(k) for k, pixel in enumerate(pixels)}


def _walk(
    pixels: list[tuple[int, int]],
    near: dict[tuple[int, int], list[tuple[int, int]]],
    node_of: dict[tuple[int, int], int],
) -> list[Segment]:
    segments = []
    seen: set[tuple[int, int]] = set()
    # From junctions and free ends first; what is left then are closed rings, cut anywhere.
    starts = [p for p in pixels if p in node_of] + [p for p in pixels if len(near[p]) <= 1 and p not in node_of]
    for start in [*starts, *pixels]:
        for first in near[start]:
            if first in seen or first in node_of or (start in seen and start not in node_of):
                continue
            path, at = [start, first], first
            seen.add(first)
            if start not in node_of:
                seen.add(start)
            while at not in node_of:
                onward = [p for p in near[at] if p not in path[-2:] and (p not in seen or p in node_of)]
                if not onward:
                    break
                # A junction next to the first pixel of a segment is where it came from, unless nothing else is there.
                at = onward[0]
                path.append(at)
                if at not in node_of:
                    seen.add(at)
            nodes = [node_of.get(path[0], -1), node_of.get(path[-1], -1)]
            segments.append(Segment(np.array(path, np.float64), nodes))
    return segments


def _prune(segments: list[Segment], tips: Points, scale: float) -> None:
    """Take away the short side branches, shortest first, while a junction keeps two others; not one with a tip."""
    degree: dict[int, int] = defaultdict(int)
    for segment in segments:
        for node in segment.nodes:
            degree[node] += 1
    for segment in sorted(segments, key=lambda s: len(s.points)):
        free = segment.nodes.count(-1)
        node = max(segment.nodes)
        if free == 1 and degree[node] > 2 and lengths(segment.points)[-1] < SPUR * scale:
            inner, outer = (segment.points[k] for k in ((-1, 0) if segment.nodes[0] < 0 else (0, -1)))
            near = [float(np.hypot(*(tip - outer))) for tip in tips]
            if near and min(near) < min(TIP_NEAR * scale, float(np.hypot(*(tips - inner).T).min()) - 1):
                continue
            segments[:] = [other for other in segments if other is not segment]
            degree[node] -= 1
