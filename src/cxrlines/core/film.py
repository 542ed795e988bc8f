"""A decoded film, the errors of reading one, and what the file of a film is called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.notes import Note
from cxrlines.core.spacing import NO_SPACING, Spacing

MAX_PIXELS = 50_000_000
"""Largest film read, in px. The largest detectors (43 x 43 cm at 0.1 mm) make 18 million."""


class FilmError(Error):
    """A film cannot be read: which file, what was found, what is allowed, the way out. Holds no patient data.

    Attributes:
        passing: Whether it is the machine's failure and not the file's (a disk, memory, a decoder that is not
            installed): the same file may be read another time.
    """

    def __init__(self, what: str, way_out: str = "", *, passing: bool = False) -> None:
        super().__init__(what, way_out)
        self.passing = passing

    def named(self, name: str) -> Self:
        """The same error with what messages call the film before it."""
        self.what = f"{name}: {self.what}"
        self.args = (self.what, *self.args[1:])  # what it is pickled by
        return self


class NotAFilm(FilmError):
    """An intact file without a film that comes along with films: in a folder it is skipped and counted, no failure.

    Attributes:
        kind: What it is, in a few words ("DICOMDIR", "structured report", ...), to count by.
    """

    def __init__(self, what: str, way_out: str, kind: str) -> None:
        super().__init__(what, way_out)
        self.kind = kind
        self.args = (what, way_out, kind)  # what it is pickled by


@dataclass(frozen=True, eq=False)
class Film:
    """One decoded film.

    Attributes:
        pixels: (h, w) uint8 gray, white = bone.
        format: JPEG, PNG, TIFF, DICOM or array.
        bits: Bits of a value as stored in the file: of a pixel, of each channel of a colour, of a place in a palette.
        spacing: mm per px, where the file has it (DICOM only), and what it rests on.
        view: DICOM ViewPosition (PA, AP, LL, ...), where the file has one, or a side view by other words of it, by its
            ViewCodeSequence or PatientOrientation.
        notes: What is odd about the file, in the order found.
        study_uid: DICOM StudyInstanceUID, where the file has one that is a valid UID.
        sop_uid: DICOM SOPInstanceUID, likewise.
        pixel_aspect: Height of a pixel by its width, where the file says it (DICOM only).
    """

    pixels: np.ndarray
    format: str
    bits: int
    spacing: Spacing = NO_SPACING
    view: str | None = None
    notes: tuple[Note, ...] = ()
    study_uid: str | None = None
    sop_uid: str | None = None
    pixel_aspect: float = 1.0

    @property
    def mm_per_px(self) -> tuple[float, float] | None:
        """(row, column) spacing in mm that distances rest on; None where there is none, or none that is believed."""
        return self.spacing.mm_per_px


def check_size(name: str, width: int, height: int) -> None:
    """`FilmError` for a film without pixels or with more than `MAX_PIXELS`; an empty name is left out."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        error = FilmError(f"is {width} x {height} px; a film has at least 1 and at most {MAX_PIXELS:,} px", "shrink it")
        raise error.named(name) if name else error


FILM_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm", ".dicom")


def stem_of(name: str) -> str:
    """A file's name, or its path, without the suffix of a film (`FILM_SUFFIXES`); a DICOM UID keeps its last number."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem.rpartition("/")[2] and dot + suffix.lower() in FILM_SUFFIXES else name


def film_name(path: Path) -> str:
    """`stem_of` the name of a film's file, without its folders."""
    return stem_of(path.name)
