"""The further way of a line where its heatmap is too faint for a centerline: a beam search in short steps.

A step gains the logarithm of the heatmap's probability over `FAINT`, less what its turn costs. The way that gains most
is taken: it bridges gaps where what follows is worth it, and ends where the line does.
Points are [x, y] in px of the heatmap; lengths below are shares of the heatmap's longer side.
"""

import numpy as np

from cxrlines.core.polyline import Points
from cxrlines.reading.trace.centerlines import sample

STEP, FARTHEST = 0.01, 80
"""Length of a step, and the most of them."""
TURN = np.radians(12.0)
"""A step may turn by this or twice this to either side."""
STIFF = 0.15
"""What a turn by `TURN` costs; it grows with the square."""
CURL = np.radians(200.0)
"""The most that a way may turn in all: from a vein over the shoulder and down again, but not round."""
FAINT, LEAST = 0.03, 0.004
"""Probability above which a step gains, and what lower ones count as at least."""
WORTH, SLACK = 8.0, 12.0
"""The least gain of a way that is taken, and by how much one may fall behind the best (at least 0) before it is
given up."""
WIDTH = 48
"""Ways that are followed at once."""


def further_way(line_map: np.ndarray, start: np.ndarray, heading: float) -> Points:
    """(n, 2): the way on from a place in a heatmap (h, w), without that place; n = 0 where there is none.

    Args:
        line_map: Probability of a line.
        start: (2,), where a line ends.
        heading: In which direction it goes on there, radians from x to y.
    """
    scale = max(line_map.shape)
    turns = TURN * np.arange(-2, 3)
    places, headings, gains = start[None], np.array([heading]), np.zeros(1)
    trail: list[tuple[Points, np.ndarray]] = []  # the places after each step, and from which of those before
    most, last = 0.0, -1
    while len(places) and len(trail) < FARTHEST:
        came = np.repeat(np.arange(len(places)), len(turns))
        headings = (headings[:, None] + turns).ravel()
        places = places[came] + STEP * scale * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        seen = np.log(np.maximum(sample(line_map, places), LEAST) / FAINT)
        gains = (gains[:, None] - STIFF * (turns / TURN) ** 2).ravel() + seen
        on = np.abs(headings - heading) <= CURL
        on &= gains >= gains[on].max(initial=0.0) - SLACK
        kept = np.flatnonzero(on)[np.argsort(-gains[on], kind="stable")]
        # Of ways that come to the same place in the same direction the best.
        x, y = np.round(places[kept] / 2).T
        cells = (y * scale + x) * 100 + np.round(headings[kept] / (2 * TURN))
        kept = kept[np.sort(np.unique(cells, return_index=True)[1])][:WIDTH]
        places, headings, gains = places[kept], headings[kept], gains[kept]
        trail.append((places, came[kept]))
        if gains.max(initial=0.0) > most:
            most, last = float(gains[0]), len(trail) - 1
    way, at = [], 0
    for there, before in trail[last::-1] if most >= WORTH else []:
        way.append(there[at])
        at = int(before[at])
    return np.array(way[::-1]).reshape(-1, 2)
