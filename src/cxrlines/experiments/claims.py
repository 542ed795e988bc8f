"""What each claim of the write-up, masks and retrieval are worth on the phantom: `cxrlines experiment claims`.

Each seed is a world of its own: own training films, own external films, own test patients, own folds, own draws in
training. A claim is a difference of macro AUC between two members on the same test films, one for each seed. Its mean
comes with two intervals: Student's t over the seeds, which holds all that varies between worlds and is wide for three;
and resampled patients with the trained networks as they are. Test films choose nothing: each member's last weights
count.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cxrlines.data.tables import Split, read_dataset
from cxrlines.evaluation.ensemble import How, ensemble
from cxrlines.evaluation.evaluate import Evaluation, evaluate, read_predictions
from cxrlines.evaluation.fitted import fit_weights
from cxrlines.evaluation.intervals import macro_of, percentile_interval
from cxrlines.experiments.retrieval import write_retrieval
from cxrlines.phantom.write import write_phantom
from cxrlines.recipes.folder import read_record
from cxrlines.recipes.load import load_recipe
from cxrlines.recipes.run import train
from cxrlines.recipes.spec import Recipe

SEEDS = (0, 1, 2)
FEWEST = 3
"""Seeds without which nothing is said of a claim."""


@dataclass(frozen=True)
class Films:
    """The benchmark's films, of natural label frequencies; site b is the external set."""

    own: int = 900
    external: int = 600
    test: int = 1000
    size: int = 320
    difficulty: float = 0.3
    annotated: float = 0.3

    def write(self, root: Path, seed: int, workers: int | None) -> tuple[Path, Path]:
        """The folders of the own and the external films of one world."""
        own, external = root / "own", root / "b"
        more: dict[str, Any] = {"size": self.size, "difficulty": self.difficulty, "workers": workers}
        write_phantom(own, studies=self.own, test=self.test, seed=1000 + seed, annotated=self.annotated, **more)
        write_phantom(external, studies=self.external, test=0, seed=2000 + seed, annotated=0.0, site="b", **more)
        return own, external


@dataclass(frozen=True)
class Comparison:
    """Does `arm` score more than `against`?

    Names are members, `out of fold: member`, `with neighbours: member`, or `ensemble: how`.
    """

    claim: int
    question: str
    arm: str
    against: str
    wrote: str  # what the write-up says or implies: "+", "-", "0" or "?"


BEFORE = "out of fold: "
BLEND = "ensemble: "
NEAR = "with neighbours: "
BLENDED = ("one", "gem", "concat", "attention", "three-equal-compute")
STAGE = "three-equal-compute/student"
COMPARISONS = (
    Comparison(1, "three stages, equal student epochs, from ImageNet", "three-equal-epochs", "one", "+"),
    Comparison(1, "three stages, equal total compute, from ImageNet", "three-equal-compute", "one", "+"),
    Comparison(1, "three stages, equal student epochs, from scratch", "scratch-three-equal-epochs", "scratch-one", "+"),
    Comparison(1, "three stages, equal total compute, from scratch", "scratch-three-equal-compute", "scratch-one", "+"),
    Comparison(2, "multi-head attention against average pooling", "attention", "one", "+"),
    Comparison(2, "GeM against average pooling", "gem", "one", "?"),
    Comparison(2, "average + max pooling against average pooling", "concat", "one", "?"),
    Comparison(3, "self-distillation, soft labels alone", "self", "one", "+"),
    Comparison(3, "self-distillation, half soft and half hard", "self-mixed", "one", "+"),
    Comparison(3, "soft labels of site b, then fine-tune; as many own epochs", "site-b", "one", "+"),
    Comparison(3, "soft labels of site b, then fine-tune; as many passes", "site-b", "one-long", "+"),
    Comparison(4, "soft labels sharpened with T = .8, against off", "self-sharpened", "self", "+"),
    Comparison(4, "dynamic temperature, against off", "self-dynamic", "self", "0"),
    Comparison(5, "rank mean against mean", f"{BLEND}rank", f"{BLEND}mean", "0"),
    Comparison(5, "power mean against mean", f"{BLEND}power", f"{BLEND}mean", "0"),
    Comparison(5, "weights fitted per label against mean", f"{BLEND}fitted", f"{BLEND}mean", "0"),
    Comparison(5, "with a stage-2 network in the mean", f"{BLEND}stages", f"{BLEND}mean", "-"),
    Comparison(6, "the fold mix-up, scored out of fold", f"{BEFORE}mixed-up", f"{BEFORE}three-equal-compute", "0"),
    Comparison(6, "the fold mix-up, on patients nobody saw", "mixed-up", "three-equal-compute", "0"),
    Comparison(7, "flips allowed", "flips", "one", "+"),
    Comparison(7, "the full augmentation against the light one", "full-augmentation", "one", "+"),
    Comparison(8, "line masks as supervision, against three stages", "multi-task", "three-equal-compute", "+"),
    Comparison(8, "line masks as supervision, against one stage", "multi-task", "one", "+"),
    Comparison(8, "line masks as input, against three stages", "two-step", "three-equal-compute", "+"),
    Comparison(8, "line masks as input, against one stage", "two-step", "one", "+"),
    Comparison(8, "the recommended recipe, against three stages", "recommended", "three-equal-compute", "?"),
    Comparison(8, "the recommended recipe, against one stage", "recommended", "one", "?"),
    Comparison(9, "neighbours' labels blended in, one stage", f"{NEAR}one", "one", "?"),
    Comparison(9, "neighbours' labels blended in, the recommended recipe", f"{NEAR}recommended", "recommended", "?"),
    Comparison(10, "line masks as supervision, twice the compute", "multi-task-long", "one-long", "+"),
    Comparison(10, "line masks as input, twice the compute", "two-step-long", "one-long", "+"),
    Comparison(10, "the recommended recipe, twice the compute", "recommended-long", "one-long", "?"),
)
CLAIMS = tuple(dict.fromkeys(comparison.claim for comparison in COMPARISONS))


