"""The calibration of a bundle's ensemble, on films that no model and no fit has seen."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlines.evaluation.calibrators import fit_calibration
from cxrlines.evaluation.predictions import as_predictions, write_predictions
from cxrlines.metrics.auc import brier
from cxrlines.metrics.calibration import Calibration, calibration_error
from cxrlines.reading.bundle_writing import Fitted
from cxrlines.recipe.run import bundle_calibration as module
from cxrlines.recipe.run.bundle_calibration import calibrated
from cxrlines.task import LABELS

FOLDS = 4
SURER, NOISE = 1.6, 1.0
"""How much too sure each fold's model is, and how far folds disagree, in log odds."""


def world(rng: np.random.Generator, films: int) -> tuple[np.ndarray, np.ndarray]:
    """What is true of films (n, 11), and what each fold's model would say of them unseen (folds, n, 11)."""
    odds = 2 * rng.standard_normal((films, 11)) - 1
    said = SURER * (odds + NOISE * rng.standard_normal((FOLDS, films, 11)))
    return (rng.random(odds.shape) < expit(odds)).astype(int), expit(said)


class Table(SimpleNamespace):
    """A data set and its store, of films that need not be there."""

    def __init__(self, split: str, truth: np.ndarray, labelled: bool = True) -> None:
        names = [f"{split}{k}" for k in range(len(truth))]
        studies = pd.DataFrame(truth if labelled else np.zeros((len(truth), 0)), columns=LABELS if labelled else [])
        super().__init__(studies=studies.assign(study=names, patient=[f"{split}-{k // 3}" for k in range(len(truth))]))
        self.taken = lambda gate: set(names)


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """`calibrated` of a run on made-up predictions."""

    def fit(train: int, test: int, labelled: bool = True, without: int = 0):
        rng = np.random.default_rng(0)
        (truth, said), (tested, test_said) = world(rng, train), world(rng, test)
        tables = {"train": Table("train", truth), "test": Table("test", tested, labelled)}
        tables["test"].studies = tables["test"].studies.astype({label: float for label in LABELS if labelled})
        tables["test"].studies.loc[: without - 1, [*LABELS] if labelled else []] = np.nan  # rows that cannot be used
        monkeypatch.setattr(module, "read_dataset", lambda data, split: tables[split])
        monkeypatch.setattr(module, "open_store", lambda folder: tables[folder.name])
        if test:
            (tmp_path / "sample_submission.csv").touch()
        held_out, predicted = {}, {}
        for fold in range(FOLDS):
            rows = np.flatnonzero(np.arange(train) // 3 % FOLDS == fold)
            held_out[fold], predicted[fold] = tmp_path / f"held{fold}.csv", tmp_path / f"test{fold}.csv"
            names = tables["train"].studies["study"].iloc[rows].tolist()
            write_predictions(as_predictions(names, said[fold, rows]), held_out[fold])
            write_predictions(
                as_predictions(tables["test"].studies["study"].tolist(), test_said[fold]), predicted[fold]
            )
        return calibrated(tmp_path, tmp_path, {"m": held_out}, {"m": predicted})

    return fit


def read(rows: np.ndarray, fitted: Fitted) -> np.ndarray:
    """The probabilities of a bundle with these numbers: each fold calibrated, then their mean."""
    if fitted.fold_calibration is not None:
        each = Calibration(fitted.fold_calibration)
        rows = np.stack([each.apply(row) for row in rows])
    return Calibration(fitted.calibration or {}).apply(rows.mean(axis=0))


def one_line(truth: np.ndarray, said: np.ndarray) -> Calibration:
    """As it was done before: one calibration, fitted on single folds, applied to their mean."""
    rows = np.arange(len(truth))
    return fit_calibration(said[rows % FOLDS, rows], truth)


def test_probabilities_of_the_ensemble_hold_on_films_that_nobody_saw(fitted):
    about, numbers = fitted(train=3000, test=1500)
    truth, said = world(np.random.default_rng(1), 40_000)
    before, after = said.mean(axis=0), read(said, numbers)
    single = one_line(*world(np.random.default_rng(2), 3000)).apply(before)
    errors = {name: calibration_error(truth, p) for name, p in (("none", before), ("single", single), ("now", after))}
    scores = {name: brier(truth, p) for name, p in (("none", before), ("single", single), ("now", after))}
    assert errors["now"] < 0.01 < 0.03 < errors["single"], "the mean of folds was not sure enough"
    assert scores["now"] < min(scores["single"], scores["none"])
    for k in range(len(LABELS)):
        assert calibration_error(truth[:, k], after[:, k]) < 0.03
    # How sure it is: of log odds x about x are right.
    slope, _ = fit_calibration(after, truth).lines[LABELS[0]]
    assert slope == pytest.approx(1, abs=0.12)
    # The figures it gives of itself are those of unseen films.
    figures = about["mean"]["figures"]["all"]["ece"]
    assert figures["before"] == pytest.approx(errors["none"], abs=0.015)
    assert figures["after"] == pytest.approx(errors["now"], abs=0.015)


def test_neither_labels_nor_many_test_films_are_needed(fitted):
    about, numbers = fitted(train=3000, test=150, labelled=False)
    assert "without their labels" in about["mean"]["fitted_on"] and about["limits_of_test_films"] == []
    truth, said = world(np.random.default_rng(1), 40_000)
    assert calibration_error(truth, read(said, numbers)) < 0.012


def test_test_films_without_a_usable_row_are_no_ground_truth(fitted):
    whole, part = fitted(train=300, test=60), fitted(train=300, test=60, without=7)
    assert whole[0]["mean"]["judged_on"] == "60 test films" and part[0]["mean"]["judged_on"] == "53 test films"
    assert part[1].calibration == whole[1].calibration, "it needs no labels"
    assert part[0]["mean"]["figures"] != whole[0]["mean"]["figures"]


def test_without_any_test_films_it_is_better_than_one_line_for_the_mean(fitted):
    about, numbers = fitted(train=3000, test=0)
    assert numbers.fold_calibration and numbers.calibration == {} and "no test films" in about["mean"]["not_fitted"]
    truth, said = world(np.random.default_rng(1), 40_000)
    single = one_line(*world(np.random.default_rng(2), 3000)).apply(said.mean(axis=0))
    after = read(said, numbers)
    assert calibration_error(truth, after) < 0.8 * calibration_error(truth, single)
    assert brier(truth, after) < brier(truth, single)


def test_thresholds_and_limits_hold_for_the_ensemble(fitted):
    about, numbers = fitted(train=3000, test=1500)
    assert set(LABELS) <= set(about["limits_of_test_films"])
    truth, said = world(np.random.default_rng(1), 40_000)
    after = read(said, numbers)
    for k, label in enumerate(LABELS):
        for threshold in numbers.thresholds[label]:
            called, positive = after[:, k] >= threshold["probability"], truth[:, k] == 1
            reached = positive[called].mean() if threshold["wanted"] == "precision" else called[positive].mean()
            assert reached == pytest.approx(threshold["at_least"], abs=0.06)
