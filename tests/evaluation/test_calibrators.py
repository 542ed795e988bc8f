"""Calibration and thresholds: against scikit-learn, monotone, near the identity where little is known, and nested."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from cxrlines.evaluation.calibrators import (
    calibration_figures,
    cross_fitted_calibration,
    fit_calibration,
    fit_mean,
    fit_thresholds,
)
from cxrlines.evaluation.logistic import fit_logistic, log_odds
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.metrics.auc import auc
from cxrlines.metrics.calibration import Calibration, calibration_error
from cxrlines.task import LABELS, UNKNOWN

N = len(LABELS)


def spoilt(films=4000, slope=0.5, offset=-1.0, seed=0):
    """Probabilities that become right by `slope` and `offset`, truth, folds and patients of two films each."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 1.5, (films, N))
    truth = (rng.random(odds.shape) < expit(odds)).astype(int)
    patients = np.arange(films) // 2
    return expit((odds - offset) / slope), truth, patients % 4, patients


def test_the_spoilt_is_found_and_set_right():
    p, truth, _, _ = spoilt(40_000)
    found = fit_calibration(p, truth)
    assert list(found.lines) == list(LABELS) and not found.alone
    for slope, offset in found.lines.values():
        assert slope == pytest.approx(0.5, abs=0.03) and offset == pytest.approx(-1, abs=0.08)


@pytest.mark.parametrize("films", [300, 4000])
def test_without_its_prior_a_line_is_the_logistic_regression_of_scikit_learn(films):
    p, truth, _, _ = spoilt(films, slope=0.8, seed=1)
    for k in (0, 5):
        x = log_odds(p[:, k])[:, None]
        wanted = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(x, truth[:, k])
        fit = fit_logistic(x, truth[:, k] == 1)
        got = fit.slopes[0], fit.intercept
        assert got == pytest.approx((wanted.coef_[0, 0], wanted.intercept_[0]), rel=1e-3)
        with_prior = fit_calibration(p, truth).lines[LABELS[k]]
        assert with_prior == pytest.approx(got, abs=3 / np.sqrt(films))


def test_few_positive_films_move_a_label_little_and_many_as_far_as_they_say():
    p = np.full((400, N), 0.01)
    truth = np.zeros((400, N), int)
    truth[:2, 0] = 1
    truth[:200, 1] = 1
    got = fit_calibration(p, truth).apply(p)[0]
    unheld = fit_logistic(log_odds(p[:, :1]), truth[:, 0] == 1)
    assert expit(unheld.slopes[0] * logit(0.01) + unheld.intercept) == pytest.approx(2 / 400, rel=0.01)
    assert 2 / 400 < got[0] < 0.01 and got[1] == pytest.approx(0.5, abs=0.05)


def test_a_label_of_one_class_is_left_alone_and_said():
    p, truth, _, _ = spoilt(500)
    truth[:, 3], truth[:, 7] = 0, 1
    found = fit_calibration(p, truth)
    assert found.alone == {
        LABELS[3]: "none of 500 films is positive: its probabilities are left as they are",
        LABELS[7]: "all 500 films are positive: its probabilities are left as they are",
    }
    np.testing.assert_array_equal(found.apply(p)[:, [3, 7]], p[:, [3, 7]])
    assert set(found.lines) == set(LABELS) - set(found.alone)


def test_the_order_of_films_within_a_label_stays_even_of_a_label_that_ranks_backwards():
    p, truth, _, _ = spoilt(1000)
    truth[:, 0] = 1 - (p[:, 0] > np.median(p[:, 0]))
    p[0], p[1] = 0, 1
    before = p.copy()
    after = fit_calibration(p, truth).apply(p)
    np.testing.assert_array_equal(p, before)
    assert after.min() == 0 and after.max() == 1 and not np.allclose(after, p, atol=0.05)
    for k in range(N):
        order = np.argsort(p[:, k], kind="stable")
        assert (np.diff(after[order, k]) >= 0).all()
        assert auc(truth[:, k], after[:, k]) == auc(truth[:, k], p[:, k])


