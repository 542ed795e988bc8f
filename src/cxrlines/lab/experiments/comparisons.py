"""Comparisons of the claims: differences of macro AUC between two members over several seeds, with verdicts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from scipy import stats

from cxrlines.core.files import write_text
from cxrlines.evaluation.ensemble.average import How, ensemble
from cxrlines.evaluation.ensemble.fitted_weights import fit_weights
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import Evaluation, evaluate
from cxrlines.io.tables import Split, read_dataset
from cxrlines.metrics.intervals import Interval, macro_of, percentile_interval
from cxrlines.recipe.run.folder import read_record

MIN_SEEDS = 3
"""Seeds below which a claim stays open."""


class Source(StrEnum):
    """Whose predictions are scored. Its value is what a name in a comparison begins with, before the member's name."""

    TEST = ""  # a member's own, of the test films
    OUT_OF_FOLD = "out of fold: "  # a member's own, of the training films
    ENSEMBLE = "ensemble: "  # of `ENSEMBLE_MEMBERS`; a way of combining them follows
    WITH_NEIGHBOURS = "with neighbours: "  # a member's, blended with the labels of the films nearest by it
    NEIGHBOURS = "neighbours alone: "  # those labels alone


def source_of(name: str) -> tuple[Source, str]:
    """Whose predictions a name in a comparison stands for, and the member, or the way of an ensemble."""
    source = next((s for s in Source if s and name.startswith(s)), Source.TEST)
    return source, name.removeprefix(source)


@dataclass(frozen=True)
class Comparison:
    """Does `arm` score more than `against`? Each is named as `source_of` has it.

    Attributes:
        wrote: What the write-up says or implies of the difference: "+", "-", "0" (none), or "?" (nothing).
    """

    claim: int
    question: str
    arm: str
    against: str
    wrote: str


