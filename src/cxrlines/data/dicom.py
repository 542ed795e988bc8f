"""DICOM: one frame of a radiograph as displayed gray, white = bone.

The chain is that of DICOM PS3.4 N.2: stored values, Modality LUT or rescale, VOI LUT or window, then MONOCHROME1
turned round. It is computed once for every stored value there can be, as a table, and looked up.
"""

import io
import logging
import struct
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi, get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEGExtended12Bit, RLELossless

from cxrlines.data.films import Film, FilmError, check_size, spread, to_uint8
from cxrlines.data.pool import Apart
from cxrlines.data.spacing import NO_SPACING, Spacing, SpacingKind

# Pydicom's warnings quote the values of tags, patients' among them: none may reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\b")

MONOCHROME, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DECODERS = ("pylibjpeg", "pillow", "pydicom", "gdcm")
"""Which of pydicom's plugins decodes: the first that is there and can."""
GDCM_SECONDS = 60.0
"""How long GDCM may take. It works in another process, as it can abort on a damaged JPEG-LS or lossless JPEG stream."""
PACKAGES = "python-gdcm, and for JPEG 2000 pylibjpeg with pylibjpeg-openjpeg"
MAX_MM_PER_PX = 10.0
VIEWS = ("PA", "AP", "LL", "RL", "LATERAL", "RLD", "LLD", "RLO", "LLO")
"""Values of View Position that are told: those of DICOM PS3.3 C.8.1.9, C.8.11.5, and what some machines write."""


def decode_dicom(data: bytes, name: str, max_pixels: int) -> Film:
    """A DICOM file's one frame. `FilmError` for what it is not; may also raise what pydicom and its decoders raise."""
    dataset = _read(data, name)
    rows, columns, bits = (int(dataset.get(tag) or 0) for tag in ("Rows", "Columns", "BitsStored"))
    check_size(name, columns, rows, max_pixels)
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise FilmError(f"{name}: has {frames} frames; a film is one; export the frame that is the film")
    photometric = str(dataset.get("PhotometricInterpretation", "missing"))
    if photometric not in MONOCHROME + COLOUR:
        kinds = ", ".join(MONOCHROME + COLOUR)
        raise FilmError(f"{name}: PhotometricInterpretation is {photometric[:16]!r}; read are {kinds}; convert it")
    if not 1 <= bits <= 16 or dataset.get("BitsAllocated") not in (1, 8, 16):
        raise FilmError(f"{name}: has {bits} bits a pixel; 1 to 16, stored in 1, 8 or 16, are read; convert it")
    pixels = _pixels(dataset, data, name, rows, columns)
    if pixels.ndim == 3:  # colour, always 8 bit in what follows, red green blue
        gray = pixels[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return Film(to_uint8(gray / (2**bits - 1)), "DICOM", bits, _spacing(dataset), _view(dataset))
    gray = _displayed(dataset, name, pixels, bits)
    if photometric == "MONOCHROME1":
        gray = 255 - gray
    return Film(gray, "DICOM", bits, _spacing(dataset), _view(dataset))


def bytes_of(dataset: pydicom.Dataset, name: str) -> bytes:
    """A Dataset as the bytes of a file; it may lack UIDs and a file header, as after de-identification."""
    meta = getattr(dataset, "file_meta", None) or {}
    implicit, little = dataset.original_encoding
    out = io.BytesIO()
    try:
        plain = pydicom.Dataset()
        plain.update(dataset)
        plain.file_meta = pydicom.dataset.FileMetaDataset()
        syntax = meta.get("TransferSyntaxUID")
        if syntax is None:
            syntax = UID(
                "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.2" if little is False else "1.2.840.10008.1.2.1"
            )
        plain.file_meta.TransferSyntaxUID = syntax
        plain.save_as(out)
    except Exception as error:
        raise FilmError(f"{name}: cannot be written as DICOM ({type(error).__name__})", "save it as a file") from None
    return out.getvalue()


def _read(data: bytes, name: str) -> pydicom.FileDataset:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
        if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            # Inflating is not bounded by anything the header says.
            raise FilmError(f"{name}: is a deflated DICOM file; only its pixels may be compressed; save it undeflated")
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    except FilmError:
        raise
    except Exception as error:
        raise FilmError(
            f"{name}: is no DICOM file, or a damaged one ({type(error).__name__}); export it again"
        ) from None
    if not {"PixelData", "Rows", "Columns"} <= set(dataset.dir()):
        raise FilmError(f"{name}: is DICOM without pixels, or cut off before them; export the image object")
    return dataset


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


def encoded_size(frame: bytes) -> tuple[int, int] | None:
    """(width, height) a JPEG, JPEG-LS or JPEG 2000 stream says it has; None if it says none."""
    if (start := frame.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:  # JPEG 2000, bare or boxed: SOC, SIZ
        x1, y1, x0, y0 = (int.from_bytes(frame[start + i : start + i + 4]) for i in (8, 12, 16, 20))
        return x1 - x0, y1 - y0
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # start of frame
            return int.from_bytes(frame[place + 7 : place + 9]), int.from_bytes(frame[place + 5 : place + 7])
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4])
    return None


