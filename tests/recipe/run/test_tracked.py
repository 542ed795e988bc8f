"""What a step's trackers keep of it, with the step really done."""

import csv

from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.tracking.tracker import flatten


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
