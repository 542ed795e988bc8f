"""`recommended` in small beside `hotwater-small`: what is kept, what is equal, and the whole of it in smaller."""

import json

import numpy as np
import pytest
from scipy import stats

from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import evaluate
from cxrlines.io.tables import read_dataset
from cxrlines.lab.experiments import margin
from cxrlines.lab.experiments.compute import PASSES
from cxrlines.lab.experiments.margin import Margin, Side, in_small, run_margin
from cxrlines.lab.experiments.small import Films
from cxrlines.metrics.intervals import macro_of
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe

TINY = """
name: {name}
size: 64
store: {{size: 72}}
folds: {{count: 2}}
tracking: {{use: []}}
defaults: {{start: scratch, films: {{flip: false}}, schedule: {{batch: 4, validate_films: 0}}}}
members:
"""
THEIRS = TINY.format(name="theirs") + "  a: {backbone: resnet10t, stages: {only: {schedule: {epochs: 3}}}}\n"
OURS = (
    TINY.format(name="recommended").replace("64", "96").replace("batch: 4", "batch: 9")
    + """
  b:
    backbone: resnet50d
    head: gem
    stages:
      lines: {films: {which: annotated}, targets: {labels: {}, maps: {kinds: [line]}}, schedule: {epochs: 2}}
      last: {start: lines, targets: {labels: {}, maps: {kinds: [line]}}, schedule: {epochs: 4}}
"""
)


def test_in_small_the_method_stays_and_the_rest_is_hotwater_smalls():
    full, like = load_recipe("recommended"), load_recipe("hotwater-small")
    small = in_small(full, like)
    assert (small.size, small.store, small.folds, small.seed) == (like.size, like.store, like.folds, like.seed)
    assert list(small.members) == list(full.members) and small.ensemble == full.ensemble
    usual = like.members["resnet200d"].stages["finetune"]
    for name, member in small.members.items():
        assert member.backbone == like.members["resnet200d"].backbone
        assert (member.head, member.exclusive) == (full.members[name].head, full.members[name].exclusive)
        for stage_name, stage in member.stages.items():
            before = full.members[name].stages[stage_name]
            assert (stage.start, stage.targets, stage.films.which) == (before.start, before.targets, before.films.which)
            assert (stage.films.augment, stage.films.flip) == (usual.films.augment, usual.films.flip)
            assert stage.schedule.epochs == before.schedule.epochs
            for field in margin.SCHEDULE_FIELDS:
                assert getattr(stage.schedule, field) == getattr(usual.schedule, field), field


def test_fewer_films_are_fewer_of_all_that_are_trained_on():
    assert Films.of(360, 200) == Films()
    assert Films.of(120, 40) == Films(own=120, test=40, external=50, twins=5, stranger=50)


def test_the_text_says_both_computes_and_the_paired_interval():
    text = Margin(Side(0.9, 1234.4, 60), Side(0.8, 1230, 61), 0.1, (0.05, 0.15), Films()).text()
    assert "| recommended | 0.9000 | 1,234 | 60 |" in text and "| hotwater-small | 0.8000 | 1,230 | 61 |" in text
    assert text.endswith("difference +0.1000, 95 % by patient +0.0500 to +0.1500")


def test_seeds_are_worlds_of_their_own_and_their_mean_has_an_interval(tmp_path, monkeypatch):
    asked = []

    def one(out, films, **options):
        asked.append((out.name, films.seed, films.own))
        return Margin(Side(0.9 + films.seed / 100, 1, 1), Side(0.8, 1, 1), 0.1 + films.seed / 100, None, films)

    monkeypatch.setattr(margin, "run_margin", one)
    text = margin.run_margins(tmp_path, seeds=(0, 2), own=48, say=lambda text: None)
    assert asked == [("seed0", 0, 48), ("seed2", 2, 48)]
    assert "| 2 | 0.9200 | 0.8000 | +0.1200 | - |" in text
    low, high = stats.t.interval(0.95, 1, 0.11, 0.01)
    assert text.endswith(f"mean difference +0.1100, 95 % over seeds {low:+.4f} to {high:+.4f}")
    assert (tmp_path / "margin.md").read_text() == text + "\n"


def test_from_films_to_margin_at_equal_compute(tmp_path, monkeypatch, in_process):
    for name, text in (("theirs", THEIRS), ("recommended", OURS)):
        (tmp_path / f"{name}.yaml").write_text(text)

    def small(out, **options):
        write_phantom(out / "data/own", studies=48, test=16, seed=0, size=96, annotated=0.5, workers=1)
        theirs = load_recipe(str(tmp_path / "theirs.yaml"))
        return train(theirs, out / "data/own", out / "run", workers=1, say=lambda text: None).root

    monkeypatch.setattr(margin, "run_small", small)
    monkeypatch.setattr(margin, "load_recipe", lambda name: load_recipe(str(tmp_path / f"{name}.yaml")))
    found = run_margin(tmp_path / "out", workers=1, say=lambda text: None)

    steps = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("run/*/fold?/*/step.json")]
    passes = sum(round(3 * (step["films"] // 4)) * 4 for step in steps)
    assert len(steps) == 2 and found.hotwater_small.passes == passes
    batch = 4 * PASSES["maps"]
    assert found.recommended.passes == pytest.approx(passes, abs=4 * batch), "to half a batch for each of four steps"
    stages = json.loads((tmp_path / "out/recommended/recipe.json").read_text())["members"]["b"]["stages"]
    epochs = [stage["schedule"]["epochs"] for stage in stages.values()]
    assert epochs[1] == pytest.approx(2 * epochs[0], rel=1e-3), "all stages by one factor"

    truth = read_dataset(tmp_path / "out/data/own", "test").studies
    ours, theirs = (
        evaluate(read_predictions(tmp_path / f"out/{name}/predictions/test/ensemble.csv"), truth)
        for name in ("recommended", "run")
    )
    assert found.difference == pytest.approx(ours.macro_auc - theirs.macro_auc)
    between = macro_of(ours.resampled) - macro_of(theirs.resampled)
    assert found.over_patients == pytest.approx(tuple(np.nanpercentile(between, [2.5, 97.5])), abs=1e-6)
    assert found.recommended.seconds > 0
    assert json.loads((tmp_path / "out/margin.json").read_text())["difference"] == found.difference
    assert (tmp_path / "out/margin.md").read_text() == found.text() + "\n"
