"""Estimates agree with published figures, with a real run of a network, and with the plan they are made for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cxrlines.io.external.layouts import PRESENCE
from cxrlines.io.tables import Dataset
from cxrlines.lab.price.estimate import A100, WITHIN, Estimate, Gpu, estimate, watch
from cxrlines.lab.price.plan_text import plan_text
from cxrlines.models.backbones import make_backbone
from cxrlines.recipe.run.external import ExternalSet
from cxrlines.recipe.run.folder import Inventory, Step
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS

RTX3090 = Gpu("NVIDIA RTX 3090", 71e12, 0.936e12, 24 * 2**30)
"""Peak rates of NVIDIA's white paper, half precision accumulated in single."""

RECIPE = """
name: small
size: 64
store: {size: 72}
folds: {count: 3}
external: {far: {}}
defaults: {schedule: {batch: 4, epochs: 2}}
members:
  staged:
    backbone: resnet10t
    stages:
      teacher: {films: {which: annotated, view: overlay}}
      student: {films: {which: annotated}, targets: {features: {of: teacher}, labels: {}}}
  other:
    backbone: resnet10t
    stages:
      only: {films: {set: far}, targets: {soft: {of: staged}}}
  again:
    backbone: resnet10t
    stages:
      only: {films: {set: far}, targets: {soft: {of: staged}}}
"""


