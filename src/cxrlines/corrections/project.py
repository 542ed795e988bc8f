"""A project: a folder of films in RANZCR's own layout with what people corrected on them, ready to be trained on.

```
PROJECT/
  corrections.jsonl                        the journal, only ever added to: who said what of which film, and when
  train/<study>.dcm, .jpg, .png, .tif      the films, byte for byte as they were given
  findings/<study>.<hash>.json             what models had found on them, never overwritten
  train.csv  train_annotations.csv  landmarks.csv    rewritten from the journal with every save
```
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError, replacing, write_text
from cxrlines.core.film import Film, film_name
from cxrlines.core.text import plural, shown
from cxrlines.corrections.correction import CorrectedLine, Correction, CorrectionError, Mark
from cxrlines.corrections.correction_journal import Journal, JournalError, line_of
from cxrlines.corrections.project_tables import CorrectedFilm, write_tables
from cxrlines.io.dicom.header import parse
from cxrlines.io.films import kind_of, read_film
from cxrlines.io.patients import key_name, tokens
from cxrlines.io.rows import PLACEHOLDERS

JOURNAL, FILMS, FINDINGS = "corrections.jsonl", "train", "findings"
FORMAT, VERSION = "cxrlines corrections", 1
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "DICOM": ".dcm"}


class ProjectError(Error):
    """A folder is no project, or a project does not have what is asked of it."""


class CorrectedMeanwhile(Error):
    """Somebody else corrected a film after its corrections were asked for."""


@dataclass(frozen=True)
class SavedFilm:
    """A film of a project and what was said of it.

    Attributes:
        id: Its name in the tables: the StudyInstanceUID of its file if it has one that no other film has, else the SOP
            instance UID, or the file's name.
        file: Where it lies.
        sha256: Of the file, 64 hex digits.
        shape: (height, width) px.
        patient: A keyed hash of the patient's ID of a DICOM file (`io.patients`), else the film's own id.
        name: What the file was called when it was given.
        findings_file: What the model had found when it was corrected last; None if it was not read.
        history: All corrections, the latest last.
    """

    id: str
    file: Path
    sha256: str
    shape: tuple[int, int]
    patient: str
    name: str
    findings_file: Path | None
    history: tuple[Correction, ...]

    @property
    def correction(self) -> Correction:
        """The latest."""
        return self.history[-1]

    @cached_property
    def findings(self) -> dict[str, Any] | None:
        """What `findings_file` holds. `ProjectError`: it cannot be read."""
        if self.findings_file is None:
            return None
        try:
            found: dict[str, Any] = json.loads(self.findings_file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            way_out = "put back the file from a backup"
            raise ProjectError(f"{self.findings_file}: cannot be read ({type(error).__name__})", way_out) from None
        return found


class Project:
    """A project's folder, made if it is not there or empty. Several threads and processes may use it at once.

    Raises:
        ProjectError: the folder is no project and not empty.
        JournalError: its journal cannot be read.
        OutputError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._journal = Journal(self.folder / JOURNAL)
        self._films: dict[str, SavedFilm] = {}
        self._replayed = 0
        if not self._journal.path.is_file():
            self._make()
        self._replay()
        if not self._replayed:  # the first start met a full disk or a kill
            self._begin()

    @classmethod
    def existing(cls, folder: Path) -> "Project":
        """The project in a folder; `ProjectError` where there is none."""
        if not (Path(folder) / JOURNAL).is_file():
            raise ProjectError(
                f"{folder}: is not a project: it has no {JOURNAL}", "`cxrlines serve --project` makes one"
            )
        return cls(folder)

    def films(self) -> list[SavedFilm]:
        """All films, in the order in which they came."""
        with self._journal.lock:
            self._replay()
            return list(self._films.values())

    def load(self, id: str) -> SavedFilm:
        """A film with all that was said of it. `ProjectError`: the project has none of this id."""
        self._replay()
        if id not in self._films:
            raise ProjectError(f"{self.folder}: has no film {shown(id, 80)}", "`films` of the project lists them")
        return self._films[id]

    def find(self, film: bytes) -> SavedFilm | None:
        """The film with these very bytes; None if the project does not have it."""
        self._replay()
        return self._by_digest(hashlib.sha256(film).hexdigest())

    def save(
        self,
        film: bytes,
        name: str,
        findings: Mapping[str, Any] | None,
        correction: Correction,
        after: int | None = None,
    ) -> str:
        """Add a correction of a film, and the film itself unless it is there; the id of the film.

        Once this returns, the correction is on disk. It replaces what was said of the film before, which the journal
        keeps. The tables are rewritten.

        Args:
            film: The bytes of its file.
            name: What it was called.
            findings: What a model had found, as `Findings.as_dict`; None: it was not read.
            correction: What a person says.
            after: How many corrections of the film that person knew of; None: nobody asked.

        Raises:
            FilmError: it is no film, or cannot be decoded.
            CorrectedMeanwhile: there are others than `after` of them.
            CorrectionError: the correction does not fit the film.
            OutputError: the disk is full, read-only or the like; it says so where only the tables could not be written.
        """
        digest = hashlib.sha256(film).hexdigest()
        self._replay()
        known = self._by_digest(digest)
        decoded = None if known else read_film(film, name="the film")
        shape = known.shape if known else _shape(decoded)
        self._check(correction, findings, shape)
        with self._journal.locked():
            self._replay()
            known = self._by_digest(digest)
            if after is not None and after != (count := len(known.history) if known else 0):
                what = f"the film was corrected meanwhile: it has {plural(count, 'correction')}, not {after}"
                raise CorrectedMeanwhile(what, f"look at the latest one; what is saved after {count} replaces it")
            if known is None:
                decoded = decoded or read_film(film, name="the film")
                known = self._new(film, digest, name, decoded)
                _put(known.file, film)
            elif not known.file.is_file() or known.file.stat().st_size != len(film):  # gone or cut meanwhile
                _put(known.file, film)
            if findings is not None:
                known = self._with_findings(known, findings)
            self._append(self._entry(known, correction))
        return known.id

    def correct(self, id: str, correction: Correction) -> None:
        """Add a correction of a film that the project has; what the model had found stays as it is. As `save`."""
        self.correct_all([(id, correction)])

    def correct_all(self, corrections: Sequence[tuple[str, Correction]]) -> None:
        """As `correct`, of the films of these ids, in this order: all corrections are added, or none."""
        for id, correction in corrections:
            known = self.load(id)
            self._check(correction, known.findings, known.shape)
        if corrections:
            with self._journal.locked():
                self._replay()
                self._append(*(self._entry(self._films[id], correction) for id, correction in corrections))

    def _make(self) -> None:
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise ProjectError(f"{folder}: is a file", "name a folder")
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            what = f"{folder}: is not a project of corrections (it has no {JOURNAL}) and not empty"
            raise ProjectError(what, "name a project, or a new folder")
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)  # it holds films of patients
            (folder / FILMS).mkdir(exist_ok=True)
            (folder / FINDINGS).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror})", "name another folder") from None
        self._begin()

    def _begin(self) -> None:
        """Write the journal's first line unless it is there; a part of it without its end is replaced."""
        header = {"format": FORMAT, "version": VERSION}
        with self._journal.locked():
            if not self._journal.entries:
                if not line_of(header).startswith(self._journal.path.read_bytes()):
                    raise self._no_journal()
                self._journal.append(header)
            self._replay()

    def _check(self, correction: Correction, findings: Mapping[str, Any] | None, shape: tuple[int, int]) -> None:
        correction.check(shape)
        lines = len(findings["lines"]) if findings else 0
        for number, line in enumerate(correction.lines):
            if findings and line.of is not None and line.of >= lines:
                what = f"lines.{number} is of line {line.of} of the model, which found {lines}"
                raise CorrectionError(what, "count its lines from 0")
            if line.of is not None and line.of in (of := [each.of for each in correction.lines[:number]]):
                what = f"lines.{number} is of line {line.of} of the model, as lines.{of.index(line.of)} is"
                raise CorrectionError(
                    what, "name each of the model's lines once; a further line is drawn, without `of`"
                )
            if findings and line.of is not None and line.mark is Mark.ACCEPTED:
                _check_accepted(f"lines.{number}", line, findings["lines"][line.of])

    def _new(self, film: bytes, digest: str, name: str, decoded: Film) -> SavedFilm:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", film_name(Path(name.replace("\\", "/")))).strip("_")[:64] or "film"
        taken = {other.casefold() for other in self._films}
        wanted = [decoded.study_uid, decoded.sop_uid, plain, f"{plain}-{digest[:12]}"]
        id = next(each for each in wanted if each and each.casefold() not in taken)
        patient = _patient(film) if decoded.format == "DICOM" else ""
        if patient.lower() in PLACEHOLDERS:
            patient = ""
        if patient:
            (patient,) = tokens([patient], key_name())
        file = self.folder / FILMS / f"{id}{SUFFIXES[kind_of(film) or decoded.format]}"
        return SavedFilm(id, file, digest, _shape(decoded), patient or id, name, None, ())

    def _with_findings(self, film: SavedFilm, findings: Mapping[str, Any]) -> SavedFilm:
        text = json.dumps(findings, indent=1, allow_nan=False) + "\n"
        place = self.folder / FINDINGS / f"{film.id}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        if not place.exists():
            write_text(place, text)
        return replace(film, findings_file=place)

    def _entry(self, film: SavedFilm, correction: Correction) -> dict[str, Any]:
        return {
            "film": film.id,
            "file": film.file.relative_to(self.folder).as_posix(),
            "sha256": film.sha256,
            "shape": list(film.shape),
            "patient": film.patient,
            "name": film.name,
            "findings": film.findings_file and film.findings_file.relative_to(self.folder).as_posix(),
            "correction": correction.model_dump(mode="json"),
        }

    def _append(self, *entries: dict[str, Any]) -> None:
        self._journal.append(*entries)
        self._replay()
        try:
            self._write_tables()
        except OutputError as error:
            raise OutputError(f"what was corrected is kept in {JOURNAL}, but {error.what}", error.way_out) from None

    def _write_tables(self) -> None:
        films = [CorrectedFilm(film.id, film.patient, film.correction) for film in self._films.values()]
        write_tables(self.folder, films)

    def _by_digest(self, digest: str) -> SavedFilm | None:
        with self._journal.lock:
            return next((film for film in self._films.values() if film.sha256 == digest), None)

    def _replay(self) -> None:
        """Take over what the journal has more."""
        with self._journal.lock:
            self._journal.refresh()
            for number, entry in enumerate(self._journal.entries[self._replayed :], self._replayed + 1):
                if number == 1:
                    if entry.get("format") != FORMAT or entry.get("version") != VERSION:
                        raise self._no_journal()
                else:
                    try:
                        film = self._read(entry)
                    except (KeyError, TypeError, ValueError) as error:
                        what = f"{self._journal.path}: line {number} is no correction ({type(error).__name__})"
                        raise JournalError(what, "put back the file from a backup") from None
                    self._films[film.id] = film
                self._replayed = number  # only now: a line that is refused is refused by each later call too

    def _no_journal(self) -> JournalError:
        what = f"{self._journal.path}: is no journal of corrections of version {VERSION}"
        return JournalError(what, "name a project, or update cxrlines")

    def _read(self, entry: Mapping[str, Any]) -> SavedFilm:
        earlier = self._films.get(entry["film"])
        height, width = entry["shape"]
        findings = entry["findings"]
        return SavedFilm(
            id=entry["film"],
            file=self.folder / FILMS / Path(entry["file"]).name,
            sha256=entry["sha256"],
            shape=(int(height), int(width)),
            patient=entry["patient"],
            name=entry["name"],
            findings_file=self.folder / FINDINGS / Path(findings).name if findings else None,
            history=(*(earlier.history if earlier else ()), Correction.of(entry["correction"])),
        )


