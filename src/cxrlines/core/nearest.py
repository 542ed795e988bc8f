"""Exact search for the nearest of many vectors, some of them barred for each query."""

from collections.abc import Callable

import numpy as np
import torch

QUERIES, ROWS = 64, 8192
"""Queries, and vectors, multiplied at once: memory grows with their product, not with that of all."""


def nearest_rows(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    barred: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `vectors` of the highest inner product with each query, best first; of ties the lower row.

    Args:
        queries: (q, c) float32.
        vectors: (n, c) float16 or float32; products are taken in float32.
        k: How many, 1 or more.
        barred: Given the places of some queries (m,), says which vectors are none of theirs: (m, n) bool.

    Returns:
        Rows (q, k) int64 and products (q, k) float32; -1 and -inf where fewer than k vectors are left.
    """
    rows = np.full((len(queries), k), -1, np.int64)
    products = np.full((len(queries), k), -np.inf, np.float32)
    for first in range(0, len(queries), QUERIES):
        places = np.arange(first, min(first + QUERIES, len(queries)))
        asked = torch.from_numpy(np.ascontiguousarray(queries[places], np.float32))
        found = np.empty((len(places), len(vectors)), np.float32)
        for start in range(0, len(vectors), ROWS):
            part = slice(start, start + ROWS)  # PyTorch widens float16 many times as fast as NumPy
            found[:, part] = (asked @ torch.from_numpy(np.ascontiguousarray(vectors[part])).float().T).numpy()
        if barred is not None:
            found[barred(places)] = -np.inf
        for place, mine in zip(places, found, strict=True):
            best = _best(mine, k)
            rows[place, : len(best)], products[place, : len(best)] = best, mine[best]
    return rows, products


def _best(products: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k highest products above -inf, best first; of ties the lower row."""
    least = np.partition(products, -k)[-k] if k < len(products) else -np.inf
    candidates = np.flatnonzero((products >= least) & (products > -np.inf))
    return candidates[np.argsort(-products[candidates], kind="stable")][:k]
