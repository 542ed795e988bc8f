"""Results as DICOM files: a folder for each film."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError, file_names, replacing
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.io.dicom.header import parse
from cxrlines.io.dicom.origin import ORIGIN_KEYWORDS, is_own, own_or_derived
from cxrlines.io.films import read_bytes
from cxrlines.reading.batch import Predictions
from cxrlines.reading.results.dicom.film_identifiers import Identifiers, has_identifiers
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.reading.results.prediction_files import FilmWriter, failed

FILM = "film.dcm"
"""A film that is no DICOM file, as one: what its results refer to."""
WRITTEN = "written as DICOM"
NAME_THEM = "give both --patient-id and --study-uid, or the film's row in a table of --studies"
"""The way out for a film that names no patient and study."""


def check_one_unnamed(films: Iterable[Path]) -> None:
    """`Error` if more than one film names no patient and study: given ones would hold for all of them."""
    unnamed: list[Path] = []
    for film in films:
        with suppress(FilmError):  # which is reported when the film is read
            if not has_identifiers(read_bytes(film)):
                unnamed.append(film)
        if len(unnamed) > 1:
            raise Error(
                f"--patient-id: holds for one film, but {unnamed[0]} and {unnamed[1]} both name no patient and study",
                "read such films one at a time, or name the patients of all in a table: --studies",
            )


def dicom_objects(
    predictions: Predictions,
    folder: Path,
    read_by: ReadBy,
    identifiers: Callable[[str], Identifiers | None] = lambda name: None,
) -> FilmWriter:
    """Writes `result_objects` of films, those that were refused too, each film's in a folder of its name.

    A film that is no DICOM file, or lacks identifiers, gets those that `identifiers` has for its name, and is written
    as well (`FILM`).
    """
    names = file_names([*predictions.studies, *(name for _, name in predictions.refused)], "")

    def write(film: Path, data: bytes, name: str, findings: Findings) -> None:
        try:
            if (given := identifiers(name)) and not has_identifiers(data):
                data = wrapped(data, *given)
                _write(folder / names[name] / FILM, data)
            _write_results(folder / names[name], data, findings, read_by)
        except (FilmError, OutputError):
            raise
        except Error as error:
            raise FilmError(error.what, error.way_out or NAME_THEM) from None

    return FilmWriter(WRITTEN, folder, write, names, refused=True)


def write_reports_of_unread(predictions: Predictions, folder: Path, read_by: ReadBy) -> list[tuple[str, str]]:
    """A report that says why for each DICOM image that cannot be read, in a folder by its path.

    Returns (file, what is wrong) of those without one by a fault of cxrlines, or as their file was changed since the
    reading began. Raises `OutputError`.
    """
    known = {str(film) for film, _ in predictions.refused} | {film for film, _ in predictions.faults}
    unread = {film: why for film, why in predictions.errors if film not in known and Path(film).is_file()}
    names, errors = file_names(unread, ""), []
    for film, why in unread.items():
        try:
            data = read_bytes(Path(film))
        except FilmError:
            continue
        header = parse(data, (*ORIGIN_KEYWORDS, "Rows"))
        if header.integer("Rows") and not own_or_derived(header) and has_identifiers(data):
            write = partial(_write_report, predictions, Path(film), folder / names[film], data, why, read_by)
            errors += failed(Path(film), WRITTEN, write)
    return errors


def _write_report(predictions: Predictions, film: Path, folder: Path, data: bytes, why: str, read_by: ReadBy) -> None:
    """The report of a film that cannot be read. `FilmError` if another may lie in its place, as of `write_each`."""
    predictions.journal.check_unchanged(film)
    _write_results(folder, data, why, read_by)


def _write_results(folder: Path, data: bytes, findings: Findings | str, read_by: ReadBy) -> None:
    """The results of a film in its folder; earlier ones of kinds that it has no longer are removed."""
    objects = result_objects(data, findings, read_by)
    for each in objects:
        _write(_file(folder, each.kind), each.content)
    for kind in set(Kind) - {each.kind for each in objects}:
        earlier = _file(folder, kind)
        if earlier.is_file() and is_own(parse(earlier.read_bytes(), ORIGIN_KEYWORDS)):
            earlier.unlink()


def _file(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind}.dcm"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as aside:
        aside.write_bytes(content)