ENSEMBLE_MEMBERS = ("one", "gem", "concat", "attention", "three-equal-compute")
STUDENT_STAGE = "three-equal-compute/student"
"""What the ensemble `stages` averages besides: the network of a stage that is not its member's last."""
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
    Comparison(5, "rank mean against mean", "ensemble: rank", "ensemble: mean", "0"),
    Comparison(5, "power mean against mean", "ensemble: power", "ensemble: mean", "0"),
    Comparison(5, "weights fitted per label against mean", "ensemble: fitted", "ensemble: mean", "0"),
    Comparison(5, "with a stage-2 network in the mean", "ensemble: stages", "ensemble: mean", "-"),
    Comparison(
        6, "the fold mix-up, scored out of fold", "out of fold: mixed-up", "out of fold: three-equal-compute", "0"
    ),
    Comparison(6, "the fold mix-up, on patients nobody saw", "mixed-up", "three-equal-compute", "0"),
    Comparison(7, "flips allowed", "flips", "one", "+"),
    Comparison(7, "the full augmentation against the light one", "full-augmentation", "one", "+"),
    Comparison(8, "line masks as supervision, against three stages", "multi-task", "three-equal-compute", "+"),
    Comparison(8, "line masks as supervision, against one stage", "multi-task", "one", "+"),
    Comparison(8, "line masks as input, against three stages", "two-step", "three-equal-compute", "+"),
    Comparison(8, "line masks as input, against one stage", "two-step", "one", "+"),
    Comparison(8, "the recommended recipe, against three stages", "recommended", "three-equal-compute", "?"),
    Comparison(8, "the recommended recipe, against one stage", "recommended", "one", "?"),
    Comparison(9, "neighbours' labels blended in, one stage", "with neighbours: one", "one", "?"),
    Comparison(
        9, "neighbours' labels blended in, the recommended recipe", "with neighbours: recommended", "recommended", "?"
    ),
    Comparison(
        9,
        "neighbours of the retrieval embedding, of the plain one",
        "neighbours alone: retrieval",
        "neighbours alone: one",
        "?",
    ),
    Comparison(
        9, "the same, blended with their own classifiers", "with neighbours: retrieval", "with neighbours: one", "?"
    ),
    Comparison(
        9, "neighbours' labels blended in, trained for retrieval", "with neighbours: retrieval", "retrieval", "?"
    ),
    Comparison(9, "trained for retrieval beside the labels, no neighbours", "retrieval", "one", "?"),
    Comparison(10, "line masks as supervision, twice the compute", "multi-task-long", "one-long", "+"),
    Comparison(10, "line masks as input, twice the compute", "two-step-long", "one-long", "+"),
    Comparison(10, "the recommended recipe, twice the compute", "recommended-long", "one-long", "?"),
    Comparison(11, "self-distilled GeM, against its own three stages", "self-distilled", "gem-three", "+"),
    Comparison(11, "self-distilled GeM, against GeM in one stage of as many passes", "self-distilled", "gem-long", "+"),
    Comparison(11, "two sets, a fine-tune after each, against one at the end", "chain-each", "chain-end", "?"),
    Comparison(11, "two sets, a fine-tune after each, against one stage", "chain-each", "one-seven", "+"),
    Comparison(11, "multi-head, soft labels of site b first; as many own epochs", "multi-head-soft", "attention", "+"),
    Comparison(11, "multi-head, soft labels of site b first; as many passes", "multi-head-soft", "attention-long", "+"),
    Comparison(11, "multi-head against average pooling, soft labels of site b first", "multi-head-soft", "site-b", "+"),
    Comparison(12, "MixUp, alpha .2, one stage", "one-mixup", "one", "?"),
    Comparison(12, "CutMix, alpha 1, one stage", "one-cutmix", "one", "?"),
    Comparison(12, "label smoothing of .05", "with-smoothing", "recommended", "?"),
    Comparison(12, "focal loss", "with-focal", "recommended", "?"),
    Comparison(12, "asymmetric loss", "with-asymmetric", "recommended", "?"),
    Comparison(12, "balanced class weights", "with-balanced", "recommended", "?"),
    Comparison(12, "films with rare labels more often", "with-rare", "recommended", "?"),
    Comparison(12, "five times the rate for head and decoder", "with-head-lr", "recommended", "?"),
    Comparison(12, "rates that fall by .8 a layer", "with-layer-decay", "recommended", "?"),
    Comparison(12, "SGD with momentum, a rate of .05", "with-sgd", "recommended", "?"),
    Comparison(12, "Muon", "with-muon", "recommended", "?"),
    Comparison(12, "NAdamW", "with-nadamw", "recommended", "?"),
    Comparison(12, "weights averaged over the last quarter", "with-swa", "recommended", "?"),
    Comparison(12, "moving average of the weights, .99", "with-ema", "recommended", "?"),
    Comparison(12, "batches of 32, in two passes", "with-batch-32", "recommended", "?"),
    Comparison(12, "the best epoch kept, not the last", "with-best", "recommended", "?"),
    Comparison(12, "the write-up's augmentation, without flips", "with-hotwater", "recommended", "?"),
    Comparison(12, "the wild augmentation, without flips", "with-wild", "recommended", "?"),
    Comparison(12, "input of 176 px, as much compute", "with-larger", "recommended", "?"),
    Comparison(12, "GeM pooling", "with-gem", "recommended", "?"),
    Comparison(12, "learning to retrieve beside the labels", "with-retrieval", "recommended", "?"),
)
CLAIMS = tuple(dict.fromkeys(comparison.claim for comparison in COMPARISONS))


def members_of(claim: int) -> set[str]:
    """The members a claim needs trained."""
    sources = _sources_of(claim)
    members = {name for source, name in sources if source is not Source.ENSEMBLE}
    averages = any(source is Source.ENSEMBLE for source, _ in sources)
    return members | {*ENSEMBLE_MEMBERS} if averages else members


def with_neighbours(claim: int) -> list[str]:
    """The members whose neighbours a claim asks for, in the order of its comparisons."""
    neighbours = (Source.WITH_NEIGHBOURS, Source.NEIGHBOURS)
    return list(dict.fromkeys(name for source, name in _sources_of(claim) if source in neighbours))


def _sources_of(claim: int) -> list[tuple[Source, str]]:
    return [source_of(name) for c in COMPARISONS if c.claim == claim for name in (c.arm, c.against)]


