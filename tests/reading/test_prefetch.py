"""Batches of films, prepared in threads: their order, errors in their place, and no thread that is left."""

import threading
from collections.abc import Iterator

import pytest

from cxrlines.core.film import FilmError
from cxrlines.reading.prefetch import in_batches


def prepared(film: int) -> int | FilmError:
    return film if film % 4 else FilmError(f"film {film}")


def squares(films: list[int]) -> list[int]:
    return [film**2 for film in films]


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("size", [1, 3, 20])
def test_every_film_has_its_own_in_its_place(size: int) -> None:
    done: list[tuple[int, int | None]] = []
    found = list(in_batches(range(10), prepared, squares, size, lambda *now: done.append(now)))
    for film, one in enumerate(found):
        assert str(one) == f"film {film}" if isinstance(one, FilmError) else one == film**2
    assert [isinstance(one, FilmError) for one in found] == [film % 4 == 0 for film in range(10)]
    assert done == [(k, 10) for k in range(1, 11)]


def test_batches_are_full_but_for_the_last_and_hold_no_errors() -> None:
    batches: list[list[int]] = []

    def compute(films: list[int]) -> list[int]:
        batches.append(films)
        return films

    list(in_batches(iter(range(10)), prepared, compute, 4))
    assert batches == [[1, 2, 3], [5, 6, 7], [9]]


def test_an_exception_of_the_films_comes_after_what_was_before_it() -> None:
    def films() -> Iterator[int]:
        yield from (1, 2, 3)
        raise LookupError("the archive is gone")

    found = in_batches(films(), prepared, squares, 2)
    assert [next(found) for _ in range(3)] == [1, 4, 9]
    with pytest.raises(LookupError, match="the archive is gone"):
        next(found)
    assert decoders() == []


def test_no_thread_and_no_more_than_two_batches_are_ahead_of_one_that_is_stopped() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    reading = in_batches(endless(), prepared, squares, 2)
    assert next(reading) == 1 and taken <= 7
    reading.close()  # type: ignore[attr-defined]
    assert decoders() == []
