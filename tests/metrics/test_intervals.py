import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrlines.metrics.intervals import macro_of, patient_weights, percentile_interval, resampled_aucs


def films(
    n: int = 120, patients: int = 25, labels: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < [0.02, 0.3, 0.6][:labels]).astype(int)
    truth[0] = 1
    return truth, np.round(0.3 * truth + 0.7 * rng.random(truth.shape), 1), rng.integers(0, patients, n)


def test_equals_scikit_learn_on_the_same_resamples():
    truth, scores, patients = films()
    aucs = resampled_aucs(truth, scores, patients, resamples=60, seed=4)
    weights = np.concatenate(list(patient_weights(patients, 60, 4)))
    undefined = 0
    for weight, row in zip(weights, aucs, strict=True):
        rows = np.repeat(np.arange(len(truth)), weight)
        for k, value in enumerate(row):
            drawn = truth[rows, k]
            if drawn.min() == drawn.max():
                assert np.isnan(value)
                undefined += 1
            else:
                assert value == pytest.approx(roc_auc_score(drawn, scores[rows, k]), abs=1e-12)
    assert undefined > 0  # the rare label is missing from some resamples, as the test intends
    expected = [np.mean([v for v in row if not np.isnan(v)]) for row in aucs]
    np.testing.assert_allclose(macro_of(aucs), expected)


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    _, _, patients = films()
    for weight in np.concatenate(list(patient_weights(patients, 20, 0))):
        of_patient = {p: set(weight[patients == p]) for p in set(patients)}
        assert all(len(times) == 1 for times in of_patient.values())
        assert sum(times.pop() for times in of_patient.values()) == len(of_patient)


def test_order_of_films_and_blocks_do_not_matter(monkeypatch):
    truth, scores, patients = films()
    aucs = resampled_aucs(truth, scores, patients, resamples=30, seed=1)
    rows = np.random.default_rng(9).permutation(len(truth))
    np.testing.assert_array_equal(aucs, resampled_aucs(truth[rows], scores[rows], patients[rows], resamples=30, seed=1))
    monkeypatch.setattr("cxrlines.metrics.intervals._CELLS", 7 * len(truth))
    np.testing.assert_array_equal(aucs, resampled_aucs(truth, scores, patients, resamples=30, seed=1))
    assert not np.array_equal(aucs, resampled_aucs(truth, scores, patients, resamples=30, seed=2), equal_nan=True)


def test_drawing_patients_widens_the_interval_of_alike_films():
    """Ten copies of a film say no more than one: the interval must not shrink with them."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (60, 1))
    scores = 0.3 * truth + rng.random(truth.shape)
    patients = np.arange(60)
    alone = percentile_interval(resampled_aucs(truth, scores, patients, resamples=400)[:, 0])
    copied = [np.repeat(values, 10, axis=0) for values in (truth, scores, patients)]
    assert percentile_interval(resampled_aucs(*copied, resamples=400)[:, 0]) == pytest.approx(alone)
    naive = percentile_interval(resampled_aucs(*copied[:2], np.arange(600), resamples=400)[:, 0])
    assert naive[1] - naive[0] < 0.5 * (alone[1] - alone[0])


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    exact = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    covered = 0
    for seed in range(60):
        truth = rng.integers(0, 2, (150, 1))
        scores = truth + rng.normal(size=truth.shape)
        low, high = percentile_interval(resampled_aucs(truth, scores, np.arange(150), resamples=200, seed=seed)[:, 0])
        covered += low <= exact <= high
    assert 51 <= covered <= 60


def test_percentiles_and_none():
    assert percentile_interval(np.arange(201.0)) == pytest.approx((5, 195))
    assert percentile_interval(np.array([np.nan, np.nan])) is None
    assert np.isnan(macro_of(np.array([[np.nan, np.nan]]))).all()
    with pytest.raises(ValueError, match="resamples is 0; at least 1"):
        list(patient_weights(np.array(["a"]), 0, 0))


@pytest.mark.long
def test_thousand_resamples_of_real_size_take_seconds():
    rng = np.random.default_rng(0)
    truth = (rng.random((6000, 11)) < 0.2).astype(int)
    started = time.perf_counter()
    resampled_aucs(truth, rng.random(truth.shape), rng.integers(0, 650, 6000), resamples=1000)
    assert time.perf_counter() - started < 30  # about 2 s on a free core


def test_one_patient_is_not_resampled():
    """Each draw would be the same: an interval of no width, as if the figure were certain."""
    (weights,) = patient_weights(np.array(["a"] * 4), 50, 0)
    assert weights.shape == (0, 4)
    truth, scores = np.array([[0], [1], [1], [0]]), np.array([[0.1], [0.9], [0.2], [0.3]])
    drawn = resampled_aucs(truth, scores, np.array(["a"] * 4), resamples=50)
    assert drawn.shape == (0, 1) and percentile_interval(drawn[:, 0]) is None
    assert percentile_interval(macro_of(drawn)) is None
    assert resampled_aucs(truth, scores, np.array(list("aabb")), resamples=50).shape == (50, 1)
