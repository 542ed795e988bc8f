"""The calibration of a run's bundle, its thresholds, and the limits of its devices: what is fitted, and on what.

Each is fitted on predictions of the very predictor that it is applied to, of films that this predictor never saw. A
fold's models, averaged over members, are known by the films that the fold held out. Every training film was seen by
some fold; the mean over folds is known by the test films, of which no label is needed (`fit_mean`).
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
from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.predictions import as_predictions, read_predictions
from cxrlines.io.store import open_store
from cxrlines.io.tables import TEST_TABLE, Dataset, read_dataset
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.findings import fit_suppression
from cxrlines.task import LABEL_INDEX, LABELS, LABELS_OF, Device

PARTS = 5
"""Of films of one predictor, the patients in so many parts stand for folds in nested figures."""
ENOUGH = 20
"""Positive test films of a label, or with a device, from which its limits are picked; of fewer, out-of-fold films
serve, although they are of single folds."""
LEAKED = "steps leaked, so that their predictions look better than they are"

Files = dict[str, dict[int, Path]]
"""Member -> fold -> file of predictions."""


def calibrated(
    root: Path, data: Path, held_out: Files | None, tested: Files | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to say of it, and `fold_calibration`, `calibration`, `thresholds` and `denied` of the bundle.

    Args:
        root: the run's folder, for its stores. data: the films' folder, for the truth.
        held_out: predictions of the films that each fold held out. None: a step saw some of them.
        tested: predictions of the test films by each fold, empty where there are none. None likewise.
    """
    try:
        truth = read_dataset(data, "train")
        test = read_dataset(data, "test") if (data / TEST_TABLE).is_file() else None
    except (OSError, Error) as error:
        gone = {"not_fitted": f"the labels that the run was trained on cannot be read ({type(error).__name__})"}
        return {"folds": gone, "mean": gone}, {}
    if held_out is None:
        return {"folds": {"not_fitted": LEAKED}, "mean": {"not_fitted": "its folds are not calibrated"}}, {}
    own = _Predicted.of(_by_fold(held_out), truth, open_store(root / "store/train").taken("not-films"))
    of_folds, told = own.fit("out-of-fold films")
    of_mean, told_mean, known = Calibration({}), {}, None
    if tested is None:
        told_mean["not_fitted"] = LEAKED
    elif test is None or not tested:
        told_mean["not_fitted"] = "there are no test films, and every training film was seen by some fold"
    else:
        of_mean, told_mean, known = _of_mean(_by_fold(tested), of_folds, test, root / "store/test")
    limits, of_test = _limits(own, of_folds, known, of_mean)
    return {"folds": told, "mean": told_mean, "limits_of_test_films": of_test}, {
        "fold_calibration": of_folds.lines or None,
        "calibration": of_mean.lines if of_folds.lines else None,
        **limits,
    }


def _of_mean(
    frames: dict[int, pd.DataFrame], of_folds: Calibration, test: Dataset, store: Path
) -> tuple[Calibration, dict[str, Any], "_Predicted | None"]:
    """The calibration of the mean over calibrated folds, what to say of it, and that mean, where it has a truth."""
    usable = open_store(store).taken("not-films")
    each = [frame.set_index("study")[list(LABELS)] for frame in frames.values()]
    studies = [study for study in each[0].index if study in usable]
    if not studies:
        return Calibration({}), {"not_fitted": "no test film can be read as a chest film"}, None
    plain = np.stack([frame.loc[studies].to_numpy() for frame in each])
    calibrated = of_folds.apply(plain)
    found = fit_mean(calibrated)
    found = Calibration({label: line for label, line in found.lines.items() if label in of_folds.lines}, found.alone)
    told = {
        "fitted_on": f"what {len(each)} folds say of {len(studies)} test films, without their labels",
        "left_alone": {**of_folds.alone, **found.alone},
    }
    if not set(LABELS) <= set(test.studies):
        return found, told, None
    known = _Predicted.of({0: as_predictions(studies, calibrated.mean(axis=0))}, test, usable)
    figures = before_and_after(known.positive, plain.mean(axis=0), found.apply(known.p))
    return found, told | {"judged_on": f"{len(studies)} test films", "figures": figures}, known


def _limits(
    own: "_Predicted", of_folds: Calibration, known: "_Predicted | None", of_mean: Calibration
) -> tuple[dict[str, Any], list[str]]:
    """`thresholds` and `denied`, and those that test films gave: where there are `ENOUGH`."""
    thresholds, denied, of_test = own.thresholds(of_folds), own.denied(of_folds), []
    if known is not None:
        on_test, denied_on_test = known.thresholds(of_mean), known.denied(of_mean)
        for label in LABELS:
            if known.positives((label,)) >= ENOUGH:
                thresholds[label] = on_test[label]
                of_test.append(label)
        for device in Device:
            if known.positives(LABELS_OF[device]) >= ENOUGH:
                denied[device.name] = denied_on_test[device.name]
                of_test.append(device.name)
    return {"thresholds": thresholds, "denied": denied}, of_test


@dataclass(frozen=True)
class _Predicted:
    """What a predictor says of films that it never saw: (n, 11) `p` and truth; patients, and parts of them, (n,)."""

    p: np.ndarray
    positive: np.ndarray
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
        return cls(frame[list(LABELS)].to_numpy(), known[list(LABELS)].to_numpy(), patients, parts)

    def fit(self, what: str) -> tuple[Calibration, dict[str, Any]]:
        """The calibration of the predictor, and what to say of it."""
        calibration, judged = fit_calibration(self.p, self.positive), len(np.unique(self.parts)) > 1
        return calibration, {
            "fitted_on": f"{len(self.p)} {what} of {len(np.unique(self.patients))} patients",
            "left_alone": dict(calibration.alone),
            "judged_on": "parts of these films that were not fitted on" if judged else None,
            "figures": calibration_figures(self.p, self.positive, self.parts, self.patients) if judged else None,
        }

    def thresholds(self, calibration: Calibration) -> dict[str, list[dict[str, Any]]]:
        """Label -> fields of its thresholds."""
        found = fit_thresholds(self.p, self.positive, self.parts, self.patients, calibration)
        return {label: [asdict(threshold) for threshold in wishes] for label, wishes in found.items()}

    def denied(self, calibration: Calibration) -> dict[str, float]:
        """As `fit_suppression`."""
        return fit_suppression(calibration.apply(self.p), self.positive)

    def positives(self, labels: Iterable[str]) -> int:
        """Films that any of the labels holds for."""
        return int(self.positive[:, [LABEL_INDEX[label] for label in labels]].any(axis=1).sum())


def _by_fold(files: Files) -> dict[int, pd.DataFrame]:
    """Fold -> the mean over members, as `forward.averaged` takes it."""
    folds = sorted({fold for by_fold in files.values() for fold in by_fold})
    return {
        fold: ensemble([read_predictions(by_fold[fold]) for by_fold in files.values() if fold in by_fold], "mean")
        for fold in folds
    }
