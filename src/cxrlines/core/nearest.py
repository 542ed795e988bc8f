"""Exact nearest-neighbour search by inner product, with some vectors excluded for each query."""

from collections.abc import Callable

import numpy as np

QUERIES, ROWS = 64, 8192
"""Queries, and vectors, multiplied at once: memory grows with their product, not with that of all."""


def nearest_rows(
    queries: np.ndarray, vectors: np.ndarray, k: int, excluded: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `vectors` of the highest inner product with each query, best first; of ties the lower row.

    Args:
        queries: (q, c) float32.
        vectors: (n, c) float16 or float32; products are taken in float32.
        k: How many neighbours, 1 or more.
        excluded: From the places of some queries (m,) to the vectors that are none of their neighbours, (m, n) bool.

    Returns:
        Rows (q, k) int64 and products (q, k) float32; -1 and -inf where fewer than k vectors are left.
    """
    rows = np.full((len(queries), k), -1, np.int64)
    products = np.full((len(queries), k), -np.inf, np.float32)
    for first in range(0, len(queries), QUERIES):
        places = np.arange(first, min(first + QUERIES, len(queries)))
        block = queries[places].astype(np.float32, copy=False)
        every = np.empty((len(places), len(vectors)), np.float32)
        for start in range(0, len(vectors), ROWS):
            part = slice(start, start + ROWS)
            np.matmul(block, vectors[part].astype(np.float32, copy=False).T, out=every[:, part])
        if excluded is not None:
            every[excluded(places)] = -np.inf
        for place, own in zip(places, every, strict=True):
            best = _best(own, k)
            rows[place, : len(best)], products[place, : len(best)] = best, own[best]
    return rows, products


def _best(products: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k highest products above -inf, best first; of ties the lower row."""
    least = np.partition(products, -k)[-k] if k < len(products) else -np.inf
    candidates = np.flatnonzero((products >= least) & (products > -np.inf))
    return candidates[np.argsort(-products[candidates], kind="stable")][:k]
