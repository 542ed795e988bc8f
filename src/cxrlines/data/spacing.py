"""The spacing of a film's pixels in mm, and what it rests on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SpacingKind(StrEnum):
    """What a film's spacing rests on."""

    CALIBRATED = "calibrated"
    """In the patient: the file says so (PixelSpacingCalibrationType), or a magnification that it names was applied."""
    DETECTOR = "detector"
    """At the detector: the patient is smaller by an unknown magnification, `MAGNIFICATION`."""
    NOT_BELIEVED = "not-believed"
    """The file names one, but a chest film of that width does not exist."""
    NONE = "none"
    """The file names none."""


MAGNIFICATION = (1.0, 1.2)
"""Size at the detector by size in the patient, of what lies at the carina: source-to-detector by
source-to-object distance (as Estimated Radiographic Magnification Factor, DICOM PS3.3). Some
1.05 to 1.1 for PA films taken at 180 cm, up to 1.2 for bedside AP films at 100 cm."""
WIDTH_CM = (25.0, 60.0)
"""Widths, in cm, between which a frontal chest film lies; a spacing that gives another is not believed. Detectors are
35 to 43 cm wide; the upper limit leaves room for stitched ones, the lower one for crops."""


@dataclass(frozen=True)
class Spacing:
    """The spacing of a film.

    Attributes:
        kind: What it rests on.
        mm_per_px: (row, column) spacing in mm, (vertical, horizontal); None where the kind is NOT_BELIEVED or NONE.
            With kind CALIBRATED it is that of the patient: the magnification is divided out.
        magnification: What was divided out; None where nothing was.
    """

    kind: SpacingKind
    mm_per_px: tuple[float, float] | None = None
    magnification: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": self.kind.value,
            "mm_per_px": None if self.mm_per_px is None else list(self.mm_per_px),
            "magnification": self.magnification,
        }


NO_SPACING = Spacing(SpacingKind.NONE)
