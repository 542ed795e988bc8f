"""A recipe made into steps: one for each member, fold and stage, each with its parents and its identity.

A step's identity is the hash of its specification, of the numbers and the code behind it (`identity`), of its parents'
identities and its data: change a line of the recipe and only the steps that depend on it get a new identity, and are
done again.

A step holds out one fold, the one it is judged on. Soft labels of the own films need more: the label of a film of fold
j, for a student that holds out fold k, comes from a teacher that holds out both. Such a step is an inner one; it serves
the students of both folds. Maps of own films that their segmenter was trained on need the same.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.io.annotations import Line
from cxrlines.io.tables import Dataset
from cxrlines.recipe.run.external import ExternalSet
from cxrlines.recipe.run.identity import code_identity, resolved
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import LABELS
from cxrlines.training.targets.base import OWN

FORMAT = 5
"""Raised when steps of an older form must not be taken for new; that code trains differently is seen (`identity`)."""

Held = tuple[int, ...]
"""The folds a step holds out, ascending: one; two or more for an inner step."""
Key = tuple[str, Held, str]
"""(member, folds held out, stage)"""


def name_of(key: Key) -> str:
    """`member/fold0/stage`, inner ones `member/fold0+2/stage`: what people read, and where the step's folder lies."""
    member, held, stage = key
    return f"{member}/fold{'+'.join(map(str, held))}/{stage}"


@dataclass(frozen=True)
class Step:
    """One stage of one member, some folds held out.

    `parents` says what it is made from: `start` and `teacher` are earlier stages; `soft` is the step whose labels
    external films get, `soft 2` the one that labels the own films of fold 2; `maps 2` makes the maps of those films of
    fold 2 that `maps` was trained on, and `maps` those of all others. `last` says whether it is the last stage of its
    member.
    """

    key: Key
    identity: str
    parents: dict[str, Key]
    films: int
    last: bool

    @property
    def name(self) -> str:
        """`member/fold0/stage`."""
        return name_of(self.key)

    @property
    def fold(self) -> int | None:
        """The fold it is judged on; None for an inner step, which only labels or maps films for others."""
        return self.key[1][0] if len(self.key[1]) == 1 else None


@dataclass(frozen=True)
class Inventory:
    """What a plan is made on: `folds` and `stored` (whether its film is trained on) of each row of `own.studies`.

    `store` is the fingerprint of the own films' store, `external` the other sets by name.
    """

    own: Dataset
    stored: np.ndarray
    store: str
    folds: pd.Series
    external: Mapping[str, ExternalSet] = field(default_factory=dict)

    def held(self, held: Held) -> np.ndarray:
        """Rows of the own films of some folds."""
        return np.flatnonzero(self.stored & np.isin(self.folds.to_numpy(), held))

    def training(self, stage: StageSpec, held: Held) -> np.ndarray:
        """Rows a stage trains on: of `own.studies`, not of the held folds, annotated if it must be; or of its set.

        Of an external set, twins of held-out films and all films of their patients are left out.
        """
        if stage.films.set != OWN:
            table = self.own.studies
            return self.external[stage.films.set].rows(set(table["patient"].iloc[self.held(held)].astype(str)))
        wanted = self.stored & ~np.isin(self.folds.to_numpy(), held)
        if stage.films.which == "annotated":
            wanted &= np.asarray(self.own.annotated)
        return np.flatnonzero(wanted)

    def identity(self, stage: StageSpec, rows: np.ndarray) -> str:
        """Hash of what a stage learns from: the store, and of its rows the studies, labels and, if used, the lines."""
        if stage.films.set != OWN:
            return self.external[stage.films.set].identity(rows, presence=stage.targets.presence is not None)
        digest = hashlib.sha256(self.store.encode())
        table = self.own.studies.iloc[rows]
        digest.update(json.dumps(table["study"].tolist()).encode())
        digest.update(np.ascontiguousarray(table[list(LABELS)].to_numpy(np.float32)).tobytes())
        if stage.needs_lines or stage.targets.reads_maps:
            for study in table["study"]:
                for line in self.own.lines.get(study, []):
                    digest.update(_line_bytes(line))
                for name, place in sorted(self.own.landmarks.get(study, {}).items()):
                    digest.update(name.encode() + np.ascontiguousarray(place, np.float64).tobytes())
        return digest.hexdigest()


def _line_bytes(line: Line) -> bytes:
    return line.label.encode() + np.ascontiguousarray(line.points, np.float64).tobytes()


def make_plan(recipe: Recipe, films: Inventory, wanted: Sequence[int]) -> list[Step]:
    """The steps of `recipe` on the `wanted` folds, parents before children, inner steps among them.

    `Error` where a stage is left without films, or the folds are too few for soft labels or maps of the own films.
    """
    plan = _Plan(recipe, films)
    for name, member in recipe.members.items():
        for fold in wanted:
            for stage in member.stages:
                plan.need((name, (fold,), stage))
    return list(plan.steps.values())


