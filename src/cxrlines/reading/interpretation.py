"""From a film's heatmaps to its findings: lines, landmarks, distances, and the position rule that applies.

All points are [x, y] in px of the original film, pixel centres at whole numbers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cxrlines.core.findings import Distance, Findings, Keypoint, Line, presence_of
from cxrlines.core.heatmaps import STRIDE
from cxrlines.core.notes import Code
from cxrlines.core.polyline import resample
from cxrlines.core.quality import NOT_ASSESSED, Quality
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
from cxrlines.core.spacing import MAGNIFICATION, NO_SPACING, Spacing, SpacingKind
from cxrlines.core.transform import Affine
from cxrlines.reading.trace.bounds import Bounds
from cxrlines.reading.trace.lines import Channel, find_landmarks, given_lines, traced_lines
from cxrlines.task import DEVICES, LABELS, LABELS_OF, MAPS, STATE_OF, Device, Landmark, MapKind, State, label_of

LONG_SIDE_CM = (35.0, 43.0)
"""Longer side of the plates that chest films of adults are taken on (35 x 35, 35 x 43, 43 x 43 cm): what sizes are
estimated from where a film has no spacing; see `has_plate_size`."""
ETT_RULE = (
    f"tip {ETT_LOW:g} to {ETT_HIGH:g} cm above the carina in the patient is normal, "
    f"{ETT_CARINA:g} to {ETT_LARYNX:g} cm borderline, else abnormal"
)
NGT_RULE = "a tube that leaves the film by its lower edge is incompletely imaged"
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
UNRULED = (Code.POSE_UNSURE, Code.MIRRORED, Code.CHILD)
"""Notes on films to which no position rule is applied: which way is up or left is not sure, or the patient no adult."""
SUPPRESS_BELOW = 0.2
"""No line is given of a device whose probability by the classifier is below this: on real films that removes a third to
a half of the false positive nasogastric tubes, and hardly a true one (docs/experiments.md, 2026-11-25)."""
MIN_RECALL = 0.95
"""Share of films with a device that the classifier must keep: else `fit_suppression` lowers its limit."""


def fit_suppression(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """By `Device.name`, the probability below which lines of a device are suppressed: at most `SUPPRESS_BELOW`.

    A classifier that gives a rare device low probabilities throughout would otherwise suppress its every line.

    Args:
        labels: (n, labels) calibrated probabilities of films that it was not trained on.
        truth: (n, labels) 0, 1 or `task.UNKNOWN`.
    """
    limits = {}
    for device in Device:
        columns = [LABELS.index(label) for label in LABELS_OF[device]]
        positive = labels[(truth[:, columns] == 1).any(axis=1)]
        p = [presence_of(dict(zip(LABELS, row, strict=True)))[device.name] for row in positive]
        limit = float(np.quantile(p, 1 - MIN_RECALL, method="lower")) if p else SUPPRESS_BELOW
        limits[device.name] = min(SUPPRESS_BELOW, limit)
    return limits


def evidence_of(maps: np.ndarray, channels: Sequence[Channel] = MAPS) -> dict[str, float]:
    """How clearly heatmaps show a line of each device, by `Device.name`, 0 to 1: the mean of their highest values.

    Of so many as a line of a quarter of the heatmap's height has px.

    Args:
        maps: (maps, h, w) float32 in [0, 1].
        channels: What each heatmap shows.
    """
    count = max(1, maps.shape[1] // 4)

    def highest(heat: np.ndarray) -> np.ndarray:
        """Sorted, so that their floating-point sum is the same wherever they lie."""
        enough = np.partition(heat.max(axis=1), -count)[-count]  # so many rows, and so many values, reach it
        return np.sort(np.partition(heat[heat >= enough], -count)[-count:])

    return {
        what.name: float(highest(heat).mean())
        for heat, (kind, what) in zip(maps, channels, strict=True)
        if kind is MapKind.LINE
    }


@dataclass(frozen=True, eq=False)
class FilmMaps:
    """The heatmaps of a film, and where the film lies in them.

    Attributes:
        maps: (maps, h, w) float32 in [0, 1].
        channels: What each heatmap shows.
        film_shape: (height, width) px of the original film.
        within: (left, top, right, bottom) px of the original film inside its frame; None: all of it.
        to_maps: From px of the original film to px of the heatmaps.
        bounds: The film's edges in px of the heatmaps.
    """

    maps: np.ndarray
    channels: Sequence[Channel]
    film_shape: tuple[int, int]
    within: tuple[int, int, int, int] | None
    to_maps: Affine
    bounds: Bounds
    _traced: dict[Device, list[Line]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        maps: np.ndarray,
        placement: Affine,
        film_shape: tuple[int, int],
        within: tuple[int, int, int, int] | None = None,
        channels: Sequence[Channel] = MAPS,
    ) -> "FilmMaps":
        """The heatmaps of a film as a network read it; otherwise see the attributes.

        `placement`: where the original film lies in the film that was read, which is `STRIDE` times as large as the
        heatmaps.
        """
        to_maps = placement.at((STRIDE * maps.shape[1], STRIDE * maps.shape[2]), maps.shape[1:])
        left, top, right, bottom = within or (0, 0, film_shape[1], film_shape[0])
        corners = to_maps.from_film(np.array([[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]]))
        bounds = Bounds(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        return cls(maps, channels, film_shape, within, to_maps, bounds)

    def traced(self, devices: Collection[Device] = tuple(Device)) -> list[Line]:
        """All lines of `devices` that are traced (`traced_lines`), in px of the heatmaps; a device is traced once.

        Raises:
            ValueError: Heatmaps of another shape, or with values that are not numbers.
        """
        missing = [device for device in devices if device not in self._traced]
        lines = traced_lines(self.maps, self.bounds, self.channels, missing)
        self._traced.update({device: [line for line in lines if line.device is device] for device in missing})
        return [line for device in Device if device in devices for line in self._traced[device]]

    def given(
        self, min_confidence: Mapping[str, float] | None = None, devices: Collection[Device] = tuple(Device)
    ) -> list[Line]:
        """Those of the traced lines of `devices` that are given (`given_lines`), in px of the heatmaps.

        Errors as of `traced`. `min_confidence`: by `Device.name`; `MIN_CONFIDENCE` for a device that is not named.
        """
        return given_lines(self.traced(devices), self.maps, self.channels, min_confidence)

    def on_film(self, line: Line) -> Line:
        """A line in px of the heatmaps, in px of the original film."""
        path = self.to_maps.to_film(line.path)
        tip, followed_to = (None if end is None else path[-1] for end in (line.tip, line.followed_to))
        return replace(line, path=path, tip=tip, followed_to=followed_to)


def possible_devices(labels: Mapping[str, float], suppress_below: Mapping[str, float] | None = None) -> list[Device]:
    """The devices that a classifier does not hold for absent; all of those that no label is about.

    Args:
        labels: Probability by label; empty without a classifier.
        suppress_below: By `Device.name`, the probability below which a device is absent; `SUPPRESS_BELOW` for a device
            that is not named.
    """
    presence, limits = presence_of(labels), suppress_below or {}
    return [device for device in Device if presence.get(device.name, 1.0) >= limits.get(device.name, SUPPRESS_BELOW)]


def findings_of(
    film: FilmMaps,
    labels: Mapping[str, float] | None = None,
    spacing: Spacing = NO_SPACING,
    *,
    quality: Quality = NOT_ASSESSED,
    suppress_below: Mapping[str, float] | None = None,
    min_confidence: Mapping[str, float] | None = None,
) -> Findings:
    """The findings of a film from its heatmaps.

    Args:
        film: The heatmaps.
        labels: Probability by label, if a classifier read the film as well: a device that it holds for absent has no
            lines, nor can it take the place of another one.
        spacing: The original film's.
        quality: How the original film is turned, and whether it may be cropped.
        suppress_below: See `possible_devices`.
        min_confidence: By `Device.name`, the least confidence of a line that is given; see `find_lines`.

    Raises:
        ValueError: Heatmaps of another shape, or with values that are not numbers.
    """
    labels = None if labels is None else {name: float(p) for name, p in labels.items()}
    devices = possible_devices(labels or {}, suppress_below)
    lines = [film.on_film(line) for line in film.given(min_confidence, devices)]
    landmarks = {
        landmark: Keypoint(film.to_maps.to_film(peak.xy[None])[0], peak.confidence)
        for landmark, peak in find_landmarks(film.maps, film.bounds, film.channels).items()
    }
    found = Findings(
        film.film_shape,
        tuple(lines),
        landmarks,
        (),
        labels,
        spacing,
        quality=quality,
        evidence=evidence_of(film.maps, film.channels),
        within=film.within,
    )
    return replace(found, distances=tuple(distances_of(found)))


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
            distances.append(off if _is_unruled(found) else _with_states(off, (State.INCOMPLETE,), found))
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
        if found.mm_per_px is not None:
            row, column = found.mm_per_px[::-1] if found.quality.rotation in (90, 270) else found.mm_per_px
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
        return along
    if line.device is Device.ETT:
        return _with_states(along, ett_states(*along.patient_cm), found)
    if line.device is Device.CVC:
        return _with_states(along, cvc_states(along.patient_cm, across.patient_cm), found)
    beyond, beside = _beyond_junction(along, found), _beside_carina(along, found)
    return _with_states(along, ngt_states(along.patient_cm, beyond, beside), found)


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
    outward = {(-1, 0): x - left, (0, -1): y - top, (1, 0): right - x, (0, 1): bottom - y}
    nearest = min(outward, key=lambda direction: outward[direction])
    if turned(np.array(nearest), found.quality.rotation)[1] < 1:
        return False
    carina = found.landmarks.get(Landmark.CARINA)
    return carina is None or bool(turned(end - carina.xy, found.quality.rotation)[1] > 0)


def _beyond_junction(tip: Distance, found: Findings) -> tuple[float, float]:
    """cm of a tube, in the patient, below the lowest and the highest place that the junction may have: least, most.

    `tip` gives the size of the film: its distance in px and in the patient; px are taken for square.
    """
    if not tip.px or tip.patient_cm is None:
        return 0.0, 0.0
    right, depth = _course(tip, found)
    steps = np.hypot(np.diff(right), np.diff(depth))
    lengths = []
    for cm, junction in zip(sorted(abs(end) for end in tip.patient_cm), GASTRO_OESOPHAGEAL[::-1], strict=True):
        cm_per_px = cm / abs(tip.px)
        lengths.append(float(steps[(depth * cm_per_px)[1:] > junction].sum() * cm_per_px))
    return lengths[0], lengths[1]


def _beside_carina(tip: Distance, found: Findings) -> float:
    """The farthest, cm in the patient, that a tube may lie beside the carina from there to the least depth of the
    junction; infinite where its course is not seen there. `tip` as of `_beyond_junction`."""
    if not tip.px or tip.patient_cm is None:
        return np.inf
    right, depth = _course(tip, found)
    farthest = []
    for cm in tip.patient_cm:
        cm_per_px = abs(cm / tip.px)
        there = (depth > 0) & (depth * cm_per_px < GASTRO_OESOPHAGEAL[0])
        farthest.append(float(np.abs(right[there]).max(initial=0.0)) * cm_per_px if there.any() else np.inf)
    return max(farthest)


def _course(tip: Distance, found: Findings) -> np.ndarray:
    """(2, n) px [right, down] from the carina to the points of the tip's line on the upright film, 1 px apart."""
    path = found.lines[tip.line].path - found.landmarks[Landmark.CARINA].xy
    path = resample(path, 1.0) if len(path) > 1 else path
    return turned(path.T, found.quality.rotation)


def has_plate_size(found: Findings) -> bool:
    """Whether a film without a spacing that is believed may be taken for a whole plate of `LONG_SIDE_CM`.

    Not one that may be cropped, nor a child's, nor one whose spacing says that it is smaller or larger.
    """
    odd = found.has(Code.CROPPED) or found.has(Code.CHILD)
    return not odd and found.spacing.kind is not SpacingKind.NOT_BELIEVED


def _in_patient(px: float, cm: float | None, found: Findings) -> tuple[float, float] | None:
    """The least and the most cm in the patient that a distance can be; None where nothing is known of the size.

    A frame of one gray value may be a part of the plate or be added to it.
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
