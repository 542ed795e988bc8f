"""A run: its folder, and what every step of it shares: recipe, tables, stores, folds, external sets."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cxrlines.io.prepare import LeaveOut
from cxrlines.io.store import Store, open_store
from cxrlines.io.tables import TEST_TABLE, Dataset, read_dataset
from cxrlines.models.weights import weights_header
from cxrlines.recipe.run.external import ExternalSet, open_set, own_test
from cxrlines.recipe.run.patient_groups import PatientGroups, open_patient_groups
from cxrlines.recipe.spec.load import recipe_of
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.training.lineage import Lineage, read_lineage
from cxrlines.training.targets.base import OWN, TEST_SET

WEIGHTS, LINEAGE, RECORD = "weights.safetensors", "lineage.json", "step.json"
LINEAGE_ENTRY = "lineage"
"""The entry of a weights file's header that holds its lineage."""
HELD_OUT, TEST = "predictions.csv", "test_predictions.csv"
TRACKED = "tracking"


class StepId(NamedTuple):
    """Which step: a member, the folds it holds out (ascending; two or more: a nested step), a stage."""

    member: str
    held: tuple[int, ...]
    stage: str

    def __str__(self) -> str:
        """`member/fold0/stage`, nested `member/fold0+2/stage`: its name, and its folder within the run's."""
        return f"{self.member}/fold{'+'.join(map(str, self.held))}/{self.stage}"

    @classmethod
    def parse(cls, name: str) -> "StepId":
        """The inverse of `str`."""
        member, fold, stage = name.split("/")
        return cls(member, tuple(map(int, fold.removeprefix("fold").split("+"))), stage)

    @property
    def source(self) -> Source:
        """Its member and stage, whichever folds it holds out."""
        return Source(self.member, self.stage)

    @property
    def flat(self) -> str:
        """`member.fold0.stage`, for files of a step that is under way."""
        return str(self).replace("/", ".")

    @property
    def fold(self) -> int | None:
        """The fold it is scored on; None for a nested step, which only labels or maps films for others."""
        return self.held[0] if len(self.held) == 1 else None


class Role(StrEnum):
    """What a step takes from a parent: weights to start from, features, soft labels, heatmaps to learn or as input."""

    START = "start"
    TEACHER = "teacher"
    SOFT = "soft"
    SOFT_MAPS = "soft maps"
    MAPS = "maps"


class Parent(NamedTuple):
    """An earlier step that a step is made from; `fold`: serves the own films of that fold alone (None: all others).

    `of`: of several teachers of soft labels, which.
    """

    role: Role
    key: StepId
    fold: int | None = None
    of: str = ""

    @property
    def name(self) -> str:
        """`start`, `soft 2`, `soft 2 of other/student`: its role as files name it."""
        fold = "" if self.fold is None else f" {self.fold}"
        return f"{self.role}{fold}{f' of {self.of}' if self.of else ''}"


@dataclass(frozen=True)
class Step:
    """One stage of one member, some folds held out. `films`: how many it trains on; `last`: of its member's stages."""

    key: StepId
    identity: str
    parents: tuple[Parent, ...]
    films: int
    last: bool

    @property
    def name(self) -> str:
        """`member/fold0/stage`."""
        return str(self.key)

    @property
    def fold(self) -> int | None:
        """As `StepId.fold`."""
        return self.key.fold

    def parent(self, role: Role) -> StepId | None:
        """The parent of this role that serves no fold in particular, if there is one."""
        return next((parent.key for parent in self.parents if parent.role is role and parent.fold is None), None)

    def teachers(self, fold: int | None = None) -> list[StepId]:
        """The steps that make the soft labels: of own films of `fold`, or of all others."""
        return [parent.key for parent in self.parents if parent.role is Role.SOFT and parent.fold == fold]

    def by_fold(self, role: Role) -> dict[int, StepId]:
        """Fold of the films served -> the nested step that serves them, folds ascending."""
        return {p.fold: p.key for p in self.parents if p.role is role and p.fold is not None}