def run_claims(
    out: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    claims: Sequence[int] = CLAIMS,
    films: Films | None = None,
    settings: Sequence[str] = (),
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> "Table":
    """Train what the `claims` need on every seed, claim by claim, and write the table of all that is there.

    Killed and called again, it goes on where it was; claims and seeds may be done in parts. `films` and `settings`
    (laid over the recipe) shrink it for a test. `ValueError` for a claim that does not exist, or for other films or
    settings than those the folder was begun with.
    """
    if strange := [claim for claim in claims if claim not in CLAIMS]:
        raise ValueError(f"--claims names {strange}; there are {', '.join(map(str, CLAIMS))}")
    films = films or Films()
    _same(out / "films.json", asdict(films) | {"settings": list(settings)})
    with resources.as_file(resources.files("cxrlines.experiments") / "claims.yaml") as path:
        text = str(path)
        for claim in claims:
            for seed in seeds:
                world = out / f"seed{seed}"
                own, external = films.write(world / "data", seed, workers)
                laid = [*settings, f"seed={seed}", f"folds.seed={seed}", f"external.b.folder={external}"]
                recipe = _only(load_recipe(text, laid), _members(claim))
                say(f"claim {claim}, seed {seed}: {', '.join(recipe.members)}")
                run = train(recipe, own, world / "run", workers=workers, command="cxrlines experiment claims", say=say)
                for member in _told_by_neighbours(claim):
                    write_retrieval(run, member, world / f"neighbours/{member}.csv")
    table = read_table(out)
    table.write(out)
    return table


def _same(path: Path, wanted: dict[str, Any]) -> None:
    if path.is_file():
        begun = json.loads(path.read_text())
        if begun != wanted:
            raise ValueError(f"{path.parent} was begun with films {begun}, not {wanted}; give another --out")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted))


def _members(claim: int) -> set[str]:
    """The members a claim needs trained."""
    needed = {name for c in COMPARISONS if c.claim == claim for name in (c.arm, c.against)}
    members = {name.removeprefix(BEFORE).removeprefix(NEAR) for name in needed if not name.startswith(BLEND)}
    return members | set(BLENDED) if any(name.startswith(BLEND) for name in needed) else members


def _told_by_neighbours(claim: int) -> list[str]:
    """The members a claim asks for with their neighbours."""
    return [c.arm.removeprefix(NEAR) for c in COMPARISONS if c.claim == claim and c.arm.startswith(NEAR)]


def _only(recipe: Recipe, members: set[str]) -> Recipe:
    """The recipe with these members and those whose soft labels they learn."""
    for name in list(members):
        for stage in recipe.members[name].stages.values():
            if stage.targets.soft and stage.targets.soft.of:
                members = members | {recipe.source(stage.targets.soft.of)[0]}
    content = recipe.model_dump()
    content["members"] = {name: member for name, member in content["members"].items() if name in members}
    named = [name for name in recipe.ensemble.members if name.partition("/")[0] in members]
    content["ensemble"]["members"] = named
    return Recipe.model_validate(content)


