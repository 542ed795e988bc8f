import numpy as np
import pytest

from cxrlines.core import nearest
from cxrlines.core.nearest import nearest_rows


def unit(count: int, numbers: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, numbers)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_the_nearest_are_those_of_a_full_sort_whatever_the_blocks(kind, monkeypatch):
    monkeypatch.setattr(nearest, "QUERIES", 3)
    monkeypatch.setattr(nearest, "ROWS", 17)
    queries, vectors = unit(10, 8, 0), unit(101, 8, 1).astype(kind)
    banned = np.random.default_rng(2).random((10, 101)) < 0.3
    rows, products = nearest_rows(queries, vectors, 7, lambda places: banned[places])
    for query, ban, mine, found in zip(queries, banned, rows, products, strict=True):
        every = [(-float(vector.astype(np.float64) @ query), i) for i, vector in enumerate(vectors) if not ban[i]]
        assert [i for _, i in sorted(every)[:7]] == mine.tolist()
        np.testing.assert_allclose(found, [-value for value, _ in sorted(every)[:7]], atol=1e-5)


def test_of_ties_the_lower_row_comes_first():
    vectors = np.repeat(unit(2, 4, 0), 5, axis=0)
    rows, _ = nearest_rows(vectors[:1], vectors, 3)
    assert rows.tolist() == [[0, 1, 2]]


def test_where_too_few_are_left_the_rest_is_empty():
    vectors = unit(4, 3, 0)
    barred = np.array([[True, False, True, True], [True] * 4])
    rows, products = nearest_rows(vectors[:2], vectors, 3, lambda places: barred[places])
    assert rows.tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert np.isfinite(products).sum() == 1
    assert nearest_rows(vectors, vectors, 9)[0].shape == (4, 9)
