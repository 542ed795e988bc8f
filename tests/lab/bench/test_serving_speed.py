"""The benchmark of serving counts what is lost and wrong, and its figures fit together."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import cv2
import pytest

from cxrlines.core.errors import Error
from cxrlines.lab.bench import serving_speed as bench
from cxrlines.lab.bench.measured_films import BenchError
from cxrlines.lab.bench.service_process import service
from cxrlines.reading.bundle import EMBEDDED


@pytest.fixture
def api(monkeypatch):
    """An API that answers by the length of the film, but for the requests (from 0 on, the unmeasured one too) it is
    given an answer for; and how many it had."""
    answers: dict[int, tuple[int, bytes]] = {}
    asked: list[int] = []
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            film = self.rfile.read(int(self.headers["Content-Length"]))
            with turn:
                number = len(asked)
                asked.append(len(film))
            status, body = answers.get(number, (200, json.dumps({"found": len(film), "seconds": 0.01}).encode()))
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    @contextmanager
    def started(arguments, ready):
        yield SimpleNamespace(ready_text=f"http://127.0.0.1:{server.server_port}")

    monkeypatch.setattr(bench, "service", started)
    yield SimpleNamespace(answers=answers, asked=asked)
    server.shutdown()
    server.server_close()


def test_what_is_lost_or_wrong_is_counted(api):
    api.answers.update({5: (500, b"{}"), 6: (429, b"{}"), 7: (200, b'{"found": 0, "seconds": 0.01}')})
    done: list[int] = []
    figures = bench.measure_api(bench.Load([b"one", b"four"], films=8, clients=1, processes=1), done.append)
    assert figures["lost"] == 1 and figures["wrong"] == 1
    assert done == list(range(1, 9))
    assert len(api.asked) == 1 + 8 + 1  # one before, one more as the server was busy
    assert figures["reading_share"] > 0 and figures["films_per_s"] > 0


def test_every_film_is_asked_for_once_by_clients_together():
    @contextmanager
    def client():
        yield lambda number: asked.append((number, threading.current_thread())) or -number

    asked: list[tuple[int, threading.Thread]] = []
    done: list[int] = []
    answers, wall = bench.send_from_clients(client, 20, 4, done.append)
    assert answers == [-number for number in range(20)] and wall > 0
    assert asked.pop(0) == (20, threading.current_thread()), "one more before, unmeasured"
    assert sorted(number for number, _ in asked) == list(range(20)) and done == list(range(1, 21))


def test_results_of_the_node_that_are_lost_or_wrong_are_counted():
    """Two films by turns, each with two results: one is refused; then one has none, one half of them, one twice."""
    load = bench.Load([b"one", b"four"], films=6, clients=2, processes=2)
    answers = [bench.StoreAnswer(begun=float(k), seconds=0.5, accepted=k != 5) for k in range(6)]
    arrivals = [
        bench.Arrival(str(bench._uid(k, bench.STUDY)), f"{k}.{result}", when=k + 2.0 + result)
        for k in range(5)
        for result in range(2)
    ]
    of_study = {arrival.instance: arrival for arrival in arrivals}
    figures = bench._node_figures(load, answers, arrivals[::-1], reading=7.0)
    assert (figures["lost"], figures["wrong"]) == (1, 0), "the refused film"
    assert figures["latency_s"] == {"median": 3.0, "p95": 3.0, "p99": 3.0} and figures["store_s"]["p99"] == 0.5
    assert figures["films_per_s"] == round(6 / 7, 2) and figures["reading_share"] == 0.5
    worse = [*(a for a in arrivals if a.instance not in ("2.0", "2.1", "3.1")), of_study["4.0"]]
    figures = bench._node_figures(load, answers, worse, reading=7.0)
    assert (figures["lost"], figures["wrong"]) == (2, 2), "film 2 comes to nothing; 3 is halved, 4 has a result twice"


def test_a_client_that_fails_ends_it():
    @contextmanager
    def client():
        def ask(number: int) -> int:
            if number == 3:
                raise ConnectionResetError
            return number

        yield ask

    with pytest.raises(BenchError, match="ConnectionResetError"):
        bench.send_from_clients(client, 10, 2)


def test_no_client_goes_on_once_it_is_interrupted(monkeypatch):
    asked: list[int] = []
    begun, answered = threading.Event(), threading.Event()
    clients: list[threading.Thread] = []

    @contextmanager
    def client():
        def ask(number: int) -> int:
            if number < 100:  # not the unmeasured one
                asked.append(number)
                begun.set()
                assert answered.wait(60)
            return number

        yield ask

    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            clients.append(self)
            assert begun.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr(bench.threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.send_from_clients(client, 100, 1)
    answered.set()
    for thread in clients:
        super(Interrupted, thread).join(60)
    assert asked == [0] and not clients[0].is_alive()


def test_a_service_that_does_not_start_says_why(tmp_path):
    with pytest.raises(Error, match=r"(?s)exit code 2: .*--host"), service(["serve", "--host", "0.0.0.0"], "serves at"):
        pytest.fail("it does not start")


def test_nothing_to_measure_is_said(tmp_path):
    with pytest.raises(BenchError, match="holds no film"):
        bench.bench_serve(3, 2, folder=tmp_path)


def test_it_needs_no_training():
    code = "import sys, cxrlines.lab.bench.serving_speed; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 0


@pytest.mark.doors
def test_both_services_under_way(tmp_path):
    film = cv2.imread(str(EMBEDDED / "example.jpg"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "a.png"), film)
    cv2.imwrite(str(tmp_path / "b.png"), film[::2, ::2])
    done: list[tuple[int, int]] = []
    figures = bench.bench_serve(5, 2, folder=tmp_path, processes=1, progress=lambda *now: done.append(now))
    assert done == sorted(done) and {total for _, total in done} == {10} and (5, 10) in done
    for part in ("api", "node"):
        found = figures[part]
        assert (found["lost"], found["wrong"]) == (0, 0) and found["films_per_s"] > 0
        assert 0 < found["latency_s"]["median"] <= found["latency_s"]["p95"] <= found["latency_s"]["p99"]
        assert 0 < found["reading_share"] <= 1.01
    assert figures["node"]["store_s"]["median"] < figures["node"]["latency_s"]["median"]
