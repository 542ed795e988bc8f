"""The films of a step with the data of its targets, and finished steps predicting films for others."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.core.transform import Size
from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.predictions import read_predictions, write_predictions
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.models.classifier import Model, model_of
from cxrlines.models.weights import load_into, load_weights
from cxrlines.recipe.run.folder import HELD_OUT, WEIGHTS, Role, Run, Step, StepId
from cxrlines.recipe.run.soft_labels import read_soft_labels, soft_labels
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import StageSpec
from cxrlines.task import DEVICE_OF, LABEL_INDEX, LABELS, LABELS_OF, Device, Landmark
from cxrlines.training import distributed
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.prediction import predict_films
from cxrlines.training.targets import SoftTarget, TargetsSpec
from cxrlines.training.targets.base import OWN, TargetData

NO_TARGETS = TargetsSpec()
AT_ONCE = 32
"""Films predicted at once, at most."""


@dataclass(frozen=True)
class TableFilms:
    """Some rows of a table and their films in a store: the `FilmSource` of targets."""

    dataset: Dataset
    store: Store
    rows: np.ndarray
    set: str = OWN

    @cached_property
    def studies(self) -> list[str]:
        """The studies of the rows."""
        return self.dataset.studies["study"].iloc[self.rows].astype(str).tolist()

    @cached_property
    def stored(self) -> np.ndarray:
        """(n,) int64: rows of the store."""
        return np.array([self.store.row(study) for study in self.studies], np.int64)

    @property
    def labels(self) -> np.ndarray:
        """(n, labels) float32; NaN where unknown, or where the table has no such column."""
        table = self.dataset.studies.iloc[self.rows].reindex(columns=list(LABELS))
        labels = table.to_numpy(np.float32, copy=True)
        labels[labels < 0] = np.nan  # task.UNKNOWN
        return labels

    @property
    def annotated(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(self.dataset.annotated)[self.rows]

    @property
    def landmarks(self) -> np.ndarray:
        """(n, landmarks, 2) [x, y] px of the stored films, NaN where unknown."""
        found = np.full((len(self.rows), len(Landmark), 2), np.nan)
        for position, (study, row) in enumerate(zip(self.studies, self.stored, strict=True)):
            for name, point in self.dataset.landmarks.get(study, {}).items():
                place = list(Landmark).index(Landmark(name))
                found[position, place] = self.store.placements[row].from_film(point[None])[0]
        return found

    @property
    def side(self) -> tuple[int, int]:
        """Width and height of the stored films in px."""
        height, width = self.store.films.shape[1:]
        return width, height

    def lines(self) -> list[list[DrawnLine]]:
        """For each film its lines, in px of the stored film."""
        return [
            [
                DrawnLine(line.label, self.store.placements[row].from_film(line.points), line.tip_seen)
                for line in self.dataset.lines.get(study, [])
            ]
            for study, row in zip(self.studies, self.stored, strict=True)
        ]

    @property
    def shown(self) -> np.ndarray:
        """(n, devices) bool."""
        return np.array([[bool(own) for own in self._by_device(study)] for study in self.studies], bool).reshape(
            -1, len(Device)
        )

    @property
    def tips_seen(self) -> np.ndarray:
        """(n, devices) bool."""
        return np.array([list(map(all, self._by_device(study))) for study in self.studies], bool).reshape(
            -1, len(Device)
        )

    def _by_device(self, study: str) -> list[list[bool]]:
        """By device, whether the tip of each of its annotated lines is seen."""
        lines = self.dataset.lines.get(study, [])
        return [[line.tip_seen for line in lines if DEVICE_OF[line.label] is device] for device in Device]

    def presence(self) -> np.ndarray:
        """(n, devices + 1) float32: 1 by a label or a line of the device, 0 by all its labels, NaN where unknown."""
        labels = self.labels
        columns = [[LABEL_INDEX[label] for label in LABELS_OF[device]] for device in Device]
        of = np.stack([np.where((labels[:, some] == 1).any(1), 1.0, labels[:, some].sum(1)) for some in columns], 1)
        of = np.where(self.shown, 1.0, of)
        any_device = np.where((of == 1).any(1), 1.0, of.sum(1))
        return np.column_stack([of, any_device]).astype(np.float32)

    def soft_labels(self, spec: SoftTarget) -> TargetData:
        raise NotImplementedError


@dataclass(frozen=True)
class _StepFilms(TableFilms):
    """The films of a step of a run, which has external sets and teachers as well."""

    run: Run = field(kw_only=True)
    step: Step = field(kw_only=True)
    report: Callable[[dict[str, Any]], None] = field(kw_only=True)

    def presence(self) -> np.ndarray:
        """(n, devices + 1) float32."""
        return super().presence() if self.set == OWN else self.run.external[self.set][0].presence(self.rows)

    def soft_labels(self, spec: SoftTarget) -> TargetData:
        """Soft labels by the step's teachers, or those of a file."""
        self.report({"doing": "making soft labels"})
        return soft_labels(spec, *_teacher_predictions(self.run, self.step, self.set, spec, self.rows, self.studies))


