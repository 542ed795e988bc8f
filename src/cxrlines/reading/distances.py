"""Distances of tips from the carina, and the states that a position rule leaves open.

All points are [x, y] in px of the original film, pixel centres at whole numbers.
"""

from dataclasses import replace

import numpy as np

from cxrlines.core.findings import Distance, Findings, Line
from cxrlines.core.notes import Code
from cxrlines.core.polyline import resample
from cxrlines.core.rules import (
    CVC_LEFT,
    CVC_RIGHT,
    ETT_CARINA,
    ETT_HIGH,
    ETT_LARYNX,
    ETT_LOW,
    GASTRO_OESOPHAGEAL,
    NGT_BESIDE,
    NGT_DEEP,
    cvc_states,
    ett_states,
    ngt_states,
)
from cxrlines.core.spacing import MAGNIFICATION, SpacingKind
from cxrlines.task import DEVICES, LABELS_OF, STATE_OF, Device, Landmark, State, label_of

LONG_SIDE_CM = (35.0, 43.0)
"""Longer side of the plates that chest films of adults are taken on (35 x 35, 35 x 43, 43 x 43 cm): what sizes are
estimated from where a film has no spacing; see `has_plate_size`."""
ETT_RULE = (
    f"tip {ETT_LOW:g} to {ETT_HIGH:g} cm above the carina in the patient is normal, "
    f"{ETT_CARINA:g} to {ETT_LARYNX:g} cm borderline, else abnormal"
)
NGT_RULE = (
    "a tube that leaves the film by its lower edge is incompletely imaged; undecided whether one whose course lies "
    f"more than {NGT_BESIDE:g} cm beside the carina, or is not seen there, is abnormal"
)
NGT_TIP_RULE = (
    f"{NGT_DEEP:g} cm of tube beyond the gastro-oesophageal junction ({GASTRO_OESOPHAGEAL[0]:g} to "
    f"{GASTRO_OESOPHAGEAL[1]:g} cm below the carina) are normal, less borderline, a tip that is not beyond it "
    f"abnormal; undecided whether a course more than {NGT_BESIDE:g} cm beside the carina above it is abnormal"
)
CVC_RULE = (
    "tip in the lower superior vena cava or at the cavo-atrial junction (about 4 cm below the carina) is normal, "
    "higher in the vena cava or in the upper atrium borderline, elsewhere abnormal, as is one more than "
    f"{CVC_LEFT:g} cm to the patient's left of the carina or {CVC_RIGHT:g} cm to the right"
)
TIP_RULES = {Device.ETT: ETT_RULE, Device.NGT: NGT_TIP_RULE, Device.CVC: CVC_RULE}
"""The rule that goes by where a tip lies from the carina."""
UNRULED = (Code.PERHAPS_NO_CHEST_FILM, Code.POSE_UNSURE, Code.MIRRORED, Code.CHILD)
"""Notes on films to which no position rule is applied: it is not sure that they show a chest from the front, or which
way is up or left, or the patient is no adult."""


def distances_of(found: Findings) -> list[Distance]:
    """The distance of each line's tip from the carina, along and across the upright film, in the order of lines.

    None of a line whose tip is not seen: nothing follows from where it was followed to.
    Directions go by `found.quality.rotation`, sizes by `found.spacing`.
    """
    carina = found.landmarks.get(Landmark.CARINA)
    distances = []
    for k, line in enumerate(found.lines):
        if line.device is Device.NGT and leaves_below(line, found):
            off = Distance(f"{line.device.name} tip off the film", k, rule=NGT_RULE)
            beside = _beside_carina(_courses(k, found)) > NGT_BESIDE  # it may be in the lung
            possible = (State.ABNORMAL, State.INCOMPLETE) if beside else (State.INCOMPLETE,)
            distances.append(off if _is_unruled(found) else _with_states(off, possible, found))
        if line.tip is not None and carina is not None:
            distances += _from_carina(k, turned(line.tip - carina.xy, found.quality.rotation), found)
    return distances


