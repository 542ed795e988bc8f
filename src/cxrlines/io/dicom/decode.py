"""DICOM radiograph to one 8-bit frame as a viewer shows it, white = bone, with its spacing and identifiers.

`header` reads the elements, `pixels` decodes, `display` makes gray of the values. Here the header is checked and
completed. Messages and notes quote only values that say how pixels are stored and shown.
"""

import io
import re

import cv2
import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from cxrlines.core.film import Film, FilmError, NotAFilm, check_size
from cxrlines.core.notes import Code, Note
from cxrlines.core.spacing import pixel_aspect, spacing_of
from cxrlines.io.contrast import colour_note, luma, spread, to_uint8
from cxrlines.io.dicom.display import displayed, span_of
from cxrlines.io.dicom.header import KEYWORDS, Elements, is_day, orientation_of, parse, valid_uid, view_of
from cxrlines.io.dicom.origin import OWN_RESULT, is_own
from cxrlines.io.dicom.pixels import PixelHeader, stored_values
from cxrlines.io.dicom.streams import ITEM

MONOCHROME, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
OTHER_COLOURS = ("PALETTE COLOR", "HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")
"""Photometric interpretations that are not read; what is none of DICOM's may be any text, and is not quoted."""
MIRRORED = {("R", "F"), ("L", "H"), ("F", "L"), ("H", "R")}
"""Directions of rows and of columns (PS3.3 C.7.6.1.1.1) of a frontal film that no turn makes one of a patient who faces
the reader, with the left side on the right."""
TAKEN = ("StudyDate", "ContentDate", "AcquisitionDate", "SeriesDate")
"""When a film was taken: the first of them that is a date; anonymised files may lack the others."""
ADULT = 16
"""Years from which on a patient is taken for an adult."""
IMAGE = "1.2.840.10008.5.1.4.1.1."
NO_FILMS = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    IMAGE + "88.59": "key object selection",
    IMAGE + "88": "structured report",
    IMAGE + "11": "presentation state",
    IMAGE + "104": "encapsulated document",
    IMAGE + "481": "radiotherapy object",
    IMAGE + "9": "waveform",
    IMAGE + "66": "segmentation or registration",
    IMAGE + "67": "real world value mapping",
}
"""SOP classes, or their beginnings, that come along with films in an export and hold none."""
RT_IMAGE, DX_FOR_PROCESSING = IMAGE + "481.1", IMAGE + "1.1.1"
CORRECT, EXPORT = "correct the header, or export it again", "export the film with its pixels"
_DEFLATED = "1.2.840.10008.1.2.1.99"


def decode_dicom(data: bytes) -> Film:
    """A DICOM file's one frame; `NotAFilm`, `FilmError`, which do not name the file, for what it is not."""
    elements = parse(data)
    _check_kind(elements)
    notes: list[Note] = []
    header = _header(elements, notes)
    if _sop_class(elements) == DX_FOR_PROCESSING or (
        elements.text("PresentationIntentType").upper() == "FOR PROCESSING"
    ):
        text = "it is FOR PROCESSING: values of the detector, not the film as a machine prepares it for reading"
        notes.append(Note(Code.FOR_PROCESSING, text))
    if by := _child_by(elements):
        text = f"{by} below {ADULT} years: the networks were trained on adults, and no position rule is applied"
        notes.append(Note(Code.CHILD, text))
    if orientation_of(elements) in MIRRORED:
        text = "by PatientOrientation it lies mirrored in its file; it was read so, which networks are not trained for"
        notes.append(Note(Code.MIRRORED, f"{text}, and no position rule is applied"))
    values, header = stored_values(header, elements, notes)
    if values.ndim == 2:
        pixels = displayed(elements, values, header, notes)
    else:
        gray = luma(values)
        notes += colour_note(values)
        if header.bits <= 8:
            table = to_uint8(np.arange(2 ** (8 * gray.itemsize)) / (2**header.bits - 1))
            pixels = np.asarray(cv2.LUT(gray, table))
        else:
            pixels, left_out = spread(gray)
            notes += left_out
    spacings = (
        elements.numbers("PixelSpacing"),
        elements.numbers("ImagerPixelSpacing"),
        elements.numbers("NominalScannedPixelSpacing"),
    )
    aspect, not_square = pixel_aspect(spacings, elements.numbers("PixelAspectRatio"))
    spacing, ignored = spacing_of(
        header.columns,
        *spacings,
        elements.text("PixelSpacingCalibrationType").upper(),
        elements.number("EstimatedRadiographicMagnificationFactor"),
        elements.number("DistanceSourceToDetector"),
        elements.number("DistanceSourceToPatient"),
    )
    return Film(
        pixels,
        "DICOM",
        header.bits,
        spacing,
        view_of(elements),
        (*notes, *not_square, *ignored),
        valid_uid(elements.text("StudyInstanceUID")),
        valid_uid(elements.text("SOPInstanceUID")),
        aspect,
    )


