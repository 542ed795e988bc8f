"""Reading speed: a bundle as cxrlines reads with it against the same networks as PyTorch comes."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from cxrlines.core.errors import Error
from cxrlines.core.findings import Findings
from cxrlines.core.pool import keep_buffers
from cxrlines.io.films import read_bytes
from cxrlines.phantom.dataset import JPEG_QUALITY
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.engines.pytorch import PyTorchEngine
from cxrlines.reading.reader import Reader, decode
from cxrlines.reading.sources import find_films

HEIGHT, WIDTH = 3000, 2500
Item = TypeVar("Item")
Made = TypeVar("Made")


class BenchError(Error):
    """There is nothing to measure with; the message says why."""


def bench_predict(bundle: Bundle, films: int = 12, folder: Path | None = None) -> dict[str, float]:
    """Seconds a film from its file's bytes to its findings, in 32 bits throughout.

    The films are phantoms of 2,500 x 3,000 px as JPEG, or the first ones of a folder; those that are refused as no
    chest film are left out. Both ways do the same work on the same device: decoding, preparing, networks, findings.

    Returns:
        films: how many; threads: of PyTorch.
        plain_s: PyTorch as it comes, in its memory format and with the usual allocator, a film at a time.
        latency_s: `Reader.read`, a film at a time; batch_s: `Reader.read_many`; and both as speed-ups over plain_s.
        decode_share, prepare_share, network_share, findings_share: of a reading a film at a time; to prepare is to
            assess quality, shrink and resample.
        largest_difference: of a probability between plain PyTorch and the reader, a film at a time or in batches.

    Raises:
        BenchError: no film to measure with. FilmError: one that cannot be decoded.
    """
    plain = Reader(bundle, engine=PyTorchEngine(bundle, fast=False))
    files = [file for file in _files(films, folder) if plain.prepare(decode(file)).made.quality.usable]
    if not files:
        raise BenchError(f"{folder or 'the phantoms'}: the reader sees no chest film", "name a folder of such films")
    plain_s, expected = _timed(plain.read, files)
    keep_buffers()  # only now, as it changes the process for good
    reader = Reader(bundle)
    latency_s, alone = _timed(reader.read, files)
    batch_s, (together,) = _timed(lambda batch: list(reader.read_many(batch)), [files])
    batch_s /= len(files)
    return {
        "films": len(files),
        "threads": torch.get_num_threads(),
        "plain_s": round(plain_s, 4),
        "latency_s": round(latency_s, 4),
        "batch_s": round(batch_s, 4),
        "latency_speedup": round(plain_s / latency_s, 2),
        "batch_speedup": round(plain_s / batch_s, 2),
        **_shares(reader, files),
        "largest_difference": max(map(_difference, [*alone, *together], [*expected, *expected])),
    }


def _shares(reader: Reader, files: Sequence[bytes]) -> dict[str, float]:
    """Of the time of a reading, stage by stage."""
    decoding, films = _timed(decode, files)
    preparing, ready = _timed(reader.prepare, films)
    network, given = _timed(lambda film: reader.engine([film.shown], maps=True), ready)
    each = [(film, rows[0], None if maps is None else maps[0]) for film, (rows, maps) in zip(ready, given, strict=True)]
    finding, _ = _timed(lambda one: reader.findings(*one), each)
    seconds = {"decode": decoding, "prepare": preparing, "network": network, "findings": finding}
    return {f"{stage}_share": round(spent / sum(seconds.values()), 3) for stage, spent in seconds.items()}


def _timed(work: Callable[[Item], Made], items: Sequence[Item]) -> tuple[float, list[Made]]:
    """Mean seconds an item, after the first has been done once, and what the work gives."""
    work(items[0])
    begun = time.perf_counter()
    made = [work(item) for item in items]
    return (time.perf_counter() - begun) / len(items), made


def _difference(got: object, expected: Findings) -> float:
    """The largest of a probability; infinite where one way read the film and the other did not."""
    if not isinstance(got, Findings) or got.labels is None or expected.labels is None:
        return float("inf")
    return round(max(abs(p - expected.labels[label]) for label, p in got.labels.items()), 8)


def _files(films: int, folder: Path | None) -> Iterator[bytes]:
    """The bytes of phantoms, or of a folder's first films by name."""
    if folder is None:
        yield from (_phantom(seed) for seed in range(films))
        return
    found = find_films([folder])
    for path, why in found.errors:
        raise BenchError(f"{path}: {why}", "name a folder of films")
    yield from (read_bytes(path) for path, _ in found.films[:films])


def _phantom(seed: int) -> bytes:
    """A phantom of WIDTH x HEIGHT px as JPEG."""
    scene = make_scene([seed, 1], [seed, 1, 0], size=max(HEIGHT, WIDTH), balance="even", site="a")
    film = render(scene, difficulty=0.5, site="a", rng=np.random.default_rng(seed))
    sized = cv2.resize(film, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", sized, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    assert done
    return jpeg.tobytes()
