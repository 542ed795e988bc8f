"""The table of the claims: each comparison over the seeds that are done, with its intervals and a verdict."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from cxrlines.core.files import write_text
from cxrlines.evaluation.ensemble.average import How, ensemble
from cxrlines.evaluation.ensemble.weights import fit_weights
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import Evaluation, evaluate
from cxrlines.io.tables import Split, read_dataset
from cxrlines.lab.experiments.comparisons import BEFORE, BLEND, BLENDED, COMPARISONS, NEAR, STAGE, Comparison
from cxrlines.metrics.intervals import macro_of, percentile_interval
from cxrlines.recipe.run.folder import read_record

FEWEST = 3
"""Seeds without which nothing is said of a claim."""


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
        write_text(out / "claims.md", self.text() + "\n")
        content = [asdict(row) | {"verdict": row.verdict} for row in self.rows]
        write_text(out / "claims.json", json.dumps(content, indent=1) + "\n")


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
