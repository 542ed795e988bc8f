"""Lines drawn into images: width, place, order."""

import numpy as np
import pytest

from cxrlines.core.line_drawing import draw_lines, draw_squares, line_mask


@pytest.mark.parametrize("thickness", [0.5, 1.0, 2.0, 3.3, 8.0])
@pytest.mark.parametrize("y", [20.0, 20.25, 20.5])
def test_is_of_its_width_and_in_its_place(thickness, y):
    across = line_mask([np.array([[-30.0, y], [90.0, y]])], (41, 60), thickness)[:, 30] / 255
    assert across.sum() == pytest.approx(thickness, abs=0.02)
    assert (across * np.arange(41)).sum() / across.sum() == pytest.approx(y, abs=0.15)


def test_a_disc_has_its_area():
    mask = line_mask([np.array([[20.3, 19.8]])], (41, 41), 12.0) / 255
    assert mask.sum() == pytest.approx(np.pi * 36, rel=0.02)


def test_long_segments_are_drawn_as_short_ones():
    ends = np.array([[3.0, 5.0], [190.0, 140.0]])
    dense = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 57)[:, None]
    assert np.abs(line_mask([ends], (150, 200), 3).astype(int) - line_mask([dense], (150, 200), 3)).max() <= 1


def test_leaves_its_input_alone_and_all_else_untouched():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    before = image.copy()
    points = np.array([[10.0, 10.0], [40.0, 30.0]])
    drawn = draw_lines(image, [(points, (255, 0, 10))], 2.0)
    assert np.array_equal(image, before)
    assert tuple(drawn[20, 25]) == (255, 0, 10)
    mask = line_mask([points], (60, 80), 2.0)
    assert np.array_equal(drawn[mask == 0], before[mask == 0])


def test_later_lines_lie_over_earlier_ones():
    cross = [(np.array([[0.0, 10.0], [20.0, 10.0]]), 100), (np.array([[10.0, 0.0], [10.0, 20.0]]), 200)]
    drawn = draw_lines(np.zeros((21, 21), np.uint8), cross, 3.0)
    assert drawn[10, 10] == 200 and drawn[10, 2] == 100


def test_points_off_the_film_are_allowed():
    blank = np.zeros((20, 20), np.uint8)
    assert not draw_lines(blank, [(np.array([[-900.0, 5.0], [-50.0, 9e5]]), 255)], 2.0).any()
    through = draw_lines(blank, [(np.array([[-900.0, 10.0], [900.0, 10.0]]), 255)], 1.0)
    assert (through[10] == 255).all()


@pytest.mark.parametrize("thickness", [0, -1.0, float("nan")])
def test_a_line_has_a_width(thickness):
    with pytest.raises(ValueError, match="positive number of px"):
        line_mask([np.zeros((2, 2))], (5, 5), thickness)


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_squares_are_those_drawn_pixel_by_pixel(side):
    rng = np.random.default_rng(side)
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    lines = [(rng.uniform(-10, 50, (6, 2)), (255, 0, 9)), (np.array([[0.0, 0.0], [39.4, 29.4]]), (7, 8, 9))]
    expected = image.copy()
    for points, colour in lines:
        for x, y in points:
            for row in range(30):
                for column in range(40):
                    if -side / 2 < column - x <= side / 2 and -side / 2 < row - y <= side / 2:
                        expected[row, column] = colour
    before = image.copy()
    assert (draw_squares(image, lines, side) == expected).all()
    assert (image == before).all()
