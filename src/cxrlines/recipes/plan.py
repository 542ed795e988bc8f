"""A recipe made into steps: one for each member, fold and stage, each with its parents and its identity.

A step's identity is the hash of its specification, its parents' identities and its data: change a line of the
recipe and only the steps that depend on it get a new identity, and are done again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.data.lines import Line
from cxrlines.data.tables import Dataset
from cxrlines.recipes.spec import ORIGINS, Recipe, StageSpec
from cxrlines.task import LABELS

FORMAT = 2
"""Raised when the code trains differently from the same specification, so that old steps are not taken for new."""

Key = tuple[str, int, str]
"""(member, fold, stage)"""


def name_of(key: Key) -> str:
    """`member/fold0/stage`: what people read, and where the step's folder lies in the run."""
    member, fold, stage = key
    return f"{member}/fold{fold}/{stage}"


@dataclass(frozen=True)
class Step:
    """One stage of one member on one fold. `parents` maps `start` or `teacher` to the key of an earlier step."""

    key: Key
    identity: str
    parents: dict[str, Key]
    films: int
    last: bool

    @property
    def name(self) -> str:
        """`member/fold0/stage`."""
        return name_of(self.key)


def training_rows(stage: StageSpec, dataset: Dataset, stored: np.ndarray, folds: pd.Series, fold: int) -> np.ndarray:
    """Rows of `dataset.studies` a stage trains on: in the store, of the other folds, annotated if it must be."""
    wanted = stored & (folds.to_numpy() != fold)
    if stage.films.which == "annotated":
        wanted &= np.asarray(dataset.annotated)
    return np.flatnonzero(wanted)


def data_identity(dataset: Dataset, rows: np.ndarray, store: str, lines: bool) -> str:
    """Hash of what a stage learns from: the store, and of its rows the studies, labels and, where used, the lines."""
    digest = hashlib.sha256(store.encode())
    table = dataset.studies.iloc[rows]
    digest.update(json.dumps(table["study"].tolist()).encode())
    digest.update(np.ascontiguousarray(table[list(LABELS)].to_numpy(np.float32)).tobytes())
    if lines:
        for study in table["study"]:
            for line in dataset.lines.get(study, []):
                digest.update(_line_bytes(line))
    return digest.hexdigest()


def _line_bytes(line: Line) -> bytes:
    return line.label.encode() + np.ascontiguousarray(line.points, np.float64).tobytes()


def make_plan(
    recipe: Recipe, dataset: Dataset, stored: np.ndarray, store: str, folds: pd.Series, wanted: Sequence[int]
) -> list[Step]:
    """The steps of `recipe` on the `wanted` folds, parents before children.

    `stored` says of each row of `dataset.studies` whether its film is in the store, `store` is the store's
    fingerprint, `folds` the fold of each row. `ValueError` where a stage is left without films.
    """
    steps: dict[Key, Step] = {}
    for member_name, member in recipe.members.items():
        names = list(member.stages)
        for fold in wanted:
            for stage_name, stage in member.stages.items():
                rows = training_rows(stage, dataset, stored, folds, fold)
                if not len(rows):
                    annotated, films = int(np.sum(dataset.annotated)), len(dataset.studies)
                    raise ValueError(
                        f"members.{member_name}.stages.{stage_name} has no {stage.films.which} films to train on "
                        f"in fold {fold}: {annotated} of {films} films are annotated (train_annotations.csv); "
                        "use films.which: all with plain views, or add annotations"
                    )
                parents: dict[str, Key] = {}
                if stage.start not in ORIGINS:
                    parents["start"] = (member_name, fold, stage.start)
                if stage.targets.features:
                    parents["teacher"] = (member_name, fold, stage.targets.features.of)
                key = (member_name, fold, stage_name)
                content: dict[str, Any] = {
                    "format": FORMAT,
                    "seed": recipe.seed,
                    "size": recipe.size,
                    "backbone": member.backbone,
                    "head": member.head,
                    "dropout": member.dropout,
                    "stage": stage.model_dump(mode="json"),
                    "parents": {role: steps[parent].identity for role, parent in parents.items()},
                    "data": data_identity(dataset, rows, store, stage.needs_lines),
                    "held_out": dataset.studies["study"][stored & (folds.to_numpy() == fold)].tolist(),
                    "key": key,
                }
                identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
                steps[key] = Step(key, identity, parents, len(rows), stage_name == names[-1])
    return list(steps.values())
