"""What is seen first: a tube at or below the carina, by rule, and a nasogastric tube above its operating point."""

from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.spacing import NO_SPACING, Spacing, SpacingKind
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.distances import distances_of
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.report_text import rules_of
from cxrlines.reading.urgency import NGT_ABNORMAL, is_urgent, ngt_ends_in_chest
from cxrlines.task import LABELS_OF, Device, Landmark, State, label_of

NGT_NORMAL = label_of(Device.NGT, State.NORMAL)
READ_BY = ReadBy.of(load_bundle(EMBEDDED), "onnx", ())
MM = Spacing(SpacingKind.CALIBRATED, (0.2, 0.2))


def film(
    height_cm: float, device: Device = Device.ETT, spacing: Spacing = MM, notes: tuple[Note, ...] = ()
) -> Findings:
    """A film whose tube's tip is that high above the carina."""
    tip = np.array([800.0, 1000 - height_cm * 50])
    line = Line(device, np.stack([tip - (0, 700), tip]), tip)
    quality = Quality(notes=notes)
    found = Findings((2000, 1600), (line,), {Landmark.CARINA: Keypoint(np.array([800.0, 1000.0]), 1.0)}, (), {})
    found = replace(found, spacing=spacing, quality=quality)
    return replace(found, distances=tuple(distances_of(found)))


@pytest.mark.parametrize(
    ("height", "urgent"), [(-3, True), (-0.1, True), (0.3, True), (0.7, False), (4, False), (8, False), (11, False)]
)
def test_an_endotracheal_tube_by_its_height(height, urgent):
    assert is_urgent(film(height), READ_BY) is urgent


def test_other_tubes_may_be_below_the_carina():
    assert not is_urgent(film(-19, Device.NGT), READ_BY)
    assert not is_urgent(film(-3, Device.CVC), READ_BY)


@pytest.mark.parametrize(("depth", "urgent"), [(-2, True), (7, True), (9, False), (15, False)])
def test_a_nasogastric_tube_that_ends_in_the_chest_is_urgent(depth, urgent):
    assert is_urgent(film(-depth, Device.NGT), READ_BY) is urgent
    assert not is_urgent(film(-depth, Device.NGT, notes=(Note(Code.POSE_UNSURE, "it may be turned"),)), READ_BY)


def test_below_needs_no_spacing_but_which_way_is_up():
    assert is_urgent(film(-3, spacing=NO_SPACING), READ_BY)
    assert not is_urgent(film(-3, notes=(Note(Code.POSE_UNSURE, "it may be turned"),)), READ_BY)


@pytest.mark.parametrize(("device", "height"), [(Device.ETT, -3), (Device.ETT, 0), (Device.NGT, 3), (Device.NGT, 0)])
def test_a_film_of_unknown_size_is_urgent_by_the_rule_that_its_words_say(device, height):
    cropped, child = Note(Code.CROPPED, "cut off"), Note(Code.CHILD, "a child")
    for found in (
        film(height, device, Spacing(SpacingKind.NOT_BELIEVED)),
        film(height, device, NO_SPACING, (cropped,)),
    ):
        assert is_urgent(found, READ_BY) and rules_of(found, 0) == ["by rule abnormal"]
        assert ngt_ends_in_chest(found) is (device is Device.NGT)
    assert not ngt_ends_in_chest(film(height, device, NO_SPACING, (child,)))
    other = film(3 if device is Device.ETT else -3, device, NO_SPACING, (cropped,))
    assert not is_urgent(other, READ_BY) and rules_of(other, 0)[0].startswith("no state by rule")


def test_a_tube_that_is_followed_to_below_the_carina_is_urgent_wherever_its_tip_is():
    for height, urgent in ((-3, True), (4, False)):
        seen = film(height)
        (line,) = seen.lines
        for spacing in (MM, NO_SPACING):
            faded = replace(seen, lines=(replace(line, tip=None, followed_to=line.tip),), distances=(), spacing=spacing)
            assert is_urgent(faded, READ_BY) is urgent
        unsure = replace(faded, quality=Quality(notes=(Note(Code.POSE_UNSURE, "it may be turned"),)))
        assert not is_urgent(unsure, READ_BY)


def test_a_nasogastric_tube_at_the_operating_point():
    point = READ_BY.operating_points[NGT_ABNORMAL].probability
    assert 0 < point < 1
    quiet = film(4)
    for p, urgent in ((point - 1e-6, False), (point, True), (0.99, True)):
        assert is_urgent(replace(quiet, labels={NGT_NORMAL: 0.5, NGT_ABNORMAL: p}), READ_BY) is urgent


def test_a_nasogastric_tube_that_the_reader_holds_for_absent_is_not_urgent():
    """Of such a film no line of one is given either."""
    point = READ_BY.operating_points[NGT_ABNORMAL].probability
    denied = replace(READ_BY, denied=READ_BY.denied | {"NGT": point + 0.01})
    for p, urgent in ((point, False), (point + 0.02, True)):
        assert is_urgent(replace(film(4), labels={NGT_ABNORMAL: p}), denied) is urgent
    # Together with its other states it is present.
    others = {label: 0.02 for label in LABELS_OF[Device.NGT]}
    assert is_urgent(replace(film(4), labels=others | {NGT_ABNORMAL: point}), denied)
    assert is_urgent(replace(film(0.3), labels={NGT_ABNORMAL: point}), denied)  # for its endotracheal tube


def test_a_refused_film_is_not_urgent():
    assert not is_urgent(Findings((2000, 1600), (), {}, (), None), READ_BY)
