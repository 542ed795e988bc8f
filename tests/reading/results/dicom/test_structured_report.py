"""The structured report: what viewers ask of it, what it says, and highdicom's parser as an oracle."""

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrlines.core.findings import Distance, Findings
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.reading.results.dicom import codes
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.operating_points import OperatingPoint
from cxrlines.reading.results.report_text import NOT_LOOKED_FOR
from cxrlines.task import LABELS, Device, State


@pytest.fixture
def report(results):
    """The report of findings on a film."""

    def of(findings: Findings | str | None = None, **tags: object) -> Dataset:
        given = results.found() if findings is None else findings
        (made,) = result_objects(results.film_file(**tags), given, results.read_by, kinds=[Kind.REPORT])
        return pydicom.dcmread(io.BytesIO(made.content))

    return of


def name_of(item: Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else ""


def children(item: Dataset, name: codes.Concept) -> list[Dataset]:
    return [each for each in item.ContentSequence if name_of(each) == name.value]


def groups(report: Dataset) -> list[Dataset]:
    (measurements,) = children(report, codes.MEASUREMENTS)
    return children(measurements, codes.GROUP)


def tracked(group: Dataset) -> str:
    (item,) = children(group, codes.TRACKING_ID)
    return item.TextValue


def by_name(report: Dataset) -> dict[str, Dataset]:
    return {tracked(group): group for group in groups(report)}


def regions(group: Dataset) -> list[Dataset]:
    return [item for item in group.ContentSequence if item.ValueType == "SCOORD"]


def values(group: Dataset) -> Iterator[tuple[str, float, str]]:
    """(concept, value, unit) of each measurement."""
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            (measured,) = item.MeasuredValueSequence
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            yield name_of(item), float(measured.NumericValue), unit


def concept(group: Dataset, name: codes.Concept) -> str:
    (item,) = children(group, name)
    return item.ConceptCodeSequence[0].CodeValue


def test_it_keeps_to_what_viewers_ask_of_it(results, report):
    """OHIF: root 126000, a Tracking UID in every group or it throws, one SCOORD a group, an Image Library."""
    for findings in results.findings.values():
        made = report(findings((120, 100)))
        assert name_of(made) == "126000"
        assert made.ContentTemplateSequence[0].TemplateIdentifier == "1500"
        (library,) = children(made, codes.LIBRARY)
        (group,) = children(library, codes.LIBRARY_GROUP)
        film = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
        assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in film] == [
            "1.2.826.0.1.3680043.10.1.1"
        ]
        assert groups(made)
        for group in groups(made):
            (uid,) = children(group, codes.TRACKING_UID)
            assert pydicom.uid.UID(uid.UID).is_valid
            assert len(regions(group)) <= 1
            assert all(region.GraphicType in ("POINT", "POLYLINE") for region in regions(group))
            assert len(children(group, codes.FINDING)) == 1
            template = group.ContentTemplateSequence[0].TemplateIdentifier
            assert template == ("1410" if regions(group) else "1501")
        every = [children(group, codes.TRACKING_UID)[0].UID for group in groups(made)]
        assert len(set(every)) == len(every)


def test_every_group_says_what_found_it_and_that_it_is_for_research(report):
    for group in groups(report()):
        parameters = [item.TextValue for item in children(group, codes.ALGORITHM_PARAMETERS)]
        assert parameters[0] == "FOR RESEARCH USE ONLY" and "weights 0123456789ab" in parameters
        assert concept(group, codes.ALGORITHM_FAMILY) == "123110"
        assert children(group, codes.ALGORITHM_VERSION)[0].TextValue == "1.2.3"


