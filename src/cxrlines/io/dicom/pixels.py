"""Decoding DICOM pixel data (uncompressed, RLE, JPEG, JPEG-LS, JPEG 2000) to stored values.

A stream is decoded by what it says of itself, and that is compared with the header before a value is believed. Each
kind of stream has one decoder: what that refuses is damaged, and no other is tried that might make noise of it.
"""

import json
import math
import os
import struct
import threading
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from cxrlines.core.film import FilmError
from cxrlines.core.notes import Code, Note
from cxrlines.core.processes import Child, Died, Overdue
from cxrlines.core.text import plural
from cxrlines.io import jpeg
from cxrlines.io.dicom import streams
from cxrlines.io.dicom.header import Elements
from cxrlines.io.dicom.smoothness import FEW_LEAPS, LEAPS, RARER, bytes_swapped, leaps, misordered, run_on_below_0
from cxrlines.io.dicom.streams import Buffer, Kind, Stream, StreamError

SECONDS = 60.0
"""How long the decoder process may take for a film."""
MAX_MEMORY = 480 * 2**20
"""Decoding that would take more is not begun; see `_cost`."""
PACKET = 128
"""Most bytes that a packet of RLE unpacks to."""
EXPORT = "export it again, or uncompressed"
JPEG_SYNTAXES = "1.2.840.10008.1.2.4."
SYNTAXES = {
    Kind.JPEG: (50, 51, 52, 53, 54, 55, 56),
    Kind.LOSSLESS: (57, 70),
    Kind.JPEG_LS: (80, 81),
    Kind.JPEG_2000: (90, 91, 92, 93, 201, 202, 203),
}
"""Transfer syntaxes (`JPEG_SYNTAXES` + number) of each kind of stream."""


@dataclass(frozen=True)
class PixelHeader:
    """How a film's pixels are stored, by its header; all values are possible.

    Attributes:
        rows, columns, samples, allocated, photometric: As the elements of DICOM.
        bits: How many bits of a word are the value's (BitsStored).
        high_bit: Which is its highest, from 0 (HighBit); the value is bits high_bit - bits + 1 to high_bit.
        signed: Whether it is in two's complement (PixelRepresentation).
        by_plane: Whether colours lie by plane (PlanarConfiguration).
        syntax: Transfer syntax.
    """

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

    @property
    def known_syntax(self) -> str:
        """The name of the transfer syntax; "of an unknown UID" for one not in DICOM, which may hold anything."""
        return self.syntax.name if self.syntax.name != str(self.syntax) else "of an unknown UID"


def stored_values(header: PixelHeader, elements: Elements, notes: list[Note]) -> tuple[np.ndarray, PixelHeader]:
    """The stored values of a film before any of DICOM's display chain, and the header that fits them.

    Values are (rows, columns), or (rows, columns, 3) red, green, blue, uint8 or uint16: words as coded, with overlays
    and junk in the bits that are not the value's; not shifted. Of YBR colour they are the luma: (rows, columns). Where
    stream and header contradict each other, the header's `bits`, `high_bit` and `signed` become what gives the true
    picture, and `notes` gets that, and bytes after the end.

    Raises:
        FilmError: damaged pixels, ones of a kind that is not read, or that contradict the header.
    """
    if not header.syntax.is_transfer_syntax or header.syntax.is_private:
        raise FilmError(f"transfer syntax {header.known_syntax} is not read", "save it uncompressed")
    if bytes(elements.rest).strip(b"\0\xff"):
        text = f"{plural(len(elements.rest), 'byte follows', 'bytes follow')} PixelData that are no element; left out"
        notes.append(Note(Code.BYTES_AFTER_END, text))
    frame: Buffer = elements.pixels
    if bytes(frame[:4]) == streams.ITEM:
        parts = streams.fragments(frame)
        if not parts:
            raise FilmError(f"its {header.known_syntax} pixels are empty", EXPORT)
        if elements.open_end:
            notes.append(Note(Code.END_MISSING, "the end of the pixel data is not marked"))
        frame = parts[0] if len(parts) == 1 else b"".join(parts)
    elif not header.syntax.is_encapsulated:
        return _uncompressed(header, elements.pixels, elements.pixels_vr, notes)
    if not streams.recognised(frame):
        need = header.rows * header.columns * header.allocated // 8
        if frame is elements.pixels and header.samples == 1 and len(frame) == need + need % 2:
            _differ(notes, f"the pixels are uncompressed, the header says {header.known_syntax}")
            return _uncompressed(replace(header, syntax=ExplicitVRLittleEndian), elements.pixels, "", notes)
        if header.syntax == RLELossless:
            return _rle(header, frame, notes)
    return _compressed(header, frame, notes)


