"""One step done: films, start, training, predictions, lineage; in a folder that is whole or absent."""

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from cxrlines import __version__
from cxrlines.augment.policy import make_policy
from cxrlines.data.store import Store, open_store
from cxrlines.data.tables import Dataset, read_dataset
from cxrlines.evaluation.ensemble import write_predictions
from cxrlines.evaluation.evaluate import read_predictions
from cxrlines.models.backbones import Start
from cxrlines.models.classifier import Classifier
from cxrlines.models.public import Adoption, adopt
from cxrlines.models.weights import load_into, load_weights, save_weights
from cxrlines.recipes.external import ExternalSet, open_set
from cxrlines.recipes.plan import Key, Material, Step, name_of
from cxrlines.recipes.soft import read_soft_labels, soft_labels
from cxrlines.recipes.spec import OWN, FileStart, Recipe, ScheduleSpec, StageSpec
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.tracker import open_tracker
from cxrlines.training import distributed
from cxrlines.training.lineage import LeakError, Lineage, read_lineage
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.losses import balanced_weights
from cxrlines.training.stage import Fit, StageModule, fit_stage, predict_films, resume

WEIGHTS, LINEAGE, RECORD = "weights.safetensors", "lineage.json", "step.json"
HELD_OUT, TEST = "predictions.csv", "test_predictions.csv"
TRACKED = "tracking"


@dataclass(frozen=True)
class Run:
    """What every step of a run shares. `external` has each set with its store."""

    root: Path
    recipe: Recipe
    films: Material
    store: Store
    test: Dataset | None
    test_store: Store | None
    external: dict[str, tuple[ExternalSet, Store]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, data: Path) -> "Run":
        """The run prepared in `root` on `data`."""
        recipe = Recipe.model_validate_json((root / "recipe.json").read_text())
        train, store = read_dataset(data, "train"), open_store(root / "store/train")
        folds = pd.read_csv(root / "folds.csv", dtype={STUDY_COLUMN: str}).set_index(STUDY_COLUMN)["fold"]
        tested = (data / "sample_submission.csv").is_file()
        external = {name: open_set(name, root / "external" / name) for name in used_sets(recipe)}
        return cls(
            root,
            recipe,
            material(train, store, train.studies["study"].map(folds), external),
            store,
            read_dataset(data, "test") if tested else None,
            open_store(root / "store/test") if tested else None,
            external,
        )

    @property
    def train(self) -> Dataset:
        """The own films' table."""
        return self.films.own

    @property
    def folds(self) -> pd.Series:
        """The fold of each row of `train.studies`."""
        return self.films.folds

    def folder(self, key: Key) -> Path:
        """Where the finished step lies."""
        return self.root / name_of(key)

    def is_done(self, step: Step) -> bool:
        """Whether this very step is finished."""
        return read_record(self.folder(step.key)).get("identity") == step.identity


def material(
    train: Dataset, store: Store, folds: pd.Series, external: Mapping[str, tuple[ExternalSet, Store]]
) -> Material:
    """What a plan is made on, of tables and stores."""
    stored = train.studies["study"].isin(set(store.studies)).to_numpy()
    return Material(train, stored, store.fingerprint, folds, {name: found for name, (found, _) in external.items()})


def used_sets(recipe: Recipe) -> list[str]:
    """The external sets that a stage of the recipe trains on."""
    used = {stage.films.set for member in recipe.members.values() for stage in member.stages.values()}
    return [name for name in recipe.external if name in used]


