"""Why lines are missed and why false ones are given: each counted under one cause.

A line runs along another where at least half of it lies within `line_matching.TOLERANCE` of the other.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from cxrlines.core.findings import Line
from cxrlines.metrics.device_presence import EvaluatedReading
from cxrlines.metrics.line_figures import table
from cxrlines.metrics.line_matching import match, share_along
from cxrlines.task import Device

IN_MAP = 0.2
"""A true line is in the heatmap if the mean along it is at least this: what starts a line in `reading.trace`."""
ALONG = 0.5
"""The least share of a line that makes it run along another."""
ALL_VIEWS = "all"


class MissedLine(StrEnum):
    """Why a true line is not among the given ones; the first that holds, in this order."""

    REFUSED = "film refused"
    TOO_SHORT = "too short"  # a given line of the device, of no other true line, runs along it, but covers less of it
    TOO_FAR = "too far"  # likewise, but goes on where it is not marked: right, perhaps, where the marked end is no tip
    OTHER_DEVICE = "other device"  # one of another device does
    CONFIDENCE = "low confidence"  # a line of the device along it was traced, but is below the limit
    SUPPRESSED = "suppressed"  # likewise, but the classifier holds the device for absent
    NOT_TRACED = "not traced"  # but in the heatmap
    NOT_IN_MAP = "not in map"


class FalseLine(StrEnum):
    """What a given line that is no true one runs along: of all that is marked, what most of it lies on."""

    IN_PART = "missed in part"  # a line of its device, but too short or too far for a match
    DUPLICATE = "found twice"
    OTHER_DEVICE = "other device"
    DISTRACTOR = "no line"  # a marked thing that is no line of the task: drain, lead, tracheostomy, pacemaker ...
    NOTHING = "nothing marked"


class Withheld(NamedTuple):
    """A line that was traced but not given, in px of the film, and why."""

    line: Line
    cause: MissedLine


@dataclass(frozen=True)
class FilmCauses:
    """Of each true line its device and why it is missed, None where it is found; of each false one what it lies on.

    The third of a false line is the name of the marked thing that it lies on, if it is no line of the task.
    """

    true: tuple[tuple[Device, MissedLine | None], ...] = ()
    false: tuple[tuple[Device, FalseLine, str], ...] = ()


def film_causes(
    film: EvaluatedReading,
    withheld: Sequence[Withheld],
    in_map: Callable[[Line], float],
    *,
    refused: bool = False,
) -> FilmCauses:
    """The causes on one film.

    Args:
        withheld: what was traced but not given, of all devices.
        in_map: mean of its device's heatmap along a true line, 0 to 1.
        refused: whether the film was refused, so that nothing was looked for.
    """
    read = film.read
    where = read.shape, read.upright_height

    def along(one: Line, other: Line) -> bool:
        """Whether one of the two runs along the other."""
        pair = one.path, other.path
        return max(share_along(*pair, *where), share_along(*pair[::-1], *where)) >= ALONG

    pairs = match(read.true, read.found, *where)
    matched, used = {i for i, _ in pairs}, {j for _, j in pairs}
    loose = [line for j, line in enumerate(read.found) if j not in used]

    def missed(line: Line) -> MissedLine:
        if refused:
            return MissedLine.REFUSED
        if mine := [given for given in loose if given.device is line.device and along(given, line)]:
            covered = max(share_along(line.path, given.path, *where) for given in mine)
            beside = max(share_along(given.path, line.path, *where) for given in mine)
            return MissedLine.TOO_FAR if covered > beside else MissedLine.TOO_SHORT
        if any(along(given, line) for given in loose if given.device is not line.device):
            return MissedLine.OTHER_DEVICE
        own = [each for each in withheld if each.line.device is line.device and along(each.line, line)]
        if own:
            return max(own, key=lambda each: each.line.confidence).cause
        return MissedLine.NOT_TRACED if in_map(line) >= IN_MAP else MissedLine.NOT_IN_MAP

    def on(line: Line) -> tuple[Device, FalseLine, str]:
        marked: list[tuple[float, FalseLine, str]] = []
        for i, true in enumerate(read.true):
            own = FalseLine.DUPLICATE if i in matched else FalseLine.IN_PART
            share = share_along(line.path, true.path, *where)
            if own is FalseLine.IN_PART and true.device is line.device and along(line, true):
                share = max(share, ALONG)  # farther than the true one, along all of it
            marked.append((share, own if true.device is line.device else FalseLine.OTHER_DEVICE, ""))
        marked += [(share_along(line.path, d.path, *where), FalseLine.OTHER_DEVICE, "") for d in film.doubtful]
        marked += [(share_along(line.path, path, *where), FalseLine.DISTRACTOR, name) for name, path in film.others]
        share, cause, name = max(marked, key=lambda each: each[0], default=(0.0, FalseLine.NOTHING, ""))
        return (line.device, cause, name) if share >= ALONG else (line.device, FalseLine.NOTHING, "")

    shown = [i for i, line in enumerate(read.true) if share_along(line.path, line.path, *where)]
    return FilmCauses(
        tuple((read.true[i].device, None if i in matched else missed(read.true[i])) for i in shown),
        tuple(map(on, loose)),
    )


@dataclass(frozen=True)
class DeviceCauses:
    """Counts of a device in a view: of true lines, of them found, and of missed and false ones by cause.

    `things`: false ones on marked things that are no lines of the task, by the things' names.
    """

    true: int
    found: int
    missed: dict[MissedLine, int]
    false: dict[FalseLine, int]
    things: dict[str, int]


@dataclass(frozen=True)
class FailureTable:
    """The causes by view (`ALL_VIEWS` first, then those that are known) and device; films by view."""

    films: dict[str, int]
    devices: dict[str, dict[Device, DeviceCauses]]

    def text(self) -> str:
        """Two tables for people: missed lines and false ones by cause."""
        head = ("device", "view", "films")
        missed: list[Sequence[str]] = [(*head, "true", "found", *(cause.value for cause in MissedLine))]
        false: list[Sequence[str]] = [(*head, "false", *(cause.value for cause in FalseLine))]
        for device in Device:
            for view, devices in self.devices.items():
                one, films = devices[device], str(self.films[view])
                same = view != ALL_VIEWS and self.films[view] == self.films[ALL_VIEWS]
                if same or not (one.true or one.false):
                    continue
                counts = (one.true, one.found, *(one.missed.get(cause, 0) for cause in MissedLine))
                missed.append((device.name, view, films, *map(str, counts)))
                cells = [str(one.false.get(cause, 0)) for cause in FalseLine]
                if one.things:
                    names = ", ".join(f"{name} {count}" for name, count in one.things.items())
                    cells[[*FalseLine].index(FalseLine.DISTRACTOR)] += f" ({names})"
                false.append((device.name, view, films, str(sum(one.false.values())), *cells))
        why = f"why lines are missed (not in map: mean along them below {IN_MAP:g})"
        return f"{why}\n{table(missed)}\n\nwhat false lines lie on\n{table(false)}"

    def as_dict(self) -> dict[str, Any]:
        """The counts for JSON: view -> {"films", "devices": device -> counts}."""
        return {
            "in_map": IN_MAP,
            "along": ALONG,
            "views": {
                view: {
                    "films": self.films[view],
                    "devices": {
                        device.name: {
                            "true": one.true,
                            "found": one.found,
                            "missed": {cause.value: one.missed.get(cause, 0) for cause in MissedLine},
                            "false": {cause.value: one.false.get(cause, 0) for cause in FalseLine},
                            "things": one.things,
                        }
                        for device, one in devices.items()
                    },
                }
                for view, devices in self.devices.items()
            },
        }


def failure_table(films: Sequence[tuple[str | None, FilmCauses]]) -> FailureTable:
    """The table of films, each with its view, None where that is not known."""
    views = [ALL_VIEWS, *sorted({view for view, _ in films if view})]
    of = {view: [causes for own, causes in films if view in (ALL_VIEWS, own)] for view in views}
    return FailureTable(
        {view: len(each) for view, each in of.items()},
        {view: {device: _counted(each, device) for device in Device} for view, each in of.items()},
    )


def _counted(films: Sequence[FilmCauses], device: Device) -> DeviceCauses:
    true = [cause for film in films for own, cause in film.true if own is device]
    false = [(cause, name) for film in films for own, cause, name in film.false if own is device]
    return DeviceCauses(
        true=len(true),
        found=true.count(None),
        missed=dict(Counter(cause for cause in true if cause)),
        false=dict(Counter(cause for cause, _ in false)),
        things=dict(sorted(Counter(name for _, name in false if name).items())),
    )
