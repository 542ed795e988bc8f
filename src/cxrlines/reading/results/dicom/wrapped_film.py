"""A film that is no DICOM file, or lacks identifiers, as a DICOM image of a patient and study that are named for it."""

import re

from pydicom.dataset import Dataset

from cxrlines.core.errors import Error
from cxrlines.io.dicom.header import valid_uid
from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom.datasets import finalize
from cxrlines.reading.results.dicom.source_film import SourceFilm

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage: an image that came into DICOM from elsewhere."""
SERIES_NUMBER = 9900


def check_identifiers(patient_id: str | None, study_uid: str | None) -> None:
    """`Error` unless both are given and valid, or neither."""
    if (patient_id is None) != (study_uid is None):
        one, other = ("--study-uid", "--patient-id") if patient_id is None else ("--patient-id", "--study-uid")
        raise Error(f"{one}: a film's patient and study belong together, and {other} is missing", "give both")
    if study_uid is not None and not valid_uid(study_uid):
        raise Error(
            f"--study-uid {study_uid[:64]!r}: is no DICOM UID (digits and points, at most 64, no leading zeros)",
            "take the study's own, from its PACS or from the table of films",
        )
    if patient_id is not None and not re.fullmatch(r"[ -\[\]-~]{1,64}", patient_id.strip()):
        raise Error(
            "--patient-id: is empty, or no DICOM identifier (64 ASCII characters at most, no backslash)",
            "take the patient's own, from its PACS or from the table of films",
        )


def has_identifiers(data: bytes) -> bool:
    """Whether a film's file is a DICOM file that results can refer to."""
    try:
        SourceFilm.of(data)
    except Error:
        return False
    return True


def wrapped(data: bytes, patient_id: str, study_uid: str) -> bytes:
    """A film as an 8-bit DICOM image of that patient and study, as its results need one to refer to.

    The same film, patient and study give the same bytes. It has no date and no spacing: the film's file has none.

    Raises:
        FilmError: the film cannot be decoded. Error: the identifiers are not valid.
    """
    check_identifiers(patient_id, study_uid)
    film = read_film(data)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.StudyInstanceUID = SOP_CLASS, study_uid
    dataset.PatientID = patient_id.strip()
    for name in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, name, None)
    for name in ("StudyDate", "StudyTime", "StudyID", "PatientOrientation", "Manufacturer"):
        setattr(dataset, name, None)
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "RG", SERIES_NUMBER, 1
    dataset.SeriesDescription = f"Film, from {film.format}"
    dataset.BodyPartExamined = "CHEST"
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["ORIGINAL", "SECONDARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = film.pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if film.format == "JPEG":
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
        dataset.LossyImageCompressionRatio = f"{film.pixels.size / len(data):.4g}"
    dataset.add_new("PixelData", "OB", film.pixels.tobytes() + b"\0" * (film.pixels.size % 2))
    return finalize(dataset, "film", study_uid, patient_id.strip())[1]
