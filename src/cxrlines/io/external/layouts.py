"""The tables of NIH ChestX-ray14, PadChest, VinBigData and CheXpert as their authors distribute them.

Each becomes rows of one schema, a film a row; which of them are used, `usable` decides. A table is CSV (UTF-8, with or
without a byte order mark), plain or compressed by gzip whatever its name.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxrlines.core.film import stem_of
from cxrlines.io.rows import (
    CHANGED_ID,
    GARBLED_ID,
    NO_PATIENT,
    TableError,
    check_columns,
    check_format,
    doubted,
    open_table,
)
from cxrlines.io.tables import NO_STUDY, REPEATED, TRAIN_TABLE
from cxrlines.task import STUDY_COLUMN, Device

if TYPE_CHECKING:
    import pandas as pd

ANY = "any"
PRESENCE: tuple[str, ...] = (*(str(device) for device in Device), ANY)
"""Of which presence in a film may be known: each device, and any line or tube at all."""

ADULT_YEARS, MAX_YEARS = 18, 120  # NIH's first table has ages above 400
BAD_LENGTH, BAD_ROW = "row of another length", "row not readable"
BAD_PATH = "film path not of this layout"
LATERAL, OTHER_VIEW, CHILD = "lateral view", "view not frontal or not known", "child"

PADCHEST_TUBES = frozenset({
    "endotracheal tube", "nsg tube", "tracheostomy tube", "chest drain tube", "gastrostomy tube",
    "ventriculoperitoneal drain tube", "catheter",
})  # fmt: skip
"""PadChest's labels of lines and tubes besides central venous catheters."""
PADCHEST_SILENT = frozenset({"", "exclude", "unchanged", "suboptimal study"})
"""PadChest's labels without information on what is in the film."""

Columns = Mapping[str, list[str]]


@dataclass(frozen=True)
class Layout:
    """How a set is distributed.

    Attributes:
        table: Its table, in words.
        mark: The columns by which it is recognised.
        needed: The columns read.
        films: Globs of folders that films lie in, or below; of two films of one name, the first folder's is taken.
        draft: From columns (stripped cells) to rows as `_draft` makes them.
        optional: Columns read if they are there.
        below: How the names of the folders between `films` and the films begin.
    """

    table: str
    mark: tuple[str, ...]
    needed: tuple[str, ...]
    films: tuple[str, ...]
    draft: Callable[[Columns], "pd.DataFrame"]
    optional: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


def usable(table: Path, layout: Layout, *, laterals: bool, children: bool) -> "tuple[pd.DataFrame, Counter[str]]":
    """The usable rows of a table, and how many were left out why.

    Columns `study` (unique), `patient`, `film` (as the table names it), `view` (all str), then PRESENCE (float32).
    A row counts under the first reason that holds. `TableError` if the table cannot be read or no row is usable.
    """
    import pandas as pd  # here, as the names of the sets are asked for without it

    columns, left_out = _read_columns(table, layout)
    rows = layout.draft(columns)
    lateral = rows["side"] == "lateral"
    films = pd.Series(doubted(rows["film"].tolist()), rows.index, dtype=object)
    patients = pd.Series(doubted(rows["patient"].tolist(), patients=True), rows.index, dtype=object)
    unreadable = {
        NO_STUDY: rows["film"] == "",
        BAD_PATH: rows["study"].isna(),
        CHANGED_ID: (films == CHANGED_ID) | (patients == CHANGED_ID),
        GARBLED_ID: (films == GARBLED_ID) | (patients == GARBLED_ID),
        NO_PATIENT: (rows["patient"] == "") | (patients == NO_PATIENT),
    }
    readable = ~pd.DataFrame(unreadable).any(axis=1)
    reasons = unreadable | {
        REPEATED: rows["study"].where(readable).duplicated(),
        LATERAL: lateral & (not laterals),
        OTHER_VIEW: ~lateral & (rows["side"] != "frontal"),
        CHILD: rows["child"] & (not children),
    }
    good = pd.Series(True, rows.index)
    for reason, bad in reasons.items():
        left_out[reason] += int((good & bad).sum())
        good &= ~bad
    left_out = +left_out
    if not good.any():
        counts = ", ".join(f"{count} x {reason}" for reason, count in left_out.items()) or "it has no rows"
        raise TableError(f"{table}: no row is usable ({counts})", "give the whole table as it is distributed")
    return rows.loc[good, ["study", "patient", "film", "view", *PRESENCE]].reset_index(drop=True), left_out


