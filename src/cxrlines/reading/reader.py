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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxrlines.core.errors import Error, ReadingFault, light
from cxrlines.core.film import Film, FilmError
from cxrlines.core.findings import Findings
from cxrlines.core.heatmaps import STRIDE
from cxrlines.core.notes import Note
from cxrlines.core.spacing import Spacing
from cxrlines.io.films import Source, is_source, read_film
from cxrlines.io.prepare import Prepared, cut_frame
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.bundle import EMBEDDED, MANIFEST, PROBE_FILE, Bundle, BundleError, load_bundle
from cxrlines.reading.engines import Engine, FilmViews
from cxrlines.reading.engines.choice import engine_of
from cxrlines.reading.frequencies import with_prior
from cxrlines.reading.interpretation import FilmMaps, findings_of
from cxrlines.reading.prefetch import ahead, in_batches
from cxrlines.reading.probe import Probe, read_probe
from cxrlines.reading.tta import SCALES, VIEWS, views

Out = TypeVar("Out")
Progress = Callable[[int, int | None], None]
"""Called with (films done, films in all; None where that is not known)."""
FindingsWithMaps = tuple[Findings, FilmMaps | None]
"""Findings and the heatmaps they come from; None of a refused film, and where no lines are sought."""
Computed = tuple[float, np.ndarray, np.ndarray | None]
"""Seconds that the engine took for a film, its probabilities, and its heatmaps where they are sought."""


