"""The results of a film as DICOM files: the same film, read by the same weights, engine and views: the same bytes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cxrlines.core.findings import Findings
from cxrlines.reading.results.dicom.capture import capture
from cxrlines.reading.results.dicom.datasets import finalize
from cxrlines.reading.results.dicom.presentation_state import presentation_state
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.source_film import SourceFilm
from cxrlines.reading.results.dicom.structured_report import structured_report


class Kind(StrEnum):
    """A kind of result; the value is what its file is called."""

    REPORT = "sr"
    PRESENTATION = "pr"
    CAPTURE = "sc"


class Replaced(NamedTuple):
    """An earlier result that is no longer true; without a study it is of that of the film."""

    kind: Kind
    sop_instance_uid: str
    study_uid: str = ""


@dataclass(frozen=True)
class ResultObject:
    """A result as a DICOM file: `content` is all of it, explicit VR little endian."""

    kind: Kind
    sop_instance_uid: str
    content: bytes


def result_objects(
    source: bytes,
    findings: Findings | str,
    read_by: ReadBy,
    *,
    replaces: Sequence[Replaced] = (),
    kinds: Collection[Kind] = tuple(Kind),
) -> tuple[ResultObject, ...]:
    """The results of a film, in the order of `Kind`; of one that was refused the report alone, which says why.

    A presentation state belongs to a film in gray alone.

    Args:
        source: The film's DICOM file; not changed.
        findings: Of the film; or in a sentence, without the patient's data, why it cannot be read.
        read_by: What read it.
        replaces: Earlier results of the film, named in those that replace them.
        kinds: Which ones are wanted.

    Raises:
        Error: the source is no DICOM file, or lacks a UID to refer to.
        FilmError: a capture is wanted of a film that cannot be decoded.
    """
    film = SourceFilm.of(source)
    objects = []
    for kind in Kind:
        if kind not in kinds:
            continue
        replaced = [each.sop_instance_uid for each in replaces if each.kind is kind]
        if kind is Kind.REPORT:
            studies = [each.study_uid or film.study_uid for each in replaces if each.kind is kind]
            dataset = structured_report(film, findings, read_by, tuple(zip(studies, replaced, strict=True)))
        elif isinstance(findings, str) or not findings.quality.usable:
            continue
        elif kind is Kind.CAPTURE:
            dataset = capture(film, findings, read_by, replaced)
        elif film.is_gray:
            dataset = presentation_state(film, findings, read_by, replaced)
        else:
            continue
        uid, content = finalize(dataset, film.sop_uid, read_by.fingerprint, kind)
        objects.append(ResultObject(kind, uid, content))
    return tuple(objects)
