"""The report of a run: its predictions gathered and averaged, scored by patient, written as metrics and a page."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from cxrlines import __version__
from cxrlines.core.files import write_text
from cxrlines.core.pool import cores
from cxrlines.core.text import plural
from cxrlines.core.transform import size_text
from cxrlines.evaluation.ensemble.available import Average, average_available
from cxrlines.evaluation.ensemble.average import FittedWeights, ensemble
from cxrlines.evaluation.ensemble.fitted_weights import cross_fitted_blend, fit_weights
from cxrlines.evaluation.predictions import read_predictions, write_predictions
from cxrlines.evaluation.report.page import (
    ENSEMBLE,
    OUT_OF_FOLD_SCOPE,
    TEST_SCOPE,
    DataSummary,
    Member,
    Predictions,
    Report,
    Viewed,
    write_report,
)
from cxrlines.io.patients import PSEUDO
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.recipe.run.folder import HELD_OUT, TEST, Run, Step
from cxrlines.recipe.run.scored_predictions import HELD_OUT_VIEWS, TEST_VIEWS, is_scored
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import LABELS
from cxrlines.training.lineage import Ancestry, Lineage, state_of
from cxrlines.training.targets.base import OWN, TEST_SET

Frames = dict[str, pd.DataFrame]
"""Member, `member/stage` or `ensemble` -> its predictions, one row a study."""
WEIGHTS_FILE = "ensemble.json"

OUT_OF_FOLD = {
    Ancestry.CLEAN: "training films, each by models that never saw its patient",
    Ancestry.TRUSTED: "training films, each held out of its models' training; it is trusted, not checked, that the "
    "weights they started from never saw its patient",
    Ancestry.UNKNOWN: "training films, each by models of which it is not known whether they saw its patient",
    Ancestry.LEAK: "training films, each by models that saw its patient: a leak, see the notes",
}
TESTED = {
    Ancestry.CLEAN: "test films of patients no model saw",
    Ancestry.TRUSTED: "test films, kept out of training; it is trusted, not checked, that the weights the models "
    "started from never saw their patients",
    Ancestry.UNKNOWN: "test films, of which it is not known whether the models saw their patients",
    Ancestry.LEAK: "test films, seen in training: a leak, see the notes",
}
"""The scope of a run's predictions: which patients the models saw. Nothing else in metrics and report states it."""
PSEUDO_LABELLED = "test films, learnt before under soft labels (pseudo-labels), no label of theirs read"
"""The scope of test films that a stage was allowed to learn; what `TESTED` says of others follows it."""


