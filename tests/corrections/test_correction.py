"""What a correction says of each label, and what it may not say."""

import json

import pytest

from cxrlines.corrections.correction import Correction, CorrectionError, Mark, decided
from cxrlines.task import DEVICE_OF, LABELS, LABELS_OF, STATE_OF, UNKNOWN, Device, Landmark, State

SHAPE = (60, 80)


def test_what_was_not_said_is_unknown(said):
    assert set(said().table_labels().values()) == {UNKNOWN} and tuple(said().table_labels()) == LABELS
    assert said().table_lines() == [] and decided(said().table_labels()) == set()


def test_a_kept_line_makes_its_label_and_excludes_what_it_excludes(said, line):
    found = said(lines=[line(Device.ETT, State.NORMAL, (5, 5), (9, 30))]).table_labels()
    assert {label: found[label] for label in LABELS_OF[Device.ETT]} == {
        "ETT - Abnormal": 0,
        "ETT - Borderline": 0,
        "ETT - Normal": 1,
    }
    assert decided(found) == {Device.ETT}
    found = said(lines=[line(Device.CVC, State.NORMAL, (5, 5), (9, 30))]).table_labels()
    assert found["CVC - Normal"] == 1 and found["CVC - Abnormal"] == UNKNOWN  # a film may show several


def test_a_rejected_line_says_nothing_of_labels(said, line):
    rejected = line(Device.NGT, None, (5, 5), (9, 30), mark=Mark.REJECTED, of=0)
    correction = said(lines=[rejected])
    correction.check(SHAPE)
    assert correction.table_lines() == [] and set(correction.table_labels().values()) == {UNKNOWN}


def test_of_a_line_whose_tip_is_not_seen_the_state_may_be_unknown(said, line):
    faded = line(Device.ETT, None, (5, 5), (9, 30), tip_seen=False)
    correction = said(lines=[faded, line(Device.CVC, State.NORMAL, (5, 5), (9, 30), tip_seen=False)])
    correction.check(SHAPE)
    found = correction.table_labels()
    assert {label: value for label, value in found.items() if value != UNKNOWN} == {"CVC - Normal": 1}
    (ett, cvc) = correction.table_lines()
    assert DEVICE_OF[ett.label] is Device.ETT and ett.points == faded.points and ett.tip_seen is False
    assert cvc.label == "CVC - Normal" and cvc.tip_seen is False
    assert said(lines=[line(Device.CVC, State.NORMAL, (5, 5))]).table_lines()[0].tip_seen is True


@pytest.mark.parametrize("device", [device for device in Device if len(LABELS_OF[device]) > 1])
def test_its_row_has_a_label_that_contradicts_none_of_its_film(said, line, device):
    own = LABELS_OF[device]
    faded = line(device, None, (5, 5), (9, 30), tip_seen=False)
    may_be = {label for label in own if STATE_OF[label] is not State.INCOMPLETE}
    for label in may_be:
        assert said(lines=[faded], labels={label: 1}).table_lines()[0].label == label
        assert said(lines=[faded], labels=dict.fromkeys(may_be - {label}, 0)).table_lines()[0].label == label
        assert said(lines=[faded], labels={label: 0}).table_lines()[0].label in may_be - {label}
    with pytest.raises(CorrectionError, match=f"all labels of {device.name} are 0, but a line of it is kept"):
        said(lines=[faded], labels=dict.fromkeys(own, 0)).check(SHAPE)


def test_what_contradicts_a_tip_that_is_not_seen(said, line):
    with pytest.raises(CorrectionError, match="Incompletely Imaged, and not tip_seen: it leaves the film"):
        said(lines=[line(Device.NGT, State.INCOMPLETE, (5, 5), (9, 9), tip_seen=False)]).check(SHAPE)
    with pytest.raises(CorrectionError, match=r"lines\.0 \(SWAN\) has no state"):  # it has but one
        said(lines=[line(Device.SWAN, None, (5, 5), (9, 9), tip_seen=False)]).check(SHAPE)


