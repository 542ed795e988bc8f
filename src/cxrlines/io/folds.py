"""Patient-disjoint folds for cross-validation, stratified: every label's positives spread evenly over them.

Patients are placed one by one, those with the most uneven label counts first, each into the fold that is left most
level; then they change places while that levels the folds further. Level means: the sum, over folds, labels and the
number of films, of the squared relative deviation from an even share.
"""

from collections.abc import Sequence
from csv import QUOTE_ALL, QUOTE_MINIMAL
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.core.text import plural, shown
from cxrlines.io.rows import Problem, Rows, read_rows
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN, UNKNOWN

FOLD_COLUMN = "fold"
PASSES = 20
"""At most so many rounds of changing places; the real 3,255 patients settle after two."""
FOLD_DIGITS = 4
"""Most digits of a fold: nobody draws more than 10,000."""
DIGITS = 9
"""Decimals by which two places are compared: ties stay ties whatever the machine's order of summation."""


def make_folds(table: pd.DataFrame, count: int = 5, seed: int = 0) -> pd.Series:
    """The fold of every row of `table`, 0 to `count` - 1, as an int64 Series on the table's own index.

    `table` has the columns `study`, `patient` and `task.LABELS` (positive where 1; NaN and `task.UNKNOWN` are not). The
    result depends on the patients, their labels and `seed` alone, not on the order of rows. No fold is ever empty.
    `Error` on rows without a patient, `count` below 2, or fewer patients than folds.
    """
    _check_table(table)
    if count < 2:
        raise Error(f"count is {count}", "at least 2 folds are needed to hold one out")
    if count > 10**FOLD_DIGITS:
        raise Error(f"count is {count}", f"a folds file has {10**FOLD_DIGITS:,} folds at most")
    totals = _positives(table).assign(films=1).groupby(table["patient"].astype(str), sort=True).sum()
    if len(totals) < count:
        films = plural(len(table), "film")
        what = f"{count} folds need at least {count} patients, the table has {len(totals)} (in {films})"
        if len(totals) > 1:
            raise Error(what, f"ask for {len(totals)} folds or fewer, or add patients")
        raise Error(what, f"add patients, or name each in {PATIENT_COLUMN}: of one patient nothing can be held out")
    totals = totals.iloc[np.random.default_rng(seed).permutation(len(totals))]
    counts = totals.to_numpy(np.float64)
    sums = counts.sum(axis=0)
    units = count / sums[sums > 0]
    shares = counts[:, sums > 0] * units  # each column: an even share of a fold is 1, a film a unit
    folds = _change_places(shares, _place(shares, count), count, units)
    return table["patient"].astype(str).map(pd.Series(folds, totals.index)).astype(np.int64).rename(FOLD_COLUMN)


def _place(shares: np.ndarray, count: int) -> np.ndarray:
    """Greedy start: (patients, columns) shares -> fold of each patient, (patients,) int64; an empty fold goes first."""
    folds = np.empty(len(shares), np.int64)
    deviation = np.full((count, shares.shape[1]), -1.0)
    for patient in np.argsort(-shares.std(axis=1), kind="stable"):
        best = int(np.argmin(np.round(deviation @ shares[patient], DIGITS)))
        folds[patient] = best
        deviation[best] += shares[patient]
    return folds


def _change_places(shares: np.ndarray, folds: np.ndarray, count: int, units: np.ndarray) -> np.ndarray:
    """Swap patients of two folds, or move one, while the squared deviation falls; that never empties a fold.

    A move is a swap with a row of zeros, of which each fold has one. `units` (columns,): the share of one film.
    """
    rows = np.vstack([shares, np.zeros((count, shares.shape[1]))])
    films = np.rint(rows / units).astype(np.int64)
    where = np.concatenate([folds, np.arange(count)])
    squares = (rows**2).sum(axis=1)
    deviation = np.stack([rows[where == fold].sum(axis=0) for fold in range(count)]) - 1.0
    groups: dict[int, _Groups | None] = {}  # of each fold, as long as no patient changes place
    for _ in range(PASSES):
        changed = False
        for patient in range(len(shares)):
            here = int(where[patient])
            if here not in groups:
                groups[here] = _worth_a_swap(films, np.abs(deviation[here] - deviation), units)
            if (found := groups[here]) is None:
                continue
            others = found.like(patient)
            pull = deviation[here] - deviation  # (count, columns)
            near, theirs = rows[others], where[others]
            along = near @ pull.T  # (others, count): what each row weighs along the pull towards each fold
            gain = along[np.arange(len(others)), theirs] - (pull @ rows[patient])[theirs]
            gain += squares[others] + squares[patient] - 2 * (near @ rows[patient])
            gain = np.where(theirs == here, np.inf, np.round(gain, DIGITS))
            best = int(np.argmin(gain))
            if gain[best] >= 0:
                continue
            other = int(others[best])
            difference = rows[other] - rows[patient]
            deviation[here] += difference
            deviation[where[other]] -= difference
            where[patient] = where[other]
            if other < len(shares):
                where[other] = here
            groups.clear()
            changed = True
        if not changed:
            break
    return where[: len(shares)]


