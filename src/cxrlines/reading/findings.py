"""What a film shows, in words and numbers: lines, landmarks, distances, and the position rule that applies.

All points are [x, y] in px of the original film, pixel centres at whole numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxrlines.core.heatmaps import from_map, to_map
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import NOT_ASSESSED, Quality
from cxrlines.core.rules import ETT_CARINA, ETT_HIGH, ETT_LARYNX, ETT_LOW, ett_states
from cxrlines.core.spacing import MAGNIFICATION, NO_SPACING, Spacing, SpacingKind
from cxrlines.core.transform import Affine
from cxrlines.reading.trace.lines import Bounds, Line, find_landmarks, find_lines
from cxrlines.reading.trace.peaks import Keypoint
from cxrlines.task import (
    EXCLUSIVE,
    LABEL_INDEX,
    LABELS,
    LABELS_OF,
    MAPS,
    STATE_OF,
    Device,
    Landmark,
    MapKind,
    State,
    label_of,
)

LONG_SIDE_CM = (35.0, 43.0)
"""Longer side of the plates that chest films are taken on (35 x 35, 35 x 43, 43 x 43 cm): what sizes are estimated from
where a film has no spacing that is believed. Not of a film that may be cropped, which can be any smaller."""
ETT_RULE = (
    f"tip {ETT_LOW:g} to {ETT_HIGH:g} cm above the carina in the patient is normal, "
    f"{ETT_CARINA:g} to {ETT_LARYNX:g} cm borderline, else abnormal"
)
NGT_RULE = "a tube that leaves the film is incompletely imaged"
SUPPRESS_BELOW = 0.2
"""No line is given of a device that the classifier holds for less likely than this: on real films that spares a third
to a half of the false positive nasogastric tubes, and costs hardly a true one (docs/experiments.md, 2026-11-25)."""
MIN_RECALL = 0.95
"""Share of films with a device that the classifier must keep: else `fit_suppression` lowers its limit."""


@dataclass(frozen=True)
class Distance:
    """A tip against the carina, and what follows.

    Attributes:
        what: In words; a negative distance is the other way.
        line: Index of the line in `Findings.lines`.
        px: Along the rows or columns of the upright film, or straight, as `what` says; None where the tip is off the
            film.
        percent_of_height: px as a share of `Findings.upright_shape`'s height, also for distances across.
        cm: px times the film's spacing, in the plane that `Findings.spacing` is of: in the patient if its kind is
            calibrated, at the detector if it is detector, as a viewer's ruler has it. None without a spacing that is
            believed.
        patient_cm: (least, most) cm in the patient that are possible: both `cm` with calibrated spacing; with the
            detector's, `cm` divided by `spacing.MAGNIFICATION`; without one that is believed, of a film of
            `LONG_SIDE_CM`, divided likewise. None where that film may be cropped. Rules go by this.
        rule: The position rule that applies, in words; None where there is none by the carina alone.
        state: The state by that rule; None where `patient_cm` leaves several open, or the film may be turned.
        classifier: Probability of that state by the classifier.
        agrees: Whether that state is the classifier's most probable one of the device.
    """

    what: str
    line: int
    px: float | None = None
    percent_of_height: float | None = None
    cm: float | None = None
    patient_cm: tuple[float, float] | None = None
    rule: str | None = None
    state: State | None = None
    classifier: float | None = None
    agrees: bool | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """All that was found on a film, in px of the original film. See `as_dict` for its JSON.

    Attributes:
        film_shape: (height, width) px of the original film.
        lines: In the order of `Device` and of confidence.
        landmarks: Those that were found.
        distances: Of each line's tip from the carina.
        labels: Probability by label; None if the film is not usable, see `quality`.
        spacing: Of the original film, and what it rests on.
        seconds: For decoding and preparing, and the film's share of its batch.
        quality: What the film shows, and how it was turned to be read; `quality.notes` is what is odd about that.
        calibrated: Whether `labels` were calibrated on films that the models were not trained on.
        evidence: By `Device.name`, see `evidence_of`; None without maps.
        within: (left, top, right, bottom) px of the film inside a frame of one gray value, right and bottom exclusive;
            None: all of it.
        notes: What is odd about the file.
        study_uid: DICOM StudyInstanceUID, where the file has a valid one.
    """

    film_shape: tuple[int, int]
    lines: tuple[Line, ...]
    landmarks: dict[Landmark, Keypoint]
    distances: tuple[Distance, ...]
    labels: dict[str, float] | None = None
    spacing: Spacing = NO_SPACING
    seconds: float = 0.0
    quality: Quality = NOT_ASSESSED
    calibrated: bool = False
    evidence: dict[str, float] | None = None
    within: tuple[int, int, int, int] | None = None
    notes: tuple[Note, ...] = ()
    study_uid: str | None = None

    @property
    def mm_per_px(self) -> tuple[float, float] | None:
        """(row, column) spacing in mm of the original film; None where there is none, or none that is believed."""
        return self.spacing.mm_per_px

    @property
    def upright_shape(self) -> tuple[int, int]:
        """(height, width) px of the film inside its frame once it is turned upright: what "height" means everywhere."""
        left, top, right, bottom = self.within or (0, 0, self.film_shape[1], self.film_shape[0])
        sides = (bottom - top, right - left)
        return sides[::-1] if self.quality.rotation in (90, 270) else sides

    @property
    def all_notes(self) -> tuple[Note, ...]:
        """What is odd about the picture, then about the file, each once. Of a refused film the first says why."""
        return tuple(dict.fromkeys((*self.quality.notes, *self.notes)))

    def has(self, code: Code) -> bool:
        """Whether one of the notes is of this code."""
        return any(note.code is code for note in self.all_notes)

    @property
    def presence(self) -> dict[str, float] | None:
        """How likely by `Device.name` the device is there at all, in [0, 1]; None without labels.

        `presence_of` the labels; where lines were mapped, the geometric mean of that and `evidence_of` the maps, which
        tells films of other hospitals apart better than the labels do (docs/model-card.md), and is no probability.
        """
        if self.labels is None:
            return None
        by_labels = presence_of(self.labels)
        if self.evidence is None:
            return by_labels
        return {name: float(np.sqrt(p * self.evidence[name])) for name, p in by_labels.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, always with the same keys in the same order.

        `labels` and `presence` are in full precision, as in the table of predictions; other probabilities and
        confidences have four digits, places one (px of the original film, [x, y]), distances one (px) or two (cm, %).

        `film_shape` is [height, width] px of the original film, `within` [left, top, right, bottom] px of what is
        inside its frame (null: all of it). `spacing` is that of the original film: its `kind` (calibrated, detector,
        not-believed, none), `mm_per_px` [row, column] or null, and the `magnification` that was divided out, or null;
        `mm_per_px` beside it is the same. `distances` have `cm` in the plane of that spacing, and `patient_cm`
        [least, most] in the patient, see `Distance`. `notes` are `all_notes`, as `code` and `text`.
        """
        return {
            "labels": None if self.labels is None else dict(self.labels),
            "calibrated": self.calibrated,
            "presence": self.presence,
            "lines": [
                {
                    "device": line.device.name,
                    "path": [_point(point) for point in line.path],
                    "tip": None if line.tip is None else _point(line.tip),
                    "confidence": round(line.confidence, 4),
                }
                for line in self.lines
            ],
            "landmarks": {
                name.value: {"xy": _point(spot.xy), "confidence": round(spot.confidence, 4)}
                for name, spot in self.landmarks.items()
            },
            "distances": [
                {
                    "what": distance.what,
                    "line": distance.line,
                    "px": _rounded(distance.px, 1),
                    "percent_of_height": _rounded(distance.percent_of_height, 2),
                    "cm": _rounded(distance.cm, 2),
                    "patient_cm": distance.patient_cm and [_rounded(end, 2) for end in distance.patient_cm],
                    "rule": distance.rule,
                    "state": None if distance.state is None else distance.state.value,
                    "classifier": _rounded(distance.classifier, 4),
                    "agrees": distance.agrees,
                }
                for distance in self.distances
            ],
            "quality": self.quality.as_dict(),
            "notes": [note.as_dict() for note in self.all_notes],
            "film_shape": list(self.film_shape),
            "within": None if self.within is None else list(self.within),
            "mm_per_px": None if self.mm_per_px is None else list(self.mm_per_px),
            "spacing": self.spacing.as_dict(),
        }


