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
from cxrlines.lab.bench.plain_pytorch import PlainProcess, Took, in_own_process, timed
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.engines.onnx import OnnxEngine
from cxrlines.reading.reader import Reader

BUSY = 2
"""Other processes that keep a core each busy, for the factor under load."""
Measure = Callable[[Any], Took]
"""Measures one item: a film by its number, or a batch of them."""


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
    with in_own_process(bundle.folder, files) as plain:
        figures = _against_plain(reader, files, plain)
        one_thread = _one_thread(bundle, files, plain)
    return {
        "films": len(files),
        "cores": cores(),
        "batch": reader.batch_size,
        **figures,
        "one_thread": one_thread,
        "loaded_factor": round(_loaded_factor(reader.read, files), 2),
        "shares": _shares(reader, files),
    }


def _against_plain(reader: Reader, files: Sequence[bytes], plain: PlainProcess) -> dict[str, float]:
    """Seconds a film of both ways, a film at a time and in batches, and the reader's speed-ups."""
    numbers = range(len(files))
    batches = [numbers[start : start + reader.batch_size] for start in range(0, len(files), reader.batch_size)]
    plain_took, reader_took = _by_turns(
        lambda k: plain.read([k]), lambda k: timed(lambda: reader.read(files[k])), numbers
    )
    plain_batches, reader_batches = _by_turns(
        plain.read, lambda batch: timed(lambda: list(reader.read_many([files[k] for k in batch]))), batches
    )

    def seconds_a_film(took: Sequence[Took], sizes: Sequence[int]) -> float:
        return median(each.wall / size for each, size in zip(took, sizes, strict=True))

    ones, sizes = [1] * len(files), [len(batch) for batch in batches]
    plain_s, latency_s = seconds_a_film(plain_took, ones), seconds_a_film(reader_took, ones)
    plain_batch_s, batch_s = seconds_a_film(plain_batches, sizes), seconds_a_film(reader_batches, sizes)
    return {
        "plain_s": round(plain_s, 4),
        "plain_batch_s": round(plain_batch_s, 4),
        "latency_s": round(latency_s, 4),
        "batch_s": round(batch_s, 4),
        "latency_speedup": round(plain_s / latency_s, 2),
        "batch_speedup": round(plain_s / batch_s, 2),
    }


def _by_turns(one: Measure, other: Measure, items: Sequence[Any]) -> tuple[list[Took], list[Took]]:
    """How long two ways took for each item, in turns, so that what else the machine does meets both.

    Each is called once before, as a first call costs more.
    """
    one(items[0])
    other(items[0])
    took = [(one(item), other(item)) for item in items]
    return [first for first, _ in took], [second for _, second in took]


def _one_thread(bundle: Bundle, files: Sequence[bytes], plain: PlainProcess) -> dict[str, float]:
    """Processor seconds a film of both ways with a thread each, and the reader's speed-up."""
    reader = Reader(bundle, engine=OnnxEngine(bundle, cores=1))
    plain_took, reader_took = _by_turns(
        lambda k: plain.read([k], threads=1), lambda k: timed(lambda: reader.read(files[k])), range(len(files))
    )
    plain_s, latency_s = median(took.cpu for took in plain_took), median(took.cpu for took in reader_took)
    figures = {"plain_cpu_s": plain_s, "latency_cpu_s": latency_s, "latency_speedup": plain_s / latency_s}
    return {name: round(value, 4) for name, value in figures.items()}


def _loaded_factor(read: Callable[[bytes], object], files: Sequence[bytes]) -> float:
    """Time of reading beside busy processes over that without; they are stopped and go on film by film."""

    def seconds(file: bytes) -> float:
        return timed(lambda: read(file)).wall

    quiet, loaded = [], []
    with _busy_processes(BUSY) as set_busy:
        for file in files:
            quiet.append(seconds(file))
            set_busy(True)
            loaded.append(seconds(file))
            set_busy(False)
    return median(loaded) / median(quiet)


@contextmanager
def _busy_processes(count: int) -> Iterator[Callable[[bool], None]]:
    """Processes that compute without end, stopped at first; what is given lets them go on (True) or stops them."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]

    def set_busy(on: bool) -> None:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT if on else signal.SIGSTOP)

    try:
        set_busy(False)
        yield set_busy
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _shares(reader: Reader, files: Sequence[bytes]) -> dict[str, float]:
    """Of the time of a reading, step by step (medians); a film's steps follow each other as when it is read.

    `Reader.prepare` asks the probe itself: what is prepared is what it takes less the time of a probe asked before.
    """
    steps: dict[str, list[float]] = {name: [] for name in ("decode", "prepare", "probe", "network", "findings")}
    for file in files:
        begun = time.perf_counter()
        film = read_film(file)
        decoded = time.perf_counter()
        framed = cut_frame(film)
        cut = time.perf_counter()
        if reader.probe is not None:
            reader.probe(framed.pixels)
        probed = time.perf_counter()
        ready = reader.prepare(film)
        prepared = time.perf_counter()
        rows, maps = reader.engine([ready.views], maps=reader.lines)
        computed = time.perf_counter()
        reader.findings(ready, rows[0], None if maps is None else maps[0])
        finished = time.perf_counter()
        steps["decode"].append(decoded - begun)
        steps["probe"].append(probed - cut)
        steps["prepare"].append(max(0.0, (prepared - probed) - (probed - cut)))
        steps["network"].append(computed - prepared)
        steps["findings"].append(finished - computed)
    spent = {name: median(seconds) for name, seconds in steps.items()}
    return {name: round(seconds / sum(spent.values()), 3) for name, seconds in spent.items()}
