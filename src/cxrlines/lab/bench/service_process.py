"""A command of cxrlines that serves, as a process of its own, for as long as a block lasts."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cxrlines.core.errors import Error

STARTING_S = 300.0
ENDING_S = 60.0
LAST_WORDS_S = 5.0


class Service:
    """The process; `found` is what its first line of stderr that matches holds."""

    def __init__(self, words: list[str], ready: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "cxrlines", *words]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.said: list[str] = []
        self._ready, self.found = threading.Event(), ""
        self._reader = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self._reader.start()

    def check(self) -> None:
        """`Error` with its last words unless it runs."""
        if self.process.poll() is not None:
            self._reader.join(LAST_WORDS_S)
            raise Error(f"the service ended with exit code {self.process.returncode}: {''.join(self.said).strip()}")

    def wait(self) -> None:
        """Until it is ready; `Error` where it does not get there."""
        end = time.monotonic() + STARTING_S
        while not self._ready.wait(0.1):
            self.check()
            if time.monotonic() > end:
                raise Error(
                    f"the service was not ready after {STARTING_S:g} s", "try it on a machine that is less busy"
                )

    def end(self) -> None:
        """By SIGTERM, so that it finishes what it is at; at last by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(ENDING_S)

    def _read(self, ready: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said = [*self.said[-20:], line]
            if not self._ready.is_set() and (found := re.search(ready, line)):
                self.found = found[0]
                self._ready.set()
        self.process.stderr.close()


@contextmanager
def service(words: list[str], ready: str) -> Iterator[Service]:
    """A command that serves, once a line of it matches `ready`; ended with the block."""
    running = Service(words, ready)
    try:
        running.wait()
        yield running
    finally:
        running.end()
