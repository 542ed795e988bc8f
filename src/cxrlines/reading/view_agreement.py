"""What a film shows in two views alike: its lines, tips, landmarks, and the devices that are absent.

A reading that does not survive a small change of the film is no ground truth to teach. Whichever view is the first, the
same is agreed on; the places are those of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import cv2
import numpy as np

from cxrlines.core.film import Film
from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.core.transform import Affine
from cxrlines.metrics.line_matching import match
from cxrlines.reading.distances import leaves_below
from cxrlines.reading.interpretation import SUPPRESS_BELOW
from cxrlines.task import LABELS_OF, MAPPED, STATE_OF, Device, Landmark, State, label_of

TURN, SCALE, GAMMA = 5.0, 0.95, 1.25
"""The second view: degrees counter-clockwise, size, and the exponent of its gray values. Left stays left."""
TIPS_AGREE = 3.0
"""Tips and landmarks are agreed on where they are no farther apart, % of the film's height."""
ABSENT_BELOW = SUPPRESS_BELOW
"""Presence score of a device, on whose same side both views must be: below it, absent."""


class Doubt(StrEnum):
    """Why nothing is known of a device."""

    LINES = "its lines are not the same in both views"
    PRESENCE = "its presence score says otherwise in a view"


@dataclass(frozen=True)
class AgreedLine:
    """A line that both views show: its path is the first one's; `label` stands for its device alone."""

    line: Line
    label: str
    tip_seen: bool


@dataclass(frozen=True)
class Agreement:
    """What two views agree on: all lines of the devices that are there, devices that are not, landmarks.

    Of the devices in `doubts` nothing is known.
    """

    lines: tuple[AgreedLine, ...] = ()
    absent: frozenset[Device] = frozenset()
    doubts: dict[Device, Doubt] = field(default_factory=dict)
    landmarks: dict[Landmark, np.ndarray] = field(default_factory=dict)


def second_view(film: Film) -> Film:
    """The film a little turned, smaller and darker, black around it; of the same size."""
    height, width = film.pixels.shape
    grays = np.round(255 * (np.arange(256) / 255) ** GAMMA).astype(np.uint8)
    matrix = np.array(_to_second(film.pixels.shape).matrix)
    return replace(film, pixels=cv2.warpAffine(grays[film.pixels], matrix, (width, height), flags=cv2.INTER_LINEAR))


def on_first(found: Findings) -> Findings:
    """The findings of a second view, lines and landmarks in px of the film itself."""
    to_first = _to_second(found.film_shape).to_film

    def moved(line: Line) -> Line:
        path = to_first(line.path)
        tip, followed_to = (None if end is None else path[-1] for end in (line.tip, line.followed_to))
        return replace(line, path=path, tip=tip, followed_to=followed_to)

    landmarks = {name: Keypoint(to_first(spot.xy)[0], spot.confidence) for name, spot in found.landmarks.items()}
    return replace(found, lines=tuple(map(moved, found.lines)), landmarks=landmarks)


def agreement(one: Findings, other: Findings) -> Agreement:
    """What two findings of a film agree on, both in its px.

    Lines are matched as those found are with true ones (`line_matching.match`). A device is there where each of its
    lines has its like in the other view, and absent where neither has any; on which side of `ABSENT_BELOW` both
    presence scores must be.
    """
    height, scores = one.upright_shape[0], [found.presence or {} for found in (one, other)]
    lines: list[AgreedLine] = []
    absent, doubts = set(), {}
    for device in MAPPED:
        mine, theirs = ([line for line in found.lines if line.device is device] for found in (one, other))
        pairs = match(mine, theirs, one.film_shape, height)
        if len(pairs) < max(len(mine), len(theirs)):
            doubts[device] = Doubt.LINES
        elif any((score.get(device.name, 0.0) >= ABSENT_BELOW) is not bool(mine) for score in scores):
            doubts[device] = Doubt.PRESENCE
        elif not mine:
            absent.add(device)
        lines += [_agreed(mine[i], theirs[j], (one, other), height) for i, j in pairs if device not in doubts]
    near = {
        name: spot.xy
        for name, spot in one.landmarks.items()
        if name in other.landmarks and _near(spot.xy, other.landmarks[name].xy, height)
    }
    return Agreement(tuple(lines), frozenset(absent), doubts, near)


def _agreed(one: Line, other: Line, found: Sequence[Findings], height: float) -> AgreedLine:
    if one.device is Device.NGT and all(map(leaves_below, (one, other), found)):
        return AgreedLine(one, label_of(Device.NGT, State.INCOMPLETE), tip_seen=True)
    states = [label for label in LABELS_OF[one.device] if STATE_OF[label] is not State.INCOMPLETE]
    label = max(states, key=lambda each: sum((view.labels or {}).get(each, 0.0) for view in found))
    tip_seen = one.tip is not None and other.tip is not None and _near(one.tip, other.tip, height)
    return AgreedLine(one, label, tip_seen)


def _near(one: np.ndarray, other: np.ndarray, height: float) -> bool:
    return float(np.hypot(*(one - other))) <= TIPS_AGREE / 100 * height


def _to_second(shape: tuple[int, int]) -> Affine:
    centre = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    return Affine.of(cv2.getRotationMatrix2D(centre, TURN, SCALE))
