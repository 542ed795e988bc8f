"""Line annotations: the centerlines of tubes and lines, as polylines in pixels of the original film.

Points are (n, 2) arrays of [x, y], x to the right, y down, pixel centres at whole numbers: a film of width w spans
x from -0.5 to w - 0.5.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.text import did_you_mean, shown
from cxrlines.io.rows import Problem, read_rows
from cxrlines.task import DEVICE_OF, LABEL_INDEX, LABELS, STUDY_COLUMN, Device

LABEL_COLUMN, DATA_COLUMN, TIP_SEEN_COLUMN = "label", "data", "tip_seen"
TIP_SEEN_CELLS = {"1": True, "0": False, "1.0": True, "0.0": False, "": True}
"""What a cell of `tip_seen` says; with a decimal or empty, as data frames write it of tables put together."""
MAX_POINTS = 10_000
"""Points of one line; RANZCR's longest line has a few hundred."""
MAX_COORDINATE = 1e6  # px
OFF_FILM = 0.005
"""How far off the film an annotated point may lie, as a share of its longest side: hands slip at the edge."""
UNIT_SLACK = 0.05  # a hand that slips off the edge of a film leaves the unit square by as much
WRITE_SO = "write [[x, y], [x, y], ...]"
UNREADABLE, SINGLE_POINT = "annotation not readable", "annotation of a single point"
REPEATED_LINE = "annotation in two rows"


@dataclass(frozen=True)
class Line:
    """One annotated line of a film: its label and its points, (n, 2) float64 [x, y] in px of the original film.

    Where the tip is not seen, the last point is as far as the line could be followed.
    """

    label: str
    points: np.ndarray
    tip_seen: bool = True


def parse_points(text: str) -> np.ndarray:
    """The (n, 2) float64 points of a list written as `[[x, y], [x, y], ...]`.

    `Error` with what was found if it is anything else. The text is read as data, never executed.
    """
    try:
        # Pairs may be in round brackets, as Python writes them; JSON knows square ones only.
        found = json.loads(text.replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError):
        raise Error(f"{shown(text)} is not a list of points", WRITE_SO) from None
    if not isinstance(found, list) or not found:
        raise Error(f"{shown(text)} has no points", WRITE_SO)
    if len(found) > MAX_POINTS:
        raise Error(f"the line has {len(found)} points, at most {MAX_POINTS} are allowed", "use fewer points")
    for point in found:
        if not is_point(point):
            raise Error(f"{shown(json.dumps(point))} is not a point", "each is [x, y], two numbers in px")
    return np.array(found, np.float64)


def is_point(value: object) -> bool:
    """Whether a value of JSON is a list of two numbers, neither beyond MAX_COORDINATE."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(each) in (int, float) for each in value):
        return False
    return all(abs(each) <= MAX_COORDINATE for each in value)  # false for NaN as well


def in_unit_square(points: np.ndarray) -> bool:
    """Whether points (..., 2) are shares of a film's width and height rather than px: all within 0 to 1, or hardly
    beyond, and not whole numbers. In px they would lie within the first pixel of the film, where no line is."""
    return bool(((points >= -UNIT_SLACK) & (points <= 1 + UNIT_SLACK)).all() and (points % 1 != 0).any())


def off_film(points: np.ndarray, shape: tuple[int, int]) -> str:
    """Which of a line's points (n, 2) lie off a film of (height, width), by more than OFF_FILM; "" if none does."""
    height, width = shape
    slack = max(2.0, OFF_FILM * max(shape))
    low, high = np.full(2, -slack), np.array([width, height]) - 1 + slack
    wrong = ((points < low) | (points > high)).any(axis=1)
    if not wrong.any():
        return ""
    x, y = points[int(np.argmax(wrong))]
    which = f"{int(wrong.sum())} of {len(points)} points, first [{x:g}, {y:g}], lie"
    where = f"{which if len(points) > 1 else f'[{x:g}, {y:g}] lies'} off a film of {width} x {height} px"
    swapped = points[:, ::-1]
    fit = ((swapped >= low) & (swapped <= high)).all()
    return f"{where}; with x and y swapped all would lie on it" if fit else where


def has_length(points: np.ndarray) -> bool:
    """Whether points (n, 2) are a line: two or more, not all in one place."""
    return bool((points != points[:1]).any())


@dataclass(frozen=True)
class AnnotatedLine:
    """A line with its study and its row, the line of the file as an editor counts."""

    study: str
    row: int
    line: Line


class _Unusable(Error):
    """A row that is left out: what is wrong, the way out, and the kind of its problem."""

    def __init__(self, what: str, way_out: str, kind: str) -> None:
        super().__init__(what, way_out)
        self.kind = kind
        self.args = (what, way_out, kind)  # what it is pickled by


def read_annotations(csv: Path) -> tuple[list[AnnotatedLine], list[Problem]]:
    """The rows of a `train_annotations.csv` in order, and the rows that had to be left out and why.

    Columns: the study, `label`, `data`, and where tips are not all seen `tip_seen`, 0 or 1 (empty: 1). A line has two
    points or more; of two rows of a study with the same points and device the first one stays. `TableError` only if the
    file as a whole cannot be read or lacks a column.
    """
    columns = (STUDY_COLUMN, LABEL_COLUMN, DATA_COLUMN)
    table = read_rows(csv, columns, (TIP_SEEN_COLUMN,))
    problems, annotated = list(table.problems), []
    seen = table.column(TIP_SEEN_COLUMN) if TIP_SEEN_COLUMN in table.columns else [""] * len(table.lines)
    first: dict[tuple[str, Device, bytes], AnnotatedLine] = {}
    for row, study, *cells in zip(table.lines, *map(table.column, columns), seen, strict=True):
        try:
            found = AnnotatedLine(study, row, _line(*cells))
            place = study, DEVICE_OF[found.line.label], found.line.points.tobytes()
            if (before := first.setdefault(place, found)) is not found:
                other = f", as {before.line.label}" * (before.line.label != found.line.label)
                message = f"the same line of study {shown(study, 80)} is already in line {before.row}{other}"
                raise _Unusable(message, "keep the row that is right", REPEATED_LINE)
        except _Unusable as left_out:
            problems.append(Problem(left_out.kind, csv.name, row, left_out.what, left_out.way_out))
        else:
            annotated.append(found)
    return annotated, problems


def _line(label: str, data: str, tip_seen: str) -> Line:
    """The line of a row's cells; `_Unusable` if there is none."""
    if label not in LABEL_INDEX:
        message = f"label {shown(label)} is not known{did_you_mean(label, LABELS)}"
        raise _Unusable(message, f"use one of: {', '.join(LABELS)}", "annotation of an unknown label")
    try:
        points = parse_points(data)
    except Error as error:
        raise _Unusable(f"data {error.what}", error.way_out, UNREADABLE) from None
    if in_unit_square(points):
        message = "all its points lie within 0 to 1, as shares of the film's sides do"
        way_out = "multiply x by the film's width and y by its height: points are in px of the original film"
        raise _Unusable(message, way_out, "annotation not in px")
    if not has_length(points):
        message = f"data is a single point, [{points[0, 0]:g}, {points[0, 1]:g}], and a line has two or more"
        raise _Unusable(message, "give the points from entry to tip, or remove the row", SINGLE_POINT)
    if tip_seen not in TIP_SEEN_CELLS:
        way_out = "write 1 where the line's tip is seen, else 0"
        raise _Unusable(f"{TIP_SEEN_COLUMN} is {shown(tip_seen)}", way_out, UNREADABLE)
    return Line(label, points, TIP_SEEN_CELLS[tip_seen])
