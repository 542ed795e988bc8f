"""Reading as PyTorch alone would do it: what the reader's speed is compared with, in a process of its own."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

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
    """Seconds: `wall` on the clock, `cpu` of all cores together."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Took:
    """How long this process takes for `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


class PlainPyTorch:
    """Two networks fixed here, whatever a bundle holds: EfficientNet-Lite0 with the decoder, of random weights.

    They run as PyTorch comes: its memory format, its threads, the usual allocator, batch norms not fused. All else is
    the reader's: the same decoding, preparing, and tracing of lines, in heatmaps of the reader, as random networks draw
    none. `films` are the bytes of films' files.
    """

    def __init__(self, bundle: Path, films: Sequence[bytes], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.networks = [
            Classifier("tf_efficientnet_lite0", "gap", weights="none", decoder="unet", exclusive=True).eval()
            for _ in range(NETWORKS)
        ]
        self.reader, self.films = Reader(load_bundle(bundle)), films
        prepared = [self.reader.prepare(read_film(film)) for film in films]
        self._reader_outputs = [self.reader.engine([film.views], maps=True) for film in prepared]
        self._default_threads = torch.get_num_threads()

    def read(self, films: Sequence[int], threads: int | None = None) -> Took:
        """How long the films of these numbers took as one batch, with `threads` of PyTorch; None: as many as it has."""
        torch.set_num_threads(threads or self._default_threads)
        return timed(lambda: self._read(films))

    def _read(self, films: Sequence[int]) -> None:
        prepared = [self.reader.prepare(read_film(self.films[k])) for k in films]
        batch = torch.from_numpy(np.stack([views(film.prepared.pixels, SIZE) for film in prepared]))
        with torch.inference_mode():
            for network in self.networks:
                features, maps = network.features_and_maps(batch)
                torch.sigmoid(network.classify(features)).numpy()
                torch.sigmoid(maps).numpy()
        for k, film in zip(films, prepared, strict=True):
            rows, heatmaps = self._reader_outputs[k]
            self.reader.findings(film, rows[0], None if heatmaps is None else heatmaps[0])


class PlainProcess:
    """`PlainPyTorch` at the other end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, films: Sequence[int], threads: int | None = None) -> Took:
        """As of `PlainPyTorch`."""
        self._connection.send((list(films), threads))
        return Took(*self._connection.recv())


@contextmanager
def in_own_process(bundle: Path, films: Sequence[bytes]) -> Iterator[PlainProcess]:
    """`PlainPyTorch` in a process of its own, as the reader's allocator and threads would change it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, bundle, films), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()  # its networks are made
        yield PlainProcess(ours)
    except EOFError:
        raise Error(
            "bench predict: the process of plain PyTorch ended", "is memory short? close other programs"
        ) from None
    finally:
        ours.close()  # at which it ends
        process.join(60)


def _serve(connection: Connection, bundle: Path, films: Sequence[bytes]) -> None:
    plain = PlainPyTorch(bundle, films)
    connection.send("ready")
    while True:
        try:
            connection.send(tuple(plain.read(*connection.recv())))
        except (EOFError, BrokenPipeError):
            return
