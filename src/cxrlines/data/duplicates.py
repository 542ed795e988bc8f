"""The same film twice: the same bytes, or the same picture re-encoded or resized.

Films of one patient resemble each other; copies of one film are nearer still, in the fine detail above all. It is taken
from the middle of the film, as a border or a collimator's edge is the same in many films. Over 300 phantom films and
243 real ones (docs/experiments.md), bare or all in the same white border, the detail of two different films correlates
up to 0.73 and 0.61 (0.62 in a black border of a tenth of the film), that of a film and its copy (JPEG quality 30;
shrunk to 37 % at quality 50) from 0.968 up. A ceiling measured on so few films is no promise for 30,000: look at a pair
before removing one.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np

SIGNATURE = 64  # px a side
COARSE = 16  # px a side: what the search compares
DIRECTIONS = 8  # principal directions the search looks along
REACH = 0.08
"""How far apart, along each direction, the coarse pictures (of length 1) of a film and its copy may lie; 0.05 seen."""
DETAIL_SIGMA = 2.0  # px of the signature: coarser than this is not detail
MARGIN = 10  # px of the signature at each side that hold no detail: a sixth of the film
ALIKE = 0.93
"""Correlation of detail from which two films are one."""
LEAF = 256


def signature(pixels: np.ndarray) -> np.ndarray:
    """(64, 64) uint8: what of a film (h, w) is kept to find its copies."""
    return cv2.resize(pixels, (SIGNATURE, SIGNATURE), interpolation=cv2.INTER_AREA)


def copies(signatures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of signatures that are the same film, sorted.

    Films without any contrast are like nothing. A kd-tree over the principal directions of the coarse pictures
    proposes pairs, some 3 in 10,000 of all there are; their detail decides.
    """

    @lru_cache(maxsize=4096)
    def detail(index: int) -> np.ndarray:
        film = signatures[index].astype(np.float32)
        fine = film - cv2.GaussianBlur(film, (0, 0), DETAIL_SIGMA)
        return _normed(fine[MARGIN:-MARGIN, MARGIN:-MARGIN].reshape(1, -1))[0]

    return [(i, j) for i, j in _candidates(signatures) if float(detail(i) @ detail(j)) >= ALIKE]


def _normed(rows: np.ndarray) -> np.ndarray:
    """Each row less its mean, at length 1; rows without contrast become 0."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 1.0, rows / np.maximum(length, 1.0), 0.0)


def _candidates(signatures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    if len(signatures) < 2:
        return []
    small = [cv2.resize(film, (COARSE, COARSE), interpolation=cv2.INTER_AREA) for film in signatures]
    coarse = _normed(np.stack(small).reshape(len(small), -1).astype(np.float32))
    rows = np.flatnonzero(coarse.any(axis=1))
    coarse = coarse - coarse[rows].mean(axis=0) if len(rows) else coarse
    _, directions = np.linalg.eigh(coarse[rows].T @ coarse[rows])
    places = coarse @ directions[:, -DIRECTIONS:]
    pairs = {(i, j) for leaf in _leaves(places, rows) for i, j in _close(places, leaf)}
    return sorted(pairs)


def _leaves(places: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Sets of rows such that any two rows within REACH of each other share one."""
    axis = int(np.argmax(np.ptp(places[rows], axis=0))) if len(rows) else 0
    along = places[rows, axis]
    middle = float(np.median(along)) if len(rows) else 0.0
    low, high = rows[along <= middle + REACH / 2], rows[along >= middle - REACH / 2]
    if len(rows) <= LEAF or max(len(low), len(high)) > 0.9 * len(rows):
        yield rows
        return
    yield from _leaves(places, low)
    yield from _leaves(places, high)


def _close(places: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of `rows` (ascending) within REACH along every direction."""
    for place, row in enumerate(rows[:-1]):
        rest = rows[place + 1 :]
        near = (np.abs(places[rest] - places[row]) <= REACH).all(axis=1)
        for other in rest[near]:
            yield int(row), int(other)
