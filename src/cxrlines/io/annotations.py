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
from cxrlines.task import LABEL_INDEX, LABELS, STUDY_COLUMN

LABEL_COLUMN, DATA_COLUMN, TIP_SEEN_COLUMN = "label", "data", "tip_seen"
MAX_POINTS = 10_000
"""Points of one line; RANZCR's longest line has a few hundred."""
MAX_COORDINATE = 1e6  # px
OFF_FILM = 0.005
"""How far off the film an annotated point may lie, as a share of its longest side: hands slip at the edge."""
UNIT_SLACK = 0.05  # a hand that slips off the edge of a film leaves the unit square by as much
WRITE_SO = "write [[x, y], [x, y], ...]"


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
        raise Error(f"the line has {len(found)} points, at most {MAX_POINTS} are allowed", "thin it out")
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
    where = f"{int(wrong.sum())} of {len(points)} points, first [{x:g}, {y:g}], lie off a film of {width} x {height} px"
    swapped = points[:, ::-1]
    fit = ((swapped >= low) & (swapped <= high)).all()
    return f"{where}; with x and y swapped all would lie on it" if fit else where


@dataclass(frozen=True)
class AnnotatedLine:
    """A line with its study and its row, the line of the file as an editor counts."""

    study: str
    row: int
    line: Line


def read_annotations(csv: Path) -> tuple[list[AnnotatedLine], list[Problem]]:
    """The rows of a `train_annotations.csv` in order, and the rows that had to be left out and why.

    Columns: the study, `label`, `data`, and where tips are not all seen `tip_seen`, 0 or 1. `TableError` only if the
    file as a whole cannot be read or lacks a column.
    """
    columns = (STUDY_COLUMN, LABEL_COLUMN, DATA_COLUMN)
    table = read_rows(csv, columns)
    problems, annotated = list(table.problems), []
    seen = table.column(TIP_SEEN_COLUMN) if TIP_SEEN_COLUMN in table.columns else ["1"] * len(table.lines)
    for row, study, label, data, tip_seen in zip(table.lines, *map(table.column, columns), seen, strict=True):
        if label not in LABEL_INDEX:
            message = f"label {shown(label)} is not known{did_you_mean(label, LABELS)}"
            way_out = f"use one of: {', '.join(LABELS)}"
            problems.append(Problem("annotation of an unknown label", csv.name, row, message, way_out))
            continue
        try:
            points = parse_points(data)
        except Error as error:
            problems.append(Problem("annotation not readable", csv.name, row, f"data {error.what}", error.way_out))
            continue
        if in_unit_square(points):
            message = "all its points lie within 0 to 1, as shares of the film's sides do"
            way_out = "multiply x by the film's width and y by its height: points are in px of the original film"
            problems.append(Problem("annotation not in px", csv.name, row, message, way_out))
            continue
        if tip_seen not in ("0", "1"):
            message = f"{TIP_SEEN_COLUMN} is {shown(tip_seen)}"
            way_out = "write 1 where the line's tip is seen, else 0"
            problems.append(Problem("annotation not readable", csv.name, row, message, way_out))
            continue
        annotated.append(AnnotatedLine(study, row, Line(label, points, tip_seen == "1")))
    return annotated, problems
