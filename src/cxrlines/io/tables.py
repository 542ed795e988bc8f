"""Label tables: one schema for whatever layout lies on disk.

Two layouts are read: RANZCR CLiP's own (which the phantom writes too) and a plain folder of films.

A row of a table that contradicts itself or cannot be read is left out and counted once, under its first reason; nothing
is guessed. Of a study in two rows the first one stays. Two ETT states at once stay in, as the label table is the truth
until a person corrects it; the audit reports them.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cxrlines.core.film import FILM_SUFFIXES
from cxrlines.io.annotations import MAX_COORDINATE, Line, in_unit_square, read_lines
from cxrlines.io.films import is_film
from cxrlines.io.rows import (
    DOUBTS,
    NO_PATIENT,
    Problem,
    Rows,
    TableError,
    doubted,
    read_rows,
    rows_left_out,
    shown,
    warn,
)
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN, Landmark

Split = Literal["train", "test"]

TRAIN_TABLE, TEST_TABLE, TRUTH_TABLE = "train.csv", "sample_submission.csv", "test_truth.csv"
ANNOTATION_TABLE, TEST_ANNOTATION_TABLE, META_FILE = "train_annotations.csv", "test_annotations.csv", "phantom.json"
LANDMARK_TABLE = "landmarks.csv"

PACKED_SUFFIXES = (".gz", ".zip", ".bz2", ".xz", ".7z")

NO_STUDY, BAD_LABEL, REPEATED = "row without a study", "label not 0 or 1", "study in two rows"
NO_FILM, SECOND_FILM = "film missing", "second film of a study"
BAD_LANDMARK = "landmark not readable"
NOT_A_FILM, LINKED_FOLDER, BROKEN_LINK = "file that is no film", "linked folder (not looked into)", "link to nothing"


@dataclass(frozen=True)
class Dataset:
    """The studies of one split, where their films lie, and what is known of them.

    Attributes:
        root: The data folder.
        studies: One row a study, RangeIndex. Columns `study`, `patient`, `film` (str; film is an absolute path), then,
            if the split is labelled, the 11 labels (int8; float with NaN where only some studies have them).
        lines: Annotated lines by study, in px of the original film.
        left_out: Reason -> count, of all rows skipped in reading; of a plain folder, of files and links.
        meta: What phantom.json says, or {}.
        landmarks: Study -> name of a `task.Landmark` -> its point, (2,) float64 [x, y] in px of the original film.
            Only what is known is there; a study without any is not.
    """

    root: Path
    studies: pd.DataFrame
    lines: dict[str, list[Line]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    landmarks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @cached_property
    def annotated(self) -> np.ndarray:
        """(n,) bool: which studies have annotated lines; all of a phantom set of which every line is annotated."""
        if self.meta.get("annotated") == 1:
            return np.ones(len(self.studies), bool)
        return self.studies["study"].isin(set(self.lines)).to_numpy()


def read_dataset(root: Path, split: Split = "train") -> Dataset:
    """Read the tables of a data folder and find its films; no film is opened but to tell whether it is one.

    A folder with `train.csv` (split train) or `sample_submission.csv` (split test) is in RANZCR's layout: films as
    train/<study>.jpg or another of FILM_SUFFIXES, `train_annotations.csv` if there; the truth of test films from
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
    if packed := packed_as(table):  # without a word the films would be read without their labels
        raise TableError(f"{root}: has {packed} but no {table.name}", "unpack it there")
    if (root / TRAIN_TABLE).is_file() or split == "test":
        raise TableError(f"{root}: has no {table.name}", f"the {split} split needs it, with the films in {split}/")
    return _read_folder(root)


def packed_as(table: Path) -> str:
    """The name under which a table that is not there lies compressed beside its place; "" if it does not."""
    names = ("" if table.is_file() else table.name + suffix for suffix in PACKED_SUFFIXES)
    return next((name for name in names if name and table.with_name(name).is_file()), "")


