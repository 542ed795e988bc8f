"""Maps drawn from lines and points, against a drawing by brute force."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial import cKDTree

from cxrlines.core.heatmaps import (
    ASIDE,
    BEYOND,
    KEYPOINT_SIGMA,
    LINE_WIDTH,
    UNKNOWN,
    DrawnLine,
    draw_maps,
    to_map,
)
from cxrlines.task import LABELS_OF, MAPS, Device, Landmark, MapKind, State, label_of

SIZE = 384
ETT, NGT, CVC, SWAN = (LABELS_OF[device][0] for device in Device)
NGT_STATES = (State.NORMAL, State.INCOMPLETE)
CARINA = np.array([180.0, 170.0])
LINES = [
    (ETT, np.array([[190.0, -20], [186, 60], [184, 132.4]])),
    (NGT, np.array([[200.0, -5], [196, 200], [240, 330], [225, 420]])),
    (CVC, np.array([[60.0, 90], [120, 80], [150, 100], [158, 190]])),
    (CVC, np.array([[310.0, 95], [230, 100], [161, 160]])),
]


def channel(kind: MapKind, what: Device | Landmark) -> int:
    return MAPS.index((kind, what))


def by_hand(lines, carina: np.ndarray, size: int) -> np.ndarray:
    """Each pixel of a map is the middle of 2 x 2 px of the film; distances are taken there, in px of the film."""
    side = size // 2
    middle = np.arange(side) * 2 + 0.5
    pixels = np.stack(np.meshgrid(middle, middle), axis=-1)
    thickness = max(1.5, side * LINE_WIDTH)
    out = np.zeros((len(MAPS), side, side))

    def bell(at):
        if not (at >= -0.5).all() or not (at <= size - 0.5).all():
            return np.zeros((side, side))
        raw = np.exp(-((np.linalg.norm(pixels - at, axis=-1) / (size * KEYPOINT_SIGMA)) ** 2) / 2)
        return raw / raw.max()

    for label, points in lines:
        device = next(d for d in Device if label in LABELS_OF[d])
        dense = np.concatenate([np.linspace(a, b, 1000) for a, b in pairwise(points)])
        near = cKDTree(dense).query(pixels)[0]
        line, tip = channel(MapKind.LINE, device), channel(MapKind.TIP, device)
        out[line] = np.maximum(out[line], np.clip(thickness / 2 + 0.5 - near / 2, 0, 1))
        out[tip] = np.maximum(out[tip], bell(points[-1]))
    out[channel(MapKind.LANDMARK, Landmark.CARINA)] = bell(carina)
    return out


def test_maps_are_what_is_drawn_by_hand():
    maps = draw_maps(LINES, [CARINA], SIZE)
    assert maps.shape == (len(MAPS), SIZE // 2, SIZE // 2) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, by_hand(LINES, CARINA, SIZE), atol=0.01)


def test_a_tube_whose_tip_is_off_the_film_has_a_line_and_no_tip():
    points = np.array([[200.0, -5], [196, 200], [240, 380]])
    seen, off = (draw_maps([(label_of(Device.NGT, state), points)], [CARINA], SIZE) for state in NGT_STATES)
    line, tip = channel(MapKind.LINE, Device.NGT), channel(MapKind.TIP, Device.NGT)
    np.testing.assert_array_equal(off[line], seen[line])
    assert seen[tip].max() == 1 and not off[tip].any()


@pytest.mark.parametrize("size", [(384, 256), (256, 384)])
def test_maps_of_a_film_that_is_not_square_are_those_of_the_square_around_it(size):
    lines = [(label, points * 0.6) for label, points in LINES]
    maps, square = draw_maps(lines, [CARINA * 0.6], size), draw_maps(lines, [CARINA * 0.6], max(size))
    height, width = (side // 2 for side in size)
    assert maps.shape == (len(MAPS), height, width) and not draw_maps([], [np.array([300.0, 300.0])], size).any()
    for one, other, (kind, _) in zip(maps, square[:, :height, :width], MAPS, strict=True):
        on = kind is MapKind.LINE or not one.any() or other.max() == 1  # tips beyond the film are none of it
        assert (one == other).all() if on else False


def test_a_map_of_a_device_that_is_not_there_is_empty():
    maps = draw_maps(LINES, [CARINA], SIZE)
    empty = {MAPS[i] for i in range(len(MAPS)) if not maps[i].any()}
    # The NGT leaves the film: its line is seen, its tip is not.
    assert empty == {(MapKind.LINE, Device.SWAN), (MapKind.TIP, Device.SWAN), (MapKind.TIP, Device.NGT)}
    assert maps[channel(MapKind.LINE, Device.NGT)][-1].max() > 0.5


def test_every_tip_and_landmark_on_the_film_is_a_peak_of_one_at_its_pixel():
    maps = draw_maps(LINES, [CARINA], SIZE)
    for kind, what, points in (
        (MapKind.TIP, Device.ETT, [LINES[0][1][-1]]),
        (MapKind.TIP, Device.CVC, [LINES[2][1][-1], LINES[3][1][-1]]),
        (MapKind.LANDMARK, Landmark.CARINA, [CARINA]),
    ):
        peaks = {tuple(place) for place in np.argwhere(maps[channel(kind, what)] >= 1)[:, ::-1]}
        assert peaks == {tuple(np.rint(to_map(point)).astype(int)) for point in points}


@pytest.mark.parametrize("at", [(-0.6, 50.0), (50.0, SIZE - 0.4), (np.nan, np.nan), (np.nan, 10.0)])
def test_a_point_off_the_film_or_unknown_leaves_no_trace(at):
    maps = draw_maps([(ETT, np.array([[100.0, 100.0], at]))] if np.isfinite(at).all() else [], [np.array(at)], SIZE)
    assert not maps[channel(MapKind.LANDMARK, Landmark.CARINA)].any()
    assert not maps[channel(MapKind.TIP, Device.ETT)].any()


@pytest.mark.parametrize("at", [(-0.5, -0.5), (SIZE - 0.5, 0.0), (SIZE - 1.0, SIZE - 1.0)])
def test_a_point_at_the_very_edge_is_on_the_film(at):
    assert draw_maps([], [np.array(at)], SIZE)[-1].max() == 1


def test_the_order_of_lines_and_what_was_given_do_not_matter():
    given_lines = [(label, points.copy()) for label, points in LINES]
    expected = draw_maps(given_lines, [CARINA], SIZE)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(LINES))
        assert (draw_maps([given_lines[i] for i in order], [CARINA], SIZE) == expected).all()
    assert all((now[1] == then[1]).all() for now, then in zip(given_lines, LINES, strict=True))


def test_landmarks_by_name_are_those_in_order_and_none_is_none():
    named = draw_maps(LINES, {"carina": CARINA}, SIZE)
    assert (named == draw_maps(LINES, [CARINA], SIZE)).all()
    nothing = draw_maps(LINES, {}, SIZE)
    assert not nothing[-1].any() and (nothing[:-1] == named[:-1]).all()


@pytest.mark.parametrize("size", [64, 384, 640])
def test_in_half_precision_they_are_the_same_rounded(size):
    lines = [(label, points * size / SIZE) for label, points in LINES]
    for shift in (0.0, 3.3, -170.0):
        mark = [CARINA * size / SIZE + shift]
        half = draw_maps(lines, mark, size, np.float16)
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, draw_maps(lines, mark, size).astype(np.float16))


def test_a_bell_is_drawn_as_far_as_half_precision_tells_it_from_nothing():
    at, side = np.array([101.3, 90.2]), SIZE // 2
    middle = np.arange(side) * 2 + 0.5
    distance = np.hypot(middle - at[0], (middle - at[1])[:, None])
    bell = np.exp(-((distance / (SIZE * KEYPOINT_SIGMA)) ** 2) / 2)
    drawn = draw_maps([], [at], SIZE, np.float16)[-1]
    expected = np.minimum(bell / bell.max(), 1 - 2.0**-11).astype(np.float16)
    expected[np.unravel_index(bell.argmax(), bell.shape)] = 1
    np.testing.assert_allclose(drawn, expected, rtol=2e-3, atol=6e-8)


def test_a_film_without_anything_has_empty_maps():
    assert not draw_maps([], [np.full(2, np.nan)], 64).any()


def test_a_map_pixel_is_the_middle_of_two_by_two_film_pixels():
    film = np.array([[2 * j, 2 * i] for j in (0, 3) for i in (0, 5)], float)
    block = np.stack([film + step for step in ([0, 0], [1, 0], [0, 1], [1, 1])]).mean(axis=0)
    np.testing.assert_allclose(to_map(block), film / 2)


@pytest.mark.parametrize("size", [64, 512, 1024, 2048])
def test_every_point_has_one_pixel_of_height_one_also_in_half_precision(size):
    edge = np.array([-0.5, -0.49, 0, 0.49, 0.5, 0.51, size - 1.0, size - 0.51, size - 0.5])
    corners = np.stack([edge, edge[::-1]], axis=1)
    between = np.stack([np.linspace(size / 3, size / 3 + 4, 17), np.full(17, size / 2 - 0.5)], axis=1)  # ties as well
    anywhere = np.random.default_rng(0).uniform(-0.5, size - 0.5, (100 if size < 1024 else 30, 2))
    for at in (*corners, *between, *anywhere):
        drawn = draw_maps([], [at], size)[-1]
        assert drawn.dtype == np.float32
        for kept in (drawn, drawn.astype(np.float16)):
            ((row, column),) = np.argwhere(kept >= 1)
            assert np.abs(to_map(at) - (column, row)).max() <= 0.5 + 1e-9
    tips = [(ETT, np.array([[0.0, 0.0], at])) for at in anywhere[:6]]
    drawn = draw_maps(tips, [np.full(2, np.nan)], size)[MAPS.index((MapKind.TIP, Device.ETT))]
    assert (drawn.astype(np.float16) == 1).sum() == len({tuple(np.floor(to_map(at) + 0.5)) for at in anywhere[:6]})


def test_ahead_of_an_end_that_is_no_tip_the_course_of_the_line_is_unknown():
    faded = DrawnLine(CVC, np.array([[60.0, 90], [120, 80], [150, 100], [158, 190]]), tip_seen=False)
    whole = draw_maps([faded._replace(tip_seen=True), LINES[3]], [CARINA], SIZE)
    maps = draw_maps([faded, LINES[3]], [CARINA], SIZE)
    line = channel(MapKind.LINE, Device.CVC)
    unknown = maps[line] == UNKNOWN
    assert (np.where(unknown, 0, maps[line]) == whole[line]).all()  # no pixel of a line is unknown
    assert (np.delete(maps, line, 0) == np.delete(whole, line, 0)).all()
    y, x = np.indices(unknown.shape)
    end, before = to_map(faded.points[-1]), to_map(faded.points[-2])
    from_end = np.stack([x, y], -1) - end
    away = np.linalg.norm(from_end, axis=-1)
    heading = (end - before) / np.linalg.norm(end - before)
    turned = np.degrees(np.arccos(np.clip(from_end @ heading / np.maximum(away, 1e-9), -1, 1)))
    expected = (turned <= ASIDE) & (away <= BEYOND * SIZE / 2) & (whole[line] == 0)
    assert unknown.any() and (unknown == expected).mean() > 0.9999


def test_nothing_is_unknown_ahead_of_an_end_off_the_film_or_of_a_single_point():
    for points in ([[100.0, 300], [110, 800]], [[100.0, 100]]):
        assert draw_maps([DrawnLine(NGT, np.array(points), tip_seen=False)], [CARINA], SIZE).min() == 0
