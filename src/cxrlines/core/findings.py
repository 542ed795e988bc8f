"""What was found on a film: lines, keypoints, distances, label probabilities; and the JSON format of all that.

All points are [x, y] in px of the original film, pixel centres at whole numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import InstanceOf, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import NOT_ASSESSED, Quality
from cxrlines.core.spacing import NO_SPACING, Spacing
from cxrlines.task import EXCLUSIVE, LABELS_OF, STUDY_COLUMN, Device, Landmark, State

SCHEMA_VERSION = 2
"""Of the JSON format. Raised when a key goes or changes its meaning, not when one is added.

2: `tip` null no longer means that a line leaves the film, see `Line`."""


def _rounded(digits: int) -> PlainSerializer:
    return PlainSerializer(lambda value: round(float(value), digits) + 0.0, float)  # + 0.0: never -0.0


def _points(points: np.ndarray) -> list[Any]:
    """A point, or a path, to 0.1 px; rounded as Python does, which numpy does not."""
    rounded: list[Any] = np.reshape([round(value, 1) + 0.0 for value in points.ravel().tolist()], points.shape).tolist()
    return rounded


_POINT = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
PointJson = Annotated[InstanceOf[np.ndarray], PlainSerializer(_points), WithJsonSchema(_POINT)]
PathJson = Annotated[
    InstanceOf[np.ndarray], PlainSerializer(_points), WithJsonSchema({"type": "array", "items": _POINT, "minItems": 1})
]
DeviceJson = Annotated[
    Device, PlainSerializer(lambda device: device.name), WithJsonSchema({"enum": [device.name for device in Device]})
]
Confidence = Annotated[float, _rounded(4)]
Px = Annotated[float, _rounded(1)]
Cm = Annotated[float, _rounded(2)]


def _read_only(points: np.ndarray) -> np.ndarray:
    view = np.asarray(points, np.float64).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Line:
    """A line, found or ground truth.

    It ends in one of three ways: at its tip (`tip`); unknown where, as it is followed to a point on the film and its
    further course is not seen (`followed_to`); or off the film (neither).

    Attributes:
        device: What it is.
        path: float64 (n, 2) [x, y] from entry to where it ends; read-only.
        tip: float64 (2,), the path's last point; None where the tip is not seen, or off the film.
        confidence: 0 to 1: a rank, not a probability (see `reading.trace.lines`); 1 of ground truth.
        followed_to: float64 (2,), the path's last point where that is on the film and no tip; else None.
    """

    device: DeviceJson
    path: PathJson
    tip: PointJson | None
    confidence: Confidence = 1.0
    followed_to: PointJson | None = None

    def __post_init__(self) -> None:
        if self.tip is not None and self.followed_to is not None:
            raise ValueError("line: has both a tip and a point that it is followed to; it ends at one of them")
        object.__setattr__(self, "path", _read_only(self.path))
        for name in ("tip", "followed_to"):
            if (point := getattr(self, name)) is not None:
                object.__setattr__(self, name, _read_only(point))

    @property
    def leaves_film(self) -> bool:
        """Whether the line goes on beyond the film's edge."""
        return self.tip is None and self.followed_to is None


@dataclass(frozen=True, eq=False)
class Keypoint:
    """A point that was found: `xy` float64 (2,), read-only, and the value of its heatmap there, 0 to 1."""

    xy: PointJson
    confidence: Confidence

    def __post_init__(self) -> None:
        object.__setattr__(self, "xy", _read_only(self.xy))


@dataclass(frozen=True)
class Distance:
    """The distance of a tip from the carina, and the position rule that applies.

    Attributes:
        what: In words; a negative distance is the other way.
        line: Index of the line in `Findings.lines`.
        px: Along the rows or columns of the upright film, or straight, as `what` says (of a film that may be turned,
            straight alone); None where the tip is off the film.
        percent_of_height: px as a share of `Findings.upright_shape`'s height, also for distances across.
        cm: px times the film's spacing, in the plane that `Findings.spacing` is of: in the patient if its kind is
            calibrated, at the detector if it is detector, as a viewer's ruler has it. None without a spacing that is
            believed.
        patient_cm: (least, most) cm in the patient that are possible: both `cm` with calibrated spacing; with the
            detector's, `cm` divided by `spacing.MAGNIFICATION`; without one, of a film of `LONG_SIDE_CM`, divided
            likewise. None where the spacing is not believed, and without one where the film may be cropped, is a
            child's, or has pixels that are not square. Rules go by this, to .01 cm.
        rule: The position rule of the device, in words; None where there is none by the carina alone.
        state: The state by that rule; None where `patient_cm`, or where anatomy lies, leaves several open, or the film
            may be none of a chest or turned, is mirrored or is a child's. Without `patient_cm` only what holds at any
            size: of an endotracheal tube at the carina or below, or a nasogastric one there or above, abnormal.
        classifier: Probability of that state by the classifier.
        agrees: Whether that state is the classifier's most probable one of the device. None where the film shows
            several of a device of which it may (`task.DeviceSpec.several`): the probabilities are the film's.
        possible: Every state that the rule leaves open, `state` alone where it decides; none where it says nothing.
    """

    what: str
    line: int
    px: Px | None = None
    percent_of_height: Cm | None = None
    cm: Cm | None = None
    patient_cm: tuple[Cm, Cm] | None = None
    rule: str | None = None
    state: State | None = None
    classifier: Confidence | None = None
    agrees: bool | None = None
    possible: tuple[State, ...] = ()