def _check_accepted(name: str, line: CorrectedLine, found: Mapping[str, Any]) -> None:
    """`CorrectionError` unless an accepted line is the model's, to a pixel as it may have been rounded."""
    if line.device.name != found["device"]:
        what = f"{name} is accepted as {line.device.name}, but line {line.of} of the model is {found['device']}"
        raise CorrectionError(what, "reject that line, and draw another")
    path, points = np.array(found["path"]), np.array(line.points)
    if path.shape != points.shape or np.abs(path - points).max() > 1:
        what = f"{name} is accepted, but its points are not those of line {line.of} of the model"
        raise CorrectionError(what, "give the model's points, or mark it as moved")


def _shape(film: Film | None) -> tuple[int, int]:
    assert film is not None
    height, width = film.pixels.shape
    return height, width


def _put(path: Path, film: bytes) -> None:
    for suffix in SUFFIXES.values():  # of a save that was killed; a study may have one film
        path.with_name(path.name.removesuffix(path.suffix) + suffix).unlink(missing_ok=True)
    with replacing(path) as aside:
        aside.write_bytes(film)


def _patient(film: bytes) -> str:
    """PatientID of a DICOM file; empty where there is none."""
    return parse(film, ("TransferSyntaxUID", "PatientID")).text("PatientID")
