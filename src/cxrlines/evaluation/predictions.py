"""Tables of predictions and of their ground truth: read, checked, matched by study, written.

Predictions are frames of `study` and labels (probabilities); the truth has 0, 1 or `UNKNOWN` instead, and `patient` if
patients are known. Both may lack the labels of devices whose columns are optional (`task.DEVICES`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.core.text import plural
from cxrlines.io.rows import TableError, read_rows, rows_left_out
from cxrlines.io.tables import BAD_LABEL, check_some, usable_rows
from cxrlines.metrics.calibration import check_probabilities
from cxrlines.task import DEVICE_OF, DEVICES, LABELS, PATIENT_COLUMN, STUDY_COLUMN, UNKNOWN

REQUIRED = tuple(label for label in LABELS if not DEVICES[DEVICE_OF[label]].optional)
"""The labels that no table may lack."""


_PATIENT_NAMES = ("patientid", "patient")
"""What a column of patients may be called in place of `PATIENT_COLUMN`: in small letters, of letters alone."""
_ALLOWED = "predictions are numbers from 0 to 1"
_AS_NUMBERS = ", with a decimal point and without a percent sign; a film without predictions has no row"
_AS_PROBABILITIES = ": apply a sigmoid to logits, divide percentages by 100"


def labels_of(frame: pd.DataFrame, name: str) -> list[str]:
    """The labels among the columns of the table `name`, in label order; `Error` if it lacks `study` or a label."""
    if missing := [column for column in ("study", *REQUIRED) if column not in frame]:
        way_out = f"it needs study and the {len(REQUIRED)} labels, as sample_submission.csv has them"
        raise Error(f"{name}: no column {', '.join(missing)}", way_out)
    return [label for label in LABELS if label in frame]


def check_predictions(frame: pd.DataFrame, name: str, lines: Sequence[int] | None = None) -> list[str]:
    """The labels predicted; `Error` unless each study is there once, with numbers from 0 to 1.

    `name` is what messages call the table, `lines` the lines of its rows in a file.
    """
    labels = labels_of(frame, name)
    _check_studies(frame["study"], name, lines)
    for label in labels:
        numbers = pd.to_numeric(frame[label], errors="coerce")
        _refuse(numbers.isna(), name, lines, "not a number", f"{_ALLOWED}{_AS_NUMBERS}", frame[label])
        _refuse(~numbers.between(0, 1), name, lines, "outside 0 to 1", f"{_ALLOWED}{_AS_PROBABILITIES}", frame[label])
    return labels


def check_truth(frame: pd.DataFrame, name: str) -> list[str]:
    """The labels of a truth; `Error` unless each study is there once, with 0, 1, `UNKNOWN` or nothing in each cell."""
    labels = labels_of(frame, name)
    _check_studies(frame["study"], name, None)
    for label in labels:
        wrong = ~frame[label].isin([0, 1, UNKNOWN]) & frame[label].notna()
        _refuse(wrong, name, None, "not 0 or 1", f"give 0 or 1, nothing or {UNKNOWN} where unknown", frame[label])
    return labels


def _check_studies(studies: pd.Series, name: str, lines: Sequence[int] | None) -> None:
    _refuse(studies.isna() | (studies == ""), name, lines, f"{STUDY_COLUMN} is empty", "name the study of every row")
    _refuse(studies.duplicated(), name, lines, "its study is listed before", "keep one row a study")


def _refuse(
    wrong: pd.Series, name: str, lines: Sequence[int] | None, what: str, way_out: str, cells: pd.Series | None = None
) -> None:
    """`Error` about the first wrong row, if there is one."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        where = f"{name}, row {row + 1}" if lines is None else f"{name}, line {lines[row]}"
        value = "" if cells is None else f"column {cells.name} is {cells.tolist()[row]!r}, "
        raise Error(f"{where}: {value}{what} ({plural(int(wrong.sum()), 'such row')})", way_out)


def read_predictions(csv: Path) -> pd.DataFrame:
    """Read predictions: a frame of `study` (str) and the labels (float64), in the file's order of rows.

    `Error` names the file, the column or row, and the way out: missing columns, no rows, a study listed twice, a
    value that is not a number from 0 to 1. Further columns are ignored.
    """
    rows = read_rows(Path(csv), (STUDY_COLUMN, *REQUIRED))
    if rows.problems:
        raise Error(f"{rows.problems[0].text()} ({plural(len(rows.problems), 'such row')})")
    if not rows.fields:
        raise Error(f"{csv}: has a header, but no rows", "it needs a row for each film predicted")
    cells = {label: rows.column(label) for label in LABELS if label in rows.columns}
    frame = pd.DataFrame(cells, dtype=object)
    frame.insert(0, "study", pd.Series(rows.column(STUDY_COLUMN), dtype=str))
    check_predictions(frame, str(csv), rows.lines)
    return frame.astype(dict.fromkeys(cells, np.float64))