def material(own: int, external: dict[str, int], folds: int = 3) -> Inventory:
    """Tables without films: every other study annotated, folds in turn, no twins."""
    studies = [f"s{i}" for i in range(own)]
    table = pd.DataFrame({"study": studies, "patient": studies, "film": ""})
    table[list(LABELS)] = 0
    dataset = Dataset(Path(), table, {study: [] for study in studies[::2]})
    sets = {}
    for name, count in external.items():
        names = [f"{name}-{i}" for i in range(count)]
        films = pd.DataFrame({"study": names, "patient": names, "film": "", "view": ""})
        films[list(PRESENCE)] = np.float32(1)
        twins = pd.DataFrame({"study": [], "own_study": [], "own_patient": [], "split": []}, dtype=str)
        sets[name] = ExternalSet(name, films, "print", twins)
    return Inventory(dataset, np.ones(own, bool), "print", pd.Series(np.arange(own) // 2 % folds), sets)


MAPPED = """
name: mapped
size: 64
store: {size: 72}
folds: {count: 3}
defaults: {schedule: {batch: 4, epochs: 2}}
members:
  two-step:
    backbone: resnet10t
    stages:
      segmenter: {films: {which: annotated}, targets: {maps: {}}}
      classifier: {films: {maps_of: segmenter}}
  plain: {backbone: resnet10t, stages: {only: {}}}
  multi-task: {backbone: resnet10t, stages: {only: {targets: {labels: {}, maps: {}}}}}
"""


@pytest.fixture
def planned(tmp_path):
    def planned(*settings: str, text: str = RECIPE) -> tuple[Recipe, list[Step], Estimate]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        recipe, films = load_recipe(str(path), list(settings)), material(60, {"far": 50})
        steps = make_plan(recipe, films, range(3))
        return recipe, steps, estimate(recipe, steps, films)

    return planned


@pytest.fixture
def plan(planned):
    return lambda *settings, text=RECIPE: planned(*settings, text=text)[2]


@pytest.mark.parametrize(
    ("backbone", "size", "published"),  # multiplications with additions: the papers of two, timm's table of the third
    [("resnet50", 224, 4.1e9), ("tf_efficientnet_b7", 600, 37e9), ("resnet200d", 256, 20.0e9)],
)
def test_arithmetic_is_as_published(backbone, size, published):
    assert watch(backbone, "gap", size).flops / 2 == pytest.approx(published, rel=0.03)  # theirs are in colour


def test_what_is_watched_is_what_a_real_pass_does():
    net = make_backbone("tf_efficientnet_lite0", weights="none").train()
    own = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), FlopCounterMode(display=False) as counter:
        net(torch.rand(4, 1, 96, 96))
    watched = watch("tf_efficientnet_lite0", "gap", 96)
    assert watched.flops * 4 == counter.get_total_flops()
    assert watched.saved * 4 * 4 == pytest.approx(sum(t.untyped_storage().nbytes() for t in kept.values()), rel=0.02)


@pytest.mark.parametrize(
    ("gpu", "backbone", "size", "films_per_second"),  # sources: estimate.ATTAINED
    [
        (A100, "resnet50", 224, 2470),
        (A100, "efficientnet_b4", 380, 331),
        (RTX3090, "resnet50d", 224, 1078),
        (RTX3090, "resnet200d", 256, 267.1),
        (RTX3090, "tf_efficientnet_b7", 600, 37.22),
    ],
)
def test_hours_are_within_the_stated_factor_of_measured_ones(gpu, backbone, size, films_per_second):
    estimated = 1 / (3 * watch(backbone, "gap", size).seconds(gpu))
    assert 1 / WITHIN < estimated / films_per_second < WITHIN


@pytest.mark.parametrize(
    ("backbone", "size", "fitted", "failed"),  # batches on an RTX 3090, source as above: the largest that ran
    [("resnet50d", 224, 384, 512), ("resnet200d", 256, 128, 192), ("tf_efficientnet_b7", 600, 8, 12)],
)
def test_memory_tells_the_batch_that_fits(backbone, size, fitted, failed):
    network = watch(backbone, "gap", size)
    assert network.memory(fitted) < RTX3090.memory < network.memory(failed)


def test_each_step_counts_its_films_and_a_teacher_reads_a_set_once(plan):
    costs = plan().steps
    # 40 films of two folds, half of them annotated: 2 epochs of 5 batches of 4. Two passes over the 20 held out.
    assert (costs["staged", (0,), "teacher"].trained, costs["staged", (0,), "teacher"].read) == (40, 40)
    assert costs["staged", (0,), "student"].read == 60  # and once more at its end
    assert costs["staged", (0,), "student"].hours > costs["staged", (0,), "teacher"].hours
    assert costs["other", (0,), "only"].read == costs["again", (0,), "only"].read + 50
    assert costs["other", (0,), "only"].trained == 2 * 48


def test_totals_are_those_of_the_steps(plan):
    found = plan()
    assert found.hours == pytest.approx(sum(cost.hours for cost in found.steps.values()))
    assert found.store == (60 + 50) * 72**2
    assert found.disk == found.store + sum(cost.disk for cost in found.steps.values())
    assert found.memory == max(cost.memory for cost in found.steps.values())


def test_what_costs_more_is_said_to_cost_more(plan):
    usual = plan()
    longer, wider = plan("defaults.schedule.epochs=4"), plan("defaults.schedule.batch=8")
    larger, exact = plan("size=72"), plan("defaults.schedule.precision='32'")
    key = ("staged", (0,), "student")
    assert longer.steps[key].trained == 2 * usual.steps[key].trained
    assert longer.memory == usual.memory < wider.memory
    assert usual.hours < larger.hours
    assert (usual.hours, usual.memory) < (exact.hours, exact.memory)
    assert plan("defaults.schedule.ema=0.9").steps[key].state > usual.steps[key].state


def test_nested_steps_are_counted_apart(planned):
    text = plan_text(*planned("members.again.stages.only.films.set=own"))
    assert "3+3" in text.partition("student")[2].partition("\n")[0]
    assert text.count("3+3") == 2  # the teacher and the student, of every pair of folds


def test_maps_cost_a_decoder_where_they_are_learnt_and_a_segmenter_where_they_are_seen(plan):
    found = plan(text=MAPPED)
    costs = found.steps
    # Of 60 films, every other one annotated: a segmenter trains on 20 of 40, an inner one on 10 of 20; neither is asked
    # for labels. A classifier trains on 40 and reads the 20 held out after each of 2 epochs and at its end.
    assert [(cost.trained, cost.read) for key, cost in costs.items() if key[2] == "segmenter"] == [
        (40, 0) if len(held) == 1 else (2 * 2 * 4, 0) for _, held, stage in costs if stage == "segmenter"
    ]
    segmenter, classifier = costs["two-step", (0,), "segmenter"], costs["two-step", (0,), "classifier"]
    plain, multi_task = costs["plain", (0,), "only"], costs["multi-task", (0,), "only"]
    assert (classifier.trained, classifier.read) == (plain.trained, plain.read) == (80, 60)
    net = {maps: watch("resnet10t", "gap", 64, 1, "unet" if maps else None) for maps in (False, True)}
    ten = watch("resnet10t", "gap", 64, 10)
    decoder = net[True].tensors - net[False].tensors
    assert 0 < decoder == pytest.approx((multi_task.disk - plain.disk) / 4)
    assert net[True].flops > net[False].flops and net[True].saved > net[False].saved
    # The decoder is run on annotated films, and labels are read without; a classifier of maps reads them with its
    # segmenter's.
    assert multi_task.hours - plain.hours == pytest.approx(
        40 * 3 * (net[True].seconds(A100) - net[False].seconds(A100)) / 3600
    )
    expected = 80 * (3 * ten.seconds(A100) + net[True].seconds(A100)) + 60 * (
        ten.seconds(A100) + net[True].seconds(A100)
    )
    assert classifier.hours == pytest.approx(expected / 3600)
    assert segmenter.hours == pytest.approx(40 * 3 * net[True].seconds(A100) / 3600)
    # It is saved with its segmenter; three frozen ones lie in memory beside it.
    assert classifier.disk == pytest.approx(4 * (ten.tensors + net[True].tensors) + 250 * 20)
    assert classifier.memory - ten.memory(4) == pytest.approx(3 * 4 * net[True].tensors + 4 * 2 * net[True].largest)


def test_nested_segmenters_are_counted_apart_and_said_to_be_for_maps(planned):
    text = plan_text(*planned(text=MAPPED))
    assert "3+3" in text.partition("segmenter")[2].partition("\n")[0]
    assert text.count("3+3") == 1
    assert "b nested ones, which only make soft labels or heatmaps for others" in text


@pytest.mark.long
@pytest.mark.parametrize(("name", "steps"), [("two-step", 5 + 10 + 5), ("multi-task", 5), ("embedded", 4 + 4)])
def test_the_shipped_recipes_of_maps_fit_the_gpu_they_are_estimated_for(name, steps):
    recipe, films = load_recipe(name), material(200, {}, folds=5 - (name == "embedded"))
    found = estimate(recipe, make_plan(recipe, films, range(recipe.folds.count)), films)
    assert len(found.steps) == steps
    assert 1e9 < found.memory < A100.memory
    assert all(cost.hours > 0 and cost.disk > 0 for cost in found.steps.values())


def test_the_text_says_what_it_assumes(planned):
    text = plan_text(*planned())
    for said in ("assumed, whatever this machine has", "50% of 312 TFLOP/s", "12 steps", "GPU h", "not counted"):
        assert said in text
    assert "do not fit" not in text
    assert "do not fit into 80 GB: lower schedule.batch or size" in plan_text(
        *planned("defaults.schedule.batch=4096", "size=512")
    )


def test_a_stage_is_said_in_a_line(planned):
    recipe, steps, price = planned("members.other.stages.only.start=staged/student")
    lines = plan_text(recipe, steps, price, {steps[0].key}, ["assumed"]).splitlines()
    assert lines[0] == "small: 3 members, 4 stages, 12 steps, 1 of them done"
    assert lines[4] == "  note: assumed"
    assert [" ".join(line.split()) for line in lines[6:11]] == [
        "member stage steps done epochs films which GPU h GPU memory disk made from",
        "staged teacher 3 1 2 20 annotated, overlay 0.00 1.6 GB 0.1 GB imagenet",
        "student 3 0 2 20 annotated 0.00 1.6 GB 0.1 GB imagenet, features of teacher",
        "other only 3 0 2 50 far 0.00 1.6 GB 0.1 GB staged/student, soft labels of staged/student",
        "again only 3 0 2 50 far 0.00 1.6 GB 0.1 GB imagenet, soft labels of staged/student",
    ]
    places = [line.index(said) for line, said in zip(lines[6:], ("steps", "3", "3", "3", "3"), strict=False)]
    assert places == [places[0], *[places[0] + len("steps") - 1] * 4], "columns are aligned"


def test_hotwater_small_takes_less_than_an_hour_on_two_cores():
    recipe, films = load_recipe("hotwater-small"), material(900, {"nih": 350, "padchest": 350, "vinbigdata": 350})
    costs = estimate(recipe, make_plan(recipe, films, range(3)), films).steps
    # Measured of this network at this size: 32 films/s trained by each of two processes, three times as many read. A
    # teacher adds a third to its student's step; a step's start and end take some seconds.
    trained = sum(cost.trained * (1.35 if stage == "student" else 1) for (_, _, stage), cost in costs.items())
    seconds = trained / 64 + sum(cost.read for cost in costs.values()) / 192 + len(costs) * 5 / 2
    assert recipe.size == 192
    assert 15 < seconds / 60 < 35


@pytest.mark.long
def test_hotwater_fits_the_gpu_it_is_estimated_for():
    recipe, films = load_recipe("hotwater"), material(200, {"nih": 50, "padchest": 50, "vinbigdata": 50}, folds=5)
    found = estimate(recipe, make_plan(recipe, films, range(5)), films)
    # Staged members, multi-head and tubes in five folds, the others in one; a teacher of own films in four pairs more.
    assert len(found.steps) == 5 * (5 * 3 + 1 + 2) + (3 + 6 + 4 + 2 + 2 + 2) + 4 * 3
    assert found.memory < A100.memory
