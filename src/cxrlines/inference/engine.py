"""Films in any mix of formats to probabilities: films are decoded in threads while the models compute."""

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.data.films import FilmError, is_film, read_film
from cxrlines.data.pool import cores
from cxrlines.data.store import Placement, shrink
from cxrlines.data.tables import FILM_SUFFIXES
from cxrlines.inference.bundle import Bundle
from cxrlines.inference.findings import Findings, findings_of
from cxrlines.inference.forward import Forward, Shown, gives_maps
from cxrlines.inference.views import allowed_views, views
from cxrlines.task import LABELS, STUDY_COLUMN

Shape = tuple[float, float]


@dataclass(frozen=True)
class Predictions:
    """What was read, in the order of the sources.

    Attributes:
        rows: `StudyInstanceUID` and the labels in order, probabilities (float).
        films: the file of each row.
        mm_per_px: of each row's film as it was stored, (row, column) spacing in mm, None where unknown.
        film_seconds: time each row took, decoding and its share of its batch.
        errors: (file, what is wrong with it) of each film that could not be read.
        skipped: files in the folders that are no films, passed over.
        renamed: films that share their name with another, and are called by their place instead.
        seconds: for everything, on the clock.
        bundle: the bundle's identity.
        tta: the views the reading was averaged over, besides the plain one.
        findings: lines, tips and landmarks of each row's film; None where they were not asked for or no model maps.
    """

    rows: pd.DataFrame
    films: list[Path]
    mm_per_px: list[Shape | None]
    film_seconds: list[float]
    errors: list[tuple[str, str]]
    skipped: int
    renamed: int
    seconds: float
    bundle: str
    tta: tuple[str, ...] = ()
    findings: tuple[Findings | None, ...] = ()

    def as_dicts(self) -> list[dict[str, Any]]:
        """A JSON value for each film read."""
        probabilities = self.rows[list(LABELS)].to_numpy()
        return [
            {
                "film": str(film),
                STUDY_COLUMN: study,
                "labels": dict(zip(LABELS, row.tolist(), strict=True)),
                **(found.as_dict() if found else {}),
                "bundle": self.bundle,
                "tta": list(self.tta),
                "seconds": seconds,
                "mm_per_px": mm_per_px,
            }
            for film, study, row, seconds, mm_per_px, found in zip(
                self.films,
                self.rows[STUDY_COLUMN],
                probabilities,
                self.film_seconds,
                self.mm_per_px,
                self.findings or [None] * len(self.films),
                strict=True,
            )
        ]


