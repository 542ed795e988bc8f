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
    if not isinstance(landmarks, Mapping):
        landmarks = dict(zip(Landmark, landmarks, strict=True))
    moved = [(DEVICE_OF[label], STATE_OF[label], to_map(points)) for label, points in lines]
    _draw_lines(maps, [(device, points) for device, _, points in moved], max(1.5, longer * LINE_WIDTH))
    spots: list[tuple[tuple[MapKind, Device | Landmark], np.ndarray]] = []
    spots += [((MapKind.TIP, device), points[-1]) for device, state, points in moved if state is not State.INCOMPLETE]
    spots += [((MapKind.LANDMARK, name), to_map(landmarks[name])) for name in Landmark if name in landmarks]
    _draw_spots(maps, [(_CHANNELS[what], at) for what, at in spots if what in _CHANNELS], longer * KEYPOINT_SIGMA)
    return maps


def _draw_lines(maps: np.ndarray, lines: Sequence[tuple[Device, np.ndarray]], thickness: float) -> None:
    """Draw lines (device, points [x, y] px of the maps) into the maps of their devices."""
    drawn = [(_CHANNELS[what], points) for device, points in lines if (what := (MapKind.LINE, device)) in _CHANNELS]
    pixels = covered([points for _, points in drawn], maps.shape[1:], thickness)
    channels = np.array([channel for channel, _ in drawn], int)[pixels.lines]
    shades = _bits((np.arange(256, dtype=np.float32) / 255).astype(maps.dtype))
    np.maximum.at(_bits(maps).reshape(-1), channels * maps[0].size + pixels.places, shades[pixels.levels])


def _draw_spots(maps: np.ndarray, spots: Sequence[tuple[int, np.ndarray]], sigma: float) -> None:
    """Raise channels to bells of height 1 around points [x, y]; nothing where one is unknown or off the film."""
    height, width = maps.shape[1:]
    spots = [(channel, at) for channel, at in spots if -0.5 <= at[0] <= width - 0.5 and -0.5 <= at[1] <= height - 0.5]
    if not spots:
        return
    centres, sides = np.array([at for _, at in spots]), np.array([[width], [height]])
    # The pixels in a row that a bell reaches, on the film or not, and its height there: (spots, [x, y], pixels).
    first, last = np.ceil(centres - REACH * sigma), np.floor(centres + REACH * sigma)
    pixels = first[:, :, None] + np.arange(math.floor(2 * REACH * sigma) + 1)
    bells = np.exp(-0.5 * ((pixels - centres[:, :, None]) / sigma) ** 2)
    bells *= (pixels <= last[:, :, None]) & (pixels >= 0) & (pixels < sides)
    both = bells[:, 1, :, None] * bells[:, 0, None]
    both = np.minimum(both / bells.max(axis=2).prod(axis=1)[:, None, None], BESIDE).astype(np.float32)
    if maps.dtype == np.float16:
        both = cv2.convertFp16(both).view(np.float16)  # the same as NumPy's, which takes long over numbers near 0
    reached, bits = pixels.shape[2], _bits(maps)
    nearest = np.minimum(np.floor(centres + 0.5), sides.T - 1).astype(int).tolist()
    for (channel, _), (left, top), (x, y), bell in zip(
        spots, first.astype(int).tolist(), nearest, _bits(both), strict=True
    ):
        part = bits[channel, max(top, 0) : top + reached, max(left, 0) : left + reached]
        (high, wide), down, right = part.shape, max(-top, 0), max(-left, 0)
        np.maximum(part, bell[down : down + high, right : right + wide], out=part)
        # The pixel nearest to the point is 1, and no other: it counts as the place and not as its neighbourhood.
        maps[channel, y, x] = 1


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Floating-point numbers of 0 or more as unsigned integers, which are in the same order and compared faster."""
    return numbers.view(f"u{numbers.itemsize}")
