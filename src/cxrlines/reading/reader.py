"""A reader in Python: films of any kind in, findings out. The commands are thin over it.

import cxrlines

reader = cxrlines.load_reader()
findings = reader.read("film.dcm")
for line in findings.lines:
    print(line.device.name, line.tip, line.confidence)
"""

import hashlib
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom

from cxrlines.core.film import MAX_PIXELS, Film, FilmError, check_size
from cxrlines.core.notes import Note
from cxrlines.core.pool import cores
from cxrlines.core.spacing import Spacing
from cxrlines.evaluation.calibrators import Calibration
from cxrlines.io.films import read_film
from cxrlines.io.prepare import Prepared, prepare
from cxrlines.reading.bundle import EMBEDDED, Bundle, load_bundle
from cxrlines.reading.engines.pytorch import Forward, Shown
from cxrlines.reading.findings import Findings, findings_of
from cxrlines.reading.quality import load_probe
from cxrlines.reading.tta import allowed_views, views
from cxrlines.task import LABELS

Source = str | os.PathLike[str] | bytes | np.ndarray | pydicom.Dataset
"""A film: its path, its file's bytes, its pixels ((h, w) uint8, white = bone, not changed), or a DICOM dataset."""
In = TypeVar("In")
Out = TypeVar("Out")
Progress = Callable[[int, int | None], None]
"""Called with (films done, films in all; None where that is not known)."""


class ReadingFault(RuntimeError):
    """A fault of cxrlines that cost one film its reading.

    It is no `cxrlines.Error`: who gave the film can mend nothing. `__cause__` is what was raised; its
    traceback is a note (`__notes__`), which `traceback.format_exception` shows.
    """

    @classmethod
    def of(cls, name: str, error: Exception) -> "ReadingFault":
        """The fault on the film called `name`: where, but not in the exception's words, which may quote the film."""
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_HOME)]
        place = f" at {ours[-1].filename.removeprefix(_HOME)}:{ours[-1].lineno}" if ours else ""
        fault = cls(f"{name}: a fault of cxrlines ({type(error).__name__}{place}); please report it")
        fault.add_note("".join(traceback.format_exception(error)).rstrip())
        fault.__cause__ = _light(error)
        return fault


_HOME = f"{Path(__file__).parents[1]}{os.sep}"


