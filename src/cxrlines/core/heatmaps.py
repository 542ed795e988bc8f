"""Heatmaps of a film: where lines run, where they end, where landmarks lie; drawn at the size they are used.

Channels are in the order of `task.MAPS`. A heatmap has half the film's height and width: its pixel (i, j) covers the
film's pixels 2i, 2i + 1 by 2j, 2j + 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


BEYOND, ASIDE = 0.35, 60.0
"""Where a line may go on beyond an end that is not its tip: within this share of the longer side, and so many degrees
to either side of its heading. A guess: 14 cm of a film of 40 cm, about the length of the mediastinum."""
UNKNOWN = -1
"""Value of a pixel of a line's map where it is not known whether the line runs there."""


class DrawnLine(NamedTuple):
    """A line as it is drawn: its label, its points (n, 2) [x, y] px, the tip last, and whether that is the tip."""

    label: str
    points: np.ndarray
    tip_seen: bool = True


_CHANNELS = {what: channel for channel, what in enumerate(MAPS)}


def to_map(points: np.ndarray) -> np.ndarray:
    """Points [x, y] in px of a film as px of its maps, pixel centres at whole numbers in both."""
    return (np.asarray(points, np.float64) + 0.5) / STRIDE - 0.5


def draw_maps(
    lines: Sequence[DrawnLine | tuple[str, np.ndarray]],
    landmarks: Mapping[str, np.ndarray] | Sequence[np.ndarray],
    size: Size,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """The heatmaps (maps, h / 2, w / 2) of `dtype` in [0, 1] of a film (h, w); 1 at a keypoint's own pixel alone.

    Where a line may go on beyond an end that is not its tip (`BEYOND`), the pixels of its map that no line of its
    device covers are `UNKNOWN`.

    Args:
        lines: (label, points (n, 2) [x, y] px of the film, the tip last, whether that is the tip), on the film or
            not. Where the label says that the tip is off the film, the last point is none.
        landmarks: by name, or all in `task.Landmark` order: (2,) [x, y] px of the film; NaN, or no name, where unknown.
        size: of the film, even.
    """
    height, width = (side // STRIDE for side in height_width(size))
    longer = max(height, width)
    maps = np.zeros((len(MAPS), height, width), dtype)
    if not isinstance(landmarks, Mapping):
        landmarks = dict(zip(Landmark, landmarks, strict=True))
    moved = [DrawnLine(label, to_map(points), *seen) for label, points, *seen in lines]
    _draw_lines(maps, [(DEVICE_OF[line.label], line.points) for line in moved], max(1.5, longer * LINE_WIDTH))
    for line in moved:
        if not line.tip_seen and (of_line := (MapKind.LINE, DEVICE_OF[line.label])) in _CHANNELS:
            _mark_beyond(maps[_CHANNELS[of_line]], line.points, longer)
    tips = [line for line in moved if STATE_OF[line.label] is not State.INCOMPLETE]
    spots: list[tuple[tuple[MapKind, Device | Landmark], np.ndarray]] = []
    spots += [((MapKind.TIP, DEVICE_OF[line.label]), line.points[-1]) for line in tips]
    spots += [((MapKind.LANDMARK, name), to_map(landmarks[name])) for name in Landmark if name in landmarks]
    for what, at in spots:
        if what in _CHANNELS:
            _draw_spot(maps[_CHANNELS[what]], at, longer * KEYPOINT_SIGMA)
    return maps


def _draw_lines(maps: np.ndarray, lines: Sequence[tuple[Device, np.ndarray]], thickness: float) -> None:
    """Draw lines (device, points [x, y] px of the maps) into the maps of their devices."""
    drawn = [(_CHANNELS[what], points) for device, points in lines if (what := (MapKind.LINE, device)) in _CHANNELS]
    pixels = covered([points for _, points in drawn], maps.shape[1:], thickness)
    channels = np.array([channel for channel, _ in drawn], int)[pixels.lines]
    shades = (np.arange(256, dtype=np.float32) / 255).astype(maps.dtype)
    np.maximum.at(maps.reshape(-1), channels * maps[0].size + pixels.places, shades[pixels.levels])


def _mark_beyond(channel: np.ndarray, points: np.ndarray, longer: int) -> None:
    """Set the empty pixels ahead of a line's last point to `UNKNOWN`; points [x, y] px of the map."""
    end = points[-1]
    behind = points[np.hypot(*(points - end).T) > 0.02 * longer]
    if not len(behind):
        return
    heading = end - behind[-1]
    reach = BEYOND * longer
    low = np.clip(np.floor(end - reach), 0, channel.shape[::-1]).astype(int)
    high = np.clip(np.ceil(end + reach) + 1, 0, channel.shape[::-1]).astype(int)
    part = channel[low[1] : high[1], low[0] : high[0]]
    x, y = np.arange(low[0], high[0]) - end[0], np.arange(low[1], high[1])[:, None] - end[1]
    away = np.hypot(x, y)
    ahead = x * heading[0] + y * heading[1] >= math.cos(math.radians(ASIDE)) * np.hypot(*heading) * away
    part[ahead & (away <= reach) & (part == 0)] = UNKNOWN


def _draw_spot(channel: np.ndarray, at: np.ndarray, sigma: float) -> None:
    """Raise `channel` to a bell of height 1 around `at` [x, y]; nothing where that is unknown or off the film."""
    height, width = channel.shape
    x, y = at.tolist()
    if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        return
    columns, across = _bell(x, width, sigma)
    rows, down = _bell(y, height, sigma)
    bell = down[:, None] * across
    bell = np.minimum(bell / bell.max(), BESIDE).astype(np.float32)
    if channel.dtype == np.float16:
        bell = cv2.convertFp16(bell).view(np.float16)  # the same as NumPy's, which takes long over numbers near 0
    part = channel[rows, columns]
    np.maximum(part, bell, out=part)
    # The pixel nearest to the point is 1, and no other: it counts as the place and not as its neighbourhood.
    channel[min(math.floor(y + 0.5), height - 1), min(math.floor(x + 0.5), width - 1)] = 1


def _bell(centre: float, side: int, sigma: float) -> tuple[slice, np.ndarray]:
    """Of `side` pixels in a row those that a bell reaches, and its height there; its peak may lie between pixels."""
    low, high = max(0, math.ceil(centre - REACH * sigma)), min(side, math.floor(centre + REACH * sigma) + 1)
    return slice(low, high), np.exp(-0.5 * ((np.arange(low, high) - centre) / sigma) ** 2)
