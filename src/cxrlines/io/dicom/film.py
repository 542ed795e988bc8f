"""DICOM: one frame of a radiograph as a viewer shows it, white = bone, with its spacing and identifiers.

`elements` reads the header, `decoders` the pixels, `display` makes gray of them. Here the header is checked and
completed. No value is told in a message or note but those that say how pixels are stored and shown.
"""

import io
import re

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from cxrlines.core.film import Film, FilmError, NotAFilm, check_size
from cxrlines.core.notes import Code, Note
from cxrlines.core.spacing import spacing_of
from cxrlines.io.dicom.display import colour_note, displayed, luma, spread, to_uint8
from cxrlines.io.dicom.header import KEYWORDS, Elements, parse
from cxrlines.io.dicom.pixels import stored_values

MONOCHROME, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
VIEWS = ("PA", "AP", "LL", "RL", "LATERAL", "RLD", "LLD", "RLO", "LLO")
"""Values of View Position that are passed on: those of DICOM PS3.3 C.8.1.9, C.8.11.5, and what some machines write."""
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
RT_IMAGE = IMAGE + "481.1"
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*)){2,}")
_DEFLATED = "1.2.840.10008.1.2.1.99"


def decode_dicom(data: bytes, name: str, max_pixels: int) -> Film:
    """A DICOM file's one frame; `NotAFilm`, `FilmError` for what it is not."""
    elements = parse(data)
    _check_kind(elements, name)
    notes: list[Note] = []
    header = _header(elements, name, max_pixels, notes)
    stored = stored_values(header, elements, name)
    notes += stored.notes
    if stored.values.ndim == 3:
        pixels = luma(stored.values)
        notes += colour_note(stored.values)
        table = to_uint8(np.arange(2 ** (8 * pixels.itemsize)) / (2**stored.bits - 1))
        shown, more = (table[pixels], ()) if stored.bits <= 8 else spread(pixels)
    else:
        shown, more = displayed(elements, stored.values, stored.bits, stored.high_bit, stored.signed)
    notes += more
    aspect = elements.numbers("PixelAspectRatio")
    if len(aspect) == 2 and all(aspect) and abs(aspect[0] / aspect[1] - 1) > 0.01:
        text = f"PixelAspectRatio is {aspect[0]:g}:{aspect[1]:g}; the film is shown as if its pixels were square"
        notes.append(Note(Code.METADATA_IGNORED, text))
    spacing, more = spacing_of(
        header.Columns,
        elements.numbers("PixelSpacing"),
        elements.numbers("ImagerPixelSpacing"),
        elements.numbers("NominalScannedPixelSpacing"),
        elements.text("PixelSpacingCalibrationType").upper(),
        elements.number("EstimatedRadiographicMagnificationFactor"),
        elements.number("DistanceSourceToDetector"),
        elements.number("DistanceSourceToPatient"),
    )
    notes += more
    view = elements.text("ViewPosition").upper()
    return Film(
        shown,
        "DICOM",
        stored.bits,
        spacing,
        view if view in VIEWS else None,  # free text may name the patient
        tuple(notes),
        _uid(elements.text("StudyInstanceUID")),
        _uid(elements.text("SOPInstanceUID")),
    )


def bytes_of(dataset: pydicom.Dataset, name: str) -> bytes:
    """What a film needs of a Dataset, as a file; it may lack UIDs and a file header, as after de-identification."""
    implicit, little = dataset.original_encoding
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    try:
        plain = pydicom.Dataset()
        plain.update({tag: dataset.get_item(tag) for tag in dataset.keys() if _is_read(tag)})  # noqa: SIM118
        plain.file_meta = FileMetaDataset()
        plain.file_meta.TransferSyntaxUID = syntax or _syntax(bool(implicit), little is not False)
        out = io.BytesIO()
        plain.save_as(out)
    except Exception as error:  # pydicom raises anything on values that are none
        raise FilmError(f"{name}: cannot be written as DICOM ({type(error).__name__})", "give its file") from None
    return out.getvalue()


def _is_read(tag: int) -> bool:
    return pydicom.datadict.keyword_for_tag(tag) in KEYWORDS or tag >> 24 == 0x60


def _syntax(implicit: bool, little: bool) -> UID:
    return UID("1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2"))


