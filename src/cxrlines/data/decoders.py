"""Stored values from a DICOM file's pixel data, whatever it is compressed by."""

import io
import struct
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit, RLELossless

from cxrlines.data.films import FilmError
from cxrlines.data.notes import Note
from cxrlines.data.pool import Apart
from cxrlines.data.streams import encoded_size

DECODERS = ("pylibjpeg", "pillow", "pydicom", "gdcm")
"""Which of pydicom's plugins decodes: the first that is there and can."""
GDCM_SECONDS = 60.0
"""How long GDCM may take. It works in another process, as it can abort on a damaged JPEG-LS or lossless JPEG stream."""
PACKAGES = "python-gdcm, and for JPEG 2000 pylibjpeg with pylibjpeg-openjpeg"


@dataclass(frozen=True, eq=False)
class Stored:
    """A film's pixels as they are coded, before any of DICOM's display chain.

    Where the stream and the header contradict each other, `bits`, `high_bit` and `signed` are what gives the true
    picture: use them instead of the header's elements.

    Attributes:
        values: (rows, columns) integers, or (rows, columns, 3) red, green, blue, of 8 or 16 bits, in the machine's
            byte order, as coded: of uncompressed and RLE pixels all bits of the words, overlays and junk in the bits
            that are not the value's included; neither masked, shifted nor sign-extended.
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


def stored_values(dataset: pydicom.Dataset, data: bytes, name: str) -> Stored:
    """The stored values of a film.

    Args:
        dataset: What stands before the pixels in the file, with its `file_meta`; read without the pixels.
        data: The whole file.
        name: What messages call it.

    Raises:
        FilmError: no pixels, damaged ones, or ones that contradict the header.
    """
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "PixelData" not in dataset:
        raise FilmError(f"{name}: is DICOM without pixels, or cut off before them; export the image object")
    values = _pixels(dataset, data, name, int(dataset.Rows), int(dataset.Columns))
    bits, signed = int(dataset.BitsStored), dataset.get("PixelRepresentation") == 1
    return Stored(values, bits, bits - 1, signed)


def _pixels(dataset: pydicom.FileDataset, data: bytes, name: str, rows: int, columns: int) -> np.ndarray:
    """Stored values: (rows, columns) integers, or (rows, columns, 3) for colour."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        # Without a file header the byte order was guessed in reading; what was guessed is the syntax.
        implicit, little = dataset.original_encoding
        syntax = UID("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
        dataset.file_meta.TransferSyntaxUID = syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise FilmError(f"{name}: transfer syntax {_known(syntax)} is not read; save it uncompressed") from None
    if syntax == JPEGExtended12Bit and dataset.BitsStored > 8 and "pylibjpeg" not in decoder.available_plugins:
        missing = "12-bit JPEG needs the decoder pylibjpeg-libjpeg, which is GPL-3.0 and not among the dependencies"
        raise FilmError(f"{name}: {missing}; install it, or save the film uncompressed")
    if not decoder.is_available:
        missing = f"no decoder for {_known(syntax)} is installed; install {PACKAGES}, or save the film uncompressed"
        raise FilmError(f"{name}: {missing}")
    if not syntax.is_encapsulated:
        return decoder.as_array(dataset, index=0)[0]
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        samples, allocated = int(dataset.get("SamplesPerPixel") or 1), int(dataset.BitsAllocated)
        _check_rle(name, frame, rows, columns, samples * allocated // 8)
    else:
        _check_frame(name, frame, rows, columns)
    failed = "?"
    for plugin in DECODERS:
        if plugin in decoder.available_plugins:
            try:
                if plugin == "gdcm":
                    return _by_gdcm(data)
                return decoder.as_array(dataset, index=0, decoding_plugin=plugin)[0]
            except Exception as error:  # each decoder reads only some of its syntax's files, and says so in its own way
                failed = type(error).__name__
    raise FilmError(f"{name}: its {_known(syntax)} pixels are damaged ({failed}); export it again or uncompressed")


def _decode_by_gdcm(data: bytes) -> np.ndarray:
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    return get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=0, decoding_plugin="gdcm")[0]


_by_gdcm = Apart(_decode_by_gdcm, seconds=GDCM_SECONDS)


def _known(syntax: UID) -> str:
    """The name of a transfer syntax; of one DICOM does not know, no more than that: it may hold anything."""
    return syntax.name if syntax.name != str(syntax) else "of an unknown UID"


def _check_frame(name: str, frame: bytes, rows: int, columns: int) -> None:
    """`FilmError` unless a compressed frame is as large as the header says, and whole: native decoders trust both."""
    size = encoded_size(frame)
    if size != (columns, rows):
        found = f"{size[0]} x {size[1]}" if size else "unreadable"
        raise FilmError(f"{name}: compressed pixels are {found}, the header says {columns} x {rows}; export it again")
    if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # the end of image; encoders pad to even length with either
        raise FilmError(f"{name}: the compressed pixels are cut off before their end; copy or export it again")


def _check_rle(name: str, frame: bytes, rows: int, columns: int, planes: int) -> None:
    """`FilmError` if an RLE frame holds more than the header says: its decoder inflates all there is.

    Only the packets' lengths are read (PS3.5 G.3), no further than to the end of the film. A plane may be padded by a
    byte a row and a packet, encoded or not, which is more than any encoder needs.
    """
    count, *starts = struct.unpack("<16L", frame[:64].ljust(64, b"\0"))
    if count != planes:
        raise FilmError(f"{name}: has {count} RLE planes, the header says {planes}; export it again or uncompressed")
    room = rows * columns + rows + 128
    for start, end in pairwise([*starts[:count], len(frame)]):
        place, size, end = start, 0, min(end, len(frame))
        while place < end and size <= room and place - start <= 2 * room:
            length = frame[place]
            if length > 128:  # one byte, repeated
                size += 257 - length
                place += 2
            else:  # bytes as they are; 128 is nothing
                size += length + 1 if length < 128 else 0
                place += length + 2 if length < 128 else 1
        if size > room or place < end:
            raise FilmError(
                f"{name}: RLE pixels hold more than the {columns} x {rows} px the header says; export it again"
            )
