"""Training of one step: its films and start, training, predictions, lineage; in a folder that is complete or absent."""

import gc
import json
import platform
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxrlines import __version__
from cxrlines.core.errors import Error
from cxrlines.core.files import put_folder
from cxrlines.core.transform import Size
from cxrlines.evaluation.predictions import write_predictions
from cxrlines.models.adopt import Adoption, adopt
from cxrlines.models.backbones import Start
from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.models.decoders import begun_anew, last_layer
from cxrlines.models.weights import load_into, load_weights, save_weights
from cxrlines.recipe.run.folder import (
    HELD_OUT,
    LINEAGE,
    LINEAGE_ENTRY,
    RECORD,
    TRACKED,
    WEIGHTS,
    Role,
    Run,
    Step,
    StepId,
)
from cxrlines.recipe.run.map_teachers import decoder_in, kept_maps, known_of, learnt_maps, map_teachers, start_file
from cxrlines.recipe.run.scored_predictions import is_scored, predict_scored
from cxrlines.recipe.run.step_lineage import lineage_record, made_from, refuse_held_out, refuse_test
from cxrlines.recipe.run.training_data import films_of, load_step, plain_view, predict_rows, training_films
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import MAP_NAMES
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.tracker import Tracker
from cxrlines.training import distributed
from cxrlines.training.checkpoint import Progress, load_state, save_state
from cxrlines.training.config import Report, StageConfig
from cxrlines.training.lineage import Lineage
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.mixing import Mixing
from cxrlines.training.module import StageModule
from cxrlines.training.watching import macro_auc


@dataclass(frozen=True)
class _Inputs:
    """What a step is trained with.

    `weights`: where its first ones come from, as the record says; `soft`: figures of its soft labels; leaks: those that
    guard: report lets pass.
    """

    stage: StageSpec
    size: Size
    model: Model
    weights: str | dict[str, Any]
    lineage: Lineage
    leak: str | None
    test_leak: str | None
    films: Films
    soft: dict[str, Any] | None
    held_out: np.ndarray


def do_step(run: Run, step: Step, report: Report, loader_workers: int = 0) -> None:
    """Train one step, predict its held-out films if it reads plain ones, and put its folder in place in one move.

    Test films are `predict_scored`'s: they may change without anything being trained again. Several processes train and
    predict together; the first writes.
    """
    work = run.root / ".work" / step.key.flat
    work.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(run, step, report)
    progress, weights = _train(run, step, inputs, work, report, loader_workers)
    # Lightning's trainer and its module hold each other: gradients and moments would lie beside the next step's.
    gc.collect()
    inputs.model.load_state_dict(weights)
    begun, predictions = time.monotonic(), None
    if inputs.stage.films.view == "plain" and inputs.stage.targets.classifies:
        report({"doing": "predicting"})
        predictions = predict_rows(
            run.films.own, run.store, inputs.held_out, inputs.model, plain_view(run.recipe, step.key.source)
        )
    record = _record(step, inputs, progress.seconds, time.monotonic() - begun)
    with distributed.first() as shared:
        if shared.mine:
            _write(inputs, progress, weights, predictions, record, work / "done", run.folder(step.key))
    if is_scored(run.recipe, step):
        report({"doing": "reading the test films"})
        predict_scored(run, step, inputs.model)


def _inputs(run: Run, step: Step, report: Report) -> _Inputs:
    """Model, lineage and films of a step; `LeakError` before hours of training, not after."""
    stage = run.recipe.members[step.key.member].stages[step.key.stage]
    model, adoption, weights = _start(run, step, stage)
    rows, held_out = run.films.training(stage, step.key.held), run.films.held(step.key.held)
    lineage = made_from(run, step, stage, rows, adoption.source if adoption else None)
    leak, test_leak = refuse_held_out(run, lineage, held_out), refuse_test(run, lineage)
    films, soft = training_films(run, step, stage, rows, report)
    size = run.recipe.size_of(step.key.member, step.key.stage)
    return _Inputs(stage, size, model, weights, lineage, leak, test_leak, films, soft, held_out)


