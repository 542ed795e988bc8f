"""Lines: the annotated courses of tubes, as polylines in pixels of the original film.

Points are (n, 2) arrays of [x, y], x to the right, y down, pixel centres at whole numbers: a film of width w spans
x from -0.5 to w - 0.5.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrlines.data.rows import Problem, hint, read_rows, shown
from cxrlines.errors import Error
from cxrlines.task import LABEL_INDEX, LABELS, STUDY_COLUMN

LABEL_COLUMN, DATA_COLUMN = "label", "data"
MAX_POINTS = 10_000
"""Points of one line; RANZCR's longest line has a few hundred."""
MAX_COORDINATE = 1e6
UNIT_SLACK = 0.05  # a hand that slips off the edge of a film leaves the unit square by as much
WRITE_SO = "write [[x, y], [x, y], ...]"
STRIDE = 8.0  # px: longer segments are drawn in pieces, so that the box around each stays small


@dataclass(frozen=True)
class Line:
    """One annotated line of a film: its label and its points, (n, 2) float64 [x, y] in px of the original film."""

    label: str
    points: np.ndarray


def parse_points(text: str) -> np.ndarray:
    """The (n, 2) float64 points of a list written as `[[x, y], [x, y], ...]`.

    `Error` that says what was found if it is anything else. The text is read as data, never executed.
    """
    try:
        # Pairs in round brackets are the same list in another hand; JSON knows square ones only.
        found = json.loads(text.replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError):
        raise Error(f"{shown(text)} is not a list of points", WRITE_SO) from None
    if not isinstance(found, list) or not found:
        raise Error(f"{shown(text)} has no points", WRITE_SO)
    if len(found) > MAX_POINTS:
        raise Error(f"the line has {len(found)} points, at most {MAX_POINTS} are allowed", "thin it out")
    for point in found:
        if not (isinstance(point, list) and len(point) == 2 and all(_is_coordinate(value) for value in point)):
            raise Error(f"{shown(json.dumps(point))} is not a point", "each is [x, y], two numbers in px")
    return np.array(found, np.float64)