def read_labels(csv: Path) -> pd.DataFrame:
    """A label table alone, without films: columns `study`, `patient` (str) and the 11 labels (int8), RangeIndex.

    Rows that cannot be used are left out; how many, where and why is said on stderr and counted in
    `.attrs["left_out"]`. `TableError` if a column is missing or no row is left.
    """
    csv = Path(csv)
    rows = read_rows(csv, (STUDY_COLUMN, *LABELS, PATIENT_COLUMN))
    table, problems = usable_rows(rows)
    left_out = rows_left_out(problems)
    check_some(csv, table, left_out)
    if problems:
        more = f" (and {len(problems) - 3} more; `cxrlines check` lists all)" if len(problems) > 3 else ""
        listed = "\n  ".join(problem.text() for problem in problems[:3])
        count = sum(left_out.values())
        warn(f"{csv}: {count} of {len(table) + count} rows left out\n  {listed}{more}")
    table.attrs["left_out"] = left_out
    return table


def check_some(csv: Path, table: pd.DataFrame, left_out: dict[str, int]) -> None:
    """`TableError` if no row is left."""
    if not len(table):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in left_out.items()) or "it has none"
        way_out = "it needs rows of a study, 11 labels 0 or 1, and a patient; `cxrlines check` names each row"
        raise TableError(f"{csv}: no row is usable ({reasons})", way_out)


def usable_rows(rows: Rows) -> tuple[pd.DataFrame, list[Problem]]:
    """The usable rows as columns `study`, `patient` and the 11 labels (int8), and why the others are not.

    A table without patients makes each study its own; one without labels gives none.
    """
    name = rows.path.name
    problems = list(rows.problems)
    studies = rows.column(STUDY_COLUMN)
    patients = rows.column(PATIENT_COLUMN) if PATIENT_COLUMN in rows.columns else studies
    has_labels = set(LABELS) <= set(rows.columns)
    labels = _label_cells(rows) if has_labels else np.zeros((len(studies), 0), np.int8)
    study_doubts = doubted(studies)
    patient_doubts = doubted(patients, patients=True) if patients is not studies else [""] * len(studies)
    first: dict[str, int] = {}
    good: list[int] = []
    for place, (study, patient, line) in enumerate(zip(studies, patients, rows.lines, strict=True)):
        found = []
        if not study:
            found.append(Problem(NO_STUDY, name, line, f"{STUDY_COLUMN} is empty", "give the study's id"))
        elif doubt := study_doubts[place]:
            message, way_out = DOUBTS[doubt]
            found.append(Problem(doubt, name, line, f"{STUDY_COLUMN} {shown(study, 80)} {message}", way_out))
        elif study in first:
            message = f"study {shown(study, 80)} is already in line {first[study]}"
            found.append(Problem(REPEATED, name, line, message, "keep one row a study"))
        first.setdefault(study, line)
        if not patient:
            way_out = DOUBTS[NO_PATIENT][1]
            found.append(Problem(NO_PATIENT, name, line, f"{PATIENT_COLUMN} is empty", way_out))
        elif doubt := patient_doubts[place]:
            message, way_out = DOUBTS[doubt]
            named = f" {shown(patient)}" if doubt == NO_PATIENT else ""  # a patient's id is not said
            found.append(Problem(doubt, name, line, f"{PATIENT_COLUMN}{named} {message}", way_out))
        for column in np.flatnonzero(labels[place] < 0):
            cell = rows.fields[place][rows.columns.index(LABELS[column])]
            message = f"{LABELS[column]} is {shown(cell)}"
            found.append(Problem(BAD_LABEL, name, line, message, "a label is 0 or 1"))
        problems += found
        if not found:
            good.append(place)
    table = pd.DataFrame({"study": [studies[i] for i in good], "patient": [patients[i] for i in good]}, dtype=object)
    if has_labels:
        table = pd.concat([table, pd.DataFrame(labels[good], columns=list(LABELS))], axis=1)
    return table, problems


def _label_cells(rows: Rows) -> np.ndarray:
    """(rows, 11) int8: 0, 1, or -1 for a cell that is neither."""
    known = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    cells = [[known.get(cell, -1) for cell in rows.column(label)] for label in LABELS]
    return np.array(cells, np.int8).reshape(len(LABELS), -1).T


