"""The chunks of PNG files: what concerns the pixels, and whether those are whole."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from cxrlines.core.notes import Code, Note

LARGE_CHUNK = 2**20
"""Bytes of a chunk beside the pixels from which on a note says that it is left out; Pillow refuses such files."""


class Essential(NamedTuple):
    """A PNG file without chunks that do not concern its pixels, such as profiles and texts, which may be huge.

    Attributes:
        suspect: Whether checksums of its pixels were wrong. They are right in `data`: only what inflates says whether
            pixels are damaged (`check_pixels`).
        end: Where the file given ends; what follows is no part of it.
    """

    data: bytes
    notes: tuple[Note, ...]
    suspect: bool
    end: int


def essential(data: bytes) -> Essential:
    """What concerns the pixels of a PNG file (bytes)."""
    kept, end, odd, suspect = [data[:8]], 8, False, False
    for kind, start, end in chunks(data):
        check = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4)
        if kind == b"IDAT":
            suspect |= data[end - 4 : end] != check
            kept.append(data[start : end - 4] + check)
        elif kind in (b"IHDR", b"PLTE", b"IEND", b"tRNS", b"eXIf"):
            kept.append(data[start:end])
        elif end <= len(data):
            odd |= end - start - 12 > LARGE_CHUNK or data[end - 4 : end] != check
    texts = {
        "a profile, text or other chunk beside the pixels is large or damaged, and left out": odd,
        "the checksum of a chunk of its pixels is wrong; by their own check value they are whole": suspect,
    }
    notes = tuple(Note(Code.METADATA_IGNORED, text) for text, holds in texts.items() if holds)
    return Essential(b"".join(kept), notes, suspect, end)


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the chunks of a PNG file up to IEND; the last may end beyond the file."""
    kind, end = b"", 8
    while kind != b"IEND" and end + 12 <= len(data):
        start = end
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        end = start + 12 + length
        yield kind, start, end


def inflated_size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes that a PNG's pixels of so many bits inflate to: in rows, of the whole or of the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes if x < width and y < height]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in (sizes if interlaced else [(width, height)]))


def check_pixels(data: bytes, size: int, exact: bool) -> None:
    """`EOFError` unless the pixels of a PNG inflate to `size` bytes, if `exact` to no more and up to their check value;
    nothing is kept of them."""
    inflater, found = zlib.decompressobj(), 0
    for kind, start, end in chunks(data):
        rest = data[start + 8 : end - 4] if kind == b"IDAT" else b""
        while rest and found <= size and not inflater.eof:  # what follows an end is never consumed
            found += len(inflater.decompress(rest, 2**20))
            rest = inflater.unconsumed_tail
    found += len(inflater.flush()) if found < size else 0
    if found < size or (exact and (found > size or not inflater.eof)):
        raise EOFError
