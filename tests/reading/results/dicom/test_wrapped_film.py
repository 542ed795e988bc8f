"""Films that are no DICOM files, as DICOM images of a patient and a study that are named."""

import io

import cv2
import numpy as np
import pydicom
import pytest

from cxrlines.core.errors import Error
from cxrlines.io.dicom.header import parse
from cxrlines.io.dicom.origin import ORIGIN_KEYWORDS, own_or_derived
from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom.film_identifiers import has_identifiers
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.dicom.wrapped_film import wrapped

STUDY = "1.2.826.0.1.3680043.10.1.2"
"""Of `results.film_file`."""


def picture(ending: str) -> bytes:
    gray = np.tile(np.linspace(0, 250, 101).astype(np.uint8), (120, 1))
    return cv2.imencode(ending, gray)[1].tobytes()


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_it_shows_the_same_film(ending):
    film = picture(ending)
    made = wrapped(film, "P-7", "1.2.3.4")
    assert np.array_equal(read_film(made).pixels, read_film(film).pixels)
    assert made == wrapped(film, "P-7", "1.2.3.4")
    dataset = pydicom.dcmread(io.BytesIO(made))
    assert (dataset.PatientID, dataset.StudyInstanceUID) == ("P-7", "1.2.3.4")
    assert ("LossyImageCompression" in dataset) == (ending == ".jpg")
    assert own_or_derived(parse(made, ORIGIN_KEYWORDS)) is None  # it is a film


def test_others_get_other_identifiers():
    films = [wrapped(picture(".png"), *who) for who in (("P-7", "1.2.3.4"), ("P-8", "1.2.3.4"), ("P-7", "1.2.3.5"))]
    films.append(wrapped(picture(".jpg"), "P-7", "1.2.3.4"))
    assert len({pydicom.dcmread(io.BytesIO(film)).SOPInstanceUID for film in films}) == 4


def test_results_refer_to_it(results):
    source = wrapped(picture(".png"), "P-7", "1.2.3.4")
    assert has_identifiers(source) and not has_identifiers(picture(".png"))
    uid = pydicom.dcmread(io.BytesIO(source)).SOPInstanceUID
    objects = result_objects(source, results.found((120, 101)), results.read_by)
    assert [each.kind for each in objects] == list(Kind)
    for each in objects:
        assert uid.encode() in each.content
        assert pydicom.dcmread(io.BytesIO(each.content)).PatientID == "P-7"


def test_a_film_without_a_study_is_given_one(results):
    bare = results.film_file(StudyInstanceUID=None)
    assert not has_identifiers(bare)
    made = wrapped(bare, "P-1", "1.2.3.4")
    assert np.array_equal(read_film(made).pixels, read_film(bare).pixels)


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ({"SOPInstanceUID": "1.02.3"}, ("OTHER-B", STUDY)),
        ({"SOPInstanceUID": "1.02.3"}, ("P-1", "1.9.9")),
        ({"StudyInstanceUID": None}, ("OTHER-B", "1.9.9")),
    ],
)
def test_a_film_that_names_its_patient_or_study_is_given_no_other(results, own, given):
    with pytest.raises(Error, match=r"(PatientID|StudyInstanceUID): .*another") as caught:
        wrapped(results.film_file(**own), *given)
    assert not any(text in str(caught.value) for text in ("P-1", "OTHER-B", STUDY, "1.9.9"))


@pytest.mark.parametrize("own", ["P-1", "ANON", None])
def test_what_the_film_says_of_itself_stays(results, own):
    """Its patient and study where they are the given ones, or it names none; when it was taken; its spacing."""
    bare = results.film_file(
        SeriesInstanceUID=None,
        PatientID=own,
        PatientName="Doe^Jane",
        BurnedInAnnotation="YES",
        PatientOrientation=["R", "F"],
        DistanceSourceToDetector="1800",
    )
    made = wrapped(bare, "P-1", STUDY)
    film, dataset = read_film(made), pydicom.dcmread(io.BytesIO(made))
    assert (dataset.PatientID, dataset.StudyInstanceUID) == ("P-1", STUDY)
    assert (dataset.PatientName, dataset.StudyDate, dataset.AccessionNumber) == ("Doe^Jane", "20250203", "A-1")
    assert (dataset.ContentDate, dataset.ContentTime, dataset.BurnedInAnnotation) == ("20250203", "101213.5", "YES")
    assert film.spacing == read_film(bare).spacing and film.spacing.mm_per_px
    assert film.notes == read_film(bare).notes != ()
    assert wrapped(bare, "P-1", STUDY) == made


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelAspectRatio": ["2", "1"], "ViewPosition": "PA"},
        {"ViewPosition": "LL"},
        {"ViewPosition": "Thorax seitlich Doe"},
        {"PixelAspectRatio": ["0", "1"], "ViewPosition": "by Doe"},
        {"PatientAge": "10"},
        {"PatientBirthDate": "2015.01.02", "StudyDate": "2025.02.03", "ContentDate": None},
    ],
)
def test_read_again_it_is_the_same_film(results, tags):
    """As wide for its height, and of the same view, which free text, that may name the patient, is not copied for."""
    bare = results.film_file(SeriesInstanceUID=None, ImagerPixelSpacing=None, **tags)
    made = wrapped(bare, "P-1", STUDY)
    film, again = read_film(bare), read_film(made)
    assert (again.pixel_aspect, again.view, again.notes) == (film.pixel_aspect, film.view, film.notes)
    assert "Doe" not in str(pydicom.dcmread(io.BytesIO(made)).get("ViewPosition", ""))


def test_what_is_not_valid_is_not_taken_over(results):
    bare = results.film_file(SeriesInstanceUID=None, ImagerPixelSpacing=[0, 1], ContentDate="today", PatientSex="Q")
    dataset = pydicom.dcmread(io.BytesIO(wrapped(bare, "P-1", STUDY)))
    assert "ImagerPixelSpacing" not in dataset and "ContentDate" not in dataset and dataset.PatientSex == ""


def test_a_jpeg_within_dicom_is_lossy_too(results):
    dataset = pydicom.dcmread(io.BytesIO(wrapped(results.jpeg_film(SeriesInstanceUID=None), "P-1", STUDY)))
    assert (dataset.LossyImageCompression, dataset.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
