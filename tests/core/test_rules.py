"""Position rules at their limits; the phantom's states, which know every landmark, are among those left open."""

import numpy as np
import pytest

from cxrlines.core.rules import (
    CAVO_ATRIAL,
    GASTRO_OESOPHAGEAL,
    SVC_ORIGIN,
    cvc_states,
    ett_state,
    ett_states,
    ngt_states,
)
from cxrlines.phantom.position import Landmarks, state_of
from cxrlines.phantom.scene import make_scene
from cxrlines.task import STATE_OF, Device, State


@pytest.mark.parametrize(
    ("height", "state"),
    [
        (10.01, State.ABNORMAL),
        (10, State.BORDERLINE),
        (6.01, State.BORDERLINE),
        (6, State.NORMAL),
        (2, State.NORMAL),
        (1.99, State.BORDERLINE),
        (0.5, State.BORDERLINE),
        (0.49, State.ABNORMAL),
        (-3, State.ABNORMAL),
    ],
)
def test_limits_belong_to_the_better_state(height, state):
    assert ett_state(height) is state


@pytest.mark.parametrize(
    ("low", "high", "states"),
    [
        (1.72, 2.06, {State.BORDERLINE, State.NORMAL}),
        (2.0, 6.0, {State.NORMAL}),
        (1.9, 6.1, {State.BORDERLINE, State.NORMAL}),  # both ends are borderline
        (0.4, 10.1, {State.ABNORMAL, State.BORDERLINE, State.NORMAL}),
        (-1.0, 0.5, {State.ABNORMAL, State.BORDERLINE}),
        (7.0, 7.0, {State.BORDERLINE}),
    ],
)
def test_a_range_of_heights_has_every_state_within_it(low, high, states):
    assert (
        set(ett_states(low, high))
        == states
        == {ett_state(h) for h in np.linspace(low, high, 100_001)} | {ett_state(high)}
    )
    assert list(ett_states(low, high)) == [state for state in State if state in states]


def test_the_phantom_labels_tubes_by_this_rule():
    seen = set()
    for k in range(60):
        scene = make_scene([3, k], [3, k, 0], size=512, balance="even", site="a")
        for line in scene.lines:
            if line.placed.device is Device.ETT:
                down = scene.landmarks.midline_lower - scene.landmarks.midline_upper
                height = (scene.landmarks.carina - line.path[-1]) @ down / np.hypot(*down) * scene.view.mm_per_px / 10
                seen.add(STATE_OF[line.label])
                assert ett_state(height) is STATE_OF[line.label]
    assert seen == {State.NORMAL, State.BORDERLINE, State.ABNORMAL}


CARINA = np.array([100.0, 100.0])


def in_phantom(device, path, origin=-3.0, cavo_atrial=4.0, junction=12.0):
    """The phantom's state of a path in cm around the carina, at 10 mm a px; depths in cm below the carina."""
    places = (0, 0), (-2.5, origin), (-2.5, cavo_atrial), (1.5, junction), (-8, 9), (8, 10), (0, -20), (0, 10)
    landmarks = Landmarks(*(CARINA + place for place in places))
    return state_of(device, CARINA + np.array(path), landmarks, 10.0, (300, 300))


def test_a_catheter_s_true_state_is_left_open_wherever_its_landmarks_lie():
    rng = np.random.default_rng(0)
    decided = set()
    for _ in range(400):
        depth, origin, cavo_atrial = rng.uniform(-8, 14), rng.uniform(*SVC_ORIGIN), rng.uniform(*CAVO_ATRIAL)
        x = rng.choice([-2.5, 2.5])
        true = in_phantom(Device.CVC, [(x, -9), (x, depth)], origin, cavo_atrial)
        possible = cvc_states((depth, depth), (-x, -x))
        assert true in possible
        decided |= set(possible) if len(possible) == 1 else set()
        wider = cvc_states((depth - 0.5, depth + 1), (-x - 0.3, -x + 2))
        assert set(possible) <= set(wider), "what is less known leaves no fewer states open"
        assert list(wider) == [state for state in State if state in wider]
    assert decided == {State.ABNORMAL, State.BORDERLINE, State.NORMAL}


@pytest.mark.parametrize(
    ("below", "right", "states"),
    [
        (3.0, 2.0, "NORMAL"),
        (-1.0, 2.0, "BORDERLINE"),
        (-5.0, 2.0, "ABNORMAL"),
        (9.0, 2.0, "ABNORMAL"),
        (3.0, -1.1, "ABNORMAL"),
        (3.0, -0.9, "NORMAL"),
        (5.0, 2.0, "BORDERLINE NORMAL"),
        (3.0, 5.4, "NORMAL"),
        (3.0, 5.6, "ABNORMAL"),
        (-1.0, 14.0, "ABNORMAL"),
    ],
)
def test_a_catheter_by_its_depth_and_side(below, right, states):
    assert cvc_states((below, below), (right, right)) == tuple(State[name] for name in states.split())


def test_a_catheter_that_may_lie_beside_the_atrium_may_be_abnormal():
    assert cvc_states((2.4, 2.4), (2.0, 2.0)) == cvc_states((2.41, 2.41), (2.0, 2.0)) == (State.NORMAL,)
    assert cvc_states((3, 3), (5.0, 6.0)) == (State.ABNORMAL, State.NORMAL)
    assert cvc_states((3, 3), (-2.0, 6.0)) == (State.ABNORMAL, State.NORMAL)


def test_a_gastric_tube_s_true_state_is_left_open_wherever_the_junction_lies():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(400):
        junction, depth, across = rng.uniform(*GASTRO_OESOPHAGEAL), rng.uniform(-3, 28), rng.uniform(0, 14)
        across = across if depth > junction else 0.0
        path = [(1.5, -9.0), (1.5, depth), (1.5 + across, depth)]  # down the oesophagus, then to the left
        true = in_phantom(Device.NGT, path, junction=junction)
        beyond = [max(0.0, depth - limit) + (across if depth > limit else 0.0) for limit in GASTRO_OESOPHAGEAL[::-1]]
        possible = ngt_states((depth, depth), (beyond[0], beyond[1]), 1.5)
        assert true in possible
        seen.add(possible)
    assert {(State.ABNORMAL,), (State.NORMAL,)} <= seen


def test_a_gastric_tube_that_ends_in_the_chest_is_abnormal_and_one_far_beyond_normal():
    assert ngt_states((-2, 7.9), (0, 0), 0) == (State.ABNORMAL,)
    assert ngt_states((17, 18), (11, 19), 4) == (State.NORMAL,)
    assert ngt_states((9, 10), (0, 2), 0) == (State.ABNORMAL, State.BORDERLINE)
    assert ngt_states((17, 18), (4, 12), 0) == (State.BORDERLINE, State.NORMAL)


@pytest.mark.parametrize("beside", [4.1, np.inf])
def test_a_gastric_tube_beside_the_oesophagus_or_not_seen_there_may_be_in_the_lung(beside):
    for below, beyond in (((17, 18), (11, 19)), ((17, 18), (4, 12)), ((17, 18), (0, 2)), ((9, 10), (0, 2))):
        possible = ngt_states(below, beyond, beside)
        assert State.ABNORMAL in possible and len(possible) > 1, "its depth alone decides nothing"
        assert {*possible} == {State.ABNORMAL, *ngt_states(below, beyond, 0)}
