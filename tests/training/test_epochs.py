"""Epochs: the same films whether they are trained on or shown once more for running statistics."""

import numpy as np
import pytest

from cxrlines.core.errors import Error
from cxrlines.task import LABELS
from cxrlines.training.config import ScheduleSpec
from cxrlines.training.epochs import Epochs, films_in_batch
from cxrlines.training.loader import Films, FilmSet

from .small_stages import noise_store

COUNT = 20


def epochs(**schedule) -> Epochs:
    return Epochs(COUNT, ScheduleSpec(**schedule), 7)


@pytest.fixture(scope="module")
def films() -> FilmSet:
    """Of which one has a label that is rare."""
    labels = np.zeros((COUNT, len(LABELS)), np.float32)
    labels[3, 0] = 1
    given = Films(noise_store(COUNT), np.arange(COUNT), labels, [[]] * COUNT)
    return FilmSet(given, "none", 32, seed=0, rare_below=0.9)


def test_a_whole_epoch_is_of_the_films_that_are_trained_on_rare_labels_more_often(films):
    some = epochs(batch=4, epochs=3)
    assert (some.per_epoch, some.total, some.in_batch) == (5, 15, 4)
    for epoch in range(3):
        whole = some.whole(films, epoch)
        assert whole == some.left(films, epoch, 0)
        assert whole[3:] == some.left(films, epoch, 3)
        drawn = [key.position for batch in whole for key in batch]
        assert len(drawn) == COUNT and drawn.count(3) >= 3
    assert len(some.whole(films, 3)) == 5, "one more than are trained"


def test_a_part_of_an_epoch_ends_where_training_does(films):
    some = epochs(batch=4, epochs=1.4)
    assert some.total == 7 and len(some.left(films, 0, 0)) == 5
    assert some.left(films, 1, 0) == some.whole(films, 1)[:2]


def test_a_batch_has_no_more_films_than_there_are_and_its_parts_divide_it():
    assert epochs(batch=64).in_batch == COUNT
    assert films_in_batch(COUNT, ScheduleSpec(batch=64, accumulate=4)) == COUNT
    with pytest.raises(Error, match="8 micro-batches do not divide a batch of 20, all films there are"):
        films_in_batch(COUNT, ScheduleSpec(batch=64, accumulate=8))
