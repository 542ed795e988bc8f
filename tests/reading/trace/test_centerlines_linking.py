"""Links: straight on through a junction, across a gap, the plain before the faint, nothing from a tip."""

import numpy as np
import pytest

from cxrlines.reading.trace.centerlines import link, turn_between
from cxrlines.reading.trace.skeleton import Pose, Segment

SCALE = 160.0


def segment(*points, nodes=(-1, -1)):
    """A segment through corners, a point every px or so."""
    corners = np.array(points, float)
    along = np.concatenate([[0], np.hypot(*np.diff(corners, axis=0).T).cumsum()])
    at = np.linspace(0, along[-1], round(along[-1]) + 1)
    return Segment(np.stack([np.interp(at, along, corners[:, k]) for k in (0, 1)], 1), list(nodes))


def pairs(links):
    """Each link once; `links` has it both ways."""
    assert all(links[other] == one for one, other in links.items())
    return sorted((one, other) for one, other in links.items() if one < other)


def test_lines_that_cross_go_straight_on_whatever_their_order():
    cross = [
        segment((20, 80), (80, 80), nodes=(-1, 0)),
        segment((80, 20), (80, 80), nodes=(-1, 0)),
        segment((80, 80), (140, 80), nodes=(0, -1)),
        segment((80, 80), (80, 140), nodes=(0, -1)),
    ]
    assert pairs(link(cross, np.full(4, 0.9), SCALE)) == [((0, 1), (2, 0)), ((1, 1), (3, 0))]
    assert pairs(link(cross[::-1], np.full(4, 0.9), SCALE)) == [((0, 0), (2, 1)), ((1, 0), (3, 1))]


@pytest.mark.parametrize(
    ("far", "linked"), [((80, 90), True), ((95, 84), True), ((120, 70), False), ((80, 115), False)]
)
def test_a_gap_is_bridged_that_is_short_and_straight_on(far, linked):
    pieces = [segment((80, 10), (80, 70)), segment(far, (far[0], far[1] + 40))]
    assert bool(link(pieces, np.full(2, 0.9), SCALE)) == linked


def test_no_gap_is_bridged_from_a_tip():
    pieces = [segment((80, 10), (80, 70)), segment((80, 90), (80, 150))]
    pieces[0].tipped[1] = True
    assert link(pieces, np.full(2, 0.9), SCALE) == {}


def catheter_beside_a_rib():
    """A catheter in two pieces with a gap, where a rib's edge lies with its own two pieces, nearer to either end."""
    return [
        segment((10, 135), (35, 74), (61, 58)),
        segment((81, 54), (105, 70), (110, 126)),
        segment((69, 56), (79, 54), nodes=(0, -1)),
        segment((69, 56), (69, 90), nodes=(0, -1)),
    ]


def test_plain_pieces_are_linked_before_faint_ones_lead_them_astray():
    pieces = catheter_beside_a_rib()
    assert ((0, 1), (1, 0)) in pairs(link(pieces, np.array([0.9, 0.9, 0.3, 0.3]), SCALE))
    assert ((0, 1), (1, 0)) not in pairs(link(pieces, np.full(4, 0.9), SCALE)), "as plain, the nearest comes first"


def test_a_faint_branch_at_a_junction_does_not_keep_a_line_from_going_on():
    # The straight way on is the branch; the catheter turns down behind a gap.
    pieces = [
        segment((20, 60), (70, 60), nodes=(-1, 0)),
        segment((70, 60), (140, 60), nodes=(0, -1)),
        segment((84, 68), (96, 140)),
    ]
    assert pairs(link(pieces, np.array([0.9, 0.2, 0.9]), SCALE)) == [((0, 1), (2, 0))]
    assert pairs(link(pieces, np.array([0.9, 0.9, 0.9]), SCALE)) == [((0, 1), (1, 0))]


def test_a_turn_is_none_straight_on_and_half_a_circle_back():
    east, west, north = np.array([1.0, 0.0]), np.array([-1.0, 0.0]), np.array([0.0, -1.0])
    here, there = np.array([10.0, 10.0]), np.array([30.0, 10.0])
    assert turn_between(Pose(here, east), Pose(there, west)) == (20.0, 0.0)
    assert turn_between(Pose(here, west), Pose(there, east))[1] == pytest.approx(180)
    assert turn_between(Pose(here, north), Pose(there, west))[1] == pytest.approx(90)
    assert turn_between(Pose(here, None), Pose(there, None)) == (20.0, 0.0)
