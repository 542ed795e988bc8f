"""The audit of a data folder: every problem at once, each with file, row and way out.

A film is decoded once, and assessed as it is for training and reading (`prepare.assess`). What has to be looked at
before training is a problem; what is odd about a film that is read all the same is a note.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np

from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.notes import Code, Note
from cxrlines.core.pool import in_parallel
from cxrlines.core.quality import Quality
from cxrlines.core.text import did_you_mean, shown
from cxrlines.io import tables
from cxrlines.io.annotations import off_film, read_annotations
from cxrlines.io.dedup.copies import copies, signature
from cxrlines.io.film_lookup import bare_names, film_instead, find_films, packed_as
from cxrlines.io.films import read_bytes, read_film
from cxrlines.io.folds import FOLD_COLUMN, fold_problems
from cxrlines.io.landmarks import read_landmarks
from cxrlines.io.prepare import Probe, assess
from cxrlines.io.rows import Problem, Rows, TableError, read_rows
from cxrlines.io.tables import LABEL_CELLS
from cxrlines.task import EXCLUSIVE, LABELS, LABELS_OF, PATIENT_COLUMN, STUDY_COLUMN

Content = TypeVar("Content")
_read_studies = partial(read_rows, needed=(STUDY_COLUMN,))

SHOWN = 20
"""Problems of one kind that the text lists; JSON lists all."""
LOOK = "look at it, and take it out if it is no film to learn from"
FILM_PROBLEMS = {
    Code.NO_CONTRAST: ("film without contrast", "export it again"),
    Code.LATERAL: ("lateral film", LOOK),
    Code.NOT_A_CHEST_FILM: ("no frontal chest film", LOOK),
    Code.TURNED: ("film turned", "export it upright, or leave it: networks see it turned back"),
    Code.INVERTED: ("film inverted", "export it bone white, or leave it: networks see it bone white"),
}
"""Notes on a film that are problems: the kind, and the way out."""


class FilmNote(NamedTuple):
    """What is odd about a film that is read all the same; `film` is its path in the folder."""

    film: str
    note: Note


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        problems: Sorted by kind, file and row.
        counts: Of what was looked at.
        notes: Sorted by code and film.
        absent: Label table -> its absent columns of optional devices; these labels are unknown, which is no problem.
    """

    problems: list[Problem]
    counts: dict[str, int]
    notes: list[FilmNote]
    absent: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON. `kinds` counts problems, `note_codes` notes; a row may have several problems."""
        return {
            "clean": not self.problems,
            "counts": self.counts,
            "kinds": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [asdict(problem) for problem in self.problems],
            "note_codes": dict(Counter(noted.note.code.value for noted in self.notes)),
            "notes": [{"film": noted.film} | noted.note.as_dict() for noted in self.notes],
            **({"absent_columns": self.absent} if self.absent else {}),
        }

    def text(self) -> str:
        """For people: by kind, at most SHOWN of each; notes by code, with one film each."""
        lines = ["looked at " + ", ".join(f"{count:,} {name}" for name, count in self.counts.items())]
        for kind, of_kind in groupby(self.problems, lambda problem: problem.kind):
            found = list(of_kind)
            rows = len({(problem.file, problem.row) for problem in found})
            lines += ["", f"{kind} ({len(found):,}{f' in {rows:,} rows' if rows < len(found) else ''})"]
            lines += ["  " + problem.text() for problem in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  ... and {len(found) - SHOWN:,} more; --json lists all")
        if self.notes or self.absent:
            lines += ["", "odd, but no problem (--json lists every film)"]
        for code, of_code in groupby(self.notes, lambda noted: noted.note.code):
            noted = list(of_code)
            lines.append(f"  {code.value} ({len(noted):,}), such as {noted[0].film}: {noted[0].note.text}")
        for table, columns in self.absent.items():
            lines.append(f"  {table}: has no column {', '.join(columns)}; these labels are unknown")
        count = len(self.problems)
        return "\n".join([*lines, "", f"{count:,} problem{'s' * (count > 1)}" if count else "no problems"])


def audit(root: Path, folds: Path | None = None, workers: int = 1, probe: Probe | None = None) -> Audit:
    """Check everything in a data folder (see `read_dataset` for its layouts), each film decoded once.

    `probe` decides of each film whether it is a frontal chest film, upright and bone white; without one only rules do.
    Rows without any label are counted, not a problem: a film may show no line. Films without a row are counted
    likewise, and in a plain folder what comes along with films (DICOMDIR, structured reports, ...).
    """
    root = Path(root).resolve()
    label_tables = (root / tables.TRAIN_TABLE, root / tables.TEST_TABLE)
    tabled = any(csv.is_file() or packed_as(csv) for csv in label_tables) or (root / "train").is_dir()
    state = _State(root, plain=not tabled)
    train = truth = None
    if state.plain:
        _check_folder(state)
    else:
        train = _check_train(state)
        truth = _check_test(state, train)
    looks = _check_films(state, workers, probe)
    _check_copies(state, looks)
    _check_annotations(state, root / tables.ANNOTATION_TABLE, train, "annotated")
    _check_annotations(state, root / tables.TEST_ANNOTATION_TABLE, truth, "annotated test")
    _check_landmarks(state, root / tables.LANDMARK_TABLE)
    if folds is not None:
        _check_folds(state, Path(folds), train)
    problems = sorted(set(state.problems), key=lambda p: (p.kind, p.file, p.row or 0, p.message))
    notes = sorted(state.notes, key=lambda n: (n.note.code, n.film, n.note.text))
    return Audit(problems, state.counts, notes, state.absent)


@dataclass
class _State:
    """The audit under way."""

    root: Path
    plain: bool  # a folder of films without tables
    films: dict[Path, str] = field(default_factory=dict)  # every film to decode -> its study
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)  # of the films of each study: (height, width)
    problems: list[Problem] = field(default_factory=list)
    notes: list[FilmNote] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, file: str, row: int | None, message: str, way_out: str) -> None:
        self.problems.append(Problem(kind, file, row, message, way_out))

    def read(self, csv: Path, reader: Callable[[Path], Content]) -> Content | None:
        """A table; where it is unusable, that is a problem like any other, and the result None."""
        try:
            return reader(csv)
        except TableError as error:
            what, way_out = error.what.removeprefix(f"{csv}: "), error.way_out
        if packed := packed_as(csv):
            what, way_out = f"is there as {packed} only", "unpack it there"
        self.add("table not usable", csv.name, None, what, way_out)
        return None

    def name(self, path: Path) -> str:
        """A film's path as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def _check_folder(state: _State) -> None:
    try:
        dataset = tables.read_dataset(state.root)
    except TableError as error:
        state.add("no data", state.root.name, None, error.what.removeprefix(f"{state.root}: "), error.way_out)
        return
    state.films = dict(zip(map(Path, dataset.studies["film"]), dataset.studies["study"], strict=True))
    state.counts |= {"films": len(state.films)} | dataset.left_out


