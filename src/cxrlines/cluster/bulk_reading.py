"""Films read in bulk by a Ray cluster."""

import itertools
import logging
import math
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxrlines.cluster.connection import check_machines, check_shared, cluster
from cxrlines.reading.batch import Outcome, Predictions, collect
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.engines.choice import engine_of
from cxrlines.reading.reader import Progress, Reader, allowed_views
from cxrlines.reading.sources import Found, find_films

AT_ONCE = 32
"""Batches of films handed to a worker at once, at most: while one is computed, the next films are decoded."""


def predict_on_ray(
    sources: Iterable[Path] | Found,
    bundle_folder: Path,
    on: str,
    *,
    batch_size: int = 8,
    tta: Sequence[str] | None = None,
    lines: bool = False,
    progress: Progress | None = None,
    journal: Path | None = None,
    resume: bool = False,
) -> Predictions:
    """As `reading.batch.predict`, by the cluster `on` (see `connection.cluster`): rows in the order of the sources.

    A worker has one GPU, or where the cluster has none one core, and loads the bundle once. All machines must see
    bundle and films under the same paths. A machine that dies costs time only: others read its films. The journal is
    written here.

    Raises:
        ClusterError: no Ray, no answer, or a machine that does not see the folders.
        JournalError, OutputError, Stopped: as `reading.batch.predict`.
    """
    bundle = load_bundle(bundle_folder)
    views = allowed_views(bundle, tta)
    found = sources if isinstance(sources, Found) else find_films(sources)
    folders = {*map(Path.absolute, found.folders), *(path.absolute().parent for path in found.named)}
    inputs = [bundle_folder.absolute(), *sorted(folders)]

    def read(places: Sequence[int]) -> Generator[Outcome, None, None]:
        with cluster(on) as ray:
            check_machines(ray, None, *inputs)
            each = _from_outside if on.startswith("ray://") else _outcomes
            paths = [found.films[place][0] for place in places]
            for index, reading in each(ray, paths, inputs, bundle.identity, batch_size, views, lines):
                yield places[index], reading

    return collect(
        found,
        read,
        bundle,
        tta=views,
        lines=lines,
        journal=journal,
        resume=resume,
        progress=progress,
        engine=f"the cluster's, {batch_size} films a pass",  # which films share one is not fixed there
    )


def _from_outside(ray: Any, paths: Sequence[Path], *options: Any) -> Iterator[Outcome]:
    """`_outcomes` through Ray Client, which Ray Data does not know: from a process on the cluster's head."""
    head = {"node:__internal_head__": 0.001}
    inside = ray.remote(num_cpus=0, resources=head)(_Inside).remote([path.absolute() for path in paths], *options)
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
    ray: Any,
    paths: Sequence[Path],
    inputs: Sequence[Path],
    identity: str,
    batch_size: int,
    tta: Sequence[str],
    lines: bool,
) -> Iterator[Outcome]:
    """The reading of each film, as it is read: Ray Data hands films out, each worker reads its share."""
    if not paths:
        return
    import ray.data as ray_data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray_data.DataContext.get_current().enable_progress_bars = False
    there = ray.cluster_resources()
    gpus = 1 if there.get("GPU", 0) >= 1 else 0
    workers = max(1, int(there["GPU"] if gpus else there.get("CPU", 1)))
    share = min(AT_ONCE * batch_size, batch_size * math.ceil(len(paths) / (batch_size * 2 * workers)))
    items = [{"place": place, "path": os.fsencode(path.absolute())} for place, path in enumerate(paths)]  # any bytes
    read = ray_data.from_items(items, override_num_blocks=math.ceil(len(items) / share)).map_batches(
        _Reader,
        batch_size=share,
        batch_format="numpy",
        concurrency=(1, workers),
        num_cpus=1,
        num_gpus=gpus,
        fn_constructor_args=(list(inputs), identity, batch_size, list(tta), lines),
    )
    for batch in read.iter_batches(batch_size=None, batch_format="numpy"):
        yield from zip(batch["place"].tolist(), batch["reading"], strict=True)


class _Reader:
    """A worker: the bundle (the first of `inputs`, of this `identity`), loaded once, and films read in batches."""

    def __init__(self, inputs: list[Path], identity: str, batch_size: int, tta: list[str], lines: bool) -> None:
        check_shared(None, *inputs)
        cv2.setNumThreads(1)
        bundle = load_bundle(inputs[0], identity)
        self.reader = Reader(bundle, tta=tta, batch_size=batch_size, lines=lines, engine=engine_of(bundle, cores=1))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`place` and `path` (n,) to `place` and `reading`."""
        readings = np.empty(len(batch["path"]), object)
        readings[:] = list(self.reader.read_many([Path(os.fsdecode(path)) for path in batch["path"]]))
        return {"place": batch["place"], "reading": readings}
