"""DICOM objects of films that are no DICOM files: of the patient and study that a request names for them."""

import io

import numpy as np
import pydicom
import pytest

from cxrlines.core.errors import Error
from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom.film_identifiers import Identifiers
from cxrlines.reading.results.dicom.objects import Kind as Result
from cxrlines.reading.results.dicom.objects import result_objects
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.web import rendering
from cxrlines.web.identifiers import PATIENT, STUDY
from cxrlines.web.rendering import Kind

from .conftest import EXAMPLE, found

STUDY_UID = "1.2.826.0.1.3680043.10.1.77"
NAMED = {PATIENT: "PLANTED-7", STUDY: STUDY_UID}
JPEG = {"Content-Type": "image/jpeg"}


def test_a_jpeg_gets_the_report_and_the_film_that_predict_writes(web, read_by):
    serving = web()
    report = serving("POST", "/v1/read", content=EXAMPLE, headers=JPEG | NAMED | {"Accept": "application/dicom"})
    film = serving("POST", "/v1/film.dcm", content=EXAMPLE, headers=JPEG | NAMED)
    assert (report.status_code, film.status_code) == (200, 200)
    here = wrapped(EXAMPLE, "PLANTED-7", STUDY_UID)
    assert film.content == here and film.headers["content-type"] == "application/dicom"
    assert report.content == result_objects(here, found(), read_by, kinds=[Result.REPORT])[0].content
    one, other = (pydicom.dcmread(io.BytesIO(each.content)) for each in (report, film))
    (study,) = one.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == other.SOPInstanceUID
    np.testing.assert_array_equal(read_film(film.content).pixels, read_film(EXAMPLE).pixels)


def test_without_them_it_says_how(web):
    serving = web()
    for path, extra in (("/v1/read", {"Accept": "application/dicom"}), ("/v1/film.dcm", {})):
        answer = serving("POST", path, content=EXAMPLE, headers=JPEG | extra)
        assert answer.status_code == 422 and PATIENT in answer.json()["way_out"]
    assert serving.service.intake.under_way == 0


@pytest.mark.parametrize(
    "given", [{PATIENT: "PLANTED-7"}, {STUDY: STUDY_UID}, NAMED | {STUDY: "PLANTED"}, NAMED | {PATIENT: "PLANTED\\7"}]
)
def test_those_that_are_not_valid_are_refused_and_not_repeated(web, given):
    answer = web()("POST", "/v1/read", content=EXAMPLE, headers=JPEG | given | {"Accept": "application/dicom"})
    assert answer.status_code == 400 and answer.json()["code"] == "identifiers"
    assert "PLANTED" not in answer.text


OWN = {PATIENT: "PLANTED-OWN", STUDY: "1.2.3"}
DICOM = {"Content-Type": "application/dicom"}
ASKED = (("/v1/film.dcm", {}), ("/v1/read", {"Accept": "application/dicom"}))


def own_film(**changes: str | None) -> bytes:
    """A DICOM film of `OWN`; elements that are None are left out."""
    film = pydicom.dcmread(io.BytesIO(wrapped(EXAMPLE, OWN[PATIENT], OWN[STUDY])))
    for keyword, value in changes.items():
        if value is None:
            delattr(film, keyword)
        else:
            setattr(film, keyword, value)
    film.save_as(file := io.BytesIO())
    return file.getvalue()


@pytest.mark.parametrize("given", [{}, OWN, OWN | {PATIENT: " PLANTED-OWN "}], ids=["none", "its own", "padded"])
def test_a_dicom_film_keeps_its_own(web, given):
    own = own_film()
    assert web()("POST", "/v1/film.dcm", content=own, headers=DICOM | given).content == own
    report = web()("POST", "/v1/read", content=own, headers=DICOM | given | {"Accept": "application/dicom"})
    assert pydicom.dcmread(io.BytesIO(report.content)).PatientID == OWN[PATIENT]


