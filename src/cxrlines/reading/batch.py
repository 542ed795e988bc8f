"""Predictions for files and folders of films: found, read, named, and written as CSV, JSON and drawings."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from cxrlines.core.files import (
    OutputError,
    begins,
    beside,
    check_outputs,
    check_table,
    file_names,
    readable,
    write_text,
)
from cxrlines.core.film import FILM_SUFFIXES, FilmError, NotAFilm, film_name
from cxrlines.core.findings import Findings
from cxrlines.io.films import is_film, read_film
from cxrlines.reading.bundle import NOTICE, Bundle
from cxrlines.reading.reader import Progress, Reader
from cxrlines.reading.results.drawing import draw_findings, save_drawing
from cxrlines.reading.results.report_text import as_text
from cxrlines.task import STUDY_COLUMN

if TYPE_CHECKING:
    import pandas as pd

Reading = Findings | Exception
"""Of a film: what was found, the `FilmError` that says why it cannot be read, or a fault of cxrlines."""
JSON, ERRORS = ".json", ".errors.csv"
BESIDE = {JSON: (b'[\n {\n  "film": ', b"[]\n"), ERRORS: (b"file,error\n", b"file,error\r\n")}
"""Endings of the files beside a table of predictions, and what each begins with."""
NOT_READ = "not read, as the reading was stopped before"
NO_FILM, ARCHIVE, LINKED = "no film", "archive, not unpacked", "link to a folder"
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class Predictions:
    """The predictions for films, in the order of the sources.

    Attributes:
        studies: what each film is called, no two alike: see `Found.names`.
        labels: of the bundle, in order.
        films: the file of each.
        findings: of each film, with lines, tips and landmarks where they were asked for and a model maps them.
        errors: (file, what is wrong with it) of each film that could not be read, those of `faults` among them.
        skipped: what it is -> how many of it lie in the folders and were passed over.
        renamed: films that share their name with another, and are called by their place instead.
        same_study: films that share their StudyInstanceUID with another, and are called by their file's name instead.
        bundle: the bundle's identity.
        tta: the views that probabilities are averaged over, besides the plain one.
        notice: that it is for research, and what it was trained on.
        refused: file, name and findings (none but its quality) of each film that is not to be read; it is among the
            errors as well, and has no row.
        faults: (file, exception) of each film whose reading failed by a fault of cxrlines.
        unread: films that were not come to, as the reading was stopped.
    """

    studies: list[str]
    labels: tuple[str, ...]
    films: list[Path]
    findings: list[Findings]
    errors: list[tuple[str, str]]
    skipped: dict[str, int]
    renamed: int
    same_study: int
    bundle: str
    tta: tuple[str, ...] = ()
    notice: str = NOTICE
    refused: tuple[tuple[Path, str, Findings], ...] = ()
    faults: tuple[tuple[str, Exception], ...] = ()
    unread: tuple[Path, ...] = ()

    @property
    def rows(self) -> "pd.DataFrame":
        """A row a film: `StudyInstanceUID`, then the probability (float) of each label."""
        import pandas as pd  # takes a quarter of a second, and reading does without

        rows = pd.DataFrame([found.labels for found in self.findings], columns=list(self.labels), dtype=float)
        rows.insert(0, STUDY_COLUMN, self.studies)
        return rows

    def csv(self) -> str:
        """The same as text, in the columns of `sample_submission.csv`."""
        each = zip(self.studies, self.findings, strict=True)
        return _csv([STUDY_COLUMN, *self.labels], ([name, *map(found.labels.get, self.labels)] for name, found in each))

    def as_dicts(self) -> list[dict[str, Any]]:
        """A JSON value for each film read, then one without findings for each that was refused."""
        read = zip(self.films, self.studies, self.findings, strict=True)
        return [
            {"film": readable(film), STUDY_COLUMN: study}
            | found.as_dict()
            | {"bundle": self.bundle, "tta": list(self.tta), "seconds": found.seconds, "notice": self.notice}
            for film, study, found in [*read, *self.refused]
        ]

    def text(self) -> str:
        """What was found on each film read, for a person."""
        read = zip(self.films, self.findings, strict=True)
        return "\n\n".join(f"{readable(film)}\n{indent(as_text(found), '  ')}" for film, found in read)


class Stopped(KeyboardInterrupt):
    """The reading was interrupted; `predictions` has the films that were read until then."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__()
        self.predictions = predictions


