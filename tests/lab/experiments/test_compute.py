"""What stages cost: by hand from a plan, and measured in small."""

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from cxrlines.io.store import build_store
from cxrlines.io.tables import read_dataset
from cxrlines.lab.experiments import compute
from cxrlines.lab.experiments.compute import (
    DECODER,
    EPOCHS,
    MAPS_OF_SOME,
    PASSES,
    _stage_of,
    compute_of,
    kind_of,
    measure,
)
from cxrlines.phantom.dataset import write_phantom
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


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(compute, "BACKBONE", "resnet10t")
    monkeypatch.setattr(compute, "BATCH", 4)


def test_every_kind_is_measured(tmp_path, small):
    seconds = measure(tmp_path, films=40, size=64, rounds=1)
    assert set(seconds) == {*PASSES, MAPS_OF_SOME}
    assert all(np.isfinite(each) and each > 0 for each in seconds.values())


def test_a_kind_computes_what_it_is_measured_for(tmp_path, small):
    """Counted in operations, which are the same on every machine; seconds of so small a stage are not in this order."""
    write_phantom(tmp_path / "own", studies=40, test=0, seed=0, size=128, annotated=0.3, workers=1)
    dataset = read_dataset(tmp_path / "own")
    store = build_store(dataset, tmp_path / "store", size=72, aspect="stretch", workers=1)

    def operations(kind: str) -> float:
        """Floating-point operations of a training film, forward and backward."""
        module = _stage_of(kind, dataset, store, 64, lambda values, epoch: None)
        with FlopCounterMode(display=False) as counter:
            module.fit()
        return counter.get_total_flops() / (EPOCHS * module.per_epoch * compute.BATCH)

    flops = {kind: operations(kind) for kind in (*PASSES, MAPS_OF_SOME)}
    assert flops["overlay"] > flops["plain"], "three channels in place of one"
    assert flops["features"] > 1.3 * flops["plain"], "a teacher's forward pass besides"
    assert flops["maps_of"] > 1.3 * flops["plain"], "a segmenter's forward pass besides"
    assert flops["maps"] > flops[MAPS_OF_SOME] > flops["plain"], "a decoder besides, for films whose lines are known"
