"""Films: a file of JPEG, PNG, TIFF or DICOM as one gray image, white = bone.

What a file is, its content says, not its name. Every size is checked from the header before a pixel is decoded.
Whatever is wrong with a file, reading it ends in a `FilmError` that names the file and the way out.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from cxrlines.data.notes import Note
from cxrlines.data.spacing import NO_SPACING, Spacing
from cxrlines.errors import Error

if TYPE_CHECKING:
    import pydicom

# What matters of a damaged file a FilmError says; the rest is noise on stderr.
warnings.filterwarnings("ignore", module=r"PIL\b")

MAX_PIXELS = 50_000_000
"""Largest film read, in px. The largest detectors (43 x 43 cm at 0.1 mm) make 18 million."""
MAX_BYTES = 2**29
"""Largest file read: 512 MiB, five times MAX_PIXELS at 16 bit."""
PERCENTILES = (0.5, 99.5)
"""Gray values that become black and white where a file of more than 8 bits does not say what to show."""


class FilmError(Error):
    """A film cannot be read: which file, what was found, what is allowed, the way out. Holds no patient data."""


class NotAFilm(FilmError):
    """A sound file that shows no film but comes along with films: of a folder it is skipped and counted, no failure.

    Attributes:
        kind: What it is, in a few words ("DICOMDIR", "structured report", ...), to count by.
    """

    def __init__(self, what: str, way_out: str, kind: str) -> None:
        super().__init__(what, way_out)
        self.kind = kind
        self.args = (what, way_out, kind)  # what it is pickled by


@dataclass(frozen=True, eq=False)
class Film:
    """One decoded film.

    Attributes:
        pixels: (h, w) uint8 gray, white = bone.
        format: JPEG, PNG, TIFF, DICOM or array.
        bits: Bits a pixel stored in the file.
        spacing: mm a px, where the file says it (DICOM only), and what it rests on.
        view: The view it was taken in (DICOM ViewPosition: PA, AP, LL, ...), where the file says it.
        notes: What is odd about the file, in the order found.
        study_uid: DICOM StudyInstanceUID, where the file has one that is a valid UID.
        sop_uid: DICOM SOPInstanceUID, likewise.
    """

    pixels: np.ndarray
    format: str
    bits: int
    spacing: Spacing = NO_SPACING
    view: str | None = None
    notes: tuple[Note, ...] = ()
    study_uid: str | None = None
    sop_uid: str | None = None

    @property
    def mm_per_px(self) -> tuple[float, float] | None:
        """(row, column) spacing in mm that distances rest on; None where there is none, or none that is believed."""
        return self.spacing.mm_per_px


def read_film(
    source: "Path | bytes | pydicom.Dataset", *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Film:
    """Decode a film file, the bytes of one, or a pydicom Dataset; `name` is what messages call it (default: its path).

    Colour becomes gray by luma (ITU-R 601); transparency is dropped; JPEG and TIFF orientation tags are obeyed. A
    gray file of more than 8 bits that does not say what to show spans its PERCENTILES. `FilmError` for all else:
    no such file, a folder, another format, truncated, damaged, larger than `max_pixels`, float pixels, many pages.
    """
    if isinstance(source, str | Path):
        data, name = read_bytes(Path(source)), name or str(source)
    elif isinstance(source, bytes):
        data, name = source, name or "the film"
    else:
        from cxrlines.data.dicom import bytes_of

        name = name or "the film"
        data = bytes_of(source, name)
    try:
        return _decode(data, name, max_pixels)
    except FilmError:
        raise
    except Exception as error:  # decoders raise anything on damaged files; their own words may quote the file
        raise FilmError(
            f"{name}: is damaged or of a kind its decoder does not know ({type(error).__name__}); export it again"
        ) from None


def _decode(data: bytes, name: str, max_pixels: int) -> Film:
    if not data:
        raise FilmError(f"{name}: is empty (0 bytes); copy or export it again")
    kind = kind_of(data)
    if kind is None:
        raise FilmError(f"{name}: is not a film; JPEG, PNG, TIFF and DICOM are read, told by content, not by name")
    if kind == "DICOM":
        from cxrlines.data.dicom import decode_dicom  # pydicom takes a while to import; most data sets have no DICOM

        return decode_dicom(data, name, max_pixels)
    return _decode_image(data, kind, name, max_pixels)


def kind_of(head: bytes) -> str | None:
    """What a file is by its first 132 bytes or more: JPEG, PNG, TIFF, DICOM, or None."""
    if head[128:132] == b"DICM":  # first, as a DICOM file's preamble may be the header of a TIFF
        return "DICOM"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    # Without its preamble DICOM begins with an element of group 2 or 8, in either byte order.
    if len(head) > 8 and head[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08"):
        return "DICOM"
    return None


def is_film(path: Path) -> bool:
    """Whether a file's first bytes are those of a film; False for what cannot be opened."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(132)) is not None
    except OSError:
        return False


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """`FilmError` for a film without pixels or with more than `max_pixels`."""
    if width < 1 or height < 1 or width * height > max_pixels:
        raise FilmError(
            f"{name}: is {width} x {height} px; a film has at least 1 and at most {max_pixels:,} px; shrink it"
        )


def spread(pixels: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Gray of any depth as uint8: PERCENTILES of the `known` pixels (bool; default all) become 0 and 255."""
    low, high = np.percentile(pixels if known is None or not known.any() else pixels[known], PERCENTILES)
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max())
    return to_uint8((pixels.astype(np.float32) - low) / max(high - low, 1e-6))


def to_uint8(share: np.ndarray) -> np.ndarray:
    """Shares of white as uint8; below 0 is black, above 1 white."""
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; `FilmError` if it is no file, too large to be a film, or not to be had."""
    try:
        if path.is_dir():
            raise FilmError(f"{path}: is a folder; name the film in it")
        if path.exists() and not path.is_file():
            raise FilmError(f"{path}: is not a regular file; name a film")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise FilmError(f"{path}: has {size:,} bytes; a film has at most {MAX_BYTES:,}; export one frame, shrunk")
        return path.read_bytes()
    except OSError as error:
        raise FilmError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _decode_image(data: bytes, kind: str, name: str, max_pixels: int) -> Film:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=[kind])
    except Image.DecompressionBombError:  # before it says the size
        raise FilmError(
            f"{name}: is far larger than a film, which has at least 1 and at most {max_pixels:,} px; shrink it"
        ) from None
    check_size(name, image.width, image.height, max_pixels)
    if kind == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise FilmError(f"{name}: has {pages} pages; a film is one; save the page that is the film")
    inverted = image.mode != "L" and kind == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    image.load()
    image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode == "F":
        raise FilmError(f"{name}: has float pixels, of unknown black and white; save it as 8 or 16 bit gray")
    if mode.startswith("I"):
        pixels = spread(np.asarray(image))
        # Pillow turns 1- and 8-bit TIFFs with white = 0 round, deeper ones not.
        return Film(255 - pixels if inverted else pixels, kind, 16)
    return Film(np.array(image.convert("L")), kind, 1 if mode == "1" else 8)
