"""A soak of the reading of films: sound ones of every kind, damaged at random, read in a process that may die of it."""

import contextlib
import io
import json
import os
import struct
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from cxrlines.core.processes import Child, Died, serving
from cxrlines.lab.intact_films import JPEG, Sound, every_kind, large_ones, shipped

SECONDS, MEGABYTES = 2.0, 512
"""What reading a film may take: a processor's time, which other work on the machine does not lengthen, and memory
beyond what the processes took at first."""
PATIENCE_S = 120.0
"""After so long the asking process is given up."""
SIZES = ((64, 80), (300, 257), (512, 480))
LARGE = (2500, 2048)
"""(height, width) of the films; LARGE are one in EVERY_LARGE."""
EVERY_LARGE = 100
UNDAMAGED, FORGIVEN = 0.05, 0.10
"""Shares of the films that are not damaged, and that are damaged as viewers forgive."""
ALIKE = 0.97
"""Correlation with what a film shows from which on it was read right."""


@dataclass
class Report:
    """What became of the films of a soak.

    Attributes:
        films: How many there were.
        read, refused: Damaged or not.
        faults: Exceptions other than a refusal, by type: faults of cxrlines.
        slow: Took more than SECONDS of a processor, asking and decoding process together.
        large: Took more than MEGABYTES beyond what was taken at first, asking and decoding process together.
        died: The asking process ended or hung.
        decoder_died: The decoders' process ended or was ended; the asking process went on.
        undamaged, forgiven: (read right, of how many); of films whose picture is not known, read counts.
        slowest_s, longest_wait_s, largest_mb: The most that one took: of a processor, by the clock, of memory.
        odd: (number, name, what) of films that were slow, large, deadly, a fault, or sound and not read right.
    """

    films: int = 0
    read: int = 0
    refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    slow: int = 0
    large: int = 0
    died: int = 0
    decoder_died: int = 0
    undamaged: tuple[int, int] = (0, 0)
    forgiven: tuple[int, int] = (0, 0)
    slowest_s: float = 0.0
    longest_wait_s: float = 0.0
    largest_mb: float = 0.0
    odd: list[tuple[int, str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @property
    def sound(self) -> bool:
        """Whether all is as it should be, but for the time, which depends on the machine."""
        whole = all(right == of for right, of in (self.undamaged, self.forgiven))
        return whole and not (self.faults or self.large or self.died)


@dataclass(frozen=True)
class _Case:
    """A film to be read: `shows` only where it must be read right."""

    name: str
    data: bytes
    sort: str
    shows: np.ndarray | None = None


def soak(films: int, seed: int, progress: Callable[[int, int | None], None] = lambda done, total: None) -> Report:
    """Read `films` films, each damaged by (seed, its number), and count what becomes of them.

    `progress` is called with (films done, films in all).
    """
    library = _Library(seed)
    report = Report(films=films)
    faults: Counter[str] = Counter()
    asking: Child | None = None
    try:
        for number in range(films):
            case = library.case(number)
            asking = asking or _begin()
            try:
                asking.send(case.data)
                answer = json.loads(asking.receive(PATIENCE_S))
                pixels = asking.receive(PATIENCE_S)
            except Died as end:
                asking.kill()
                asking, answer, pixels = None, {"died": str(end)}, b""
            _count(report, faults, number, case, answer, pixels)
            progress(number + 1, films)
    finally:
        if asking:
            asking.kill()
    report.faults = dict(faults)
    return report


def _begin() -> Child:
    child = Child("cxrlines.lab.robustness", silent=True)
    for film in shipped():  # what is imported at the first films is none of the others' time or memory
        child.send(film.data)
        child.receive(PATIENCE_S), child.receive(PATIENCE_S)
    return child


def _count(
    report: Report, faults: Counter[str], number: int, case: _Case, answer: dict[str, Any], pixels: bytes
) -> None:
    def odd(what: str) -> None:
        report.odd.append((number, case.name, what))

    if "died" in answer:
        report.died += 1
        odd(f"the asking process {answer['died']}")
    report.read += (was_read := "shape" in answer)
    report.refused += "refused" in answer
    if fault := answer.get("fault"):
        faults[fault] += 1
        odd(fault)
    report.slowest_s = max(report.slowest_s, answer.get("seconds", 0.0))
    report.longest_wait_s = max(report.longest_wait_s, answer.get("waited", 0.0))
    report.largest_mb = max(report.largest_mb, answer.get("megabytes", 0.0))
    if answer.get("seconds", 0) > SECONDS:
        report.slow += 1
        odd(f"{answer['seconds']:.1f} s")
    if answer.get("megabytes", 0) > MEGABYTES:
        report.large += 1
        odd(f"{answer['megabytes']:.0f} MB")
    report.decoder_died += answer.get("decoder_died", 0)
    if case.sort == "damaged":
        return
    right = was_read and _alike(np.frombuffer(pixels, np.uint8).reshape(answer["shape"]), case.shows)
    if not right:
        odd(answer.get("refused", "not what it shows"))
    before = getattr(report, case.sort)
    setattr(report, case.sort, (before[0] + right, before[1] + 1))


def _alike(pixels: np.ndarray, shows: np.ndarray | None) -> bool:
    if shows is None:
        return True
    return pixels.shape == shows.shape and bool(np.corrcoef(pixels.ravel(), shows.ravel())[0, 1] > ALIKE)


class _Library:
    """Sound films, made once, and how each is damaged."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self.films = [sound for size in SIZES for sound in every_kind(rng, *size)] + list(shipped())
        self.large = large_ones(rng, *LARGE)

    def case(self, number: int) -> _Case:
        """The film of a number."""
        rng = np.random.default_rng([self.seed, 1, number])
        films = self.large if rng.integers(EVERY_LARGE) == 0 else self.films
        film = films[rng.integers(len(films))]
        sort = rng.random()
        if sort < UNDAMAGED:
            return _Case(film.name, film.data, "undamaged", film.shows)
        if sort < UNDAMAGED + FORGIVEN and film.forgiven:
            name = str(rng.choice(list(film.forgiven)))
            return _Case(f"{film.name}, {name}", film.forgiven[name], "forgiven", film.shows)
        name, damage = DAMAGES[rng.integers(len(DAMAGES))]
        return _Case(f"{film.name}, {name}", damage(rng, film), "damaged")


def _bits(rng: np.random.Generator, film: Sound) -> bytes:
    data = bytearray(film.data)
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _head(rng: np.random.Generator, film: Sound) -> bytes:
    """Bytes near the beginning, or of TIFF near the end, where the directory is; checksums of PNG made right again."""
    data = bytearray(film.data)
    within = min(len(data), int(rng.choice([64, 300, 1500])))
    tail = film.data[:2] in (b"II", b"MM") and rng.random() < 0.7
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(within))
        data[len(data) - 1 - place if tail else place] = int(
            rng.choice((0, 1, 7, 8, 127, 128, 255, int(rng.integers(256))))
        )
    return _checked(bytes(data)) if film.data.startswith(b"\x89PNG") else bytes(data)


def _checked(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them."""
    made, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        made.append(data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(made) + data[place:]


def _run(rng: np.random.Generator, film: Sound) -> bytes:
    place = int(rng.integers(len(film.data)))
    length = int(rng.integers(1, 2000))
    filled = bytes(length) if rng.random() < 0.3 else b"\xff" * length if rng.random() < 0.3 else rng.bytes(length)
    return (film.data[:place] + filled + film.data[place + length :])[: len(film.data)]


def _cut(rng: np.random.Generator, film: Sound) -> bytes:
    return film.data[: int(rng.integers(1, len(film.data)))]


def _insertion(rng: np.random.Generator, film: Sound) -> bytes:
    place = int(rng.integers(len(film.data)))
    return film.data[:place] + rng.bytes(int(rng.integers(1, 500))) + film.data[place:]


def _deletion(rng: np.random.Generator, film: Sound) -> bytes:
    place = int(rng.integers(len(film.data)))
    return film.data[:place] + film.data[place + int(rng.integers(1, 500)) :]


def _twice(rng: np.random.Generator, film: Sound) -> bytes:
    first, second = sorted(rng.integers(0, len(film.data), 2))
    part = film.data[first : min(second, first + 5000)]
    place = int(rng.integers(len(film.data)))
    return film.data[:place] + part + film.data[place:]


NUMBERS = (0, 1, 2, 3, 7, 8, 10, 11, 12, 15, 16, 32, 63, 64, 100, 255, 256, 4096, 60_000, 65_535)
FIELDS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"), NUMBERS),
    **dict.fromkeys(("PixelRepresentation", "PlanarConfiguration", "SmallestImagePixelValue"), (0, 1, 2, 65_535)),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "X"),
    "NumberOfFrames": (0, 1, 2, 1000, 2**31 - 1),
    **dict.fromkeys(("WindowCenter", "WindowWidth"), ("0", "-1", "1e300", "NaN", "1\\2", "100", "60000", "")),
    **dict.fromkeys(("RescaleSlope", "RescaleIntercept"), ("0", "-1", "1e300", "NaN", "0.001", "")),
    "PixelPaddingValue": (0, 1, 4095, 65_535),
}
SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.3"),
    *(f"{JPEG}{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202)),
)


def _element(rng: np.random.Generator, film: Sound) -> bytes:
    """Another value of an element that says what the pixels are, or none; of what is no DICOM `_head`."""
    if film.data[128:132] != b"DICM":
        return _head(rng, film)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _with_elements(rng, pydicom.dcmread(io.BytesIO(film.data), force=True))
        except Exception:  # what pydicom does not write is damaged otherwise
            return _head(rng, film)


def _with_elements(rng: np.random.Generator, dataset: pydicom.FileDataset) -> bytes:
    for _ in range(int(rng.integers(1, 3))):
        name = str(rng.choice([*FIELDS, "TransferSyntaxUID"]))
        if name == "TransferSyntaxUID":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(str(rng.choice(SYNTAXES)))
        elif rng.random() < 0.15 and name in dataset:
            delattr(dataset, name)
        else:
            setattr(dataset, name, FIELDS[name][int(rng.integers(len(FIELDS[name])))])
    out = io.BytesIO()
    implicit, little = dataset.original_encoding
    pydicom.dcmwrite(out, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True, overwrite=True)
    return out.getvalue()


DAMAGES: tuple[tuple[str, Callable[[np.random.Generator, Sound], bytes]], ...] = (
    ("bits flipped", _bits),
    ("head changed", _head),
    ("run of bytes", _run),
    ("cut off", _cut),
    ("insertion", _insertion),
    ("deletion", _deletion),
    ("part twice", _twice),
    ("element changed", _element),
)


def serve() -> None:
    """The asking process: reads each film that it is sent, and answers what came of it, and its pixels."""
    from cxrlines.core.film import FilmError
    from cxrlines.io.dicom import pixels as decoders
    from cxrlines.io.films import read_film

    memory = _Memory()

    def answer(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
        data = receive()
        memory.forget(_pids())
        used, deaths = _used(_pids()), decoders.deaths()
        found: dict[str, Any] = {}
        pixels = b""
        begun = time.perf_counter()
        try:
            film = read_film(data)
            found["shape"], pixels = film.pixels.shape, film.pixels.tobytes()
        except FilmError as error:
            found["refused"] = str(error)
        except Exception as error:  # a fault of cxrlines, which is what is looked for
            found["fault"] = f"{type(error).__name__}: {str(error)[:200]}"
        found["waited"] = time.perf_counter() - begun
        found["megabytes"] = memory.most(_pids())
        found["decoder_died"] = decoders.deaths() - deaths
        most = sum(seconds - used.get(pid, 0.0) for pid, seconds in _used(_pids()).items())
        found["seconds"] = found["waited"] if found["decoder_died"] else most  # of the dead nothing more is known
        send(json.dumps(found).encode())
        send(pixels)

    serving(answer)


def _pids() -> list[int]:
    from cxrlines.io.dicom.pixels import decoding_pid

    return [os.getpid(), *([pid] if (pid := decoding_pid()) else [])]


def _used(pids: list[int]) -> dict[int, float]:
    """Seconds of a processor that processes have used; of others than this one where there is /proc."""
    used = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            if pid == os.getpid():
                used[pid] = time.process_time()
    return used


class _Memory:
    """What processes take at the most, beyond what each took at first. 0 where there is no /proc."""

    def __init__(self) -> None:
        self.first: dict[int, float] = {}

    def forget(self, pids: list[int]) -> None:
        """Begin to measure: forget the most so far."""
        for pid in pids:
            if pid not in self.first and (taken := _megabytes(pid, "VmRSS")) is not None:
                self.first[pid] = taken
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def most(self, pids: list[int]) -> float:
        """MB, all processes together; one that has begun since took nothing at first."""
        taken = {pid: _megabytes(pid, "VmHWM") for pid in pids}
        return sum(max(0.0, value - self.first.get(pid, 0.0)) for pid, value in taken.items() if value is not None)


def _megabytes(pid: int, name: str) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def film_of(seed: int, number: int) -> tuple[str, bytes]:
    """(name, file) of one film of a soak, to look into what was reported as odd."""
    case = _Library(seed).case(number)
    return case.name, case.data
