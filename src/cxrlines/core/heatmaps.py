"""Heatmaps of a film: where lines run, where they end, where landmarks lie; drawn at the size they are used.

Channels are in the order of `task.MAPS`. A heatmap has half the film's height and width: its pixel (i, j) covers the
film's pixels 2i, 2i + 1 by 2j, 2j + 1.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from cxrlines.core.line_drawing import line_masks
from cxrlines.core.transform import Size, height_width
from cxrlines.task import DEVICE_OF, MAPS, STATE_OF, Landmark, MapKind, State

STRIDE = 2
"""Film pixels a map pixel, each way."""
LINE_WIDTH = 1 / 96
"""Width of a line as a share of the longer side: between a catheter (0.5 % of a portable film) and an ETT (2.5 %)."""
KEYPOINT_SIGMA = 0.015
"""Standard deviation of a tip's or landmark's bell as a share of the longer side: 0.6 cm on a film of 40 cm."""
REACH = 6.0
"""Standard deviations from its peak up to which a bell is drawn: beyond it is 0 in half precision."""
BESIDE = 1 - 2.0**-11
"""The most that a bell is beside its peak: the number before 1 in half precision, in which maps are handed over."""


def to_map(points: np.ndarray) -> np.ndarray:
    """Points [x, y] in px of a film as px of its maps, pixel centres at whole numbers in both."""
    return (np.asarray(points, np.float64) + 0.5) / STRIDE - 0.5


def from_map(points: np.ndarray) -> np.ndarray:
    """Points [x, y] in px of a film's maps as px of the film: the inverse of `to_map`."""
    return (np.asarray(points, np.float64) + 0.5) * STRIDE - 0.5


def draw_maps(
    lines: Sequence[tuple[str, np.ndarray]],
    landmarks: Mapping[str, np.ndarray] | Sequence[np.ndarray],
    size: Size,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """The heatmaps (maps, h / 2, w / 2) of `dtype` in [0, 1] of a film (h, w); 1 at a keypoint's own pixel alone.

    Args:
        lines: (label, points (n, 2) [x, y] px of the film, the tip last), on the film or not. Where the label says
            that the tip is off the film, the last point is none.
        landmarks: by name, or all in `task.Landmark` order: (2,) [x, y] px of the film; NaN, or no name, where unknown.
        size: of the film, even.
    """
    height, width = (side // STRIDE for side in height_width(size))
    longer = max(height, width)
    maps = np.zeros((len(MAPS), height, width), dtype)
    shares = (np.arange(256, dtype=np.float32) / 255).astype(dtype)
    moved = [(DEVICE_OF[label], to_map(points), STATE_OF[label] is not State.INCOMPLETE) for label, points in lines]
    if isinstance(landmarks, Mapping):
        landmarks = [landmarks.get(name, np.full(2, np.nan)) for name in Landmark]
    spots = iter(landmarks)
    for channel, (kind, what) in enumerate(MAPS):
        if kind is MapKind.LINE:
            mine = [points for device, points, _ in moved if device is what]
            for box, mask in line_masks(mine, (height, width), max(1.5, longer * LINE_WIDTH)):
                np.maximum(maps[channel][box], shares[mask], out=maps[channel][box])
        elif kind is MapKind.TIP:
            for device, points, ends in moved:
                if device is what and ends:
                    _spot(maps[channel], points[-1], longer * KEYPOINT_SIGMA)
        else:
            _spot(maps[channel], to_map(next(spots)), longer * KEYPOINT_SIGMA)
    return maps


def _spot(channel: np.ndarray, at: np.ndarray, sigma: float) -> None:
    """Raise `channel` to a bell of height 1 around `at` [x, y]; nothing where that is unknown or off the film."""
    sides = np.array(channel.shape[::-1])
    if not np.isfinite(at).all() or (at < -0.5).any() or (at > sides - 0.5).any():
        return
    near = [
        slice(max(0, math.ceil(c - REACH * sigma)), min(side, math.floor(c + REACH * sigma) + 1))
        for side, c in zip(sides, at, strict=True)
    ]
    columns, rows = near
    x, y = (
        np.exp(-0.5 * ((np.arange(part.start, part.stop) - centre) / sigma) ** 2)
        for part, centre in zip(near, at, strict=True)
    )
    bell = y[:, None] * x
    part = channel[rows, columns]
    np.maximum(part, np.minimum(bell / bell.max(), BESIDE).astype(np.float32).astype(part.dtype), out=part)
    # The pixel nearest to the point is 1, and no other: it counts as the place and not as its neighbourhood.
    column, row = np.minimum(np.floor(at + 0.5).astype(int), sides - 1)
    channel[row, column] = 1
