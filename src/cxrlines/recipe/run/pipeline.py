"""Training a recipe on a folder of films: prepare the run, plan, do the steps, write the report."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from cxrlines.core.files import replacing, write_text
from cxrlines.core.pool import cores
from cxrlines.core.text import plural
from cxrlines.io.folds import folds_of, make_folds, read_folds, write_folds
from cxrlines.io.patients import is_phantom, key_name
from cxrlines.io.prepare import LeaveOut
from cxrlines.io.store import Store, build_store
from cxrlines.io.tables import TEST_TABLE, Dataset, read_dataset
from cxrlines.reading.bundle import PROBE_FILE
from cxrlines.reading.probe import Probe, embedded_probe, read_probe
from cxrlines.recipe.run.checks import (
    check_files,
    check_networks,
    check_places,
    check_precision,
    check_sets,
    slow_precision,
)
from cxrlines.recipe.run.execute import RunError, Start, do_plan
from cxrlines.recipe.run.external import own_test, prepare_set
from cxrlines.recipe.run.folder import LINEAGE, Run, Step, inventory, untraced_files
from cxrlines.recipe.run.patient_groups import SAME_FILMS, check_patient_groups, find_patient_groups
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.run.report import write_run_report
from cxrlines.recipe.run.scored_predictions import is_scored, predict_scored
from cxrlines.recipe.run.step import watched_films
from cxrlines.recipe.run.step_lineage import renew_lineages
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS
from cxrlines.tracking.settings import check_trackers
from cxrlines.tracking.tracker import Tracker
from cxrlines.training import distributed
from cxrlines.training.lineage import UntracedError
from cxrlines.training.targets.base import TEST_SET

STEPS = "steps.json"
"""Written when every step of a run is done: name -> identity. What a bundle is made of."""


def train(
    recipe: Recipe,
    data: Path,
    root: Path,
    *,
    folds: Sequence[int] | None = None,
    workers: int | None = None,
    start: Start | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Run:
    """Train a recipe to its end: store, folds, steps, predictions, metrics, report; resumes what was begun.

    Steps are done by `workers` processes here, or on the workers of `start` (`cluster.step_workers.ray_workers`); or,
    under torchrun, by all its processes together, each of which calls this. `RunError` if steps fail, or if another
    command works in `root`.
    """
    say = say if distributed.rank == 0 else lambda text: None
    check_trackers(recipe.tracking.settings(root))
    if start is None:  # on this machine
        check_precision(recipe)
        if slow := slow_precision(recipe):
            say(slow)
    # What is wrong with recipe, tables or folds is refused before anything is written.
    own, drawn = read_tables(recipe, data)
    chosen = chosen_folds(drawn, folds)
    if own.left_out:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in own.left_out.items())
        say(f"{data}: left out are {reasons}; `cxrlines check` names each")
    check_sets(recipe)
    fitted = [fold for fold in chosen if recipe.trains(recipe.source(recipe.averaged[0]).member, fold)]
    if recipe.ensemble.how == "fitted" and len(fitted) < 2:
        raise RunError(
            f"ensemble.how is fitted, which needs two folds or more, and its members are trained on {fitted}",
            "name more, or take --set ensemble.how=mean (no step is done again)",
        )
    made: Run | None = None
    try:
        with contextlib.ExitStack() as held:
            with distributed.first() as shared:
                if shared.mine:
                    root.mkdir(parents=True, exist_ok=True)
                    held.enter_context(FileLock(root / ".lock", blocking=False))
                    made = prepare(recipe, data, root, workers or cores(), (own, drawn))
            run = made or Run.open(root, data)
            _say_films(run, say)
            steps = plan_of(run, folds)
            for step in steps:  # of every fold, before hours of training are spent on others
                check_files(recipe, step.key.source, step.key.held[0])
                if not run.is_done(step):
                    watched_films(run, step)
            with distributed.first() as shared:
                if shared.mine:
                    (root / STEPS).unlink(missing_ok=True)
            _renew(run, steps, say)
            do_plan(run, steps, workers, start)
            if _renew(run, steps, say):  # of finished steps whose parents are there only now
                do_plan(run, steps, workers, start)
            say("reading the test films and writing the report" if run.test else "writing the report")
            for step in steps:
                if is_scored(recipe, step):
                    predict_scored(run, step)
            with distributed.first() as shared:
                if shared.mine:
                    _conclude(run, steps, command)
    except Timeout:
        raise RunError(
            f"{root} is in use by another cxrlines train", "wait for it to end, or give another --out"
        ) from None
    return run


def _renew(run: Run, steps: Sequence[Step], say: Callable[[str], None]) -> int:
    """As `renew_lineages`, by the first of several processes, and said; how many steps it was."""
    with distributed.first() as shared:
        if shared.mine:
            shared.value = len(renew_lineages(run, steps))
    if count := shared.value:
        say(
            f"{plural(count, 'finished step')}: their patients have other identifiers, or another key (patients), than "
            "when they were trained: their lineages are renewed, and nothing is trained again for it"
        )
    return count


def read_tables(recipe: Recipe, data: Path) -> tuple[Dataset, pd.Series]:
    """The training table and the fold of each row; faults of recipe and table are refused before a film is decoded."""
    check_networks(recipe)
    check_places(recipe)
    if recipe.guard == "refuse" and (files := untraced_files(recipe)):
        field, path = next(iter(files.items()))
        more = f" ({len(files) - 1} more files likewise)" if len(files) > 1 else ""
        raise UntracedError(
            f"{field}: {path} has no record of the patients it has seen, so that it counts as having seen all{more}",
            f"--set {field}.ancestry=trusted if you know that it saw nobody who is held out, which every figure will "
            "then state; or --set guard=report to go on without knowing",
        )
    if recipe.learns_test_films and not (data / TEST_TABLE).is_file():
        raise RunError(
            f"a stage trains on the test films (films.set: {TEST_SET}), but {data} has no {TEST_TABLE}",
            "add it, with its films, or leave the stage out",
        )
    train = read_dataset(data, "train")
    return train, folds_for(recipe, train)


def folds_for(recipe: Recipe, train: Dataset) -> pd.Series:
    """The recipe's folds of the studies: drawn, or read from its file. `RunError` for films without labels."""
    if not set(LABELS) <= set(train.studies):
        raise RunError(f"{train.root} has no labels to train on", "it needs a train.csv with the labels beside train/")
    if recipe.folds.file:
        return folds_of(train.studies, read_folds(Path(recipe.folds.file)))
    return make_folds(train.studies, recipe.folds.count, recipe.folds.seed)


