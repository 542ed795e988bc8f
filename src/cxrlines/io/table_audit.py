"""The audit of tables: labels, annotations, landmarks and folds, by themselves, against each other and the films.

Films are looked for by name here, and opened by `film_audit`.
"""

from collections import Counter
from functools import partial
from operator import itemgetter
from pathlib import Path

from cxrlines.core.text import did_you_mean, shown
from cxrlines.io import tables
from cxrlines.io.annotations import off_film, read_annotations
from cxrlines.io.audit_state import AuditState
from cxrlines.io.film_lookup import (
    CLOSED_FOLDER,
    MAKE_READABLE,
    bare_names,
    closed_below,
    film_instead,
    find_films,
    listed,
    packed_as,
)
from cxrlines.io.folds import FOLD_COLUMN, fold_number, fold_problems
from cxrlines.io.landmarks import SPLITS, read_landmarks
from cxrlines.io.rows import Problem, Rows, TableError, bare, doubted, read_rows
from cxrlines.io.tables import LABEL_CELLS
from cxrlines.task import EXCLUSIVE, LABELS, LABELS_OF, PATIENT_COLUMN, STUDY_COLUMN

OFF_WAY_OUT = "points are [x, y] in px of the original film; correct them"
MANY, SHARE = 20, 0.1
"""So many rows of one patient, and such a share of all, are odd: of RANZCR's 30,083 the most are 172."""
_read_studies = partial(read_rows, needed=(STUDY_COLUMN,))


def check_folder(state: AuditState) -> None:
    try:
        dataset = tables.read_dataset(state.root)
    except TableError as error:
        state.add("no data", state.root.name, None, error.what.removeprefix(f"{state.root}: "), error.way_out)
        return
    state.films = {state.root / study: study for study in dataset.studies["study"]}  # two links to a file are two films
    state.counts |= {"films": len(state.films)} | dataset.left_out
    for path, why in closed_below(state.root) if CLOSED_FOLDER in dataset.left_out else ():
        state.add(CLOSED_FOLDER, f"{state.name(path)}/", None, f"cannot be listed ({why})", MAKE_READABLE)


def check_train(state: AuditState) -> Rows | None:
    """train.csv: columns, rows, films."""
    if (rows := _check_labels(state, tables.TRAIN_TABLE)) is None:
        return None
    state.counts["studies"] = len(set(rows.column(STUDY_COLUMN)))
    if PATIENT_COLUMN in rows.columns:
        state.counts["patients"] = len(set(rows.column(PATIENT_COLUMN)) - {""})
        if state.counts["patients"] == 1 < state.counts["studies"]:
            message, way_out = "all its rows are of one patient, so that no fold can be held out", "name each row's own"
            state.add("one patient alone", tables.TRAIN_TABLE, None, message, way_out)
    if set(tables.REQUIRED_LABELS) <= set(rows.columns):
        cells = zip(*(rows.column(label) for label in LABELS if label in rows.columns), strict=True)
        state.counts["studies without any label"] = sum(1 not in map(LABEL_CELLS.get, row) for row in cells)
    _match_films(state, rows, state.root / "train", "training")
    return rows


def check_test(state: AuditState, train: Rows | None) -> Rows | None:
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
        bare_line_of = {bare(cell): at for cell, at in line_of.items()} if column == PATIENT_COLUMN else {}
        for cell, line in zip(truth.column(column), truth.lines, strict=True):
            if cell and (there := line_of.get(cell.removesuffix(".0"))):
                message = f"the {what} of this row is in {tables.TRAIN_TABLE}:{there} as well"
                way_out = "keep it in one of the two: in both it falsifies every figure"
                state.add(f"{what} in training and test", tables.TRUTH_TABLE, line, message, way_out)
            elif cell and (there := bare_line_of.get(bare(cell))):
                message = (
                    f"the patient of this row may be the same as in {tables.TRAIN_TABLE}:{there}: their ids differ by "
                    "zeros in front or the coding of an accent alone"
                )
                way_out = "write both alike if they are one patient, and keep it in one of the two tables"
                state.add("patient perhaps in training and test", tables.TRUTH_TABLE, line, message, way_out)
    return truth


def _check_labels(state: AuditState, name: str) -> Rows | None:
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
        near = did_you_mean(column, lacking)  # of any other no label is missing
        message, way_out = f"column {shown(column)} is not known{near}", "rename or remove it" if near else ""
        (state.problems if near else state.odd).append(Problem("unknown column", name, 1, message, way_out))
    for column in columns:
        if rows.columns.count(column) > 1:
            message = f"has the column {column!r} {rows.columns.count(column)} times"
            state.add("column more than once", name, 1, message, "keep the one that is right")
    if absent := [column for column in lacking if column not in missing]:
        state.absent[name] = absent
    state.problems += tables.usable_rows(rows)[1]
    if PATIENT_COLUMN in rows.columns:
        _check_patients(state, rows)
    for device in EXCLUSIVE:
        labels = [label for label in LABELS_OF[device] if label in rows.columns]
        for line, *cells in zip(rows.lines, *map(rows.column, labels), strict=True):
            positive = [label for label, cell in zip(labels, cells, strict=True) if LABEL_CELLS.get(cell) == 1]
            if len(positive) > 1:
                message = f"{' and '.join(positive)} at once"
                state.add(f"two {device} states at once", name, line, message, "keep the one that is true")
    return rows


