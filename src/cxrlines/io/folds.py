"""Folds: no patient in two of them, every label's positives level across them.

Patients are placed one by one, those with the most uneven label counts first, each into the fold that is left
most level; then patients change places for as long as that levels the folds further. Level means: the sum,
over folds, labels and the number of films, of the squared relative deviation from an even share.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.io.rows import read_rows
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN

FOLD_COLUMN = "fold"
PASSES = 20
"""At most so many rounds of changing places; the real 3,255 patients settle after two."""
DIGITS = 9
"""Decimals by which two places are told apart: ties stay ties whatever the machine's order of summation."""


def make_folds(table: pd.DataFrame, count: int = 5, seed: int = 0) -> pd.Series:
    """The fold of every row of `table`, 0 to `count` - 1, as an int64 Series on the table's own index.

    `table` has the columns `study`, `patient` and the 11 labels (0 or 1; missing counts as 0). The result
    depends on the patients, their labels and `seed` alone, not on the order of rows. No fold is ever empty.
    `Error` on rows without a patient, `count` below 2, or fewer patients than folds.
    """
    _check_table(table)
    if count < 2:
        raise Error(f"count is {count}", "at least 2 folds are needed to hold one out")
    totals = _per_patient(table)
    if len(totals) < count:
        raise Error(
            f"{count} folds need at least {count} patients, the table has {len(totals)} (in {len(table)} films)",
            f"ask for {len(totals)} folds or fewer, or add patients"
            if len(totals) > 1
            else f"add patients, or name each in {PATIENT_COLUMN}: of one patient nothing can be held out",
        )
    totals = totals.iloc[np.random.default_rng(seed).permutation(len(totals))]
    counts = totals.to_numpy(np.float64)
    sums = counts.sum(axis=0)
    shares = counts[:, sums > 0] * (count / sums[sums > 0])  # each column: an even share of a fold is 1
    folds = _change_places(shares, _place(shares, count), count)
    fold_of = dict(zip(totals.index, folds.tolist(), strict=True))
    return table["patient"].astype(str).map(fold_of).astype(np.int64).rename(FOLD_COLUMN)


def _place(shares: np.ndarray, count: int) -> np.ndarray:
    """Greedy start: (patients, columns) shares -> fold of each patient.

    Squared deviation makes an empty fold the best place while there is one, so that every fold gets a
    patient.
    """
    folds = np.empty(len(shares), np.int64)
    deviation = np.full((count, shares.shape[1]), -1.0)
    for patient in np.argsort(-shares.std(axis=1), kind="stable"):
        best = int(np.argmin(np.round(deviation @ shares[patient], DIGITS)))
        folds[patient] = best
        deviation[best] += shares[patient]
    return folds


def _change_places(shares: np.ndarray, folds: np.ndarray, count: int) -> np.ndarray:
    """Swap patients of two folds, or move one, while the squared deviation falls.

    A move is a swap with nobody: one row of zeros for each fold. It never empties a fold, as adding to a fold
    that holds more costs more than the emptied one gains.
    """
    rows = np.vstack([shares, np.zeros((count, shares.shape[1]))])
    where = np.concatenate([folds, np.arange(count)])
    squares = (rows**2).sum(axis=1)
    deviation = np.stack([rows[where == fold].sum(axis=0) for fold in range(count)]) - 1.0
    for _ in range(PASSES):
        changed = False
        for patient in range(len(shares)):
            here = where[patient]
            pull = deviation[here] - deviation  # (count, columns)
            along = rows @ pull.T  # (rows, count): what each row weighs along the pull towards each fold
            every = np.arange(len(rows))
            gain = along[every, where] - along[patient, where]
            gain += squares + squares[patient] - 2 * (rows @ rows[patient])
            gain = np.where(where == here, np.inf, np.round(gain, DIGITS))
            other = int(np.argmin(gain))
            if gain[other] >= 0:
                continue
            difference = rows[other] - rows[patient]
            deviation[here] += difference
            deviation[where[other]] -= difference
            if other < len(shares):
                where[patient], where[other] = where[other], here
            else:
                where[patient] = where[other]
            changed = True
        if not changed:
            break
    return where[: len(shares)]


def levelness(table: pd.DataFrame, folds: pd.Series) -> float:
    """The largest relative deviation of a label's positives in a fold from an even share, over labels and
    folds.

    0 is perfectly level; 0.05 means that some fold holds 5 % more or less of some label than its share.
    Labels without positives are left aside.
    """
    return describe_folds(table, folds).deviation


@dataclass(frozen=True)
class FoldTable:
    """What is in each fold.

    Attributes:
        counts: one column a fold; rows `films`, `patients`, then positives of the 11 labels (int64).
        deviations: the same rows and columns, relative deviation from an even share (float64, 0 where none
            exist).
    """

    counts: pd.DataFrame
    deviations: pd.DataFrame

    @property
    def deviation(self) -> float:
        """The largest relative deviation over labels and folds."""
        return float(self._deviations_of_labels().max())

    @property
    def worst(self) -> tuple[str, int]:
        """The label and the fold of the largest relative deviation."""
        deviations = self._deviations_of_labels()
        label, fold = np.unravel_index(deviations.argmax(), deviations.shape)
        return LABELS[label], int(self.counts.columns.to_list()[fold])

    def _deviations_of_labels(self) -> np.ndarray:
        return np.abs(self.deviations.loc[list(LABELS)].to_numpy(np.float64))

    def as_dict(self) -> dict:
        return {
            "deviation": self.deviation,
            "films_deviation": float(np.abs(self.deviations.to_numpy()[0]).max()),
            "folds": {str(fold): self.counts[fold].astype(int).to_dict() for fold in self.counts},
        }

    def text(self) -> str:
        """An aligned table for people, with the largest deviation named below it."""
        wide = max(len(name) for name in self.counts.index)
        head = " ".join(f"{f'fold {fold}':>8}" for fold in self.counts)
        lines = [f"{'':{wide}} {head}    max dev"]
        largest = iter(self.deviations.abs().max(axis=1))
        for name, row in self.counts.iterrows():
            cells = " ".join(f"{value:8,d}" for value in row)
            lines.append(f"{name!s:{wide}} {cells}    {next(largest):6.1%}")
        label, fold = self.worst
        lines.append(f"largest relative deviation: {self.deviation:.4f} ({label}, fold {fold})")
        return "\n".join(lines)


