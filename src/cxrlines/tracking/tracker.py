"""A run, or a step of one, as its trackers see it.

TensorBoard's and CSV's files are written here. The others, which may be slow, hang or die, each run in a process of
their own (`worker`). No call waits for them, and what a tracker does wrong is not raised: it is in `Tracker.problems`
and is said once on stderr. A tracker gets of a run its settings (the resolved recipe), metrics by step, texts (lineage)
and files (report); never films, and no patient but as a hash.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from cxrlines.tracking.backends import LOCAL, Backend, Opening, Status
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.worker import Worker

LARGEST_FILE = 64 * 2**20
"""Bytes of the largest file that is handed to a tracker."""

_OUTBOX = ".tracking/outbox"


class _Link(Protocol):
    """The way to one tracker."""

    def settings(self, values: dict[str, Any]) -> None: ...
    def metrics(self, values: dict[str, float], step: int, at: float) -> None: ...
    def text(self, name: str, text: str) -> None: ...
    def file(self, path: Path) -> None: ...
    def end(self, status: Status) -> None: ...
    def wait(self, deadline: float) -> None: ...


class _Here:
    """A tracker that writes files of its own in this process; a full disk costs its lines, nothing else."""

    def __init__(self, opening: Opening, say: Callable[[str], None]) -> None:
        self.say = say
        self.backend: Backend | None = None
        with self._guarded("could not start"):
            self.backend = LOCAL[opening.tracker](opening)

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.say(f"{what}: {type(error).__name__}: {error}")

    def settings(self, values: dict[str, Any]) -> None:
        with self._guarded("settings were not kept"):
            if self.backend:
                self.backend.settings(values)

    def metrics(self, values: dict[str, float], step: int, at: float) -> None:
        with self._guarded("metrics were not kept"):
            if self.backend:
                self.backend.metrics([(values, step, at)])

    def text(self, name: str, text: str) -> None:
        with self._guarded(f"{name} was not kept"):
            if self.backend:
                self.backend.text(name, text)

    def file(self, path: Path) -> None:
        with self._guarded(f"{path.name} was not kept"):
            if self.backend:
                self.backend.file(path)

    def end(self, status: Status) -> None:
        with self._guarded("was not closed"):
            if self.backend:
                self.backend.close(status)

    def wait(self, deadline: float) -> None:
        """Nothing to wait for."""


class Tracker:
    """A run, or a step of one, as its trackers see it. Calls return at once and never raise because of a tracker.

    `problems` holds what went wrong, in words; what concerns closing is in it once `close` has returned.
    """

    def __init__(self, settings: TrackingSettings, *, run: str, group: str, folder: Path, identity: str) -> None:
        self.problems: list[str] = []
        self._lock = threading.Lock()
        self._closed = False
        self._settings: dict[str, Any] = {}
        self._patience_s = settings.patience_s
        self._outbox, self._sent = folder / _OUTBOX, 0
        self._links: list[_Link] = []
        self._apart = False
        for name in dict.fromkeys(settings.use):
            root = str(Path(settings.root or folder).absolute())
            opening = Opening(
                name, settings.project, group, run, identity, str(folder.absolute()), root, settings.address(name)
            )
            say = self._sayer(name)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                Path(root).mkdir(parents=True, exist_ok=True)
                self._links.append(_Here(opening, say) if name in LOCAL else Worker(opening, settings.patience_s, say))
                self._apart |= name not in LOCAL
            except OSError as error:
                say(f"could not start: {error}")

    def _sayer(self, name: str) -> Callable[[str], None]:
        def say(text: str) -> None:
            told = f"{name}: {text}"
            with self._lock:
                if told in self.problems:
                    return
                self.problems.append(told)
            with contextlib.suppress(OSError, ValueError):
                print(f"tracking: {told}", file=sys.stderr)

        return say

    def settings(self, values: Mapping[str, Any]) -> None:
        """Log how the run is made, all of it in one call; nested mappings become dotted names, lists JSON.

        Clients disagree about a setting that is logged again: one keeps the first, one the last, and others refuse it
        and all that came with it.

        Raises:
            ValueError: a second call, or two values that would have the same dotted name: the caller's mistake.
        """
        if self._settings:
            raise ValueError(f"settings are logged once; there are some already, then came {', '.join(values)}")
        try:
            self._settings = flat = flatten(values)
        except TypeError as error:
            self._sayer("settings")(f"were left out: {error}")
            return
        for link in self._open_links():
            link.settings(flat)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Tell numbers reached at `step`; a later telling of the same step counts. None is left out."""
        numbers: dict[str, float] = {}
        for name, value in values.items():
            try:
                if value is not None:
                    numbers[str(name)] = float(value)
            except (TypeError, ValueError):
                self._sayer("metrics")(f"{name} is not a number and was left out")
        at = time.time()
        for link in self._open_links() if numbers else []:
            link.metrics(numbers, int(step), at)

    def text(self, name: str, text: str) -> None:
        """Hand over a text under a file's name, as `lineage.json`."""
        for link in self._open_links():
            link.text(str(name), str(text))

    def file(self, path: Path) -> None:
        """Hand over a copy of a file as it is now; it may be moved or changed afterwards."""
        if self._closed:
            return
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise OSError(f"larger than {LARGEST_FILE // 2**20} MB")
            copied = path
            if self._apart:
                self._sent += 1
                copied = self._outbox / f"{os.getpid()}.{self._sent}" / path.name
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copied)
        except OSError as error:
            self._sayer("files")(f"{path.name} was not handed over: {error}")
            return
        for link in self._open_links():
            link.file(copied)

    def _open_links(self) -> list[_Link]:
        return [] if self._closed else self._links

    def close(self, status: Status = "finished") -> None:
        """End the run in every tracker within `patience_s`: what hangs is killed, and what is lost is said."""
        links = self._open_links()
        self._closed = True
        deadline = time.monotonic() + self._patience_s
        try:
            for link in links:
                link.end(status)
            for link in links:
                link.wait(deadline)
        except BaseException:  # interrupted: then nothing is waited for
            for link in links:
                link.wait(-math.inf)
            raise
        finally:
            shutil.rmtree(self._outbox, ignore_errors=True)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("failed" if kind else "finished")


def open_tracker(settings: TrackingSettings, *, run: str, group: str, folder: Path, identity: str) -> Tracker:
    """Begin to track `run` of `group`, whose own files lie in `folder`.

    Where `folder` holds what a run of the same `identity` left, that run is gone on with: TensorBoard, CSV, MLflow,
    wandb (offline: a second folder with the same id, which wandb joins when both are synced) and Neptune's server;
    offline Neptune starts a second run. Curves of another identity are removed from `folder` first.
    """
    return Tracker(settings, run=run, group=group, folder=folder, identity=identity)


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
