"""Polylines measured: length along, points evenly spaced. Points are float64 (n, 2) arrays of [x, y], y down."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


def lengths(points: Points) -> NDArray[np.float64]:
    """Arc length from the first point to each, shape (n,)."""
    steps = points[1:] - points[:-1]
    along = np.zeros(len(points))
    np.cumsum(np.hypot(steps[:, 0], steps[:, 1]), out=along[1:])
    return along


def length(points: Points) -> float:
    """Arc length of the whole polyline."""
    return float(lengths(points)[-1])


def resample(points: Points, step: float) -> Points:
    """The same polyline with points about `step` apart, ends kept."""
    along = lengths(points)
    at = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    found = np.empty((len(at), 2))
    for axis in (0, 1):
        found[:, axis] = np.interp(at, along, points[:, axis])
    return found


def on_film(point: ArrayLike, film_shape: tuple[int, int]) -> bool:
    """Whether a point [x, y] lies on a film of (height, width) px, whose outer edges are at -0.5 and size - 0.5."""
    x, y = np.asarray(point, np.float64)
    height, width = film_shape
    return bool(-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5)
