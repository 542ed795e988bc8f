"""Header elements of a DICOM file that say what its film is and how it is shown.

Pydicom's reader warns of values and quotes them, patients' among them. Here only the elements that are asked for are
kept, as bytes.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword

KEYWORDS = (
    *("MediaStorageSOPClassUID", "TransferSyntaxUID", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"),
    *("ViewPosition", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("PixelSpacingCalibrationType", "PixelAspectRatio"),
    *("EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "LUTDescriptor", "LUTData"),
    *("PresentationLUTShape", "PresentationIntentType", "Manufacturer", "PatientOrientation"),
    *("PatientAge", "PatientBirthDate", "StudyDate", "ContentDate", "AcquisitionDate", "SeriesDate"),
    *("ViewCodeSequence", "CodeValue", "CodingSchemeDesignator"),
    *("FloatPixelData", "DoubleFloatPixelData", "PixelData"),
)
"""Elements that are kept to decode a film; the values of all others are passed over."""
VIEWS = ("PA", "AP", "LL", "RL", "LATERAL", "RLD", "LLD", "RLO", "LLO")
"""Values of View Position that are passed on: those of DICOM PS3.3 C.8.1.9, C.8.11.5, and what some machines write."""
VIEW_KEYWORDS = ("ViewPosition", "ViewCodeSequence", "CodeValue", "CodingSchemeDesignator", "PatientOrientation")
SIDE_WORDS, NO_SIDE_WORDS = re.compile("[LR]?LAT|LATER.*|SEITLICH|PROFIL"), re.compile("PA|AP|DECUB.*")
"""Words of a View Position in free text that make it a side view, and those beside which they do not: a film of a
patient who lies on a side is frontal."""
SCHEMES = ("SCT", "SRT", "SNM3")
SIDE_VIEWS = {
    **{"399067008": "LATERAL", "399173006": "LL", "399198007": "RL"},
    **{"R-102CD": "LATERAL", "R-10236": "LL", "R-10232": "RL"},
}
"""Codes of side views of context group 4010 (PS3.16), in SNOMED CT and as SNOMED RT had them, by View Position."""
SIDE_ORIENTATIONS = [{"A", "F"}, {"A", "H"}, {"P", "F"}, {"P", "H"}]
"""Directions of rows and columns, in either order, of a picture from the side, turned or not."""
MAX_DEPTH = 32
"""Sequences within sequences; more are not walked through."""
MAX_ITEMS = 64
"""Items of a sequence that are kept; a file of nothing but items would take a hundred times its size."""
MAX_NUMBERS = 0xFFFE
"""Bytes of a value that are read as numbers: the most that VRs of numbers have where VRs are explicit."""

_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*)){2,}")
_TAGS = {keyword: int(tag_for_keyword(keyword) or 0) for keyword in KEYWORDS}
_KEPT = frozenset(_TAGS.values())
_VIEW_CODES = _TAGS["ViewCodeSequence"]
_SEQUENCES = (_TAGS["ModalityLUTSequence"], _TAGS["VOILUTSequence"], _VIEW_CODES)
_PIXELS, _ITEM, _ITEM_END, _SEQUENCE_END = 0x7FE00010, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF  # the length of what ends with a delimiter
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})  # 32-bit lengths
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_IMPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


class Element(NamedTuple):
    """One element: its VR ("" where the file does not say it), value, byte order, and items if it is a sequence."""

    vr: str = ""
    data: bytes = b""
    little: bool = True
    items: "tuple[Elements, ...]" = ()


@dataclass
class Elements:
    """The elements kept of a data set.

    Attributes:
        by_tag: Elements of `kept`, and of overlays (60xx,0102): the bit that an overlay lies at.
        cut: Whether the file ends within an element, or holds what is no element; what came before is kept.
        pixels: The value of PixelData, not copied; of encapsulated pixels up to their delimiter.
        pixels_vr: The VR of PixelData.
        open_end: Whether encapsulated pixels have no delimiter.
        rest: What follows PixelData and is no element, not copied; empty where one follows.
        implicit: Whether VRs are implicit.
        little: Whether bytes are in little-endian order.
        kept: Tags of the elements that are kept.
    """

    by_tag: dict[int, Element] = field(default_factory=dict)
    cut: bool = False
    pixels: memoryview = field(default_factory=lambda: memoryview(b""))
    pixels_vr: str = ""
    open_end: bool = False
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    implicit: bool = False
    little: bool = True
    kept: frozenset[int] = _KEPT

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self.by_tag

    def __getitem__(self, keyword: str) -> Element:
        """The element; an empty one where there is none."""
        return self.by_tag.get(_tag(keyword), Element())

    def text(self, keyword: str) -> str:
        """The value as text, without padding; empty where there is none."""
        return self[keyword].data.decode("latin-1").strip(" \0")

    def numbers(self, keyword: str, signed: bool = False) -> tuple[float, ...]:
        """The value as numbers, of which one that is none is NaN; `signed` holds where the VR may be US or SS."""
        vr, data, little, _ = self[keyword]
        data = data[:MAX_NUMBERS]
        vr = vr if vr not in ("", "UN") else dictionary_VR(_tag(keyword))
        if vr not in ("IS", "DS") and (code := _BINARY.get(vr[:2])):
            code = ("h" if signed else "H") if "US or SS" in vr else code
            return struct.unpack_from(f"{'<' if little else '>'}{len(data) // struct.calcsize(code)}{code}", data)
        text = data.decode("latin-1").strip(" \0")
        return tuple(map(_number, text.split("\\"))) if text else ()

    def number(self, keyword: str) -> float | None:
        """The first number of the value; None where there is none, or it is not finite."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers and np.isfinite(numbers[0]) else None

    def integer(self, keyword: str) -> int | None:
        """The first number of the value if it is a whole one, else None."""
        number = self.number(keyword)
        return int(number) if number is not None and number == int(number) else None

    def words(self, keyword: str) -> np.ndarray:
        """The value as unsigned 16-bit words."""
        _, data, little, _ = self[keyword]
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2").astype(np.uint16)

    @property
    def overlay_bits(self) -> set[int]:
        """Bits of a pixel's word at which overlays lie (Overlay Bit Position), except those with data of their own."""
        places = [tag for tag in self.by_tag if tag >> 24 == 0x60 and tag & 0xFFFF == 0x0102]
        found = [self.by_tag[tag] for tag in places if tag & ~0xFFFF | 0x3000 not in self.by_tag]
        return {data[: 1 if little else 2][-1] for _, data, little, _ in found if data}