def turned(vector: np.ndarray, degrees: int) -> np.ndarray:
    """A vector [right, down], or vectors (2, n), after a turn clockwise by 0, 90, 180, 270 or 360 degrees."""
    right, down = vector
    return np.array({0: (right, down), 90: (-down, right), 180: (-right, -down), 270: (down, -right)}[degrees % 360])


def _from_carina(k: int, vector: np.ndarray, found: Findings) -> list[Distance]:
    """The distances of the tip of line `k` from the carina, the one along the film with its states by rule.

    Of a film that may be turned the straight one alone.
    `vector`: [right, down] px from the carina to the tip on the upright film.
    """
    right, down = vector
    right = -right if found.has(Code.MIRRORED) else right
    device = found.lines[k].device

    def distance(what: str, x: float, y: float, sign: float = 1.0) -> Distance:
        """`x`, `y`: px across and along the upright film."""
        px = sign * float(np.hypot(x, y))
        cm = None
        if (mm := _upright_mm(found)) is not None:
            row, column = mm
            cm = sign * float(np.hypot(x * column, y * row)) / 10
        percent = 100 * px / found.upright_shape[0]
        return Distance(f"{device.name} tip {what}", k, px, percent, cm, _in_patient(px, cm, found))

    straight = distance("to the carina, straight", right, down)
    if found.has(Code.POSE_UNSURE):  # which way is up, and which is right, is not sure
        return [replace(straight, rule=TIP_RULES.get(device))]
    across = distance("to the patient's right of the carina", right, 0, -1 if right > 0 else 1)
    if device is not Device.ETT:
        below = distance("below the carina", 0, down, 1 if down >= 0 else -1)
        return [_by_rule(below, across, found), across]
    above = _by_rule(distance("above the carina", 0, down, -1 if down > 0 else 1), across, found)
    return [above, across, straight]


def _by_rule(along: Distance, across: Distance, found: Findings) -> Distance:
    """The distance along the film with its device's position rule and the states that this leaves open."""
    line = found.lines[along.line]
    rule = TIP_RULES.get(line.device)
    along = replace(along, rule=rule)
    if rule is None or _is_unruled(found):
        return along
    if along.patient_cm is None or across.patient_cm is None:
        # At any size: a tracheal tube's tip at the carina or below, a nasogastric one's there or above.
        wrong = line.device in (Device.ETT, Device.NGT) and along.px is not None and along.px <= 0
        return _with_states(along, (State.ABNORMAL,) if wrong else (), found)
    size, aside = _hundredths(along.patient_cm), _hundredths(across.patient_cm)
    if line.device is Device.ETT:
        return _with_states(along, ett_states(*size), found)
    if line.device is Device.CVC:
        return _with_states(along, cvc_states(size, aside), found)
    courses = _courses(along.line, found)
    return _with_states(along, ngt_states(size, _beyond_junction(courses), _beside_carina(courses)), found)


def _hundredths(cm: tuple[float, float]) -> tuple[float, float]:
    """To .01 cm, as the JSON has them: no state contradicts the distance that stands beside it."""
    return round(cm[0], 2), round(cm[1], 2)


def _is_unruled(found: Findings) -> bool:
    """Whether no position rule is applied to a film."""
    return any(map(found.has, UNRULED))


def leaves_below(line: Line, found: Findings) -> bool:
    """Whether a line leaves the upright film by its lower edge, below the carina if that was found.

    One that leaves by another edge has turned back or lies beside the chest, wherever its tip may be.
    """
    if not line.leaves_film or found.has(Code.POSE_UNSURE):
        return False
    height, width = found.film_shape
    left, top, right, bottom = found.within or (0, 0, width, height)
    x, y = end = line.path[-1]
    outward = {(-1, 0): x + 0.5 - left, (0, -1): y + 0.5 - top, (1, 0): right - 0.5 - x, (0, 1): bottom - 0.5 - y}
    nearest = min(outward, key=lambda direction: outward[direction])
    if turned(np.array(nearest), found.quality.rotation)[1] < 1:
        return False
    carina = found.landmarks.get(Landmark.CARINA)
    return carina is None or bool(turned(end - carina.xy, found.quality.rotation)[1] > 0)


