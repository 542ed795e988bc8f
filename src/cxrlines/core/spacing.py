"""Pixel spacing of a film in mm: detector, calibrated or not believed, by DICOM's elements and magnification."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cxrlines.core.notes import Code, Note


class SpacingKind(StrEnum):
    """What a pixel spacing rests on."""

    CALIBRATED = "calibrated"
    """In the patient: the file says so (PixelSpacingCalibrationType), or a magnification that it names was applied."""
    DETECTOR = "detector"
    """At the detector: the patient is smaller by an unknown magnification, `MAGNIFICATION`."""
    NOT_BELIEVED = "not-believed"
    """The file has one, but no chest film is of that width, or it only fills the element."""
    NONE = "none"
    """The file has none."""


MAGNIFICATION = (1.0, 1.2)
"""Size at the detector by size in the patient, of what lies at the carina (as Estimated Radiographic Magnification
Factor, DICOM PS3.3): 1.05 to 1.1 for PA films taken at 180 cm, up to 1.2 for bedside AP films at 100 cm."""
WIDTH_CM = (25.0, 60.0)
"""Widths, in cm, between which a frontal chest film lies; a spacing that gives another is not believed. Detectors are
35 to 43 cm wide; the upper limit leaves room for stitched ones, the lower one for crops."""
MAX_MM_PER_PX, MAX_ANISOTROPY = 10.0, 2.0
"""A spacing beyond either is no spacing of a film."""
FILLER = (1.0, 1.0)
"""mm, exactly: what software writes where it knows no spacing."""
MIN_FACTOR, MAX_FACTOR = 1.05, 1.6
"""Magnifications that are applied, by factor or distances. In DX files Distance Source to Patient ends at the table or
bucky (PS3.3 C.8.11.5), and Estimated Radiographic Magnification Factor is the ratio of the same distances: one near 1
is that of the table, not of the patient on it, who is magnified more. Of such a film the spacing stays the
detector's."""


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
        return {**asdict(self), "mm_per_px": None if self.mm_per_px is None else list(self.mm_per_px)}


NO_SPACING = Spacing(SpacingKind.NONE)


def spacing_of(
    columns: int,
    pixel: Sequence[float] = (),
    imager: Sequence[float] = (),
    nominal: Sequence[float] = (),
    calibration: str = "",
    factor: float | None = None,
    source_to_detector: float | None = None,
    source_to_patient: float | None = None,
) -> tuple[Spacing, list[Note]]:
    """The spacing of a projection radiograph by PS3.3 10.7.1.3, and notes on what of it is not used.

    Args:
        columns: Width of the film, in px.
        pixel, imager, nominal: Pixel Spacing, Imager Pixel Spacing, Nominal Scanned Pixel Spacing: (vertical,
            horizontal) in mm, as the file has them; empty where it has none.
        calibration: Pixel Spacing Calibration Type: GEOMETRY, FIDUCIAL, or anything else for none.
        factor: Estimated Radiographic Magnification Factor.
        source_to_detector, source_to_patient: Distances in mm.
    """
    given = {"PixelSpacing": pixel, "ImagerPixelSpacing": imager, "NominalScannedPixelSpacing": nominal}
    found = {name: (value[0], value[1]) for name, value in given.items() if _is_spacing(value)}
    notes = [
        Note(Code.SPACING_IGNORED, f"{name} is not a possible spacing of a film and is ignored")
        for name, value in given.items()
        if value and name not in found
    ]
    if not found:
        return NO_SPACING, notes
    if fillers := [name for name, value in found.items() if value == FILLER]:
        text = f"{' and '.join(fillers)} of exactly 1 mm stands for a spacing not known: no distance in mm rests on it"
        if len(fillers) == len(found):
            return Spacing(SpacingKind.NOT_BELIEVED), [*notes, Note(Code.SPACING_NOT_BELIEVED, text)]
        notes.append(Note(Code.SPACING_IGNORED, text))
        found = {name: value for name, value in found.items() if value != FILLER}
    mm = next(iter(found.values()))
    at_detector = found.get("ImagerPixelSpacing", mm)
    corrected = not _same(mm, at_detector)  # for what, only the calibration type says, or a magnification that fits
    magnification = _magnification(factor, source_to_detector, source_to_patient, notes)
    declared = calibration in ("GEOMETRY", "FIDUCIAL") and "PixelSpacing" in found
    by_factor = magnification is not None and _same(mm, _divided(at_detector, magnification))
    kind, divided = SpacingKind.DETECTOR, None
    if (declared and (corrected or "ImagerPixelSpacing" not in found)) or (corrected and by_factor):
        kind = SpacingKind.CALIBRATED
    elif magnification and not corrected:
        kind, divided = SpacingKind.CALIBRATED, magnification
    width = columns * mm[1] / 10
    low, high = WIDTH_CM
    if not low <= width <= high:
        what = f"its spacing of {mm[1]:.3g} mm makes it {width:.0f} cm wide"
        text = f"{what}; frontal chest films are {low:.0f} to {high:.0f} cm: no distance in mm rests on it"
        return Spacing(SpacingKind.NOT_BELIEVED), [*notes, Note(Code.SPACING_NOT_BELIEVED, text)]
    return Spacing(kind, _divided(mm, divided or 1.0), divided), notes


