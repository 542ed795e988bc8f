"""Heatmaps of a film: where lines run, where they end, where landmarks lie; drawn at the size they are used.

Channels are in the order of `task.MAPS`. A heatmap has half the film's height and width: its pixel (i, j) covers the
film's pixels 2i, 2i + 1 by 2j, 2j + 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cxrlines.core.line_drawing import line_mask
from cxrlines.core.transform import Size, height_width
from cxrlines.task import DEVICE_OF, MAPS, Landmark, MapKind

STRIDE = 2
"""Film pixels a map pixel, each way."""
LINE_WIDTH = 1 / 96
"""Width of a line as a share of the longer side: between a catheter (0.5 % of a portable film) and an ETT (2.5 %)."""
KEYPOINT_SIGMA = 0.015
"""Standard deviation of a tip's or landmark's bell as a share of the longer side: 0.6 cm on a film of 40 cm."""
BESIDE = 1 - 2.0**-11
"""The most that a bell is beside its peak: the number before 1 in half precision, in which maps are handed over."""


def to_map(points: np.ndarray) -> np.ndarray:
    """Points [x, y] in px of a film as px of its maps, pixel centres at whole numbers in both."""
    return (np.asarray(points, np.float64) + 0.5) / STRIDE - 0.5


def from_map(points: np.ndarray) -> np.ndarray:
    """Points [x, y] in px of a film's maps as px of the film: the inverse of `to_map`."""
    return (np.asarray(points, np.float64) + 0.5) * STRIDE - 0.5


def draw_maps(
    lines: Sequence[tuple[str, np.ndarray]], landmarks: Mapping[str, np.ndarray] | Sequence[np.ndarray], size: Size
) -> np.ndarray:
    """The heatmaps (maps, h / 2, w / 2) float32 in [0, 1] of a film (h, w); 1 at a keypoint's own pixel alone.

    Args:
        lines: (label, points (n, 2) [x, y] px of the film, the tip last), on the film or not.
        landmarks: by name, or all in `task.Landmark` order: (2,) [x, y] px of the film; NaN, or no name, where unknown.
        size: of the film, even.
    """
    height, width = (side // STRIDE for side in height_width(size))
    longer = max(height, width)
    maps = np.zeros((len(MAPS), height, width), np.float32)
    moved = [(DEVICE_OF[label], to_map(points)) for label, points in lines]
    if isinstance(landmarks, Mapping):
        landmarks = [landmarks.get(name, np.full(2, np.nan)) for name in Landmark]
    spots = iter(landmarks)
    for channel, (kind, what) in enumerate(MAPS):
        if kind is MapKind.LINE:
            mine = [points for device, points in moved if device is what]
            if mine:
                maps[channel] = line_mask(mine, (height, width), max(1.5, longer * LINE_WIDTH)).astype(np.float32) / 255
        elif kind is MapKind.TIP:
            for device, points in moved:
                if device is what:
                    _spot(maps[channel], points[-1], longer * KEYPOINT_SIGMA)
        else:
            _spot(maps[channel], to_map(next(spots)), longer * KEYPOINT_SIGMA)
    return maps


def _spot(channel: np.ndarray, at: np.ndarray, sigma: float) -> None:
    """Raise `channel` to a bell of height 1 around `at` [x, y]; nothing where that is unknown or off the film."""
    sides = np.array(channel.shape[::-1])
    if not np.isfinite(at).all() or (at < -0.5).any() or (at > sides - 0.5).any():
        return
    x, y = (np.exp(-0.5 * ((np.arange(side) - centre) / sigma) ** 2) for side, centre in zip(sides, at, strict=True))
    bell = y[:, None] * x
    np.maximum(channel, np.minimum(bell / bell.max(), BESIDE), out=channel)
    # The pixel nearest to the point is 1, and no other: it counts as the place and not as its neighbourhood.
    column, row = np.minimum(np.floor(at + 0.5).astype(int), sides - 1)
    channel[row, column] = 1
