"""The store: every film decoded and shrunk once, in one memory-mapped array.

A store is a folder: `films.npy` ((n, size, size) uint8) and `store.json`, written last. While it is being built
there are `films.partial.npy` and `journal.jsonl` instead: a line a film, appended after its pixels are on disk, so
that a build killed at any moment goes on where it was and ends in the same bytes.

A store knows its films in two ways. Its `fingerprint` is made of the films' contents alone: the same on any machine,
it is the identity that training builds on. Whether it is still the store OF a data folder is told, without reading
films again, by their names, sizes and times of change; where those differ it is built anew.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cxrlines.data.films import FilmError, read_bytes, read_film
from cxrlines.data.pool import in_parallel
from cxrlines.data.prepare import Aspect, Placement, shrink
from cxrlines.errors import Error

if TYPE_CHECKING:
    from cxrlines.data.tables import Dataset

VERSION = 2
BATCH = 32
"""Films between two flushes to disk: what a kill can cost."""
FILMS, PARTIAL, JOURNAL, MANIFEST = "films.npy", "films.partial.npy", "journal.jsonl", "store.json"


class StoreError(Error):
    """A store cannot be opened or built; the message says which and what to do."""


class Store:
    """An open store.

    Attributes:
        films: (n, size, size) uint8, memory-mapped, read-only.
        studies: The study of each row.
        placements: The placement of each row.
        left_out: Study -> why its film could not be read.
        fingerprint: SHA-256, in hex, of the films' contents, their studies, size and aspect.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            if manifest["version"] != VERSION:
                raise StoreError(f"{folder}: is a store of version {manifest['version']}, not {VERSION}; build it anew")
            self.films: np.ndarray = np.load(self.folder / FILMS, mmap_mode="r", allow_pickle=False)
            self.size: int = manifest["size"]
            self.aspect: Aspect = manifest["aspect"]
            self.studies: list[str] = manifest["studies"]
            self.placements = [Placement.of(np.array(values, np.float64)) for values in manifest["placements"]]
            self.left_out: dict[str, str] = manifest["left_out"]
            self.fingerprint: str = manifest["fingerprint"]
            self.source: str = manifest["source"]
        except FileNotFoundError as error:
            raise StoreError(f"{folder}: is no finished store ({Path(error.filename).name} is missing)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{folder}: is damaged ({type(error).__name__}); remove it and build it anew") from None
        if self.films.shape != (len(self.studies), self.size, self.size) or len(self.placements) != len(self.studies):
            raise StoreError(f"{folder}: {FILMS} and {MANIFEST} do not belong together; remove it and build it anew")
        self._row = {study: row for row, study in enumerate(self.studies)}

    def __len__(self) -> int:
        return len(self.studies)

    def row(self, study: str) -> int:
        """The row of a study; `KeyError` that says why if its film is not in the store."""
        if study not in self._row:
            raise KeyError(f"study {study} is not in {self.folder}: {self.left_out.get(study, 'unknown')}")
        return self._row[study]

    def inner(self, row: int) -> tuple[slice, slice]:
        """Rows and columns of a store film that the film fills: all but the black that pads it."""
        if self.aspect == "stretch":
            return slice(0, self.size), slice(0, self.size)
        filled = [np.flatnonzero(self.films[row].any(axis=axis)) for axis in (1, 0)]
        margins = [min(int(at[0]), self.size - 1 - int(at[-1])) if len(at) else 0 for at in filled]
        return slice(margins[0], self.size - margins[0]), slice(margins[1], self.size - margins[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder,)  # a worker maps the file itself instead of getting a copy of every film


def open_store(folder: Path) -> Store:
    """Open a finished store; `StoreError` if there is none or it is damaged."""
    return Store(folder)


def build_store(dataset: "Dataset", folder: Path, *, size: int, aspect: Aspect, workers: int = 1) -> Store:
    """Decode and shrink the dataset's films into a store, or open it if that is done, or finish it if it was begun.

    Films that cannot be read are left out, with the reason in `Store.left_out`. Rows are in the dataset's order
    whatever the number of workers. Memory does not grow with the number of films. `StoreError` if none can be read.
    """
    folder = Path(folder)
    studies = [str(study) for study in dataset.studies["study"]]
    films = [Path(film) for film in dataset.studies["film"]]
    source = _source(dataset.root, studies, films, size, aspect)
    try:
        store = open_store(folder)
        if store.source == source:
            return store
    except StoreError:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    done = _resume(folder, source, len(films))
    if not done:
        _begin(folder, source, (len(films), size, size))
    todo = [row for row in range(len(films)) if row not in done]
    # Written, not mapped: pages of a mapped file would count as this process's memory, and grow with the films.
    start = _start(folder / PARTIAL)
    with (folder / JOURNAL).open("a") as journal, (folder / PARTIAL).open("r+b") as pixels:
        work = partial(_shrunk, size=size, aspect=aspect)
        batch: list[_Entry] = []
        for place, made in in_parallel(work, [films[row] for row in todo], workers, f"decoding to {size} px"):
            row = todo[place]
            if isinstance(made, _Made):
                pixels.seek(start + row * size * size)
                pixels.write(made.film.tobytes())
                entry = _Entry(row, made.digest, made.placement)
            else:
                entry = _Entry(row, reason=made or f"{films[row]}: its decoder crashed on it; export it again")
            done[row] = entry
            batch.append(entry)
            if len(batch) >= BATCH:
                _record(pixels, journal, batch)
        _record(pixels, journal, batch)
    return _finish(folder, source, [done[row] for row in range(len(films))], studies, size, aspect)


@dataclass(frozen=True)
class _Made:
    film: np.ndarray
    placement: tuple[tuple[float, ...], ...]
    digest: str


@dataclass(frozen=True)
class _Entry:
    """A line of the journal: a film that is done, or why it never will be."""

    row: int
    digest: str | None = None
    placement: tuple[tuple[float, ...], ...] | None = None
    reason: str | None = None


def _shrunk(path: Path, size: int, aspect: Aspect) -> _Made | str:
    """The film of a path for the store, or why not."""
    try:
        data = read_bytes(path)
        pixels = read_film(data, name=str(path)).pixels
    except FilmError as error:
        return str(error)
    film, place = shrink(pixels, size, aspect)
    return _Made(film, place.matrix, hashlib.sha256(data).hexdigest())


def _source(root: Path, studies: list[str], films: list[Path], size: int, aspect: str) -> str:
    """What would be built: SHA-256 over the studies, and the names, sizes and times of change of their films."""
    digest = hashlib.sha256(f"{VERSION} {size} {aspect}\n".encode())
    for study, film in zip(studies, films, strict=True):
        try:
            state = film.stat()
            told = f"{state.st_size}\t{state.st_mtime_ns}"
        except OSError:
            told = "missing"
        name = film.relative_to(root) if film.is_relative_to(root) else film
        digest.update(f"{study}\t{name}\t{told}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _begin(folder: Path, source: str, shape: tuple[int, int, int]) -> None:
    _create(folder / PARTIAL, shape)
    with (folder / JOURNAL).open("w") as journal:
        _append(journal, [json.dumps({"source": source, "shape": shape})])


def _resume(folder: Path, source: str, count: int) -> dict[int, _Entry]:
    """The rows that an interrupted build of the same store has done; none if there was none or its files are hurt."""
    try:
        told = (folder / JOURNAL).read_text()
        whole = told[: told.rfind("\n") + 1]
        head, *lines = whole.splitlines()
        header = json.loads(head)
        if header["source"] != source:
            return {}
        if not (folder / PARTIAL).exists():  # killed between the pixels' last name and the manifest
            (folder / FILMS).replace(folder / PARTIAL)
        array = np.load(folder / PARTIAL, mmap_mode="r", allow_pickle=False)
        if list(array.shape) != header["shape"] or len(array) != count:
            return {}
        entries = [_Entry(**json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if whole != told:  # the kill came within a line
        with (folder / JOURNAL).open("r+") as journal:
            journal.truncate(len(whole.encode()))
    return {entry.row: entry for entry in entries}


def _record(pixels: IO[bytes], journal: IO[str], batch: list[_Entry]) -> None:
    """Pixels to disk, and only then the lines that vouch for them."""
    if batch:
        pixels.flush()
        os.fsync(pixels.fileno())
        _append(journal, [json.dumps(asdict(entry)) for entry in batch])
        batch.clear()


def _append(journal: IO[str], lines: list[str]) -> None:
    journal.write("".join(f"{line}\n" for line in lines))
    journal.flush()
    os.fsync(journal.fileno())


def _finish(folder: Path, source: str, entries: list[_Entry], studies: list[str], size: int, aspect: Aspect) -> Store:
    good = [entry for entry in entries if entry.reason is None]
    left_out = {studies[entry.row]: entry.reason for entry in entries if entry.reason is not None}
    if not good:
        first = next(iter(left_out.values()), "the data has no films")
        raise StoreError(f"{folder}: none of {len(entries)} films could be read; the first: {first}")
    if left_out:
        _close_gaps(folder, [entry.row for entry in good], size)
    else:
        (folder / PARTIAL).replace(folder / FILMS)
    content = hashlib.sha256(f"{VERSION} {size} {aspect}\n".encode())
    for entry in good:
        content.update(f"{studies[entry.row]}\t{entry.digest}\n".encode(errors="surrogateescape"))
    manifest = {
        "version": VERSION,
        "size": size,
        "aspect": aspect,
        "fingerprint": content.hexdigest(),
        "source": source,
        "studies": [studies[entry.row] for entry in good],
        "placements": [entry.placement for entry in good],
        "left_out": left_out,
    }
    aside = folder / f"{MANIFEST}.aside"
    with aside.open("w") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / MANIFEST)
    for rest in (PARTIAL, JOURNAL):  # a kill in between leaves the small one
        (folder / rest).unlink(missing_ok=True)
    return open_store(folder)


def _close_gaps(folder: Path, rows: list[int], size: int) -> None:
    """Copy the rows there are, in order, from the partial array into the final one; a kill leaves the partial whole."""
    aside = folder / "films.aside.npy"
    _create(aside, (len(rows), size, size))
    start, film = _start(folder / PARTIAL), size * size
    with (folder / PARTIAL).open("rb") as every, aside.open("r+b") as kept:
        kept.seek(_start(aside))
        for row in rows:
            every.seek(start + row * film)
            kept.write(every.read(film))
        kept.flush()
        os.fsync(kept.fileno())
    aside.replace(folder / FILMS)


def _create(path: Path, shape: tuple[int, int, int]) -> None:
    """A new file of black films; someone may still be reading an old one of its name."""
    path.unlink(missing_ok=True)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _start(path: Path) -> int:
    """Where in an .npy file its numbers begin, in bytes."""
    return np.load(path, mmap_mode="r", allow_pickle=False).offset
