"""Predictions for files and folders of films: found, read in constant memory, named.

Readings go into a journal as they come (`reading.journal`), and from there into the files of results
(`reading.results.prediction_files`).
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from cxrlines.core.errors import ReadingFault
from cxrlines.core.files import readable
from cxrlines.core.film import FilmError, NotAFilm, film_name
from cxrlines.core.findings import Findings, prediction_json
from cxrlines.core.pool import cores, in_processes, keep_buffers
from cxrlines.reading.bundle import NOTICE, Bundle, load_bundle
from cxrlines.reading.engines.choice import computed_by, engine_of, reads_on_gpu
from cxrlines.reading.journal import Journal, Reading
from cxrlines.reading.prefetch import ahead
from cxrlines.reading.reader import Progress, Reader, allowed_views
from cxrlines.reading.sources import Found, find_films
from cxrlines.task import STUDY_COLUMN

if TYPE_CHECKING:
    import pandas as pd

FILMS_A_PROCESS = 24
"""Films for each core from which on a process for each core pays: it takes about as long to start as to read three."""
BATCHES_AT_ONCE = 4
"""On a GPU: one is decoded, one computed, one traced (Python does one at a time), one ahead."""
Outcome = tuple[int, Reading]
"""The place of a film among those found, and its reading."""


class Journaled(Sequence[Findings]):
    """Findings in a journal, read again each time one is asked for, so that none is kept in memory."""

    def __init__(self, journal: Journal, places: Sequence[int]) -> None:
        self._journal, self.places = journal, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Findings: ...
    @overload
    def __getitem__(self, index: slice) -> "Journaled": ...
    def __getitem__(self, index: int | slice) -> "Findings | Journaled":
        if isinstance(index, slice):
            return Journaled(self._journal, self.places[index])
        findings = self._journal.reading(self.places[index])
        assert isinstance(findings, Findings)
        return findings


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions for films, in the order of the sources.

    Attributes:
        studies: what each film is called, no two alike: see `Found.names`.
        labels: of the bundle, in order.
        films: the file of each.
        findings: of each film, with lines, tips and landmarks where they were asked for and a model maps them. Each is
            read from the journal when it is asked for.
        errors: (file, what is wrong with it) of each film that could not be read, those of `faults` among them.
        skipped: what it is -> how many of it lie in the folders and were passed over.
        renamed: films that share their name with another, and are called by their place instead.
        same_study: films that share their StudyInstanceUID with another, and are called by their file's name instead.
        bundle: the bundle's identity.
        tta: the views that probabilities are averaged over, besides the plain one.
        notice: that it is for research, and what it was trained on.
        refused: (file, name) of each film that is not to be read; it is among the errors as well, and has no row.
        refused_findings: of each of those: none but its quality.
        faults: (file, exception) of each film whose reading failed by a fault of cxrlines.
        unread: films that were not reached, as the reading was stopped.
        resumed: how many films an earlier reading had read, which this one resumed.
        journal: where all readings are.
    """

    studies: list[str]
    labels: tuple[str, ...]
    films: list[Path]
    findings: Journaled
    errors: list[tuple[str, str]]
    skipped: dict[str, int]
    renamed: int
    same_study: int
    bundle: str
    tta: tuple[str, ...]
    refused: list[tuple[Path, str]]
    refused_findings: Journaled
    faults: list[tuple[str, Exception]]
    unread: list[Path]
    resumed: int
    journal: Journal
    notice: str = NOTICE

    @property
    def rows(self) -> "pd.DataFrame":
        """A row a film: `StudyInstanceUID`, then the probability (float) of each label. Needs pandas (`[evaluate]`)."""
        import pandas as pd  # takes a quarter of a second, and reading does without

        rows = pd.DataFrame([found.labels for found in self.findings], columns=list(self.labels), dtype=float)
        rows.insert(0, STUDY_COLUMN, self.studies)
        return rows

    def each_dict(self) -> Iterator[dict[str, Any]]:
        """A JSON value for each film read, then one without findings for each that was refused."""
        read = zip(zip(self.films, self.studies, strict=True), self.findings, strict=True)
        refused = zip(self.refused, self.refused_findings, strict=True)
        for (film, study), found in chain(read, refused):
            yield prediction_json(found, readable(film), study, self.bundle, self.tta, self.notice)


