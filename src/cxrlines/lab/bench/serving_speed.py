"""Speed of the services, `serve` and `listen`: started here as processes of their own, used by many at once."""

import http.client
import io
import json
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pydicom
from pydicom.uid import UID
from pynetdicom import AE, build_context

from cxrlines.core.errors import Error
from cxrlines.core.pool import cores
from cxrlines.core.processes import Child
from cxrlines.io.films import read_film
from cxrlines.lab.bench.measured_films import BenchError, film_files
from cxrlines.lab.bench.result_sink import AET, Arrival
from cxrlines.lab.bench.service_process import Service, service
from cxrlines.lab.intact_films import as_dicom
from cxrlines.pacs.audit_log import AUDIT
from cxrlines.pacs.queue_database import FilmState, QueueDatabase

Answer = TypeVar("Answer")
DISTINCT = 6
"""Different films, at most; each is sent again and again, to the node as a film of its own."""
SPACING_MM = 0.14
STALLED_S = 300.0
"""Without any progress for so long the measurement ends."""
ROOT = "1.2.826.0.1.3680043.10.1.9"
"""What the films' UIDs begin with; they never leave this computer."""


class Asked(NamedTuple):
    """A request to the API: how long it took (s), and the findings; None where there were none."""

    seconds: float
    findings: dict[str, Any] | None


class Sent(NamedTuple):
    """A film sent to the node: when (s), how long its C-STORE took, and whether it was accepted."""

    begun: float
    seconds: float
    accepted: bool


def bench_serve(
    films: int,
    clients: int,
    *,
    folder: Path | None = None,
    bundle: Path | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Throughput and latency of the HTTP API and of the DICOM node, whose clients each send a film after the other.

    The films are phantoms of 2,500 x 3,000 px, or the first ones of a folder, as uncompressed DX films in DICOM. One
    more is sent before, unmeasured. Clients, service and destination share the machine. The node keeps what it has not
    read in a temporary folder: 7.5 MB a phantom.

    Args:
        progress: Called with (films done, films in all), where each film is done once by the API and once by the node.

    Returns:
        films, clients, processes (that read), cores; and for `api` and `node`:
        films_per_s: until all are answered, or all their results delivered.
        latency_s: median, p95, p99 of a request; for the node from before its C-STORE until its last result is there.
        reading_share: of the time of the reading processes, what they read; the rest they wait.
        lost: films without an answer, or without results.
        wrong: with other findings than that film's first; for the node, with another number of results, or one twice.
        For the node also store_s: median, p95, p99 of the C-STORE of a film.

    Raises:
        BenchError: no film to measure with, or a service that stalls. Error: one that does not start.
    """
    made = [_as_dx(file) for file in film_files(min(films, DISTINCT), folder)]
    if not made:
        raise BenchError(f"{folder}: holds no film", "name a folder of chest films")
    used = processes or max(1, cores() // 2)
    flags = ["--processes", str(used), *(["--bundle", str(bundle)] if bundle else [])]
    return {
        "films": films,
        "clients": clients,
        "processes": used,
        "cores": cores(),
        "api": _api(made, films, clients, flags, used, lambda done: progress(done, 2 * films)),
        "node": _node(made, films, clients, flags, used, lambda done: progress(films + done, 2 * films)),
    }


def _api(
    made: Sequence[bytes], films: int, clients: int, flags: list[str], processes: int, progress: Callable[[int], None]
) -> dict[str, Any]:
    with service(["serve", "--port", "0", *flags], r"http://\S+") as running:
        place = urlsplit(running.found)

        @contextmanager
        def client() -> Iterator[Callable[[int], Asked]]:
            with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=STALLED_S)) as line:
                yield lambda number: _ask(line, made[number % len(made)])

        answers, wall = _from_clients(client, films, clients, progress)
    found = [answer.findings for answer in answers]
    reading = sum(each.pop("seconds") for each in found if each)
    return {
        "films_per_s": round(films / wall, 2),
        "latency_s": _spread([answer.seconds for answer in answers]),
        "reading_share": round(reading / (wall * processes), 3),
        "lost": found.count(None),
        "wrong": sum(each is not None and each != found[k % len(made)] for k, each in enumerate(found)),
    }


def _ask(line: http.client.HTTPConnection, film: bytes) -> Asked:
    """Ask for a film's findings, again and again while the server is busy."""
    begun = time.monotonic()
    while True:
        line.request("POST", "/v1/read", film, {"Content-Type": "application/dicom"})
        response = line.getresponse()
        body = response.read()
        if response.status != 429:
            return Asked(time.monotonic() - begun, json.loads(body) if response.status == 200 else None)
        time.sleep(int(response.headers["Retry-After"]))


def _node(
    made: Sequence[bytes], films: int, clients: int, flags: list[str], processes: int, progress: Callable[[int], None]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cxrlines-bench-") as folder, _sink() as (destination, arrivals):
        queue, config = Path(folder) / "queue", Path(folder) / "node.toml"
        settings = {"aet": "CXRLINES", "port": _free_port(), "queue": "queue", "to": [f"{AET}@127.0.0.1:{destination}"]}
        settings |= {"associations": clients + 1, "free_mib": 0}
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), "utf-8")
        with service(["listen", "--config", str(config), *flags], "listening") as running:

            @contextmanager
            def client() -> Iterator[Callable[[int], Sent]]:
                with _association(int(str(settings["port"]))) as store:
                    yield lambda number: _send(store, made[number % len(made)], number)

            sent, _ = _from_clients(client, films, clients)
            _until_settled(running, queue, films + 1, progress)
        by_study: dict[str, list[Arrival]] = {}
        for arrival in arrivals():
            by_study.setdefault(arrival.study, []).append(arrival)
        reading = _reading_s(queue / AUDIT)
    results = [by_study.get(_uid(number, "study"), []) for number in range(films)]
    last = [max((each.when for each in came), default=None) for came in results]
    begun, ended = min(each.begun for each in sent), max((when for when in last if when), default=float("inf"))
    numbers = [len({each.instance for each in came}) for came in results]
    return {
        "films_per_s": round(films / (ended - begun), 2),
        "latency_s": _spread([when - each.begun for when, each in zip(last, sent, strict=True) if when is not None]),
        "store_s": _spread([each.seconds for each in sent]),
        "reading_share": round(reading / ((ended - begun) * processes), 3),
        "lost": sum(not each.accepted or not count for each, count in zip(sent, numbers, strict=True)),
        "wrong": sum(
            0 < count != numbers[k % len(made)] or len(results[k]) != count for k, count in enumerate(numbers)
        ),
    }