class _Cut(Exception):
    """The data end within an element, or hold what is none."""


class _Head(NamedTuple):
    """Head of an element: tag, VR ("" where it is implicit), length of the value, and where the value begins."""

    tag: int
    vr: str
    length: int
    start: int


def view_of(elements: Elements) -> str | None:
    """The view by ViewPosition, if it is one of `VIEWS` (free text may name the patient), else LATERAL if its words say
    so, else a side view by the code of ViewCodeSequence or by PatientOrientation; None where none of them says it.
    `elements` are those of `VIEW_KEYWORDS` at least."""
    if (view := elements.text("ViewPosition").upper()) in VIEWS:
        return view
    words = re.findall("[A-Z]+", view)
    if any(map(SIDE_WORDS.fullmatch, words)) and not any(map(NO_SIDE_WORDS.fullmatch, words)):
        return "LATERAL"
    codes = [
        (item.text("CodingSchemeDesignator"), item.text("CodeValue")) for item in elements["ViewCodeSequence"].items
    ]
    by_code = next((SIDE_VIEWS[code] for scheme, code in codes if scheme in SCHEMES and code in SIDE_VIEWS), None)
    return by_code or ("LATERAL" if {*orientation_of(elements)} in SIDE_ORIENTATIONS else None)


def orientation_of(elements: Elements) -> tuple[str, ...]:
    """The first letters of PatientOrientation: where rows and columns lead, as PS3.3 C.7.6.1.1.1 has them."""
    return tuple(end[:1] for end in elements.text("PatientOrientation").upper().split("\\"))


def is_day(text: str) -> bool:
    """Whether eight digits are a day of the calendar."""
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True


def valid_uid(text: str) -> str | None:
    """A UID; None for what is none, which may be anything."""
    return text if len(text) <= 64 and _UID.fullmatch(text) else None


def parse(data: bytes, keywords: Iterable[str] = KEYWORDS) -> Elements:
    """The elements of these keywords of a DICOM file, with or without preamble and file header; never raises.

    `keywords` include TransferSyntaxUID.
    """
    elements = Elements(kept=frozenset(map(_tag, keywords)))
    place = 132 if data[128:132] == b"DICM" else 0
    try:
        while data[place : place + 2] == b"\2\0":  # the file header, explicit and little endian by the standard
            place = _read(data, place, elements, not _has_vr(data, place), len(data))
        syntax = elements.text("TransferSyntaxUID")
        elements.little = syntax != _BIG if syntax else data[place : place + 1] != b"\0"
        # The first element decides whether there are VRs; the header is believed where that leaves it open.
        elements.implicit = not _has_vr(data, place) if syntax != _IMPLICIT else not _has_known_vr(data, place)
        while place < len(data) and _PIXELS not in elements.by_tag:
            place = _read(data, place, elements, elements.implicit, len(data))
    except _Cut:
        elements.cut = True
    if not elements.cut and not _is_element(data, place, elements):
        elements.rest = memoryview(data)[place:]
    return elements