def test_the_order_in_which_films_come_changes_no_bit():
    p, truth, folds, patients = spoilt(800)
    mixed = np.random.default_rng(5).permutation(800)
    assert fit_calibration(p, truth) == fit_calibration(p[mixed], truth[mixed])
    one = cross_fitted_calibration(p, truth, folds, patients)
    np.testing.assert_array_equal(
        cross_fitted_calibration(p[mixed], truth[mixed], folds[mixed], patients[mixed]), one[mixed]
    )
    found = fit_calibration(p, truth)
    assert fit_thresholds(p, truth, folds, patients, found) == fit_thresholds(
        p[mixed], truth[mixed], folds[mixed], patients[mixed], found
    )


def test_cross_fitting_never_sees_its_own_fold_nor_its_patients_elsewhere():
    p, truth, folds, patients = spoilt(800)
    folds[:40:2] = (folds[:40:2] + 1) % 4  # patients with films in two folds
    one = cross_fitted_calibration(p, truth, folds, patients)
    inside = folds == 2
    hidden = np.isin(patients, patients[inside])
    assert hidden.sum() > inside.sum()
    changed = truth.copy()
    changed[hidden] = 1 - changed[hidden]
    np.testing.assert_array_equal(cross_fitted_calibration(p, changed, folds, patients)[inside], one[inside])
    seen = truth.copy()
    seen[~hidden] = 1 - seen[~hidden]
    assert not np.allclose(cross_fitted_calibration(p, seen, folds, patients)[inside], one[inside], atol=0.05)
    assert not np.array_equal(one, fit_calibration(p, truth).apply(p))


def test_the_figures_get_better_where_there_was_something_to_set_right_and_only_there():
    p, truth, folds, patients = spoilt()
    got = calibration_figures(p, truth, folds, patients)
    assert list(got) == ["all", *LABELS]
    assert all(row[f]["after"] < row[f]["before"] for row in got.values() for f in ("brier", "ece"))
    assert got["all"]["brier"]["before"] == pytest.approx(((p - truth) ** 2).mean())
    p, truth, folds, patients = spoilt(slope=1, offset=0)
    got = calibration_figures(p, truth, folds, patients)["all"]
    assert got["brier"]["after"] == pytest.approx(got["brier"]["before"], abs=2e-4)


def test_thresholds_are_the_outermost_that_reach_what_is_wanted():
    p, truth, folds, patients = spoilt(600)
    found = fit_calibration(p, truth)
    after = found.apply(p)
    wanted = (("sensitivity", 0.9), ("precision", 0.6), ("sensitivity", 1.0))
    for k, label in enumerate(LABELS):
        sensitive, precise, every = fit_thresholds(p, truth, folds, patients, found, wanted)[label]
        positive = truth[:, k] == 1

        def shares(at, k=k, positive=positive):
            called = after[:, k] >= at
            return (called & positive).sum() / positive.sum(), (called & positive).sum() / max(called.sum(), 1)

        assert shares(sensitive.probability)[0] >= 0.9 and shares(precise.probability)[1] >= 0.6
        assert shares(every.probability)[0] == 1
        for at in np.unique(after[:, k]):  # by trying each: no better one
            assert at <= sensitive.probability or shares(at)[0] < 0.9 or shares(at) == shares(sensitive.probability)
            assert at >= precise.probability or shares(at)[1] < 0.6
        assert sensitive.positives == positive.sum() and (sensitive.wanted, sensitive.at_least) == wanted[0]
        assert sensitive.sensitivity == pytest.approx(0.9, abs=0.12) and 0 < sensitive.precision < 1


