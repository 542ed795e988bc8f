"""What `predict` writes and prints: a table, JSON, errors, and files for each film such as its drawing.

All of it is made film by film, from the journal of the reading.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import indent
from typing import Any

from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.files import (
    OutputError,
    begins,
    beside,
    check_outputs,
    check_table,
    file_names,
    readable,
    replacing,
)
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.io.films import kind_of, read_bytes, read_film
from cxrlines.io.tables import check_own_files
from cxrlines.reading.batch import Predictions, reason
from cxrlines.reading.journal import HEAD, Journal
from cxrlines.reading.reader import Progress
from cxrlines.reading.results.drawing import draw_findings, save_drawing
from cxrlines.reading.results.operating_points import OperatingPoint
from cxrlines.reading.results.report_text import as_text
from cxrlines.reading.sources import Found
from cxrlines.task import STUDY_COLUMN

JSON, ERRORS, JOURNAL = ".json", ".errors.csv", ".journal.jsonl"
RESULTS = {JSON: (b'[\n {\n  "film": ', b"[]\n"), ERRORS: (b"file,error\n", b"file,error\r\n")}
"""Endings of the files of results beside a table of predictions, and what each begins with."""
BESIDE = RESULTS | {JOURNAL: (HEAD,)}
NOT_READ = "not read, as the reading was stopped before"


def check_places(
    found: Found,
    out: Path | None,
    *,
    as_json: bool = False,
    draw: Path | None = None,
    dicom: Path | None = None,
) -> None:
    """Check that `write_predictions` and writers of films' files will be able to write.

    They may not write over a film, nor where films are read from: drawings would be taken for films.

    Raises:
        OutputError: They will not.
    """
    films = [path for path, _ in found.films]
    written: dict[str, Path | None] = {}
    if out is not None:
        written = {"beside --out": beside(out, ERRORS), "--json": beside(out, JSON) if as_json else None}
        written["journal of --out"] = beside(out, JOURNAL)
    check_outputs(files={"--out": out, **written}, folders={"--draw": draw, "--dicom": dicom}, inputs=films)
    if out is not None:
        check_own_files("--out", out)
        check_table("--out", out, BESIDE if as_json else BESIDE | {JSON: None}, STUDY_COLUMN)
    read_from = {os.path.realpath(folder) for folder in found.folders}
    holding_films = {Path(os.path.realpath(path)).parent for path in films}
    for flag, folder in (("--draw", draw), ("--dicom", dicom)):
        if folder is None:
            continue
        place = Path(os.path.realpath(folder))
        inside = not read_from.isdisjoint(map(str, (place, *place.parents)))
        if inside or place in holding_films:
            raise OutputError(
                f"{flag} {folder}: films are read from there, and results would replace them or be taken for films",
                "name a folder outside",
            )


def csv_text(predictions: Predictions) -> Iterator[str]:
    """The table, in the columns of `sample_submission.csv`, line by line."""
    each = zip(predictions.studies, predictions.findings, strict=True)
    rows = ([name, *map((found.labels or {}).get, predictions.labels)] for name, found in each)
    return _csv([STUDY_COLUMN, *predictions.labels], rows)


def json_text(predictions: Predictions) -> Iterator[str]:
    """`Predictions.each_dict` as `json.dumps(..., indent=1)` has it, film by film, with a line's end."""
    empty = True
    for film in predictions.each_dict():
        yield f"{'[' if empty else ','}\n{indent(json.dumps(film, indent=1), ' ')}"
        empty = False
    yield "[]\n" if empty else "\n]\n"


def jsonl_text(predictions: Predictions) -> Iterator[str]:
    """A JSON object a line for each film."""
    return (f"{json.dumps(film)}\n" for film in predictions.each_dict())


def report_text(predictions: Predictions) -> Iterator[str]:
    """What was found on each film read, for a person."""
    read = zip(predictions.films, predictions.findings, strict=True)
    for number, (film, found) in enumerate(read):
        yield f"{chr(10) if number else ''}{readable(film)}\n{indent(as_text(found), '  ')}\n"


