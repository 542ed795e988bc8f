"""Polylines measured."""

import numpy as np
import pytest

from cxrlines.core.polyline import lengths, on_film, resample

CORNER = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]])


def test_lengths_add_up():
    assert lengths(CORNER).tolist() == [0, 5, 11]


def test_resampling_keeps_ends_and_stays_on_the_line():
    dense = resample(CORNER, 0.5)
    assert dense[0].tolist() == [0, 0] and dense[-1].tolist() == [3, 10]
    assert np.diff(lengths(dense)).max() <= 0.51
    on_first, on_second = np.isclose(dense[:, 1] * 3, dense[:, 0] * 4), np.isclose(dense[:, 0], 3)
    assert (on_first | on_second).all()


@pytest.mark.parametrize(
    ("point", "inside"), [((-0.5, 9.5), True), ((19.5, -0.5), True), ((19.51, 3), False), ((3, 9.51), False)]
)
def test_a_film_reaches_half_a_pixel_beyond_its_outer_centres(point, inside):
    assert on_film(point, (10, 20)) is inside