def test_a_line_of_an_older_journal_ends_at_its_tip():
    old = {"device": "CVC", "points": [[1, 2], [3, 4]], "mark": "accepted", "state": "Normal", "of": 0}
    (line,) = Correction.of({"author": "A", "time": "2026-03-01T09:30:00Z", "lines": [old]}).lines
    assert line.tip_seen is True


def test_json_keeps_it(said, line):
    whole = said(
        lines=[
            line(Device.SWAN, State.PRESENT, (5.25, 5), (9, 30)),
            line(Device.CVC, State.NORMAL, (1, 2), (3, 4), mark=Mark.MOVED, of=2),
            line(Device.NGT, None, (1, 2), (3, 4), tip_seen=False),
        ],
        labels={"ETT - Normal": 0},
        landmarks={Landmark.CARINA: (40.5, 20.0)},
        comment="see prior",
    )
    text = json.dumps(whole.model_dump(mode="json"))
    assert Correction.of(json.loads(text)) == whole
    assert '"device": "SWAN"' in text and '"state": "Present"' in text  # as findings name devices


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": {"ETT - Nice": 1}}, "ETT - Nice"),
        ({"labels": {"ETT - Normal": 1, "ETT - Abnormal": 1}}, "ETT - Abnormal and ETT - Normal"),
        ({"landmarks": {"carina": (900, 20)}}, "off a film of 80 x 60 px"),
        ({"landmarks": {"carina": (0.4, 0.5)}}, "within 0 to 1"),
    ],
)
def test_contradictions(said, values, words):
    with pytest.raises(CorrectionError, match=words):
        said(**values).check(SHAPE)


def test_lines_that_contradict(said, line):
    ett = line(Device.ETT, State.NORMAL, (5, 5), (9, 30))
    with pytest.raises(CorrectionError, match="a line of it is kept"):
        said(lines=[ett], labels={"ETT - Normal": 0}).check(SHAPE)
    with pytest.raises(CorrectionError, match=r"lines\.1 \(ETT\).*Incompletely Imaged.*Abnormal, Borderline, Normal"):
        said(lines=[ett, line(Device.ETT, State.INCOMPLETE, (5, 5), (5, 9))]).check(SHAPE)
    with pytest.raises(CorrectionError, match="has no state"):
        said(lines=[line(Device.CVC, None, (5, 5), (9, 30))]).check(SHAPE)
    with pytest.raises(CorrectionError, match="names no line of the model"):
        said(lines=[line(Device.CVC, State.NORMAL, (5, 5), (9, 9), mark=Mark.MOVED)]).check(SHAPE)
    with pytest.raises(CorrectionError, match=r"lines\.0 \(CVC\) is a single point"):
        said(lines=[line(Device.CVC, State.NORMAL, (5, 5), (5, 5))]).check(SHAPE)
    with pytest.raises(CorrectionError, match="with x and y swapped"):
        said(lines=[line(Device.CVC, State.NORMAL, (5, 75), (9, 30))]).check(SHAPE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time": "2026-03-01T09:30:00"}, "time"),
        ({"author": ""}, "author"),
        ({"by": "me"}, "by"),
        ({"labels": {"ETT - Normal": 2}}, "labels.ETT - Normal"),
        ({"lines": [{"device": "ECG", "points": [[1, 2]], "mark": "drawn"}]}, r"lines\.0\.device is 'ECG'"),
        ({"lines": [{"device": "CVC", "points": [[1, float("nan")]], "mark": "drawn"}]}, r"lines\.0\.points\.0\.1"),
        ({"lines": [{"device": "CVC", "points": [], "mark": "drawn"}]}, r"lines\.0\.points"),
    ],
)
def test_json_that_is_no_correction(change, words):
    with pytest.raises(CorrectionError, match=words):
        Correction.of({"author": "A", "time": "2026-03-01T09:30:00Z"} | change)
