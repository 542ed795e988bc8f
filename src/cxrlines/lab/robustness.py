"""Fuzzing of film reading: intact films of every kind, damaged at random, read in a process that may crash."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cxrlines.core.processes import Child, Died, serving
from cxrlines.lab.film_damages import DAMAGES
from cxrlines.lab.intact_films import every_kind, large_films, shipped

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
        """Whether all counts are as they should be; the time, which depends on the machine, is not asked."""
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
