"""A reader in Python: films of any kind in, findings out. The commands are thin over it.

import cxrlines

reader = cxrlines.load_reader()
findings = reader.read("film.dcm")
for line in findings.lines:
    print(line.device.name, line.tip, line.confidence)
"""

import hashlib
import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom

from cxrlines.data.films import Film, FilmError, read_film
from cxrlines.data.pool import cores
from cxrlines.data.prepare import Placement, Prepared, Quality, prepare
from cxrlines.evaluation.calibrate import Calibration
from cxrlines.inference.bundle import EMBEDDED, Bundle, load_bundle
from cxrlines.inference.findings import Findings, findings_of
from cxrlines.inference.forward import Forward, Shown, gives_maps
from cxrlines.inference.quality import load_probe
from cxrlines.inference.views import allowed_views, views
from cxrlines.task import LABELS

Source = str | Path | bytes | np.ndarray | pydicom.Dataset
"""A film: its path, its file's bytes, its pixels ((h, w) uint8, white = bone), or a DICOM dataset."""
T = TypeVar("T")
Progress = Callable[[int, int | None], None]
"""Told (films done, films in all; None where that is not known)."""


class Reader:
    """A bundle's models, ready to read.

    Args:
        bundle: as `load_bundle` gives it.
        tta: any of `views.VIEWS`; probabilities are then means over those views and the plain one.
        batch_size: films computed together by `read_many`.
        lines: whether to find lines, tips and landmarks, where a model of the bundle maps them.

    Raises:
        ValueError: another view. BundleError: flips of models that were not trained with them.
    """

    def __init__(self, bundle: Bundle, *, tta: Sequence[str] = (), batch_size: int = 8, lines: bool = True) -> None:
        self.bundle, self.batch_size, self.lines = bundle, batch_size, lines
        self.tta = allowed_views(bundle, tta)
        self._forward = Forward(bundle)
        self._probe = load_probe(bundle)
        self._sizes = sorted(set(bundle.sizes))
        self._store = bundle.manifest.store
        lines_of = bundle.manifest.calibration
        self._calibration = None if lines_of is None else Calibration(lines_of)

    @property
    def finds_lines(self) -> bool:
        """Whether its findings have lines."""
        return self.lines and any(gives_maps(model) for model in self.bundle.models)

    def read(self, film: Source) -> Findings:
        """The findings of one film. `FilmError` if it cannot be read: says why, and the way out."""
        prepared = self._prepared(film)
        if isinstance(prepared, FilmError):
            raise prepared
        return self._findings([prepared])[0]

    def read_many(self, films: Iterable[Source], progress: Progress | None = None) -> Iterator[Findings | FilmError]:
        """The findings of many films, in their order; a film that cannot be read gives its `FilmError` in its place.

        Films are decoded in threads while others are computed; memory does not grow with their number.
        """
        yield from self._in_batches(films, self._findings, progress)

    def embed(self, films: Iterable[Source], progress: Progress | None = None) -> Iterator["Embedded | FilmError"]:
        """The embeddings of films, prepared as for reading, in their order.

        A `FilmError` where one cannot be read, or is refused as no frontal chest film.
        """
        yield from self._in_batches(films, self._embedded, progress)

    def _in_batches(
        self, films: Iterable[Source], compute: Callable[[list["_Prepared"]], list[T]], progress: Progress | None
    ) -> Iterator[T | FilmError]:
        count = len(films) if isinstance(films, Sequence) else None
        waiting: list[_Prepared | FilmError] = []
        done = 0

        def finish() -> Iterator[T | FilmError]:
            found = iter(compute([film for film in waiting if isinstance(film, _Prepared)]))
            for film in waiting:
                yield film if isinstance(film, FilmError) else next(found)
            waiting.clear()
            if progress:
                progress(done, count)

        for prepared in _ahead(self._prepared, films, 2 * self.batch_size):
            waiting.append(prepared)
            done += 1
            if len(waiting) == self.batch_size:
                yield from finish()
        if waiting:
            yield from finish()

    def _prepared(self, source: Source) -> "_Prepared | FilmError":
        """The film as training saw it: decoded, righted, shrunk as the store does, resampled by the plain policy."""
        start = time.monotonic()
        name = str(source) if isinstance(source, str | Path) else "the film"
        try:
            film = _decoded(source)
            made = prepare(film, self._store.size, self._store.aspect, self._probe)
            shown = {size: views(made.pixels, size, self.tta) for size in self._sizes}
        except FilmError as error:
            return error
        except Exception as error:  # a file nobody foresaw must not cost the others their reading
            return FilmError(f"{name}: cannot be read as a film ({type(error).__name__})")
        at = made.placement.at(self._store.size, self._forward.map_size or self._sizes[-1])
        key = hashlib.sha256(made.pixels.tobytes()).hexdigest()[:16]
        return _Prepared(name, shown, film, made, at, key, time.monotonic() - start)

    def _embedded(self, films: list["_Prepared"]) -> list["Embedded | FilmError"]:
        usable = [film.shown for film in films if film.quality.usable]
        vectors = iter(self._forward.embed(usable) if usable else ())
        return [
            Embedded(next(vectors), film.key, film.made.film_shape)
            if film.quality.usable
            else FilmError(f"{film.name}: {film.quality.notes[0].text}")
            for film in films
        ]

    def _findings(self, films: list["_Prepared"]) -> list[Findings]:
        read = iter(self._read([film for film in films if film.quality.usable]))
        return [
            replace(
                next(read) if film.quality.usable else Findings(film.made.film_shape, (), {}, ()),
                spacing=film.film.spacing,
                quality=film.quality,
                notes=film.film.notes,
                within=film.made.within,
                study_uid=film.film.study_uid,
            )
            for film in films
        ]

    def _read(self, films: list["_Prepared"]) -> list[Findings]:
        """The findings of films that can be read."""
        if not films:
            return []
        start = time.monotonic()
        rows, maps = self._forward([film.shown for film in films], maps=self.lines)
        calibrated = self._calibration is not None
        rows = self._calibration.apply(rows) if self._calibration else rows
        found = []
        for place, (film, row) in enumerate(zip(films, rows, strict=True)):
            labels = dict(zip(LABELS, row.tolist(), strict=True))
            if maps is None:
                found.append(Findings(film.made.film_shape, (), {}, (), labels))
            else:
                found.append(
                    findings_of(
                        maps[place],
                        film.placement,
                        film.made.film_shape,
                        labels,
                        film.film.spacing,
                        self.bundle.manifest.denied,
                        within=film.made.within,
                        rotation=film.quality.rotation,
                    )
                )
        share = (time.monotonic() - start) / len(films)
        return [
            replace(each, seconds=film.seconds + share, calibrated=calibrated)
            for each, film in zip(found, films, strict=True)
        ]


