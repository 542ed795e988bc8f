"""Findings in words: units, sides and verdicts as they are in the findings, and nothing left out."""

import numpy as np

from cxrlines.inference.findings import Findings, distances_of
from cxrlines.inference.locate import Line
from cxrlines.inference.quality import Quality
from cxrlines.inference.spots import Spot
from cxrlines.inference.words import as_text, carina_words, line_words, rule_words, tip_words
from cxrlines.task import LABELS, Device, Landmark

SHAPE = (1000, 800)
CARINA = {Landmark.CARINA: Spot(np.array([400.0, 500.0]), 0.8)}
LIKELY = dict.fromkeys(LABELS, 0.1) | {"ETT - Normal": 0.9}


def found(*lines, landmarks=CARINA, labels=None, mm=None, quality=None):
    distances = tuple(distances_of(list(lines), landmarks, SHAPE, labels, mm))
    return Findings(SHAPE, lines, landmarks, distances, labels, mm, quality=quality or Quality())


def line(device, tip, confidence=0.9):
    end = (400.0, 999.0) if tip is None else tip
    path = np.linspace((400.0, 0.0), end, 20)
    return Line(device, path, None if tip is None else path[-1], confidence)


def test_a_tip_is_told_in_cm_where_the_spacing_is_known_else_in_percent_of_height():
    tube = line(Device.ETT, (400.0, 400.0))
    assert tip_words(found(tube, mm=(0.4, 0.4)), 0) == "ETT 4.0 cm above carina"
    assert tip_words(found(tube), 0) == "ETT 10.0 % of height above carina"
    assert tip_words(found(tube, landmarks={}), 0) == "ETT"


def test_a_distance_the_other_way_is_told_the_other_way():
    assert tip_words(found(line(Device.ETT, (400.0, 550.0))), 0) == "ETT 5.0 % of height below carina"
    assert tip_words(found(line(Device.CVC, (400.0, 450.0))), 0) == "CVC 5.0 % of height above carina"


def test_a_line_that_leaves_the_film_says_so_and_every_line_how_sure_it_is():
    told = found(line(Device.NGT, None, 0.7), line(Device.CVC, (400.0, 550.0), 0.65))
    assert line_words(told, 0) == "NGT, leaves the film, confidence 0.70"
    assert line_words(told, 1) == "CVC 5.0 % of height below carina, confidence 0.65"


def test_the_rule_is_told_with_the_classifiers_opinion_where_it_decides():
    for labels, verdict in (
        (None, "by rule normal"),
        (LIKELY, "by rule normal; classifier agrees"),
        (LIKELY | {"ETT - Abnormal": 0.95}, "by rule normal; classifier differs"),
    ):
        told = found(line(Device.ETT, (400.0, 400.0)), labels=labels, mm=(0.4, 0.4))
        rules = [rule_words(distance) for distance in told.distances]
        assert [rule for rule in rules if rule] == [verdict]


def test_the_text_has_every_device_every_label_line_and_note():
    quality = Quality(notes=("it was turned by 90 degrees",))
    text = as_text(found(line(Device.ETT, (400.0, 400.0)), labels=LIKELY, mm=(0.4, 0.4), quality=quality))
    assert text.splitlines() == [
        "ETT   1.00   Abnormal 0.10  Borderline 0.10  Normal 0.90",
        "NGT   0.34   Abnormal 0.10  Borderline 0.10  Incompletely Imaged 0.10  Normal 0.10",
        "CVC   0.27   Abnormal 0.10  Borderline 0.10  Normal 0.10",
        "SWAN  0.10   Present 0.10",
        "ETT 4.0 cm above carina, confidence 0.90",
        "  by rule normal; classifier agrees",
        "Carina 0.80",
        "it was turned by 90 degrees",
    ]
    assert carina_words(found(landmarks={})) == as_text(found(landmarks={})) == "Carina not found."