@dataclass(frozen=True, eq=False)
class Findings:
    """All that was found on a film. See `as_dict` for its JSON.

    Attributes:
        film_shape: (height, width) px of the original film.
        lines: In the order of `Device` and of confidence.
        landmarks: Those that were found.
        distances: Of the tips that are seen from the carina, and that a nasogastric tube leaves the film.
        labels: Probability by label, of the labels that the bundle has; None if the film is not usable, see `quality`.
        spacing: Of the original film, and what it rests on.
        seconds: For decoding and preparing, and the film's share of its batch.
        quality: What the film shows, and how it was turned to be read; `quality.notes` is what is odd about that.
        calibrated: Whether `labels` were calibrated on films that the models were not trained on.
        evidence: By `Device.name` how clearly heatmaps show a line, see `evidence_of`; None without heatmaps.
        within: (left, top, right, bottom) px of the film inside a frame, right and bottom exclusive;
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

    def __post_init__(self) -> None:
        if self.within == (0, 0, *self.film_shape[::-1]):
            object.__setattr__(self, "within", None)

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
        """Presence score by `Device.name`, in [0, 1], of the devices that have labels; None without labels.

        `presence_of` the labels; where a device's line has a heatmap, the geometric mean of that and `evidence`, which
        ranks films of other hospitals better than the labels do (docs/model-card.md), and is no probability.
        """
        if self.labels is None:
            return None
        evidence = self.evidence or {}
        return {
            name: float(np.sqrt(p * evidence[name])) if name in evidence else p
            for name, p in presence_of(self.labels).items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, always with the same keys in the same order: see `FindingsJson`."""
        values = {name: getattr(self, name, None) for name in FindingsJson.__annotations__}
        values |= {"schema_version": SCHEMA_VERSION, "notes": self.all_notes}
        plain: dict[str, Any] = _FINDINGS.dump_python(values, mode="json")
        return plain


def presence_of(labels: Mapping[str, float]) -> dict[str, float]:
    """Probability by `Device.name` that a device is present, from those of its states; of devices that have labels.

    States that exclude each other (`task.EXCLUSIVE`) add up, to 1 at most. Of the others several may hold, of several
    instances: noisy-or, 1 - the product of (1 - p), as if they were independent, which they are not quite.
    """
    found = {}
    for device in Device:
        p = np.sort([labels[label] for label in LABELS_OF[device] if label in labels])
        if len(p):
            found[device.name] = float(min(p.sum(), 1.0) if device in EXCLUSIVE else 1 - np.prod(1 - p))
    return found


class QualityJson(TypedDict):
    """`Quality` as JSON: probabilities to four digits, notes as sentences."""

    usable: bool
    frontal_chest: float | None
    rotation: int
    inverted: bool
    cropped: float | None
    notes: list[str]


class FindingsJson(TypedDict):
    """Findings as JSON. Points are [x, y] px of the original film, to 0.1 px.

    Probabilities of `labels` and `presence` are in full precision, as in the table of predictions; other probabilities
    and confidences have four digits, distances one (px) or two (cm, %). `film_shape` is [height, width] px, `within`
    [left, top, right, bottom] px of what is inside a frame (null: all of it). `spacing` is that of
    the original film, `mm_per_px` [row, column] its value. `notes` are what is odd about the film, each with its code.
    """

    schema_version: int
    labels: dict[str, float] | None
    calibrated: bool
    presence: dict[str, float] | None
    lines: tuple[Line, ...]
    landmarks: dict[Landmark, Keypoint]
    distances: tuple[Distance, ...]
    quality: Annotated[Quality, PlainSerializer(Quality.as_dict, QualityJson)]
    notes: tuple[Note, ...]
    film_shape: tuple[int, int]
    within: tuple[int, int, int, int] | None
    mm_per_px: tuple[float, float] | None
    spacing: Spacing


FilmJson = TypedDict("FilmJson", {"film": str, STUDY_COLUMN: str})  # type: ignore[misc]


class PredictionJson(FindingsJson, FilmJson):
    """A film as `cxrlines predict --json` writes it: its file and name, its findings, and what read it.

    `film` is the file; StudyInstanceUID its name in the table of predictions, which is unique. `bundle` is the identity
    of the bundle, `tta` the views besides the plain one that probabilities are averaged over.
    """

    bundle: str
    tta: list[str]
    seconds: float
    notice: str


def prediction_json(
    findings: Findings, film: str, study: str, bundle: str, tta: Sequence[str], notice: str
) -> dict[str, Any]:
    """Findings as `PredictionJson`: of the file `film` with the name `study`."""
    return (
        {"film": film, STUDY_COLUMN: study}
        | findings.as_dict()
        | {"bundle": bundle, "tta": list(tta), "seconds": findings.seconds, "notice": notice}
    )


_FINDINGS: TypeAdapter[Any] = TypeAdapter(FindingsJson)


class _Schema(GenerateJsonSchema):
    def field_is_required(self, field: Any, total: bool) -> bool:
        """All keys are always there."""
        return True


def json_schema() -> dict[str, Any]:
    """The JSON schema of what `cxrlines predict --json` writes: a list of `PredictionJson`."""
    schema = TypeAdapter(list[PredictionJson]).json_schema(mode="serialization", schema_generator=_Schema)
    return {"$schema": _Schema.schema_dialect, "title": f"cxrlines findings, version {SCHEMA_VERSION}"} | schema
