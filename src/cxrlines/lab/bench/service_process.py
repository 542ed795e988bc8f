"""A command of cxrlines that serves, as a process of its own, for as long as a block lasts."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cxrlines.core.errors import Error

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
OUTPUT_TIMEOUT_S = 5.0
"""How long the stderr of a process that has ended is still read."""
KEPT_LINES = 20
"""Of stderr, for the error of a service that ends by itself."""


class Service:
    """A running `python -m cxrlines ARGUMENTS`.

    Attributes:
        ready_text: What `ready`, a regular expression, matched in the first line of stderr that it matches.
    """

    def __init__(self, arguments: Sequence[str], ready: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "cxrlines", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.ready_text = ""
        self._ready, self._output = threading.Event(), deque[str](maxlen=KEPT_LINES)
        self._reader = threading.Thread(target=self._read_stderr, args=(ready,), daemon=True)
        self._reader.start()

    def check(self) -> None:
        """`Error` with the end of its stderr unless it runs."""
        if self.process.poll() is not None:
            self._reader.join(OUTPUT_TIMEOUT_S)
            raise Error(f"the service ended with exit code {self.process.returncode}: {''.join(self._output).strip()}")

    def wait_until_ready(self) -> None:
        """Wait for the line that `ready` matches; `Error` if the service ends before, or takes `START_TIMEOUT_S`."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready.wait(0.1):
            self.check()
            if time.monotonic() > deadline:
                raise Error(
                    f"the service was not ready after {START_TIMEOUT_S:g} s", "try it on a machine that is less busy"
                )

    def stop(self) -> None:
        """By SIGTERM, so that it finishes what it is at; by SIGKILL after `STOP_TIMEOUT_S`."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def _read_stderr(self, ready: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._output.append(line)
            if not self._ready.is_set() and (match := re.search(ready, line)):
                self.ready_text = match[0]
                self._ready.set()
        self.process.stderr.close()


@contextmanager
def service(arguments: Sequence[str], ready: str) -> Iterator[Service]:
    """A service that is ready, see `Service`; it is stopped at the end of the block."""
    running = Service(arguments, ready)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()
