"""The data folder of pseudo-labels: tables as `io.tables` reads them, the films, and which bundle labelled them."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.files import put_folder, replacing, write_text
from cxrlines.core.film import FILM_SUFFIXES
from cxrlines.io.annotations import DATA_COLUMN, LABEL_COLUMN, TIP_SEEN_COLUMN
from cxrlines.io.patients import PSEUDO
from cxrlines.io.tables import ANNOTATION_TABLE, LANDMARK_TABLE, META_FILE, TRAIN_TABLE
from cxrlines.reading.view_agreement import Agreement
from cxrlines.task import LABELS, LABELS_OF, PATIENT_COLUMN, STUDY_COLUMN, UNKNOWN, Device, Landmark


class LabelledFilm(NamedTuple):
    """A film that is kept: its id, patient and file, and what is known of it."""

    id: str
    patient: str
    path: Path
    known: Agreement


def check_folder(out: Path, begun: str, films: Sequence[Path]) -> None:
    """`Error` where `out` holds what no earlier call wrote, or one of `films`: its films are replaced.

    `begun`: what a call that was stopped leaves there.
    """
    place = os.path.realpath(out)
    inside = next((film for film in films if place in map(str, Path(os.path.realpath(film)).parents)), None)
    if inside is not None:
        raise Error(f"--out {out}: holds {inside}, one of the films that are read", "name a new folder")
    if (out / begun).exists() or not out.is_dir() or not any(out.iterdir()):
        return
    try:
        ours = json.loads((out / META_FILE).read_text("utf-8")).get("kind") == PSEUDO
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise Error(f"--out {out}: is not empty, and holds no earlier output of this command", "name a new folder")


def write_films(out: Path, films: Iterable[LabelledFilm]) -> int:
    """Write the tables and the folder of films, each film as it comes; how many there were.

    Those of an earlier call are replaced once all of it is written.
    """
    folder, count = out / ".train.partial", 0
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    folder.mkdir(parents=True)
    heads = (
        [STUDY_COLUMN, LABEL_COLUMN, DATA_COLUMN, TIP_SEEN_COLUMN],
        [STUDY_COLUMN, *(f"{name}_{axis}" for name in Landmark for axis in "xy")],
        [STUDY_COLUMN, *LABELS, PATIENT_COLUMN],
    )
    with (
        replacing(out / ANNOTATION_TABLE) as lines,
        replacing(out / LANDMARK_TABLE) as landmarks,
        replacing(out / TRAIN_TABLE) as labels,
        lines.open("w", encoding="utf-8", newline="") as a,
        landmarks.open("w", encoding="utf-8", newline="") as b,
        labels.open("w", encoding="utf-8", newline="") as c,
    ):
        tables = [csv.writer(file, lineterminator="\n") for file in (a, b, c)]
        for table, head in zip(tables, heads, strict=True):
            table.writerow(head)
        for film in films:
            count += 1
            for table, rows in zip(tables, _rows(film), strict=True):
                table.writerows(rows)
            _put(film.path, folder / f"{film.id}{_suffix(film.path)}")
        put_folder(folder, out / "train")
    return count


def write_origin(out: Path, studies: int, labelled_by: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Write `phantom.json`: all films are annotated, those without lines too, and who labelled them."""
    meta = {"kind": PSEUDO, "annotated": 1, "studies": studies, "labelled_by": labelled_by, "counts": counts}
    write_text(out / META_FILE, json.dumps(meta, indent=1) + "\n")


def _rows(film: LabelledFilm) -> tuple[list[list[Any]], list[list[Any]], list[list[Any]]]:
    """The rows of a film in the tables of lines, of landmarks and of labels."""
    known, there = film.known, {each.line.device for each in film.known.lines}
    lines = [
        [film.id, each.label, json.dumps(np.round(each.line.path, 1).tolist()), int(each.tip_seen)]
        for each in known.lines
    ]
    points = [np.round(known.landmarks[name], 2).tolist() if name in known.landmarks else ["", ""] for name in Landmark]
    landmarks = [[film.id, *(value for point in points for value in point)]] if known.landmarks else []
    values = dict.fromkeys(LABELS, UNKNOWN)
    for device in Device:
        if device in known.absent or (device in there and len(LABELS_OF[device]) == 1):
            values |= dict.fromkeys(LABELS_OF[device], int(device in there))
    return lines, landmarks, [[film.id, *values.values(), film.patient]]


def _suffix(path: Path) -> str:
    """What the film's file ends in, where that is a film's; DICOM files may have no suffix."""
    return path.suffix.lower() if path.suffix.lower() in FILM_SUFFIXES else ".dcm"


def _put(film: Path, place: Path) -> None:
    """The film at its place: the same file where the disk is the same, else a copy."""
    try:
        os.link(os.path.realpath(film), place)
    except OSError:
        shutil.copyfile(film, place)
