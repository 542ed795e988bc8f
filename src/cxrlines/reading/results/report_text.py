"""Findings in words: for the strip beside a drawn film, and for a terminal."""

import numpy as np

from cxrlines.core.findings import Distance, Findings
from cxrlines.core.notes import Code
from cxrlines.core.rules import (
    CAVO_ATRIAL,
    CVC_JUNCTION,
    CVC_LEFT,
    CVC_LOWER_SVC,
    CVC_RIGHT,
    CVC_UPPER_ATRIUM,
    ETT_CARINA,
    ETT_HIGH,
    ETT_LARYNX,
    ETT_LOW,
    GASTRO_OESOPHAGEAL,
    SVC_ORIGIN,
)
from cxrlines.core.spacing import MAGNIFICATION, SpacingKind
from cxrlines.reading.distances import LONG_SIDE_CM, has_plate_size, turned
from cxrlines.task import DEVICE_OF, STATE_OF, Device, Landmark

NOT_LOOKED_FOR = "Lines and carina were not looked for: there are no heatmaps."
LIKELY = 0.5
"""Presence score from which a device without a line is said to be perhaps there."""
SAME_END = 1.0
"""px of the film: lines of a device whose ends are no farther apart end at the same place."""
_ABOVE, _BELOW = "above carina", "below carina"
_RIGHT, _LEFT = "to the patient's right", "to the patient's left"
_DIRECTIONS = {
    "above the carina": (_ABOVE, _BELOW),
    "below the carina": (_BELOW, _ABOVE),
    "to the patient's right of the carina": (_RIGHT, _LEFT),
    "to the carina, straight": ("from carina, straight", "from carina, straight"),
}
"""By the words of `Distance.what`: where a tip at a positive, and at a negative distance lies."""
_DEPTHS = (CVC_LOWER_SVC, CVC_JUNCTION, CVC_UPPER_ATRIUM)
_LIMITS = {
    "ETT tip above the carina": (ETT_CARINA, ETT_LOW, ETT_HIGH, ETT_LARYNX),
    "NGT tip below the carina": GASTRO_OESOPHAGEAL,
    "CVC tip below the carina": (*SVC_ORIGIN, *(round(end + depth, 1) for end in CAVO_ATRIAL for depth in _DEPTHS)),
    "CVC tip to the patient's right of the carina": (-CVC_LEFT, CVC_RIGHT),
}
"""By `Distance.what`: the cm, of one digit, that the rules of `core.rules` compare it with."""


def looked_for(findings: Findings) -> bool:
    """Whether lines and the carina were looked for: not without heatmaps, which a bundle, or a reader, may lack."""
    return findings.evidence is not None or bool(findings.lines or findings.landmarks)


def tip_words(findings: Findings, k: int) -> str:
    """What stands where line `k` ends: `ETT 3.1 cm above carina`, in % of the film's height where it has no spacing.

    Of a central catheter how far it lies beside the carina too, where that may make it abnormal. `NGT followed to here`
    where its tip is not seen; its device alone where it leaves the film, or without a carina.
    """
    line = findings.lines[k]
    if line.followed_to is not None:
        return f"{line.device.name} followed to here"
    return _tip_words(findings, k, in_patient=False)


def line_words(findings: Findings, k: int) -> str:
    """Where line `k` ends, what that may be in the patient, and the confidence in the line.

    Of one that is followed to a point, where that is; of one that `ends_at_earlier` only that.
    """
    line = findings.lines[k]
    name = line.device.name
    if ends_at_earlier(findings, k):
        end = f"{name} ends where a {name} above ends; perhaps it is the same"
    elif line.followed_to is not None:
        end = f"{name} followed to {_place_words(findings, line.followed_to)}, further course not seen"
    else:
        end = _tip_words(findings, k, in_patient=True) + (", leaves the film" if line.leaves_film else "")
    return f"{end}, confidence {line.confidence:.2f}"


def ends_at_earlier(findings: Findings, k: int) -> bool:
    """Whether line `k` ends on the film at the same place as one of its device before it."""
    line = findings.lines[k]
    return not line.leaves_film and any(
        other.device is line.device
        and not other.leaves_film
        and np.hypot(*(other.path[-1] - line.path[-1])) <= SAME_END
        for other in findings.lines[:k]
    )


