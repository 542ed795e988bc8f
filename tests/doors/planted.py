"""Films in which 24 identifiers are planted, right ones and all kinds of wrong ones."""

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pydicom
from PIL import Image

from cxrlines.lab.intact_films import as_dicom

from .node_process import DX
from .serving import EXAMPLE

ROOT = "1.2.826.0.1.3680043.10.7777"
TEXTS = {
    "PatientName": "Plantqa^Nameqb",
    "PatientID": "PLANTQC",
    "PatientBirthDate": "19310417",
    "AccessionNumber": "PLANTQD",
    "PatientAddress": "PLANTQE Street 7",
    "PatientTelephoneNumbers": "555PLANTQF",
    "ReferringPhysicianName": "Plantqg^Doctor",
    "OperatorsName": "Plantqh^Operator",
    "InstitutionName": "PLANTQI Hospital",
    "StudyDescription": "PLANTQJ chest",
    "SeriesDescription": "PLANTQK chest",
    "ProtocolName": "PLANTQL",
    "StationName": "PLANTQM",
    "ImageComments": "PLANTQN",
    "AdditionalPatientHistory": "PLANTQO",
    "OtherPatientIDs": "PLANTQP",
    "DeviceSerialNumber": "PLANTQQ",
}
"""By element of a film."""
UIDS = {"StudyInstanceUID": f"{ROOT}.1", "SeriesInstanceUID": f"{ROOT}.2", "SOPInstanceUID": f"{ROOT}.3"}
WORDS = ("plantq", "19310417", ROOT)
"""What none of the planted texts is without, in small letters; those that are not in `TEXTS` too."""


def planted_in(text: str) -> list[str]:
    """Each line of a text with something planted."""
    return [line for line in text.splitlines() if any(word in line.lower() for word in WORDS)]


def planted_film(pixels: np.ndarray | None = None, **tags: object) -> bytes:
    """A film of `TEXTS` and `UIDS`, in its preamble, a private element and a sequence too; `tags` are laid over."""
    pixels = cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE) if pixels is None else pixels
    more = {"SOPClassUID": DX, "Modality": "DX", "ViewPosition": "AP", "StudyDate": "20260102", "StudyTime": "101112"}
    dataset = pydicom.dcmread(io.BytesIO(as_dicom(pixels, 8, **{**more, **UIDS, **TEXTS, **tags})))
    dataset.file_meta.MediaStorageSOPInstanceUID = UIDS["SOPInstanceUID"]
    dataset.private_block(0x0009, "PLANTQR", create=True).add_new(1, "LO", "PLANTQS")
    item = pydicom.Dataset()
    item.PatientID, item.PatientName = "PLANTQT", "Plantqu^Other"
    dataset.OtherPatientIDsSequence = [item]
    dataset.preamble = b"PLANTQV".ljust(128, b"\0")
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def films() -> Iterator[tuple[str, bytes]]:
    """(name, file): a right film, and those that errors, refusals and warnings are made of."""
    yield "right", planted_film()
    small = np.zeros((40, 30), np.uint8)
    film = planted_film(small)
    yield "cut", film[: len(film) - 700]
    yield "headless", film[:-1300]
    yield "lateral", planted_film(small, ViewPosition="LL")
    yield "own", planted_film(small, Manufacturer="cxrlines")
    yield "frames", planted_film(small, NumberOfFrames=2)
    # A name, or another identifier, in every element that reading looks at.
    for keyword, value in (
        *((name, "PLANTQW") for name in ("Modality", "ViewPosition", "PhotometricInterpretation", "Manufacturer")),
        *((name, "PLANTQW") for name in ("VOILUTFunction", "PixelSpacingCalibrationType", "Laterality", "PatientSex")),
        *((name, "PLANTQW") for name in ("SpecificCharacterSet", "ImageType", "BodyPartExamined", "PatientAge")),
    ):
        yield keyword, planted_film(small, **{keyword: value})
    for keyword in ("WindowCenter", "NumberOfFrames", "PixelSpacing", "StudyDate", "StudyTime", "PatientBirthDate"):
        yield keyword, _text_in(film, keyword)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"):
        yield keyword, _text_in(film, keyword)
    yield "syntax", film.replace(b"1.2.840.10008.1.2.1\0", b"PLANTQX.PLANTQX.PLAN", 1)
    yield "letter", b"Dear Doctor Plantqg, your patient PLANTQC"
    jpeg = io.BytesIO()
    Image.fromarray(small).save(jpeg, "JPEG", comment=b"PLANTQY", exif=_exif())
    yield "jpeg", jpeg.getvalue()
    yield "cut jpeg", jpeg.getvalue()[:-200]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "PLANTQZ"  # ImageDescription
    return exif


def _text_in(film: bytes, keyword: str) -> bytes:
    """A text where a number, a date or a UID belongs, as no library would write it."""
    dataset = pydicom.dcmread(io.BytesIO(film))
    text = b"PLANTQW "
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    vr = pydicom.datadict.dictionary_VR(tag)
    dataset[tag] = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), vr, len(text), text, 0, False, True)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()