def _check_train(state: _State) -> Rows | None:
    """train.csv: columns, rows, films."""
    if (rows := _check_labels(state, tables.TRAIN_TABLE)) is None:
        return None
    state.counts["studies"] = len(set(rows.column(STUDY_COLUMN)))
    if PATIENT_COLUMN in rows.columns:
        state.counts["patients"] = len(set(rows.column(PATIENT_COLUMN)) - {""})
    if set(tables.REQUIRED_LABELS) <= set(rows.columns):
        cells = zip(*(rows.column(label) for label in LABELS if label in rows.columns), strict=True)
        state.counts["studies without any label"] = sum(1 not in map(LABEL_CELLS.get, row) for row in cells)
    _match_films(state, rows, state.root / "train", "training")
    return rows


def _check_test(state: _State, train: Rows | None) -> Rows | None:
    """sample_submission.csv: rows and films; test_truth.csv, which is returned: no study or patient of train.csv."""
    csv = state.root / tables.TEST_TABLE
    if (csv.is_file() or packed_as(csv)) and (rows := state.read(csv, _read_studies)) is not None:
        state.problems += tables.usable_rows(rows, studies_only=True)[1]
        _match_films(state, rows, state.root / "test", "test")
    truth = _check_labels(state, tables.TRUTH_TABLE) if (state.root / tables.TRUTH_TABLE).is_file() else None
    for column, what in ((STUDY_COLUMN, "study"), (PATIENT_COLUMN, "patient")):
        if train is None or truth is None or column not in train.columns or column not in truth.columns:
            continue
        # A data frame writes the patient 12 as 12.0 where another row has none.
        line_of = {cell.removesuffix(".0"): at for cell, at in zip(train.column(column), train.lines, strict=True)}
        for cell, line in zip(truth.column(column), truth.lines, strict=True):
            if cell and (there := line_of.get(cell.removesuffix(".0"))):
                message = f"the {what} of this row is in {tables.TRAIN_TABLE}:{there} as well"
                way_out = "keep it in one of the two: in both it falsifies every figure"
                state.add(f"{what} in training and test", tables.TRUTH_TABLE, line, message, way_out)
    return truth


