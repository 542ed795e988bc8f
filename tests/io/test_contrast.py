"""Contrast of films that do not say what is black and white, counts of values, and luma."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.core.notes import Code
from cxrlines.io import contrast as contrast_module
from cxrlines.io.contrast import GRID, contrast, count, film_within, luma, spread


def film(bits: int = 12, shape: tuple[int, int] = (400, 320), seed: int = 0) -> np.ndarray:
    """(h, w) uint16 of `bits` bits: dark lungs, bright mediastinum, noise; all values of a film well exposed."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    lungs = sum(np.exp(-(((rows - 0.5) / 0.3) ** 2) - ((columns - x) / 0.14) ** 2) for x in (0.3, 0.7))
    gray = 0.85 - 0.7 * lungs + np.random.default_rng(seed).normal(0, 0.02, shape)
    return (np.clip(gray, 0, 1) * (2**bits - 1)).astype(np.uint16)


def left_out(pixels: np.ndarray) -> float:
    """Share of a film that its contrast leaves out."""
    counts = count(pixels)
    values = np.flatnonzero(counts)
    return 1 - counts[values][film_within(values, counts[values])].sum() / pixels.size


def bordered(pixels: np.ndarray, value: int, share: float) -> np.ndarray:
    pixels = pixels.copy()
    pixels[:, : max(1, round(share * pixels.shape[1]))] = value
    return pixels


class TestOrdinaryFilms:
    """What is no border sets the contrast, as it did."""

    @pytest.mark.parametrize("bits", [9, 12, 14, 16])
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("change", ["none", "overexposed", "underexposed", "metal", "collimated", "air"])
    def test_nothing_is_left_out(self, bits, inverted, change):
        white = 2**bits - 1
        pixels = film(bits).astype(np.int64)
        match change:
            case "overexposed":
                pixels = np.clip(pixels * 2 - white // 3, 0, white)
            case "underexposed":
                pixels = np.clip(pixels * 2 - white, 0, white)
            case "metal":
                pixels[100:140, 100:140] = white
            case "collimated":
                pixels[:60] = 0
                pixels[:, -90:] = 0
            case "air":
                pixels[:, :40] = 0
        pixels = (white - pixels if inverted else pixels).astype(np.uint16)
        assert left_out(pixels) == 0
        values, counts = np.unique(pixels, return_counts=True)
        low, high, notes = contrast(values, counts)
        assert (low, high) == pytest.approx(np.percentile(pixels, (0.5, 99.5)), abs=2**bits / 256) and not notes

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
    def test_a_film_on_much_black(self, share):
        """Padding at 0 next to the film's own black: all of the film stays."""
        assert left_out(bordered(film(), 0, share)) == 0

    def test_one_value_two_values_few_values(self):
        for pixels in (np.full((9, 9), 7), np.eye(60) * 65535, np.arange(81).reshape(9, 9) // 40 * 60_000):
            assert left_out(pixels.astype(np.uint16)) == 0

    def test_real_films(self, shared):
        import cv2

        for path in sorted((shared / "cxr/images").glob("*.jpg"))[::20]:
            gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
            for pixels in (gray, 255 - gray, gray * 16, gray * 257):
                assert left_out(pixels) == 0
            assert left_out(bordered(gray * 8, 65535, 0.02)) > 0.01


class TestBorders:
    @pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.6])
    @pytest.mark.parametrize("value", [0, 65535])
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("bits", [8, 12, 14])
    def test_a_border_far_away_is_left_out(self, share, value, inverted, bits):
        base = film(bits)
        base = (2**bits - 1 - base if inverted else base) + (40_000 if value == 0 else 0)
        pixels = bordered(base.astype(np.uint16), value, share)
        assert left_out(pixels) == pytest.approx((pixels == value).mean())
        shown, notes = spread(pixels)
        border = pixels == value
        assert [note.code for note in notes] == [Code.BORDER_LEFT_OUT]
        assert np.abs(shown[~border].astype(int) - spread(pixels[~border][None])[0][0]).max() <= 1
        assert set(shown[border]) == {0}, "black, as padding is"

    def test_borders_at_both_ends_and_letters(self):
        pixels = bordered(film() + np.uint16(30_000), 0, 0.05)
        pixels[:, -12:] = 65535
        pixels[20:40, 50:80] = 61_000
        odd = (pixels == 0) | (pixels >= 60_000)
        assert left_out(pixels) == pytest.approx(odd.mean())
        shown = spread(pixels)[0]
        assert (shown[20:40, 50:80] == 255).all(), "letters stay"
        assert not shown[:, -12:].any()

    def test_a_border_with_blurred_edges(self):
        pixels = bordered(film(), 65535, 0.03)
        pixels[:, 10] = 40_000  # a column in between, as resampling leaves
        pixels[::3, 10] = 20_000
        shown, notes = spread(pixels)
        assert [note.code for note in notes] == [Code.BORDER_LEFT_OUT] and 60 < np.median(shown) < 250

    def test_dead_pixels_are_no_border(self):
        pixels = film()
        pixels[0, :3] = 65535
        assert spread(pixels)[1] == ()

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from([0.01, 0.03, 0.2]), st.sampled_from([10, 12]))
    def test_wherever_it_lies(self, seed, share, bits):
        rng = np.random.default_rng(seed)
        pixels, border = film(bits, seed=seed), np.zeros((400, 320), bool)
        for _ in range(max(1, round(share * 100))):
            top, left = rng.integers(0, 380), rng.integers(0, 256)
            border[top : top + 20, left : left + 64] = True
        pixels[border] = 65535
        assert left_out(pixels) == pytest.approx(border.mean())


