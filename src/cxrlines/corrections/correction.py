"""What a person says of a film: lines accepted, moved, drawn or rejected, labels, landmarks, a comment."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from cxrlines.core.errors import Error
from cxrlines.core.text import shown
from cxrlines.io.annotations import MAX_COORDINATE, MAX_POINTS, has_length, in_unit_square, off_film
from cxrlines.task import (
    DEVICE_OF,
    DEVICES,
    EXCLUSIVE,
    LABELS,
    LABELS_OF,
    STATE_OF,
    UNKNOWN,
    Device,
    Landmark,
    State,
    label_of,
)

FREE_TEXT = ("author", "comment")
"""Fields that may name anybody, and are not quoted."""


class CorrectionError(Error):
    """A correction contradicts itself, the task or its film."""


class Mark(StrEnum):
    """What a person did to a line."""

    ACCEPTED = "accepted"  # the model's line as it is
    MOVED = "moved"  # the model's line, its points moved
    DRAWN = "drawn"  # a line that the model did not find
    REJECTED = "rejected"  # the model's line is not there, or is another


def _device(value: Any) -> Any:
    return Device[value] if isinstance(value, str) and value in Device.__members__ else value


Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE, allow_inf_nan=False)]
Point = tuple[Coordinate, Coordinate]
DeviceName = Annotated[Device, BeforeValidator(_device), PlainSerializer(lambda device: device.name)]
"""In JSON by its name, as in findings."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorrectedLine(_Model):
    """A line and what was done to it.

    Attributes:
        device: What it is.
        points: [x, y] px of the original film, from entry to tip, or as far as the line is seen.
        mark: What a person did to it.
        state: Where the device sits; None of a rejected line, and where it is not known as the tip is not seen.
        tip_seen: Whether the last point is the tip. If not, the line is followed to there, and its further course is
            not seen. True of a line that leaves the film as its state says.
        of: Index of the model's line in its findings; None of a line that was drawn.
    """

    device: DeviceName
    points: Annotated[tuple[Point, ...], Field(min_length=1, max_length=MAX_POINTS)]
    mark: Mark
    state: State | None = None
    tip_seen: bool = True
    of: Annotated[int, Field(ge=0)] | None = None

    @property
    def kept(self) -> bool:
        """Whether it is on the film."""
        return self.mark is not Mark.REJECTED

    @property
    def label(self) -> str | None:
        """Its label; None without a state."""
        return None if self.state is None else label_of(self.device, self.state)


class TableLine(NamedTuple):
    """A row of the table of lines: its label, its points, and whether the last one is the tip."""

    label: str
    points: tuple[Point, ...]
    tip_seen: bool


