"""The same film twice, under any name, size and encoding; and never two films for one."""

import cv2
import numpy as np
import pytest

from cxrlines.data import duplicates
from cxrlines.data.duplicates import copies, signature
from cxrlines.data.films import read_film


def again(pixels: np.ndarray, quality: int, scale: float) -> np.ndarray:
    shrunk = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", shrunk, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


@pytest.fixture(scope="module")
def real(shared):
    return [read_film(path).pixels for path in sorted((shared / "cxr/images").glob("*.jpg"))]


def bordered(pixels: np.ndarray, gray: int, width: int) -> np.ndarray:
    inside = cv2.resize(pixels, (600 - 2 * width, 500 - 2 * width), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(inside, *[width] * 4, cv2.BORDER_CONSTANT, value=gray)


class TestRealFilms:
    def test_243_different_films_are_different(self, real):
        assert copies([signature(film) for film in real]) == []

    @pytest.mark.parametrize(("gray", "width"), [(255, 30), (0, 60)])
    def test_a_border_they_share_does_not_make_them_one(self, real, gray, width):
        assert copies([signature(bordered(film, gray, width)) for film in real]) == []

    @pytest.mark.parametrize(("quality", "scale"), [(95, 1.0), (30, 1.0), (60, 0.5), (50, 0.37), (90, 1.6)])
    def test_their_copies_are_found(self, real, quality, scale):
        signatures = [signature(film) for film in real] + [signature(again(film, quality, scale)) for film in real[::6]]
        assert copies(signatures) == [(index * 6, len(real) + index) for index in range(len(real[::6]))]


class TestSearch:
    def test_small_leaves_find_what_one_leaf_finds(self, monkeypatch, noise_film):
        films = [noise_film(seed) for seed in range(300)]
        signatures = [signature(film) for film in films + [again(film, 70, 0.8) for film in films[::10]]]
        everything = copies(signatures)
        monkeypatch.setattr(duplicates, "LEAF", 16)
        assert copies(signatures) == everything == [(index * 10, 300 + index) for index in range(30)]

    @pytest.mark.parametrize(("gray", "width"), [(255, 30), (0, 60)])
    def test_a_shared_border_is_no_detail(self, noise_film, gray, width):
        # Like lungs: much the same from film to film but for the detail, which is faint beside a border's edge.
        shared = cv2.GaussianBlur(noise_film(99), (0, 0), 15) // 2 + 40
        films = [bordered(shared + noise_film(seed) // 8, gray, width) for seed in range(12)]
        signatures = [signature(film) for film in [*films, again(films[5], 90, 0.8)]]
        assert copies(signatures) == [(5, 12)]

    def test_order_does_not_matter(self, noise_film):
        films = [noise_film(seed) for seed in range(20)]
        signatures = [signature(film) for film in [*films, again(films[3], 60, 0.7), again(films[8], 60, 0.7)]]
        order = np.random.default_rng(0).permutation(len(signatures))
        found = {frozenset((order[i], order[j])) for i, j in copies([signatures[k] for k in order])}
        assert found == {frozenset((3, 20)), frozenset((8, 21))}

    def test_films_without_contrast_are_like_nothing(self, noise_film):
        blank = [np.full((64, 64), gray, np.uint8) for gray in (0, 0, 128)]
        assert copies(blank) == [] and copies([]) == [] and copies([signature(noise_film(1))]) == []
        assert copies([*blank, signature(noise_film(1)), signature(noise_film(1))]) == [(3, 4)]
