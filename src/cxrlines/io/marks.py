"""Hand annotations of real films: carina, lines that are on them already, patients.

A marks file is JSON; points are [x, y] in px of the real film, pixel centres at whole numbers:

    {"films": {"<film's name without suffix>": {
        "carina": [x, y] or null, "carina_sure": 0 to 3,
        "lines": [{"device": "ETT", "path": [[x, y], ...], "tip_on_film": true, "sure": 1 to 3}],
        "devices": ["ETT", ...]}}}

A path runs from where the line enters the film to its tip. `device` is the name of a `task.Device` in capitals or not
(ETT, NGT, CVC, SWAN); any other name (trach, drain, pacer, temp) is a thing on the film that is no line of the task.
1 is doubtful, 3 certain. `devices`, which may be left out, are those that were looked for: of others nothing is known.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.film import film_name
from cxrlines.core.polyline import Points
from cxrlines.core.text import shown
from cxrlines.io.annotations import has_length, is_point
from cxrlines.io.rows import TableError, read_rows
from cxrlines.task import Device

TRACHEOSTOMY = "trach"
INDEX = "index.csv"
AT_EDGE = 0.03
"""A line without a tip leaves its film where it ends no farther than this from the film's edge, in longer sides."""
NO_MARKS = "film without marks"
"""Why a film of a folder with a marks file is left out."""


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

    def leaves_film(self, shape: tuple[int, int]) -> bool:
        """Whether it goes on beyond the edge of its film (h, w) px; without a tip it else fades on it."""
        (x, y), (height, width) = self.path[-1], shape
        edge = AT_EDGE * max(height, width)
        return not self.tip_on_film and bool(min(x, y, width - 1 - x, height - 1 - y) <= edge)


@dataclass(frozen=True, eq=False)
class FilmMarks:
    """What is marked on a real film. `carina`: (2,) px, None where it is not known."""

    carina: Points | None
    carina_sure: int
    lines: tuple[MarkedLine, ...]
    devices: frozenset[Device] = frozenset(Device)  # those that were looked for


def read_marks(*paths: Path) -> dict[str, FilmMarks]:
    """The marks of each film of one or more marks files, by the film's name without suffix.

    `MarksError` names what is wrong with a file, and a film that is in two of them.
    """
    films: dict[str, FilmMarks] = {}
    for path in map(Path, paths):
        more = _read(path)
        if twice := sorted(films.keys() & more.keys()):
            raise MarksError(f"{path}: film {twice[0]} is in another marks file as well", "leave it in one of them")
        films |= more
    return films


def _read(path: Path) -> dict[str, FilmMarks]:
    try:
        found = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=partial(_each_once, path))
    except OSError as error:
        raise MarksError(f"{path}: cannot be read ({error.strerror})", "give the path of a marks file (JSON)") from None
    except MarksError:
        raise
    except (ValueError, RecursionError):
        raise MarksError(f"{path}: is not readable as JSON", "correct it") from None
    films = found.get("films") if isinstance(found, dict) else None
    if not isinstance(films, dict) or not films:
        raise MarksError(f"{path}: has no films", 'write {"films": {"<film\'s name without suffix>": {...}}}')
    return {stem: _film(marks, f"{path.name}: films.{stem}") for stem, marks in films.items()}


def _each_once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; `MarksError` where it has a key twice, of which Python would keep the last in silence."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise MarksError(f"{path}: has {shown(twice[0])} twice in one object", "keep the one that is right")
    return dict(pairs)


def _film(marks: Any, where: str) -> FilmMarks:
    _need(isinstance(marks, dict), marks, where, "an object with carina and lines")
    carina = marks.get("carina")
    sure = marks.get("carina_sure", 3 if carina is not None else 0)
    _need(type(sure) is int and 0 <= sure <= 3, sure, f"{where}.carina_sure", "a whole number from 0 to 3")
    lines = marks.get("lines", [])
    _need(isinstance(lines, list), lines, f"{where}.lines", "a list, [] where there are none")
    drawn = tuple(_line(line, f"{where}.lines[{place}]") for place, line in enumerate(lines))
    first: dict[tuple[str, bytes], int] = {}
    for place, line in enumerate(drawn):
        before = first.setdefault((line.name, line.path.tobytes()), place)
        _need(before == place, lines[place], f"{where}.lines[{place}]", f"another path than lines[{before}]")
    return FilmMarks(
        None if carina is None or sure == 0 else _point(carina, f"{where}.carina"),
        sure,
        drawn,
        _devices(marks.get("devices", [*Device.__members__]), f"{where}.devices"),
    )