def find_films(folder: Path, studies: Iterable[str]) -> dict[str, list[Path]]:
    """Study -> its files in `folder`: `<study>` with one of FILM_SUFFIXES, or bare (study ids contain dots)."""
    wanted = set(studies)
    films: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        suffixed = path.suffix.lower() in FILM_SUFFIXES
        for study in (path.name, path.stem) if suffixed else (path.name,):
            if study in wanted:
                if path.is_file():
                    films.setdefault(study, []).append(path)
                break
    return films


class FilmNames:
    """The names in a folder of films, to say of a study without a film which one may be meant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named = {_bare(path.name): path for path in sorted(folder.iterdir(), reverse=True)}

    def near(self, study: str) -> tuple[str, str]:
        """What is there instead, to follow `has no film of study ...`, and the way out."""
        path = self._named.get(_bare(study))
        if path is None:
            return "", "add the film or remove the row"
        there = f", but {shown(path.name, 80)}"
        if path.is_dir():
            return there, "put the film itself there, under the study's id"
        if path.suffix.lower() in PACKED_SUFFIXES:
            return there, "unpack it"
        return there, "name both alike; if a spreadsheet changed the id, import its column as text"


def _bare(name: str) -> str:
    """A name or id without what copies and spreadsheets change: suffixes, zeros in front, `.0` behind, case."""
    name = name.lower()
    for suffix in (*PACKED_SUFFIXES, *FILM_SUFFIXES, ".0"):
        name = name.removesuffix(suffix)
    return name.lstrip("0")


def _read_ranzcr(root: Path, csv: Path, split: Split) -> Dataset:
    labelled = split == "train"
    needed = (STUDY_COLUMN, *LABELS, PATIENT_COLUMN) if labelled else (STUDY_COLUMN,)
    rows = read_rows(csv, needed)
    # The numbers of a sample submission are placeholders, and it names no patients: both are in the truth.
    table, problems = usable_rows(rows if labelled else rows.only((STUDY_COLUMN,)))
    if not labelled:
        table, problems = _with_truth(table[["study"]], problems, root / TRUTH_TABLE)
    folder = root / split
    if not folder.is_dir():
        raise TableError(
            f"{root}: has {csv.name} but no folder {split}/", f"put the films there as <{STUDY_COLUMN}>.jpg"
        )
    films = find_films(folder, table["study"].tolist())
    table.insert(2, "film", [str(films[s][0].resolve()) if s in films else None for s in table["study"]])
    there = table["film"].notna().to_numpy()
    left_out = Counter(rows_left_out(problems))
    if not there.all():
        left_out[NO_FILM] = int((~there).sum())
    if more := sum(len(found) - 1 for found in films.values()):
        left_out[SECOND_FILM] = more
    if len(table) and not there.any():
        instead, way_out = FilmNames(folder).near(table["study"][0])
        what = f"{root}: no study of {csv.name} has a film in {split}/"
        raise TableError(
            what + (f": of study {shown(table['study'][0], 80)} there is none{instead}" if instead else ""),
            way_out if instead else f"name films <{STUDY_COLUMN}>.jpg",
        )
    table = table[there].reset_index(drop=True)
    check_some(csv, table, left_out)
    lines: dict[str, list[Line]] = {}
    annotations = root / (ANNOTATION_TABLE if labelled else TEST_ANNOTATION_TABLE)
    if annotations.is_file():
        every, bad = read_lines(annotations)
        known = set(table["study"])
        lines = {study: found for study, found in every.items() if study in known}
        left_out.update(rows_left_out(bad))
        if strange := sum(len(found) for study, found in every.items() if study not in known):
            left_out["annotation of a study left out or unknown"] = strange
    landmarks: dict[str, dict[str, np.ndarray]] = {}
    if (root / LANDMARK_TABLE).is_file():
        landmarks, bad = read_landmarks(root / LANDMARK_TABLE, split)
        usable = set(table["study"])
        landmarks = {study: spots for study, spots in landmarks.items() if study in usable}
        left_out.update(rows_left_out(bad))
    return Dataset(root.resolve(), table, lines, dict(left_out), _read_meta(root / META_FILE), landmarks)


def read_landmarks(csv: Path, split: Split) -> tuple[dict[str, dict[str, np.ndarray]], list[Problem]]:
    """The landmarks of each study of a split, as in `Dataset.landmarks`, and the points left out and why.

    Columns: the study, `split` (without it, the rows are of both splits), and `<name>_x`, `<name>_y` of each name of
    `task.Landmark`, in px of the original film; others are ignored. Two empty cells: not known. Of a study in two rows
    the first one stays. `TableError` if the file as a whole cannot be read or lacks a column.
    """
    axes = [(f"{name}_x", f"{name}_y") for name in Landmark]
    rows = read_rows(csv, (STUDY_COLUMN, *(column for pair in axes for column in pair)))
    problems = list(rows.problems)
    studies = rows.column(STUDY_COLUMN)
    splits = rows.column("split") if "split" in rows.columns else [split] * len(studies)
    cells = [list(zip(rows.column(x), rows.column(y), strict=True)) for x, y in axes]
    landmarks: dict[str, dict[str, np.ndarray]] = {}
    for study, own, line, *points in zip(studies, splits, rows.lines, *cells, strict=True):
        if own != split or study in landmarks:
            continue
        landmarks[study] = {}
        for name, (x, y) in zip(Landmark, points, strict=True):
            if not x and not y:
                continue
            point = _point(x, y)
            if point is None:
                message = f"{name} is at {shown(x)}, {shown(y)}"
                problems.append(
                    Problem(BAD_LANDMARK, csv.name, line, message, "give two numbers in px, or leave both cells empty")
                )
            else:
                landmarks[study][name.value] = point
    return {study: spots for study, spots in landmarks.items() if spots}, problems


def _point(x: str, y: str) -> np.ndarray | None:
    try:
        point = np.array([float(x), float(y)])
    except ValueError:
        return None
    if in_unit_square(point):
        return None
    return point if (np.abs(point) <= MAX_COORDINATE).all() else None  # false for NaN as well


def _with_truth(table: pd.DataFrame, problems: list[Problem], csv: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Test studies with patient and labels where the truth table has them; without one, each its own patient."""
    if not csv.is_file():
        return table.assign(patient=table["study"]), problems
    truth, bad = usable_rows(read_rows(csv, (STUDY_COLUMN, *LABELS, PATIENT_COLUMN)))
    joined = table.merge(truth, on="study", how="left")
    if joined["patient"].notna().all():
        joined = joined.astype({label: np.int8 for label in LABELS})
    joined["patient"] = joined["patient"].fillna(joined["study"])
    return joined, problems + bad


