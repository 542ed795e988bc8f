"""A DICOM node beside a PACS: films come in by C-STORE, are read, and their results go out.

Whatever is taken in is in the queue before it is answered, and leaves it once it is delivered: a kill at any moment
costs nothing but work done twice, and the same work gives the same objects.
"""

import queue as queues
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import NamedTuple

from cxrlines.core.errors import ReadingFault
from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.findings import Findings
from cxrlines.io.dicom.header import VIEW_KEYWORDS, parse, view_of
from cxrlines.io.dicom.origin import ORIGIN_KEYWORDS, own_or_derived
from cxrlines.io.prepare import LATERAL
from cxrlines.pacs.audit_log import AuditLog
from cxrlines.pacs.delivery import Destination, Unreachable, Verdict, destinations_of, pause_s
from cxrlines.pacs.film_queue import MAX_TRIES, FilmQueue, Parcel, QueuedFilm
from cxrlines.pacs.node_settings import NodeSettings
from cxrlines.pacs.queue_database import FilmState, held
from cxrlines.pacs.receiver import Receiver
from cxrlines.pacs.result_writers import Made, Order, ResultWriters, Written, unread
from cxrlines.pacs.status_page import status_page
from cxrlines.reading.reading_pool import Outcome, ReadingPool
from cxrlines.reading.results.dicom.objects import Kind, Replaced
from cxrlines.reading.urgency import is_urgent

AHEAD = 3
"""Films under way for each process that reads: one is read, one is ready, of one the results are written."""
FAULTS = 3
"""How often a film is given to the pool whose reading fails by no fault of its own."""
BATCH = 12
"""Results an association; urgent ones that come meanwhile go before the next batch."""
POLL_S = 1.0
"""How often the queue is looked into all the same: another process may have changed it (`--retry`)."""
STOP_S = 45.0
"""How long results on their way are waited for at the end; then they are cut off, to be sent again."""
NO_RESULT = "has no result of the kinds in `results`"
"""Why a film is skipped that none of the wanted kinds of results is made of."""
DISK_ERRORS = (OSError, OutputError, sqlite3.Error)


def run_node(
    settings: NodeSettings,
    stop: threading.Event,
    *,
    listening: Callable[[int], None] = lambda port: None,
    worker: str = "cxrlines.reading.reading_pool",
) -> None:
    """Run a node until `stop` is set; then what is being read and sent is finished, and the rest stays in the queue.

    Args:
        settings: What it is to do.
        stop: Ends it.
        listening: Called with the port once films are accepted.
        worker: The module of the reading processes, see `ReadingPool`.

    Raises:
        Error: The queue's folder is another node's, the port is taken, a file of the settings cannot be used.
    """
    destinations = destinations_of(settings.to, settings.stow, settings.aet, settings.stow_token, settings.tls_to)
    names = [destination.name for destination in destinations]
    with (
        held(settings.queue),
        ReadingPool(settings.bundle, settings.processes, settings.film_s, module=worker) as pool,
        closing(FilmQueue(settings.queue, model=pool.read_by.fingerprint, keep=settings.keep)) as queue,
        closing(AuditLog(settings.queue)) as audit,
        closing(ResultWriters(settings.processes, settings.film_s)) as writers,
        status_page(settings.status_host, settings.status_port, f"{settings.aet}: the node's queue", queue.status),
    ):
        queue.resume(names)
        couriers = [Courier(queue, audit, destination, stop) for destination in destinations]
        reading = _Reading(queue, audit, pool, writers, couriers, settings.results)
        receiver = Receiver(settings, queue, audit, reading.arrived)
        try:
            audit.write("started", reads=pool.read_by.name)
            for courier in couriers:
                courier.start()
            listening(receiver.port)
            reading.run(stop)
        finally:
            stop.set()
            receiver.close()
            end_all(couriers)
            audit.write("stopped")


class _Done(NamedTuple):
    """A film whose reading has ended; `made` is its results, where it has any."""

    film: QueuedFilm
    outcome: Outcome
    made: Made | None = None