def _child_by(elements: Elements) -> str:
    """The subject of "below `ADULT` years": an age as PS3.5 6.2 writes it (`004M`) or in years without unit, or where
    it is none, two dates, of birth and of `TAKEN`; "" where neither says so. An age of 0 years, or a birth on the day
    of the film, stands in anonymised files for one that is not known."""
    age = re.fullmatch(r"([0-9]{1,3})([DWMY]?)", elements.text("PatientAge").strip().upper())
    if age and (int(age[1]) or age[2] in ("D", "W", "M")):
        return "PatientAge is" if int(age[1]) < ADULT * {"D": 365, "W": 52, "M": 12}.get(age[2], 1) else ""
    born = _date(elements, "PatientBirthDate")
    seen, by = next(((date, name) for name in TAKEN if is_day(str(date := _date(elements, name)))), (0, ""))
    return f"by PatientBirthDate and {by} the patient is" if 0 < born < seen < born + ADULT * 10_000 else ""


def _date(elements: Elements, keyword: str) -> int:
    """A date as a number, year first; 0 where there is none."""
    found = re.fullmatch(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})", elements.text(keyword))
    return int("".join(found.groups())) if found else 0


def gray_span(data: bytes) -> tuple[float, float]:
    """The values, after Modality LUT or rescale, that a gray film without a window is shown from black to white by.

    As `decode_dicom`, raises `NotAFilm` or `FilmError`; `FilmError` for a film in colour too.
    """
    elements = parse(data)
    _check_kind(elements)
    values, header = stored_values(_header(elements, []), elements, [])
    if values.ndim != 2:
        raise FilmError("is in colour, which has no window", "")
    return span_of(elements, values, header)


def bytes_of(dataset: pydicom.Dataset) -> bytes:
    """What a film needs of a Dataset, as a file; it may lack UIDs and a file header, as after de-identification."""
    implicit, little = dataset.original_encoding
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    try:
        plain = pydicom.Dataset()
        wanted = [tag for tag in dataset.keys() if keyword_for_tag(tag) in KEYWORDS or tag >> 24 == 0x60]  # noqa: SIM118
        plain.update({tag: dataset.get_item(tag) for tag in wanted})
        plain.file_meta = FileMetaDataset()
        plain.file_meta.TransferSyntaxUID = syntax or _syntax(bool(implicit), little is not False)
        out = io.BytesIO()
        _check_encapsulated(plain)
        plain.save_as(out)
    except FilmError:
        raise
    except Exception as error:  # pydicom raises anything on odd values
        raise FilmError(f"cannot be written as DICOM ({type(error).__name__})", "give its file") from None
    return out.getvalue()


