"""From a heatmap of lines to centerlines: which segments of its skeleton belong to one line, and in what order.

Ends of segments are linked in pairs: within a junction first, then across gaps, and strong segments before faint ones.
Lines that cross therefore stay two, and a line in pieces becomes one. A catheter that runs into another one (two that
share a vein) is continued along it.

Points are [x, y] in px of the heatmap; lengths are fractions of the heatmap's longer side unless they say px.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.polyline import Points, length, resample
from cxrlines.reading.trace.skeleton import JUNCTION, SPUR, TIP_NEAR, Pose, Segment, pose_of, segments_of

MAX_TURN = 65.0
"""Degrees by which a line may turn within a junction."""
MAX_GAP = 0.25
"""The longest gap to be bridged. The turn allowed falls linearly from `MAX_TURN_TO_TIP` without a gap to
`MAX_TURN_ACROSS_GAP` degrees at the longest."""
MAX_TURN_TO_TIP, MAX_TURN_ACROSS_GAP = 100.0, 20.0
MIN_DIRECTED = 0.03
"""Shorter segments have no direction of their own."""
TIP_PENALTY = 100.0
"""Degrees added to the cost of a link that would give a line two tips, or no tip where another end has one."""
STRENGTHS = (0.7, 0.5, 0.0)
"""Segments of at least these fractions of the strongest one's mean probability are linked first, second and last. The
edge of a rib under a catheter looks like a faint branch of it; linked in one go, such branches cut the catheter in two
or led it astray."""
MAX_AHEAD, MIN_COSINE_AHEAD = 0.10, 0.85
"""How far ahead, and how straight ahead (cosine), another line may lie that an end runs into across a gap."""
SMOOTHING = 1.5
"""Standard deviation in px by which a centerline is smoothed along itself."""

End = tuple[int, int]
"""A segment's index, and 0 for its start or 1 for its end."""
Links = dict[End, End]
"""Each linked end's other one, both ways."""
Chain = list[End]
"""Segments in the order in which links join them, each named by the end at which it is entered."""


@dataclass(frozen=True, eq=False)
class Centerline:
    """The centerline of a line.

    Attributes:
        points: (n, 2) px, in either direction.
        own: (m, 2) px, the part of `points` (before it was smoothed) that is not the course of another line.
    """

    points: Points
    own: Points


class _Continuation(NamedTuple):
    """How a line may go on along another one, and whether that ends in a tip."""

    points: Points
    tipped: bool


def trace(line_map: np.ndarray, tips: Points, *, may_share: bool) -> list[Centerline]:
    """The centerlines of the lines of one device, longest first, about 1 px between points.

    Args:
        line_map: (h, w) float32, probability of a line.
        tips: (k, 2) px, the peaks of the tips' heatmap: there a line ends, and is not bridged to another.
        may_share: Whether a line may share the course of another, as a device may be on the film several times.
    """
    scale = float(max(line_map.shape))
    segments = segments_of(line_map, tips)
    _mark_tips(segments, tips, scale)
    strengths = np.array([sample(line_map, segment.points).mean() for segment in segments])
    chains = _Chains(segments, link(segments, strengths, scale), scale)
    found = []
    for k, own in enumerate(chains.paths):
        path = chains.continued(k) if may_share else own
        if length(path) >= SPUR * scale:
            found.append(Centerline(refine(path, line_map), own))
    return sorted(found, key=lambda line: -length(line.points))


def _mark_tips(segments: list[Segment], tips: Points, scale: float) -> None:
    """Mark the free end nearest to each tip as tipped, in place, where one is near enough."""
    free = [(segment, side) for segment in segments for side in (0, 1) if segment.nodes[side] < 0]
    if not free:
        return
    for tip in tips:
        distances = [float(np.hypot(*(segment.points[-side] - tip))) for segment, side in free]
        segment, side = free[int(np.argmin(distances))]
        segment.tipped[side] |= min(distances) < TIP_NEAR * scale


