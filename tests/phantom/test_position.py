"""The state of a device follows from its geometry: at each limit, on either side of it, in any pose of the film."""

from itertools import pairwise

import numpy as np
import pytest

from cxrlines.core.polyline import on_film
from cxrlines.phantom.position import Landmarks, state_of
from cxrlines.task import Device, State

SHAPE = (900, 900)
MM = 0.5  # 20 px a cm
CARINA = np.array([440.0, 360.0])
LAYOUT = {  # cm from the carina
    "carina": (0, 0),
    "vein_confluence": (-2.0, -3.0),
    "cavo_atrial": (-2.5, 4.0),
    "gastro_oesophageal": (2.0, 12.0),
    "dome_right": (-7, 11),
    "dome_left": (7, 12),
    "midline_upper": (0, -9),
    "midline_lower": (0, 11),
}


def px(points, turn=0.0, mm=MM):
    c, s = np.cos(turn), np.sin(turn)
    return np.asarray(points, float) @ np.array([[c, s], [-s, c]]) * (10 / mm) + CARINA


def state(device, points, turn=0.0, mm=MM, shape=SHAPE):
    landmarks = Landmarks(**{name: px(at, turn, mm) for name, at in LAYOUT.items()})
    return state_of(device, px(points, turn, mm), landmarks, mm, shape)


def ett(height):
    return [(0, -15), (0, -12), (0, -height)]


def ngt(beyond):
    """Down the oesophagus through the junction, then straight down for `beyond` cm; negative ends above it."""
    return (
        [(0.5, -15), (0.5, 0), (2.0, 8), (2.0, 12 + beyond)]
        if beyond < 0
        else [(0.5, -15), (2.0, 8), (2.0, 12), (2.0, 12 + beyond)]
    )


def cvc(depth):
    """Down the right internal jugular vein to `depth` cm below the cavo-atrial junction."""
    tip = 4.0 + depth
    if tip < -3:
        return [(-4, -15), (-4, -9), (-2.0, tip)]
    return [(-4, -15), (-4, -9), (-2.0, -3.0), (-2.0 - 0.5 * min(1, (tip + 3) / 7), tip)]


N, B, A, INC = State.NORMAL, State.BORDERLINE, State.ABNORMAL, State.INCOMPLETE


@pytest.mark.parametrize(
    ("height", "wanted"),
    [(2, N), (1.99, B), (6, N), (6.01, B), (4, N), (0.5, B), (0.49, A), (0, A), (-1, A), (10, B), (10.01, A)],
)
def test_ett_by_height_above_the_carina(height, wanted):
    assert state(Device.ETT, ett(height)) is wanted


def test_ett_in_a_main_bronchus_is_abnormal():
    for side in (-1, 1):
        assert state(Device.ETT, [(0, -15), (0, 0), (side * 2.0, 2.0)]) is A


@pytest.mark.parametrize(
    ("beyond", "wanted"), [(10, N), (12, N), (9.99, B), (5, B), (0, B), (-0.01, A), (-3, A), (-10, A)]
)
def test_ngt_by_length_beyond_the_junction(beyond, wanted):
    assert state(Device.NGT, ngt(beyond)) is wanted


def test_ngt_length_is_along_the_tube_not_in_depth():
    curl = [*ngt(0), (5, 13), (7, 16), (4, 19), (0, 18)]
    assert curl[-1][1] - 12 < 10
    assert state(Device.NGT, curl) is N


def test_ngt_with_its_tip_off_the_film_is_incompletely_imaged():
    edge = (SHAPE[0] - 0.5 - CARINA[1]) * MM / 10 - 12  # cm of tube beyond the junction to the lower edge
    assert state(Device.NGT, ngt(edge)) is N
    assert state(Device.NGT, ngt(edge + 0.01)) is INC
    assert state(Device.NGT, [*ngt(2), (30, 14)]) is INC


