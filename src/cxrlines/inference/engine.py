"""Files and folders of films read, and what was read written."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import pandas as pd

from cxrlines.data.films import is_film, read_film
from cxrlines.data.tables import FILM_SUFFIXES
from cxrlines.inference.bundle import Bundle
from cxrlines.inference.draw import draw_findings, save_drawing
from cxrlines.inference.findings import Findings
from cxrlines.inference.manifest import NOTICE
from cxrlines.inference.reader import Progress, Reader
from cxrlines.inference.words import as_text
from cxrlines.task import LABELS, STUDY_COLUMN


@dataclass(frozen=True)
class Predictions:
    """What was read, in the order of the sources.

    Attributes:
        rows: `StudyInstanceUID` and the labels in order, probabilities (float).
        films: the file of each row.
        findings: of each row's film, with lines, tips and landmarks where they were asked for and a model maps them.
        errors: (file, what is wrong with it) of each film that could not be read.
        skipped: files in the folders that are no films, passed over.
        renamed: films that share their name with another, and are called by their place instead.
        seconds: for everything, on the clock.
        bundle: the bundle's identity.
        notice: that it is for research, and what it was trained on.
        tta: the views the reading was averaged over, besides the plain one.
        refused: file, name and findings (none but its quality) of each film that is not to be read; it is among the
            errors as well, and has no row.
    """

    rows: pd.DataFrame
    films: list[Path]
    findings: list[Findings]
    errors: list[tuple[str, str]]
    skipped: int
    renamed: int
    seconds: float
    bundle: str
    tta: tuple[str, ...] = ()
    notice: str = NOTICE
    refused: tuple[tuple[Path, str, Findings], ...] = ()

    def as_dicts(self) -> list[dict[str, Any]]:
        """A JSON value for each film read, then one without findings for each that was refused."""
        read = zip(self.films, self.rows[STUDY_COLUMN], self.findings, strict=True)
        return [
            {"film": str(film), STUDY_COLUMN: study}
            | found.as_dict()
            | {"bundle": self.bundle, "tta": list(self.tta), "seconds": found.seconds, "notice": self.notice}
            for film, study, found in [*read, *self.refused]
        ]

    def text(self) -> str:
        """What was found on each film read, for a person."""
        read = zip(self.films, self.findings, strict=True)
        return "\n\n".join(f"{film}\n{indent(as_text(found), '  ')}" for film, found in read)


def predict(
    sources: Iterable[Path],
    bundle: Bundle,
    *,
    batch_size: int = 8,
    tta: Sequence[str] = (),
    lines: bool = False,
    progress: Progress | None = None,
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
    reader = Reader(bundle, tta=tta, batch_size=batch_size, lines=lines)
    found = find_films(sources)
    errors = dict(found.errors)
    kept: list[Path] = []
    findings: list[Findings] = []
    refused: list[tuple[Path, Findings]] = []
    paths = [path for path, _ in found.films]
    for path, reading in zip(paths, reader.read_many(paths, progress), strict=True):
        if isinstance(reading, Findings) and not reading.quality.usable:
            refused.append((path, reading))
            errors[str(path)] = reading.quality.notes[0].text
        elif isinstance(reading, Findings):
            kept.append(path)
            findings.append(reading)
        else:
            errors[str(path)] = str(reading).removeprefix(f"{path}: ")
    names = found.names()
    rows = pd.DataFrame([reading.labels for reading in findings], columns=list(LABELS), dtype=float)
    rows.insert(0, STUDY_COLUMN, [names[path] for path in kept])
    return Predictions(
        rows=rows,
        films=kept,
        findings=findings,
        errors=list(errors.items()),
        skipped=found.skipped,
        renamed=sum(names[path] != _stem(path) for path in kept),
        seconds=time.monotonic() - begun,
        bundle=bundle.identity,
        tta=reader.tta,
        notice=bundle.notice,
        refused=tuple((path, names[path], reading) for path, reading in refused),
    )


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


def write_drawings(predictions: Predictions, folder: Path) -> Path:
    """Each film read with its findings drawn, as PNG under the film's name. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for film, study, found in zip(predictions.films, predictions.rows[STUDY_COLUMN], predictions.findings, strict=True):
        drawn = draw_findings(
            read_film(film).pixels,
            found,
            name=str(study),
            notes=[note.text for note in (*found.quality.notes, *found.notes)],
            notice=predictions.notice,
        )
        save_drawing(folder / f"{str(study).replace('/', '_')}.png", drawn)
    return folder


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