def read_record(folder: Path) -> dict[str, Any]:
    """What a finished step wrote of itself; empty where there is none."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def films_of(dataset: Dataset, store: Store, rows: np.ndarray, *, lines: bool) -> Films:
    """The films of some rows of a table, with targets and, where wanted, the lines in px of the store's films."""
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
    return Films(store, places, targets, drawn)


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
    unknown = [adoption.source] if adoption else []
    if stage.targets.soft and stage.targets.soft.file:
        unknown.append(f"soft labels of {Path(stage.targets.soft.file).name}")
    lineage = Lineage.of(step.name, _patients(run, stage, rows), parents.items(), unknown)
    held_out = run.films.held(held)
    # Before hours of training, not after.
    leak, test_leak = _guard(run, lineage, run.train, held_out), _guard(run, lineage, run.test)

    films, said = training_films(run, step, stage, rows, report)
    teacher = _load(run, step.parents["teacher"]) if "teacher" in step.parents else None
    state, keep = resume(work / "state.safetensors", step.identity)
    # The overlay is drawn as its reader learnt it: this stage itself, or its teacher.
    seen, taught = stage.films.view == "overlay", stage.targets.features is not None
    reader = member.stages[stage.targets.features.of] if stage.targets.features else stage
    size = run.recipe.size_of(member_name, stage_name)
    policy = make_policy(stage.films.augment, size, flip=stage.films.flip)
    plain = make_policy("none", size)

    watched = films_of(run.train, run.store, _watched(run, stage, held_out, seed), lines=seen)
    # Its folder is outside `done`, whose place a killed step gives up; what lies there is copied at the end.
    tracked = work / TRACKED
    trackers = run.recipe.tracking.settings(run.root) if distributed.is_first() else TrackingSettings(use=())
    with open_tracker(
        trackers, run=f"{run.recipe.name}/{step.name}", group=run.recipe.name,
        folder=tracked, identity=step.identity,
    ) as tracker:  # fmt: skip
        tracker.settings({"member": member_name, "backbone": member.backbone, "head": member.head, "size": size})
        tracker.settings(stage.model_dump(mode="json"))
        tracker.text(LINEAGE, json.dumps(lineage.as_dict()))
        module = StageModule(
            model,
            _fit(stage, seed),
            FilmSet(films, policy, seed=seed, overlay=seen or taught, colour_by=reader.films.colour_by),
            FilmSet(watched, plain, seed=seed, overlay=seen, colour_by=reader.films.colour_by)
            if len(watched)
            else None,
            view=stage.films.view,
            teacher=teacher,
            positive_weight=balanced_weights(films.targets)
            if stage.targets.labels and stage.targets.labels.class_weights == "balanced"
            else None,
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
        save_weights(out / WEIGHTS, weights, {"config": json.dumps(model.config()), "step": step.name})
        (out / LINEAGE).write_text(json.dumps(lineage.as_dict()))
        pd.DataFrame(module.progress.history).to_csv(out / "history.csv", index=False)
        if tracked.is_dir():
            shutil.copytree(tracked, out / TRACKED)

    distributed.first(write)
    begun = time.monotonic()
    if not seen:
        report({"doing": "predicting"})
        _predict_rows(run.train, run.store, held_out, model, size, out / HELD_OUT)
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


def _patients(run: Run, stage: StageSpec, rows: np.ndarray) -> set[str]:
    if stage.films.set != OWN:
        return run.external[stage.films.set][0].patients(rows)
    return set(run.train.studies["patient"].iloc[rows].astype(str))


def _guard(run: Run, lineage: Lineage, dataset: Dataset | None, rows: np.ndarray | None = None) -> str | None:
    """Refuse a step whose ancestry saw patients it is watched or judged on; with guard: report, say so instead."""
    try:
        if dataset is not None:
            patients = dataset.studies["patient"].astype(str)
            lineage.refuse_seen(patients if rows is None else patients.iloc[rows])
    except LeakError as error:
        if run.recipe.guard == "refuse":
            raise
        return str(error)
    return None


def training_films(
    run: Run, step: Step, stage: StageSpec, rows: np.ndarray, report: Callable[[dict[str, Any]], None]
) -> tuple[Films, dict[str, Any] | None]:
    """The films of a stage with all its targets, and what there is to say of its soft labels."""
    own, targets = stage.films.set == OWN, stage.targets
    if own:
        dataset, store = run.train, run.store
        lines = stage.films.view == "overlay" or targets.features is not None
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
            raise ValueError(
                f"targets.presence: the table of the set {stage.films.set} says of no film whether a tube is there; "
                "take a set that does, PadChest for one, or train towards soft labels"
            )
    return replace(films_of(dataset, store, rows, lines=lines), more=more), said


def _teachers_say(
    run: Run, step: Step, stage: StageSpec, rows: np.ndarray, studies: list[str]
) -> tuple[pd.DataFrame, list[str], tuple[pd.DataFrame, pd.DataFrame] | None]:
    """Predictions for a stage's films, its studies, and what a dynamic temperature is fitted to."""
    soft = stage.targets.soft
    assert soft is not None
    out_of_fold = None
    if inner := {int(role.split()[1]): key for role, key in step.parents.items() if role.startswith("soft ")}:
        # Of what a teacher predicts, the films of the one fold that this step itself does not hold out.
        studies_of = {fold: set(run.train.studies["study"].iloc[run.films.held((fold,))]) for fold in inner}
        frames = [read_predictions(run.folder(key) / HELD_OUT) for key in inner.values()]
        kept = [frame[frame["study"].isin(studies_of[fold])] for fold, frame in zip(inner, frames, strict=True)]
        out_of_fold = pd.concat(kept, ignore_index=True)
    truth = run.train.studies[["study", *LABELS]]
    if stage.films.set == OWN and out_of_fold is not None:
        mine = out_of_fold[out_of_fold["study"].isin(set(studies))]
        return mine, studies, (mine, truth)
    if "soft" in step.parents:
        given = _label_set(run, step.parents["soft"], stage.films.set)
    else:
        table = run.train.studies if stage.films.set == OWN else run.external[stage.films.set][0].studies
        given = read_soft_labels(Path(soft.file or ""), studies, set(table["study"].astype(str)))
    return given, studies, (out_of_fold, truth) if out_of_fold is not None else None


def _label_set(run: Run, teacher: Key, name: str) -> pd.DataFrame:
    """What a finished step says of every film of an external set; kept beside it for others who ask."""
    found, store = run.external[name]
    path = run.folder(teacher) / f"{name}-{store.fingerprint[:12]}.csv"
    with FileLock(path.with_suffix(".lock")) if distributed.is_first() else contextlib.nullcontext():
        if distributed.first(lambda: not path.is_file()):
            dataset = Dataset(run.root, found.studies)
            size = run.recipe.size_of(teacher[0], teacher[2])
            _predict_rows(dataset, store, np.arange(len(store)), _load(run, teacher), size, path)
    return read_predictions(path)


def _start(run: Run, step: Step, stage: StageSpec) -> tuple[Classifier, Adoption | None]:
    """A model as the stage starts it: pretrained, random on purpose, an earlier step's, or from a file."""
    member = run.recipe.members[step.key[0]]
    channels = 3 if stage.films.view == "overlay" else 1
    origin: Start = "imagenet" if stage.start == "imagenet" else "none"
    model = Classifier(member.backbone, member.head, in_channels=channels, weights=origin, dropout=member.dropout)
    if "start" in step.parents:
        tensors, _ = load_weights(run.folder(step.parents["start"]) / WEIGHTS)
        load_into(model, tensors)
    if isinstance(stage.start, FileStart):
        return model, adopt(model, Path(stage.start.file))
    return model, None


def _load(run: Run, key: Key) -> Classifier:
    tensors, meta = load_weights(run.folder(key) / WEIGHTS)
    model = Classifier.from_config(json.loads(meta["config"]))
    load_into(model, tensors)
    return model


def _watched(run: Run, stage: StageSpec, held_out: np.ndarray, seed: int) -> np.ndarray:
    """The held-out rows whose AUC is watched while training: annotated ones where the lines are seen."""
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
        _predict_rows(run.test, run.test_store, present, _load(run, step.key), size, folder / TEST)

    def note() -> None:
        aside = folder / f"{RECORD}.partial"
        aside.write_text(json.dumps(record | {"test": wanted}, indent=1))
        aside.replace(folder / RECORD)

    distributed.first(note)


def _predict_rows(dataset: Dataset, store: Store, rows: np.ndarray, model: Classifier, size: int, out: Path) -> None:
    """Write the probabilities of some rows, seen plain and without augmentation."""
    films = films_of(dataset, store, rows, lines=False)
    scores = predict_films(model, FilmSet(films, make_policy("none", size), seed=0, overlay=False, colour_by="label"))
    studies = dataset.studies["study"].iloc[rows].to_numpy()
    predictions = pd.DataFrame(scores, columns=list(LABELS)).assign(study=studies)
    distributed.first(lambda: write_predictions(predictions, out))


def _seed(seed: int, step: Step) -> int:
    """A seed of its own for each member, fold and stage, from the recipe's; the same on every machine."""
    return (
        int.from_bytes(np.random.SeedSequence([seed, *step.name.encode()]).generate_state(1).tobytes(), "little") >> 1
    )


def _fit(stage: StageSpec, seed: int) -> Fit:
    schedule: ScheduleSpec = stage.schedule
    precision = schedule.precision
    if precision == "auto":
        precision = "16" if torch.cuda.is_available() else "32"
    if precision == "16" and not torch.cuda.is_available():
        raise ValueError("schedule.precision is 16, which needs a GPU; here use auto, 32 or bf16")
    return Fit(
        epochs=schedule.epochs,
        batch=schedule.batch,
        lr=schedule.lr,
        end_lr=schedule.end_lr,
        shape=schedule.shape,
        warmup_epochs=schedule.warmup_epochs,
        restart_epochs=schedule.restart_epochs or 0.0,
        optimizer=schedule.optimizer,
        weight_decay=schedule.weight_decay,
        clip=schedule.clip,
        precision=precision,
        ema=schedule.ema,
        patience=schedule.patience,
        label_weight=stage.targets.labels.weight if stage.targets.labels else 0.0,
        feature_weight=stage.targets.features.weight if stage.targets.features else 0.0,
        soft_weight=stage.targets.soft.weight if stage.targets.soft else 0.0,
        presence_weight=stage.targets.presence.weight if stage.targets.presence else 0.0,
        seed=seed,
    )


def _put_in_place(done: Path, folder: Path) -> None:
    """Sync a finished folder to the disk and rename it into place, moving aside one of another specification."""
    for path in [p for p in done.rglob("*") if p.is_file()] + [done]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stale = done.with_name("stale")
    shutil.rmtree(stale, ignore_errors=True)
    if folder.exists():
        folder.rename(stale)
    done.rename(folder)