@dataclass(frozen=True)
class Row(Comparison):
    """A comparison over the seeds.

    Attributes:
        arm_auc, against_auc: Macro AUC of each of `seeds`.
        difference: Its mean over them.
        over_seeds: Student's 95 % interval of it; None of one seed.
        over_patients: 95 % by resampling patients, the trained networks as they are; None where it has no AUC.
        seconds: Of training, of `arm` and `against`, means over the seeds; None where the arm is no trained member.
    """

    seeds: list[int]
    arm_auc: list[float]
    against_auc: list[float]
    difference: float
    over_seeds: Interval | None
    over_patients: Interval | None
    seconds: tuple[float, float] | None

    @property
    def by_seed(self) -> list[float]:
        """The difference of each seed."""
        return [arm - against for arm, against in zip(self.arm_auc, self.against_auc, strict=True)]

    @property
    def verdict(self) -> str:
        """Better or worse where the patients' interval excludes 0 and every one of three seeds or more agrees."""
        if len(self.seeds) < MIN_SEEDS:
            return f"open: {len(self.seeds)} of {MIN_SEEDS} seeds"
        low, high = self.over_patients or (-1.0, 1.0)
        if len(set(np.sign(self.by_seed))) > 1 or low <= 0 <= high:
            return "no clear difference"
        return "better" if self.difference > 0 else "worse"

    def text(self) -> str:
        """A row of the Markdown table."""
        intervals = self.over_seeds, self.over_patients
        over_seeds, over_patients = ("{:+.4f} to {:+.4f}".format(*ci95) if ci95 else "-" for ci95 in intervals)
        return (
            f"| {self.claim} | {self.question} | {np.mean(self.arm_auc):.4f} | {np.mean(self.against_auc):.4f} "
            f"| {self.difference:+.4f} | {over_seeds} | {over_patients} "
            f"| {', '.join(f'{d:+.4f}' for d in self.by_seed)} | {self.verdict} |"
        )


def table_of(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    head = "| claim | question | AUC | against | difference | 95 % over seeds | 95 % by patient | by seed | verdict |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|---|", *(row.text() for row in rows)])


def neighbours_table(out: Path) -> str:
    """How like a test film's neighbours are by each embedding, means over the seeds: a Markdown table; "" of none."""
    found: dict[str, list[dict[str, float | None]]] = {}
    for path in sorted(out.glob("seed*/neighbours/*.json")):
        if figures := json.loads(path.read_text()).get("figures"):  # not of an earlier cxrlines
            found.setdefault(path.stem, []).append(figures)
    head = "| neighbours by | seeds | Jaccard index of labels, of 10 | same labels, of 1 | tips apart, of the side |"
    lines = [head, "|---|---|---|---|---|"]
    for member, seeds in found.items():
        values = [[figures[name] for figures in seeds] for name in ("jaccard", "same", "tip")]
        means = ["-" if None in each else f"{np.mean(np.array(each, float)):.3f}" for each in values]
        lines.append(f"| {member} | {len(seeds)} | {' | '.join(means)} |")
    return "\n".join(lines) if found else ""


def write_rows(rows: Sequence[Row], out: Path) -> None:
    """`claims.md` for people, `claims.json` for programs."""
    near = neighbours_table(out)
    write_text(out / "claims.md", table_of(rows) + "\n" + (f"\n{near}\n" if near else ""))
    content = [asdict(row) | {"verdict": row.verdict} for row in rows]
    write_text(out / "claims.json", json.dumps(content, indent=1) + "\n")


def read_rows(out: Path, comparisons: Sequence[Comparison] = COMPARISONS) -> list[Row]:
    """Every one of the comparisons of which both sides are trained on one seed or more below `out`."""
    worlds = {int(path.name.removeprefix("seed")): World(path) for path in sorted(out.glob("seed*"))}
    scores = {seed: cache(world.score) for seed, world in worlds.items()}
    rows = []
    for comparison in comparisons:
        pairs = {seed: (score(comparison.arm), score(comparison.against)) for seed, score in scores.items()}
        if scored := {seed: (arm, against) for seed, (arm, against) in pairs.items() if arm and against}:
            rows.append(_row(comparison, scored, worlds))
    return rows