def write_predictions(predictions: Predictions, out: Path, *, as_json: bool = False) -> list[Path]:
    """Write `out` with the columns of `sample_submission.csv`, and beside it what else there is to say.

    That is `*.json` with `Predictions.each_dict` if `as_json`, and `*.errors.csv` (file, error) if there are films
    without a row; see `files.beside` for their names. Those of an earlier reading, no longer true, are removed. Each
    file is written atomically. Returns the paths of what was written.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    _write(out, csv_text(predictions))
    written = [out]
    for ending, heads in RESULTS.items():
        earlier = beside(out, ending)
        if earlier.is_file() and begins(earlier, *heads):
            earlier.unlink()
    if as_json:
        written.append(beside(out, JSON))
        _write(written[-1], json_text(predictions))
    errors = [*predictions.errors, *((str(path), NOT_READ) for path in predictions.unread)]
    if errors:
        written.append(beside(out, ERRORS))
        _write(written[-1], _csv(["file", "error"], (map(readable, row) for row in errors)))
    return written


def _write(path: Path, text: Iterable[str]) -> None:
    with replacing(path) as aside, aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(text)


def _csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow(row)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


@dataclass(frozen=True)
class FilmWriter:
    """What writes files of its own for each film that was read.

    Attributes:
        done: what becomes of a film, in one word: "drawn".
        folder: where its files are put.
        write: called with the film's file, what is in it, its name and its findings, in the order of films; what it
            raises costs that film alone, but for `OutputError`.
        names: by a film's name, what its file or folder in `folder` is called.
        refused: whether it has something to say of films that were refused, too.
    """

    done: str
    folder: Path
    write: Callable[[Path, bytes, str, Findings], None]
    names: Mapping[str, str]
    refused: bool = False

    def key(self, name: str) -> str:
        """By which the journal knows that the film of a name was written: films are named anew when others can be read
        that could not be before."""
        return f"{self.done} {self.folder.absolute() / self.names[name]}"


def write_each(
    predictions: Predictions, writers: Sequence[FilmWriter], progress: Progress | None = None
) -> list[tuple[str, str]]:
    """Have each writer write its files of each film, except those that the journal says were written.

    Films get here when all are read: only then it is known what each is called. Returns (file, what is wrong) of films
    that could not be written.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    errors = []
    films = list(_films_to_write(predictions, writers))
    for number, (place, film, name, own_writers) in enumerate(films, start=1):
        due = [writer for writer in own_writers if not predictions.journal.has_made(place, writer.key(name))]
        findings = predictions.journal.reading(place) if due else None
        for writer in due:
            assert isinstance(findings, Findings)
            if own_errors := failed(
                film, writer.done, partial(_write_of, writer, predictions.journal, film, name, findings)
            ):
                errors += own_errors
            else:
                predictions.journal.made(place, writer.key(name))
        if progress:
            progress(number, len(films))
    return errors


def _write_of(writer: FilmWriter, journal: Journal, film: Path, name: str, findings: Findings) -> None:
    """Have a writer write the files of a film. `FilmError` if the file is no longer the one that was read: another
    patient's film may lie in its place."""
    data = read_bytes(film)
    journal.check_unchanged(film)  # after it is opened, so that it cannot change between
    _check_same(film, data, findings)
    writer.write(film, data, name, findings)


def _check_same(film: Path, data: bytes, findings: Findings) -> None:
    """`FilmError` if a file is of another study, or as DICOM of another size, than the film that findings are of."""
    study, shape = None, findings.film_shape
    if kind_of(data) == "DICOM":
        from cxrlines.io.dicom.header import parse, valid_uid  # imports pydicom, which pictures do without

        header = parse(data, ("TransferSyntaxUID", "StudyInstanceUID", "Rows", "Columns"))
        study = valid_uid(header.text("StudyInstanceUID"))
        shape = (header.integer("Rows") or 0, header.integer("Columns") or 0)
    differs = {"study": study != findings.study_uid, "size": shape != findings.film_shape}
    if any(differs.values()):
        which = " and ".join(name for name, other in differs.items() if other)
        raise FilmError(
            f"{readable(film)}: is of another {which} than the film that was read", "give the command again"
        )


def failed(film: Path, done: str, write: Callable[[], None]) -> list[tuple[str, str]]:
    """(file, what is wrong) of a film whose files `write` cannot write, by the film or by a fault of cxrlines.

    `done`: see `FilmWriter`. `OutputError`, which holds for all films, is passed on.
    """
    try:
        write()
    except OutputError:
        raise
    except Exception as error:  # such as pydicom raises for values that it cannot encode
        why = error if isinstance(error, Error) else ReadingFault.of(readable(film), error)
        return [(str(film), f"not {done}: {reason(film, why)}")]
    return []


def _films_to_write(
    predictions: Predictions, writers: Sequence[FilmWriter]
) -> Iterator[tuple[int, Path, str, Sequence[FilmWriter]]]:
    """(place in the journal, file, name, writers) of each film that was read, then of those that were refused."""
    read = zip(predictions.findings.places, predictions.films, predictions.studies, strict=True)
    for place, film, name in read:
        yield place, film, name, writers
    of_refused = [writer for writer in writers if writer.refused]
    if of_refused:
        refused = zip(predictions.refused_findings.places, predictions.refused, strict=True)
        for place, (film, name) in refused:
            yield place, film, name, of_refused


def drawings(predictions: Predictions, folder: Path, points: Mapping[str, OperatingPoint] | None = None) -> FilmWriter:
    """Draws films with their findings, as PNG under the film's name (`files.file_names`) in a folder.

    `points`: by label, the operating points of the bundle that read the films; see `operating_points_of`.
    """
    names = file_names(predictions.studies, ".png")

    def draw(film: Path, data: bytes, name: str, findings: Findings) -> None:
        pixels = read_film(data, name=readable(film)).pixels
        drawn = draw_findings(pixels, findings, name=name, notice=predictions.notice, operating_points=points)
        save_drawing(folder / names[name], drawn)

    return FilmWriter("drawn", folder, draw, names)
