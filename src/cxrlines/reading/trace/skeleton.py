"""From a heatmap of lines to its skeleton in segments: what is probable enough, one pixel wide, cut at its junctions.

Points are [x, y] in px of the heatmap; lengths below are shares of the heatmap's longer side.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.polyline import Points, length, lengths

SOFT = 0.8
"""Deviation in px by which a heatmap is smoothed first; a line 1.5 px wide keeps two thirds of its height."""
HIGH, LOW = 0.20, 0.08
"""Smoothed probability that starts a line, and that continues it."""
VALLEY = 0.01
"""Laplacian of the smoothed heatmap above which a pixel lies between two ridges, not on one."""
SPUR = 0.03
"""Side branches that are shorter come from the thinning."""
JUNCTION = 0.05
"""Junctions that are nearer to each other are one: a crossing at a small angle."""
DIRECTION = (0.012, 0.05)
"""Where along a segment its direction at an end is measured: not in the junction itself."""
AREA, LENGTH, PIECES = 0.12, 6.0, 100
"""Lines of one device cover no more of a heatmap, are together no longer, and in no more pieces: what is below the
first stands back as haze, and a heatmap with more than that is noise and shows none."""
TIP_NEAR = 0.03
"""An end that is no farther from a tip's place is that tip."""

Pixel = tuple[int, int]


class Pose(NamedTuple):
    """An end of a line: its place (2,), and the unit vector by which it would go on; None where it is too short."""

    place: np.ndarray
    direction: np.ndarray | None


@dataclass
class Segment:
    """A stretch of skeleton between junctions: its points, and the junction at either end (-1: a free end)."""

    points: Points
    nodes: list[int]
    tipped: list[bool] = field(default_factory=lambda: [False, False])

    def end(self, side: int, scale: float, least: float = 0.0) -> Pose:
        """The pose of the start (side 0) or the end (1); without direction if the segment is shorter than `least`."""
        return pose_of(self.points if side == 0 else self.points[::-1], scale, least)


def pose_of(points: Points, scale: float, least: float = 0.0) -> Pose:
    """The pose of a polyline's first point, looking away from the rest; without direction if shorter than `least`."""
    along = lengths(points)
    if along[-1] < max(2.0, least * scale):
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
    if ridges.mean() > AREA:
        return []
    skeleton = thin(ridges)
    if skeleton.sum() > LENGTH * scale:
        return []
    rows, columns = np.nonzero(skeleton)
    pixels = list(zip(columns.tolist(), rows.tolist(), strict=True))
    there = set(pixels)
    near = {pixel: _neighbours(pixel, there) for pixel in pixels}
    node_of = _junctions([pixel for pixel in pixels if len(near[pixel]) > 2])
    segments = _without_spurs(_walk(pixels, near, node_of), tips, scale)
    # What was a junction only because of a spur, and junctions close to each other, are merged.
    short = [min(s.nodes) >= 0 and length(s.points) < JUNCTION * scale for s in segments]
    joined = [(s.nodes[0], s.nodes[1]) for s, is_short in zip(segments, short, strict=True) if is_short]
    merged = _groups(len(node_of), joined)
    kept = [s for s, is_short in zip(segments, short, strict=True) if not is_short]
    for segment in kept:
        segment.nodes = [merged[node] if node >= 0 else -1 for node in segment.nodes]
    return kept if len(kept) <= PIECES else []


def _ridges(line_map: np.ndarray) -> np.ndarray:
    """(h, w) bool: what is probable enough, or continues what is, without the valleys between neighbouring lines."""
    soft = cv2.GaussianBlur(line_map, (0, 0), SOFT)
    haze = float(np.quantile(soft, 1 - AREA))
    low = soft >= max(LOW, haze)
    count, label = cv2.connectedComponents(low.astype(np.uint8), connectivity=8)
    sure = np.zeros(count, bool)
    sure[label[soft >= max(HIGH, min(2 * haze, (1 + haze) / 2))]] = True
    bent = cv2.Laplacian(cv2.GaussianBlur(line_map, (0, 0), 1.0), cv2.CV_32F, ksize=1)
    return np.asarray(sure[label] & low & (bent <= VALLEY))


