import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlines.evaluation.ensemble.sharpen import COLDEST, HOTTEST, dynamic_temperatures, kept, sharpen
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.task import LABELS

N = len(LABELS)
ALL = np.repeat(np.linspace(0, 1, 1001)[:, None], N, axis=1)


def test_the_write_up_s_own_numbers():
    p = np.full((1, N), 0.5)
    p[0, :6] = [0.2, 0.4, 0.45, 0.55, 0.6, 0.8]
    got = sharpen(p, 0.8)[0, :7]
    # .2^.8 and .4^.8; .45^.8 = .528 stops at one half
    np.testing.assert_allclose(got, [0.27595, 0.48045, 0.5, 0.5, 0.51955, 0.72405, 0.5], atol=5e-6)


@pytest.mark.parametrize("heat", [0.3, 0.8, 1.0, 1.7, 4.0])
def test_monotone_symmetric_and_one_half_stays(heat):
    got = sharpen(ALL, heat)
    assert (np.diff(got, axis=0) >= 0).all() and got.min() == 0 and got.max() == 1
    np.testing.assert_allclose(sharpen(1 - ALL, heat), 1 - got, atol=1e-12)
    assert (got[500] == 0.5).all()
    assert ((got <= 0.5) == (ALL <= 0.5)).all() or heat < 1
    nearer, farther = np.abs(got - 0.5) <= np.abs(ALL - 0.5) + 1e-12, np.abs(got - 0.5) >= np.abs(ALL - 0.5) - 1e-12
    assert nearer.all() if heat <= 1 else farther.all()
    assert nearer.all() == (heat <= 1) and farther.all() == (heat >= 1)


def test_a_temperature_of_one_or_none_changes_nothing_and_the_input_is_left_alone():
    before = ALL.copy()
    for heat in (None, 1.0, np.ones(N)):
        got = sharpen(ALL, heat)
        np.testing.assert_allclose(got, ALL, atol=1e-15)
        got[:] = 0
    np.testing.assert_array_equal(ALL, before)


def test_labels_have_temperatures_of_their_own_in_any_shape_and_type():
    heat = np.linspace(0.5, 2, N)
    p = np.random.default_rng(0).random((4, 3, N)).astype(np.float32)
    got = sharpen(p, heat)
    assert got.shape == p.shape and got.dtype == np.float32
    for k in range(N):
        np.testing.assert_array_equal(got[..., k], sharpen(p, heat[k])[..., k])
    np.testing.assert_array_equal(sharpen(p[0, 0], heat), got[0, 0])


def test_kept_are_films_with_a_label_above_the_threshold():
    p = np.zeros((3, N))
    p[0, 4], p[1, 10] = 0.3, 0.31
    assert kept(p, 0.3).tolist() == [False, True, False]
    assert kept(p, 0).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="keep above is 30; it is a probability"):
        kept(p, 30)


@pytest.mark.parametrize(("stretch", "low", "high"), [(2.0, COLDEST, 0.8), (0.5, 1.25, HOTTEST)])
def test_a_teacher_too_sure_gets_a_temperature_below_one_and_one_not_sure_enough_above(stretch, low, high):
    rng = np.random.default_rng(1)
    odds = rng.normal(-1, 2, (4000, N))
    truth = rng.random(odds.shape) < expit(odds)
    found = dynamic_temperatures(expit(stretch * odds), truth.astype(int))
    assert ((found >= low) & (found <= high)).all()
    assert not ((found >= 0.95) & (found <= 1.05)).any()


def test_the_temperature_is_the_best_of_all_and_moves_back_what_was_sharpened():
    rng = np.random.default_rng(2)
    p = rng.uniform(0, 0.3, (5000, N))  # low enough that none stops at one half
    truth = (rng.random(p.shape) < p).astype(int)
    plain = dynamic_temperatures(p, truth)
    # p^T sharpened by t is p^(T t)
    np.testing.assert_allclose(dynamic_temperatures(sharpen(p, 1.5), truth), plain / 1.5, rtol=0.005)

    def loss(heat):
        q = sharpen(p, heat)
        return -np.where(truth == 1, np.log(q), np.log1p(-q)).sum(axis=0)

    best = loss(plain)
    for heat in np.geomspace(COLDEST, HOTTEST, 23):
        assert (best <= loss(heat) + 1e-4).all()


def test_labels_are_fitted_apart_and_those_that_tell_nothing_get_one():
    rng = np.random.default_rng(3)
    odds = rng.normal(0, 2, (3000, N))
    truth = (rng.random(odds.shape) < expit(odds)).astype(int)
    p = expit(odds * np.where(np.arange(N) < 5, 2, 0.6))
    whole = dynamic_temperatures(p, truth)
    truth[:, 0], truth[:, 1] = 0, 1
    p[:, 2], p[:, 3] = 0.5, truth[:, 3]
    got = dynamic_temperatures(p, truth)
    assert got[:4].tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(got[4:], whole[4:])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: sharpen(p[:, :5], 1), r"shape \(4, 5\)"),
        (lambda p: sharpen(p + 2, 1), f"2.5 for {LABELS[0]}; .*\\({4 * N} "),
        (lambda p: kept(np.where(p == p[2, 3], np.nan, p), 0.3), "nan for"),
        (lambda p: sharpen(p, 0), "temperature is 0.?;"),
        (lambda p: sharpen(p, np.ones(4)), r"temperature is \[1. 1. 1. 1.\];"),
        (lambda p: sharpen(p, float("nan")), "temperature is nan"),
        (lambda p: dynamic_temperatures(p, np.zeros((3, N))), rf"shape \(3, {N}\) for .* \(4, {N}\)"),
        (lambda p: dynamic_temperatures(p, np.full((4, N), 0.5)), "must hold 0, 1 or -1"),
    ],
)
def test_what_is_wrong_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call(np.full((4, N), 0.5))


def test_a_real_teacher_predicts_better_at_its_own_temperatures(ranzcr):
    table = pd.read_csv(ranzcr / "train.csv").set_index("StudyInstanceUID")
    frame = read_predictions(ranzcr / "predictions_fold0.csv")
    p, truth = frame[list(LABELS)].to_numpy(), table.loc[frame["study"], list(LABELS)].to_numpy()
    found = dynamic_temperatures(p, truth)

    def loss(q):
        return -np.log(np.clip(np.where(truth == 1, q, 1 - q), 1e-6, None)).mean(axis=0)

    assert (loss(sharpen(p, found)) <= loss(p) + 1e-9).all() and (found < 1).sum() >= 9
