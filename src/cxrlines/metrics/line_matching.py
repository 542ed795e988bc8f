"""Which found lines are which true ones: their distance, and pairs of the least sum of distances.

All points are [x, y] in px of the original film.
"""

from collections.abc import Sequence

import numpy as np

from cxrlines.core.findings import Line
from cxrlines.core.polyline import Points, resample

TOLERANCE = 0.02
"""A found line matches a true one if they are no farther apart than this share of the film's height, in the mean."""


def match(
    true: Sequence[Line],
    found: Sequence[Line],
    shape: tuple[int, int],
    height: float | None = None,
    *,
    as_far_as_marked: bool = False,
) -> list[tuple[int, int]]:
    """Pairs of indices of true and found lines of the same device that are the same line.

    Their distance is the mean of two means: of true points from the found path, and the other way; the pairs are those
    of the least sum of distances, none above `TOLERANCE` of the film's height.

    Args:
        shape: (height, width) px of the file.
        height: px of the film once it is upright; None: `shape`'s.
        as_far_as_marked: a true line that is followed to a point which is no tip goes on from there, nobody knows how
            far: the points of a found line for which that point is the nearest do not count.
    """
    height = height or shape[0]
    paths, others = ([on_film_evenly(line.path, shape, height) for line in lines] for lines in (true, found))
    far = 1e3
    distance = np.full((len(true), len(found)), far)
    for i, path in enumerate(paths):
        for j, other in enumerate(others):
            if true[i].device is found[j].device and len(path) and len(other):
                between = np.hypot(*(path[:, None] - other).transpose(2, 0, 1))
                back = between.min(axis=0)
                off = back.mean()
                if as_far_as_marked and true[i].followed_to is not None:
                    on = between.argmin(axis=0) < len(path) - 1
                    off = min(off, back[on].mean()) if on.any() else off
                distance[i, j] = (between.min(axis=1).mean() + off) / 2 / height
    distance[distance > TOLERANCE] = far
    return [(i, j) for i, j in assigned(distance) if distance[i, j] < far]


def share_along(path: Points, other: Points, shape: tuple[int, int], height: float | None = None) -> float:
    """The share of a path, of what of it is on the film, that lies within `TOLERANCE` of another path; 0 if none is.

    `shape` and `height` as of `match`.
    """
    height = height or shape[0]
    one, two = on_film_evenly(path, shape, height), on_film_evenly(other, shape, height)
    if not len(one) or not len(two):
        return 0.0
    near = np.hypot(*(one[:, None] - two).transpose(2, 0, 1)).min(axis=1)
    return float((near <= TOLERANCE * height).mean())


def assigned(costs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of finite costs (n, m), min(n, m) of them, of the least sum; sorted by row.

    The Hungarian method by shortest augmenting paths, for the few lines of a film: its time grows with n^2 m.
    """
    if costs.shape[0] > costs.shape[1]:
        return sorted((row, column) for column, row in assigned(costs.T))
    count, width = costs.shape
    rows, columns = np.zeros(count + 1), np.zeros(width + 1)  # prices; the last column stands for "a row without one"
    owner = np.full(width + 1, -1)
    for row in range(count):
        owner[width] = row
        here, least, before = width, np.full(width, np.inf), np.full(width, width)
        done = np.zeros(width + 1, bool)
        while owner[here] >= 0:
            done[here] = True
            reduced = costs[owner[here]] - rows[owner[here]] - columns[:width]
            better = (reduced < least) & ~done[:width]
            least[better], before[better] = reduced[better], here
            there = int(np.argmin(np.where(done[:width], np.inf, least)))
            step = least[there]
            rows[owner[done]] += step
            columns[done] -= step
            least[~done[:width]] -= step
            here = there
        while here != width:
            owner[here], here = owner[before[here]], int(before[here])
    return sorted((int(owner[column]), column) for column in range(width) if owner[column] >= 0)


def on_film_evenly(path: Points, shape: tuple[int, int], height: float) -> Points:
    """The part of a path that is on the film, its points 0.5 % of the height apart."""
    path = np.asarray(path, np.float64)
    if len(path) > 1:
        path = resample(path, max(0.005 * height, 0.5))
    on_film = (path >= -0.5) & (path <= np.array(shape[::-1]) - 0.5)
    return path[on_film.all(axis=1)]
