"""One step done: films, start, training, predictions, lineage; in a folder that is whole or absent."""

import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxrlines import __version__
from cxrlines.augment.policy import make_policy
from cxrlines.core.files import sync, write_text
from cxrlines.io.tables import Dataset
from cxrlines.models.adopt import Adoption, adopt
from cxrlines.models.backbones import Start
from cxrlines.models.classifier import Classifier
from cxrlines.models.two_step import Model, TwoStep
from cxrlines.models.weights import load_into, load_weights, save_weights
from cxrlines.recipe.run.films import films_of, load_step, map_folds, predict_rows, training_films
from cxrlines.recipe.run.folder import (
    HELD_OUT,
    LINEAGE,
    LINEAGE_ENTRY,
    RECORD,
    TEST,
    TRACKED,
    WEIGHTS,
    Run,
    lineage_of,
    read_record,
)
from cxrlines.recipe.run.plan import Key, Step, name_of
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import MAPS
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.tracker import Tracker
from cxrlines.training import distributed
from cxrlines.training.config import StageConfig
from cxrlines.training.lineage import TRUSTED, LeakError, Lineage, UntracedError, read_lineage
from cxrlines.training.loader import FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.targets.base import OWN
from cxrlines.training.trainer import fit_stage, resume


def do_step(run: Run, step: Step, report: Callable[[dict[str, Any]], None], loader_workers: int = 0) -> None:
    """Train one step, predict its held-out films if it reads plain ones, and put its folder in place in one move.

    Test films are `predict_test`'s: they may change without anything being trained anew. Several processes train and
    predict together; the first writes.
    """
    member_name, held, stage_name = step.key
    member = run.recipe.members[member_name]
    stage = member.stages[stage_name]
    seed = _seed(run.recipe.seed, step)
    work = run.root / ".work" / step.name.replace("/", ".")
    work.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(seed)
    model, adoption = _start(run, step, stage)
    rows = run.films.training(stage, held)
    parents = {role: read_lineage(run.folder(key) / LINEAGE) for role, key in step.parents.items()}
    held_out = run.films.held(held)
    unknown: list[str] = []
    trusted: list[str] = []
    if adoption and isinstance(stage.start, FileStart):
        trusts = stage.start.ancestry == TRUSTED
        earlier = lineage_of(stage.start.of(held[0]))
        gaps = [adoption.source]
        if earlier:
            asked = _identifiers(run, run.train, held_out) | _identifiers(run, run.test)
            gaps = [f"{adoption.source}: {gap}" for gap in earlier.gaps(asked, run.recipe.patients)]
            parents["start"] = earlier.trusting() if trusts else earlier
        (trusted if trusts else unknown).extend(gaps)
    if (soft := stage.targets.soft) and soft.file:
        (trusted if soft.ancestry == TRUSTED else unknown).append(f"soft labels of {Path(soft.file).name}")
    lineage = Lineage(
        step.name, frozenset(_tokens(run, stage, rows)), tuple(parents.items()), tuple(unknown), tuple(trusted)
    )
    # Before hours of training, not after.
    leak, test_leak = _guard(run, lineage, run.train, held_out), _guard(run, lineage, run.test)

    films, said = training_films(run, step, stage, rows, report)
    teacher = load_step(run, step.parents["teacher"]) if "teacher" in step.parents else None
    segmenters = [load_segmenter(run, step.parents[f"maps {fold}"]) for fold in map_folds(step)]
    state, keep = resume(work / "state.safetensors", step.identity)
    # The overlay is drawn as its reader learnt it: this stage itself, or its teacher.
    seen = stage.films.view == "overlay"
    reader = member.stages[stage.targets.features.of] if stage.targets.features else stage
    size = run.recipe.size_of(member_name, stage_name)
    policy = make_policy(stage.films.augment, size, flip=stage.films.flip)
    plain = make_policy("none", size)

    watched = films_of(run.train, run.store, _watched(run, stage, held_out, seed), lines=seen)
    # Its folder is outside `done`, whose place a killed step gives up; what lies there is copied at the end.
    tracked = work / TRACKED
    trackers = run.recipe.tracking.settings(run.root) if distributed.is_first() else TrackingSettings(use=())
    with Tracker(
        trackers, run=f"{run.recipe.name}/{step.name}", group=run.recipe.name,
        folder=tracked, identity=step.identity,
    ) as tracker:  # fmt: skip
        tracker.settings(settings_of(run.recipe, member_name, stage_name))
        tracker.text(LINEAGE, lineage.text())
        module = StageModule(
            model,
            StageConfig(stage.schedule, stage.targets, seed),
            FilmSet(
                films,
                policy,
                seed=seed,
                overlay=seen or stage.targets.draws_lines,
                maps=stage.targets.reads_maps,
                colour_by=reader.films.colour_by,
            ),
            FilmSet(watched, plain, seed=seed, overlay=seen, colour_by=reader.films.colour_by)
            if len(watched)
            else None,
            view=stage.films.view,
            teacher=teacher,
            segmenters=segmenters,
            state=state,
            keep=keep,
            report=report,
            track=tracker.metrics,
            loader_workers=loader_workers,
        )
        weights = fit_stage(module)
    model.load_state_dict(weights)

    out = work / "done"

    def write() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        header = {"config": json.dumps(model.config()), "step": step.name, LINEAGE_ENTRY: lineage.text()}
        save_weights(out / WEIGHTS, weights, header)
        (out / LINEAGE).write_text(lineage.text())
        pd.DataFrame(module.progress.history).to_csv(out / "history.csv", index=False)
        if tracked.is_dir():
            shutil.copytree(tracked, out / TRACKED)

    distributed.first(write)
    begun = time.monotonic()
    if not seen and stage.targets.classifies:
        report({"doing": "predicting"})
        predict_rows(run.train, run.store, held_out, model, size, out / HELD_OUT)
    record = {
        "identity": step.identity,
        "step": step.name,
        "films": len(films),
        "seconds": module.progress.seconds,
        "predict_seconds": time.monotonic() - begun,
        "spec": stage.model_dump(mode="json"),
        "parents": {role: name_of(key) for role, key in step.parents.items()},
        "weights": adoption.as_dict() if adoption else model.backbone.source,
        "soft_labels": said,
        "leak": leak,
        "test_leak": test_leak,
        "unknown": lineage.untraced(),
        "trusted": lineage.vouched_for(),
        "versions": {"cxrlines": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "processes": distributed.world(),
    }

    def finish() -> None:
        (out / RECORD).write_text(json.dumps(record, indent=1))
        _put_in_place(out, run.folder(step.key))
        shutil.rmtree(work)

    distributed.first(finish)
    if is_judged(run.recipe, step):
        report({"doing": "reading the test films"})
        predict_test(run, step)


def is_judged(recipe: Recipe, step: Step) -> bool:
    """Whether a step's predictions are scored: the last of a member, or one the ensemble names."""
    named = {recipe.source(name) for name in recipe.averaged}
    return step.fold is not None and (step.last or (step.key[0], step.key[2]) in named)


def _tokens(run: Run, stage: StageSpec, rows: np.ndarray) -> set[str]:
    """The tokens of all whom a stage sees."""
    if stage.films.set != OWN:
        return run.external[stage.films.set][0].tokens(rows, run.people)
    return run.people.tokens(run.train.studies["patient"].iloc[rows].astype(str))


def _identifiers(run: Run, dataset: Dataset | None, rows: np.ndarray | None = None) -> set[str]:
    """All identifiers of the patients of some rows, or of all."""
    if dataset is None:
        return set()
    patients = dataset.studies["patient"].astype(str)
    return run.people.names(patients if rows is None else patients.iloc[rows])


def _guard(run: Run, lineage: Lineage, dataset: Dataset | None, rows: np.ndarray | None = None) -> str | None:
    """Refuse a step whose ancestry saw patients it is watched or judged on; with guard: report, say so instead."""
    try:
        if dataset is not None:
            lineage.refuse_seen(_identifiers(run, dataset, rows), run.recipe.patients)
    except LeakError as error:
        if run.recipe.guard == "refuse":
            raise
        return None if isinstance(error, UntracedError) else str(error)  # the lineage itself tells what is unknown
    return None


def _start(run: Run, step: Step, stage: StageSpec) -> tuple[Model, Adoption | None]:
    """A model as the stage starts it: pretrained, random on purpose, an earlier step's, or from a file."""
    member = run.recipe.members[step.key[0]]
    channels = 3 if stage.films.view == "overlay" else 1 + len(MAPS) if stage.films.maps_of else 1
    origin: Start = "imagenet" if stage.start == "imagenet" else "none"
    classifier = Classifier(
        member.backbone,
        member.head,
        in_channels=channels,
        weights=origin,
        dropout=member.dropout,
        decoder=member.decodes(step.key[2]),
        exclusive=member.exclusive,
    )
    if isinstance(stage.start, FileStart):
        return classifier, adopt(classifier, stage.start.of(step.key[1][0]))
    model = TwoStep(load_segmenter(run, step.parents["maps"]), classifier) if stage.films.maps_of else classifier
    if "start" in step.parents:
        tensors, _ = load_weights(run.folder(step.parents["start"]) / WEIGHTS)
        if stage.started_from and not member.decodes(stage.started_from):  # a decoder begins here
            fresh = model.state_dict()
            tensors |= {name: fresh[name] for name in fresh if name.startswith("decoder.")}
        load_into(model, tensors)
    return model, None


def load_segmenter(run: Run, key: Key) -> Classifier:
    """The network of a finished step that learnt maps."""
    model = load_step(run, key)
    assert isinstance(model, Classifier)  # a stage that learns maps is shown none
    return model


def _watched(run: Run, stage: StageSpec, held_out: np.ndarray, seed: int) -> np.ndarray:
    """The held-out rows whose AUC is watched while training: annotated ones where the lines are seen."""
    if not stage.targets.classifies:
        return held_out[:0]
    rows = held_out
    if stage.films.view == "overlay":
        rows = rows[np.asarray(run.train.annotated)[rows]]
    most = stage.schedule.validate_films
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def predict_test(run: Run, step: Step) -> None:
    """Predict the test films with a finished last step, unless that is done for these very films."""
    folder = run.folder(step.key)
    record = distributed.first(lambda: read_record(folder))
    wanted = run.test_store.fingerprint if run.test_store else None
    if record.get("test") == wanted:
        return
    distributed.first(lambda: (folder / TEST).unlink(missing_ok=True))
    if run.test is not None and run.test_store is not None:
        record["test_leak"] = _guard(run, read_lineage(folder / LINEAGE), run.test)
        present = np.flatnonzero(run.test.studies["study"].isin(set(run.test_store.studies)))
        size = run.recipe.size_of(step.key[0], step.key[2])
        predict_rows(run.test, run.test_store, present, load_step(run, step.key), size, folder / TEST)

    distributed.first(lambda: write_text(folder / RECORD, json.dumps(record | {"test": wanted}, indent=1)))


def _seed(seed: int, step: Step) -> int:
    """A seed of its own for each member, fold and stage, from the recipe's; the same on every machine."""
    return (
        int.from_bytes(np.random.SeedSequence([seed, *step.name.encode()]).generate_state(1).tobytes(), "little") >> 1
    )


def settings_of(recipe: Recipe, member: str, stage: str) -> dict[str, Any]:
    """What trackers keep of a step: its member, and its stage's specification under `stage`, with the size resolved."""
    made = recipe.members[member]
    spec = made.stages[stage].model_dump(mode="json") | {"size": recipe.size_of(member, stage)}
    return {"member": member, "backbone": made.backbone, "head": made.head, "stage": spec}


def _put_in_place(done: Path, folder: Path) -> None:
    """Sync a finished folder to the disk and rename it into place, moving aside one of another specification."""
    for path in [p for p in done.rglob("*") if p.is_file()] + [done]:
        sync(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stale = done.with_name("stale")
    shutil.rmtree(stale, ignore_errors=True)
    if folder.exists():
        folder.rename(stale)
    done.rename(folder)