@dataclass(frozen=True)
class Inventory:
    """The films a plan is made on: `folds`, and `stored` (trained on), of each row of `own.studies`, (n,).

    `store` is the fingerprint of the own films' store, `external` the other sets by name.
    """

    own: Dataset
    stored: np.ndarray
    store: str
    folds: pd.Series
    external: Mapping[str, ExternalSet] = field(default_factory=dict)

    def held(self, folds: tuple[int, ...]) -> np.ndarray:
        """Rows of the own films of some folds."""
        return np.flatnonzero(self.stored & np.isin(self.folds.to_numpy(), folds))

    def training(self, stage: StageSpec, held: tuple[int, ...]) -> np.ndarray:
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

    def landmarks(self, stage: StageSpec) -> set[str]:
        """The landmarks that some film has which a stage trains on, on whatever fold: its networks are alike on all."""
        studies = self.own.studies["study"].iloc[self.training(stage, ())].astype(str)
        return {name for study in studies for name in self.own.landmarks.get(study, {})}

    def identity(self, stage: StageSpec, rows: np.ndarray) -> str:
        """Hash of what a stage learns from: the store, and of its rows the studies, labels and, if used, the lines."""
        if stage.films.set != OWN:
            return self.external[stage.films.set].identity(rows, presence=stage.targets.presence is not None)
        return self.own_identity(rows, lines=stage.learns_lines)

    def own_identity(self, rows: np.ndarray, *, lines: bool) -> str:
        """Hash of the store, and of some rows of `own.studies` the studies, labels and, if asked for, the lines."""
        digest = hashlib.sha256(self.store.encode())
        table = self.own.studies.iloc[rows]
        digest.update(json.dumps(table["study"].tolist()).encode())
        digest.update(table[list(LABELS)].to_numpy(np.float32).tobytes())
        if lines:
            for study in table["study"]:
                drawn = self.own.lines.get(study, [])
                marks = [(line.label if line.tip_seen else f"{line.label}, no tip", line.points) for line in drawn]
                for name, points in [*marks, *sorted(self.own.landmarks.get(study, {}).items())]:
                    digest.update(name.encode() + np.asarray(points, np.float64).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Run:
    """What every step of a run shares, read once.

    Attributes:
        root, data: its folder, and the folder of its own films.
        films: the training films by table, fold and store; like `test` under one identifier for each patient group.
        store, test_store: the films prepared.
        external: each set besides the own that is trained on, with its store; the test films may be one.
    """

    root: Path
    data: Path
    recipe: Recipe
    films: Inventory
    store: Store
    groups: PatientGroups
    test: Dataset | None
    test_store: Store | None
    external: dict[str, tuple[ExternalSet, Store]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, data: Path) -> "Run":
        """The run prepared in `root` on `data`."""
        recipe, groups = recipe_of(root), open_patient_groups(root)
        train, store = groups.merged(read_dataset(data, "train")), open_store(root / "store/train")
        table = pd.read_csv(root / "folds.csv", dtype={STUDY_COLUMN: str}, keep_default_na=False)  # a study may be NA
        folds = train.studies["study"].map(table.set_index(STUDY_COLUMN)["fold"])
        test, test_store = None, None
        if (data / TEST_TABLE).is_file():
            test, test_store = groups.merged(read_dataset(data, "test")), open_store(root / "store/test")
        gate = recipe.quality.leave_out
        external = {name: open_set(name, root / "external" / name, gate) for name in recipe.used_sets}
        if recipe.learns_test_films and test is not None and test_store is not None:
            external[TEST_SET] = own_test(test, test_store, gate, groups.key)
        films = inventory(train, store, folds, external, gate)
        return cls(root, data, recipe, films, store, groups, test, test_store, external)

    @property
    def train(self) -> Dataset:
        """The own films' table."""
        return self.films.own

    @property
    def folds(self) -> pd.Series:
        """The fold of each row of `train.studies`."""
        return self.films.folds

    def folder(self, key: StepId) -> Path:
        """Where the finished step lies."""
        return self.root / str(key)

    def record(self, key: StepId) -> dict[str, Any]:
        """What the finished step wrote of itself; empty where it is not finished."""
        return read_record(self.folder(key))

    def lineage(self, key: StepId) -> Lineage:
        """The finished step's lineage."""
        return read_lineage(self.folder(key) / LINEAGE)

    def is_done(self, step: Step) -> bool:
        """Whether this very step is finished, and is what the recipe's guard lets pass."""
        return is_finished(self.record(step.key), step, self.recipe)


def inventory(
    train: Dataset, store: Store, folds: pd.Series, external: Mapping[str, tuple[ExternalSet, Store]], gate: LeaveOut
) -> Inventory:
    """The films a plan is made on, of tables and stores, without those that the gate leaves out."""
    stored = train.studies["study"].isin(store.taken(gate)).to_numpy()
    return Inventory(train, stored, store.fingerprint, folds, {name: found for name, (found, _) in external.items()})


def lineage_of(weights: Path) -> Lineage | None:
    """The lineage of a file of weights: that of its header, under whatever name it lies; None where it has none.

    Steps of cxrlines 0.1 have none in the header; it is read beside weights that lie where such a step left them.
    """
    try:
        if LINEAGE_ENTRY in (header := weights_header(weights)):
            return Lineage.from_dict(json.loads(header[LINEAGE_ENTRY]))
        if weights.name != WEIGHTS or not read_record(weights.parent):
            return None
        return read_lineage(weights.parent / LINEAGE)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def untraced_files(recipe: Recipe) -> dict[str, Path]:
    """The files of a recipe without a known ancestry (patients seen), and not trusted; by the field that names them."""
    found: dict[str, Path] = {}
    for source in recipe.sources():
        stage, fold = recipe.spec(source), recipe.first_fold(source.member)
        where, start, soft = f"members.{source.member}.stages.{source.stage}", stage.start, stage.targets.soft
        if isinstance(start, FileStart) and not start.ancestry:
            path = start.of(fold)
            if _is_untraced(path):
                found[f"{where}.start"] = path
        if soft and not soft.ancestry and (file := soft.file_of(fold)):
            found[f"{where}.targets.soft"] = file
        maps = stage.targets.soft_maps
        if maps and not maps.ancestry and (file := maps.file_of(fold)) and _is_untraced(file):
            found[f"{where}.targets.soft_maps"] = file
    return found


def _is_untraced(weights: Path) -> bool:
    lineage = lineage_of(weights) if weights.is_file() else None
    return lineage is None or bool(lineage.untraced())


def is_finished(record: Mapping[str, Any], step: Step, recipe: Recipe) -> bool:
    """Whether `record` is of this very step, and has no leak that only guard: report lets pass."""
    refused = record.get("leak") or record.get("test_leak") or record.get("unknown")
    return record.get("identity") == step.identity and not (refused and recipe.guard == "refuse")


def read_record(folder: Path) -> dict[str, Any]:
    """What a finished step wrote of itself; empty where there is none."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}
