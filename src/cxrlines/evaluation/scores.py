"""Predictions scored against ground truth: every metric with its interval, and notes on what could not be scored."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.film import film_name
from cxrlines.core.text import plural, shown
from cxrlines.evaluation.predictions import check_predictions, check_truth
from cxrlines.metrics.auc import auc, brier, why_undefined
from cxrlines.metrics.calibration import calibration_error
from cxrlines.metrics.intervals import RESAMPLES, Interval, macro_of, percentile_interval, resampled_aucs
from cxrlines.task import PATIENT_COLUMN, STUDY_COLUMN, UNKNOWN

FEW_PATIENTS = 10
"""Below so many patients with a label, resampling them says little about its interval; the notes say so."""


@dataclass(frozen=True)
class LabelFigures:
    """One label's metrics. `auc` and `ci95` are None where it has one class only; `undefined` says why.

    `patients` are those with a positive film, `negative_patients` those with a negative one.
    """

    auc: float | None
    ci95: Interval | None
    positives: int
    patients: int
    negative_patients: int
    brier: float | None
    ece: float | None
    undefined: str | None


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one set of predictions."""

    macro_auc: float | None  # mean over the labels that have both classes
    ci95: Interval | None
    labels: dict[str, LabelFigures]  # of each label predicted, in label order
    ece: float | None  # expected calibration error, all labels pooled
    brier: float | None  # likewise pooled
    films: int  # scored
    patients: int
    not_predicted: int  # labelled films without a prediction
    foreign: int  # predictions without a labelled film
    left_out: dict[str, int]  # reason -> rows of the truth that could not be used for it
    own_patients: bool  # the truth names no patients: each film was taken for a patient of its own
    resampled: np.ndarray  # AUC in each resample of patients, float64 (resamples, labels), NaN where undefined
    studies: frozenset[str]  # the films scored
    truth: np.ndarray  # of these films, int64 (films, labels)
    scores: np.ndarray  # float64 (films, labels)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and None, ready for JSON."""
        labels = {label: _json(row, "auc", "ci95", "positives", "brier", "ece") for label, row in self.labels.items()}
        counts = _json(self, "ece", "brier", "films", "patients", "not_predicted", "foreign", "left_out")
        more = {"undefined": self.undefined, "notes": self.notes}
        return _json(self, "macro_auc", "ci95") | {"labels": labels} | counts | more

    def of_ranks(self) -> "Evaluation":
        """The same of scores that are no probabilities: without Brier scores and calibration errors."""
        labels = {label: replace(figures, brier=None, ece=None) for label, figures in self.labels.items()}
        return replace(self, labels=labels, brier=None, ece=None)

    @property
    def undefined(self) -> dict[str, str]:
        """Label without an AUC -> the reason."""
        return {label: figures.undefined for label, figures in self.labels.items() if figures.undefined}

    @property
    def notes(self) -> list[str]:
        """What a reader of the metrics has to know, in sentences."""
        notes = []
        if missing := self.not_predicted:
            notes.append(f"{plural(missing, 'labelled film is', 'labelled films are')} not predicted and not scored")
        if foreign := self.foreign:
            have = plural(
                foreign, "prediction has no labelled film and is", "predictions have no labelled film and are"
            )
            notes.append(f"{have} not scored")
        for reason, count in self.left_out.items():
            notes.append(f"{plural(count, 'row of the truth is', 'rows of the truth are')} left out: {reason}")
        if self.patients == 1:
            notes.append("all films are of one patient: intervals come from resampling patients, so there are none")
        if self.own_patients:
            notes.append(
                f"the truth has no {PATIENT_COLUMN}: each film counts as a patient of its own, so the intervals are "
                "too narrow if patients have several films"
            )
        notes += [f"{label} has no AUC and is not in the macro AUC: {why}" for label, why in self.undefined.items()]
        scores = dict(zip(self.labels, self.scores.T, strict=True))
        if same := [name for name, column in scores.items() if self.films > 1 and (column == column[0]).all()]:
            all_same = "all labels" if len(same) == len(scores) else ", ".join(same)
            notes.append(f"the prediction is the same on every film, as in sample_submission.csv: {all_same}")
        for kind, of in (("positive", "patients"), ("negative", "negative_patients")):
            counts = {name: getattr(figures, of) for name, figures in self.labels.items() if figures.ci95}
            if few := [f"{name} ({count})" for name, count in counts.items() if count < FEW_PATIENTS]:
                notes.append(f"too few {kind} patients for an interval to mean much: {', '.join(few)}")
        return notes

    def text(self) -> str:
        """An aligned table, the notes below it."""
        wide = max(map(len, self.labels))

        def line(name: str, value: float | None, ci95: Interval | None, positives: str, *rest: float | None) -> str:
            interval = "-" if ci95 is None else f"{ci95[0]:.4f}-{ci95[1]:.4f}"
            first, *others = (f"{'-':>6}" if number is None else f"{number:6.4f}" for number in (value, *rest))
            return "  ".join([f"{name:{wide}}", first, f"{interval:^15}", f"{positives:>9}", *others])

        head = f"{'':{wide}}  {'AUC':>6}  {'95 % interval':^15}  {'positives':>9}  {'Brier':>6}  {'ECE':>6}"
        rule = "-" * len(head)
        rows = [line(name, f.auc, f.ci95, f"{f.positives:,}", f.brier, f.ece) for name, f in self.labels.items()]
        macro = line("macro", self.macro_auc, self.ci95, "", self.brier, self.ece)
        scored = (
            f"{plural(self.films, 'film')} of {plural(self.patients, 'patient')}; intervals from resampling patients"
        )
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([head, rule, *rows, rule, macro, scored, *notes])