def test_figures_of_thresholds_are_of_folds_they_were_not_chosen_on():
    """A label whose scores of one fold lie above all others: the threshold of the others calls that whole fold."""
    folds = patients = np.arange(40)
    folds = folds % 2
    p, truth = np.full((40, N), 0.2), np.zeros((40, N), int)
    p[folds == 1, 0] = 0.8
    p[:, 0] += np.linspace(0, 0.1, 40)
    truth[-10:, 0] = 1  # the highest of each fold
    (got, *_) = fit_thresholds(p, truth, folds, patients, Calibration({}), [("sensitivity", 1.0)])[LABELS[0]]
    assert got.sensitivity == 0.5, "none of the lower fold is called"
    assert got.specificity == 0.5, "all of the higher fold are called"
    assert got.precision == 5 / 20
    assert got.probability == pytest.approx(p[[28, 30], 0].mean())


def test_a_fold_for_which_the_others_give_no_threshold_is_left_out_of_the_rates():
    """Both positive films of a rare label lie in fold 0: nothing can be chosen for it."""
    folds = patients = np.arange(40)
    folds = folds % 2
    p, truth = np.full((40, N), 0.2), np.zeros((40, N), int)
    p[[36, 38], 0], p[[37, 39], 0] = 0.5, 0.6
    truth[[36, 38], 0] = 1
    reached, missed = fit_thresholds(
        p, truth, folds, patients, Calibration({}), [("sensitivity", 1.0), ("precision", 0.9)]
    )[LABELS[0]]
    assert reached.probability is not None and missed.probability is None
    assert reached.sensitivity is None, "no positive film of fold 1"
    assert reached.specificity == 18 / 20 and reached.precision == 0, "films 37 and 39 of fold 1 are called, wrongly"
    assert (missed.sensitivity, missed.specificity, missed.precision) == (None, None, None)


def test_what_cannot_be_reached_is_none():
    p, truth, folds, patients = spoilt(200)
    truth[:, 0] = 0
    truth[:, 1] = 0
    truth[p[:, 1].argmin(), 1] = 1
    found = fit_calibration(p, truth)
    got = fit_thresholds(p, truth, folds, patients, found)
    assert {(t.probability, t.sensitivity, t.precision, t.positives) for t in got[LABELS[0]]} == {(None, None, None, 0)}
    assert [t.probability is None for t in got[LABELS[1]]] == [False, False, True, True]
    unreachable = [t for each in got.values() for t in each if t.probability is None]
    assert {(t.sensitivity, t.specificity, t.precision) for t in unreachable} == {(None, None, None)}
    alone = fit_thresholds(p, truth, np.zeros(200), patients, found)[LABELS[5]]
    assert all(t.probability is not None and t.sensitivity is t.specificity is t.precision is None for t in alone)


