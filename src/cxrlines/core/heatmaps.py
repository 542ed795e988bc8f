"""Heatmaps of a film: where lines run, where they end, where landmarks lie; drawn at the size they are used.

Channels are in the order of `task.MAPS`. A heatmap has half the film's height and width: its pixel (i, j) covers the
film's pixels 2i, 2i + 1 by 2j, 2j + 1.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import DTypeLike

from cxrlines.core.line_drawing import covered
from cxrlines.core.transform import Size, height_width
from cxrlines.task import DEVICE_OF, MAPS, STATE_OF, Device, Landmark, MapKind, State

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


_CHANNELS = {what: channel for channel, what in enumerate(MAPS)}


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
    moved = [(DEVICE_OF[label], to_map(points), STATE_OF[label] is not State.INCOMPLETE) for label, points in lines]
    _lines(maps, [(device, points) for device, points, _ in moved], max(1.5, longer * LINE_WIDTH))
    if not isinstance(landmarks, Mapping):
        landmarks = dict(zip(Landmark, landmarks, strict=True))
    tips = [((MapKind.TIP, device), points[-1]) for device, points, ends in moved if ends]
    for what, at in [*tips, *(((MapKind.LANDMARK, Landmark(name)), to_map(at)) for name, at in landmarks.items())]:
        if what in _CHANNELS:
            _spot(maps[_CHANNELS[what]], at, longer * KEYPOINT_SIGMA)
    return maps


def _lines(maps: np.ndarray, lines: Sequence[tuple[Device, np.ndarray]], thickness: float) -> None:
    """Draw lines (device, points [x, y] px of the maps) into their maps, so far empty."""
    shown = [
        (channel, points) for device, points in lines if (channel := _CHANNELS.get((MapKind.LINE, device))) is not None
    ]
    found = covered([points for _, points in shown], maps.shape[1:], thickness)
    places = np.array([channel for channel, _ in shown], int)[found.lines] * maps[0].size + found.places
    levels = np.zeros(maps.size, np.uint8)
    np.maximum.at(levels, places, found.levels)
    maps.reshape(-1)[places] = (np.arange(256, dtype=np.float32) / 255).astype(maps.dtype)[levels[places]]


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
    bell = np.minimum(bell / bell.max(), BESIDE).astype(np.float32)
    if channel.dtype == np.float16:
        bell = cv2.convertFp16(bell).view(np.float16)  # the same as NumPy's, which takes long over numbers near 0
    part = channel[rows, columns]
    np.maximum(part, bell, out=part)
    # The pixel nearest to the point is 1, and no other: it counts as the place and not as its neighbourhood.
    column, row = np.minimum(np.floor(at + 0.5).astype(int), sides - 1)
    channel[row, column] = 1