def _train(
    run: Run, step: Step, inputs: _Inputs, work: Path, report: Report, loader_workers: int
) -> tuple[Progress, dict[str, Tensor]]:
    """Train the step, from where a killed try of it was. How it went, and the final weights."""
    state = work / "state.safetensors"
    module = _module(run, step, inputs)
    module.keep, module.report, module.loader_workers = (
        partial(save_state, state, step.identity),
        report,
        loader_workers,
    )
    module.resume(load_state(state, step.identity))
    with _tracker(run, step, inputs.lineage, work / TRACKED) as tracker:
        module.track = tracker.metrics
        weights = module.fit()
    return module.progress, weights


def _module(run: Run, step: Step, inputs: _Inputs) -> StageModule:
    """What trains the step: on which films, how seen, towards what."""
    recipe, stage, films, seed = run.recipe, inputs.stage, inputs.films, _seed(run.recipe.seed, step)
    targets, overlay = stage.targets, stage.films.view == "overlay"
    teacher = step.parent(Role.TEACHER)
    # The overlay is drawn as its reader learnt it: this stage itself, or its teacher.
    stages = recipe.members[step.key.member].stages
    drawn = (stages[targets.features.of] if targets.features else stage).films
    watched = watched_films(run, step)
    seen = FilmSet(
        films,
        stage.films.augment,
        inputs.size,
        flip=stage.films.flip,
        seed=seed,
        overlay=overlay or targets.draws_lines,
        maps=targets.draws_maps,
        colour_by=drawn.colour_by,
        draw=drawn.draw,
        rare_below=stage.films.rare_below if stage.films.sampling == "rare" else None,
        mixing=Mixing(stage.films.mixup, stage.films.cutmix) if stage.films.mixed else None,
    )
    plain = FilmSet(
        watched, "none", inputs.size, seed=seed, overlay=overlay, colour_by=drawn.colour_by, draw=drawn.draw
    )
    return StageModule(
        inputs.model,
        StageConfig(stage.schedule, targets, seed),
        seen,
        plain if len(watched) else None,
        view=stage.films.view,
        teacher=load_step(run, teacher) if teacher else None,
        segmenters=[load_segmenter(run, key) for key in step.by_fold(Role.MAPS).values()],
        map_teachers=map_teachers(run, step, stage),
    )


def _tracker(run: Run, step: Step, lineage: Lineage, folder: Path) -> Tracker:
    """The step's trackers, with its settings and lineage. `folder` outlasts a killed try, and is copied at the end."""
    recipe = run.recipe
    tracker = Tracker(
        recipe.tracking.settings(run.root) if distributed.rank == 0 else TrackingSettings(use=()),
        run=f"{recipe.name}/{step.name}", group=recipe.name, folder=folder, identity=step.identity,
    )  # fmt: skip
    tracker.settings(settings_of(recipe, step.key.member, step.key.stage))
    tracker.text(LINEAGE, lineage.text())
    return tracker