def _displayed(dataset: pydicom.FileDataset, name: str, pixels: np.ndarray, bits: int) -> np.ndarray:
    """Stored values (h, w) as uint8 through Modality LUT and VOI LUT or window; see `spread` where there is neither."""
    signed = dataset.get("PixelRepresentation") == 1
    low = -(2 ** (bits - 1)) if signed else 0
    stored = np.arange(low, low + 2**bits, dtype=np.int32)
    modality = _rescaled(dataset, stored)
    place = np.clip(pixels.astype(np.int32) - low, 0, 2**bits - 1)
    if dataset.get("VOILUTSequence"):
        table = apply_voi(np.rint(modality).astype(np.int32), dataset)
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return to_uint8(table / (2.0**depth - 1))[place]
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None and (centre, width) != (0, 0):  # zeros only fill the tags
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        shown = to_uint8(windowed(modality.astype(np.float64), centre, width, function, name))[place]
        if np.ptp(shown) or not np.ptp(place):  # else the window lies beside the film's values and shows nothing
            return shown
    values = modality[place]
    if bits <= 8 and modality is stored:
        return to_uint8((values - low) / (2.0**bits - 1))
    padding = dataset.get("PixelPaddingValue")
    return spread(values, None if padding is None else pixels != padding)


def _rescaled(dataset: pydicom.FileDataset, stored: np.ndarray) -> np.ndarray:
    """Stored values through the Modality LUT or rescale; `stored` itself where there is none, or one that does nothing.

    Of a rescale that is empty, or of slope 0, no value is taken: it stands for none.
    """
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset)
    slope, intercept = _first(dataset.get("RescaleSlope")) or 1.0, _first(dataset.get("RescaleIntercept")) or 0.0
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def windowed(values: np.ndarray, centre: float, width: float, function: str, name: str) -> np.ndarray:
    """Share of white by DICOM PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT); not clipped."""
    if function == "LINEAR" and width >= 1:
        return (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    if function == "LINEAR_EXACT" and width > 0:
        return (values - centre) / width + 0.5
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    raise FilmError(
        f"{name}: VOILUTFunction {function[:16]!r} with WindowWidth {width:g} cannot be shown; LINEAR needs a width of "
        "at least 1, LINEAR_EXACT and SIGMOID more than 0; mend or remove the window"
    )


def _first(value: Any) -> float | None:
    """The first finite number of a DICOM value, which may be one, several, empty or no number at all."""
    try:
        number = float(value if not isinstance(value, pydicom.multival.MultiValue) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _spacing(dataset: pydicom.FileDataset) -> Spacing:
    """The spacing that the file names."""
    for tag in ("PixelSpacing", "ImagerPixelSpacing"):
        value = dataset.get(tag)
        if isinstance(value, pydicom.multival.MultiValue) and len(value) == 2:
            vertical, horizontal = _first(value[0]), _first(value[1])
            if vertical and horizontal and 0 < vertical < MAX_MM_PER_PX and 0 < horizontal < MAX_MM_PER_PX:
                return Spacing(SpacingKind.DETECTOR, (vertical, horizontal))
    return NO_SPACING


def _view(dataset: pydicom.FileDataset) -> str | None:
    """View Position, one of VIEWS; None if the file says none, or another: free text may name the patient."""
    view = str(dataset.get("ViewPosition") or "").strip().upper()
    return view if view in VIEWS else None