def presence_of(labels: Mapping[str, float]) -> dict[str, float]:
    """Probability by `Device.name` that a device is there, from those of its states.

    States that exclude each other (`task.EXCLUSIVE`) add up, to 1 at most. Of the others several may hold, of several
    instances: noisy-or, 1 - the product of (1 - p), as if they were independent, which they are not quite.
    """
    found = {}
    for device in Device:
        p = np.sort([labels[label] for label in LABELS_OF[device]])
        found[device.name] = float(min(p.sum(), 1.0) if device in EXCLUSIVE else 1 - np.prod(1 - p))
    return found


def fit_suppression(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """By `Device.name`, the probability below which a device is suppressed: at most `SUPPRESS_BELOW`.

    A classifier that gives a rare device low probabilities throughout would otherwise silence its every line.

    Args:
        labels: (n, 11) calibrated probabilities of films that it was not trained on.
        truth: (n, 11) 0 or 1.
    """
    there = [presence_of(dict(zip(LABELS, row, strict=True))) for row in labels]
    found = {}
    for device in Device:
        has_it = truth[:, [LABEL_INDEX[label] for label in LABELS_OF[device]]].any(axis=1)
        p = [there[k][device.name] for k in np.flatnonzero(has_it)]
        found[device.name] = (
            min(SUPPRESS_BELOW, float(np.quantile(p, 1 - MIN_RECALL, method="lower"))) if p else SUPPRESS_BELOW
        )
    return found


def evidence_of(maps: np.ndarray) -> dict[str, float]:
    """How clearly maps (9, h, w) show a line of each device, by `Device.name`: the mean of the map's highest values.

    As many as a quarter of the map's side: a line of that length, in px.
    """
    most = max(1, maps.shape[1] // 4)
    return {
        # Only the highest values are put in order, so that their sum is the same wherever they lie.
        what.name: float(np.sort(np.partition(maps[channel], -most, axis=None)[-most:]).mean())
        for channel, (kind, what) in enumerate(MAPS)
        if kind is MapKind.LINE
    }


def findings_of(
    maps: np.ndarray,
    placement: Affine,
    film_shape: tuple[int, int],
    labels: Mapping[str, float] | None = None,
    spacing: Spacing = NO_SPACING,
    denied: Mapping[str, float] | None = None,
    *,
    within: tuple[int, int, int, int] | None = None,
    quality: Quality = NOT_ASSESSED,
) -> Findings:
    """The findings of a film from its maps.

    Args:
        maps: (9, h, w) float32 in [0, 1], in the order of `task.MAPS`, of the square film that was read.
        placement: Where the original film lies in that square.
        film_shape: (height, width) px of the original film.
        labels: Probability by label, if a classifier read the film as well: lines of a device that it denies are left
            out.
        spacing: The original film's.
        denied: By `Device.name`, the probability below which it denies a device; `SUPPRESS_BELOW` where none is given.
        within: (left, top, right, bottom) px of the original film inside its frame; None: all of it.
        quality: How the original film is turned, and whether it may be cropped.
    """
    left, top, right, bottom = within or (0, 0, film_shape[1], film_shape[0])
    corners = to_map(placement.from_film(np.array([[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]])))
    bounds: Bounds = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())

    def on_original(points: np.ndarray) -> np.ndarray:
        return placement.to_film(from_map(points))

    known = None if labels is None else {name: float(p) for name, p in labels.items()}
    there = None if known is None else presence_of(known)
    limits = denied or {}
    lines = []
    for line in find_lines(maps, bounds):
        if there and there[line.device.name] < limits.get(line.device.name, SUPPRESS_BELOW):
            continue
        tip = None if line.tip is None else on_original(line.tip[None])[0]
        lines.append(Line(line.device, on_original(line.path), tip, line.confidence))
    landmarks = {
        name: Keypoint(on_original(spot.xy[None])[0], spot.confidence)
        for name, spot in find_landmarks(maps, bounds).items()
    }
    found = Findings(
        film_shape,
        tuple(lines),
        landmarks,
        (),
        known,
        spacing,
        quality=quality,
        evidence=evidence_of(maps),
        within=within,
    )
    return replace(found, distances=tuple(distances_of(found)))


def distances_of(found: Findings) -> list[Distance]:
    """The place of each line's tip against the carina, along and across the upright film.

    Directions go by `found.quality.rotation`, sizes by `found.spacing`.
    """
    carina = found.landmarks.get(Landmark.CARINA)
    distances = []
    for k, line in enumerate(found.lines):
        if line.device is Device.NGT and line.tip is None:
            distances.append(_judged(Distance("NGT tip off the film", k, rule=NGT_RULE), (State.INCOMPLETE,), found))
        if line.tip is not None and carina is not None:
            distances += _from_carina(k, turned(line.tip - carina.xy, found.quality.rotation), found)
    return distances


def turned(vector: np.ndarray, degrees: int) -> np.ndarray:
    """A vector [right, down] after a turn clockwise by 0, 90, 180, 270 or 360 degrees."""
    right, down = vector
    return np.array({0: (right, down), 90: (-down, right), 180: (-right, -down), 270: (down, -right)}[degrees % 360])


def _from_carina(k: int, vector: np.ndarray, found: Findings) -> list[Distance]:
    """`vector`: [right, down] px from the carina to the tip of line `k` on the upright film."""
    right, down = vector
    device = found.lines[k].device

    def distance(what: str, x: float, y: float, sign: float = 1.0) -> Distance:
        px = sign * float(np.hypot(x, y))
        cm = None
        if found.mm_per_px is not None:
            row, column = found.mm_per_px[::-1] if found.quality.rotation in (90, 270) else found.mm_per_px
            cm = sign * float(np.hypot(x * column, y * row)) / 10
        percent = 100 * px / found.upright_shape[0]
        return Distance(f"{device.name} tip {what}", k, px, percent, cm, _in_patient(px, cm, found))

    across = distance("to the patient's right of the carina", right, 0, -1 if right > 0 else 1)
    if device is not Device.ETT:
        return [distance("below the carina", 0, down, 1 if down >= 0 else -1), across]
    above = replace(distance("above the carina", 0, down, -1 if down > 0 else 1), rule=ETT_RULE)
    if above.patient_cm is not None and not found.has(Code.POSE_UNSURE):  # which way is up is then not known either
        above = _judged(above, ett_states(*above.patient_cm), found)
    return [above, across, distance("to the carina, straight", right, down)]


def _in_patient(px: float, cm: float | None, found: Findings) -> tuple[float, float] | None:
    """The least and the most cm in the patient that a distance can be; None where nothing is known of the size."""
    if cm is not None and found.spacing.kind is SpacingKind.CALIBRATED:
        return cm, cm
    if cm is not None:
        sizes: tuple[float, ...] = (cm,)
    elif found.has(Code.CROPPED):
        return None
    else:
        sizes = tuple(px * side / max(found.upright_shape) for side in LONG_SIDE_CM)
    possible = [size / magnification for size in sizes for magnification in MAGNIFICATION]
    return min(possible), max(possible)


def _judged(distance: Distance, possible: tuple[State, ...], found: Findings) -> Distance:
    """With the state that a rule leaves possible, if it is one, and what the classifier says of it."""
    if len(possible) > 1:
        return distance
    (state,) = possible
    device, labels = found.lines[distance.line].device, found.labels
    if labels is None:
        return replace(distance, state=state)
    most = max(LABELS_OF[device], key=lambda label: labels[label])
    return replace(distance, state=state, classifier=labels[label_of(device, state)], agrees=STATE_OF[most] is state)


def _point(point: np.ndarray) -> list[float]:
    return [round(float(value), 1) + 0.0 for value in point]  # never -0.0


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0