def unfound_words(findings: Findings) -> list[str]:
    """That no line was found, and which devices may be there without one; none of those not looked for."""
    words = ["No line found."] if looked_for(findings) and not findings.lines else []
    found = {line.device.name for line in findings.lines}
    for name, presence in (findings.presence or {}).items():
        if presence >= LIKELY and name not in found and name in (findings.evidence or {}):
            words.append(
                f"{name} may be there (presence score {presence:.2f}), but no line of it was found: "
                "nothing is said of its position."
            )
    return words


def rule_words(findings: Findings, distance: Distance) -> str | None:
    """The state by the position rule, or which ones are possible, and whether the classifier agrees; None: no rule."""
    if distance.rule is None:
        return None
    if distance.state is not None:
        verdict = {None: "", True: "; classifier agrees", False: "; classifier differs"}[distance.agrees]
        return f"by rule {distance.state.value.lower()}{verdict}"
    if findings.has(Code.PERHAPS_NO_CHEST_FILM):
        return "no state by rule: it may be no frontal chest film"
    if findings.has(Code.POSE_UNSURE):
        return "no state by rule: the film may be turned"
    if findings.has(Code.MIRRORED):
        return "no state by rule: the film lies mirrored in its file"
    if findings.has(Code.CHILD):
        return "no state by rule: the rules are those of adults"
    if not distance.possible:
        return "no state by rule: neither the spacing nor the size of the film is known"
    possible = [state.value.lower() for state in distance.possible]
    return f"undecided by rule: {' or '.join([', '.join(possible[:-1]), possible[-1]])}"


def rules_of(findings: Findings, k: int) -> list[str]:
    """`rule_words` of line `k`; none if it `ends_at_earlier`, which has them."""
    if ends_at_earlier(findings, k):
        return []
    rules = (rule_words(findings, distance) for distance in findings.distances if distance.line == k)
    return [rule for rule in rules if rule]


def spacing_words(findings: Findings) -> str | None:
    """What the distances rest on; None where there are none."""
    if all(distance.px is None for distance in findings.distances):
        return None
    spacing = findings.spacing
    low, high = (f"{magnification:g}" for magnification in MAGNIFICATION)
    if spacing.kind is SpacingKind.CALIBRATED:
        divided = "" if spacing.magnification is None else f", magnification {spacing.magnification:.2f} divided out"
        return f"Distances in the patient: calibrated spacing{divided}."
    if spacing.kind is SpacingKind.DETECTOR:
        return f"Distances at the detector: magnification unknown, {low} to {high} assumed."
    why = "no spacing" if spacing.kind is SpacingKind.NONE else "spacing not believed"
    if not has_plate_size(findings):
        odd = {
            Code.CROPPED: ", and the film may be cropped",
            Code.CHILD: ", and the film is a child's",
            Code.PIXELS_NOT_SQUARE: ", and pixels may not be square",
        }
        return f"Distances without cm: {why}{next((text for code, text in odd.items() if findings.has(code)), '')}."
    side = " to ".join(f"{cm:g}" for cm in LONG_SIDE_CM)
    return f"Distances estimated: {why}, longer side of {side} cm and magnification of {low} to {high} assumed."


def carina_words(findings: Findings) -> str:
    """Whether the carina was found, and the confidence in it; or that nothing was looked for."""
    carina = findings.landmarks.get(Landmark.CARINA)
    if carina is not None:
        return f"Carina found, confidence {carina.confidence:.2f}"
    return "Carina not found." if looked_for(findings) else NOT_LOOKED_FOR


def note_words(findings: Findings) -> list[str]:
    """The sentences of all notes, each once; of a refused film the first says why it was not read."""
    words = list(dict.fromkeys(note.text for note in findings.all_notes))
    return words if findings.quality.usable else [f"Not read: {words[0]}" if words else "Not read.", *words[1:]]


