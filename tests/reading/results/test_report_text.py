"""Findings in words: units, sides and verdicts as they are in the findings, and nothing left out."""

from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Distance, Findings, Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.spacing import NO_SPACING, Spacing, SpacingKind
from cxrlines.reading.distances import distances_of
from cxrlines.reading.results.report_text import (
    NOT_LOOKED_FOR,
    as_text,
    carina_words,
    ends_at_earlier,
    line_words,
    looked_for,
    note_words,
    rule_words,
    rules_of,
    spacing_words,
    tip_words,
    unfound_words,
)
from cxrlines.task import LABELS, Device, Landmark

SHAPE = (1000, 800)
CARINA = {Landmark.CARINA: Keypoint(np.array([400.0, 500.0]), 0.8)}
EVIDENCE = dict.fromkeys(Device.__members__, 0.25)
LIKELY = dict.fromkeys(LABELS, 0.1) | {"ETT - Normal": 0.9}
CALIBRATED = Spacing(SpacingKind.CALIBRATED, (0.4, 0.4))
DETECTOR = Spacing(SpacingKind.DETECTOR, (0.4, 0.4))
NOT_BELIEVED = Spacing(SpacingKind.NOT_BELIEVED)


def found(*lines, landmarks=CARINA, labels=None, spacing=NO_SPACING, evidence=EVIDENCE, **more):
    findings = Findings(SHAPE, lines, landmarks, (), labels, spacing, evidence=evidence, **more)
    return replace(findings, distances=tuple(distances_of(findings)))


def line(device, tip, confidence=0.9):
    end = (400.0, 999.0) if tip is None else tip
    path = np.linspace((400.0, 0.0), end, 20)
    return Line(device, path, None if tip is None else path[-1], confidence)


TUBE = line(Device.ETT, (400.0, 400.0))


def rules(findings):
    words = [rule_words(findings, distance) for distance in findings.distances]
    return [rule for rule in words if rule]


def test_a_tip_is_in_cm_where_the_spacing_is_known_else_in_percent_of_height():
    assert tip_words(found(TUBE, spacing=CALIBRATED), 0) == "ETT 4.0 cm above carina"
    assert tip_words(found(TUBE, spacing=DETECTOR), 0) == "ETT 4.0 cm above carina"
    assert (
        tip_words(found(TUBE), 0)
        == tip_words(found(TUBE, spacing=NOT_BELIEVED), 0)
        == ("ETT 10.0 % of height above carina")
    )
    assert tip_words(found(TUBE, landmarks={}), 0) == "ETT"


def test_a_distance_the_other_way_is_described_the_other_way():
    assert tip_words(found(line(Device.ETT, (400.0, 550.0))), 0) == "ETT 5.0 % of height below carina"
    assert tip_words(found(line(Device.CVC, (400.0, 450.0))), 0) == "CVC 5.0 % of height above carina"


def test_a_line_has_its_confidence_and_what_its_height_may_be_in_the_patient():
    assert line_words(found(TUBE, spacing=CALIBRATED), 0) == "ETT 4.0 cm above carina, confidence 0.90"
    assert line_words(found(TUBE, spacing=DETECTOR), 0) == (
        "ETT 4.0 cm above carina (3.3 to 4.0 cm in the patient), confidence 0.90"
    )
    high = found(line(Device.ETT, (400.0, 220.0)), spacing=DETECTOR)  # 9.33 to 11.2: as numbers, not as letters
    assert "(9.3 to 11.2 cm in the patient)" in line_words(high, 0)
    below = found(line(Device.ETT, (400.0, 550.0)))
    assert line_words(below, 0) == "ETT 5.0 % of height below carina (1.5 to 2.1 cm in the patient), confidence 0.90"
    near = line(Device.ETT, (400.0, 499.0))  # 0.04 cm
    assert line_words(found(near, spacing=DETECTOR), 0) == "ETT 0.0 cm above carina, confidence 0.90"
    assert "(0.0 cm in the patient)" in line_words(found(near), 0)
    off = found(line(Device.NGT, None, 0.7))
    assert line_words(off, 0) == "NGT, leaves the film, confidence 0.70"


def test_of_a_line_whose_tip_is_not_seen_no_distance_and_no_state_is_said():
    path = np.linspace((400.0, 0.0), (400.0, 700.0), 20)
    fades = found(Line(Device.NGT, path, None, 0.97, followed_to=path[-1]), spacing=CALIBRATED, labels=LIKELY)
    assert tip_words(fades, 0) == "NGT followed to here"
    assert rules(fades) == [] and spacing_words(fades) is None
    assert "cm" not in as_text(fades) and "rule" not in as_text(fades)


