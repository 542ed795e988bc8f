"""Registration of two pictures: their detail, and the stretch and shift at which it agrees best.

A place is (4,) float [sx, tx, sy, ty]: the point (u, v) of one picture lies at (sx u + tx, sy v + ty) of another.
Coordinates are shares of a side, from the middle: -0.5 to 0.5. Cutting and resizing a film does nothing else to it.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

SAME = np.array([1.0, 0.0, 1.0, 0.0])
LOW, HIGH = np.array([0.7, -0.15, 0.7, -0.15]), np.array([1.4, 0.15, 1.4, 0.15])
"""Places that are looked at: a film cut by up to 8 % at each side, beside another film cut likewise, lies within."""
STEP = 0.05  # largest change of a place in one step
STILL = 0.0015  # change of a place below which it is found
OVERLAP = 0.3  # share of a picture that must lie on the other


def detail(picture: np.ndarray, fine: float, broad: float, floor: float = 2.0) -> np.ndarray:
    """(n, n) float32: what is finer than a Gaussian of `fine` px, in units of its own size within `broad` px.

    Windowing, equalisation and saturation change contrast from place to place; this undoes most of it. `floor`, in
    gray levels, keeps rounding and compression from passing for detail where there is none.
    """
    gray = picture.astype(np.float32)
    change = gray - cv2.GaussianBlur(gray, (0, 0), fine)
    result: np.ndarray = change / np.sqrt(cv2.GaussianBlur(change * change, (0, 0), broad) + floor * floor)
    return result


def warp(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(n, n) float32: at each point what lies at its place in `picture`; beyond its edge, the edge."""
    size = len(picture)
    sx, tx, sy, ty = place
    middle = (size - 1) / 2
    matrix = np.array([[sx, 0, tx * size + middle * (1 - sx)], [0, sy, ty * size + middle * (1 - sy)]])
    how, beyond = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    return cv2.warpAffine(picture.astype(np.float32), matrix, (size, size), flags=how, borderMode=beyond)


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The place of picture a in picture b, given the places of one reference in each."""
    sx, sy = b[0] / a[0], b[2] / a[2]
    return np.array([sx, b[1] - sx * a[1], sy, b[3] - sy * a[3]])


@lru_cache
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """u and v, each (n, n) float32, of the pixel centres of a picture."""
    along = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    u, v = np.meshgrid(along, along)
    return u, v


def fit(
    fixed: np.ndarray,
    moving: np.ndarray,
    start: np.ndarray,
    *,
    margins: tuple[float, float],
    steps: int,
    hopeless: float = -1.0,
) -> tuple[float, np.ndarray]:
    """The highest correlation found between `fixed` and `moving`, and the place of `fixed` in `moving` it is at.

    Gauss-Newton from `start`; `margins`, shares of a side, are left out of account at the edges of `fixed` and
    `moving`. The correlation is taken where both are inside them, -1 where that is less than OVERLAP of the picture.
    Given up where the correlation is below `hopeless` after the first step.
    """
    size = len(fixed)
    along = grid(size)[0][0]
    edge, far = 0.5 - margins[0], 0.5 - margins[1]
    rise = np.dstack([moving, cv2.Sobel(moving, -1, 1, 0, scale=size / 8), cv2.Sobel(moving, -1, 0, 1, scale=size / 8)])
    best, place = (-1.0, start), np.clip(start, LOW, HIGH)
    for step in range(steps):
        columns, rows = (_within(along, edge, far, scale, shift) for scale, shift in (place[:2], place[2:]))
        if (columns.stop - columns.start) * (rows.stop - rows.start) < OVERLAP * size * size:
            break
        there = warp(rise, place)[rows, columns]
        x, y = fixed[rows, columns].ravel(), there[..., 0].ravel()
        x, y = x - x.mean(), y - y.mean()
        x_length, y_length = math.sqrt(x @ x), math.sqrt(y @ y)
        if min(x_length, y_length) < 1e-3:
            break
        correlation = float(x @ y) / (x_length * y_length)
        if correlation > best[0]:
            best = correlation, place
        if step == 1 and best[0] < hopeless:
            break
        slopes = np.empty((4, len(x)), np.float32)
        by_u, by_v = there[..., 1], there[..., 2]
        slopes[0], slopes[1] = (by_u * along[columns]).ravel(), by_u.ravel()
        slopes[2], slopes[3] = (by_v * along[rows, None]).ravel(), by_v.ravel()
        slopes -= slopes.mean(1, keepdims=True)
        normal = (slopes @ slopes.T).astype(np.float64)
        normal[np.diag_indices(4)] *= 1.01
        normal[np.diag_indices(4)] += 1e-6
        change = np.linalg.solve(normal, slopes @ (x * (y_length / x_length) - y))
        change = np.minimum(np.maximum(change, -STEP), STEP)
        place = np.minimum(np.maximum(place + change, LOW), HIGH)
        if np.abs(change).max() < STILL:
            break
    return best


def _within(along: np.ndarray, edge: float, far: float, scale: float, shift: float) -> slice:
    """The pixels inside `edge` whose places, scale * along + shift, are inside `far`."""
    low, high = max(-edge, (-far - shift) / scale), min(edge, (far - shift) / scale)
    first, last = np.searchsorted(along, (low, high))
    return slice(int(first), max(int(first), int(last)))