def load_reader(bundle: str | Path | None = None, *, tta: Sequence[str] = (), batch_size: int = 8) -> Reader:
    """A reader of the bundle in a folder, or of the one that ships with the package.

    On a processor with glibc it reads faster after `cxrlines.training.process.keep_buffers()`, which the commands call;
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
class _Prepared:
    """A film at every size that a model sees; `placement` is where the original lies at the size that is mapped."""

    name: str
    shown: Shown
    film: Film
    made: Prepared
    placement: Placement
    key: str
    seconds: float

    @property
    def quality(self) -> Quality:
        return self.made.quality


def _decoded(source: Source) -> Film:
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 2 or not source.size:
            raise FilmError(f"the film is {source.dtype} {source.shape}; give (h, w) uint8, white = bone")
        return Film(source, "array", 8)
    if isinstance(source, pydicom.Dataset):
        file = io.BytesIO()
        source.save_as(file, enforce_file_format=True)
        return read_film(file.getvalue())
    return read_film(source if isinstance(source, bytes) else Path(source))


def _ahead(
    prepare: Callable[[Source], "_Prepared | FilmError"], films: Iterable[Source], ahead: int
) -> Iterator["_Prepared | FilmError"]:
    """Each film prepared, in order, in threads, at most `ahead` films before it is needed."""
    waiting: deque[Future[_Prepared | FilmError]] = deque()
    with ThreadPoolExecutor(max_workers=min(8, cores()), thread_name_prefix="decode") as pool:
        try:
            for film in films:
                waiting.append(pool.submit(prepare, film))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, too, nothing more is decoded
