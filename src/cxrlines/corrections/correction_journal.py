"""An append-only file of JSON lines that several processes write: each line whole and on disk, or not there."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error
from cxrlines.core.files import WAYS_OUT, OutputError, sync


class JournalError(Error):
    """A journal cannot be read, or is no longer the one that was read."""


class Journal:
    """The entries of a journal. Reading needs no permission to write.

    The file's lines are added to in one write, forced to disk, under a lock of the file (`flock`) that a killed process
    gives up. What a killed process left of a line has no end of line, and is cut off by the next one to write. A file
    that was put back from a backup meanwhile no longer has the last line where it was read: it is neither read on nor
    written.

    Attributes:
        path: The file.
        entries: What was read of it.
        lock: Held while `entries` change; for what is made of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._read, self._last = 0, b""  # bytes read, and the last line of them
        self.lock = threading.RLock()

    def refresh(self) -> None:
        """Read what was added since. `JournalError`: it cannot be read."""
        with self.lock:
            self._refresh()

    def _refresh(self) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._read - len(self._last))
                data = file.read()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            way_out = "put back the file from a backup" if gone else "check its permissions"
            raise JournalError(f"{self.path}: cannot be read ({error.strerror})", way_out) from None
        if not data.startswith(self._last):
            what = f"{self.path}: was replaced or cut while it was in use"
            raise JournalError(what, "start what uses it again, e.g. `cxrlines serve`")
        data = data[len(self._last) :]
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                number = len(self.entries) + 1
                raise JournalError(f"{self.path}: line {number} is no JSON object", "put back the file from a backup")
            self.entries.append(entry)
            self._read, self._last = self._read + len(line), line

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal for this thread alone; its `entries` are then all there are.

        Raises:
            OutputError: the file cannot be written. JournalError: it cannot be read.
        """
        import fcntl  # not on Windows, where films are only read

        with self.lock:
            try:
                create = 0 if self._read else os.O_CREAT  # one that is gone is not begun anew
                handle = os.open(self.path, os.O_RDWR | create | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise self._refused(error) from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._refresh()
                yield
            finally:
                os.close(handle)

    def append(self, *entries: dict[str, Any]) -> None:
        """Add one entry or more, within `locked`. `OutputError`: the disk is full or the like; the journal is as it
        was."""
        lines = [line_of(entry) for entry in entries]
        data = b"".join(lines)
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(handle, self._read)  # what a killed process left of a line
                os.lseek(handle, self._read, os.SEEK_SET)
                try:
                    _write_all(handle, data)
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, self._read)
                    raise
            finally:
                os.close(handle)
            if not self._read:
                sync(self.path.parent)
        except OSError as error:
            raise self._refused(error) from None
        self.entries += entries
        self._read, self._last = self._read + len(data), lines[-1]

    def _refused(self, error: OSError) -> OutputError:
        what = f"{self.path}: cannot be written ({error.strerror})"
        return OutputError(what, WAYS_OUT.get(error.errno or 0, "name another folder"))


def line_of(entry: dict[str, Any]) -> bytes:
    """An entry as it stands in the file."""
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
