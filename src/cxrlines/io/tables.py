"""Label tables: RANZCR CLiP's layout (which the phantom writes too), or a plain folder of films.

A row that contradicts itself or cannot be read is left out and counted once, under its first reason; nothing is
guessed. Of a study in two usable rows the first one stays. Two ETT states at once stay in, as the label table is the
ground truth until a person corrects it; the audit reports them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from cxrlines.core.files import OutputError
from cxrlines.core.film import FILM_SUFFIXES
from cxrlines.core.text import shown
from cxrlines.io.annotations import Line, read_annotations
from cxrlines.io.film_lookup import bare_names, files_below, film_instead, find_films, packed_as
from cxrlines.io.films import is_film, unread_picture
from cxrlines.io.landmarks import Landmarks, read_landmarks
from cxrlines.io.marks import INDEX
from cxrlines.io.rows import DOUBTS, NO_PATIENT, Problem, Rows, TableError, doubted, read_rows, rows_left_out, warn
from cxrlines.io.studies import Studies
from cxrlines.task import DEVICE_OF, DEVICES, LABEL_INDEX, LABELS, PATIENT_COLUMN, STUDY_COLUMN, UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "test"]

TRAIN_TABLE, TEST_TABLE, TRUTH_TABLE = "train.csv", "sample_submission.csv", "test_truth.csv"
ANNOTATION_TABLE, TEST_ANNOTATION_TABLE, META_FILE = "train_annotations.csv", "test_annotations.csv", "phantom.json"
LANDMARK_TABLE = "landmarks.csv"
OWN_FILES = frozenset({
    TRAIN_TABLE, TEST_TABLE, TRUTH_TABLE, ANNOTATION_TABLE, TEST_ANNOTATION_TABLE, META_FILE, LANDMARK_TABLE, INDEX,
})  # fmt: skip
"""Names of the files that a folder of films may have beside them, in which people keep what they know of the films."""
REQUIRED_LABELS = tuple(label for label in LABELS if not DEVICES[DEVICE_OF[label]].optional)
"""The label columns that every label table has; without one of another device its label is `task.UNKNOWN`."""
TRUTH_COLUMNS = (STUDY_COLUMN, *REQUIRED_LABELS, PATIENT_COLUMN)
"""The columns that a label table must have."""

NO_STUDY, BAD_LABEL, REPEATED = "row without a study", "label not 0 or 1", "study in two rows"
NO_FILM, SECOND_FILM = "film missing", "second film of a study"
NOT_A_FILM = "file that is no film"
LABEL_CELLS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": UNKNOWN, "-1.0": UNKNOWN}
OPTIONAL_CELLS = LABEL_CELLS | {"": UNKNOWN}  # an empty cell of RANZCR's own labels is a mistake
_BAD = -2

Table = TypeVar("Table", Studies, "pd.DataFrame")


@dataclass(frozen=True)
class DataFolder(Generic[Table]):
    """The studies of one split, their films, labels, lines and landmarks.

    Attributes:
        root: The data folder.
        studies: Its studies with their films, and if the split is labelled, their labels: `Studies`, or a data frame
            with one row a study, columns as `Studies.frame`.
        lines: Annotated lines by study, in px of the original film.
        left_out: Reason -> count, of all rows skipped in reading; of a plain folder, of files and links.
        meta: The content of phantom.json, or {}.
        landmarks: Study -> name of a `task.Landmark` -> its point, (2,) float64 [x, y] in px of the original film.
            Landmarks that are not known are not there, nor are studies without any.
    """

    root: Path
    studies: Table
    lines: dict[str, list[Line]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    landmarks: Landmarks = field(default_factory=dict)

    @cached_property
    def annotated(self) -> np.ndarray:
        """(n,) bool: which studies have annotated lines; all of a phantom set of which every line is annotated."""
        ids = self.studies.ids if isinstance(self.studies, Studies) else self.studies["study"]
        return np.array([self.meta.get("annotated") == 1 or study in self.lines for study in ids], bool)


Dataset: TypeAlias = DataFolder["pd.DataFrame"]


def read_dataset(root: Path, split: Split = "train") -> Dataset:
    """`read_data_folder` with the studies as a data frame, for what has pandas."""
    found = read_data_folder(root, split)
    return Dataset(found.root, found.studies.frame(), found.lines, found.left_out, found.meta, found.landmarks)


def read_data_folder(root: Path, split: Split = "train") -> DataFolder[Studies]:
    """Read the tables of a data folder and find its films; no film is opened but to recognise it as one.

    A folder with `train.csv` (split train) or `sample_submission.csv` (split test) is in RANZCR's layout: films as
    train/<study>.jpg or another of FILM_SUFFIXES, `train_annotations.csv` if there; the ground truth of test films from
    `test_truth.csv` and their lines from `test_annotations.csv` if there; landmarks of both from `landmarks.csv` if
    there. Any other folder is a plain one: all films in it, however deep, without labels, each its own patient.

    Rows that cannot be used are left out and counted in `left_out`. `TableError` if nothing can be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise TableError(f"{root}: is not a folder", f"give the folder that holds {TRAIN_TABLE} and train/")
    table = root / (TRAIN_TABLE if split == "train" else TEST_TABLE)
    if table.is_file():
        return _read_ranzcr(root, table, split)
    if packed := packed_as(table):  # else the films would be read silently without their labels
        raise TableError(f"{root}: has {packed} but no {table.name}", "unpack it there")
    if (root / TRAIN_TABLE).is_file() or split == "test":
        raise TableError(f"{root}: has no {table.name}", f"the {split} split needs it, with the films in {split}/")
    return _read_folder(root)