def link(segments: list[Segment], strengths: np.ndarray, scale: float) -> Links:
    """The pairs of ends through which a line goes on.

    Args:
        segments: n segments of a skeleton.
        strengths: (n,) mean probability along each of them.
        scale: px of the heatmap's longer side.
    """

    @cache
    def pose(end: End, min_length: float = 0.0) -> Pose:
        return segments[end[0]].end(end[1], scale, min_length)

    links: Links = {}
    for fraction in STRENGTHS:
        strong = np.flatnonzero(strengths >= fraction * strengths.max(initial=0)).tolist()
        ends_at: dict[int, list[End]] = defaultdict(list)  # by junction
        for k in strong:
            for side, node in enumerate(segments[k].nodes):
                if node >= 0:
                    ends_at[node].append((k, side))
        for ends in ends_at.values():
            _link_junction(segments, ends, pose, links, scale)
        unpaired = {ends[0] for ends in ends_at.values() if len(ends) == 1}
        _link_gaps(segments, strong, unpaired, partial(pose, min_length=MIN_DIRECTED), links, scale)
    return links


def turn_between(one: Pose, other: Pose) -> tuple[float, float]:
    """The gap in px between two ends, and the degrees by which a line turns that goes on from one to the other."""
    chord = other.place - one.place
    gap = math.hypot(*chord.tolist())
    total = 0.0 if one.direction is None or other.direction is None else _angle(one.direction, -other.direction)
    if gap < 3:
        return gap, total
    turns = [total / 2]  # an arc turns by half of it at either end of its chord
    if one.direction is not None:
        turns.append(_angle(one.direction, chord / gap))
    if other.direction is not None:
        turns.append(_angle(chord / gap, -other.direction))
    return gap, max(turns)


def _angle(one: np.ndarray, other: np.ndarray) -> float:
    """Degrees between two unit vectors."""
    return math.degrees(math.acos(min(max(float(one @ other), -1.0), 1.0)))


def _link_junction(
    segments: list[Segment], ends: Sequence[End], pose: Callable[[End], Pose], links: Links, scale: float
) -> None:
    """Link the ends that meet at a junction, the straightest first."""

    def leads_to_tip(end: End) -> bool | None:
        """Whether the far end of a segment is a tip; None if it is a junction."""
        segment, side = segments[end[0]], 1 - end[1]
        return None if segment.nodes[side] >= 0 else segment.tipped[side]

    any_tip = any(map(leads_to_tip, ends))
    costs = []
    for i, one in enumerate(ends):
        for other in ends[i + 1 :]:
            if one[0] == other[0] and len(ends) > 2 and length(segments[one[0]].points) < 4 * JUNCTION * scale:
                continue  # a small ring is not a line that comes back to itself
            turn = turn_between(pose(one), pose(other))[1]
            tips = {leads_to_tip(one), leads_to_tip(other)}
            # A line with a tip at one end and none at the other may turn further than others.
            allowed = MAX_TURN_TO_TIP if tips == {True, False} else MAX_TURN
            if turn <= allowed or len(ends) == 2:
                implausible = tips == {True} or (tips == {False} and any_tip)
                costs.append((turn + TIP_PENALTY * implausible, one, other))
    for _, one, other in sorted(costs):
        if one not in links and other not in links:
            links[one], links[other] = other, one