def prepare(
    recipe: Recipe, data: Path, root: Path, workers: int, tables: tuple[Dataset, pd.Series] | None = None
) -> Run:
    """Prepare the films in the run's stores, draw folds, find twins, write down the recipe. Cheap when done before.

    `tables`: as `read_tables` gave them; None: they are read.
    """
    train, folds = tables or read_tables(recipe, data)
    probe, gate, spec = _keep_probe(recipe, root), recipe.quality.leave_out, recipe.store

    def stored(dataset: Dataset, split: str) -> tuple[Dataset, Store]:
        folder = root / "store" / split
        return dataset, build_store(dataset, folder, size=spec.size, aspect=spec.aspect, probe=probe, workers=workers)

    own = {"train": stored(train, "train")}
    _check_taken(f"{data}: of its training films", own["train"][1], gate)
    if (data / TEST_TABLE).is_file():
        own["test"] = stored(read_dataset(data, "test"), "test")
    groups = find_patient_groups(root, own, key_name(recipe.patients, phantom=is_phantom(train)))
    own = {split: (groups.merged(dataset), store) for split, (dataset, store) in own.items()}
    (train, store), (test, test_store) = own["train"], own.get("test", (None, None))
    if groups.group_of:
        folds = folds_for(recipe, train)
        if recipe.guard == "refuse":
            check_patient_groups(train, test, folds)
    external = {
        name: prepare_set(
            name, recipe.external[name], root / "external" / name, own, groups,
            size=spec.size, aspect=spec.aspect, probe=probe, workers=workers, gate=gate,
        )
        for name in recipe.used_sets
    }  # fmt: skip
    for name, (_, found) in external.items():
        _check_taken(f"external.{name}: of its films", found, gate)
    if recipe.learns_test_films and test is not None and test_store is not None:
        external[TEST_SET] = own_test(test, test_store, gate, groups.key)
    write_folds(train.studies, folds, root / "folds.csv")
    write_text(root / "data.json", json.dumps({"data": str(data.resolve())}))
    write_text(root / "recipe.json", recipe.model_dump_json(indent=1))  # last: by it workers know the rest is there
    films = inventory(train, store, folds, external, gate)
    return Run(root, data, recipe, films, store, groups, test, test_store, external)


