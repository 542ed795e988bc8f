"""What the page says of a film."""

from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.reading.results.dicom.codes import device_code
from cxrlines.task import LABELS, Device, State, label_of
from cxrlines.web.film_answer import page_words, sentence, urgency

from .conftest import REFUSED, found

LOW = {label: 0.0 for label in LABELS}


def by_device(words: dict) -> dict:
    return {said["device"]: said for said in words["devices"]}


def test_a_device_is_found_probable_or_not_found_and_never_absent(read_by):
    likely = LOW | {label_of(Device.CVC, State.NORMAL): 0.9}
    words = page_words(found(labels=likely), read_by)
    said = {name: each["said"] for name, each in by_device(words).items()}
    assert said == {"ETT": "found", "NGT": "not found", "CVC": "probably present, no line found", "SWAN": "not found"}
    assert "absent" not in str(said)
    line = found().lines[0]
    twice = found(lines=(line, line))
    assert by_device(page_words(twice, read_by))["ETT"]["said"] == "2 found"


def test_devices_are_named_as_the_structured_report_names_them(read_by):
    for name, said in by_device(page_words(found(), read_by)).items():
        assert said["text"].lower() == device_code(Device[name]).meaning.lower()


def test_every_probability_stands_beside_its_operating_point(read_by):
    words = by_device(page_words(found(), read_by))
    labels = [state["label"] for said in words.values() for state in said["states"]]
    assert labels == list(LABELS)
    for said in words.values():
        for state in said["states"]:
            assert state["point"] == read_by.operating_points[state["label"]].probability
            assert state["p"] == found().labels[state["label"]]
    none = replace(read_by, operating_points={})
    assert page_words(found(), none)["points"] is None
    assert by_device(page_words(found(), none))["ETT"]["states"][0]["point"] is None


def test_only_what_has_a_distance_is_measured(read_by):
    away = Line(Device.NGT, np.array([[500.0, 20.0], [500.0, 1200.0]]), None)
    words = page_words(found(lines=(found().lines[0], away)), read_by)
    assert [line["measured"] for line in words["lines"]] == [True, False]
    assert words["lines"][0]["tip"] == "ETT 2.5 % of height above carina"
    assert words["ruler"] == "no spacing"


def test_a_line_whose_tip_is_not_seen_is_followed_and_not_measured(read_by):
    path = np.array([[500.0, 20.0], [500.0, 800.0]])
    (line,) = page_words(found(lines=(Line(Device.NGT, path, None, 0.97, path[-1]),), distances=()), read_by)["lines"]
    assert line == {
        "tip": "NGT followed to here",
        "words": "followed to 24.2 % of height below carina, 10.8 % to the patient's right, further course not "
        "seen, confidence 0.97",
        "rules": [],
        "measured": False,
    }


def test_a_refused_film_says_why_and_lists_no_device(read_by):
    words = page_words(REFUSED, read_by)
    assert "lateral" in words["refused"] and words["urgent"] is None and "devices" not in words
    assert sentence(REFUSED, read_by).startswith("Not read: a lateral film.")


@pytest.mark.parametrize("px", [0.0, -40.0])
def test_a_tube_at_or_below_the_carina_is_urgent_and_says_so(read_by, px):
    (distance,) = found().distances
    below = found(labels=LOW, distances=(replace(distance, px=px, state=State.ABNORMAL, patient_cm=(px, px)),))
    assert urgency(below, read_by) == "ETT at or below the carina"
    assert urgency(found(labels=LOW), read_by) is None


def test_an_abnormal_nasogastric_tube_is_urgent_above_its_point(read_by):
    label = label_of(Device.NGT, State.ABNORMAL)
    assert (urgency(found(labels=LOW | {label: 0.99}), read_by) or "").startswith("NGT abnormal")


def test_the_sentence_names_devices_distances_what_was_not_found_and_what_read(read_by):
    text = sentence(found(), read_by)
    for words in (
        "Endotracheal tube: 2.5 % of height above carina",
        "not proof of absence",
        "research only",
        read_by.weights,
    ):
        assert words in text
    assert "Swan-Ganz catheter" in text and "Carina not found" not in text
    assert "Carina not found" in sentence(found(landmarks={}), read_by)


def test_what_was_not_looked_for_is_not_called_not_found(read_by):
    without = found(lines=(), landmarks={}, distances=(), evidence=None)
    text = sentence(without, read_by)
    assert "were not looked for" in text and "ot found" not in text
    assert {one["said"] for one in page_words(without, read_by)["devices"]} <= {
        "lines not looked for",
        "probably present, no line found",
    }
