"""Syntax of compressed streams (JPEG, lossless JPEG, JPEG-LS, JPEG 2000, HTJ2K): size, bits, colour, and the end.

Streams are walked from marker to marker, never searched: an ending inside a comment or a thumbnail is none.
"""

import re
import struct
from collections.abc import Container
from enum import StrEnum
from typing import NamedTuple

Buffer = bytes | memoryview

MAX_PARTS = 2**16
"""Most fragments, segments or tile-parts that are walked; the number of tile-parts has 16 bits."""
MAX_SCANS = 50
"""Most scans of a JPEG: each is a pass over the whole picture, however few bytes it has. Encoders make some 15."""
MAX_TILES = 8192
"""Most tiles of a JPEG 2000 picture: OpenJPEG takes some kB for each. 8192 of 64 x 64 px are 33 megapixels."""
ITEM = b"\xfe\xff\x00\xe0"
JPEG, JPEG_2000, BOXED = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"


class Kind(StrEnum):
    """What a stream is, by what can decode it."""

    JPEG = "jpeg"  # lossy, baseline, extended or progressive: 8 or 12 bits
    LOSSLESS = "lossless jpeg"
    JPEG_LS = "jpeg-ls"
    JPEG_2000 = "jpeg 2000"  # HTJ2K too


CUT_OFF = "are cut off before their end"
TOO_MANY = f"have more than {MAX_PARTS} parts"


class StreamError(Exception):
    """A stream cannot be a picture; the text says why, to follow "its compressed pixels"."""


class Stream(NamedTuple):
    """What a stream says of itself.

    Attributes:
        kind: What can decode it.
        width, height: px.
        components: 1 for gray, 3 for colour.
        bits: Bits of a value.
        signed: Whether values are signed; None where the kind of stream has no word for it.
        colour: "RGB" or "YBR" where it says so; of JPEG 2000 RGB if it undoes a transform itself.
        start, end: Where its first byte is, and the byte after its last.
        by_line: Of JPEG, whether it is decoded line by line: in one scan, and not progressive.
    """

    kind: Kind
    width: int
    height: int
    components: int
    bits: int
    signed: bool | None
    colour: str | None
    start: int
    end: int
    by_line: bool = False


def fragments(value: Buffer) -> list[Buffer]:
    """The fragments of encapsulated pixel data (DICOM PS3.5 A.4), without the offset table; the last may be cut off."""
    found: list[Buffer] = []
    place = 0
    while place + 8 <= len(value) and value[place : place + 4] == ITEM and len(found) < MAX_PARTS:
        (length,) = struct.unpack_from("<I", value, place + 4)
        found.append(value[place + 8 : place + 8 + length])
        place += 8 + length
    return found[1:] if len(found) > 1 and not recognised(found[0]) else found


def recognised(data: Buffer) -> bool:
    """Whether the data begins as one of the kinds of stream that are read."""
    return bytes(data[:12]).startswith((JPEG, JPEG_2000, BOXED))


def parse(data: Buffer) -> Stream:
    """What the stream at the data's first byte says of itself. `StreamError` if it is of no kind that is read, cut off,
    or contradicts itself."""
    head = bytes(data[:12])
    try:
        if head.startswith(JPEG):
            return _jpeg(data)
        if head.startswith(JPEG_2000):
            return _jpeg_2000(data, 0, len(data), None)
        if head.startswith(BOXED):
            return _boxed(data)
    except (struct.error, IndexError):  # a field lies beyond the end
        raise StreamError(CUT_OFF) from None
    raise StreamError("are neither JPEG, JPEG-LS nor JPEG 2000")


# A marker that ends a scan: not a stuffed byte, a restart or a fill byte. JPEG-LS stuffs a bit, not a byte.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_AFTER_LS_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES: dict[int, tuple[Kind, Container[int]]] = {
    0xC0: (Kind.JPEG, (8,)),
    0xC1: (Kind.JPEG, (8, 12)),
    0xC2: (Kind.JPEG, (8, 12)),
    0xC3: (Kind.LOSSLESS, range(2, 17)),
    0xF7: (Kind.JPEG_LS, range(2, 17)),
}  # start of frame: what decodes it, and the bits that it may have


