"""A film that is no DICOM file, or lacks identifiers, as a DICOM image of a patient and study that are named for it."""

import re

import numpy as np
from pydicom.dataset import Dataset

from cxrlines.core.errors import Error
from cxrlines.io.dicom.header import Elements, parse, valid_uid, view_of
from cxrlines.io.films import read_film
from cxrlines.io.rows import PLACEHOLDERS
from cxrlines.reading.results.dicom.datasets import copy_history, copy_patient_and_study, finalize, set_raw
from cxrlines.reading.results.dicom.film_identifiers import check_identifiers
from cxrlines.reading.results.dicom.source_film import DATES, KEYWORDS, SPACING, standard

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage: an image that came into DICOM from elsewhere."""
SERIES_NUMBER = 9900


def wrapped(data: bytes, patient_id: str, study_uid: str) -> bytes:
    """A film as an 8-bit DICOM image of that patient and study, as its results need one to refer to.

    The same film, patient and study give the same bytes. Of a DICOM file it has what results take from one, such as its
    date and spacing; of another it has none.

    Raises:
        FilmError: the film cannot be decoded. Error: the identifiers are not valid, or the file has others.
    """
    check_identifiers(patient_id, study_uid)
    film = read_film(data)
    header = parse(data, KEYWORDS) if film.format == "DICOM" else Elements()
    _check_same(header, patient_id.strip(), study_uid)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.StudyInstanceUID = SOP_CLASS, study_uid
    copy_patient_and_study(header, dataset)
    _copy_dates_and_geometry(header, dataset)
    copy_history(header, dataset)
    dataset.PatientID = patient_id.strip()
    dataset.Manufacturer = None
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


def _check_same(header: Elements, patient_id: str, study_uid: str) -> None:
    """`Error` where a file names another patient or study than the given ones; its text repeats none."""
    own_patient, own_study = header.text("PatientID"), valid_uid(header.text("StudyInstanceUID"))
    named = own_patient and own_patient.lower() not in PLACEHOLDERS
    for name, differs in (
        ("PatientID", named and own_patient != patient_id),
        ("StudyInstanceUID", own_study and own_study != study_uid),
    ):
        if differs:
            raise Error(f"{name}: the film's file has another one than is given for it", "give its own, or correct it")


def _copy_dates_and_geometry(header: Elements, dataset: Dataset) -> None:
    """Copy when a film was taken, its view, spacing and orientation, where they are valid."""
    for name in DATES[:-1]:  # not when the file was made
        time = name.replace("Date", "Time")
        if date := standard(header, name):
            set_raw(dataset, name, date.encode("ascii"))
            if (at := standard(header, time)) is not None:
                set_raw(dataset, time, at.encode("ascii"))
    for name in SPACING:
        numbers = header.numbers(name)
        if len(numbers) == 1 + name.endswith("Spacing") and all(0 < number < np.inf for number in numbers):
            set_raw(dataset, name, header[name].data)
    aspect = header.numbers("PixelAspectRatio")
    # PS3.3 C.7.6.3: where pixels are not square, and no spacing says so.
    spaced = any(name in dataset for name in SPACING if name.endswith("Spacing"))
    whole_sides = len(aspect) == 2 and all(0 < side < 2**31 and side == int(side) for side in aspect)
    if whole_sides and aspect[0] != aspect[1] and not spaced:
        dataset.PixelAspectRatio = [int(side) for side in aspect]
    if view := view_of(header):
        dataset.ViewPosition = view
    if (calibration := header.text("PixelSpacingCalibrationType")) in ("GEOMETRY", "FIDUCIAL"):
        dataset.PixelSpacingCalibrationType = calibration
        dataset.PixelSpacingCalibrationDescription = "as in the film's file"
    orientation = header.text("PatientOrientation")
    whole = re.fullmatch(r"[AFHLPR]{1,3}\\[AFHLPR]{1,3}", orientation)
    dataset.PatientOrientation = orientation.split("\\") if whole else None