class _Reading:
    """Films of the queue through the pool and the writers, and their results into the queue."""

    def __init__(
        self,
        queue: FilmQueue,
        audit: AuditLog,
        pool: ReadingPool,
        writers: ResultWriters,
        couriers: Sequence["Courier"],
        kinds: tuple[Kind, ...],
    ) -> None:
        self._queue, self._audit, self._pool, self._writers, self._couriers = queue, audit, pool, writers, couriers
        self._kinds = kinds
        self._done: queues.SimpleQueue[_Done | None] = queues.SimpleQueue()
        self._in_flight = 0

    def arrived(self) -> None:
        """A film is in the queue."""
        self._done.put(None)

    def run(self, stop: threading.Event) -> None:
        """Read until `stop`, and what was begun until then to its end."""
        while self._in_flight or not stop.is_set():
            try:
                if not stop.is_set():
                    self._begin()
                done = self._done.get(timeout=POLL_S)
            except queues.Empty:
                continue
            except DISK_ERRORS as error:
                self._audit.write("disk error", error=type(error).__name__)
                stop.wait(POLL_S)
                continue
            if done is None:
                continue
            try:
                self._finish(done)
                self._in_flight -= 1
            except DISK_ERRORS as error:
                self._audit.write("disk error", film=done.film.number, error=type(error).__name__)
                if stop.wait(POLL_S):
                    self._in_flight -= 1  # it is read again after the next start
                elif isinstance(done.made, Exception) and not isinstance(done.outcome, ReadingFault):
                    self._write(done.film, done.outcome)
                else:
                    self._done.put(done)

    def _begin(self) -> None:
        """Give the pool the next films, so many that it has `AHEAD` for each of its processes."""
        free = AHEAD * self._pool.processes - self._in_flight
        for film in self._queue.take(free) if free > 0 else ():
            self._in_flight += 1
            try:
                if (why := why_not_read(film.path.read_bytes())) is not None:
                    self._give_up(film, FilmState.SKIPPED, why)
                    self._in_flight -= 1
                    continue
            except DISK_ERRORS as error:
                self._done.put(_Done(film, unread(error)))
                continue
            future = self._pool.read(film.path)
            future.add_done_callback(lambda future, film=film: self._after_reading(film, future))  # type: ignore[misc]

    def _after_reading(self, film: QueuedFilm, future: "Future[Outcome]") -> None:
        """Called by a thread of the pool once a film is read."""
        outcome = future.result()
        if isinstance(outcome, NotAFilm | ReadingFault):
            self._done.put(_Done(film, outcome))
        else:
            self._write(film, outcome)

    def _write(self, film: QueuedFilm, outcome: Findings | FilmError) -> None:
        """Have the results of a film written."""
        found = _said(film, outcome) if isinstance(outcome, FilmError) else outcome

        def order() -> Order:
            earlier = tuple(Replaced(Kind(kind), *uids) for kind, *uids in self._queue.earlier_results(film))
            self._queue.note_study(film, parse(film.path.read_bytes(), ("StudyInstanceUID",)).text("StudyInstanceUID"))
            places = self._queue.result_places(film, len(self._kinds))
            return Order(film.path, found, self._pool.read_by, earlier, self._kinds, places)

        future = self._writers.write(order)
        future.add_done_callback(lambda future: self._done.put(_Done(film, outcome, future.result())))

    def _finish(self, done: _Done) -> None:
        """Put what became of a film into the queue. Raises one of `DISK_ERRORS` where its results were not written."""
        film, outcome, made = done
        if isinstance(outcome, NotAFilm):
            return self._give_up(film, FilmState.SKIPPED, outcome.kind)
        problem = outcome if isinstance(outcome, ReadingFault) else made
        if isinstance(problem, tuple) and problem:
            return self._has_results(film, outcome, problem)
        if isinstance(problem, tuple):  # what is not read has a report alone
            why = f"{NO_RESULT}: {_said(film, outcome)}" if isinstance(outcome, FilmError) else NO_RESULT
            return self._give_up(film, FilmState.SKIPPED, why)
        if isinstance(problem, DISK_ERRORS):
            raise problem
        if isinstance(problem, ReadingFault) and film.tries + 1 < FAULTS:
            self._queue.put_back(film)
            self._audit.write("to be read again", film=film.number)
        else:
            self._give_up(film, FilmState.DEAD, _said(film, problem))

    def _give_up(self, film: QueuedFilm, state: FilmState, why: str) -> None:
        """End with a film without results."""
        self._queue.give_up(film, state, why)
        self._audit.write(state.value, film=film.number, why=why)

    def _has_results(self, film: QueuedFilm, outcome: Outcome, results: Sequence[Written]) -> None:
        """The results of a film, which are on disk, are to be delivered."""
        urgent = isinstance(outcome, Findings) and is_urgent(outcome, self._pool.read_by)
        self._queue.add_results(film, results, urgent, [courier.destination.name for courier in self._couriers])
        took = {"reading_ms": round(1000 * outcome.seconds)} if isinstance(outcome, Findings) else {}
        self._audit.write("read", film=film.number, urgent=int(urgent), results=len(results), **took)
        for courier in self._couriers:
            courier.wake.set()


