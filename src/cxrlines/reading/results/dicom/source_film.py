"""The DICOM file of a film, as its results see it: its patient and study, byte for byte, and what to refer to."""

import re
from dataclasses import dataclass
from typing import Self

from pydicom.charset import python_encoding

from cxrlines.core.errors import Error
from cxrlines.io.dicom.header import VIEW_KEYWORDS, Elements, is_day, parse, valid_uid
from cxrlines.io.dicom.origin import ORIGIN_KEYWORDS

FREE_TEXT = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "ReferringPhysicianName", "StudyID"),
    "StudyDescription",
)
"""Elements that are taken over as they are, in the film's own character set."""
PATTERNS = {
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "PatientAge": r"\d{3}[DWMY]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?",
    "TimezoneOffsetFromUTC": r"(?!-0000)([+-](0\d|1[01])|\+1[23])[0-5]\d|[+-]1200|\+1400",
}
"""Elements that are taken over where they are valid (dates that are days, too); else they are left empty. A second may
be 60, and zones lie from -12 to +14 hours (PS3.5 6.2, PS3.3 C.12.1.1.8)."""
DATES = tuple(f"{which}Date" for which in ("Content", "Acquisition", "Series", "Study", "InstanceCreation"))
"""Where the time of results comes from: the first that the film has. A time of now would make two readings differ."""
NO_DATE, NO_TIME = "19000101", "000000"
"""Of a film without a date: a report must have one."""
_DISPLAY = (
    *("PhotometricInterpretation", "PresentationLUTShape", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "LUTDescriptor", "LUTData"),
    *("PixelRepresentation", "PixelAspectRatio", "Rows", "Columns"),
)
SPACING = (
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient"),
)
"""Elements of numbers that the size of a film follows from."""
KNOWN = frozenset(python_encoding)
"""Defined terms of SpecificCharacterSet."""
KEYWORDS = (
    *ORIGIN_KEYWORDS,
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SpecificCharacterSet", "BurnedInAnnotation"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    *("PixelSpacingCalibrationType", *SPACING),
    *VIEW_KEYWORDS,
    *FREE_TEXT,
    *PATTERNS,
    *DATES,
    *(name.replace("Date", "Time") for name in DATES),
    *_DISPLAY,
)
"""Elements that results, and a film that is given identifiers, take something from."""
_WHOLE = {
    **{name: PATTERNS["StudyDate"] for name in DATES},
    **{name.replace("Date", "Time"): PATTERNS["StudyTime"] for name in DATES},
    **PATTERNS,
}


@dataclass(frozen=True, eq=False)
class SourceFilm:
    """What results take from a film's DICOM file.

    Attributes:
        data: The file.
        header: Its elements, as bytes.
        date, time: Of the film.
    """

    data: bytes
    header: Elements
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    date: str
    time: str

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Of a DICOM file. `Error`: it is none, or lacks a UID without which nothing can refer to it."""
        header = parse(data, KEYWORDS)
        uids = {name: header.text(name) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
        uids["SOPClassUID"] = header.text("SOPClassUID") or header.text("MediaStorageSOPClassUID")
        for name, uid in uids.items():
            if not valid_uid(uid):
                raise Error(f"the film has no valid {name}, and a DICOM result must name its patient's film and study")
        dates = ((name, standard(header, name)) for name in DATES)
        name, date = next((each for each in dates if each[1]), ("", None))
        return cls(
            data,
            header,
            uids["SOPClassUID"],
            uids["SOPInstanceUID"],
            uids["SeriesInstanceUID"],
            uids["StudyInstanceUID"],
            date or NO_DATE,
            (standard(header, name.replace("Date", "Time")) if name else None) or NO_TIME,
        )

    @property
    def modality(self) -> str:
        """Its Modality; "OT" where it has none."""
        return self.header.text("Modality").upper() or "OT"

    @property
    def is_inverse(self) -> bool:
        """Whether low values are shown white: as Presentation LUT Shape says, else MONOCHROME1."""
        shape = self.header.text("PresentationLUTShape").upper()
        if shape in ("IDENTITY", "INVERSE"):
            return shape == "INVERSE"
        return self.header.text("PhotometricInterpretation").upper() == "MONOCHROME1"

    @property
    def is_gray(self) -> bool:
        """Whether it is a film of one channel."""
        return self.header.text("PhotometricInterpretation").upper().startswith("MONOCHROME")


def standard(header: Elements, keyword: str) -> str | None:
    """The value of an element of `PATTERNS`, or a date or time, as the standard writes it; None where it is not valid.

    An age without a unit is in years; dates of older files have points.
    """
    text = header.text(keyword)
    if keyword == "PatientAge" and (age := re.fullmatch(r"([0-9]{1,3})([DWMY]?)", text.upper())):
        text = f"{int(age[1]):03d}{age[2] or 'Y'}"
    if keyword.endswith("Date") and re.fullmatch(r"[0-9]{4}\.[0-9]{2}\.[0-9]{2}", text):
        text = text.replace(".", "")
    valid = re.fullmatch(_WHOLE[keyword], text) and (not keyword.endswith("Date") or is_day(text))
    return text if valid else None


def charset_of(header: Elements) -> bytes:
    """Its SpecificCharacterSet, rightly spelt where it can be made out, else as it is: it may be a newer one.

    Only where it names none for letters beyond ASCII it is the one that they are in.
    """
    given = header["SpecificCharacterSet"].data
    if header.text("SpecificCharacterSet"):
        terms = header.text("SpecificCharacterSet").split("\\")
        if all(term.strip() in KNOWN for term in terms):
            return given
        spelt = [_spelt(term) for term in terms]
        if all(term in KNOWN for term in spelt):
            return "\\".join(spelt).encode("ascii")
        return given
    written = b"".join(header[name].data for name in FREE_TEXT)
    if written.isascii():
        return b""
    try:
        written.decode("utf-8")
    except UnicodeDecodeError:
        return b"ISO_IR 100"
    return b"ISO_IR 192"


def _spelt(term: str) -> str:
    """A defined term of SpecificCharacterSet (PS3.3 C.12.1.1.2) for one with other signs between its parts."""
    parts = re.findall(r"[A-Z]+|[0-9]+", term.upper())
    if parts in (["UTF", "8"], ["UNICODE", "UTF", "8"]):
        return "ISO_IR 192"
    if parts[:2] == ["ISO", "2022"]:
        return " ".join(parts)
    return f"{'_'.join(parts[:-1])} {parts[-1]}" if len(parts) > 1 else term.strip()
