"""Faint ways: followed across gaps to their end, not where nothing is, not round and round."""

import numpy as np
import pytest

from cxrlines.core.heatmaps import KEYPOINT_SIGMA
from cxrlines.core.polyline import length
from cxrlines.reading.trace.following import extension
from cxrlines.reading.trace.lines import find_lines
from cxrlines.task import MAPS, Device, MapKind

SIDE = 160
UP = -np.pi / 2


def drawn(points, p):
    """A heatmap of probability `p` within 1 px of any of the points."""
    y, x = np.mgrid[:SIDE, :SIDE]
    near = np.min([(x - a) ** 2 + (y - b) ** 2 for a, b in points], axis=0)
    return np.where(near <= 1, p, 0).astype(np.float32)


def arch(first, last):
    """Points every px of the arch from (100, 100) up and over to the left, of radius 40, between two angles."""
    angles = np.radians(np.arange(first, last, 1.4))
    return np.stack([60 + 40 * np.cos(angles), 100 - 40 * np.sin(angles)], axis=1)


@pytest.mark.parametrize("p", [0.06, 0.2])
def test_a_faint_arch_is_followed_across_its_gap_to_its_end(p):
    way = extension(drawn([*arch(0, 80), *arch(92, 170)], p), np.array([100.0, 100.0]), UP)
    assert np.abs(np.hypot(*(way - (60, 100)).T) - 40).max() < 2.5
    assert np.hypot(*(way[-1] - arch(0, 170)[-1])) < 4
    assert np.hypot(*np.diff(way, axis=0).T) == pytest.approx(1.6)


@pytest.mark.parametrize("heat", [np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 0.02), drawn(arch(40, 46), 0.9)])
def test_nothing_is_followed_into_nothing_haze_or_a_speck(heat):
    assert extension(heat.astype(np.float32), np.array([100.0, 100.0]), UP).shape == (0, 2)


def test_a_ring_is_not_followed_all_round_and_the_map_stays():
    ring = drawn(arch(0, 360), 0.5)
    before = ring.copy()
    way = extension(ring, np.array([100.0, 100.0]), UP)
    assert 0.4 < length(way) / (80 * np.pi) < 0.65
    assert (ring == before).all()


def test_a_catheter_is_given_from_its_faint_entry_with_the_confidence_of_what_is_plain():
    """The vein is plain, the arm only as bright as what starts or goes on no centerline."""
    plain = [(100.0, y) for y in range(70, 131)]
    arm = [*(np.array(arch(0, 110)) - (0, 30)), *((46.3 - t, 32.4 + t / 2) for t in range(47))]
    maps = np.zeros((len(MAPS), SIDE, SIDE), np.float32)
    channel = MAPS.index((MapKind.LINE, Device.CVC))
    maps[channel] = drawn(plain, 0.95)
    y, x = np.mgrid[:SIDE, :SIDE]
    bell = np.exp(-((x - 100) ** 2 + (y - 130) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
    maps[MAPS.index((MapKind.TIP, Device.CVC))] = bell
    (alone,) = find_lines(maps)
    maps[channel] = np.maximum(maps[channel], drawn(arm, 0.07))
    (whole,) = find_lines(maps)
    assert length(alone.path) < 65
    assert whole.path[0, 0] < 1 and 52 < whole.path[0, 1] < 60
    assert whole.confidence == pytest.approx(alone.confidence, abs=0.01)
    assert whole.tip == pytest.approx(alone.tip, abs=0.1) and (whole.tip == whole.path[-1]).all()


@pytest.mark.parametrize(("last", "leaves"), [(130, False), (SIDE, True)])
@pytest.mark.parametrize("device", [Device.NGT, Device.CVC])
def test_a_gastric_tube_alone_is_followed_on_where_it_fades_before_its_tip(device, last, leaves):
    maps = np.zeros((len(MAPS), SIDE, SIDE), np.float32)
    channel = MAPS.index((MapKind.LINE, device))
    maps[channel] = drawn([(80.0, y) for y in range(70)], 0.95)
    (plain,) = find_lines(maps)
    maps[channel] = np.maximum(maps[channel], drawn([(80 + (y - 70) / 4, y) for y in range(73, last)], 0.08))
    (line,) = find_lines(maps)
    assert line.confidence == pytest.approx(plain.confidence, abs=0.01) and line.tip is None
    if device is Device.CVC:  # of which the plain end may well be the tip's
        assert (line.path == plain.path).all()
    else:
        assert line.leaves_film is leaves and (line.followed_to is None) is leaves
        assert line.path[-1] == pytest.approx((80 + (last - 70) / 4, last - 0.5), abs=4)
        assert np.abs(line.path[:40, 0] - 80).max() < 1
