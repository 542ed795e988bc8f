"""Reading speed: a bundle as cxrlines reads with it against the same networks as PyTorch comes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch.nn import functional

from cxrlines.data.films import Film, read_bytes, read_film
from cxrlines.data.prepare import Prepared, prepare
from cxrlines.errors import Error
from cxrlines.evaluation.calibrate import Calibration
from cxrlines.inference.bundle import Bundle
from cxrlines.inference.engine import find_films
from cxrlines.inference.findings import Findings, findings_of
from cxrlines.inference.forward import Forward, Shown, averaged, gives_maps
from cxrlines.inference.quality import load_probe
from cxrlines.inference.reader import Reader
from cxrlines.inference.views import views
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.phantom.write import JPEG_QUALITY
from cxrlines.task import LABELS
from cxrlines.training.process import keep_buffers

HEIGHT, WIDTH = 3000, 2500
Item = TypeVar("Item")
Made = TypeVar("Made")


class BenchError(Error):
    """There is nothing to measure with; the message says why."""


def bench_predict(bundle: Bundle, films: int = 12, folder: Path | None = None) -> dict[str, float]:
    """Seconds a film from its file's bytes to its findings, in 32 bits throughout.

    The films are phantoms of 2,500 x 3,000 px as JPEG, or the first ones of a folder; those in which the reader sees no
    chest film are left out. Both ways do the same work on the same device: decoding, judging, shrinking, networks,
    findings. The bundle's models come out of it made fast.

    Returns:
        films: how many; threads: of PyTorch.
        plain_s: PyTorch as it comes, in its memory format and with the usual allocator, a film at a time.
        latency_s: `Reader.read`, a film at a time; batch_s: `Reader.read_many`; and both as speed-ups over plain_s.
        decode_share, prepare_share, network_share, findings_share: of a reading a film at a time; to prepare is to
            judge quality, shrink and resample.
        largest_difference: of a probability between plain PyTorch and the reader, a film at a time or in batches.

    Raises:
        BenchError: no film to measure with. FilmError: one that cannot be decoded.
    """
    bench = _Bench(bundle)
    files = [file for file in _files(films, folder) if bench.prepare(read_film(file)).made.quality.usable]
    if not files:
        raise BenchError(f"{folder or 'the phantoms'}: the reader sees no chest film; name a folder of such films")
    plain_s, expected = _timed(bench.plain, files)
    # Only now, as these change the process and the models for good.
    keep_buffers()
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
        **bench.shares(files),
        "largest_difference": max(_difference(alone, expected), _difference(together, expected)),
    }


@dataclass(frozen=True, eq=False)
class _Ready:
    shown: Shown
    made: Prepared


class _Bench:
    """What `Reader` does, in its steps."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.probe = bundle, load_probe(bundle)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sides = [size for model, size in zip(bundle.models, bundle.sizes, strict=True) if gives_maps(model)]
        self.calibration = Calibration(bundle.manifest.calibration or {})

    def plain(self, file: bytes) -> Findings:
        """A film read by the networks as PyTorch has them."""
        ready = self.prepare(read_film(file))
        return self.findings(ready, *self.network(ready))

    def prepare(self, film: Film) -> _Ready:
        store = self.bundle.manifest.store
        made = prepare(film, store.size, store.aspect, self.probe)
        return _Ready({size: views(made.pixels, size) for size in set(self.bundle.sizes)}, made)

    @torch.no_grad()
    def network(self, ready: _Ready) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean probabilities (1, 11) and mean maps (1, 9, h, w), if there are any."""
        scores, maps = [], []
        for model, size in zip(self.bundle.models, self.bundle.sizes, strict=True):
            film = torch.from_numpy(ready.shown[size][:, None]).to(self.device)
            model.to(self.device)
            if gives_maps(model):
                features, logits = model.features_and_maps(film)
                scores.append(model.classify(features))
                side = (max(self.sides) // 2,) * 2
                maps.append(functional.interpolate(torch.sigmoid(logits), side, mode="bilinear", align_corners=False))
            else:
                scores.append(model(film))
        rows = torch.stack([torch.sigmoid(score.double()) for score in scores]).cpu().numpy()
        mean = averaged(rows, [entry.fold for entry in self.bundle.manifest.models], self.bundle.manifest)
        return mean, torch.stack(maps).mean(dim=0).cpu().numpy() if maps else None

    def findings(self, ready: _Ready, rows: np.ndarray, maps: np.ndarray | None) -> Findings:
        labels = dict(zip(LABELS, self.calibration.apply(rows)[0].tolist(), strict=True))
        made = ready.made
        if maps is None:
            return Findings(made.film_shape, (), {}, (), labels)
        placement = made.placement.at(self.bundle.manifest.store.size, max(self.sides))
        return findings_of(
            maps[0],
            placement,
            made.film_shape,
            labels,
            denied=self.bundle.manifest.denied,
            within=made.within,
            rotation=made.quality.rotation,
        )

    def shares(self, files: Sequence[bytes]) -> dict[str, float]:
        """Of the time of a reading by the reader's networks, stage by stage."""
        forward = Forward(self.bundle)
        decode, films = _timed(read_film, files)
        prepare, ready = _timed(self.prepare, films)
        network, said = _timed(lambda each: forward([each.shown], maps=True), ready)
        findings, _ = _timed(lambda each: self.findings(each[0], *each[1]), list(zip(ready, said, strict=True)))
        seconds = {"decode": decode, "prepare": prepare, "network": network, "findings": findings}
        return {f"{stage}_share": round(each / sum(seconds.values()), 3) for stage, each in seconds.items()}


def _timed(work: Callable[[Item], Made], items: Sequence[Item]) -> tuple[float, list[Made]]:
    """Mean seconds an item, after the first has been done once, and what the work gives."""
    work(items[0])
    begun = time.perf_counter()
    made = [work(item) for item in items]
    return (time.perf_counter() - begun) / len(items), made


def _difference(got: Sequence[object], expected: Sequence[Findings]) -> float:
    """The largest of a probability; infinite where one way read a film and the other did not."""
    largest = 0.0
    for one, other in zip(got, expected, strict=True):
        if not isinstance(one, Findings) or one.labels is None or other.labels is None:
            return float("inf")
        largest = max(largest, *(abs(one.labels[label] - other.labels[label]) for label in LABELS))
    return round(largest, 8)


def _files(films: int, folder: Path | None) -> Iterator[bytes]:
    """The bytes of phantoms, or of a folder's first films by name."""
    if folder is None:
        yield from (_phantom(seed) for seed in range(films))
        return
    found = find_films([folder])
    for path, why in found.errors:
        raise BenchError(f"{path}: {why}; name a folder of films")
    yield from (read_bytes(path) for path, _ in found.films[:films])


def _phantom(seed: int) -> bytes:
    """A phantom of WIDTH x HEIGHT px as JPEG."""
    scene = make_scene([seed, 1], [seed, 1, 0], size=max(HEIGHT, WIDTH), balance="even", site="a")
    film = render(scene, difficulty=0.5, site="a", rng=np.random.default_rng(seed))
    sized = cv2.resize(film, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", sized, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    assert done
    return jpeg.tobytes()
