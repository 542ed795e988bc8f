"""Distances of tips from the carina, the position rule that applies, and what the classifier says to it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.rules import ett_state
from cxrlines.core.spacing import NO_SPACING, Spacing, SpacingKind
from cxrlines.reading.distances import ETT_RULE, NGT_RULE, distances_of, leaves_below, turned
from cxrlines.task import LABELS, STATE_OF, Device, Landmark, State

SHAPE = (1000, 800)
CARINA = {Landmark.CARINA: Keypoint(np.array([400.0, 400.0]), 0.9)}


def line(device, tip, entry=(400.0, 0.0)):
    path = np.array([entry, tip if tip is not None else (400.0, 999.0)], float)
    return Line(device, path, None if tip is None else path[-1], 0.8)


CALIBRATED, DETECTOR = SpacingKind.CALIBRATED, SpacingKind.DETECTOR


def found_with(one, landmarks=CARINA, mm=None, kind=CALIBRATED, **more):
    """Findings of one line; `mm` is (row, column) spacing."""
    spacing = NO_SPACING if mm is None else Spacing(kind, mm)
    return Findings(SHAPE, (one,), landmarks, (), spacing=spacing, **more)


def distances(device, tip, **more):
    return {d.what: d for d in distances_of(found_with(line(device, tip), **more))}


def above_carina(height, **more):
    """Of a tube whose tip is so many px above the carina."""
    return distances(Device.ETT, (400.0, 400.0 - height), **more)["ETT tip above the carina"]


def probabilities(**named):
    return dict.fromkeys(LABELS, 0.01) | {name.replace("_", " - "): p for name, p in named.items()}


def test_distances_along_and_across_have_their_signs():
    tube = distances(Device.ETT, (410.0, 340.0), mm=(0.5, 0.25))
    assert list(tube) == [
        "ETT tip above the carina",
        "ETT tip to the patient's right of the carina",
        "ETT tip to the carina, straight",
    ]
    above, across, straight = tube.values()
    assert (above.px, above.percent_of_height, above.cm) == pytest.approx((60, 6, 3))
    assert (across.px, across.cm) == pytest.approx((-10, -0.25))  # the patient's right is the film's left
    assert straight.px == pytest.approx(np.hypot(10, 60))
    assert straight.cm == pytest.approx(np.hypot(0.25, 3))
    below = distances(Device.CVC, (350.0, 500.0))
    assert [(d.what, d.px, d.cm) for d in below.values()] == [
        ("CVC tip below the carina", 100.0, None),
        ("CVC tip to the patient's right of the carina", 50.0, None),
    ]
    assert distances(Device.NGT, (400.0, 300.0))["NGT tip below the carina"].px == -100


@pytest.mark.parametrize(
    ("height", "state"), [(30, "Borderline"), (60, "Normal"), (-10, "Abnormal"), (150, "Borderline")]
)
def test_with_calibrated_spacing_the_rule_goes_by_the_height_itself(height, state):
    above = above_carina(height, mm=(0.5, 0.5))
    assert above.cm == pytest.approx(height * 0.05) and above.patient_cm == (above.cm, above.cm)
    assert above.state is ett_state(above.cm) is State(state)
    assert above.rule == ETT_RULE


@pytest.mark.parametrize(
    ("cm", "state"),
    [
        (2.06, None),  # 1.72 to 2.06 in the patient
        (2.39, None),
        (2.41, State.NORMAL),
        (6.0, State.NORMAL),
        (6.1, None),  # 5.08 to 6.1
        (7.3, State.BORDERLINE),
        (0.55, None),
        (0.61, State.BORDERLINE),
        (-1.0, State.ABNORMAL),
    ],
)
def test_with_the_detectors_spacing_a_state_needs_both_ends_of_the_magnification(cm, state):
    above = above_carina(100 * cm, mm=(0.1, 0.1), kind=DETECTOR)
    assert above.cm == pytest.approx(cm), "at the detector, as a viewer measures it"
    assert above.patient_cm == pytest.approx(tuple(sorted((cm / 1.2, cm))))
    assert above.state is state
    labels = probabilities(ETT_Normal=0.7)
    judged = above_carina(100 * cm, mm=(0.1, 0.1), kind=DETECTOR, labels=labels)
    assert (judged.classifier is None) == (judged.agrees is None) == (state is None)


def test_without_spacing_size_is_estimated_from_the_plate_and_the_magnification():
    # The film is 1000 px high: 35 to 43 cm at the detector.
    def above(height, **more):
        found = replace(found_with(line(Device.ETT, (400.0, 400.0 - height)), **more), spacing=NO_SPACING)
        return distances_of(found)[0]

    clear = above(100)
    assert clear.cm is None and clear.percent_of_height == pytest.approx(10) and clear.state is State.NORMAL
    assert clear.patient_cm == pytest.approx((3.5 / 1.2, 4.3))
    for height in (49, 60, 145):  # 1.4 to 2.1, 1.75 to 2.6, 4.2 to 6.2 cm
        assert above(height).state is None
    # The plate is the film within its frame, of which the longer side is 600 px, or the frame is a part of it.
    framed = above(100, within=(0, 300, 600, 800))
    assert framed.patient_cm == pytest.approx((100 / 1000 * 35 / 1.2, 100 / 600 * 43))
    assert framed.percent_of_height == pytest.approx(20)


def test_of_a_film_that_may_be_cropped_no_size_is_estimated():
    cropped = Quality(notes=(Note(Code.CROPPED, "cut off"),))
    estimated = above_carina(100, quality=cropped)
    assert estimated.px == 100 and estimated.patient_cm is estimated.cm is estimated.state is None
    assert estimated.rule == ETT_RULE
    assert above_carina(60, mm=(0.5, 0.5), quality=cropped).state is State.NORMAL, "its own spacing holds"


def test_no_size_is_estimated_where_the_spacing_says_that_it_is_no_plate_nor_of_a_child():
    disbelieved = replace(found_with(line(Device.ETT, (400.0, 300.0))), spacing=Spacing(SpacingKind.NOT_BELIEVED))
    child = (Note(Code.CHILD, "a child"),)
    for found in (disbelieved, found_with(line(Device.ETT, (400.0, 300.0)), notes=child)):
        above = distances_of(found)[0]
        assert above.px == 100 and above.patient_cm is above.cm is above.state is None and above.possible == ()
    measured = above_carina(60, mm=(0.5, 0.5), notes=child)
    assert measured.cm == 3 and measured.state is None, "its spacing holds, the rule of adults does not"


@pytest.mark.parametrize("device", [Device.ETT, Device.NGT, Device.CVC])
def test_of_a_film_of_unknown_size_a_state_that_holds_at_any_size_is_given(device):
    """An endotracheal tube at the carina or below, a nasogastric one there or above."""
    at_any = {Device.ETT: (0, 30), Device.NGT: (0, -30), Device.CVC: ()}[device]
    cropped, odd = Note(Code.CROPPED, "cut off"), Note(Code.PIXELS_NOT_SQUARE, "3:2")
    for down in (-30, 0, 30):
        unsized = found_with(line(device, (400.0, 400.0 + down)), labels=probabilities(ETT_Abnormal=0.9))
        disbelieved = replace(unsized, spacing=Spacing(SpacingKind.NOT_BELIEVED))
        for found in (disbelieved, *(replace(unsized, notes=(note,)) for note in (cropped, odd))):
            along = distances_of(found)[0]
            assert along.patient_cm is None and along.possible == (State.ABNORMAL,) * (down in at_any)
            assert along.state is (State.ABNORMAL if down in at_any else None)
        for code in (Code.CHILD, Code.MIRRORED, Code.PERHAPS_NO_CHEST_FILM, Code.POSE_UNSURE):
            unruled = replace(disbelieved, notes=(Note(code, "so"),))
            assert all(each.possible == () for each in distances_of(unruled))
        fades = replace(unsized.lines[0], tip=None, followed_to=unsized.lines[0].tip)
        assert distances_of(replace(disbelieved, lines=(fades,))) == []


@pytest.mark.parametrize(
    ("cm", "state"),
    [(1.99, State.BORDERLINE), (1.994, State.BORDERLINE), (1.996, State.NORMAL), (6.004, State.NORMAL)],
)
def test_the_rule_goes_by_the_digits_that_the_json_has(cm, state):
    found = found_with(line(Device.ETT, (400.0, 400.0 - 100 * cm)), mm=(0.1, 0.1))
    along = replace(found, distances=tuple(distances_of(found))).as_dict()["distances"][0]
    assert along["patient_cm"] == [round(cm, 2)] * 2 and along["state"] == state.value
    assert ett_state(along["patient_cm"][0]) is state


def test_sides_of_a_mirrored_film_are_the_patients():
    mirrored = (Note(Code.MIRRORED, "mirrored"),)
    for device, name in ((Device.CVC, "CVC"), (Device.ETT, "ETT")):
        plain, other = (distances(device, (350.0, 460.0), mm=(0.5, 0.5), notes=notes) for notes in ((), mirrored))
        across = f"{name} tip to the patient's right of the carina"
        assert plain[across].px == 50 and other[across].px == -50
        assert all(each.state is None and each.possible == () for each in other.values())


def test_of_a_film_that_may_be_turned_no_state_follows_from_the_height():
    unsure = Quality(notes=(Note(Code.POSE_UNSURE, "it may be turned"),))
    for device in Device:
        (only,) = distances(device, (400.0, 340.0), mm=(0.5, 0.5), quality=unsure).values()
        assert only.what == f"{device.name} tip to the carina, straight", "neither above nor right is sure"
        assert only.patient_cm == pytest.approx((3, 3)) and only.state is None and only.possible == ()


def test_no_rule_of_adults_nor_of_upright_films_says_that_a_tube_is_incompletely_imaged():
    for code in (Code.CHILD, Code.MIRRORED):
        (only,) = distances_of(found_with(line(Device.NGT, None), notes=(Note(code, "so"),), labels=probabilities()))
        assert only.what == "NGT tip off the film" and only.rule == NGT_RULE, "that it leaves the film is seen"
        assert only.state is None and only.possible == () and only.classifier is None and only.agrees is None


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-300, 390),
    st.sampled_from([CALIBRATED, DETECTOR, SpacingKind.NONE]),
    st.floats(0.05, 1.5),
)
def test_a_state_by_rule_holds_for_every_size_that_is_possible(height, kind, mm):
    spacing = Spacing(kind, None if kind is SpacingKind.NONE else (mm, mm))
    found = replace(found_with(line(Device.ETT, (400.0, 400.0 - height))), spacing=spacing)
    above = distances_of(found)[0]
    magnifications = (1.0,) if kind is CALIBRATED else np.linspace(1.0, 1.2, 101)
    sides = np.linspace(350, 430, 101) / 1000 if kind is SpacingKind.NONE else (mm,)
    every = [height * size / 10 / magnification for size in sides for magnification in magnifications]
    assert above.patient_cm == pytest.approx((min(every), max(every)))
    states = {ett_state(round(cm, 2)) for cm in every}
    if above.state is not None:
        assert states == {above.state}
    else:  # what is only touched at one end may lie between the samples
        assert len(states | {ett_state(round(end, 2)) for end in above.patient_cm}) > 1


# A film with its true things, in px; within is inside a frame of 30 px left, 10 top, 20 right, 40 bottom.
UPRIGHT = (1000, 800)
CARINA_XY, TIP_XY, ENTRY_XY = np.array([420.0, 430.0]), np.array([470.0, 310.0]), np.array([400.0, 0.0])


def hung(rotation, framed, kind, mm=(0.3, 0.2)):
    """The findings of a film that lies in its file turned counter-clockwise by `rotation`, in a frame or not."""
    marked = [np.zeros(UPRIGHT, np.uint8) for _ in range(3)]
    for film, (x, y) in zip(marked, (CARINA_XY, TIP_XY, ENTRY_XY), strict=True):
        film[int(y), int(x)] = 1
    films = [np.rot90(film, rotation // 90) for film in marked]  # an oracle of its own: pixels that move
    if framed:
        films = [np.pad(film, ((10, 40), (30, 20))) for film in films]
    carina, tip, entry = (np.argwhere(film)[0][::-1].astype(float) for film in films)
    shape = films[0].shape
    within = (30, 10, shape[1] - 20, shape[0] - 40) if framed else None
    spacing = NO_SPACING if kind is SpacingKind.NONE else Spacing(kind, mm[::-1] if rotation in (90, 270) else mm)
    found = Findings(
        shape,
        (Line(Device.ETT, np.stack([entry, tip]), tip, 0.9), Line(Device.CVC, np.stack([entry, tip]), tip, 0.9)),
        {Landmark.CARINA: Keypoint(carina, 0.9)},
        (),
        probabilities(ETT_Normal=0.8),
        spacing,
        quality=Quality(rotation=rotation),
        within=within,
    )
    return found, distances_of(found)


@pytest.mark.parametrize("kind", [CALIBRATED, DETECTOR, SpacingKind.NONE])
@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_film_has_the_distances_and_states_of_the_upright_one(rotation, framed, kind):
    # Without spacing a frame leaves open more sizes.
    upright, expected = hung(0, framed and kind is SpacingKind.NONE, kind)
    found, got = hung(rotation, framed, kind)
    assert got == expected and upright.upright_shape == found.upright_shape == UPRIGHT
    assert expected[0].px == 120 and expected[0].percent_of_height == 12 and expected[1].px == -50
    if kind is not SpacingKind.NONE:
        assert expected[0].cm == pytest.approx(120 * 0.03) and expected[1].cm == pytest.approx(-50 * 0.02)
        assert expected[2].cm == pytest.approx(np.hypot(120 * 0.03, 50 * 0.02))
        assert expected[0].state is State.NORMAL and expected[0].agrees


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_a_vector_turns_with_the_picture(degrees):
    film = np.zeros((9, 9), int)
    film[4, 4], film[3, 6] = 1, 2  # 2 to the right, 1 up
    turned_film = np.rot90(film, -degrees // 90)
    (row, column), (row_to, column_to) = np.argwhere(turned_film == 1)[0], np.argwhere(turned_film == 2)[0]
    assert turned(np.array([2.0, -1.0]), degrees).tolist() == [column_to - column, row_to - row]


def test_the_classifier_agrees_if_the_state_is_its_most_probable():
    agrees = distances(Device.ETT, (400.0, 340.0), mm=(0.5, 0.5), labels=probabilities(ETT_Normal=0.7))
    assert (agrees["ETT tip above the carina"].classifier, agrees["ETT tip above the carina"].agrees) == (0.7, True)
    labels = probabilities(ETT_Normal=0.3, ETT_Abnormal=0.6)
    differs = distances(Device.ETT, (400.0, 340.0), mm=(0.5, 0.5), labels=labels)
    assert (differs["ETT tip above the carina"].classifier, differs["ETT tip above the carina"].agrees) == (0.3, False)


def test_of_two_catheters_in_two_states_neither_is_said_to_differ_from_the_classifier():
    """Its labels are of the film: it may be as sure of both states."""
    labels = probabilities(CVC_Normal=0.95, CVC_Abnormal=0.93)
    normal, abnormal = line(Device.CVC, (370.0, 460.0)), line(Device.CVC, (490.0, 400.0))
    both = replace(found_with(normal, mm=(0.5, 0.5), labels=labels), lines=(normal, abnormal))
    called = [each for each in distances_of(both) if each.state]
    assert [each.state for each in called] == [State.NORMAL, State.ABNORMAL]
    assert [each.classifier for each in called] == [0.95, 0.93] and [each.agrees for each in called] == [None, None]
    alone = [each for each in distances_of(found_with(abnormal, mm=(0.5, 0.5), labels=labels)) if each.state]
    assert [each.agrees for each in alone] == [False]
    tubes = line(Device.ETT, (400.0, 340.0)), line(Device.ETT, (400.0, 390.0))
    two = replace(found_with(tubes[0], mm=(0.5, 0.5), labels=probabilities(ETT_Normal=0.9)), lines=tubes)
    called = [each for each in distances_of(two) if each.state]
    assert [each.agrees for each in called] == [True, False], "of a tube of which there is one, a second line is false"


def test_a_gastric_tube_that_leaves_the_film_is_incompletely_imaged_with_or_without_a_carina():
    for landmarks in (CARINA, {}):
        labels = {name: 0.9 if STATE_OF[name] is State.INCOMPLETE else 0.1 for name in LABELS}
        (only,) = distances_of(found_with(line(Device.NGT, None), landmarks, labels=labels))
        assert (only.what, only.px, only.patient_cm, only.state) == (
            "NGT tip off the film",
            None,
            None,
            State.INCOMPLETE,
        )
        assert (only.rule, only.classifier, only.agrees) == (NGT_RULE, 0.9, True)
    assert distances_of(found_with(line(Device.CVC, None))) == []
    assert distances_of(found_with(line(Device.CVC, (400.0, 500.0)), {})) == []


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(
    ("end", "incomplete"),
    [((430, 999), True), ((280, 0), False), ((0, 700), False), ((799, 700), False), ((0, 100), False)],
)
def test_only_a_tube_that_leaves_by_the_lower_edge_has_its_tip_below_the_film(end, incomplete, rotation):
    film, turns = np.zeros(SHAPE, np.uint8), rotation // 90
    places = []
    for x, y in ((400, 5), (400, 400), end, (400, 300)):  # pixels that move with the film
        film[:] = 0
        film[y, x] = 1
        places.append(np.argwhere(np.rot90(film, turns))[0][::-1].astype(float))
    shape = np.rot90(film, turns).shape
    tube = Line(Device.NGT, np.array(places[:3]), None)
    for landmarks in ({}, {Landmark.CARINA: Keypoint(places[3], 0.9)}):
        found = Findings(shape, (tube,), landmarks, (), quality=Quality(rotation=rotation))
        assert [each.state for each in distances_of(found)] == [State.INCOMPLETE] * incomplete
        notes = (Note(Code.POSE_UNSURE, "turned?"),)
        assert distances_of(replace(found, quality=Quality(rotation=rotation, notes=notes))) == []


@pytest.mark.parametrize("within", [None, (40, 30, 760, 980)])
def test_the_edge_by_which_a_tube_leaves_is_the_same_in_the_mirror(within):
    """Edges are half a pixel beyond its outer pixels' centres, on all sides."""
    left, _, right, bottom = within or (0, 0, SHAPE[1], SHAPE[0])
    for off, below in ((0.2, False), (0.4, True)):  # px from the side; .25 px from the lower edge
        for x in (left - 0.5 + off, right - 0.5 - off):
            tube = Line(Device.NGT, np.array([[400.0, 100], [x, bottom - 0.75]]), None)
            assert leaves_below(tube, Findings(SHAPE, (tube,), {}, (), within=within)) is below


