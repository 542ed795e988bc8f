"""Batches of an epoch: every film once, or films with rare labels more often; each process its part."""

from collections import Counter

import numpy as np
import pytest

from cxrlines.training import distributed
from cxrlines.training.sampling import Key, batches_per_epoch, epoch_batches, repeat_factors


def test_an_epoch_is_every_film_once_in_an_order_of_its_own():
    first, second = (
        [p for batch in epoch_batches(12, 4, seed=1, epoch=epoch) for _, p, *_ in batch] for epoch in (0, 1)
    )
    assert sorted(first) == list(range(12))
    assert first != second


def test_the_rest_of_an_epoch_continues_its_beginning():
    whole = list(epoch_batches(13, 4, seed=1, epoch=2))
    assert (
        list(epoch_batches(13, 4, seed=1, epoch=2, stop=1)) + list(epoch_batches(13, 4, seed=1, epoch=2, start=1))
        == whole
    )
    assert len(whole) == batches_per_epoch(13, 4) == 3


def test_fewer_films_than_a_batch_make_one_batch():
    assert len(epoch_batches(3, 16, seed=0, epoch=0)) == 1


def labels(films: int) -> np.ndarray:
    """The first label on half of the films, the second on one in 25; the third is unknown, the fourth nowhere."""
    found = np.zeros((films, 4), np.float32)
    found[::2, 0], found[::25, 1], found[:, 2] = 1, 1, np.nan
    return found


def test_repeat_factors_are_those_of_the_paper():
    factors = repeat_factors(labels(100), 0.16)
    np.testing.assert_allclose(factors, np.where(np.arange(100) % 25 == 0, 2, 1))
    many = np.random.default_rng(0).random((300, 11)) < np.linspace(0.003, 0.7, 11)
    share = many.mean(axis=0)
    for film, factor in enumerate(repeat_factors(many.astype(np.float32), 0.1)):
        expected = [max(1, (0.1 / share[label]) ** 0.5) for label in np.flatnonzero(many[film])]
        assert factor == pytest.approx(max(expected, default=1))


def test_unknown_labels_count_neither_as_there_nor_as_not_there():
    found = labels(100)
    found[50:, 1] = np.nan
    assert repeat_factors(found, 0.16)[0] == pytest.approx(2), "2 of the 50 that are known are .04 as well"
    assert repeat_factors(found, 0.16)[50] == 1


def test_rare_films_come_as_often_as_they_should_in_epochs_as_long():
    repeats = repeat_factors(labels(50), 0.16 * 4)
    expected = repeats / repeats.sum() * 48
    seen: Counter[int] = Counter()
    for epoch in range(200):
        batches = epoch_batches(50, 6, seed=1, epoch=epoch, repeats=repeats)
        assert len(batches) == batches_per_epoch(50, 6) == 8
        keys = [key for batch in batches for key in batch]
        assert len({(key.position, key.again) for key in keys}) == len(keys) == 48
        assert max(Counter(key.position for key in keys).values()) <= np.ceil(expected.max() * 50 / 48)
        seen.update(key.position for key in keys)
    found = np.array([seen[film] for film in range(50)]) / 200
    np.testing.assert_allclose(found, expected, atol=0.15)
    assert found[repeats > 3].mean() / found[repeats == 1].mean() == pytest.approx(repeats.max(), rel=0.1)


def test_a_rare_epoch_goes_on_where_it_was_and_hangs_on_seed_and_epoch():
    options = {"batch": 6, "repeats": repeat_factors(labels(50), 0.16)}
    whole = epoch_batches(50, seed=1, epoch=3, **options)
    assert whole[5:] == epoch_batches(50, seed=1, epoch=3, start=5, **options)
    assert whole != epoch_batches(50, seed=1, epoch=4, **options) != epoch_batches(50, seed=2, epoch=4, **options)


@pytest.mark.parametrize("repeats", [None, repeat_factors(labels(50), 0.16)])
@pytest.mark.parametrize("world", [2, 3])
def test_every_process_has_its_part_and_the_film_before_it(monkeypatch, world, repeats):
    whole = epoch_batches(50, 7, seed=1, epoch=0, repeats=repeats)
    parts, with_neighbour = [], []
    for rank in range(world):
        with monkeypatch.context() as one:
            one.setattr(distributed, "rank", rank)
            one.setattr(distributed, "world", world)
            parts.append(epoch_batches(50, 7, seed=1, epoch=0, repeats=repeats))
            with_neighbour.append(epoch_batches(50, 7, seed=1, epoch=0, repeats=repeats, neighbour=True))
    assert epoch_batches(50, 7, seed=1, epoch=0, repeats=repeats, neighbour=True) == whole
    for keys, mine, more in zip(whole, zip(*parts, strict=True), zip(*with_neighbour, strict=True), strict=True):
        assert [key for part in mine for key in part] == keys
        for part, extended in zip(mine, more, strict=True):
            before: Key = keys[keys.index(part[0]) - 1]
            assert extended == [*part, before]