def _uid(number: int, what: str) -> UID:
    """A UID of the film of that number."""
    return UID(f"{ROOT}.{number}.{('study', 'series', 'instance').index(what) + 1}")


def _send(store: Callable[[pydicom.Dataset], pydicom.Dataset], template: bytes, number: int) -> Sent:
    film = pydicom.dcmread(io.BytesIO(template))
    film.StudyInstanceUID, film.SeriesInstanceUID = _uid(number, "study"), _uid(number, "series")
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = _uid(number, "instance")
    begun = time.monotonic()
    status = store(film)
    return Sent(begun, time.monotonic() - begun, status.get("Status") == 0)


@contextmanager
def _association(port: int) -> Iterator[Callable[[pydicom.Dataset], pydicom.Dataset]]:
    """What sends a film to the node by C-STORE."""
    entity = AE(ae_title="BENCH")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = STALLED_S
    context = build_context("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1")
    line = entity.associate("127.0.0.1", port, [context], "CXRLINES")
    if not line.is_established:
        raise BenchError("the node takes no association", "try it on a machine that is less busy")
    try:
        yield line.send_c_store
    finally:
        line.release()


@contextmanager
def _sink() -> Iterator[tuple[int, Callable[[], list[Arrival]]]]:
    """The port of a destination of results, and what tells what arrived there."""
    child = Child("cxrlines.lab.bench.result_sink")

    def ask() -> Any:
        child.send(b"")
        return pickle.loads(child.receive(STALLED_S))  # noqa: S301 - from a child of ours

    try:
        yield ask(), ask
    finally:
        child.kill()


def _until_settled(running: Service, queue: Path, films: int, progress: Callable[[int], None]) -> None:
    """Until so many films have come to an end, and their results with them; the first is the unmeasured one."""
    ends = (FilmState.DELIVERED, FilmState.DEAD, FilmState.SKIPPED)
    seen, since = -1, time.monotonic()
    with closing(QueueDatabase(queue)) as base:
        while (settled := sum(base.status()["films"][end] for end in ends)) < films:
            running.check()
            if settled != seen:
                seen, since = settled, time.monotonic()
                progress(max(0, settled - 1))
            if time.monotonic() - since > STALLED_S:
                raise BenchError(f"the node settled {settled} of {films} films, and no more", f"see its {AUDIT}")
            time.sleep(0.2)


def _reading_s(audit: Path) -> float:
    lines = (json.loads(line) for line in audit.read_text("utf-8").splitlines())
    return sum(line.get("reading_ms", 0) for line in lines if line["event"] == "read") / 1000


def _from_clients(
    client: Callable[[], AbstractContextManager[Callable[[int], Answer]]],
    films: int,
    clients: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Answer], float]:
    """What is answered to films 0, 1, 2 ... in that order, and the time it took; one more is asked for before."""
    with client() as ask:
        ask(films)
    answers: dict[int, Answer] = {}
    problems: list[Exception] = []
    numbers, turn, ended = iter(range(films)), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            with client() as ask:
                while True:
                    with turn:
                        number = next(numbers, None)
                    if number is None or problems or ended.is_set():
                        return
                    answers[number] = ask(number)
                    with turn:
                        progress(len(answers))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        ended.set()  # by Ctrl-C clients may be at work
    if problems:
        raise problems[0] if isinstance(problems[0], Error) else BenchError(f"a client failed: {problems[0]!r}")
    return [answers[number] for number in range(films)], time.monotonic() - begun


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    found = np.percentile(seconds, (50, 95, 99)) if seconds else [float("nan")] * 3
    return {name: round(float(value), 3) for name, value in zip(("median", "p95", "p99"), found, strict=True)}


def _as_dx(file: bytes) -> bytes:
    pixels = read_film(file).pixels
    return as_dicom(pixels, 8, ViewPosition="AP", Modality="DX", ImagerPixelSpacing=[SPACING_MM] * 2)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