def test_a_tube_that_leaves_by_the_lower_edge_above_the_carina_is_of_no_film_that_is_upright():
    below = {Landmark.CARINA: Keypoint(np.array([400.0, 999.0]), 0.9)}
    assert distances_of(found_with(line(Device.NGT, None), below)) == []


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_gastric_tube_in_the_lung_is_never_normal(mirrored):
    """From the carina along a main bronchus into the recess, 17 cm deep, and on there for 14 cm."""
    path = np.array([[400.0, 0.0], [400.0, 400.0], [280.0, 560.0], [160.0, 740.0], [290.0, 890.0], [270.0, 740.0]])
    path[:, 0] = 800 - path[:, 0] if mirrored else path[:, 0]
    below = distances_of(found_with(Line(Device.NGT, path, path[-1]), mm=(0.5, 0.5)))[0]
    assert State.ABNORMAL in below.possible and below.state is None
    straight = path.copy()
    straight[2:4, 0] = 410.0
    assert distances_of(found_with(Line(Device.NGT, straight, path[-1]), mm=(0.5, 0.5)))[0].state is State.NORMAL
    unseen = Line(Device.NGT, straight[3:], path[-1])  # nothing is seen of it above the stomach
    assert State.ABNORMAL in distances_of(found_with(unseen, mm=(0.5, 0.5)))[0].possible


