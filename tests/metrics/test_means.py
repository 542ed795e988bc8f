"""Averages of members' probabilities, and ranks read off quantiles, against scipy's ranks."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import gmean, rankdata

from cxrlines.metrics.means import GRID, blended, plain_mean, power_mean, quantiles_of, rank_among, weighted_mean


def values(seed: int = 0) -> np.ndarray:
    return expit(3 * np.random.default_rng(seed).standard_normal((3, 40, 2)) - 2)


def test_weights_that_are_equal_give_the_plain_means():
    p, equal = values(), np.full((3, 2), 1 / 3)
    np.testing.assert_allclose(weighted_mean(p, equal), plain_mean(p), rtol=1e-12)
    np.testing.assert_allclose(blended(p, equal), expit(logit(p).mean(axis=0)), rtol=1e-9)


def test_weights_count_by_label():
    p, weights = values(), np.array([[0.7, 0.0], [0.2, 1.0], [0.1, 0.0]])
    wanted = np.stack([np.average(p[:, :, k], axis=0, weights=weights[:, k]) for k in range(2)], axis=1)
    np.testing.assert_allclose(weighted_mean(p, weights), wanted, rtol=1e-12)
    np.testing.assert_allclose(blended(p, weights)[:, 1], p[1, :, 1], rtol=1e-9)
    assert weighted_mean(np.ones((3, 1, 1)), np.full((3, 1), 1 / 3 + 1e-16)).max() <= 1


def test_the_power_mean_goes_from_the_geometric_one_to_the_highest():
    p = values()
    np.testing.assert_allclose(power_mean(p, 1), p.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(power_mean(p, 1e-4), gmean(p, axis=0), rtol=1e-3)
    assert power_mean(np.zeros((2, 1, 1)), 0.5) == 0


@pytest.mark.parametrize("films", [1, 5, 257, 3000])
def test_ranks_among_quantiles_are_the_ranks_among_the_films(films):
    p = np.random.default_rng(films).beta(0.2, 5, films)
    wanted = (rankdata(p) - 1) / max(films - 1, 1) if films > 1 else np.array([0.5])
    found = rank_among(quantiles_of(p), p)
    np.testing.assert_allclose(found, wanted, atol=1 / (GRID - 1))
    assert (np.diff(found[np.argsort(p)]) >= 0).all(), "the order stays"
    assert rank_among(quantiles_of(p), np.array([-1.0, 2.0])).tolist() == ([0.0, 1.0] if films > 1 else [0.5, 0.5])


def test_films_of_one_probability_share_their_middle_rank():
    p = np.r_[np.full(600, 0.1), np.linspace(0.2, 0.9, 400)]
    wanted = (rankdata(p) - 1) / (len(p) - 1)
    np.testing.assert_allclose(rank_among(quantiles_of(p), p), wanted, atol=2 / (GRID - 1))
