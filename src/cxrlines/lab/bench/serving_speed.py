"""Speed of the services, `serve` and `listen`: started here as processes of their own, used by many clients at once."""

import http.client
import io
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pydicom
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
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
UID_ROOT = "1.2.826.0.1.3680043.10.1.9"
"""What the films' UIDs begin with; they never leave this computer."""
STUDY, SERIES, INSTANCE = 1, 2, 3
"""The last component of a film's UIDs."""


@dataclass(frozen=True)
class Load:
    """What a service is measured with: `films` requests by `clients` at once.

    Attributes:
        distinct: The different films, as DICOM files; film k is `distinct[k % len(distinct)]`.
        processes: Reading processes of the service.
        flags: What its command is given besides.
    """

    distinct: Sequence[bytes]
    films: int
    clients: int
    processes: int
    flags: Sequence[str] = ()

    def film(self, number: int) -> bytes:
        """The DICOM file of a film, before it is given UIDs of its own."""
        return self.distinct[number % len(self.distinct)]


class ApiAnswer(NamedTuple):
    """The API's answer to a film: how long it took (s), and the findings; None where there were none."""

    seconds: float
    findings: dict[str, Any] | None


class StoreAnswer(NamedTuple):
    """The node's answer to a C-STORE: when it was sent (s, monotonic), how long it took, whether it was accepted."""

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
    distinct = [_dx_file(file) for file in film_files(min(films, DISTINCT), folder)]
    if not distinct:
        raise BenchError(f"{folder}: holds no film", "name a folder of chest films")
    processes = processes or max(1, cores() // 2)
    flags = ["--processes", str(processes), *(["--bundle", str(bundle)] if bundle else [])]
    load = Load(distinct, films, clients, processes, flags)
    return {
        "films": films,
        "clients": clients,
        "processes": processes,
        "cores": cores(),
        "api": measure_api(load, lambda done: progress(done, 2 * films)),
        "node": measure_node(load, lambda done: progress(films + done, 2 * films)),
    }


def measure_api(load: Load, progress: Callable[[int], None]) -> dict[str, Any]:
    """The figures of `api`, see `bench_serve`; `progress` is called with the number of films answered."""
    with service(["serve", "--port", "0", *load.flags], r"http://\S+") as running:
        address = urlsplit(running.ready_text)

        @contextmanager
        def client() -> Iterator[Callable[[int], ApiAnswer]]:
            with closing(
                http.client.HTTPConnection(str(address.hostname), address.port, timeout=STALLED_S)
            ) as connection:
                yield lambda number: _post_film(connection, load.film(number))

        answers, wall = send_from_clients(client, load.films, load.clients, progress)
    findings = [answer.findings for answer in answers]
    reading = sum(each.pop("seconds") for each in findings if each)  # it differs each time; the rest must not
    return {
        "films_per_s": round(load.films / wall, 2),
        "latency_s": _percentiles([answer.seconds for answer in answers]),
        "reading_share": round(reading / (wall * load.processes), 3),
        "lost": findings.count(None),
        "wrong": sum(each is not None and each != findings[k % len(load.distinct)] for k, each in enumerate(findings)),
    }


def _post_film(connection: http.client.HTTPConnection, film: bytes) -> ApiAnswer:
    """Ask for a film's findings, again and again while the server is busy."""
    begun = time.monotonic()
    while True:
        connection.request("POST", "/v1/read", film, {"Content-Type": "application/dicom"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 429:
            return ApiAnswer(time.monotonic() - begun, json.loads(body) if response.status == 200 else None)
        time.sleep(int(response.headers["Retry-After"]))


def measure_node(load: Load, progress: Callable[[int], None]) -> dict[str, Any]:
    """The figures of `node`, see `bench_serve`; `progress` is called with the number of films that are settled."""
    with tempfile.TemporaryDirectory(prefix="cxrlines-bench-") as folder, _result_sink() as (sink_port, arrivals):
        queue, config, port = Path(folder) / "queue", Path(folder) / "node.toml", _free_port()
        settings: dict[str, Any] = {"aet": "CXRLINES", "port": port, "queue": "queue", "free_mib": 0}
        settings |= {"to": [f"{AET}@127.0.0.1:{sink_port}"], "associations": load.clients + 1}
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), "utf-8")
        with service(["listen", "--config", str(config), *load.flags], "listening") as running:

            @contextmanager
            def client() -> Iterator[Callable[[int], StoreAnswer]]:
                with _association(port) as store:
                    yield lambda number: _store_film(store, load.film(number), number)

            answers, _ = send_from_clients(client, load.films, load.clients)
            _wait_until_settled(running, queue, load.films + 1, progress)
        return _node_figures(load, answers, arrivals(), _reading_seconds(queue / AUDIT))


def _node_figures(
    load: Load, answers: Sequence[StoreAnswer], arrivals: Sequence[Arrival], reading: float
) -> dict[str, Any]:
    """The figures from what was sent, in the order of films, and from the results that came of it, in any order.

    `reading`: seconds that all processes together spent on reading.
    """
    of_study: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        of_study.setdefault(arrival.study, []).append(arrival)
    results = [of_study.get(_uid(number, STUDY), []) for number in range(load.films)]
    last_arrival = [max((result.when for result in each), default=None) for each in results]
    latencies = [when - answer.begun for when, answer in zip(last_arrival, answers, strict=True) if when is not None]
    begun = min(answer.begun for answer in answers)
    wall = max((when for when in last_arrival if when is not None), default=float("inf")) - begun
    distinct = [len({result.instance for result in each}) for each in results]  # results, sent twice or not
    wrong = 0
    for number, (count, each) in enumerate(zip(distinct, results, strict=True)):
        sent_twice = len(each) != count
        unlike_the_first = count > 0 and count != distinct[number % len(load.distinct)]
        wrong += sent_twice or unlike_the_first
    return {
        "films_per_s": round(load.films / wall, 2),
        "latency_s": _percentiles(latencies),
        "store_s": _percentiles([answer.seconds for answer in answers]),
        "reading_share": round(reading / (wall * load.processes), 3),
        "lost": sum(not answer.accepted or not count for answer, count in zip(answers, distinct, strict=True)),
        "wrong": wrong,
    }


def _uid(number: int, level: int) -> UID:
    """A UID of a film: of its `STUDY`, `SERIES` or `INSTANCE`."""
    return UID(f"{UID_ROOT}.{number}.{level}")


def _store_film(store: Callable[[pydicom.Dataset], pydicom.Dataset], file: bytes, number: int) -> StoreAnswer:
    """Send a DICOM file by C-STORE, as the film of that number."""
    film = pydicom.dcmread(io.BytesIO(file))
    film.StudyInstanceUID, film.SeriesInstanceUID = _uid(number, STUDY), _uid(number, SERIES)
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = _uid(number, INSTANCE)
    begun = time.monotonic()
    status = store(film)
    return StoreAnswer(begun, time.monotonic() - begun, status.get("Status") == 0)


@contextmanager
def _association(port: int) -> Iterator[Callable[[pydicom.Dataset], pydicom.Dataset]]:
    """An association with the node; what is given sends a film by C-STORE."""
    entity = AE(ae_title="BENCH")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = STALLED_S
    context = build_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, [context], "CXRLINES")
    if not association.is_established:
        raise BenchError("the node takes no association", "try it on a machine that is less busy")
    try:
        yield association.send_c_store
    finally:
        association.release()


