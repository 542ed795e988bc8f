"""Store of prepared films: each decoded and prepared once, as for reading, in one memory-mapped array.

A store is a folder: `films.npy` ((n, h, w) uint8) and `store.json`, written last. While it is being built
there are `films.partial.npy` and `journal.jsonl` instead: a line a film, appended after its pixels are on disk, so
that a build killed at any moment goes on where it was and ends in the same bytes.

Its `fingerprint` is made of the films' contents and of how they were prepared: the same on any machine, it is the
identity that training builds on. Whether it is still the store OF a data folder is decided, without reading films
again, by their names, sizes and times of change. Every film that can be read is in it, whatever it shows.
"""

import contextlib
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import TypeAdapter

from cxrlines.core.errors import Error, light
from cxrlines.core.files import replacing
from cxrlines.core.film import FilmError
from cxrlines.core.notes import Note
from cxrlines.core.pool import in_parallel
from cxrlines.core.quality import Quality
from cxrlines.core.text import plural
from cxrlines.core.transform import Affine, Sides, Size, height_width, size_text
from cxrlines.io.films import read_bytes, read_film
from cxrlines.io.prepare import PREPARATION, Aspect, LeaveOut, Probe, prepare, why_left_out

if TYPE_CHECKING:
    from cxrlines.io.tables import Dataset

VERSION = 2
BATCH = 32
"""Films between two flushes to disk: what a kill can cost."""
FILMS, PARTIAL, JOURNAL, MANIFEST = "films.npy", "films.partial.npy", "journal.jsonl", "store.json"


class StoreError(Error):
    """A store cannot be opened or built; the message names it and the way out."""


@dataclass(frozen=True, slots=True)  # there may be 100,000 and more
class Kept:
    """What a store keeps of a film besides its pixels; `notes` are those of the file, all else as in `Prepared`."""

    placement: Affine
    film_shape: tuple[int, int]
    within: tuple[int, int, int, int]
    quality: Quality
    notes: tuple[Note, ...] = ()


_KEPT = TypeAdapter(list[Kept])
_SIZE = TypeAdapter[Size](Annotated[Size, Sides(1, 65_535)])


