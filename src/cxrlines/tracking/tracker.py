"""A run, or a step of one, as its trackers see it.

TensorBoard's and CSV's files are written by this process. The other clients, which may be slow, hang or die, each run
in a process of their own (`python -m` of this file). No call waits for them, and what a client does wrong is not
raised: it is in `Tracker.problems` and is printed once on stderr. A tracker gets the settings (the resolved recipe),
metrics by step, texts (lineage) and files (report); never films, and patients only as hashes.
"""

import contextlib
import json
import math
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from cxrlines.core.processes import PATIENCE_S, serving
from cxrlines.tracking.clients import CLIENTS, LOCAL, Row, Status, TrackedRun
from cxrlines.tracking.settings import TrackingSettings

LARGEST_FILE = 64 * 2**20
"""Bytes of the largest file that is handed to a tracker."""
WAITING = 20_000
"""Calls that may wait for a tracker that is slow; what comes while so many wait is dropped and counted."""
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Of a client's own process: no telemetry, one core, no GPU."""

_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_MOST_PROBLEMS, _LONGEST_PROBLEM = 5, 300  # of one client's process; characters
_BATCH = 1000  # calls in one message at most: so many are lost where the client refuses one
_SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL", re.IGNORECASE)


class _InProcess:
    """A client in this process. What it raises becomes a problem: a full disk costs its lines, nothing else."""

    def __init__(self, run: TrackedRun, say: Callable[[str], None]) -> None:
        self.say, self.done = say, 0
        self.client: Any = None
        try:
            self.client = CLIENTS[run.tracker](run)
        except Exception as error:
            say(f"could not start, training goes on without it: {type(error).__name__}: {error}")

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the client."""
        if self.client is None:
            return
        try:
            getattr(self.client, method)(*arguments)
            self.done += len(arguments[0]) if method == "metrics" else 1
        except Exception as error:
            what = f"{method} {Path(arguments[0]).name}" if method in ("text", "file") else method
            self.say(f"{what} failed: {type(error).__name__}: {error}")

    def wait(self, deadline: float) -> None:
        """Nothing to wait for."""


class _OwnProcess:
    """A client in a process of its own. Every call but `wait` returns at once.

    A thread sends what waits as one JSON message, [[method, *arguments], ...], and gets an answer to each: how many
    calls succeeded so far, what went wrong, and whether the client has ended.
    """

    def __init__(self, run: TrackedRun, patience_s: float, say: Callable[[str], None]) -> None:
        self.say, self.patience_s = say, patience_s
        self.asked = self.dropped = self.done = 0
        self.ended = self.killed = False
        self.calls: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        environment = _DEFAULTS | os.environ | ENVIRONMENT | {"NEPTUNE_DATA_DIRECTORY": f"{run.root}/.neptune"}
        environment.pop("WANDB_SERVICE", None)
        self.connection, theirs = Pipe()
        # A session of its own: Ctrl-C is for training, which then closes the run. -P: no modules from the folder.
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, json.dumps([asdict(run), patience_s, os.getpid()])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self.thread = threading.Thread(target=self._send, name=f"tracking-{run.tracker}", daemon=True)
        self.thread.start()

    def call(self, method: str, *arguments: Any) -> None:
        """Have a method of the client called."""
        closing = method == "close"
        self.asked += not closing
        if self.calls.qsize() < WAITING or closing:
            self.calls.put([method, *arguments])
        elif self.thread.is_alive():  # else nobody reads, which was reported
            self.dropped += 1

    def wait(self, deadline: float) -> None:
        """Wait until the client has finished, or kill it at `deadline` (of `time.monotonic`); say what was lost."""
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.thread.is_alive():
            self.killed = True
            self.process.kill()
            self.thread.join(5)  # longer only if the kernel cannot end it: then it is left
        lost = self.asked - self.done
        if self.killed:
            self.say(
                f"did not finish within {self.patience_s:g} s and was killed; up to {lost} of {self.asked} calls are "
                "lost (tracking.patience_s allows more time)"
            )
        elif lost:
            full = f", {self.dropped} of them because too many waited" if self.dropped else ""
            self.say(f"{lost} of {self.asked} calls are lost{full}")

    def _send(self) -> None:
        problems = 0
        with contextlib.suppress(EOFError, OSError), self.connection:
            while not self.ended:
                calls = [self.calls.get()]
                while len(calls) < _BATCH and not self.calls.empty():
                    calls.append(self.calls.get())
                self.connection.send_bytes(json.dumps(calls, default=str).encode())
                answer = json.loads(self.connection.recv_bytes())
                self.done, self.ended = answer["done"], answer["ended"]
                for problem in answer["problems"]:
                    problems += 1
                    if problems <= _MOST_PROBLEMS:
                        self.say(problem)
        code = self.process.wait()
        if not (self.ended or self.killed):
            self.say(f"its process ended with code {code}; training goes on without it")


class Tracker:
    """A run, or a step of one, as its trackers see it. Calls return at once and never raise because of a tracker.

    The run's own files lie in `folder`. Where `folder` holds what a run of the same `identity` left, that run is
    resumed: TensorBoard, CSV, MLflow, wandb (offline: a second folder with the same id, which wandb joins when both are
    synced) and Neptune's server; offline Neptune starts a second run. Files of another identity are removed from
    `folder` first.

    `problems` holds what went wrong, in words; what concerns closing is in it once `close` has returned.
    """

    def __init__(self, settings: TrackingSettings, *, run: str, group: str, folder: Path, identity: str) -> None:
        self.problems: list[str] = []
        self._lock = threading.Lock()
        self._has_settings = False
        self._patience_s = settings.patience_s
        self._outbox = folder / ".tracking/outbox"
        self._clients: list[_InProcess | _OwnProcess] = []
        root = Path(settings.root or folder).absolute()
        for name in dict.fromkeys(settings.use):
            address = getattr(settings, name, None)
            tracked = TrackedRun(
                name, settings.project, group, run, identity, str(folder.absolute()), str(root), address
            )
            say = self._sayer(name)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                root.mkdir(parents=True, exist_ok=True)
                client = _InProcess(tracked, say) if name in LOCAL else _OwnProcess(tracked, settings.patience_s, say)
                self._clients.append(client)
            except OSError as error:
                say(f"could not start: {error}")

    def _sayer(self, name: str) -> Callable[[str], None]:
        def say(text: str) -> None:
            problem = f"{name}: {_without_secrets(text)}"
            with self._lock:
                if problem in self.problems:
                    return
                self.problems.append(problem)
            with contextlib.suppress(OSError, ValueError):
                print(f"tracking: {problem}", file=sys.stderr)

        return say

    def _call(self, method: str, *arguments: Any) -> None:
        for client in self._clients:
            client.call(method, *arguments)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Log how the run is made, all of it in one call; nested mappings become dotted names, lists JSON.

        Clients disagree about a setting that is logged again: one keeps the first, one the last, and others refuse it
        and all that came with it.

        Raises:
            ValueError: a second call, or two values that would have the same dotted name: the caller's mistake.
        """
        if self._has_settings:
            raise ValueError(f"settings are logged once; there are some already, then came {', '.join(values)}")
        try:
            flat = flatten(values)
        except TypeError as error:
            self._sayer("settings")(f"were left out: {error}")
            return
        self._has_settings = bool(flat)
        self._call("settings", flat)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers reached at `step`; of a step that is logged twice the later counts. None is left out."""
        numbers: dict[str, float] = {}
        for name, value in values.items():
            try:
                if value is not None:
                    numbers[str(name)] = float(value)
            except (TypeError, ValueError):
                self._sayer("metrics")(f"{name} is not a number and was left out")
        if numbers:
            row: Row = (numbers, int(step), time.time())
            self._call("metrics", [row])

    def text(self, name: str, text: str) -> None:
        """Log a text under a file's name, as `lineage.json`."""
        self._call("text", str(name), str(text))

    def file(self, path: Path) -> None:
        """Log a copy of a file as it is now; it may be moved or changed afterwards."""
        if not self._clients:
            return
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise OSError(f"larger than {LARGEST_FILE // 2**20} MB")
            self._outbox.mkdir(parents=True, exist_ok=True)
            copied = Path(tempfile.mkdtemp(dir=self._outbox)) / path.name
            shutil.copyfile(path, copied)
        except OSError as error:
            self._sayer("files")(f"{path.name} was not logged: {error}")
            return
        self._call("file", copied)

    def close(self, status: Status = "finished") -> None:
        """End the run in every tracker within `patience_s`: what hangs is killed, and what is lost is reported."""
        clients = self._clients
        deadline = time.monotonic() + self._patience_s
        self._call("close", status)
        self._clients = []
        try:
            for client in clients:
                client.wait(deadline)
        except BaseException:  # interrupted: then nothing is waited for
            for client in clients:
                client.wait(-math.inf)
            raise
        finally:
            shutil.rmtree(self._outbox, ignore_errors=True)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("failed" if kind else "finished")


