"""Films read by a Ray cluster: Ray Data hands them out, each worker reads its share as one machine would."""

import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cxrlines.cluster.connection import check_machines, check_shared, cluster
from cxrlines.reading.batch import Found, Predictions, Reading, assembled, find_films
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.reader import Reader
from cxrlines.reading.tta import allowed_views

AT_ONCE = 32
"""Batches handed to a worker at once, at most: while one is computed, the next films are decoded."""


def predict_on_ray(
    sources: Iterable[Path] | Found,
    bundle_folder: Path,
    on: str,
    *,
    batch_size: int = 8,
    tta: Sequence[str] = (),
    lines: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """What `engine.predict` gives, from the cluster `on` (see `data.cluster`): rows in the order of the sources.

    A worker has one GPU, or where the cluster has none one core, and loads the bundle once. All machines must see
    bundle and films under the same paths. A machine that dies costs time only: others read its films.

    Raises:
        ClusterError: no Ray, no answer, or a machine that does not see the folders.
        Stopped: as `engine.predict`.
    """
    bundle = load_bundle(bundle_folder)
    tta = allowed_views(bundle, tta)
    found = sources if isinstance(sources, Found) else find_films(sources)
    paths = [path for path, _ in found.films]
    inputs = [bundle_folder.absolute(), *sorted({*map(Path.absolute, found.folders), *map(_folder, found.named)})]

    def outcomes() -> Iterator[Outcome]:
        with cluster(on) as ray:
            check_machines(ray, None, *inputs)
            each = _from_outside if on.startswith("ray://") else _outcomes
            for done, outcome in enumerate(each(ray, paths, inputs, batch_size, tta, lines), start=1):
                yield outcome
                if progress and (done % batch_size == 0 or done == len(paths)):
                    progress(done, len(paths))

    return assembled(found, outcomes(), bundle, tta)


Outcome = tuple[int, Reading]
"""The place of a film among the paths, and what it gave."""


def _from_outside(ray: Any, paths: Sequence[Path], *options: Any) -> Iterator[Outcome]:
    """`_outcomes` through Ray Client, which Ray Data does not know: from a process on the cluster's head."""
    places = [path.absolute() for path in paths]
    head = {"node:__internal_head__": 0.001}
    inside = ray.remote(num_cpus=0, resources=head)(_Inside).remote(places, *options)
    while some := ray.get(inside.more.remote()):
        yield from some


class _Inside:
    def __init__(self, *options: Any) -> None:
        import ray

        self.outcomes = _outcomes(ray, *options)

    def more(self) -> list[Outcome]:
        """The next outcomes; none at the end."""
        return list(itertools.islice(self.outcomes, 64))


def _outcomes(
    ray: Any, paths: Sequence[Path], inputs: Sequence[Path], batch_size: int, tta: Sequence[str], lines: bool
) -> Iterator[Outcome]:
    """What each film gave, as it is read."""
    if not paths:
        return
    import ray.data as ray_data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    there = ray.cluster_resources()
    gpus = 1 if there.get("GPU", 0) >= 1 else 0
    workers = max(1, int(there["GPU"] if gpus else there.get("CPU", 1)))
    share = min(AT_ONCE * batch_size, batch_size * math.ceil(len(paths) / (batch_size * 2 * workers)))
    items = [{"place": place, "path": os.fsencode(path.absolute())} for place, path in enumerate(paths)]  # any bytes
    films = ray_data.from_items(items, override_num_blocks=math.ceil(len(items) / share))
    read = films.map_batches(
        _Reader,
        batch_size=share,
        batch_format="numpy",
        concurrency=(1, workers),
        num_cpus=1,
        num_gpus=gpus,
        fn_constructor_kwargs={
            "inputs": list(inputs),
            "batch_size": batch_size,
            "tta": list(tta),
            "lines": lines,
        },
    )
    for batch in read.iter_batches(batch_size=None, batch_format="numpy"):
        yield from zip(batch["place"].tolist(), batch["reading"], strict=True)


class _Reader:
    """A worker: the bundle (the first of `inputs`), loaded once, and films read in batches of `batch_size`."""

    def __init__(self, inputs: list[Path], batch_size: int, tta: list[str], lines: bool) -> None:
        check_shared(None, *inputs)
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        self.reader = Reader(load_bundle(inputs[0]), tta=tta, batch_size=batch_size, lines=lines)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`place` and `path` (n,) to `place` and `reading`."""
        readings = np.empty(len(batch["path"]), object)
        readings[:] = list(self.reader.read_many([Path(os.fsdecode(path)) for path in batch["path"]]))
        return {"place": batch["place"], "reading": readings}


def _folder(path: Path) -> Path:
    return path.absolute().parent