def _check_labels(state: _State, name: str) -> Rows | None:
    """A label table by itself: columns, rows, states that exclude each other."""
    if (rows := state.read(state.root / name, _read_studies)) is None:
        return None
    columns = (STUDY_COLUMN, *LABELS, PATIENT_COLUMN)
    lacking = [column for column in columns if column not in rows.columns]
    missing = [column for column in lacking if column in tables.TRUTH_COLUMNS]
    strange = [column for column in rows.columns if column not in (*columns, FOLD_COLUMN)]
    for column in missing:
        message = f"has no column {column!r}{did_you_mean(column, strange)}"
        state.add("missing column", name, 1, message, "add or rename it")
    for column in strange:
        message = f"column {shown(column)} is not known{did_you_mean(column, lacking or columns)}"
        state.add("unknown column", name, 1, message, "rename or remove it")
    for column in columns:
        if rows.columns.count(column) > 1:
            message = f"has the column {column!r} {rows.columns.count(column)} times"
            state.add("column more than once", name, 1, message, "keep the one that is right")
    if absent := [column for column in lacking if column not in missing]:
        state.absent[name] = absent
    state.problems += tables.usable_rows(rows)[1]
    for device in EXCLUSIVE:
        labels = [label for label in LABELS_OF[device] if label in rows.columns]
        for line, *cells in zip(rows.lines, *map(rows.column, labels), strict=True):
            positive = [label for label, cell in zip(labels, cells, strict=True) if LABEL_CELLS.get(cell) == 1]
            if len(positive) > 1:
                message = f"{' and '.join(positive)} at once"
                state.add(f"two {device} states at once", name, line, message, "keep the one that is true")
    return rows


def _match_films(state: _State, rows: Rows, folder: Path, split: str) -> None:
    """Rows against the films in a folder, which are added to the films to decode."""
    if not folder.is_dir():
        way_out = f"put the films there as <{STUDY_COLUMN}>.jpg"
        state.add("no films", f"{folder.name}/", None, "there is no such folder", way_out)
        return
    studies = rows.column(STUDY_COLUMN)
    films, names = find_films(folder, studies), bare_names(folder)
    for study, line in zip(studies, rows.lines, strict=True):
        if study and study not in films:
            instead, way_out = film_instead(study, names)
            message = f"{folder.name}/ has no film of study {shown(study, 80)}{instead}"
            state.add(tables.NO_FILM, rows.path.name, line, message, way_out)
    for study, (first, *more) in films.items():
        state.films |= dict.fromkeys((first, *more), study)
        message = f"its study has {first.name} as well"
        for path in more:
            state.add("two films of a study", state.name(path), None, message, "keep the one that was annotated")
    state.counts[f"{split} films"] = matched = sum(map(len, films.values()))
    if without := sum(path.is_file() for path in folder.iterdir()) - matched:
        state.counts[f"{split} films without a row"] = without


@dataclass(frozen=True)
class _Look:
    """A film decoded: the SHA-256 of its bytes, its (height, width), signature and quality, the notes on its file."""

    digest: str
    shape: tuple[int, int]
    signature: np.ndarray
    quality: Quality
    notes: tuple[Note, ...]


def _look(path: Path, probe: Probe | None) -> _Look | FilmError:
    try:
        data = read_bytes(path)
        film = read_film(data, name=str(path))
    except FilmError as error:
        return error
    quality, _ = assess(film, probe)
    height, width = film.pixels.shape
    return _Look(hashlib.sha256(data).hexdigest(), (height, width), signature(film.pixels), quality, film.notes)


def _check_films(state: _State, workers: int, probe: Probe | None) -> dict[Path, _Look]:
    """Every film by itself: whether it can be decoded, and shows an upright chest. Those that can, sorted by path."""
    paths = sorted(state.films)
    done = dict(in_parallel(partial(_look, probe=probe), paths, workers, "checking films"))
    looks: dict[Path, _Look] = {}
    for place, path in enumerate(paths):
        look = done[place] or FilmError("its decoder crashed on it", "export it again")
        if isinstance(look, NotAFilm) and state.plain:
            kind = f"{look.kind} (no film)"
            state.counts[kind] = state.counts.get(kind, 0) + 1
        elif isinstance(look, FilmError):
            what = look.what.removeprefix(f"{path}: ")
            state.add("film not readable", state.name(path), None, what, look.way_out)
        else:
            looks[path] = look
            state.shapes[state.films[path]] = look.shape
            for note in (*look.notes, *look.quality.notes):
                if note.code in FILM_PROBLEMS:
                    kind, way_out = FILM_PROBLEMS[note.code]
                    state.add(kind, state.name(path), None, _message(note, look.quality), way_out)
                else:
                    state.notes.append(FilmNote(state.name(path), note))
    state.counts["films read"] = len(looks)
    return looks


def _message(note: Note, quality: Quality) -> str:
    """The text of a note that is a problem, as of a film that is checked, not read."""
    match note.code:
        case Code.TURNED:
            return f"is turned by {quality.rotation} degrees counter-clockwise"
        case Code.INVERTED:
            return "is inverted: bone is black"
        case Code.NOT_A_CHEST_FILM if quality.frontal_chest is not None:
            return f"is no frontal chest film, as far as a network can tell (probability {quality.frontal_chest:.2f})"
    return note.text


