"""The films of a step with their targets, and finished steps reading films for others."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from cxrlines.augment.policy import make_policy
from cxrlines.core.errors import Error
from cxrlines.evaluation.ensemble.average import write_predictions
from cxrlines.evaluation.scores import read_predictions
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.models.two_step import Model, model_of
from cxrlines.models.weights import load_into, load_weights
from cxrlines.recipe.run.folder import HELD_OUT, WEIGHTS, Run
from cxrlines.recipe.run.plan import Role, Step, StepId
from cxrlines.recipe.run.soft_labels import read_soft_labels, soft_labels
from cxrlines.recipe.spec.stage import OWN, MapTarget, StageSpec
from cxrlines.task import LABELS, MAPS, Landmark, MapKind
from cxrlines.training import distributed
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.trainer import predict_films


def films_of(dataset: Dataset, store: Store, rows: np.ndarray, *, lines: bool, maps: MapTarget | None = None) -> Films:
    """The films of some rows of a table, with targets and, where wanted, lines and landmarks in px of the store's.

    With `maps`, the films' `mapped` says which maps are known: of annotated films, and landmarks where they are given.
    """
    studies = [str(study) for study in dataset.studies["study"].iloc[rows]]
    places = np.array([store.row(study) for study in studies], np.int64)
    if set(LABELS) <= set(dataset.studies):
        targets = dataset.studies[list(LABELS)].iloc[rows].fillna(0).to_numpy(np.float32, copy=True)
    else:
        targets = np.zeros((len(rows), len(LABELS)), np.float32)
    drawn = [
        [(line.label, store.placements[place].to_store(line.points)) for line in dataset.lines.get(study, [])]
        if lines
        else []
        for study, place in zip(studies, places, strict=True)
    ]
    films = Films(store, places, targets, drawn)
    if maps is None:
        return films
    marks = np.full((len(rows), len(Landmark), 2), np.nan)
    for position, (study, place) in enumerate(zip(studies, places, strict=True)):
        for name, point in dataset.landmarks.get(study, {}).items():
            marks[position, list(Landmark).index(Landmark(name))] = store.placements[place].to_store(point[None])[0]
    annotated = np.asarray(dataset.annotated)[rows]
    places_known = iter(np.isfinite(marks).all(axis=2).T)
    known = [next(places_known) if kind is MapKind.LANDMARK else annotated for kind, _ in MAPS]
    wanted = [kind in maps.kinds for kind, _ in MAPS]
    mapped = np.stack([column & want for column, want in zip(known, wanted, strict=True)], axis=1)
    return replace(films, landmarks=marks, more={"mapped": mapped.astype(np.float32)})


def training_films(
    run: Run, step: Step, stage: StageSpec, rows: np.ndarray, report: Callable[[dict[str, Any]], None]
) -> tuple[Films, dict[str, Any] | None]:
    """The films of a stage with all its targets, and what there is to say of its soft labels."""
    own, targets = stage.films.set == OWN, stage.targets
    if own:
        dataset, store = run.train, run.store
        lines = stage.films.view == "overlay" or targets.features is not None or targets.maps is not None
    else:
        found, store = run.external[stage.films.set]
        dataset, lines = Dataset(run.root, found.studies), False
    more: dict[str, np.ndarray] = {}
    said = None
    if targets.soft:
        report({"doing": "making soft labels"})
        studies = dataset.studies["study"].iloc[rows].astype(str).tolist()
        soft = soft_labels(targets.soft, *_teachers_say(run, step, stage, rows, studies))
        said = {"kept": int(soft.keep.sum()), "of": len(rows), "temperatures": soft.temperatures}
        rows, more = rows[soft.keep], {"soft": soft.targets, "film_weights": soft.weights}
    if targets.presence:
        more["presence"] = run.external[stage.films.set][0].presence(rows)
        if not np.isfinite(more["presence"]).any():
            raise Error(
                f"targets.presence: the table of the set {stage.films.set} says of no film whether a tube is there",
                "take a set that does, PadChest for one, or train towards soft labels",
            )
    if stage.films.maps_of:
        more["segmenter"] = _segmenters(run, step, rows) if own else np.full(len(rows), -1)
    films = films_of(dataset, store, rows, lines=lines, maps=targets.maps)
    if targets.maps and not films.more["mapped"].any():
        raise Error(
            "targets.maps: none of the films has an annotated line or a landmark (train_annotations.csv, "
            "landmarks.csv)",
            "add annotations or leave the target out",
        )
    return replace(films, more={**films.more, **more}), said


def map_folds(step: Step) -> list[int]:
    """The folds of which a step sees films with the maps of an inner step, which did not see them."""
    return sorted(step.by_fold(Role.MAPS))


def _segmenters(run: Run, step: Step, rows: np.ndarray) -> np.ndarray:
    """(n,) which of `map_folds` makes the maps of each film: its own fold's if `maps` saw the film, else -1: `maps`."""
    folds = run.folds.to_numpy()[rows]
    inner = {fold: place for place, fold in enumerate(map_folds(step))}
    segmenter = step.parent(Role.MAPS)
    assert segmenter is not None
    member = run.recipe.members[segmenter.member]
    own = [stage for stage in member.made_of(segmenter.stage) if stage.films.set == OWN]
    seen = np.isin(rows, np.concatenate([run.films.training(stage, segmenter.held) for stage in own]))
    return np.array([inner[int(fold)] if was else -1 for fold, was in zip(folds, seen, strict=True)])


