"""What a step's trackers keep of it, with the step really done."""

import csv
import json
from types import SimpleNamespace

from cxrlines.recipe.run import pipeline as pipeline_module
from cxrlines.recipe.run.pipeline import _track, plan_of, prepare
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.tracking.tracker import Tracker, flatten


def test_a_steps_trackers_keep_its_whole_specification_and_its_curves(phantom, tiny_recipe, tmp_path, capfd):
    recipe = load_recipe(str(tiny_recipe), ["tracking.use=[csv]", "members.plain.stages.only.schedule.epochs=2"])
    run = prepare(recipe, phantom, tmp_path / "run", 1)
    (step,) = [step for step in plan_of(run, [0]) if step.name == "plain/fold0/only"]
    do_step(run, step, lambda status: None)
    with (run.folder(step.key) / "tracking/csv/settings.csv").open(newline="") as file:
        kept = {row["setting"]: row["value"] for row in csv.DictReader(file)}
    spec = flatten({"stage": recipe.members["plain"].stages["only"].model_dump(mode="json") | {"size": 64}})
    assert kept == {name: str(value) for name, value in spec.items()} | {
        "member": "plain", "backbone": "resnet10t", "head": recipe.members["plain"].head,
    }  # fmt: skip
    assert kept["stage.films.augment"] == "hotwater" and kept["stage.schedule.batch"] == "4"
    with (run.folder(step.key) / "tracking/csv/metrics.csv").open(newline="") as file:
        curves = {(row["step"], row["metric"]) for row in csv.DictReader(file)}
    assert curves >= {("1", "loss"), ("2", "loss"), ("1", "lr"), ("2", "lr")}
    assert "tracking:" not in capfd.readouterr().err


def test_a_run_under_another_recipe_is_another_to_its_trackers_though_no_step_is(
    phantom, tiny_recipe, tmp_path, monkeypatch
):
    """They keep a setting as it was first given, or refuse it."""
    identities = []

    class Spy(Tracker):
        def __init__(self, settings, *, identity, **options):
            identities.append(identity)
            super().__init__(settings, identity=identity, **options)

    monkeypatch.setattr(pipeline_module, "Tracker", Spy)
    figures = {"members": {}, "ensemble": {"macro_auc": 0.5}}
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    for how in ("mean", "rank", "mean"):
        recipe = load_recipe(str(tiny_recipe), ["tracking.use=[]", f"ensemble.how={how}"])
        _track(SimpleNamespace(root=tmp_path, recipe=recipe), [])
    assert identities[0] == identities[2] != identities[1]