def test_a_line_whose_tip_is_not_seen_is_followed_to_a_place_that_is_said():
    """In % of the height alone, as it is a place and measures nothing."""
    path = np.linspace((400.0, 0.0), (340.4, 541.0), 20)
    fades = Line(Device.CVC, path, None, 0.97, followed_to=path[-1])
    rest = ", further course not seen, confidence 0.97"
    place = "CVC followed to 4.1 % of height below carina, 6.0 % to the patient's right"
    for spacing in (NO_SPACING, CALIBRATED):
        assert line_words(found(fades, spacing=spacing), 0) == place + rest
    framed = found(fades, within=(0, 500, 800, 1000))
    assert "8.2 % of height below carina, 11.9 % to" in line_words(framed, 0)
    mirrored = found(fades, quality=Quality(notes=(Note(Code.MIRRORED, "it lies mirrored"),)))
    assert line_words(mirrored, 0) == place.replace("right", "left") + rest
    turned = found(fades, quality=Quality(rotation=180))
    assert line_words(turned, 0) == place.replace("below", "above").replace("right", "left") + rest
    unsure = found(fades, quality=Quality(notes=(Note(Code.POSE_UNSURE, "turned?"),)))
    for nowhere in (unsure, found(fades, landmarks={})):
        assert line_words(nowhere, 0) == "CVC followed to (340, 541) px" + rest


def test_lines_that_end_at_the_same_place_say_so_and_give_it_once():
    one, other = line(Device.CVC, (400.0, 600.0), 0.95), line(Device.CVC, (400.4, 600.4))
    both = found(one, other, spacing=CALIBRATED)
    assert not ends_at_earlier(both, 0) and ends_at_earlier(both, 1)
    assert line_words(both, 0) == "CVC 4.0 cm below carina, confidence 0.95" and rules_of(both, 0)
    assert line_words(both, 1) == "CVC ends where a CVC above ends; perhaps it is the same, confidence 0.90"
    assert rules_of(both, 1) == [] and as_text(both).count("below carina") == 1
    apart = found(one, line(Device.CVC, (402.0, 600.0)), line(Device.SWAN, (400.0, 600.0)), spacing=CALIBRATED)
    assert not any(ends_at_earlier(apart, k) for k in range(3))
    off = found(line(Device.NGT, None), line(Device.NGT, None))
    assert not ends_at_earlier(off, 1)


def test_a_device_that_is_probably_there_without_a_line_is_said():
    seen = EVIDENCE | {"ETT": 0.9, "SWAN": 0.9}
    labels = LIKELY | {"Swan Ganz Catheter Present": 0.7}
    swan = "SWAN may be there (presence score 0.79), but no line of it was found: nothing is said of its position."
    assert found(labels=labels, evidence=seen).presence["SWAN"] == pytest.approx(0.794, abs=1e-3)
    assert unfound_words(found(TUBE, labels=labels, evidence=seen)) == [swan]
    words = unfound_words(found(labels=labels, evidence=seen))
    assert [part.split()[0] for part in words] == ["No", "ETT", "SWAN"] and words[0] == "No line found."
    for sentence in words:
        assert sentence in as_text(found(labels=labels, evidence=seen)).splitlines()
    assert unfound_words(found(TUBE)) == unfound_words(found(TUBE, labels=LIKELY)) == []
    # Lines of it were not looked for.
    assert unfound_words(found(TUBE, labels=labels, evidence={"ETT": 0.9})) == []
    assert unfound_words(found(landmarks={}, labels=labels, evidence=None)) == []


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        (None, "by rule normal"),
        (LIKELY, "by rule normal; classifier agrees"),
        (LIKELY | {"ETT - Abnormal": 0.95}, "by rule normal; classifier differs"),
    ],
)
def test_the_rule_comes_with_the_classifiers_opinion(labels, verdict):
    assert rules(found(TUBE, labels=labels, spacing=CALIBRATED)) == [verdict]


def test_a_rule_that_does_not_decide_says_between_what_or_why():
    between = line(Device.ETT, (400.0, 448.5))  # 2.06 cm at the detector
    assert rules(found(between, spacing=CALIBRATED)) == ["by rule normal"]
    assert rules(found(between, spacing=DETECTOR, labels=LIKELY)) == ["undecided by rule: borderline or normal"]
    cropped = found(TUBE, quality=Quality(notes=(Note(Code.CROPPED, "cut off"),)))
    assert rules(cropped) == ["no state by rule: neither the spacing nor the size of the film is known"]
    unsure = found(TUBE, spacing=CALIBRATED, quality=Quality(notes=(Note(Code.POSE_UNSURE, "turned?"),)))
    assert rules(unsure) == ["no state by rule: the film may be turned"]
    doubtful = found(TUBE, spacing=CALIBRATED, quality=Quality(notes=(Note(Code.PERHAPS_NO_CHEST_FILM, "none?"),)))
    assert rules(doubtful) == ["no state by rule: it may be no frontal chest film"]
    assert rules(found(line(Device.NGT, None))) == ["by rule incompletely imaged"]