def predict(
    sources: "Iterable[Path] | Found",
    bundle: Bundle,
    *,
    batch_size: int = 8,
    tta: Sequence[str] | None = None,
    lines: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """The predictions of a bundle for films and folders, on the GPU where there is one.

    Folders are searched for films, through all their folders, in the order of their names; a file that is named must
    be a film. What cannot be read becomes an error and stops nothing. A film is prepared exactly as for training.
    Memory does not grow with the number of films, but for their rows.

    Args:
        sources: films and folders, or what `find_films` found in them.
        batch_size: films a pass.
        tta: any of `reader.VIEWS`; the probability is then the mean over those views and the plain one. None: the
            bundle's own.
        lines: whether to find lines, tips and landmarks too, where a model of the bundle maps them.
        progress: called with (films done, films in all) after each batch.

    Raises:
        ValueError: for another view.
        BundleError: for flips of models that were not trained with them.
        Stopped: instead of KeyboardInterrupt, once reading has begun; it holds what was read.
    """
    reader = Reader(bundle, tta=tta, batch_size=batch_size, lines=lines)
    found = sources if isinstance(sources, Found) else find_films(sources)
    paths = [path for path, _ in found.films]

    def readings() -> Iterator[tuple[int, Reading]]:  # begun within `assembled`, which keeps what is read on Ctrl-C
        yield from enumerate(reader.read_many(paths, progress))

    return assembled(found, readings(), bundle, reader.tta)


def assembled(
    found: "Found", readings: Iterable[tuple[int, Reading]], bundle: Bundle, tta: tuple[str, ...]
) -> Predictions:
    """The predictions from (place of a film in `found.films`, its reading), in any order, as they come.

    `Stopped` instead of KeyboardInterrupt; films without a reading are then its `unread`.
    """
    every: dict[int, Reading] = {}
    try:
        for place, reading in readings:
            every[place] = reading
    except KeyboardInterrupt as stop:
        raise Stopped(_predictions(found, every, bundle, tta)) from stop
    if len(every) != len(found.films):
        raise RuntimeError(f"{len(every)} readings of {len(found.films)} films")
    return _predictions(found, every, bundle, tta)


def _predictions(found: "Found", readings: Mapping[int, Reading], bundle: Bundle, tta: tuple[str, ...]) -> Predictions:
    errors = dict(found.errors)
    faults: list[tuple[str, Exception]] = []
    skipped = Counter(found.skipped)
    read: list[tuple[Path, Findings]] = []
    refused: list[tuple[Path, Findings]] = []
    for place, (path, _) in enumerate(found.films):
        match readings.get(place):
            case Findings() as findings if findings.quality.usable:
                read.append((path, findings))
            case Findings() as findings:
                refused.append((path, findings))
                errors[str(path)] = findings.quality.notes[0].text
            case NotAFilm() as other if path not in found.named:
                skipped[other.kind] += 1
            case Exception() as error:
                errors[str(path)] = _reason(path, error)
                if not isinstance(error, FilmError):
                    faults.append((str(path), error))
    studies = {path: findings.study_uid for path, findings in [*read, *refused] if findings.study_uid}
    names = found.names(studies)
    own = {path: {readable(film_name(path)), studies.get(path)} for path, _ in read}
    return Predictions(
        studies=[names[path] for path, _ in read],
        labels=tuple(bundle.manifest.labels),
        films=[path for path, _ in read],
        findings=[findings for _, findings in read],
        errors=list(errors.items()),
        skipped=dict(skipped),
        renamed=sum(names[path] not in own[path] for path in own),
        same_study=sum(path in studies and names[path] != studies[path] for path in own),
        bundle=bundle.identity,
        tta=tta,
        notice=bundle.notice,
        refused=tuple((path, names[path], findings) for path, findings in refused),
        faults=tuple(faults),
        unread=tuple(path for place, (path, _) in enumerate(found.films) if place not in readings),
    )


def _reason(path: Path, error: Exception) -> str:
    """What is wrong, without the path that messages begin with (absolute where a cluster read the film)."""
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{path.absolute()}: ")


def check_places(found: "Found", out: Path | None, *, as_json: bool = False, draw: Path | None = None) -> None:
    """Whether `write_predictions` and `write_drawings` will be able to write; `OutputError` if not.

    They may not write over a film, nor draw where films are read from: drawings would be taken for films.
    """
    films = [path for path, _ in found.films]
    written = {"beside --out": beside(out, ERRORS), "--json": beside(out, JSON) if as_json else None} if out else {}
    check_outputs(files={"--out": out, **written}, folders={"--draw": draw}, inputs=films)
    if out is not None:
        check_table("--out", out, BESIDE if as_json else BESIDE | {JSON: None}, STUDY_COLUMN)
    if draw is not None:
        place = Path(os.path.realpath(draw))
        searched = {os.path.realpath(folder) for folder in found.folders}
        if searched & {str(place), *map(str, place.parents)} or place in {
            Path(os.path.realpath(path)).parent for path in films
        }:
            raise OutputError(
                f"--draw {draw}: films are read from there, and drawings would replace them or be taken for films",
                "name a folder outside",
            )


def write_predictions(predictions: Predictions, out: Path, *, as_json: bool = False) -> list[Path]:
    """Write `out` with the columns of `sample_submission.csv`, and beside it what else there is to say.

    That is `*.json` with `Predictions.as_dicts` if `as_json`, and `*.errors.csv` (file, error) if there are films
    without a row; see `files.beside` for their names. Those of an earlier reading, no longer true, are removed. Each
    file is written whole or not at all. Returns the paths of what was written.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    write_text(out, predictions.csv())
    written = [out]
    for ending, heads in BESIDE.items():
        earlier = beside(out, ending)
        if earlier.is_file() and begins(earlier, *heads):
            earlier.unlink()
    if as_json:
        written.append(beside(out, JSON))
        write_text(written[-1], json.dumps(predictions.as_dicts(), indent=1) + "\n")
    errors = [*predictions.errors, *((str(path), NOT_READ) for path in predictions.unread)]
    if errors:
        written.append(beside(out, ERRORS))
        write_text(written[-1], _csv(["file", "error"], (map(readable, row) for row in errors)))
    return written


def _csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def write_drawings(predictions: Predictions, folder: Path) -> list[tuple[str, str]]:
    """Each film read with its findings drawn, as PNG under the film's name (`files.file_names`).

    Returns (file, what is wrong) of films that can no longer be read.
    """
    errors = []
    names = file_names(predictions.studies, ".png")
    for film, study, found in zip(predictions.films, predictions.studies, predictions.findings, strict=True):
        try:
            pixels = read_film(film).pixels
        except FilmError as error:
            errors.append((str(film), f"not drawn: {_reason(film, error)}"))
            continue
        drawn = draw_findings(pixels, found, name=study, notice=predictions.notice)
        save_drawing(folder / names[study], drawn)
    return errors


@dataclass(frozen=True)
class Found:
    """Films to read.

    Attributes:
        films: each path with the folder it was found from.
        errors: (source, what is wrong with it).
        skipped: what it is -> how many of it were passed over.
        named: of the films, those that were named themselves.
        folders: that were searched.
    """

    films: list[tuple[Path, Path]]
    errors: list[tuple[str, str]]
    skipped: Counter[str] = field(default_factory=Counter)
    named: frozenset[Path] = frozenset()
    folders: tuple[Path, ...] = ()

    def names(self, studies: Mapping[Path, str] | None = None) -> dict[Path, str]:
        """What each film is called; no two are called alike, whatever their order.

        That is the StudyInstanceUID of its file, from `studies`, or else the file's name without the suffix of a film.
        Films that would share a name are called by the next of: file's name, place in the folder without suffix, with
        it, path.
        """
        ways: dict[Path, Iterator[str]] = {}
        for path, base in self.films:
            place = path.relative_to(base)
            plain = (film_name(path), place.with_name(film_name(path)).as_posix(), place.as_posix(), path.as_posix())
            study = (studies or {}).get(path)
            ways[path] = iter([*([study] if study else []), *map(readable, plain), ascii(path.as_posix())])
        names = {path: next(ways[path]) for path in ways}
        while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
            names |= {path: next(ways[path], name) for path, name in names.items() if name in shared}
        return names


def find_films(sources: Iterable[Path]) -> Found:
    """Every film of the sources once: files as they are named, folders searched in the order of names."""
    films: dict[Path, tuple[Path, Path]] = {}  # by where it is, so that none is read twice
    errors: list[tuple[str, str]] = []
    skipped: Counter[str] = Counter()
    named, searched = set(), []
    for source in sources:
        if source.is_file():
            if source.suffix.lower() in ARCHIVES:
                errors.append((str(source), "is an archive; unpack it, and name what it holds"))
                continue
            path, _ = films.setdefault(source.absolute(), (source, source.parent))
            named.add(path)
        elif source.is_dir():
            searched.append(source)
            empty = True
            for path in _files_below(source, errors, skipped):
                if path.suffix.lower() in FILM_SUFFIXES or is_film(path):
                    films.setdefault(path.absolute(), (path, source))
                    empty = False
                else:
                    skipped[ARCHIVE if path.suffix.lower() in ARCHIVES else NO_FILM] += 1
            if empty:
                kinds = ", ".join(FILM_SUFFIXES)
                errors.append((str(source), f"the folder holds no film: none ends in {kinds} or is one by content"))
        else:
            errors.append((str(source), "there is no such file or folder"))
    return Found(list(films.values()), errors, +skipped, frozenset(named), tuple(searched))


def _files_below(folder: Path, errors: list[tuple[str, str]], skipped: Counter[str]) -> Iterator[Path]:
    """Plain files in a folder and its folders, by name; hidden ones are left alone.

    Links to folders are not followed, but counted; a folder that cannot be listed is an error.
    """

    def unlisted(error: OSError) -> None:
        errors.append((os.fsdecode(error.filename), f"the folder cannot be listed ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped[LINKED] += sum(Path(place, name).is_symlink() for name in folders)
        for name in sorted(files):
            path = Path(place) / name
            if not name.startswith(".") and path.is_file():
                yield path
