"""Predictions against truth: every figure of merit with its interval, and what could not be scored, said."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.evaluation.ensemble.average import check_predictions
from cxrlines.io.rows import read_rows, rows_left_out
from cxrlines.io.tables import check_some, usable_rows
from cxrlines.metrics.auc import auc, brier, why_undefined
from cxrlines.metrics.calibration import calibration_error
from cxrlines.metrics.intervals import RESAMPLES, Interval, macro_of, percentile_interval, resampled_aucs
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN

FEW_PATIENTS = 10
"""Below so many patients with a label, resampling them says little about its interval; the text says so."""


@dataclass(frozen=True)
class LabelFigures:
    """One label's figures. `auc` and `ci95` are None where it has one class only; `undefined` says why.

    `patients` are those with a positive film; `resamples` those in which the AUC was defined.
    """

    auc: float | None
    ci95: Interval | None
    positives: int
    patients: int
    brier: float | None
    ece: float | None
    resamples: int
    undefined: str | None


@dataclass(frozen=True)
class Evaluation:
    """The figures of one prediction.

    Attributes:
        macro_auc, ci95: mean AUC over the labels that have both classes, and its 95 % interval.
        labels: the figures of each of the 11 labels, in their order.
        ece: expected calibration error over all labels pooled. brier: likewise pooled.
        films, patients: what was scored.
        not_predicted: labelled films without a prediction. foreign: predictions without a labelled film.
        left_out: reason -> rows of the truth that could not be used for it.
        own_patients: True if the truth names no patients and each film was taken for a patient of its own.
        resampled: AUC of each label in each resample of patients, float64 (resamples, 11), NaN where
            undefined.
        studies: the films scored.
    """

    macro_auc: float | None
    ci95: Interval | None
    labels: dict[str, LabelFigures]
    ece: float | None
    brier: float | None
    films: int
    patients: int
    not_predicted: int
    foreign: int
    left_out: dict[str, int]
    own_patients: bool
    resampled: np.ndarray
    studies: frozenset[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and None, ready for JSON."""
        return {
            "macro_auc": self.macro_auc,
            "ci95": _listed(self.ci95),
            "labels": {
                label: {
                    "auc": figures.auc,
                    "ci95": _listed(figures.ci95),
                    "positives": figures.positives,
                    "brier": figures.brier,
                    "ece": figures.ece,
                }
                for label, figures in self.labels.items()
            },
            "ece": self.ece,
            "brier": self.brier,
            "films": self.films,
            "patients": self.patients,
            "not_predicted": self.not_predicted,
            "foreign": self.foreign,
            "left_out": self.left_out,
            "undefined": self.undefined,
        }

    @property
    def undefined(self) -> dict[str, str]:
        """Label without an AUC -> the reason."""
        return {label: figures.undefined for label, figures in self.labels.items() if figures.undefined}

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know, in sentences."""
        films = {
            "labelled films are not predicted and not scored": self.not_predicted,
            "predictions have no labelled film and are not scored": self.foreign,
        }
        notes = [f"{count:,} {what}" for what, count in films.items() if count]
        notes += [f"{count:,} rows of the truth are left out: {reason}" for reason, count in self.left_out.items()]
        if self.patients == 1:
            notes.append("all films are of one patient: intervals come from resampling patients, so there are none")
        if self.own_patients:
            notes.append(
                f"the truth has no {PATIENT_COLUMN}: each film counts as a patient of its own, so the intervals are "
                "too narrow if patients have several films"
            )
        notes += [f"{label} has no AUC and is not in the macro AUC: {why}" for label, why in self.undefined.items()]
        few = [
            f"{label} ({figures.patients})"
            for label, figures in self.labels.items()
            if figures.ci95 and figures.patients < FEW_PATIENTS
        ]
        if few:
            notes.append(f"too few positive patients for an interval to mean much: {', '.join(few)}")
        return notes

    def text(self) -> str:
        """An aligned table, the notes below it."""
        wide = max(map(len, LABELS))
        head = f"{'':{wide}}  {'AUC':>6}  {'95 % interval':^15}  {'positives':>9}  {'Brier':>6}  {'ECE':>6}"
        rows = [
            f"{label:{wide}}  {_number(row.auc):>6}  {_interval(row.ci95):^15}  {row.positives:>9,}  "
            f"{_number(row.brier):>6}  {_number(row.ece):>6}"
            for label, row in self.labels.items()
        ]
        macro = (
            f"{'macro':{wide}}  {_number(self.macro_auc):>6}  {_interval(self.ci95):^15}  {'':>9}  "
            f"{_number(self.brier):>6}  {_number(self.ece):>6}"
        )
        rule = "-" * len(head)
        scored = f"{self.films:,} films of {self.patients:,} patients; intervals from resampling patients"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([head, rule, *rows, rule, macro, scored, *notes])


def read_predictions(csv: Path) -> pd.DataFrame:
    """Read predictions: a frame of `study` (str) and the 11 labels (float64), in the file's order of rows.

    `Error` names the file, the column or row, and the way out: missing columns, a study listed twice, a
    value that is not a number from 0 to 1. Further columns are ignored.
    """
    rows = read_rows(Path(csv), (STUDY_COLUMN, *LABELS))
    if rows.problems:
        raise Error(f"{rows.problems[0].text()} ({len(rows.problems)} such rows)")
    frame = pd.DataFrame({"study": rows.column(STUDY_COLUMN)}, dtype=str)
    wrong = ((frame["study"] == "") | frame["study"].duplicated()).to_numpy()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        what = "its study is listed before" if frame["study"][row] else f"{STUDY_COLUMN} is empty"
        raise Error(
            f"{csv}, line {rows.lines[row]}: {what} ({int(wrong.sum())} such rows)", "keep one row a study, with its id"
        )
    for label in LABELS:
        cells = rows.column(label)
        numbers = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").astype(np.float64)
        wrong = ~((numbers >= 0) & (numbers <= 1)).to_numpy()  # NaN as well
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            what = "not a number" if np.isnan(numbers[row]) else "outside 0 to 1"
            raise Error(
                f"{csv}, line {rows.lines[row]}: column {label} is {cells[row]!r}, {what} ({int(wrong.sum())} "
                "such rows)",
                "predictions are numbers from 0 to 1: apply a sigmoid to logits",
            )
        frame[label] = numbers
    return frame


def read_truth(csv: Path) -> pd.DataFrame:
    """Read a label table to score against: `study`, `patient` if the file names patients, and the 11 labels (int8).

    Rows that cannot be used are counted by reason in `.attrs["left_out"]`. `TableError` if a column is missing or no
    row is left.
    """
    rows = read_rows(Path(csv), (STUDY_COLUMN, *LABELS))
    table, problems = usable_rows(rows)
    if PATIENT_COLUMN not in rows.columns:
        table = table.drop(columns="patient")
    left_out = rows_left_out(problems)
    check_some(Path(csv), table, left_out)
    table.attrs["left_out"] = left_out
    return table


def evaluate(
    predictions: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """Score `predictions` (`study`, 11 labels) against `truth` (`study`, `patient`, 11 labels), matched by
    study.

    Rows without a counterpart are counted, never an error, unless nothing is left. A truth without `patient` makes
    each film its own patient; its `.attrs["left_out"]` (reason -> rows) is passed on. `Error` on
    predictions outside 0 .. 1, labels other than 0 and 1, missing columns, or a study listed twice.
    """
    check_predictions(predictions, "the predictions")
    _check_truth(truth)
    names = list(LABELS)
    complete = truth[truth[names].notna().all(axis=1)]
    own_patients = "patient" not in truth
    patient = complete["study"] if own_patients else complete["patient"].fillna(complete["study"])
    complete = complete.assign(study=complete["study"].astype(str), patient=patient.astype(str)).set_index("study")
    scores = predictions.assign(study=predictions["study"].astype(str)).set_index("study")[names]
    studies = scores.index.intersection(complete.index)
    if len(studies) == 0:
        raise Error(
            f"no study is in both: {len(scores)} predictions, {len(complete)} labelled films",
            "check that both files are of the same films",
        )
    return _score(
        scores.loc[studies].to_numpy(np.float64),
        complete.loc[studies, names].to_numpy(np.int64),
        complete.loc[studies, "patient"].to_numpy(),
        resamples=resamples,
        seed=seed,
        about={
            "not_predicted": len(complete) - len(studies),
            "foreign": len(scores) - len(studies),
            "left_out": truth.attrs.get("left_out", {})
            | ({"label missing": len(truth) - len(complete)} if len(complete) < len(truth) else {}),
            "own_patients": own_patients,
            "studies": frozenset(studies),
        },
    )


def compare(one: Evaluation, other: Evaluation) -> tuple[float, Interval] | None:
    """Macro AUC of `one` less that of `other`, with its 95 % interval; None unless both scored the same films.

    Paired: both drew the same patients in each resample (same films, `resamples` and `seed`), so that what makes a
    resample hard for both cancels. An interval that holds 0 means that these films do not tell the two apart.
    """
    if one.studies != other.studies or one.resampled.shape != other.resampled.shape:
        return None
    interval = percentile_interval(macro_of(one.resampled) - macro_of(other.resampled))
    if one.macro_auc is None or other.macro_auc is None or interval is None:
        return None
    return one.macro_auc - other.macro_auc, interval


def _score(
    scores: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    *,
    resamples: int,
    seed: int,
    about: dict[str, Any],
) -> Evaluation:
    resampled = resampled_aucs(truth, scores, patients, resamples=resamples, seed=seed)
    labels = {}
    for k, label in enumerate(LABELS):
        labels[label] = LabelFigures(
            auc=auc(truth[:, k], scores[:, k]),
            ci95=percentile_interval(resampled[:, k]),
            positives=int(truth[:, k].sum()),
            patients=len(set(patients[truth[:, k] == 1])),
            brier=brier(truth[:, k], scores[:, k]),
            ece=calibration_error(truth[:, k], scores[:, k]),
            resamples=int((~np.isnan(resampled[:, k])).sum()),
            undefined=why_undefined(truth[:, k]),
        )
    defined = [figures.auc for figures in labels.values() if figures.auc is not None]
    return Evaluation(
        macro_auc=float(np.mean(defined)) if defined else None,
        ci95=percentile_interval(macro_of(resampled)),
        labels=labels,
        ece=calibration_error(truth, scores),
        brier=brier(truth, scores),
        films=len(truth),
        patients=len(set(patients)),
        resampled=resampled,
        **about,
    )


def _check_truth(truth: pd.DataFrame) -> None:
    missing = [name for name in ("study", *LABELS) if name not in truth]
    if missing:
        raise Error(f"the truth has no column {', '.join(missing)}", f"it needs study and the {len(LABELS)} labels")
    twice = truth["study"].duplicated()
    if twice.any():
        raise Error(
            f"the truth lists {int(twice.sum())} studies more than once, the first again in row "
            f"{int(np.flatnonzero(twice)[0]) + 1}",
            "keep one row a study",
        )
    for label in LABELS:
        wrong = ~truth[label].isin([0, 1]) & truth[label].notna()
        if wrong.any():
            raise Error(
                f"the truth, column {label}: {truth[label][wrong].iloc[0]} is neither 0 nor 1 ({int(wrong.sum())} "
                "such rows)",
                "labels are 0 or 1, or empty where unknown",
            )


def _listed(interval: Interval | None) -> list[float] | None:
    return list(interval) if interval else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}"
