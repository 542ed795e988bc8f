"""From a heatmap of lines to centerlines: which segments of its skeleton belong to one line, and in what order.

Ends of segments are linked two by two where a line can go on, within a junction first and across gaps after; the
plain ones before the faint. So lines that cross stay two, and a line in pieces becomes one. A catheter that ends on
another one (two that share a vein) shares the rest of its way.

Points are [x, y] in px of the heatmap; lengths below are shares of the heatmap's longer side.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.polyline import Points, length, resample
from cxrlines.reading.trace.skeleton import JUNCTION, SPUR, TIP_NEAR, Pose, Segment, pose_of, segments_of

TURN = 65.0
"""Degrees by which a line may turn within a junction."""
GAP = 0.25
"""The longest gap to be bridged; the turn allowed falls with it from `CORNER` to `GAP_TURN` degrees."""
CORNER, GAP_TURN = 100.0, 20.0
FRAGMENT = 0.03
"""Pieces that are shorter have no direction of their own."""
TIPLESS = 100.0
"""Degrees that it counts against a link that the line would have two tips, or none though another end has one."""
PLAIN = (0.7, 0.5, 0.0)
"""Segments of at least this share of the plainest one's probability are linked first, next and last. A rib's edge under
a catheter looks like a faint branch of it; linked together, such branches cut the catheter in two or led it astray."""
ACROSS, AHEAD = 0.10, 0.85
"""How far ahead a line may lie that an end runs into across a gap, and how straight ahead (cosine)."""
SMOOTH = 1.5
"""Deviation in px by which a centerline is smoothed along itself."""

End = tuple[int, int]
"""A segment, and 0 for its start or 1 for its end."""
Links = dict[End, End]
"""Each linked end's other one, both ways."""
Chain = list[End]
"""Segments in the order in which links join them, each named by the end at which it is entered."""


@dataclass(frozen=True, eq=False)
class Centerline:
    """The centerline of a line: its `points`, (n, 2), in either direction, and the part of them that is its `own`.

    The rest, if any, is the way of another line that it runs into.
    """

    points: Points
    own: Points


class _Way(NamedTuple):
    """The rest of a line, and whether it ends in a tip."""

    points: Points
    tipped: bool


def trace(line_map: np.ndarray, tips: Points, *, many: bool) -> list[Centerline]:
    """The centerlines of the lines of one device, longest first, each about 1 px between points.

    Args:
        line_map: (h, w) float32, probability of a line.
        tips: (k, 2), the places where tips were seen: there a line ends, and is not bridged to another.
        many: Whether the device may be there several times, so that a line may share the way of another.
    """
    scale = float(max(line_map.shape))
    segments = segments_of(line_map, tips)
    free = [(segment, side) for segment in segments for side in (0, 1) if segment.nodes[side] < 0]
    for tip in tips if free else []:  # each makes one end a tip
        distance = [float(np.hypot(*(segment.points[-side] - tip))) for segment, side in free]
        segment, side = free[int(np.argmin(distance))]
        segment.tipped[side] |= min(distance) < TIP_NEAR * scale
    plain = np.array([sample(line_map, segment.points).mean() for segment in segments])
    chains = _chains(segments, link(segments, plain, scale))
    own = [_joined(segments, chain) for chain in chains]
    whole = [_led_on(k, own, chains, segments, scale) for k in range(len(own))] if many else own
    found = [
        Centerline(refine(points, line_map), mine)
        for points, mine in zip(whole, own, strict=True)
        if length(points) >= SPUR * scale
    ]
    return sorted(found, key=lambda line: -length(line.points))


def link(segments: list[Segment], plain: np.ndarray, scale: float) -> Links:
    """The ends, two by two, through which a line goes on; `plain` (segments,) is the mean probability of each."""
    links: Links = {}
    for share in PLAIN:
        seen = np.flatnonzero(plain >= share * plain.max(initial=0)).tolist()
        at: dict[int, list[End]] = defaultdict(list)  # the ends that meet at each junction
        for k in seen:
            for side, node in enumerate(segments[k].nodes):
                if node >= 0:
                    at[node].append((k, side))
        for ends in at.values():
            _link_junction(segments, ends, links, scale)
        single = {ends[0] for ends in at.values() if len(ends) == 1}
        _link_gaps(segments, seen, single, links, scale)
    return links