def films_of(
    dataset: Dataset, store: Store, rows: np.ndarray, *, lines: bool = False, targets: TargetsSpec = NO_TARGETS
) -> Films:
    """The films of some rows of a table with the data of `targets`; `lines` in px of the store's films."""
    return _films(TableFilms(dataset, store, rows), targets, lines).films


class _Found(NamedTuple):
    films: Films
    rows: np.ndarray  # of the table, those kept
    note: dict[str, Any] | None  # of the target that has one


def _films(source: TableFilms, targets: TargetsSpec, lines: bool) -> _Found:
    """The films with the data of targets. `Error` where a target has none."""
    more: dict[str, np.ndarray] = {}
    note = None
    for target in sorted(targets.named.values(), key=lambda target: not target.selects):  # films are left out first
        data = target.data(source)
        if data.keep is not None:
            source = replace(source, rows=source.rows[data.keep])
            more = {name: values[data.keep] for name, values in more.items()}
        more |= data.arrays
        note = data.note or note
    drawn = source.lines() if lines or targets.draws_maps else [[] for _ in source.rows]
    landmarks = source.landmarks if targets.draws_maps else None
    return _Found(Films(source.store, source.stored, source.labels, drawn, more, landmarks), source.rows, note)


def training_films(
    run: Run, step: Step, stage: StageSpec, rows: np.ndarray, report: Callable[[dict[str, Any]], None]
) -> tuple[Films, dict[str, Any] | None]:
    """The films of a stage with the data of all its targets, and the record's note on its soft labels."""
    name, targets = stage.films.set, stage.targets
    if name == OWN:
        dataset, store = run.films.own, run.store
    else:
        found, store = run.external[name]
        dataset = Dataset(run.root, found.studies)
    lines = name == OWN and (stage.films.view == "overlay" or targets.draws_lines)
    source = _StepFilms(dataset, store, rows, name, run=run, step=step, report=report)
    films, kept, note = _films(source, targets, lines)
    if stage.films.maps_of:
        segmenters = _segmenters(run, step, kept) if name == OWN else np.full(len(kept), -1)
        films = replace(films, more={**films.more, "segmenter": segmenters})
    return films, note


def _segmenters(run: Run, step: Step, rows: np.ndarray) -> np.ndarray:
    """(n,) which of the nested steps makes the heatmaps of each film: its fold's if `maps` saw it, else -1: `maps`."""
    folds = run.folds.to_numpy()[rows]
    inner = {fold: place for place, fold in enumerate(step.by_fold(Role.MAPS))}
    segmenter = step.parent(Role.MAPS)
    assert segmenter is not None
    own = [run.films.training(stage, segmenter.held) for stage in run.recipe.of_own_films(segmenter.source)]
    seen = np.isin(rows, np.concatenate(own)) if own else np.zeros(len(rows), bool)
    return np.array([inner[int(fold)] if was else -1 for fold, was in zip(folds, seen, strict=True)])


