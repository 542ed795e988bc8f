"""A real server of the API and the page, in a process of its own, on a free port of loopback."""

import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from cxrlines.reading.bundle import EMBEDDED

EXAMPLE = EMBEDDED / "example.jpg"
DEADLINE_S = 120.0
"""Longest that a machine of tests may take for what takes a second."""


class Serving:
    """The process, its address, and what it has printed; `program`: what Python runs, with modules of `folder`."""

    def __init__(
        self,
        *words: object,
        python: Path | None = None,
        program: Sequence[str] = ("-m", "cxrlines"),
        folder: Path | None = None,
    ) -> None:
        """`python`: that of another environment, which has a cxrlines of its own."""
        command = [str(python or sys.executable), *program, "serve", "--port", "0", *map(str, words)]
        paths = [*([] if python else sys.path), *([str(folder)] if folder else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.printed: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.printed.extend(iter(self.process.stderr.readline, ""))

    @property
    def log(self) -> str:
        """What it has printed."""
        return "".join(list(self.printed))

    def wait(self) -> str:
        """Its address, once it takes films."""
        end = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"serves at (\S+)", self.log)):
            assert self.process.poll() is None and time.monotonic() < end, self.log
            time.sleep(0.05)
        return found[1]

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code


@contextmanager
def serving(*words: object, python: Path | None = None) -> Iterator[Serving]:
    """A server, ended with the block."""
    server = Serving(*words, python=python)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
        server.ended()


NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx, which else loads all certificates for every request: longer than a film takes."""


def read(address: str, film: bytes | Path, kind: str = "application/dicom", **headers: str) -> httpx.Response:
    """What the server answers to a film."""
    content = film if isinstance(film, bytes) else film.read_bytes()
    given = {"Content-Type": kind, **headers}
    return httpx.post(f"{address}/v1/read", content=content, headers=given, timeout=DEADLINE_S, verify=NO_TLS)
