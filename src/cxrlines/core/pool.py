"""Parallel map over many films in worker processes, with progress on stderr."""

import ctypes
import pickle
import platform
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

from cxrlines.core.counted import counted
from cxrlines.core.errors import Error
from cxrlines.core.processes import Child, Died, serving
from cxrlines.core.processes import cores as cores

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items in work, or done and not yet fetched, for each process: it stays busy, and memory flat."""
BEGIN_S = 300.0
"""Longest that a process may take to begin: it imports what its work needs."""

# malloc.h of glibc: the parameters of mallopt and values that never trim and never mmap.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER_TRIM, _TOP_PAD, _NO_MMAP = 2**31 - 1, 256 * 2**20, 0


def keep_buffers() -> bool:
    """Have glibc's allocator keep large buffers instead of returning them; False where there is no glibc.

    It hands large buffers back to the kernel after every use and faults them in again: at training's buffer sizes that
    costs nearly a factor of two (docs/experiments.md).
    It cannot be undone: for commands and worker processes, never in a process that called the library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_MAX, _NO_MMAP),
            (_M_TRIM_THRESHOLD, _NEVER_TRIM),
            (_M_TOP_PAD, _TOP_PAD),
        )
    )


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> Iterator[tuple[int, Result | None]]:
    """(index, work(items[index])) of every item, as they get done; None for an item whose process died of it, twice.

    An item whose process died, by a fault of a decoder or for lack of memory, is tried once more after all others, and
    alone. With one worker the work is done here, in order, and nothing outlives a crash. `work`, the items and the
    results must be picklable, and `work` importable: not of the caller's script. At most AHEAD items a worker are under
    way, however many there are. What `work` raises is raised here.
    """
    serial = ((index, work(item)) for index, item in enumerate(items))
    with counted(title) as progress:
        for count, done in enumerate(in_processes(work, items, workers) if workers > 1 else serial, 1):
            progress(count, len(items))
            yield done


def in_processes(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[int, Any]]:
    """As `in_parallel`, always in processes, without progress."""
    team, todo = Team(work), iter(range(len(items)))
    pending: dict[Future[Any], int] = {}
    died: list[int] = []
    with ThreadPoolExecutor(workers) as threads:
        try:
            while True:
                for index in islice(todo, AHEAD * workers - len(pending)):
                    pending[threads.submit(team.result, items[index])] = index
                if not pending:
                    break
                future = next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
                index = pending.pop(future)
                if isinstance(future.exception(), Died):
                    died.append(index)
                else:
                    yield index, future.result()
            team.stop()  # and with it the memory that its processes take
            team = Team(work)
            for index in died:
                yield index, team.ask(items[index])
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            team.stop()


class Team:
    """A worker process for each thread that asks, begun at its first item, and again when one died.

    `seconds`: how long an item may take before its process is ended (None: no limit).
    """

    def __init__(self, work: Callable[[Any], Any], seconds: float | None = None) -> None:
        self.work, self.seconds = pickle.dumps(work), seconds
        self.lock, self.stopped = threading.Lock(), False
        self.children: dict[int, Child] = {}  # by the thread that asks it

    def ask(self, item: Any) -> Any:
        """What the work makes of an item; None if the process died of it. Raises what the work raises."""
        try:
            return self.result(item)
        except Died:
            return None

    def result(self, item: Any) -> Any:
        """As `ask`; `Died` if the process died: a native decoder took it down, or the system did, or its time did."""
        message, me = pickle.dumps(item), threading.get_ident()
        if me not in self.children:
            self._begin(me)
        return self._answer(me, message, self.seconds)

    def stop(self) -> None:
        """End the processes; what they are at is lost."""
        with self.lock:
            self.stopped = True
            for child in self.children.values():
                child.process.kill()  # and no more: its thread is at its connection

    def _begin(self, me: int) -> None:
        with self.lock:
            if self.stopped:
                raise Error("stopped")
            self.children[me] = Child("cxrlines.core.pool")
        try:
            self._answer(me, self.work, BEGIN_S)
        except Died as died:
            raise Error(f"a worker process {died} as it began", "use fewer workers, or free memory") from None

    def _answer(self, me: int, message: bytes, seconds: float | None) -> Any:
        child = self.children[me]
        try:
            child.send(message)
            succeeded, value = pickle.loads(child.receive(seconds))  # noqa: S301 - from a child of ours
        except Died:
            with self.lock:
                self.children.pop(me).kill()
            raise
        if not succeeded:
            raise value
        return value


def serve() -> None:
    """A worker's side: first the work, then items; each is answered by (True, result) or (False, what was raised)."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to the parent
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
        pickle.loads(made)  # noqa: S301 - made here; not every exception can be made again from its arguments
    except Exception:
        made = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))
    return made