def _check_patients(state: AuditState, rows: Rows) -> None:
    """The ids of patients in a label table: one patient under two of them, and those that may stand for none."""
    patients = rows.column(PATIENT_COLUMN)
    doubts = doubted(patients, patients=True)
    of = [(patient, line) for patient, line, doubt in zip(patients, rows.lines, doubts, strict=True) if not doubt]
    line_of = dict(reversed(of))  # of each its first
    first: dict[str, int] = {}  # id without case and what else is changed of it -> its line
    for patient, line in sorted(line_of.items(), key=itemgetter(1)):
        if patient and (there := first.setdefault(bare(patient).casefold(), line)) != line:
            message = (
                f"the patient of this row may be the one of line {there}: their ids differ by case, zeros in front or "
                "the coding of an accent alone"
            )
            way_out = "write both alike if they are one patient, or folds cannot keep patients apart"
            state.add("patient perhaps under two ids", rows.path.name, line, message, way_out)
    for patient, count in Counter(patient for patient, _ in of if patient).items():
        zeros = not bare(patient).strip("0")
        if count > 1 and (zeros or count >= max(MANY, SHARE * len(patients))):
            message = f"one id{', zeros alone,' * zeros} stands in {count} of {len(patients)} rows"
            way_out = "if it names no patient, give each one an id: all these films lie in one fold"
            state.odd.append(Problem("id in many rows", rows.path.name, line_of[patient], message, way_out))


def _match_films(state: AuditState, rows: Rows, folder: Path, split: str) -> None:
    """Rows against the films in a folder, which are added to the films to decode."""
    studies = rows.column(STUDY_COLUMN)
    state.studies |= set(studies)
    if not folder.is_dir():
        way_out = f"put the films there as <{STUDY_COLUMN}>.jpg"
        state.add("no films", f"{folder.name}/", None, "there is no such folder", way_out)
        return
    try:
        films, names = find_films(folder, studies), bare_names(folder)
    except TableError as error:
        message = error.what.removeprefix(f"{folder}: ")
        state.add(CLOSED_FOLDER, f"{folder.name}/", None, message, error.way_out)
        return
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
    if without := sum(path.is_file() for path in listed(folder)) - matched:
        state.counts[f"{split} films without a row"] = without


def check_annotations(state: AuditState, csv: Path, table: Rows | None, what: str) -> None:
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
            state.add("annotation off the film", csv.name, row.row, message, OFF_WAY_OUT)


def check_landmarks(state: AuditState, csv: Path) -> None:
    """Landmarks of both splits by themselves, against the label tables and the films' shapes."""
    for split in SPLITS if csv.is_file() else ():
        if (found := state.read(csv, partial(read_landmarks, split=split))) is None:
            continue
        landmarks, problems = found
        state.problems += problems
        for study in landmarks.keys() - state.studies if state.studies else ():
            message, way_out = f"study {shown(study, 80)} is in no table of studies", "add its row or remove this one"
            state.add("landmarks of an unknown study", csv.name, None, message, way_out)
        for study, name, point in ((study, *each) for study, own in landmarks.items() for each in own.items()):
            if (shape := state.shapes.get(study)) and (message := off_film(point[None], shape)):
                message = f"{name} of study {shown(study, 80)}: {message}"
                state.add("landmark off the film", csv.name, None, message, OFF_WAY_OUT)


def check_folds(state: AuditState, csv: Path, train: Rows | None) -> None:
    """A folds file by itself and against train.csv. The patients are train.csv's, if it has them."""
    if (rows := state.read(csv, partial(read_rows, needed=(STUDY_COLUMN, FOLD_COLUMN)))) is None:
        return
    patient_of: dict[str, str] = {}
    for table in (rows, train):
        if table is not None and PATIENT_COLUMN in table.columns:
            patient_of |= zip(table.column(STUDY_COLUMN), table.column(PATIENT_COLUMN), strict=True)
    studies = rows.column(STUDY_COLUMN)
    state.problems += rows.problems + fold_problems(rows, [patient_of.get(study, "") for study in studies])
    state.counts["folds"] = len({fold_number(cell) for cell in rows.column(FOLD_COLUMN)} - {None})
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