class Reader:
    """A bundle's models, ready to read. Threads may share one: it does not change after it is made.

    Args:
        bundle: As `load_bundle` gives it; not changed, the reader works with a copy of its models.
        tta: Any of `views.VIEWS`; probabilities are then means over those views and the plain one.
        batch_size: Films computed together by `read_many`.
        lines: Whether to find lines, tips and landmarks, where a model of the bundle maps them.
        network: The bundle's models as they are to run; default: made fast.

    Raises:
        ValueError: Another view. BundleError: Flips of models that were not trained with them.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        tta: Sequence[str] = (),
        batch_size: int = 8,
        lines: bool = True,
        network: Forward | None = None,
    ) -> None:
        self.bundle, self.batch_size, self.lines = bundle, batch_size, lines
        self.tta = allowed_views(bundle, tta)
        self.network = network or Forward(bundle)
        self._probe = load_probe(bundle)
        self._sizes = sorted(set(bundle.sizes))
        self._store = bundle.manifest.store
        fitted = bundle.manifest.calibration
        self._calibration = None if fitted is None else Calibration(fitted)

    def read(self, film: Source) -> Findings:
        """The findings of one film. `FilmError` if it cannot be read: says why, and the way out."""
        ready = self._decoded(film)
        if not ready.made.quality.usable:
            return self.findings(ready)
        rows, maps = self.network([ready.shown], maps=self.lines)
        return self.findings(ready, rows[0], None if maps is None else maps[0])

    def read_many(
        self, films: Iterable[Source], progress: Progress | None = None
    ) -> Iterator[Findings | FilmError | ReadingFault]:
        """The findings of many films, in their order. One that cannot be read costs the others nothing.

        In its place stands its `FilmError`, or a `ReadingFault` where that is no fault of the film's. Films are decoded
        in threads while others are computed; memory does not grow with their number. An exception that `films` raises
        comes after the findings of the films before it.

        Raises:
            TypeError: `films` is one film; `read` takes one.
        """
        return self._in_batches(films, self._findings, progress)

    def embed(
        self, films: Iterable[Source], progress: Progress | None = None
    ) -> Iterator["Embedded | FilmError | ReadingFault"]:
        """The embeddings of films, prepared as for reading, in their order.

        A `FilmError` where one cannot be read, or is refused as no frontal chest film; else as `read_many`.
        """
        return self._in_batches(films, self._embedded, progress)

    def prepare(self, film: Film, name: str = "the film") -> "Ready":
        """A film as its bundle's models see it. `name` is what errors call it."""
        start = time.monotonic()
        made = prepare(film, self._store.size, self._store.aspect, self._probe)
        shown = {size: views(made.pixels, size, self.tta) for size in self._sizes}
        return Ready(name, shown, made, film.spacing, film.notes, film.study_uid, time.monotonic() - start)

    def findings(self, film: "Ready", row: np.ndarray | None = None, maps: np.ndarray | None = None) -> Findings:
        """The findings of a prepared film from what the network gives for it.

        Args:
            row: (11,) float64 probabilities, not calibrated; None for a film that is refused.
            maps: (9, h, w) float32 in [0, 1]; None without lines.

        Raises:
            FilmError: The network gives values that are not numbers.
        """
        start = time.monotonic()
        made = film.made
        if row is None:
            found = Findings(made.film_shape, (), {}, ())
        elif not np.isfinite(row).all() or not (maps is None or np.isfinite(maps).all()):
            raise FilmError(
                f"{film.name}: the models of {self.bundle.folder} give values that are not numbers",
                "use another bundle",
            )
        else:
            rows = row[None] if self._calibration is None else self._calibration.apply(row[None])
            labels = dict(zip(LABELS, rows[0].tolist(), strict=True))
            if maps is None:
                found = Findings(made.film_shape, (), {}, (), labels)
            else:
                placement = made.placement.at(self._store.size, self.network.map_size or self._sizes[-1])
                found = findings_of(
                    maps,
                    placement,
                    made.film_shape,
                    labels,
                    film.spacing,
                    self.bundle.manifest.denied,
                    within=made.within,
                    quality=made.quality,
                )
        return replace(
            found,
            spacing=film.spacing,
            quality=made.quality,
            notes=film.notes,
            within=made.within,
            study_uid=film.study_uid,
            calibrated=row is not None and self._calibration is not None,
            seconds=film.seconds + time.monotonic() - start,
        )

    def _in_batches(
        self,
        films: Iterable[Source],
        compute: Callable[[list["Ready"]], list[Out | FilmError | ReadingFault]],
        progress: Progress | None,
    ) -> Iterator[Out | FilmError | ReadingFault]:
        if isinstance(films, str | os.PathLike | bytes | np.ndarray | pydicom.Dataset):
            raise TypeError(f"films is one film ({type(films).__name__}); give a list of films, or call read")
        count = len(films) if isinstance(films, Sized) else None

        def batches() -> Iterator[Out | FilmError | ReadingFault]:
            done = 0
            with closing(_ahead(self._ready, films, 2 * self.batch_size)) as prepared:
                for batch in _batched(prepared, self.batch_size):
                    found = iter(compute([film for film in batch if isinstance(film, Ready)]))
                    for film in batch:
                        yield next(found) if isinstance(film, Ready) else film
                    done += len(batch)
                    if progress:
                        progress(done, count)

        return batches()

    def _ready(self, source: Source) -> "Ready | FilmError | ReadingFault":
        start = time.monotonic()
        ready = _guarded(_name(source), self._decoded, source)
        return replace(ready, seconds=time.monotonic() - start) if isinstance(ready, Ready) else ready

    def _decoded(self, source: Source) -> "Ready":
        return self.prepare(decode(source), _name(source))

    def _findings(self, films: list["Ready"]) -> list[Findings | FilmError | ReadingFault]:
        usable = [film for film in films if film.made.quality.usable]
        start = time.monotonic()
        rows, maps = self.network([film.shown for film in usable], maps=self.lines) if usable else ((), None)
        share = (time.monotonic() - start) / max(1, len(usable))
        given = iter(zip(rows, maps if maps is not None else [None] * len(rows), strict=True))
        each = [(replace(f, seconds=f.seconds + share), *next(given)) if f.made.quality.usable else (f,) for f in films]
        return [_guarded(one[0].name, self.findings, *one) for one in each]

    def _embedded(self, films: list["Ready"]) -> list["Embedded | FilmError | ReadingFault"]:
        usable = [film.shown for film in films if film.made.quality.usable]
        vectors = iter(self.network.embed(usable) if usable else ())
        return [
            Embedded(next(vectors), film.key, film.made.film_shape)
            if film.made.quality.usable
            else FilmError(f"{film.name}: {film.made.quality.notes[0].text}")
            for film in films
        ]


