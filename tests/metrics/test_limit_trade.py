"""The trade of recall against false positives: monotone, as counted by hand, and fitted as a search over all finds."""

import itertools
import json

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.metrics.limit_trade import CONFIDENCES, PRESENCES, FilmCounts, limit_trade, line_counts
from cxrlines.metrics.line_figures import EvaluatedFilm
from cxrlines.task import Device

WHOLE = len(CONFIDENCES)


def random_films(seed, count=40):
    """Films of two devices whose lines, true and false ones, have random confidences."""
    rng = np.random.default_rng(seed)
    films = []
    for _ in range(count):
        film = {}
        for device in (Device.ETT, Device.CVC):
            true = int(rng.integers(0, 3))
            right = rng.uniform(0.2, 1, true)
            wrong = rng.uniform(0.2, 0.8, rng.integers(0, 3))
            at = [tuple(int((each >= limit).sum()) for limit in CONFIDENCES) for each in (right, wrong)]
            film[device] = FilmCounts(float(rng.uniform(0.3, 1) if true else rng.uniform(0, 0.6)), true, *at)
        films.append(film)
    return films


def test_counts_by_hand():
    sure = FilmCounts(0.9, 1, (1,) * WHOLE, (1,) * 3 + (0,) * (WHOLE - 3))
    denied = FilmCounts(0.1, 1, (1,) * WHOLE, (2,) * WHOLE)
    told = limit_trade([{Device.ETT: sure}, {Device.ETT: denied}, {}], ["a", "b", "c"], 0.5, resamples=20)
    at = {(one.confidence, one.presence): one for one in told.trade[Device.ETT]}
    assert set(at) == set(itertools.product(CONFIDENCES, PRESENCES)) and list(told.trade) == [Device.ETT]
    all_lines, strict = at[CONFIDENCES[0], 0.0], at[CONFIDENCES[3], 0.2]
    assert (all_lines.recall.value, all_lines.false_positives.value) == (1, 1.5), "a film counts where it is known"
    assert (strict.recall.value, strict.false_positives.value) == (0.5, 0)
    assert told.fitted[Device.ETT].recall.value == 0.5 and told.fitted[Device.ETT].false_positives.value == 0
    assert strict.recall.ci95[0] <= 0.5 <= strict.recall.ci95[1]


def test_what_the_fit_leaves_out_is_noted():
    only = FilmCounts(0.9, 1, (1,) * WHOLE, (3,) * WHOLE)
    false = FilmCounts(0.9, 0, (0,) * WHOLE, (1,) * WHOLE)
    found = limit_trade([{Device.ETT: only, Device.SWAN: false}] * 2, ["a", "b"], 0.25, resamples=5)
    assert found.without == (Device.SWAN,) and found.as_dict()["without_true_lines"] == ["SWAN"]
    assert "note: false lines of SWAN are not counted, as these films have no true ones" in found.text()
    assert "note: 0.25 cannot be reached by the limits that are tried" in found.text()
    fine = limit_trade([{Device.ETT: FilmCounts(0.9, 1, (1,) * WHOLE, (0,) * WHOLE)}], ["a"], 0.25, resamples=5)
    assert fine.without == () and "note" not in fine.text()


@pytest.mark.parametrize("seed", range(4))
def test_stricter_limits_never_give_more(seed):
    trade = limit_trade(random_films(seed), [str(k) for k in range(40)], 0.25, resamples=5).trade
    for each in trade.values():
        for one, other in itertools.permutations(each, 2):
            if one.confidence <= other.confidence and one.presence <= other.presence:
                assert one.recall.value >= other.recall.value
                assert one.false_positives.value >= other.false_positives.value


@pytest.mark.parametrize("wanted", [0.0, 0.1, 0.25, 0.5, 5.0])
def test_fitted_limits_are_as_good_as_any_that_a_price_can_buy(wanted):
    films = random_films(7)
    told = limit_trade(films, [str(k % 9) for k in range(40)], wanted, resamples=5)
    spent = sum(one.false_positives.value for one in told.fitted.values())
    lines = [sum(film[device].true for film in films) for device in told.trade]
    found = sum(count * one.recall.value for count, one in zip(lines, told.fitted.values(), strict=True))
    assert spent <= wanted + 1e-9
    # No pair of limits anywhere finds more for the same or fewer false lines.
    for pair in itertools.product(*told.trade.values()):
        if sum(one.false_positives.value for one in pair) <= spent + 1e-9:
            assert sum(count * one.recall.value for count, one in zip(lines, pair, strict=True)) <= found + 1e-6
    assert limit_trade(films[::-1], [str(k % 9) for k in range(40)][::-1], wanted, resamples=5).fitted == told.fitted
    values = json.loads(json.dumps(told.as_dict()))
    assert values["fitted"]["ETT"]["confidence"] == told.fitted[Device.ETT].confidence
    assert told.text().count("fitted\n") + told.text().endswith("fitted") == len(told.fitted)


def test_lines_off_the_film_do_not_count():
    def course(device, x):
        path = np.array([[x, 0.0], [x, 600.0]])
        return Line(device, path, path[-1])

    true = [course(Device.CVC, 100.0), course(Device.CVC, -60.0), course(Device.ETT, 300.0)]
    found = [course(Device.CVC, 105.0), course(Device.CVC, 700.0), course(Device.NGT, 300.0)]
    film = EvaluatedFilm("a", (1000, 800), true, found)
    assert line_counts(film, Device.CVC) == (1, 1, 1)
    assert line_counts(film, Device.ETT) == (1, 0, 0) and line_counts(film, Device.NGT) == (0, 0, 1)