def read_header(table: Path) -> tuple[int, list[str]]:
    """How many cells the header has without blank ones at the end, and the columns: more if a name has commas in it.

    No columns if the file is empty. `TableError` if it cannot be opened or unpacked, or the header of a set is not
    separated by commas.
    """
    with open_table(table) as file:
        first = next(file, "")
        try:
            header: list[str] = next(csv.reader(chain([first], file)), [])
        except csv.Error:
            return 0, []
    check_format(table, first, header, [STUDY_COLUMN, *(name for layout in LAYOUTS.values() for name in layout.mark)])
    while header and not header[-1].strip():
        header.pop()
    # NIH's last two names are OriginalImage[Width,Height] and OriginalImagePixelSpacing[x,y]: four columns.
    return len(header), [name.strip() for name in ",".join(header).split(",")] if header else []


def padchest_presence(labels: str) -> tuple[float, ...]:
    """PRESENCE by the `Labels` of a PadChest report, a Python list as text: 1, 0 or NaN each.

    A device that is not mentioned is taken as not there. All are unknown where no label is readable, or only those of
    PADCHEST_SILENT are there. A bare 'catheter' is a line, and perhaps a CVC: unknown. A tracheostomy tube is no ETT.
    Central venous catheters count by every route, ports ('reservoir') and umbilical ones too; pacemakers and other
    implants are no lines. Labels read by hand and by network (`MethodLabel`) are taken alike.
    """
    text = labels.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return (np.nan,) * len(PRESENCE)
    found = {part.strip(" \t\r\n'\"").lower() for part in text[1:-1].split(",")} - {"nan"}
    if found <= PADCHEST_SILENT:
        return (np.nan,) * len(PRESENCE)
    central = any("central venous catheter" in label for label in found)
    there = {
        Device.ETT: float("endotracheal tube" in found),
        Device.NGT: float("nsg tube" in found),
        Device.CVC: 1.0 if central else np.nan if "catheter" in found else 0.0,
        ANY: float(central or not found.isdisjoint(PADCHEST_TUBES)),
    }
    return tuple(there.get(name, np.nan) for name in PRESENCE)


def _read_columns(table: Path, layout: Layout) -> tuple[dict[str, list[str]], Counter[str]]:
    """The columns a layout reads, stripped, and how many lines could not be read. Rows may end in blank cells."""
    cells, columns = read_header(table)
    check_columns(table, columns, layout.needed, layout.optional)
    names = [name for name in (*layout.needed, *layout.optional) if name in columns]
    places = [columns.index(name) for name in names]
    lengths = {cells, len(columns)}
    left_out: Counter[str] = Counter()
    found: list[list[str]] = []
    with open_table(table) as file:
        # Strict, so that a quote left open is an error and not a row that swallows others.
        reader = csv.reader(file, strict=True)
        next(reader, None)
        while True:
            line = reader.line_num
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error:
                left_out[BAD_ROW] += reader.line_num - line
                continue
            if len(row) in lengths or any(len(row) > n and not any(row[n:]) for n in lengths):
                found.append([row[place] for place in places])
            elif any(cell.strip() for cell in row):
                left_out[BAD_LENGTH] += reader.line_num - line
    return {name: [row[place].strip() for row in found] for place, name in enumerate(names)}, left_out


def _draft(
    study: Sequence[str | None],
    patient: Sequence[str],
    film: Sequence[str],
    view: Sequence[str] | str = "",
    side: Sequence[str] | str = "frontal",
    child: Sequence[bool] | bool = False,
    presence: Sequence[Sequence[float]] | None = None,
) -> "pd.DataFrame":
    """Rows before any is left out: `study` None for a film path that is none, `side` frontal, lateral or other."""
    import pandas as pd

    columns = {"study": study, "patient": patient, "film": film, "view": view, "side": side}
    rows = pd.DataFrame(columns, dtype=object).assign(child=child).astype({"child": bool})
    known = np.full((len(rows), len(PRESENCE)), np.nan, np.float32)
    if presence:
        known[:] = presence
    return rows.join(pd.DataFrame(known, columns=list(PRESENCE)))


def _draft_nih(columns: Columns) -> "pd.DataFrame":
    films = columns["Image Index"]
    view, side = _views(columns["View Position"])
    child = [_years(age) < ADULT_YEARS for age in columns["Patient Age"]]
    return _draft([_study(film) for film in films], columns["Patient ID"], films, view, side, child)


def _draft_padchest(columns: Columns) -> "pd.DataFrame":
    films = columns["ImageID"]
    view, side = _views(columns["Projection"])
    child = [cell.upper() == "PED" for cell in columns["Pediatric"]]
    if "PatientBirth" in columns and "StudyDate_DICOM" in columns:
        # `Pediatric` marks the protocol of newborns: 332 of the 372 films of minors in 8,000 rows are not marked.
        years = _number([date[:4] for date in columns["StudyDate_DICOM"]]) - _number(columns["PatientBirth"])
        child = [marked or 0 <= age < ADULT_YEARS for marked, age in zip(child, years, strict=True)]
    read = cache(padchest_presence)
    presence = [read(labels) for labels in columns["Labels"]]
    return _draft([_study(film) for film in films], columns["PatientID"], films, view, side, child, presence)


