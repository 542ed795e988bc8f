"""The claims: what is compared with what, what a verdict needs, and the whole of it in small."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.ensemble.fitted_weights import fit_weights
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import evaluate
from cxrlines.io.tables import Dataset, read_dataset
from cxrlines.lab.experiments import claims
from cxrlines.lab.experiments.claims import RECIPE, Films
from cxrlines.lab.experiments.comparisons import (
    CLAIMS,
    COMPARISONS,
    ENSEMBLE_MEMBERS,
    STUDENT_STAGE,
    Source,
    members_of,
    read_rows,
    source_of,
)
from cxrlines.lab.experiments.compute import compute_of
from cxrlines.recipe.run.folder import Inventory
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS

FILMS = Films(own=36, external=12, test=24, size=96)


def recipe() -> Recipe:
    return load_recipe(RECIPE)


# -- what is compared


def test_comparisons_name_members_of_the_recipe():
    members = recipe().members
    sources = [source_of(name) for c in COMPARISONS for name in (c.arm, c.against)]
    names = {member for source, member in sources if source is not Source.ENSEMBLE}
    assert names <= set(members)
    assert set(members) <= names | set(ENSEMBLE_MEMBERS), "no member is trained for nothing"
    assert recipe().source(STUDENT_STAGE)[1] in members[STUDENT_STAGE.partition("/")[0]].stages
    assert {*ENSEMBLE_MEMBERS, STUDENT_STAGE} <= set(recipe().averaged), "or its test films would not be predicted"
    assert set(range(1, 13)) == {*CLAIMS}


def test_only_the_mix_up_leaks_and_nothing_else_of_it_differs():
    members = recipe().members
    leaks = {name for name, member in members.items() if any(stage.fold_shift for stage in member.stages.values())}
    assert leaks == {"mixed-up"}
    honest = members["mixed-up"].model_dump()
    honest["stages"]["finetune"]["fold_shift"] = 0
    assert honest == members["three-equal-compute"].model_dump()


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_part_of_a_claim_is_a_recipe_of_what_it_compares_and_their_teachers(claim):
    part = claims.only(recipe(), members_of(claim))
    assert members_of(claim) <= set(part.members)
    more = set(part.members) - members_of(claim)
    assert more <= {"one", "gem-three"}
    assert all(part.members[name] == recipe().members[name] for name in part.members)


def test_an_epoch_costs_what_the_comments_say():
    """Of claim 1, in passes over the own films; 3 in 10 are annotated, two networks run while a student learns."""
    members, share = recipe().members, Films().annotated
    one = members["one"].stages["only"].schedule.epochs
    for name in ("three-equal-compute", "scratch-three-equal-compute"):
        teacher, student, finetune = (stage.schedule.epochs for stage in members[name].stages.values())
        assert share * teacher + share * student * 1.35 + finetune == pytest.approx(one, rel=0.02)
    for name in ("three-equal-epochs", "scratch-three-equal-epochs"):
        _, student, finetune = (stage.schedule.epochs for stage in members[name].stages.values())
        assert share * student + finetune == pytest.approx(one)


def plans(*names: str) -> dict[str, float]:
    """What members cost on tables like the benchmark's, 3 in 10 films annotated."""
    films = Films()
    studies = [f"s{i}" for i in range(films.own)]
    table = pd.DataFrame({"study": studies, "patient": studies, "film": ""})
    table[list(LABELS)] = 0
    annotated = {study: [] for i, study in enumerate(studies) if i // 3 % 10 < 3}
    own = Dataset(Path(), table, annotated)
    stuff = Inventory(own, np.ones(films.own, bool), "print", pd.Series(np.arange(films.own) % 3))
    parts = {name: claims.only(recipe(), {name}) for name in names}
    return {name: compute_of(part, make_plan(part, stuff, range(3)), films.annotated) for name, part in parts.items()}


def test_masks_and_three_stages_cost_what_one_stage_costs_inner_steps_included():
    costs = plans("one", "three-equal-compute", "multi-task", "two-step", "recommended")
    assert costs["one"] == 3 * 37 * 16 * 3, "whole batches of two thirds of 900 films, three epochs, three folds"
    assert all(cost == pytest.approx(costs["one"], rel=0.02) for cost in costs.values()), costs


def test_the_long_members_are_the_short_ones_for_twice_the_compute():
    members, pairs = (
        recipe().members,
        {name: f"{name}-long" for name in ("one", "multi-task", "two-step", "recommended")},
    )
    costs = plans(*pairs, *pairs.values())
    for short, long in pairs.items():
        assert costs[long] == pytest.approx(2 * costs[short], rel=0.02)
        content = members[long].model_dump()
        for name, stage in content["stages"].items():
            stage["schedule"]["epochs"] = members[short].stages[name].schedule.epochs
        assert content == members[short].model_dump()


def test_combinations_make_as_many_passes_as_what_they_are_set_against():
    members = recipe().members

    def epochs(name: str) -> float:
        return sum(stage.schedule.epochs for stage in members[name].stages.values())

    assert {epochs(n) for n in ("self-distilled", "gem-long", "multi-head-soft", "attention-long", "site-b")} == {6}
    assert {epochs(n) for n in ("chain-each", "chain-end", "one-seven")} == {7}
    assert Films().external * 3 == Films().own * 2, "a pass over an external set is one over two folds of the own films"


ABLATIONS = {
    "smoothing": {"smoothing"},
    "focal": {"loss"},
    "asymmetric": {"loss"},
    "balanced": {"class_weights"},
    "rare": {"sampling"},
    "head-lr": {"head_lr"},
    "layer-decay": {"layer_decay"},
    "sgd": {"optimizer", "lr"},
    "muon": {"optimizer"},
    "nadamw": {"optimizer"},
    "swa": {"swa_from"},
    "ema": {"ema"},
    "batch-32": {"batch", "accumulate"},
    "best": {"keep", "validate_films"},
    "hotwater": {"augment"},
    "wild": {"augment"},
    "larger": {"size", "epochs"},
    "gem": {"head"},
    "retrieval": {"weight"},
}


def changed(one: object, other: object, name: str = "") -> set[str]:
    """The names of the fields in which two parts of a file differ."""
    if isinstance(one, dict) or isinstance(other, dict):
        pairs = [part if isinstance(part, dict) else {} for part in (one, other)]
        return {found for key in {*pairs[0], *pairs[1]} for found in changed(*(p.get(key, "-") for p in pairs), key)}
    return set() if one == other else {name}


def test_an_ablation_is_one_change_to_recommended_at_its_compute():
    written = yaml.safe_load(Path(RECIPE).read_text())
    members, base = written["members"], written["members"]["recommended"]
    assert {name for name in members if name.startswith("with-")} == {f"with-{name}" for name in ABLATIONS}
    for name, fields in ABLATIONS.items():
        member = members[f"with-{name}"]
        assert changed(member, base) == fields, name
        for stage, spec in member["stages"].items():
            cost = (spec.get("size", written["size"]) / written["size"]) ** 2 * spec["schedule"]["epochs"]
            assert cost == pytest.approx(base["stages"][stage]["schedule"]["epochs"], rel=0.01), name
    for name in ("mixup", "cutmix"):
        assert changed(members[f"one-{name}"], members["one"]) - {"start"} == {name}


def test_recommended_is_the_shipped_recipe_stage_by_stage():
    ours = recipe().members["recommended"]
    for theirs in load_recipe("recommended").members.values():
        assert (ours.head, ours.exclusive) == (theirs.head, theirs.exclusive)
        assert list(ours.stages) == list(theirs.stages)
        for name, stage in ours.stages.items():
            like = theirs.stages[name]
            assert (stage.start, stage.targets, stage.films.which) == (like.start, like.targets, like.films.which)
            assert stage.films.flip == like.films.flip


def test_the_three_equal_members_differ_from_one_in_nothing_but_their_stages():
    members = recipe().members
    for name in ("gem", "concat", "attention"):
        assert members[name].model_copy(update={"head": "gap"}) == members["one"]
    flips = members["flips"].model_dump()
    flips["stages"]["only"]["films"]["flip"] = False
    assert flips == members["one"].model_dump()


# -- bad input


def test_a_claim_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=rf"--claims names \[99\]; there are {', '.join(map(str, CLAIMS))}$"):
        claims.run_claims(tmp_path / "out", claims=[1, 99])
    assert not (tmp_path / "out").exists()


