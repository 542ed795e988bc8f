"""A finished run packed into a bundle: the last step of each averaged member, of each fold."""

import json
from pathlib import Path

from cxrlines.io.store import Store, open_store
from cxrlines.io.tables import META_FILE
from cxrlines.models.weights import load_weights
from cxrlines.reading.bundle import BundleMember, write_bundle
from cxrlines.reading.quality import FILE, read_probe
from cxrlines.reading.training_patients import SEEN, seen_text
from cxrlines.recipe.run.calibration import Files, calibrated
from cxrlines.recipe.run.execute import RunError
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, LINEAGE_ENTRY, TEST, WEIGHTS, read_record
from cxrlines.recipe.run.train import STEPS
from cxrlines.recipe.spec.load import recipe_of
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.training.lineage import read_lineage


def export_run(root: Path, out: Path, *, half: bool = False) -> Path:
    """Write the bundle of the run in `root` to `out`; `RunError` if the run is not finished.

    Each fold's models are calibrated on the films that this fold held out, and the mean over folds, which no training
    film can show, on the test films, where they have labels. `meta["calibration"]` says what was fitted on what, and
    why not. The patients that each model has seen are in it as cut keys; the probe by which the run's films were
    assessed is in it too.

    `half`: weights in 16 bits.
    """
    path = root / "recipe.json"
    if not path.is_file():
        raise RunError(f"{root} is no run: it has no recipe.json", "name the folder given to `cxrlines train --out`")
    recipe = recipe_of(root)
    if recipe.ensemble.how != "mean":
        raise RunError(
            f"{recipe.name} averages by {recipe.ensemble.how}; a bundle reads film by film and takes the mean",
            "train it with --set ensemble.how=mean (no step is done again)",
        )
    if not (root / STEPS).is_file():
        raise RunError(f"{root} is not finished", "run `cxrlines train` to its end first")
    finished: dict[str, str] = json.loads((root / STEPS).read_text())
    members, untraced, trusted = [], set(), set()
    seen: dict[str, frozenset[str]] = {}
    held_out: Files = {}
    tested: Files = {}
    leaks: list[str] = []
    test_leaks: list[str] = []
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
                raise RunError(f"{folder} is no longer what {STEPS} says", "run `cxrlines train` to its end first")
            _, meta = load_weights(folder / WEIGHTS)
            fold, size = int(fold_name.removeprefix("fold")), recipe.size_of(*source)
            config = json.loads(meta["config"])
            lineage = read_lineage(folder / LINEAGE)
            header = {LINEAGE_ENTRY: lineage.cut().text()}
            members.append(BundleMember(name.replace("/", "."), fold, config, folder / WEIGHTS, size, header))
            held_out.setdefault(name, {})[fold] = folder / HELD_OUT
            if (folder / TEST).is_file():
                tested.setdefault(name, {})[fold] = folder / TEST
            if record.get("leak"):
                leaks.append(step)
            if record.get("test_leak"):
                test_leaks.append(step)
            untraced.update(lineage.untraced())
            trusted.update(lineage.vouched_for())
            seen[members[-1].file] = lineage.seen()
    metrics = root / "metrics.json"
    data = Path(json.loads((root / "data.json").read_text())["data"])
    store = open_store(root / "store/train")
    told, fitted = calibrated(root, data, None if leaks else held_out, None if test_leaks else tested)
    meta_out = {
        "recipe": recipe.name,
        "trained_on": _trained_on(data),
        "ancestry_unknown": sorted(untraced),
        "ancestry_trusted": sorted(trusted),
        "leaks": sorted({*leaks, *test_leaks}),
        "flip": flips,
        "calibration": told,
        "metrics": json.loads(metrics.read_text()).get("ensemble") if metrics.is_file() else None,
    }
    return write_bundle(
        out,
        members,
        store={"size": store.size, "aspect": store.aspect, "preparation": store.preparation},
        input_size=recipe.size,
        meta=meta_out,
        half=half,
        further={SEEN: seen_text(seen), **_probe_of(root, store)},
        **fitted,
    )


def _saw_flips(recipe: Recipe, member: str, stage: str) -> bool:
    """Whether every network of a stage was trained with flips, the segmenter of its maps among them."""
    films = recipe.members[member].stages[stage].films
    return films.flip and (films.maps_of is None or _saw_flips(recipe, member, films.maps_of))


def _probe_of(root: Path, store: Store) -> dict[str, bytes]:
    """The probe by which a run's films were assessed, as a file of its bundle; none where rules alone did."""
    if not store.probe:
        return {}
    path = root / FILE
    if not path.is_file() or read_probe(path).identity != store.probe:
        raise RunError(
            f"{path}: is not the probe by which the films in {store.folder} were assessed",
            "run `cxrlines train` to its end again",
        )
    return {FILE: path.read_bytes()}


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