def _link_gaps(
    segments: list[Segment],
    strong: Sequence[int],
    unpaired: set[End],
    pose: Callable[[End], Pose],
    links: Links,
    scale: float,
) -> None:
    """Bridge gaps, the cheapest first: short, straight on, never from a tip nor from where others go on.

    `strong` are the indices of the segments considered; `unpaired` their ends that are alone at a junction.
    """
    ends = [
        (k, side)
        for k in strong
        for side, node in enumerate(segments[k].nodes)
        if (node < 0 or (k, side) in unpaired) and not segments[k].tipped[side] and (k, side) not in links
    ]
    x, y = np.array([pose(end).place for end in ends]).reshape(-1, 2).T
    near = np.triu(np.hypot(x[:, None] - x, y[:, None] - y) <= MAX_GAP * scale, 1)
    costs = []
    for i, j in np.argwhere(near).tolist():
        one, other = ends[i], ends[j]
        if one[0] == other[0]:
            continue
        gap, turn = turn_between(pose(one), pose(other))
        allowed = MAX_TURN_TO_TIP + (MAX_TURN_ACROSS_GAP - MAX_TURN_TO_TIP) * gap / (MAX_GAP * scale)
        if turn <= allowed:
            costs.append((gap * (1 + turn / 30), one, other))
    for _, one, other in sorted(costs):
        if one in links or other in links:
            continue
        closes_ring = _chain_from(one, links)[-1] == (other[0], 1 - other[1])
        if not closes_ring:
            links[one], links[other] = other, one


def _chain_from(start: End, links: Links) -> Chain:
    """The segments from an end on, as far as links lead; of a ring once round."""
    chain = [start]
    while (onward := links.get((chain[-1][0], 1 - chain[-1][1]))) and onward != start:
        chain.append(onward)
    return chain


class _Chains:
    """The chains that links make of the segments of one heatmap: each is a line, which may run into another.

    Attributes:
        paths: The points of each chain, (n, 2) px.
    """

    def __init__(self, segments: list[Segment], links: Links, scale: float) -> None:
        self.segments, self.scale = segments, scale
        self.chains: list[Chain] = []
        done: set[int] = set()
        free = [(k, side) for k in range(len(segments)) for side in (0, 1) if (k, side) not in links]
        for start in [*free, *((k, 0) for k in range(len(segments)))]:  # free ends first, rings after
            if start[0] not in done:
                self.chains.append(_chain_from(start, links))
                done |= {k for k, _ in self.chains[-1]}
        self.paths = [self._path(chain) for chain in self.chains]

    def continued(self, k: int) -> Points:
        """The path of chain `k`, continued at both ends along lines that it runs into: at a junction, or straight ahead
        across a gap."""
        path = self.paths[k]
        if length(path) < JUNCTION * self.scale:
            return path
        (first, side), (last, entered) = self.chains[k][0], self.chains[k][-1]
        before, after = self._continuation(k, (first, side)), self._continuation(k, (last, 1 - entered))
        if before is not None:
            path = np.concatenate([before[::-1], path])
        return path if after is None else np.concatenate([path, after])

    def _continuation(self, k: int, end: End) -> Points | None:
        """How chain `k` goes on from one of its ends along another chain; None where it does not, and from a tip."""
        index, side = end
        segment = self.segments[index]
        if segment.tipped[side]:
            return None
        pose = segment.end(side, self.scale)
        node = segment.nodes[side]
        possible = self._ahead(pose, k) if node < 0 else self._at_junction(node, k)
        return self._straightest(pose, possible)

    def _at_junction(self, node: int, k: int) -> list[_Continuation]:
        """The continuations from a junction along other chains than `k`."""
        found = []
        for chain in (chain for other, chain in enumerate(self.chains) if other != k):
            start_tipped, end_tipped = self._tipped(chain)
            for place, (index, side) in enumerate(chain):
                if self.segments[index].nodes[side] == node:
                    found.append(_Continuation(self._path(chain[place:]), end_tipped))
                if self.segments[index].nodes[1 - side] == node:
                    found.append(_Continuation(self._path(chain[: place + 1])[::-1], start_tipped))
        return found

    def _ahead(self, pose: Pose, k: int) -> list[_Continuation]:
        """Both directions along the nearest other line that an end points at across a gap; none if there is none."""
        if pose.direction is None:
            return []
        nearest = []
        for other, path in enumerate(self.paths):
            if other != k:
                ahead = path - pose.place
                distance = np.hypot(*ahead.T)
                distance[ahead @ pose.direction < MIN_COSINE_AHEAD * distance] = np.inf
                nearest.append((float(distance.min()), other, int(distance.argmin())))
        distance_px, other, place = min(nearest, default=(np.inf, 0, 0))
        if distance_px > MAX_AHEAD * self.scale:
            return []
        start_tipped, end_tipped = self._tipped(self.chains[other])
        path = self.paths[other]
        return [_Continuation(path[place:], end_tipped), _Continuation(path[: place + 1][::-1], start_tipped)]

    def _straightest(self, pose: Pose, possible: list[_Continuation]) -> Points | None:
        """The continuation that turns least, one that ends in a tip before all others; None if each turns too far."""
        costs = []
        for k, (points, tipped) in enumerate(possible):
            turn = turn_between(pose, pose_of(points, self.scale))[1] if len(points) >= 3 else np.inf
            if turn <= (MAX_TURN_TO_TIP if tipped else MAX_TURN):
                costs.append((turn - TIP_PENALTY * tipped, k))
        return possible[min(costs)[1]].points if costs else None

    def _path(self, chain: Chain) -> Points:
        parts = (self.segments[k].points if side == 0 else self.segments[k].points[::-1] for k, side in chain)
        return np.concatenate(list(parts))

    def _tipped(self, chain: Chain) -> tuple[bool, bool]:
        """Whether a chain starts, and ends, at a tip."""
        (first, side), (last, entered) = chain[0], chain[-1]
        return self.segments[first].tipped[side], self.segments[last].tipped[1 - entered]