class Store:
    """An open store.

    Attributes:
        films: (n, h, w) uint8, memory-mapped, read-only.
        studies: The study of each row.
        kept: What is kept of the film of each row.
        placements: The placement of each row.
        left_out: Study -> why its film could not be read.
        probe: Identity of the probe that assessed the films; empty where none did.
        preparation: Version of the preparation of films.
        fingerprint: SHA-256, in hex, of the films' contents, their studies, size, aspect, and how they were prepared.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        again = "remove it and build it again"
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            if manifest["version"] != VERSION:
                raise StoreError(f"{folder}: is a store of version {manifest['version']}, not {VERSION}", again)
            self.films: np.ndarray = np.load(self.folder / FILMS, mmap_mode="r", allow_pickle=False)
            self.size: Size = _SIZE.validate_python(manifest["size"])
            self.aspect: Aspect = manifest["aspect"]
            self.studies: list[str] = manifest["studies"]
            self.kept = _KEPT.validate_python(manifest["kept"])
            self.left_out: dict[str, str] = manifest["left_out"]
            self.probe: str = manifest["probe"]
            self.preparation: int = manifest["preparation"]
            self.fingerprint: str = manifest["fingerprint"]
            self.source: str = manifest["source"]
        except StoreError:
            raise
        except FileNotFoundError as error:
            raise StoreError(f"{folder}: is not a finished store ({Path(error.filename).name} is missing)") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{folder}: is damaged ({type(error).__name__})", again) from None
        if self.films.shape != (len(self.studies), *height_width(self.size)) or len(self.kept) != len(self.studies):
            raise StoreError(f"{folder}: {FILMS} and {MANIFEST} do not belong together", again)
        self.placements = [kept.placement for kept in self.kept]
        self._row = {study: row for row, study in enumerate(self.studies)}

    def __len__(self) -> int:
        return len(self.studies)

    def row(self, study: str) -> int:
        """The row of a study; `KeyError` with the reason if its film is not in the store."""
        if study not in self._row:
            raise KeyError(f"study {study} is not in {self.folder}: {self.left_out.get(study, 'unknown')}")
        return self._row[study]

    def inner(self, row: int) -> tuple[slice, slice]:
        """Rows and columns of a store film that the film within its frame fills: all but what pads it."""
        return self._box(row, *self.kept[row].within)

    def frame(self, row: int) -> tuple[int, int, int, int]:
        """How wide the frame that was cut off the film would be beside `inner`: px above, below, left and right."""
        height, width = self.kept[row].film_shape
        (rows, columns), (y, x) = self.inner(row), self._box(row, 0, 0, width, height)
        return rows.start - y.start, y.stop - rows.stop, columns.start - x.start, x.stop - columns.stop

    def _box(self, row: int, left: int, top: int, right: int, bottom: int) -> tuple[slice, slice]:
        """Rows and columns of a store film that a box of its original film covers."""
        corners = self.placements[row].from_film(np.array([(left, top), (right, bottom)]) - 0.5) + 0.5
        (x0, y0), (x1, y1) = np.rint(np.sort(corners, axis=0)).astype(int).tolist()
        return slice(y0, y1), slice(x0, x1)

    def taken(self, leave_out: LeaveOut) -> set[str]:
        """The studies whose films pass the gate before training."""
        pairs = zip(self.studies, self.kept, strict=True)
        return {study for study, kept in pairs if why_left_out(kept.quality, leave_out) is None}

    def counts(self, leave_out: LeaveOut) -> tuple[dict[str, int], dict[str, int]]:
        """Films left out by the gate, by the code of why; films that pass with a note, by its code. Commonest first."""
        out: list[str] = []
        noted: list[str] = []
        for kept in self.kept:
            if (reason := why_left_out(kept.quality, leave_out)) is not None:
                out.append(reason.code.value)
            else:
                noted += {note.code.value for note in (*kept.notes, *kept.quality.notes)}
        return dict(Counter(out).most_common()), dict(Counter(sorted(noted)).most_common())

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder,)  # a worker maps the file itself instead of getting a copy of every film


def open_store(folder: Path) -> Store:
    """Open a finished store; `StoreError` if there is none or it is damaged."""
    return Store(folder)


def build_store(
    dataset: "Dataset", folder: Path, *, size: Size, aspect: Aspect, probe: Probe | None = None, workers: int = 1
) -> Store:
    """Decode and prepare the dataset's films into a store, or open it if that is done, or finish it if it was begun.

    Films that cannot be read are left out, with the reason in `Store.left_out`. Rows are in the dataset's order
    whatever the number of workers. Memory does not grow with the number of films. Films are assessed by `probe`, which
    must be picklable, or by rules alone.

    `StoreError` if none can be read, or the disk does not take it, or some could not be read for a passing failure: the
    same command tries these alone again.
    """
    folder = Path(folder)
    studies = [str(study) for study in dataset.studies["study"]]
    films = [Path(film) for film in dataset.studies["film"]]
    identity = "" if probe is None else probe.identity
    how = {"version": VERSION, "preparation": PREPARATION, "size": size, "aspect": aspect, "probe": identity}
    source = _source(dataset.root, studies, films, how)
    with contextlib.suppress(StoreError):
        store = open_store(folder)
        if store.source == source:
            return store
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        done = _resume(folder, source, len(films))
        if not done:
            shape = (len(films), *height_width(size))
            _create(folder / PARTIAL, shape)
            with (folder / JOURNAL).open("w") as journal:
                _append(journal, [{"source": source, "shape": shape}])
    todo = [row for row in range(len(films)) if row not in done]
    # Written, not mapped: pages of a mapped file would count as this process's memory, and grow with the films.
    start = _start(folder / PARTIAL)
    with _opened(folder, JOURNAL, "a") as journal, _opened(folder, PARTIAL, "r+b") as pixels:
        work = partial(_prepared, size=size, aspect=aspect, probe=probe)
        batch: list[_Entry] = []
        failed: dict[int, FilmError] = {}
        title = f"preparing films, {size_text(size)}"
        for place, made in in_parallel(work, [films[row] for row in todo], workers, title):
            row = todo[place]
            with _writing(folder):
                if isinstance(made, tuple):
                    film, kept, digest = made
                    pixels.seek(start + row * math.prod(height_width(size)))
                    pixels.write(film.tobytes())
                    entry = _Entry(row, digest, asdict(kept))
                elif made is not None and made.passing:
                    failed[row] = made
                    continue
                else:
                    reason = f"{films[row]}: its decoder crashed on it; export it again" if made is None else str(made)
                    entry = _Entry(row, reason=reason)
                done[row] = entry
                batch.append(entry)
                if len(batch) >= BATCH:
                    _record(pixels, journal, batch)
        with _writing(folder):
            _record(pixels, journal, batch)
    if failed:
        first = failed[min(failed)]
        what = f"{folder}: {len(failed):,} of {plural(len(films), 'film')} cannot be read now; the first: {first.what}"
        way_out = f"{first.way_out}, or take the film out of the data; the same command goes on where it was"
        raise StoreError(what, way_out)
    with _writing(folder):
        return _finish(folder, source, [done[row] for row in range(len(films))], studies, how)


@dataclass(frozen=True)
class _Entry:
    """A line of the journal: a film that is done (`kept` as JSON has it), or why it never will be."""

    row: int
    digest: str = ""
    kept: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """`StoreError` where the disk does not take what is written."""
    try:
        yield
    except OSError as error:
        way_out = "free space on its disk, or name another place; the same command goes on where it was"
        why = error.strerror or type(error).__name__
        raise StoreError(f"{folder}: the store cannot be written ({why})", way_out) from error


@contextlib.contextmanager
def _opened(folder: Path, name: str, mode: str) -> Iterator[IO[Any]]:
    """A file of a store, open; `StoreError` also where the disk does not take what is left to write at its closing."""
    with _writing(folder):
        file = (folder / name).open(mode)
    try:
        yield file
    finally:
        with _writing(folder):
            file.close()


def _prepared(path: Path, size: Size, aspect: Aspect, probe: Probe | None) -> tuple[np.ndarray, Kept, str] | FilmError:
    """The pixels, what else is kept of a film, and the SHA-256 of its file; or why it cannot be read."""
    try:
        data = read_bytes(path)
        film = read_film(data, name=str(path))
    except FilmError as error:
        return light(error)
    made = prepare(film, size, aspect, probe)
    kept = Kept(made.placement, made.film_shape, made.within, made.quality, film.notes)
    return made.pixels, kept, hashlib.sha256(data).hexdigest()


def _first_line(how: dict[str, Any]) -> bytes:
    """What the hashes of a store begin with: how films become pixels."""
    return f"{' '.join(map(str, how.values()))}\n".encode()


def _source(root: Path, studies: list[str], films: list[Path], how: dict[str, Any]) -> str:
    """Identity of what would be built: how, the studies, and the names, sizes and times of change of their films."""
    digest = hashlib.sha256(_first_line(how))
    for study, film in zip(studies, films, strict=True):
        try:
            stat = film.stat()
            state = f"{stat.st_size}\t{stat.st_mtime_ns}"
        except FileNotFoundError:
            state = "missing"
        except OSError as error:
            what, way_out = f"{film}: cannot be read ({error.strerror})", "check the path and its permissions"
            raise StoreError(what, way_out) from None
        name = film.relative_to(root) if film.is_relative_to(root) else film
        digest.update(f"{study}\t{name}\t{state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _resume(folder: Path, source: str, count: int) -> dict[int, _Entry]:
    """The rows that an interrupted build has done; {} if there was none of the same store, or its files are damaged."""
    try:
        text = (folder / JOURNAL).read_text()
        whole = text[: text.rfind("\n") + 1]
        head, *lines = map(json.loads, whole.splitlines())
        if head["source"] != source:
            return {}
        if not (folder / PARTIAL).exists():  # killed between the pixels' last name and the manifest
            (folder / FILMS).replace(folder / PARTIAL)
        array = np.load(folder / PARTIAL, mmap_mode="r", allow_pickle=False)
        if list(array.shape) != head["shape"] or len(array) != count:
            return {}
        entries = [_Entry(**line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if whole != text:  # the kill came within a line
        with (folder / JOURNAL).open("r+") as journal:
            journal.truncate(len(whole.encode()))
    return {entry.row: entry for entry in entries}


def _record(pixels: IO[bytes], journal: IO[str], batch: list[_Entry]) -> None:
    """Pixels to disk, and only then the lines that vouch for them."""
    if batch:
        pixels.flush()
        os.fsync(pixels.fileno())
        _append(journal, map(asdict, batch))
        batch.clear()


def _append(journal: IO[str], lines: Iterable[dict[str, Any]]) -> None:
    journal.write("".join(f"{json.dumps(line)}\n" for line in lines))
    journal.flush()
    os.fsync(journal.fileno())


def _finish(folder: Path, source: str, entries: list[_Entry], studies: list[str], how: dict[str, Any]) -> Store:
    good = [entry for entry in entries if entry.kept]
    left_out = {studies[entry.row]: entry.reason for entry in entries if not entry.kept}
    if not good:
        first = next(iter(left_out.values()), "the data has no films")
        raise StoreError(f"{folder}: none of {len(entries)} films could be read; the first: {first}")
    if left_out:
        _close_gaps(folder, [entry.row for entry in good], how["size"])
    else:
        (folder / PARTIAL).replace(folder / FILMS)
    content = hashlib.sha256(_first_line(how))
    for entry in good:
        quality = entry.kept["quality"]  # its probabilities may differ with another machine's floats
        done = f"{tuple(entry.kept['within'])} {quality['rotation']} {quality['inverted']}"
        content.update(f"{studies[entry.row]}\t{entry.digest}\t{done}\n".encode(errors="surrogateescape"))
    manifest = how | {
        "fingerprint": content.hexdigest(),
        "source": source,
        "studies": [studies[entry.row] for entry in good],
        "kept": [entry.kept for entry in good],
        "left_out": left_out,
    }
    with replacing(folder / MANIFEST) as aside, aside.open("w") as file:
        json.dump(manifest, file)
    for rest in (PARTIAL, JOURNAL):  # a kill in between leaves the small one
        (folder / rest).unlink(missing_ok=True)
    return open_store(folder)


def _close_gaps(folder: Path, rows: list[int], size: Size) -> None:
    """Copy the rows there are, in order, from the partial array into the final one; a kill leaves the partial whole."""
    aside = folder / "films.aside.npy"  # one name: what a kill leaves of so large a file is written over
    height, width = height_width(size)
    _create(aside, (len(rows), height, width))
    start, film = _start(folder / PARTIAL), height * width
    with (folder / PARTIAL).open("rb") as every, aside.open("r+b") as kept:
        kept.seek(_start(aside))
        for row in rows:
            every.seek(start + row * film)
            kept.write(every.read(film))
        kept.flush()
        os.fsync(kept.fileno())
    aside.replace(folder / FILMS)


def _create(path: Path, shape: tuple[int, int, int]) -> None:
    path.unlink(missing_ok=True)  # a process may still be reading it
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _start(path: Path) -> int:
    """Where in an .npy file its numbers begin, in bytes."""
    return int(np.load(path, mmap_mode="r", allow_pickle=False).offset)
