"""A server that is sent bytes that are wrong on purpose, as heads, as bodies and as films: it answers, and goes on."""

import os
import random
import socket
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest

from .dimse_attacks import mutated
from .node_process import dicom_film
from .process_memory import memory_mb
from .serving import DEADLINE_S, EXAMPLE, read, serving

pytestmark = pytest.mark.doors
SEED = int(os.environ.get("CXRLINES_SEED", "0"))
STATUSES = {200, 204, 400, 401, 403, 404, 405, 406, 408, 411, 413, 415, 421, 422, 429, 431}
"""What docs/api.md names, and what the HTTP library says to what is no HTTP; 0: it closes the connection."""
MORE_MB = 200


def request(rng: random.Random, place: str) -> bytes:
    """A whole request: one film, many, a correction, or none."""
    film = dicom_film(rng.randrange(1000))
    part = b'--edge\r\nContent-Disposition: form-data; name="a"; filename="b.dcm"\r\n\r\n' + film + b"\r\n"
    method, path, kind, body = rng.choice(
        [
            ("POST", "/v1/read", "application/dicom", film),
            ("POST", "/v1/read", "multipart/form-data; boundary=edge", 3 * part + b"--edge--\r\n"),
            ("PUT", "/v1/films/x/corrections", "application/json", b'{"author": "A reader", "lines": []}'),
            ("GET", "/v1/about", "", b""),
        ]
    )
    head = f"{method} {path} HTTP/1.1\r\nHost: {place}\r\nAccept: */*\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    length = rng.choice([len(body)] * 8 + [0, 1, len(body) + 100, 10**12, -1])
    chunked = rng.random() < 0.2
    if chunked:
        size = rng.choice([f"{len(body):x}"] * 3 + ["ffffffff", "-1", "zz", "f" * 100])
        body = f"{size}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {length}\r\n\r\n"
    what = rng.random()
    if what < 0.5:
        return mutated(rng, head.encode()) + body
    return head.encode() + mutated(rng, body) if what < 0.9 and body else rng.randbytes(rng.randrange(1, 3000))


def status(place: str, message: bytes) -> int:
    """What is answered to some bytes; 0: nothing."""
    host, _, port = place.partition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as line:
        try:
            line.sendall(message)
            line.shutdown(socket.SHUT_WR)
            answer = line.recv(1 << 16)
        except ConnectionError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def fuzz(tmp_path, cases: int) -> None:
    (tmp_path / "serve.toml").write_text("body_s = 2\nmax_body_mb = 5\nmax_films = 5\n")
    rng, said = random.Random(SEED), Counter()
    with serving("--config", tmp_path / "serve.toml", "--project", tmp_path / "project") as server:
        address = server.wait()
        place = urlsplit(address).netloc
        assert read(address, EXAMPLE, "image/jpeg").status_code == 200
        memory = memory_mb(server.process.pid)
        for number in range(cases):
            message = request(rng, place)
            answer = status(place, message)
            said[answer] += 1
            assert answer in STATUSES or answer == 0, (number, answer, message[:300])
        film = EXAMPLE.read_bytes()
        for number in range(cases // 10):
            answer = read(address, mutated(rng, film), "image/jpeg")
            assert answer.status_code in (200, 422), (number, answer.text)
        assert read(address, EXAMPLE, "image/jpeg").status_code == 200
        assert httpx.get(f"{address}/healthz", timeout=DEADLINE_S).json() == {"status": "ready"}
        assert "cxrlines_requests_under_way 0.0" in httpx.get(f"{address}/metrics", timeout=DEADLINE_S).text
        assert memory_mb(server.process.pid) < memory + MORE_MB
    assert server.ended() == 0 and "Traceback" not in server.log and "fault" not in server.log, server.log
    assert len(said) > 3, said


def test_80_messages(tmp_path):
    fuzz(tmp_path, 80)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_3_000_messages(tmp_path):
    fuzz(tmp_path, 3000)