@pytest.mark.parametrize(
    ("device", "tip", "states"),
    [
        (Device.CVC, (350.0, 460.0), ["NORMAL"]),  # 3 cm below the carina, 2.5 to its right
        (Device.CVC, (450.0, 460.0), ["ABNORMAL"]),
        (Device.CVC, (350.0, 500.0), ["BORDERLINE", "NORMAL"]),
        (Device.NGT, (410.0, 500.0), ["ABNORMAL"]),  # 5 cm below
        (Device.NGT, (410.0, 980.0), ["NORMAL"]),  # 29 cm below, 13 of them surely beyond the junction
        (Device.NGT, (410.0, 650.0), ["ABNORMAL", "BORDERLINE"]),
        (Device.SWAN, (350.0, 460.0), []),
    ],
)
def test_tubes_and_catheters_have_the_states_that_the_carina_leaves_open(device, tip, states):
    below = distances(device, tip, mm=(0.5, 0.5))[f"{device.name} tip below the carina"]
    assert [state.name for state in below.possible] == states
    assert below.state == (below.possible[0] if len(states) == 1 else None)
    assert (below.rule is None) == (not states)
    unsure = distances(device, tip, mm=(0.5, 0.5), quality=Quality(notes=(Note(Code.POSE_UNSURE, "turned?"),)))
    doubted = Quality(notes=(Note(Code.PERHAPS_NO_CHEST_FILM, "none?"),))
    assert all(each.possible == () for each in distances(device, tip, mm=(0.5, 0.5), quality=doubted).values())
    cropped = distances(device, tip, quality=Quality(notes=(Note(Code.CROPPED, "cropped?"),)))
    assert all(each.possible == () for each in (*unsure.values(), *cropped.values()))