class Reader:
    """A bundle's models, ready to read. Threads may share one: it does not change after it is made.

    Args:
        bundle: As `load_bundle` gives it.
        tta: Any of `VIEWS`; probabilities are then means over those views and the plain one. None: the bundle's own,
            those of the recipe it was trained by.
        batch_size: Films computed together by `read_many`.
        lines: Whether to find lines, tips and landmarks, where a model of the bundle gives heatmaps.
        engine: What runs the bundle's models; default: `engines.choice.engine_of`.

    Raises:
        ValueError: Another view.
        BundleError: Flips of models that were not trained with them, or models that do not fit.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        tta: Sequence[str] | None = None,
        batch_size: int = 8,
        lines: bool = True,
        engine: Engine | None = None,
    ) -> None:
        self.bundle, self.batch_size, self.lines = bundle, batch_size, lines
        self.tta, self._scales = allowed_views(bundle, tta), scales_of(bundle)
        self.engine = engine or engine_of(bundle)
        self.probe = load_probe(bundle)
        self._store = bundle.manifest.store
        fitted = bundle.manifest.calibration
        self._calibration = None if fitted is None else Calibration(fitted)

    def read(self, film: Source) -> Findings:
        """The findings of one film.

        Raises:
            FilmError: It cannot be read; the message says why, and the way out.
        """
        start = time.monotonic()
        ready = self.prepare(read_film(film), _name(film))
        usable = ready.prepared.quality.usable
        rows, maps = self.engine([ready.views], maps=self.lines) if usable else ([None], None)
        timed = replace(ready, seconds=time.monotonic() - start)
        return self.findings(timed, rows[0], None if maps is None else maps[0])

    def read_many(
        self, films: Iterable[Source], progress: Progress | None = None
    ) -> Iterator[Findings | FilmError | ReadingFault]:
        """The findings of many films, in their order. One that cannot be read costs the others nothing.

        In its place stands its `FilmError`, or a `ReadingFault` where that is no fault of the film's. Films are decoded
        in threads while others are computed; memory does not grow with their number. An exception that `films` raises
        comes after the findings of the films before it.

        Raises:
            TypeError: `films` is one film, which `read` takes.
        """
        return self._in_batches(films, self._read_batch, progress)

    def read_with_maps(
        self, films: Iterable[Source], progress: Progress | None = None
    ) -> Iterator[FindingsWithMaps | FilmError | ReadingFault]:
        """As `read_many`, each film's findings with the heatmaps they come from."""
        return self._in_batches(films, self._read_batch_with_maps, progress)

    def embed(
        self, films: Iterable[Source], progress: Progress | None = None
    ) -> Iterator["Embedded | FilmError | ReadingFault"]:
        """The embeddings of films, prepared as for reading, in their order.

        A `FilmError` where one cannot be read, or is refused as no frontal chest film; else as `read_many`.
        """
        return self._in_batches(films, self._embed_batch, progress)

    def prepare(self, film: Film, name: str = "the film") -> "ReadyFilm":
        """A film as its bundle's models see it. `name` is what errors call it."""
        start = time.monotonic()
        framed = cut_frame(film)
        probed = self.probe(framed.pixels) if self.probe and framed.quality.usable else None
        prepared = framed.prepared(probed, self._store.size, self._store.aspect)
        shown = {size: views(prepared.pixels, size, self.tta, self._scales) for size in set(self.bundle.sizes)}
        return ReadyFilm(name, shown, prepared, film.spacing, film.notes, film.study_uid, time.monotonic() - start)

    def findings(self, film: "ReadyFilm", row: np.ndarray | None = None, maps: np.ndarray | None = None) -> Findings:
        """The findings of a prepared film from what the engine gives for it.

        Args:
            row: (labels,) float64 probabilities, not calibrated; None for a film that is refused.
            maps: (maps, h, w) float32 in [0, 1]; None without lines.

        Raises:
            FilmError: The engine gives values that are not numbers.
        """
        return self._interpret(film, row, maps)[0]

    def _interpret(
        self, film: "ReadyFilm", row: np.ndarray | None = None, maps: np.ndarray | None = None
    ) -> FindingsWithMaps:
        """As `findings`, with the heatmaps of the film."""
        start = time.monotonic()
        prepared, manifest = film.prepared, self.bundle.manifest
        labels = None if row is None else self._probabilities(film, row, maps)
        film_maps = None
        if maps is None:
            found = Findings(
                prepared.film_shape,
                (),
                {},
                (),
                labels,
                film.spacing,
                quality=prepared.quality,
                within=prepared.within,
                notes=film.notes,
            )
        else:
            placement = prepared.placement.at(self._store.size, (STRIDE * maps.shape[1], STRIDE * maps.shape[2]))
            film_maps = FilmMaps.of(maps, placement, prepared.film_shape, prepared.within, self.bundle.channels)
            found = findings_of(
                film_maps,
                labels,
                film.spacing,
                quality=prepared.quality,
                notes=film.notes,
                suppress_below=manifest.denied,
                min_confidence=manifest.confident,
            )
        found = replace(
            found,
            study_uid=film.study_uid,
            calibrated=row is not None and self._calibration is not None,
            seconds=film.seconds + time.monotonic() - start,
        )
        return found, film_maps

    def _probabilities(self, film: "ReadyFilm", row: np.ndarray, maps: np.ndarray | None) -> dict[str, float]:
        """Calibrated probability by label. `FilmError` where the engine's values, or its heatmaps', are not numbers."""
        if not np.isfinite(row).all() or not (maps is None or np.isfinite(maps).all()):
            raise FilmError(
                f"{film.name}: the models of {self.bundle.folder} give values that are not numbers",
                "use another bundle",
            )
        labels, prior = self.bundle.manifest.labels, self.bundle.manifest.prior
        calibrated = row if self._calibration is None else self._calibration.apply(row, labels)
        calibrated = with_prior(calibrated, labels, prior) if prior else calibrated
        return dict(zip(labels, calibrated.tolist(), strict=True))

    def _in_batches(
        self,
        films: Iterable[Source],
        compute: Callable[[list["ReadyFilm"]], list[Out | FilmError | ReadingFault]],
        progress: Progress | None,
    ) -> Iterator[Out | FilmError | ReadingFault]:
        if is_source(films):
            raise TypeError(f"films is one film ({type(films).__name__}); give a list of films, or call read")
        return in_batches(films, self._ready, compute, self.batch_size, progress)

    def _ready(self, source: Source) -> "ReadyFilm | FilmError | ReadingFault":
        start = time.monotonic()
        ready = guarded(_name(source), lambda: self.prepare(read_film(source), _name(source)))
        return replace(ready, seconds=time.monotonic() - start) if isinstance(ready, ReadyFilm) else ready

    def _read_batch(self, films: list["ReadyFilm"]) -> list[Findings | FilmError | ReadingFault]:
        return [one[0] if isinstance(one, tuple) else one for one in self._read_batch_with_maps(films)]

    def _read_batch_with_maps(self, films: list["ReadyFilm"]) -> list[FindingsWithMaps | FilmError | ReadingFault]:
        readings: list[FindingsWithMaps | FilmError | ReadingFault] = []
        with closing(self._computed([film for film in films if film.prepared.quality.usable])) as computed:
            for film in films:
                if not film.prepared.quality.usable:
                    readings.append(guarded(film.name, self._interpret, film))
                elif isinstance(given := next(computed), tuple):
                    seconds, row, maps = given
                    timed = replace(film, seconds=film.seconds + seconds)
                    readings.append(guarded(film.name, self._interpret, timed, row, maps))
                else:
                    readings.append(given)
        return readings

    def _computed(self, films: Sequence["ReadyFilm"]) -> Generator[Computed | FilmError | ReadingFault, None, None]:
        """What the engine gives for each film, or its error; while one's findings are made, the next are computed."""

        def compute(part: Sequence["ReadyFilm"]) -> list[Computed]:
            start = time.monotonic()
            rows, maps = self.engine([film.views for film in part], maps=self.lines)
            seconds_each = (time.monotonic() - start) / len(part)
            each = zip(rows, [None] * len(part) if maps is None else maps, strict=True)
            return [(seconds_each, row, heat) for row, heat in each]

        size = self.engine.at_once or max(1, len(films))
        parts = (films[start : start + size] for start in range(0, len(films), size))
        with closing(ahead(partial(_each, compute), parts, 1, 1)) as computed:
            yield from chain.from_iterable(computed)

    def _embed_batch(self, films: list["ReadyFilm"]) -> list["Embedded | FilmError | ReadingFault"]:
        def compute(part: Sequence[ReadyFilm]) -> list[Embedded]:
            each = zip(self.engine.embed([film.views for film in part]), part, strict=True)
            return [Embedded(vector, film.key, film.prepared.film_shape) for vector, film in each]

        usable = [film for film in films if film.prepared.quality.usable]
        found = iter(_each(compute, usable) if usable else ())
        return [
            next(found)
            if film.prepared.quality.usable
            else FilmError(f"{film.name}: {film.prepared.quality.notes[0].text}")
            for film in films
        ]


