"""Stored values from a DICOM file's pixel data, whatever it is compressed by.

A stream is decoded by what it says of itself, and that is compared with the header before a value is believed. Each
kind of stream has one decoder: what that refuses is damaged, and no other is asked that might make noise of it.
"""

import io
import json
import math
import os
import struct
import threading
from dataclasses import dataclass

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxrlines.core.film import FilmError
from cxrlines.core.notes import Code, Note
from cxrlines.core.processes import Child, Died
from cxrlines.io.dicom import streams
from cxrlines.io.dicom.header import Elements
from cxrlines.io.dicom.streams import Buffer, Kind, Stream, StreamError

SECONDS = 60.0
"""How long the decoders' process may take for a film."""
MAX_MEMORY = 480 * 2**20
"""Decoding that would take more is not begun; see `_cost`."""
LEAPS, RARER = 0.002, 10
"""Values read with too few bits or the wrong sign leap where they cross a limit: this share of neighbours at least,
and so many times as many as with the right ones."""
EXPORT = "export it again, or uncompressed"
_EARLIER = {f"1.2.840.10008.1.2.4.{number}" for number in (52, 53, 54, 55, 56)}
SYNTAXES: dict[Kind, set[str]] = {
    Kind.JPEG: {JPEGBaseline8Bit, JPEGExtended12Bit, *_EARLIER},
    Kind.LOSSLESS: {JPEGLossless, JPEGLosslessSV1},
    Kind.JPEG_LS: {JPEGLSLossless, JPEGLSNearLossless},
    Kind.JPEG_2000: {
        JPEG2000Lossless,
        JPEG2000,
        JPEG2000MCLossless,
        JPEG2000MC,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
    },
}
"""Under which transfer syntaxes a kind of stream belongs."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A film's pixels as they are coded, before any of DICOM's display chain.

    Where the stream and the header contradict each other, `bits`, `high_bit` and `signed` are what gives the true
    picture: use them instead of the header's elements.

    Attributes:
        values: (rows, columns), or (rows, columns, 3) red, green, blue, uint8 or uint16: words as coded, with overlays
            and junk in the bits that are not the value's; not shifted. Of colour coded as luma and differences, the
            luma: (rows, columns).
        bits: How many bits are the value's (BitsStored).
        high_bit: Which is its highest, from 0 (HighBit); the value is bits high_bit - bits + 1 to high_bit.
        signed: Whether it is two's complement (PixelRepresentation).
        notes: Where stream and header differ, bytes after the stream's end and the like.
    """

    values: np.ndarray
    bits: int
    high_bit: int
    signed: bool
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class _Header:
    """What the header says of the pixels."""

    name: str
    rows: int
    columns: int
    samples: int
    allocated: int
    bits: int
    high_bit: int
    signed: bool
    photometric: str
    by_plane: bool
    syntax: UID

    @staticmethod
    def of(dataset: pydicom.Dataset, name: str) -> "_Header":
        return _Header(
            name=name,
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            samples=int(dataset.SamplesPerPixel),
            allocated=int(dataset.BitsAllocated),
            bits=int(dataset.BitsStored),
            high_bit=int(dataset.HighBit),
            signed=dataset.PixelRepresentation == 1,
            photometric=str(dataset.PhotometricInterpretation),
            by_plane=dataset.get("PlanarConfiguration") == 1,
            syntax=UID(dataset.file_meta.TransferSyntaxUID),
        )

    @property
    def known_syntax(self) -> str:
        """The name of the transfer syntax; of one that DICOM does not know no more than that: it may hold anything."""
        return self.syntax.name if self.syntax.name != str(self.syntax) else "of an unknown UID"