class _Plan:
    def __init__(self, recipe: Recipe, films: Inventory) -> None:
        self.recipe, self.films = recipe, films
        self.folds = sorted(int(fold) for fold in films.folds.unique())
        self.steps: dict[Key, Step] = {}

    def need(self, key: Key) -> Step:
        """The step of `key`, planned with all it is made from."""
        if key in self.steps:
            return self.steps[key]
        name, held, stage_name = key
        member = self.recipe.members[name]
        stage = member.stages[stage_name]
        rows = self.films.training(stage, held)
        if not len(rows):
            what, way_out = self._no_films(stage, held)
            raise Error(f"members.{name}.stages.{stage_name} {what}", way_out)
        parents = self._parents(key, stage)
        content: dict[str, Any] = {
            "format": FORMAT,
            "seed": self.recipe.seed,
            "size": self.recipe.size_of(name, stage_name),
            "backbone": member.backbone,
            "head": member.head,
            "dropout": member.dropout,
            "exclusive": member.exclusive,
            "stage": _content(stage),
            "resolved": resolved(stage, self.recipe.size_of(name, stage_name)),
            "code": code_identity(member, stage_name),
            "files": [_file_identity(path) for path in files_of(stage, held[0])],
            "parents": {role: self.need(parent).identity for role, parent in parents.items()},
            "data": self.films.identity(stage, rows),
            "held_out": self.films.own.studies["study"].iloc[self.films.held(held)].tolist(),
            "key": key,
        }
        identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.steps[key] = Step(key, identity, parents, len(rows), stage_name == member.last)
        return self.steps[key]

    def _parents(self, key: Key, stage: StageSpec) -> dict[str, Key]:
        name, held, _ = key
        parents: dict[str, Key] = {}
        if stage.started_from:
            shifted = tuple(
                sorted(self.folds[(self.folds.index(f) + stage.fold_shift) % len(self.folds)] for f in held)
            )
            parents["start"] = (name, shifted, stage.started_from)
        if stage.targets.features:
            parents["teacher"] = (name, held, stage.targets.features.of)
        if stage.films.maps_of:
            parents["maps"] = (name, held, stage.films.maps_of)
            if stage.films.set == OWN:
                self._check_folds(key, f"maps of {stage.films.maps_of}", len(held))
                for fold in self.folds:
                    if fold not in held:
                        parents[f"maps {fold}"] = (name, tuple(sorted((*held, fold))), stage.films.maps_of)
        soft = stage.targets.soft
        if soft and soft.of:
            member, teacher = self.recipe.source(soft.of)
            if stage.films.set != OWN:
                parents["soft"] = (member, held, teacher)
            if stage.films.set == OWN or soft.temperature == "dynamic":
                self._check_folds(key, f"soft labels of {soft.of}", len(held))
                for fold in self.folds:
                    if fold not in held:
                        parents[f"soft {fold}"] = (member, tuple(sorted((*held, fold))), teacher)
        return parents

    def _check_folds(self, key: Key, what: str, held: int) -> None:
        if len(self.folds) < held + 2:
            raise Error(
                f"{name_of(key)}: {what} for own films come from teachers that hold out {held + 1} folds and train on "
                f"the rest; there are {len(self.folds)} folds",
                f"make it {held + 2} or more (folds.count)",
            )

    def _no_films(self, stage: StageSpec, held: Held) -> tuple[str, str]:
        fold = " and ".join(map(str, held))
        if stage.films.set != OWN:
            found = self.films.external[stage.films.set]
            return (
                f"has no films to train on in fold {fold}: of the set {stage.films.set} {len(found.studies)} films "
                "are known, and none is left without the held-out patients' twins",
                f"give a set with films of other patients, or leave out the stages that use {stage.films.set}",
            )
        annotated, films = int(np.sum(self.films.own.annotated)), len(self.films.own.studies)
        return (
            f"has no {stage.films.which} films to train on in fold {fold}: {annotated} of {films} films are "
            "annotated (train_annotations.csv)",
            "use films.which: all with plain views, or add annotations",
        )


def files_of(stage: StageSpec, fold: int = 0) -> list[Path]:
    """The files a stage that holds out `fold` reads besides films and tables: weights to start from, soft labels."""
    files = [stage.start.of(fold)] if isinstance(stage.start, FileStart) else []
    return files + ([Path(stage.targets.soft.file)] if stage.targets.soft and stage.targets.soft.file else [])


def _content(stage: StageSpec) -> dict[str, Any]:
    """What a stage says, without where its files lie: they count by what is in them."""
    said = stage.model_dump(mode="json")
    if isinstance(stage.start, FileStart):
        said["start"]["file"] = ""
    if stage.targets.soft and stage.targets.soft.file:
        said["targets"]["soft"]["file"] = ""
    return said


def _file_identity(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
