"""What a request carries: its body within limits of size, time and queue, and the films in it."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from cxrlines.core.text import plural, shown
from cxrlines.web.problems import Problem
from cxrlines.web.serve_settings import MB, ServeSettings

FILM_TYPES = ("application/dicom", "image/jpeg", "image/png", "image/tiff", "application/octet-stream")
"""Content types of a film's file; what it is, its content decides."""
MULTIPART = "multipart/form-data"
EMPTY_PARTS = 100
"""Parts without a film that a body may have: each costs time, and a body has room for millions."""


class Upload(NamedTuple):
    """A film's file as it was sent, and what the sender calls it (not to be logged)."""

    name: str
    data: bytes


class Intake:
    """Lets requests with films in: at most `settings.queue` at once, of together `settings.memory` bytes."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self.under_way, self._bytes, self.seconds = 0, 0, 1.0

    def took(self, seconds: float) -> None:
        """A film took so long; what `Retry-After` is estimated by."""
        self.seconds += 0.2 * (seconds - self.seconds)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body; it counts as under way until the block ends. `Problem` 408, 411, 413 or 429."""
        settings = self._settings
        length = _length(request)
        if length is not None and length > settings.max_body:
            raise _too_large(settings.max_body)
        claim = settings.max_body if length is None else length
        if self.under_way >= settings.queue or self._bytes + claim > settings.memory:
            wait = max(1, min(60, math.ceil(self.seconds * self.under_way / settings.processes)))
            what = f"{plural(self.under_way, 'request')} with films under way, which is all this server takes"
            raise Problem(429, "queue-full", what, f"send it again after {wait} s", {"Retry-After": str(wait)})
        self.under_way, self._bytes = self.under_way + 1, self._bytes + claim
        try:
            yield await self.received(request, settings.max_body)
        finally:
            self.under_way, self._bytes = self.under_way - 1, self._bytes - claim

    async def received(self, request: Request, most: int) -> bytes:
        """A body of at most so many bytes. `Problem` 408 or 413."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._settings.body_s):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    parts.append(part)
        except TimeoutError:
            what = f"the request did not arrive within {self._settings.body_s:g} s"
            raise Problem(408, "too-slow", what, "send it again", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise Problem(400, "cut-off", "the request was cut off", "send it again") from None
        return b"".join(parts)


def films_in(content_type: str, body: bytes, most: int) -> tuple[list[Upload], bool]:
    """The films of a body, and whether it may have many (multipart). `Problem` 400, 413 or 415."""
    kind, options = parse_options_header(content_type)
    media = kind.decode("latin-1").lower()
    if media == MULTIPART:
        return _parts(body, options.get(b"boundary", b""), most), True
    if media not in FILM_TYPES:
        what = f"Content-Type is {shown(media)}" if media else "the request has no Content-Type"
        raise Problem(415, "media-type", what, f"send {', '.join(FILM_TYPES[:3])} or {MULTIPART}")
    if not body:
        raise Problem(400, "empty", "the request has no body", "send the film's file as the body")
    return [Upload("film", body)], False


def _parts(body: bytes, boundary: bytes, most: int) -> list[Upload]:
    """The files of a multipart body, parsed in memory: a library's temporary files would be films on a disk."""
    found: list[Upload] = []
    field, value, name, content = bytearray(), bytearray(), [b""], bytearray()
    ended: list[bool] = []
    parts = 0

    def into(target: bytearray) -> Callable[[bytes, int, int], None]:
        return lambda data, start, end: target.extend(data[start:end])

    def begin_part() -> None:
        nonlocal parts
        parts += 1
        if parts > most + EMPTY_PARTS:
            raise _malformed(f"it has more than {most + EMPTY_PARTS} parts")
        name[0] = b""
        content.clear()

    def end_header() -> None:
        if field.lower() == b"content-disposition":
            name[0] = parse_options_header(bytes(value))[1].get(b"filename", b"")
        field.clear()
        value.clear()

    def end_part() -> None:
        if content:
            if len(found) == most:
                raise Problem(
                    413, "too-many-films", f"the request has more than {plural(most, 'film')}", "send fewer at once"
                )
            found.append(Upload(name[0].decode("utf-8", "replace") or f"film {len(found) + 1}", bytes(content)))

    if not boundary:
        raise _malformed("its Content-Type names no boundary")
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin_part,
                "on_part_data": into(content),
                "on_part_end": end_part,
                "on_header_field": into(field),
                "on_header_value": into(value),
                "on_header_end": end_header,
                "on_end": lambda: ended.append(True),
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise _malformed("its parts are not those its boundary announces") from None
    if not ended:
        raise _malformed("it ends before its last boundary")
    if not found:
        raise Problem(400, "empty", "the request has no film", "send each film's file as a part")
    return found


def _length(request: Request) -> int | None:
    given = request.headers.get("content-length")
    if given is None:
        return None
    if not given.isascii() or not given.isdigit():
        raise Problem(400, "length", "Content-Length is no number", "leave it to the HTTP library")
    return int(given[:20])  # more digits are as much too large, and Python refuses thousands


def _too_large(most: int) -> Problem:
    what = f"the request is larger than {most / MB:g} MB"
    return Problem(413, "too-large", what, "send fewer films at once, or raise max_body_mb in the server's --config")


def _malformed(why: str) -> Problem:
    return Problem(400, "multipart-malformed", f"the multipart body is malformed: {why}", "build it by an HTTP library")
