"""The audit: everything wrong with a data folder at once, each with file, row and way out.

A film is decoded once, and assessed as it is for training and reading (`prepare.assess`). What has to be looked at
before training is a problem; what is odd about a film that is read all the same is a note.
"""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.notes import Code, Note
from cxrlines.core.pool import in_parallel
from cxrlines.core.quality import NOT_ASSESSED, Quality
from cxrlines.io.annotations import AnnotatedLine, read_annotations
from cxrlines.io.dedup.copies import copies, signature
from cxrlines.io.films import read_bytes, read_film
from cxrlines.io.folds import FOLD_COLUMN
from cxrlines.io.prepare import Probe, assess
from cxrlines.io.rows import Problem, Rows, TableError, hint, read_rows, shown
from cxrlines.io.tables import (
    ANNOTATION_TABLE,
    LANDMARK_TABLE,
    NO_FILM,
    TEST_ANNOTATION_TABLE,
    TEST_TABLE,
    TRAIN_TABLE,
    TRUTH_TABLE,
    FilmNames,
    find_films,
    packed_as,
    read_dataset,
    read_landmarks,
    usable_rows,
)
from cxrlines.task import EXCLUSIVE, LABELS, LABELS_OF, PATIENT_COLUMN, STUDY_COLUMN

SHOWN = 20
"""Problems of one kind that the text lists; JSON lists all."""
OFF_FILM = 0.005
"""How far off the film an annotated point may lie, as a share of its longest side: hands slip at the edge."""
LOOK = "look at it, and take it out if it is no film to learn from"
FILM_PROBLEMS = {
    Code.NO_CONTRAST: ("film without contrast", "export it again"),
    Code.LATERAL: ("lateral film", LOOK),
    Code.NOT_A_CHEST_FILM: ("no frontal chest film", LOOK),
    Code.TURNED: ("film turned", "export it upright, or leave it: networks see it turned back"),
    Code.INVERTED: ("film inverted", "export it bone white, or leave it: networks see it bone white"),
}
"""Notes on a film that are problems: the kind, and the way out."""


