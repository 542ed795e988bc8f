"""The same film twice: the same bytes, or the same picture re-encoded, resized, mirrored or turned.

Copies share the fine detail, which is taken from the middle of the film: a border or a collimator's edge is the same in
many films. What different films and copies reach is in docs/experiments.md: look at a pair before removing one.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import cv2
import numpy as np
from scipy.spatial import cKDTree

SIGNATURE = 64  # px a side
COARSE = 16  # px a side: what the search compares
DIRECTIONS = 8  # principal directions the search looks along
REACH = 0.08
"""How far apart, along each direction, the coarse pictures (of length 1) of a film and its copy may lie; 0.05 seen."""
DETAIL_SIGMA = 2.0  # px of the signature: coarser than this is not detail
MARGIN = 10  # px of the signature at each side that hold no detail: a sixth of the film
ALIKE = 0.93
"""Correlation of detail from which two films are one."""


def _seen(picture: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    return np.rot90(picture[..., ::-1] if mirrored else picture, turns, axes=(-2, -1))


SYMMETRIES: tuple[Callable[[np.ndarray], np.ndarray], ...] = tuple(
    partial(_seen, turns=turns, mirrored=mirrored) for mirrored in (False, True) for turns in range(4)
)
"""The eight ways in which square pictures (..., n, n) can be turned and mirrored; the first leaves them as they are."""


def signature(pixels: np.ndarray) -> np.ndarray:
    """(64, 64) uint8: what of a film (h, w) is kept to find its copies."""
    return cv2.resize(pixels, (SIGNATURE, SIGNATURE), interpolation=cv2.INTER_AREA)


def copies(signatures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of signatures that are the same film, mirrored or turned or neither; sorted."""
    return sorted(copies_between(signatures, signatures))


def copies_between(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> dict[tuple[int, int], float]:
    """Pairs (i, j) of a signature of `a` and one of `b` that are the same film, and how their detail correlates.

    Mirrored or turned or neither. Of a list with itself only pairs i < j. Films without any contrast are like nothing.
    A kd-tree over the principal directions of the coarse pictures proposes pairs; their detail decides.
    """
    coarse_a = _coarse(a)
    coarse_b = coarse_a if b is a else _coarse(b)
    rows_a, rows_b = (np.flatnonzero(coarse.any(axis=(1, 2))) for coarse in (coarse_a, coarse_b))
    if not len(rows_a) or not len(rows_b):
        return {}
    coarse_a, coarse_b = coarse_a[rows_a], coarse_b[rows_b]
    every = coarse_a if b is a else np.concatenate([coarse_a, coarse_b])
    middle = every.mean(axis=0)
    spread = (every - middle).reshape(len(every), -1)
    directions = np.linalg.eigh(spread.T @ spread)[1][:, -DIRECTIONS:]

    def tree(coarse: np.ndarray) -> cKDTree:
        return cKDTree((coarse - middle).reshape(len(coarse), -1) @ directions)

    details_a, details_b = _details(a), _details(b)
    found: dict[tuple[int, int], float] = {}
    there = tree(coarse_b)
    for symmetry in SYMMETRIES:
        for own, near in enumerate(tree(symmetry(coarse_a)).query_ball_tree(there, REACH, p=np.inf)):
            row = int(rows_a[own])
            others = [int(other) for other in rows_b[near] if b is not a or row < other]
            detail = symmetry(details_a(row)).ravel() if others else None
            for other in others:
                alike = float(detail @ details_b(other).ravel())
                if alike >= max(ALIKE, found.get((row, other), ALIKE)):
                    found[row, other] = alike
    return found


def _coarse(signatures: Sequence[np.ndarray]) -> np.ndarray:
    """(n, COARSE, COARSE) float32, each less its mean and of length 1; 0 without contrast."""
    small = [cv2.resize(film, (COARSE, COARSE), interpolation=cv2.INTER_AREA) for film in signatures]
    return _normed(np.array(small, np.float32).reshape(-1, COARSE, COARSE))


def _details(signatures: Sequence[np.ndarray]) -> Callable[[int], np.ndarray]:
    @lru_cache(maxsize=16384)
    def detail(index: int) -> np.ndarray:
        film = signatures[index].astype(np.float32)
        fine = film - cv2.GaussianBlur(film, (0, 0), DETAIL_SIGMA)
        return _normed(fine[MARGIN:-MARGIN, MARGIN:-MARGIN])

    return detail


def _normed(pictures: np.ndarray) -> np.ndarray:
    """Each picture (..., h, w) less its mean, at length 1; those without contrast become 0."""
    pictures = pictures - pictures.mean(axis=(-2, -1), keepdims=True)
    length = np.linalg.norm(pictures, axis=(-2, -1), keepdims=True)
    return np.where(length > 1.0, pictures / np.maximum(length, 1.0), 0.0).astype(np.float32)