def describe_folds(table: pd.DataFrame, folds: pd.Series) -> FoldTable:
    """Count films, patients and positives of every fold; `folds` is aligned to `table` by index."""
    _check_table(table)
    if not table.index.equals(folds.index):
        raise ValueError("folds must have the index of the table; use folds_of(table, read_folds(...)) to align them")
    positives = table[list(LABELS)].fillna(0).astype(np.int64).groupby(folds).sum()
    counts = positives.assign(films=table.groupby(folds).size(), patients=table["patient"].groupby(folds).nunique())
    counts = counts[["films", "patients", *LABELS]].T.astype(np.int64)
    even = counts.sum(axis=1) / len(counts.columns)
    deviations = counts.sub(even, axis=0).div(even.where(even > 0), axis=0).fillna(0.0)
    return FoldTable(counts, deviations)


def write_folds(table: pd.DataFrame, folds: pd.Series, csv: Path) -> None:
    """Write `StudyInstanceUID, PatientID, fold`, one row a film in the table's order, whole or not at all."""
    frame = pd.DataFrame(
        {STUDY_COLUMN: table["study"], PATIENT_COLUMN: table["patient"], FOLD_COLUMN: folds.astype(np.int64)}
    )
    with replacing(csv) as aside:
        frame.to_csv(aside, index=False)


def read_folds(csv: Path) -> pd.DataFrame:
    """Read a folds file: columns `study` (str), `patient` (str), `fold` (int64); any further columns are
    ignored.

    `Error` naming the file and the way out on missing columns, rows that cannot be read, a study listed twice,
    a fold that is not a whole number of 0 or more, or a patient in two folds.
    """
    rows = read_rows(Path(csv), (STUDY_COLUMN, PATIENT_COLUMN, FOLD_COLUMN))
    if rows.problems:
        raise Error(f"{rows.problems[0].text()} ({len(rows.problems)} such rows)")
    studies, patients, folds = (rows.column(name) for name in (STUDY_COLUMN, PATIENT_COLUMN, FOLD_COLUMN))
    for name, cells in ((STUDY_COLUMN, studies), (PATIENT_COLUMN, patients)):
        if "" in cells:
            raise Error(
                f"{csv}, line {rows.lines[cells.index('')]}: {name} is empty ({cells.count('')} such rows)", "name it"
            )
    numbers = pd.to_numeric(pd.Series(folds, dtype=object), errors="coerce")
    wrong = numbers.isna() | (numbers < 0) | (numbers % 1 != 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise Error(
            f"{csv}, line {rows.lines[row]}: fold is {folds[row]!r}",
            f"allowed are whole numbers from 0 ({int(wrong.sum())} such rows)",
        )
    frame = pd.DataFrame({"study": studies, "patient": patients, "fold": numbers.astype(np.int64)})
    twice = frame["study"].duplicated()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise Error(
            f"{csv}, line {rows.lines[row]}: this study is listed before",
            f"each is listed once ({int(twice.sum())} such rows)",
        )
    split = frame.groupby("patient")["fold"].nunique()
    shared = int((split > 1).sum())
    if shared:
        raise Error(
            f"{csv}: {shared} of {len(split)} patients are in more than one fold, so that a fold would be scored "
            "on patients it trained on",
            "make patient-disjoint folds with `cxrlines folds`",
        )
    return frame


def folds_of(table: pd.DataFrame, folds: pd.DataFrame) -> pd.Series:
    """Align a folds file (`read_folds`) to the rows of `table` by study; `Error` if one has no fold."""
    fold = table["study"].astype(str).map(folds.set_index("study")["fold"])
    if fold.isna().any():
        raise Error(
            f"{int(fold.isna().sum())} of {len(table)} studies have no fold in the folds file, the first at row "
            f"{int(np.flatnonzero(fold.isna())[0])}",
            "make the folds from this very table with `cxrlines folds`",
        )
    return fold.astype(np.int64).rename(FOLD_COLUMN)


def _per_patient(table: pd.DataFrame) -> pd.DataFrame:
    """Number of films and of positives of each patient, by patient id in sorted order."""
    columns = table[list(LABELS)].fillna(0).astype(np.int64).assign(films=1)
    return columns.groupby(table["patient"].astype(str), sort=True).sum()


def _check_table(table: pd.DataFrame) -> None:
    missing = [name for name in ("study", "patient", *LABELS) if name not in table]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(missing)}; folds need study, patient and the {len(LABELS)} labels"
        )
    if table["patient"].isna().any():
        row = int(np.flatnonzero(table["patient"].isna())[0])
        raise Error(
            f"row {row} of the table has no patient ({int(table['patient'].isna().sum())} such rows)",
            "name the patient of every film, or leave these rows out",
        )
