"""Patient and study of films that name none, such as JPEG and PNG: given for a film, or by a table of studies."""

import re
from pathlib import Path
from typing import NamedTuple

from cxrlines.core.errors import Error
from cxrlines.io.dicom.header import valid_uid
from cxrlines.io.rows import TableError, read_rows
from cxrlines.reading.results.dicom.source_film import SourceFilm
from cxrlines.task import PATIENT_COLUMN, STUDY_COLUMN


class Identifiers(NamedTuple):
    """PatientID and StudyInstanceUID."""

    patient_id: str
    study_uid: str


def check_identifiers(patient_id: str | None, study_uid: str | None) -> None:
    """`Error` unless both are given and valid, or neither."""
    if (patient_id is None) != (study_uid is None):
        one, other = ("--study-uid", "--patient-id") if patient_id is None else ("--patient-id", "--study-uid")
        raise Error(f"{one}: a film's patient and study belong together, and {other} is missing", "give both")
    if study_uid is not None and not valid_uid(study_uid):
        raise Error(
            f"--study-uid {study_uid[:64]!r}: is no DICOM UID (digits and points, at most 64, no leading zeros)",
            "take the study's own, from its PACS or from the table of films",
        )
    if patient_id is not None and not re.fullmatch(r"[ -\[\]-~]{1,64}", patient_id.strip()):
        raise Error(
            "--patient-id: is empty, or no DICOM identifier (64 ASCII characters at most, no backslash)",
            "take the patient's own, from its PACS or from the table of films",
        )


def read_identifiers(table: Path) -> dict[str, Identifiers]:
    """Those of a table such as `train.csv`, by its StudyInstanceUID, which is what films are called in a data folder.

    Rows whose identifiers DICOM does not allow are left out. `TableError`: it cannot be read, lacks a column, or has a
    study under two patients.
    """
    rows = read_rows(table, (STUDY_COLUMN, PATIENT_COLUMN))
    found: dict[str, Identifiers] = {}
    for line, *names in zip(rows.lines, rows.column(PATIENT_COLUMN), rows.column(STUDY_COLUMN), strict=True):
        identifiers = Identifiers(*names)
        try:
            check_identifiers(*identifiers)
        except Error:
            continue
        if found.setdefault(identifiers.study_uid, identifiers) != identifiers:
            raise TableError(
                f"{table}:{line}: its study is in another row under another patient", "correct one of them"
            )
    return found


def has_identifiers(data: bytes) -> bool:
    """Whether a film's file is a DICOM file that results can refer to."""
    try:
        SourceFilm.of(data)
    except Error:
        return False
    return True
