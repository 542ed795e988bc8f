"""Pictures and DICOM objects of a film, made in a process of their own: decoders stay out of the server.

It is started again if it dies.
"""

import pickle
import threading
from enum import StrEnum
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.errors import Error, OverTime, ReadingFault
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.core.processes import Child, Died, Overdue
from cxrlines.io.films import kind_of, read_film
from cxrlines.reading.results.dicom.film_identifiers import Identifiers
from cxrlines.reading.results.dicom.objects import Kind as Result
from cxrlines.reading.results.dicom.objects import result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.source_film import SourceFilm
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.reading.results.drawing import draw_findings
from cxrlines.web.identifiers import PATIENT, STUDY

SECONDS = 60.0
"""Longest that one may take."""


class Kind(StrEnum):
    """What can be made of a film; the value is its media type."""

    PIXELS = "image/png; of the film"
    DRAWING = "image/png"
    REPORT = "application/dicom"
    CAPTURE = "application/dicom; of the drawing"
    FILM = "application/dicom; of the film"


RESULTS = {Kind.REPORT: Result.REPORT, Kind.CAPTURE: Result.CAPTURE}
"""Those that are results as DICOM objects."""


class Asked(NamedTuple):
    """What to make, of which film's file, its findings, what read it, and the patient and study of one without."""

    kind: Kind
    source: bytes
    findings: Findings | None
    read_by: ReadBy
    identifiers: Identifiers | None = None


class Renderer:
    """Makes one thing after the other. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    def make(
        self,
        kind: Kind,
        source: bytes,
        findings: Findings | None,
        read_by: ReadBy,
        identifiers: Identifiers | None = None,
    ) -> bytes:
        """A file of that kind.

        `Error` where the film allows none; `ReadingFault` where making it failed, `OverTime` where it took too long.
        `findings` may be None of a kind that shows none.
        """
        message = pickle.dumps(Asked(kind, source, findings, read_by, identifiers))
        with self._lock:
            try:
                self._begin()
                made: bytes = self._ask(message)
            except Died as died:
                self.close()
                fault = OverTime if isinstance(died, Overdue) else ReadingFault
                raise fault(f"the film: what was asked of it was not made; the process {died}") from None
        return made

    def begin(self) -> None:
        """Start the process, so that the first that is asked for need not wait for it."""
        with self._lock:
            self._begin()

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
        self._child = None

    def _begin(self) -> None:
        if self._child is None:
            self._child = Child("cxrlines.core.pool")
            self._ask(pickle.dumps(make))

    def _ask(self, message: bytes) -> bytes:
        assert self._child is not None
        self._child.send(message)
        succeeded, value = pickle.loads(self._child.receive(SECONDS))  # noqa: S301 - from a child of ours
        if not succeeded:
            raise value if isinstance(value, Error) else ReadingFault.of("the film", value)
        return value  # type: ignore[no-any-return]


def make(asked: Asked) -> bytes:
    """The child's side of `Renderer.make`."""
    kind, source, findings, read_by, identifiers = asked
    if kind in (*RESULTS, Kind.FILM):
        source = _as_dicom(source, identifiers)
    if kind is Kind.FILM:
        return source
    if kind in RESULTS:
        assert findings is not None
        for result in result_objects(source, findings, read_by, kinds=[RESULTS[kind]]):
            return result.content
        raise Error("the film was refused: nothing is drawn on it", "take the report, which says why")
    film = read_film(source)
    if kind is Kind.PIXELS:
        return _png(film.pixels)
    assert findings is not None
    return _png(
        draw_findings(film.pixels, findings, notes=[read_by.name], operating_points=read_by.operating_points)[
            :, :, ::-1
        ]
    )


def _as_dicom(source: bytes, identifiers: Identifiers | None) -> bytes:
    """A film that results can refer to: as it is, or of the patient and study that are named for it.

    `Error` where none are named for a film without, or others than its own.
    """
    try:
        film = SourceFilm.of(source)
    except Error as error:
        if identifiers is not None:
            return _wrapped(source, identifiers)
        what = error.what
        if kind_of(source) != "DICOM":
            what = "a DICOM object is of a DICOM film; this is another file, whose patient and study are not named"
        raise Error(what, f"name them by the headers {PATIENT} and {STUDY}, or take JSON or the drawing") from None
    own = Identifiers(film.header.text("PatientID"), film.study_uid)
    if identifiers is not None and own != (identifiers.patient_id.strip(), identifiers.study_uid):
        what = f"{PATIENT} and {STUDY} are not those of the film, which is a DICOM film with its own"
        raise Error(what, "leave out both headers, or send them with the film that they are of")
    return source


def _wrapped(source: bytes, identifiers: Identifiers) -> bytes:
    try:
        return wrapped(source, *identifiers)
    except FilmError:
        raise
    except Error as error:  # its way out is the command's
        raise Error(error.what, f"send the film's own by the headers {PATIENT} and {STUDY}") from None


def _png(pixels: np.ndarray) -> bytes:
    """Lossless, and quick rather than small: it travels from memory to a browser."""
    written, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert written
    return png.tobytes()
