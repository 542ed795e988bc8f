"""A film that is no DICOM file, or lacks identifiers, as a DICOM image of a patient and study that are named for it."""

from pydicom.dataset import Dataset

from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom.datasets import finalize
from cxrlines.reading.results.dicom.film_identifiers import check_identifiers

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage: an image that came into DICOM from elsewhere."""
SERIES_NUMBER = 9900


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