def load_reader(bundle: str | Path | None = None, *, tta: Sequence[str] | None = None, batch_size: int = 8) -> Reader:
    """A reader of the bundle in a folder, or the embedded reader.

    On a processor with glibc it reads faster after `cxrlines.core.pool.keep_buffers()`, which the commands call;
    not so here, as it changes the allocator of the whole process.

    Raises:
        BundleError: It cannot be trusted; the message names the file, what is wrong, and the way out.
    """
    return Reader(load_bundle(EMBEDDED if bundle is None else Path(bundle)), tta=tta, batch_size=batch_size)


def load_probe(bundle: Bundle) -> Probe | None:
    """The network that assesses films for the bundle; None if it has none.

    Raises:
        BundleError: Its file is damaged, or holds another network; or an ONNX file of it, which would be computed, is
            not in the manifest.
    """
    if PROBE_FILE not in bundle.manifest.files:
        return None
    onnx = Path(PROBE_FILE).with_suffix(".onnx").name
    if onnx not in bundle.manifest.files and (bundle.folder / onnx).exists():
        raise BundleError(
            f"{bundle.folder / MANIFEST}: files has no entry for {onnx}, which lies beside it and would assess films "
            "unchecked",
            f"remove {bundle.folder / onnx}, or copy the bundle again",
        )
    try:
        return read_probe(bundle.folder / PROBE_FILE)
    except Error as error:
        raise BundleError(f"{bundle.folder / MANIFEST}: {error.what}", "copy or pack the bundle again") from error


def allowed_views(bundle: Bundle, tta: Sequence[str] | None) -> tuple[str, ...]:
    """The views named, each once, in the order of `VIEWS`; None: those of the bundle's `meta["views"]`, if it has any.

    Raises:
        ValueError: Another name.
        BundleError: A flip, unless the bundle's `meta["flip"]` is true: its models saw flips.
    """
    if tta is None:
        trained = bundle.manifest.meta.get("views") or {}
        wanted = {"flip": trained.get("flip"), "scale": trained.get("scales")}
        tta = [name for name in VIEWS if wanted[name]]
    for name in tta:
        if name not in VIEWS:
            raise ValueError(f"no view is called {name!r}; test-time augmentation has {' and '.join(VIEWS)}")
    flip = bundle.manifest.meta.get("flip")
    if "flip" in tta and flip is not True:
        why = (
            "its models were trained without flips (meta.flip is false)"
            if flip is False
            else "it does not say that its models were trained with flips (meta.flip); `cxrlines bundle` exports it "
            "again from its run and says so"
        )
        raise BundleError(
            f"{bundle.folder / MANIFEST}: {why}. A model that never saw a flipped film misreads one",
            "leave out the view 'flip'",
        )
    return tuple(name for name in VIEWS if name in tta)


def scales_of(bundle: Bundle) -> tuple[float, ...]:
    """The scales of the view `scale`: those of the bundle's `meta["views"]`, else `SCALES`."""
    return tuple((bundle.manifest.meta.get("views") or {}).get("scales") or SCALES)


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
class ReadyFilm:
    """A film ready for the engine, without its original pixels.

    Attributes:
        name: What errors call it.
        views: The film at every size that a model sees.
        prepared: The film as prepared at the store's size.
        spacing, notes, study_uid: Of the original film.
        seconds: Spent on it so far.
    """

    name: str
    views: FilmViews
    prepared: Prepared
    spacing: Spacing
    notes: tuple[Note, ...]
    study_uid: str | None
    seconds: float

    @property
    def key(self) -> str:
        """As `Embedded.key`."""
        return hashlib.sha256(self.prepared.pixels.tobytes()).hexdigest()[:16]


def _name(source: Source) -> str:
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else "the film"


def guarded(name: str, work: Callable[..., Out], *args: object) -> Out | FilmError | ReadingFault:
    """What `work(*args)` returns for the film called `name`, or the error that it raised."""
    try:
        return work(*args)
    except Exception as error:
        return _failure(name, error)


def _failure(name: str, error: Exception) -> FilmError | ReadingFault:
    """What stands in the place of the film called `name` for an exception that was raised over it."""
    if isinstance(error, FilmError):
        return light(error)
    if isinstance(error, MemoryError):
        return FilmError(f"{name}: the memory of this computer does not suffice to read it", "close other programs")
    return ReadingFault.of(name, error)


def _each(
    compute: Callable[[Sequence[ReadyFilm]], Sequence[Out]], films: Sequence[ReadyFilm]
) -> Sequence[Out | FilmError | ReadingFault]:
    """What `compute` gives for films, which it computes together; each alone where that fails."""
    if len(films) > 1:
        with suppress(Exception):
            return compute(films)
    return [guarded(film.name, lambda film=film: compute([film])[0]) for film in films]
