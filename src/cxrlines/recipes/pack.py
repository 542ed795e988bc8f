"""A finished run packed into a bundle: the last step of each averaged member, of each fold."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.data.folds import read_folds
from cxrlines.data.tables import META_FILE, read_dataset
from cxrlines.evaluation.calibrate import calibration_figures, fit_calibration, fit_thresholds
from cxrlines.evaluation.ensemble import ensemble
from cxrlines.evaluation.evaluate import read_predictions
from cxrlines.inference.bundle import BundleMember, write_bundle
from cxrlines.inference.findings import fit_denied
from cxrlines.inference.seen import SEEN, seen_text
from cxrlines.models.weights import load_weights
from cxrlines.recipes.execute import RunError
from cxrlines.recipes.folder import HELD_OUT, LINEAGE, LINEAGE_ENTRY, WEIGHTS, read_record
from cxrlines.recipes.run import STEPS
from cxrlines.recipes.spec import Recipe
from cxrlines.task import LABELS
from cxrlines.training.lineage import read_lineage

PARTS = 5
"""Where a run has one fold, its patients in so many parts stand for folds in the figures of its calibration."""


def pack(root: Path, out: Path, *, half: bool = False) -> Path:
    """Write the bundle of the run in `root` to `out`; `RunError` if the run is not finished.

    Its calibration and thresholds are fitted on the out-of-fold predictions of the very steps it holds; where that
    cannot be, `meta["calibration"]` says why. The patients that each model has seen are in it as cut tokens
    (`data.patients`).

    `half`: weights in 16 bits.
    """
    path = root / "recipe.json"
    if not path.is_file():
        raise RunError(f"{root} is no run: it has no recipe.json; name the folder given to `cxrlines train --out`")
    recipe = Recipe.model_validate_json(path.read_text())
    if recipe.ensemble.how != "mean":
        raise RunError(
            f"{recipe.name} averages by {recipe.ensemble.how}; a bundle reads film by film and takes the mean: "
            "train it with --set ensemble.how=mean (no step is done again)"
        )
    if not (root / STEPS).is_file():
        raise RunError(f"{root} is not finished; run `cxrlines train` to its end first")
    finished: dict[str, str] = json.loads((root / STEPS).read_text())
    members, untraced, trusted = [], set(), set()
    seen: dict[str, frozenset[str]] = {}
    held_out: dict[str, list[Path]] = {}
    leaks: list[str] = []
    flips = True
    for name in recipe.averaged:
        source = recipe.source(name)
        flips &= _saw_flips(recipe, *source)
        for step, identity in finished.items():
            member, fold_name, stage = step.split("/")
            if (member, stage) != source or "+" in fold_name:
                continue
            folder = root / step
            record = read_record(folder)
            if record.get("identity") != identity:
                raise RunError(f"{folder} is no longer what {STEPS} says; run `cxrlines train` to its end first")
            _, meta = load_weights(folder / WEIGHTS)
            fold, size = int(fold_name.removeprefix("fold")), recipe.size_of(*source)
            config = json.loads(meta["config"])
            lineage = read_lineage(folder / LINEAGE)
            header = {LINEAGE_ENTRY: lineage.cut().text()}
            members.append(BundleMember(name.replace("/", "."), fold, config, folder / WEIGHTS, size, header))
            held_out.setdefault(name, []).append(folder / HELD_OUT)
            if record.get("leak") or record.get("test_leak"):
                leaks.append(step)
            untraced.update(lineage.untraced())
            trusted.update(lineage.vouched_for())
            seen[members[-1].file] = lineage.seen()
    metrics = root / "metrics.json"
    data = Path(json.loads((root / "data.json").read_text())["data"])
    fitted: dict[str, Any]
    if leaks:
        told, fitted = {"not_fitted": "steps leaked, so that their predictions look better than they are"}, {}
    else:
        told, fitted = _calibrated(held_out, data, root / "folds.csv")
    meta_out = {
        "recipe": recipe.name,
        "trained_on": _trained_on(data),
        "ancestry_unknown": sorted(untraced),
        "ancestry_trusted": sorted(trusted),
        "leaks": leaks,
        "flip": flips,
        "calibration": told,
        "metrics": json.loads(metrics.read_text()).get("ensemble") if metrics.is_file() else None,
    }
    return write_bundle(
        out,
        members,
        store={"size": recipe.store.size, "aspect": recipe.store.aspect},
        input_size=recipe.size,
        meta=meta_out,
        half=half,
        further={SEEN: seen_text(seen)},
        **fitted,
    )


def _saw_flips(recipe: Recipe, member: str, stage: str) -> bool:
    """Whether every network of a stage was trained with flips, the segmenter of its maps among them."""
    films = recipe.members[member].stages[stage].films
    return films.flip and (films.maps_of is None or _saw_flips(recipe, member, films.maps_of))


def _calibrated(held_out: dict[str, list[Path]], data: Path, folds: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to say of calibration, and `calibration`, `thresholds` and `denied` of the bundle.

    Args:
        held_out: member -> files with the predictions of each fold held out.
        data: the films' folder, for the truth. folds: the run's.
    """
    try:
        truth = read_dataset(data, "train").studies.set_index("study")
    except (OSError, ValueError) as error:
        return {"not_fitted": f"the labels that the run was trained on cannot be read ({type(error).__name__})"}, {}
    frames = [pd.concat([read_predictions(file) for file in files]) for files in held_out.values()]
    found = ensemble(frames, "mean", list(held_out))
    rows = read_folds(folds).set_index("study").loc[found["study"]]
    p, positive = found[list(LABELS)].to_numpy(), truth.loc[found["study"], list(LABELS)].to_numpy()
    patients, fold = rows["patient"].to_numpy(), rows["fold"].to_numpy()
    whole = len(np.unique(fold)) > 1
    parts = fold if whole else np.unique(patients, return_inverse=True)[1] % PARTS
    judged = len(np.unique(parts)) > 1
    calibration = fit_calibration(p, positive)
    thresholds = fit_thresholds(p, positive, parts, patients, calibration)
    told = {
        "fitted_on": f"{len(p)} out-of-fold films of {len(np.unique(patients))} patients",
        "left_alone": dict(calibration.alone),
        "judged_on": ("folds" if whole else "parts of the one fold") + " that were not fitted on" if judged else None,
        "figures": calibration_figures(p, positive, parts, patients) if judged else None,
    }
    each = {label: [asdict(threshold) for threshold in wishes] for label, wishes in thresholds.items()}
    denied = fit_denied(calibration.apply(p), positive)
    return told, {"calibration": calibration.lines or None, "thresholds": each, "denied": denied}


def _trained_on(data: Path) -> str:
    """The training films in words: a set that the phantom wrote says what it is, another goes by its folder's name."""
    path = data / META_FILE
    made = json.loads(path.read_text()) if path.is_file() else {}
    if made.get("kind") == "onto":
        real = made["studies"] - round(made["studies"] * made["phantom_share"])
        return (
            f"{made['studies']} films: about {real} made by drawing devices into {made['backdrops']} real "
            "ones, the rest phantoms"
        )
    return f"{made['studies']} phantom films" if made else data.name
