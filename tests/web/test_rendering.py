"""Pictures and objects of a film: what they hold, and that the process which makes them may die."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.film import FilmError
from cxrlines.io.films import read_film
from cxrlines.web.rendering import Asked, Kind, Renderer, make

from .conftest import EXAMPLE, REFUSED, found

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture(scope="module")
def dicom() -> bytes:
    """A chest film (`pydicom-data`)."""
    path = get_testdata_file("RG1_UNCR.dcm")
    if path is None:
        pytest.skip("pydicom-data is not installed")
    return Path(str(path)).read_bytes()


def test_pixels_are_the_film_bit_for_bit(read_by, dicom):
    for source in (EXAMPLE, dicom):
        made = make(Asked(Kind.PIXELS, source, found(), read_by))
        np.testing.assert_array_equal(read_film(made).pixels, read_film(source).pixels)


@pytest.mark.parametrize("findings", [found(), REFUSED], ids=["read", "refused"])
def test_a_report_is_a_structured_report_of_the_film(read_by, dicom, findings):
    shape = read_film(dicom).pixels.shape
    one, other = (make(Asked(Kind.REPORT, dicom, _of(findings, shape), read_by)) for _ in range(2))
    assert one == other
    report, film = (pydicom.dcmread(io.BytesIO(data)) for data in (one, dicom))
    assert report.SOPClassUID == COMPREHENSIVE_3D_SR and report.StudyInstanceUID == film.StudyInstanceUID
    assert report.SOPInstanceUID != film.SOPInstanceUID


def _of(findings, shape):
    return found(
        film_shape=shape, lines=findings.lines, landmarks=findings.landmarks, distances=findings.distances,
        labels=findings.labels, quality=findings.quality,
    )  # fmt: skip


def test_a_picture_file_has_no_report(read_by):
    with pytest.raises(Error, match="DICOM"):
        make(Asked(Kind.REPORT, EXAMPLE, found(), read_by))


def test_another_process_makes_it_and_a_new_one_when_that_dies(read_by):
    renderer = Renderer()
    try:
        here = make(Asked(Kind.PIXELS, EXAMPLE, found(), read_by))
        assert renderer.make(Kind.PIXELS, EXAMPLE, found(), read_by) == here
        with pytest.raises(FilmError):
            renderer.make(Kind.PIXELS, b"not a film", found(), read_by)
        assert renderer._child is not None
        renderer._child.process.kill()
        renderer._child.process.wait()
        with pytest.raises(ReadingFault):
            renderer.make(Kind.PIXELS, EXAMPLE, found(), read_by)
        assert renderer.make(Kind.PIXELS, EXAMPLE, found(), read_by) == here
    finally:
        renderer.close()