def _uncompressed(header: PixelHeader, value: memoryview, vr: str, notes: list[Note]) -> tuple[np.ndarray, PixelHeader]:
    rows, columns = header.rows, header.columns
    per_pixel = 2 if header.photometric == "YBR_FULL_422" else header.samples
    count = rows * columns * per_pixel
    need = -(-count * header.allocated // 8)
    if per_pixel == 2 and count % 4:
        raise FilmError(f"Columns is {columns}; YBR_FULL_422 has an even number", "export it again")
    if len(value) < need:
        raise FilmError(f"is cut off: has {len(value):,} of {need:,} bytes of pixels", "copy or export it again")
    rest = value[need:]
    if _says_anything(rest):
        if len(rest) > max(need // rows, 256):  # more than a row may be a picture of another shape
            found = f"has {len(rest):,} bytes of pixels more than its header's rows, columns and bits make"
            raise FilmError(found, "export it again")
        notes.append(
            Note(Code.BYTES_AFTER_END, f"{plural(len(rest), 'byte follows', 'bytes follow')} the pixels; left out")
        )
    big = header.syntax == ExplicitVRBigEndian
    if header.allocated == 16:
        flat: np.ndarray = np.frombuffer(value[:need], ">u2" if big else "<u2").astype(np.uint16, copy=False)
    else:
        flat = np.frombuffer(value[:need], np.uint8)
        if big and vr == "OW":  # bytes lie in words, which are turned round
            words = np.frombuffer(bytes(value[: need + need % 2]).ljust(need + need % 2, b"\0"), np.uint8)
            flat = words.reshape(-1, 2)[:, ::-1].reshape(-1)[:need]
        if header.allocated == 1:
            flat = np.unpackbits(flat, bitorder="little")[:count]
    if per_pixel == 2:  # two lumas, then the differences that both share
        values: np.ndarray = np.ascontiguousarray(flat.reshape(-1, 4)[:, :2]).reshape(rows, columns)
    elif per_pixel == 1:
        values = flat.reshape(rows, columns)
        if header.allocated == 16 and bytes_swapped(values):
            _differ(notes, "the two bytes of each value lie in the other order than the header says")
            values = values.byteswap()
    else:
        orders = np.moveaxis(flat.reshape(3, rows, columns), 0, -1), flat.reshape(rows, columns, 3)
        values, other = orders if header.by_plane else orders[::-1]
        if misordered(values, other):
            _differ(notes, "PlanarConfiguration contradicts the colours, which lie in the other order")
            values = other
        if header.photometric.startswith("YBR_FULL"):
            values = np.ascontiguousarray(values[..., 0])
    return _settled(header, values, notes)


def _says_anything(rest: Buffer) -> bool:
    """Whether bytes behind an end are more than padding."""
    values = np.frombuffer(rest, np.uint8)
    return len(values) > 1 and bool((values != values[0]).any() or values[0] not in (0, 255))


def _rle(header: PixelHeader, frame: Buffer, notes: list[Note]) -> tuple[np.ndarray, PixelHeader]:
    """RLE (DICOM PS3.5, Annex G): planes of bytes, the highest first, each packed as TIFF's PackBits are."""
    size, wanted = header.rows * header.columns, header.samples * header.allocated // 8
    count, *starts = struct.unpack("<16L", bytes(frame[:64]).ljust(64, b"\0"))
    if count != wanted:
        raise FilmError(f"has {count} RLE planes, the header says {wanted}", EXPORT)
    planes = []
    for start, end in zip(starts[:count], [*starts[1:count], len(frame)], strict=True):
        packed = bytes(frame[start : max(start, end)])
        plane = _unpacked(packed, size)
        if plane is None:
            raise FilmError("its RLE pixels are cut off or damaged", EXPORT)
        if _unpacked(packed, size + 1) is not None and not _is_padded(packed, size):
            found = f"RLE pixels hold more than the {header.columns} x {header.rows} px the header says"
            raise FilmError(found, EXPORT)
        planes.append(plane.reshape(header.rows, header.columns))
    if header.allocated == 16:
        planes = [high.astype(np.uint16) << 8 | low for high, low in zip(planes[::2], planes[1::2], strict=True)]
    luma_only = len(planes) == 1 or header.photometric.startswith("YBR_FULL")
    return _settled(header, planes[0] if luma_only else np.stack(planes, axis=-1), notes)


def _is_padded(packed: bytes, size: int) -> bool:
    """Whether what PackBits unpack to beyond `size` bytes is a packet of zeros at most, as zeros behind a plane are."""
    shown = _unpacked(packed + bytes(4 * PACKET), size + PACKET)  # zeros that are added unpack to zeros
    return shown is not None and not shown[size:].any() and _unpacked(packed, size + PACKET + 1) is None


def _unpacked(packed: bytes, size: int) -> np.ndarray | None:
    """The first `size` bytes of what PackBits unpack to; None if there are fewer. Nothing more is unpacked."""
    try:
        return np.asarray(Image.frombytes("L", (size, 1), packed, "packbits", "L")).reshape(-1)
    except ValueError:
        return None


def _compressed(header: PixelHeader, frame: Buffer, notes: list[Note]) -> tuple[np.ndarray, PixelHeader]:
    try:
        stream = streams.parse(frame)
    except StreamError as error:
        raise FilmError(f"its compressed pixels {error}", EXPORT) from None
    _check(header, stream)
    if str(header.syntax) not in {f"{JPEG_SYNTAXES}{number}" for number in SYNTAXES[stream.kind]}:
        _differ(notes, f"the pixels are {stream.kind}, the header says {header.known_syntax}")
    if stream.components != header.samples:
        _differ(notes, f"the pixels have {stream.components} components, the header says {header.samples}")
    rest = frame[stream.end :]
    if streams.recognised(bytes(rest).lstrip(b"\0")):
        found = f"pixels hold several frames of {stream.kind}, the header says one; a film is one frame"
        raise FilmError(found, "export the frame that is the film")
    if _says_anything(rest):
        text = f"{plural(len(rest), 'byte follows', 'bytes follow')} the compressed pixels; left out"
        notes.append(Note(Code.BYTES_AFTER_END, text))
    return _settled(header, _decoded(header, stream, frame[stream.start : stream.end]), notes, stream)


def _check(header: PixelHeader, stream: Stream) -> None:
    """`FilmError` where stream and header differ so that neither can be believed, or decoding would take too much."""
    if (stream.width, stream.height) != (header.columns, header.rows):
        found = f"compressed pixels are {stream.width} x {stream.height}"
        raise FilmError(f"{found}, the header says {header.columns} x {header.rows}", "export it again")
    if stream.components not in (1, 3) or stream.bits > 16:
        found = f"compressed pixels have {stream.components} components of {stream.bits} bits"
        raise FilmError(f"{found}; 1 or 3 of at most 16 are read", "convert it")
    if stream.components == 3 and header.photometric == "MONOCHROME1":
        found = "compressed pixels have 3 components, the header says MONOCHROME1: which is white is unknown"
        raise FilmError(found, "export it again")
    if _cost(stream) > MAX_MEMORY:
        found = f"{stream.width} x {stream.height} px with {stream.components} components of {stream.bits} bits"
        allowed = f"as {stream.kind} that takes {_cost(stream) >> 20} MB, at most {MAX_MEMORY >> 20} are given to it"
        raise FilmError(f"compressed pixels are {found}; {allowed}", "save it uncompressed, or shrunk")


def _by_itself(stream: Stream) -> bool:
    """Whether Pillow decodes a stream, in this process: libjpeg-turbo raises, or reads on, whatever it is given."""
    return stream.kind == Kind.JPEG and stream.bits == 8


def _cost(stream: Stream) -> int:
    """Bytes that decoding takes, the result included (measured): of OpenJPEG two words of 32 bits a value, of GDCM
    several copies."""
    each = 3 if _by_itself(stream) else 8 if stream.kind == Kind.JPEG_2000 else 5.5 if stream.bits <= 8 else 11
    return int(stream.width * stream.height * stream.components * each)


def _decoded(header: PixelHeader, stream: Stream, frame: Buffer) -> np.ndarray:
    """(rows, columns), or (rows, columns, 3) red, green, blue, of unsigned integers as coded; of YBR the luma."""
    luma = stream.components == 3 and _colour(header, stream) == "YBR"
    if _by_itself(stream):
        return _by_pillow(header, stream, frame, luma)
    kind = np.dtype(np.uint8 if stream.bits <= 8 else "<u2")
    shape = (stream.height, stream.width, stream.components)
    values = np.frombuffer(_by_native(stream, frame, math.prod(shape) * kind.itemsize), kind).reshape(shape)
    return values if stream.components == 3 and not luma else np.ascontiguousarray(values[..., 0])


def _colour(header: PixelHeader, stream: Stream) -> str:
    """RGB or YBR. The header decides where the stream does not say; JPEG without a word is YBR."""
    if stream.colour:
        return stream.colour
    if header.photometric.startswith("YBR"):
        return "YBR"
    return "RGB" if header.photometric == "RGB" or stream.kind != Kind.JPEG else "YBR"


def _by_pillow(header: PixelHeader, stream: Stream, frame: Buffer, luma: bool) -> np.ndarray:
    if stream.components == 3 and not luma and stream.colour is None:
        # Without a word in the stream libjpeg takes it for YBR: let the stream say what it is.
        frame = bytes(frame[:2]) + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0" + bytes(frame[2:])
    try:
        return np.asarray(jpeg.decoded(bytes(frame), stream._replace(end=len(frame)), gray=luma))
    except StreamError as error:
        raise FilmError(f"its compressed pixels {error}", EXPORT) from None
    except MemoryError:  # it says nothing of the stream
        raise
    except Exception as error:  # whatever a decoder raises of a damaged stream
        raise _damaged(stream, type(error).__name__) from None


def _damaged(stream: Stream, why: str) -> FilmError:
    return FilmError(f"its {stream.kind} pixels are damaged ({why})", EXPORT)


class _Decoder:
    """The decoder process of this process, begun when it is needed and kept."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: Child | None = None
        self.deaths = 0


_decoder = _Decoder()


def _in_fork() -> None:
    """A fork must not talk on its parent's line, nor wait for a lock that nobody in it holds."""
    global _decoder
    if _decoder.child:
        _decoder.child.forget()
    _decoder = _Decoder()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_in_fork)


def deaths() -> int:
    """How often the decoder process has died of a film, in this process."""
    return _decoder.deaths


def decoding_pid() -> int | None:
    """The decoder process of this process, if it has been begun."""
    return _decoder.child.process.pid if _decoder.child else None


def _by_native(stream: Stream, frame: Buffer, size: int) -> bytes:
    """What the decoder process makes of a stream: `size` bytes. A film that kills it, twice, costs only itself."""
    request = {name: getattr(stream, name) for name in ("kind", "width", "height", "components", "bits")}
    own = _decoder
    with own.lock:
        for again in (True, False):  # the system may have ended it, for lack of memory
            child, own.child = own.child or Child("cxrlines.io.dicom.native", silent=True), None
            try:
                child.send(json.dumps(request).encode(), frame)
                answer, values = json.loads(child.receive(SECONDS)), child.receive(SECONDS)
                break
            except Died as end:
                own.deaths += 1
                child.kill()
                if isinstance(end, Overdue):
                    what = f"its {stream.kind} pixels are not decoded: its decoder {end}"
                    way_out = f"try again on a machine that is less busy, or {EXPORT}"
                    raise FilmError(what, way_out) from None
                if not again:
                    raise _damaged(stream, f"its decoder {end}") from None
            except BaseException:  # Ctrl-C: what it would answer is of this film, not of the next
                child.kill()
                raise
        own.child = child
    if missing := answer.get("missing"):
        way_out = f"install {missing}, or save the film uncompressed"
        raise FilmError(f"no decoder for {stream.kind} is installed", way_out, passing=True)
    if len(values) != size:
        raise _damaged(stream, answer.get("failed", "another size"))
    return values


def _differ(notes: list[Note], text: str) -> None:
    notes.append(Note(Code.STREAM_DIFFERS_FROM_HEADER, text))


def _settled(
    header: PixelHeader, values: np.ndarray, notes: list[Note], stream: Stream | None = None
) -> tuple[np.ndarray, PixelHeader]:
    """Values with the bits and the sign that make them a true picture; the display finds overlays in their words."""
    bits, high_bit, signed = header.bits, header.high_bit, header.signed
    if stream and stream.bits <= high_bit:  # above it there is nothing
        high_bit = bits - 1
    if stream and (stream.bits < bits or (stream.bits > high_bit + 1 == bits and _is_wider(header, values, stream))):
        _differ(notes, f"the pixels have {stream.bits} bits, the header says {bits}")
        bits, high_bit = stream.bits, stream.bits - 1
    if values.ndim == 3:  # colours have no sign: that of a stream says only where their black lies
        if stream and stream.signed:
            values = values + 2 ** (stream.bits - 1) & 2**stream.bits - 1
            _differ(notes, "the colours are coded signed; their lowest value is taken for black")
        values = values >> (high_bit - bits + 1) if high_bit >= bits else values
        return values, replace(header, bits=bits, high_bit=bits - 1, signed=False)
    with_sign, without = (leaps(values, bits, high_bit, sign) for sign in (True, False))
    if stream and stream.signed is not None and stream.signed != signed:
        # Some encoders write the words of signed values as if they had no sign; then the header is right.
        signed = with_sign < without if with_sign != without else signed
        coded, read = ("signed" if sign else "unsigned" for sign in (stream.signed, signed))
        _differ(notes, f"the pixels are coded {coded}, the header says otherwise; read as {read}, which is smoother")
    elif signed and not (stream and stream.signed) and with_sign > max(LEAPS, RARER * without):
        _differ(notes, "the header says that the values are signed, and they are not")
        signed = False
    elif (
        not signed
        and bits > 8  # of 8 none is signed, and letters in JPEG look like values below 0
        and without > max(FEW_LEAPS, RARER * with_sign)
        and run_on_below_0(values, bits, high_bit)
    ):
        _differ(notes, "the header says that the values are unsigned, and they are signed")
        signed = True
    if stream and (signed or stream.signed):
        unused = 8 * values.itemsize - stream.bits
        values = ((values << unused).view(f"{'i' if signed else 'u'}{values.itemsize}") >> unused).view(values.dtype)
    return values, replace(header, bits=bits, high_bit=high_bit, signed=signed)


def _is_wider(header: PixelHeader, values: np.ndarray, stream: Stream) -> bool:
    """Whether values have all the bits of their stream, and not an overlay, or nothing, above those of the header."""
    if values.ndim == 3:
        return int(values.max()) >= 1 << header.bits
    signed = bool(stream.signed or header.signed)
    narrow, wide = (leaps(values, bits, bits - 1, signed) for bits in (header.bits, stream.bits))
    return bool(narrow > max(LEAPS, RARER * wide))
