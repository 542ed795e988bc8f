"""Results as DICOM objects: the same bytes for the same reading, and new identifiers for everything else."""

import io
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.charset import python_encoding
from pydicom.uid import UID

from cxrlines.core.errors import Error
from cxrlines.core.film import NotAFilm
from cxrlines.io.dicom.header import parse
from cxrlines.io.dicom.origin import ORIGIN_KEYWORDS, own_or_derived
from cxrlines.io.films import read_film
from cxrlines.reading.reader import load_reader
from cxrlines.reading.results.dicom.objects import Kind, Replaced, ResultObject, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.wrapped_film import wrapped

EXAMPLE = Path(__file__).parents[4] / "src/cxrlines/embedded/example.jpg"


def opened(result: ResultObject) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(result.content))


def uids(objects: tuple[ResultObject, ...]) -> set[str]:
    return {each.sop_instance_uid for each in objects}


def elements(dataset: pydicom.Dataset) -> list[pydicom.DataElement]:
    found: list[pydicom.DataElement] = []
    dataset.walk(lambda _, element: found.append(element))
    return found


def tracking(objects: tuple[ResultObject, ...]) -> list[str]:
    return [e.value for e in elements(opened(objects[0])) if e.keyword == "UID"]


def test_the_same_reading_gives_the_same_bytes(results):
    source = results.film_file()
    one, again = (result_objects(source, results.found(), results.read_by) for _ in range(2))
    assert [each.kind for each in one] == list(Kind)
    assert one == again
    slower = replace(results.found(), seconds=99.0)
    assert result_objects(source, slower, results.read_by) == one


def test_a_batch_changes_no_byte(results):
    """Figures of a batch may differ in their last digits, and are rounded before they are written."""
    gray = cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE)
    pictures = [cv2.resize(gray, size, interpolation=cv2.INTER_AREA) for size in ((400, 380), (380, 400))]
    films = [wrapped(cv2.imencode(".png", picture)[1].tobytes(), "P-7", "1.2.3.4") for picture in pictures]
    bytes_of = {}
    reader = load_reader(batch_size=8)
    read_by = ReadBy.of(reader.bundle, "onnx", reader.tta)
    for size in (1, 8):
        reader.batch_size = size
        each = zip(films, reader.read_many(films), strict=True)
        bytes_of[size] = [result_objects(film, findings, read_by) for film, findings in each]
    assert bytes_of[1] == bytes_of[8]
    assert all(len(objects) == len(Kind) for objects in bytes_of[1])  # none was refused
    noise = [1e-6, -1e-6]
    changed = [replace(results.found(), labels={k: v + e for k, v in results.found().labels.items()}) for e in noise]
    one, other = (result_objects(results.film_file(), each, results.read_by) for each in changed)
    assert one == other


@pytest.mark.parametrize(
    "change", [{"weights": "ba9876543210"}, {"engine": "torch"}, {"tta": ("flip",)}, {"version": "1.2.4"}]
)
def test_another_model_or_setting_gives_other_identifiers(results, change):
    source = results.film_file()
    one = result_objects(source, results.found(), results.read_by)
    other = result_objects(source, results.found(), replace(results.read_by, **change))
    assert not uids(one) & uids(other)
    assert len(uids(one)) == len(Kind) and all(UID(uid).is_valid for uid in uids(one))
    assert not {opened(each).SeriesInstanceUID for each in one} & {opened(each).SeriesInstanceUID for each in other}
    if "weights" not in change:  # the device is its weights
        assert (
            opened(one[0]).AuthorObserverSequence[0].DeviceUID == opened(other[0]).AuthorObserverSequence[0].DeviceUID
        )


def test_a_corrected_film_gets_new_results_of_the_same_things(results):
    one = result_objects(results.film_file(), results.found(), results.read_by)
    corrected = result_objects(results.film_file(PatientID="P-2"), results.found(), results.read_by)
    assert not uids(one) & uids(corrected)
    assert tracking(one) == tracking(corrected)


