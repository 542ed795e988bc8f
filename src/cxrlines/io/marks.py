"""Hand labels of real films: where the carina is and which lines are on them already.

A marks file is JSON; points are [x, y] in px of the real film, pixel centres at whole numbers:

    {"films": {"<film's name without suffix>": {
        "carina": [x, y] or null, "carina_sure": 0 to 3,
        "lines": [{"device": "ETT", "path": [[x, y], ...], "tip_on_film": true, "sure": 1 to 3}]}}}

A path runs from where the line enters the film to its tip. `device` is ETT, NGT, CVC or SWAN in capitals or not;
any other name (trach, drain, pacer, temp) is a thing on the film that is no line of the task. 1 is doubtful, 3 certain.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.polyline import Points
from cxrlines.io.rows import shown
from cxrlines.task import Device

TRACHEOSTOMY = "trach"
MAX_COORDINATE = 1e6


class MarksError(Error):
    """A marks file cannot be used: which film and field, what was found, what is allowed."""


@dataclass(frozen=True, eq=False)
class MarkedLine:
    """One line of a real film: its path in px, (n, 2) float64, to the tip."""

    name: str  # as marked, in small letters
    path: Points
    tip_on_film: bool
    sure: int  # 1 doubtful, 2 likely, 3 certain

    @property
    def device(self) -> Device | None:
        """The device of the task; None for anything else."""
        return Device.__members__.get(self.name.upper())


@dataclass(frozen=True, eq=False)
class FilmMarks:
    """What is marked on a real film. `carina`: (2,) px, None where it is not known."""

    carina: Points | None
    carina_sure: int
    lines: tuple[MarkedLine, ...]


def read_marks(path: Path) -> dict[str, FilmMarks]:
    """The marks of each film of a marks file, by the film's name without suffix; `MarksError` says what is wrong."""
    path = Path(path)
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MarksError(f"{path}: cannot be read ({error.strerror})", "give the path of a marks file (JSON)") from None
    except (ValueError, RecursionError):
        raise MarksError(f"{path}: is not readable as JSON", "mend it") from None
    films = found.get("films") if isinstance(found, dict) else None
    if not isinstance(films, dict) or not films:
        raise MarksError(f"{path}: has no films", 'write {"films": {"<film\'s name without suffix>": {...}}}')
    return {stem: _film(marks, f"{path.name}: films.{stem}") for stem, marks in films.items()}


def _film(marks: Any, where: str) -> FilmMarks:
    if not isinstance(marks, dict):
        raise MarksError(f"{where}: is {_told(marks)}", "needs an object with carina and lines")
    carina = marks.get("carina")
    sure = marks.get("carina_sure", 3 if carina is not None else 0)
    _whole(sure, 0, 3, f"{where}.carina_sure")
    lines = marks.get("lines", [])
    if not isinstance(lines, list):
        raise MarksError(f"{where}.lines: is {_told(lines)}", "needs a list, [] where there are none")
    return FilmMarks(
        None if carina is None or sure == 0 else _point(carina, f"{where}.carina"),
        sure,
        tuple(_line(line, f"{where}.lines[{place}]") for place, line in enumerate(lines)),
    )


def _line(line: Any, where: str) -> MarkedLine:
    if not isinstance(line, dict):
        raise MarksError(f"{where}: is {_told(line)}", "needs an object with device and path")
    device, path = line.get("device"), line.get("path")
    if not isinstance(device, str) or not device.strip():
        raise MarksError(f"{where}.device: is {_told(device)}", "needs a name such as ETT, NGT, CVC, SWAN or drain")
    if not isinstance(path, list) or len(path) < 2:
        raise MarksError(f"{where}.path: is {_told(path)}", "needs at least two points [x, y], the tip last")
    points = [_point(point, f"{where}.path[{place}]") for place, point in enumerate(path)]
    seen = line.get("tip_on_film", True)
    if not isinstance(seen, bool):
        raise MarksError(f"{where}.tip_on_film: is {_told(seen)}", "needs true or false")
    sure = line.get("sure", 3)
    _whole(sure, 1, 3, f"{where}.sure")
    return MarkedLine(device.strip().lower(), np.array(points), seen, sure)


def _point(point: Any, where: str) -> Points:
    numbers = isinstance(point, list) and len(point) == 2
    if not numbers or any(isinstance(v, bool) or not isinstance(v, int | float) for v in point):
        raise MarksError(f"{where}: is {_told(point)}", "needs a point [x, y], two numbers in px")
    if not all(abs(value) <= MAX_COORDINATE for value in point):
        raise MarksError(f"{where}: is {_told(point)}", "needs numbers in px of the film")
    return np.array(point, np.float64)


def _whole(value: Any, low: int, high: int, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise MarksError(f"{where}: is {_told(value)}", f"needs a whole number from {low} to {high}")


def _told(value: Any) -> str:
    return "missing" if value is None else shown(json.dumps(value))