def predict(
    sources: Iterable[Path],
    bundle: Bundle,
    *,
    batch_size: int = 8,
    tta: Sequence[str] = (),
    lines: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """The mean probability of a bundle's models for each film, on the GPU where there is one.

    Folders are searched for films, through all their folders, in the order of their names; a file that is named must
    be a film. What cannot be read becomes an error and stops nothing. A film is decoded and shrunk exactly as for
    training. Memory does not grow with the number of films, but for their rows.

    Args:
        batch_size: films a pass.
        tta: any of `views.VIEWS`; the probability is then the mean over those views and the plain one.
        lines: whether to find lines, tips and landmarks too, where a model of the bundle maps them.
        progress: told (films done, films in all) after each batch.

    Raises:
        ValueError: for another view.
        BundleError: for flips of models that were not trained with them.
    """
    begun = time.monotonic()
    tta = allowed_views(bundle, tta)
    found = find_films(sources)
    errors = dict(found.errors)
    read = Forward(bundle)
    prepare = _Preparation(bundle, tta)
    kept: list[_Prepared] = []
    scores: list[np.ndarray] = []
    findings: list[Findings | None] = []
    pending: list[_Prepared] = []

    def read_batch() -> None:
        start = time.monotonic()
        rows, maps = read([film.pixels for film in pending], maps=lines)
        scores.extend(rows)
        findings.extend(
            [None] * len(pending)
            if maps is None
            else [film.findings(row, its) for film, row, its in zip(pending, rows, maps, strict=True)]
        )
        share = (time.monotonic() - start) / len(pending)
        kept.extend(film.without_pixels(share) for film in pending)
        pending.clear()

    for done, (path, film) in enumerate(_ahead(prepare, found.films, 2 * batch_size), start=1):
        if isinstance(film, _Prepared):
            pending.append(film)
        else:
            errors[str(path)] = film
        if len(pending) == batch_size or (pending and done == len(found.films)):
            read_batch()
        if progress and (done % batch_size == 0 or done == len(found.films)):
            progress(done, len(found.films))
    names = found.names()
    rows = pd.DataFrame(np.array(scores).reshape(-1, len(LABELS)), columns=list(LABELS))
    rows.insert(0, STUDY_COLUMN, [names[film.path] for film in kept])
    return Predictions(
        rows=rows,
        films=[film.path for film in kept],
        mm_per_px=[film.mm_per_px for film in kept],
        film_seconds=[film.seconds for film in kept],
        errors=list(errors.items()),
        skipped=found.skipped,
        renamed=sum(names[film.path] != _stem(film.path) for film in kept),
        seconds=time.monotonic() - begun,
        bundle=bundle.identity,
        tta=tta,
        findings=tuple(findings),
    )


def predict_arrays(
    films: Iterable[np.ndarray], bundle: Bundle, *, batch_size: int = 8, tta: Sequence[str] = ()
) -> np.ndarray:
    """What `predict` reads in films that are decoded already: float64 (films, 11) probabilities.

    `films` are (h, w) uint8 each, of any sizes, as `data.films.read_film` gives them; the rest as for `predict`.
    """
    tta = allowed_views(bundle, tta)
    read = Forward(bundle)
    prepare = _Preparation(bundle, tta)
    scores = [np.empty((0, len(LABELS)))]
    pending: list[Shown] = []
    for film in films:
        pending.append(prepare.shown(film)[0])
        if len(pending) == batch_size:
            scores.append(read(pending)[0])
            pending = []
    if pending:
        scores.append(read(pending)[0])
    return np.concatenate(scores)


def write_predictions(predictions: Predictions, out: Path, *, as_json: bool = False) -> list[Path]:
    """Write `out` with the columns of `sample_submission.csv`, and beside it what else there is to say.

    That is `*.json` with `Predictions.as_dicts` if `as_json`, and `*.errors.csv` (file, error) if there are errors; one
    of an earlier reading, no longer true, is removed. Returns the paths of what was written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    predictions.rows.to_csv(out, index=False)
    written = [out]
    if as_json:
        written.append(out.with_suffix(".json"))
        written[-1].write_text(json.dumps(predictions.as_dicts(), indent=1) + "\n")
    errors = out.with_suffix(".errors.csv")
    errors.unlink(missing_ok=True)
    if predictions.errors:
        pd.DataFrame(predictions.errors, columns=["file", "error"]).to_csv(errors, index=False)
        written.append(errors)
    return written


@dataclass(frozen=True)
class Found:
    """Films to read: each path with the folder it was found from."""

    films: list[tuple[Path, Path]]
    errors: list[tuple[str, str]]
    skipped: int

    def names(self) -> dict[Path, str]:
        """What each film is called: its file's name without ending, or, where two share that, its place as well."""
        names = {path: _stem(path) for path, _ in self.films}
        for longer in (
            lambda path, base: path.relative_to(base).with_name(_stem(path)).as_posix(),
            lambda path, base: path.relative_to(base).as_posix(),
            lambda path, base: path.as_posix(),
        ):
            count = Counter(names.values())
            names |= {path: longer(path, base) for path, base in self.films if count[names[path]] > 1}
        return names


def find_films(sources: Iterable[Path]) -> Found:
    """Every film of the sources once: files as they are named, folders searched in the order of names."""
    films: dict[Path, tuple[Path, Path]] = {}  # by where it is, so that none is read twice
    errors: list[tuple[str, str]] = []
    skipped = 0
    for source in sources:
        if source.is_file():
            films.setdefault(source.absolute(), (source, source.parent))
        elif source.is_dir():
            files = list(_files_below(source))
            here = [path for path in files if path.suffix.lower() in FILM_SUFFIXES or is_film(path)]
            skipped += len(files) - len(here)
            for path in here:
                films.setdefault(path.absolute(), (path, source))
            if not here:
                kinds = ", ".join(FILM_SUFFIXES)
                errors.append((str(source), f"the folder holds no film: none ends in {kinds} or is one by content"))
        else:
            errors.append((str(source), "there is no such file or folder"))
    return Found(list(films.values()), errors, skipped)


def _files_below(folder: Path) -> Iterator[Path]:
    """Plain files in a folder and its folders, by name; hidden ones and links to folders are left alone."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place) / name
            if not name.startswith(".") and path.is_file():
                yield path


def _stem(path: Path) -> str:
    """The name without a film's ending; a DICOM UID as a file name keeps its last number."""
    return path.stem if path.suffix.lower() in FILM_SUFFIXES else path.name


@dataclass(frozen=True)
class _Prepared:
    """A film as the models see it, of (height, width) px, and where it lies in the film whose maps are read."""

    path: Path
    pixels: Shown
    shape: tuple[int, int]
    placement: Placement
    mm_per_px: Shape | None
    seconds: float

    def without_pixels(self, more_seconds: float) -> "_Prepared":
        return replace(self, pixels={}, seconds=self.seconds + more_seconds)

    def findings(self, row: np.ndarray, maps: np.ndarray) -> Findings:
        """From its probabilities and its maps."""
        labels = dict(zip(LABELS, row.tolist(), strict=True))
        return findings_of(maps, self.placement, self.shape, labels, self.mm_per_px)


class _Preparation:
    """From a file to what the models see, by training's own way: decode, shrink as the store does, plain policy."""

    def __init__(self, bundle: Bundle, tta: Sequence[str]) -> None:
        self.store, self.sizes, self.tta = bundle.manifest.store, sorted(set(bundle.sizes)), tta
        mapping = [size for model, size in zip(bundle.models, bundle.sizes, strict=True) if gives_maps(model)]
        self.map_size = max(mapping, default=self.sizes[-1])

    def __call__(self, path: Path) -> _Prepared | str:
        """The film, or what is wrong with it."""
        start = time.monotonic()
        try:
            film = read_film(path)
            pixels, placement = self.shown(film.pixels)
        except FilmError as error:
            return str(error).removeprefix(f"{path}: ")
        except Exception as error:  # a file nobody foresaw must not cost the others their reading
            return f"cannot be read as a film ({type(error).__name__})"
        height, width = film.pixels.shape
        return _Prepared(path, pixels, (height, width), placement, film.mm_per_px, time.monotonic() - start)

    def shown(self, film: np.ndarray) -> tuple[Shown, Placement]:
        """A decoded film (h, w) uint8 at every size that a model sees, and where it lies at the largest."""
        stored, placement = shrink(film, self.store.size, self.store.aspect)
        seen = {size: views(stored, size, self.tta) for size in self.sizes}
        return seen, placement.at(self.store.size, self.map_size)


def _ahead(prepare: _Preparation, films: list[tuple[Path, Path]], ahead: int) -> Iterator[tuple[Path, _Prepared | str]]:
    """Each path with its prepared film, in order, decoded in threads at most `ahead` films before it is needed."""
    waiting: deque[tuple[Path, Future[_Prepared | str]]] = deque()
    with ThreadPoolExecutor(max_workers=min(8, cores()), thread_name_prefix="decode") as pool:
        try:
            for path, _ in films:
                waiting.append((path, pool.submit(prepare, path)))
                if len(waiting) > ahead:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, too, nothing more is decoded