def pixel_aspect(spacings: Iterable[Sequence[float]], ratio: Sequence[float] = ()) -> tuple[float, list[Note]]:
    """Height of a pixel by its width, and a note where pixels are not square and no spacing makes up for it.

    It is that of the first possible one of `spacings`, (vertical, horizontal) in mm, else Pixel Aspect Ratio
    (vertical, horizontal), as PS3.3 C.7.6.3.1.7 has it; 1 where the file has neither.
    """
    given = [value for value in spacings if value]
    if found := next((value for value in given if _is_spacing(value)), None):
        return found[0] / found[1], []
    text = "the film is shown as if its pixels were square, and its size in the patient is not known"
    if len(ratio) == 2 and all(0 < side < math.inf for side in ratio) and not math.isclose(*ratio, rel_tol=0.01):
        by = f"PixelAspectRatio is {ratio[0]:g}:{ratio[1]:g}"
        return ratio[0] / ratio[1], [Note(Code.PIXELS_NOT_SQUARE, f"{by}: {text}")]
    if any(len(value) == 2 and all(0 < mm < MAX_MM_PER_PX for mm in value) for value in given):
        by = f"a spacing is more than {MAX_ANISOTROPY:g} times as much one way as the other"
        return 1.0, [Note(Code.PIXELS_NOT_SQUARE, f"{by}: {text}")]
    return 1.0, []


def _is_spacing(value: Sequence[float]) -> bool:
    possible = len(value) == 2 and all(0 < mm < MAX_MM_PER_PX for mm in value)  # NaN is not
    return possible and max(value) <= MAX_ANISOTROPY * min(value)


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(one, other, strict=True))


def _divided(mm: tuple[float, float], by: float) -> tuple[float, float]:
    return mm[0] / by, mm[1] / by


def _magnification(
    factor: float | None, source_to_detector: float | None, source_to_patient: float | None, notes: list[Note]
) -> float | None:
    """The magnification by factor or distances; None, and a note, where the file has none that can be."""
    if factor is not None and factor not in (0, 1):
        if MIN_FACTOR <= factor <= MAX_FACTOR:
            return factor
        text = f"EstimatedRadiographicMagnificationFactor is {factor:g}; {MIN_FACTOR} to {MAX_FACTOR} are used"
        notes.append(Note(Code.SPACING_IGNORED, text))
    ratio = source_to_detector / source_to_patient if source_to_detector and source_to_patient else 1.0
    if MIN_FACTOR <= ratio <= MAX_FACTOR:
        return ratio
    if ratio != 1:
        text = f"DistanceSourceToDetector is {ratio:.5g} times DistanceSourceToPatient"
        notes.append(Note(Code.SPACING_IGNORED, f"{text}; {MIN_FACTOR} to {MAX_FACTOR} are used"))
    return None
