"""Polylines drawn into images with anti-aliasing: as an RGB overlay or as a mask; and squares at their points."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

Box = tuple[slice, slice]
"""Rows and columns."""
STRIDE = 8.0  # px: longer segments are drawn in pieces, so that the box around each stays small


def draw_lines(
    image: np.ndarray, lines: Sequence[tuple[np.ndarray, int | Sequence[int]]], thickness: float
) -> np.ndarray:
    """A copy of `image` with lines drawn into it, one over the other, anti-aliased at sub-pixel positions.

    Args:
        image: (h, w) or (h, w, 3) uint8.
        lines: Points (n, 2) [x, y] in px of `image`, on it or not, and the line's gray value or RGB, 0-255.
        thickness: Width in px; any positive number.
    """
    drawn = image.copy()
    for points, colour in lines:
        for box, share in _coverage([points], image.shape[:2], thickness):
            share = share if image.ndim == 2 else share[:, :, None]
            below = drawn[box].astype(np.float32)
            drawn[box] = np.rint(below + share * (np.asarray(colour, np.float32) - below)).astype(np.uint8)
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
    for box, part in line_masks(points_list, shape, thickness):
        np.maximum(mask[box], part, out=mask[box])
    return mask


def line_masks(
    points_list: Sequence[np.ndarray], shape: tuple[int, int], thickness: float
) -> Iterator[tuple[Box, np.ndarray]]:
    """`line_mask` of each line that is on the film, with the box (rows, columns) beyond which it is 0."""
    for box, share in _coverage(points_list, shape, thickness):
        yield box, np.rint(share * 255).astype(np.uint8)


def _coverage(
    lines: Sequence[np.ndarray], shape: tuple[int, int], thickness: float
) -> Iterator[tuple[Box, np.ndarray]]:
    """Boxes of lines and in them float32 in [0, 1]: the share of a pixel, taken for a circle, that the line covers.

    Lines are polylines with round ends. (OpenCV's own anti-aliased ones come out 1.4 px too wide from 2 px on.)
    """
    if not thickness > 0:
        raise ValueError(f"thickness is {thickness}; a line's width is a positive number of px")
    height, width = shape
    reach = max(thickness, 1.0) / 2 + 0.5  # thinner than a pixel: one pixel wide, and as much fainter
    side = math.ceil(STRIDE + 2 * reach) + 1  # of a box that holds any piece and its reach
    at_once = max(1, 2**20 // side**2)
    for points in lines:
        starts, steps = _pieces(np.asarray(points, np.float64).reshape(-1, 2), (width, height), reach)
        if not len(starts):
            continue
        lows = np.floor(np.minimum(starts, starts + steps) - reach).astype(int)
        left, top = lows.min(axis=0).clip(0, (width, height)).tolist()
        right, bottom = (lows.max(axis=0) + side).clip(0, (width, height)).tolist()
        coverage = np.zeros((bottom - top, right - left), np.float32)
        for some in (slice(first, first + at_once) for first in range(0, len(starts), at_once)):
            columns, rows = (lows[some, axis, None] + np.arange(side) for axis in (0, 1))
            share = _near_pieces(columns, rows, starts[some], steps[some], reach) * np.float32(min(thickness, 1.0))
            within = ((columns >= left) & (columns < right))[:, None, :] & ((rows >= top) & (rows < bottom))[:, :, None]
            places = (rows[:, :, None] - top) * (right - left) + columns[:, None, :] - left
            covered = within & (share > 0)
            np.maximum.at(coverage.reshape(-1), places[covered], share[covered])
        yield (slice(top, bottom), slice(left, right)), coverage


def _near_pieces(
    columns: np.ndarray, rows: np.ndarray, starts: np.ndarray, steps: np.ndarray, reach: float
) -> np.ndarray:
    """What straight pieces (k, 2) cover of pixels, each of its own columns and rows (k, n): (k, n, n) float32."""
    x = (columns - starts[:, :1]).astype(np.float32)[:, None, :]
    y = (rows - starts[:, 1:]).astype(np.float32)[:, :, None]
    dx, dy = steps.astype(np.float32).T[:, :, None, None]
    square = dx * dx + dy * dy
    along = np.clip((x * dx + y * dy) / np.where(square > 0, square, 1), 0, 1)
    share: np.ndarray = np.clip(np.float32(reach) - np.hypot(x - along * dx, y - along * dy), 0, 1)
    return share


def _pieces(points: np.ndarray, size: tuple[int, int], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and steps, (k, 2) each, of the straight pieces of a polyline that may touch a film of `size` (width,
    height), none longer than STRIDE px. A single point is a piece of no length."""
    if len(points) == 1:
        return points, np.zeros_like(points)
    starts, steps = _near(points[:-1], np.diff(points, axis=0), size, reach)
    count = np.maximum(1, np.ceil(np.hypot(*steps.T) / STRIDE)).astype(int)
    which = np.repeat(np.arange(len(starts)), count)
    step = (steps / count[:, None])[which]
    order = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return _near(starts[which] + order[:, None] * step, step, size, reach)


def _near(starts: np.ndarray, steps: np.ndarray, size: tuple[int, int], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Of straight pieces (k, 2) those whose box, `reach` px wider all around, meets the film."""
    ends = starts + steps
    near, far = np.minimum(starts, ends) - reach, np.maximum(starts, ends) + reach
    may = (far >= 0).all(axis=1) & (near <= size).all(axis=1)
    return starts[may], steps[may]
