"""What a film shows, in words and numbers: lines, landmarks, distances, and the position rule that applies.

All points are [x, y] in px of the original film, pixel centres at whole numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxrlines.data.maps import from_map, to_map
from cxrlines.data.notes import Note
from cxrlines.data.position import ETT_CARINA, ETT_HIGH, ETT_LARYNX, ETT_LOW, ett_state
from cxrlines.data.prepare import AS_IT_IS, Placement, Quality
from cxrlines.data.spacing import NO_SPACING, Spacing
from cxrlines.inference.locate import Bounds, Line, find_landmarks, find_lines
from cxrlines.inference.spots import Spot
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
"""Longer side of the plates that chest films are taken on (35 x 35, 35 x 43, 43 x 43 cm): the guess where a film has
no spacing. A crop is smaller, so that a state is told from it only if both ends of the range agree."""
ETT_RULE = (
    f"tip {ETT_LOW:g} to {ETT_HIGH:g} cm above the carina is normal, "
    f"{ETT_CARINA:g} to {ETT_LARYNX:g} cm borderline, else abnormal"
)
NGT_RULE = "a tube that leaves the film is incompletely imaged"
DENIED = 0.2
"""No line is told of a device that the classifier holds for less likely than this: on real films it spares a third to
a half of the invented nasogastric tubes, and hardly a true one (docs/experiments.md, 2026-11-25)."""
HEARD = 0.95
"""Of the films that have a device the classifier denies no more than the rest: else `fit_denied` lowers its limit."""


@dataclass(frozen=True)
class Distance:
    """A tip against the carina, and what follows.

    Attributes:
        what: In words; a negative distance is the other way.
        line: Index of the line in `Findings.lines`.
        px: Along the film's rows or columns, or straight, as `what` says; None where the tip is off the film.
        percent_of_height: px as a share of the film's height, also for distances across.
        cm: None where the film has no spacing. At the detector: on the patient it is some 5 % less.
        rule: The position rule that applies, in words; None where none is told by the carina alone.
        state: The state by that rule; None where it does not decide.
        classifier: Probability of that state by the classifier.
        agrees: Whether that state is the classifier's most probable one of the device.
    """

    what: str
    line: int
    px: float | None
    percent_of_height: float | None
    cm: float | None
    rule: str | None = None
    state: State | None = None
    classifier: float | None = None
    agrees: bool | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """All that was found on a film, in one frame: px of the original film. See `as_dict` for its JSON.

    `film_shape` is (height, width) px, `within` (left, top, right, bottom) px of it inside a frame of one gray value,
    right and bottom exclusive (None: all of it), `labels` the probability by label, `calibrated` whether it was set
    right on films that the models had not seen, `notes` what is odd about the file; `quality.notes` has what is odd
    about the picture.
    """

    film_shape: tuple[int, int]
    lines: tuple[Line, ...]
    landmarks: dict[Landmark, Spot]
    distances: tuple[Distance, ...]
    labels: dict[str, float] | None = None
    spacing: Spacing = NO_SPACING
    seconds: float = 0.0  # decoding and its share of its batch
    quality: Quality = AS_IT_IS  # if not usable there are no labels and no lines
    calibrated: bool = False
    evidence: dict[str, float] | None = None  # by `Device.name`, of the line maps; see `evidence_of`
    within: tuple[int, int, int, int] | None = None
    notes: tuple[Note, ...] = ()
    study_uid: str | None = None  # DICOM StudyInstanceUID, where the file has a valid one

    @property
    def mm_per_px(self) -> tuple[float, float] | None:
        """(row, column) spacing in mm that distances rest on; None where there is none, or none that is believed."""
        return self.spacing.mm_per_px

    @property
    def presence(self) -> dict[str, float] | None:
        """How likely by `Device.name` the device is there at all, in [0, 1]; None without labels.

        `presence_of` the labels; where lines were mapped, the geometric mean of that and `evidence_of` the maps, which
        tells films of other hospitals apart better than the labels do (docs/model-card.md), and is no probability.
        """
        if self.labels is None:
            return None
        said = presence_of(self.labels)
        if self.evidence is None:
            return said
        return {name: float(np.sqrt(p * self.evidence[name])) for name, p in said.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: places to a tenth of a px, probabilities to four digits."""
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
                    "rule": distance.rule,
                    "state": None if distance.state is None else distance.state.value,
                    "classifier": _rounded(distance.classifier, 4),
                    "agrees": distance.agrees,
                }
                for distance in self.distances
            ],
            "quality": self.quality.as_dict(),
            "notes": [note.as_dict() for note in (*self.notes, *self.quality.notes)],
            "film_shape": list(self.film_shape),
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


