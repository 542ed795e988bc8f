"""Work on many films in batches: the next ones are decoded in threads while a batch is computed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from cxrlines.core.errors import ReadingFault
from cxrlines.core.film import FilmError
from cxrlines.core.pool import cores

In = TypeVar("In")
Made = TypeVar("Made")
Out = TypeVar("Out")
DECODERS = min(8, cores())
"""Threads that decode films while others are computed."""


def in_batches(
    films: Iterable[In],
    prepare: Callable[[In], Made | FilmError | ReadingFault],
    compute: Callable[[list[Made]], list[Out]],
    size: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[Out | FilmError | ReadingFault]:
    """What `compute` makes of films that `prepare` made ready in threads, `size` together, in their order.

    A film whose `prepare` returns an error has that in its place. Memory does not grow with their number. An exception
    that `films` raises comes after what the films before it give. After each film `progress` is called with (films
    done, films in all; None where that is not known).
    """
    count = len(films) if isinstance(films, Sized) else None
    failed: list[Exception] = []

    def given() -> Iterator[In]:
        try:
            yield from films
        except Exception as error:  # raised once what came before is read
            failed.append(error)

    done = 0
    with closing(ahead(prepare, given(), 2 * size, DECODERS)) as prepared:
        while batch := list(islice(prepared, size)):
            found = iter(compute([film for film in batch if not isinstance(film, FilmError | ReadingFault)]))
            for film in batch:
                yield film if isinstance(film, FilmError | ReadingFault) else next(found)
                done += 1
                if progress:
                    progress(done, count)
    for error in failed:
        raise error


def ahead(work: Callable[[In], Out], items: Iterable[In], count: int, threads: int) -> Generator[Out, None, None]:
    """What `work` makes of each item, in order, done in threads at most `count` items before it is asked for.

    No thread outlives this.
    """
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(threads, "ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, too, nothing more is begun
