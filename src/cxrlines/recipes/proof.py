"""The proof of a run: its predictions gathered and averaged, scored by patient, and told in a report."""

import platform
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from cxrlines import __version__
from cxrlines.data.pool import cores
from cxrlines.data.store import Store
from cxrlines.data.tables import Dataset
from cxrlines.evaluation.ensemble import ensemble, write_predictions
from cxrlines.evaluation.evaluate import read_predictions
from cxrlines.evaluation.report import ENSEMBLE, DataSummary, Member, Predictions, Report, write_report
from cxrlines.recipes.plan import Step
from cxrlines.recipes.step import HELD_OUT, LINEAGE, TEST, Run, read_record
from cxrlines.task import LABELS
from cxrlines.training.lineage import read_lineage


def gather(run: Run, steps: Sequence[Step], name: str) -> dict[str, pd.DataFrame]:
    """Member -> one row a study, from the predictions `name` of its last steps; several folds on a study are averaged.

    With it, under `ensemble`, the average of the members the recipe names.
    """
    members: dict[str, pd.DataFrame] = {}
    for member in run.recipe.members:
        files = [run.folder(s.key) / name for s in steps if s.key[0] == member and s.last]
        frames = [read_predictions(file) for file in files if file.is_file()]
        if frames:
            members[member] = pd.concat(frames).groupby("study", as_index=False, sort=True).mean()
    if members:
        members[ENSEMBLE] = ensemble([members[m] for m in run.recipe.averaged], how=run.recipe.ensemble.how)
    return members


def write_proof(run: Run, steps: Sequence[Step], command: str) -> None:
    """Write `predictions/*.csv`, `metrics.json` and `report.html` of a run whose steps are done."""
    scored = _scored(
        gather(run, steps, HELD_OUT), run.train, "training films, each by models that never saw its patient"
    )
    tested = None
    if run.test is not None:
        predictions = gather(run, steps, TEST)
        _write(predictions, run.root / "predictions/test")
        if set(LABELS) <= set(run.test.studies):
            tested = _scored(predictions, run.test, "test films of patients no model saw")
    _write(dict(scored.by_name), run.root / "predictions/out_of_fold")
    main = tested or scored
    report = Report(
        title=f"{run.recipe.name}: {run.recipe.about}".rstrip(": "),
        command=command,
        seed=run.recipe.seed,
        environment=_environment(),
        data=_summary(run),
        folds=run.train.studies[["study", "patient", *LABELS]].assign(fold=run.folds),
        members=[_member(run, steps, name) for name in run.recipe.members],
        main=main,
        out_of_fold=scored if tested else None,
        film_of=_FilmOf(run.test, run.test_store)
        if tested and run.test and run.test_store
        else _FilmOf(run.train, run.store),
        steps=[_cost(run, step) for step in steps],
        notes=[
            f"{name} ends each training at the epoch with the best AUC on the very fold it is then scored on "
            "(schedule.patience): its out-of-fold figures are a little too good."
            for name, member in run.recipe.members.items()
            if any(stage.schedule.patience is not None for stage in member.stages.values())
        ],
    )
    write_report(report, run.root / "report.html")


def _scored(predictions: dict[str, pd.DataFrame], dataset: Dataset, scope: str) -> Predictions:
    shown = set(predictions[ENSEMBLE]["study"])
    truth = dataset.studies[dataset.studies["study"].isin(shown)][["study", "patient", *LABELS]].reset_index(drop=True)
    return Predictions(scope, predictions, truth)


def _write(predictions: dict[str, pd.DataFrame], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in predictions.items():
        write_predictions(frame, folder / f"{name}.csv")


def _environment() -> dict[str, str]:
    return {
        "cxrlines": __version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "machine": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{cores()} cores, {platform.machine()}",
    }


def _summary(run: Run) -> DataSummary:
    train, table = run.train, run.train.studies
    left_out = dict(train.left_out)
    for reason, count in (run.test.left_out if run.test else {}).items():
        left_out[f"test: {reason}"] = count
    for split, store in (("training", run.store), ("test", run.test_store)):
        if store is not None and store.left_out:
            left_out[f"{split} films that could not be read"] = len(store.left_out)
    settings = {name: value for name, value in train.meta.items() if not isinstance(value, dict)}
    return DataSummary(
        name="phantom films" if train.meta else train.root.name,
        films=int(run.stored().sum()),
        patients=int(table["patient"].nunique()),
        annotated=int(np.sum(train.annotated)),
        positives={label: int(table[label].sum()) for label in LABELS},
        left_out=left_out,
        settings=settings
        | {"store": f"{run.recipe.store.size} px, {run.recipe.store.aspect}", "input": f"{run.recipe.size} px"},
    )


def _member(run: Run, steps: Sequence[Step], name: str) -> Member:
    mine = [step for step in steps if step.key[0] == name]
    last = [read_lineage(run.folder(step.key) / LINEAGE) for step in mine if step.last]
    member = run.recipe.members[name]
    stages = []
    for stage_name, stage in member.stages.items():
        targets, losses = [], []
        if stage.targets.labels:
            targets.append("labels")
            losses.append(f"{stage.targets.labels.weight:g} x BCE")
        if stage.targets.features:
            targets.append(f"features of {stage.targets.features.of}")
            losses.append(f"{stage.targets.features.weight:g} x MSE")
        stages.append(
            {
                "stage": stage_name,
                "start": stage.start,
                "films": f"{stage.films.which}, {'lines drawn in' if stage.films.view == 'overlay' else 'plain'}",
                "targets": " + ".join(targets),
                "losses": " + ".join(losses),
                "schedule": f"{stage.schedule.epochs:g} epochs, {stage.schedule.shape}, {stage.schedule.lr:g}",
            }
        )
    untraced = sorted({origin for lineage in last for origin in lineage.untraced()})
    return Member(
        name=name,
        role="member" if name in run.recipe.averaged else "baseline",
        stages=stages,
        seconds=sum(read_record(run.folder(step.key)).get("seconds", 0.0) for step in mine),
        lineage={
            "network": f"{member.backbone}, {member.head} head",
            "folds": ", ".join(str(step.key[1]) for step in mine if step.last),
            "patients seen, by fold": ", ".join(str(len(lineage.seen())) for lineage in last),
        },
        ancestry_unknown="; ".join(untraced),
    )


def _cost(run: Run, step: Step) -> dict[str, object]:
    record = read_record(run.folder(step.key))
    member, fold, stage = step.key
    return {
        "step": step.name,
        "member": member,
        "fold": fold,
        "stage": stage,
        "seconds": record.get("seconds", 0.0),
        "films": step.films,
    }


class _FilmOf:
    """study -> its film from the store, in its true proportions, and its lines in px of that picture."""

    def __init__(self, dataset: Dataset, store: Store) -> None:
        self.dataset, self.store = dataset, store

    def __call__(self, study: str) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
        row = self.store.row(study)
        place = self.store.placements[row]
        film = np.asarray(self.store.films[row])
        stretch = place.scale_x / place.scale_y
        height = round(len(film) * stretch)
        film = cv2.resize(film, (film.shape[1], height), interpolation=cv2.INTER_AREA)
        scale = np.array([1.0, height / self.store.films.shape[1]])
        lines = self.dataset.lines.get(study, [])
        return film, [(line.label, place.to_store(line.points) * scale) for line in lines]