def test_ngt_in_a_bronchus_or_coiled_is_abnormal():
    assert state(Device.NGT, [(0.5, -15), (0, 0), (-2, 2), (-5, 9), (-6, 14)]) is A
    assert state(Device.NGT, [(0.5, -15), (0.5, 5), (1.2, 5), (1.2, -4)]) is A
    # A coil that then goes on into the stomach is no good position either: it rises 3 cm before the junction.
    assert state(Device.NGT, [(0.5, -15), (0.5, 5), (1.2, 5), (1.2, 2), (1.8, 2), (2, 12), (2, 23)]) is A
    assert state(Device.NGT, [(0.5, -15), (0.5, 5), (1.2, 5), (1.2, 3), (1.8, 3), (2, 12), (2, 23)]) is N


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [(-3, N), (-3.01, B), (0, N), (1, N), (1.01, B), (3, B), (3.01, A), (-5, B), (-7, B), (-7.01, A), (-9, A)],
)
def test_cvc_by_depth_below_the_cavo_atrial_junction(depth, wanted):
    assert state(Device.CVC, cvc(depth)) is wanted


@pytest.mark.parametrize(
    "path",
    [
        [(-9, -4), (-6, -6.5), (-4, -7), (-4.2, -12)],  # up the neck
        [(-9, -4), (-6, -6.5), (-3, -5), (2, -5), (8, -6)],  # across to the other side
        [(-4, -15), (-4, -9), (-2, -3), (-2, 1), (2, 1.5)],  # out of the vena cava
        [(-9, -4), (-6, -6.5), (-4.5, -6)],  # short
    ],
)
def test_cvc_in_a_wrong_vein_is_abnormal(path):
    assert state(Device.CVC, path) is A


def test_cvc_corridor_and_loop_at_their_limits():
    down = [(-4, -15), (-4, -9), (-2, -3)]
    assert state(Device.CVC, [*down, (-2.5 + 1.6, 4.0)]) is N
    assert state(Device.CVC, [*down, (-2.5 + 1.61, 4.0)]) is A
    assert state(Device.CVC, [*down, (-2.5, 4.0), (-2.0, 3.0)]) is N
    assert state(Device.CVC, [*down, (-2.5, 4.0), (-2.0, 2.99)]) is A


def test_a_catheter_from_the_arm_may_rise_before_it_enters_the_vena_cava():
    arm = [(-19, 6), (-17, -1), (-10, -7), (-3, -5), (-2, -3), (-2.5, 4)]
    assert state(Device.CVC, arm) is N


def test_swan_ganz_is_present_wherever_it_lies():
    assert state(Device.SWAN, [(0, 0), (30, 30)]) is State.PRESENT


@pytest.mark.parametrize("turn", [-0.3, 0.1])
@pytest.mark.parametrize("mm", [0.14, 0.5, 1.1])
def test_tilt_and_spacing_of_the_film_change_nothing(turn, mm):
    for device, make, limits in (
        (Device.ETT, ett, (0.5, 2, 6, 10)),
        (Device.CVC, cvc, (-7, -3, 1, 3)),
        (Device.NGT, ngt, (0, 10)),
    ):
        for limit in limits:
            for value in (limit - 0.02, limit, limit + 0.02):
                big = (10**5, 10**5)
                assert state(device, make(value), turn, mm, big) is state(device, make(value), shape=big), (
                    device,
                    value,
                )


def test_denser_sampling_of_the_same_path_changes_nothing():
    for device, path in (
        (Device.NGT, ngt(10)),
        (Device.NGT, ngt(-0.01)),
        (Device.CVC, cvc(1)),
        (Device.CVC, cvc(-3.01)),
    ):
        corners = np.array(path, float)
        dense = np.concatenate([np.linspace(a, b, 7)[:-1] for a, b in pairwise(corners)])
        assert state(device, np.vstack([dense, corners[-1:]])) is state(device, path)


def test_on_film_counts_the_outer_edges():
    assert on_film((-0.5, 899.5), SHAPE)
    assert not on_film((-0.51, 5), SHAPE)
    assert not on_film((5, 899.51), SHAPE)


def test_bad_input_says_what_is_wrong():
    with pytest.raises(
        ValueError, match=r"path: needs an \(n, 2\) array of at least two \[x, y\] points, got shape \(1, 2\)"
    ):
        state(Device.ETT, [(0, 0)])
    landmarks = Landmarks(**{name: px(at) for name, at in LAYOUT.items()})
    with pytest.raises(ValueError, match="mm_per_px: needs a positive spacing in mm, got 0"):
        state_of(Device.ETT, px(ett(4)), landmarks, 0, SHAPE)
