"""Work in other processes: the same on many films, with progress on stderr, or what may crash on one."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, Generic, TypeVar

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items in work or waiting for each process: enough to keep it busy, few enough for memory to stay flat."""


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


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


class Crash(RuntimeError):
    """The process that did the work died of it, or took longer than it may."""


class Apart(Generic[Result]):
    """A function done in a process of its own, which is kept for the next call and made anew if it dies of this one.

    For native code that aborts on damaged input instead of raising. Calls from several threads take turns.
    """

    def __init__(self, work: Callable[..., Result], seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, *arguments: Any) -> Result:
        """`work(*arguments)`; what it raises, or `Crash`."""
        with self._lock:
            self._pool = self._pool or _pool(1)
            try:
                return self._pool.submit(self.work, *arguments).result(self.seconds)
            except (BrokenProcessPool, TimeoutError) as error:
                for process in list((self._pool._processes or {}).values()):
                    process.kill()
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None
                raise Crash(type(error).__name__) from None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (torch's) can hang.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=begin_worker)


def begin_worker() -> None:
    """What every worker process does first: leave interrupts to the parent, use one thread, end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; what is to end, the parent decides
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, which would wait for work for ever."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)