def read_truth(csv: Path) -> pd.DataFrame:
    """Read a label table to score against: `study`, `patient` if the file names patients, and the labels (int8).

    Rows that cannot be used are counted by reason in `.attrs["left_out"]`. `TableError` if a column is missing or
    called almost `PatientID`, no row is left, as of a table of predictions, or no label is 1, as in
    `sample_submission.csv`.
    """
    rows = read_rows(Path(csv), (STUDY_COLUMN, *REQUIRED))
    studies, problems = usable_rows(rows)
    table = studies.frame()
    if PATIENT_COLUMN not in rows.columns:
        if near := [name for name in rows.columns if re.sub(r"[\W_]", "", name.lower()) in _PATIENT_NAMES]:
            what = f"{csv}: lacks the column {PATIENT_COLUMN!r}, but has {near[0]!r}"
            raise TableError(what, "rename it, or remove it: intervals come from resampling patients")
        table = table.drop(columns="patient")
    elif rows.fields and not any(rows.column(PATIENT_COLUMN)):
        what = f"{csv}: its column {PATIENT_COLUMN!r} is empty"
        raise TableError(what, "fill it, or remove it: then each film counts as a patient of its own")
    left_out = rows_left_out(problems)
    if left_out.keys() == {BAD_LABEL} and not len(table):  # tables in the wrong order, as likely as not
        what = f"{csv}: no row is usable ({left_out[BAD_LABEL]} x {BAD_LABEL}; the first: {problems[0].text()})"
        raise TableError(what, "give predictions first, then true labels, 0 or 1: cxrlines evaluate PREDICTIONS TRUTH")
    check_some(Path(csv), table, left_out, problems)
    if not (table[[label for label in LABELS if label in table]] == 1).to_numpy().any():
        what = f"{csv}: no label is 1 in any of its {plural(len(table), 'row')}, as in sample_submission.csv"
        raise TableError(what, "give the true labels: train.csv, or test_truth.csv of a phantom data set")
    table.attrs["left_out"] = left_out
    return table


def write_predictions(frame: pd.DataFrame, csv: Path) -> None:
    """Write the columns of sample_submission.csv in its order, atomically."""
    columns = ["study", *labels_of(frame, str(csv))]
    with replacing(csv) as aside:
        frame[columns].rename(columns={"study": STUDY_COLUMN}).to_csv(aside, index=False)


def as_predictions(studies: Sequence[str], values: np.ndarray, labels: Sequence[str] = LABELS) -> pd.DataFrame:
    """The frame of values (films, labels): `study`, then the labels."""
    frame = pd.DataFrame(values, columns=list(labels))
    frame.insert(0, "study", list(studies))
    return frame


class Stack(NamedTuple):
    """Predictions of several members: probabilities float64 (members, studies, labels)."""

    members: list[str]
    studies: list[str]
    labels: list[str]
    values: np.ndarray


def stack(frames: Sequence[pd.DataFrame], names: Sequence[str] | None = None) -> Stack:
    """Predictions matched by study, in the order of the first frame's; labels are those that all frames have.

    `ValueError` without frames; `Error` on what `check_predictions` refuses, or on frames of different studies.
    """
    if not frames:
        raise ValueError("nothing to average; give at least one set of predictions")
    members = list(names or (f"predictions {i + 1}" for i in range(len(frames))))
    if len(members) != len(frames):
        raise ValueError(f"{len(members)} names for {len(frames)} sets of predictions; give one each")
    shared = set(LABELS).intersection(*(check_predictions(*pair) for pair in zip(frames, members, strict=True)))
    labels = [label for label in LABELS if label in shared]
    first = frames[0]["study"].astype(str)
    values = []
    for frame, name in zip(frames, members, strict=True):
        other = frame["study"].astype(str)
        parts = []
        for mine, theirs, whose in ((first, other, members[0]), (other, first, name)):
            alone = ~mine.isin(theirs).to_numpy()
            if alone.any():
                parts.append(f"{alone.sum()} only in {whose} (the first in row {alone.argmax() + 1})")
        if parts:
            raise Error(
                f"{members[0]} and {name} are of different studies: {', '.join(parts)}, "
                f"{first.isin(other).sum()} in both",
                "predict the same films with every model, or keep the common rows",
            )
        values.append(frame.set_axis(other).loc[first.to_list(), labels].to_numpy(np.float64))
    return Stack(members, first.to_list(), labels, np.stack(values))


class Truth(NamedTuple):
    """The truth of films in the order of their predictions: (n, labels) 0, 1 or `UNKNOWN`, and patients (n,)."""

    labels: np.ndarray
    patients: np.ndarray


def truth_of(studies: Sequence[str], truth: pd.DataFrame, labels: Sequence[str]) -> Truth:
    """The truth of predicted studies; a label that it lacks is `UNKNOWN`, a film without a patient its own patient."""
    check_truth(truth, "truth")
    table = truth.set_axis(truth["study"].astype(str))
    absent = ~np.isin(list(studies), table.index)
    if absent.any():
        raise Error(
            f"{absent.sum()} of {len(studies)} predicted studies have no truth, the first in row {absent.argmax() + 1}",
            "fit on predictions of labelled films only",
        )
    table = table.loc[list(studies)]
    patients = table["patient"].fillna(table["study"]) if "patient" in table else table["study"]
    known = table.reindex(columns=list(labels)).fillna(UNKNOWN)
    return Truth(known.to_numpy(np.int64), patients.astype(str).to_numpy())


def check_pairs(p: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, labels) as float64 and their truth; `ValueError` unless that is 0, 1 or `UNKNOWN` for each."""
    p, truth = check_probabilities(p), np.asarray(truth)
    if p.ndim != 2 or truth.shape != p.shape or not np.isin(truth, (0, 1, UNKNOWN)).all():
        raise ValueError(
            f"truth has shape {truth.shape} for probabilities of shape {p.shape}; it must hold 0, 1 or {UNKNOWN} "
            f"(unknown) for each, (films, {len(LABELS)})"
        )
    return p.astype(np.float64), truth