def _read_meta(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: is not readable as JSON ({type(error).__name__})", "mend it or remove it") from None
    return found if isinstance(found, dict) else {}


def _read_folder(root: Path) -> Dataset:
    names, films = [], []
    left_out: Counter[str] = Counter()
    for path in sorted(_files_below(root, left_out)):
        if path.suffix.lower() in FILM_SUFFIXES or is_film(path):
            names.append(path.relative_to(root).as_posix())
            films.append(str(path.resolve()))
        else:
            left_out[NOT_A_FILM] += 1
    if not films:
        but = f" ({', '.join(f'{count} x {reason}' for reason, count in left_out.items())})" if left_out else ""
        raise TableError(
            f"{root}: has no films ({', '.join(FILM_SUFFIXES)}, or DICOM of any name) and no {TRAIN_TABLE}{but}",
            "give a folder that has one of them",
        )
    table = pd.DataFrame({"study": names, "patient": names, "film": films}, dtype=object)
    return Dataset(root.resolve(), table, left_out=dict(left_out))


def _files_below(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    """All regular files in a folder and those in it, but hidden ones. Links to folders are counted, not followed."""

    def unreadable(error: OSError) -> None:
        raise TableError(f"{error.filename}: cannot be listed ({error.strerror})", "make the folder readable")

    for folder, inner, files in os.walk(root, onerror=unreadable):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if linked := sum(Path(folder, name).is_symlink() for name in inner):
            left_out[LINKED_FOLDER] += linked
        for path in (Path(folder, name) for name in files if not name.startswith(".")):
            if path.is_file():
                yield path
            elif path.is_symlink():
                left_out[BROKEN_LINK] += 1