def refine(line: Points, line_map: np.ndarray) -> Points:
    """A line (n, 2) moved onto the ridge of the heatmap (h, w) and smoothed, 1 px between its points; its ends stay."""
    line = _smoothed(resample(line, 1.0))
    offsets = np.arange(-2.0, 2.01, 0.5)
    for _ in range(2):
        tangent = np.concatenate([line[1:2] - line[:1], line[2:] - line[:-2], line[-1:] - line[-2:-1]])
        tangent /= np.maximum(np.hypot(*tangent.T)[:, None], 1e-9)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        x, y = (line[:, axis, None] + offsets * normal[:, axis, None] for axis in (0, 1))
        weight = _remapped(line_map, x.astype(np.float32), y.astype(np.float32)) ** 2
        mass = weight.sum(1)
        shift = np.where(mass > 0.02, (weight * offsets).sum(1) / np.maximum(mass, 1e-9), 0)
        line = _smoothed(resample(line + np.clip(shift, -1, 1)[:, None] * normal, 1.0))
    return line


def sample(values: np.ndarray, points: Points) -> np.ndarray:
    """(n,) float32: a heatmap (h, w) at points (n, 2) [x, y], interpolated bilinearly; 0 outside."""
    return _remapped(values, points.astype(np.float32)[:, None], _NO_Y)[:, 0]


_NO_Y = np.empty((0, 0), np.float32)  # where x and y are the channels of one array


def _remapped(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found = cv2.remap(np.ascontiguousarray(values, np.float32), x, y, cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(found)


def _smoothed(points: Points) -> Points:
    """A Gaussian along the line; the ends keep their places because the line is mirrored through them."""
    reach = min(int(4 * SMOOTHING), len(points) - 1)
    if reach < 1:
        return points
    before = 2 * points[0] - points[reach:0:-1]
    after = 2 * points[-1] - points[-2 : -reach - 2 : -1]
    kernel = _gaussian(reach)
    extended = np.concatenate([before, points, after])
    smooth = np.empty_like(points)
    for axis in (0, 1):
        smooth[:, axis] = np.convolve(extended[:, axis], kernel, "valid")
    return smooth


@cache
def _gaussian(reach: int) -> np.ndarray:
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING) ** 2)
    return np.asarray(kernel / kernel.sum())
