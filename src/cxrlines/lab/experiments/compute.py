"""Training cost of members, in passes of a film through a plain stage, so that recipes can be set to equal compute.

The cost of the other kinds of stage, relative to a plain pass, was measured in processor time of one thread:

    python -m cxrlines.lab.experiments.compute [FILMS] [SIZE]
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cxrlines.core.pool import keep_buffers
from cxrlines.io.store import build_store
from cxrlines.io.tables import read_dataset
from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.folder import Step
from cxrlines.recipe.run.training_data import films_of
from cxrlines.recipe.spec.recipe import Recipe, StageSpec
from cxrlines.task import MAPS
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.sampling import batches_per_epoch
from cxrlines.training.targets import FeatureTarget, LabelTarget, MapTarget, TargetsSpec

BACKBONE, BATCH = "tf_efficientnet_lite0", 16
PASSES = {"plain": 1.0, "overlay": 1.08, "features": 1.33, "maps": 1.47, "maps_of": 1.56}
"""What an annotated film costs in each kind of stage, against a plain one: EfficientNet-Lite0, 160 px, 2026-11-25
(docs/experiments.md)."""
DECODER = 0.1
"""Of what `maps` costs, the part that falls on every film, annotated or not: the decoder's weights take a step too."""


def kind_of(stage: StageSpec) -> str:
    """What makes a stage's pass cost what it does: one of `PASSES`."""
    if stage.films.maps_of:
        return "maps_of"
    if stage.targets.reads_maps:
        return "maps"
    if stage.targets.features:
        return "features"
    return "overlay" if stage.films.view == "overlay" else "plain"


def compute_of(recipe: Recipe, steps: Sequence[Step], annotated: float) -> float:
    """What training the steps of a plan costs, in films passed through a plain stage; nested steps cost like others.

    Reading films, for soft labels among others, is not counted: no film is read more often than it is trained on.
    `annotated`: share of the own films whose lines are annotated.
    """
    total = 0.0
    for step in steps:
        stage = recipe.members[step.key.member].stages[step.key.stage]
        kind, schedule = kind_of(stage), stage.schedule
        each = PASSES[kind]
        if kind == "maps" and stage.films.which == "all":
            each = 1 + DECODER + annotated * (each - 1 - DECODER)
        batches = max(1, round(schedule.epochs * batches_per_epoch(step.films, schedule.batch)))
        total += batches * min(schedule.batch, step.films) * each
    return total


SOME = "maps of 3 in 10"


def measure(folder: Path, films: int = 320, size: int = 160, rounds: int = 2) -> dict[str, float]:
    """Processor seconds of a training film, augmentation included, by kind of stage.

    Each kind trains three epochs on the annotated 3 in 10 of `films` phantoms, `SOME` on as many of which 3 in 10 are
    annotated; the first epoch warms up. The least of `rounds` counts.
    """
    keep_buffers()
    torch.set_num_threads(1)
    write_phantom(folder / "own", studies=films, test=0, seed=0, size=2 * size, annotated=0.3, workers=1)
    dataset = read_dataset(folder / "own")
    store = build_store(dataset, folder / "store", size=size + size // 10, aspect="stretch", workers=1)
    annotated = np.flatnonzero(np.asarray(dataset.annotated))
    some = np.arange(len(annotated))

    def network(channels: int = 1, decoder: bool = False) -> Classifier:
        return Classifier(BACKBONE, "gap", in_channels=channels, weights="none", decoder=decoder)

    def epoch_seconds(kind: str) -> float:
        learns = kind in ("maps", SOME)
        model: Model = network(3 if kind == "overlay" else 1, decoder=learns)
        rows = some if kind == SOME else annotated
        lines = kind in ("overlay", "features") or learns
        targets = TargetsSpec(
            labels=LabelTarget(),
            features=FeatureTarget(of="teacher", weight=1) if kind == "features" else None,
            maps=MapTarget(kinds=("line", "tip")) if learns else None,
        )
        found = films_of(dataset, store, rows, lines=lines, targets=targets)
        segmenters = []
        if kind == "maps_of":
            model, segmenters = TwoStep(network(decoder=True), network(1 + len(MAPS))), [network(decoder=True)]
            by = np.where(np.arange(len(rows)) % 10 < 3, 0, -1)
            found = replace(found, more={"segmenter": by})
        ends: list[float] = []
        module = StageModule(
            model,
            StageConfig(
                ScheduleSpec(epochs=3, batch=BATCH, lr=1e-3, optimizer="adamw", clip=1.0, precision="32"), targets
            ),
            FilmSet(found, "light", size, flip=False, seed=0, overlay=kind in ("overlay", "features"), maps=learns),
            None,
            view="overlay" if kind == "overlay" else "plain",
            teacher=network(3) if kind == "features" else None,
            segmenters=segmenters,
            track=lambda values, epoch: ends.append(time.process_time()),
        )  # fmt: skip
        module.fit()
        return (ends[-1] - ends[0]) / 2 / (module.per_epoch * BATCH)

    return {kind: min(epoch_seconds(kind) for _ in range(rounds)) for kind in (*PASSES, SOME)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as room:
        seconds = measure(Path(room), *(int(number) for number in sys.argv[1:]))
    for name, each in seconds.items():
        print(f"{name:16}{1000 * each:6.1f} ms a film  {each / seconds['plain']:.2f}")
