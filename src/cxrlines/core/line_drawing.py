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
        lines: (n,) int, which line; ascending.
        places: (n,) int, row * width + column.
        shares: (n,) float32 in (0, 1], of the pixel, taken for a circle.
    """

    lines: np.ndarray
    places: np.ndarray
    shares: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """(n,) uint8: the shares as gray levels."""
        levels: np.ndarray = np.rint(self.shares * 255).astype(np.uint8)
        return levels


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
    found = covered([points for points, _ in lines], shape, thickness)
    bounds = np.searchsorted(found.lines, np.arange(len(lines) + 1))
    for (_, colour), mine in zip(lines, map(slice, bounds, bounds[1:]), strict=True):
        places = found.places[mine]
        np.maximum.at(most, places, found.shares[mine])
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
    of_line, starts, ends = _pieces(lines, shape, reach)
    steep = np.abs(ends[1] - starts[1]) > np.abs(ends[0] - starts[0])
    # From here on x is the axis along which a piece is walked, upwards, and y the one across.
    (x, y), (end_x, end_y) = (np.where(steep, both[::-1], both) for both in (starts, ends))
    (x, y), (end_x, end_y) = np.where(end_x < x, [[end_x, end_y], [x, y]], [[x, y], [end_x, end_y]])
    (high, wide), across = shape, np.arange(math.floor(2 * math.sqrt(2) * reach) + 1)
    side, side_across = np.where(steep, [[high], [wide]], [[wide], [high]])
    stride, stride_across = np.where(steep, [[wide], [1]], [[1], [wide]])
    length = np.hypot(end_x - x, end_y - y)
    slope = (end_y - y) / np.where(length > 0, end_x - x, 1)
    first = np.ceil(np.maximum(x - reach, 0)).astype(int)
    count = np.maximum(np.floor(np.minimum(end_x + reach, side - 1)).astype(int) - first + 1, 0)
    which = np.repeat(np.arange(len(count)), count)
    steps = np.arange(len(which)) + (first + count - np.cumsum(count))[which]
    table = np.stack([x, y, slope, 1 / np.sqrt(1 + slope * slope), length])
    found, at_once = [], max(1, AT_ONCE // len(across))
    for some in (slice(begin, begin + at_once) for begin in range(0, max(1, len(which)), at_once)):
        piece, step = which[some], steps[some]
        x, y, slope, cos, length = table[:, piece]
        middle = y + (step - x) * slope
        low = np.ceil(middle - reach / cos)
        beside = ((low - middle)[:, None] + across) * cos[:, None]  # of the line that the piece is on
        along = beside * slope[:, None] + ((step - x) / cos)[:, None]  # from the piece's start
        beyond = np.maximum(np.maximum(along - length[:, None], -along), 0)  # its ends
        share = reach - np.sqrt(beside * beside + beyond * beyond)
        at = low.astype(int)[:, None] + across
        kept = np.flatnonzero((share > 0) & (at >= 0) & (at < side_across[piece, None]))
        places = at * stride_across[piece, None] + (step * stride[piece])[:, None]
        shares = (np.minimum(share.take(kept), 1) * min(thickness, 1.0)).astype(np.float32)
        found.append((of_line[piece[kept // len(across)]], places.take(kept), shares))
    return Covered(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _pieces(
    lines: Sequence[np.ndarray], shape: tuple[int, int], reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The straight pieces of polylines whose box, `reach` px wider all around, meets a film (h, w).

    Gives the line (k,) that each is of, its start (2, k) and its end (2, k). Each line begins with a piece of no
    length, so that a single point is drawn as well.
    """
    points = [np.asarray(line, np.float64).reshape(-1, 2) for line in lines]
    of_line = np.repeat(np.arange(len(points)), [len(line) for line in points])
    ends = np.concatenate([np.empty((0, 2)), *points]).T.copy()
    starts = ends.copy()
    starts[:, 1:] = np.where(of_line[1:] == of_line[:-1], ends[:, :-1], ends[:, 1:])
    far, near = np.maximum(starts, ends), np.minimum(starts, ends)
    may = ((far >= -reach) & (near <= [[shape[1] + reach], [shape[0] + reach]])).all(axis=0)
    return of_line[may], starts[:, may], ends[:, may]