def load_reader(bundle: str | Path | None = None, *, tta: Sequence[str] = (), batch_size: int = 8) -> Reader:
    """A reader of the bundle in a folder, or of the one that ships with the package.

    On a processor with glibc it reads faster after `cxrlines.training.malloc.keep_buffers()`, which the commands call;
    not so here, as it changes the allocator of the whole process.

    `BundleError` if the bundle cannot be trusted: which file, what is wrong, the way out.
    """
    return Reader(load_bundle(Path(bundle) if bundle else EMBEDDED), tta=tta, batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class Embedded:
    """A film as its bundle's first model sees it.

    Attributes:
        vector: (c,) float32 of length 1: the last feature map, pooled by its mean.
        key: 16 hex digits of the sha256 of the film as stored: films that look the same to a reader share it.
        shape: (height, width) px of the original film.
    """

    vector: np.ndarray
    key: str
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Ready:
    """A film ready for the network, without its original pixels.

    Attributes:
        name: What errors call it.
        shown: The film at every size that a model sees.
        made: The film as prepared at the store's size.
        spacing, notes, study_uid: Of the original film.
        seconds: Spent on it so far.
    """

    name: str
    shown: Shown
    made: Prepared
    spacing: Spacing
    notes: tuple[Note, ...]
    study_uid: str | None
    seconds: float

    @property
    def key(self) -> str:
        """As `Embedded.key`."""
        return hashlib.sha256(self.made.pixels.tobytes()).hexdigest()[:16]


def decode(source: Source) -> Film:
    """The film of a source. `FilmError` if it cannot be read, or is none: says why, and the way out."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 2:
            raise FilmError(f"the film is an array of {source.dtype} {source.shape}", "give (h, w) uint8, white = bone")
        check_size("the film", source.shape[1], source.shape[0], MAX_PIXELS)
        return Film(np.asarray(source), "array", 8)
    if isinstance(source, bytes | pydicom.Dataset):
        return read_film(source)
    if isinstance(source, str | os.PathLike) and "\0" not in os.fspath(source):
        return read_film(Path(source))
    raise FilmError(
        f"the film is a {type(source).__name__} that names or holds no film",
        "give a path, a file's bytes, an (h, w) uint8 array or a pydicom Dataset",
    )


def _name(source: Source) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the film"


def _guarded(name: str, work: Callable[..., Out], *given: object) -> Out | FilmError | ReadingFault:
    """What `work` makes of the film called `name`, or why it made nothing."""
    try:
        return work(*given)
    except FilmError as error:
        return _light(error)
    except MemoryError:
        return FilmError(f"{name}: the memory of this computer does not suffice to read it", "close other programs")
    except Exception as error:
        return ReadingFault.of(name, error)


E = TypeVar("E", bound=Exception)


def _light(error: E) -> E:
    """An exception alone: through its traceback, or those of what led to it, it would keep its film in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _ahead(work: Callable[[In], Out], items: Iterable[In], ahead: int) -> Generator[Out, None, None]:
    """What `work` makes of each item, in order, done in threads at most `ahead` items before it is asked for.

    An exception that `items` raises comes after what was made of the items before it. No thread outlives this.
    """
    waiting: deque[Future[Out]] = deque()
    failed: Exception | None = None
    with ThreadPoolExecutor(max_workers=min(8, cores()), thread_name_prefix="decode") as pool:
        try:
            given = iter(items)
            while True:
                try:
                    item = next(given)
                except StopIteration:
                    break
                except Exception as error:
                    failed = error
                    break
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failed is not None:
                raise failed
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, too, nothing more is decoded


def _batched(items: Iterable[Out], size: int) -> Iterator[list[Out]]:
    """Items in lists of `size`, the last one shorter; where `items` raises, what came before comes first."""
    batch: list[Out] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