def _without_secrets(text: str) -> str:
    text = " ".join(text.split())
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 4:
            text = text.replace(value, f"<{name}>")
    return re.sub(r"://[^/\s@]+@", "://<hidden>@", text)[:_LONGEST_PROBLEM]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted names to numbers, booleans and strings; lists and None as JSON.

    `ValueError` where two have the same dotted name.

    >>> flatten({"a": {"b": 1, "c": [1, 2]}})
    {'a.b': 1, 'a.c': '[1, 2]'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            new = flatten(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            new = {name: value}
        elif isinstance(value, Path):
            new = {name: str(value)}
        else:
            new = {name: json.dumps(value, default=str)}
        if twice := flat.keys() & new.keys():
            raise ValueError(f"two settings are named {min(twice)}")
        flat |= new
    return flat


def _serve(run: TrackedRun, patience_s: float, parent: int) -> NoReturn:
    """The client's process: do what training sends until it closes the run, or is gone.

    It ends soon after the process that trains: closing has `patience_s` for it, whatever the client is doing.
    """
    client: _InProcess | None = None
    problems: list[str] = []

    def answer(receive: Callable[[], bytes], send: Callable[[bytes | memoryview], None]) -> None:
        nonlocal client
        calls = json.loads(receive())
        client = client or _InProcess(run, problems.append)
        closing = calls[-1][0] == "close"
        status = calls.pop()[1] if closing else None
        for method, *arguments in _joined(calls):
            client.call(method, *([Path(arguments[0])] if method == "file" else arguments))
        done = client.done
        if status:
            client.call("close", status)
        ended = closing or client.client is None
        send(json.dumps({"done": done, "problems": problems, "ended": ended}).encode())
        problems.clear()
        if ended:
            os._exit(0)  # not through the client's own exit handlers, which may wait for ever

    def outlive() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(PATIENCE_S + patience_s)  # `serving` looks for the parent as often as that
        os._exit(1)

    os.chdir(run.root)
    threading.Thread(target=outlive, daemon=True).start()
    serving(answer)
    if client:
        client.call("close", "killed")
    os._exit(0)


def _joined(calls: list[list[Any]]) -> list[list[Any]]:
    """The calls with the metrics of neighbours in one."""
    joined: list[list[Any]] = []
    for call in calls:
        if joined and call[0] == joined[-1][0] == "metrics":
            joined[-1][1].extend(call[1])
        else:
            joined.append(call)
    return joined


if __name__ == "__main__":
    described, patience, trainer = json.loads(sys.argv[1])
    _serve(TrackedRun(**described), patience, trainer)