def read_labels(csv: Path) -> "pd.DataFrame":
    """A label table alone, without films: columns `study`, `patient` (str) and `task.LABELS` (int8), RangeIndex.

    Labels of an optional device without columns are `task.UNKNOWN`. Rows that cannot be used are left out, reported on
    stderr, and counted in `.attrs["left_out"]`. `TableError` if a column is missing or no row is left.
    """
    csv = Path(csv)
    studies, problems = usable_rows(read_rows(csv, TRUTH_COLUMNS))
    left_out = rows_left_out(problems)
    check_some(csv, studies, left_out, problems)
    if problems:
        more = f" (and {len(problems) - 3} more; `cxrlines check` lists all)" if len(problems) > 3 else ""
        listed = "\n  ".join(problem.text() for problem in problems[:3])
        count = sum(left_out.values())
        warn(f"{csv}: {count} of {len(studies) + count} rows left out\n  {listed}{more}")
    table = studies.frame()
    table.attrs["left_out"] = left_out
    return table


def check_some(csv: Path, table: Sized, left_out: Mapping[str, int], problems: Sequence[Problem] = ()) -> None:
    """`TableError` if no row is left; it names the first of the problems."""
    if not len(table):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in left_out.items()) or "it has none"
        first = f"; the first: {problems[0].text()}" if problems else ""
        way_out = "it needs rows of a study, labels 0 or 1, and a patient; `cxrlines check` names each row"
        raise TableError(f"{csv}: no row is usable ({reasons}{first})", way_out)


