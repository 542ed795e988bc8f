"""A plan shown, nothing done: its stages, what they are made from, how much of them is done, what they would cost.

Tables are enough: films, annotations and external sets that are not there yet are assumed, and notes say so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlines.io.external.layouts import PRESENCE
from cxrlines.io.external.sets import read_external
from cxrlines.io.rows import TableError, read_rows
from cxrlines.io.store import StoreError, open_store
from cxrlines.io.tables import ANNOTATION_TABLE, TEST_TABLE, TRAIN_TABLE, Dataset, read_dataset, read_labels
from cxrlines.lab.price.estimate import PUBLISHED, estimate
from cxrlines.lab.price.plan_text import plan_text
from cxrlines.recipe.run.checks import check_networks
from cxrlines.recipe.run.external import ExternalSet, open_set, own_test
from cxrlines.recipe.run.folder import Inventory, Step, StepId, is_finished, read_record, untraced_files
from cxrlines.recipe.run.map_teachers import check_file_teacher
from cxrlines.recipe.run.patient_groups import SAME_FILMS, open_patient_groups
from cxrlines.recipe.run.pipeline import chosen_folds, folds_for
from cxrlines.recipe.run.plan import files_of, make_plan
from cxrlines.recipe.spec.load import RecipeError
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import STUDY_COLUMN
from cxrlines.training.config import WARMUP_AT_MOST
from cxrlines.training.targets.base import TEST_SET

ANNOTATED = 9_095 / 30_083
"""Share of RANZCR's studies that are annotated."""
_NO_TWINS = pd.DataFrame({"study": [], "own_study": [], "own_patient": [], "split": []}, dtype=str)


class Planned(NamedTuple):
    """The steps of a run and the films they are planned for; the finished steps; what is assumed or not there."""

    steps: list[Step]
    films: Inventory
    done: frozenset[StepId]
    notes: tuple[str, ...]


def dry_run(recipe: Recipe, data: Path, root: Path, wanted: Sequence[int] | None) -> str:
    """The plan for people: its totals, and of each stage its films, what it is made from and its cost. Writes nothing.

    Raises what training would: `RecipeError`, `RunError`, `TableError`.
    """
    steps, films, done, notes = planned(recipe, data, root, wanted)
    return plan_text(recipe, steps, estimate(recipe, steps, films), done, notes)


def planned(recipe: Recipe, data: Path, root: Path, wanted: Sequence[int] | None) -> Planned:
    """The plan of a run on the `wanted` folds (None: all), from tables alone where there are no films."""
    check_networks(recipe)
    notes: list[str] = []
    dataset = _own(data, notes)
    if (root / SAME_FILMS).is_file():
        dataset = open_patient_groups(root).merged(dataset)
    folds = folds_for(recipe, dataset)
    try:
        store = open_store(root / "store/train")
        stored = dataset.studies["study"].isin(store.taken(recipe.quality.leave_out)).to_numpy()
        fingerprint = store.fingerprint
    except StoreError:  # not built yet: as if every film could be read
        stored, fingerprint = np.ones(len(dataset.studies), bool), "not built"
    external = {name: _external(name, recipe, root, notes) for name in recipe.used_sets}
    if recipe.learns_test_films:
        external[TEST_SET] = _test(data, root, recipe)
    for source in recipe.sources():
        schedule, fold = recipe.spec(source).schedule, recipe.first_fold(source.member)
        if schedule.cuts_warmup:
            where = f"members.{source.member}.stages.{source.stage}.schedule"
            asked, share = f"{schedule.warmup_epochs:g} of {schedule.epochs:g}", f"{WARMUP_AT_MOST:.0%} of the training"
            notes.append(f"{where}: the warm-up would take {asked} epochs; it takes {share}")
        check_file_teacher(recipe, source, fold)
        files = files_of(recipe.spec(source), fold).values()
        notes += [f"{path}: is not there; training needs it" for path in files if not path.is_file()]
    if recipe.guard == "refuse":
        notes += [f"{where}: {path} has no record of its patients" for where, path in untraced_files(recipe).items()]
    films = Inventory(dataset, stored, fingerprint, folds, external)
    steps = make_plan(recipe, films, chosen_folds(folds, wanted))
    done = frozenset(step.key for step in steps if is_finished(read_record(root / step.name), step, recipe))
    return Planned(steps, films, done, tuple(dict.fromkeys(notes)))


def _own(data: Path, notes: list[str]) -> Dataset:
    """The own films' table, films or no films."""
    if (data / "train").is_dir() or not (data / TRAIN_TABLE).is_file():
        dataset = read_dataset(data, "train")
    else:
        dataset = Dataset(data, read_labels(data / TRAIN_TABLE))
        count = len(dataset.studies)
        notes.append(f"{data} has no folder train/: all {count} films of {TRAIN_TABLE} are taken as there")
    if not (data / ANNOTATION_TABLE).is_file():
        share = f"{ANNOTATED:.0%} of the films are taken as annotated, as in RANZCR CLiP"
        notes.append(f"{data} has no {ANNOTATION_TABLE}: {share}")
        drawn = np.random.default_rng(0).random(len(dataset.studies)) < ANNOTATED
        dataset = Dataset(data, dataset.studies, {study: [] for study in dataset.studies["study"][drawn]})
    return dataset


def _test(data: Path, root: Path, recipe: Recipe) -> ExternalSet:
    """The own test films as they were prepared, else as their table lists them, films or no films."""
    try:
        groups = open_patient_groups(root)
        test = groups.merged(read_dataset(data, "test"))
        return own_test(test, open_store(root / "store/test"), recipe.quality.leave_out, groups.key)[0]
    except (StoreError, TableError, FileNotFoundError):
        table = data / TEST_TABLE
        studies = read_rows(table, (STUDY_COLUMN,)).column(STUDY_COLUMN) if table.is_file() else []
        listed = pd.DataFrame({"study": studies, "patient": studies, "film": studies}, dtype=object)
        return ExternalSet(TEST_SET, listed, "not built", _NO_TWINS)


def _external(name: str, recipe: Recipe, root: Path, notes: list[str]) -> ExternalSet:
    """A set as it was prepared, else as its table lists it, else as many films as it was published with."""
    try:
        return open_set(name, root / "external" / name, recipe.quality.leave_out)[0]
    except (StoreError, FileNotFoundError):
        pass
    spec = recipe.external[name]
    if spec.folder:
        try:
            found = read_external(Path(spec.folder), laterals=spec.laterals, children=spec.children, check_films=False)
        except TableError as error:
            raise RecipeError(
                f"external.{name}: {error.what}", f"correct --external {name}=FOLDER; without it a size is assumed"
            ) from None
        return ExternalSet(name, found.studies, "not built", _NO_TWINS)
    count, why = PUBLISHED.get(name, 10_000), "as published" if name in PUBLISHED else "a guess"
    notes.append(f"external set {name}: no folder given (--external {name}=FOLDER); {count:,} films are taken, {why}")
    studies = [f"{name}-{index}" for index in range(count)]
    table = pd.DataFrame({"study": studies, "patient": studies, "film": studies, "view": ""})
    return ExternalSet(name, table.assign(**dict.fromkeys(PRESENCE, np.float32(np.nan))), "not given", _NO_TWINS)
