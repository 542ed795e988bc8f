import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlines.evaluation.ensemble.neighbours import cross_fitted_neighbours, evidence_of, fit_neighbours
from cxrlines.metrics.auc import macro_auc
from cxrlines.task import LABELS

NAMES = list(LABELS)
N = len(NAMES)


def frame(values):
    return pd.DataFrame(values, columns=NAMES).assign(study=[f"s{i:05d}" for i in range(len(values))])


def world(neighbours_help, films=600, patients=200, seed=0):
    """(predictions, truth, folds, embeddings): labels come from what the classifier sees and from a hidden group, of
    which the embeddings tell where neighbours help.

    What a group adds to the log odds are the same six numbers for every label, dealt to the groups anew for each: drawn
    at random they would now and then be much alike for a label, and neighbours rightly worth nothing to it.
    """
    rng = np.random.default_rng(seed)
    groups = 6
    group, who = rng.integers(0, groups, films), rng.integers(0, patients, films)
    adds = rng.permuted(np.tile(np.linspace(-2.5, 2.5, groups), (N, 1)), axis=1).T
    seen, hidden = rng.normal(-0.5, 1, (films, N)), adds[group]
    truth = frame((rng.random((films, N)) < expit(seen + hidden)).astype(int)).assign(patient=[f"p{w}" for w in who])
    place = np.eye(groups)[group] if neighbours_help else rng.normal(size=(films, groups))
    vectors = np.c_[place, 0.3 * rng.normal(size=(films, 10))].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return frame(expit(seen)), truth, pd.Series(who % 5, index=truth["study"]), vectors


def score(predictions, truth):
    return macro_auc(truth[NAMES].to_numpy(), predictions[NAMES].to_numpy())


def test_neighbours_that_help_raise_the_auc_and_get_weight():
    predictions, truth, folds, vectors = world(True)
    found = fit_neighbours(predictions, truth, folds, vectors)
    assert (found.weights > 0).all() and found.zero == {}
    assert score(cross_fitted_neighbours(predictions, truth, folds, vectors), truth) > score(predictions, truth) + 0.08


def test_neighbours_that_do_not_help_get_no_weight_and_change_nothing():
    zero = []
    for seed in range(2):
        predictions, truth, folds, vectors = world(False, seed=seed)
        found = fit_neighbours(predictions, truth, folds, vectors)
        zero.append((found.weights == 0).mean())
        assert set(found.zero) == {label for label, weight in zip(NAMES, found.weights, strict=True) if weight == 0}
        blend = cross_fitted_neighbours(predictions, truth, folds, vectors)
        assert abs(score(blend, truth) - score(predictions, truth)) < 0.005
    assert np.mean(zero) > 0.9
    some = next(iter(found.zero.values()))
    assert "less than 2.7" in some


def test_a_classifier_that_knows_all_that_neighbours_know_needs_none():
    _, truth, folds, vectors = world(True)
    rng = np.random.default_rng(1)
    sure = frame(expit(4 * truth[NAMES].to_numpy() - 2 + rng.normal(0, 0.5, (len(truth), N))))
    assert (fit_neighbours(sure, truth, folds, vectors).weights == 0).mean() > 0.8


def test_a_patients_own_films_never_tell_on_him():
    """Labels are a patient's own and so are embeddings: his other films would say all, others' films say nothing."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(150), 4)
    truth = frame(rng.integers(0, 2, (150, N))[who]).assign(patient=[f"p{w}" for w in who])
    vectors = rng.normal(size=(150, 12))[who].astype(np.float32) + 0.01 * rng.normal(size=(600, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    predictions = frame(expit(rng.normal(size=(600, N))))
    across = pd.Series(np.arange(600) % 4, index=truth["study"])  # every patient in every fold
    kept_apart = fit_neighbours(predictions, truth, across, vectors)
    leaking = fit_neighbours(predictions, truth.drop(columns="patient"), across, vectors)
    assert (leaking.weights > 0).all()
    assert (kept_apart.weights == 0).mean() > 0.8


def test_labels_of_the_judged_fold_have_no_part_in_its_blend():
    predictions, truth, folds, vectors = world(True, films=300)
    before = cross_fitted_neighbours(predictions, truth, folds, vectors)
    inside = truth["study"].map(folds).to_numpy() == 2
    turned = truth.copy()
    turned.loc[inside, NAMES] = 1 - turned.loc[inside, NAMES]
    after = cross_fitted_neighbours(predictions, turned, folds, vectors)
    pd.testing.assert_frame_equal(before[inside], after[inside])
    assert not before[~inside].equals(after[~inside])


def test_the_order_of_films_does_not_matter_and_nothing_given_is_changed():
    predictions, truth, folds, vectors = world(True, films=400)
    copies = predictions.copy(), truth.copy(), folds.copy(), vectors.copy()
    blend = cross_fitted_neighbours(predictions, truth, folds, vectors)
    order = np.random.default_rng(3).permutation(len(predictions))
    other = cross_fitted_neighbours(
        predictions.iloc[order], truth.sample(frac=1, random_state=1), folds, vectors[order]
    )
    pd.testing.assert_frame_equal(
        other.set_index("study").loc[blend["study"]], blend.set_index("study"), rtol=1e-4, atol=1e-5
    )
    for had, has in zip(copies[:3], (predictions, truth, folds), strict=True):
        assert had.equals(has)
    np.testing.assert_array_equal(copies[3], vectors)


def test_evidence_is_counted_by_hand_and_none_is_zero():
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    labels = np.zeros((4, N))
    labels[:2, 0], labels[3, 1] = 1, 1
    found = evidence_of(vectors[:1], vectors, labels, patients=["q"], patients_searched=["a"] * 4, count=2)
    share, near = 2.5 / 5, (2 + 2 * 2.5 / 5) / 4
    assert found[0, 0] == pytest.approx(np.log(near / (1 - near)) - np.log(share / (1 - share)))
    assert found[0, 1] < 0
    alone = evidence_of(vectors[:1], vectors, labels, patients=["a"], patients_searched=["a"] * 4)
    np.testing.assert_allclose(alone, 0, atol=1e-12)


def test_each_fold_is_seen_by_its_own_model():
    predictions, truth, folds, vectors = world(True, films=400)
    flips = {fold: vectors * (-1) ** fold for fold in range(5)}  # as good as the same: only within a model compared
    pd.testing.assert_frame_equal(
        cross_fitted_neighbours(predictions, truth, folds, flips),
        cross_fitted_neighbours(predictions, truth, folds, vectors),
    )
    with pytest.raises(ValueError, match="no embeddings for fold 4; give those of the model that held it out"):
        cross_fitted_neighbours(predictions, truth, folds, {fold: vectors for fold in range(4)})


def test_what_cannot_be_done_is_said():
    predictions, truth, folds, vectors = world(True, films=120)
    with pytest.raises(ValueError, match=r"embeddings are \(119, 16\) for 120 predicted films; give a row a film"):
        fit_neighbours(predictions, truth, folds, vectors[1:])
    with pytest.raises(ValueError, match="there are 2 folds"):
        cross_fitted_neighbours(predictions, truth, folds % 2, vectors)
    rare = truth.assign(**{NAMES[0]: 0})
    found = fit_neighbours(predictions, rare, folds, vectors)
    assert found.weights[0] == 0 and found.zero[NAMES[0]].startswith("0 of 120 films are positive; 10 of either")
