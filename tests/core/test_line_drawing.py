"""Lines drawn into images: width, place, order."""

from itertools import pairwise

import numpy as np
import pytest

from cxrlines.core import line_drawing
from cxrlines.core.line_drawing import covered, draw_lines, draw_squares, line_mask


def share_by_hand(points: np.ndarray, shape: tuple[int, int], thickness: float) -> np.ndarray:
    """(h, w) what a polyline covers, from each pixel's distance to each of its segments."""
    y, x = np.indices(shape)
    nearest = np.full(shape, np.inf)
    for (ax, ay), (bx, by) in pairwise([points[0], *points]):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-30), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
    return np.clip(max(thickness, 1) / 2 + 0.5 - nearest, 0, 1) * min(thickness, 1)


def any_lines(rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, int], float]:
    """Lines on a small film and off it, in half of the cases with points at whole pixels or one after the other."""
    height, width = (int(side) for side in rng.integers(1, 70, 2))
    spread, middle = rng.choice([4, 30, 200]), (width / 2, height / 2)
    lines = [rng.normal(0, 1, (int(rng.integers(1, 9)), 2)) * spread + middle for _ in range(int(rng.integers(0, 4)))]
    if rng.random() < 0.5:
        lines = [np.repeat(np.rint(line), 2, axis=0) for line in lines]
    return lines, (height, width), float(rng.choice([0.3, 1, 1.5, 2.3, 4, 9.5]))


@pytest.mark.parametrize("seed", range(60))
def test_is_what_is_drawn_by_hand(seed, monkeypatch):
    lines, shape, thickness = any_lines(np.random.default_rng(seed))
    by_hand = [share_by_hand(line, shape, thickness) for line in lines]
    mask = line_mask(lines, shape, thickness)
    np.testing.assert_allclose(mask, 255 * np.max([np.zeros(shape), *by_hand], axis=0), atol=0.501)
    film = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    colours = [(250, 0, 60 * i) for i in range(len(lines))]
    expected = film
    for share, colour in zip(by_hand, colours, strict=True):
        expected = np.rint(expected + share[:, :, None] * (np.array(colour) - expected))
    drawn = draw_lines(film, list(zip(lines, colours, strict=True)), thickness)
    assert np.abs(drawn - expected).max(initial=0) <= 1
    # However few pixels are looked at together.
    monkeypatch.setattr(line_drawing, "AT_ONCE", 20)
    assert (line_mask(lines, shape, thickness) == mask).all()
    assert (np.diff(covered(lines, shape, thickness).lines) >= 0).all()


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