def _check_copies(state: _State, looks: dict[Path, _Look]) -> None:
    """Films that are there twice: the same file, or the same film re-encoded. Each copy but the first is a problem."""

    def add(kind: str, originals: list[Path], path: Path, what: str, how: str = "") -> None:
        leaks = [] if state.plain else [each for each in originals if each.parent != path.parent]
        way_out = "remove one, and see that their labels agree"
        if leaks:
            way_out = "remove it from one: a film in both training and test falsifies every figure"
        more = f" (and {len(originals) - 1} more)" if len(originals) > 1 else ""
        message = f"is the same {what} as {state.name((leaks or originals)[0])}{more}{how}"
        state.add(kind, state.name(path), None, message, way_out)

    first: dict[str, Path] = {}
    for path, look in looks.items():
        if (original := first.setdefault(look.digest, path)) != path:
            add("same film twice", [original], path, "file")
    unique = list(first.values())
    originals: dict[Path, list[Path]] = {}
    for i, j in copies([looks[path].signature for path in unique]):
        originals.setdefault(unique[j], []).append(unique[i])
    for path, others in originals.items():
        add("same film re-encoded", others, path, "film", ", re-encoded, resized, mirrored or turned")


def _check_annotations(state: _State, csv: Path, table: Rows | None, what: str) -> None:
    """Annotated lines against their label table, if there is one, and the films' shapes; `what` is for the counts."""
    if not csv.is_file() or (found := state.read(csv, read_annotations)) is None:
        return
    annotated, problems = found
    state.problems += problems
    state.counts |= {f"{what} studies": len({row.study for row in annotated}), f"{what} lines": len(annotated)}
    place = {} if table is None else {s: i for i, s in reversed([*enumerate(table.column(STUDY_COLUMN))])}
    for row in annotated:
        label = row.line.label
        if table is not None and row.study not in place:
            message = f"study {shown(row.study, 80)} is not in {table.path.name}"
            way_out = "add its row or remove this one"
            state.add("annotation of an unknown study", csv.name, row.row, message, way_out)
        elif table is not None and label in table.columns:
            at = place[row.study]
            if LABEL_CELLS.get(table.fields[at][table.columns.index(label)]) == 0:
                message = f"{label} is 0 in {table.path.name}:{table.lines[at]}"
                state.add("annotation against its label", csv.name, row.row, message, "correct one of the two")
        if (shape := state.shapes.get(row.study)) and (message := off_film(row.line.points, shape)):
            way_out = "points are [x, y] in px of the original film; correct them"
            state.add("annotation off the film", csv.name, row.row, message, way_out)


def _check_landmarks(state: _State, csv: Path) -> None:
    for split in get_args(tables.Split) if csv.is_file() else ():
        if (found := state.read(csv, partial(read_landmarks, split=split))) is not None:
            state.problems += found[1]


def _check_folds(state: _State, csv: Path, train: Rows | None) -> None:
    """A folds file by itself and against train.csv. The patients are train.csv's, if it has them."""
    if (rows := state.read(csv, partial(read_rows, needed=(STUDY_COLUMN, FOLD_COLUMN)))) is None:
        return
    patient_of: dict[str, str] = {}
    for table in (rows, train):
        if table is not None and PATIENT_COLUMN in table.columns:
            patient_of |= zip(table.column(STUDY_COLUMN), table.column(PATIENT_COLUMN), strict=True)
    studies = rows.column(STUDY_COLUMN)
    state.problems += rows.problems + fold_problems(rows, [patient_of.get(study, "") for study in studies])
    state.counts["folds"] = len(set(rows.column(FOLD_COLUMN)))
    if state.counts["folds"] == 1:
        message = "all its studies are in one fold, so that nothing can be held out"
        state.add("one fold alone", csv.name, None, message, "draw two or more with `cxrlines folds`")
    if train is None:
        return
    line_of = dict(reversed([*zip(studies, rows.lines, strict=True)]))  # of a study in two rows the first
    known = dict(zip(train.column(STUDY_COLUMN), train.lines, strict=True))
    way_out = "draw folds of this table"
    for study in line_of.keys() - known.keys():
        message = f"study {shown(study, 80)} is not in {tables.TRAIN_TABLE}"
        state.add("foreign study in the folds", csv.name, line_of[study], message, way_out)
    for study in known.keys() - line_of.keys() - {""}:
        message = f"study {shown(study, 80)} has no fold in {csv.name}"
        state.add("study without a fold", tables.TRAIN_TABLE, known[study], message, way_out)
