"""From a map of lines to courses: which pixels belong to one line, and in what order.

The map is cut at two thresholds and thinned to a skeleton. The skeleton falls into segments at its junctions; ends of
segments are then linked two by two where a line can go on, within a junction first and across gaps after; the plain
ones before the faint. So lines that cross stay two, and a line in pieces becomes one. A catheter that ends on another
one (two that share a vein) shares the rest of its way.

Points are [x, y] in px of the map; lengths below are shares of the map's longer side.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.reading.trace.linking import CORNER, TIPLESS, TURN, End, Links, link, turn_between
from cxrlines.reading.trace.skeleton import JUNCTION, SPUR, TIP_NEAR, Pose, Segment, segments_of

ACROSS, AHEAD = 0.10, 0.85
"""How far ahead a line may lie that an end runs into across a gap, and how straight ahead (cosine)."""
SMOOTH = 1.5
"""Deviation in px by which a course is smoothed along itself."""


@dataclass(frozen=True, eq=False)
class Centerline:
    """The course of a line: its `points`, (n, 2), in either direction, and the part of them that is its `own`.

    The rest, if any, is the way of another line that it runs into.
    """

    points: Points
    own: Points


def trace(line_map: np.ndarray, tips: Points, *, many: bool) -> list[Centerline]:
    """The courses of the lines of one device, longest first, each about 1 px between points.

    Args:
        line_map: (h, w) float32, probability of a line.
        tips: (k, 2), the places where tips were seen: there a line ends, and is not bridged to another.
        many: Whether the device may be there several times, so that a line may share the way of another.
    """
    scale = float(max(line_map.shape))
    segments = segments_of(line_map, tips)
    free = [(segment, side) for segment in segments for side in (0, 1) if segment.nodes[side] < 0]
    for tip in tips if free else []:  # each says of one end that it is a tip
        distance, k = min((float(np.hypot(*(s.points[-side] - tip))), k) for k, (s, side) in enumerate(free))
        if distance < TIP_NEAR * scale:
            free[k][0].tipped[free[k][1]] = True
    plain = np.array([sample(line_map, segment.points).mean() for segment in segments])
    chains = _chains(segments, link(segments, plain, scale))
    own = [_joined(segments, chain) for chain in chains]
    whole = [_shared(k, own, chains, segments, scale) for k in range(len(own))] if many else own
    courses = [
        Centerline(refine(points, line_map), mine)
        for points, mine in zip(whole, own, strict=True)
        if lengths(points)[-1] >= SPUR * scale
    ]
    return sorted(courses, key=lambda course: -lengths(course.points)[-1])


def _chains(segments: list[Segment], links: Links) -> list[list[End]]:
    """The segments in the order in which links join them, each named by the end at which it is entered."""
    chains: list[list[End]] = []
    done: set[int] = set()
    free = [(k, side) for k in range(len(segments)) for side in (0, 1) if (k, side) not in links]
    for start in [*free, *((k, 0) for k in range(len(segments)))]:  # free ends first, rings after
        if start[0] in done:
            continue
        chain, at = [], start
        while at[0] not in done:
            done.add(at[0])
            chain.append(at)
            far = (at[0], 1 - at[1])
            if far not in links:
                break
            at = links[far]
        chains.append(chain)
    return chains


def _joined(segments: list[Segment], chain: list[End]) -> Points:
    parts = [segments[k].points if side == 0 else segments[k].points[::-1] for k, side in chain]
    return np.concatenate(parts)


def _shared(k: int, courses: list[Points], chains: list[list[End]], segments: list[Segment], scale: float) -> Points:
    """Course `k`, led on along the line that it runs into: at a junction, or straight ahead across a gap."""
    course = courses[k]
    (first, side), (last, entered) = chains[k][0], chains[k][-1]
    if lengths(course)[-1] < JUNCTION * scale:
        return course
    for end, back in (((first, side), True), ((last, 1 - entered), False)):
        node, tipped = segments[end[0]].nodes[end[1]], segments[end[0]].tipped[end[1]]
        if tipped:
            continue
        pose = segments[end[0]].end(end[1], scale)
        ways = (
            _ways_at(node, k, chains, segments) if node >= 0 else _ways_ahead(pose, k, courses, chains, segments, scale)
        )
        onward = _straightest(pose, ways, scale)
        if onward is not None:
            course = np.concatenate([onward[::-1], course]) if back else np.concatenate([course, onward])
    return course


_Way = tuple[Points, bool]  # the rest of a line, and whether it ends in a tip


def _ways_at(node: int, k: int, chains: list[list[End]], segments: list[Segment]) -> list[_Way]:
    """The ways on from a junction along other chains than `k`."""
    ways = []
    for chain in (chain for other, chain in enumerate(chains) if other != k):
        for place, (segment, side) in enumerate(chain):
            if segments[segment].nodes[side] == node:
                ways.append((_joined(segments, chain[place:]), _tipped(segments, chain)[1]))
            if segments[segment].nodes[1 - side] == node:
                ways.append((_joined(segments, chain[: place + 1])[::-1], _tipped(segments, chain)[0]))
    return ways


def _ways_ahead(
    pose: Pose, k: int, courses: list[Points], chains: list[list[End]], segments: list[Segment], scale: float
) -> list[_Way]:
    """The two ways along the nearest other line that an end points at across a gap; none if there is none."""
    place, direction = pose
    best: tuple[float, int, int] | None = None
    for other, course in enumerate(courses):
        if other == k or direction is None:
            continue
        ahead = course - place
        distance = np.hypot(*ahead.T)
        distance[ahead @ direction < AHEAD * distance] = np.inf
        nearest = int(distance.argmin())
        if distance[nearest] <= ACROSS * scale and (best is None or distance[nearest] < best[0]):
            best = float(distance[nearest]), other, nearest
    if best is None:
        return []
    _, other, nearest = best
    start, end = _tipped(segments, chains[other])
    return [(courses[other][nearest:], end), (courses[other][: nearest + 1][::-1], start)]


def _tipped(segments: list[Segment], chain: list[End]) -> tuple[bool, bool]:
    """Whether a chain starts, and ends, at a tip."""
    (first, side), (last, entered) = chain[0], chain[-1]
    return segments[first].tipped[side], segments[last].tipped[1 - entered]


def _straightest(pose: Pose, ways: list[_Way], scale: float) -> Points | None:
    """The way on that turns least, one that ends in a tip before all others; None if each turns too far."""
    best: tuple[float, Points] | None = None
    for rest, tipped in ways:
        if len(rest) < 3:
            continue
        beyond = Segment(rest, [-1, -1]).end(0, scale)
        turn = turn_between(pose, beyond)[1]
        cost = turn - (TIPLESS if tipped else 0.0)
        if turn <= (CORNER if tipped else TURN) and (best is None or cost < best[0]):
            best = cost, rest
    return None if best is None else best[1]


def refine(course: Points, line_map: np.ndarray) -> Points:
    """A course moved onto the ridge of the map and smoothed, 1 px between its points; its ends stay."""
    course = _smoothed(resample(course, 1.0))
    offsets = np.arange(-2.0, 2.01, 0.5)
    for _ in range(2):
        tangent = np.gradient(course, axis=0)
        tangent /= np.maximum(np.hypot(*tangent.T)[:, None], 1e-9)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        across = course[:, None] + offsets[:, None] * normal[:, None]
        weight = sample(line_map, across.reshape(-1, 2)).reshape(across.shape[:2]) ** 2
        mass = weight.sum(1)
        shift = np.where(mass > 0.02, (weight * offsets).sum(1) / np.maximum(mass, 1e-9), 0)
        course = _smoothed(resample(course + np.clip(shift, -1, 1)[:, None] * normal, 1.0))
    return course


def sample(values: np.ndarray, points: Points) -> np.ndarray:
    """(n,) float32: a map at points [x, y] between its pixels; 0 outside."""
    at = points.astype(np.float32)[:, None]
    return cv2.remap(np.ascontiguousarray(values, np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderValue=0)[
        :, 0
    ]


def _smoothed(points: Points) -> Points:
    """A Gaussian along the course; the ends keep their places because the course is mirrored through them."""
    reach = min(int(4 * SMOOTH), len(points) - 1)
    if reach < 1:
        return points
    before = 2 * points[0] - points[reach:0:-1]
    after = 2 * points[-1] - points[-2 : -reach - 2 : -1]
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTH) ** 2)
    kernel /= kernel.sum()
    extended = np.concatenate([before, points, after])
    return np.stack([np.convolve(extended[:, d], kernel, "valid") for d in (0, 1)], 1)
