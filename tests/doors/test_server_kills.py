"""kill -9 of the server and its workers at random moments, while films are read and corrections saved."""

import itertools
import os
import random
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cxrlines.corrections.project import Project
from cxrlines.io.tables import read_dataset

from .conftest import free_port
from .node_process import dicom_film, until
from .process_memory import tree
from .serving import DEADLINE_S, Serving

pytestmark = [pytest.mark.doors, pytest.mark.long, pytest.mark.timeout(7200)]
KILLS = int(os.environ.get("CXRLINES_KILLS", "10"))
CLIENTS = 4
LABEL = "NGT - Abnormal"
READER = """
import pickle, time, zlib
from cxrlines.core.findings import Findings
from cxrlines.core.processes import serving
from cxrlines.reading.results.dicom.read_by import ReadBy
begun = []
def answer(receive, send):
    if not begun:
        receive()
        begun.append(True)
        return send(pickle.dumps(ReadBy("0123456789ab", "none")))
    receive()
    film = receive()
    time.sleep(0.1)
    send(pickle.dumps(Findings((40, 30), (), {}, (), {"NGT - Abnormal": zlib.crc32(film) % 1000 / 1000})))
def serve():
    serving(answer)
"""
"""Reads in a tenth of a second what every film has as its own."""
RUN = (
    "import functools, cxrlines.web.server as server\n"
    "server.ReadingPool = functools.partial(server.ReadingPool, module='quick_reader')\n"
    "from cxrlines.cli import main\nmain()"
)


class Client(threading.Thread):
    """Sends a film after the other, and corrects it; what is not answered is sent again, until it is.

    Attributes:
        answers: Number of a film -> its label, as it was answered.
        saves: Number of a film -> how often its correction was sent until it was acknowledged.
        waiting: Whether a request is under way.
    """

    def __init__(self, address: str, numbers: Iterator[int], ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._numbers, self._ended = numbers, ended
        self._line = httpx.Client(base_url=address, timeout=DEADLINE_S)
        self.answers: dict[int, float] = {}
        self.saves: dict[int, int] = {}
        self.waiting = False
        self.problems: list[str] = []

    def run(self) -> None:
        for number in self._numbers:
            if self._ended.is_set() or self.problems:
                return
            film, tries = film_of(number), 0
            while number not in self.answers:
                kept = self._answer("POST", "/v1/films", content=film, headers={"Content-Type": "application/dicom"})
                place, found = f"/v1/films/{kept['id']}/corrections", kept["findings"]["labels"][LABEL]
                said = {"author": "A reader", "comment": f"of {number}", "labels": {LABEL: number % 2}}
                tries += 1
                if self._answer("PUT", place, json=said) is not None:
                    self.answers[number], self.saves[number] = found, tries

    def _answer(self, method: str, path: str, **given: Any) -> Any:
        """What is answered, however often it takes; None where the server has forgotten the film meanwhile."""
        end = time.monotonic() + 5 * DEADLINE_S
        while time.monotonic() < end:
            self.waiting = True
            try:
                answer = self._line.request(method, path, **given)
            except httpx.TransportError:
                answer = None
            self.waiting = False
            if answer is None or (method == "PUT" and answer.status_code == 404):
                if method == "PUT":
                    return None  # perhaps saved, perhaps not
                time.sleep(0.3)  # starting takes what a busy machine has
                continue
            if answer.status_code != 200:
                self.problems.append(answer.text)
            answer.raise_for_status()
            return answer.json()
        raise TimeoutError(path)


def film_of(number: int) -> bytes:
    return dicom_film(number, np.random.default_rng(number).integers(0, 255, (40, 30), dtype=np.uint8))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kills(tmp_path):
    rng = random.Random(int(os.environ.get("CXRLINES_SEED", "0")))
    (tmp_path / "quick_reader.py").write_text(READER)
    port, ended = free_port(), threading.Event()

    def start() -> Serving:
        words = ("--port", port, "--project", tmp_path / "project", "--processes", 2)
        made = Serving(*words, program=("-c", RUN), folder=tmp_path)
        servers.append(made)
        return made

    servers: list[Serving] = []
    numbers = itertools.count()
    shared = iter(lambda: next(numbers), None)
    clients = [Client(f"http://127.0.0.1:{port}", shared, ended) for _ in range(CLIENTS)]
    under_way, left = 0, set()
    try:
        server = start()
        server.wait()
        for client in clients:
            client.start()
        for number in range(KILLS):
            time.sleep(rng.uniform(0, 1.2))
            processes = tree(server.process.pid)
            left |= set(processes)
            if number % 2:  # its workers first; it begins others, and reads their films again
                for pid in processes[1:]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(rng.uniform(0, 0.6))
                left |= set(tree(server.process.pid))
            under_way += sum(client.waiting for client in clients)
            server.process.kill()
            server.process.wait()
            server = start()
            server.wait()
        ended.set()
        for client in clients:
            client.join(5 * DEADLINE_S)
        assert not any(client.is_alive() for client in clients)
        assert [problem for client in clients for problem in client.problems] == []
        server.process.terminate()
        assert server.ended() == 0, server.log
    finally:
        ended.set()
        for each in servers:
            each.process.kill()
            each.process.wait()
    answers = {number: label for client in clients for number, label in client.answers.items()}
    saves = {number: count for client in clients for number, count in client.saves.items()}
    # No wrong answer, and none lost: every film that was begun has one.
    assert under_way and sorted(answers) == list(range(len(answers)))
    assert answers == {number: zlib.crc32(film_of(number)) % 1000 / 1000 for number in answers}
    # What was acknowledged is saved: a film once, its correction no more often than it was sent.
    films = {int(film.correction.comment.removeprefix("of ")): film for film in Project(tmp_path / "project").films()}
    assert sorted(films) == sorted(answers)
    for number, film in films.items():
        assert film.file.read_bytes() == film_of(number) and 1 <= len(film.history) <= saves[number]
        assert {said.comment for said in film.history} == {f"of {number}"}
    data = read_dataset(tmp_path / "project")
    assert data.left_out == {} and len(data.studies) == len(films)
    assert data.studies[LABEL].tolist() == [number % 2 for number in films]
    until(lambda: not [pid for pid in left if alive(pid)], DEADLINE_S)  # no process of a killed server stays
    print(f"{KILLS} kills, {under_way} requests under way at them; {len(answers)} films, {sum(saves.values())} saves")