def _jpeg(data: Buffer) -> Stream:
    """ISO 10918-1, Annex B; ISO 14495-1, Annex C."""
    place, scans, least, interval = 2, 0, 0, 0
    frame: Stream | None = None
    header, in_order = b"", False
    ids, jfif, adobe = b"", False, None
    for _ in range(MAX_PARTS):
        at = _MARKER.match(data, place)
        if at is None:
            raise StreamError("are damaged between two parts" if place + 1 < len(data) else CUT_OFF)
        place, marker = at.end(), data[at.end() - 1]
        if marker == 0xD9:
            if frame is None or not scans:
                raise StreamError("hold no picture")
            if place < least:
                raise StreamError("are cut off: so few bytes cannot be so many pixels")
            return frame._replace(colour=_jpeg_colour(ids, jfif, adobe), end=place, by_line=in_order and scans == 1)
        if marker == 1 or 0xD0 <= marker <= 0xD7:  # no length, no content
            continue
        (length,) = struct.unpack_from(">H", data, place)
        body = bytes(data[place + 2 : place + length])
        if length < 2 or len(body) < length - 2:
            raise StreamError(CUT_OFF)
        place += length
        if marker in _FRAMES:
            if frame:
                raise StreamError("hold two pictures in one")
            frame, header, in_order = _jpeg_frame(marker, body), body, marker in (0xC0, 0xC1)
            ids, size = body[6 : 6 + 3 * frame.components : 3], frame.width * frame.height
            # Without loss a bit a value; else two a block, unless a run of empty blocks is one code (progressive).
            least = {0xC0: size // 256, 0xC1: size // 256, 0xC3: size * frame.components // 8}.get(marker, 0)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise StreamError(f"are JPEG of a process (SOF{marker - 0xC0}) that is not read")
        elif marker == 0xDD:
            (interval,) = struct.unpack_from(">H", body)
        elif marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xDA:
            scans += 1
            if frame is None or scans > MAX_SCANS:
                raise StreamError("have no header" if frame is None else f"have more than {MAX_SCANS} scans")
            after = (_AFTER_LS_SCAN if frame.kind == Kind.JPEG_LS else _AFTER_SCAN).search(data, place)
            if after is None:
                raise StreamError(CUT_OFF)
            if interval and in_order and body[0] == frame.components:
                _check_restarts(data[place : after.start()], -(-_blocks(frame, header) // interval) - 1)
            place = after.start()
    raise StreamError(TOO_MANY)


def _blocks(frame: Stream, header: bytes) -> int:
    """How many units of 8 x 8 px, or of as many as the coarsest colour needs, a scan of all components has."""
    factors = list(header[7 : 6 + 3 * frame.components : 3]) if frame.components > 1 else [0x11]
    across, down = 8 * max(1, *(each >> 4 for each in factors)), 8 * max(1, *(each & 15 for each in factors))
    return -(-frame.width // across) * -(-frame.height // down)


def _check_restarts(scan: Buffer, wanted: int) -> None:
    """`StreamError` unless a scan has `wanted` restart markers, numbered 0 to 7 again and again; one more may end it.

    At each of them a decoder begins anew, so that damage before it does not show at the end.
    """
    found = 0
    for mark in _RESTART.finditer(scan):
        if scan[mark.end() - 1] != 0xD0 + found % 8 or found > wanted:
            raise StreamError("are damaged: their restart markers are not in order")
        found += 1
    if found < wanted:
        raise StreamError(f"are damaged: they have {found} of {wanted} restart markers")


def _jpeg_frame(marker: int, body: bytes) -> Stream:
    bits, height, width, components = struct.unpack_from(">BHHB", body)
    if len(body) < 6 + 3 * components:
        raise StreamError("have a damaged header")
    kind, allowed = _FRAMES[marker]
    if bits not in allowed:
        raise StreamError(f"have {bits} bits, which JPEG of their process (SOF{marker - 0xC0}) cannot have")
    if components == 3 and kind != Kind.JPEG and len(set(body[7 : 6 + 3 * components : 3])) > 1:
        raise StreamError("have colours of different sizes without loss, which is not read")
    return Stream(kind, width, height, components, bits, None, None, 0, 0)


def _jpeg_colour(ids: bytes, jfif: bool, adobe: int | None) -> str | None:
    """As libjpeg decides, as far as the stream says anything."""
    if len(ids) != 3:
        return None
    if jfif or adobe == 1:
        return "YBR"
    return "RGB" if adobe is not None or ids in (b"RGB", b"rgb") else None


def _boxed(data: Buffer) -> Stream:
    """A JP2 file (ISO 15444-1, Annex I), which DICOM does not allow but some write: the stream in it."""
    place, colour = 0, None
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, place)
        begin = place + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        end = place + length if length else len(data)
        if end < begin:
            raise StreamError("have a damaged header")
        if kind == b"jp2c":
            return _jpeg_2000(data, begin, len(data), colour)
        if kind == b"jp2h":
            inside = bytes(data[begin:end])
            if b"pclr" in inside:
                raise StreamError("have a palette, which is not read")
            if (method := inside.find(b"colr\x01")) >= 0:
                colour = {16: "RGB", 18: "YBR"}.get(int.from_bytes(inside[method + 7 : method + 11]))
        place = end
    raise StreamError(TOO_MANY)


def _jpeg_2000(data: Buffer, start: int, limit: int, colour: str | None) -> Stream:
    """ISO 15444-1, Annex A."""
    x1, y1, x0, y0, tile_w, tile_h, tile_x, tile_y, components = struct.unpack_from(">8IH", data, start + 8)
    width, height = x1 - x0, y1 - y0
    each = [struct.unpack_from("3B", data, start + 42 + 3 * number) for number in range(min(components, 4))]
    if not each or width < 1 or height < 1:
        raise StreamError("have no size")
    if len(set(each)) > 1 or each[0][1:] != (1, 1):
        raise StreamError("have components of different sizes, depths or signs, which is not read")
    bits, signed = (each[0][0] & 0x7F) + 1, each[0][0] >= 0x80
    if not (tile_w and tile_h and tile_x <= x0 < tile_x + tile_w and tile_y <= y0 < tile_y + tile_h):
        raise StreamError("have tiles beside their picture")
    tiles = -(-(x1 - tile_x) // tile_w) * -(-(y1 - tile_y) // tile_h)
    if tiles > MAX_TILES:
        raise StreamError(f"have {tiles} tiles; at most {MAX_TILES} are read")
    place = start + 4
    place += struct.unpack_from(">H", data, place)[0]
    for _ in range(MAX_PARTS):
        marker, length = struct.unpack_from(">HH", data, place)
        if marker == 0xFF90:
            end = _tile_parts(data, place, limit, tiles)
            return Stream(Kind.JPEG_2000, width, height, components, bits, signed, colour, start, end)
        if marker < 0xFF00:
            raise StreamError("have a damaged header")
        if marker == 0xFF52 and components == 3 and data[place + 8]:
            colour = "RGB"
        place += 2 + length
    raise StreamError(TOO_MANY)


def _tile_parts(data: Buffer, place: int, limit: int, tiles: int) -> int:
    """Where a JPEG 2000 stream ends whose tile-parts begin at `place`: after its end marker, or, as the parts know
    their lengths, without one if they are all there."""
    seen: set[int] = set()
    for _ in range(MAX_PARTS):
        marker = bytes(data[place : min(place + 2, limit)])
        if marker == b"\xff\xd9":
            return place + 2
        if marker != b"\xff\x90":
            if len(marker) < 2 and len(seen) == tiles:
                return place
            raise StreamError(CUT_OFF if len(marker) < 2 else "are damaged between two parts")
        tile, length = struct.unpack_from(">HI", data, place + 4)
        seen.add(tile)
        if length == 0:  # to the end of the stream, which nothing inside a tile can look like
            after = re.compile(rb"\xff\xd9").search(data, place + 12, limit)
            if after is None:
                raise StreamError(CUT_OFF)
            length = after.start() - place
        if tile >= tiles or length < 14:
            raise StreamError("are damaged between two parts")
        if place + length > limit:
            raise StreamError(CUT_OFF)
        place += length
    raise StreamError(TOO_MANY)
