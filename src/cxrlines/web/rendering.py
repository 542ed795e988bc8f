"""Pictures and DICOM objects of a film, made in a process of their own: decoders stay out of the server.

It begins anew when it died.
"""

import pickle
import threading
from enum import StrEnum

import cv2
import numpy as np

from cxrlines.core.errors import Error, OverTime, ReadingFault
from cxrlines.core.findings import Findings
from cxrlines.core.processes import Child, Died, Overdue
from cxrlines.io.films import kind_of, read_film
from cxrlines.reading.results.dicom.objects import Kind as Result
from cxrlines.reading.results.dicom.objects import result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.drawing import draw_findings

SECONDS = 60.0
"""Longest that one may take."""


class Kind(StrEnum):
    """What can be made of a film; the value is its media type."""

    PIXELS = "image/png; of the film"
    DRAWING = "image/png"
    REPORT = "application/dicom"


Asked = tuple[Kind, bytes, Findings, ReadBy]
"""What to make, of which film's file, its findings, and what read it."""


class Renderer:
    """Makes one thing after the other. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    def make(self, kind: Kind, source: bytes, findings: Findings, read_by: ReadBy) -> bytes:
        """A file of that kind.

        `Error` where the film allows none; `ReadingFault` where making it failed, `OverTime` where it took too long.
        """
        message = pickle.dumps((kind, source, findings, read_by))
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
    kind, source, findings, read_by = asked
    if kind is Kind.REPORT:
        if kind_of(source) != "DICOM":
            raise Error("a structured report is of a DICOM film; this is another file", "take JSON or the drawing")
        (report,) = result_objects(source, findings, read_by, kinds=[Result.REPORT])
        return report.content
    film = read_film(source)
    if kind is Kind.PIXELS:
        return _png(film.pixels)
    return _png(draw_findings(film.pixels, findings, notes=[read_by.name])[:, :, ::-1])


def _png(pixels: np.ndarray) -> bytes:
    """Lossless, and quick rather than small: it travels from memory to a browser."""
    written, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert written
    return png.tobytes()