def test_what_holds_at_any_size_and_what_is_open_without_a_distance_is_said():
    cropped = Quality(notes=(Note(Code.CROPPED, "cut off"),))
    assert rules(found(line(Device.ETT, (400.0, 500.0)), quality=cropped)) == ["by rule abnormal"]
    course = np.array([[400.0, 0.0], [400.0, 500.0], [600.0, 600.0], [600.0, 999.0]])
    beside = found(Line(Device.NGT, course, None), spacing=CALIBRATED)
    assert rules(beside) == ["undecided by rule: abnormal or incompletely imaged"]


@pytest.mark.parametrize(
    ("device", "tip", "words", "rule"),
    [
        (Device.ETT, (400.0, 450.75), "1.97 cm above carina", "borderline"),
        (Device.ETT, (400.0, 450.1), "2.0 cm above carina", "normal"),  # 1.996: 2.0 in the JSON, too
        (Device.ETT, (400.0, 450.0), "2.0 cm above carina", "normal"),
        (Device.ETT, (400.0, 349.5), "6.02 cm above carina", "borderline"),
        (Device.ETT, (400.0, 348.0), "6.1 cm above carina", "borderline"),
        (Device.ETT, (400.0, 447.0), "2.1 cm above carina", "normal"),
        (Device.ETT, (400.0, 549.25), "2.0 cm below carina", "abnormal"),  # below it 2.0 is no limit
        (Device.NGT, (400.0, 699.0), "7.96 cm below carina", "abnormal"),
        (Device.CVC, (424.0, 575.0), "3.0 cm below carina", "normal"),
        (Device.CVC, (425.1, 575.0), "3.0 cm below carina", "normal"),  # 1.004 to the left: no more than 1.0
        (Device.CVC, (425.75, 575.0), "3.0 cm below carina, 1.03 cm to the patient's left", "abnormal"),
        (Device.CVC, (400.0, 394.5), "4.22 cm above carina", "abnormal"),
    ],
)
def test_words_do_not_round_a_distance_onto_a_limit_that_it_only_nears(device, tip, words, rule):
    said = found(line(device, tip), spacing=CALIBRATED)
    assert tip_words(said, 0) == f"{device.name} {words}" and rules(said) == [f"by rule {rule}"]
    assert line_words(said, 0) == f"{device.name} {words}, confidence 0.90", "the same in the patient, not said again"


def test_nor_what_it_may_be_in_the_patient():
    near = found(line(Device.ETT, (400.0, 450.75)), spacing=DETECTOR)
    assert line_words(near, 0) == "ETT 1.97 cm above carina (1.6 to 1.97 cm in the patient), confidence 0.90"
    assert rules(near) == ["by rule borderline"]


@pytest.mark.parametrize(("device", "side"), [(Device.ETT, "above"), (Device.NGT, "below"), (Device.CVC, "below")])
def test_a_distance_that_rounds_to_nothing_has_the_side_that_the_report_of_dicom_has(device, side):
    """No "0.0 cm below carina" of a tube whose distances are measured upwards."""
    for spacing, unit, downs in ((CALIBRATED, "cm", (-0.01, 0.0, 0.01)), (NO_SPACING, "% of height", (-0.2, 0.0, 0.2))):
        for down in downs:
            near = found(line(device, (400.0, 500.0 + down)), spacing=spacing)
            assert tip_words(near, 0) == f"{device.name} 0.0 {unit} {side} carina"
    for down, other in ((-1.0, "above"), (1.0, "below")):  # .4 mm there
        near = found(line(device, (400.0, 500.0 + down)), spacing=CALIBRATED)
        assert tip_words(near, 0) == f"{device.name} 0.0 cm {other} carina"
    faded = Line(Device.CVC, np.array([[400.0, 0.0], [400.0, 500.2]]), None, 0.9, followed_to=np.array([400.0, 500.2]))
    assert "followed to 0.0 % of height above carina" in line_words(found(faded), 0)


def test_what_distances_rest_on_is_said_for_every_kind_of_spacing():
    assert spacing_words(found(TUBE, spacing=CALIBRATED)) == "Distances in the patient: calibrated spacing."
    magnified = replace(CALIBRATED, magnification=1.0625)
    assert "magnification 1.06 divided out" in spacing_words(found(TUBE, spacing=magnified))
    assert "at the detector: magnification unknown, 1 to 1.2" in spacing_words(found(TUBE, spacing=DETECTOR))
    assert "estimated: no spacing, longer side of 35 to 43 cm" in spacing_words(found(TUBE))
    assert spacing_words(found(TUBE, spacing=NOT_BELIEVED)) == "Distances without cm: spacing not believed."
    child = found(TUBE, notes=(Note(Code.CHILD, "a child"),))
    assert spacing_words(child) == "Distances without cm: no spacing, and the film is a child's."
    assert rules(child) == ["no state by rule: the rules are those of adults"]
    cropped = found(TUBE, quality=Quality(notes=(Note(Code.CROPPED, "cut off"),)))
    assert spacing_words(cropped) == "Distances without cm: no spacing, and the film may be cropped."
    assert spacing_words(found(TUBE, landmarks={})) is spacing_words(found(line(Device.NGT, None))) is None