def thin(mask: np.ndarray) -> np.ndarray:
    """A bool mask thinned to lines one pixel wide that are connected as it is (Guo and Hall, 1989)."""
    whole = np.zeros(mask.shape, bool)
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inner = (slice(top, top + height), slice(left, left + width))  # around it all is empty and stays so
    thinned: np.ndarray = mask[inner].astype(np.uint8)
    while thinned.any():
        before = thinned
        for kept in _KEPT:
            code = cv2.filter2D(thinned, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            thinned = cv2.bitwise_and(thinned, cv2.LUT(code, kept))
        if (thinned == before).all():
            whole[inner] = thinned
            break
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
    return np.asarray((runs != 1) | (pairs < 2) | (pairs > 3) | needed, np.uint8)


_KEPT = (_kept(0), _kept(1))


def _neighbours(pixel: Pixel, there: set[Pixel]) -> list[Pixel]:
    """The pixels next in the skeleton; a diagonal one only where no straight one leads to it."""
    x, y = pixel
    found = [p for p in ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y)) if p in there]
    for dx, dy in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
        if (x + dx, y + dy) in there and (x + dx, y) not in there and (x, y + dy) not in there:
            found.append((x + dx, y + dy))
    return found


def _groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """A number for each of `count` things; those that pairs join, directly or through others, share one."""
    group = list(range(count))
    for one, other in pairs:
        old, new = group[one], group[other]
        if old != new:
            group = [new if number == old else number for number in group]
    return group


def _junctions(crossings: list[Pixel]) -> dict[Pixel, int]:
    """The junction that each crossing pixel belongs to: pixels within 2 px of each other are one."""
    place = {pixel: k for k, pixel in enumerate(crossings)}
    within = ((1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (-1, 1))  # and their opposites
    pairs = [
        (k, place[x + dx, y + dy]) for (x, y), k in place.items() for dx, dy in within if (x + dx, y + dy) in place
    ]
    return dict(zip(crossings, _groups(len(crossings), pairs), strict=True))


def _walk(pixels: list[Pixel], near: dict[Pixel, list[Pixel]], node_of: dict[Pixel, int]) -> list[Segment]:
    segments = []
    seen: set[Pixel] = set()
    # From junctions and free ends first; what is left then are closed rings, cut anywhere.
    free = [p for p in pixels if len(near[p]) <= 1 and p not in node_of]
    for start in [*node_of, *free, *pixels]:
        for first in near[start]:
            if first in seen or first in node_of or (start in seen and start not in node_of):
                continue
            path, at = [start, first], first
            seen |= {first} if start in node_of else {first, start}
            while at not in node_of:
                # A junction next to the first pixel of a segment is where it came from, unless nothing else is there.
                onward = [p for p in near[at] if p not in path[-2:] and (p not in seen or p in node_of)]
                if not onward:
                    break
                at = onward[0]
                path.append(at)
                if at not in node_of:
                    seen.add(at)
            nodes = [node_of.get(path[0], -1), node_of.get(path[-1], -1)]
            segments.append(Segment(np.array(path, np.float64), nodes))
    return segments


def _without_spurs(segments: list[Segment], tips: Points, scale: float) -> list[Segment]:
    """The segments without short side branches, shortest first, while a junction keeps two others; tips stay."""
    degree = Counter(node for segment in segments for node in segment.nodes)
    spurs = []
    for segment in sorted(segments, key=lambda s: len(s.points)):
        node = max(segment.nodes)
        if segment.nodes.count(-1) == 1 and degree[node] > 2 and length(segment.points) < SPUR * scale:
            inner, outer = segment.points[:: -1 if segment.nodes[0] < 0 else 1][[0, -1]]
            to_outer, to_inner = (np.hypot(*(tips - end).T).min(initial=np.inf) for end in (outer, inner))
            if len(tips) and to_outer < min(TIP_NEAR * scale, to_inner - 1):
                continue
            spurs.append(id(segment))
            degree[node] -= 1
    return [segment for segment in segments if id(segment) not in spurs]
