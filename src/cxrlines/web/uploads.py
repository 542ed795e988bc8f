"""What a request carries: its body within limits of size, time and queue, and the films in it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

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
    """Lets requests with films in: at most `settings.queue` at once, of together `settings.memory` bytes.

    Attributes:
        under_way: Requests that are let in now.
        seconds: A film takes, as a moving average.
    """

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
    """The films of a body, and whether it may have many (multipart): some of these may be empty, not all.

    `Problem` 400, 413 or 415.
    """
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


def film_in(content_type: str, body: bytes) -> Upload:
    """The film of a body that may have one alone; empty parts are passed over. `Problem` 400, 413 or 415."""
    films = [upload for upload in films_in(content_type, body, 1 + EMPTY_PARTS)[0] if upload.data]
    if len(films) > 1:
        raise _too_many(1)
    return films[0]


class _PartCollector:
    """The files of a multipart body, as the parser finds them.

    They are collected in memory: a library's temporary files would be films on a disk.

    Attributes:
        films: The parts that hold something, or have a name: the file of that name is empty.
        complete: Whether the last boundary was there.
    """

    def __init__(self, most: int) -> None:
        self.films: list[Upload] = []
        self.complete = False
        self._most, self._parts = most, 0
        self._field, self._value, self._content = bytearray(), bytearray(), bytearray()
        self._filename = b""

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._most + EMPTY_PARTS:
            raise _malformed(f"it has more than {self._most + EMPTY_PARTS} parts")
        self._filename = b""
        self._content.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._filename = parse_options_header(bytes(self._value))[1].get(b"filename", b"")
        self._field.clear()
        self._value.clear()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def on_part_end(self) -> None:
        if not self._content and not self._filename:
            return
        if len(self.films) == self._most:
            raise _too_many(self._most)
        name = self._filename.decode("utf-8", "replace") or f"film {len(self.films) + 1}"
        self.films.append(Upload(name, bytes(self._content)))

    def on_end(self) -> None:
        self.complete = True


def _parts(body: bytes, boundary: bytes, most: int) -> list[Upload]:
    """The files of a multipart body, at most so many. `Problem` 400 or 413."""
    if not boundary:
        raise _malformed("its Content-Type names no boundary")
    collector = _PartCollector(most)
    callbacks: Any = {name: getattr(collector, name) for name in dir(collector) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise _malformed("its parts are not those its boundary announces") from None
    if not collector.complete:
        raise _malformed("it ends before its last boundary")
    if not any(film.data for film in collector.films):
        raise Problem(400, "empty", "the request has no film", "send each film's file as a part")
    return collector.films


def _length(request: Request) -> int | None:
    """Bytes of a body as its header has them; None where it has none. `Problem` 400 for another header."""
    given = request.headers.get("content-length")
    if given is None:
        return None
    if not given.isascii() or not given.isdigit():
        raise Problem(400, "length", "Content-Length is no number", "leave it to the HTTP library")
    return int(given[:20])  # more digits are as much too large, and Python refuses thousands


def _too_many(most: int) -> Problem:
    return Problem(413, "too-many-films", f"the request has more than {plural(most, 'film')}", "send fewer at once")


def _too_large(most: int) -> Problem:
    what = f"the request is larger than {most / MB:g} MB"
    return Problem(413, "too-large", what, "send fewer films at once, or raise max_body_mb in the server's --config")


def _malformed(why: str) -> Problem:
    return Problem(400, "multipart-malformed", f"the multipart body is malformed: {why}", "build it by an HTTP library")
