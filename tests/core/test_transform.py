"""Affine: there and back, one after the other, at another size."""

from typing import Annotated

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from cxrlines.core.transform import Affine, Sides, Size, height_width

TURNED = Affine(((0.0, -0.5, 90.0), (0.4, 0.1, -7.0)))
POINTS = np.random.default_rng(0).uniform(-50, 3000, (20, 2))


def test_to_film_is_the_inverse_of_from_film() -> None:
    assert TURNED.to_film(TURNED.from_film(POINTS)) == pytest.approx(POINTS)
    assert TURNED.from_film(TURNED.to_film(POINTS)) == pytest.approx(POINTS)


def test_from_film_is_the_matrix_on_x_y_1() -> None:
    assert TURNED.from_film(np.array([[10, 20]])) == pytest.approx(np.array([[80.0, -1.0]]))
    assert TURNED.from_film(np.zeros((0, 2))).shape == (0, 2)


def test_after_applies_the_first_map_first() -> None:
    shift = Affine(((1.0, 0.0, -12.0), (0.0, 1.0, 30.0)))
    assert TURNED.after(shift).from_film(POINTS) == pytest.approx(TURNED.from_film(shift.from_film(POINTS)))
    assert TURNED.after(shift).to_film(POINTS) == pytest.approx(shift.to_film(TURNED.to_film(POINTS)))


def test_at_another_size_keeps_pixel_centres_where_resizing_puts_them() -> None:
    same = Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    ramp = np.tile(np.arange(64.0), (64, 1))
    halved = ramp.reshape(32, 2, 32, 2).mean((1, 3))
    at = same.at(64, 32)
    assert at.to_film(np.array([[5, 7]]))[0, 0] == pytest.approx(halved[7, 5])
    assert at.scale == pytest.approx((0.5, 0.5))


def test_of_an_array_is_equal_and_hashable() -> None:
    assert Affine.of(np.array(TURNED.matrix)) == TURNED
    assert hash(Affine.of(np.array(TURNED.matrix))) == hash(TURNED)


def test_resizing_stretches_each_axis_by_its_own_ratio():
    place = Affine(((1, 0, 0), (0, 1, 0))).at((80, 40), (40, 60))
    corners = np.array([[-0.5, -0.5], [39.5, 79.5], [19.5, 39.5]])
    np.testing.assert_allclose(place.from_film(corners), [[-0.5, -0.5], [59.5, 39.5], [29.5, 19.5]])


def test_sizes_are_numbers_or_pairs():
    sizes = TypeAdapter(Annotated[Size, Sides(32, 4096)])
    assert [sizes.validate_python(given) for given in (64, "64", [64, 64], [96, 64])] == [64, 64, 64, (96, 64)]
    assert sizes.dump_python((96, 64), mode="json") == [96, 64] and sizes.dump_python(64) == 64
    assert (height_width(64), height_width((96, 64))) == ((64, 64), (96, 64))
    for wrong in (31, [64], [64, 64, 64], [64, 31], [64, 4097], "wide", [64.5, 64], None):
        with pytest.raises(ValidationError):
            sizes.validate_python(wrong)
