"""The calibration of a run's bundle, its thresholds, and the limits of its devices: what is fitted, and on what.

Each is fitted on predictions of the very predictor that it is applied to, of films that this predictor never saw. A
fold's models, averaged over members, are known by the films that the fold held out. The mean over folds saw every
training film; only test films show what it is, and they need labels for that.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.data.store import open_store
from cxrlines.data.tables import TEST_TABLE, Dataset, read_dataset
from cxrlines.errors import Error
from cxrlines.evaluation.calibrate import Calibration, calibration_figures, fit_calibration, fit_thresholds
from cxrlines.evaluation.ensemble import ensemble
from cxrlines.evaluation.evaluate import read_predictions
from cxrlines.inference.findings import fit_denied
from cxrlines.task import LABEL_INDEX, LABELS, LABELS_OF, Device

PARTS = 5
"""Of the films of one predictor, the patients in so many parts stand for folds in the figures of its calibration."""
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
    told: dict[str, Any] = {}
    own = known = None
    of_folds = of_mean = Calibration({})
    try:
        truth = read_dataset(data, "train")
        test = read_dataset(data, "test") if (data / TEST_TABLE).is_file() else None
    except (OSError, Error) as error:
        gone = {"not_fitted": f"the labels that the run was trained on cannot be read ({type(error).__name__})"}
        return {"folds": gone, "mean": gone}, {}
    if held_out is None:
        told["folds"] = {"not_fitted": LEAKED}
    else:
        own = _Predicted.of(_by_fold(held_out), truth, root / "store/train")
        of_folds, told["folds"] = own.fit("out-of-fold films")
    if tested is None:
        told["mean"] = {"not_fitted": LEAKED}
    elif test is None or not tested:
        told["mean"] = {"not_fitted": "there are no test films, and every training film was seen by some fold"}
    elif not set(LABELS) <= set(test.studies):
        told["mean"] = {"not_fitted": "the test films have no labels, and every training film was seen by some fold"}
    else:
        frames = _by_fold(tested).values()
        plain, known = (
            _Predicted.of({0: _mean(frames, each)}, test, root / "store/test") for each in (Calibration({}), of_folds)
        )
        of_mean, told["mean"] = known.fit("test films", plain.p)
    thresholds: dict[str, list[dict[str, Any]]] = {}
    denied: dict[str, float] = {}
    on_test = []
    for films, calibration in ((own, of_folds), (known, of_mean)):  # the later counts, if it has films enough
        if films is None:
            continue
        each, limits = films.thresholds(calibration), fit_denied(calibration.apply(films.p), films.positive)
        for label in LABELS:
            if label not in thresholds or films.positives((label,)) >= ENOUGH:
                thresholds[label] = each[label]
                on_test += [label] if films is known else []
        for device in Device:
            if device.name not in denied or films.positives(LABELS_OF[device]) >= ENOUGH:
                denied[device.name] = limits[device.name]
                on_test += [device.name] if films is known else []
    told["limits_of_test_films"] = on_test
    some = bool(of_folds.lines or of_mean.lines)
    return told, {
        "fold_calibration": of_folds.lines or None,
        "calibration": of_mean.lines if some else None,
        "thresholds": thresholds or None,
        "denied": denied or None,
    }


@dataclass(frozen=True)
class _Predicted:
    """What a predictor says of films that it never saw: (n, 11) `p` and truth; patients, and parts of them, (n,)."""

    p: np.ndarray
    positive: np.ndarray
    patients: np.ndarray
    parts: np.ndarray

    @classmethod
    def of(cls, frames: dict[int, pd.DataFrame], dataset: Dataset, store: Path) -> "_Predicted":
        """From predictions by fold; without films that a reader would refuse."""
        usable = open_store(store).taken("not-films")
        frame = pd.concat([frame.assign(fold=fold) for fold, frame in frames.items()])
        frame = frame[frame["study"].isin(usable)]
        known = dataset.studies.set_index("study").loc[frame["study"]]
        patients = known["patient"].astype(str).to_numpy()
        fold = frame["fold"].to_numpy()
        parts = fold if len(frames) > 1 else np.unique(patients, return_inverse=True)[1] % PARTS
        return cls(frame[list(LABELS)].to_numpy(), known[list(LABELS)].to_numpy(), patients, parts)

    def fit(self, what: str, plain: np.ndarray | None = None) -> tuple[Calibration, dict[str, Any]]:
        """The calibration of the predictor, and what to say of it; `plain` is its `p` before any."""
        calibration, judged = fit_calibration(self.p, self.positive), len(np.unique(self.parts)) > 1
        return calibration, {
            "fitted_on": f"{len(self.p)} {what} of {len(np.unique(self.patients))} patients",
            "left_alone": dict(calibration.alone),
            "judged_on": "parts of these films that were not fitted on" if judged else None,
            "figures": calibration_figures(self.p, self.positive, self.parts, self.patients, plain) if judged else None,
        }

    def thresholds(self, calibration: Calibration) -> dict[str, list[dict[str, Any]]]:
        """Label -> fields of its thresholds."""
        found = fit_thresholds(self.p, self.positive, self.parts, self.patients, calibration)
        return {label: [asdict(threshold) for threshold in wishes] for label, wishes in found.items()}

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


def _mean(frames: Iterable[pd.DataFrame], calibration: Calibration) -> pd.DataFrame:
    """The mean over folds of their calibrated predictions of the same films."""
    each = [frame.set_index("study")[list(LABELS)] for frame in frames]
    studies = each[0].index
    rows = np.mean([calibration.apply(frame.loc[studies].to_numpy()) for frame in each], axis=0)
    return pd.DataFrame(rows, columns=list(LABELS)).assign(study=studies.to_numpy())
