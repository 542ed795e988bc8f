"""Datasets of results: the modules that all of them share, their identifiers, and their bytes."""

import hashlib
import io
import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
from pydicom.charset import default_encoding, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from cxrlines import __version__
from cxrlines.io.dicom.header import Elements
from cxrlines.io.dicom.origin import MANUFACTURER
from cxrlines.reading.results.dicom.codes import PRIVATE, REPLACED, Concept
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.source_film import FREE_TEXT, KNOWN, PATTERNS, SourceFilm, charset_of, standard

MARK = "FOR RESEARCH USE ONLY"
"""Where people look: in the description of each series and state, the algorithm's parameters, and on the capture."""

MAX_POINTS = 4000
"""Points of a line: their coordinates must fit in an element of 64 kB."""
LOSSY = {f"1.2.840.10008.1.2.4.{number}": "ISO_10918_1" for number in range(50, 57)} | {
    "1.2.840.10008.1.2.4.81": "ISO_14495_1"
}
"""Transfer syntaxes that always lose, with their method; whether JPEG 2000 did is for the header to say."""


REQUIRED = (
    *("PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName", "StudyID"),
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
)
"""Elements of type 2: there in every result, even if they are empty."""


def uid_of(*parts: str) -> str:
    """A UID below 2.25 (PS3.5 B.2) made from a hash of `parts`: the same parts give the same UID."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


IMPLEMENTATION_UID = UID(uid_of(MANUFACTURER))


def new_result(
    source: SourceFilm, read_by: ReadBy, sop_class: str, modality: str, what: str, series_number: int
) -> Dataset:
    """A dataset with the patient and the study of the film, and a series and equipment of its own.

    Its UIDs follow with `finalize`, once its content is known.

    Args:
        source: The film.
        read_by: What read it.
        sop_class: SOP Class UID of the result.
        modality: Of its series, as the SOP class has it: "SR", "PR", "OT".
        what: What the series holds, for its description.
        series_number: Of its series.
    """
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.StudyInstanceUID = source.study_uid
    copy_patient_and_study(source.header, dataset)
    dataset.Modality = modality
    dataset.SeriesNumber = series_number
    dataset.SeriesDescription = f"{MARK}: {what}"
    dataset.SeriesDate, dataset.SeriesTime = source.date, source.time
    dataset.InstanceNumber = 1
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = "cxrlines"
    dataset.DeviceSerialNumber = read_by.weights
    dataset.SoftwareVersions = [read_by.version, read_by.weights]
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeUID = PRIVATE, uid_of("coding scheme", PRIVATE)
    scheme.CodingSchemeName = "cxrlines: tubes and lines on chest films, docs/dicom.md"
    dataset.CodingSchemeIdentificationSequence = [scheme]
    return dataset


def copy_patient_and_study(header: Elements, dataset: Dataset) -> None:
    """Copy the elements of `FREE_TEXT` as they are, those of `PATTERNS` where they are valid."""
    if charset := charset_of(header):
        set_raw(dataset, "SpecificCharacterSet", charset)
    for name in REQUIRED:
        set_raw(dataset, name, b"")
    for name in FREE_TEXT:
        if name in header:
            set_raw(dataset, name, header[name].data)
    for name in PATTERNS:
        if (text := standard(header, name)) is not None:
            set_raw(dataset, name, text.encode("ascii"))


def copy_history(header: Elements, dataset: Dataset) -> None:
    """What an image that is made of a film has to say of that: names burnt into it, and loss by compression.

    Burned In Annotation is whether the picture says whose it is (PS3.3 C.7.6.1), which drawn findings do not; of a film
    that leaves it open so does the image, where it is of type 3. Loss is never taken back (C.7.6.1.1.5).
    """
    burned_in, method = header.text("BurnedInAnnotation").upper(), LOSSY.get(header.text("TransferSyntaxUID"))
    if burned_in in ("YES", "NO"):
        dataset.BurnedInAnnotation = burned_in
    if method is None and header.text("LossyImageCompression") != "01":
        return
    dataset.LossyImageCompression = "01"
    for name in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if re.fullmatch(r"[A-Z0-9_.\\ ]+", header.text(name)):
            set_raw(dataset, name, header[name].data)
    if method is not None and "LossyImageCompressionMethod" not in dataset:
        dataset.LossyImageCompressionMethod = method


def finalize(dataset: Dataset, *identity: str) -> tuple[str, bytes]:
    """Give a dataset, complete except for its UIDs, these UIDs, in place; its SOPInstanceUID and its bytes as a file.

    The UIDs are a hash of `identity` and of all that the dataset holds: the same UID means the same bytes, and a film
    that comes again with another patient's name gets new results. Each object is a series of its own.
    """
    with _any_character_set(dataset):
        dataset.set_original_encoding(False, True, dataset._character_set)  # raw values are written as they are
        content = hashlib.sha256(_file(dataset)).hexdigest()
        dataset.SOPInstanceUID = uid_of(*identity, content)
        dataset.SeriesInstanceUID = series_of(dataset.SOPInstanceUID)
        return dataset.SOPInstanceUID, _file(dataset)


_terms_lock = threading.Lock()


@contextmanager
def _any_character_set(dataset: Dataset) -> Iterator[None]:
    """Have pydicom know the character set of a dataset, whatever that is, as long as it is written.

    What is not written as it is is ours, and ASCII; pydicom would warn at each element, or take some other codec.
    """
    given = dataset.get("SpecificCharacterSet") or ""
    unknown = {given} if isinstance(given, str) else set(given)
    unknown -= KNOWN
    with _terms_lock if unknown else nullcontext():
        added = dict.fromkeys(unknown - python_encoding.keys(), default_encoding)
        python_encoding.update(added)
        try:
            yield
        finally:
            for term in added:
                del python_encoding[term]


def series_of(sop_instance_uid: str) -> str:
    """SeriesInstanceUID of a result."""
    return uid_of("series", sop_instance_uid)


def code_item(concept: Concept) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = concept
    return item


def reference_item(sop_class: str, sop_uid: str) -> Dataset:
    """An item that refers to an object."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
    return item


