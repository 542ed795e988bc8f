"""Which teacher pays: what is compared with what, what it costs, and the whole of it in small."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import evaluate
from cxrlines.io.tables import Dataset, read_dataset
from cxrlines.lab.experiments import distillation
from cxrlines.lab.experiments.claims import Films, only
from cxrlines.lab.experiments.compute import compute_of
from cxrlines.lab.experiments.distillation import BUDGETS, RECIPE, STUDENT, TEACHERS
from cxrlines.recipe.run.folder import Inventory, read_record
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS


def recipe(*settings: str):
    return load_recipe(RECIPE, list(settings))


def plan(folds: int, *members: str):
    """The plan of members on fold 0 of so many films that a student learns from 600, and the recipe."""
    count = STUDENT * folds // (folds - 1)
    studies = [f"s{i}" for i in range(count)]
    table = pd.DataFrame({"study": studies, "patient": studies, "film": ""})
    table[list(LABELS)] = 0
    films = Inventory(Dataset(Path(), table, {}), np.ones(count, bool), "x", pd.Series(np.arange(count) % folds))
    part = only(recipe(), set(members))
    return part, make_plan(part, films, [0])


def test_every_member_that_is_compared_is_there_and_no_other():
    questions = [c for teacher in TEACHERS for c in teacher.comparisons(BUDGETS)]
    assert {name for question in questions for name in (question.arm, question.against)} == set(recipe().members)
    assert len(questions) == 12


@pytest.mark.parametrize(("folds", "share"), [(3, 1 / 3), (6, 2 / 3)])
def test_a_student_learns_from_600_films_and_its_teachers_from_their_share(folds, share):
    _, steps = plan(folds, "self-1")
    student = next(step for step in steps if step.key.member == "self-1")
    teachers = [step for step in steps if step.fold is None]
    assert student.films == STUDENT and len(teachers) == folds - 1
    assert {step.films for step in teachers} == {round(share * STUDENT * folds / (folds - 1))}
    assert all(0 in step.key.held for step in teachers), "none saw the fold held out"


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: teacher.text)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_compute_is_that_of_a_plain_member(teacher, budget):
    def cost(name: str, *, whole: bool) -> float:
        part, steps = plan(teacher.folds, name)
        mine = [step for step in steps if step.key.member == name or (whole and step.fold is None)]
        return compute_of(part, mine, 0)

    passes, compute = teacher.comparisons([budget])
    own = cost(passes.arm, whole=False)
    assert own == cost(passes.against, whole=False)
    with_teachers = cost(passes.arm, whole=True)
    if teacher.member == "seen":
        with_teachers += cost(f"plain-{budget}", whole=False)
    assert with_teachers == pytest.approx(cost(compute.against, whole=False), rel=0.02)


def shrunk() -> list[str]:
    settings = ["size=64", "store.size=72"]
    for name in recipe().members:
        stage = f"members.{name}.stages.only"
        settings += [f"members.{name}.backbone=resnet10t", f"{stage}.start=scratch", f"{stage}.schedule.epochs=0.5"]
    return settings


def test_from_films_to_table_and_again_for_nothing(tmp_path, in_process):
    options = {
        "films": Films(test=24, size=96), "student": 24, "budgets": (1,), "settings": shrunk(), "seeds": [0],
        "workers": 1, "say": lambda text: None, "teachers": [TEACHERS[0], TEACHERS[2]],
    }  # fmt: skip
    rows = distillation.run_distillation(tmp_path, **options)
    assert [(row.arm, row.against) for row in rows] == [
        ("self-1", "plain-1"), ("self-1", "plain-2"), ("seen-1", "plain-1"), ("seen-1", "plain-2"),
    ]  # fmt: skip
    run, truth = tmp_path / "thirds/seed0/run", read_dataset(tmp_path / "thirds/seed0/data/own", "test").studies
    for row in rows:
        for name, auc in ((row.arm, row.arm_auc), (row.against, row.against_auc)):
            assert auc == [evaluate(read_predictions(run / f"predictions/test/{name}.csv"), truth).macro_auc]
    assert json.loads((tmp_path / "distillation.json").read_text())[0]["verdict"] == "open: 1 of 3 seeds"

    soft = read_predictions(tmp_path / "thirds/seed0/soft/plain-1.csv")
    held = read_predictions(run / "plain-1/fold0/only/predictions.csv")
    assert len(soft) == 24 and not set(soft["study"]) & set(held["study"]), "the teacher's own films, and no other"
    record = read_record(run / "seen-1/fold0/only")
    assert (
        record["films"] == 24
        and record["trusted"] == ["seen-1/fold0/only: soft labels of plain-1.csv"]
        and not record["leak"]
    )

    before = {path: path.stat().st_mtime_ns for path in run.glob("*/fold*/*/weights.safetensors")}
    assert len(before) == 6
    distillation.run_distillation(tmp_path, **options)
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/fold*/*/weights.safetensors")} == before
    with pytest.raises(ValueError, match="give another --out"):
        distillation.run_distillation(tmp_path, **options | {"student": 30})
