"""Pictures that are no films: made alike from the same seed, different from another, and never flat."""

import numpy as np
import pytest

from cxrlines.lab.probe.not_films import SEEN, SIDE, UNSEEN, Maker, made_of_films, random_part


def _films() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8) for _ in range(4)]


@pytest.mark.parametrize("maker", SEEN + UNSEEN, ids=lambda maker: maker.__name__)
def test_every_kind_is_a_picture_that_its_seed_fixes(maker: Maker) -> None:
    first, same, other = (maker(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.shape == (SIDE, SIDE) and first.dtype == np.uint8 and first.std() > 1
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.02
    assert not set(SEEN) & set(UNSEEN)


def test_a_part_is_that_part_enlarged() -> None:
    y, x = np.mgrid[:200, :300]
    ramp = (0.5 * x + 0.2 * y).astype(np.uint8)
    for seed in range(5):
        piece = random_part(ramp, np.random.default_rng(seed), (0.2, 0.3))
        assert piece.shape == (SIDE, SIDE)
        share = np.ptp(piece[SIDE // 2].astype(int)) / np.ptp(ramp[100].astype(int))
        assert 0.25 < share < 0.75  # a quarter of the area is half of the width, give or take the ratio of its sides


def test_what_is_made_of_films_leaves_them_as_they_were() -> None:
    films = _films()
    before = [film.copy() for film in films]
    rng = np.random.default_rng(0)
    made = [made_of_films(films, rng) for _ in range(40)]
    assert all(image.shape == (SIDE, SIDE) and image.dtype == np.uint8 for image in made)
    assert not any((image == film).all() for image in made for film in films)
    for film, was in zip(films, before, strict=True):
        np.testing.assert_array_equal(film, was)
