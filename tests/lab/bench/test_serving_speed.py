"""The benchmark of serving counts what is lost and wrong, and its figures fit together."""

import json
import os
import subprocess
import sys
import threading
import time
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
    def started(words, ready):
        yield SimpleNamespace(found=f"http://127.0.0.1:{server.server_port}")

    monkeypatch.setattr(bench, "service", started)
    yield SimpleNamespace(answers=answers, asked=asked)
    server.shutdown()
    server.server_close()


def test_what_is_lost_or_wrong_is_counted(api):
    api.answers.update({5: (500, b"{}"), 6: (429, b"{}"), 7: (200, b'{"found": 0, "seconds": 0.01}')})
    done: list[int] = []
    figures = bench._api([b"one", b"four"], 8, 1, [], 1, done.append)
    assert figures["lost"] == 1 and figures["wrong"] == 1
    assert done == list(range(1, 9))
    assert len(api.asked) == 1 + 8 + 1  # one before, one more as the server was busy
    assert figures["reading_share"] > 0 and figures["films_per_s"] > 0


def test_every_film_is_asked_for_once_by_clients_together():
    @contextmanager
    def client():
        yield lambda number: (time.sleep(0.01), number)[1]

    answers, wall = bench._from_clients(client, 20, 4)
    assert answers == list(range(20)) and wall < 60


def test_a_client_that_fails_ends_it():
    @contextmanager
    def client():
        def ask(number: int) -> int:
            if number == 3:
                raise ConnectionResetError
            return number

        yield ask

    with pytest.raises(BenchError, match="ConnectionResetError"):
        bench._from_clients(client, 10, 2)


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
        bench._from_clients(client, 100, 1)
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
