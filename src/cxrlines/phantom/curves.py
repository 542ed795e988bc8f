"""Curves of the phantom: smoothing, length, cutting. Points are float64 (n, 2) arrays of [x, y], y down."""

import numpy as np
from numpy.typing import ArrayLike

from cxrlines.core.polyline import Points as Points
from cxrlines.core.polyline import lengths as lengths
from cxrlines.core.polyline import resample as resample


def smooth(points: ArrayLike, *, closed: bool = False, samples: int = 6) -> Points:
    """The quadratic B-spline of control points: `samples` points a control point.

    An open curve starts at the first control point and ends at the last.
    """
    control = np.asarray(points, np.float64)
    if closed:
        control = np.vstack([control[-1:], control, control[:1]])
    else:
        control = np.vstack([control[:1], control, control[-1:]])
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    basis = 0.5 * np.hstack([(1 - t) ** 2, -2 * t**2 + 2 * t + 1, t**2])
    triples = np.stack([control[:-2], control[1:-1], control[2:]], 1)
    curve = (basis @ triples).reshape(-1, 2)
    return curve if closed else np.vstack([curve, control[-1:]])


def cut(points: Points, length: float) -> Points:
    """The first `length` of a polyline; all of it if it is shorter."""
    along = lengths(points)
    length = float(np.clip(length, 0, along[-1]))
    end = [np.interp(length, along, points[:, 0]), np.interp(length, along, points[:, 1])]
    return np.vstack([points[along < length], [end]])


def offset(points: Points, distance: float) -> Points:
    """The polyline moved sideways by `distance` (to the right of its direction, as seen with y down)."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1])[:, None], 1e-9)
    return points + distance * np.stack([-tangent[:, 1], tangent[:, 0]], 1)


def blob(rng: np.random.Generator, centre: ArrayLike, radii: ArrayLike, rough: float) -> Points:
    """A closed irregular oval around `centre` with half-axes `radii`; `rough` is the relative unevenness."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.normal(1, rough, (12, 1))
    return smooth(np.asarray(centre) + ring * np.asarray(radii), closed=True, samples=4)
