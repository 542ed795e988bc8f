"""The film's edges in its heatmaps, where a film may be padded, and the courses of lines that end at them."""

from typing import NamedTuple

import numpy as np

from cxrlines.core.polyline import Points

EDGE = 0.025
"""A centerline that ends no farther than this from the film's edge, as a fraction of the heatmap's longer side, leaves
the film there."""


class Bounds(NamedTuple):
    """The edges of the film in px of the heatmaps."""

    left: float
    top: float
    right: float
    bottom: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(...) px of points (..., 2) from the nearest edge; negative off the film."""
        x, y = points[..., 0], points[..., 1]
        return np.asarray(np.min([x - self.left, y - self.top, self.right - x, self.bottom - y], axis=0))


def end_direction(path: Points, span: float) -> np.ndarray:
    """(2,) px: the vector to the last point of a path (n, 2), 1 px between its points, from one about `span` px before.

    It is zero for a path of one point.
    """
    return np.asarray(path[-1] - path[-min(len(path), 1 + round(span))])


def to_edge(path: Points, bounds: Bounds, scale: float) -> Points:
    """A path (n, 2) px extended straight to the film's edge where it ends just short of it.

    Thinning takes half a line's width from each of its ends. `scale`: px of the heatmap's longer side.
    """
    gap = bounds.distance(path[-1])
    step = end_direction(path, 0.03 * scale)
    size = float(np.hypot(*step))
    if not 0 < gap <= EDGE * scale or size == 0:
        return path
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(step > 0, (high - path[-1]) / step, np.where(step < 0, (low - path[-1]) / step, np.inf))
    needed = float(steps.min())
    return path if needed * size > 2 * EDGE * scale else np.concatenate([path, [path[-1] + needed * step]])