def usable_rows(rows: Rows, *, studies_only: bool = False) -> tuple[Studies, list[Problem]]:
    """The studies of the usable rows, and why the other rows are not usable.

    A table without patients makes each study its own patient; one that lacks a label of `REQUIRED_LABELS` gives no
    labels. A label is `task.UNKNOWN` where its cell is -1; one of an optional device also where it is empty, and
    without a column.
    `studies_only`: patients and labels are ignored, as if there were none.
    """
    columns = {STUDY_COLUMN} if studies_only else set(rows.columns)
    studies = rows.column(STUDY_COLUMN)
    own_patients = PATIENT_COLUMN in columns
    patients = rows.column(PATIENT_COLUMN) if own_patients else studies
    labelled = set(REQUIRED_LABELS) <= columns
    present = [label for label in LABELS if label in columns] if labelled else []
    labels = np.empty((len(studies), len(present)), np.int8)
    for at, label in enumerate(present):
        values = LABEL_CELLS if label in REQUIRED_LABELS else OPTIONAL_CELLS
        labels[:, at] = [values.get(cell, _BAD) for cell in rows.column(label)]
    mistaken = (labels == _BAD).any(axis=1).tolist()
    study_doubts = doubted(studies)
    patient_doubts = doubted(patients, patients=True) if own_patients else [""] * len(studies)
    problems = list(rows.problems)
    first: dict[str, int] = {}
    good: list[int] = []
    for place, (study, patient, line) in enumerate(zip(studies, patients, rows.lines, strict=True)):
        doubtful = mistaken[place] or study_doubts[place] or patient_doubts[place] or not (study and patient)
        if not doubtful and first.setdefault(study, line) == line:
            good.append(place)
            continue
        found: list[tuple[str, str, str]] = []  # kind, message, way out
        if not study:
            found.append((NO_STUDY, f"{STUDY_COLUMN} is empty", "give the study's id"))
        elif doubt := study_doubts[place]:
            message, way_out = DOUBTS[doubt]
            found.append((doubt, f"{STUDY_COLUMN} {shown(study, 80)} {message}", way_out))
        elif study in first:
            message = f"study {shown(study, 80)} is already in line {first[study]}"
            found.append((REPEATED, message, "keep one row a study"))
        if not patient:
            found.append((NO_PATIENT, f"{PATIENT_COLUMN} is empty", DOUBTS[NO_PATIENT][1]))
        elif doubt := patient_doubts[place]:
            message, way_out = DOUBTS[doubt]
            named = f" {shown(patient)}" if doubt == NO_PATIENT else ""  # a patient's id is never printed
            found.append((doubt, f"{PATIENT_COLUMN}{named} {message}", way_out))
        for column in np.flatnonzero(labels[place] == _BAD) if mistaken[place] else ():
            cell = rows.fields[place][rows.columns.index(present[column])]
            found.append((BAD_LABEL, f"{present[column]} is {shown(cell)}", "a label is 0 or 1, or -1 where unknown"))
        problems += [Problem(kind, rows.path.name, line, message, way_out) for kind, message, way_out in found]
    every = np.full((len(good), len(LABELS)), UNKNOWN, np.int8)
    every[:, [LABEL_INDEX[label] for label in present]] = labels[good]
    table = Studies([studies[i] for i in good], [patients[i] for i in good], every if labelled else None)
    return table, problems


def _read_ranzcr(root: Path, csv: Path, split: Split) -> DataFolder[Studies]:
    labelled = split == "train"
    # The numbers of a sample submission are placeholders, and it names no patients: both are in the truth.
    rows = read_rows(csv, TRUTH_COLUMNS if labelled else (STUDY_COLUMN,))
    named, problems = usable_rows(rows, studies_only=not labelled)
    if not labelled:
        named, more = _with_truth(named, root / TRUTH_TABLE)
        problems += more
    folder = root / split
    if not folder.is_dir():
        way_out = f"put the films there as <{STUDY_COLUMN}>.jpg"
        raise TableError(f"{root}: has {csv.name} but no folder {split}/", way_out)
    left_out = Counter(rows_left_out(problems))
    films = find_films(folder, named.ids)
    studies = named.with_films({study: str(found[0].resolve()) for study, found in films.items()})
    if len(named) and not len(studies):
        study = named.ids[0]
        instead, way_out = film_instead(study, bare_names(folder))
        what = f"{root}: no study of {csv.name} has a film in {split}/"
        if instead:
            raise TableError(f"{what}: of study {shown(study, 80)} there is none{instead}", way_out)
        raise TableError(what, f"name films <{STUDY_COLUMN}>.jpg")
    left_out[NO_FILM] = len(named) - len(studies)
    left_out[SECOND_FILM] = sum(len(found) - 1 for found in films.values())
    check_some(csv, studies, +left_out)
    known = set(studies.ids)
    lines: dict[str, list[Line]] = {}
    annotations = root / (ANNOTATION_TABLE if labelled else TEST_ANNOTATION_TABLE)
    if annotations.is_file():
        annotated, bad = read_annotations(annotations)
        left_out.update(rows_left_out(bad))
        for row in annotated:
            if row.study in known:
                lines.setdefault(row.study, []).append(row.line)
            else:
                left_out["annotation of a study left out or unknown"] += 1
    landmarks: Landmarks = {}
    if (root / LANDMARK_TABLE).is_file():
        points, bad = read_landmarks(root / LANDMARK_TABLE, split)
        landmarks = {study: own for study, own in points.items() if study in known}
        left_out.update(rows_left_out(bad))
        strange, other = points.keys() - known, root / ("test" if labelled else "train")
        strange -= find_films(other, strange).keys() if strange and other.is_dir() else set()  # a table may be of both
        left_out["landmarks of a study left out or unknown"] += len(strange)
    return DataFolder(root.resolve(), studies, lines, dict(+left_out), read_meta(root / META_FILE), landmarks)


