"""A tracker in a process of its own: `Worker` is training's end of the pipe, `main` the tracker's.

JSON lines go both ways. To the tracker: `{"open": {...}}`, then `{"do": METHOD, "with": [...]}`. From it:
`{"problem": TEXT}`, `{"done": N}` (calls that succeeded so far) and `{"end": true}`. The process ends when told to,
when the pipe closes, and at the latest `patience_s` after the process that trains is gone.
"""

import contextlib
import json
import os
import queue
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxrlines.tracking.backends import APART, Opening, Status

WAITING = 20_000
"""Calls that may wait for a tracker that is slow; what comes while so many wait is dropped and counted."""

_MOST_PROBLEMS, _LONGEST_PROBLEM, _MOST_ROWS = 5, 300, 1000

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL", re.IGNORECASE)


class Worker:
    """Training's end. Every call but `wait` returns at once."""

    def __init__(self, opening: Opening, patience_s: float, say: Callable[[str], None]) -> None:
        self.say, self.patience_s = say, patience_s
        self.asked = self.dropped = self.done = 0
        self.ended = self.closing = self.killed = False
        self.calls: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        environment = _DEFAULTS | environment | _ENVIRONMENT
        environment["NEPTUNE_DATA_DIRECTORY"] = str(Path(opening.root) / ".neptune")
        # A session of its own: Ctrl-C is for training, which then closes the run. -P: no modules from the folder.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=opening.root,
            start_new_session=True,
        )
        self.calls.put({"open": asdict(opening), "patience_s": patience_s, "parent": os.getpid()})
        name = f"tracking-{opening.tracker}"
        self.writer = threading.Thread(target=self._write, name=f"{name}-writer", daemon=True)
        self.reader = threading.Thread(target=self._read, name=f"{name}-reader", daemon=True)
        self.writer.start()
        self.reader.start()

    def _ask(self, method: str, *arguments: Any) -> None:
        self.asked += 1
        if self.calls.qsize() < WAITING:
            self.calls.put({"do": method, "with": arguments})
        else:
            self.dropped += 1

    def settings(self, values: dict[str, Any]) -> None:
        self._ask("settings", values)

    def metrics(self, values: dict[str, float], step: int, at: float) -> None:
        self._ask("metrics", values, step, at)

    def text(self, name: str, text: str) -> None:
        self._ask("text", name, text)

    def file(self, path: Path) -> None:
        self._ask("file", str(path))

    def end(self, status: Status) -> None:
        """Ask the tracker to finish; nothing may be asked of it afterwards."""
        self.closing = True
        self.calls.put({"do": "close", "with": [status]})
        self.calls.put(None)

    def wait(self, deadline: float) -> None:
        """Wait until the tracker has finished, or kill it at `deadline` (of `time.monotonic`); say what was lost."""
        self.reader.join(max(0.0, deadline - time.monotonic()))
        if self.reader.is_alive():
            self.killed = True
            self.process.kill()
            self.reader.join(5)  # longer only if the kernel cannot end it: then it is left
        lost = self.asked - self.done
        if self.killed:
            self.say(
                f"did not finish within {self.patience_s:g} s and was ended; up to {lost} of {self.asked} calls are "
                "lost (tracking.patience_s allows more time)"
            )
        elif lost:
            told = f", {self.dropped} of them because too many waited" if self.dropped else ""
            self.say(f"{lost} of {self.asked} calls are lost{told}")

    def _write(self) -> None:
        pipe = self.process.stdin
        assert pipe is not None  # asked for above
        with contextlib.suppress(OSError):  # gone: the reader says so
            while (call := self.calls.get()) is not None:
                pipe.write(json.dumps(call, default=str).encode() + b"\n")
                pipe.flush()
        with contextlib.suppress(OSError):
            pipe.close()
        while not self.closing and self.calls.get() is not None:
            pass  # nobody reads: keep the queue from growing

    def _read(self) -> None:
        assert self.process.stdout is not None  # asked for above
        failed = False
        with self.process.stdout as pipe:
            for line in pipe:
                told = json.loads(line)
                self.done = told.get("done", self.done)
                self.ended |= "end" in told
                if "problem" in told:
                    failed = True
                    self.say(told["problem"])
        code = self.process.wait()
        if not (self.ended or self.killed or failed):
            self.say(f"its process ended with code {code}; training goes on without it")


