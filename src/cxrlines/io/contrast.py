"""Contrast of a film that does not say what is black and white, and colour to gray: integers of any depth to 8 bits."""

from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.notes import Code, Note

PERCENTILES = (0.5, 99.5)
"""Gray values that become black and white where a film of more than 8 bits does not say what to show."""
GRID, EMPTY, LEAST_KEPT, LEAST_LEVELS = 1000, 5, 0.25, 64
"""Of a border: quantiles of the film; how many of them may lie in the gap before it, as letters and blurred edges do;
which share of a film is left at least, and how many of its quantiles differ: a film, not another border."""
COLOURED = 16, 0.01
"""A film is in colour if its colours differ by more than so many levels of 256 in more than this share of its px."""

FEW = 512
"""px a side, about, that are looked at for colours."""

_CHUNK = 2**20
_EXACT = 2**24
"""Up to here float32, in which OpenCV counts, holds every whole number."""


def count(codes: np.ndarray) -> np.ndarray:
    """How often each code occurs in an array of uint8 or uint16 of native byte order: (2**8,) or (2**16,) int64."""
    size = 2 ** (8 * codes.itemsize)
    flat = codes.reshape(-1)
    counts = np.zeros(size, np.int64)
    for start in range(0, flat.size, _EXACT):
        some = cv2.calcHist([flat[start : start + _EXACT]], [0], None, [size], [0, size])
        counts += some[:, 0].astype(np.int64)
    return counts


def to_uint8(share: np.ndarray) -> np.ndarray:
    """Shares of white as uint8; below 0 is black, above 1 white."""
    gray: np.ndarray = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return gray


def luma(rgb: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3), unsigned, as gray (h, w) of the same depth by ITU-R 601."""
    weights, gray = np.array([0.299, 0.587, 0.114], np.float32), np.empty(rgb.shape[:2], rgb.dtype)
    rows = max(1, _CHUNK // rgb.shape[1])
    for top in range(0, len(rgb), rows):
        gray[top : top + rows] = np.rint(rgb[top : top + rows] @ weights)
    return gray


def colour_note(rgb: np.ndarray) -> tuple[Note, ...]:
    """A note if colours (h, w, 3), unsigned, are more than gray in three channels."""
    few = rgb[:: max(1, len(rgb) // FEW), :: max(1, rgb.shape[1] // FEW)]
    by_channel = np.moveaxis(few, 2, 0).astype(np.int32, order="C")
    if (np.ptp(by_channel, axis=0) > COLOURED[0] / 256 * max(few.max(), 255)).mean() <= COLOURED[1]:
        return ()
    return (Note(Code.COLOUR_TO_GRAY, "it is in colour; its gray is the luma of the colours"),)


def spread(
    pixels: np.ndarray, visible: np.ndarray | None = None, *, inverted: bool = False
) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Gray of integers (h, w) of any depth as uint8, and what was left out of it: `contrast` becomes black to white.

    Pixels that are not `visible` (h, w) bool take no part in the contrast. `inverted`: the lowest values are white.
    """
    few = pixels.dtype.kind == "u" and pixels.itemsize <= 2
    words = pixels.astype(f"u{pixels.itemsize}", copy=False) if few else _from_lowest(pixels)  # OpenCV: no byte order
    counts = count(words if visible is None else words[visible])
    values = np.flatnonzero(counts)
    span = contrast(values, counts[values])
    shown = span.gray(np.arange(len(counts)))
    gray = np.asarray(cv2.LUT(words, 255 - shown if inverted else shown))
    return border_black(gray) if span.notes else gray, span.notes


