"""Public data sets as they are distributed: NIH ChestX-ray14, PadChest, VinBigData, CheXpert; RANZCR, plain folders.

All end in one schema: a film, its patient, its view, and the presence of each device. Films that are not frontal and
films of children (under 18) are left out and counted; an age that is not known, or above 120, is no reason to leave a
film out.

Where presence comes from:

| kind | each device | any |
|---|---|---|
| nih, vinbigdata, folder | unknown | unknown |
| padchest | the report's labels, see `padchest_presence` | any line or tube among them |
| chexpert | unknown | Support Devices 1 or 0; -1 (uncertain) and blank are unknown. Counts pacemakers, valves too |
| ranzcr | whether one of its labels is 1; unknown without one and with an unknown label | likewise of all labels |

A table names films, never where they lie: folders are listed and names looked up in the list, so that no
table leads to a file outside its folder.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.core.film import FILM_SUFFIXES, stem_of
from cxrlines.io.external.layouts import LAYOUTS, PRESENCE, Layout, read_header, usable
from cxrlines.io.film_lookup import CLOSED_FOLDER, listed
from cxrlines.io.rows import TableError, open_table
from cxrlines.io.tables import NO_FILM, TRAIN_TABLE, read_dataset, read_labels
from cxrlines.task import LABELS, LABELS_OF, STUDY_COLUMN, UNKNOWN, Device

__all__ = ["KINDS", "PRESENCE", "External", "read_external"]

KINDS = ("nih", "padchest", "vinbigdata", "chexpert", "ranzcr", "folder")


@dataclass(frozen=True)
class External:
    """The films of an external set.

    Attributes:
        kind: One of KINDS.
        root: Its folder, absolute.
        studies: One row a film, RangeIndex. Columns `study` (str, unique), `patient` (str), `film` (str; absolute path,
            or "" where films were not looked for), `view` ("AP", "PA", "L" of a lateral film, "" unknown; PadChest's
            AP_horizontal is AP), then one float32 column per entry of PRESENCE: 1 there, 0 not there, NaN unknown.
        left_out: Reason -> count of rows left out (of lines, where a row cannot be read).
        meta: The content of phantom.json, or {}.
    """

    kind: str
    root: Path
    studies: pd.DataFrame
    left_out: dict[str, int]
    meta: dict[str, Any] = field(default_factory=dict)


def read_external(root: Path, *, laterals: bool = False, children: bool = False, check_films: bool = True) -> External:
    """Read an external set from its folder; the table that lies there decides the kind (`layouts.LAYOUTS`).

    `laterals` keeps lateral films, `children` those of patients under 18. Films of other views (oblique, lying on the
    side, excluded by the set's authors, not known) stay out in any case. A film is looked for under the name that the
    table gives, then with another of FILM_SUFFIXES; a row without one is left out and counted. Where `check_films` is
    False films are not looked for, but in a plain folder, which has nothing else.

    A study is NIH's Image Index and PadChest's ImageID without suffix, VinBigData's image_id, CheXpert's
    patient00001/study1/view1_frontal, a plain folder's path of the film. VinBigData and plain folders name no patients:
    each film is its own.

    `TableError` if the folder is none of KINDS, its table cannot be used, or not one of the films is there.
    """
    root = Path(root)
    if not root.is_dir():
        raise TableError(f"{root}: is not a folder", "give the folder that holds the films of an external set")
    root = root.resolve()
    listed(root)
    kind, table = _find_table(root)
    if table is None:
        return _read_folder(root)
    if check_films and kind == "ranzcr":
        dataset = read_dataset(root)
        return External(kind, root, _with_presence(dataset.studies), dict(dataset.left_out), dataset.meta)
    studies, left_out = _read_table(table, kind, laterals, children)
    if not check_films:
        return External(kind, root, studies.assign(film="").astype({"film": object}), left_out)
    layout = LAYOUTS[kind]
    films = _list_films(root, layout, left_out)
    paths = pd.Series([films.get(name) or films.get(stem_of(name)) for name in studies["film"]], dtype=object)
    there = paths.notna()
    if not there.any():
        looked = ", ".join("/".join((folder, *(f"{name}*" for name in layout.below))) for folder in layout.films)
        closed = f" ({left_out[CLOSED_FOLDER]} x {CLOSED_FOLDER})" if CLOSED_FOLDER in left_out else ""
        raise TableError(
            f"{root}: has {table.relative_to(root)} but is an external folder without its films; looked in {looked}"
            f"{closed} for the names in its column {layout.mark[0]!r}, also with {', '.join(FILM_SUFFIXES)}",
            "unpack the films there, or give the folder that holds both table and films",
        )
    if not there.all():
        left_out[NO_FILM] = int((~there).sum())
    return External(kind, root, studies.assign(film=paths)[there].reset_index(drop=True), left_out)


def _read_table(table: Path, kind: str, laterals: bool, children: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """The usable rows of a table as in `External.studies`, `film` as the table names it, and how many are left out."""
    if kind == "ranzcr":
        labels = read_labels(table)
        return _with_presence(labels.assign(film="")), dict(labels.attrs["left_out"])
    studies, left_out = usable(table, LAYOUTS[kind], laterals=laterals, children=children)
    return studies, dict(left_out)


def _find_table(root: Path) -> tuple[str, Path | None]:
    """The kind of a folder and its table; ("folder", None) where no table of a known kind lies."""
    for pattern, kind in (("Data_Entry_2017*", "nih"), ("PADCHEST_chest_x_ray_images_labels_160K*", "padchest")):
        if tables := _tables(root, f"{pattern}.csv"):
            return kind, tables[-1]  # the newer version of two
    if tables := [*_tables(root, TRAIN_TABLE), *_tables(root, f"CheXpert-v1.0*/{TRAIN_TABLE}")]:
        table = tables[0]
        kind = _kind_of(table)
        if kind == "ranzcr" and table != root / TRAIN_TABLE:
            raise TableError(f"{table}: is in RANZCR's layout, which is read from {TRAIN_TABLE}", "unpack it to that")
        return kind, table
    found: dict[str, tuple[str, Path]] = {}
    for table in _tables(root, "*.csv"):  # under another name, as Kaggle's sample_labels.csv
        try:
            with open_table(table) as lines:
                cells = {cell.strip().strip('"') for cell in re.split(r"[,;\t|]", next(lines, ""))}
        except TableError:  # of no concern: it may belong to anything
            continue
        for kind in ("nih", "padchest"):
            # NIH's boxes (BBox_List) have its mark, too.
            if {*LAYOUTS[kind].mark, *(LAYOUTS[kind].needed if kind == "nih" else ())} <= cells:
                read_header(table)  # which says so where other marks than commas separate its cells
                found.setdefault(table.name.removesuffix(".gz"), (kind, table))
    if len(found) > 1:
        names = ", ".join(sorted(found)[:5])
        what = f"{root}: has {len(found)} tables that a set of films may be read from: {names}"
        raise TableError(what, "leave the one to be read there")
    return next(iter(found.values()), ("folder", None))


def _tables(root: Path, pattern: str) -> list[Path]:
    """Plain and compressed tables by name, a plain one before its compressed twin."""
    return sorted(path for end in ("", ".gz") for path in root.glob(pattern + end) if path.is_file())


def _kind_of(table: Path) -> str:
    columns = set(read_header(table)[1])
    if STUDY_COLUMN in columns:
        return "ranzcr"
    for kind, layout in LAYOUTS.items():
        if set(layout.mark) <= columns:
            return kind
    marks = "; ".join(f"{kind}: {', '.join(layout.mark)}" for kind, layout in LAYOUTS.items())
    what = f"{table}: is not a table of a known set; the header of each needs: {marks}; ranzcr: {STUDY_COLUMN}"
    raise TableError(what, "give the table as its authors distribute it")


def _list_films(root: Path, layout: Layout, left_out: dict[str, int]) -> dict[str, str]:
    """Name of a film, and name without suffix -> its path. Of two, that of the first folder, then the first by name.

    Folders that cannot be listed are counted.
    """
    films: dict[str, str] = {}
    for pattern in layout.films:
        for folder in [root] if pattern == "." else sorted(root.glob(pattern)):
            for name, path in _files(str(folder), layout.below, left_out) if folder.is_dir() else ():
                films.setdefault(name, path)
                films.setdefault(stem_of(name), path)
    return films


def _files(
    folder: str, below: tuple[str, ...], left_out: dict[str, int], before: str = ""
) -> Iterator[tuple[str, str]]:
    """(name, path) of all files as many folders below as `below` has entries, each folder's name beginning so."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        left_out[CLOSED_FOLDER] = left_out.get(CLOSED_FOLDER, 0) + 1
        return
    for entry in entries:
        try:
            there = entry.name.startswith(below[0]) and entry.is_dir() if below else entry.is_file()
        except OSError:  # a link that leads in a circle
            continue
        if there and below:
            yield from _files(entry.path, below[1:], left_out, f"{before}{entry.name}/")
        elif there:
            yield before + entry.name, entry.path


def _read_folder(root: Path) -> External:
    try:
        dataset = read_dataset(root)
    except TableError as error:
        tables = "; ".join(f"{kind}: {layout.table}" for kind, layout in LAYOUTS.items())
        raise TableError(
            f"{root}: is not an external set; looked for tables ({tables}; each also as .gz; ranzcr: {TRAIN_TABLE} "
            f"with {STUDY_COLUMN}) and for films ({', '.join(FILM_SUFFIXES)}, or DICOM of any name)",
            "give the folder that holds one of them",
        ) from error
    return External("folder", root, _with_presence(dataset.studies), dict(dataset.left_out))


def _with_presence(studies: pd.DataFrame) -> pd.DataFrame:
    """Studies of `tables` as External has them: presence by their labels, unknown without any; no views."""
    rows = studies[["study", "patient", "film"]].assign(view="").astype(object)
    labelled = set(LABELS) <= set(studies)
    for name, labels in zip(PRESENCE, (*(LABELS_OF[device] for device in Device), LABELS), strict=True):
        values = studies[list(labels)].to_numpy(np.float32) if labelled else np.full((len(studies), 1), np.nan)
        unknown = (np.isnan(values) | (values == UNKNOWN)).any(axis=1)
        rows[name] = np.where((values == 1).any(axis=1), 1, np.where(unknown, np.nan, 0)).astype(np.float32)
    return rows
