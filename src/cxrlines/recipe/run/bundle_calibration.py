"""Calibration of a run's bundle, its thresholds and suppression limits: which films each is fitted on.

Each is fitted on predictions of the very predictor that it is applied to, of films that this predictor never saw. A
fold's models, averaged over members, are calibrated on the films that the fold held out. Every training film was seen
by some fold; the mean over folds is calibrated on the test films, of which no label is needed (`fit_mean`).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.evaluation.calibrators import (
    before_and_after,
    calibration_figures,
    fit_calibration,
    fit_mean,
    fit_thresholds,
)
from cxrlines.evaluation.predictions import as_predictions, read_predictions, stack
from cxrlines.io.store import open_store
from cxrlines.io.tables import TEST_TABLE, Dataset, read_dataset
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.averaging import Averaging
from cxrlines.reading.bundle_writing import Fitted
from cxrlines.reading.frequencies import FREQUENCIES, Frequencies
from cxrlines.reading.interpretation import fit_suppression
from cxrlines.task import LABEL_INDEX, LABELS, LABELS_OF, UNKNOWN, Device

PARTS = 5
"""Where all films are of one predictor, their patients in so many parts stand for folds in nested figures."""
ENOUGH = 20
"""Positive test films of a label, or with a device, from which its limits are picked; of fewer, out-of-fold films
serve, although they are of single folds."""
LEAKED = "steps leaked, or learnt these films under soft labels: their predictions look better than they are"

UNEQUAL = (
    "its members were trained on different folds: no film shows the average that is read. Average members of the same "
    "folds (ensemble.members) for a calibrated bundle"
)

Files = dict[str, dict[int, Path]]
"""Member -> fold -> file of predictions."""


def calibrated(
    root: Path, data: Path, held_out: Files | None, tested: Files | None, averaging: Averaging = Averaging()
) -> tuple[dict[str, Any], Fitted]:
    """A description of the fits, and the fits.

    Args:
        root: the run's folder, for its stores. data: the films' folder, for the ground truth.
        held_out: predictions of the films that each fold held out. None: a step saw some of them.
        tested: predictions of the test films by each fold, empty where there are none. None likewise, or learnt them.
        averaging: how the bundle averages the members of a fold.
    """
    try:
        truth = read_dataset(data, "train")
        test = read_dataset(data, "test") if (data / TEST_TABLE).is_file() else None
    except (OSError, Error) as error:
        gone = {"not_fitted": f"the labels that the run was trained on cannot be read ({type(error).__name__})"}
        return {"folds": gone, "mean": gone}, Fitted()
    if held_out is None:
        return {"folds": {"not_fitted": LEAKED}, "mean": {"not_fitted": "its folds are not calibrated"}}, Fitted()
    if len({frozenset(by_fold) for by_fold in held_out.values()}) > 1:
        return {"folds": {"not_fitted": UNEQUAL}, "mean": {"not_fitted": "its folds are not calibrated"}}, Fitted()
    own = _Predicted.of(_by_fold(held_out, averaging), truth, open_store(root / "store/train").taken("not-films"))
    of_folds, about_folds = own.fit("out-of-fold films")
    of_mean, about_mean, mean = Calibration({}), {}, None
    if tested is None:
        about_mean["not_fitted"] = LEAKED
    elif test is None or not tested:
        about_mean["not_fitted"] = "there are no test films, and every training film was seen by some fold"
    else:
        of_mean, about_mean, mean = _of_mean(_by_fold(tested, averaging), of_folds, test, root / "store/test")
    thresholds, denied, of_test = _limits(own, of_folds, mean, of_mean)
    frequencies = Frequencies.of(own.truth, f"{len(own.truth)} films that the folds of its run held out").model_dump()
    about = {"folds": about_folds, "mean": about_mean, "limits_of_test_films": of_test, FREQUENCIES: frequencies}
    calibration = of_mean.lines if of_folds.lines else None
    return about, Fitted(of_folds.lines or None, calibration, thresholds, denied)


def _of_mean(
    frames: dict[int, pd.DataFrame], of_folds: Calibration, test: Dataset, store: Path
) -> tuple[Calibration, dict[str, Any], "_Predicted | None"]:
    """The calibration of the mean over calibrated folds, its description, and that mean, where it has ground truth."""
    usable = open_store(store).taken("not-films")
    each = [frame.set_index("study")[list(LABELS)] for frame in frames.values()]
    studies = [study for study in each[0].index if study in usable]
    if not studies:
        return Calibration({}), {"not_fitted": "no test film can be read as a chest film"}, None
    raw = np.stack([frame.loc[studies].to_numpy() for frame in each])
    calibrated = of_folds.apply(raw)
    fitted = fit_mean(calibrated)
    lines = {label: line for label, line in fitted.lines.items() if label in of_folds.lines}
    about = {
        "fitted_on": f"predictions of {len(each)} folds for {len(studies)} test films, without their labels",
        "left_alone": {**of_folds.alone, **fitted.alone},
    }
    calibration = Calibration(lines, fitted.alone)
    if not set(LABELS) <= set(test.studies):
        return calibration, about, None
    mean = _Predicted.of({0: as_predictions(studies, calibrated.mean(axis=0))}, test, usable)
    figures = before_and_after(mean.truth, raw.mean(axis=0), calibration.apply(mean.p))
    labelled = int((mean.truth != UNKNOWN).any(axis=1).sum())
    return calibration, about | {"judged_on": f"{labelled} test films", "figures": figures}, mean


def _limits(
    own: "_Predicted", of_folds: Calibration, mean: "_Predicted | None", of_mean: Calibration
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float], list[str]]:
    """Thresholds and limits of suppression, and which of both test films gave: where there are `ENOUGH`."""
    thresholds, denied = own.thresholds(of_folds), own.suppression(of_folds)
    of_test: list[str] = []
    if mean is not None:
        on_test, denied_on_test = mean.thresholds(of_mean), mean.suppression(of_mean)
        labels = [label for label in LABELS if mean.positives([label]) >= ENOUGH]
        devices = [device.name for device in Device if mean.positives(LABELS_OF[device]) >= ENOUGH]
        thresholds |= {label: on_test[label] for label in labels}
        denied |= {device: denied_on_test[device] for device in devices}
        of_test = [*labels, *devices]
    return thresholds, denied, of_test


@dataclass(frozen=True)
class _Predicted:
    """Predictions of films that the predictor never saw: (n, labels) `p` and `truth`; patients and parts, (n,)."""

    p: np.ndarray
    truth: np.ndarray
    patients: np.ndarray
    parts: np.ndarray

    @classmethod
    def of(cls, frames: dict[int, pd.DataFrame], dataset: Dataset, usable: set[str]) -> "_Predicted":
        """From predictions by fold, of usable films: a reader refuses the others."""
        frame = pd.concat([frame.assign(fold=fold) for fold, frame in frames.items()])
        frame = frame[frame["study"].isin(usable)]
        known = dataset.studies.set_index("study").loc[frame["study"]]
        patients = known["patient"].astype(str).to_numpy()
        fold = frame["fold"].to_numpy()
        parts = fold if len(frames) > 1 else np.unique(patients, return_inverse=True)[1] % PARTS
        truth = known[list(LABELS)].fillna(UNKNOWN).to_numpy(np.int64)  # a film whose row could not be used has none
        return cls(frame[list(LABELS)].to_numpy(), truth, patients, parts)

    def fit(self, what: str) -> tuple[Calibration, dict[str, Any]]:
        """The calibration of the predictor, and its description."""
        calibration, nested = fit_calibration(self.p, self.truth), len(np.unique(self.parts)) > 1
        return calibration, {
            "fitted_on": f"{len(self.p)} {what} of {len(np.unique(self.patients))} patients",
            "left_alone": dict(calibration.alone),
            "judged_on": "parts of these films that were not fitted on" if nested else None,
            "figures": calibration_figures(self.p, self.truth, self.parts, self.patients) if nested else None,
        }

    def thresholds(self, calibration: Calibration) -> dict[str, list[dict[str, Any]]]:
        """Label -> fields of its thresholds."""
        found = fit_thresholds(self.p, self.truth, self.parts, self.patients, calibration)
        return {label: [asdict(threshold) for threshold in each] for label, each in found.items()}

    def suppression(self, calibration: Calibration) -> dict[str, float]:
        """As `fit_suppression`."""
        return fit_suppression(calibration.apply(self.p), self.truth)

    def positives(self, labels: Iterable[str]) -> int:
        """Films that have any of the labels."""
        return int((self.truth[:, [LABEL_INDEX[label] for label in labels]] == 1).any(axis=1).sum())


def _by_fold(files: Files, averaging: Averaging) -> dict[int, pd.DataFrame]:
    """Fold -> the average over its members, as a bundle's engine averages."""
    frames = {}
    for fold in sorted({fold for by_fold in files.values() for fold in by_fold}):
        members = {name: read_predictions(by_fold[fold]) for name, by_fold in files.items() if fold in by_fold}
        names, studies, labels, values = stack(list(members.values()), list(members))
        frames[fold] = as_predictions(studies, averaging.apply(values, names, labels), labels)
    return frames