def _check_kind(elements: Elements, name: str) -> None:
    """`NotAFilm` or `FilmError` unless it is a DICOM file with one frame of pixels."""
    if elements.text("TransferSyntaxUID") == _DEFLATED:  # inflating is not bounded by anything the header says
        raise FilmError(f"{name}: is a deflated DICOM file; only its pixels may be compressed", "save it undeflated")
    sop_class = elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID")
    for begin, kind in NO_FILMS.items():
        if f"{sop_class}.".startswith(f"{begin}.") and sop_class != RT_IMAGE:
            raise NotAFilm(f"{name}: is a DICOM file that holds no film ({kind})", "name the films beside it", kind)
    if elements.cut and "PixelData" not in elements:
        raise FilmError(f"{name}: is DICOM cut off before its pixels, or no DICOM file", "copy or export it again")
    if "FloatPixelData" in elements or "DoubleFloatPixelData" in elements:
        raise FilmError(f"{name}: has float pixels, of unknown black and white", "export the film as displayed")
    if "PixelData" not in elements:
        if "Rows" not in elements and sop_class and not sop_class.startswith(IMAGE):
            kind = "object without an image"
            raise NotAFilm(f"{name}: is a DICOM file that holds no film ({kind})", "name the films beside it", kind)
        what = "has no PixelData (7FE0,0010), or is cut off before it"
        raise FilmError(f"{name}: {what}", "export the film with its pixels")
    if not elements.pixels:
        raise FilmError(f"{name}: PixelData (7FE0,0010) is empty", "export the film with its pixels")


def _header(elements: Elements, name: str, max_pixels: int, notes: list[Note]) -> pydicom.Dataset:
    """How the pixels are stored: the header's elements, checked, and those that may be missing, as `notes` say."""

    def refused(
        keyword: str, found: object, allowed: str, way_out: str = "mend the header, or export it again"
    ) -> None:
        raise FilmError(f"{name}: {keyword} is {found}; {allowed}", way_out)

    def known(keyword: str, missing: int | None = None) -> int:
        value = elements.integer(keyword)
        if value is None and missing is None:
            what = "is missing" if not elements.bytes_of(keyword) else "is no whole number"
            raise FilmError(f"{name}: {keyword} {what}, and pixels mean nothing without it", "export it again")
        if value is None:
            notes.append(Note(Code.ELEMENT_ASSUMED, f"{keyword} is missing; {missing} is assumed"))
        return value if value is not None else int(missing or 0)

    rows, columns = known("Rows"), known("Columns")
    check_size(name, columns, rows, max_pixels)
    if (frames := elements.integer("NumberOfFrames") or 1) != 1:
        refused("NumberOfFrames", frames, "a film is one frame", "export the frame that is the film")
    photometric = elements.text("PhotometricInterpretation").upper()
    if photometric not in MONOCHROME + COLOUR:
        found = repr(photometric[:16]) if re.fullmatch(r"[A-Z0-9_ ]+", photometric) else "missing or no known one"
        refused("PhotometricInterpretation", found, f"{', '.join(MONOCHROME + COLOUR)} are read", "convert it")
    samples = known("SamplesPerPixel", 1 if photometric in MONOCHROME else 3)
    if samples != (1 if photometric in MONOCHROME else 3):
        refused("SamplesPerPixel", samples, f"{photometric} has {1 if photometric in MONOCHROME else 3}")
    allocated = known("BitsAllocated")
    if allocated not in (1, 8, 16):
        refused("BitsAllocated", allocated, "1, 8 and 16 are read", "convert it to 16")
    bits = known("BitsStored", allocated)
    if not 1 <= bits <= allocated:
        refused("BitsStored", bits, f"1 to {allocated} (BitsAllocated) are possible")
    high_bit = known("HighBit", bits - 1)
    if not bits - 1 <= high_bit < allocated:
        text = f"HighBit is {high_bit}, which cannot be of {bits} bits in {allocated}; {bits - 1} is assumed"
        notes.append(Note(Code.ELEMENT_ASSUMED, text))
        high_bit = bits - 1
    representation = known("PixelRepresentation", None if photometric in MONOCHROME else 0)
    if representation not in (0, 1):
        refused("PixelRepresentation", representation, "0 (unsigned) and 1 (signed) are possible")

    header = pydicom.Dataset()
    header.Rows, header.Columns, header.SamplesPerPixel = rows, columns, samples
    header.PhotometricInterpretation, header.PixelRepresentation = photometric, representation
    header.BitsAllocated, header.BitsStored, header.HighBit = allocated, bits, high_bit
    if samples > 1:
        header.PlanarConfiguration = known("PlanarConfiguration", 0)
    syntax = elements.text("TransferSyntaxUID")
    if syntax and not _UID.fullmatch(syntax):
        raise FilmError(f"{name}: TransferSyntaxUID is no UID", "mend the header, or save it uncompressed")
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = UID(syntax) if syntax else _syntax(elements.implicit, elements.little)
    return header


def _uid(text: str) -> str | None:
    """A UID; None for what is none, which may be anything."""
    return text if len(text) <= 64 and _UID.fullmatch(text) else None
