"""Export of a finished run as a bundle: the last step of each averaged member, of each fold."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxrlines.evaluation.ensemble.average import FittedWeights
from cxrlines.evaluation.ensemble.blend import read_weights
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.io.patients import PSEUDO
from cxrlines.io.store import Store, open_store
from cxrlines.io.tables import META_FILE
from cxrlines.metrics.means import quantiles_of
from cxrlines.models.weights import load_weights
from cxrlines.reading.averaging import Averaging
from cxrlines.reading.bundle import PROBE_FILE
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.reading.probe import read_probe
from cxrlines.reading.training_patients import SEEN, patients_text
from cxrlines.recipe.run.bundle_calibration import Files, calibrated
from cxrlines.recipe.run.execute import RunError
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, LINEAGE_ENTRY, TEST, WEIGHTS, StepId, read_record
from cxrlines.recipe.run.pipeline import STEPS
from cxrlines.recipe.run.report import WEIGHTS_FILE
from cxrlines.recipe.run.scored_predictions import HELD_OUT_VIEWS, TEST_VIEWS
from cxrlines.recipe.spec.load import recipe_of
from cxrlines.recipe.spec.parts import key_of_patients
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.task import LABELS
from cxrlines.training.lineage import Lineage, read_lineage


@dataclass(frozen=True)
class _Finished:
    """A step that goes into the bundle; `name` is what the ensemble calls its member."""

    name: str
    key: StepId
    folder: Path
    record: dict[str, Any]
    lineage: Lineage


def export_run(
    root: Path, out: Path, *, half: bool = False, onnx: bool = True, may_share: Collection[str] = ()
) -> Path:
    """Write the bundle of the run in `root` to `out`; `RunError` if the run is not finished.

    Members are averaged as the run's ensemble averages them. Each fold's models are calibrated on the films that this
    fold held out, and the mean over folds, which no training film can show, on the test films, where they have labels.
    `meta["calibration"]` says what was fitted on what, and why not. The patients that each model has seen are in it as
    cut keys; the probe by which the run's films were assessed is in it too.

    `half`: weights in 16 bits. `onnx`: each model as an ONNX file too, which reading without PyTorch needs.
    `may_share`: public data sets of which some patients may be among those seen, under other identifiers.
    """
    if not (root / "recipe.json").is_file():
        raise RunError(f"{root} is no run: it has no recipe.json", "name the folder given to `cxrlines train --out`")
    for name in may_share:
        try:
            key_of_patients(name)
        except ValueError as error:
            raise RunError(f"--may-share {name!r}: is no name of a data set", str(error)) from None
    recipe = recipe_of(root)
    steps = [replace(step, lineage=step.lineage.sharing(may_share)) for step in _finished(root, recipe)]
    members = [_member(recipe, step) for step in steps]
    held_out: Files = {}
    tested: Files = {}
    viewed = recipe.ensemble.views  # what is read is calibrated: over views, where the bundle reads over them
    for step, member in zip(steps, members, strict=True):
        for files, name in (
            (held_out, HELD_OUT_VIEWS if viewed else HELD_OUT),
            (tested, TEST_VIEWS if viewed else TEST),
        ):
            if files is held_out or (step.folder / name).is_file():
                files.setdefault(member.name, {})[member.fold] = step.folder / name
    averaging = averaging_of(recipe, root, tested or held_out)
    leaks, test_leaks = ([str(s.key) for s in steps if s.record.get(kind)] for kind in ("leak", "test_leak"))
    pseudo = sorted({origin for step in steps for origin in step.lineage.pseudo_labels()})
    chosen = set[Source]().union(*(recipe.epochs_chosen(recipe.source(name)) for name in recipe.averaged))
    metrics, store = root / "metrics.json", open_store(root / "store/train")
    data = Path(json.loads((root / "data.json").read_text())["data"])
    tested_by = None if test_leaks or pseudo else tested
    about, fitted = calibrated(root, data, None if leaks else held_out, tested_by, averaging)
    seen = {member.file: step.lineage.seen() for member, step in zip(members, steps, strict=True)}
    return write_bundle(
        out,
        members,
        store={"size": store.size, "aspect": store.aspect, "preparation": store.preparation},
        input_size=recipe.size,
        meta={
            "recipe": recipe.name,
            "trained_on": _trained_on(data),
            "ancestry_unknown": sorted({origin for step in steps for origin in step.lineage.untraced()}),
            "ancestry_trusted": sorted({origin for step in steps for origin in step.lineage.vouched_for()}),
            "leaks": sorted({*leaks, *test_leaks}),
            "pseudo_labels": pseudo,
            "epochs_chosen_on_held_out": sorted(map(str, chosen)),
            "flip": all(recipe.saw_flips(*recipe.source(name)) for name in recipe.averaged),
            "views": viewed.model_dump(mode="json") if viewed else None,
            "calibration": about,
            "metrics": json.loads(metrics.read_text()).get("ensemble") if metrics.is_file() else None,
        },
        half=half,
        onnx=onnx,
        averaging=averaging,
        fitted=fitted,
        further={SEEN: patients_text(seen), **_probe_of(root, store)},
    )


def _finished(root: Path, recipe: Recipe) -> list[_Finished]:
    """The steps that a run ended with and its ensemble averages. `RunError` where it did not end, or went on since."""
    if not (root / STEPS).is_file():
        raise RunError(f"{root} is not finished", "run `cxrlines train` to its end first")
    identities: dict[str, str] = json.loads((root / STEPS).read_text())
    found = []
    for name in recipe.averaged:
        for step, identity in identities.items():
            key, folder = StepId.parse(step), root / step
            if key.fold is None or key.source != recipe.source(name) or not recipe.trains(key.member, key.fold):
                continue
            record = read_record(folder)
            if record.get("identity") != identity:
                raise RunError(f"{folder} is no longer what {STEPS} says", "run `cxrlines train` to its end first")
            found.append(_Finished(name, key, folder, record, read_lineage(folder / LINEAGE)))
    return found


def _member(recipe: Recipe, step: _Finished) -> BundleMember:
    _, meta = load_weights(step.folder / WEIGHTS)
    size, header = recipe.size_of(step.key.member, step.key.stage), {LINEAGE_ENTRY: step.lineage.cut().text()}
    config = json.loads(meta["config"])
    return BundleMember(_in_bundle(step.name), step.key.held[0], config, step.folder / WEIGHTS, size, header)


def _in_bundle(name: str) -> str:
    """What a bundle calls a member that the ensemble calls `name`, which may be `member/stage`."""
    return name.replace("/", ".")


def averaging_of(recipe: Recipe, root: Path, reference: Files) -> Averaging:
    """How the bundle of a run averages: as the run's ensemble does.

    `reference`: predictions of test films, else of those held out; ranks are read off each member's quantiles of them.
    """
    spec = recipe.ensemble
    if spec.how == "power":
        return Averaging(how="power", power=spec.power)
    if spec.how == "rank":
        return Averaging(how="rank", quantiles={name: _quantiles(files) for name, files in reference.items()})
    if spec.how == "mean":
        return Averaging()
    weights = FittedWeights.fixed(spec.weights) if spec.how == "weighted" else read_weights(root / WEIGHTS_FILE)
    given = weights.as_dict()["weights"]
    return Averaging(how=spec.how, weights={_in_bundle(name): given[name] for name in recipe.averaged})


def _quantiles(files: Mapping[int, Path]) -> dict[str, tuple[float, ...]]:
    """Label -> quantiles of a member's predictions, the mean over folds where several predicted a film."""
    frame = pd.concat([read_predictions(path) for path in files.values()]).groupby("study").mean()
    return {label: tuple(quantiles_of(frame[label].to_numpy()).tolist()) for label in LABELS if label in frame}


def _probe_of(root: Path, store: Store) -> dict[str, bytes]:
    """The probe by which a run's films were assessed, as a file of its bundle; none where rules alone did."""
    if not store.probe:
        return {}
    path = root / PROBE_FILE
    if not path.is_file() or read_probe(path).identity != store.probe:
        raise RunError(
            f"{path}: is not the probe by which the films in {store.folder} were assessed",
            "run `cxrlines train` to its end again",
        )
    both = (path, path.with_suffix(".onnx"))
    return {file.name: file.read_bytes() for file in both if file.is_file()}


def _trained_on(data: Path) -> str:
    """The training films in a sentence: what the phantom wrote of a set it made, else the folder's name."""
    path = data / META_FILE
    made = json.loads(path.read_text()) if path.is_file() else {}
    if made.get("kind") == "onto":
        real = made["studies"] - round(made["studies"] * made["phantom_share"])
        return (
            f"{made['studies']} films: about {real} made by drawing devices into {made['backdrops']} real "
            "ones, the rest phantoms"
        )
    if made.get("kind") == PSEUDO:
        return f"{made['studies']} films labelled by the bundle {made['labelled_by']['bundle'][:12]} in two views"
    return f"{made['studies']} phantom films" if made else data.name
