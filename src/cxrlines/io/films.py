"""Reading a film (JPEG, PNG, TIFF, DICOM, an array) as one 8-bit gray image, white = bone.

The content decides what a file is, not its name. Whatever is wrong with a file, reading it ends in a `FilmError` that
names the file and the way out; what is odd about one that is read is in its notes.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import numpy as np

from cxrlines.core.files import readable
from cxrlines.core.film import Film, FilmError, check_size

if TYPE_CHECKING:
    import pydicom  # takes a quarter of a second, and is imported where a film is DICOM

Source: TypeAlias = "str | os.PathLike[str] | os.PathLike[bytes] | bytes | np.ndarray | pydicom.Dataset"
"""A film: its path, its file's bytes, its pixels ((h, w) uint8, white = bone, not changed), or a DICOM dataset."""
MAX_BYTES = 2**29
"""Largest file read: 512 MiB, five times MAX_PIXELS at 16 bit."""
PICTURES = (
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL", "JPEG XL"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavif", "AVIF"),
)
"""(place, bytes there, name) of formats of images that are not read; JPEG 2000 within DICOM is."""
OTHERS = (
    (b"\x1f\x8b", "compressed by gzip", "unpack it (gunzip) and name the file in it"),
    (b"PK\3\4", "a ZIP archive", "unpack it and name the folder"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it and name the folder"),
    (b"%PDF", "a PDF document", "export the film in it as DICOM or PNG"),
    (b"version https://git-lfs", "a pointer of Git LFS, and not the film itself", "fetch it with `git lfs pull`"),
    (b"", "not a film", "JPEG, PNG, TIFF and DICOM are read, by their content, whatever their name"),
)
"""(first bytes, what it is, the way out) of other files given for films, or that films are packed in."""


def read_film(source: Source, *, name: str | None = None) -> Film:
    """The film of a source; `name` is what messages call it (default: its path, or "the film").

    Colour becomes gray by luma (ITU-R 601); what is wholly transparent is black; JPEG, PNG and TIFF orientation tags
    are obeyed. A gray file of more than 8 bits without a window spans the contrast of its film (`io.contrast`).

    Raises:
        NotAFilm: a sound file of another kind that comes along with films, such as a report or a DICOMDIR.
        FilmError: all else: no such file, a folder, another format, truncated, damaged, larger than `MAX_PIXELS`,
            float pixels, many pages, an array of another kind, nothing that is a film.
    """
    if isinstance(source, str) and not source:  # as a path it would be the current folder
        raise FilmError(f"{name or 'the film'}: its path is empty", "name the film")
    if isinstance(source, str | os.PathLike) and "\0" not in os.fsdecode(source):
        path = Path(os.fsdecode(source))
        source, name = read_bytes(path), name or readable(path)
    name = name or "the film"
    if isinstance(source, np.ndarray):
        return _of_array(source, name)
    if not isinstance(source, bytes) and not _is_dataset(source):
        raise FilmError(
            f"{name} is a {type(source).__name__} that names or holds no film",
            "give a path, a file's bytes, an (h, w) uint8 array or a pydicom Dataset",
        )
    try:
        return _decoded(source)
    except FilmError as error:
        raise error.named(name) from None
    except MemoryError:
        what = f"{name}: the memory of this computer does not suffice to read it"
        raise FilmError(what, "close other programs", passing=True) from None


def is_source(value: object) -> bool:
    """Whether a value is one film, as `Source` says; a path of any kind."""
    return isinstance(value, str | os.PathLike | bytes | np.ndarray) or _is_dataset(value)


def _is_dataset(value: object) -> "TypeGuard[pydicom.Dataset]":
    """Whether it is a DICOM dataset; without importing pydicom, as what made one has done so."""
    pydicom = sys.modules.get("pydicom")
    return pydicom is not None and isinstance(value, pydicom.Dataset)


def _of_array(pixels: np.ndarray, name: str) -> Film:
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise FilmError(f"{name} is an array of {pixels.dtype} {pixels.shape}", "give (h, w) uint8, white = bone")
    check_size(name, pixels.shape[1], pixels.shape[0])
    return Film(np.asarray(pixels), "array", 8)


def _decoded(source: "bytes | pydicom.Dataset") -> Film:
    if isinstance(source, bytes):
        data = source
    else:
        from cxrlines.io.dicom.decode import bytes_of

        data = bytes_of(source)
    if not data:
        raise FilmError("is empty (0 bytes)", "copy or export it again")
    kind = kind_of(data)
    if kind is None and (picture := _picture(data)):
        raise FilmError(f"is a {picture} image", "save it as PNG")
    if kind is None:
        _, what, way_out = next(other for other in OTHERS if data.startswith(other[0]))
        raise FilmError(f"is {what}", way_out)
    if kind == "DICOM":
        from cxrlines.io.dicom.decode import decode_dicom

        return decode_dicom(data)
    from cxrlines.io.images import decode_image

    return decode_image(data, kind)


def kind_of(head: bytes) -> str | None:
    """What a file is by its first 132 bytes or more: JPEG, PNG, TIFF, DICOM, or None."""
    if head[128:132] == b"DICM":  # first, as a DICOM file's preamble may be the header of a TIFF
        return "DICOM"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # the latter are BigTIFF
        return "TIFF"
    return "DICOM" if _begins_data_set(head) else None


def _begins_data_set(head: bytes) -> bool:
    """Whether a file begins as DICOM without its preamble: with an element of group 2 or 8, in either byte order, that
    has a VR, or a length which values at the beginning have."""
    little, big = head[:2] in (b"\x02\0", b"\x08\0"), head[:2] in (b"\0\x02", b"\0\x08")
    length = int.from_bytes(head[4:8], "little" if little else "big")
    has_vr = head[4:6].isalpha() and head[4:6].isupper()
    return (little or big) and len(head) > 8 and (has_vr or (length < 2**16 and length % 2 == 0))


def is_film(path: Path, *, unopened: bool = False) -> bool:
    """Whether a file's first bytes are those of a film; `unopened` for what cannot be opened."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(132)) is not None
    except OSError:
        return unopened


def unread_picture(path: Path) -> str:
    """The format of an image that is not read, as `BMP`; "" for all else."""
    try:
        with path.open("rb") as file:
            return _picture(file.read(132))
    except OSError:
        return ""


def _picture(head: bytes) -> str:
    return next((name for place, begin, name in PICTURES if head.startswith(begin, place)), "")


def read_bytes(path: Path) -> bytes:
    """A file's bytes; `FilmError` if it is no file, too large to be a film, or not to be had."""
    name = readable(path)
    try:
        if path.is_dir():
            raise FilmError(f"{name}: is a folder", "name the film in it")
        if path.exists() and not path.is_file():
            raise FilmError(f"{name}: is not a regular file", "name a film")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise FilmError(f"{name}: has {size:,} bytes; a film has at most {MAX_BYTES:,}", "export one frame, shrunk")
        return path.read_bytes()
    except OSError as error:
        what, way_out = f"{name}: cannot be read ({error.strerror})", "check the path and its permissions"
        raise FilmError(what, way_out, passing=not isinstance(error, FileNotFoundError)) from None