def turn_between(one: Pose, other: Pose) -> tuple[float, float]:
    """The gap in px between two ends, and the degrees by which a line turns that goes on from one to the other."""
    chord = other.place - one.place
    gap = float(np.hypot(*chord))
    whole = 0.0 if one.direction is None or other.direction is None else _angle(one.direction, -other.direction)
    if gap < 3:
        return gap, whole
    turns = [whole / 2]  # an arc turns by half of it at either end of its chord
    turns += [_angle(one.direction, chord / gap)] if one.direction is not None else []
    turns += [_angle(chord / gap, -other.direction)] if other.direction is not None else []
    return gap, max(turns)


def _angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(min(max(one @ other, -1.0), 1.0))))


def _link_junction(segments: list[Segment], ends: Sequence[End], links: Links, scale: float) -> None:
    """Link the ends that meet at a junction, the straightest first."""

    def leads_to_tip(end: End) -> bool | None:
        """Of the far end of a segment, whether it is a tip; None if it is a junction."""
        segment, side = segments[end[0]], 1 - end[1]
        return None if segment.nodes[side] >= 0 else segment.tipped[side]

    pose = {end: segments[end[0]].end(end[1], scale) for end in ends}
    any_tip = any(map(leads_to_tip, ends))
    costs = []
    for i, one in enumerate(ends):
        for other in ends[i + 1 :]:
            if one[0] == other[0] and len(ends) > 2 and length(segments[one[0]].points) < 4 * JUNCTION * scale:
                continue  # a small ring is not a line that comes back to itself
            turn = turn_between(pose[one], pose[other])[1]
            tips = {leads_to_tip(one), leads_to_tip(other)}
            # A line with a tip at one end and none at the other may turn further than others.
            allowed = CORNER if tips == {True, False} else TURN
            if turn <= allowed or len(ends) == 2:
                tipless = tips == {True} or (tips == {False} and any_tip)
                costs.append((turn + TIPLESS * tipless, one, other))
    for _, one, other in sorted(costs):
        if one not in links and other not in links:
            links[one], links[other] = other, one


def _link_gaps(segments: list[Segment], seen: Sequence[int], single: set[End], links: Links, scale: float) -> None:
    """Bridge gaps, the best first: near, straight on, and neither from a tip nor from where others go on."""
    ends = [
        (k, side)
        for k in seen
        for side, node in enumerate(segments[k].nodes)
        if (node < 0 or (k, side) in single) and not segments[k].tipped[side] and (k, side) not in links
    ]
    pose = {end: segments[end[0]].end(end[1], scale, FRAGMENT) for end in ends}
    costs = []
    for i, one in enumerate(ends):
        for other in ends[i + 1 :]:
            gap, turn = turn_between(pose[one], pose[other])
            allowed = CORNER + (GAP_TURN - CORNER) * gap / (GAP * scale)
            if one[0] != other[0] and gap <= GAP * scale and turn <= allowed:
                costs.append((gap * (1 + turn / 30), one, other))
    for _, one, other in sorted(costs):
        if one not in links and other not in links and _chain_from(one, links)[-1] != (other[0], 1 - other[1]):
            links[one], links[other] = other, one


def _chain_from(start: End, links: Links) -> Chain:
    """The segments from an end on, as far as links lead; of a ring once round."""
    chain = [start]
    while (onward := links.get((chain[-1][0], 1 - chain[-1][1]))) and onward != start:
        chain.append(onward)
    return chain


def _chains(segments: list[Segment], links: Links) -> list[Chain]:
    chains: list[Chain] = []
    done: set[int] = set()
    free = [(k, side) for k in range(len(segments)) for side in (0, 1) if (k, side) not in links]
    for start in [*free, *((k, 0) for k in range(len(segments)))]:  # free ends first, rings after
        if start[0] not in done:
            chains.append(_chain_from(start, links))
            done |= {k for k, _ in chains[-1]}
    return chains


def _joined(segments: list[Segment], chain: Chain) -> Points:
    return np.concatenate([segments[k].points if side == 0 else segments[k].points[::-1] for k, side in chain])


def _led_on(k: int, lines: list[Points], chains: list[Chain], segments: list[Segment], scale: float) -> Points:
    """Line `k`, led on along the line that it runs into: at a junction, or straight ahead across a gap."""
    line = lines[k]
    if length(line) < JUNCTION * scale:
        return line
    (first, side), (last, entered) = chains[k][0], chains[k][-1]
    for (segment, at), is_start in (((first, side), True), ((last, 1 - entered), False)):
        node = segments[segment].nodes[at]
        if segments[segment].tipped[at]:
            continue
        pose = segments[segment].end(at, scale)
        ways = (
            _ways_at(node, k, chains, segments) if node >= 0 else _ways_ahead(pose, k, lines, chains, segments, scale)
        )
        onward = _straightest(pose, ways, scale)
        if onward is not None:
            line = np.concatenate([onward[::-1], line] if is_start else [line, onward])
    return line


