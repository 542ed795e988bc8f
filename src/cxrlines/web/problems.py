"""Errors of the API as problem documents (RFC 9457): a status, a code to program by, what is wrong and the way out."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from cxrlines.core.errors import Error, OverTime, ReadingFault
from cxrlines.core.film import FilmError, NotAFilm

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """What a request is answered by instead of its result; holds no patient data.

    Attributes:
        status: Of HTTP.
        code: A word to program by; never changes its meaning.
        what, way_out: As those of `Error`.
        headers: Further ones of the response.
    """

    def __init__(
        self, status: int, code: str, what: str, way_out: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, code, what)
        self.status, self.code, self.what, self.way_out = status, code, what, way_out
        self.headers = dict(headers or {})

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "title": self.code.replace("-", " "),
            "status": self.status,
            "code": self.code,
            "detail": self.what,
            "way_out": self.way_out,
        }

    def response(self) -> Response:
        """The document as a response."""
        return Response(json.dumps(self.as_dict()), self.status, self.headers, MEDIA_TYPE)


def problem_of(error: Error | ReadingFault) -> Problem:
    """The problem of a film that was not read, or of a result that cannot be made."""
    if isinstance(error, NotAFilm):
        return Problem(422, "not-a-film", error.what, error.way_out)
    if isinstance(error, FilmError):
        return Problem(422, "film-unreadable", error.what, error.way_out)
    if isinstance(error, Error):
        return Problem(422, "not-possible", error.what, error.way_out)
    if isinstance(error, OverTime):
        return Problem(504, "over-time", str(error), "send it again, or raise timeout_s in the server's --config")
    return Problem(500, "fault", str(error), "please report it with the server's log")
