"""Which found line is which true one: near enough, of one device, and of the least sum of distances."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cxrlines.core.findings import Line
from cxrlines.metrics.line_matching import assigned, match, share_along
from cxrlines.task import Device

SHAPE = (1000, 800)


def course(device, x=400.0):
    path = np.array([[x, -50.0], [x, 600.0]])
    return Line(device, path, path[-1])


def moved(line, by):
    return Line(line.device, line.path + by, line.tip + by)


def test_lines_match_within_two_percent_and_within_their_device():
    one = course(Device.CVC)
    assert match([one], [moved(one, (19, 0))], SHAPE) == [(0, 0)]
    assert match([one], [moved(one, (21, 0))], SHAPE) == []
    assert match([one], [replace(one, device=Device.SWAN)], SHAPE) == []
    # The nearest two are not a pair if that would leave the others alone.
    true = [course(Device.CVC, 400), course(Device.CVC, 412)]
    found = [course(Device.CVC, 411), course(Device.CVC, 425)]
    assert match(true, found, SHAPE) == [(0, 0), (1, 1)]
    assert match([], [one], SHAPE) == match([one], [], SHAPE) == []


@pytest.mark.parametrize("kind", ["any", "far apart", "ties"])
def test_pairs_are_those_of_the_least_sum(kind):
    rng = np.random.default_rng(0)
    for _ in range(200):
        costs = rng.random(rng.integers(0, 8, 2))
        costs = {"any": costs, "far apart": np.where(costs > 0.5, 1e3, costs), "ties": np.round(3 * costs)}[kind]
        pairs = assigned(costs)
        assert len(pairs) == min(costs.shape) == len({i for i, _ in pairs}) == len({j for _, j in pairs})
        least = costs[linear_sum_assignment(costs)].sum()
        assert sum(costs[pair] for pair in pairs) == pytest.approx(least, rel=1e-12, abs=1e-12)


def test_the_share_of_a_line_along_another():
    one = np.array([[400.0, 0.0], [400.0, 500.0]])
    beside = np.array([[410.0, 250.0], [410.0, 1500.0]])  # off the film from 1000 on
    assert share_along(one, one, SHAPE) == 1 and share_along(one, one + np.array([21, 0]), SHAPE) == 0
    assert share_along(one, beside, SHAPE) == pytest.approx(0.5, abs=0.05)
    assert share_along(one, one + np.array([900, 0]), SHAPE) == 0


def test_beyond_an_end_that_is_no_tip_nothing_counts_where_it_is_asked_for():
    down = np.array([[400.0, 0.0], [400.0, 300.0]])
    tip, faded = (Line(Device.NGT, down, *ends) for ends in ((down[-1],), (None, 1.0, down[-1])))
    longer = Line(Device.NGT, np.array([[405.0, 0.0], [405.0, 300.0], [500.0, 900.0]]), None)
    for true, asked, pairs in ((faded, True, [(0, 0)]), (faded, False, []), (tip, True, []), (tip, False, [])):
        assert match([true], [longer], SHAPE, as_far_as_marked=asked) == pairs
        backwards = replace(longer, path=longer.path[::-1])
        assert match([true], [backwards], SHAPE, as_far_as_marked=asked) == pairs
    # What is missing of the true line, or lies beside it, counts all the same; and what is before its first point.
    beside, short = longer.path + np.array([25, 0]), longer.path[1:]
    early = np.concatenate([[[405.0, 999.0], [700.0, 500.0]], longer.path])
    for path in (beside, short, early):
        assert match([faded], [replace(longer, path=path)], SHAPE, as_far_as_marked=True) == []


def test_what_matches_to_its_end_matches_as_far_as_marked_too():
    """Points of a found line beyond the mark's end may lie nearer to it than those beside the mark."""
    path = np.array([[400.0, 0.0], [400.0, 300.0]])
    faded = Line(Device.NGT, path, None, 1.0, path[-1])
    for course in ([[420, 47], [431, 147], [401, 285], [395, 318]], [[433, 36], [420, 172], [400, 302], [400, 323]]):
        found = Line(Device.NGT, np.array(course, float), None)
        for asked in (False, True):
            assert match([faded], [found], SHAPE, as_far_as_marked=asked) == [(0, 0)]