def why_not_read(film: bytes) -> str | None:
    """Why a DICOM file of a class of films is none to be read, by its header; None: it is read."""
    header = parse(film, (*ORIGIN_KEYWORDS, *VIEW_KEYWORDS))
    if (kind := own_or_derived(header)) is not None:
        return kind
    return "lateral film, by its header" if view_of(header) in LATERAL else None


def _said(film: QueuedFilm, problem: object) -> str:
    """What is wrong with a film, without its place in the queue."""
    return str(problem).removeprefix(f"{film.path}: ")


class Courier(threading.Thread):
    """Takes results to one destination, urgent ones first, until `stop`.

    What it defers waits, longer each time, while others go; the destination itself is left alone for longer and
    longer while it answers nothing but that.
    """

    def __init__(self, queue: FilmQueue, audit: AuditLog, destination: Destination, stop: threading.Event) -> None:
        super().__init__(name=f"to {destination.name}", daemon=True)
        self.destination, self.wake = destination, threading.Event()
        self._queue, self._audit, self._stop_event = queue, audit, stop
        self._rng = random.Random()
        self._deferred: dict[int, float] = {}  # numbers of results that were deferred, until when (`time.monotonic`)
        self._answered = False

    def run(self) -> None:
        """Deliver, and pause longer and longer while that fails."""
        failures = 0
        while not self._stop_event.is_set():
            self._answered = False
            try:
                trouble = self._deliver()
            except Unreachable as error:
                trouble = str(error)
            except Exception as error:  # a full disk, a fault of ours: the results stay where they are
                trouble = f"{type(error).__name__} here"
            failures = failures + 1 if trouble and not self._answered else 0
            if trouble and failures == 1:
                self._audit.write("not delivered", to=self.destination.name, why=trouble)
            try:
                if trouble:
                    self._queue.set_problem(self.destination.name, trouble)
                else:
                    self._queue.clear_problem(self.destination.name)
            except sqlite3.Error:
                failures += 1
            if failures:
                self._stop_event.wait(pause_s(failures, self._rng))
            elif trouble is None:
                self.wake.wait(POLL_S)
                self.wake.clear()

    def _deliver(self) -> str | None:
        """One batch; what is wrong with it, "" if nothing, None where nothing is to be sent now."""
        name, now = self.destination.name, time.monotonic()
        self._deferred = {number: end for number, end in self._deferred.items() if end > now}
        parcels = self._queue.waiting(name, BATCH, self._deferred)
        if not parcels:
            return None
        for lost in (parcel for parcel in parcels if not parcel.path.is_file()):
            self._queue.refused(lost, "its file is gone")
        parcels = [parcel for parcel in parcels if parcel.path.is_file()]
        trouble = ""
        with closing(self.destination.send([parcel.path for parcel in parcels])) as answers:  # type: ignore[type-var]
            for parcel in parcels:
                if self._stop_event.is_set():
                    break
                self._queue.begin(parcel)
                if (answer := next(answers, None)) is None:
                    break
                verdict, reason = answer
                self._answered = self._answered or verdict is not Verdict.DEFERRED
                self._deferred.pop(parcel.number, None)
                match verdict:
                    case Verdict.TAKEN:
                        self._queue.delivered(parcel, reason)
                    case Verdict.REFUSED:
                        self._queue.refused(parcel, reason)
                    case Verdict.DEFERRED:
                        self._queue.defer(parcel, reason)
                        self._defer(parcel)
                        trouble = f"defers results ({reason})"
                facts: dict[str, str | int] = {"film": parcel.film, "result": parcel.number, "to": name}
                self._audit.write(verdict.value, **facts | ({"why": reason} if reason else {}))
        return trouble

    def _defer(self, parcel: Parcel) -> None:
        """Leave a result that was deferred alone for a while: seconds at first, up to an hour, hours in all."""
        tries = parcel.tries + 1
        if tries < MAX_TRIES:  # then it is a dead letter
            self._deferred[parcel.number] = time.monotonic() + (tries + 1) * pause_s(tries, self._rng)


def end_all(couriers: Sequence[Courier]) -> None:
    """Wait, after a stop, for what couriers are sending; what takes longer than `STOP_S` is cut off."""
    for courier in couriers:
        courier.wake.set()
    for late in (False, True):
        end = time.monotonic() + STOP_S
        for courier in filter(Courier.is_alive, couriers):
            if late:
                courier.destination.cut()
            courier.join(max(0.0, end - time.monotonic()))
