"""Keypoints of a film: the peaks of a heatmap of tips or of a landmark.

Lengths are fractions of the heatmap's longer side.
"""

import cv2
import numpy as np

from cxrlines.core.findings import Keypoint
from cxrlines.core.heatmaps import KEYPOINT_SIGMA

PEAK = 0.15
"""The least height of a heatmap's peak that a line may end at, or that is a landmark."""
MAX_KEYPOINTS = 12
"""The most peaks of a heatmap that are taken, the highest ones."""
SEPARATION = 0.04
"""The least distance between two peaks; of nearer ones the highest is taken."""


def find_keypoints(heat: np.ndarray) -> list[Keypoint]:
    """The peaks of a heatmap (h, w) of at least `PEAK`, highest first, at sub-pixel places."""
    if heat.max() < PEAK / 1.5:
        return []  # smoothed as below it is nowhere higher than 1.36 times that
    scale = max(heat.shape)
    radius = max(1, round(SEPARATION * scale))
    sigma = KEYPOINT_SIGMA * scale
    # Smoothed by 0.6 of its deviation, a Gaussian keeps 1 / 1.36 of its height; noise keeps much less.
    smooth = 1.36 * cv2.GaussianBlur(heat, (0, 0), 0.6 * sigma)
    high = smooth >= PEAK
    x, y, width, height = cv2.boundingRect(high.view(np.uint8))
    near = (slice(max(0, y - radius), y + height + radius), slice(max(0, x - radius), x + width + radius))
    # Rows and columns in turn: a square window, which is all that keeping peaks apart needs.
    highest = cv2.dilate(smooth[near], np.ones((2 * radius + 1, 1), np.uint8))
    highest = cv2.dilate(highest, np.ones((1, 2 * radius + 1), np.uint8))
    rows, columns = np.nonzero((smooth[near] == highest) & high[near])
    rows, columns = rows + near[0].start, columns + near[1].start
    left = np.stack([rows, columns], axis=1)[np.argsort(-smooth[rows, columns], kind="stable")]
    found: list[Keypoint] = []
    while len(left) and len(found) < MAX_KEYPOINTS:
        row, column = left[0].tolist()
        found.append(Keypoint(_place(heat, row, column, sigma), min(1.0, float(smooth[row, column]))))
        left = left[np.abs(left - left[0]).max(axis=1) > radius]  # without those of the same height near it
    return found


def _place(heat: np.ndarray, row: int, column: int, sigma: float) -> np.ndarray:
    """The peak [x, y] of the Gaussian that fits a heatmap around a pixel best.

    Its logarithm is a parabola; least squares, weighted by the value squared (Guo, IEEE Signal Processing Magazine
    2011;28:134). Unlike a centroid it is not pulled inward where the film ends. The pixel itself where the fit has no
    peak nearby.
    """
    reach = max(1, round(1.3 * sigma))
    top, left = max(0, row - reach), max(0, column - reach)
    window = heat[top : row + reach + 1, left : column + reach + 1].astype(np.float64)
    y, x = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
    dx, dy = (x - column).ravel() / reach, (y - row).ravel() / reach
    value = np.maximum(window.ravel(), 1e-3)
    terms = np.stack([np.ones_like(dx), dx, dy, dx * dx + dy * dy], 1) * value[:, None]
    _, a, b, c = np.linalg.lstsq(terms, np.log(value) * value, rcond=None)[0]
    at = np.array([float(column), float(row)])
    if c >= -1e-6:
        return at
    move = np.array([a, b]) / (-2 * c) * reach
    return at + move if np.hypot(*move) <= reach else at