def folds_that_disagree(films: int, noise: float, seed: int = 0, folds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(folds, n, 11) probabilities that are right for each fold by itself, and the truth.

    Log odds of a truth drawn from Gaussians of one variance are linear in what is measured, with noise or without.
    """
    rng = np.random.default_rng(seed)
    truth = (rng.random((films, N)) < 0.3).astype(int)
    shown = truth + 0.8 * rng.standard_normal((films, N)) + noise * rng.standard_normal((folds, films, N))
    return expit((shown - 0.5) / (0.8**2 + noise**2) + logit(0.3)), truth


class TestMean:
    """The mean over calibrated folds, which is not sure enough, set right without a label."""

    @pytest.mark.parametrize("noise", [0.3, 0.8, 1.5])
    def test_it_is_what_labels_would_give(self, noise):
        each, truth = folds_that_disagree(60_000, noise)
        mean = each.mean(axis=0)
        found, wanted = fit_mean(each), fit_calibration(mean, truth)
        for label in LABELS:
            slope, offset = found.lines[label]
            assert (slope, offset) == pytest.approx(wanted.lines[label], abs=0.07 * wanted.lines[label][0])
            assert slope > 1
        after = found.apply(mean)
        assert calibration_error(truth, after) < 0.006
        assert noise < 0.5 or calibration_error(truth, after) < 0.3 * calibration_error(truth, mean)

    def test_folds_that_agree_are_left_as_they_are(self):
        each = np.repeat(folds_that_disagree(300, 1.0)[0][:1], 3, axis=0)
        for found in (fit_mean(each), fit_mean(each[:1])):
            assert all(line == pytest.approx((1, 0), abs=1e-6) for line in found.lines.values())

    def test_few_films_are_enough(self):
        each, truth = folds_that_disagree(40_000, 0.8)
        after = fit_mean(each[:, :150]).apply(each.mean(axis=0))
        assert calibration_error(truth, after) < 0.012 < calibration_error(truth, each.mean(axis=0)) / 3

    def test_neither_the_order_of_films_nor_of_folds_matters_and_certain_folds_are_finite(self):
        each, _ = folds_that_disagree(200, 1.0)
        each[0, :5], each[1, :5] = 0.0, 1.0
        found, turned = fit_mean(each), fit_mean(each[::-1, ::-1])
        for label in LABELS:
            assert found.lines[label] == pytest.approx(turned.lines[label], abs=1e-6)
            assert np.isfinite(found.lines[label]).all()


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda p, y, f: fit_calibration(p[:, :4], y), ["(6, 4)", str(N)]),
        (lambda p, y, f: fit_calibration(p + 1, y), ["1.5", LABELS[0], str(6 * N)]),
        (lambda p, y, f: fit_calibration(p, y[:3]), [f"(3, {N})", f"(6, {N})"]),
        (lambda p, y, f: fit_calibration(p, y + 0.5), ["0, 1 or -1"]),
        (lambda p, y, f: cross_fitted_calibration(p, y, f[:2], f), ["(2,)", "(6,)"]),
        (lambda p, y, f: cross_fitted_calibration(p, y, 0 * f, f), ["6 films", "one fold"]),
        (lambda p, y, f: fit_mean(p), [f"(6, {N})"]),
        (lambda p, y, f: fit_mean(p[None, :0]), [f"(1, 0, {N})"]),
        (lambda p, y, f: fit_thresholds(p, y, f, f, Calibration({}), [("precision", 90)]), ["precision 90"]),
    ],
)
def test_what_is_wrong_is_said(call, facts):
    with pytest.raises(ValueError) as error:
        call(np.full((6, N), 0.5), np.eye(6, N, dtype=int), np.arange(6))
    assert all(fact in str(error.value) for fact in facts)


def test_films_of_unknown_truth_are_left_out_label_by_label():
    p, truth, folds, patients = spoilt(600)
    truth[300:, 0] = UNKNOWN
    truth[:, 1] = UNKNOWN
    found, known = fit_calibration(p, truth), fit_calibration(p[:300], truth[:300])
    assert found.lines[LABELS[0]] == known.lines[LABELS[0]] and found.alone[LABELS[1]].startswith("no known truth")
    figures, some = calibration_figures(p, truth, folds, patients), slice(300)
    assert figures[LABELS[0]] == calibration_figures(p[some], truth[some], folds[some], patients[some])[LABELS[0]]
    assert figures[LABELS[1]]["brier"] == {"before": None, "after": None}
    found, known = (
        fit_thresholds(p[rows], truth[rows], folds[rows], patients[rows], Calibration({}))
        for rows in (slice(600), some)
    )
    assert found[LABELS[0]] == known[LABELS[0]]
    assert all(threshold.probability is None and threshold.positives == 0 for threshold in found[LABELS[1]])


def test_real_predictions_are_set_right(ranzcr):
    table = pd.read_csv(ranzcr / "train.csv").set_index("StudyInstanceUID")
    frame = read_predictions(ranzcr / "predictions_fold0.csv")
    p, known = frame[list(LABELS)].to_numpy(), table.loc[frame["study"]]
    patients = known["PatientID"].to_numpy()
    folds = np.unique(patients, return_inverse=True)[1] % 5
    got = calibration_figures(p, known[list(LABELS)].to_numpy(), folds, patients)["all"]
    assert got["ece"]["after"] < 0.6 * got["ece"]["before"] and got["brier"]["after"] < got["brier"]["before"]
