"""The margin of the recipe `recommended` over `hotwater-small`: same films, folds, networks and total compute.

The shipped recipe is made small as `hotwater-small` is `hotwater` made small: its members, heads, stages and targets
stay; size, folds, backbone, augmentation and schedule become those of `hotwater-small`. Then all epochs are stretched
by one factor until training costs the same film passes (`experiments.compute`). `hotwater-small` learns from three
external sets as well, and starts from public weights; `recommended` does neither.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cxrlines.core.files import write_text
from cxrlines.core.pool import cores
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import compare, evaluate
from cxrlines.io.tables import read_dataset
from cxrlines.lab.experiments.comparisons import student_interval
from cxrlines.lab.experiments.compute import compute_of
from cxrlines.lab.experiments.small import Films, run_small
from cxrlines.metrics.intervals import Interval
from cxrlines.recipe.run.folder import Run, read_record
from cxrlines.recipe.run.pipeline import plan_of, prepare, train
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe

SCHEDULE_FIELDS = ("batch", "optimizer", "lr", "end_lr", "shape", "weight_decay", "warmup_epochs", "clip", "precision")
"""The fields of its schedule that every stage takes from `hotwater-small`."""


@dataclass(frozen=True)
class Side:
    """One recipe: macro AUC of its ensemble on test films, films passed through a plain stage, seconds of training."""

    auc: float
    passes: float
    seconds: float


@dataclass(frozen=True)
class Margin:
    """`recommended` less `hotwater-small`, both ensembles on the same test films, patients resampled alike."""

    recommended: Side
    hotwater_small: Side
    difference: float
    over_patients: Interval | None
    films: Films

    def text(self) -> str:
        """A Markdown table, the difference below it."""
        rows = [
            f"| {name} | {side.auc:.4f} | {side.passes:,.0f} | {side.seconds:,.0f} |"
            for name, side in (("recommended", self.recommended), ("hotwater-small", self.hotwater_small))
        ]
        interval = "-" if self.over_patients is None else "{:+.4f} to {:+.4f}".format(*self.over_patients)
        head = ["| recipe | macro AUC | film passes | seconds of training |", "|---|---|---|---|"]
        return "\n".join([*head, *rows, "", f"difference {self.difference:+.4f}, 95 % by patient {interval}"])


def run_margins(
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    own: int = Films.own,
    test: int = Films.test,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """`run_margin` for each seed, in `out/seed<k>`: a Markdown table, also in `out/margin.md`; called again, resume."""
    found: dict[int, Margin] = {}
    for seed in seeds:
        say(f"seed {seed}")
        films = Films.of(own, test, seed)
        found[seed] = run_margin(out / f"seed{seed}", films=films, workers=workers, say=say)
        text = table_of(found)
        write_text(out / "margin.md", text + "\n")
    return text


def table_of(found: Mapping[int, Margin]) -> str:
    """A Markdown table, a row a seed, and the mean difference with Student's 95 % interval over seeds."""
    rows = ["| seed | recommended | hotwater-small | difference | 95 % by patient |", "|---|---|---|---|---|"]
    for seed, margin in found.items():
        interval = "-" if margin.over_patients is None else "{:+.4f} to {:+.4f}".format(*margin.over_patients)
        sides = f"{margin.recommended.auc:.4f} | {margin.hotwater_small.auc:.4f}"
        rows.append(f"| {seed} | {sides} | {margin.difference:+.4f} | {interval} |")
    differences = np.array([margin.difference for margin in found.values()])
    over_seeds = student_interval(differences)
    interval = "-" if over_seeds is None else "{:+.4f} to {:+.4f}".format(*over_seeds)
    return "\n".join([*rows, "", f"mean difference {differences.mean():+.4f}, 95 % over seeds {interval}"])


def run_margin(
    out: Path, *, films: Films = Films(), workers: int | None = None, say: Callable[[str], None] = print
) -> Margin:
    """Train `hotwater-small` as `experiment small` does, in the same folder, then `recommended`; called again, resume.

    Writes `margin.md` and `margin.json`.
    """
    data = out / "data/own"
    hotwater_small = Run.open(run_small(out, films=films, workers=workers, say=say), data)
    passes = _passes(hotwater_small)

    recipe = in_small(load_recipe("recommended"), hotwater_small.recipe)
    recipe = stretched(recipe, prepare(recipe, data, out / "recommended", workers or cores()), passes)
    say(f"recommended, {len(recipe.members)} members, to cost the {passes:,.0f} film passes of hotwater-small")
    command = "cxrlines experiment recommended"
    recommended = train(recipe, data, out / "recommended", workers=workers, command=command, say=say)

    truth, runs = read_dataset(data, "test").studies, (recommended, hotwater_small)
    scores = [evaluate(read_predictions(run.root / "predictions/test/ensemble.csv"), truth) for run in runs]
    ours, theirs = (
        Side(score.macro_auc or np.nan, _passes(run), _seconds(run)) for run, score in zip(runs, scores, strict=True)
    )
    _, interval = compare(*scores) or (None, None)
    margin = Margin(ours, theirs, ours.auc - theirs.auc, interval, films)
    write_text(out / "margin.md", margin.text() + "\n")
    write_text(out / "margin.json", json.dumps(asdict(margin), indent=1) + "\n")
    return margin


def in_small(recipe: Recipe, like: Recipe) -> Recipe:
    """`recipe` with its members, heads, stages, targets and epochs, at the size and on the schedule of `like`."""
    member = next(iter(like.members.values()))
    model = member.stages[member.last]
    content = recipe.model_dump()
    content |= like.model_dump(include={"size", "store", "folds", "seed", "tracking"})
    for spec in content["members"].values():
        spec["backbone"] = member.backbone
        for stage in spec["stages"].values():
            stage["size"] = None
            stage["films"] |= {"augment": model.films.augment, "flip": model.films.flip}
            schedule = model.schedule.model_dump(include=set(SCHEDULE_FIELDS))
            stage["schedule"] |= schedule | {"validate_films": 0, "patience": None}
    return Recipe.model_validate(content)


def stretched(recipe: Recipe, run: Run, passes: float) -> Recipe:
    """`recipe` with all epochs times one factor, so that its plan on the films of `run` costs `passes`."""
    wanted = sorted(int(fold) for fold in run.folds.unique())
    for _ in range(3):  # whole batches are trained on: the first factor is off by a few
        annotated = float(np.mean(run.train.annotated))
        factor = passes / compute_of(recipe, make_plan(recipe, run.films, wanted), annotated)
        content = recipe.model_dump()
        for member in content["members"].values():
            for stage in member["stages"].values():
                stage["schedule"]["epochs"] = round(stage["schedule"]["epochs"] * factor, 4)
        recipe = Recipe.model_validate(content)
    return recipe


def _seconds(run: Run) -> float:
    """Training time of all steps of a finished run together."""
    return sum(read_record(run.folder(step.key)).get("seconds", 0.0) for step in plan_of(run, None))


def _passes(run: Run) -> float:
    """What training a run costs, in films passed through a plain stage."""
    return compute_of(run.recipe, plan_of(run, None), float(np.mean(run.train.annotated)))
