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
from cxrlines.io.store import Store, build_store
from cxrlines.io.tables import Dataset, read_dataset
from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.folder import Step
from cxrlines.recipe.run.training_data import films_of
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import StageSpec
from cxrlines.task import MAPS
from cxrlines.training.config import ScheduleSpec, StageConfig, Track
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


MAPS_OF_SOME = "maps of 3 in 10"
"""Learns heatmaps of 3 in 10 of its films: what `DECODER` is measured by."""
EPOCHS = 3
"""Trained for a measurement; the first warms up and is not counted."""


def measure(folder: Path, films: int = 320, size: int = 160, rounds: int = 2) -> dict[str, float]:
    """Processor seconds of a training film, augmentation included, by kind of stage.

    Each kind trains three epochs on the annotated 3 in 10 of `films` phantoms of `size` px, `MAPS_OF_SOME` on as many
    of which 3 in 10 are annotated; the first epoch warms up. The least of `rounds` counts. Writes into `folder`.
    """
    keep_buffers()
    torch.set_num_threads(1)
    write_phantom(folder / "own", studies=films, test=0, seed=0, size=2 * size, annotated=0.3, workers=1)
    dataset = read_dataset(folder / "own")
    store = build_store(dataset, folder / "store", size=size + size // 10, aspect="stretch", workers=1)
    kinds = (*PASSES, MAPS_OF_SOME)
    return {kind: min(_seconds_a_film(kind, dataset, store, size) for _ in range(rounds)) for kind in kinds}


def _seconds_a_film(kind: str, dataset: Dataset, store: Store, size: int) -> float:
    """Processor seconds of a film in a stage of the kind, once it is warm."""
    ends: list[float] = []
    module = _stage_of(kind, dataset, store, size, lambda values, epoch: ends.append(time.process_time()))
    module.fit()
    return (ends[-1] - ends[0]) / (EPOCHS - 1) / (module.per_epoch * BATCH)


def _stage_of(kind: str, dataset: Dataset, store: Store, size: int, track: Track) -> StageModule:
    """A stage of the kind, ready to train; `track` is called after each epoch."""
    learns_maps, has_teacher = kind in ("maps", MAPS_OF_SOME), kind == "features"
    overlay = kind == "overlay"
    annotated = np.flatnonzero(np.asarray(dataset.annotated))
    rows = np.arange(len(annotated)) if kind == MAPS_OF_SOME else annotated
    targets = TargetsSpec(
        labels=LabelTarget(),
        features=FeatureTarget(of="teacher", weight=1) if has_teacher else None,
        maps=MapTarget(kinds=("line", "tip")) if learns_maps else None,
    )
    films = films_of(dataset, store, rows, lines=overlay or has_teacher or learns_maps, targets=targets)
    model: Model = _network(in_channels=3 if overlay else 1, decoder="unet" if learns_maps else None)
    segmenters: list[Classifier] = []
    if kind == "maps_of":
        model, segmenters = (
            TwoStep(_network(decoder="unet"), _network(in_channels=1 + len(MAPS))),
            [_network(decoder="unet")],
        )
        # Three films in ten were annotated and take their heatmaps from a nested segmenter, the others from its own.
        films = replace(films, more={"segmenter": np.where(np.arange(len(rows)) % 10 < 3, 0, -1)})
    schedule = ScheduleSpec(epochs=EPOCHS, batch=BATCH, lr=1e-3, optimizer="adamw", clip=1.0, precision="32")
    return StageModule(
        model,
        StageConfig(schedule, targets),
        FilmSet(films, "light", size, flip=False, seed=0, overlay=overlay or has_teacher, maps=learns_maps),
        None,
        view="overlay" if overlay else "plain",
        teacher=_network(in_channels=3) if has_teacher else None,
        segmenters=segmenters,
        track=track,
    )


def _network(*, in_channels: int = 1, decoder: str | None = None) -> Classifier:
    return Classifier(BACKBONE, "gap", in_channels=in_channels, weights="none", decoder=decoder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), *(int(number) for number in sys.argv[1:]))
    for name, each in seconds.items():
        print(f"{name:16}{1000 * each:6.1f} ms a film  {each / seconds['plain']:.2f}")
