"""Reading speed: a bundle as cxrlines reads with it, against two networks of fixed size as PyTorch comes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from cxrlines.core.pool import cores, keep_buffers
from cxrlines.io.films import read_film
from cxrlines.io.prepare import cut_frame
from cxrlines.lab.bench.measured_films import BenchError, film_files
from cxrlines.lab.bench.plain_pytorch import Plain, Took, in_own_process
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.engines.onnx import OnnxEngine
from cxrlines.reading.reader import Reader

BUSY = 2
"""Other processes that keep a core each busy, for the factor under load."""


def bench_predict(bundle: Bundle, films: int = 12, folder: Path | None = None) -> dict[str, Any]:
    """Seconds a film from its file's bytes to its findings: medians, measured film by film in turns.

    The films are phantoms of 2,500 x 3,000 px as JPEG, or the first ones of a folder; those that are refused as no
    chest film are left out. What it is compared with is `plain_pytorch`, whatever the bundle holds.

    Returns:
        films: how many; cores: that may be used; batch: films in a batch.
        plain_s, plain_batch_s: plain PyTorch by its own number of threads, a film at a time and in batches.
        latency_s: `Reader.read`; batch_s: `Reader.read_many`; and both as speed-ups over plain_s.
        one_thread: plain_cpu_s, latency_cpu_s and latency_speedup by processor time with one thread each, which other
            programs on the machine hardly change.
        loaded_factor: latency with `BUSY` more processes that compute, over that without, film by film in turns.
        shares: of a reading a film at a time: decode, prepare, probe, network, findings.

    Raises:
        BenchError: no film to measure with. FilmError: one that cannot be decoded.
    """
    keep_buffers()
    reader = Reader(bundle)
    files = [file for file in film_files(films, folder) if reader.prepare(read_film(file)).prepared.quality.usable]
    if not files:
        raise BenchError(f"{folder or 'the phantoms'}: the reader sees no chest film", "name a folder of such films")
    numbers = range(len(files))
    batches = [numbers[start : start + reader.batch_size] for start in range(0, len(files), reader.batch_size)]
    with in_own_process(bundle.folder, files) as plain:

        def alone(k: int) -> Took:
            return _took(lambda: reader.read(files[k]))

        def together(batch: Sequence[int]) -> Took:
            return _took(lambda: list(reader.read_many([files[k] for k in batch])))

        one_by_one = _in_turns(lambda k: plain.read([k]), alone, numbers)
        plain_s, latency_s = (median(took.wall for took in side) for side in one_by_one)
        by_batches = _in_turns(plain.read, together, batches)
        plain_batch_s, batch_s = (
            median(took.wall / len(batch) for took, batch in zip(side, batches, strict=True)) for side in by_batches
        )
        one_thread = _one_thread(bundle, files, plain)
    return {
        "films": len(files),
        "cores": cores(),
        "batch": reader.batch_size,
        "plain_s": round(plain_s, 4),
        "plain_batch_s": round(plain_batch_s, 4),
        "latency_s": round(latency_s, 4),
        "batch_s": round(batch_s, 4),
        "latency_speedup": round(plain_s / latency_s, 2),
        "batch_speedup": round(plain_s / batch_s, 2),
        "one_thread": one_thread,
        "loaded_factor": round(_loaded_factor(lambda k: reader.read(files[k]), numbers), 2),
        "shares": _shares(reader, files),
    }


def _in_turns(
    one: Callable[[Any], Took], other: Callable[[Any], Took], items: Sequence[Any]
) -> tuple[list[Took], list[Took]]:
    """How long two ways took for each item, in turns, so that what else the machine does meets both; once before."""
    one(items[0]), other(items[0])
    return tuple(zip(*((one(item), other(item)) for item in items), strict=True))  # type: ignore[return-value]


def _one_thread(bundle: Bundle, files: Sequence[bytes], plain: Plain) -> dict[str, float]:
    reader = Reader(bundle, engine=OnnxEngine(bundle, cores=1))
    sides = _in_turns(
        lambda k: plain.read([k], threads=1), lambda k: _took(lambda: reader.read(files[k])), range(len(files))
    )
    plain_s, latency_s = (median(took.cpu for took in side) for side in sides)
    figures = {"plain_cpu_s": plain_s, "latency_cpu_s": latency_s, "latency_speedup": plain_s / latency_s}
    return {name: round(value, 4) for name, value in figures.items()}


def _loaded_factor(work: Callable[[int], object], items: Sequence[int]) -> float:
    """Time of work beside busy processes over that without; they are stopped and go on film by film."""
    quiet, loaded = [], []
    with _busy(BUSY) as switch:
        for item in items:
            quiet.append(_took(lambda: work(item)).wall)  # noqa: B023
            switch(True)
            loaded.append(_took(lambda: work(item)).wall)  # noqa: B023
            switch(False)
    return median(loaded) / median(quiet)


@contextmanager
def _busy(count: int) -> Iterator[Callable[[bool], None]]:
    """Processes that compute without end, stopped at first; what is given lets them go on, or stops them."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]

    def switch(on: bool) -> None:
        for process in busy:
            os.kill(process.pid, signal.SIGCONT if on else signal.SIGSTOP)

    try:
        switch(False)
        yield switch
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _shares(reader: Reader, files: Sequence[bytes]) -> dict[str, float]:
    """Of the time of a reading, step by step; a film's steps follow each other as when it is read."""
    steps: dict[str, list[float]] = {name: [] for name in ("decode", "prepare", "probe", "network", "findings")}
    for file in files:
        clock = [time.perf_counter()]

        def passed(clock: list[float] = clock) -> float:
            clock.append(time.perf_counter())
            return clock[-1] - clock[-2]

        film = read_film(file)
        steps["decode"].append(passed())
        framed = cut_frame(film)
        passed()
        if reader.probe is not None:
            reader.probe(framed.pixels)
        steps["probe"].append(passed())
        ready = reader.prepare(film)
        steps["prepare"].append(max(0.0, passed() - steps["probe"][-1]))
        rows, maps = reader.engine([ready.views], maps=reader.lines)
        steps["network"].append(passed())
        reader.findings(ready, rows[0], None if maps is None else maps[0])
        steps["findings"].append(passed())
    spent = {name: median(seconds) for name, seconds in steps.items()}
    return {name: round(seconds / sum(spent.values()), 3) for name, seconds in spent.items()}


def _took(work: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)