def as_text(findings: Findings) -> str:
    """All of it: a row for each device with `Findings.presence` and its labels; lines, and which devices may be there
    without one; the carina, spacing, notes.

    Of a refused film only the notes.
    """
    if not findings.quality.usable:
        return "\n".join(note_words(findings))
    rows = ["Presence score, and probability of each state:"] if findings.presence else []
    for name, presence in (findings.presence or {}).items():
        p = {STATE_OF[label].value: p for label, p in (findings.labels or {}).items() if DEVICE_OF[label].name == name}
        rows.append(f"{name:<5} {presence:.2f}   {'  '.join(f'{state} {p[state]:.2f}' for state in p)}")
    for k in range(len(findings.lines)):
        rows.append(line_words(findings, k))
        rows += [f"  {rule}" for rule in rules_of(findings, k)]
    rows += [*unfound_words(findings), carina_words(findings)]
    spacing = spacing_words(findings)
    return "\n".join([*rows, *([spacing] if spacing else []), *note_words(findings)])


def _tip_words(findings: Findings, k: int, *, in_patient: bool) -> str:
    """Device and distances of line `k`; with what each may be `in_patient`, where that is another one."""
    words = []
    for distance in (_first(findings, k), _beside(findings, k)):
        if distance is not None:
            words.append(_distance_words(distance) + (_patient_words(distance) if in_patient else ""))
    return f"{findings.lines[k].device.name} {', '.join(words)}".strip()


def _place_words(findings: Findings, point: np.ndarray) -> str:
    """Where a point [x, y] px lies from the carina; in px of the film without one, or where the film may be turned."""
    carina = findings.landmarks.get(Landmark.CARINA)
    if carina is None or findings.has(Code.POSE_UNSURE):
        x, y = point
        return f"({x:.0f}, {y:.0f}) px"
    right, down = 100 / findings.upright_shape[0] * turned(point - carina.xy, findings.quality.rotation)
    patients_right = (right < 0) != findings.has(Code.MIRRORED)
    down_words, right_words = _BELOW if round(down, 1) > 0 else _ABOVE, _RIGHT if patients_right else _LEFT
    return f"{abs(down):.1f} % of height {down_words}, {abs(right):.1f} % {right_words}"


def _distance_words(distance: Distance) -> str:
    """The distance and where that lies, with the side of `structured_report`: of 0.0 mm or % it is the positive one."""
    if distance.cm is not None:
        value, unit, side = _cm_words(distance.cm, distance), "cm", round(10 * distance.cm, 1)
    else:
        assert distance.percent_of_height is not None
        value, unit, side = f"{distance.percent_of_height:.1f}", "% of height", round(distance.percent_of_height, 1)
    where = _DIRECTIONS[distance.what.split(" tip ", 1)[-1]][int(side < 0)]
    return f"{value.lstrip('-')} {unit} {where}"


def _patient_words(distance: Distance) -> str:
    if distance.patient_cm is None:
        return ""
    ends = (_cm_words(end, distance).lstrip("-") for end in sorted(distance.patient_cm, key=abs))
    span = " to ".join(dict.fromkeys(ends))
    if distance.cm is not None and span == _cm_words(distance.cm, distance).lstrip("-"):
        return ""
    return f" ({span} cm in the patient)"


def _cm_words(cm: float, distance: Distance) -> str:
    """cm of a distance to one digit; to two, as in the JSON, where one would put them on a limit that they only near:
    "2.0" would contradict the state of 1.97."""
    cm = round(cm, 2)
    short = f"{cm:.1f}"
    on_limit = float(short) in _LIMITS.get(distance.what, ())
    return f"{cm:.2f}" if on_limit and float(short) != cm else short


def _beside(findings: Findings, k: int) -> Distance | None:
    """How far the tip of a central catheter lies beside the carina, where its rule goes by that."""
    along = _first(findings, k)
    if findings.lines[k].device is not Device.CVC or along is None or not along.possible:
        return None
    across = (each for each in findings.distances if each.line == k and each.what.endswith("right of the carina"))
    return next((each for each in across if each.patient_cm and _is_beside(*each.patient_cm)), None)


def _is_beside(low: float, high: float) -> bool:
    """Whether a tip so many cm to the patient's right may be abnormal for that, as `core.rules.cvc_states` has it."""
    return round(low, 2) < -CVC_LEFT or round(high, 2) > CVC_RIGHT


def _first(findings: Findings, k: int) -> Distance | None:
    """The distance that a line's tip is described by: the first of those that can be measured."""
    return next((each for each in findings.distances if each.line == k and each.px is not None), None)
