"""The reader in the box: any kind of source gives the same findings, and what cannot be read costs nothing else."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

import cxrlines
from cxrlines.data.films import FilmError
from cxrlines.inference.findings import Findings
from cxrlines.inference.reader import EMBEDDED, Reader
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene


@pytest.fixture(scope="module")
def reader() -> Reader:
    return cxrlines.load_reader()


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    scene = make_scene([5], [5, 1], size=400, balance="even", site="a")
    return render(scene, difficulty=0.2, site="a", rng=np.random.default_rng(5))


def png(film: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return file.getvalue()


def dicom(film: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = film.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = film.tobytes()
    return dataset


def said(findings: Findings) -> dict:
    return {name: value for name, value in findings.as_dict().items() if name != "seconds"}


def test_any_kind_of_source_gives_the_same_findings(reader: Reader, film: np.ndarray, tmp_path: Path) -> None:
    before = film.copy()
    (tmp_path / "film.png").write_bytes(png(film))
    expected = said(reader.read(film))
    for source in (tmp_path / "film.png", str(tmp_path / "film.png"), png(film)):
        assert said(reader.read(source)) == expected
    np.testing.assert_array_equal(film, before)


def test_a_dicom_dataset_is_read_as_its_file(reader: Reader, film: np.ndarray) -> None:
    dataset = dicom(film)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    assert said(reader.read(dataset)) == said(reader.read(file.getvalue()))


def test_many_are_read_in_order_and_an_unreadable_one_stays_in_its_place(reader: Reader, film: np.ndarray) -> None:
    told: list[tuple[int, int | None]] = []
    found = list(reader.read_many([film, b"no film", film[:, ::-1].copy()], lambda *done: told.append(done)))
    assert isinstance(found[0], Findings) and isinstance(found[1], FilmError) and isinstance(found[2], Findings)
    assert found[0].labels == pytest.approx(reader.read(film).labels, abs=1e-4)
    assert told[-1] == (3, 3)


def test_lines_are_in_pixels_of_the_film_whatever_its_size(reader: Reader, film: np.ndarray) -> None:
    large = cv2.resize(film, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    small, twice = reader.read(film), reader.read(large)
    assert [line.device for line in small.lines] == [line.device for line in twice.lines] != []
    for one, other in zip(small.lines, twice.lines, strict=True):
        assert np.abs((one.path[0] + 0.5) * 2 - 0.5 - other.path[0]).max() < 0.02 * max(large.shape)


def test_what_is_no_gray_film_is_refused(reader: Reader) -> None:
    with pytest.raises(FilmError, match=r"float64 \(3, 3\); give \(h, w\) uint8"):
        reader.read(np.zeros((3, 3)))


def test_the_bundle_in_the_box_is_small_and_says_what_it_is(reader: Reader) -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 20 * 2**20
    assert "For research only" in reader.bundle.notice and "Trained on" in reader.bundle.notice
