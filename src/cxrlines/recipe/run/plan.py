"""A recipe as steps: one for each member, fold and stage, with its parents and its identity.

A step holds out one fold, on which it is scored. Soft labels of the own films need nested cross-fitting: the label of a
film of fold j, for a student that holds out fold k, comes from a teacher that holds out both. Such a nested step serves
the students of both folds. Heatmaps of own films that their segmenter was trained on need the same.

A step's identity is the hash of its specification, of the numbers and the code behind it (`identity`), of its parents'
identities and of its data: change a line of the recipe, and only the steps that depend on it are done again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.recipe.run.folder import Inventory, Parent, Role, Step, StepId
from cxrlines.recipe.run.identity import code_identity, resolved
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import MapKind
from cxrlines.training.epochs import films_in_batch
from cxrlines.training.targets import SoftTarget
from cxrlines.training.targets.base import OWN, TEST_SET

FORMAT = 5
"""Raised when steps of an older form must not be taken for new; changed training code is noticed by `identity`."""


def make_plan(recipe: Recipe, films: Inventory, wanted: Sequence[int]) -> list[Step]:
    """The steps of `recipe` on the `wanted` folds, parents before children, nested steps among them.

    `Error` where a stage is left without films, or the folds are too few for soft labels or maps of the own films.
    """
    plan = _Plan(recipe, films)
    for name, member in recipe.members.items():
        if strange := [fold for fold in member.folds or () if fold not in plan.folds]:
            raise Error(f"members.{name}.folds names {strange}", f"this recipe has folds {plan.folds}")
        for fold in wanted:
            if recipe.trains(name, fold):
                for stage in member.stages:
                    plan.need(StepId(name, (fold,), stage))
    if not any(recipe.trains(recipe.source(name).member, fold) for name in recipe.averaged for fold in wanted):
        raise Error(
            f"no member that is averaged is trained on folds {list(wanted)}", "name others, or change members.*.folds"
        )
    return list(plan.steps.values())


class _Plan:
    def __init__(self, recipe: Recipe, films: Inventory) -> None:
        self.recipe, self.films = recipe, films
        self.folds = sorted(int(fold) for fold in films.folds.unique())
        self.steps: dict[StepId, Step] = {}

    def need(self, key: StepId) -> Step:
        """The step of `key`, planned with all it is made from."""
        if key in self.steps:
            return self.steps[key]
        member, size = self.recipe.members[key.member], self.recipe.size_of(key.member, key.stage)
        stage = member.stages[key.stage]
        if len(key.held) > 1 and (field := _by_fold(stage)):
            raise Error(
                f"{key} makes soft labels or heatmaps for others and holds out {len(key.held)} folds, but {field} "
                "names a file for each fold ({fold}), and that of one fold has seen the others",
                "let others learn from another member, or give it one file",
            )
        rows = self.films.training(stage, key.held)
        if not len(rows):
            raise self._no_films(key, stage)
        if not any(target.selects for target in stage.targets.named.values()):  # else how many films are left?
            try:
                films_in_batch(len(rows), stage.schedule)
            except Error as error:
                where = f"members.{key.member}.stages.{key.stage}"
                raise Error(f"{where}.{error.what}", error.way_out) from None
        parents = tuple(self._parents(key, stage))
        content: dict[str, Any] = {
            "format": FORMAT,
            "seed": self.recipe.seed,
            "size": size,
            "member": member.model_dump(mode="json", exclude={"stages", "folds"}),
            # Files count by what is in them, not by where they lie.
            "stage": stage.model_dump(
                mode="json", exclude={"start": {"file"}, "targets": {"soft": {"file"}, "soft_maps": {"file"}}}
            ),
            "resolved": resolved(stage, size),
            "code": code_identity(self.recipe, key.source),
            "files": [_file_identity(path) for path in files_of(stage, key.held[0]).values()],
            "parents": {parent.name: self.need(parent.key).identity for parent in parents},
            "data": self.films.identity(stage, rows),
            "held_out": self.films.own.studies["study"].iloc[self.films.held(key.held)].tolist(),
            "key": key,
        }
        if stage.targets.maps and MapKind.LANDMARK in stage.targets.maps.kinds:
            content["landmarks"] = sorted(self.films.landmarks(stage))
        if stage.schedule.keeps_best:  # by the labels of held-out films, of how many ever (validate_films)
            held_out = self.films.held(key.held)
            content["watched"] = self.films.own_identity(held_out, lines=stage.films.view == "overlay")
        identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.steps[key] = Step(key, identity, parents, len(rows), key.stage == member.last)
        return self.steps[key]

    def _parents(self, key: StepId, stage: StageSpec) -> list[Parent]:
        parents = []
        if origin := self.recipe.origin(key.source):
            shifted = (self.folds[(self.folds.index(f) + stage.fold_shift) % len(self.folds)] for f in key.held)
            parents.append(Parent(Role.START, StepId(origin.member, tuple(sorted(shifted)), origin.stage)))
        if stage.targets.features:
            parents.append(Parent(Role.TEACHER, key._replace(stage=stage.targets.features.of)))
        own = stage.films.set == OWN
        for name in (taught := stage.targets.map_teachers):
            member, teacher = self.recipe.source(name)
            parents.append(Parent(Role.SOFT_MAPS, StepId(member, key.held, teacher), of=name if taught[1:] else ""))
        if stage.films.maps_of:
            maps = key._replace(stage=stage.films.maps_of)
            parents.append(Parent(Role.MAPS, maps))
            if own and self.recipe.of_own_films(maps.source):  # else it saw none of the films that it maps
                parents += self._nested(key, Role.MAPS, maps, f"maps of {maps.stage}")
        return parents + (self._teachers(key, stage.targets.soft, own) if stage.targets.soft else [])

    def _teachers(self, key: StepId, soft: SoftTarget, own: bool) -> list[Parent]:
        """The steps that make soft labels of own films, or of others."""
        parents = []
        for name in soft.teachers:
            member, teacher = self.recipe.source(name)
            labels, of = StepId(member, key.held, teacher), name if len(soft.teachers) > 1 else ""
            if not own:
                parents.append(Parent(Role.SOFT, labels, of=of))
            if own or soft.temperature == "dynamic":
                parents += self._nested(key, Role.SOFT, labels, f"soft labels of {name}", of)
        return parents

    def _nested(self, key: StepId, role: Role, parent: StepId, what: str, of: str = "") -> list[Parent]:
        """For the films of every fold that is not held out, the parent that holds out that fold as well."""
        held = len(key.held)
        if len(self.folds) < held + 2:
            raise Error(
                f"{key}: {what} for own films come from teachers that hold out {held + 1} folds and train on the rest; "
                f"there are {len(self.folds)} folds",
                f"make it {held + 2} or more (folds.count)",
            )
        others = [fold for fold in self.folds if fold not in key.held]
        return [Parent(role, parent._replace(held=tuple(sorted((*key.held, fold)))), fold, of) for fold in others]

    def _no_films(self, key: StepId, stage: StageSpec) -> Error:
        where, fold = f"members.{key.member}.stages.{key.stage}", " and ".join(map(str, key.held))
        if stage.films.set == TEST_SET:
            return Error(f"{where} has no test films to train on", "give films to predict, or leave it out")
        if stage.films.set != OWN:
            found = self.films.external[stage.films.set]
            return Error(
                f"{where} has no films to train on in fold {fold}: of the set {stage.films.set} {len(found.studies)} "
                "films are known, and none is left without the held-out patients' twins",
                f"give a set with films of other patients, or leave out the stages that use {stage.films.set}",
            )
        annotated, films = int(np.sum(self.films.own.annotated)), len(self.films.own.studies)
        return Error(
            f"{where} has no {stage.films.which} films to train on in fold {fold}: {annotated} of {films} films are "
            "annotated (train_annotations.csv)",
            "use films.which: all with plain views, or add annotations",
        )


def files_of(stage: StageSpec, fold: int) -> dict[str, Path]:
    """The files a stage that holds out `fold` reads besides films and tables, by what names each, as `start`."""
    files = {"start": stage.start.of(fold)} if isinstance(stage.start, FileStart) else {}
    targets = stage.targets.named.values()
    return files | {f"targets.{target.key}": file for target in targets if (file := target.file_of(fold))}


def _by_fold(stage: StageSpec) -> str | None:
    """The field of a stage that names a file for each fold, of weights or of soft labels; None where none does."""
    named = {"start.file": stage.start.file if isinstance(stage.start, FileStart) else ""}
    for target in (stage.targets.soft, stage.targets.soft_maps):
        if target and target.file:
            named[f"targets.{target.key}.file"] = target.file
    return next((field for field, name in named.items() if "{fold}" in name), None)


def _file_identity(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