@dataclass(frozen=True)
class Row:
    """One comparison over the seeds: macro AUCs by seed, their mean difference and its two intervals."""

    claim: int
    question: str
    arm: str
    against: str
    wrote: str
    seeds: list[int]
    arm_auc: list[float]
    against_auc: list[float]
    difference: float
    over_seeds: tuple[float, float] | None
    over_patients: tuple[float, float] | None
    seconds: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """Which way it goes, where the patients' interval excludes 0 and every one of three seeds or more agrees."""
        signs = {np.sign(a - b) for a, b in zip(self.arm_auc, self.against_auc, strict=True)}
        low, high = self.over_patients or (-1.0, 1.0)
        if len(self.seeds) < FEWEST:
            return f"open: {len(self.seeds)} of {FEWEST} seeds"
        if len(signs) > 1 or low <= 0 <= high:
            return "not told apart"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Table:
    """Every comparison that has been trained on one seed or more."""

    rows: list[Row]

    def text(self) -> str:
        """A Markdown table."""
        lines = [
            "| claim | question | AUC | against | difference | 95 % over seeds | 95 % by patient | by seed | verdict |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            by_seed = [a - b for a, b in zip(row.arm_auc, row.against_auc, strict=True)]
            lines.append(
                f"| {row.claim} | {row.question} | {np.mean(row.arm_auc):.4f} | {np.mean(row.against_auc):.4f} "
                f"| {row.difference:+.4f} | {_range(row.over_seeds)} | {_range(row.over_patients)} "
                f"| {', '.join(f'{d:+.4f}' for d in by_seed)} | {row.verdict} |"
            )
        return "\n".join(lines)

    def write(self, out: Path) -> None:
        """`claims.md` for people, `claims.json` for programs."""
        (out / "claims.md").write_text(self.text() + "\n")
        content = [asdict(row) | {"verdict": row.verdict} for row in self.rows]
        (out / "claims.json").write_text(json.dumps(content, indent=1) + "\n")


def _range(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "-"


def read_table(out: Path) -> Table:
    """The table of whatever is finished below `out`."""
    worlds = {int(path.name.removeprefix("seed")): _World(path) for path in sorted(out.glob("seed*"))}
    rows = []
    for comparison in COMPARISONS:
        found = {
            seed: (arm, against)
            for seed, world in worlds.items()
            if (arm := world.score(comparison.arm)) and (against := world.score(comparison.against))
        }
        if found:
            rows.append(_row(comparison, found, worlds))
    return Table(rows)


def _row(comparison: Comparison, found: dict[int, tuple[Evaluation, Evaluation]], worlds: dict[int, "_World"]) -> Row:
    aucs = [(arm.macro_auc or np.nan, against.macro_auc or np.nan) for arm, against in found.values()]
    differences = np.array([arm - against for arm, against in aucs])
    resampled = np.mean([macro_of(a.resampled) - macro_of(b.resampled) for a, b in found.values()], axis=0)
    seconds = None
    if not comparison.arm.startswith((BLEND, BEFORE, NEAR)):
        pairs = [(worlds[s].seconds(comparison.arm), worlds[s].seconds(comparison.against)) for s in found]
        seconds = (float(np.mean([a for a, _ in pairs])), float(np.mean([b for _, b in pairs])))
    return Row(
        **asdict(comparison),
        seeds=list(found),
        arm_auc=[float(arm) for arm, _ in aucs],
        against_auc=[float(against) for _, against in aucs],
        difference=float(differences.mean()),
        over_seeds=_student(differences),
        over_patients=percentile_interval(resampled),
        seconds=seconds,
    )


def _student(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


class _World:
    """The predictions of one seed, scored once each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scores: dict[str, Evaluation | None] = {}

    def score(self, name: str) -> Evaluation | None:
        """The figures of a member or an ensemble; None where it is not trained yet."""
        if name not in self.scores:
            self.scores[name] = self._score(name)
        return self.scores[name]

    def seconds(self, member: str) -> float:
        """Training seconds of a member over its folds, its inner steps included, its teachers of soft labels not."""
        mine = {path.parent for path in self.root.glob(f"run/{member}/fold?/*/step.json")}
        made_from = {name for folder in mine for name in read_record(folder).get("parents", {}).values()}
        inner = {self.root / "run" / name for name in made_from if name.startswith(f"{member}/")}
        return sum(read_record(folder).get("seconds", 0.0) for folder in mine | inner)

    def _score(self, name: str) -> Evaluation | None:
        split: Split = "test"
        frames = None
        if name.startswith(BEFORE):
            split, frames = "train", self._frames([name.removeprefix(BEFORE)], "out_of_fold")
        elif name.startswith(NEAR):
            path = self.root / f"neighbours/{name.removeprefix(NEAR)}.csv"
            frames = [read_predictions(path)] if path.is_file() else None
        elif name.startswith(BLEND):
            how = name.removeprefix(BLEND)
            names = [*BLENDED, STAGE] if how == "stages" else list(BLENDED)
            frames = self._frames(names, "test")
            if frames:
                frames = [self._blend(how, names, frames)]
        else:
            frames = self._frames([name], "test")
        return evaluate(frames[0], self._truth(split)) if frames else None

    def _blend(self, how: str, names: list[str], frames: list[pd.DataFrame]) -> pd.DataFrame:
        if how == "fitted":
            known = self._frames(names, "out_of_fold") or []
            weights = fit_weights(known, self._truth("train"), names=names)
            return ensemble(frames, how="fitted", names=names, weights=weights)
        ways: dict[str, How] = {"stages": "mean", "mean": "mean", "rank": "rank", "power": "power"}
        return ensemble(frames, how=ways[how], names=names)

    def _frames(self, names: list[str], split: str) -> list[pd.DataFrame] | None:
        paths = [self.root / "run/predictions" / split / f"{name.replace('/', '.')}.csv" for name in names]
        return [read_predictions(path) for path in paths] if all(path.is_file() for path in paths) else None

    def _truth(self, split: Split) -> pd.DataFrame:
        return read_dataset(self.root / "data/own", split).studies
