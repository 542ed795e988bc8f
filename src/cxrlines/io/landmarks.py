"""Landmark tables: the points of the anatomy, such as the carina, of each study."""

from pathlib import Path

import numpy as np

from cxrlines.core.text import shown
from cxrlines.io.annotations import MAX_COORDINATE, in_unit_square
from cxrlines.io.rows import Problem, read_rows
from cxrlines.task import STUDY_COLUMN, Landmark

BAD_LANDMARK = "landmark not readable"
REPEATED_LANDMARKS, NO_SPLIT = "landmarks in two rows", "landmarks of no split"
SPLITS = "train", "test"
Landmarks = dict[str, dict[str, np.ndarray]]
"""Study -> name of a `task.Landmark` -> its point, (2,) float64 [x, y] in px of the original film."""


def read_landmarks(csv: Path, split: str) -> tuple[Landmarks, list[Problem]]:
    """The landmarks of each study of a split, as in `DataFolder.landmarks`, and the points left out and why.

    Columns: the study, `split` (without it, the rows are of both splits), and `<name>_x`, `<name>_y` of each name of
    `task.Landmark`, in px of the original film; others are ignored. Two empty cells: not known. Of a study in two rows
    with points the first one stays. `TableError` if the file as a whole cannot be read or lacks a column.
    """
    axes = [(f"{name}_x", f"{name}_y") for name in Landmark]
    rows = read_rows(csv, (STUDY_COLUMN, *(column for pair in axes for column in pair)), ("split",))
    problems = list(rows.problems)
    studies = rows.column(STUDY_COLUMN)
    splits = rows.column("split") if "split" in rows.columns else [split] * len(studies)
    cells = [list(zip(rows.column(x), rows.column(y), strict=True)) for x, y in axes]
    landmarks: Landmarks = {}
    first: dict[str, int] = {}
    for study, own, line, *points in zip(studies, splits, rows.lines, *cells, strict=True):
        if own not in SPLITS:
            message = f"split is {shown(own)}"
            problems.append(Problem(NO_SPLIT, csv.name, line, message, f"write {' or '.join(SPLITS)}"))
        if own != split:
            continue
        found = {
            name: point for name, cell in zip(Landmark, points, strict=True) if (point := _point(*cell)) is not None
        }
        if found and (before := first.setdefault(study, line)) != line:
            message = f"study {shown(study, 80)} is already in line {before}"
            problems.append(Problem(REPEATED_LANDMARKS, csv.name, line, message, "keep one row a study"))
            continue
        if found:
            landmarks[study] = {name.value: point for name, point in found.items()}
        for name, (x, y) in zip(Landmark, points, strict=True):
            if name not in found and (x or y):
                message = f"{name} is at {shown(x)}, {shown(y)}"
                way_out = "give two numbers in px, or leave both cells empty"
                problems.append(Problem(BAD_LANDMARK, csv.name, line, message, way_out))
    return landmarks, problems


def _point(x: str, y: str) -> np.ndarray | None:
    try:
        point = np.array([float(x), float(y)])
    except ValueError:
        return None
    on_a_film = (np.abs(point) <= MAX_COORDINATE).all()  # false for NaN as well
    return point if on_a_film and not in_unit_square(point) else None