class TestNumbers:
    @pytest.mark.parametrize("type_", [np.uint8, np.uint16])
    @pytest.mark.parametrize("exact", [2**24, 1000])
    def test_counts_are_those_of_numpy(self, type_, exact, monkeypatch):
        monkeypatch.setattr(contrast_module, "_EXACT", exact)
        codes = np.random.default_rng(0).integers(0, 2 ** (8 * type_().itemsize), (1100, 1300)).astype(type_)
        assert np.array_equal(count(codes), np.bincount(codes.ravel(), minlength=2 ** (8 * codes.itemsize)))
        assert np.array_equal(count(codes[:, ::3]), count(codes[:, ::3].copy()))

    def test_luma_keeps_gray(self):
        gray = np.arange(1500 * 1000).astype(np.uint16).reshape(1500, 1000)
        assert np.abs(luma(np.repeat(gray[..., None], 3, 2)).astype(int) - gray).max() <= 1

    @pytest.mark.parametrize("type_", [np.uint16, np.int16, np.int32])
    def test_depths_of_all_kinds(self, type_):
        pixels = film().astype(type_)
        assert np.array_equal(spread(pixels)[0], spread(film())[0])

    @pytest.mark.parametrize("type_", [np.int32, np.uint32])
    def test_of_more_than_16_bits_the_highest_count(self, type_):
        pixels = film().astype(np.int64) * 60_001 - (2**31 if type_ is np.int32 else 0)
        shown = spread((pixels % 2**32).astype(np.uint32).view(type_))[0]
        assert np.abs(shown.astype(int) - spread(film())[0]).max() <= 1

    def test_what_is_not_visible_takes_no_part(self):
        pixels = film()
        bordered, visible = pixels.copy(), np.ones(pixels.shape, bool)
        visible[:, : pixels.shape[1] // 2] = False
        bordered[~visible] = np.iinfo(pixels.dtype).max
        shown, notes = spread(bordered, visible)
        alone, _ = spread(pixels[:, pixels.shape[1] // 2 :])
        assert np.array_equal(shown[:, pixels.shape[1] // 2 :], alone) and not notes

    def test_the_grid_is_that_of_the_percentiles(self):
        assert GRID % 200 == 0  # half a percent is a whole number of its steps