def _keep_probe(recipe: Recipe, root: Path) -> Probe | None:
    """The recipe's probe, from a copy in the run's folder, where a bundle will find it; None where it has none."""
    name, place = recipe.quality.probe, root / PROBE_FILE
    if name == "none":
        for suffix in (place.suffix, ".onnx"):
            place.with_suffix(suffix).unlink(missing_ok=True)
        return None
    probe = embedded_probe() if name == "embedded" else read_probe(Path(name))
    assert probe.path is not None
    for suffix in (place.suffix, ".onnx"):
        if (source := probe.path.with_suffix(suffix)).is_file():
            with replacing(place.with_suffix(suffix)) as aside:
                shutil.copyfile(source, aside)
        else:
            place.with_suffix(suffix).unlink(missing_ok=True)
    return read_probe(place)


def _check_taken(what: str, store: Store, gate: LeaveOut) -> None:
    """`RunError` where the gate leaves nothing to train on."""
    if not store.taken(gate):
        raise RunError(
            f"{what} none is used: {_counted(store.counts(gate)[0])}",
            "give others, or keep them with --set quality.leave_out=nothing",
        )


def _say_films(run: Run, say: Callable[[str], None]) -> None:
    """Which films are trained on and predicted, and what is odd about them."""
    if grouped := run.groups.text():
        say(f"{grouped}; they are listed in {run.root / SAME_FILMS}")
    gate = run.recipe.quality.leave_out
    say(films_text("training films", run.store, gate))
    for name in run.recipe.used_sets:
        found, store = run.external[name]
        text = films_text(f"external set {name}", store, gate)
        if found.own is not None:
            shared, theirs = found.own["own_patient"].nunique(), plural(found.studies["patient"].nunique(), "patient")
            text += f"; {shared} of its {theirs} have own films"
        say(text)
    if run.test_store is not None:
        say(films_text("test films", run.test_store, "nothing", "predicted"))


def films_text(what: str, store: Store, gate: LeaveOut, done: str = "taken along") -> str:
    """In a line, how many films of a store are `done`, how many are left out, and why."""
    out, noted = store.counts(gate)
    if store.left_out:
        out = {"not readable": len(store.left_out)} | out
    return (
        f"{what}: {len(store.taken(gate))} {done}, {sum(out.values())} left out"
        + (f" ({_counted(out)})" if out else "")
        + (f"; of those {done}: {_counted(noted)}" if noted else "")
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in counts.items())


def plan_of(run: Run, wanted: Sequence[int] | None) -> list[Step]:
    """The steps of a prepared run on some folds (None: all). `RunError` for a fold that does not exist."""
    return make_plan(run.recipe, run.films, chosen_folds(run.folds, wanted))


def chosen_folds(folds: pd.Series, wanted: Sequence[int] | None) -> list[int]:
    """The folds to do: all, or those wanted. `RunError` for one that does not exist."""
    known = sorted(int(fold) for fold in folds.unique())
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    if strange := [fold for fold in chosen if fold not in known]:
        raise RunError(f"--folds names {strange}", f"this recipe has folds {known}")
    return chosen


def _conclude(run: Run, steps: Sequence[Step], command: str) -> None:
    write_run_report(run, steps, command)
    _track(run, steps)
    write_text(run.root / STEPS, json.dumps({step.name: step.identity for step in steps}, indent=1))


def _track(run: Run, steps: Sequence[Step]) -> None:
    """The whole run, to its trackers: recipe, lineage, figures, report."""
    recipe = run.recipe
    of = [recipe.model_dump_json(), *(step.identity for step in steps)]  # trackers refuse a setting that has changed
    identity = hashlib.sha256("".join(of).encode()).hexdigest()
    metrics = json.loads((run.root / "metrics.json").read_text())
    figures = {f"macro_auc/{name}": member["macro_auc"] for name, member in metrics["members"].items()}
    with Tracker(
        recipe.tracking.settings(run.root), run=recipe.name, group=recipe.name, folder=run.root / "tracking/run",
        identity=identity,
    ) as tracker:  # fmt: skip
        tracker.settings(recipe.model_dump(mode="json"))
        tracker.metrics(figures | {"macro_auc/ensemble": metrics["ensemble"]["macro_auc"]}, step=0)
        for step in steps:
            if is_scored(recipe, step):
                tracker.text(f"lineage {step.name}.json", (run.folder(step.key) / LINEAGE).read_text())
        for name in ("recipe.json", "metrics.json", "report.html"):
            tracker.file(run.root / name)
