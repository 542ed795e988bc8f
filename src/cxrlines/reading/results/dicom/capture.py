"""Findings burnt into a copy of the film, as a secondary capture: what every viewer shows, and a light box."""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from cxrlines.core.findings import Findings
from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom import codes
from cxrlines.reading.results.dicom.datasets import (
    MARK,
    code_item,
    copy_history,
    new_result,
    reference_item,
    replaced_item,
)
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.source_film import SourceFilm
from cxrlines.reading.results.drawing import draw_findings

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
SERIES_NUMBER = 9903
LARGEST = 2048
"""Longer side of the film in a capture, in px."""


def capture(source: SourceFilm, findings: Findings, read_by: ReadBy, replaced: Sequence[str] = ()) -> Dataset:
    """The capture without its own UIDs. `FilmError` if the film cannot be decoded.

    Args:
        replaced: SOP instances of earlier captures that this one replaces.
    """
    drawn = draw_findings(
        read_film(source.data).pixels,
        findings,
        name=MARK,
        notice=f"{MARK}. Not a medical device. {read_by.name}, {read_by.engine}.",
        largest=LARGEST,
        operating_points=read_by.operating_points,
    )
    dataset = new_result(source, read_by, SOP_CLASS, "OT", "findings drawn", SERIES_NUMBER)
    dataset.ConversionType = "WSD"
    dataset.SecondaryCaptureDeviceManufacturer = dataset.Manufacturer
    dataset.SecondaryCaptureDeviceManufacturerModelName = dataset.ManufacturerModelName
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ContentDate, dataset.ContentTime = source.date, source.time
    dataset.PatientOrientation = None
    dataset.BodyPartExamined = "CHEST"
    copy_history(source.header, dataset)
    dataset.DerivationDescription = f"{MARK}: tubes and lines drawn by {read_by.name}"
    film = reference_item(source.sop_class, source.sop_uid)
    film.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
    dataset.SourceImageSequence = [film]
    if replaced:
        dataset.ReferencedImageSequence = [replaced_item(SOP_CLASS, uid) for uid in replaced]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = drawn.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.add_new("PixelData", "OB", drawn.tobytes() + b"\0" * (drawn.size % 2))
    return dataset
