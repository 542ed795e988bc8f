"""The height rule of tracheal tubes, at its limits; the phantom's states follow the same one."""

import numpy as np
import pytest

from cxrlines.core.rules import ett_state, ett_states
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
