"""A finished run packed into a bundle: the last step of each averaged member, of each fold."""

import json
from pathlib import Path

from cxrlines.data.tables import META_FILE
from cxrlines.inference.bundle import BundleMember, write_bundle
from cxrlines.models.weights import load_weights
from cxrlines.recipes.execute import RunError
from cxrlines.recipes.folder import LINEAGE, WEIGHTS, read_record
from cxrlines.recipes.run import STEPS
from cxrlines.recipes.spec import Recipe
from cxrlines.training.lineage import read_lineage


def pack(root: Path, out: Path, *, half: bool = False) -> Path:
    """Write the bundle of the run in `root` to `out`; `RunError` if the run is not finished.

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
    members, untraced = [], set()
    leaks: list[str] = []  # steps alone: what is told of a leak has a patient's key in it, and a bundle travels
    flips = True
    for name in recipe.averaged:
        source = recipe.source(name)
        flips &= recipe.members[source[0]].stages[source[1]].films.flip
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
            members.append(BundleMember(name.replace("/", "."), fold, config, folder / WEIGHTS, size))
            if record.get("leak") or record.get("test_leak"):
                leaks.append(step)
            untraced.update(read_lineage(folder / LINEAGE).untraced())
    metrics = root / "metrics.json"
    meta_out = {
        "recipe": recipe.name,
        "trained_on": _trained_on(Path(json.loads((root / "data.json").read_text())["data"])),
        "ancestry_unknown": sorted(untraced),
        "leaks": leaks,
        "flip": flips,
        "metrics": json.loads(metrics.read_text()).get("ensemble") if metrics.is_file() else None,
    }
    return write_bundle(
        out,
        members,
        store={"size": recipe.store.size, "aspect": recipe.store.aspect},
        input_size=recipe.size,
        meta=meta_out,
        half=half,
    )


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