def test_no_size_is_estimated_of_a_film_whose_pixels_are_not_square():
    notes = (Note(Code.PIXELS_NOT_SQUARE, "3:2"),)
    assert above_carina(100).patient_cm and above_carina(100).possible
    odd = above_carina(100, notes=notes)
    assert odd.px == 100 and odd.patient_cm is None and odd.possible == ()
    assert above_carina(100, notes=notes, mm=(0.5, 0.25)).possible, "where a spacing says it, it is known"


def test_the_length_beyond_the_junction_is_along_the_tube():
    """A tube that turns level in the stomach: 17 cm deep, then 12 cm to the patient's left."""
    path = np.array([[400.0, 0.0], [400.0, 740.0], [640.0, 740.0]])
    film = found_with(Line(Device.NGT, path, path[-1]), mm=(0.5, 0.5))
    assert distances_of(film)[0].state is State.NORMAL
    short = found_with(Line(Device.NGT, path[:2], path[1]), mm=(0.5, 0.5))
    assert distances_of(short)[0].possible == (State.BORDERLINE,)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mm", [(0.5, 0.5), (0.25, 0.4), (0.4, 0.25)])
def test_a_course_has_the_same_states_in_cm_whatever_the_spacing(mm, rotation):
    """Of pixels that are not square, and of films that lie turned in their file."""

    def below(*cm):
        """Of a tube along points (right, down) cm of the upright film from the carina."""
        right, down = np.array(cm, float).T * 10 / np.array(mm[::-1])[:, None]
        carina = np.array([2000.0, 2000.0])
        points = {0: (right, down), 90: (down, -right), 180: (-right, -down), 270: (-down, right)}[rotation]
        tube = Line(Device.NGT, carina + np.stack(points, 1), carina + np.stack(points, 1)[-1])
        spacing = Spacing(CALIBRATED, mm[::-1] if rotation in (90, 270) else mm)
        spots = {Landmark.CARINA: Keypoint(carina, 0.9)}
        film = Findings((4000, 4000), (tube,), spots, (), spacing=spacing, quality=Quality(rotation=rotation))
        (along, _) = distances_of(film)
        assert along.cm == pytest.approx(cm[-1][1])
        return along.possible

    assert below((0, -5), (0, 0), (6, 4), (6, 30)) == (State.ABNORMAL, State.NORMAL), "6 cm beside the carina"
    assert below((0, -5), (0, 0), (3.5, 4), (3.5, 30)) == (State.NORMAL,)
    assert below((0, -5), (0, 17), (8, 17)) == (State.BORDERLINE, State.NORMAL), "9 to 17 cm beyond"
    assert below((0, -5), (0, 17), (10, 17)) == (State.NORMAL,)


