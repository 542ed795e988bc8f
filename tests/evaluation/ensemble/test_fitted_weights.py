import time
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.ensemble.fitted_weights import FEWEST, PRIOR, cross_fitted_blend, fit_weights
from cxrlines.evaluation.logistic import log_odds
from cxrlines.evaluation.predictions import read_predictions, read_truth
from cxrlines.metrics.auc import macro_auc
from cxrlines.task import LABELS, UNKNOWN

NAMES = list(LABELS)
N = len(NAMES)


def predictions(values: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(values, columns=NAMES)
    frame.insert(0, "study", [f"s{i:05d}" for i in range(len(values))])
    return frame


def made_up(noises, films=600, patients=150, seed=0):
    """(members, truth, folds): a member a noise, its standard deviation in log odds; inf tells nothing."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(-1, 2, (films, N))
    truth = predictions((rng.random(signal.shape) < expit(signal)).astype(np.int64))
    truth.insert(1, "patient", [f"p{i}" for i in rng.integers(0, patients, films)])
    members = []
    for noise in noises:
        own = rng.normal(0, 1, signal.shape)
        members.append(predictions(expit(own if np.isinf(noise) else signal + noise * own)))
    folds = pd.Series(truth["patient"].str[1:].astype(int).to_numpy() % 5, index=truth["study"])
    return members, truth, folds


def score(frame, truth):
    return macro_auc(truth[NAMES].to_numpy(), frame[NAMES].to_numpy())


def blend(members, weights):
    return ensemble(members, "fitted", weights.members, weights=weights)


def test_weights_are_those_of_the_regression_with_its_prior():
    members, truth, _ = made_up([0.3, 1.0, 2.0, np.inf])
    found = fit_weights(members, truth)
    np.testing.assert_allclose(found.weights.sum(axis=0), 1)
    assert found.weights.min() > 0 and found.equal == {} and found.members[0] == "predictions 1"

    def slopes(x, y, mode):
        def loss(at):  # positive by its own logarithm
            slope = np.exp(at[1:])
            eta = at[0] + x @ slope
            return np.logaddexp(0, eta).sum() - y @ eta + PRIOR * (slope / mode - at[1:]).sum()

        return np.exp(minimize(loss, np.r_[0, np.full(x.shape[1], np.log(mode))], tol=1e-10).x[1:])

    for k in (0, 7):
        y = truth[NAMES[k]].to_numpy()
        odds = np.stack([log_odds(m[NAMES[k]]) for m in members], axis=1)
        mean = odds.mean(axis=1, keepdims=True)
        expected = slopes(odds, y, slopes(mean, y, 1 / mean.std())[0] / 4)
        np.testing.assert_allclose(found.weights[:, k], expected / expected.sum(), atol=2e-4)


def test_the_better_member_counts_for_more_however_sure_it_is_of_itself():
    (good, bad, none), truth, _ = made_up([0.3, 2.0, np.inf])
    for sure, offset in ((1, 0), (0.5, 2), (2, -1)):
        one = good.assign(**{name: expit(sure * logit(good[name]) + offset) for name in NAMES})
        weights = fit_weights([none, one, bad], truth).weights
        assert (weights[1] > weights[2]).all() and (weights[1] > weights[0]).all()


def test_the_blend_is_better_than_the_mean_on_films_it_was_not_fitted_on():
    members, truth, folds = made_up([0.3, 0.5, 2.0, 4.0, np.inf], films=2000)
    nested, mean = cross_fitted_blend(members, truth, folds), ensemble(members)
    assert score(nested, truth) > score(mean, truth) + 0.01
    assert nested["study"].tolist() == mean["study"].tolist()


def test_members_that_know_nothing_seem_to_gain_by_fitting_and_cross_fitted_do_not():
    seeming, honest = [], []
    for seed in range(5):
        members, truth, folds = made_up([np.inf] * 8, films=400, seed=seed)
        mean = score(ensemble(members), truth)
        seeming.append(score(blend(members, fit_weights(members, truth)), truth) - mean)
        honest.append(score(cross_fitted_blend(members, truth, folds), truth) - mean)
    assert min(seeming) > 0.005
    assert np.mean(honest) < np.mean(seeming) / 4


def test_neither_members_nor_rows_nor_the_frame_that_comes_first_matter_to_the_last_bit():
    members, truth, folds = made_up([0.5, 1.0, np.inf])
    names = ["a", "b", "c"]
    weights, nested = fit_weights(members, truth, names), cross_fitted_blend(members, truth, folds, names)
    for order in permutations(range(3)):
        others, called = [members[i] for i in order], [names[i] for i in order]
        found = fit_weights(others, truth.sample(frac=1, random_state=1), called)
        np.testing.assert_array_equal(found.of(names), weights.weights)
        again = cross_fitted_blend(others, truth, folds.sample(frac=1, random_state=2), called)
        pd.testing.assert_frame_equal(again, nested, check_exact=True)
    shuffled = [member.sample(frac=1, random_state=i) for i, member in enumerate(members)]
    np.testing.assert_allclose(fit_weights(shuffled, truth).weights, weights.weights, atol=1e-6)


def test_a_member_given_twice_shares_its_weight_and_changes_no_blend():
    members, truth, folds = made_up([0.5, 1.0, np.inf])
    once, twice = fit_weights(members, truth), fit_weights([*members, members[1]], truth)
    np.testing.assert_array_equal(twice.weights[1], twice.weights[3])
    np.testing.assert_array_equal(twice.weights[1] * 2, once.weights[1])
    np.testing.assert_array_equal(twice.weights[[0, 2]], once.weights[[0, 2]])
    pd.testing.assert_frame_equal(blend(members, once), blend([*members, members[1]], twice))
    same = cross_fitted_blend([*members, members[1]], truth, folds)
    pd.testing.assert_frame_equal(same, cross_fitted_blend(members, truth, folds))


def test_a_fold_s_blend_knows_nothing_of_its_patients_even_of_their_films_in_other_folds():
    members, truth, _ = made_up([0.5, 1.0, np.inf], films=400)
    folds = pd.Series(np.arange(400) % 4, index=truth["study"])  # cuts through patients
    before = cross_fitted_blend(members, truth, folds)
    inside = (folds == 2).to_numpy()
    theirs = truth["patient"].isin(truth["patient"][inside])
    assert (theirs & ~inside).sum() > 100 and (~theirs).sum() > 20
    lied = truth.copy()
    lied.loc[theirs, NAMES] = 1 - lied.loc[theirs, NAMES]
    after = cross_fitted_blend(members, lied, folds)
    pd.testing.assert_frame_equal(after[inside], before[inside], check_exact=True)
    assert not np.allclose(after.loc[~inside, NAMES], before.loc[~inside, NAMES])


def test_a_truth_without_patients_or_with_unknown_ones_takes_each_film_for_itself():
    members, truth, folds = made_up([0.5, 1.0], films=300)
    unknown = cross_fitted_blend(members, truth.assign(patient=None), folds)
    pd.testing.assert_frame_equal(cross_fitted_blend(members, truth.drop(columns="patient"), folds), unknown)


def test_labels_of_too_few_films_get_equal_weights_and_it_is_said():
    members, truth, _ = made_up([0.3, np.inf], films=300)
    truth[NAMES[0]], truth[NAMES[1]], truth[NAMES[2]] = 0, 1, 0
    truth.loc[: FEWEST - 2, NAMES[2]] = 1
    found = fit_weights(members, truth)
    assert found.equal == {
        NAMES[0]: "0 of 300 films are positive; 10 of either kind are needed to fit",
        NAMES[1]: "300 of 300 films are positive; 10 of either kind are needed to fit",
        NAMES[2]: "9 of 300 films are positive; 10 of either kind are needed to fit",
    }
    np.testing.assert_array_equal(found.weights[:, :3], 0.5)
    assert (found.weights[0, 3:] > 0.5).all()


def test_films_of_unknown_truth_are_left_out_label_by_label():
    members, truth, folds = made_up([0.3, 1.0], films=400)
    masked = truth.copy()
    masked.loc[250:, NAMES[0]] = UNKNOWN
    masked[NAMES[1]] = UNKNOWN
    found, known = fit_weights(members, masked), fit_weights([m[:250] for m in members], truth[:250])
    np.testing.assert_array_equal(found.weights[:, 0], known.weights[:, 0])
    np.testing.assert_array_equal(found.weights[:, 2:], fit_weights(members, truth).weights[:, 2:])
    assert found.equal[NAMES[1]].startswith("0 of 0 films")
    assert np.isfinite(cross_fitted_blend(members, masked, folds)[NAMES].to_numpy()).all()


def test_extremes_break_nothing():
    (good, other), truth, folds = made_up([0.3, 1.0], films=300)
    perfect = predictions(truth[NAMES].to_numpy(float))
    inverted = predictions(1 - truth[NAMES].to_numpy(float))
    constant = predictions(np.full((300, N), 0.3))
    for members in ([perfect, other], [inverted, good], [constant, good], [constant], [constant, constant]):
        weights = fit_weights(members, truth).weights
        np.testing.assert_allclose(weights.sum(axis=0), 1)
        assert (weights >= 0).all()
        assert np.isfinite(cross_fitted_blend(members, truth, folds)[NAMES].to_numpy()).all()
    assert (fit_weights([perfect, other], truth).weights[0] > 0.5).all()
    assert (fit_weights([inverted, good], truth).weights[0] < 0.5).all()


def test_nothing_given_is_changed():
    members, truth, folds = made_up([0.5, 1.0], films=200)
    before = [frame.copy() for frame in (*members, truth)], folds.copy()
    cross_fitted_blend(members, truth, folds)
    for now, then in zip((*members, truth), before[0], strict=True):
        pd.testing.assert_frame_equal(now, then)
    pd.testing.assert_series_equal(folds, before[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, t, f: fit_weights([], t), "nothing to average"),
        (lambda m, t, f: fit_weights(m, t, ["a", "a"]), "two members are called a; weights go by name"),
        (lambda m, t, f: fit_weights(m, t[5:]), "5 of 100 predicted studies have no truth, the first in row 1"),
        (lambda m, t, f: fit_weights(m, pd.concat([t, t[:1]])), "truth, row 101: its study is listed before"),
        (lambda m, t, f: fit_weights(m, t.drop(columns=NAMES[1])), f"truth: no column {NAMES[1]}"),
        (
            lambda m, t, f: fit_weights(m, t.assign(**{NAMES[2]: [0, 0.5] * 50})),
            f"truth, row 2: column {NAMES[2]} is 0.5, not 0 or 1",
        ),
        (lambda m, t, f: fit_weights([m[0], m[1][1:]], t, ["a.csv", "b.csv"]), "a.csv and b.csv are of different"),
        (
            lambda m, t, f: cross_fitted_blend(m, t, f[3:]),
            "3 of 100 predicted studies have no fold",
        ),
        (
            lambda m, t, f: cross_fitted_blend(m, t, f * 0),
            "all 100 films are of one fold",
        ),
        (
            lambda m, t, f: cross_fitted_blend(m, t, pd.concat([f, f[:1]])),
            "folds: the study of row 101 is listed before",
        ),
    ],
)
def test_what_is_wrong_is_said(call, says):
    with pytest.raises(ValueError) as error:
        call(*made_up([0.5, 1.0], films=100))
    assert says in str(error.value)


def test_members_made_of_real_predictions(ranzcr):
    one = read_predictions(ranzcr / "predictions_fold0.csv")
    truth = read_truth(ranzcr / "train.csv")
    rng = np.random.default_rng(0)
    odds = log_odds(one[NAMES].to_numpy())
    noisy = [expit(odds + rng.normal(0, noise, odds.shape)) for noise in (1, 3)]
    members = [*(one.assign(**dict(zip(NAMES, values.T, strict=True))) for values in noisy), one]
    patients = truth.set_index("study").loc[one["study"], "patient"]
    folds = pd.Series(pd.factorize(patients)[0] % 5, index=one["study"])
    known = truth.set_index("study").loc[one["study"]].reset_index()
    mean, nested = score(ensemble(members), known), score(cross_fitted_blend(members, truth, folds), known)
    # the two noisy copies add nothing to their original, so that the best blend is the original: 0.96221
    assert mean < nested - 0.003 and abs(nested - 0.96221) < 0.002
    assert (fit_weights(members, truth).weights.argmax(axis=0) == 2).all()


@pytest.mark.long
def test_the_whole_training_set_and_twelve_members_take_seconds(ranzcr):
    truth = read_truth(ranzcr / "train.csv")
    rng = np.random.default_rng(0)
    y = truth[NAMES].to_numpy()
    shared = 3 * y - 2.5 + rng.normal(0, 1, y.shape)
    members = [
        truth[["study"]].assign(**dict(zip(NAMES, expit(shared + rng.normal(0, 1, y.shape)).T, strict=True)))
        for _ in range(12)
    ]
    begun = time.monotonic()
    assert fit_weights(members, truth).equal == {}
    assert time.monotonic() - begun < 20
