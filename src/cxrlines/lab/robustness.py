"""Fuzzing of film reading: intact films of every kind, damaged at random, read in a process that may crash."""

import contextlib
import io
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydicom

from cxrlines.core.processes import Child, Died, serving
from cxrlines.io.images import png_chunks
from cxrlines.lab.intact_films import JPEG, every_kind, large_films, shipped

MAX_SECONDS, MAX_MEGABYTES = 2.0, 512
"""What reading a film may take: processor time, which other work on the machine does not lengthen, and memory beyond
what the processes took at first."""
PATIENCE_S = 120.0
"""After so long the reading process is given up."""
SIZES = ((64, 80), (300, 257), (512, 480))
LARGE = (2500, 2048)
"""(height, width) of the films; LARGE are one in EVERY_LARGE."""
EVERY_LARGE = 100
UNDAMAGED, FORGIVEN = 0.05, 0.10
"""Shares of the films that are not damaged, and that are damaged as viewers forgive."""
MIN_CORRELATION = 0.97
"""Correlation with what a film shows from which on it was read right."""


class ReadRight(NamedTuple):
    """How many films were read right, of how many."""

    right: int
    of: int


NONE_YET = ReadRight(0, 0)


class Odd(NamedTuple):
    """A film that was slow, large, killed its process, met a fault, or was not read right; `what` says which."""

    number: int
    name: str
    what: str


@dataclass
class Report:
    """Results of a soak: numbers of films. Time and memory are those of the reading and the decoder process together.

    Where it is not known what a film shows, read counts as read right.
    """

    films: int = 0
    read: int = 0  # damaged or not
    refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)  # exceptions other than a refusal, by type
    slow: int = 0  # more than MAX_SECONDS of a processor
    large: int = 0  # more than MAX_MEGABYTES beyond what was taken at first
    died: int = 0  # the reading process ended or hung
    decoder_died: int = 0  # it ended or was ended; the reading process went on
    undamaged: ReadRight = NONE_YET
    forgiven: ReadRight = NONE_YET
    slowest_s: float = 0.0  # the most that one film took of a processor
    longest_wait_s: float = 0.0  # by the clock
    largest_mb: float = 0.0
    odd: list[Odd] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all is as it should be, but for the time, which depends on the machine."""
        whole = all(each.right == each.of for each in (self.undamaged, self.forgiven))
        return whole and not (self.faults or self.large or self.died)

    def add(self, number: int, case: "Case", answer: dict[str, Any], pixels: bytes) -> None:
        """Count a film by the answer of the reading process."""
        seconds, megabytes = answer.get("seconds", 0.0), answer.get("megabytes", 0.0)
        self.read += "shape" in answer
        self.refused += "refused" in answer
        self.died += "died" in answer
        self.slow += seconds > MAX_SECONDS
        self.large += megabytes > MAX_MEGABYTES
        self.decoder_died += answer.get("decoder_died", 0)
        self.slowest_s = max(self.slowest_s, seconds)
        self.longest_wait_s = max(self.longest_wait_s, answer.get("waited", 0.0))
        self.largest_mb = max(self.largest_mb, megabytes)
        odd = [f"the reading process {answer['died']}"] if "died" in answer else []
        if fault := answer.get("fault"):
            self.faults[fault] = self.faults.get(fault, 0) + 1
            odd.append(fault)
        odd += [f"{seconds:.1f} s"] if seconds > MAX_SECONDS else []
        odd += [f"{megabytes:.0f} MB"] if megabytes > MAX_MEGABYTES else []
        if case.sort != "damaged":
            right = "shape" in answer and _alike(np.frombuffer(pixels, np.uint8).reshape(answer["shape"]), case.shows)
            odd += [] if right else [answer.get("refused", "not what it shows")]
            before: ReadRight = getattr(self, case.sort)
            setattr(self, case.sort, ReadRight(before.right + right, before.of + 1))
        self.odd += [Odd(number, case.name, what) for what in odd]


@dataclass(frozen=True)
class Case:
    """A film to be read: `shows` only where it must be read right."""

    name: str
    data: bytes
    sort: Literal["damaged", "undamaged", "forgiven"]
    shows: np.ndarray | None = None


def soak(films: int, seed: int, progress: Callable[[int, int | None], None] = lambda done, total: None) -> Report:
    """Read `films` films, each damaged by (seed, its number), and count the results.

    `progress` is called with (films done, films in all).
    """
    library = _Library(seed)
    report = Report(films=films)
    reading: Child | None = None
    try:
        for number in range(films):
            case = library.case(number)
            reading = reading or _begin()
            try:
                reading.send(case.data)
                answer, pixels = json.loads(reading.receive(PATIENCE_S)), reading.receive(PATIENCE_S)
            except Died as end:
                reading.kill()
                reading, answer, pixels = None, {"died": str(end)}, b""
            report.add(number, case, answer, pixels)
            progress(number + 1, films)
    finally:
        if reading:
            reading.kill()
    return report


def _begin() -> Child:
    child = Child("cxrlines.lab.robustness", silent=True)
    for film in shipped():  # imports at the first films count as no film's time or memory
        child.send(film.data)
        child.receive(PATIENCE_S), child.receive(PATIENCE_S)
    return child


def _alike(pixels: np.ndarray, shows: np.ndarray | None) -> bool:
    if shows is None:
        return True
    return pixels.shape == shows.shape and bool(np.corrcoef(pixels.ravel(), shows.ravel())[0, 1] > MIN_CORRELATION)


class _Library:
    """Intact films, made once, and how each is damaged."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self.films = [film for size in SIZES for film in every_kind(rng, *size)] + list(shipped())
        self.large = large_films(rng, *LARGE)

    def case(self, number: int) -> Case:
        """The film of a number."""
        rng = np.random.default_rng([self.seed, 1, number])
        films = self.large if rng.integers(EVERY_LARGE) == 0 else self.films
        film = films[rng.integers(len(films))]
        sort = rng.random()
        if sort < UNDAMAGED:
            return Case(film.name, film.data, "undamaged", film.shows)
        if sort < UNDAMAGED + FORGIVEN and film.forgiven:
            name = str(rng.choice(list(film.forgiven)))
            return Case(f"{film.name}, {name}", film.forgiven[name], "forgiven", film.shows)
        name = list(DAMAGES)[rng.integers(len(DAMAGES))]
        return Case(f"{film.name}, {name}", DAMAGES[name](rng, film.data), "damaged")