def _with_truth(studies: Studies, csv: Path) -> tuple[Studies, list[Problem]]:
    """Test studies with patient and labels where the truth table has them; without one, each its own patient."""
    if not csv.is_file():
        return studies, []
    rows = read_rows(csv, TRUTH_COLUMNS)
    truth, problems = usable_rows(rows)
    assert truth.labels is not None
    row = {study: place for place, study in enumerate(truth.ids)}
    named = (STUDY_COLUMN, PATIENT_COLUMN)  # a patient is known from a row whose labels cannot be read, too
    cells = list(zip(*map(rows.column, named), strict=True))
    people, _ = usable_rows(replace(rows, columns=list(named), fields=cells))
    patient = {study: own for table in (people, truth) for study, own in zip(table.ids, table.patients, strict=True)}
    places = np.array([row.get(study, -1) for study in studies.ids], int)
    labels = np.full((len(studies), len(LABELS)), np.nan)
    labels[places >= 0] = truth.labels[places[places >= 0]]
    labels = labels.astype(np.int8) if (places >= 0).all() else labels
    return replace(studies, patients=[patient.get(study, study) for study in studies.ids], labels=labels), problems


def read_meta(path: Path) -> dict[str, Any]:
    """The content of phantom.json, {} where there is none; `TableError` where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(
            f"{path}: is not readable as JSON ({type(error).__name__})", "correct it or remove it"
        ) from None
    return found if isinstance(found, dict) else {}


def _read_folder(root: Path) -> DataFolder[Studies]:
    left_out: Counter[str] = Counter()
    files = sorted(files_below(root, left_out))
    # What cannot be opened may be a film: reading it says why it is none.
    films = [path for path in files if path.suffix.lower() in FILM_SUFFIXES or is_film(path, unopened=True)]
    taken = set(films)
    pictures = [unread_picture(path) for path in files if path not in taken]
    left_out.update(f"{name} image, which is not read; save it as PNG" if name else NOT_A_FILM for name in pictures)
    if not films:
        but = f" ({', '.join(f'{count} x {reason}' for reason, count in left_out.items())})" if left_out else ""
        what = f"has no films ({', '.join(FILM_SUFFIXES)}, or DICOM of any name) and no {TRAIN_TABLE}{but}"
        raise TableError(f"{root}: {what}", "give a folder that has one of them")
    names = [path.relative_to(root).as_posix() for path in films]
    studies = Studies(names, names, films=[str(path.resolve()) for path in films])
    return DataFolder(root.resolve(), studies, left_out=dict(left_out))


def check_own_files(flag: str, out: Path) -> None:
    """`OutputError` where a file that is there would be replaced and is, by its name, one of `OWN_FILES`."""
    if out.name.lower() in OWN_FILES and out.exists():
        raise OutputError(f"{flag} {out}: would replace this file of a data folder", "name another place")