def _teachers_say(
    run: Run, step: Step, stage: StageSpec, rows: np.ndarray, studies: list[str]
) -> tuple[pd.DataFrame, list[str], tuple[pd.DataFrame, pd.DataFrame] | None]:
    """Predictions for a stage's films, its studies, and what a dynamic temperature is fitted to."""
    soft = stage.targets.soft
    assert soft is not None
    out_of_fold = None
    if inner := step.by_fold(Role.SOFT):
        # Of what a teacher predicts, the films of the one fold that this step itself does not hold out.
        studies_of = {fold: set(run.train.studies["study"].iloc[run.films.held((fold,))]) for fold in inner}
        frames = [read_predictions(run.folder(key) / HELD_OUT) for key in inner.values()]
        kept = [frame[frame["study"].isin(studies_of[fold])] for fold, frame in zip(inner, frames, strict=True)]
        out_of_fold = pd.concat(kept, ignore_index=True)
    truth = run.train.studies[["study", *LABELS]]
    if stage.films.set == OWN and out_of_fold is not None:
        mine = out_of_fold[out_of_fold["study"].isin(set(studies))]
        return mine, studies, (mine, truth)
    if teacher := step.parent(Role.SOFT):
        given = _label_set(run, teacher, stage.films.set)
    else:
        table = run.train.studies if stage.films.set == OWN else run.external[stage.films.set][0].studies
        given = read_soft_labels(Path(soft.file or ""), studies, set(table["study"].astype(str)))
    return given, studies, (out_of_fold, truth) if out_of_fold is not None else None


def _label_set(run: Run, teacher: StepId, name: str) -> pd.DataFrame:
    """What a finished step says of every film of an external set; kept beside it for others who ask."""
    found, store = run.external[name]
    path = run.folder(teacher) / f"{name}-{store.fingerprint[:12]}.csv"
    with FileLock(path.with_suffix(".lock")) if distributed.is_first() else contextlib.nullcontext():
        if distributed.first(lambda: not path.is_file()):
            dataset = Dataset(run.root, found.studies)
            size = run.recipe.size_of(teacher.member, teacher.stage)
            predict_rows(dataset, store, np.arange(len(store)), load_step(run, teacher), size, path)
    return read_predictions(path)


def load_step(run: Run, key: StepId) -> Model:
    """The model of a finished step."""
    tensors, meta = load_weights(run.folder(key) / WEIGHTS)
    model = model_of(json.loads(meta["config"]))
    load_into(model, tensors)
    return model


def predict_rows(dataset: Dataset, store: Store, rows: np.ndarray, model: Model, size: int, out: Path) -> None:
    """Write the probabilities of some rows, seen plain and without augmentation."""
    films = films_of(dataset, store, rows, lines=False)
    scores = predict_films(model, FilmSet(films, make_policy("none", size), seed=0))
    studies = dataset.studies["study"].iloc[rows].to_numpy()
    predictions = pd.DataFrame(scores, columns=list(LABELS)).assign(study=studies)
    distributed.first(lambda: write_predictions(predictions, out))