def _row(comparison: Comparison, scored: dict[int, tuple[Evaluation, Evaluation]], worlds: dict[int, "World"]) -> Row:
    aucs = np.array([[arm.macro_auc, against.macro_auc] for arm, against in scored.values()], float)
    differences = aucs[:, 0] - aucs[:, 1]
    resampled = np.mean([macro_of(a.resampled) - macro_of(b.resampled) for a, b in scored.values()], axis=0)
    seconds = None
    if source_of(comparison.arm)[0] is Source.TEST:
        spent = [[worlds[seed].seconds(name) for name in (comparison.arm, comparison.against)] for seed in scored]
        seconds = tuple(np.mean(spent, axis=0).tolist())
    return Row(
        **asdict(comparison),
        seeds=list(scored),
        arm_auc=aucs[:, 0].tolist(),
        against_auc=aucs[:, 1].tolist(),
        difference=float(differences.mean()),
        over_seeds=student_interval(differences),
        over_patients=percentile_interval(resampled),
        seconds=seconds,
    )


def student_interval(values: np.ndarray) -> Interval | None:
    """Student's 95 % interval of the mean of values (n,); None of fewer than two."""
    if len(values) < 2:
        return None
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - reach), float(values.mean() + reach)


@dataclass(frozen=True)
class World:
    """The predictions of one seed."""

    root: Path

    def score(self, name: str) -> Evaluation | None:
        """The metrics of a member or an ensemble; None where it is not trained yet."""
        source, member = source_of(name)
        match source:
            case Source.ENSEMBLE:
                predictions = self._ensemble(how=member)
            case Source.WITH_NEIGHBOURS:
                predictions = _read(self.root / f"neighbours/{member}.csv")
            case Source.NEIGHBOURS:
                predictions = _read(self.root / f"neighbours/{member}.alone.csv")
            case _:
                predictions = self._member(member, "out_of_fold" if source is Source.OUT_OF_FOLD else "test")
        if predictions is None:
            return None
        return evaluate(predictions, self._truth("train" if source is Source.OUT_OF_FOLD else "test"))

    def seconds(self, member: str) -> float:
        """Training seconds of a member over its folds, its nested steps included, its teachers of soft labels not."""
        mine = {path.parent for path in self.root.glob(f"run/{member}/fold?/*/step.json")}
        made_from = {name for folder in mine for name in read_record(folder).get("parents", {}).values()}
        nested = {self.root / "run" / name for name in made_from if name.startswith(f"{member}/")}
        return sum(read_record(folder).get("seconds", 0.0) for folder in mine | nested)

    def _ensemble(self, how: str) -> pd.DataFrame | None:
        """Predictions of `ENSEMBLE_MEMBERS` combined; None where one of them is not trained yet.

        `how` is `fitted` (weights), `stages` (the mean, with `STUDENT_STAGE`), or a way of `ensemble`.
        """
        names = [*ENSEMBLE_MEMBERS, STUDENT_STAGE] if how == "stages" else list(ENSEMBLE_MEMBERS)
        frames = [frame for name in names if (frame := self._member(name, "test")) is not None]
        if len(frames) < len(names):
            return None
        weights = None
        if how == "fitted":
            out_of_fold = [self._member(name, "out_of_fold") for name in names]
            weights = fit_weights([frame for frame in out_of_fold if frame is not None], self._truth("train"), names)
        way: How = next((way for way in get_args(How) if way == how), "mean")
        return ensemble(frames, way, names, weights=weights)

    def _member(self, name: str, split: str) -> pd.DataFrame | None:
        return _read(self.root / "run/predictions" / split / f"{name.replace('/', '.')}.csv")

    def _truth(self, split: Split) -> pd.DataFrame:
        return read_dataset(self.root / "data/own", split).studies


def _read(path: Path) -> pd.DataFrame | None:
    return read_predictions(path) if path.is_file() else None
