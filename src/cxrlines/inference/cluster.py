"""Films read by a Ray cluster: Ray Data hands them out, each worker reads its share as one machine would."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from cxrlines.data.cluster import check_machines, check_shared, cluster
from cxrlines.inference.bundle import load_bundle
from cxrlines.inference.engine import Found, Predictions, find_films, predict
from cxrlines.inference.findings import Findings
from cxrlines.inference.views import allowed_views
from cxrlines.task import LABELS, STUDY_COLUMN

AT_ONCE = 32
"""Batches handed to a worker at once, at most: while one is computed, the next films are decoded."""


def predict_on_ray(
    sources: Iterable[Path],
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
    """
    begun = time.monotonic()
    bundle = load_bundle(bundle_folder)
    tta = allowed_views(bundle, tta)
    sources = list(sources)
    found = find_films(sources)
    paths = [path for path, _ in found.films]
    inputs = [bundle_folder.absolute(), *sorted({_folder(path) for path in sources if path.exists()})]
    outcome: dict[int, Outcome] = {}
    with cluster(on) as ray:
        check_machines(ray, None, *inputs)
        outcomes = _from_outside if on.startswith("ray://") else _outcomes
        for done in outcomes(ray, paths, inputs, batch_size, tta, lines):
            outcome[done["place"]] = done
            if progress and (len(outcome) % batch_size == 0 or len(outcome) == len(paths)):
                progress(len(outcome), len(paths))
    read = [place for place in range(len(paths)) if not outcome[place]["error"]]
    names = found.names()
    findings: list[Findings] = [outcome[place]["findings"] for place in read]
    rows = pd.DataFrame([found.labels for found in findings], columns=list(LABELS), dtype=float)
    rows.insert(0, STUDY_COLUMN, [names[paths[place]] for place in read])
    unread = [(str(path), outcome[place]["error"]) for place, path in enumerate(paths) if outcome[place]["error"]]
    refused = [place for place in range(len(paths)) if outcome[place]["error"] and outcome[place]["findings"]]
    return Predictions(
        rows=rows,
        films=[paths[place] for place in read],
        findings=findings,
        errors=list((dict(found.errors) | dict(unread)).items()),
        skipped=found.skipped,
        renamed=sum(names[paths[place]] != _own_name(paths[place]) for place in read),
        seconds=time.monotonic() - begun,
        bundle=bundle.identity,
        tta=tta,
        notice=bundle.notice,
        refused=tuple((paths[place], names[paths[place]], outcome[place]["findings"]) for place in refused),
    )


Outcome = dict[str, Any]


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
    """A dict for each film as it is read: `place` among `paths`, `findings`, `error`.

    One of the two is None or empty; a film that was refused has both.
    """
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
    items = [{"place": place, "path": str(path.absolute())} for place, path in enumerate(paths)]
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
        for index in range(len(batch["place"])):
            yield {str(name): values[index] for name, values in batch.items()}


class _Reader:
    """A worker: the bundle (the first of `inputs`), loaded once, and films read in batches of `batch_size`."""

    def __init__(self, inputs: list[Path], batch_size: int, tta: list[str], lines: bool) -> None:
        check_shared(None, *inputs)
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        self.bundle, self.batch_size, self.tta, self.lines = load_bundle(inputs[0]), batch_size, tta, lines

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`place` and `path` (n,) to `place`, `findings` and `error`, as in `_outcomes`."""
        paths = map(Path, batch["path"])
        result = predict(paths, self.bundle, batch_size=self.batch_size, tta=self.tta, lines=self.lines)
        found = dict(zip(map(str, result.films), result.findings, strict=True))
        found |= {str(path): reading for path, _, reading in result.refused}
        errors = dict(result.errors)
        findings = np.empty(len(batch["path"]), object)
        findings[:] = [found.get(path) for path in batch["path"]]
        error = np.array([errors.get(path, "") for path in batch["path"]], object)
        return {"place": batch["place"], "findings": findings, "error": error}


def _own_name(path: Path) -> str:
    """What a film is called where no other shares its name."""
    return Found([(path, path.parent)], [], 0).names()[path]


def _folder(source: Path) -> Path:
    return source.absolute() if source.is_dir() else source.absolute().parent
