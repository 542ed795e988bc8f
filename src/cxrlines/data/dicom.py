"""DICOM: one frame of a radiograph as displayed gray, white = bone.

The chain is that of DICOM PS3.4 N.2: stored values, Modality LUT or rescale, VOI LUT or window, then MONOCHROME1
turned round. It is computed once for every stored value there can be, as a table, and looked up.
"""

import io
import logging
import warnings
from typing import Any

import numpy as np
import pydicom
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_modality_lut, apply_voi
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxrlines.data.decoders import stored_values
from cxrlines.data.films import Film, FilmError, check_size, spread, to_uint8
from cxrlines.data.spacing import NO_SPACING, Spacing, SpacingKind

# Pydicom's warnings quote the values of tags, patients' among them: none may reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\b")

MONOCHROME, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
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
    stored = stored_values(dataset, data, name)
    pixels = stored.values
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
    """All that stands before the pixels."""
    try:
        file = io.BytesIO(data)
        read_preamble(file, force=True)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
        dataset = None if deflated else pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
    except Exception as error:
        raise FilmError(
            f"{name}: is no DICOM file, or a damaged one ({type(error).__name__}); export it again"
        ) from None
    if dataset is None:  # inflating is not bounded by anything the header says
        raise FilmError(f"{name}: is a deflated DICOM file; only its pixels may be compressed; save it undeflated")
    if not {"Rows", "Columns"} <= set(dataset.dir()):
        raise FilmError(f"{name}: is DICOM without pixels, or cut off before them; export the image object")
    return dataset


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
