"""The same work on many films, in several processes, with progress on stderr."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items in work or waiting for each process: enough to keep it busy, few enough for memory to stay flat."""


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> Iterator[tuple[int, Result | None]]:
    """(index, work(items[index])) of every item, as they get done; None for an item whose process died of it.

    With one worker the work is done here, in order, and nothing outlives a crash. `work` and the items must be
    picklable. At most AHEAD items a worker are under way, however many there are.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=len(items))
        for done in _serial(work, items) if workers <= 1 else _pooled(work, items, workers):
            progress.advance(bar)
            yield done


def _serial(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | None]]:
    for index, item in enumerate(items):
        yield index, work(item)


def _pooled(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[int, Result | None]]:
    todo = deque(range(len(items)))
    waiting: dict[Future[Result], int] = {}
    pool = _pool(workers)
    try:
        while todo or waiting:
            try:
                while todo and len(waiting) < AHEAD * workers:
                    waiting[pool.submit(work, items[todo[0]])] = todo[0]
                    todo.popleft()
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    yield waiting.pop(future), result
            except BrokenProcessPool:
                # A native decoder took its process down, and with it the pool: each item under way by itself, then on.
                suspects = sorted(waiting.values())
                waiting.clear()
                pool.shutdown(cancel_futures=True)
                for index in suspects:
                    yield index, _alone(work, items[index])
                pool = _pool(workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(work: Callable[[Item], Result], item: Item) -> Result | None:
    with _pool(1) as pool:
        try:
            return pool.submit(work, item).result()
        except BrokenProcessPool:
            return None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (torch's) can hang.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))