def replaced_item(sop_class: str, sop_uid: str) -> Dataset:
    """An item that names an earlier result as replaced."""
    item = reference_item(sop_class, sop_uid)
    item.PurposeOfReferenceCodeSequence = [code_item(REPLACED)]
    return item


def study_reference(study_uid: str, objects: Sequence[tuple[str, str, str]]) -> Dataset:
    """An item that refers to objects of a study, each in a series of its own.

    `objects`: (series, SOP class, SOP instance) UIDs.
    """
    item = Dataset()
    item.StudyInstanceUID = study_uid
    item.ReferencedSeriesSequence = []
    for series_uid, sop_class, sop_uid in objects:
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = [reference_item(sop_class, sop_uid)]
        item.ReferencedSeriesSequence.append(series)
    return item


def image_coordinates(points: np.ndarray, film_shape: tuple[int, int]) -> np.ndarray:
    """Points [x, y] in DICOM's image coordinates: (n, 2) float64, rounded to 0.1 px, clipped to the film.

    There (0, 0) is the outer corner of the first pixel (PS3.3 C.18.6.1.1, C.10.5.1.2). Of more than `MAX_POINTS`, that
    many are taken at even intervals.

    Args:
        points: (n, 2) px, pixel centres at whole numbers.
        film_shape: (height, width) px.
    """
    if len(points) > MAX_POINTS:
        points = points[np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int)]
    clipped: np.ndarray = np.clip(np.round(points + 0.5, 1), 0.0, [film_shape[1], film_shape[0]])
    return clipped


def set_raw(dataset: Dataset, keyword: str, value: bytes) -> None:
    """Set an element to bytes as they are: decoding a patient's name and encoding it again could change it."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    value = value.rstrip(b"\0")
    value += b" " * (len(value) % 2)
    dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)


def _file(dataset: Dataset) -> bytes:
    """A dataset as a DICOM file in explicit VR little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", UID("0.0"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"CXRLINES_{__version__}"[:16]
    dataset.file_meta = meta
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()