class _Groups(NamedTuple):
    """Rows in groups: `group` of each row; `order`, all rows group by group, ascending in each; where each begins."""

    group: np.ndarray
    order: np.ndarray
    begins: np.ndarray

    def like(self, row: int) -> np.ndarray:
        """The rows of a row's group, ascending."""
        return self.order[self.begins[self.group[row]] : self.begins[self.group[row] + 1]]


def _worth_a_swap(films: np.ndarray, pull: np.ndarray, units: np.ndarray) -> _Groups | None:
    """Groups of rows outside which no swap can level a fold further; None if no swap can at all.

    `films` (rows, columns): the counts; `pull` (count, columns): the fold's absolute difference from each fold. A swap
    changes each column by whole films. Changing n films of size u along a pull p adds n**2 * u**2 - n * u * p to the
    squared deviation, least for the n nearest p / 2u. The sum of these least terms over columns bounds every swap.
    Where the bound of a swap that changes a column at all is not below zero, both patients are alike in that column. Of
    thousands of patients nearly all are passed over in this way.
    """
    pull = pull / units
    nearest, least_change = np.round(pull / 2), np.maximum(np.round(pull / 2), 1)
    least = nearest * (nearest - pull) * units**2
    bound = least.sum(axis=1, keepdims=True)
    changing = bound - least + least_change * (least_change - pull) * units**2
    zero = -0.49 * 10.0**-DIGITS  # what is above is rounded to zero
    if not (bound < zero).any():
        return None
    alike = (changing >= zero).all(axis=0)
    # A hash: rows that share one by chance are compared as well, which changes nothing.
    key = films[:, alike] @ np.random.default_rng(0).integers(1 << 62, size=int(alike.sum()))
    _, group, size = np.unique(key, return_inverse=True, return_counts=True)
    return _Groups(group, np.argsort(group, kind="stable"), np.concatenate([[0], np.cumsum(size)]))


@dataclass(frozen=True)
class FoldTable:
    """The content of each fold. `counts` (int64): one column a fold; rows `films`, `patients`, then positives of each
    label, except labels that are unknown of every film: there may be none."""

    counts: pd.DataFrame

    @property
    def deviations(self) -> pd.DataFrame:
        """The same rows and columns: relative deviation from an even share (float64), 0 where there are none."""
        even = self.counts.mean(axis=1)
        return self.counts.sub(even, axis=0).div(even.where(even > 0), axis=0).fillna(0.0)

    @property
    def deviation(self) -> float:
        """The largest relative deviation over labels and folds; 0.05: some fold holds 5 % more or less of a label.

        0 without labels."""
        return float(self.deviations.iloc[2:].abs().to_numpy().max(initial=0.0))

    @property
    def worst(self) -> tuple[str, int] | None:
        """The label and the fold of the largest relative deviation; None without labels."""
        if len(self.counts) == 2:
            return None
        label, fold = divmod(int(self.deviations.iloc[2:].abs().to_numpy().argmax()), len(self.counts.columns))
        return str(self.counts.index[2 + label]), int(self.counts.columns[fold])

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "deviation": self.deviation,
            "films_deviation": float(self.deviations.iloc[0].abs().max()),
            "folds": {str(fold): self.counts[fold].astype(int).to_dict() for fold in self.counts},
        }

    def text(self) -> str:
        """An aligned table for people, with the largest deviation named below it."""
        frame = self.counts.map("{:,}".format).rename(columns="fold {}".format).rename_axis(columns=None)
        frame["max dev"] = self.deviations.abs().max(axis=1).map("{:.1%}".format)
        if (worst := self.worst) is None:
            return f"{frame.to_string()}\nno label is known of any film"
        label, fold = worst
        return f"{frame.to_string()}\nlargest relative deviation: {self.deviation:.4f} ({label}, fold {fold})"


def describe_folds(table: pd.DataFrame, folds: pd.Series) -> FoldTable:
    """Count films, patients and positives of every fold; `folds` is aligned to `table` by index."""
    _check_table(table)
    if not table.index.equals(folds.index):
        raise ValueError("folds must have the index of the table; use folds_of(table, read_folds(...)) to align them")
    counts = _positives(table).groupby(folds).sum()
    counts = counts[[label for label in LABELS if (table[label] != UNKNOWN).any()]]
    counts.insert(0, "films", table.groupby(folds).size())
    counts.insert(1, "patients", table["patient"].groupby(folds).nunique())
    return FoldTable(counts.T.astype(np.int64))


