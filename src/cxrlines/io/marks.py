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
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.film import film_name
from cxrlines.core.polyline import Points
from cxrlines.core.text import did_you_mean, shown
from cxrlines.io.annotations import has_length, is_point
from cxrlines.io.rows import DOUBTS, NO_PATIENT, TableError, check_columns, doubted, read_rows
from cxrlines.task import Device

TRACHEOSTOMY = "trach"
INDEX = "index.csv"
NAMES, VIEWS = ("image_id", "file"), ("view", "projection")
"""Columns of an index, of each of which one will do: films, and how they were taken, which may be left out."""
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
    return f"ee{hashlib.sha256(patient.encode(errors='surrogateescape')).hexdigest()[:14]}"


def patients_of(folder: Path) -> dict[str, str]:
    """Film -> patient, from `index.csv` of the folder or its parent; {} without one.

    A film is known by its name without suffix, unless films of two folders in the folder have it; and by its
    `film_place`, where the index gives its folder, too. A film that was moved since, so that no row gives its folder,
    is known by its name.

    `TableError` for an index with a row that cannot be read, a film under two patients, or a patient's id that was
    changed or garbled.
    """
    return _indexed(folder, "patient_id")


def views_of(folder: Path) -> dict[str, str]:
    """Film, as in `patients_of`, -> how it was taken (AP, PA), from the index's `view` or `projection`, if any.

    `TableError` as of `patients_of`.
    """
    views = _indexed(folder, VIEWS[0]) or _indexed(folder, VIEWS[1])
    return {film: view.upper() for film, view in views.items()}


def film_place(path: Path) -> str:
    """The folder of a film, the same however the way to it is written, with its name without suffix."""
    return f"{os.path.realpath(path.parent)}/{film_name(path)}"


def _indexed(folder: Path, column: str) -> dict[str, str]:
    """Film -> cell of a column of the index, where it is not empty. Films are in column `image_id` or `file`."""
    index = next((place / INDEX for place in (folder, folder.parent) if (place / INDEX).is_file()), None)
    if index is None:
        return {}
    rows = read_rows(index, ("patient_id",))
    check_columns(index, rows.columns, ("patient_id",), (*NAMES, *VIEWS))
    for known in (NAMES, VIEWS):
        spelt = {name.lower(): name for name in rows.columns}
        if not set(known) & set(rows.columns) and (other := next(filter(None, map(spelt.get, known)), "")):
            what = f"{index}: column {shown(other)} is not known{did_you_mean(other, known)}"
            raise TableError(what, "rename or remove it")
    names = next((name for name in NAMES if name in rows.columns), None)
    if names is None:
        raise TableError(f"{index}: has no column {' or '.join(NAMES)}", "name the films in one of them")
    if rows.problems:
        first = rows.problems[0]
        raise TableError(f"{index}: {first.message} (line {first.row})", first.way_out)
    for doubt, line in zip(doubted(rows.column("patient_id"), patients=True), rows.lines, strict=True):
        if doubt and doubt != NO_PATIENT:  # a placeholder names no patient, as `patient_of` knows
            message, way_out = DOUBTS[doubt]
            raise TableError(f"{index}: patient_id {message} (line {line})", way_out)
    cells = rows.column(column) if column in rows.columns else [""] * len(rows.fields)
    places = _places(folder)
    found: dict[str, str] = {}
    films = [Path(name.replace("\0", "")) for name in rows.column(names)]
    own = [_own_places(name, index.parent, folder) for name in films]
    in_place = {place for each in own for place in each}
    for name, given, cell, line in zip(films, own, cells, rows.lines, strict=True):
        there = places.get(film_name(name), set())
        by_name = len(there) < 2 if not given else bool(there) and there <= given
        if given and len(there) == 1 and not there & in_place:  # moved, unless the row's own film is elsewhere
            by_name = not any((base / name).exists() for base in (index.parent, folder))
        for key in [*given, *([film_name(name)] if by_name else [])] if cell else ():
            if found.setdefault(key, cell) != cell:
                film = shown(name.with_name(film_name(name)).as_posix() if name.name else name, 80)
                what = f"{index}: film {film} is in two rows that differ in {column} (the second is line {line})"
                raise TableError(what, "keep the row that is right")
    return found


def _places(folder: Path) -> dict[str, set[str]]:
    """Name without suffix -> the `film_place` of each file of that name, however deep; hidden ones are left alone."""
    places: dict[str, set[str]] = {}
    for place, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        real = os.path.realpath(place)
        for name in map(film_name, map(Path, files)):
            places.setdefault(name, set()).add(f"{real}/{name}")
    return places


def _own_places(named: Path, *bases: Path) -> set[str]:
    """The `film_place`s that a row of an index names, seen from each of `bases`; none where it names a film alone."""
    return set() if named.parent == Path() else {film_place(base / named) for base in bases}