@dataclass(frozen=True)
class FilmNote:
    """What is odd about a film that is read all the same; `film` is its path in the folder."""

    film: str
    note: Note

    def as_dict(self) -> dict[str, str]:
        """JSON values."""
        return {"film": self.film} | self.note.as_dict()


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        problems: Sorted by kind, file and row.
        counts: Of what was looked at.
        notes: Sorted by code and film.
    """

    problems: list[Problem]
    counts: dict[str, int]
    notes: list[FilmNote]

    def as_dict(self) -> dict:
        """Everything, ready for JSON. `kinds` counts problems, `note_codes` notes; a row may have several problems."""
        return {
            "clean": not self.problems,
            "counts": self.counts,
            "kinds": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [asdict(problem) for problem in self.problems],
            "note_codes": dict(Counter(noted.note.code.value for noted in self.notes)),
            "notes": [noted.as_dict() for noted in self.notes],
        }

    def text(self) -> str:
        """For people: by kind, at most SHOWN of each; notes by code, with one film each."""
        lines = ["looked at " + ", ".join(f"{count:,} {name}" for name, count in self.counts.items())]
        by_kind: dict[str, list[Problem]] = {}
        for problem in self.problems:
            by_kind.setdefault(problem.kind, []).append(problem)
        for kind, found in by_kind.items():
            rows = len({(problem.file, problem.row) for problem in found})
            lines += ["", f"{kind} ({len(found):,}{f' in {rows:,} rows' if rows < len(found) else ''})"]
            lines += ["  " + problem.text() for problem in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  ... and {len(found) - SHOWN:,} more; --json lists all")
        by_code: dict[Code, list[FilmNote]] = {}
        for noted in self.notes:
            by_code.setdefault(noted.note.code, []).append(noted)
        if by_code:
            lines += ["", "odd, but no problem (--json lists every film)"]
            for code, of_code in by_code.items():
                lines.append(f"  {code.value} ({len(of_code):,}), such as {of_code[0].film}: {of_code[0].note.text}")
        count = len(self.problems)
        return "\n".join([*lines, "", f"{count:,} problem{'s' * (count > 1)}" if count else "no problems"])


def audit(root: Path, folds: Path | None = None, workers: int = 1, probe: Probe | None = None) -> Audit:
    """Look at everything in a data folder (see `read_dataset` for its layouts), each film decoded once.

    Nothing found stops the search for more. `probe` says of each film whether it is a frontal chest film, upright and
    bone white; without one only rules do. Rows without any label are counted, not a problem: a film may show no line.
    Films without a row are counted likewise, and in a plain folder what comes along with films (DICOMDIR, structured
    reports, ...).
    """
    root = Path(root).resolve()
    findings = _Findings(root)
    tables = (root / TRAIN_TABLE, root / TEST_TABLE)
    if any(table.is_file() or packed_as(table) for table in tables) or (root / "train").is_dir():
        findings.labels()
        findings.test()
    else:
        findings.folder()
    findings.look(workers, probe)
    findings.annotations(ANNOTATION_TABLE, findings.rows, "annotated")
    findings.annotations(TEST_ANNOTATION_TABLE, findings.truth, "annotated test")
    findings.landmarks()
    if folds is not None:
        findings.folds(Path(folds))
    order = sorted(set(findings.problems), key=lambda p: (p.kind, p.file, p.row or 0, p.message))
    return Audit(order, findings.counts, sorted(findings.notes, key=lambda n: (n.note.code, n.film, n.note.text)))


@dataclass(frozen=True)
class _Look:
    """What one decoding says of a film.

    Its bytes' SHA-256, (height, width), signature, what is odd about the file, and its quality; or what is wrong with
    it (`wrong`, `way_out`); and what it is, where it is a file that comes along with films (`instead`).
    """

    digest: str = ""
    shape: tuple[int, int] = (0, 0)
    signature: np.ndarray | None = None
    notes: tuple[Note, ...] = ()
    quality: Quality = NOT_ASSESSED
    wrong: str = ""
    way_out: str = ""
    instead: str = ""


def _look(path: Path, probe: Probe | None) -> _Look:
    try:
        data = read_bytes(path)
        film = read_film(data, name=str(path))
    except FilmError as error:
        instead = error.kind if isinstance(error, NotAFilm) else ""
        return _Look(wrong=error.what.removeprefix(f"{path}: "), way_out=error.way_out, instead=instead)
    quality, _ = assess(film, probe)
    digest = hashlib.sha256(data).hexdigest()
    return _Look(digest, film.pixels.shape, signature(film.pixels), film.notes, quality)


class _Findings:
    """The audit under way: what is known so far, which later checks build on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.notes: list[FilmNote] = []
        self.counts: dict[str, int] = {}
        self.films: dict[Path, str] = {}  # every film to look at -> its study
        self.looks: dict[Path, _Look] = {}
        self.plain = False  # a folder of films without tables
        self.rows: Rows | None = None  # of train.csv
        self.truth: Rows | None = None  # of test_truth.csv

    def add(self, kind: str, file: str, row: int | None, message: str, way_out: str) -> None:
        self.problems.append(Problem(kind, file, row, message, way_out))

    def read(self, csv: Path, needed: tuple[str, ...]) -> Rows | None:
        """A table's rows; what makes it unusable is a problem like any other."""
        try:
            return read_rows(csv, needed)
        except TableError as error:
            self.unusable(csv, error)
            return None

    def unusable(self, csv: Path, error: TableError) -> None:
        """A table that cannot be used at all."""
        if packed := packed_as(csv):
            self.add("table not usable", csv.name, None, f"is there as {packed} only", "unpack it there")
        else:
            self.add("table not usable", csv.name, None, error.what.removeprefix(f"{csv}: "), error.way_out)

    def labels(self) -> None:
        """train.csv: columns, rows, films."""
        self.rows = rows = self.table(TRAIN_TABLE)
        if rows is None:
            return
        studies = rows.column(STUDY_COLUMN)
        self.counts["studies"] = len(set(studies))
        if PATIENT_COLUMN in rows.columns:
            self.counts["patients"] = len(set(rows.column(PATIENT_COLUMN)) - {""})
        if set(LABELS) <= set(rows.columns):
            cells = zip(*(rows.column(name) for name in LABELS), strict=True)
            self.counts["studies without any label"] = sum(not {"1", "1.0"} & set(row) for row in cells)
        self.match(rows, self.root / "train", "training")

    def table(self, name: str) -> Rows | None:
        """A label table by itself: columns, rows, states that exclude each other."""
        rows = self.read(self.root / name, (STUDY_COLUMN,))
        if rows is None:
            return None
        known = (STUDY_COLUMN, *LABELS, PATIENT_COLUMN)
        missing = [column for column in known if column not in rows.columns]
        strange = [column for column in rows.columns if column not in (*known, FOLD_COLUMN)]
        for column in missing:
            message = f"has no column {column!r}{hint(column, strange)}"
            self.add("missing column", name, 1, message, "add or rename it")
        for column in strange:
            message = f"column {shown(column)} is not known{hint(column, missing or known)}"
            self.add("unknown column", name, 1, message, "rename or remove it")
        _, problems = usable_rows(rows)
        self.problems += problems
        labels = [label for label in LABELS if label in rows.columns]
        ones = {label: [cell in ("1", "1.0") for cell in rows.column(label)] for label in labels}
        for device in EXCLUSIVE:
            states = [label for label in LABELS_OF[device] if label in ones]
            for place, line in enumerate(rows.lines):
                if len(found := [label for label in states if ones[label][place]]) > 1:
                    message = f"{' and '.join(found)} at once"
                    self.add(f"two {device} states at once", name, line, message, "keep the one that is true")
        return rows

    def test(self) -> None:
        """sample_submission.csv: rows and films; test_truth.csv: likewise, and nobody of train.csv."""
        csv = self.root / TEST_TABLE
        if (csv.is_file() or packed_as(csv)) and (rows := self.read(csv, (STUDY_COLUMN,))) is not None:
            _, problems = usable_rows(rows.only((STUDY_COLUMN,)))  # its numbers are placeholders
            self.problems += problems
            self.match(rows, self.root / "test", "test")
        if (self.root / TRUTH_TABLE).is_file():
            self.truth = self.table(TRUTH_TABLE)
        for column, what in ((STUDY_COLUMN, "study"), (PATIENT_COLUMN, "patient")):
            if self.rows and self.truth and column in self.rows.columns and column in self.truth.columns:
                # A data frame writes the patient 12 as 12.0 where another row has none.
                line_of = {
                    cell.removesuffix(".0"): line
                    for cell, line in zip(self.rows.column(column), self.rows.lines, strict=True)
                }
                for cell, line in zip(self.truth.column(column), self.truth.lines, strict=True):
                    if cell and (there := line_of.get(cell.removesuffix(".0"))):
                        message = f"the {what} of this row is in {TRAIN_TABLE}:{there} as well"
                        way_out = "keep it in one of the two: in both it falsifies every figure"
                        self.add(f"{what} in training and test", TRUTH_TABLE, line, message, way_out)

    def folder(self) -> None:
        """A plain folder: its films, no tables."""
        self.plain = True
        try:
            dataset = read_dataset(self.root)
        except TableError as error:
            self.add("no data", self.root.name, None, error.what.removeprefix(f"{self.root}: "), error.way_out)
            return
        table = dataset.studies
        self.films = {Path(film): study for film, study in zip(table["film"], table["study"], strict=True)}
        self.counts["films"] = len(self.films)
        self.counts |= dataset.left_out

    def match(self, rows: Rows, folder: Path, split: str) -> None:
        """Rows against the films in a folder."""
        name, studies = rows.path.name, rows.column(STUDY_COLUMN)
        if not folder.is_dir():
            way_out = f"put the films there as <{STUDY_COLUMN}>.jpg"
            self.add("no films", f"{folder.name}/", None, "there is no such folder", way_out)
            return
        found, names = find_films(folder, studies), FilmNames(folder)
        for study, line in zip(studies, rows.lines, strict=True):
            if study and study not in found:
                instead, way_out = names.near(study)
                message = f"{folder.name}/ has no film of study {shown(study, 80)}{instead}"
                self.add(NO_FILM, name, line, message, way_out)
        for paths in found.values():
            for path in paths[1:]:
                message = f"its study has {paths[0].name} as well"
                self.add("two films of a study", self.told(path), None, message, "keep the one that was annotated")
        matched = {path: study for study, paths in found.items() for path in paths}
        self.films |= matched
        self.counts[f"{split} films"] = len(matched)
        if without := sum(path.is_file() for path in folder.iterdir()) - len(matched):
            self.counts[f"{split} films without a row"] = without

    def look(self, workers: int, probe: Probe | None) -> None:
        """Decode every film; find those that cannot be read, show no upright chest, or are there twice."""
        paths = sorted(self.films)
        for place, look in in_parallel(partial(_look, probe=probe), paths, workers, "checking films"):
            self.looks[paths[place]] = look or _Look(wrong="its decoder crashed on it", way_out="export it again")
        for path in paths:
            look = self.looks[path]
            if look.instead and self.plain:
                name = f"{look.instead} (no film)"
                self.counts[name] = self.counts.get(name, 0) + 1
            elif look.wrong:
                self.add("film not readable", self.told(path), None, look.wrong, look.way_out)
            for note in (*look.notes, *look.quality.notes):
                if note.code in FILM_PROBLEMS:
                    kind, way_out = FILM_PROBLEMS[note.code]
                    self.add(kind, self.told(path), None, _seen(note, look.quality), way_out)
                else:
                    self.notes.append(FilmNote(self.told(path), note))
        good = [path for path in paths if not self.looks[path].wrong]
        self.counts["films read"] = len(good)
        first: dict[str, Path] = {}
        for path in good:
            if (original := first.setdefault(self.looks[path].digest, path)) != path:
                message = f"is the same file as {self.told(original)}"
                self.add("same film twice", self.told(path), None, message, self.apart(original, path))
        unique = sorted(first.values())
        signatures = [kept for path in unique if (kept := self.looks[path].signature) is not None]
        same: dict[int, list[int]] = {}
        for i, j in copies(signatures):
            same.setdefault(j, []).append(i)
        for j, others in sorted(same.items()):  # of many copies, each but the first is one problem
            i = next((i for i in others if self.leaks(unique[i], unique[j])), others[0])
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            message = f"is the same film as {self.told(unique[i])}{more}, re-encoded, resized, mirrored or turned"
            self.add("same film re-encoded", self.told(unique[j]), None, message, self.apart(unique[i], unique[j]))

    def leaks(self, one: Path, other: Path) -> bool:
        """Whether copies lie in training and test."""
        return not self.plain and one.parent != other.parent

    def apart(self, one: Path, other: Path) -> str:
        """The way out for copies, which depends on whether they would leak from training into test."""
        if self.leaks(one, other):
            return "remove it from one: a film in both training and test falsifies every figure"
        return "remove one, and see that their labels agree"

    def annotations(self, name: str, table: Rows | None, what: str) -> None:
        """Annotated lines against their label table, if there is one, and the films; `what` is for the counts."""
        csv = self.root / name
        if not csv.is_file():
            return
        try:
            annotated, problems = read_annotations(csv)
        except TableError as error:
            self.unusable(csv, error)
            return
        self.problems += problems
        self.counts[f"{what} studies"] = len({row.study for row in annotated})
        self.counts[f"{what} lines"] = len(annotated)
        shapes = {study: look.shape for path, study in self.films.items() if not (look := self.looks[path]).wrong}
        place = {} if table is None else {s: i for i, s in reversed([*enumerate(table.column(STUDY_COLUMN))])}
        for row in annotated:
            report = partial(self.add, file=name, row=row.row)
            if table is not None and row.study not in place:
                message = f"study {shown(row.study, 80)} is not in {table.path.name}"
                report("annotation of an unknown study", message=message, way_out="add its row or remove this one")
            elif table is not None and row.line.label in table.columns:
                label = table.fields[place[row.study]][table.columns.index(row.line.label)]
                if label in ("0", "0.0"):
                    message = f"{row.line.label} is 0 in {table.path.name}:{table.lines[place[row.study]]}"
                    report("annotation against its label", message=message, way_out="correct one of the two")
            if (shape := shapes.get(row.study)) and (message := _off_film(row, shape)):
                way_out = "points are [x, y] in px of the original film; correct them"
                report("annotation off the film", message=message, way_out=way_out)

    def landmarks(self) -> None:
        """Landmarks by themselves."""
        csv = self.root / LANDMARK_TABLE
        if not csv.is_file():
            return
        try:
            for split in ("train", "test"):
                self.problems += read_landmarks(csv, split)[1]  # type: ignore[arg-type]
        except TableError as error:
            self.unusable(csv, error)

    def folds(self, csv: Path) -> None:
        """A folds file by itself and against train.csv. The patients are train.csv's, if it has them."""
        rows = self.read(csv, (STUDY_COLUMN, FOLD_COLUMN))
        if rows is None:
            return
        self.problems += rows.problems
        patient_of: dict[str, str] = {}
        for table in (rows, self.rows):
            if table is not None and PATIENT_COLUMN in table.columns:
                patient_of |= zip(table.column(STUDY_COLUMN), table.column(PATIENT_COLUMN), strict=True)
        first: dict[str, int] = {}  # study -> line
        fold_of: dict[str, tuple[str, int]] = {}  # patient -> fold, line
        for study, fold, line in zip(rows.column(STUDY_COLUMN), rows.column(FOLD_COLUMN), rows.lines, strict=True):
            if not (fold.isascii() and fold.isdigit()):
                message = f"{FOLD_COLUMN} is {shown(fold)}"
                self.add("fold not a number", csv.name, line, message, "a fold is 0, 1, 2, ...")
            if first.setdefault(study, line) != line:
                message = f"study {shown(study, 80)} is already in line {first[study]}"
                self.add("study in two rows of the folds", csv.name, line, message, "keep one row a study")
            if not (patient := patient_of.get(study, "")):
                continue
            there, where = fold_of.setdefault(patient, (fold, line))
            if there != fold:
                message = f"the patient of this row is in fold {shown(fold)} here and {shown(there)} in line {where}"
                self.add("patient in two folds", csv.name, line, message, "draw folds with `cxrlines folds`")
        self.counts["folds"] = len(set(rows.column(FOLD_COLUMN)))
        if self.rows is None:
            return
        known = dict(zip(self.rows.column(STUDY_COLUMN), self.rows.lines, strict=True))
        for study in sorted(first.keys() - known.keys()):
            message = f"study {shown(study, 80)} is not in {TRAIN_TABLE}"
            self.add("foreign study in the folds", csv.name, first[study], message, "draw folds of this table")
        for study in sorted(known.keys() - first.keys() - {""}):
            message = f"study {shown(study, 80)} has no fold in {csv.name}"
            self.add("study without a fold", TRAIN_TABLE, known[study], message, "draw folds of this table")

    def told(self, path: Path) -> str:
        """A film's path as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def _seen(note: Note, quality: Quality) -> str:
    """What a note that is a problem says of a film that is checked, not read."""
    match note.code:
        case Code.TURNED:
            return f"is turned by {quality.rotation} degrees counter-clockwise"
        case Code.INVERTED:
            return "is inverted: bone is black"
        case Code.NOT_A_CHEST_FILM if quality.frontal_chest is not None:
            return f"is no frontal chest film, as far as a network can tell (probability {quality.frontal_chest:.2f})"
    return note.text


def _off_film(row: AnnotatedLine, shape: tuple[int, int]) -> str:
    """Which point of a line lies off a film of (height, width), beyond OFF_FILM; empty if none does."""
    height, width = shape
    slack = max(2.0, OFF_FILM * max(shape))
    points = row.line.points

    def off(points: np.ndarray) -> np.ndarray:
        return np.any((points < -slack) | (points > np.array([width, height]) - 1 + slack), axis=1)

    wrong = off(points)
    if not wrong.any():
        return ""
    x, y = points[int(np.argmax(wrong))]
    where = f"{int(wrong.sum())} of {len(points)} points, first [{x:g}, {y:g}], lie off a film of {width} x {height} px"
    return where if off(points[:, ::-1]).any() else f"{where}; with x and y swapped all would lie on it"