def write_folds(table: pd.DataFrame, folds: pd.Series, csv: Path) -> None:
    """Write `StudyInstanceUID, PatientID, fold`, one row a film in the table's order, atomically."""
    columns = {STUDY_COLUMN: table["study"], PATIENT_COLUMN: table["patient"], FOLD_COLUMN: folds.astype(np.int64)}
    # Python's csv module writes a carriage return without quotes, and it would be read as a line's end.
    odd = any("\r" in text for name in ("study", "patient") for text in table[name].astype(str))
    with replacing(csv) as aside:
        pd.DataFrame(columns).to_csv(aside, index=False, quoting=QUOTE_ALL if odd else QUOTE_MINIMAL)


def read_folds(csv: Path) -> pd.DataFrame:
    """Read a folds file: columns `study` (str), `patient` (str), `fold` (int64); any further columns are ignored.

    `Error` naming the file, line and way out on missing columns, rows that cannot be read, empty cells, and what
    `fold_problems` finds.
    """
    rows = read_rows(Path(csv), (STUDY_COLUMN, PATIENT_COLUMN, FOLD_COLUMN))
    studies, patients = rows.column(STUDY_COLUMN), rows.column(PATIENT_COLUMN)
    empty = [
        Problem("empty cell", rows.path.name, line, f"{name} is empty", "name it")
        for name, cells in ((STUDY_COLUMN, studies), (PATIENT_COLUMN, patients))
        for line, cell in zip(rows.lines, cells, strict=True)
        if not cell
    ]
    if problems := [*rows.problems, *empty, *fold_problems(rows, patients)]:
        first = problems[0]
        count = sum(problem.kind == first.kind for problem in problems)
        raise Error(f"{csv}, line {first.row}: {first.message} ({plural(count, 'such row')})", first.way_out)
    folds = [fold_number(cell) for cell in rows.column(FOLD_COLUMN)]
    return pd.DataFrame({"study": studies, "patient": patients, "fold": np.array(folds, np.int64)})


def fold_problems(rows: Rows, patients: Sequence[str]) -> list[Problem]:
    """Folds that are no whole numbers from 0, studies in two rows, patients in two folds.

    `rows` have the columns of study and fold; `patients` are those of the rows, "" where not known.
    """
    problems: list[Problem] = []
    first: dict[str, int] = {}  # study -> line
    placed: dict[str, tuple[int | str, int]] = {}  # patient -> fold, line
    cells = zip(rows.column(STUDY_COLUMN), patients, rows.column(FOLD_COLUMN), rows.lines, strict=True)
    for study, patient, cell, line in cells:
        found: list[tuple[str, str, str]] = []  # kind, message, way out
        fold = cell if (number := fold_number(cell)) is None else number
        if number is None:
            way_out = f"a fold is 0, 1, 2, ... of at most {FOLD_DIGITS} digits"
            found.append(("fold not a number", f"{FOLD_COLUMN} is {shown(cell)}", way_out))
        if first.setdefault(study, line) != line:
            message = f"study {shown(study, 80)} is already in line {first[study]}"
            found.append(("study in two rows of the folds", message, "keep one row a study"))
        there, where = placed.setdefault(patient, (fold, line)) if patient else (fold, line)
        if there != fold:
            message = f"the patient of this row is in fold {shown(fold)} here and {shown(there)} in line {where}"
            found.append(("patient in two folds", message, "draw folds with `cxrlines folds`"))
        problems += [Problem(kind, rows.path.name, line, message, way_out) for kind, message, way_out in found]
    return problems


def fold_number(cell: str) -> int | None:
    """A cell as a fold; None if it is none. A data frame with gaps writes the fold 1 as 1.0."""
    digits = cell.removesuffix(".0")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= FOLD_DIGITS else None


def folds_of(table: pd.DataFrame, folds: pd.DataFrame) -> pd.Series:
    """Align a folds file (`read_folds`) to the rows of `table` by study; `Error` if one has no fold."""
    fold = table["study"].astype(str).map(folds.set_index("study")["fold"])
    if len(without := np.flatnonzero(fold.isna())):
        first = shown(table["study"].iloc[without[0]], 80)
        what = f"{len(without)} of {len(table)} studies have no fold in the folds file, the first {first}"
        raise Error(what, "make the folds from this very table with `cxrlines folds`")
    return fold.astype(np.int64).rename(FOLD_COLUMN)


def _positives(table: pd.DataFrame) -> pd.DataFrame:
    return (table[list(LABELS)] == 1).astype(np.int64)


def _check_table(table: pd.DataFrame) -> None:
    if missing := [name for name in ("study", "patient", *LABELS) if name not in table]:
        raise ValueError(f"the table has no column {', '.join(missing)}; folds need study, patient and every label")
    if len(nameless := np.flatnonzero(table["patient"].isna())):
        first = shown(table["study"].iloc[nameless[0]], 80)
        what = f"study {first} of the table has no patient ({plural(len(nameless), 'such row')})"
        raise Error(what, "name the patient of every film, or leave these rows out")