def film_of(seed: int, number: int) -> tuple[str, bytes]:
    """(name, file) of one film of a soak, to look into what was reported as odd."""
    case = _Library(seed).case(number)
    return case.name, case.data


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
    chunks = [bytes(data[start : end - 4]) for _, start, end in png_chunks(bytes(data))]
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


DAMAGES: dict[str, Callable[[np.random.Generator, bytes], bytes]] = {
    "bits flipped": _bits,
    "head changed": _head,
    "run of bytes": _run,
    "cut off": lambda rng, film: film[: int(rng.integers(1, len(film)))],
    "insertion": _insertion,
    "deletion": _deletion,
    "part twice": _twice,
    "element changed": _element,
}


def serve() -> None:
    """The reading process: reads each film that it is sent, and answers with the result and the film's pixels."""
    from cxrlines.core.film import FilmError
    from cxrlines.io.dicom.pixels import deaths, decoding_pid
    from cxrlines.io.films import read_film

    meter = _Meter()

    def answer(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
        data = receive()
        meter.start([os.getpid(), decoding_pid()])
        deaths_before = deaths()
        found: dict[str, Any] = {}
        pixels = b""
        begun = time.perf_counter()
        try:
            film = read_film(data)
            found["shape"], pixels = film.pixels.shape, film.pixels.tobytes()
        except FilmError as error:
            found["refused"] = str(error)
        except Exception as error:  # a fault of cxrlines, which is what the soak looks for
            found["fault"] = f"{type(error).__name__}: {str(error)[:200]}"
        found["waited"] = time.perf_counter() - begun
        seconds, found["megabytes"] = meter.stop([os.getpid(), decoding_pid()])
        found["decoder_died"] = deaths() - deaths_before
        found["seconds"] = found["waited"] if found["decoder_died"] else seconds  # the dead have no processor time
        send(json.dumps(found).encode())
        send(pixels)

    serving(answer)


class _Meter:
    """Processor seconds and peak memory that processes take for a film; memory is 0 where there is no /proc."""

    def __init__(self) -> None:
        self.first: dict[int, float] = {}
        """MB that each process took when it was first seen."""
        self.used: dict[int, float] = {}

    def start(self, pids: list[int | None]) -> None:
        """Begin to measure: forget the peak so far."""
        self.used = {pid: _seconds(pid) for pid in pids if pid}
        for pid in self.used:
            self.first.setdefault(pid, _megabytes(pid, "VmRSS"))
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def stop(self, pids: list[int | None]) -> tuple[float, float]:
        """(seconds, MB beyond the first) since `start`, all processes together; one begun since took nothing before."""
        seconds = sum(_seconds(pid) - self.used.get(pid, 0.0) for pid in pids if pid)
        return seconds, sum(max(0.0, _megabytes(pid, "VmHWM") - self.first.get(pid, 0.0)) for pid in pids if pid)


def _seconds(pid: int) -> float:
    """Seconds of a processor that a process has used; of others than this one where there is /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.process_time() if pid == os.getpid() else 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)