def test_results_name_those_that_they_replace(results):
    source = results.film_file()
    old = result_objects(source, results.found(carina=False), results.read_by)
    new = result_objects(
        source, results.found(), results.read_by, replaces=[Replaced(each.kind, each.sop_instance_uid) for each in old]
    )
    report, state, capture = map(opened, new)
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == report.StudyInstanceUID
    assert series.SeriesInstanceUID == opened(old[0]).SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old[0].sop_instance_uid
    assert state.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == old[1].sop_instance_uid
    assert capture.ReferencedImageSequence[0].ReferencedSOPInstanceUID == old[2].sop_instance_uid
    assert not uids(old) & uids(new)


def test_earlier_reports_are_named_in_the_studies_in_which_they_are(results):
    replaces = [Replaced(Kind.REPORT, f"2.25.{n}", study) for n, study in enumerate(("1.2.9", "", "1.2.9"))]
    made = result_objects(results.film_file(), results.found(), results.read_by, replaces=replaces)
    moved, own = opened(made[0]).PredecessorDocumentsSequence
    assert (moved.StudyInstanceUID, own.StudyInstanceUID) == ("1.2.9", opened(made[0]).StudyInstanceUID)
    assert [len(each.ReferencedSeriesSequence) for each in (moved, own)] == [2, 1]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("ISO_IR 144", "ISO_IR 144"),
        ("ISO-IR 144", "ISO_IR 144"),
        ("ISO IR 144", "ISO_IR 144"),
        ("iso_ir_144", "ISO_IR 144"),
        ("UTF-8", "ISO_IR 192"),
        ("utf8", "ISO_IR 192"),
        ("ISO2022IR100\\ISO-2022-IR-144", "ISO 2022 IR 100\\ISO 2022 IR 144"),
        ("ISO_IR 203", "ISO_IR 203"),
        ("ISO 2022 IR 203", "ISO 2022 IR 203"),
        ("KOI8-R", "KOI8-R"),
        ("", "ISO_IR 100"),
    ],
)
def test_a_character_set_is_rightly_spelt_or_as_the_film_has_it(results, given, written, capfd):
    """A name in another character set than its own is another's name."""
    name = b"\xb8\xd2\xd0\xdd"
    source = results.film_file(PatientName="x" * len(name), SpecificCharacterSet=given.split("\\"))
    source = source.replace(b"x" * len(name), name)
    known = dict(python_encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = result_objects(source, results.found(), results.read_by)
    assert python_encoding == known, "what pydicom knows is everybody's"
    for each in made:
        found = parse(each.content, ["TransferSyntaxUID", "SpecificCharacterSet", "PatientName"])
        assert found.text("SpecificCharacterSet") == written and found["PatientName"].data == name
    assert capfd.readouterr() == ("", "")


def test_patient_study_and_time_are_the_film_s(results):
    for name in ("dx", "latin1", "no-type-2", "no-dates"):
        tags = results.films[name]
        source = results.film_file(**tags)
        film = parse(source, ["TransferSyntaxUID", "PatientName", "PatientID", "StudyInstanceUID"])
        for each in result_objects(source, results.found(), results.read_by):
            written = parse(each.content, ["TransferSyntaxUID", "PatientName", "PatientID", "StudyInstanceUID"])
            for keyword in ("PatientName", "PatientID", "StudyInstanceUID"):
                assert written[keyword].data.strip() == film[keyword].data.strip(), keyword
            dataset = opened(each)
            date = "20250203" if "ContentDate" not in tags else "19000101"
            assert dataset.SeriesDate == date
            assert "FOR RESEARCH USE ONLY" in dataset.SeriesDescription
            assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == each.sop_instance_uid
            assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID


def test_names_keep_their_character_set(results):
    for name in ("latin1", "utf8", "japanese"):
        tags = results.films[name]
        (report, *_) = result_objects(results.film_file(**tags), results.found(), results.read_by)
        assert str(opened(report).PatientName) == tags["PatientName"]
    undeclared = results.film_file(PatientName="Muller").replace(b"Muller", "Müll".encode() + b" ")
    (report, *_) = result_objects(undeclared, results.found(), results.read_by)
    assert str(opened(report).PatientName) == "Müll"


def test_what_is_invalid_is_left_empty(results):
    """Without a warning: pydicom's quote the value."""
    source = results.film_file(**results.films["invalid"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (report, *_) = result_objects(source, results.found(), results.read_by)
    dataset = opened(report)
    assert (dataset.PatientSex, dataset.PatientBirthDate, dataset.StudyTime) == ("", "", "")
    assert "PatientAge" not in dataset


@pytest.mark.parametrize(
    ("keyword", "value", "stays"),
    [
        *(("PatientBirthDate", date, False) for date in ("00000000", "19500000", "19501301", "19500230", "19500132")),
        ("PatientBirthDate", "20240229", True),
        *(("StudyDate", date, False) for date in ("00000000", "20250229")),
        *(("StudyTime", time, False) for time in ("250000", "106000", "101061", "24")),
        *(("StudyTime", time, True) for time in ("235960", "00", "1011", "101112.123456")),
        *(("TimezoneOffsetFromUTC", zone, False) for zone in ("+9999", "-0000", "+1401", "-1201", "+0160", "-1300")),
        *(("TimezoneOffsetFromUTC", zone, True) for zone in ("+0000", "+1400", "-1200", "+0545", "-0930", "+1345")),
    ],
)
def test_a_day_time_or_zone_that_cannot_be_is_left_empty(results, keyword, value, stays):
    (report, *_) = result_objects(results.film_file(**{keyword: value}), results.found(), results.read_by)
    assert str(opened(report).get(keyword, "")) == (value if stays else "")


def test_results_are_of_no_day_that_cannot_be(results):
    source = results.film_file(ContentDate="20250230", StudyDate="20250203", StudyTime="250000")
    (report, *_) = result_objects(source, results.found(), results.read_by)
    assert (opened(report).ContentDate, opened(report).ContentTime) == ("20250203", "000000")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_film_without_identifiers_is_refused_and_no_flag_named_to_who_has_none(results, keyword):
    """The way out differs: a server and a node have no flags."""
    for film, lacking in ((results.film_file(**{keyword: None}), keyword), (b"\xff\xd8\xff no DICOM", "UID")):
        with pytest.raises(Error, match=f"no valid .*{lacking}") as caught:
            result_objects(film, results.found(), results.read_by)
        assert "--" not in str(caught.value)


def test_of_a_refused_film_there_is_a_report_that_says_why(results):
    source = results.film_file()
    for findings, reason in ((results.refused(), "it is lateral"), ("it has two frames", "it has two frames")):
        (report,) = result_objects(source, findings, results.read_by)
        assert report.kind is Kind.REPORT
        texts = [e.value for e in elements(opened(report)) if e.keyword == "TextValue"]
        assert any(text.startswith("Not read: ") and reason in text for text in texts)


def test_only_what_is_wanted_is_made(results):
    (state,) = result_objects(results.film_file(), results.found(), results.read_by, kinds=[Kind.PRESENTATION])
    assert state.kind is Kind.PRESENTATION
    every = result_objects(results.film_file(), results.found(), results.read_by)
    assert state == every[1]


def test_own_results_are_known_and_not_read(results):
    source = results.film_file()
    assert own_or_derived(parse(source, ORIGIN_KEYWORDS)) is None
    for each in result_objects(source, results.found(), results.read_by):
        assert own_or_derived(parse(each.content, ORIGIN_KEYWORDS)) == "result of cxrlines"
        with pytest.raises(NotAFilm):
            read_film(each.content)


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"ImageType": ["DERIVED", "SECONDARY", "", "AI"]},
        {"Modality": "OT"},
        {"Modality": "SEG"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
        {"Manufacturer": "CXRLINES"},
    ],
)
def test_results_of_others_are_no_films(results, tags):
    assert own_or_derived(parse(results.film_file(**tags), ORIGIN_KEYWORDS))


@pytest.mark.parametrize("tags", [{"ImageType": ["DERIVED", "PRIMARY"]}, {"Manufacturer": "ACME"}, {"Modality": "CR"}])
def test_processed_films_are_films(results, tags):
    assert own_or_derived(parse(results.film_file(**tags), ORIGIN_KEYWORDS)) is None


def test_nothing_of_the_findings_changes(results):
    findings = results.found()
    before = findings.as_dict()
    result_objects(results.film_file(), findings, results.read_by)
    assert findings.as_dict() == before
    assert all(np.array_equal(a.path, b.path) for a, b in zip(findings.lines, results.found().lines, strict=True))