def _record(step: Step, inputs: _Inputs, seconds: float, predict_seconds: float) -> dict[str, Any]:
    """The content of step.json."""
    gpu = torch.cuda.is_available()
    return {
        "identity": step.identity,
        "step": step.name,
        "films": len(inputs.films),
        "seconds": seconds,
        "predict_seconds": predict_seconds,
        "spec": inputs.stage.model_dump(mode="json"),
        "parents": {parent.name: str(parent.key) for parent in step.parents},
        "weights": inputs.weights,
        "soft_labels": inputs.soft,
        "leak": inputs.leak,
        "test_leak": inputs.test_leak,
        **lineage_record(inputs.lineage),
        "versions": {"cxrlines": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "processes": distributed.world,
    }


def _write(
    inputs: _Inputs,
    progress: Progress,
    weights: dict[str, Tensor],
    predictions: pd.DataFrame | None,
    record: dict[str, Any],
    done: Path,
    folder: Path,
) -> None:
    """Write a finished step to `done` and put it in place, instead of one of another identity."""
    shutil.rmtree(done, ignore_errors=True)
    done.mkdir()
    lineage = inputs.lineage.text()
    header = {"config": json.dumps(inputs.model.config()), "step": record["step"], LINEAGE_ENTRY: lineage}
    save_weights(done / WEIGHTS, weights, header)
    (done / LINEAGE).write_text(lineage)
    pd.DataFrame(progress.history).to_csv(done / "history.csv", index=False)
    if (tracked := done.with_name(TRACKED)).is_dir():
        shutil.copytree(tracked, done / TRACKED)
    if predictions is not None:
        write_predictions(predictions, done / HELD_OUT)
    (done / RECORD).write_text(json.dumps(record, indent=1))
    put_folder(done, folder)
    shutil.rmtree(done.parent)


def _start(run: Run, step: Step, stage: StageSpec) -> tuple[Model, Adoption | None, str | dict[str, Any]]:
    """A model as the stage starts it: pretrained, random on purpose, an earlier step's, or from a file.

    With what was adopted of a file, and what the record says of the weights.
    """
    torch.manual_seed(_seed(run.recipe.seed, step))
    member = run.recipe.members[step.key.member]
    maps, start = step.parent(Role.MAPS), step.parent(Role.START)
    shown = decoder_in(run.folder(maps) / WEIGHTS)[1] if maps else ()
    channels = 3 if stage.films.view == "overlay" else 1 + len(shown)
    origin: Start = "imagenet" if stage.start == "imagenet" else "none"
    names = learnt_maps(run, step, stage)
    classifier = Classifier(
        member.backbone,
        member.head,
        in_channels=channels,
        weights=origin,
        dropout=member.dropout,
        decoder=run.recipe.decoder_of(step.key.source) if names else None,
        exclusive=member.exclusive,
        maps=names or tuple(MAP_NAMES),
    )
    file = start_file(run, step, stage)
    if file and isinstance(stage.start, FileStart):
        adoption = adopt(classifier, file, head=stage.start.head == "adopt", config=known_of(file).config)
        return classifier, adoption, adoption.as_dict()
    model = TwoStep(load_segmenter(run, maps), classifier) if maps else classifier
    source: str | dict[str, Any] = classifier.backbone.source
    if start and file:
        tensors, _ = load_weights(file)
        theirs = run.recipe.members[start.member]
        kept = kept_maps(run, step, stage)
        begun = [] if kept else ["decoder."]
        if (theirs.head, theirs.exclusive) != (member.head, member.exclusive):  # of another member
            begun.append("head.")
        parts = tuple(begun)
        fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
        theirs_kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(parts)}
        if kept:
            theirs_kept |= last_layer(model.state_dict(), names, tensors, kept)
        adapted = load_into(model, theirs_kept | fresh) + begun_anew(names, kept) * bool(kept)
        source = {"source": str(start), "adapted": adapted, "fresh": sorted(fresh)}
    return model, None, source


def load_segmenter(run: Run, key: StepId) -> Classifier:
    """The network of a finished step that learnt heatmaps."""
    model = load_step(run, key)
    assert isinstance(model, Classifier)  # a stage that learns heatmaps is shown none
    return model


def watched_films(run: Run, step: Step) -> Films:
    """The films whose AUC is watched while a step trains. `Error` where that chooses the epoch, and they have none."""
    stage = run.recipe.spec(step.key.source)
    rows = _watched(run, stage, run.films.held(step.key.held), _seed(run.recipe.seed, step))
    watched = films_of(run.films.own, run.store, rows, lines=stage.films.view == "overlay")
    if stage.schedule.keeps_best and macro_auc(watched.labels, np.zeros_like(watched.labels)) is None:
        raise Error(
            f"{step.name}: schedule.{'patience' if stage.schedule.patience else 'keep'} watches the AUC of {len(rows)} "
            "held-out films, and of no label both classes are among them",
            "leave it out, or watch more films (schedule.validate_films)",
        )
    return watched


def _watched(run: Run, stage: StageSpec, held_out: np.ndarray, seed: int) -> np.ndarray:
    """The held-out rows whose AUC is watched while training: annotated ones where the lines are seen."""
    if not stage.targets.classifies:
        return held_out[:0]
    rows = held_out
    if stage.films.view == "overlay":
        rows = rows[np.asarray(run.films.own.annotated)[rows]]
    most = stage.schedule.validate_films
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def _seed(seed: int, step: Step) -> int:
    """A seed of its own for each member, fold and stage, from the recipe's; the same on every machine."""
    state = np.random.SeedSequence([seed, *step.name.encode()]).generate_state(1)
    return int.from_bytes(state.tobytes(), "little") >> 1


def settings_of(recipe: Recipe, member: str, stage: str) -> dict[str, Any]:
    """What trackers keep of a step: its member, and its stage's specification under `stage`, with the size resolved."""
    made = recipe.members[member]
    spec = made.stages[stage].model_dump(mode="json") | {"size": recipe.size_of(member, stage)}
    return {"member": member, "backbone": made.backbone, "head": made.head, "stage": spec}