def test_it_is_no_verified_document(report):
    made = report()
    assert (made.VerificationFlag, made.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert concept(made, codes.OBSERVER_TYPE) == "121007"
    (uid,) = children(made, codes.DEVICE_UID)
    assert made.AuthorObserverSequence[0].DeviceUID == uid.UID


def test_lines_tips_and_the_carina_are_groups_of_their_own(results, report):
    named = by_name(report())
    assert [name for name in named if regions(named[name])] == [
        "ETT 1 path",
        "ETT 1 tip",
        "NGT 1 path",
        "CVC 1 path",
        "CVC 1 tip",
        "carina",
    ]
    assert concept(named["ETT 1 path"], codes.FINDING) == "26412008"
    assert concept(named["NGT 1 path"], codes.COURSE) == codes.OFF_FILM.value
    assert concept(named["NGT 1 path"], codes.POSITION) == codes.STATE_CODES[State.INCOMPLETE].value
    assert concept(named["carina"], codes.FINDING) == "28700002"
    assert dict((name, value) for name, value, _ in values(named["ETT 1 path"]))["111012"] == 91.2


def test_a_line_whose_tip_is_not_seen_has_its_path_alone_and_says_so(results, report):
    named = by_name(report(results.found(faded=True)))
    assert "CVC 1 tip" not in named and "ETT 1 tip" in named
    assert concept(named["CVC 1 path"], codes.COURSE) == codes.UNSEEN.value
    courses = {concept(named[f"{name} 1 path"], codes.COURSE) for name in ("ETT", "NGT", "CVC")}
    assert len(courses) == 3


def test_points_are_those_of_the_film_from_its_outer_corner(results, report):
    """DICOM counts from the corner of the first pixel, findings from its centre."""
    for findings in (results.found(), results.found(rotation=90)):
        named = by_name(report(findings))
        for k, name in ((0, "ETT 1"), (2, "CVC 1")):
            path = np.reshape(regions(named[f"{name} path"])[0].GraphicData, (-1, 2))
            assert np.allclose(path, findings.lines[k].path + 0.5, atol=0.051)
            tip = regions(named[f"{name} tip"])[0]
            assert np.allclose(tip.GraphicData, findings.lines[k].tip + 0.5, atol=0.051)
            assert tip.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID.endswith(".1.1")
        for group in named.values():
            for region in regions(group):
                points = np.reshape(region.GraphicData, (-1, 2))
                assert (points >= 0).all() and (points <= [100, 120]).all()


def test_distances_are_in_mm_with_the_spacing_named_or_in_percent_of_the_height(results, report):
    findings = results.found()
    group = by_name(report())["ETT 1 tip"]
    mm = [value for name, value, unit in values(group) if (name, unit) == ("121206", "mm")]
    assert mm == [round(abs(10 * each.cm), 1) for each in findings.distances if each.line == 0]
    item = children(group, codes.DISTANCE)[0]
    assert concept(item, codes.METHOD) == "MM-DETECTOR"
    assert concept(item, codes.DIRECTION) == "ABOVE-CARINA"
    calibrated = by_name(report(results.findings["calibrated"]((120, 100))))["ETT 1 tip"]
    assert concept(children(calibrated, codes.DISTANCE)[0], codes.METHOD) == "MM-PATIENT"
    bare = by_name(report(results.findings["no-spacing"]((120, 100))))["ETT 1 tip"]
    assert not children(bare, codes.DISTANCE)
    percent = [value for name, value, _ in values(bare) if name == codes.SHARE_OF_HEIGHT.value]
    assert percent == [round(abs(each.percent_of_height), 1) for each in findings.distances if each.line == 0]


def test_a_negative_distance_is_the_other_way(results, report):
    named = by_name(report(results.found()))
    across = children(named["CVC 1 tip"], codes.DISTANCE)
    directions = [concept(item, codes.DIRECTION) for item in across]
    signs = [np.sign(each.px) for each in results.found().distances if each.line == 2]
    words = [each.what.split(" tip ")[1] for each in results.found().distances if each.line == 2]
    assert directions == [codes.DIRECTIONS[w][int(s < 0)].value for w, s in zip(words, signs, strict=True)]
    assert all(value >= 0 for name, value, _ in values(named["CVC 1 tip"]) if name == "121206")


def test_without_a_carina_there_is_neither_its_group_nor_a_distance(results, report):
    named = by_name(report(results.found(carina=False)))
    assert "carina" not in named
    assert not list(values(named["ETT 1 tip"]))


def test_what_was_not_looked_for_is_not_called_not_found(results, report):
    findings = replace(results.found(lines=False, carina=False), evidence=None)
    said = [item.TextValue for item in children(by_name(report(findings))["film"], codes.COMMENT)]
    assert NOT_LOOKED_FOR in said and not any("not found" in each or "No line" in each for each in said)


def test_a_straight_distance_alone_has_its_code(results, report):
    findings = results.found()
    straight = Distance("CVC tip to the carina, straight", 2, 10.0, 10.0, 3.5, (2.9, 3.5))
    named = by_name(report(replace(findings, distances=(straight,))))
    (item,) = children(named["CVC 1 tip"], codes.DISTANCE)
    assert concept(item, codes.DIRECTION) == "STRAIGHT" and not list(values(named["ETT 1 tip"]))


def test_not_found_is_not_absent(results, report):
    """Absent is what the classifier holds for absent; a line that is not found is undetermined."""
    low = {label: 0.001 for label in LABELS}
    high = {label: 0.9 if label.endswith("Present") else 0.3 for label in LABELS}
    for labels, wanted in ((low, codes.ABSENT), (high, codes.UNDETERMINED)):
        named = by_name(report(results.found(lines=False, labels=labels)))
        for device in Device:
            assert concept(named[device.name], codes.PRESENCE) == wanted.value
    named = by_name(report(results.found(labels=low)))
    assert concept(named["ETT"], codes.PRESENCE) == codes.PRESENT.value
    assert concept(named["SWAN"], codes.PRESENCE) == codes.ABSENT.value
    assert not set(Device.__members__) & set(by_name(report(results.found(labels=None))))


def test_a_limit_that_spares_false_lines_says_nothing_of_absence(results):
    """Half as likely as not, or an abnormal tube at its operating point: neither is absent."""

    def said(p, denied, points):
        read_by = replace(results.read_by, denied={"ETT": denied}, operating_points=points)
        findings = results.found(lines=False, labels=dict.fromkeys(LABELS, 0.001) | {LABELS[0]: p})
        (made,) = result_objects(results.film_file(), findings, read_by, kinds=[Kind.REPORT])
        return concept(by_name(pydicom.dcmread(io.BytesIO(made.content)))["ETT"], codes.PRESENCE)

    absent, undetermined = codes.ABSENT.value, codes.UNDETERMINED.value
    assert [said(p, 0.5, {}) for p in (0.49, 0.21, 0.19)] == [undetermined, undetermined, absent]
    assert [said(p, 0.05, {}) for p in (0.19, 0.04)] == [undetermined, absent]
    point = {LABELS[0]: results.read_by.operating_points[LABELS[0]]}
    called = point[LABELS[0]].probability
    assert called < 0.2 and said(called, 0.5, point) == undetermined and said(called - 0.01, 0.5, point) == absent


@pytest.mark.parametrize(
    "code", ["small", "one-bit", "low-contrast", "cropped", "pose-unsure", "perhaps-no-chest-film"]
)
def test_no_device_is_absent_on_a_film_that_may_hide_it(results, report, code):
    note, labels = Note(Code(code), "lines are hardly seen"), dict.fromkeys(LABELS, 0.001)
    for where in ({"notes": (note,)}, {"quality": Quality(notes=(note,))}):
        named = by_name(report(replace(results.found(lines=False, labels=labels), **where)))
        assert {concept(named[device.name], codes.PRESENCE) for device in Device} == {codes.UNDETERMINED.value}
    other = replace(results.found(lines=False, labels=labels), notes=(Note(Code.CHILD, "a child"),))
    assert concept(by_name(report(other))["ETT"], codes.PRESENCE) == codes.ABSENT.value


@pytest.mark.parametrize(
    ("p", "point", "wanted"),
    [
        (0.0406, 0.040758, (4.06, 4.0758)),
        (0.040757, 0.040758, (4.07, 4.0758)),
        (0.040758, 0.040758, (4.08, 4.0758)),
        (0.0401, 0.04009, (4.01, 4.009)),
        (0.04004, 0.04004, (4.01, 4.004)),
        (1.0, 0.99999, (100, 99.999)),
        (0.0, 1 / 3, (0, 33.333333)),
        (1 / 3, 1 / 3, (33.34, 33.333333)),
    ],
)
def test_a_probability_stands_on_its_side_of_its_operating_point(results, p, point, wanted):
    """However they are rounded: a reader of the report compares the two."""
    read_by = replace(results.read_by, operating_points={LABELS[0]: OperatingPoint(point, "sensitivity 0.9")})
    findings = results.found(labels=results.found().labels | {LABELS[0]: p})
    (made,) = result_objects(results.film_file(), findings, read_by, kinds=[Kind.REPORT])
    (item,) = children(by_name(pydicom.dcmread(io.BytesIO(made.content)))["ETT"], codes.label_code(LABELS[0]))
    (limit,) = item.ContentSequence
    texts = [str(each.MeasuredValueSequence[0].NumericValue) for each in (item, limit)]
    percent, least = map(float, texts)
    assert (percent, least) == pytest.approx(wanted, abs=1e-6) and max(map(len, texts)) <= 16
    assert (percent >= least) == (p >= point)


def test_probabilities_stand_with_their_operating_points(results, report):
    group = by_name(report())["ETT"]
    found = {name: value for name, value, unit in values(group) if unit == "%"}
    for label in LABELS[:3]:
        assert found[codes.label_code(label).value] == pytest.approx(100 * results.found().labels[label], abs=0.051)
    (item,) = children(group, codes.label_code(LABELS[0]))
    assert list(values(item)) == [("OPERATING-POINT", 12.5, "%")]
    (other,) = children(group, codes.label_code(LABELS[1]))
    assert "ContentSequence" not in other


def test_codes_are_codes(results):
    """Of the vocabulary: no two alike, none too long; of distances: every word that findings use has one."""
    private = [codes.label_code(label) for label in LABELS] + [codes.tip_code(device) for device in Device]
    private += [value for value in vars(codes).values() if isinstance(value, codes.Concept)]
    assert all(len(each.value) <= 16 and len(each.meaning) <= 64 for each in private)
    by_value = {}
    for each in private:
        assert by_value.setdefault((each.value, each.scheme), each) == each
    for rotation in (0, 90, 180, 270):
        for distance in results.found(rotation=rotation).distances:
            assert distance.px is None or distance.what.split(" tip ")[1] in codes.DIRECTIONS
    assert set(codes.DEVICE_CODES) == set(Device)


def test_codes_of_standards_have_the_meanings_that_pydicom_has_for_them():
    """Its tables lack some; the nasogastric tube, and a meaning of the Swan-Ganz catheter without its spelling."""
    from pydicom.sr.codedict import codes as standard

    tables = ("DEVICE_CODES", "STATE_CODES", "LANDMARK_CODES", "MODALITIES")
    used = [each for table in tables for each in getattr(codes, table).values()]
    used += [each for each in vars(codes).values() if isinstance(each, codes.Concept)]
    known: dict[tuple[str, str], set[str]] = {}
    for scheme in ("DCM", "SCT"):
        for each in getattr(standard, scheme).concepts.values():
            known.setdefault((scheme, each.value), set()).add(each.meaning)
    known["SCT", "397755005"].add("Swan-Ganz catheter")
    compared = {each for each in used if (each.scheme, each.value) in known}
    assert len(compared) > 35
    assert {each for each in compared if each.meaning not in known[each.scheme, each.value]} == set()
    assert {each.value for each in used if each.scheme in ("DCM", "SCT")} - {each.value for each in compared} == {
        codes.DEVICE_CODES[Device.NGT].value
    }


def test_highdicom_reads_it(results):
    pytest.importorskip("highdicom", reason="highdicom has no wheel for this Python")
    from highdicom.sr import srread

    for name in ("all", "no-lines", "refused"):
        given = results.findings[name]((120, 100))
        (made,) = result_objects(results.film_file(), given, results.read_by, kinds=[Kind.REPORT])
        content = srread(io.BytesIO(made.content)).content
        planar, plain = content.get_planar_roi_measurement_groups(), content.get_image_measurement_groups()
        lines = () if isinstance(given, str) else given.lines
        landmarks = () if isinstance(given, str) else given.landmarks
        assert len(planar) == sum(1 + (line.tip is not None) for line in lines) + len(landmarks)
        assert plain[0].tracking_identifier == "film"
        assert len({group.tracking_uid for group in [*planar, *plain]}) == len(planar) + len(plain)
        if not lines:
            continue
        for group, line in zip([g for g in planar if g.tracking_identifier.endswith("path")], lines, strict=True):
            assert group.roi.graphic_type.name == "POLYLINE"
            assert np.allclose(group.roi.value, line.path + 0.5, atol=0.051)
            assert group.finding_type.meaning == codes.DEVICE_CODES[line.device].meaning
            (certainty,) = [m for m in group.get_measurements() if m.name.value == "111012"]
            assert certainty.value == pytest.approx(100 * line.confidence, abs=0.051)
