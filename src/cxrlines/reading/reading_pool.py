"""Reading in worker processes that load a bundle once, for services: a worker that dies or hangs costs no film.

with ReadingPool(None, processes=2, timeout_s=60) as pool:
    found = pool.read(Path("film.dcm")).result()  # Findings, FilmError or ReadingFault
"""

import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from cxrlines.core.errors import Error, OverTime, ReadingFault, light
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.core.processes import Child, Died, Overdue, serving
from cxrlines.reading.results.dicom.read_by import ReadBy

Outcome = Findings | FilmError | ReadingFault
LOADING_S = 300.0
"""Longest that a worker may take to load its bundle."""
TRIES = 2
"""How often a film is tried whose worker dies or hangs."""
_PATH, _BYTES = b"path", b"bytes"


class ReadingPool:
    """A bundle's reader in processes of its own; a context manager. Threads may share it.

    Entering starts the workers and raises what loading the bundle raises. Leaving waits for the films that were given;
    leaving by an exception drops them. All workers read with the bundle that was there at first: one that finds another
    in its place does not begin.

    Args:
        bundle: Its folder; None: that of the embedded reader.
        processes: Workers, at least 1, each with the models in its memory.
        timeout_s: Seconds that a film may take, at most, before its worker counts as hanging and is ended.
        module: What the workers run, see `core.processes.Child`.
    """

    def __init__(self, bundle: Path | None, processes: int, timeout_s: float, *, module: str = __name__) -> None:
        if processes < 1 or not timeout_s > 0:
            raise ValueError(f"processes is {processes} and timeout_s {timeout_s}; at least 1, and above 0")
        self.processes, self.timeout_s = processes, timeout_s
        self._bundle, self._module = os.fsencode(bundle or ""), module
        self._lock, self._stopped, self._pending = threading.Lock(), False, 0
        self._children: set[Child] = set()
        self._read_by: ReadBy | None = None
        self._idle: SimpleQueue[Child | None] = SimpleQueue()  # None: one that is to be begun
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="reading")

    def __enter__(self) -> "ReadingPool":
        try:
            for child in list(self._threads.map(lambda _: self._begin(), range(self.processes))):
                self._idle.put(child)
        except BaseException:
            self.close(drain=False)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    @property
    def read_by(self) -> ReadBy:
        """What reads, as results name it; once entered."""
        if self._read_by is None:
            raise RuntimeError("the pool was not entered")
        return self._read_by

    @property
    def pending(self) -> int:
        """Films that were given and have no outcome yet; whoever gives films as bytes bounds memory by it."""
        return self._pending

    def read(self, source: bytes | Path) -> "Future[Outcome]":
        """The findings of a film, given as its file's bytes or its path, once they are there.

        The result is the film's `FilmError` where it cannot be read, and a `ReadingFault` where that is no fault of
        the film's, or where reading it ended or outlasted its worker twice (the latter: `OverTime`); the future raises
        nothing. It may be cancelled until a worker takes it. `RuntimeError` after `close`.
        """
        with self._lock:
            self._pending += 1
        try:
            future = self._threads.submit(self._read, source)
        except RuntimeError:
            self._count_down()
            raise
        future.add_done_callback(lambda _: self._count_down())
        return future

    def close(self, *, drain: bool = True) -> None:
        """End the workers, with `drain` once every film given is read; without, futures are cancelled or end in a
        `ReadingFault`."""
        self._threads.shutdown(wait=drain, cancel_futures=not drain)  # first: whose worker dies takes the next film
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.process.kill()  # and no more: a thread may be at its connection
        self._threads.shutdown()
        for child in self._children:
            child.kill()

    def _read(self, source: bytes | Path) -> Outcome:
        message = (_BYTES, source) if isinstance(source, bytes) else (_PATH, os.fsencode(source))
        name, why, kind = "the film" if isinstance(source, bytes) else str(source), "", ReadingFault
        child = self._idle.get()  # never waits: there are as many as threads
        try:
            for _ in range(TRIES):
                try:
                    child = child or self._begin()
                    child.send(*message)
                    return _whole(pickle.loads(child.receive(self.timeout_s)))  # noqa: S301 - from a child of ours
                except Died as died:
                    why, kind = str(died), OverTime if isinstance(died, Overdue) else ReadingFault
                except Error as error:  # a worker cannot begin
                    why, kind = str(error), ReadingFault
                if child is not None:
                    self._end(child)
                    child = None
                if self._stopped:
                    return ReadingFault(f"{name}: not read, as reading was stopped before")
            return kind(f"{name}: not read in {TRIES} tries; the last worker process: {why}")
        finally:
            self._idle.put(child)

    def _begin(self) -> Child:
        with self._lock:
            if self._stopped:
                raise Error("stopped")
            child = Child(self._module)
            self._children.add(child)
        try:
            child.send(self._bundle)
            loaded = pickle.loads(child.receive(LOADING_S))  # noqa: S301 - from a child of ours
        except Died as died:
            self._end(child)
            what = f"a worker process {died} as it loaded the bundle"
            raise Error(what, "use fewer processes, or free memory") from None
        if isinstance(loaded, Error):
            self._end(child)
            raise loaded
        with self._lock:
            self._read_by = self._read_by or loaded
        if loaded != self._read_by:
            self._end(child)
            what = f"the bundle was exchanged for {loaded.weights} while {self._read_by.weights} was in use"
            raise Error(what, "start again to read with the new one, or put the old one back")
        return child

    def _end(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)
        child.kill()

    def _count_down(self) -> None:
        with self._lock:
            self._pending -= 1


def _whole(outcome: Outcome) -> Outcome:
    """As it was made: arrays that have travelled can be written to."""
    if not isinstance(outcome, Findings):
        return outcome
    landmarks = {landmark: replace(point) for landmark, point in outcome.landmarks.items()}
    return replace(outcome, lines=tuple(replace(line) for line in outcome.lines), landmarks=landmarks)


def serve() -> None:
    """A worker's side: first the bundle's folder, answered by what reads, or what was raised; then films."""
    import cv2

    from cxrlines.core.pool import keep_buffers
    from cxrlines.reading.engines.choice import engine_name
    from cxrlines.reading.reader import Reader, load_reader

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    keep_buffers()
    cv2.setNumThreads(1)
    reader: list[Reader] = []

    def answer(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
        kind = receive()
        if not reader:
            loaded: ReadBy | Error
            try:
                made = load_reader(os.fsdecode(kind) or None)
                loaded = ReadBy.of(made.bundle, engine_name(made.bundle), made.tta)
                reader.append(made)
            except Error as error:
                loaded = light(error)
            send(pickle.dumps(loaded))
            return
        given = receive()
        (outcome,) = reader[0].read_many([given if kind == _BYTES else Path(os.fsdecode(given))])
        send(pickle.dumps(outcome))

    serving(answer)
