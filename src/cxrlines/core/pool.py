"""The same work on many films, in several processes, with progress on stderr."""

import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, parent_process
from typing import Any, TypeVar

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxrlines.core.errors import Error
from cxrlines.core.processes import Child, Died, serving

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items in work, or done and not yet fetched, for each process: enough to keep it busy, few enough for memory to stay
flat."""


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> Iterator[tuple[int, Result | None]]:
    """(index, work(items[index])) of every item, as they get done; None for an item whose process died of it.

    With one worker the work is done here, in order, and nothing outlives a crash. `work`, the items and the results
    must be picklable, and `work` importable: not of the caller's script. At most AHEAD items a worker are under way,
    however many there are. What `work` raises is raised here.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=len(items))
        apart = workers > 1 and len(items) > 0
        for done in _pooled(work, items, min(workers, len(items))) if apart else _serial(work, items):
            progress.advance(bar)
            yield done


def _serial(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | None]]:
    for index, item in enumerate(items):
        yield index, work(item)


def _pooled(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[int, Result | None]]:
    pool = _Pool(work, items, workers)
    try:
        for _ in range(len(items)):
            yield pool.next()
    finally:
        pool.stop()


class _Pool:
    """Threads that each ask a process of their own, so that none waits for another or for who takes the results."""

    def __init__(self, work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> None:
        self.work, self.items = pickle.dumps(work), items
        self.todo, self.taking, self.stopped = iter(range(len(items))), threading.Lock(), False
        self.room = threading.Semaphore(AHEAD * workers)
        self.done: queue.SimpleQueue[tuple[int, Any] | BaseException] = queue.SimpleQueue()
        self.children: set[Child] = set()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(workers)]
        for thread in self.threads:
            thread.start()

    def next(self) -> tuple[int, Any]:
        """(index, result) of the next item that is done; raises what its work raised."""
        done = self.done.get()
        self.room.release()
        if isinstance(done, BaseException):
            raise done
        return done

    def stop(self) -> None:
        """End the processes; what they are at is lost."""
        with self.taking:
            self.stopped = True
            for child in self.children:
                child.process.kill()  # and no more: its thread is at its connection
        self.room.release(len(self.threads))
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        child = None
        try:
            while (asked := self._take()) is not None:
                index, item = asked
                child = child or self._begin()
                try:
                    child.send(item)
                    right, result = pickle.loads(child.receive())  # noqa: S301 - from a child of ours
                except Died:  # a native decoder took its process down, or the system did
                    self._end(child)
                    child, right, result = None, True, None
                self.done.put((index, result) if right else result)
        except BaseException as error:
            self.done.put(error)
        finally:
            self._end(child)

    def _take(self) -> tuple[int, bytes] | None:
        """The next item, pickled, as soon as there is room for it; None if there is none."""
        self.room.acquire()
        with self.taking:
            index = None if self.stopped else next(self.todo, None)
            return None if index is None else (index, pickle.dumps(self.items[index]))

    def _begin(self) -> Child:
        with self.taking:
            if self.stopped:
                raise Died("stopped")
            child = Child("cxrlines.core.pool")
            self.children.add(child)
        try:
            child.send(self.work)
            right, error = pickle.loads(child.receive())  # noqa: S301 - from a child of ours
        except Died:
            right, error = False, Error("a worker process ended as it began", "use fewer workers, or free memory")
        if not right:
            raise error
        return child

    def _end(self, child: Child | None) -> None:
        if child:
            with self.taking:
                self.children.remove(child)
            child.kill()


def serve() -> None:
    """A worker's side: first the work, then items; each is answered by (True, result) or (False, what was raised)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    work: list[Callable[[Any], Any]] = []

    def answer(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
        message = receive()
        try:
            value = pickle.loads(message)  # noqa: S301 - from the process that started this one
            if work:
                made = pickle.dumps((True, work[0](value)))
            else:
                work.append(value)
                made = pickle.dumps((True, None))
        except Exception as error:
            made = _pickled(error)
        send(made)

    serving(answer)


def _pickled(error: Exception) -> bytes:
    error.add_note(traceback.format_exc())
    try:
        made = pickle.dumps((False, error))
        pickle.loads(made)  # noqa: S301 - made here; not every exception can be made anew from its arguments
    except Exception:
        made = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))
    return made


def begin_worker() -> None:
    """What a process of `multiprocessing` does first: leave interrupts to the parent, use one thread, end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; what is to end, the parent decides
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, which would wait for work for ever."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)