def _devices(names: Any, where: str) -> frozenset[Device]:
    known = isinstance(names, list) and all(str(name).upper() in Device.__members__ for name in names)
    _need(known, names, where, f"a list of devices that were looked for, of {', '.join(Device.__members__)}")
    return frozenset(Device[name.upper()] for name in names)


def _line(line: Any, where: str) -> MarkedLine:
    _need(isinstance(line, dict), line, where, "an object with device and path")
    device, path = line.get("device"), line.get("path")
    named, drawn = isinstance(device, str) and bool(device.strip()), isinstance(path, list) and len(path) >= 2
    _need(named, device, f"{where}.device", "a name such as ETT, NGT, CVC, SWAN or drain")
    _need(drawn, path, f"{where}.path", "at least two points [x, y], the tip last")
    points = np.array([_point(point, f"{where}.path[{place}]") for place, point in enumerate(path)])
    _need(has_length(points), path, f"{where}.path", "points that are not all one, the tip last")
    on_film, sure = line.get("tip_on_film", True), line.get("sure", 3)
    _need(isinstance(on_film, bool), on_film, f"{where}.tip_on_film", "true or false")
    _need(type(sure) is int and 1 <= sure <= 3, sure, f"{where}.sure", "a whole number from 1 to 3")
    return MarkedLine(device.strip().lower(), points, on_film, sure)


def _point(point: Any, where: str) -> Points:
    _need(is_point(point), point, where, "a point [x, y], two numbers in px of the film")
    return np.array(point, np.float64)


def _need(ok: bool, value: Any, where: str, needs: str) -> None:
    """`MarksError` with the value found, unless it is as it should be."""
    if not ok:
        found = "missing" if value is None else shown(json.dumps(value))
        raise MarksError(f"{where}: is {found}", f"needs {needs}")


def backdrop_patient(patient: str) -> str:
    """The patient id of a real film's patient in a set drawn onto the film: a hash, `ee` first."""
    return f"ee{hashlib.sha256(patient.encode()).hexdigest()[:14]}"


def patients_of(folder: Path) -> dict[str, str]:
    """Film's name without suffix -> patient, from `index.csv` of the folder or its parent; {} without one.

    `TableError` for an index with a row that cannot be read, or a film under two patients.
    """
    return _indexed(folder, "patient_id")


def views_of(folder: Path) -> dict[str, str]:
    """Film's name without suffix -> how it was taken (AP, PA), from the index's `view` or `projection`, if any.

    `TableError` as of `patients_of`.
    """
    views = _indexed(folder, "view") or _indexed(folder, "projection")
    return {film: view.upper() for film, view in views.items()}


def _indexed(folder: Path, column: str) -> dict[str, str]:
    """Film's name -> cell of a column of the index, where it is not empty. Films are in column `image_id` or `file`."""
    index = next((place / INDEX for place in (folder, folder.parent) if (place / INDEX).is_file()), None)
    if index is None:
        return {}
    rows = read_rows(index, ("patient_id",))
    names = next((name for name in ("image_id", "file") if name in rows.columns), None)
    if names is None:
        raise TableError(f"{index}: has no column image_id or file", "name the films in one of them")
    if rows.problems:
        first = rows.problems[0]
        raise TableError(f"{index}: {first.message} (line {first.row})", first.way_out)
    cells = rows.column(column) if column in rows.columns else [""] * len(rows.fields)
    films = (film_name(Path(name)) for name in rows.column(names))
    found: dict[str, str] = {}
    for film, cell, line in zip(films, cells, rows.lines, strict=True):
        if cell and found.setdefault(film, cell) != cell:
            what = f"{index}: film {shown(film, 80)} is in two rows that differ in {column} (the second is line {line})"
            raise TableError(what, "keep the row that is right")
    return found