def _draft_vinbigdata(columns: Columns) -> "pd.DataFrame":
    """The table has a row a box. It names no patients, so that each film is its own; all are frontal, of adults."""
    films = list(dict.fromkeys(columns["image_id"]))
    return _draft([_study(film) for film in films], films, films)


def _draft_chexpert(columns: Columns) -> "pd.DataFrame":
    matches = [_CHEXPERT_PATH.fullmatch(path) for path in columns["Path"]]
    # A path that is none keeps itself, so that it does not count as blank; its row is left out by its study.
    films = [match["film"] if match else path for match, path in zip(matches, columns["Path"], strict=True)]
    study = [stem_of(match["film"]) if match else None for match in matches]
    patient = [match["patient"] if match else path for match, path in zip(matches, columns["Path"], strict=True)]
    child = [_years(age) < ADULT_YEARS for age in columns["Age"]]
    view, side = [], []
    for facing, beam in zip(columns["Frontal/Lateral"], columns["AP/PA"], strict=True):
        view.append("L" if facing == "Lateral" else beam)
        # LL and RL of a frontal film: the patient lies on the side.
        frontal = facing == "Frontal" and beam in ("AP", "PA", "")
        side.append("lateral" if facing == "Lateral" else "frontal" if frontal else "other")
    known = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}
    presence = [[np.nan] * len(Device) + [known.get(cell, np.nan)] for cell in columns["Support Devices"]]
    return _draft(study, patient, films, view, side, child, presence)


_CHEXPERT_PATH = re.compile(r"(?:(?!\.\.?/)[^/\\\0]+/)*(?P<film>(?P<patient>patient\d+)/study\d+/(?!\.\.?$)[^/\\\0]+)")


def _views(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Views of NIH and PadChest as AP, PA, L or another word, and whether each is frontal, lateral or other."""
    views = ["AP" if view == "AP_horizontal" else view for view in cells]
    sides = {"AP": "frontal", "PA": "frontal", "L": "lateral"}
    return views, [sides.get(view, "other") for view in views]


def _number(cells: Sequence[str]) -> np.ndarray:
    import pandas as pd

    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float)


@cache
def _years(age: str) -> float:
    """Years of an age like 57, 57.0, 058Y, 013M, 012W or 005D; NaN if it is none, or above MAX_YEARS."""
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)([YMWD]?)", age.upper())
    if not match:
        return np.nan
    years = float(match[1]) / {"M": 12, "W": 52, "D": 365}.get(match[2], 1)
    return years if years <= MAX_YEARS else np.nan


def _study(film: str) -> str | None:
    """The study of a film's file name; None for what is not a bare name, such as ../film.png."""
    return None if film in (".", "..") or any(mark in film for mark in "/\\\0") else stem_of(film)


LAYOUTS: dict[str, Layout] = {
    "nih": Layout(
        "Data_Entry_2017*.csv",
        mark=("Image Index", "View Position"),
        needed=("Image Index", "Patient ID", "Patient Age", "View Position"),
        films=("images_*/images", "images_*", "images", "."),
        draft=_draft_nih,
    ),
    "padchest": Layout(
        "PADCHEST_chest_x_ray_images_labels_160K*.csv, or any with ImageID, ImageDir, Projection",
        mark=("ImageID", "ImageDir", "Projection"),
        needed=("ImageID", "PatientID", "Projection", "Pediatric", "Labels"),
        optional=("PatientBirth", "StudyDate_DICOM"),
        films=("[0-9]*", "images/[0-9]*", "images", "."),
        draft=_draft_padchest,
    ),
    "vinbigdata": Layout(
        f"{TRAIN_TABLE} with image_id",
        mark=("image_id",),
        needed=("image_id",),
        films=("train", "."),
        draft=_draft_vinbigdata,
    ),
    "chexpert": Layout(
        f"{TRAIN_TABLE} with Path, Frontal/Lateral, maybe in CheXpert-v1.0*/",
        mark=("Path", "Frontal/Lateral"),
        needed=("Path", "Age", "Frontal/Lateral", "AP/PA", "Support Devices"),
        films=("train", "valid", ".", "CheXpert-v1.0*/train", "CheXpert-v1.0*/valid", "CheXpert-v1.0*"),
        below=("patient", "study"),
        draft=_draft_chexpert,
    ),
}
"""The sets with a table of their own. `.` is the folder itself. CheXpert in full size comes in four CheXpert-v1.0*."""