def stored_values(dataset: pydicom.Dataset, elements: Elements, name: str) -> Stored:
    """The stored values of a film.

    Args:
        dataset: How the pixels are stored: Rows, Columns, SamplesPerPixel, PhotometricInterpretation, BitsAllocated,
            BitsStored, HighBit, PixelRepresentation, the transfer syntax in `file_meta`, all of them possible; of
            colour PlanarConfiguration.
        elements: The file's elements, PixelData among them.
        name: What messages call the film.

    Raises:
        FilmError: damaged pixels, ones of a kind that is not read, or that contradict the header.
    """
    header = _Header.of(dataset, name)
    if not header.syntax.is_transfer_syntax or header.syntax.is_private:
        raise FilmError(f"{name}: transfer syntax {header.known_syntax} is not read", "save it uncompressed")
    value = elements.pixels
    if bytes(value[:4]) == streams.ITEM:
        frame, notes = _frame(header, value, elements.open_end)
    elif header.syntax.is_encapsulated:  # a stream that lies in the element bare
        frame, notes = value, ()
    else:
        return _uncompressed(header, value, elements.vr_of("PixelData"))
    if header.syntax == RLELossless and not streams.recognised(frame):
        return _rle(header, frame, notes)
    return _compressed(header, frame, notes)


def _uncompressed(header: _Header, value: memoryview, vr: str) -> Stored:
    per_pixel = 2 if header.photometric == "YBR_FULL_422" else header.samples
    count = header.rows * header.columns * per_pixel
    need = -(-count * header.allocated // 8)
    if len(value) < need:
        found = f"is cut off: has {len(value):,} of {need:,} bytes of pixels"
        raise FilmError(f"{header.name}: {found}", "copy or export it again")
    notes = _after(header, value[need:], need // max(header.rows, 1))
    big = header.syntax == ExplicitVRBigEndian
    flat: np.ndarray
    if header.allocated == 16:
        flat = np.frombuffer(value[:need], ">u2" if big else "<u2").astype(np.uint16, copy=False)
    else:
        flat = np.frombuffer(value[:need], np.uint8)
        if big and vr == "OW":  # bytes lie in words, which are turned round
            words = np.append(flat, np.frombuffer(value[need:][:1], np.uint8)) if need % 2 else flat
            flat = words.reshape(-1, 2)[:, ::-1].reshape(-1)[:need]
        if header.allocated == 1:
            flat = np.unpackbits(flat, bitorder="little")[:count]
    return _settled(header, _arranged(header, flat, per_pixel), notes)


def _after(header: _Header, rest: memoryview, row: int) -> tuple[Note, ...]:
    """Notes on what lies behind uncompressed pixels. More than a row of it may be a picture of another shape."""
    if not _says_anything(rest):
        return ()
    if len(rest) > max(row, 256):
        found = f"has {len(rest):,} bytes of pixels more than its header's rows, columns and bits make"
        raise FilmError(f"{header.name}: {found}", "export it again")
    return (Note(Code.BYTES_AFTER_END, f"{len(rest)} bytes follow the pixels and were left out"),)


def _says_anything(rest: Buffer) -> bool:
    """Whether bytes behind an end are more than what fills it up."""
    values = np.frombuffer(rest, np.uint8)
    return len(values) > 1 and bool((values != values[0]).any() or values[0] not in (0, 255))


def _arranged(header: _Header, flat: np.ndarray, per_pixel: int) -> np.ndarray:
    """Values in file order as (rows, columns), or (rows, columns, 3); of luma and differences the luma."""
    rows, columns = header.rows, header.columns
    if per_pixel == 2:  # two lumas, then the differences that both share
        return np.ascontiguousarray(flat.reshape(-1, 4)[:, :2]).reshape(rows, columns)
    if per_pixel == 1:
        return flat.reshape(rows, columns)
    by_pixel = flat.reshape(3, rows, columns).transpose(1, 2, 0) if header.by_plane else flat.reshape(rows, columns, 3)
    return np.ascontiguousarray(by_pixel[..., 0]) if header.photometric.startswith("YBR_FULL") else by_pixel


def _frame(header: _Header, value: memoryview, open_end: bool) -> tuple[Buffer, tuple[Note, ...]]:
    """The frame in encapsulated pixel data, however many fragments it has; a note if its end is not marked."""
    parts = streams.fragments(value)
    if not parts:
        raise FilmError(f"{header.name}: its {header.known_syntax} pixels are empty", EXPORT)
    notes = (Note(Code.END_MISSING, "the end of the pixel data is not marked"),) if open_end else ()
    return parts[0] if len(parts) == 1 else b"".join(parts), notes


def _rle(header: _Header, frame: Buffer, notes: tuple[Note, ...]) -> Stored:
    """RLE (DICOM PS3.5, Annex G): planes of bytes, the highest first, each packed as TIFF's PackBits are."""
    need = header.rows * header.columns
    wanted = header.samples * header.allocated // 8
    count, *starts = struct.unpack("<16L", bytes(frame[:64]).ljust(64, b"\0"))
    if count != wanted:
        found = f"has {count} RLE planes, the header says {wanted}"
        raise FilmError(f"{header.name}: {found}", EXPORT)
    planes = []
    for start, end in zip(starts[:count], [*starts[1:count], len(frame)], strict=True):
        packed = frame[start : max(start, end)]
        plane = _unpacked(packed, need)
        if plane is None:
            raise FilmError(f"{header.name}: its RLE pixels are cut off or damaged", EXPORT)
        # A plane may be padded by a byte a row and a packet, which is more than any encoder needs.
        if _unpacked(packed, need + header.rows + 128) is not None:
            found = f"RLE pixels hold more than the {header.columns} x {header.rows} px the header says"
            raise FilmError(f"{header.name}: {found}", EXPORT)
        planes.append(plane)
    if header.allocated == 16:
        planes = [high.astype(np.uint16) << 8 | low for high, low in zip(planes[::2], planes[1::2], strict=True)]
    shaped = [plane.reshape(header.rows, header.columns) for plane in planes]
    luma = header.photometric.startswith("YBR_FULL")
    return _settled(header, shaped[0] if len(shaped) == 1 or luma else np.stack(shaped, axis=-1), notes)


def _unpacked(packed: Buffer, size: int) -> np.ndarray | None:
    """The first `size` bytes of what PackBits unpack to; None if there are fewer. Nothing more is unpacked."""
    try:
        return np.asarray(Image.frombytes("L", (size, 1), bytes(packed), "packbits", "L")).reshape(-1)
    except ValueError:
        return None


def _compressed(header: _Header, frame: Buffer, notes: tuple[Note, ...]) -> Stored:
    try:
        stream = streams.parse(frame)
    except StreamError as error:
        raise FilmError(f"{header.name}: its compressed pixels {error}", EXPORT) from None
    _check(header, stream)
    differs = []
    if header.syntax not in SYNTAXES[stream.kind]:
        differs.append(f"the pixels are {stream.kind}, the header says {header.known_syntax}")
    if stream.components != header.samples:
        differs.append(f"the pixels have {stream.components} components, the header says {header.samples}")
    notes += _differing(differs)
    if _says_anything(frame[stream.end :]):
        behind = len(frame) - stream.end
        notes += (Note(Code.BYTES_AFTER_END, f"{behind:,} bytes follow the compressed pixels and were left out"),)
    return _settled(header, _decoded(header, stream, frame[stream.start : stream.end]), notes, stream)


def _check(header: _Header, stream: Stream) -> None:
    """`FilmError` where stream and header differ so that neither can be believed, or decoding would take too much."""
    name = header.name
    if (stream.width, stream.height) != (header.columns, header.rows):
        found = f"compressed pixels are {stream.width} x {stream.height}"
        raise FilmError(f"{name}: {found}, the header says {header.columns} x {header.rows}", "export it again")
    if stream.components not in (1, 3) or stream.bits > 16:
        found = f"compressed pixels have {stream.components} components of {stream.bits} bits"
        raise FilmError(f"{name}: {found}; 1 or 3 of at most 16 are read", "convert it")
    if stream.components == 3 and header.photometric == "MONOCHROME1":
        found = "compressed pixels have 3 components, the header says MONOCHROME1: which is white is unknown"
        raise FilmError(f"{name}: {found}", "export it again")
    if _cost(stream) > MAX_MEMORY:
        found = f"{stream.width} x {stream.height} px with {stream.components} components of {stream.bits} bits"
        allowed = f"as {stream.kind} that takes {_cost(stream) >> 20} MB, at most {MAX_MEMORY >> 20} are given to it"
        raise FilmError(f"{name}: compressed pixels are {found}; {allowed}", "save it uncompressed, or shrunk")


def _by_itself(stream: Stream) -> bool:
    """Whether Pillow decodes a stream, in this process: libjpeg-turbo raises, or reads on, whatever it is given."""
    return stream.kind == Kind.JPEG and stream.bits == 8


def _cost(stream: Stream) -> int:
    """Bytes that decoding takes, the result included (measured): of OpenJPEG two words of 32 bits a value, of GDCM
    several copies."""
    each = 3 if _by_itself(stream) else 8 if stream.kind == Kind.JPEG_2000 else 5.5 if stream.bits <= 8 else 11
    return int(stream.width * stream.height * stream.components * each)


def _decoded(header: _Header, stream: Stream, frame: Buffer) -> np.ndarray:
    """(rows, columns), or (rows, columns, 3) red, green, blue, of unsigned integers as coded; of luma and differences
    the luma."""
    luma = stream.components == 3 and _colour(header, stream) == "YBR"
    if _by_itself(stream):
        return _by_pillow(header, stream, frame, luma)
    type_ = np.dtype(np.uint8 if stream.bits <= 8 else np.dtype("<u2"))
    shape = (stream.height, stream.width, stream.components)
    values = np.frombuffer(_apart(header, stream, frame, math.prod(shape) * type_.itemsize), type_).reshape(shape)
    return values if stream.components == 3 and not luma else np.ascontiguousarray(values[..., 0])


def _colour(header: _Header, stream: Stream) -> str:
    """What three components are. The header is asked where the stream says nothing; JPEG without a word is YBR."""
    if stream.colour:
        return stream.colour
    if header.photometric.startswith("YBR"):
        return "YBR"
    return "RGB" if header.photometric == "RGB" or stream.kind != Kind.JPEG else "YBR"


def _by_pillow(header: _Header, stream: Stream, frame: Buffer, luma: bool) -> np.ndarray:
    if stream.components == 3 and not luma and stream.colour is None:
        # Without a word in the stream libjpeg takes it for YBR: let the stream say what it is.
        frame = bytes(frame[:2]) + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0" + bytes(frame[2:])
    try:
        image = Image.open(io.BytesIO(frame), formats=["JPEG"])
        if luma:
            image.draft("L", image.size)
        return np.asarray(image)
    except Exception as error:  # whatever a decoder raises of a damaged stream
        raise _damaged(header, stream, type(error).__name__) from None


def _damaged(header: _Header, stream: Stream, why: str) -> FilmError:
    return FilmError(f"{header.name}: its {stream.kind} pixels are damaged ({why})", EXPORT)


class _Apart:
    """The decoders' process of this process, begun when it is needed and kept."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: Child | None = None
        self.deaths = 0


_aparts: dict[int, _Apart] = {}
"""By process: a fork must not talk on its parent's line, nor wait for a lock that nobody in it holds."""


def _own() -> _Apart:
    own = _aparts.setdefault(os.getpid(), _Apart())
    for other in set(_aparts) - {os.getpid()}:
        if (apart := _aparts.pop(other, None)) and apart.child:
            apart.child.forget()
    return own


def deaths() -> int:
    """How many films the decoders' process has died of, in this process."""
    return _own().deaths


def decoding_pid() -> int | None:
    """The decoders' process of this process, if it has been begun."""
    child = _own().child
    return child.process.pid if child else None


def _apart(header: _Header, stream: Stream, frame: Buffer, size: int) -> bytes:
    """What the decoders' process makes of a stream: `size` bytes. A film that kills it costs only itself."""
    asked = {name: getattr(stream, name) for name in ("kind", "width", "height", "components", "bits")}
    own = _own()
    with own.lock:
        child, own.child = own.child or Child("cxrlines.io.dicom.native", silent=True), None
        try:
            child.send(json.dumps(asked).encode(), frame)
            answer, values = json.loads(child.receive(SECONDS)), child.receive(SECONDS)
        except Died as end:
            own.deaths += 1
            child.kill()
            raise _damaged(header, stream, f"its decoder {end}") from None
        except BaseException:  # Ctrl-C: what it would answer is of this film, not of the next
            child.kill()
            raise
        own.child = child
    if missing := answer.get("missing"):
        found = f"no decoder for {stream.kind} is installed"
        raise FilmError(f"{header.name}: {found}", f"install {missing}, or save the film uncompressed")
    if len(values) != size:
        raise _damaged(header, stream, answer.get("failed", "another size"))
    return values


def _settled(header: _Header, values: np.ndarray, notes: tuple[Note, ...], stream: Stream | None = None) -> Stored:
    """Values with the bits and the sign that make them a true picture. What else lies in their words, overlays or
    nothing, the display finds out."""
    bits, high_bit, signed = header.bits, header.high_bit, header.signed
    differs: list[str] = []
    if stream and stream.bits <= high_bit:  # above it there is nothing
        high_bit = bits - 1
    if stream and (stream.bits < bits or (stream.bits > high_bit + 1 == bits and _is_wider(header, values, stream))):
        differs.append(f"the pixels have {stream.bits} bits, the header says {bits}")
        bits, high_bit = stream.bits, stream.bits - 1
    if values.ndim == 3:
        return _settled_colours(values, stream, bits, high_bit, notes, differs)
    with_sign, without = (_leaps(values, bits, high_bit, sign) for sign in (True, False))
    if stream and stream.signed is not None and stream.signed != signed:
        # Some encoders write the words of signed values as if they had no sign; then the header is right.
        signed = with_sign < without if with_sign != without else signed
        coded, read = ("signed" if sign else "unsigned" for sign in (stream.signed, signed))
        differs.append(f"the pixels are coded {coded}, the header says otherwise; read as {read}, which is smoother")
    elif signed and not (stream and stream.signed) and with_sign > max(LEAPS, RARER * without):
        differs.append("the header says that the values are signed, and they are not")
        signed = False
    if stream and (signed or stream.signed):
        unused = 8 * values.itemsize - stream.bits
        values = ((values << unused).view(f"{'i' if signed else 'u'}{values.itemsize}") >> unused).view(values.dtype)
    return Stored(values, bits, high_bit, signed, notes + _differing(differs))


def _is_wider(header: _Header, values: np.ndarray, stream: Stream) -> bool:
    """Whether values have all the bits of their stream, and not an overlay, or nothing, above those of the header."""
    if values.ndim == 3:
        return int(values.max()) >= 2**header.bits
    signed = bool(stream.signed or header.signed)
    narrow, wide = (_leaps(values, bits, bits - 1, signed) for bits in (header.bits, stream.bits))
    return narrow > max(LEAPS, RARER * wide)


def _settled_colours(
    values: np.ndarray, stream: Stream | None, bits: int, high_bit: int, notes: tuple[Note, ...], differs: list[str]
) -> Stored:
    """Colours have no sign: that of a stream says only where their black lies."""
    if stream and stream.signed:
        values = values + 2 ** (stream.bits - 1) & 2**stream.bits - 1
        differs.append("the colours are coded signed; their lowest value is taken for black")
    if high_bit >= bits:
        values = values >> (high_bit - bits + 1)
    return Stored(values, bits, bits - 1, False, notes + _differing(differs))


def _differing(differs: list[str]) -> tuple[Note, ...]:
    return tuple(Note(Code.STREAM_DIFFERS_FROM_HEADER, text) for text in differs)


def _leaps(values: np.ndarray, bits: int, high_bit: int, signed: bool) -> float:
    """Share of neighbours in a row, in some rows, that are half of all values apart or more.

    Words that borders and padding are made of do not count: all zeros, all ones, the sign alone.
    """
    words = values[:: max(1, len(values) // 64)].astype(np.int64) >> (high_bit - bits + 1) & 2**bits - 1
    half = 2 ** (bits - 1)
    counts = (words != 0) & (words != 2 * half - 1) & (words != half)
    both = counts[:, 1:] & counts[:, :-1]
    numbers = (words + half) % (2 * half) if signed else words
    return float((np.abs(np.diff(numbers, axis=1))[both] >= half).sum() / max(1, both.sum()))