def test_the_text_has_every_device_every_label_line_and_note_once():
    turned = "it is turned by 90 degrees counter-clockwise and inverted: it was righted"
    quality = Quality(notes=(Note(Code.TURNED, turned), Note(Code.INVERTED, turned)))
    notes = (Note(Code.WINDOW_IGNORED, "its window is ignored"), *quality.notes)
    text = as_text(found(TUBE, labels=LIKELY, spacing=CALIBRATED, quality=quality, notes=notes))
    assert text.splitlines() == [
        "Presence score, and probability of each state:",
        "ETT   0.50   Abnormal 0.10  Borderline 0.10  Normal 0.90",
        "NGT   0.29   Abnormal 0.10  Borderline 0.10  Incompletely Imaged 0.10  Normal 0.10",
        "CVC   0.26   Abnormal 0.10  Borderline 0.10  Normal 0.10",
        "SWAN  0.16   Present 0.10",
        "ETT 4.0 cm above carina, confidence 0.90",
        "  by rule normal; classifier agrees",
        "Carina found, confidence 0.80",
        "Distances in the patient: calibrated spacing.",
        turned,
        "its window is ignored",
    ]
    assert carina_words(found(landmarks={})) == "Carina not found."
    assert as_text(found(landmarks={})).splitlines() == ["No line found.", "Carina not found."]


def test_what_was_not_looked_for_is_not_called_not_found():
    nothing = found(landmarks={}, labels=LIKELY, evidence=None)
    assert not looked_for(nothing) and looked_for(found(landmarks={})) and looked_for(found(TUBE, evidence=None))
    assert carina_words(nothing) == as_text(nothing).splitlines()[-1] == NOT_LOOKED_FOR
    assert "not found" not in as_text(nothing)


def test_how_far_a_catheter_lies_beside_the_carina_is_said_where_its_rule_goes_by_that():
    left = found(line(Device.CVC, (625.0, 600.0)), spacing=CALIBRATED)
    assert tip_words(left, 0) == "CVC 4.0 cm below carina, 9.0 cm to the patient's left"
    assert line_words(left, 0) == f"{tip_words(left, 0)}, confidence 0.90" and rules(left) == ["by rule abnormal"]
    right = found(line(Device.CVC, (250.0, 600.0)), spacing=DETECTOR)
    assert line_words(right, 0) == (
        "CVC 4.0 cm below carina (3.3 to 4.0 cm in the patient), 6.0 cm to the patient's right (5.0 to 6.0 cm in the "
        "patient), confidence 0.90"
    )
    within = found(line(Device.CVC, (380.0, 600.0)), spacing=CALIBRATED)
    assert tip_words(within, 0) == "CVC 4.0 cm below carina"
    child = found(line(Device.CVC, (625.0, 600.0)), spacing=CALIBRATED, notes=(Note(Code.CHILD, "a child"),))
    assert tip_words(child, 0) == "CVC 4.0 cm below carina"
    tube = found(line(Device.ETT, (625.0, 600.0)), spacing=CALIBRATED)
    assert tip_words(tube, 0) == "ETT 4.0 cm below carina"


@pytest.mark.parametrize("device", [Device.ETT, Device.CVC])
def test_a_straight_distance_alone_is_said_without_a_direction(device):
    """All that is known of a film that may be turned."""
    straight = Distance(f"{device.name} tip to the carina, straight", 0, 100.0, 10.0, 4.0, (3.3, 4.0))
    alone = replace(found(line(device, (400.0, 400.0)), spacing=DETECTOR), distances=(straight,))
    assert tip_words(alone, 0) == f"{device.name} 4.0 cm from carina, straight"
    assert line_words(alone, 0) == (
        f"{device.name} 4.0 cm from carina, straight (3.3 to 4.0 cm in the patient), confidence 0.90"
    )
    assert rules(alone) == [] and "at the detector" in spacing_words(alone)
    assert not any(word in as_text(alone) for word in ("above", "below", "left", "right"))


def test_a_refused_film_says_why_and_nothing_of_what_it_was_not_asked_for():
    why, small = Note(Code.LATERAL, "its view is lateral"), Note(Code.SMALL, "it is small")
    refused = found(landmarks={}, quality=Quality(usable=False, notes=(why, small)), notes=(small,))
    assert as_text(refused).splitlines() == note_words(refused) == ["Not read: its view is lateral", "it is small"]
