"""The logistic fit: at the least of what it minimises, within its bounds, whatever the order of films."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from cxrlines.evaluation.logistic import fit_logistic


def films(count=400, slopes=(1.0, 0.5), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (count, len(slopes)))
    return x, rng.random(count) < expit(x @ slopes - 1)


@pytest.mark.parametrize("prior", [0.0, 3.0])
@pytest.mark.parametrize("slopes", [(1.0, 0.5), (1.0, -0.5), (-0.3, -0.5), (0.0, 0.2)])
def test_it_is_scipys_least_within_the_bounds(prior, slopes):
    x, positive = films(slopes=slopes)
    found = fit_logistic(x, positive, mode=0.7, prior=prior, spread=2.0)

    def objective(at):
        eta = at[0] + x @ at[1:]
        penalty = prior * (at[1:] / 0.7 - np.log(np.maximum(at[1:], 1e-300))).sum() if prior else 0.0
        return np.logaddexp(0, eta).sum() - eta[positive].sum() + penalty + (at[0] / 2) ** 2 / 2

    bounds = [(None, None), *[(1e-9 if prior else 0, None)] * 2]
    wanted = minimize(objective, [0.0, 0.7, 0.7], bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14})
    np.testing.assert_allclose([found.intercept, *found.slopes], wanted.x, atol=2e-4)
    assert objective(np.r_[found.intercept, found.slopes]) <= wanted.fun + 1e-9
    assert (found.slopes >= 0).all() and (not prior or (found.slopes > 0).all())
    eta = found.intercept + x @ found.slopes
    assert found.loss == pytest.approx(np.logaddexp(0, eta).sum() - eta[positive].sum())


def test_its_gradient_vanishes():
    x, positive = films()
    found = fit_logistic(x, positive, prior=3.0, spread=1.0)
    rest = expit(found.intercept + x @ found.slopes) - positive
    assert rest.sum() + found.intercept == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(x.T @ rest + 3 * (1 - 1 / found.slopes), 0, atol=1e-8)


def test_the_order_of_films_changes_no_bit():
    x, positive = films()
    order = np.random.default_rng(1).permutation(len(x))
    one, other = fit_logistic(x, positive), fit_logistic(x[order], positive[order])
    assert one.intercept == other.intercept and (one.slopes == other.slopes).all() and one.loss == other.loss


def test_separable_films_stay_finite():
    x = np.linspace(-1, 1, 40)[:, None]
    found = fit_logistic(x, x[:, 0] > 0)
    assert np.isfinite([found.intercept, *found.slopes]).all() and found.loss < 1e-3