@contextmanager
def _result_sink() -> Iterator[tuple[int, Callable[[], list[Arrival]]]]:
    """A destination of results in a process of its own: its port, and what asks for the results that came so far."""
    child = Child("cxrlines.lab.bench.result_sink")

    def ask() -> Any:
        child.send(b"")
        return json.loads(child.receive(STALLED_S))

    try:
        yield ask(), lambda: [Arrival(*values) for values in ask()]
    finally:
        child.kill()


def _wait_until_settled(running: Service, queue: Path, films: int, progress: Callable[[int], None]) -> None:
    """Wait until so many films have come to an end, and their results with them; the first is the unmeasured one."""
    final_states = (FilmState.DELIVERED, FilmState.DEAD, FilmState.SKIPPED)
    seen, since = -1, time.monotonic()
    with closing(QueueDatabase(queue)) as database:
        while (settled := sum(database.status()["films"][state] for state in final_states)) < films:
            running.check()
            if settled != seen:
                seen, since = settled, time.monotonic()
                progress(max(0, settled - 1))
            if time.monotonic() - since > STALLED_S:
                raise BenchError(f"the node settled {settled} of {films} films, and no more", f"see its {AUDIT}")
            time.sleep(0.2)


def _reading_seconds(audit: Path) -> float:
    """Seconds that the node's processes spent on reading, by its audit log."""
    lines = (json.loads(line) for line in audit.read_text("utf-8").splitlines())
    return sum(line.get("reading_ms", 0) for line in lines if line["event"] == "read") / 1000


def send_from_clients(
    client: Callable[[], AbstractContextManager[Callable[[int], Answer]]],
    films: int,
    clients: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Answer], float]:
    """Send films 0 to `films` - 1 from `clients` threads, each the next film as soon as its last one is answered.

    `client` opens a connection: a function of a film's number that gives its answer. Film number `films` is sent
    before, unmeasured. Gives the answers in the order of films, and the seconds they took together. `BenchError` for a
    client that failed, at which the others end too.
    """
    with client() as send:
        send(films)
    answers: dict[int, Answer] = {}
    problems: list[Exception] = []
    numbers, lock, ended = iter(range(films)), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            with client() as send:
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None or problems or ended.is_set():
                        return
                    answers[number] = send(number)
                    with lock:
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
        ended.set()  # after Ctrl-C the clients still run
    if problems:
        raise problems[0] if isinstance(problems[0], Error) else BenchError(f"a client failed: {problems[0]!r}")
    return [answers[number] for number in range(films)], time.monotonic() - begun


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile in seconds; NaN of none."""
    values = np.percentile(seconds, (50, 95, 99)) if seconds else [float("nan")] * 3
    return {name: round(float(value), 3) for name, value in zip(("median", "p95", "p99"), values, strict=True)}


def _dx_file(file: bytes) -> bytes:
    """A film of any format as an uncompressed DX film of 8 bits in DICOM."""
    pixels = read_film(file).pixels
    return as_dicom(pixels, 8, ViewPosition="AP", Modality="DX", ImagerPixelSpacing=[SPACING_MM] * 2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
