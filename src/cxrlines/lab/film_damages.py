"""Ways in which a file of a film is damaged: bits, bytes, parts, and elements of DICOM."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom

from cxrlines.io import png
from cxrlines.lab.intact_films import JPEG


def _bits(rng: np.random.Generator, film: bytes) -> bytes:
    data = bytearray(film)
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _head(rng: np.random.Generator, film: bytes) -> bytes:
    """Bytes near the beginning, or of TIFF near the end, where the directory is; checksums of PNG made right again."""
    data = bytearray(film)
    within = min(len(data), int(rng.choice([64, 300, 1500])))
    tail = film[:2] in (b"II", b"MM") and rng.random() < 0.7
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(within))
        value = rng.choice((0, 1, 7, 8, 127, 128, 255, int(rng.integers(256))))
        data[len(data) - 1 - place if tail else place] = int(value)
    if not film.startswith(b"\x89PNG"):
        return bytes(data)
    chunks = [bytes(data[start : end - 4]) for _, start, end in png.chunks(bytes(data))]
    return bytes(data[:8]) + b"".join(chunk + struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks)


def _run(rng: np.random.Generator, film: bytes) -> bytes:
    place, length = int(rng.integers(len(film))), int(rng.integers(1, 2000))
    filled = bytes(length) if rng.random() < 0.3 else b"\xff" * length if rng.random() < 0.3 else rng.bytes(length)
    return (film[:place] + filled + film[place + length :])[: len(film)]


def _insertion(rng: np.random.Generator, film: bytes) -> bytes:
    place = int(rng.integers(len(film)))
    return film[:place] + rng.bytes(int(rng.integers(1, 500))) + film[place:]


def _deletion(rng: np.random.Generator, film: bytes) -> bytes:
    place = int(rng.integers(len(film)))
    return film[:place] + film[place + int(rng.integers(1, 500)) :]


def _twice(rng: np.random.Generator, film: bytes) -> bytes:
    first, second = sorted(rng.integers(0, len(film), 2))
    place = int(rng.integers(len(film)))
    return film[:place] + film[first : min(second, first + 5000)] + film[place:]


NUMBERS = (0, 1, 2, 3, 7, 8, 10, 11, 12, 15, 16, 32, 63, 64, 100, 255, 256, 4096, 60_000, 65_535)
FIELDS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"), NUMBERS),
    **dict.fromkeys(("PixelRepresentation", "PlanarConfiguration", "SmallestImagePixelValue"), (0, 1, 2, 65_535)),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "X"),
    "NumberOfFrames": (0, 1, 2, 1000, 2**31 - 1),
    **dict.fromkeys(("WindowCenter", "WindowWidth"), ("0", "-1", "1e300", "NaN", "1\\2", "100", "60000", "")),
    **dict.fromkeys(("RescaleSlope", "RescaleIntercept"), ("0", "-1", "1e300", "NaN", "0.001", "")),
    "PixelPaddingValue": (0, 1, 4095, 65_535),
    "TransferSyntaxUID": (
        *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.3"),
        *(f"{JPEG}{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202)),
    ),
}


def _element(rng: np.random.Generator, film: bytes) -> bytes:
    """Another value of an element that says what the pixels are, or none; of what is not DICOM `_head`."""
    if film[128:132] != b"DICM":
        return _head(rng, film)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(film), force=True)
            for _ in range(int(rng.integers(1, 3))):
                name = str(rng.choice(list(FIELDS)))
                value = FIELDS[name][int(rng.integers(len(FIELDS[name])))]
                if name == "TransferSyntaxUID":
                    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(value)
                elif rng.random() < 0.15 and name in dataset:
                    delattr(dataset, name)
                else:
                    setattr(dataset, name, value)
            implicit, little = dataset.original_encoding
            options = {"force_encoding": True, "overwrite": True}
            pydicom.dcmwrite(out, dataset, implicit_vr=implicit, little_endian=little, **options)
        except Exception:  # what pydicom does not write is damaged otherwise
            return _head(rng, film)
    return out.getvalue()


Damage = Callable[[np.random.Generator, bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "bits flipped": _bits,
    "head changed": _head,
    "run of bytes": _run,
    "cut off": lambda rng, film: film[: int(rng.integers(1, len(film)))],
    "insertion": _insertion,
    "deletion": _deletion,
    "part twice": _twice,
    "element changed": _element,
}
"""By name: (random numbers, a file) -> the file, damaged."""