def _is_coordinate(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_COORDINATE  # false for NaN as well


def in_unit_square(points: np.ndarray) -> bool:
    """Whether points (..., 2) are shares of a film's width and height rather than px: all within 0 to 1, or hardly
    beyond, and not whole numbers. In px they would lie within the first pixel of the film, where no line is."""
    return bool(((points >= -UNIT_SLACK) & (points <= 1 + UNIT_SLACK)).all() and (points % 1 != 0).any())


@dataclass(frozen=True)
class AnnotatedLine:
    """A line with its study and its row, the line of the file as an editor counts."""

    study: str
    row: int
    line: Line


def read_annotations(csv: Path) -> tuple[list[AnnotatedLine], list[Problem]]:
    """The rows of a `train_annotations.csv` in order, and the rows that had to be left out and why.

    `TableError` only if the file as a whole cannot be read or lacks a column.
    """
    table = read_rows(csv, (STUDY_COLUMN, LABEL_COLUMN, DATA_COLUMN))
    problems = list(table.problems)
    annotated = []
    rows = zip(
        table.lines, table.column(STUDY_COLUMN), table.column(LABEL_COLUMN), table.column(DATA_COLUMN), strict=True
    )
    for row, study, label, data in rows:
        if label not in LABEL_INDEX:
            message = f"label {shown(label)} is not known{hint(label, LABELS)}"
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
        annotated.append(AnnotatedLine(study, row, Line(label, points)))
    return annotated, problems


def read_lines(csv: Path) -> tuple[dict[str, list[Line]], list[Problem]]:
    """The lines of each study of a `train_annotations.csv`, in the file's order, and the rows left out and why."""
    annotated, problems = read_annotations(csv)
    lines: dict[str, list[Line]] = {}
    for row in annotated:
        lines.setdefault(row.study, []).append(row.line)
    return lines, problems


def draw_lines(
    image: np.ndarray,
    lines: Sequence[tuple[np.ndarray, int | Sequence[int]]],
    thickness: float,
) -> np.ndarray:
    """A copy of `image` with lines drawn into it, one over the other, anti-aliased at sub-pixel places.

    Args:
        image: (h, w) or (h, w, 3) uint8.
        lines: Points (n, 2) [x, y] in px of `image`, on it or not, and the line's gray value or RGB, 0-255.
        thickness: Width in px; any positive number.
    """
    drawn = image.copy()
    for points, colour in lines:
        for part, coverage in _covered(_coverage(points, image.shape[:2], thickness)):
            share = coverage if image.ndim == 2 else coverage[:, :, None]
            below = drawn[part].astype(np.float32)
            drawn[part] = np.rint(below + share * (np.asarray(colour, np.float32) - below)).astype(np.uint8)
    return drawn


def line_mask(points_list: Sequence[np.ndarray], shape: tuple[int, int], thickness: float) -> np.ndarray:
    """(h, w) uint8: 255 on the lines, 0 off them, in between where an edge crosses a pixel."""
    mask = np.zeros(shape, np.float32)
    for points in points_list:
        np.maximum(mask, _coverage(points, shape, thickness), out=mask)
    return np.rint(mask * 255).astype(np.uint8)


def _covered(coverage: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """The box that holds all of a coverage, and the coverage in it; nothing if there is none."""
    rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
    if not len(rows):
        return []
    box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return [(box, coverage[box])]


def _coverage(points: np.ndarray, shape: tuple[int, ...], thickness: float) -> np.ndarray:
    """(h, w) float32 in [0, 1]: the share of each pixel that a polyline with round ends covers.

    Share = half the thickness + half a pixel - distance from the pixel's centre to the line, as exact as a circular
    pixel is a pixel. (OpenCV's own anti-aliased lines come out 1.4 px wider than asked for from 2 px on.)
    """
    if not thickness > 0:
        raise ValueError(f"thickness is {thickness}; a line's width is a positive number of px")
    height, width = shape[0], shape[1]
    coverage = np.zeros((height, width), np.float32)
    reach = max(thickness, 1.0) / 2 + 0.5  # thinner than a pixel: one pixel wide, and as much fainter
    starts, steps = _pieces(np.asarray(points, np.float64).reshape(-1, 2), (width, height), reach)
    side = math.ceil(STRIDE + 2 * reach) + 1  # of a box that holds any piece and its reach
    at_once = max(1, 2**20 // side**2)
    for some in (slice(first, first + at_once) for first in range(0, len(starts), at_once)):
        _cover(coverage, starts[some], steps[some], reach, side, np.float32(min(thickness, 1.0)))
    return coverage


def _cover(
    coverage: np.ndarray, starts: np.ndarray, steps: np.ndarray, reach: float, side: int, strength: np.float32
) -> None:
    """Raise `coverage` to what straight pieces cover, all pieces at once: each in a box of `side` x `side` px."""
    height, width = coverage.shape
    low = np.floor(np.minimum(starts, starts + steps) - reach).astype(int)
    columns, rows = (low[:, axis, None] + np.arange(side) for axis in (0, 1))
    x = (columns - starts[:, :1]).astype(np.float32)[:, None, :]
    y = (rows - starts[:, 1:]).astype(np.float32)[:, :, None]
    dx, dy = steps.astype(np.float32).T[:, :, None, None]
    square = dx * dx + dy * dy
    along = np.clip((x * dx + y * dy) / np.where(square > 0, square, 1), 0, 1)
    share = np.clip(np.float32(reach) - np.hypot(x - along * dx, y - along * dy), 0, 1) * strength
    inside = ((columns >= 0) & (columns < width))[:, None, :] & ((rows >= 0) & (rows < height))[:, :, None]
    places = rows[:, :, None] * width + columns[:, None, :]
    covered = inside & (share > 0)
    np.maximum.at(coverage.reshape(-1), places[covered], share[covered])


def _pieces(points: np.ndarray, size: tuple[int, int], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and steps, (k, 2) each, of the straight pieces of a polyline that may touch a film of `size` (width,
    height), none longer than STRIDE px. A single point is a piece of no length."""
    if len(points) == 1:
        return points, np.zeros_like(points)
    starts, steps = _near(points[:-1], np.diff(points, axis=0), size, reach)
    count = np.maximum(1, np.ceil(np.hypot(*steps.T) / STRIDE)).astype(int)
    which = np.repeat(np.arange(len(starts)), count)
    step = (steps / count[:, None])[which]
    order = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return _near(starts[which] + order[:, None] * step, step, size, reach)


def _near(starts: np.ndarray, steps: np.ndarray, size: tuple[int, int], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Of straight pieces (k, 2) those whose box, `reach` px wider all around, meets the film."""
    ends = starts + steps
    near, far = np.minimum(starts, ends) - reach, np.maximum(starts, ends) + reach
    may = (far >= 0).all(axis=1) & (near <= size).all(axis=1)
    return starts[may], steps[may]
