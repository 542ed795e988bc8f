"""The journal of a reading: every film read so far, a JSON line each, so that a killed reading can be resumed.

It lies beside the table that is to be written, and goes when that is done. Of a film in it nothing is kept in memory
but its place in the file, and by what it is known that the film's own file is still the one that was read.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from cxrlines import __version__
from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.files import OutputError, readable, sync
from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.findings import Findings
from cxrlines.core.lossless import built, plain

Reading = Findings | Exception
"""Of a film: what was found, the `FilmError` that says why it cannot be read, or a fault of cxrlines."""
HEAD = b'{"journal of": "cxrlines predict"'
"""What a journal begins with."""
SYNC_EVERY_S = 5.0
"""So much of a reading is lost if the machine itself fails; a killed process loses only the films it was at."""
IN_MEMORY = 2**24
"""Bytes of a journal without a file that are kept in memory; what is more goes to a temporary file."""


class JournalError(Error):
    """A journal that cannot be resumed; the message says why, and the way out."""


class Journal:
    """Readings of films by their place among the films, on disk. Not for several threads at once.

    Args:
        path: of its file; None: a temporary one.
        films: that are read, in order; none is opened before.
        settings: by their names in messages, what readings depend on. A journal is resumed only if all are the
            same.
        resume: continue the journal at `path`, if there is one. Films that changed since, and those that could not
            be read, are read again.

    Raises:
        JournalError: the file at `path` is no journal, or one of another reading, or in use; or there is one, with
            films, and `resume` is not given.
        OutputError: it cannot be written.
    """

    def __init__(
        self, path: Path | None, films: Sequence[Path], settings: Mapping[str, str], *, resume: bool = False
    ) -> None:
        self.path, self._films = path, films
        # Before any is decoded: what replaces a film from now on is never taken for what was read.
        self._stamps = {film: _stamp(film) for film in films}
        self._offsets: dict[int, int] = {}  # of the line of each film, by its place
        self._made: dict[int, set[str]] = {}
        self._synced = time.monotonic()
        self._file: IO[bytes]
        if path is None:
            self._file, self._end = tempfile.SpooledTemporaryFile(IN_MEMORY), 0  # noqa: SIM115 - closed with this
            return
        settings = {"version of cxrlines": __version__, "list of films": _digest(films), **settings}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        except OSError as error:
            raise self._refused(error) from error
        try:
            _lock(self._file, path)
            self._end = self._load(settings, resume)
            self._file.truncate(self._end)
            if not self._end:
                self._write({"journal of": "cxrlines predict", "settings": settings})
                self.sync()
                sync(path.parent)
        except OSError as error:
            self.close()
            raise self._refused(error) from error
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many films were read."""
        return len(self._offsets)

    def __contains__(self, place: int) -> bool:
        """Whether the film at a place was read."""
        return place in self._offsets

    def add(self, place: int, reading: Reading) -> None:
        """Keep what was read of the film at a place. `OutputError` where the disk is full."""
        line: dict[str, Any] = {"place": place, "file": self._stamps[self._films[place]]}
        match reading:
            case Findings():
                line["findings"] = plain(reading)
            case NotAFilm():
                line["other"] = [reading.what, reading.way_out, reading.kind]
            case FilmError():
                line["error"] = [reading.what, reading.way_out]
            case _:
                line["fault"] = [str(reading), *getattr(reading, "__notes__", ())]
        offset = self._end
        self._write(line)
        self._offsets[place] = offset

    def forget(self, places: Iterable[int]) -> None:
        """Drop the readings of the films at some places."""
        for place in places:
            self._offsets.pop(place, None)

    def reading(self, place: int) -> Reading:
        """What was read of the film at a place. `KeyError` if it was not."""
        self._file.seek(self._offsets[place])
        line = json.loads(self._line())
        if "findings" in line:
            return built(line["findings"])
        if "other" in line:
            return NotAFilm(*line["other"])
        if "error" in line:
            return FilmError(*line["error"])
        fault = ReadingFault(line["fault"][0])
        for note in line["fault"][1:]:
            fault.add_note(note)
        return fault

    def check_unchanged(self, film: Path) -> None:
        """`FilmError` if the file of one of the films was changed or replaced since the reading began."""
        now = _stamp(film)
        if self._stamps.get(film, now) != now:
            raise FilmError(f"{readable(film)}: changed since the reading began", "give the command again")

    def made(self, place: int, what: str) -> None:
        """Keep that something (a name, such as a folder of pictures) was made of the film at a place."""
        self._write({"place": place, "made": what})
        self._made.setdefault(place, set()).add(what)

    def has_made(self, place: int, what: str) -> bool:
        """Whether it was, by this reading or the one that it resumed."""
        return what in self._made.get(place, ())

    def sync(self) -> None:
        """Force it to disk."""
        if self.path:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close its file, and keep it."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete its file: what it holds is written elsewhere."""
        if self.path:
            self.path.unlink(missing_ok=True)
        self.close()

    def _line(self) -> bytes:
        """The line that begins where the file stands."""
        if not self.path:
            return self._file.readline()
        parts = [self._file.read(2**15)]  # unbuffered files read lines byte by byte
        while parts[-1] and b"\n" not in parts[-1]:
            parts.append(self._file.read(2**15))
        return b"".join(parts).partition(b"\n")[0]

    def _write(self, line: dict[str, Any]) -> None:
        data = memoryview(json.dumps(line).encode() + b"\n")
        size = len(data)
        try:
            self._file.seek(self._end)
            while data:
                data = data[self._file.write(data) :]
            if time.monotonic() - self._synced > SYNC_EVERY_S:
                self.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise self._refused(error) from error
        self._end += size

    def _load(self, settings: Mapping[str, str], resume: bool) -> int:
        """Take up what the file holds; where it ends: behind its last whole line."""
        path, end = self.path, 0
        if not HEAD.startswith(self._file.read(len(HEAD))):
            raise JournalError(f"{path}: is no journal of a reading", "name another OUT")
        for offset, line in _whole_lines(self._file):
            if not end:
                if not resume and any(True for _ in _whole_lines(self._file, offset + len(line))):
                    raise JournalError(
                        f"{path}: is the journal of a reading that was not finished",
                        "go on with it by --resume, or remove it to start over",
                    )
                if not resume:
                    return 0
                self._check(line, settings)
            else:
                try:
                    self._take(json.loads(line), offset)
                except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                    break  # torn, when the machine failed; what follows is read again
            end = offset + len(line)
        return end

    def _check(self, line: bytes, settings: Mapping[str, str]) -> None:
        try:
            begun = dict(json.loads(line)["settings"].items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise JournalError(f"{self.path}: is no journal of a reading", "name another OUT") from None
        for name, now in settings.items():
            if begun.get(name) != now:
                raise JournalError(
                    f"--resume: {self.path} was begun with another {name}: {begun.get(name)}; now it is {now}",
                    "give the command that it was begun with, or remove that file to start over",
                )

    def _take(self, line: dict[str, Any], offset: int) -> None:
        place = line["place"]
        film = self._films[place]
        if "made" in line:
            if place in self._offsets:
                self._made.setdefault(place, set()).add(line["made"])
        elif ("findings" in line or "other" in line) and line["file"] == self._stamps[film]:
            self._offsets[place] = offset
        else:  # films that could not be read are tried again: their disk may be back
            self._offsets.pop(place, None)

    def _refused(self, error: OSError) -> OutputError:
        assert self.path
        return OutputError(
            f"{self.path}: cannot be written ({error.strerror}; {_free(self.path)} free on its disk); what was found "
            f"on {len(self)} of {len(self._films)} films is kept there",
            "free space, and give the same command with --resume",
        )


def _whole_lines(file: IO[bytes], start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(where it begins, the line with its end) of each line of a file that has an end."""
    file.seek(start)
    offset, rest = start, b""
    while data := file.read(2**20):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield offset, line + b"\n"
            offset += len(line) + 1


def _stamp(film: Path) -> list[int] | None:
    """By what a film's file that changed is known: its size, and when it was written (ns)."""
    try:
        found = film.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _digest(films: Sequence[Path]) -> str:
    hashed = hashlib.sha256()
    for film in films:
        hashed.update(os.fsencode(film.absolute()) + b"\0")
    return f"{len(films)} films ({hashed.hexdigest()[:16]})"


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 2**20:.1f} MiB"
    except OSError:
        return "unknown space"


def _lock(file: IO[bytes], path: Path) -> None:
    """Hold the journal for this process, as long as it lives. Windows has no such locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"{path}: another cxrlines is reading into it", "wait until it is done") from None
    except OSError:
        return  # a file system without locks
