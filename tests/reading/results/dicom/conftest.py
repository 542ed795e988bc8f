"""Films of every kind as DICOM files, and findings on them."""

import io
import warnings
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.spacing import NO_SPACING, Spacing, SpacingKind
from cxrlines.reading.distances import distances_of
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.operating_points import OperatingPoint
from cxrlines.task import LABELS, Device, Landmark

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
READ_BY = ReadBy(
    "0123456789ab", "onnx", (), "1.2.3", {LABELS[0]: OperatingPoint(0.125, "sensitivity 0.9")}, {"ETT": 0.2}
)
LABELLED = {label: round(0.05 + 0.08 * k, 4) for k, label in enumerate(LABELS)}


def chest(shape: tuple[int, int], bits: int = 12) -> np.ndarray:
    """Pixels that look a little like a film: (h, w) uint16 of `bits` bits."""
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    lungs = np.exp(-(((np.abs(columns) - 0.45) / 0.25) ** 2) - ((rows - 0.1) / 0.6) ** 2)
    noise = np.random.default_rng(0).normal(0, 0.01, shape)
    gray = 0.75 - 0.6 * lungs - 0.1 * np.abs(columns) + cv2.GaussianBlur(noise, (0, 0), 1)
    return np.clip(gray * (2**bits - 1), 0, 2**bits - 1).astype(np.uint16)


def film_file(shape: tuple[int, int] = (120, 100), sop_class: str = DX, **tags: object) -> bytes:
    """A film as a DICOM file; `tags` are laid over it, None takes one away."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, "1.2.826.0.1.3680043.10.1.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.10.1.2", "1.2.826.0.1.3680043.10.1.3"
    dataset.Modality = "DX" if sop_class == DX else "CR"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "P-1"
    dataset.PatientBirthDate, dataset.PatientSex = "19500102", "F"
    dataset.StudyDate, dataset.StudyTime = "20250203", "101112"
    dataset.ContentDate, dataset.ContentTime = "20250203", "101213.5"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "A-1", "S-1", "Roe^Richard"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.ImagerPixelSpacing = [f"{350 / shape[1]:.6g}"] * 2
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    with warnings.catch_warnings():  # of values that are wrong on purpose
        warnings.simplefilter("ignore")
        for name, value in tags.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
    pixels = chest(shape)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 4095 - pixels
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def jpeg_film(**tags: object) -> bytes:
    """A film of 8 bits in a lossy transfer syntax; tags as of `film_file`."""
    window = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    dataset = pydicom.dcmread(io.BytesIO(film_file(**window, **tags)))
    jpeg = cv2.imencode(".jpg", chest((120, 100), 8).astype(np.uint8))[1].tobytes()
    dataset.PixelData = encapsulate([jpeg])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(out, dataset)
    return out.getvalue()


def found(
    shape: tuple[int, int] = (120, 100),
    *,
    spacing: Spacing = Spacing(SpacingKind.DETECTOR, (3.5, 3.5)),
    carina: bool = True,
    lines: bool = True,
    labels: dict[str, float] | None = LABELLED,
    rotation: int = 0,
    faded: bool = False,
) -> Findings:
    """An endotracheal tube, a nasogastric tube that leaves the film, a catheter, and the carina.

    `faded`: the catheter's tip is not seen.
    """
    height, width = shape

    def path(*points: tuple[float, float]) -> np.ndarray:
        return np.array(points) * [width - 1, height - 1]

    ett, ngt = path((0.5, 0.0), (0.5, 0.2), (0.51, 0.3)), path((0.52, 0.0), (0.53, 0.5), (0.6, 1.0))
    cvc = path((0.3, 0.1), (0.42, 0.2), (0.44, 0.45))
    every = (
        Line(Device.ETT, ett, ett[-1], 0.912345),
        Line(Device.NGT, ngt, None, 0.7),
        Line(Device.CVC, cvc, None if faded else cvc[-1], 0.6123, cvc[-1] if faded else None),
    )
    result = Findings(
        shape,
        every if lines else (),
        {Landmark.CARINA: Keypoint(path((0.5, 0.42))[0], 0.8)} if carina else {},
        (),
        labels,
        spacing,
        quality=Quality(rotation=rotation),
        calibrated=True,
        evidence=dict.fromkeys(Device.__members__, 0.5),
    )
    return replace(result, distances=tuple(distances_of(result)))


def refused(shape: tuple[int, int] = (120, 100)) -> Findings:
    reason = Note(Code.LATERAL, "its View Position says that it is lateral")
    return Findings(shape, (), {}, (), quality=Quality(notes=(reason,), usable=False))


FINDINGS = {
    "all": lambda shape: found(shape),
    "calibrated": lambda shape: found(shape, spacing=Spacing(SpacingKind.CALIBRATED, (3.0, 3.0), 1.1)),
    "no-spacing": lambda shape: found(shape, spacing=NO_SPACING),
    "no-carina": lambda shape: found(shape, carina=False),
    "no-lines": lambda shape: found(shape, lines=False),
    "no-labels": lambda shape: found(shape, labels=None),
    "rotated": lambda shape: found(shape, rotation=90),
    "refused": refused,
    "unreadable": lambda shape: "NumberOfFrames is 2; a film is one frame",
}
FILMS = {
    "dx": {},
    "cr": {"sop_class": CR},
    "mono1": {"PhotometricInterpretation": "MONOCHROME1"},
    "mono1-identity": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    "no-spacing": {"ImagerPixelSpacing": None},
    "no-window": {"WindowCenter": None, "WindowWidth": None},
    "no-type-2": dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyTime")
    ),
    "no-dates": dict.fromkeys(("StudyDate", "StudyTime", "ContentDate", "ContentTime")),
    "latin1": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"},
    "utf8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "山田^太郎"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "invalid": {"PatientSex": "Q", "PatientBirthDate": "1.2.50", "StudyTime": "10:11", "PatientAge": "old"},
    "rescaled": {"RescaleIntercept": -1024, "RescaleSlope": 2},
}


@pytest.fixture(scope="session")
def results() -> SimpleNamespace:
    return SimpleNamespace(
        film_file=film_file,
        jpeg_film=jpeg_film,
        found=found,
        refused=refused,
        films=FILMS,
        findings=FINDINGS,
        read_by=READ_BY,
        CR=CR,
        DX=DX,
    )