class Correction(_Model):
    """All that a person said of one film at one time; it replaces what was said before, which stays in the journal.

    Attributes:
        author: Who.
        time: When, with its time zone.
        lines: The model's lines and those that were drawn. A device with a line that is kept, or with a label, counts
            as corrected: the film then has no other lines of it.
        labels: 0 or 1 by label, of those that were set; what follows from the lines need not be among them.
        landmarks: [x, y] px of the original film by landmark.
        comment: Free text.
    """

    author: Annotated[str, Field(min_length=1, max_length=200)]
    time: AwareDatetime
    lines: Annotated[tuple[CorrectedLine, ...], Field(max_length=1000)] = ()
    labels: dict[str, Annotated[int, Field(ge=0, le=1, strict=True)]] = {}
    landmarks: dict[Landmark, Point] = {}
    comment: Annotated[str, Field(max_length=10_000)] = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Correction":
        """A correction from values of JSON. `CorrectionError` names the field, the value, and what is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the correction"
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise CorrectionError(f"{shown(field)} is no part of a correction", f"there are {known}") from None
            value = "" if field in FREE_TEXT else f" is {shown(str(first['input']), 80)}"
            raise CorrectionError(f"{field}{value}: {first['msg']}") from None

    def table_labels(self) -> dict[str, int]:
        """0, 1 or `task.UNKNOWN` for each label.

        A line that is kept makes its label 1, unless its state is not known; a 1 among states that exclude each other
        makes the others 0. What was not said is not known.

        Raises:
            CorrectionError: a label that the task does not have, or one that contradicts a line or another label.
        """
        found = dict.fromkeys(LABELS, UNKNOWN)
        for label, value in self.labels.items():
            if label not in found:
                raise CorrectionError(f"label {shown(label)} is not known", f"use one of: {', '.join(LABELS)}")
            found[label] = value
        for line in self.lines:
            if not line.kept or line.label is None:
                continue
            if self.labels.get(line.label) == 0:
                raise CorrectionError(f"{line.label} is 0, but a line of it is kept", "set it to 1, or reject the line")
            found[line.label] = 1
        for device in EXCLUSIVE:
            positive = [label for label in LABELS_OF[device] if found[label] == 1]
            if len(positive) > 1:
                what = f"{' and '.join(positive)} are both 1, but a film shows one {DEVICES[device].text} at most"
                raise CorrectionError(what, "keep one of them")
            if positive:
                found |= {label: 0 for label in LABELS_OF[device] if label != positive[0]}
        return found

    def check(self, shape: tuple[int, int]) -> None:
        """`CorrectionError` unless all of it fits the task and a film of (height, width) px."""
        for number, line in enumerate(self.lines):
            name = f"lines.{number} ({line.device.name})"
            own = DEVICES[line.device].states
            if line.state is None and line.kept and (line.tip_seen or len(own) == 1):
                unless = "" if len(own) == 1 else "; or none, where its tip is not seen"
                way_out = f"a line that is kept has one of: {', '.join(own)}{unless}"
                raise CorrectionError(f"{name} has no state", way_out)
            if line.state is not None and line.state not in own:
                raise CorrectionError(f"{name} has the state {line.state}", f"its states are: {', '.join(own)}")
            if line.state is State.INCOMPLETE and not line.tip_seen:
                what = f"{name} is {line.state}, and not tip_seen: it leaves the film, or its end is not seen on it"
                raise CorrectionError(what, "leave tip_seen out, or give another state or none")
            if line.of is None and line.mark is not Mark.DRAWN:
                raise CorrectionError(
                    f"{name} is {line.mark}, but names no line of the model", "give its index as `of`"
                )
            if line.kept:
                points = np.array(line.points)
                if not has_length(points):
                    raise CorrectionError(f"{name} is a single point", "draw it from entry to tip, or reject it")
                _check_points(name, points, shape)
        for landmark, point in self.landmarks.items():
            _check_points(f"landmarks.{landmark}", np.array([point]), shape)
        self.table_lines()

    def table_lines(self) -> list[TableLine]:
        """The lines that are kept. Raises as `table_labels`.

        A row has a label. That of a line of unknown state is one that its film has or may have, and says which device
        it is, no more: in the film's labels its state is not known.
        """
        labels = self.table_labels()
        return [
            TableLine(line.label or _possible(line.device, labels), line.points, line.tip_seen)
            for line in self.lines
            if line.kept
        ]


def decided(labels: Mapping[str, int]) -> set[Device]:
    """The devices of which a label is known."""
    return {DEVICE_OF[label] for label, value in labels.items() if value != UNKNOWN}


def _possible(device: Device, labels: Mapping[str, int]) -> str:
    """A label of a device whose line does not leave the film: one that is 1, else the last that is not 0."""
    own = [label for label in reversed(LABELS_OF[device]) if STATE_OF[label] is not State.INCOMPLETE and labels[label]]
    if not own:
        what = f"all labels of {device.name} are 0, but a line of it is kept"
        raise CorrectionError(what, "leave open those that may hold, or reject the line")
    return max(own, key=labels.__getitem__)


def _check_points(name: str, points: np.ndarray, shape: tuple[int, int]) -> None:
    if in_unit_square(points):
        raise CorrectionError(f"{name} lies within 0 to 1, as shares of the film's sides do", "give px of the film")
    if where := off_film(points, shape):
        raise CorrectionError(f"{name}: {where}", "give px of the original film")