def test_other_films_need_another_folder(tmp_path):
    claims.check_begun(tmp_path / "films.json", {"own": 1})
    claims.check_begun(tmp_path / "films.json", {"own": 1})
    with pytest.raises(ValueError, match=r"was begun with films {'own': 1}, not {'own': 2}; give another --out"):
        claims.check_begun(tmp_path / "films.json", {"own": 2})


# -- in small


def shrunk() -> list[str]:
    settings = ["size=64", "store.size=72", "folds.count=2"]
    for name, member in recipe().members.items():
        settings.append(f"members.{name}.backbone=resnet10t")
        for stage_name, stage in member.stages.items():
            settings.append(f"members.{name}.stages.{stage_name}.schedule.epochs=0.5")
            if stage.start == "imagenet":
                settings.append(f"members.{name}.stages.{stage_name}.start=scratch")
    return settings


def test_one_claim_from_films_to_table_and_again_for_nothing(tmp_path, in_process):
    options = {"films": FILMS, "settings": shrunk(), "workers": 1, "say": lambda text: None}
    rows = claims.run_claims(tmp_path, seeds=[0], claims=[7], **options)
    assert [(row.arm, row.against, row.seeds) for row in rows] == [
        ("flips", "one", [0]), ("full-augmentation", "one", [0]),
    ]  # fmt: skip
    run, truth = tmp_path / "seed0/run", read_dataset(tmp_path / "seed0/data/own", "test").studies
    scores = {
        name: evaluate(read_predictions(run / f"predictions/test/{name}.csv"), truth).macro_auc
        for name in ("one", "flips")
    }
    first = rows[0]
    assert (first.arm_auc, first.against_auc) == ([scores["flips"]], [scores["one"]])
    assert first.difference == pytest.approx(scores["flips"] - scores["one"])
    assert first.over_seeds is None and first.verdict == "open: 1 of 3 seeds", "one seed tells nothing"
    records = list(run.glob("*/fold*/*/step.json"))
    own = [json.loads(path.read_text())["seconds"] for path in records if path.parts[-4] == "one"]
    assert len(records) == 6 and first.seconds is not None and first.seconds[1] == pytest.approx(sum(own))
    assert json.loads((tmp_path / "claims.json").read_text())[0]["verdict"] == "open: 1 of 3 seeds"
    assert "| 7 | flips allowed |" in (tmp_path / "claims.md").read_text()

    before = [path.stat().st_mtime_ns for path in records]
    claims.run_claims(tmp_path, seeds=[0], claims=[7], **options)
    assert [path.stat().st_mtime_ns for path in records] == before
    with pytest.raises(ValueError, match="give another --out"):
        claims.run_claims(tmp_path, seeds=[0], claims=[7], **options | {"settings": []})

    # Claim 5 as if its members were trained: the blends are those of the ensemble's own functions.
    for split in ("test", "out_of_fold"):
        folder = run / "predictions" / split
        frame = read_predictions(folder / "one.csv")
        rng = np.random.default_rng(0)
        for name in (*ENSEMBLE_MEMBERS, STUDENT_STAGE):
            noise = pd.DataFrame(rng.uniform(0, 1, frame.shape), columns=frame.columns)
            mixed = frame.set_index("study") * 0.5 + noise.set_index(frame["study"]).drop(columns="study") * 0.5
            mixed.rename_axis("StudyInstanceUID").to_csv(folder / f"{name.replace('/', '.')}.csv")
    blends = {row.arm: row for row in read_rows(tmp_path) if row.claim == 5}
    assert set(blends) == {f"ensemble: {how}" for how in ("rank", "power", "fitted", "stages")}
    frames = [read_predictions(run / f"predictions/test/{name}.csv") for name in ENSEMBLE_MEMBERS]
    known = [read_predictions(run / f"predictions/out_of_fold/{name}.csv") for name in ENSEMBLE_MEMBERS]
    labels = read_dataset(tmp_path / "seed0/data/own", "train").studies
    weights = fit_weights(known, labels, names=ENSEMBLE_MEMBERS)
    stage = read_predictions(run / "predictions/test/three-equal-compute.student.csv")
    expected = {
        "mean": ensemble(frames),
        "rank": ensemble(frames, "rank"),
        "power": ensemble(frames, "power"),
        "fitted": ensemble(frames, "fitted", ENSEMBLE_MEMBERS, weights=weights),
        "stages": ensemble([*frames, stage]),
    }
    aucs = {how: evaluate(blend, truth).macro_auc for how, blend in expected.items()}
    for how in ("rank", "power", "fitted", "stages"):
        found = blends[f"ensemble: {how}"]
        assert (found.arm_auc, found.against_auc) == ([aucs[how]], [aucs["mean"]]), how
        assert found.seconds is None


