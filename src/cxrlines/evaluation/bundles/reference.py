"""Reference films with ground truth: real ones with hand marks, or a data folder with its annotations."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.film import film_name
from cxrlines.core.findings import Findings, Line
from cxrlines.core.spacing import Spacing, SpacingKind
from cxrlines.core.text import plural
from cxrlines.io.annotations import Line as AnnotatedLine
from cxrlines.io.marks import (
    NO_MARKS,
    TRACHEOSTOMY,
    FilmMarks,
    MarkedLine,
    backdrop_patient,
    patients_of,
    read_marks,
    views_of,
)
from cxrlines.io.rows import TableError, read_rows
from cxrlines.io.tables import LANDMARK_TABLE, TEST_TABLE, TRAIN_TABLE, TRUTH_TABLE, Split, read_data_folder
from cxrlines.metrics.device_presence import EvaluatedReading, without_doubtful
from cxrlines.metrics.line_figures import EvaluatedFilm, StateCall
from cxrlines.reading.distances import distances_of
from cxrlines.reading.sources import find_films, patient_of
from cxrlines.task import DEVICE_OF, LABELS, LABELS_OF, MAPPED, STATE_OF, STUDY_COLUMN, Device, Landmark, State

NOT_NAMED = "of patients that --patients does not name"
SURE = 2
"""What is marked with at least this certainty is true; with less, it is neither true nor false."""
RULED = (Device.ETT, Device.NGT, Device.CVC)
"""Devices whose state follows from a rule."""


class EvaluationError(Error):
    """Films, marks or a bundle that cannot be evaluated: which, why, and the way out."""


@dataclass(frozen=True, eq=False)
class ReferenceFilm:
    """A film with ground truth: its file, its patient, and how findings are compared with the truth.

    `aliases`: what else its patient may have been called in training. `view`: AP or PA; None where it is not known.
    `named`: whether the patient is named; else `patient` is the film's own name, and nobody can say who was seen.
    """

    path: Path
    patient: str
    compare: Callable[[Findings], EvaluatedReading]
    aliases: tuple[str, ...] = ()
    view: str | None = None
    named: bool = True


@dataclass(frozen=True)
class ReferenceFilms:
    """The films of a source, films left out by reason, and remarks for who reads the figures."""

    films: list[ReferenceFilm]
    left_out: dict[str, int]
    remarks: tuple[str, ...]

    def of_patients(self, path: Path) -> "ReferenceFilms":
        """The films of the patients in a file, an id a line; the others are counted.

        `EvaluationError` if it cannot be read, or none of its patients has a film here.
        """
        try:
            named = {line.strip() for line in path.read_text("utf-8-sig").splitlines()} - {""}
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8"
            raise EvaluationError(
                f"--patients {path}: cannot be read ({why})", "give a text file, a patient id a line"
            ) from None
        films = [film for film in self.films if film.patient in named]
        if not films:
            raise EvaluationError(
                f"--patients {path}: none of its {len(named)} patients has a film here",
                "write ids of patients as the table beside the films has them (index.csv, or PatientID), one a line",
            )
        others = Counter(self.left_out) + Counter({NOT_NAMED: len(self.films) - len(films)})
        own = len({film.patient for film in films})
        remark = f"Only films of patients in {path.name}: {own} of its {len(named)} have films here."
        return ReferenceFilms(films, dict(others), (*self.remarks, remark))


def marked_films(folder: Path, *marks: Path) -> ReferenceFilms:
    """Real films, however deep in a folder, with the hand marks of files.

    Patients are those of `patients_of`, else the PatientID of DICOM files.

    Films without marks are left out. `EvaluationError` if none has any; `MarksError` for bad marks.
    """
    every, names = read_marks(*marks), ", ".join(map(str, marks))
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: is not a folder", f"give the folder of the films that {names} names")
    found = [path for path, _ in find_films([folder]).films]
    count = Counter(map(film_name, found))
    if twice := [name for name in count if count[name] > 1 and name in every]:
        raise EvaluationError(
            f"{folder}: two films are called {twice[0]}", "marks name films, so give each another name"
        )
    patients, views = patients_of(folder), views_of(folder)
    films = []
    for path in found:
        name = film_name(path)
        if name in every:
            given = patient_of(path, patients)
            patient = given or name
            compare = _against_marks(every[name], patient)
            # A film that was drawn onto goes by the index, or by its name.
            aliases = {backdrop_patient(patient), backdrop_patient(patients.get(name, name))}
            films.append(ReferenceFilm(path, patient, compare, tuple(aliases), views.get(name), bool(given)))
    if not films:
        here = f"here: {film_name(found[0])!r}" if found else "it has no films"
        raise EvaluationError(
            f"{folder}: none of its films is in {names}, which names films without suffix, e.g. "
            f"{next(iter(every))!r} ({here})",
            "give the folder of the films that are marked",
        )
    left_out = {NO_MARKS.removeprefix("film "): len(found) - len(films)} if len(found) > len(films) else {}
    remarks = [
        "Marks surer than a guess (2, 3) are true; found lines along doubtful ones (1) are neither true nor false "
        "positives, and a film with only doubtful lines of a device does not count for its presence. Drains, pacers "
        "and tracheostomies are no lines: one found along them is a false positive."
    ]
    if absent := len(every.keys() - count.keys()):
        remarks.append(f"{plural(absent, 'film of the marks is', 'films of the marks are')} not in the folder.")
    if partly := sum(len(every[film_name(film.path)].devices) < len(Device) for film in films):
        remarks.append(
            f"On {plural(partly, 'film')} not all devices were looked for: of the others nothing is counted there."
        )
    if unnamed := sum(not film.named for film in films):
        remarks.append(
            f"Of {plural(unnamed, 'film')} neither an index.csv nor a DICOM header names the patient: each film counts "
            "as a patient of its own."
        )
    return ReferenceFilms(films, left_out, tuple(remarks))


def data_films(root: Path, split: Split | None = None) -> ReferenceFilms:
    """The films of a data folder with labels, annotated lines and landmarks; of its test split, if that has labels.

    `TableError` where the tables cannot be read; `EvaluationError` where films have no labels.
    """
    if not (root / TRAIN_TABLE).is_file() and not (root / TEST_TABLE).is_file():
        raise EvaluationError(
            f"{root}: has no {TRAIN_TABLE}", "give a data folder, or name the marks of real films: --marks"
        )
    if split is None:
        train, test, truth = ((root / table).is_file() for table in (TRAIN_TABLE, TEST_TABLE, TRUTH_TABLE))
        split = "test" if not train or (test and truth) else "train"
    data = read_data_folder(root, split)
    if data.studies.labels is None:
        raise EvaluationError(
            f"{root}: its {split} films have no labels", f"give a {TRUTH_TABLE}, or take --split train"
        )
    spacing = _spacing(root, split)
    films = []
    for study, annotated in zip(data.studies, data.annotated, strict=True):
        lines = [_annotated(line) for line in data.lines.get(study.id, ())]
        known_lines = _known_lines(study.labels, lines, annotated)
        carina = data.landmarks.get(study.id, {}).get(Landmark.CARINA.value)
        compare = _against_tables(study.patient, study.labels, lines, known_lines, carina, spacing.get(study.id))
        named = study.patient != study.id or bool(study.labels)  # a test film without a row of truth has neither
        films.append(ReferenceFilm(Path(study.film), study.patient, compare, named=named))
    remarks = [f"Films of the {split} split."]
    if spacing:
        remarks.append("Rules go by each film's spacing in the patient, from the landmark table.")
    return ReferenceFilms(films, dict(data.left_out), tuple(remarks))


def _against_marks(marks: FilmMarks, patient: str) -> Callable[[Findings], EvaluatedReading]:
    lines = [line for line in marks.lines if line.device in marks.devices]
    sure, doubtful = ([line for line in lines if (line.sure >= SURE) is is_sure] for is_sure in (True, False))
    has, may = ({line.device for line in lines} for lines in (sure, doubtful))
    present = {device: device in has for device in marks.devices if device in has or device not in may}
    unknown = frozenset(Device) - marks.devices
    others = [(line.name, line.path) for line in marks.lines if line.device is None]

    def compare(found: Findings) -> EvaluatedReading:
        height, shape = found.upright_shape[0], found.film_shape
        true, unsure = ([_marked(line, shape) for line in some] for some in (sure, doubtful))
        lines = [line for line in found.lines if line.device not in unknown]
        kept = without_doubtful(true, unsure, lines, shape, height)
        carinas = marks.carina, _carina_of(found)
        read = EvaluatedFilm(patient, shape, true, kept, *carinas, height=height, unknown=unknown)
        return EvaluatedReading(
            read,
            present,
            *_scores(found),
            carina_sure=marks.carina_sure >= SURE,
            tracheostomy=any(line.name == TRACHEOSTOMY for line in marks.lines),
            doubtful=unsure,
            others=others,
        )

    return compare


def _marked(line: MarkedLine, shape: tuple[int, int]) -> Line:
    """A marked line of a device: one without its tip leaves the film where it ends at the edge, else it fades."""
    assert line.device is not None
    end = line.path[-1]
    if line.tip_on_film:
        return Line(line.device, line.path, end)
    return Line(line.device, line.path, None, followed_to=None if line.leaves_film(shape) else end)


def _against_tables(
    patient: str,
    labels: dict[str, float],
    lines: list[Line],
    known: frozenset[Device],
    carina: np.ndarray | None,
    mm_per_px: float | None,
) -> Callable[[Findings], EvaluatedReading]:
    """`labels`: those that are known. `lines`: those annotated. `known`: devices all of whose lines are among them."""
    present = {device: has for device in Device if (has := _present(labels, device)) is not None}
    true = [line for line in lines if line.device in known]

    def compare(found: Findings) -> EvaluatedReading:
        theirs = [line for line in found.lines if line.device in known]
        states, height = _calls(found, labels, mm_per_px), found.upright_shape[0]
        carinas, unknown = (carina, _carina_of(found)), frozenset(MAPPED) - known
        read = EvaluatedFilm(patient, found.film_shape, true, theirs, *carinas, states, height, unknown)
        return EvaluatedReading(read, present, *_scores(found), lines_known=bool(known))

    return compare


def _present(labels: dict[str, float], device: Device) -> bool | None:
    """Whether a device is there by its known labels; None where they do not say."""
    own = [labels.get(label) for label in LABELS_OF[device]]
    return True if 1 in own else None if None in own else False


def _known_lines(labels: dict[str, float], lines: list[Line], annotated: bool) -> frozenset[Device]:
    """The devices all of whose lines are known: those that are not there, and those annotated.

    A device that is there by its labels, but without a line on an annotated film, was not drawn; of one of unknown
    labels, more lines may be there than were.
    """
    drawn = {line.device for line in lines} if annotated else set()
    there = {device: _present(labels, device) for device in MAPPED}
    return frozenset(device for device, has in there.items() if has is False or (has and device in drawn))


def _calls(found: Findings, truth: dict[str, float], mm_per_px: float | None) -> list[StateCall]:
    """The states of devices of which there is one state; a line not found is a state not decided by rule."""
    if mm_per_px is not None:
        found = replace(found, spacing=Spacing(SpacingKind.CALIBRATED, (mm_per_px, mm_per_px)))
    ruled = [distance for distance in distances_of(found) if distance.rule]
    calls = []
    for device in RULED:
        true = [label for label in LABELS_OF[device] if truth.get(label) == 1]
        read = {label: p for label, p in (found.labels or {}).items() if label in LABELS_OF[device]}
        if len(true) == 1 and read:
            mine = [d for d in ruled if found.lines[d.line].device is device]
            rule = max(mine, key=lambda d: found.lines[d.line].confidence).state if mine else None
            calls.append(StateCall(device, STATE_OF[true[0]], rule, STATE_OF[max(read, key=read.__getitem__)]))
    return calls


def _annotated(line: AnnotatedLine) -> Line:
    """An annotated line; it ends where it leaves the film, as its label says, or as far as it could be followed."""
    end, device = line.points[-1], DEVICE_OF[line.label]
    if STATE_OF[line.label] is State.INCOMPLETE:
        return Line(device, line.points, None)
    return Line(device, line.points, end) if line.tip_seen else Line(device, line.points, None, followed_to=end)


def _scores(found: Findings) -> tuple[dict[str, float], dict[str, float]]:
    """Presence and labels; of a refused film, that nothing is there."""
    return found.presence or {device.name: 0.0 for device in Device}, found.labels or dict.fromkeys(LABELS, 0.0)


def _carina_of(found: Findings) -> np.ndarray | None:
    spot = found.landmarks.get(Landmark.CARINA)
    return None if spot is None else spot.xy


def _spacing(root: Path, split: Split) -> dict[str, float]:
    """Study -> mm in the patient per px, both ways, where the landmark table has it."""
    if not (root / LANDMARK_TABLE).is_file():
        return {}
    rows = read_rows(root / LANDMARK_TABLE, (STUDY_COLUMN,))
    if not {"split", "mm_per_px"} <= set(rows.columns):
        return {}
    cells = zip(rows.column(STUDY_COLUMN), rows.column("split"), rows.column("mm_per_px"), strict=True)
    try:
        return {study: float(mm) for study, own, mm in cells if own == split and mm}
    except ValueError:
        raise TableError(
            f"{root / LANDMARK_TABLE}: a cell of mm_per_px is no number", "correct it or empty it"
        ) from None