@pytest.mark.parametrize("given", [NAMED, OWN | {PATIENT: "PLANTED-7"}, OWN | {STUDY: STUDY_UID}])
@pytest.mark.parametrize(
    "changes", [{}, {"PatientID": ""}, {"PatientID": "PLANTED-\xd6"}], ids=["both", "no patient", "not ASCII"]
)
def test_a_dicom_film_is_not_filed_under_another_patient_or_study(web, given, changes):
    serving, own = web(), own_film(**changes)
    for path, extra in ASKED:
        answer = serving("POST", path, content=own, headers=DICOM | given | extra)
        assert (answer.status_code, answer.json()["code"]) == (422, "not-possible")
        assert PATIENT in answer.json()["detail"] and "leave" in answer.json()["way_out"]
        assert "PLANTED" not in answer.text and STUDY_UID not in answer.text


@pytest.mark.parametrize("kept", [False, True], ids=["sent", "kept"])
def test_a_dicom_film_without_a_study_says_by_which_headers_it_is_named(web, kept):
    serving, bare = web(), own_film(StudyInstanceUID=None)
    if kept:
        film = serving("POST", "/v1/films", content=bare, headers=DICOM).json()["id"]
        answer = serving("GET", f"/v1/films/{film}/report.dcm")
    else:
        answer = serving("POST", "/v1/read", content=bare, headers=DICOM | {"Accept": "application/dicom"})
    assert (answer.status_code, answer.json()["code"]) == (422, "not-possible")
    assert "StudyInstanceUID" in answer.json()["detail"]
    assert PATIENT in answer.json()["way_out"] and STUDY in answer.json()["way_out"] and "--" not in answer.text


def test_one_without_a_study_that_is_of_another_patient_says_by_headers_too(monkeypatch, read_by):
    def refuse(source: bytes, *identifiers: str) -> bytes:
        raise Error("the film's file names another patient", "give --patient-id")

    monkeypatch.setattr(rendering, "wrapped", refuse)
    asked = rendering.Asked(Kind.FILM, own_film(StudyInstanceUID=None), None, read_by, Identifiers("P-7", "1.2.3"))
    with pytest.raises(Error, match=r"names another patient; .*Patient-ID") as raised:
        rendering.make(asked)
    assert "--" not in str(raised.value)


def test_a_film_that_the_page_keeps_gets_the_same_objects(web):
    serving = web()
    kept = serving("POST", "/v1/films", content=EXAMPLE, headers=JPEG).json()
    assert kept["words"]["identified"] is False
    place = f"/v1/films/{kept['id']}"
    for name, path in (("report.dcm", "/v1/read"), ("film.dcm", "/v1/film.dcm")):
        sent = JPEG | NAMED | {"Accept": "application/dicom"}
        made = serving("GET", f"{place}/{name}", headers=NAMED)
        assert made.status_code == 200 and made.headers["content-type"] == "application/dicom"
        assert made.content == serving("POST", path, content=EXAMPLE, headers=sent).content
        assert serving("GET", f"{place}/{name}").status_code == 422  # they are not kept
        assert serving("GET", f"{place}/{name}", headers={PATIENT: "PLANTED-7"}).json()["code"] == "identifiers"


def test_a_kept_film_as_a_capture_is_what_predict_writes(web, read_by):
    serving = web()
    kept = serving("POST", "/v1/films", content=EXAMPLE, headers=JPEG).json()
    made = serving("GET", f"/v1/films/{kept['id']}/capture.dcm", headers=NAMED)
    assert made.status_code == 200 and made.headers["content-type"] == "application/dicom"
    here = wrapped(EXAMPLE, "PLANTED-7", STUDY_UID)
    assert made.content == result_objects(here, found(), read_by, kinds=[Result.CAPTURE])[0].content


def test_the_page_knows_a_dicom_film_that_names_its_own(web):
    own = wrapped(EXAMPLE, "OWN", "1.2.3")
    headers = {"Content-Type": "application/dicom"}
    kept = web()("POST", "/v1/films", content=own, headers=headers).json()
    assert kept["words"]["identified"] is True


def test_they_are_described(web):
    described = web()("GET", "/openapi.json").json()["paths"]
    for path, method in (
        ("/v1/read", "post"),
        ("/v1/film.dcm", "post"),
        ("/v1/films/{film}/report.dcm", "get"),
        ("/v1/films/{film}/capture.dcm", "get"),
        ("/v1/films/{film}/film.dcm", "get"),
    ):
        named = [each["name"] for each in described[path][method]["parameters"] if each["in"] == "header"]
        assert named == [PATIENT, STUDY]
