"""A recipe run on a folder of films: prepared, planned, its steps done, its proof written."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from cxrlines.data.folds import folds_of, make_folds, read_folds, write_folds
from cxrlines.data.pool import cores
from cxrlines.data.store import Store, StoreError, build_store, open_store
from cxrlines.data.tables import Dataset, read_dataset
from cxrlines.models.backbones import check_backbone
from cxrlines.recipes.execute import RunError, do_plan
from cxrlines.recipes.plan import Step, make_plan, name_of
from cxrlines.recipes.proof import write_proof
from cxrlines.recipes.spec import Recipe, RecipeError
from cxrlines.recipes.step import Run, predict_test, read_record
from cxrlines.task import LABELS
from cxrlines.training.process import keep_buffers

STEPS = "steps.json"
"""Written when every step of a run is done: name -> identity. What a bundle may hold."""


def prepare(recipe: Recipe, data: Path, root: Path, workers: int) -> Run:
    """Decode the films into the run's store, draw the folds, and write down the recipe. Cheap when done before."""
    train, folds = _read(recipe, data)
    store = _store(recipe, train, root / "store/train", workers)
    test, test_store = None, None
    if (data / "sample_submission.csv").is_file():
        test = read_dataset(data, "test")
        test_store = _store(recipe, test, root / "store/test", workers)
    write_folds(train.studies, folds, root / "folds.csv")
    _write(root / "recipe.json", recipe.model_dump_json(indent=1))
    _write(root / "data.json", json.dumps({"data": str(data.resolve())}))
    return Run(root, recipe, train, store, folds, test, test_store)


def _read(recipe: Recipe, data: Path) -> tuple[Dataset, pd.Series]:
    """The training table and its folds; what is wrong with recipe or table is said before any film is decoded."""
    for name, member in recipe.members.items():
        try:
            check_backbone(member.backbone)
        except ValueError as error:
            raise RecipeError(f"members.{name}.{error}") from None
    train = read_dataset(data, "train")
    if not set(LABELS) <= set(train.studies):
        raise RunError(f"{data} has no labels to train on; it needs a train.csv with the 11 labels beside train/")
    return train, folds_for(recipe, train)


def folds_for(recipe: Recipe, train: Dataset) -> pd.Series:
    """The recipe's folds of the studies: drawn, or read from its file."""
    if recipe.folds.file:
        return folds_of(train.studies, read_folds(Path(recipe.folds.file)))
    return make_folds(train.studies, recipe.folds.count, recipe.folds.seed)


def _store(recipe: Recipe, dataset: Dataset, folder: Path, workers: int) -> Store:
    return build_store(dataset, folder, size=recipe.store.size, aspect=recipe.store.aspect, workers=workers)


def plan_of(run: Run, wanted: Sequence[int] | None) -> list[Step]:
    """The steps of a prepared run on some folds (None: all). `RunError` for a fold that does not exist."""
    chosen = _chosen(run.folds, wanted)
    return make_plan(run.recipe, run.train, run.stored(), run.store.fingerprint, run.folds, chosen)


def _chosen(folds: pd.Series, wanted: Sequence[int] | None) -> list[int]:
    known = sorted(int(fold) for fold in folds.unique())
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    if strange := [fold for fold in chosen if fold not in known]:
        raise RunError(f"--folds names {strange}; this recipe has folds {known}")
    return chosen


def dry_run(recipe: Recipe, data: Path, root: Path, wanted: Sequence[int] | None) -> str:
    """The plan for people: each step, what it is made from, its films, whether it is done. Writes nothing."""
    dataset, folds = _read(recipe, data)
    try:
        store = open_store(root / "store/train")
        stored, fingerprint = dataset.studies["study"].isin(set(store.studies)).to_numpy(), store.fingerprint
    except StoreError:  # not built yet: as if every film could be read
        stored, fingerprint = np.ones(len(dataset.studies), bool), "not built"
    steps = make_plan(recipe, dataset, stored, fingerprint, folds, _chosen(folds, wanted))
    lines = [f"{recipe.name}: {len(steps)} steps in {root}"]
    for step in steps:
        stage = recipe.members[step.key[0]].stages[step.key[2]]
        made_from = ", ".join(f"{role} {name_of(key)}" for role, key in step.parents.items()) or f"start {stage.start}"
        done = read_record(root / step.name).get("identity") == step.identity
        lines.append(
            f"  {step.name}: {'done' if done else 'to do'}; from {made_from}; {step.films} {stage.films.which} films, "
            f"{stage.films.view}; {stage.schedule.epochs:g} epochs"
        )
    return "\n".join(lines)


def train(
    recipe: Recipe,
    data: Path,
    root: Path,
    *,
    folds: Sequence[int] | None = None,
    workers: int | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Run:
    """Run a recipe to its end: store, folds, steps, predictions, metrics, report; resumes what was begun.

    `RunError` if steps fail, or if another command works in `root`.
    """
    keep_buffers()
    _chosen(_read(recipe, data)[1], folds)  # what is wrong with recipe, table or folds: before anything is written
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", blocking=False):
            run = prepare(recipe, data, root, workers or cores())
            for split, store in (("train", run.store), ("test", run.test_store)):
                if store is not None and store.left_out:
                    say(f"{len(store.left_out)} {split} films could not be read and are left out; see the report")
            steps = plan_of(run, folds)
            (root / STEPS).unlink(missing_ok=True)
            do_plan(run, data, steps, workers)
            say("reading the test films and writing the report" if run.test else "writing the report")
            for step in steps:
                if step.last:
                    predict_test(run, step)
            write_proof(run, steps, command)
            _write(root / STEPS, json.dumps({step.name: step.identity for step in steps}, indent=1))
    except Timeout:
        raise RunError(
            f"{root} is in use by another cxrlines train; wait for it to end, or give another --out"
        ) from None
    return run


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(text)
    aside.replace(path)
