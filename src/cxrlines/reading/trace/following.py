"""The rest of a line where its heatmap is too faint for a centerline: a beam search in short steps.

A step scores the logarithm of the heatmap's probability over `FAINT`, less the cost of its turn. The path with the
highest score is taken: it bridges gaps where what follows is worth it, and ends where the line does.
Points are [x, y] in px of the heatmap; lengths are fractions of the heatmap's longer side.
"""

import numpy as np

from cxrlines.core.polyline import Points
from cxrlines.reading.trace.centerlines import sample

STEP, MAX_STEPS = 0.01, 80
TURN = np.radians(12.0)
"""A step may turn by this or twice this to either side."""
TURN_COST = 0.15
"""Of a turn by `TURN`; it grows with the square."""
MAX_HEADING_CHANGE = np.radians(200.0)
"""The most that a path may turn in all: from a vein over the shoulder and down again, but not round."""
FAINT, MIN_PROBABILITY = 0.03, 0.004
"""Probability above which a step raises the score, and what lower ones count as at least."""
MIN_SCORE, MAX_BEHIND = 8.0, 12.0
"""The least score of a path that is taken, and by how much one may fall behind the best (at least 0) before it is
dropped."""
BEAM_WIDTH = 48
_TURNS = np.arange(-2, 3)
_TURN_COSTS = TURN_COST * _TURNS**2
_PREDECESSORS = np.repeat(np.arange(BEAM_WIDTH), len(_TURNS))


def extension(line_map: np.ndarray, start: np.ndarray, heading: float) -> Points:
    """The path (n, 2) on which a line goes on, without `start`; n = 0 where the heatmap shows none.

    Args:
        line_map: (h, w) float32, probability of a line.
        start: (2,) px, where the line ends so far.
        heading: In which direction it goes on there, radians from x to y.
    """
    scale = max(line_map.shape)
    most = int(MAX_HEADING_CHANGE / TURN)
    # By the number of turns so far, from the most to one side to the most to the other and a step beyond.
    headings = heading + TURN * np.arange(-most - 2, most + 3)
    moves = STEP * scale * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    sectors = np.round(headings / (2 * TURN))
    places, turned, scores = start[None], np.array([most + 2]), np.zeros(1)
    steps: list[tuple[Points, np.ndarray]] = []  # after each step the places, and the index of each one's predecessor
    best_score, best_step = 0.0, -1
    while len(places) and len(steps) < MAX_STEPS:
        predecessors = _PREDECESSORS[: len(places) * len(_TURNS)]
        turned = (turned[:, None] + _TURNS).ravel()
        places = places[predecessors] + moves[turned]
        gains = np.log(np.maximum(sample(line_map, places), MIN_PROBABILITY) / FAINT)
        scores = (scores[:, None] - _TURN_COSTS).ravel() + gains
        possible = np.abs(turned - most - 2) <= most
        possible &= scores >= scores[possible].max(initial=0.0) - MAX_BEHIND
        kept = np.flatnonzero(possible)[np.argsort(-scores[possible], kind="stable")]
        kept = kept[_first_of_each_cell(places[kept], sectors[turned[kept]], scale)]
        places, turned, scores = places[kept], turned[kept], scores[kept]
        steps.append((places, predecessors[kept]))
        if scores.max(initial=0.0) > best_score:
            best_score, best_step = float(scores[0]), len(steps) - 1
    if best_score < MIN_SCORE:
        return np.empty((0, 2))
    path, index = [], 0
    for places, predecessors in steps[best_step::-1]:
        path.append(places[index])
        index = int(predecessors[index])
    return np.array(path[::-1])


def _first_of_each_cell(places: Points, sectors: np.ndarray, scale: float) -> np.ndarray:
    """Indices, in order, of the first path to each place and direction: `BEAM_WIDTH` at most."""
    x, y = np.round(places / 2).T
    first: dict[float, int] = {}
    for k, cell in enumerate(((y * scale + x) * 100 + sectors).tolist()):
        first.setdefault(cell, k)
        if len(first) == BEAM_WIDTH:
            break
    return np.array(list(first.values()), np.intp)