class Stopped(KeyboardInterrupt):
    """The reading was interrupted; `predictions` has the films that were read until then."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__()
        self.predictions = predictions


def predict(
    sources: Iterable[Path] | Found,
    bundle: Bundle,
    *,
    batch_size: int = 8,
    tta: Sequence[str] | None = None,
    lines: bool = False,
    progress: Progress | None = None,
    journal: Path | None = None,
    resume: bool = False,
) -> Predictions:
    """The predictions of a bundle for films and folders, on the GPU where there is one.

    Folders are searched for films, through all their folders, in the order of their names; a file that is named must
    be a film. What cannot be read becomes an error and stops nothing. A film is prepared exactly as for training.
    Memory does not grow with the number of films, except by their paths and names. Many films are read by a process a
    core.

    Args:
        sources: films and folders, or what `find_films` found in them.
        batch_size: films a pass.
        tta: any of `reader.VIEWS`; the probability is then the mean over those views and the plain one. None: the
            bundle's own.
        lines: whether to find lines, tips and landmarks too, where a model of the bundle maps them.
        progress: called with (films done, films in all) after each film.
        journal: a file for all readings, by which a killed reading is resumed; see `Predictions.journal` for its end.
            None: a temporary one.
        resume: continue the reading in the journal, if there is one.

    Raises:
        ValueError: for another view.
        BundleError: for flips of models that were not trained with them, or as the bundle was exchanged meanwhile.
        JournalError, OutputError: as `Journal`.
        Stopped: instead of KeyboardInterrupt, once reading has begun; it holds what was read.
    """
    views = allowed_views(bundle, tta)
    found = sources if isinstance(sources, Found) else find_films(sources)
    by_processes = cores() > 1 and len(found.films) >= FILMS_A_PROCESS * cores() and not reads_on_gpu()

    def read(places: Sequence[int]) -> Generator[Outcome, None, None]:
        paths = [found.films[place][0] for place in places]
        if by_processes:
            work = partial(_read_in_worker, bundle.folder, bundle.identity, views, lines)
            readings = _by_processes(work, paths, cores())
        else:
            reader = Reader(bundle, tta=views, batch_size=batch_size, lines=lines)
            readings = by_threads(reader, paths) if reads_on_gpu() else enumerate(reader.read_many(paths))
        for index, reading in readings:
            yield places[index], reading

    return collect(
        found,
        read,
        bundle,
        tta=views,
        lines=lines,
        journal=journal,
        resume=resume,
        progress=progress,
        engine=computed_by(bundle),
        pass_size=1 if by_processes else batch_size,
    )


def collect(
    found: Found,
    read: Callable[[Sequence[int]], Generator[Outcome, None, None]],
    bundle: Bundle,
    *,
    tta: tuple[str, ...],
    lines: bool,
    journal: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    engine: str,
    pass_size: int = 1,
) -> Predictions:
    """The predictions from what `read` gives for places in `found.films`, in any order, as it comes.

    `read` is asked for all films that the journal lacks, and for all that share a pass with one of them, as networks
    may round differently in another batch. An error leaves the journal behind. For the other arguments see `predict`.

    Args:
        found: The films.
        read: Called with places in `found.films`; gives (place, reading) of each.
        engine: What computes them: no reading is resumed by another one, as it may round differently.
        pass_size: Films computed in a pass.

    Raises:
        Stopped: Instead of KeyboardInterrupt; films without a reading are `unread` in its predictions.
        JournalError, OutputError: as `Journal`.
    """
    count = len(found.films)
    settings = {
        "bundle": bundle.identity,
        "test-time augmentation": ", ".join(tta) or "none",
        "search for lines (--json, --draw)": "on" if lines else "off",
        "engine": engine,
        "number of films a pass (--batch)": str(pass_size),
    }
    kept = Journal(journal, [path for path, _ in found.films], settings, resume=resume)
    for start in range(0, count, pass_size):
        places = range(start, min(start + pass_size, count))
        if not all(place in kept for place in places):
            kept.forget(places)
    resumed = len(kept)
    try:
        if progress and resumed:
            progress(resumed, count)
        with closing(read([place for place in range(count) if place not in kept])) as readings:
            for place, reading in readings:
                kept.add(place, reading)
                if progress:
                    progress(len(kept), count)
        kept.sync()
    except KeyboardInterrupt as stop:
        kept.sync()
        raise Stopped(_predictions(found, kept, bundle, tta, resumed)) from stop
    except BaseException:
        if kept:
            kept.close()
        else:
            kept.remove()
        raise
    if len(kept) != count:
        raise RuntimeError(f"{len(kept)} readings of {count} films")
    return _predictions(found, kept, bundle, tta, resumed)


def _predictions(found: Found, kept: Journal, bundle: Bundle, tta: tuple[str, ...], resumed: int) -> Predictions:
    errors = dict(found.errors)
    faults: list[tuple[str, Exception]] = []
    skipped = Counter(found.skipped)
    read: list[int] = []
    refused: list[int] = []
    studies: dict[Path, str] = {}
    for place, (path, _) in enumerate(found.films):
        if place not in kept:
            continue
        match kept.reading(place):
            case Findings() as findings:
                if findings.study_uid:
                    studies[path] = findings.study_uid
                (read if findings.quality.usable else refused).append(place)
                if not findings.quality.usable:
                    errors[str(path)] = findings.quality.notes[0].text
            case NotAFilm() as other if path not in found.named:
                skipped[other.kind] += 1
            case Exception() as error:
                errors[str(path)] = reason(path, error)
                if not isinstance(error, FilmError):
                    faults.append((str(path), error))
    with_row = {studies.get(found.films[place][0]) for place in read}
    for path in (found.films[place][0] for place in refused):
        if path in studies and studies[path] in with_row:
            del studies[path]  # a lateral film has no row, and takes no name from the frontal one
    names = found.names(studies)
    films = [found.films[place][0] for place in read]
    return Predictions(
        studies=[names[path] for path in films],
        labels=tuple(bundle.manifest.labels),
        films=films,
        findings=Journaled(kept, read),
        errors=list(errors.items()),
        skipped=dict(skipped),
        renamed=sum(names[path] not in (readable(film_name(path)), studies.get(path)) for path in films),
        same_study=sum(path in studies and names[path] != studies[path] for path in films),
        bundle=bundle.identity,
        tta=tta,
        refused=[(path, names[path]) for path in (found.films[place][0] for place in refused)],
        refused_findings=Journaled(kept, refused),
        faults=faults,
        unread=[path for place, (path, _) in enumerate(found.films) if place not in kept],
        resumed=resumed,
        journal=kept,
        notice=bundle.notice,
    )


def reason(path: Path, error: Exception) -> str:
    """What is wrong, without the path that messages begin with (absolute where a cluster read the film)."""
    return str(error).removeprefix(f"{readable(path)}: ").removeprefix(f"{readable(path.absolute())}: ")


def by_threads(reader: Reader, paths: Sequence[Path]) -> Iterator[Outcome]:
    """(index, reading) of each film, by threads that share a GPU, a batch each: one waits for it while others work."""
    size = reader.batch_size
    batches = (paths[start : start + size] for start in range(0, len(paths), size))
    with closing(ahead(lambda films: list(reader.read_many(films)), batches, BATCHES_AT_ONCE, BATCHES_AT_ONCE)) as read:
        yield from enumerate(chain.from_iterable(read))


def _by_processes(work: Callable[[Path], Reading], paths: Sequence[Path], workers: int) -> Iterator[Outcome]:
    """(index, reading) of each film, by processes of a thread each: nothing of a film waits for another's."""
    for index, reading in in_processes(work, paths, workers):
        if reading is None:
            what = f"{paths[index]}: a process that read it ended, by a fault of a decoder or for lack of memory"
            reading = ReadingFault(what)
        yield index, reading


@cache
def worker_reader(folder: Path, identity: str, *, tta: tuple[str, ...], batch_size: int, lines: bool) -> Reader:
    """The reader of a worker process of one thread, which keeps it; arguments as of `Reader`.

    `BundleError`: the bundle in the folder is no longer that of `identity`.
    """
    keep_buffers()
    bundle = load_bundle(folder, identity)
    return Reader(bundle, tta=tta, batch_size=batch_size, lines=lines, engine=engine_of(bundle, cores=1))


def _read_in_worker(folder: Path, identity: str, tta: tuple[str, ...], lines: bool, film: Path) -> Reading:
    """A film's reading, in a worker process."""
    (reading,) = worker_reader(folder, identity, tta=tta, batch_size=1, lines=lines).read_many([film])
    return reading
