"""Which ends of segments one line goes through: within a junction, and across gaps.

Points are [x, y] in px of the map; lengths below are shares of the map's longer side.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from cxrlines.core.polyline import lengths
from cxrlines.reading.trace.skeleton import JUNCTION, Pose, Segment

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

End = tuple[int, int]
"""A segment, and 0 for its start or 1 for its end."""
Links = dict[End, End]
"""Each linked end's other one, both ways."""


def link(segments: list[Segment], plain: np.ndarray, scale: float) -> Links:
    """The ends, two by two, through which a line goes on; `plain` (segments,) is the mean probability of each."""
    links: Links = {}
    for share in PLAIN:
        seen = np.flatnonzero(plain >= share * plain.max(initial=0)).tolist()
        _link_junctions(segments, seen, links, scale)
        _link_gaps(segments, seen, links, scale)
    return links


def turn_between(one: Pose, other: Pose) -> tuple[float, float]:
    """The gap in px between two ends, and the degrees by which a line turns that goes on from one to the other."""
    chord = other[0] - one[0]
    gap = float(np.hypot(*chord))
    whole = 0.0 if one[1] is None or other[1] is None else _angle(one[1], -other[1])
    if gap < 3:
        return gap, whole
    turns = [whole / 2]  # an arc turns by half of it at either end of its chord
    turns += [_angle(one[1], chord / gap)] if one[1] is not None else []
    turns += [_angle(chord / gap, -other[1])] if other[1] is not None else []
    return gap, max(turns)


def _angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


def _at_junctions(segments: list[Segment], seen: Sequence[int]) -> dict[int, list[End]]:
    """The ends of the segments `seen` that meet at each junction."""
    at: dict[int, list[End]] = defaultdict(list)
    for k in seen:
        for side, node in enumerate(segments[k].nodes):
            if node >= 0:
                at[node].append((k, side))
    return at


def _link_junctions(segments: list[Segment], seen: Sequence[int], links: Links, scale: float) -> None:
    for ends in _at_junctions(segments, seen).values():
        geometry = {end: segments[end[0]].end(end[1], scale) for end in ends}
        costs = []
        for i, one in enumerate(ends):
            for other in ends[i + 1 :]:
                if one[0] == other[0] and len(ends) > 2 and lengths(segments[one[0]].points)[-1] < 4 * JUNCTION * scale:
                    continue  # a small ring is not a line that comes back to itself
                turn = turn_between(geometry[one], geometry[other])[1]
                against, allowed = _against(segments, one, other, ends)
                if turn <= allowed or len(ends) == 2:
                    costs.append((turn + against, one, other))
        for _, one, other in sorted(costs):
            if one not in links and other not in links:
                links[one], links[other] = other, one


def _against(segments: list[Segment], one: End, other: End, ends: list[End]) -> tuple[float, float]:
    """What counts against the line through two ends in degrees, and by how many it may turn.

    A line with a tip at one far end and none at the other may turn further; one that would have two tips, or none
    though another end here leads to one, comes last.
    """

    def far(end: End) -> bool | None:
        segment, side = segments[end[0]], 1 - end[1]
        return None if segment.nodes[side] >= 0 else segment.tipped[side]

    states = {far(one), far(other)}
    if states == {True, False}:
        return 0.0, CORNER
    if states == {True} or (states == {False} and any(far(end) for end in ends)):
        return TIPLESS, TURN
    return 0.0, TURN


def _link_gaps(segments: list[Segment], seen: Sequence[int], links: Links, scale: float) -> None:
    """Bridge gaps, the best first: near, straight on, and neither from a tip nor from where others go on."""
    at = _at_junctions(segments, seen)
    ends = [
        (k, side)
        for k in seen
        for side, node in enumerate(segments[k].nodes)
        if (node < 0 or len(at[node]) == 1) and not segments[k].tipped[side] and (k, side) not in links
    ]
    geometry = {end: segments[end[0]].end(end[1], scale, FRAGMENT) for end in ends}
    costs = []
    for i, one in enumerate(ends):
        for other in ends[i + 1 :]:
            if one[0] == other[0]:
                continue
            gap, turn = turn_between(geometry[one], geometry[other])
            allowed = CORNER + (GAP_TURN - CORNER) * gap / (GAP * scale)
            if gap <= GAP * scale and turn <= allowed:
                costs.append((gap * (1 + turn / 30), one, other))
    for _, one, other in sorted(costs):
        if one in links or other in links or _far_end(segments, links, one) == other:
            continue
        links[one], links[other] = other, one


def _far_end(segments: list[Segment], links: Links, end: End) -> End:
    """Where the chain that starts at an end ends."""
    start = end
    while True:
        far = (end[0], 1 - end[1])
        if far not in links or links[far] == start:
            return far
        end = links[far]
