import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from cxrlines.metrics.auc import Ranking, auc, brier, macro_auc, roc_curve, why_undefined
from cxrlines.task import UNKNOWN

CASES = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40)


@settings(deadline=None)
@given(cases=CASES)
def test_auc_is_scikit_learns_with_ties(cases):
    truth, score = np.array([t for t, _ in cases], int), np.array([s / 6 for _, s in cases])
    if truth.min() == truth.max():
        assert auc(truth, score) is None
        assert why_undefined(truth) is not None
        return
    assert auc(truth, score) == pytest.approx(oracle.roc_auc_score(truth, score), abs=1e-12)
    assert auc(truth, -score) == pytest.approx(1 - auc(truth, score), abs=1e-12)
    false, true = roc_curve(truth, score)
    expected_false, expected_true, _ = oracle.roc_curve(truth, score)
    np.testing.assert_allclose(np.trapezoid(true, false), oracle.auc(expected_false, expected_true))
    assert {(f, t) for f, t in zip(false, true, strict=True)} <= set(zip(expected_false, expected_true, strict=True))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


@settings(deadline=None)
@given(cases=CASES, seed=st.integers(0, 5))
def test_films_of_unknown_truth_have_no_part_in_the_curve(cases, seed):
    rng = np.random.default_rng(seed)
    truth, score = np.array([t for t, _ in cases], float), np.array([s / 6 for _, s in cases])
    truth[rng.random(len(truth)) < 0.3] = rng.choice([UNKNOWN, np.nan])
    if why_undefined(truth):
        return
    false, true = roc_curve(truth, score)
    assert np.trapezoid(true, false) == pytest.approx(auc(truth, score), abs=1e-12)
    known = np.isin(truth, (0, 1))
    for got, expected in zip((false, true), roc_curve(truth[known], score[known]), strict=True):
        np.testing.assert_array_equal(got, expected)


@settings(deadline=None, max_examples=50)
@given(cases=CASES, seed=st.integers(0, 5))
def test_weights_mean_repeated_films(cases, seed):
    truth, score = np.array([t for t, _ in cases], int), np.array([s / 6 for _, s in cases])
    weights = np.random.default_rng(seed).integers(0, 4, (5, len(cases)))
    for row, value in zip(weights, Ranking(truth, score).weighted_aucs(weights), strict=True):
        repeated = auc(np.repeat(truth, row), np.repeat(score, row))
        assert np.isnan(value) if repeated is None else value == repeated


@settings(deadline=None, max_examples=50)
@given(cases=CASES, seed=st.integers(0, 5))
def test_weights_of_patients_are_scikit_learns_sample_weights(cases, seed):
    rng = np.random.default_rng(seed)
    truth, score = np.array([t for t, _ in cases], float), np.array([s / 6 for _, s in cases])
    truth[rng.random(len(truth)) < 0.2] = rng.choice([UNKNOWN, np.nan])
    patient = rng.integers(0, 5, len(truth))
    draws = rng.integers(0, 4, (5, 5))
    for row, value in zip(draws, Ranking(truth, score, patient).weighted_aucs(draws), strict=True):
        weight = row[patient]
        known = np.isin(truth, (0, 1)) & (weight > 0)
        if len(set(truth[known])) < 2:
            assert np.isnan(value)
        else:
            expected = oracle.roc_auc_score(truth[known], score[known], sample_weight=weight[known])
            assert value == pytest.approx(expected, abs=1e-12)


def test_weights_beyond_32_bits_are_exact():
    truth, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    weights = np.array([[1, 2, 3, 4], [3, 0, 1, 1]])
    found = Ranking(truth, score).weighted_aucs(weights * (1 << 24))
    assert found.tolist() == Ranking(truth, score).weighted_aucs(weights).tolist() == [18 / 24, 4 / 4]
    assert Ranking(truth, -score).weighted_aucs(weights << 24).tolist() == [6 / 24, 0.0]


def test_known_values():
    assert auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
    assert auc(np.array([1, 1]), np.array([0.1, 0.9])) is None
    assert auc(np.array([]), np.array([])) is None
    assert brier(np.array([0, 1]), np.array([0.0, 0.5])) == 0.125
    assert brier(np.array([]), np.array([])) is None


def test_brier_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, probability = rng.integers(0, 2, 100), rng.random(100)
    assert brier(truth, probability) == pytest.approx(oracle.brier_score_loss(truth, probability))


def test_reasons():
    assert why_undefined(np.zeros(3)) == "none of 3 films is positive"
    assert why_undefined(np.ones(2)) == "all 2 films are positive"
    assert why_undefined(np.array([])) == "no films"
    assert why_undefined(np.array([0, 1])) is None
    with pytest.raises(ValueError, match="no ROC curve: all 2 films are positive"):
        roc_curve(np.ones(2), np.array([0.1, 0.2]))


def test_macro_leaves_undefined_labels_out():
    truth = np.array([[0, 0], [1, 0], [1, 0]])
    score = np.array([[0.3, 0.1], [0.2, 0.2], [0.4, 0.3]])
    assert macro_auc(truth, score) == auc(truth[:, 0], score[:, 0]) == 0.5
    assert macro_auc(truth[:1], score[:1]) is None
