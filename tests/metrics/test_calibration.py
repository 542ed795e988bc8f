import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from torchmetrics.functional.classification import binary_calibration_error

from cxrlines.metrics.calibration import Calibration, calibration_error, reliability


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_error_is_torchmetrics(bins):
    rng = np.random.default_rng(bins)
    probability = rng.beta(0.4, 0.8, 2000)
    truth = (rng.random(2000) < probability**1.5).astype(int)
    expected = binary_calibration_error(torch.from_numpy(probability), torch.from_numpy(truth), n_bins=bins)
    assert calibration_error(truth, probability, bins) == pytest.approx(float(expected), abs=1e-6)


def test_known_values():
    assert calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0
    assert calibration_error(np.array([1, 0]), np.array([0.0, 1.0])) == 1
    assert calibration_error(np.array([0, 1, 1, 1]), np.full(4, 0.6)) == pytest.approx(0.15)
    assert calibration_error(np.array([]), np.array([])) is None


def test_several_labels_are_pooled():
    rng = np.random.default_rng(0)
    truth, probability = rng.integers(0, 2, (50, 3)), rng.random((50, 3))
    assert calibration_error(truth, probability) == calibration_error(truth.ravel(), probability.ravel())


def test_reliability_counts_every_film_once():
    rng = np.random.default_rng(0)
    probability = np.r_[rng.random(500), 0.0, 1.0]
    truth = rng.integers(0, 2, 502)
    curve = reliability(truth, probability, 10)
    assert curve.count.sum() == 502
    assert np.dot(curve.count, curve.predicted) == pytest.approx(probability.sum())
    assert np.dot(curve.count, curve.observed) == pytest.approx(truth.sum())
    assert (np.diff(curve.predicted) > 0).all()


@pytest.mark.parametrize("bad", [1.2, -0.1, np.nan])
def test_scores_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(ValueError, match="probabilities from 0 to 1"):
        reliability(np.array([0, 1]), np.array([0.5, bad]))


def test_calibrated_probabilities_are_those_of_scipys_logit_and_expit() -> None:
    rng = np.random.default_rng(0)
    p = np.concatenate(
        [rng.random((500, 2)), 10.0 ** -rng.uniform(0, 300, (200, 2)), 1 - 10.0 ** -rng.uniform(0, 16, (99, 2))]
    )
    p = np.concatenate([p, [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]])
    lines = {"a": (1.7, -0.4), "b": (0.2, 30.0), "c": (1.0, 1.0)}
    got = Calibration(lines).apply(p, ("a", "b"))
    for k, (slope, offset) in enumerate([lines["a"], lines["b"]]):
        np.testing.assert_allclose(got[:, k], expit(slope * logit(p[:, k]) + offset), rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(Calibration({"c": (2.0, 0.0)}).apply(p, ("a", "b")), p)
    with pytest.raises(ValueError, match="2 labels"):
        Calibration({}).apply(p[:, :1], ("a", "b"))
