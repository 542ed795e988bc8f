"""How a bundle averages its members: what its manifest may say, and what comes of it."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.predictions import as_predictions
from cxrlines.metrics.means import quantiles_of
from cxrlines.reading.averaging import Averaging
from cxrlines.task import LABELS

TWO = LABELS[:2]
P = np.array([[[0.2, 0.4]], [[0.6, 0.8]]])


def test_weights_are_those_of_the_members_that_are_there():
    averaging = Averaging(how="weighted", weights={"a": {TWO[0]: 0.75, TWO[1]: 1}, "b": {TWO[0]: 0.25, TWO[1]: 0}})
    np.testing.assert_allclose(averaging.apply(P, ["a", "b"], TWO), [[0.3, 0.4]])
    np.testing.assert_allclose(averaging.apply(P[[1, 0]], ["b", "a"], TWO), [[0.3, 0.4]])
    np.testing.assert_allclose(averaging.apply(P[1:], ["b"], TWO), [[0.6, 0.8]]), "of a fold without the other"
    unsaid = Averaging(how="weighted", weights={"a": {TWO[0]: 1}, "b": {TWO[0]: 0}})
    np.testing.assert_allclose(unsaid.apply(P, ["a", "b"], TWO), [[0.2, 0.6]])
    assert unsaid.lacking(["a", "b"], TWO) is None and "c" in unsaid.lacking(["a", "c"], TWO)


def test_the_rest():
    np.testing.assert_allclose(Averaging().apply(P, ["a", "b"], TWO), [[0.4, 0.6]])
    np.testing.assert_allclose(
        Averaging(how="power", power=2).apply(P, ["a", "b"], TWO), [[np.sqrt(0.2), np.sqrt(0.4)]]
    )
    ranks = Averaging(how="rank", quantiles={name: dict.fromkeys(TWO, (0.0, 0.4, 1.0)) for name in "ab"})
    np.testing.assert_allclose(ranks.apply(P, ["a", "b"], TWO), [[(0.25 + 2 / 3) / 2, (0.5 + 5 / 6) / 2]])
    assert ranks.lacking(["a"], LABELS[:3]) == f"a, {LABELS[2]}"


def test_ranks_read_film_by_film_order_a_test_set_as_ranks_among_its_films_do():
    """Five members on 3000 films; the rarer of two labels has 15 positive ones."""
    rng = np.random.default_rng(0)
    truth = rng.random((3000, 2)) < [0.2, 0.005]
    odds = 2 * truth - 3 + rng.standard_normal((3000, 2)) + rng.standard_normal((5, 3000, 2))
    p = expit(odds * rng.uniform(0.5, 3, (5, 1, 1)))
    studies, names = [f"s{i}" for i in range(3000)], list("abcde")
    more = np.full((3000, len(LABELS) - 2), 0.5)
    frames = [as_predictions(studies, np.hstack([each, more])) for each in p]
    wanted = ensemble(frames, "rank")[list(TWO)].to_numpy()
    quantiles = {
        name: {label: tuple(quantiles_of(each[:, k])) for k, label in enumerate(TWO)}
        for name, each in zip(names, p, strict=True)
    }
    averaging = Averaging(how="rank", quantiles=quantiles)
    found = np.concatenate([averaging.apply(p[:, i : i + 1], names, TWO) for i in range(3000)])
    np.testing.assert_allclose(found, wanted, atol=1 / 256)
    for k in range(2):
        assert roc_auc_score(truth[:, k], found[:, k]) == pytest.approx(
            roc_auc_score(truth[:, k], wanted[:, k]), abs=1e-3
        )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"how": "weighted"}, "needs weights"),
        ({"how": "rank"}, "needs quantiles"),
        ({"how": "power"}, "needs power"),
        ({"how": "mean", "power": 2}, "has no power"),
        ({"how": "weighted", "weights": {"a": {"NG": 1}}}, "is no label"),
        ({"how": "rank", "quantiles": {"a": {TWO[0]: (0.5, 0.4)}}}, "must rise"),
        ({"how": "rank", "quantiles": {"a": {TWO[0]: ()}}}, "at least 1"),
        ({"how": "weighted", "weights": {"a": {TWO[0]: 1.5}}}, "less than or equal to 1"),
    ],
)
def test_what_contradicts_itself_is_refused(fields, says):
    with pytest.raises(ValidationError, match=says):
        Averaging(**fields)
