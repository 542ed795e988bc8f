"""The tables of a project, as `io.tables` and `io.annotations` read them."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxrlines.core.files import write_text
from cxrlines.corrections.correction import Correction
from cxrlines.io.annotations import DATA_COLUMN, LABEL_COLUMN, TIP_SEEN_COLUMN
from cxrlines.io.tables import ANNOTATION_TABLE, LANDMARK_TABLE, TRAIN_TABLE
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN, Landmark


class CorrectedFilm(NamedTuple):
    """A film of the tables: its id, its patient, and what holds of it."""

    id: str
    patient: str
    correction: Correction


def write_tables(folder: Path, films: Sequence[CorrectedFilm]) -> None:
    """Write `train.csv`, `train_annotations.csv` and `landmarks.csv`, each atomically.

    A label of which nothing is known is -1. Raises `OutputError`.
    """
    labels, lines, landmarks = [], [], []
    for film in films:
        found = film.correction.table_labels()
        labels.append([film.id, *(found[label] for label in LABELS), film.patient])
        lines += [
            [film.id, label, json.dumps([list(point) for point in points]), int(tip_seen)]
            for label, points, tip_seen in film.correction.table_lines()
        ]
        if points := film.correction.landmarks:
            landmarks.append([film.id, *(each for name in Landmark for each in points.get(name, ("", "")))])
    axes = [f"{name}_{axis}" for name in Landmark for axis in "xy"]
    write_text(folder / ANNOTATION_TABLE, _csv([STUDY_COLUMN, LABEL_COLUMN, DATA_COLUMN, TIP_SEEN_COLUMN], lines))
    write_text(folder / LANDMARK_TABLE, _csv([STUDY_COLUMN, *axes], landmarks))
    write_text(folder / TRAIN_TABLE, _csv([STUDY_COLUMN, *LABELS, PATIENT_COLUMN], labels))


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