def _beyond_junction(courses: list[np.ndarray]) -> tuple[float, float]:
    """cm of a tube, in the patient, below the lowest and the highest place that the junction may have: least, most.

    `courses` as of `_courses`, not empty.
    """
    lengths = []
    for (right, depth), junction in zip(courses, GASTRO_OESOPHAGEAL[::-1], strict=True):
        steps = np.hypot(np.diff(right), np.diff(depth))
        lengths.append(float(steps[depth[1:] > junction].sum()))
    return lengths[0], lengths[1]


def _beside_carina(courses: list[np.ndarray]) -> float:
    """The farthest, cm in the patient, that a tube may lie beside the carina from there to the least depth of the
    junction; infinite where its course is not seen there, 0 without `courses`, which are as of `_courses`."""
    farthest = [0.0]
    for right, depth in courses:
        there = (depth > 0) & (depth < GASTRO_OESOPHAGEAL[0])
        farthest.append(float(np.abs(right[there]).max()) if there.any() else np.inf)
    return max(farthest)


def _courses(k: int, found: Findings) -> list[np.ndarray]:
    """(2, n) cm in the patient [right, down] from the carina to points of line `k` on the upright film, 1 px apart: at
    the least, and at the most size that is possible; none without a carina, or where nothing is known of the size.

    Without a spacing px are taken for square: only then is a size estimated.
    """
    carina, mm = found.landmarks.get(Landmark.CARINA), _upright_mm(found)
    cm_per_px = _in_patient(1.0, None if mm is None else mm[0] / 10, found)
    if carina is None or cm_per_px is None:
        return []
    path = found.lines[k].path - carina.xy
    path = resample(path, 1.0) if len(path) > 1 else path
    right, down = turned(path.T, found.quality.rotation)
    if mm is not None:
        right = right * mm[1] / mm[0]
    return [np.stack([right, down]) * cm for cm in cm_per_px]


def _upright_mm(found: Findings) -> tuple[float, float] | None:
    """(row, column) spacing in mm of the upright film; None where there is none that is believed."""
    mm = found.mm_per_px
    return mm[::-1] if mm is not None and found.quality.rotation in (90, 270) else mm


def has_plate_size(found: Findings) -> bool:
    """Whether a film without a spacing that is believed may be taken for a whole plate of `LONG_SIDE_CM`.

    Not one that may be cropped, nor a child's, nor one whose pixels are not square, nor one whose spacing says that it
    is smaller or larger.
    """
    odd = any(map(found.has, (Code.CROPPED, Code.CHILD, Code.PIXELS_NOT_SQUARE)))
    return not odd and found.spacing.kind is not SpacingKind.NOT_BELIEVED


def _in_patient(px: float, cm: float | None, found: Findings) -> tuple[float, float] | None:
    """The least and the most cm in the patient that a distance can be; None where nothing is known of the size.

    A frame may be a part of the plate or be added to it.
    """
    if cm is None and not has_plate_size(found):
        return None
    if cm is not None and found.spacing.kind is SpacingKind.CALIBRATED:
        return cm, cm
    plates = {max(found.upright_shape), max(found.film_shape)}
    sizes = [px * side / plate for side in LONG_SIDE_CM for plate in plates] if cm is None else [cm]
    possible = [size / magnification for size in sizes for magnification in MAGNIFICATION]
    return min(possible), max(possible)


def _with_states(distance: Distance, possible: tuple[State, ...], found: Findings) -> Distance:
    """With the states that a rule leaves open; of a single one the classifier's probability, where it has labels.

    Its labels are of the film: where that may show several of a device, and does, no line is compared with them.
    """
    distance = replace(distance, possible=possible)
    if len(possible) != 1:
        return distance
    (state,) = possible
    device, labels = found.lines[distance.line].device, found.labels or {}
    known = [label for label in LABELS_OF[device] if label in labels]
    if not known:
        return replace(distance, state=state)
    agrees = None
    if not DEVICES[device].several or sum(line.device is device for line in found.lines) == 1:
        agrees = STATE_OF[max(known, key=lambda label: labels[label])] is state
    return replace(distance, state=state, classifier=labels.get(label_of(device, state)), agrees=agrees)
