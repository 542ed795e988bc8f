"""What stages cost: by hand from a plan, and measured in small."""

import numpy as np
import pytest

from cxrlines.lab.experiments import compute
from cxrlines.lab.experiments.compute import DECODER, PASSES, compute_of, kind_of, measure
from cxrlines.recipe.run.folder import Step, StepId
from cxrlines.recipe.spec.recipe import Recipe

STAGES = {
    "teacher": {"films": {"which": "annotated", "view": "overlay"}},
    "student": {"films": {"which": "annotated"}, "targets": {"features": {"of": "teacher"}, "labels": {}}},
    "lines": {"targets": {"labels": {}, "maps": {}}},
    "few": {"films": {"which": "annotated"}, "targets": {"maps": {}}},
    "last": {"films": {"maps_of": "lines"}},
}


def recipe(**epochs: float) -> Recipe:
    stages = {name: stage | {"schedule": {"batch": 8, "epochs": epochs.get(name, 1)}} for name, stage in STAGES.items()}
    return Recipe.model_validate({"name": "test", "members": {"m": {"backbone": "resnet10t", "stages": stages}}})


def step(stage: str, films: int) -> Step:
    return Step(StepId("m", (0,), stage), "", (), films, False)


def test_a_stage_costs_what_is_dearest_in_it():
    stages = recipe().members["m"].stages
    assert {name: kind_of(stage) for name, stage in stages.items()} == {
        "teacher": "overlay", "student": "features", "lines": "maps", "few": "maps", "last": "maps_of",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "passes"),
    [
        ("teacher", 32 * PASSES["overlay"]),
        ("student", 32 * PASSES["features"]),
        ("lines", 32 * (0.75 * (1 + DECODER) + 0.25 * PASSES["maps"])),
        ("few", 32 * PASSES["maps"]),
        ("last", 32 * PASSES["maps_of"]),
    ],
)
def test_two_epochs_of_twenty_films_are_four_whole_batches_of_eight(stage, passes):
    assert compute_of(recipe(**{stage: 2}), [step(stage, 20)], annotated=0.25) == pytest.approx(passes)


def test_steps_add_up_and_a_step_is_a_batch_at_least():
    steps = [step("last", 20), step("last", 20), step("teacher", 5)]
    expected = 2 * 16 * PASSES["maps_of"] + 5 * PASSES["overlay"]
    assert compute_of(recipe(teacher=0.1), steps, annotated=1) == pytest.approx(expected)


def test_every_kind_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "BACKBONE", "resnet10t")
    monkeypatch.setattr(compute, "BATCH", 4)
    seconds = measure(tmp_path, films=40, size=64, rounds=1)
    assert set(seconds) == {*PASSES, compute.MAPS_OF_SOME}
    assert all(np.isfinite(each) and each > 0 for each in seconds.values())
    assert seconds["maps_of"] > seconds["plain"], "a segmenter runs besides"