def _from_lowest(pixels: np.ndarray) -> np.ndarray:
    """Integers (h, w) as uint16, counted from the lowest; of more than 16 bits the highest 16 of what they span."""
    low, span = int(pixels.min()), int(pixels.max()) - int(pixels.min())
    shift, words = max(0, span.bit_length() - 16), np.empty(pixels.shape, np.uint16)
    rows = max(1, _CHUNK // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        words[top : top + rows] = (pixels[top : top + rows].astype(np.int64) - low) >> shift
    return words


def border_black(gray: np.ndarray) -> np.ndarray:
    """Whole rows and columns of white along the edges of a film (h, w) uint8 made black, as padding is; in place."""
    for side in (gray, gray[::-1], gray.T, gray.T[::-1]):  # rows first: columns are then white except for black ends
        inner = (side == 255) | (side == 0)
        white = inner.all(axis=1) & (side == 255).any(axis=1)
        side[: int(np.argmin(white)) if not white.all() else 0] = 0
    return gray


class Contrast(NamedTuple):
    """The values that become black and white, and a note if a border was left out of them."""

    black: float
    white: float
    notes: tuple[Note, ...] = ()

    def gray(self, values: np.ndarray) -> np.ndarray:
        """Values as uint8."""
        return to_uint8((values - np.float64(self.black)) / ((self.white - self.black) or 1))


def contrast(values: np.ndarray, counts: np.ndarray) -> Contrast:
    """The values that become black and white: PERCENTILES of a film without its saturated borders.

    Args:
        values: (n,) values that occur, ascending.
        counts: (n,) how often each does.
    """
    kept = film_within(values, counts)
    low, high = quantiles(values[kept], counts[kept], np.array(PERCENTILES) / 100)
    if high <= low:
        low, high = values[kept][[0, -1]]
    left_out = 1 - counts[kept].sum() / counts.sum()
    if not left_out:
        return Contrast(float(low), float(high))
    what = "a border, padding or letters far darker or brighter than the rest, and are left out of the contrast"
    return Contrast(float(low), float(high), (Note(Code.BORDER_LEFT_OUT, f"{left_out:.1%} of its pixels are {what}"),))


def film_within(values: np.ndarray, counts: np.ndarray) -> slice:
    """The range of values (n,) ascending that are film: without saturation far from the rest, at either end.

    Saturation is all beyond a gap that is wider than the range of the film itself and (except for EMPTY) empty, and
    narrow beside that gap. Where it lies next to the film's own values, as in overexposed lung, nothing is left out.
    """
    grid = quantiles(values, counts, np.arange(GRID + 1) / GRID)
    jumps = grid[EMPTY:] - grid[:-EMPTY]
    widest = [int(place) for place in np.argsort(jumps)[::-1][: 4 * EMPTY] if jumps[place] > 0]
    least = int(PERCENTILES[0] / 100 * GRID)  # fewer pixels do not set the contrast
    levels = np.append(0, np.cumsum(np.diff(grid) > 0))
    best = (0, GRID)
    for low in [0, *(place + EMPTY for place in widest if place >= least)]:
        for high in [GRID, *(place for place in widest if place + EMPTY <= GRID - least)]:
            width = grid[high] - grid[low]
            if high - low < LEAST_KEPT * GRID or levels[high] - levels[low] < LEAST_LEVELS:
                continue
            below = low == 0 or _is_saturated(grid[low] - grid[low - EMPTY], width, grid[low - EMPTY] - grid[0])
            above = high == GRID or _is_saturated(grid[high + EMPTY] - grid[high], width, grid[-1] - grid[high + EMPTY])
            if below and above and high - low < best[1] - best[0]:
                best = (low, high)
    first = 0 if best[0] == 0 else int(np.searchsorted(values, grid[best[0] - EMPTY], side="right"))
    last = len(values) if best[1] == GRID else int(np.searchsorted(values, grid[best[1] + EMPTY], side="left"))
    return slice(first, last)


def _is_saturated(gap: float, film: float, width: float) -> bool:
    return gap > film and width <= gap / 4


def quantiles(values: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Values below which shares of the pixels lie; float64."""
    reached = np.cumsum(counts)
    at: np.ndarray = values[np.searchsorted(reached, shares * (reached[-1] - 1), side="right")]
    return at.astype(np.float64)