def _check_encapsulated(dataset: pydicom.Dataset) -> None:
    """`FilmError` where pixels lie uncompressed under a transfer syntax of compressed ones, which pydicom refuses."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    compressed = syntax.is_transfer_syntax and syntax.is_encapsulated
    if compressed and "PixelData" in dataset and bytes(dataset.PixelData[:4]) != ITEM:
        what = f"TransferSyntaxUID is {syntax.name}, but PixelData is not compressed"
        way_out = "set file_meta.TransferSyntaxUID to ExplicitVRLittleEndian where the pixels were replaced"
        raise FilmError(what, way_out)


def _syntax(implicit: bool, little: bool) -> UID:
    return UID("1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2"))


def _sop_class(elements: Elements) -> str:
    return elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID")


def _check_kind(elements: Elements) -> None:
    """`NotAFilm` or `FilmError` unless it is a DICOM file with one frame of pixels."""

    def no_film(kind: str) -> NotAFilm:
        return NotAFilm(f"is a DICOM file that holds no film ({kind})", "name the films beside it", kind)

    if elements.text("TransferSyntaxUID") == _DEFLATED:  # the header sets no limit to what inflates
        raise FilmError("is a deflated DICOM file; only its pixels may be compressed", "save it undeflated")
    sop_class = _sop_class(elements)
    for begin, kind in NO_FILMS.items():
        if f"{sop_class}.".startswith(f"{begin}.") and sop_class != RT_IMAGE:
            raise no_film(kind)
    if is_own(elements):
        raise no_film(OWN_RESULT)
    if elements.cut and "PixelData" not in elements:
        raise FilmError("is DICOM cut off before its pixels, or no DICOM file", "copy or export it again")
    if "FloatPixelData" in elements or "DoubleFloatPixelData" in elements:
        raise FilmError("has float pixels, of unknown black and white", "export the film as displayed")
    if "PixelData" not in elements:
        if "Rows" not in elements and sop_class and not sop_class.startswith(IMAGE):
            raise no_film("object without an image")
        raise FilmError("has no PixelData (7FE0,0010), or is cut off before it", EXPORT)
    if not elements.pixels:
        raise FilmError("PixelData (7FE0,0010) is empty", EXPORT)


def _header(elements: Elements, notes: list[Note]) -> PixelHeader:
    """The header's elements, checked, and those that may be missing; `notes` gets what is assumed."""

    def refused(keyword: str, found: object, allowed: str, way_out: str = CORRECT) -> FilmError:
        return FilmError(f"{keyword} is {found}; {allowed}", way_out)

    def whole(keyword: str, default: int | None = None) -> int:
        if (value := elements.integer(keyword)) is not None:
            return value
        if default is None:
            what = "is not a whole number" if elements[keyword].data else "is missing"
            raise FilmError(f"{keyword} {what}, and pixels mean nothing without it", "export it again")
        notes.append(Note(Code.ELEMENT_ASSUMED, f"{keyword} is missing; {default} is assumed"))
        return default

    rows, columns = whole("Rows"), whole("Columns")
    check_size("", columns, rows)
    if (frames := elements.integer("NumberOfFrames") or 1) != 1:
        raise refused("NumberOfFrames", frames, "a film is one frame", "export the frame that is the film")
    photometric = elements.text("PhotometricInterpretation").upper()
    if photometric not in MONOCHROME + COLOUR:
        found = repr(photometric) if photometric in OTHER_COLOURS else "missing or not a known one"
        raise refused("PhotometricInterpretation", found, f"{', '.join(MONOCHROME + COLOUR)} are read", "convert it")
    colour = photometric in COLOUR
    channels = 3 if colour else 1
    if (samples := whole("SamplesPerPixel", channels)) != channels:
        raise refused("SamplesPerPixel", samples, f"{photometric} has {channels}")
    allocated = whole("BitsAllocated")
    if allocated not in (1, 8, 16):
        raise refused("BitsAllocated", allocated, "1, 8 and 16 are read", "convert it to 16")
    bits = whole("BitsStored", allocated)
    if not 1 <= bits <= allocated:
        raise refused("BitsStored", bits, f"1 to {allocated} (BitsAllocated) are possible")
    high_bit = whole("HighBit", bits - 1)
    if not bits - 1 <= high_bit < allocated:
        text = f"HighBit is {high_bit}, which cannot be of {bits} bits in {allocated}; {bits - 1} is assumed"
        notes.append(Note(Code.ELEMENT_ASSUMED, text))
        high_bit = bits - 1
    representation = whole("PixelRepresentation", 0 if colour else None)
    if representation not in (0, 1):
        raise refused("PixelRepresentation", representation, "0 (unsigned) and 1 (signed) are possible")
    by_plane = colour and whole("PlanarConfiguration", 0) == 1
    syntax = elements.text("TransferSyntaxUID")
    if syntax and not valid_uid(syntax):
        raise FilmError("TransferSyntaxUID is not a valid UID", "correct the header, or save it uncompressed")
    uid = UID(syntax) if syntax else _syntax(elements.implicit, elements.little)
    signed = representation == 1
    return PixelHeader(rows, columns, samples, allocated, bits, high_bit, signed, photometric, by_plane, uid)
