"""Two readings of a film agree on what both show, whichever comes first; places survive the way through the views."""

import cv2
import numpy as np
import pytest

from cxrlines.core.film import Film
from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.reading.view_agreement import ABSENT_BELOW, Agreement, Doubt, agreement, on_first, second_view
from cxrlines.task import LABELS, LABELS_OF, MAPPED, STATE_OF, Device, Landmark, State

SHAPE = (1000, 800)


def course(device: Device, x: float = 400, bottom: float = 600, end: str = "tip") -> Line:
    path = np.array([[x, 0.0], [x + 20, bottom / 2], [x, bottom]])
    return Line(device, path, path[-1] if end == "tip" else None, followed_to=path[-1] if end == "fades" else None)


def read(*lines: Line, there: dict[Device, float] | None = None, carina: tuple[float, float] | None = None) -> Findings:
    """Findings whose classifier holds the devices of the lines for present, all others for absent, but for `there`."""
    p = {line.device: 0.9 for line in lines} | (there or {})
    states = [(device, place, label) for device in Device for place, label in enumerate(LABELS_OF[device])]
    labels = {label: 0.001 if place else p.get(device, 0.01) for device, place, label in states}
    landmarks = {} if carina is None else {Landmark.CARINA: Keypoint(np.array(carina), 0.9)}
    return Findings(SHAPE, lines, landmarks, (), {label: labels[label] for label in LABELS})


def facts(found: Agreement) -> tuple:
    """All but the places, which are those of the first view."""
    return {(each.label, each.tip_seen) for each in found.lines}, found.absent, found.doubts, {*found.landmarks}


def test_what_views_share_is_kept_and_the_rest_is_not_known():
    one = read(course(Device.ETT, 400, 300), course(Device.NGT, 450), course(Device.CVC, 200), carina=(400, 350))
    other = read(course(Device.ETT, 410, 310), course(Device.CVC, 250), carina=(410, 360))
    found = agreement(one, other)
    (kept,) = found.lines
    assert kept.line is one.lines[0] and kept.tip_seen and kept.label in LABELS_OF[Device.ETT]
    assert found.doubts == {Device.NGT: Doubt.LINES, Device.CVC: Doubt.LINES}, "one-sided, and 5 % of the height apart"
    assert found.absent == {*MAPPED} - {Device.ETT, Device.NGT, Device.CVC}
    np.testing.assert_array_equal(found.landmarks[Landmark.CARINA], [400, 350])


def test_a_line_is_not_kept_where_another_of_its_device_is_doubtful():
    both = course(Device.CVC, 200), course(Device.CVC, 600)
    found = agreement(read(*both), read(both[0]))
    assert not found.lines and found.doubts[Device.CVC] is Doubt.LINES, "its map would teach that the other is none"
    assert len(agreement(read(*both), read(*both[::-1])).lines) == 2


def test_agreement_does_not_depend_on_which_view_is_first():
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(40):
        views = []
        base = [course(device, 150 + 120 * k, 400) for k, device in enumerate(MAPPED) if rng.random() < 0.6]
        for _ in range(2):
            lines = [course(line.device, line.path[0, 0] + rng.normal(0, 15), 400 + rng.normal(0, 20)) for line in base]
            some = [line for line in lines if rng.random() < 0.9]
            there = {device: float(rng.uniform(0, 1)) for device in MAPPED if rng.random() < 0.2}
            views.append(read(*some, there=there, carina=tuple(rng.normal(400, 15, 2))))
        ahead, back = agreement(*views), agreement(*views[::-1])
        assert facts(ahead) == facts(back)
        kept += len(ahead.lines)
    assert kept > 20


@pytest.mark.parametrize(("score", "doubt"), [(ABSENT_BELOW - 0.05, Doubt.PRESENCE), (ABSENT_BELOW + 0.05, None)])
def test_both_presence_scores_must_say_what_the_lines_say(score, doubt):
    one, other = read(course(Device.ETT)), read(course(Device.ETT), there={Device.ETT: score})
    assert agreement(one, other).doubts.get(Device.ETT) is doubt
    empty = agreement(read(), read(there={Device.ETT: score}))
    assert empty.doubts.get(Device.ETT) is (None if doubt else Doubt.PRESENCE)
    assert (Device.ETT in empty.absent) == bool(doubt)


@pytest.mark.parametrize(
    ("one", "other", "seen"),
    [
        (course(Device.CVC, bottom=600), course(Device.CVC, bottom=629), True),
        (course(Device.CVC, bottom=600), course(Device.CVC, bottom=631), False),
        (course(Device.CVC), course(Device.CVC, end="fades"), False),
        (course(Device.NGT, bottom=999, end="leaves"), course(Device.NGT, bottom=999, end="leaves"), True),
        (course(Device.NGT, end="leaves"), course(Device.NGT, end="tip"), False),
    ],
)
def test_a_tip_is_kept_where_both_give_it_within_three_percent(one, other, seen):
    (kept,) = agreement(read(one), read(other)).lines
    assert kept.tip_seen is seen
    off = one.leaves_film and other.leaves_film
    assert (STATE_OF[kept.label] is State.INCOMPLETE) == off, "of a tube that leaves the film no tip is drawn"


def test_a_tube_that_leaves_by_the_upper_edge_is_not_incompletely_imaged():
    path = np.array([[400.0, 0.0], [420.0, 400.0], [440.0, 0.0]])
    back = Line(Device.NGT, path, None)
    (kept,) = agreement(read(back), read(back)).lines
    assert STATE_OF[kept.label] is not State.INCOMPLETE and not kept.tip_seen


def test_points_of_the_second_view_come_back_to_where_they_were():
    dots = np.array([[200.0, 300.0], [430.0, 500.0], [520.0, 800.0]])
    pixels = np.zeros(SHAPE, np.uint8)
    for x, y in dots.astype(int):
        cv2.circle(pixels, (int(x), int(y)), 6, 255, -1)
    seen = second_view(Film(pixels, "array", 8)).pixels
    assert seen.shape == SHAPE and not np.array_equal(seen, pixels)
    count, _, _, centres = cv2.connectedComponentsWithStats((seen > 100).astype(np.uint8))
    assert count == 4
    found = Findings(
        SHAPE, (Line(Device.CVC, centres[1:], centres[-1]),), {Landmark.CARINA: Keypoint(centres[1], 1)}, ()
    )
    back = on_first(found)
    order = np.argsort(back.lines[0].path[:, 1])
    np.testing.assert_allclose(back.lines[0].path[order], dots, atol=0.5)
    np.testing.assert_array_equal(back.lines[0].tip, back.lines[0].path[-1])
    np.testing.assert_allclose(back.landmarks[Landmark.CARINA].xy, back.lines[0].path[0])


def test_the_second_view_is_darker_and_changes_nothing():
    pixels = np.full((50, 60), 128, np.uint8)
    film = Film(pixels.copy(), "array", 8)
    seen = second_view(film)
    assert 90 < int(seen.pixels[25, 30]) < 128 and seen.pixels[0, 0] == 0
    np.testing.assert_array_equal(film.pixels, pixels)
