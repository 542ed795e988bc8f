"""Films and corrections of them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import pytest

from cxrlines.corrections.correction import CorrectedLine, Correction, Mark
from cxrlines.task import Device, State

TIME = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def drawn(device: Device, state: State, *points: tuple[float, float], **more: Any) -> CorrectedLine:
    return CorrectedLine(device=device, state=state, points=points, mark=more.pop("mark", Mark.DRAWN), **more)


@pytest.fixture
def line() -> Callable[..., CorrectedLine]:
    """A line of a device in a state, through points; drawn, unless `mark` says otherwise."""
    return drawn


@pytest.fixture
def said() -> Callable[..., Correction]:
    """A correction by R. Reader."""
    return lambda **values: Correction(**({"author": "R. Reader", "time": TIME} | values))


@pytest.fixture
def png() -> Callable[..., bytes]:
    """The bytes of a PNG of noise of its own for each seed."""

    def make(seed: int = 0, height: int = 60, width: int = 80) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 255, (height, width), dtype=np.uint8)
        return cv2.imencode(".png", pixels)[1].tobytes()

    return make


@pytest.fixture
def dicom() -> Callable[..., bytes]:
    """The bytes of a small DICOM film."""

    def make(seed: int = 0, patient: str = "P-1", study: str = "1.2.826.1", sop: str = "1.2.826.1.1") -> bytes:
        import io

        import pydicom
        from pydicom.uid import ExplicitVRLittleEndian

        film = pydicom.Dataset()
        film.file_meta = pydicom.dataset.FileMetaDataset()
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.SOPClassUID = film.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = sop
        film.StudyInstanceUID, film.PatientID, film.Modality = study, patient, "DX"
        film.Rows, film.Columns, film.SamplesPerPixel, film.PhotometricInterpretation = 60, 80, 1, "MONOCHROME2"
        film.BitsAllocated = film.BitsStored = 8
        film.HighBit, film.PixelRepresentation = 7, 0
        film.PixelData = np.random.default_rng(seed).integers(0, 255, (60, 80), dtype=np.uint8).tobytes()
        file = io.BytesIO()
        film.save_as(file, enforce_file_format=True)
        return file.getvalue()

    return make
