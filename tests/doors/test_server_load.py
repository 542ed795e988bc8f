"""1,000 requests, 32 at once, of the server with a reader that answers quickly: none lost, none wrong, some put off."""

import threading
import time
import zlib
from collections import Counter

import httpx
import pytest

from .serving import DEADLINE_S, Serving
from .test_server_kills import LABEL, READER, RUN, film_of

pytestmark = pytest.mark.doors
CLIENTS = 32
QUEUE = 16
"""Requests that the server takes together: the others are put off (429)."""


def load(tmp_path, requests: int) -> None:
    """Send so many films, each until it is answered by 200; every answer must be that of its film."""
    (tmp_path / "quick_reader.py").write_text(READER)
    (tmp_path / "serve.toml").write_text(f"queue = {QUEUE}\nprocesses = 2\n")
    numbers = iter(range(requests))
    answers: dict[int, float] = {}
    said: Counter[int] = Counter()

    def client(address: str) -> None:
        with httpx.Client(base_url=address, timeout=DEADLINE_S) as line:
            for number in numbers:  # shared
                film = film_of(number)
                while True:
                    given = line.post("/v1/read", content=film, headers={"Content-Type": "application/dicom"})
                    said[given.status_code] += 1
                    if given.status_code != 429:
                        break
                    time.sleep(float(given.headers["Retry-After"]))
                answers[number] = given.json()["labels"][LABEL]

    server = Serving("--config", tmp_path / "serve.toml", program=("-c", RUN), folder=tmp_path)
    try:
        address = server.wait()
        begun = time.monotonic()
        threads = [threading.Thread(target=client, args=(address,), daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20 * DEADLINE_S)
        print(
            f"{requests} requests, {CLIENTS} at once: {time.monotonic() - begun:.0f} s; answers by status: {dict(said)}"
        )
        server.process.terminate()
        assert server.ended() == 0, server.log
    finally:
        server.process.kill()
        server.process.wait()
    assert answers == {number: zlib.crc32(film_of(number)) % 1000 / 1000 for number in range(requests)}
    assert set(said) == {200, 429} and said[200] == requests


def test_100_requests(tmp_path):
    load(tmp_path, 100)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_1_000_requests(tmp_path):
    load(tmp_path, 1000)