def _teacher_predictions(
    run: Run, step: Step, name: str, spec: SoftTarget, rows: np.ndarray, studies: list[str]
) -> tuple[pd.DataFrame, list[str], tuple[pd.DataFrame, pd.DataFrame] | None]:
    """Predictions for the films of the set `name`, its studies, and what a dynamic temperature is fitted to."""
    out_of_fold = None
    if inner := sorted(step.by_fold(Role.SOFT)):
        # Of what a teacher predicts, the films of the one fold that this step itself does not hold out.
        studies_of = {fold: set(run.films.own.studies["study"].iloc[run.films.held((fold,))]) for fold in inner}
        frames = [
            _mean([read_predictions(run.folder(key) / HELD_OUT) for key in step.teachers(fold)]) for fold in inner
        ]
        kept = [frame[frame["study"].isin(studies_of[fold])] for fold, frame in zip(inner, frames, strict=True)]
        out_of_fold = pd.concat(kept, ignore_index=True)
    truth = run.films.own.studies[["study", *LABELS]]
    if name == OWN and out_of_fold is not None:
        mine = out_of_fold[out_of_fold["study"].isin(set(studies))]
        return mine, studies, (mine, truth)
    if teachers := step.teachers():
        predictions = _mean([_label_set(run, teacher, name) for teacher in teachers])
    else:
        table = run.films.own.studies if name == OWN else run.external[name][0].studies
        path = spec.file_of(step.key.held[0])
        assert path is not None  # the recipe saw to it
        predictions = read_soft_labels(path, studies, set(table["study"].astype(str)))
    return predictions, studies, (out_of_fold, truth) if out_of_fold is not None else None


def _mean(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The mean of several teachers' probabilities."""
    return frames[0] if len(frames) == 1 else ensemble(frames, "mean")


def _label_set(run: Run, teacher: StepId, name: str) -> pd.DataFrame:
    """A finished step's predictions for every film of an external set; kept beside it for other steps."""
    found, store = run.external[name]
    path = run.folder(teacher) / f"{name}-{store.fingerprint[:12]}.csv"
    with FileLock(path.with_suffix(".lock")) if distributed.rank == 0 else contextlib.nullcontext():
        with distributed.first() as shared:
            shared.value = path.is_file()
        if not shared.value:
            dataset = Dataset(run.root, found.studies)
            view = plain_view(run.recipe, teacher.source)
            predictions = predict_rows(dataset, store, np.arange(len(store)), load_step(run, teacher), view)
            with distributed.first() as shared:
                if shared.mine:
                    write_predictions(predictions, path)
    return read_predictions(path)


def load_step(run: Run, key: StepId) -> Model:
    """The model of a finished step."""
    tensors, meta = load_weights(run.folder(key) / WEIGHTS)
    model = model_of(json.loads(meta["config"]))
    load_into(model, tensors)
    return model


class PlainView(NamedTuple):
    """How films are shown to a finished step that predicts them: at which size, and how many at once."""

    size: Size
    batch: int


def plain_view(recipe: Recipe, source: Source) -> PlainView:
    """That of a stage: no more films at once than it was trained on, whose memory is enough without gradients."""
    return PlainView(recipe.size_of(*source), min(AT_ONCE, recipe.spec(source).schedule.pass_films))


def predict_rows(dataset: Dataset, store: Store, rows: np.ndarray, model: Model, view: PlainView) -> pd.DataFrame:
    """Predictions of some rows, seen plain and without augmentation: `study` and the labels' probabilities."""
    films = FilmSet(films_of(dataset, store, rows), "none", view.size, seed=0)
    scores = predict_films(model, films, batch=view.batch)
    return pd.DataFrame(scores, columns=list(LABELS)).assign(study=dataset.studies["study"].iloc[rows].to_numpy())
