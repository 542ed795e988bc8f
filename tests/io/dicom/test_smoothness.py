"""How often values leap, and whether they run on below 0."""

import numpy as np
import pytest

from cxrlines.io.dicom.smoothness import bytes_swapped, leaps, misordered, run_on_below_0
from cxrlines.lab.intact_films import picture

FILM = picture(np.random.default_rng(0), 90, 112, 12)


def test_values_leap_by_the_wrong_sign_alone():
    words = (FILM.astype(np.int16) - 2048).view(np.uint16)
    for high_bit in (11, 15):  # of the sign extended, and of the highest bits
        placed = words << (high_bit - 11)
        assert leaps(placed, 12, high_bit, True) == 0 < leaps(placed, 12, high_bit, False)
    assert leaps(FILM, 12, 11, False) == 0 < leaps(FILM, 12, 11, True)


@pytest.mark.parametrize("low", [300, 2048, 3900])
def test_signed_values_run_on_below_0(low):
    values = FILM.astype(np.int16) - low
    assert run_on_below_0(values.view(np.uint16), 16, 15)
    assert run_on_below_0(values.view(np.uint16) & 2**14 - 1, 14, 13)


def test_unsigned_values_do_not():
    assert not run_on_below_0(FILM + 200, 16, 15)
    lettered = FILM // 2
    lettered[::3, ::5] = 4090
    assert not run_on_below_0(lettered, 12, 11)


def test_of_borders_alone_nothing_is_said():
    for word in (0, 2**11, 2**12 - 1):
        border = np.full((8, 8), word, np.uint16)
        assert leaps(border, 12, 11, True) == 0 and not run_on_below_0(border, 12, 11)


@pytest.mark.parametrize("bits", [12, 16])
def test_the_order_of_bytes_is_that_of_the_smoother_film(bits):
    film = picture(np.random.default_rng(0), 90, 112, bits)
    assert bytes_swapped(film.byteswap()) and not bytes_swapped(film)


def test_films_of_8_bits_in_words_or_of_a_few_px_have_no_order():
    few = np.random.default_rng(0).integers(0, 256, (90, 112)).astype(np.uint16)
    small = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    for film in (few, small, np.zeros((90, 112), np.uint16)):
        assert not bytes_swapped(film) and not bytes_swapped(film.byteswap())


def test_gray_in_three_colours_says_how_they_lie():
    gray = picture(np.random.default_rng(0), 90, 112, 8).astype(np.uint8)
    rgb = np.dstack([gray] * 3)
    by_plane = np.moveaxis(rgb.reshape(-1).reshape(3, 90, 112), 0, -1)
    assert misordered(by_plane, rgb) and not misordered(rgb, by_plane)
