"""The same film twice, under any name, size and encoding; and never two films for one."""

import cv2
import numpy as np
import pytest

from cxrlines.io.dedup.copies import ALIKE, SYMMETRIES, copies, copies_between, signature
from cxrlines.io.films import read_film


def again(pixels: np.ndarray, quality: int, scale: float) -> np.ndarray:
    shrunk = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", shrunk, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def turned(pixels: np.ndarray, way: int) -> np.ndarray:
    """A film in one of the eight ways, made otherwise than by `SYMMETRIES`."""
    mirrored = pixels[:, ::-1] if way >= 4 else pixels
    return {0: lambda x: x, 1: lambda x: x.T[:, ::-1], 2: lambda x: x[::-1, ::-1], 3: lambda x: x.T[::-1]}[way % 4](
        mirrored
    )


def fine_detail(kept: np.ndarray) -> np.ndarray:
    film = kept.astype(np.float64)
    fine = (film - cv2.GaussianBlur(film, (0, 0), 2.0))[10:-10, 10:-10]
    fine -= fine.mean()
    return fine / np.linalg.norm(fine)


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
    def test_the_tree_proposes_every_pair_that_comparing_all_films_finds(self, noise_film):
        films = [noise_film(seed) for seed in range(120)]
        films += [again(np.ascontiguousarray(turned(film, k)), 70, 0.8) for k, film in enumerate(films[::10])]
        signatures = [signature(film) for film in films]
        details = [fine_detail(kept) for kept in signatures]
        every = [
            (i, j)
            for j in range(len(films))
            for i in range(j)
            if max(float((symmetry(details[i]) * details[j]).sum()) for symmetry in SYMMETRIES) >= ALIKE
        ]
        assert copies(signatures) == sorted(every) == [(index * 10, 120 + index) for index in range(12)]

    @pytest.mark.parametrize("way", range(8))
    def test_a_mirrored_or_turned_copy_is_found(self, noise_film, way):
        films = [noise_film(seed, 90, 120) for seed in range(10)]
        copy = again(np.ascontiguousarray(turned(films[4], way)), 80, 0.8)
        assert copies([signature(film) for film in [*films, copy]]) == [(4, 10)]

    def test_between_two_lists_only_pairs_across_are_found(self, noise_film):
        films = [noise_film(seed) for seed in range(6)]
        a = [signature(film) for film in [films[0], again(films[0], 60, 1.0), films[1], films[2]]]
        b = [signature(film) for film in [films[3], np.rot90(films[1]), films[0], films[4], films[4]]]
        assert sorted(copies_between(a, b)) == [(0, 2), (1, 2), (2, 1)]
        assert sorted(copies_between(b, a)) == [(1, 2), (2, 0), (2, 1)]
        assert copies_between(a, []) == copies_between([], b) == {}
        assert copies_between(a, b)[0, 2] == pytest.approx(1) and ALIKE < copies_between(a, b)[1, 2] < 1

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


@pytest.mark.long
@pytest.mark.timeout(900)
def test_real_films_of_two_collections_and_their_copies_in_eight_ways(real, shared):
    """No false pair among 907 films of 524 patients; all copies found. Prints what docs/experiments.md says."""
    films = real + [read_film(path).pixels for path in sorted((shared / "backgrounds/images").glob("*.jpg"))]
    signatures = [signature(film) for film in films]
    details = np.stack([fine_detail(kept) for kept in signatures])
    flat, nearest = details.reshape(len(films), -1), []
    for symmetry in SYMMETRIES:
        products = np.stack([symmetry(one) for one in details]).reshape(len(films), -1) @ flat.T
        nearest.append(float(products[~np.eye(len(films), dtype=bool)].max()))
    print(f"{len(films)} different films: detail correlates up to", [round(value, 3) for value in nearest])
    assert max(nearest) < 0.7 and copies(signatures) == []
    for quality, scale in ((95, 1.0), (30, 1.0), (60, 0.5), (50, 0.37), (90, 1.6)):
        found, least = 0, 1.0
        for way in range(8):
            made = [signature(again(np.ascontiguousarray(turned(film, way)), quality, scale)) for film in films]
            pairs = copies_between(signatures, made)
            assert {i for i, _ in pairs} >= {j for _, j in pairs} and all(i == j for i, j in pairs)
            found += len(pairs)
            for detail, other in zip(details, map(fine_detail, made), strict=True):
                least = min(least, max(float((symmetry(detail) * other).sum()) for symmetry in SYMMETRIES))
        print(
            f"JPEG {quality}, size {scale}: {found} of {8 * len(films)} copies found, the least correlates {least:.3f}"
        )
        assert found == 8 * len(films)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_30000_signatures(noise_film):
    """Chest-like: much the same from film to film."""
    shared_part = cv2.GaussianBlur(noise_film(99, 64, 64), (0, 0), 10).astype(np.float32)
    rng, signatures = np.random.default_rng(0), []
    for _ in range(30_000):
        broad = cv2.resize(rng.normal(0, 12, (5, 5)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
        signatures.append(np.clip(shared_part + broad + rng.normal(0, 6, (64, 64)), 0, 255).astype(np.uint8))
    planted = [(100 * k, 30_000 + k) for k in range(200)]
    signatures += [np.ascontiguousarray(SYMMETRIES[k % 8](signatures[100 * k])) for k in range(200)]
    assert copies(signatures) == planted