def main() -> None:
    """The tracker's end: do what is asked on standard input until it closes."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # whatever the client asks or prints goes nowhere
        os.dup2(nothing, stream)
    batches = _batches(source)
    begin = next(batches, [])
    if begin:
        parent = begin[0]["parent"]
        threading.Thread(target=_outlive, args=(parent, begin[0]["patience_s"]), daemon=True).start()
        _serve(Opening(**begin[0]["open"]), begin[1:], batches, _Told(sink))
    os._exit(0)  # not through the client's own exit handlers, which may wait for ever


class _Told:
    """What training is told: each problem once and few of them, progress at most once a second."""

    def __init__(self, sink: int) -> None:
        self.sink, self.problems, self.at, self.done = sink, set[str](), 0.0, 0

    def _say(self, **told: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(self.sink, json.dumps(told).encode() + b"\n")

    def problem(self, what: str, error: BaseException) -> None:
        text = " ".join(f"{what}: {type(error).__name__}: {error}".split())
        for name, value in os.environ.items():
            if _SECRET.search(name) and len(value) >= 4:
                text = text.replace(value, f"<{name}>")
        text = re.sub(r"://[^/\s@]+@", "://<hidden>@", text)[:_LONGEST_PROBLEM]
        if text not in self.problems and len(self.problems) < _MOST_PROBLEMS:
            self.problems.add(text)
            self._say(problem=text)

    def did(self, calls: int) -> None:
        self.done += calls
        if time.monotonic() - self.at > 1:
            self.at = time.monotonic()
            self._say(done=self.done)

    def end(self) -> None:
        self._say(done=self.done, end=True)


def _serve(opening: Opening, first: list[dict[str, Any]], batches: Iterator[list[dict[str, Any]]], told: _Told) -> None:
    try:
        backend = APART[opening.tracker](opening)
    except Exception as error:
        told.problem("could not start, training goes on without it", error)
        return
    status: Status | None = None
    for calls in _chain(first, batches):
        if calls and calls[-1]["do"] == "close":
            status = calls.pop()["with"][0]
        for method, arguments, count in _joined(calls):
            try:
                getattr(backend, method)(*arguments)
                told.did(count)
            except Exception as error:
                told.problem(f"{method} failed", error)
        if status:  # not at the pipe's end: forks of training may hold it open
            break
    try:
        backend.close(status or "killed")
    except Exception as error:
        told.problem("was not closed", error)
    told.end()


def _chain(first: list[dict[str, Any]], rest: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    yield first
    yield from rest


def _joined(calls: list[dict[str, Any]]) -> Iterator[tuple[str, list[Any], int]]:
    """Method, arguments and how many calls they were; metrics in a row are one."""
    rows: list[Any] = []
    for call in calls:
        method, arguments = call["do"], call["with"]
        if method == "metrics":
            rows.append(tuple(arguments))
        if rows and (method != "metrics" or len(rows) == _MOST_ROWS):
            yield "metrics", [rows], len(rows)
            rows = []
        if method != "metrics":
            yield method, [Path(arguments[0])] if method == "file" else arguments, 1
    if rows:
        yield "metrics", [rows], len(rows)


def _batches(source: int) -> Iterator[list[dict[str, Any]]]:
    """All lines that lie ready, again and again, until the pipe closes or the process that trains is gone."""
    parent, pending = os.getppid(), bytearray()
    while True:
        ready, _, _ = select.select([source], [], [], 1.0)
        if not ready:
            if os.getppid() != parent:  # its own children may hold the pipe open
                return
            continue
        piece = os.read(source, 1 << 20)
        if not piece:
            return
        pending += piece
        whole, newline, rest = pending.rpartition(b"\n")
        if newline:
            pending = bytearray(rest)
            yield [json.loads(line) for line in whole.splitlines()]


def _outlive(parent: int, patience_s: float) -> None:
    """End this process, whatever the client is doing, `patience_s` after the process that trains is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(patience_s)
    os._exit(1)


if __name__ == "__main__":
    main()