@pytest.mark.long
def test_neighbours_in_small_from_films_to_table(tmp_path, in_process):
    options = {"films": FILMS, "settings": shrunk(), "workers": 1, "say": lambda text: None}
    rows = claims.run_claims(tmp_path, seeds=[0], claims=[9], **options)
    assert [(row.claim, row.arm, row.against) for row in rows] == [
        (8, "recommended", "one"),
        (9, "with neighbours: one", "one"),
        (9, "with neighbours: recommended", "recommended"),
        (9, "neighbours alone: retrieval", "neighbours alone: one"),
        (9, "with neighbours: retrieval", "with neighbours: one"),
        (9, "with neighbours: retrieval", "retrieval"),
        (9, "retrieval", "one"),
    ], "of claim 8 what is trained for 9"
    run, truth = tmp_path / "seed0/run", read_dataset(tmp_path / "seed0/data/own", "test").studies
    assert rows[0].seconds is not None and min(rows[0].seconds) > 0

    def auc(name: str) -> float | None:
        source, member = source_of(name)
        neighbours = tmp_path / "seed0/neighbours"
        path = {
            Source.TEST: run / f"predictions/test/{member}.csv",
            Source.WITH_NEIGHBOURS: neighbours / f"{member}.csv",
            Source.NEIGHBOURS: neighbours / f"{member}.alone.csv",
        }[source]
        return evaluate(read_predictions(path), truth).macro_auc

    for row in rows[1:]:
        assert (row.arm_auc, row.against_auc) == ([auc(row.arm)], [auc(row.against)])
        assert (row.seconds is None) == (row.arm != "retrieval"), "nothing was trained for neighbours"
    table = (tmp_path / "claims.md").read_text().split("\n\n")[1].splitlines()
    figures = json.loads((tmp_path / "seed0/neighbours/retrieval.json").read_text())["figures"]
    assert f"| retrieval | 1 | {figures['jaccard']:.3f} | {figures['same']:.3f} | {figures['tip']:.3f} |" in table
    assert len(table) == 5 and 0 < figures["tip"] < 1
