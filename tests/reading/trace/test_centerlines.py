"""Courses: through crossings, across gaps, along a shared way, on the ridge."""

import numpy as np

from cxrlines.core.line_drawing import line_mask
from cxrlines.core.polyline import lengths
from cxrlines.reading.trace.centerlines import refine, sample, trace

NO_TIPS = np.zeros((0, 2))


def drawn(*lines, width=2.0):
    return line_mask([np.array(line, float) for line in lines], (160, 160), width).astype(np.float32) / 255


def traced(line_map, tips):
    return [course.points for course in trace(line_map, tips, may_share=True)]


def ends(course):
    return sorted(np.round(course[[0, -1]] / 10).astype(int).tolist())


def test_lines_that_cross_go_straight_on():
    courses = traced(drawn([(20, 20), (140, 120)], [(20, 110), (140, 40)]), NO_TIPS)
    assert sorted(ends(c) for c in courses) == [[[2, 2], [14, 12]], [[2, 11], [14, 4]]]


def test_gaps_are_bridged_straight_on_and_not_around_a_corner():
    (course,) = traced(drawn([(80, 10), (80, 70)], [(82, 90), (84, 150)]), NO_TIPS)
    assert ends(course) == [[8, 1], [8, 15]]
    assert len(trace(drawn([(80, 10), (80, 70)], [(100, 60), (150, 60)]), NO_TIPS, may_share=True)) == 2


def test_no_gap_is_bridged_from_a_tip():
    pieces = drawn([(80, 10), (80, 70)], [(80, 90), (80, 150)])
    assert len(trace(pieces, np.array([[80.0, 70.0]]), may_share=True)) == 2


def test_two_lines_that_join_share_the_rest_of_the_way_to_the_tip():
    film = drawn([(40, 10), (80, 60), (80, 140)], [(120, 10), (80, 60), (80, 140)])
    courses = traced(film, np.array([[80.0, 140.0]]))
    assert sorted(ends(c) for c in courses) == [[[4, 1], [8, 14]], [[8, 14], [12, 1]]]


def test_a_line_that_comes_straight_towards_another_still_goes_to_the_tip():
    # Their straightest link would join the two entries and leave the tip alone.
    film = drawn([(10, 58), (80, 62), (80, 140)], [(150, 58), (80, 62), (80, 140)])
    courses = traced(film, np.array([[80.0, 140.0]]))
    assert sorted(ends(c) for c in courses) == [[[1, 6], [8, 14]], [[8, 14], [15, 6]]]


def test_a_line_that_ends_short_of_another_shares_its_way_across_the_gap():
    film = drawn([(40, 10), (72, 50)], [(120, 10), (80, 60), (80, 140)])
    courses = traced(film, np.array([[80.0, 140.0]]))
    assert sorted(ends(c) for c in courses) == [[[4, 1], [8, 14]], [[8, 14], [12, 1]]]
    other = traced(film, np.array([[72.0, 50.0], [80.0, 140.0]]))[1]  # not if it ends in a tip there
    assert ends(other) == [[4, 1], [7, 5]]


def test_what_a_line_shares_is_not_its_own():
    film = drawn([(40, 10), (80, 60), (80, 140)], [(120, 10), (80, 60)])
    one, other = trace(film, np.array([[80.0, 140.0]]), may_share=True)
    whole = lengths(one.points)[-1]
    assert abs(lengths(one.own)[-1] - whole) < 15, "the skeleton's own, not smoothed, is a little longer"
    assert abs(lengths(other.points)[-1] - whole) < 5
    assert lengths(other.own)[-1] < 0.55 * whole


def test_a_loop_that_crosses_itself_is_one_line():
    turn = np.linspace(np.pi, -np.pi / 2 - 0.5, 40)
    loop = np.stack([100 + 25 * np.cos(turn), 95 + 25 * np.sin(turn)], 1)
    path = np.concatenate([[(75, 10), (75, 60)], loop[::1], [(60, 72)]])
    courses = traced(drawn(path), np.array([[60.0, 72.0]]))
    assert abs(lengths(courses[0])[-1] - lengths(path)[-1]) < 12


def test_refining_moves_a_course_onto_the_ridge():
    film = drawn([(20, 50.3), (140, 50.3)], width=3)
    before = np.array([[20.0, 51.5], [140.0, 51.5]])
    course = refine(before, film)
    assert np.abs(course[5:-5, 1] - 50.3).max() < 0.1
    assert before.tolist() == [[20, 51.5], [140, 51.5]]


def test_sampling_is_bilinear_and_nothing_outside():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    got = sample(values, np.array([[1.0, 1.0], [1.5, 1.5], [-5.0, 0.0]]))
    assert got.tolist() == [5, 7.5, 0]