def _is_element(data: bytes, place: int, before: Elements) -> bool:
    """Whether an element that may follow PixelData, by a higher tag, lies at `place` as a whole."""
    try:
        tag = _head(data, place, before.little, before.implicit).tag
        return tag > _PIXELS and _read(data, place, Elements(little=before.little), before.implicit, len(data)) > place
    except _Cut:
        return False


def _tag(keyword: str) -> int:
    return _TAGS.get(keyword) or int(tag_for_keyword(keyword) or 0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _has_vr(data: bytes, place: int) -> bool:
    return data[place + 4 : place + 6].isalpha() and data[place + 4 : place + 6].isupper()


def _has_known_vr(data: bytes, place: int) -> bool:
    return data[place + 4 : place + 6].decode("latin-1") in {*_LONG, *_BINARY, "UI", "CS", "DA", "SH", "LO", "TM", "AE"}


def _head(data: bytes, place: int, little: bool, implicit: bool) -> _Head:
    order = "<" if little else ">"
    try:
        group, number, length = struct.unpack_from(f"{order}HHI", data, place)
        if implicit or group == 0xFFFE or not _has_vr(data, place):
            return _Head(group << 16 | number, "", length, place + 8)
        vr, end = data[place + 4 : place + 6].decode("ascii"), place + 8
        if vr not in _LONG:
            (length,) = struct.unpack_from(f"{order}H", data, place + 6)
        else:
            (length,), end = struct.unpack_from(f"{order}I", data, place + 8), place + 12
    except struct.error:
        raise _Cut from None
    return _Head(group << 16 | number, vr, length, end)


def _read(data: bytes, place: int, into: Elements, implicit: bool, limit: int, depth: int = 0) -> int:
    """Read the element at `place`, which ends at `limit` at the latest; where the next begins."""
    little = into.little
    tag, vr, length, start = _head(data, place, little, implicit)
    end = start + length
    if tag == _PIXELS and depth == 0:
        if length == _UNDEFINED:
            end, into.open_end = _pixels_end(data, start, little)
        into.pixels, into.pixels_vr = memoryview(data)[start:end], vr
        into.by_tag[tag] = Element(vr, b"", little)
        end += 8 if length == _UNDEFINED and not into.open_end else 0  # the delimiter
    elif length == _UNDEFINED:
        # Of undefined length are sequences alone; in one of VR UN all is implicit and little endian (PS3.5 6.2.2).
        kept = into.kept if tag in into.kept else None
        items, end = _sequence(data, start, limit, little or vr == "UN", implicit or vr == "UN", depth, kept)
        if end == start:
            raise _Cut
        if tag in into.kept:
            into.by_tag[tag] = Element(vr, b"", little, items)
    elif end > limit:
        raise _Cut
    elif tag in into.kept and tag in _SEQUENCES:
        items = ()
        try:
            items = _sequence(data, start, end, little, implicit, depth, into.kept)[0]
        except _Cut:
            if tag != _VIEW_CODES:  # which a film is shown without
                raise
        into.by_tag[tag] = Element(vr, b"", little, items)
    elif tag in into.kept or (tag >> 24 == 0x60 and tag & 0xFFFF in (0x0102, 0x3000)):
        into.by_tag[tag] = Element(vr, data[start:end], little)
    return end


def _sequence(
    data: bytes, place: int, limit: int, little: bool, implicit: bool, depth: int, kept: frozenset[int] | None
) -> tuple[tuple[Elements, ...], int]:
    """The items of a sequence up to its delimiter or `limit`, and where the next element begins.

    Of a sequence that is not kept (None), items that say their length are passed over: they may be no elements, as the
    fragments of an icon's compressed pixels, or of private data.
    """
    if depth >= MAX_DEPTH:
        raise _Cut
    items: list[Elements] = []
    while place < limit:
        tag, _, length, place = _head(data, place, little, implicit)
        if tag == _SEQUENCE_END:
            break
        end = limit if length == _UNDEFINED else place + length
        if tag != _ITEM or end > limit:
            raise _Cut
        if kept is None and length != _UNDEFINED:
            place = end
            continue
        item = Elements(little=little, kept=kept or frozenset())
        while place < end:
            if length == _UNDEFINED and _head(data, place, little, implicit).tag == _ITEM_END:
                place += 8
                break
            place = _read(data, place, item, implicit, limit, depth + 1)
        items += [item] if len(items) < MAX_ITEMS else []
    return tuple(items), place


def _pixels_end(data: bytes, place: int, little: bool) -> tuple[int, bool]:
    """Where encapsulated pixels end, and whether without a delimiter."""
    while place + 8 <= len(data):
        tag, _, length, start = _head(data, place, little, True)
        if tag == _SEQUENCE_END:
            return place, False
        if tag != _ITEM:
            break
        place = start + length
    return min(place, len(data)), True
