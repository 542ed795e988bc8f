"""Reading as PyTorch alone would do it: what the reader's speed is compared with, in a process of its own."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from cxrlines.core.errors import Error
from cxrlines.io.films import read_film
from cxrlines.models.classifier import Classifier
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.reader import Reader
from cxrlines.reading.tta import views

SIZE, NETWORKS = 480, 2
"""Of the embedded reader when the comparison was fixed: px a side of a film, and how many networks see it."""


class Took(NamedTuple):
    """Seconds on the clock, and of all cores together."""

    wall: float
    cpu: float


class Plain(Protocol):
    """Reads films by number, one by one or together."""

    def read(self, films: Sequence[int], threads: int | None = None) -> Took:
        """How long films together took, with `threads` of PyTorch; None: as many as it takes itself."""


class PlainPyTorch:
    """Two networks fixed here, whatever a bundle holds: EfficientNet-Lite0 with the decoder, of random weights.

    They run as PyTorch comes: its memory format, its threads, the usual allocator, batch norms not fused. All else is
    the reader's: the same decoding, preparing, and tracing of lines, in heatmaps of the reader, as random networks draw
    none.
    """

    def __init__(self, bundle: Path, films: Sequence[bytes], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.networks = [
            Classifier("tf_efficientnet_lite0", "gap", weights="none", decoder=True, exclusive=True).eval()
            for _ in range(NETWORKS)
        ]
        self.reader, self.films = Reader(load_bundle(bundle)), films
        ready = [self.reader.prepare(read_film(film)) for film in films]
        self._given = [self.reader.engine([film.views], maps=True) for film in ready]
        self._threads = torch.get_num_threads()

    def read(self, films: Sequence[int], threads: int | None = None) -> Took:
        """As `Plain`."""
        torch.set_num_threads(threads or self._threads)
        wall, cpu = time.perf_counter(), time.process_time()
        ready = [self.reader.prepare(read_film(self.films[k])) for k in films]
        seen = np.stack([views(film.prepared.pixels, SIZE) for film in ready])
        with torch.inference_mode():
            for network in self.networks:
                features, maps = network.features_and_maps(torch.from_numpy(seen))
                torch.sigmoid(network.classify(features)).numpy()
                torch.sigmoid(maps).numpy()
        for k, film in zip(films, ready, strict=True):
            rows, found = self._given[k]
            self.reader.findings(film, rows[0], None if found is None else found[0])
        return Took(time.perf_counter() - wall, time.process_time() - cpu)


class _Asked:
    """`PlainPyTorch` in another process."""

    def __init__(self, there: Connection) -> None:
        self._there = there

    def read(self, films: Sequence[int], threads: int | None = None) -> Took:
        """As `Plain`."""
        self._there.send((list(films), threads))
        return Took(*self._there.recv())


@contextmanager
def in_own_process(bundle: Path, films: Sequence[bytes]) -> Iterator[Plain]:
    """`PlainPyTorch` in a process of its own, as the reader's allocator and threads would change it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, bundle, films), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()
        yield _Asked(here)
    except EOFError:
        raise Error(
            "bench predict: the process of plain PyTorch ended", "is memory short? close other programs"
        ) from None
    finally:
        here.close()  # at which it ends
        process.join(60)


def _serve(there: Connection, bundle: Path, films: Sequence[bytes]) -> None:
    plain = PlainPyTorch(bundle, films)
    there.send("ready")
    while True:
        try:
            there.send(tuple(plain.read(*there.recv())))
        except (EOFError, BrokenPipeError):
            return
