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
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.filereader import read_partial
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
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

from cxrlines.data import streams
from cxrlines.data.child import Child, Died
from cxrlines.data.films import FilmError
from cxrlines.data.notes import Code, Note
from cxrlines.data.streams import Buffer, Kind, Stream, StreamError

SECONDS = 60.0
"""How long the decoders' process may take for a film."""
BYTES_PER_VALUE = {Kind.JPEG: 3, Kind.LOSSLESS: 9, Kind.JPEG_LS: 9, Kind.JPEG_2000: 8}
"""Bytes that a decoder takes for a value of a film, its result included (measured)."""
MAX_MEMORY = 480 * 2**20
"""What would take more is not begun."""
ROUGHER = 4.0
"""So many times rougher looks a film whose values are taken for signed and are not: they leap where they cross half."""
UNDEFINED = 0xFFFFFFFF
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
        values: (rows, columns) integers, or (rows, columns, 3) red, green, blue, of 8 or 16 bits without a sign, in the
            machine's byte order, as coded: of uncompressed and RLE pixels all bits of the words, overlays and junk in
            the bits that are not the value's included; neither masked, shifted nor sign-extended. Of colour that is
            coded as luma and differences, the luma: (rows, columns).
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
    overlays: bool

    @staticmethod
    def of(dataset: pydicom.Dataset, name: str) -> "_Header":
        def number(tag: str | tuple[int, int]) -> int | None:
            try:
                return int(dataset[tag].value)
            except Exception:  # pydicom raises anything on a damaged element
                return None

        photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
        samples = number("SamplesPerPixel") or (1 if photometric.startswith("MONOCHROME") else 3)
        if samples not in (1, 3):
            raise FilmError(f"{name}: SamplesPerPixel is {samples}; 1 and 3 are read", "convert it")
        bits, allocated = number("BitsStored") or 0, number("BitsAllocated") or 0
        if allocated not in (1, 8, 16) or not 1 <= bits <= allocated or (allocated == 1 and samples == 3):
            found = f"BitsStored is {bits} of BitsAllocated {allocated}"
            raise FilmError(f"{name}: {found}; 1, 8 or 16 are allocated and no more than these stored", "convert it")
        high_bit = number("HighBit")
        if high_bit is None or not bits <= high_bit + 1 <= allocated:
            high_bit = bits - 1
        return _Header(
            name=name,
            rows=number("Rows") or 0,
            columns=number("Columns") or 0,
            samples=samples,
            allocated=allocated,
            bits=bits,
            high_bit=high_bit,
            signed=number("PixelRepresentation") == 1,
            photometric=photometric,
            by_plane=number("PlanarConfiguration") == 1,
            overlays=any(number((group, 0x0102)) for group in range(0x6000, 0x6020, 2)),
        )


def stored_values(dataset: pydicom.Dataset, data: Buffer, name: str) -> Stored:
    """The stored values of a film.

    Args:
        dataset: What stands before the pixels in the file, with its `file_meta`; read without the pixels.
        data: The whole file.
        name: What messages call it.

    Raises:
        FilmError: no pixels, damaged ones, or ones that contradict the header.
    """
    header = _Header.of(dataset, name)
    syntax = _syntax(dataset)
    known = syntax.name if syntax.name != str(syntax) else "of an unknown UID"  # which may hold anything
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise FilmError(f"{name}: transfer syntax {known} is not read", "save it uncompressed")
    vr, length, value = _element(data, name)
    if bytes(value[:4]) == streams.ITEM:
        frame, notes = _frame(header, value if length == UNDEFINED else value[:length], known)
        if length != UNDEFINED:
            notes = ()
    elif syntax.is_encapsulated:  # a stream that lies in the element bare
        frame, notes = value[:length], ()
    else:
        return _uncompressed(header, value[:length], syntax, vr)
    if syntax == RLELossless and not streams.recognised(frame):
        return _rle(header, frame, notes)
    return _compressed(header, frame, notes, syntax, known)


def _syntax(dataset: pydicom.Dataset) -> UID:
    if syntax := getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID"):
        return UID(str(syntax))
    # Without a file header the byte order was guessed in reading; what was guessed is the syntax.
    implicit, little = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian


def _element(data: Buffer, name: str) -> tuple[str | None, int, memoryview]:
    """VR and length of the pixel data, and all that follows their head in the file: nothing is copied."""
    found: list[tuple[str | None, int]] = []

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if tag == 0x7FE00010:
            found.append((vr, length))
        return bool(found)

    file = io.BytesIO(data)
    try:
        read_partial(file, stop_when=at_pixels, force=True)
    except Exception as error:  # whatever pydicom raises of a damaged header
        raise FilmError(f"{name}: its header is damaged ({type(error).__name__})", "export it again") from None
    if not found:
        raise FilmError(f"{name}: is DICOM without pixels, or cut off before them", "export the image object")
    (vr, length), start = found[0], file.tell()
    return vr, length, memoryview(data)[start + (12 if vr in ("OB", "OW", "UN", "OF", "OD") else 8) :]


