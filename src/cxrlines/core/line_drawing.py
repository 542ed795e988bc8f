"""Polylines drawn into images with anti-aliasing: as an RGB overlay or as a mask; and squares at their points."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

AT_ONCE = 2**20
"""Pixels looked at together: a line of very many points needs no more memory."""


class Covered(NamedTuple):
    """Pixels that lines cover. One is there as often as pieces of lines reach it; its largest share is the line's.

    Attributes:
        lines: (n,) int, which line.
        places: (n,) int, row * width + column.
        shares: (n,) float32 in (0, 1], of the pixel, taken for a circle.
    """

    lines: np.ndarray
    places: np.ndarray
    shares: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """(n,) uint8: the shares as gray levels."""
        return np.rint(self.shares * 255).astype(np.uint8)


def draw_lines(
    image: np.ndarray, lines: Sequence[tuple[np.ndarray, int | Sequence[int]]], thickness: float
) -> np.ndarray:
    """A copy of `image` with lines drawn into it, one over the other, anti-aliased at sub-pixel positions.

    Args:
        image: (h, w) or (h, w, 3) uint8.
        lines: Points (n, 2) [x, y] in px of `image`, on it or not, and the line's gray value or RGB, 0-255.
        thickness: Width in px; any positive number.
    """
    shape = image.shape[:2]
    drawn = image.copy(order="C")
    pixels, most = drawn.reshape(math.prod(shape), -1), np.zeros(math.prod(shape), np.float32)
    for points, colour in lines:
        _, places, shares = covered([points], shape, thickness)
        np.maximum.at(most, places, shares)
        below = pixels[places].astype(np.float32)
        pixels[places] = np.rint(below + most[places, None] * (np.asarray(colour, np.float32) - below)).astype(np.uint8)
        most[places] = 0
    return drawn


def draw_squares(image: np.ndarray, lines: Sequence[tuple[np.ndarray, int | Sequence[int]]], side: int) -> np.ndarray:
    """A copy of `image` with a filled square of `side` px around each point of the lines, one over the other.

    Arguments as of `draw_lines`. A square is cut off at the border; its centre is at most half a pixel off.
    """
    drawn, size = image.copy(), np.array(image.shape[1::-1])
    for points, colour in lines:
        low = np.floor(np.asarray(points, np.float64).reshape(-1, 2) - (side - 1) / 2 + 0.5)
        boxes = np.concatenate([low.clip(0, size), (low + side).clip(0, size)], axis=1).astype(int)
        for left, top, right, bottom in boxes:
            drawn[top:bottom, left:right] = colour
    return drawn


def line_mask(points_list: Sequence[np.ndarray], shape: tuple[int, int], thickness: float) -> np.ndarray:
    """(h, w) uint8: 255 on the lines, 0 off them, in between where an edge crosses a pixel."""
    mask = np.zeros(shape, np.uint8)
    found = covered(points_list, shape, thickness)
    np.maximum.at(mask.reshape(-1), found.places, found.levels)
    return mask


def covered(lines: Sequence[np.ndarray], shape: tuple[int, int], thickness: float) -> Covered:
    """What lines cover of a film (h, w): polylines with round ends, points (n, 2) [x, y] px, on the film or not.

    A straight piece is walked along the axis on which it is longer, and at each step the few pixels across that it can
    reach are looked at. (OpenCV's own anti-aliased lines come out 1.4 px too wide from 2 px on.)
    """
    if not thickness > 0:
        raise ValueError(f"thickness is {thickness}; a line's width is a positive number of px")
    reach = max(thickness, 1.0) / 2 + 0.5  # thinner than a pixel: one pixel wide, and as much fainter
    of_line, starts, steps = _pieces(lines, shape, reach)
    steep = np.abs(steps[:, 1]) > np.abs(steps[:, 0])
    # From here on the first axis is the one that is walked, the second the one across.
    starts, steps = (np.where(steep, values.T[::-1], values.T) for values in (starts, steps))
    (height, width), across = shape, np.arange(math.floor(2 * math.sqrt(2) * reach) + 1)
    side, other = np.where(steep, height, width), np.where(steep, width, height)
    stride, other_stride = np.where(steep, width, 1), np.where(steep, 1, width)
    lengths = np.hypot(*steps)
    cos, sin = np.where(lengths > 0, steps, [[1.0], [0.0]]) / np.where(lengths > 0, lengths, 1)
    ends = starts[0] + steps[0]
    first = np.ceil(np.maximum(np.minimum(starts[0], ends) - reach, 0)).astype(int)
    last = np.floor(np.minimum(np.maximum(starts[0], ends) + reach, side - 1)).astype(int)
    count = np.maximum(last - first + 1, 0)
    every = np.repeat(np.arange(len(count)), count)
    walked = np.arange(len(every)) + (first + count - np.cumsum(count))[every]
    found, at_once = [], AT_ONCE // len(across)
    for some in (slice(start, start + at_once) for start in range(0, max(1, len(every)), at_once)):
        piece, step = every[some], walked[some]
        turn, half = sin[piece, None], lengths[piece, None] / 2
        path = (step - starts[0, piece]) / cos[piece]  # from the piece's start, where it passes this step
        centre = starts[1, piece] + path * sin[piece]
        low = np.ceil(centre - reach / np.abs(cos[piece]))
        aside = (low - centre)[:, None] + across
        beyond = np.maximum(np.abs(aside * turn + (path[:, None] - half)) - half, 0)  # the ends
        share = np.clip(reach - np.sqrt((aside * cos[piece, None]) ** 2 + beyond**2), 0, 1) * min(thickness, 1.0)
        place = low.astype(int)[:, None] + across
        kept = np.flatnonzero((share > 0) & (place >= 0) & (place < other[piece, None]))
        place = place * other_stride[piece, None] + (step * stride[piece])[:, None]
        found.append((of_line[piece[kept // len(across)]], place.take(kept), share.take(kept).astype(np.float32)))
    return Covered(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _pieces(
    lines: Sequence[np.ndarray], shape: tuple[int, int], reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The straight pieces of polylines whose box, `reach` px wider all around, meets a film (h, w).

    Gives the line (k,) that each is of, and their starts and steps, (k, 2) each. Each line begins with a piece of no
    length, so that a single point is drawn as well.
    """
    points = np.concatenate([np.empty((0, 2)), *(np.asarray(line, np.float64).reshape(-1, 2) for line in lines)])
    of_line = np.repeat(np.arange(len(lines)), [np.size(line) // 2 for line in lines])
    starts = points.copy()
    same = of_line[1:] == of_line[:-1]
    starts[1:][same] = points[:-1][same]
    near, far = np.minimum(starts, points) - reach, np.maximum(starts, points) + reach
    may = ((far >= 0) & (near <= shape[::-1])).all(axis=1)
    return of_line[may], starts[may], (points - starts)[may]