def test_a_tube_that_leaves_the_film_beside_the_carina_may_be_in_the_lung():
    """7.6 cm beside it: where it leaves the film below, too."""
    beside, along = (
        Line(Device.NGT, np.array([[400.0, 0.0], [400.0, 400.0], [x, 480.0], [x, 999.0]]), None) for x in (552.0, 470.0)
    )
    labels = {name: 0.9 if STATE_OF[name] is State.INCOMPLETE else 0.1 for name in LABELS}
    for mm in ((0.5, 0.5), None):
        (open_,) = distances_of(found_with(beside, mm=mm, labels=labels))
        assert open_.possible == (State.ABNORMAL, State.INCOMPLETE) and open_.state is open_.agrees is None
        (only,) = distances_of(found_with(along, mm=mm, labels=labels))
        assert only.state is State.INCOMPLETE and only.agrees
    unknown = replace(found_with(beside), spacing=Spacing(SpacingKind.NOT_BELIEVED))
    for found in (unknown, found_with(beside, {}, mm=(0.5, 0.5))):  # how far beside is not known
        assert [each.possible for each in distances_of(found)] == [(State.INCOMPLETE,)]
    child = found_with(beside, mm=(0.5, 0.5), notes=(Note(Code.CHILD, "a child"),))
    assert [each.possible for each in distances_of(child)] == [()]


@pytest.mark.parametrize("device", Device)
def test_nothing_follows_from_where_a_line_without_a_tip_is_followed_to(device):
    path = np.array([[400.0, 0.0], [400.0, 500.0]])
    assert distances_of(found_with(Line(device, path, None, followed_to=path[-1]), mm=(0.5, 0.5))) == []


def test_numbers_of_the_json_have_no_sign_where_they_round_to_nothing():
    found = found_with(line(Device.CVC, (400.0, 399.999)), mm=(0.5, 0.5))
    found = replace(found, distances=tuple(distances_of(found)))
    assert "-0.0" not in json.dumps(found.as_dict())
    assert found.as_dict()["distances"][0]["px"] == 0