def fit_denied(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """By `Device.name`, the probability below which a classifier denies the device: `DENIED`, or less where needed.

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
        found[device.name] = min(DENIED, float(np.quantile(p, 1 - HEARD, method="lower"))) if p else DENIED
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
    placement: Placement,
    film_shape: tuple[int, int],
    labels: Mapping[str, float] | None = None,
    spacing: Spacing = NO_SPACING,
    denied: Mapping[str, float] | None = None,
    *,
    within: tuple[int, int, int, int] | None = None,
    rotation: int = 0,
) -> Findings:
    """The findings of a film from its maps.

    Args:
        maps: (9, h, w) float32 in [0, 1], in the order of `task.MAPS`, of the square film that was read.
        placement: Where the original film lies in that square.
        film_shape: (height, width) px of the original film.
        labels: Probability by label, if a classifier read the film as well: lines of a device that it denies are not
            told.
        spacing: The original film's.
        denied: By `Device.name`, the probability below which it denies a device; `DENIED` where none is given.
        within: (left, top, right, bottom) px of the original film inside its frame; None: all of it.
        rotation: Degrees that the original film is turned counter-clockwise.
    """
    left, top, right, bottom = within or (0, 0, film_shape[1], film_shape[0])
    corners = to_map(placement.to_store(np.array([[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]])))
    bounds: Bounds = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())

    def on_original(points: np.ndarray) -> np.ndarray:
        return placement.to_film(from_map(points))

    known = None if labels is None else {name: float(p) for name, p in labels.items()}
    there = None if known is None else presence_of(known)
    limits = denied or {}
    lines = []
    for line in find_lines(maps, bounds):
        if there and there[line.device.name] < limits.get(line.device.name, DENIED):
            continue
        tip = None if line.tip is None else on_original(line.tip[None])[0]
        lines.append(Line(line.device, on_original(line.path), tip, line.confidence))
    landmarks = {
        name: Spot(on_original(spot.xy[None])[0], spot.confidence)
        for name, spot in find_landmarks(maps, bounds).items()
    }
    found = Findings(film_shape, tuple(lines), landmarks, (), known, spacing, evidence=evidence_of(maps), within=within)
    return replace(found, distances=tuple(distances_of(found, rotation)))


def distances_of(found: Findings, rotation: int | None = None) -> list[Distance]:
    """The place of each line's tip against the carina, along and across the upright film.

    `rotation`: degrees that the film of `found` is turned counter-clockwise; None: as its quality says.
    """
    carina = found.landmarks.get(Landmark.CARINA)
    film = _Upright(found, found.quality.rotation if rotation is None else rotation)
    distances = []
    for k, line in enumerate(found.lines):
        if line.device is Device.NGT and line.tip is None:
            judged = _judged(line.device, State.INCOMPLETE, found.labels)
            distances.append(Distance("NGT tip off the film", k, None, None, None, NGT_RULE, State.INCOMPLETE, *judged))
        if line.tip is not None and carina is not None:
            distances += _from_carina(k, line, film.vector(line.tip - carina.xy), film)
    return distances


class _Upright:
    """The film of findings as it should hang: directions and sizes of what is in px of the original."""

    def __init__(self, found: Findings, rotation: int) -> None:
        left, top, right, bottom = found.within or (0, 0, found.film_shape[1], found.film_shape[0])
        sides = (bottom - top, right - left)
        self.rotation, self.labels = rotation, found.labels
        self.shape = sides[::-1] if rotation in (90, 270) else sides
        mm = found.mm_per_px
        self.mm_per_px = mm[::-1] if mm and rotation in (90, 270) else mm

    def vector(self, original: np.ndarray) -> np.ndarray:
        """A vector [x, y] in px of the original film as [right, down] on the upright one."""
        x, y = original
        match self.rotation:
            case 90:
                return np.array([-y, x])
            case 180:
                return np.array([-x, -y])
            case 270:
                return np.array([y, -x])
        return np.array([x, y])


def _from_carina(k: int, line: Line, vector: np.ndarray, film: _Upright) -> list[Distance]:
    """`vector`: [right, down] px from the carina to the tip of line `k` on the upright film."""
    right, down = vector
    name = line.device.name
    mm_per_px, labels = film.mm_per_px, film.labels

    def distance(what: str, x: float, y: float, sign: float = 1.0) -> Distance:
        px = sign * float(np.hypot(x, y))
        cm = None if mm_per_px is None else sign * float(np.hypot(x * mm_per_px[1], y * mm_per_px[0])) / 10
        return Distance(f"{name} tip {what}", k, px, 100 * px / film.shape[0], cm)

    across = distance("to the patient's right of the carina", right, 0, -1 if right > 0 else 1)
    if line.device is not Device.ETT:
        return [distance("below the carina", 0, down, 1 if down >= 0 else -1), across]
    above = distance("above the carina", 0, down, -1 if down > 0 else 1)
    assert above.px is not None
    state, rule = _by_height(above.px, above.cm, film.shape)
    judged = (None, None) if state is None else _judged(line.device, state, labels)
    above = Distance(above.what, k, above.px, above.percent_of_height, above.cm, rule, state, *judged)
    return [above, across, distance("to the carina, straight", right, down)]


def _by_height(px: float, cm: float | None, film_shape: tuple[int, int]) -> tuple[State | None, str]:
    """The state of a tracheal tube by its height above the carina, and the rule in words."""
    if cm is not None:
        return ett_state(cm), ETT_RULE
    low, high = sorted(px * side / max(film_shape) for side in LONG_SIDE_CM)
    states = {ett_state(low), ett_state(high)}
    told = (
        f"{ETT_RULE}; estimated, as the film has no spacing: {low:.1f} to {high:.1f} cm if its longer side is "
        f"{LONG_SIDE_CM[0]:g} to {LONG_SIDE_CM[1]:g} cm"
    )
    return (states.pop(), told) if len(states) == 1 else (None, f"{told}, which does not decide")


def _judged(device: Device, state: State, labels: Mapping[str, float] | None) -> tuple[float | None, bool | None]:
    """The classifier's probability of a state, and whether it is its most probable one of the device."""
    if labels is None:
        return None, None
    most = max(LABELS_OF[device], key=lambda label: labels[label])
    return labels[label_of(device, state)], STATE_OF[most] is state


def _point(point: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in point]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