def _ways_at(node: int, k: int, chains: list[Chain], segments: list[Segment]) -> list[_Way]:
    """The ways on from a junction along other chains than `k`."""
    ways = []
    for chain in (chain for other, chain in enumerate(chains) if other != k):
        start, end = _tipped(segments, chain)
        for place, (segment, side) in enumerate(chain):
            if segments[segment].nodes[side] == node:
                ways.append(_Way(_joined(segments, chain[place:]), end))
            if segments[segment].nodes[1 - side] == node:
                ways.append(_Way(_joined(segments, chain[: place + 1])[::-1], start))
    return ways


def _ways_ahead(
    pose: Pose, k: int, lines: list[Points], chains: list[Chain], segments: list[Segment], scale: float
) -> list[_Way]:
    """The two ways along the nearest other line that an end points at across a gap; none if there is none."""
    if pose.direction is None:
        return []
    nearest = []
    for other in (other for other in range(len(lines)) if other != k):
        ahead = lines[other] - pose.place
        distance = np.hypot(*ahead.T)
        distance[ahead @ pose.direction < AHEAD * distance] = np.inf
        nearest.append((float(distance.min()), other, int(distance.argmin())))
    distance, other, at = min(nearest, default=(np.inf, 0, 0))
    if distance > ACROSS * scale:
        return []
    start, end = _tipped(segments, chains[other])
    return [_Way(lines[other][at:], end), _Way(lines[other][: at + 1][::-1], start)]


def _tipped(segments: list[Segment], chain: Chain) -> tuple[bool, bool]:
    """Whether a chain starts, and ends, at a tip."""
    (first, side), (last, entered) = chain[0], chain[-1]
    return segments[first].tipped[side], segments[last].tipped[1 - entered]


def _straightest(pose: Pose, ways: list[_Way], scale: float) -> Points | None:
    """The way on that turns least, one that ends in a tip before all others; None if each turns too far."""
    possible = []
    for k, (rest, tipped) in enumerate(ways):
        turn = turn_between(pose, pose_of(rest, scale))[1] if len(rest) >= 3 else np.inf
        if turn <= (CORNER if tipped else TURN):
            possible.append((turn - TIPLESS * tipped, k))
    return ways[min(possible)[1]].points if possible else None


def refine(line: Points, line_map: np.ndarray) -> Points:
    """A line moved onto the ridge of the heatmap and smoothed, 1 px between its points; its ends stay."""
    line = _smoothed(resample(line, 1.0))
    offsets = np.arange(-2.0, 2.01, 0.5)
    for _ in range(2):
        tangent = np.gradient(line, axis=0)
        tangent /= np.maximum(np.hypot(*tangent.T)[:, None], 1e-9)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        across = line[:, None] + offsets[:, None] * normal[:, None]
        weight = sample(line_map, across.reshape(-1, 2)).reshape(across.shape[:2]) ** 2
        mass = weight.sum(1)
        shift = np.where(mass > 0.02, (weight * offsets).sum(1) / np.maximum(mass, 1e-9), 0)
        line = _smoothed(resample(line + np.clip(shift, -1, 1)[:, None] * normal, 1.0))
    return line


def sample(values: np.ndarray, points: Points) -> np.ndarray:
    """(n,) float32: a heatmap at points [x, y] between its pixels; 0 outside."""
    x, y = points.astype(np.float32).T[:, :, None]
    found = cv2.remap(np.ascontiguousarray(values, np.float32), x, y, cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(found)[:, 0]


def _smoothed(points: Points) -> Points:
    """A Gaussian along the line; the ends keep their places because the line is mirrored through them."""
    reach = min(int(4 * SMOOTH), len(points) - 1)
    if reach < 1:
        return points
    before = 2 * points[0] - points[reach:0:-1]
    after = 2 * points[-1] - points[-2 : -reach - 2 : -1]
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTH) ** 2)
    kernel /= kernel.sum()
    extended = np.concatenate([before, points, after])
    return np.stack([np.convolve(extended[:, d], kernel, "valid") for d in (0, 1)], 1)