def evaluate(
    predictions: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """Score `predictions` (`study`, labels) against `truth` (`study`, `patient`, labels), matched by study.

    The labels are those predicted. One that is `UNKNOWN` on a film is not scored there; a label that the truth lacks
    is undefined. Rows without a counterpart are counted, never an error, unless nothing is left. A truth without
    `patient` makes each film its own patient; its `.attrs["left_out"]` (reason -> rows) is passed on. `Error` on
    predictions outside 0 .. 1, labels other than 0, 1 and `UNKNOWN`, missing columns, or a study listed twice.
    """
    labels = check_predictions(predictions, "the predictions")
    given = check_truth(truth, "the truth")
    complete = truth[truth[given].notna().all(axis=1)]
    own_patients = "patient" not in truth
    patient = complete["study"] if own_patients else complete["patient"].fillna(complete["study"])
    complete = complete.assign(patient=patient.astype(str)).set_axis(complete["study"].astype(str))
    scores = predictions.set_axis(predictions["study"].astype(str))[labels]
    place = complete.index.get_indexer(scores.index)  # of each prediction among the labelled films
    studies, matched = scores.index[place >= 0], complete.iloc[place[place >= 0]]
    if len(studies) == 0:
        raise _no_study_in_both(scores.index, complete.index)
    p, patients = scores.to_numpy(np.float64)[place >= 0], matched["patient"].to_numpy()
    known = matched.reindex(columns=labels, fill_value=UNKNOWN).to_numpy(np.int64)
    resampled = resampled_aucs(known, p, patients, resamples=resamples, seed=seed)
    aucs = [auc(known[:, k], p[:, k]) for k in range(len(labels))]
    defined = [value for value in aucs if value is not None]
    incomplete = len(truth) - len(complete)
    labelled = (complete[given] != UNKNOWN).any(axis=1)
    return Evaluation(
        macro_auc=float(np.mean(defined)) if defined else None,
        ci95=percentile_interval(macro_of(resampled)),
        labels={
            label: LabelFigures(
                auc=aucs[k],
                ci95=percentile_interval(resampled[:, k]),
                positives=int((known[:, k] == 1).sum()),
                patients=len(set(patients[known[:, k] == 1])),
                negative_patients=len(set(patients[known[:, k] == 0])),
                brier=brier(known[:, k], p[:, k]),
                ece=calibration_error(known[:, k], p[:, k]),
                undefined=why_undefined(known[:, k]),
            )
            for k, label in enumerate(labels)
        },
        ece=calibration_error(known, p),
        brier=brier(known, p),
        films=len(studies),
        patients=len(set(patients)),
        not_predicted=int(labelled.sum() - labelled[studies].sum()),
        foreign=len(scores) - len(studies),
        left_out=truth.attrs.get("left_out", {}) | ({"label missing": incomplete} if incomplete else {}),
        own_patients=own_patients,
        resampled=resampled,
        studies=frozenset(studies),
        truth=known,
        scores=p,
    )


def _no_study_in_both(predicted: pd.Index, labelled: pd.Index) -> Error:
    """The error that no film is both predicted and labelled: with an id of each, and why they differ if it is seen."""
    what = f"no study is in both: {len(predicted)} predictions, {len(labelled)} labelled films"
    if len(predicted) and len(labelled):
        what += f" (e.g. {shown(predicted[0], 80)} and {shown(labelled[0], 80)})"
    bare, others = ({film_name(Path(study)) for study in studies} for studies in (predicted, labelled))
    if bare & others:
        return Error(what, f"write the {STUDY_COLUMN} in both without folder and suffix")
    return Error(what, "check that both files are of the same films")


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


@dataclass(frozen=True)
class Comparison:
    """Two sets of predictions on the films that both have: macro AUCs, and the difference with its interval."""

    films: int
    macro_auc: float
    against: float
    difference: float
    ci95: Interval

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self) | {"ci95": list(self.ci95)}

    def text(self, name: str) -> str:
        """One line; `name` is that of the other predictions."""
        low, high = self.ci95
        verdict = "no clear difference" if low <= 0 <= high else "better" if low > 0 else "worse"
        return (
            f"against {name}, on the {self.films:,} films of both: "
            f"macro AUC {self.macro_auc:.4f} and {self.against:.4f}, "
            f"difference {self.difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f}): {verdict}"
        )


def compare_predictions(
    one: pd.DataFrame, other: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Two tables of predictions as `evaluate` takes them, scored on the same films and the same resamples of patients.

    `Error` where they share no films, predict other labels, or leave no interval.
    """
    shared = set(one["study"].astype(str)) & set(other["study"].astype(str))
    if not shared:
        raise Error("the two files of predictions share no study", "give predictions of the same films")
    mine, theirs = (
        evaluate(frame[frame["study"].astype(str).isin(shared)], truth, resamples=resamples, seed=seed)
        for frame in (one, other)
    )
    found = compare(mine, theirs) if [*mine.labels] == [*theirs.labels] else None
    if found is None or mine.macro_auc is None or theirs.macro_auc is None:
        raise Error(
            "the two files of predictions cannot be compared: they have other labels, or no label has an interval",
            "give the same labels, of two patients or more, with positive and negative films",
        )
    return Comparison(mine.films, mine.macro_auc, theirs.macro_auc, *found)


def _json(figures: LabelFigures | Evaluation, *names: str) -> dict[str, Any]:
    values = {name: getattr(figures, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