def write_run_report(run: Run, steps: Sequence[Step], command: str) -> None:
    """Write `predictions/*.csv`, `metrics.json` and `report.html` of a run whose steps are done."""
    spec, averaged = run.recipe.ensemble, list(run.recipe.averaged)
    truth = run.train.studies[["study", "patient", *LABELS]]

    def fixed(names: Sequence[str]) -> FittedWeights | None:
        return FittedWeights.fixed({name: spec.weights[name] for name in names}) if spec.weights else None

    def average(frames: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
        """Out of fold; fitted weights are those of the other folds, so that no film weighs its own score."""
        if spec.how == "fitted":
            folds = pd.Series(run.folds.to_numpy(), run.train.studies["study"].astype(str))
            return cross_fitted_blend(frames, truth, folds, names=names)
        return ensemble(frames, how=spec.how, power=spec.power, names=names, weights=fixed(names))

    def average_test(frames: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
        return ensemble(frames, how=spec.how, power=spec.power, names=names, weights=weights or fixed(names))

    held_out, members_per_film = _gather(run, steps, HELD_OUT, average)
    weights = None
    if spec.how == "fitted":
        weights = fit_weights([held_out[name] for name in averaged], truth, names=averaged)
        write_text(run.root / WEIGHTS_FILE, json.dumps(weights.as_dict(), indent=1))
    records = {step: run.record(step.key) for step in steps}
    leaks, test_leaks = ([r[kind] for r in records.values() if r.get(kind)] for kind in ("leak", "test_leak"))
    lineages = [run.lineage(step.key) for step in steps if is_scored(run.recipe, step)]
    scored = _scored(held_out, run.train, OUT_OF_FOLD[state_of(lineages, leaked=bool(leaks))], members_per_film)
    tested, film_of = None, _FilmOf(run.train, run.store)
    if run.test is not None and run.test_store is not None:
        predictions, members_per_test_film = _gather(run, steps, TEST, average_test)
        _write(predictions, run.root / "predictions/test")
        if set(LABELS) <= set(run.test.studies) and (run.test.studies[list(LABELS)] >= 0).any(axis=None):
            tested = _scored(predictions, run.test, _tested(lineages, test_leaks), members_per_test_film, whole=True)
            film_of = _FilmOf(run.test, run.test_store)
    _write(held_out, run.root / "predictions/out_of_fold")
    viewed = _viewed(run, steps, scored, tested, average, average_test)
    report = Report(
        title=f"{run.recipe.name}: {run.recipe.about}".rstrip(": "),
        command=command,
        seed=run.recipe.seed,
        environment=_environment(),
        data=_summary(run),
        folds=truth.assign(fold=run.folds),
        members=[_member(run, steps, name) for name in run.recipe.members if name in held_out],
        main=tested or scored,
        views=viewed,
        ranks=run.recipe.ensemble.how == "rank",
        out_of_fold=scored if tested else None,
        film_of=film_of,
        steps=[_cost(step, record.get("seconds", 0.0)) for step, record in records.items()],
        notes=_notes(run, [*leaks, *test_leaks], members_per_film, held_out),
    )
    write_report(report, run.root / "report.html")


def _tested(lineages: Sequence[Lineage], leaks: Sequence[str]) -> str:
    """The scope of the test films' predictions."""
    state = state_of(lineages, leaked=bool(leaks))
    if not any(lineage.pseudo_labels() for lineage in lineages):
        return TESTED[state]
    return PSEUDO_LABELLED if state is Ancestry.CLEAN else f"{PSEUDO_LABELLED}; besides, {TESTED[state]}"


def _gather(
    run: Run, steps: Sequence[Step], name: str, average: Average, sources: Sequence[str] | None = None
) -> tuple[Frames, pd.Series]:
    """The predictions `name` of each member's last steps (or of `sources`); several folds on a study are averaged.

    With them other stages that the ensemble names, and what `average` makes, for each film, of those members that the
    ensemble averages and that predict it: study -> how many.
    """
    found: Frames = {}
    for source in sources or dict.fromkeys([*run.recipe.members, *run.recipe.averaged]):
        member, stage = run.recipe.source(source)
        keys = [s.key for s in steps if s.key.source == (member, stage) and is_scored(run.recipe, s)]
        files = [file for key in keys if (file := run.folder(key) / name).is_file()]
        if files:
            frames = pd.concat([read_predictions(file) for file in files])
            found[source] = frames.groupby("study", as_index=False, sort=True).mean()
    averaged = {source: found[source] for source in run.recipe.averaged if source in found}
    if not averaged:
        return found, pd.Series(dtype=int)
    found[ENSEMBLE], members_per_film = average_available(averaged, average)
    return found, members_per_film


def _viewed(
    run: Run, steps: Sequence[Step], scored: Predictions, tested: Predictions | None, average: Average, of_test: Average
) -> Viewed | None:
    """The predictions over the views of the recipe, which are written too; None where it names none.

    They are averaged as the plain ones, for test films under the same weights.
    """
    if (spec := run.recipe.ensemble.views) is None:
        return None
    found = {}
    for scope, plain, name, how in (
        (OUT_OF_FOLD_SCOPE, scored, HELD_OUT_VIEWS, average), (TEST_SCOPE, tested, TEST_VIEWS, of_test),
    ):  # fmt: skip
        frames, members_per_film = _gather(run, steps, name, how, run.recipe.averaged)
        if frames:
            _write(frames, run.root / f"predictions/{scope}_views")
            if plain:
                found[scope] = Predictions(plain.scope, frames, plain.truth, members_per_film)
    scales = [f"{scale:g} of the size" for scale in spec.scales]
    return Viewed(", ".join(["plain", *(["flipped"] if spec.flip else []), *scales]), found)


def _scored(
    predictions: Frames, dataset: Dataset, scope: str, members_per_film: pd.Series, *, whole: bool = False
) -> Predictions:
    """With the truth of the films predicted; of the `whole` set, so that those not predicted are counted."""
    shown = whole | dataset.studies["study"].isin(set(predictions[ENSEMBLE]["study"]))
    truth = dataset.studies[shown][["study", "patient", *LABELS]].reset_index(drop=True)
    return Predictions(scope, predictions, truth, members_per_film)


def _write(predictions: Frames, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in predictions.items():
        write_predictions(frame, folder / f"{name.replace('/', '.')}.csv")


def _environment() -> dict[str, str]:
    gpu = torch.cuda.is_available()
    return {
        "cxrlines": __version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "machine": torch.cuda.get_device_name() if gpu else f"{cores()} cores, {platform.machine()}",
    }


def _notes(run: Run, leaks: Sequence[str], members_per_film: pd.Series, trained: Frames) -> list[str]:
    recipe = run.recipe
    notes = [
        f"{name} is made with an epoch chosen on the very fold it is then scored on (schedule.keep: best and "
        f"schedule.patience of {', '.join(map(str, sorted(chosen)))} keep that with the best AUC): its out-of-fold "
        "figures are a little too good."
        for name in dict.fromkeys((*recipe.members, *recipe.averaged))
        if (chosen := recipe.epochs_chosen(recipe.source(name)))
    ]
    if members_per_film.nunique() > 1:
        counts = ", ".join(f"{films:,} films of {n}" for n, films in sorted(members_per_film.value_counts().items()))
        notes.append(
            "Not every member is trained on every fold: out of fold the ensemble is, for each film, the mean "
            f"over the members that predict it ({counts}), and each member's figures are of the films of its folds. "
            "metrics.json also has the ensemble's figures on those films alone that the most members predict."
        )
    if untrained := [name for name in run.recipe.members if name not in trained]:
        notes.append(f"Not trained, as their folds are none of those asked for: {', '.join(untrained)}.")
    notes += [f"leak, reported and not refused (guard: report): {leak}" for leak in dict.fromkeys(leaks)]
    return notes + ([f"{run.groups.text()}."] if run.groups.text() else [])


def _summary(run: Run) -> DataSummary:
    train, stored = run.train, run.films.stored
    table = train.studies[stored]
    left_out = dict(train.left_out)
    left_out |= {f"test: {reason}": count for reason, count in (run.test.left_out if run.test else {}).items()}
    out, noted = run.store.counts(run.recipe.quality.leave_out)
    left_out |= {f"training films: {code}": count for code, count in out.items()}
    for split, store in (("training", run.store), ("test", run.test_store)):
        if store is not None and store.left_out:
            left_out[f"{split} films that could not be read"] = len(store.left_out)
    for name, (found, _) in ((name, run.external[name]) for name in run.recipe.used_sets):
        left_out |= {f"{name}: {reason}": count for reason, count in found.left_out.items()}
        left_out[f"{name}: twins of own films (left out where their patients are held out)"] = len(found.twins)
    settings = {name: value for name, value in train.meta.items() if not isinstance(value, dict)}
    noted_test = run.test_store.counts("nothing")[1] if run.test_store else {}
    for split, codes in (("films trained on", noted), ("films predicted", noted_test)):
        if codes:
            settings[f"{split} with a note"] = ", ".join(f"{count} {code}" for code, count in codes.items())
    store_spec = run.recipe.store
    return DataSummary(
        name="phantom films" if train.meta and train.meta.get("kind") != PSEUDO else train.root.name,
        films=len(table),
        patients=int(table["patient"].nunique()),
        annotated=int(np.sum(np.asarray(train.annotated) & stored)),
        positives={label: int((table[label] == 1).sum()) for label in LABELS},
        left_out=left_out,
        settings=settings
        | {"store": f"{size_text(store_spec.size)}, {store_spec.aspect}", "input": size_text(run.recipe.size)},
    )


def _member(run: Run, steps: Sequence[Step], name: str) -> Member:
    mine = [step for step in steps if step.key.member == name]
    last = [step for step in mine if step.last and is_scored(run.recipe, step)]
    lineages = [run.lineage(step.key) for step in last]
    member, decoder = run.recipe.members[name], run.recipe.decoder_of(run.recipe.source(name))
    network = f"{member.backbone}, {member.head} head" + (f", {decoder} decoder" if decoder else "")
    untraced, trusted = (
        "; ".join(sorted({origin for lineage in lineages for origin in of(lineage)}))
        for of in (Lineage.untraced, Lineage.vouched_for)
    )
    averaged = any(run.recipe.source(source)[0] == name for source in run.recipe.averaged)
    return Member(
        name=name,
        role="member" if averaged else "baseline",
        stages=[{"stage": stage_name, **describe_stage(stage)} for stage_name, stage in member.stages.items()],
        seconds=sum(run.record(step.key).get("seconds", 0.0) for step in mine),
        lineage={
            "network": network,
            "folds": ", ".join(str(step.fold) for step in last),
            "patients seen, by fold": ", ".join(str(len(lineage.seen())) for lineage in lineages),
        },
        ancestry_unknown=untraced,
        ancestry_trusted=trusted,
        pseudo_labels="; ".join(sorted({name for lineage in lineages for name in lineage.pseudo_labels()})),
        epochs_chosen="; ".join(sorted(map(str, run.recipe.epochs_chosen(run.recipe.source(name))))),
    )


def _cost(step: Step, seconds: float) -> dict[str, object]:
    member, held, stage = step.key
    fold = "+".join(map(str, held))
    return {"step": step.name, "member": member, "fold": fold, "stage": stage, "seconds": seconds, "films": step.films}


class _FilmOf:
    """study -> its film from the store, in its true proportions, and its lines in px of that picture."""

    def __init__(self, dataset: Dataset, store: Store) -> None:
        self.dataset, self.store = dataset, store

    def __call__(self, study: str) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
        row = self.store.row(study)
        place, film = self.store.placements[row], np.asarray(self.store.films[row])
        height = round(len(film) * (place.scale[0] / place.scale[1]))
        scale = np.array([1.0, height / self.store.films.shape[1]])
        lines = [(line.label, place.from_film(line.points) * scale) for line in self.dataset.lines.get(study, [])]
        return cv2.resize(film, (film.shape[1], height), interpolation=cv2.INTER_AREA), lines


def describe_stage(stage: StageSpec) -> dict[str, str]:
    """A stage in words: start, films, targets, losses, schedule."""
    films, targets = stage.films, stage.targets.named.values()
    where = {OWN: films.which, TEST_SET: "test films"}.get(films.set, f"set {films.set}")
    start = f"file {Path(stage.start.file).name}" if isinstance(stage.start, FileStart) else stage.start
    return {
        "start": start + (f" of fold + {stage.fold_shift}" if stage.fold_shift else ""),
        "films": f"{where}, {_view(stage)}",
        "targets": " + ".join(target.describe()[0] for target in targets),
        "losses": " + ".join(f"{target.weight:g} x {target.describe()[1]}" for target in targets),
        "schedule": f"{plural(stage.schedule.epochs, 'epoch')}, {stage.schedule.shape}, {stage.schedule.lr:g}",
    }


def _view(stage: StageSpec) -> str:
    if stage.films.maps_of:
        return f"with maps of {stage.films.maps_of}"
    return "lines drawn in" if stage.films.view == "overlay" else "plain"