def _uncompressed(header: _Header, value: memoryview, syntax: UID, vr: str | None) -> Stored:
    per_pixel = 2 if header.photometric == "YBR_FULL_422" else header.samples
    count = header.rows * header.columns * per_pixel
    need = -(-count * header.allocated // 8)
    if len(value) < need:
        found = f"is cut off: has {len(value):,} of {need:,} bytes of pixels"
        raise FilmError(f"{header.name}: {found}", "copy or export it again")
    notes = _after(header, value[need:], need // max(header.rows, 1))
    big = syntax == ExplicitVRBigEndian
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


def _frame(header: _Header, value: memoryview, known: str) -> tuple[Buffer, tuple[Note, ...]]:
    """The frame in encapsulated pixel data, however many fragments it has; a note if its end is not marked."""
    parts, ended = streams.fragments(value)
    if not parts:
        raise FilmError(f"{header.name}: its {known} pixels are empty", EXPORT)
    missing = Note(Code.END_MISSING, "the end of the pixel data is not marked")
    return parts[0] if len(parts) == 1 else b"".join(parts), () if ended else (missing,)


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


def _compressed(header: _Header, frame: Buffer, notes: tuple[Note, ...], syntax: UID, known: str) -> Stored:
    try:
        stream = streams.parse(frame)
    except StreamError as error:
        raise FilmError(f"{header.name}: its compressed pixels {error}", EXPORT) from None
    _check(header, stream)
    differs = []
    if syntax not in SYNTAXES[stream.kind]:
        differs.append(f"the pixels are {stream.kind}, the header says {known}")
    if stream.components != header.samples:
        differs.append(f"the pixels have {stream.components} components, the header says {header.samples}")
    notes += tuple(Note(Code.STREAM_DIFFERS_FROM_HEADER, text) for text in differs)
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
    values = stream.width * stream.height * stream.components
    if values * BYTES_PER_VALUE[stream.kind] > MAX_MEMORY:
        most = MAX_MEMORY // BYTES_PER_VALUE[stream.kind]
        raise FilmError(f"{name}: has {values:,} values as {stream.kind}; at most {most:,} are read", "shrink it")


def _decoded(header: _Header, stream: Stream, frame: Buffer) -> np.ndarray:
    """(rows, columns), or (rows, columns, 3) red, green, blue, of unsigned integers as coded; of luma and differences
    the luma."""
    luma = stream.components == 3 and _colour(header, stream) == "YBR"
    if stream.kind == Kind.JPEG and stream.bits == 8:
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


_aparts: dict[int, _Apart] = {}
"""By process: a fork must not talk on its parent's line, nor wait for a lock that nobody in it holds."""


def _apart(header: _Header, stream: Stream, frame: Buffer, size: int) -> bytes:
    """What the decoders' process makes of a stream: `size` bytes. A film that kills it costs only itself."""
    asked = {name: getattr(stream, name) for name in ("kind", "width", "height", "components", "bits")}
    own = _aparts.setdefault(os.getpid(), _Apart())
    for other in set(_aparts) - {os.getpid()}:
        if (apart := _aparts.pop(other, None)) and apart.child:
            apart.child.forget()
    with own.lock:
        child, own.child = own.child or Child("cxrlines.data.native", silent=True), None
        try:
            child.send(json.dumps(asked).encode(), frame)
            answer, values = json.loads(child.receive(SECONDS)), child.receive(SECONDS)
        except Died as end:
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
    """Values with the bits and the sign that make them a true picture."""
    bits, high_bit, signed, differs = header.bits, header.high_bit, header.signed, []
    if stream and stream.bits <= bits:
        high_bit = bits - 1
    if stream and (stream.bits < bits or (stream.bits > bits and not _explained(header, stream, values))):
        differs.append(f"the pixels have {stream.bits} bits, the header says {bits}")
        bits, high_bit = stream.bits, stream.bits - 1
    turned = Stored(values, bits, high_bit, not signed)
    told = Stored(values, bits, high_bit, signed)
    if stream and stream.signed is not None and stream.signed != signed:
        # Some encoders write the words of signed values as if they had no sign; then the header is right.
        if _roughness(turned) < _roughness(told):
            signed = stream.signed
        is_ = "signed" if stream.signed else "unsigned"
        differs.append(f"the pixels are coded {is_}, the header says otherwise; read as what is smooth")
    elif signed and not (stream and stream.signed) and _roughness(told) > ROUGHER * _roughness(turned):
        differs.append("the header says that values are signed, and they are not")
        signed = False
    notes += tuple(Note(Code.STREAM_DIFFERS_FROM_HEADER, text) for text in differs)
    return Stored(values, bits, high_bit, signed, notes)


def _explained(header: _Header, stream: Stream, values: np.ndarray) -> bool:
    """Whether a stream of more bits than BitsStored is what the header says: overlays above the values, values above
    nothing, or values that need no more."""
    if header.overlays or header.bits <= header.high_bit < stream.bits:
        return True
    if not (stream.signed or header.signed):
        return int(values.max()) < 2**header.bits
    unused = 8 * values.itemsize - stream.bits
    whole = (values << unused).view(f"i{values.itemsize}") >> unused
    half = 2 ** (header.bits - 1)
    return -half <= int(whole.min()) and int(whole.max()) < half


def _roughness(stored: Stored) -> float:
    """Mean leap between neighbours in a row, in up to 64 of the rows."""
    rows = stored.values[:: max(1, len(stored.values) // 64)]
    some = _numbers(Stored(rows if rows.ndim == 2 else rows[..., 0], stored.bits, stored.high_bit, stored.signed))
    return float(np.abs(np.diff(some, axis=1)).mean()) if some.shape[1] > 1 else 0.0


def _numbers(stored: Stored) -> np.ndarray:
    """The numbers that stored values are, int32: shifted, masked and with their sign."""
    shift = 31 - stored.high_bit
    whole = (stored.values.astype(np.uint32) << shift).view(np.int32)
    return (
        whole >> (32 - stored.bits) if stored.signed else (whole.view(np.uint32) >> (32 - stored.bits)).view(np.int32)
    )
