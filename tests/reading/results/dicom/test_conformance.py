"""Every kind of result, of every kind of film and finding: without an error by dciodvfy."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from cxrlines.io.films import read_film
from cxrlines.reading.reader import load_reader
from cxrlines.reading.results.dicom.objects import Kind, Replaced, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.wrapped_film import wrapped

pytestmark = pytest.mark.doors
DCIODVFY = Path(sys.executable).with_name("dciodvfy")
REAL = Path(pydicom.__file__).parents[1] / "data_store/data/RG1_UNCI.dcm"
EXAMPLE = Path(__file__).parents[4] / "src/cxrlines/embedded/example.jpg"
SHARED = Path(__file__).parents[5] / "shared/data/cxr/images"


def check(content: bytes, folder: Path) -> None:
    """`AssertionError` with every error that dciodvfy finds."""
    path = folder / "object.dcm"
    path.write_bytes(content)
    said = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, errors="replace", timeout=60)
    errors = [line for line in said.stderr.splitlines() if re.search("error|abort|cannot", line, re.I)]
    assert not errors and said.returncode == 0, f"{said.returncode}: {errors}"
    assert re.search("^(Comprehensive3DSR|GrayscaleSoftcopyPresentationState|SCImage)$", said.stderr, re.M)


def test_the_oracle_finds_errors(results, tmp_path):
    report = result_objects(results.film_file(), results.found(), results.read_by)[0].content
    with pytest.raises(AssertionError):
        check(report.replace(b"UNVERIFIED", b"UNVERIFYED"), tmp_path)


@pytest.mark.parametrize("name", ["all", "calibrated", "no-spacing", "no-carina", "no-lines", "no-labels", "rotated"])
def test_every_finding(results, tmp_path, name):
    earlier = [Replaced(kind, "1.2.3") for kind in Kind]
    objects = result_objects(results.film_file(), results.findings[name]((120, 100)), results.read_by, replaces=earlier)
    assert [each.kind for each in objects] == list(Kind)
    for each in objects:
        check(each.content, tmp_path)


def test_a_film_that_lacks_identifiers(results, tmp_path):
    spacing = {"ImagerPixelSpacing": None, "PixelSpacing": ["3.5", "3.5"], "PixelSpacingCalibrationType": "FIDUCIAL"}
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12", "BurnedInAnnotation": "YES"}
    for tags in ({}, spacing, lossy):
        film = wrapped(results.film_file(SeriesInstanceUID=None, **tags), "P-1", "1.2.826.0.1.3680043.10.1.2")
        for content in (film, *(each.content for each in result_objects(film, results.found(), results.read_by))):
            check(content, tmp_path)


@pytest.mark.parametrize("name", ["refused", "unreadable"])
def test_a_film_that_is_not_read(results, tmp_path, name):
    (report,) = result_objects(results.film_file(), results.findings[name]((120, 100)), results.read_by)
    check(report.content, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("cr", "mono1", "mono1-identity", "no-spacing", "no-window", "no-type-2", "no-dates"),
        *("latin1", "utf8", "japanese", "invalid", "rescaled"),
    ],
)
def test_every_film(results, tmp_path, name):
    for each in result_objects(results.film_file(**results.films[name]), results.found(), results.read_by):
        check(each.content, tmp_path)


@pytest.mark.parametrize("name", ["dx", "mono1", "mono1-identity", "no-window", "rescaled"])
def test_dcmtk_shows_a_film_by_its_presentation_state_as_it_is_shown_here(results, tmp_path, name):
    source = results.film_file(**results.films[name])
    (state,) = result_objects(source, results.found(), results.read_by, kinds=[Kind.PRESENTATION])
    film, laid_over, shown = (tmp_path / each for each in ("film.dcm", "state.dcm", "shown.pgm"))
    film.write_bytes(source)
    laid_over.write_bytes(state.content)
    subprocess.run(["dcmp2pgm", "-p", laid_over, film, shown], check=True, capture_output=True, timeout=60)
    pixels = cv2.imread(str(shown), cv2.IMREAD_GRAYSCALE).astype(int)
    assert np.abs(pixels - read_film(source).pixels).max() <= 1


def test_dcmtk_reads_the_report(results, tmp_path):
    for findings in results.findings.values():
        report = result_objects(results.film_file(), findings((120, 100)), results.read_by, kinds=[Kind.REPORT])[0]
        path = tmp_path / "report.dcm"
        path.write_bytes(report.content)
        said = subprocess.run(["dsrdump", path], check=True, capture_output=True, text=True, timeout=60)
        assert "Comprehensive 3D SR Document" in said.stdout and not said.stderr
        regions = re.findall(r"contains SCOORD.*=\((POINT|POLYLINE),", said.stdout)
        assert len(regions) == report.content.count(b"SCOORD")


def test_a_film_of_several_thousand_px(results, tmp_path):
    shape = (3100, 2500)
    for each in result_objects(results.film_file(shape), results.found(shape), results.read_by):
        check(each.content, tmp_path)


def test_real_films_as_they_are_read(tmp_path):
    """A DICOM film, the example, and where they are at hand real ICU films, upright and turned."""
    reader = load_reader()
    read_by = ReadBy.of(reader.bundle, "onnx", reader.tta)
    turned = cv2.rotate(cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE), cv2.ROTATE_90_COUNTERCLOCKWISE)
    pictures = [EXAMPLE.read_bytes(), cv2.imencode(".png", turned)[1].tobytes()]
    pictures += [path.read_bytes() for path in sorted(SHARED.glob("*.jpg"))[:2]]
    films = [wrapped(picture, "P-7", "1.2.3.4") for picture in pictures]
    for film in films:
        check(film, tmp_path)
    films += [REAL.read_bytes()] if REAL.exists() else []
    rotations, lines = set(), 0
    for film in films:
        findings = reader.read(film)
        rotations.add(findings.quality.rotation)
        lines += len(findings.lines)
        for each in result_objects(film, findings, read_by):
            check(each.content, tmp_path)
    assert lines >= 4 and {0, 90} <= rotations
