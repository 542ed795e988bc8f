"""Plans shown and nothing done: on real tables without films too; what is assumed is said."""

import re
from pathlib import Path

import pytest

from cxrlines.lab.price.dry_run import Planned, dry_run, planned
from cxrlines.lab.price.estimate import estimate
from cxrlines.recipe.run.execute import RunError
from cxrlines.recipe.run.pipeline import prepare
from cxrlines.recipe.spec.load import RecipeError, load_recipe


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """The table of a plan: `member/stage` -> column -> what stands there."""
    header, *lines = [re.split(" {2,}", line) for line in text.split("\n\n")[1].splitlines()]
    rows, member = {}, ""
    for line in lines:
        row = dict(zip(header, line, strict=True))
        member = row["member"] or member
        rows[f"{member}/{row['stage']}"] = row
    return rows


def parents_of(plan: Planned, name: str) -> dict[str, str]:
    """What a step is made from: role -> step."""
    (step,) = [step for step in plan.steps if step.name == name]
    return {parent.name: str(parent.key) for parent in step.parents}


def files_below(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


def test_a_finished_run_is_all_done_with_parents_named(soft_run, phantom):
    plan = planned(soft_run.recipe, phantom, soft_run.root, [1])
    names = [step.name for step in plan.steps]
    assert plan.done == {step.key for step in plan.steps}
    assert "plain/fold2/only" not in names and "plain/fold1+2/only" in names
    assert parents_of(plan, "self/fold1/only") == {"soft 0": "plain/fold0+1/only", "soft 2": "plain/fold1+2/only"}
    assert parents_of(plan, "from-b/fold1/tubes") == {"start": "from-b/fold1/soft"}
    rows = rows_of(dry_run(soft_run.recipe, phantom, soft_run.root, [1]))
    assert rows["self/only"]["made from"] == "scratch, soft labels of plain/only"
    tubes = rows["from-b/tubes"]
    assert [tubes[name] for name in ("films", "which", "epochs", "made from")] == ["16", "b", "1", "soft"]


def test_before_a_run_every_step_is_to_do_and_nothing_is_written(phantom, site_b, soft_recipe, tmp_path):
    before = files_below(phantom, site_b)
    recipe = load_recipe(str(soft_recipe), [f"external.b.folder={site_b}"])
    text = dry_run(recipe, phantom, tmp_path / "run", None)
    assert "18 steps\n" in text and "done" not in text
    assert "note" not in text, "all is there"
    assert not (tmp_path / "run").exists() and files_below(phantom, site_b) == before


def test_the_plan_shown_is_the_plan_done(phantom, site_b, soft_recipe, soft_run, tmp_path):
    """Only what a store knows may differ: here every film can be read and no twin is found, so nothing does."""
    recipe = load_recipe(str(soft_recipe), [f"external.b.folder={site_b}"])
    before, after = (planned(recipe, phantom, root, None) for root in (tmp_path / "run", soft_run.root))
    assert not before.done and after.done == {step.key for step in after.steps}
    assert [(step.key, step.parents, step.films) for step in before.steps] == [
        (step.key, step.parents, step.films) for step in after.steps
    ]
    assert "18 steps, 18 of them done\n" in dry_run(recipe, phantom, soft_run.root, None)


def test_test_films_that_are_learnt_are_counted_whether_they_are_there_or_not(phantom, soft_recipe, tmp_path):
    films = "members.from-b.stages.soft.films={set: test, pseudo_labels: allowed}"
    settings = [films, "members.from-b.stages.soft.targets={soft: {of: [plain, self]}}", "members.from-b.folds=[2]"]
    recipe = load_recipe(str(soft_recipe), [*settings, "ensemble.how=mean"])
    table = tmp_path / "table"
    table.mkdir()
    for name in ("train.csv", "sample_submission.csv"):
        (table / name).write_bytes((phantom / name).read_bytes())
    for data in (phantom, table):
        plan = planned(recipe, data, tmp_path / "run", None)
        made_from = parents_of(plan, "from-b/fold2/soft")
        assert made_from == {"soft of plain": "plain/fold2/only", "soft of self": "self/fold2/only"}
        assert "from-b/fold1/soft" not in [step.name for step in plan.steps]
        row = rows_of(dry_run(recipe, data, tmp_path / "run", None))["from-b/soft"]
        assert (row["steps"], row["films"], row["which"]) == ("1", "8", "test")
        assert row["made from"].endswith("soft labels of plain/only and self/only")


def test_what_is_not_there_is_assumed_and_said(phantom, soft_recipe, tmp_path):
    settings = ["members.plain.stages.only.start={file: missing.pt}", "members.self.stages.only.targets={labels: {}}"]
    text = dry_run(load_recipe(str(soft_recipe), settings), phantom, tmp_path / "run", [0])
    assert "note: missing.pt: is not there; training needs it" in text
    assert "note: external set b: no folder given (--external b=FOLDER); 10,000 films are taken" in text
    rows = rows_of(text)
    assert (rows["from-b/soft"]["films"], rows["from-b/soft"]["which"]) == ("10,000", "b")
    assert rows["plain/only"]["made from"] == "missing.pt"


def test_a_mistyped_folder_of_an_external_set_is_refused(phantom, soft_recipe, tmp_path):
    recipe = load_recipe(str(soft_recipe), ["external.b.folder=nowhere"])
    with pytest.raises(RecipeError, match=r"external\.b: nowhere: is not a folder; correct --external b=FOLDER"):
        dry_run(recipe, phantom, tmp_path / "run", [0])


def test_a_published_set_counts_as_it_was_published(phantom, soft_recipe, tmp_path):
    text = soft_recipe.read_text().replace("{b: {}}", "{nih: {}}").replace("set: b", "set: nih")
    path = tmp_path / "nih.yaml"
    path.write_text(text)
    said = dry_run(load_recipe(str(path)), phantom, tmp_path / "run", [0])
    assert "112,120 films are taken, as published" in said


def test_what_training_would_refuse_is_refused(phantom, tiny_recipe, tmp_path):
    with pytest.raises(RecipeError, match="'resnet50q' is not a timm model"):
        dry_run(load_recipe(str(tiny_recipe), ["members.plain.backbone=resnet50q"]), phantom, tmp_path, None)
    with pytest.raises(RunError, match="has no labels to train on; it needs a train"):
        dry_run(load_recipe(str(tiny_recipe)), phantom / "train", tmp_path, None)
    with pytest.raises(ValueError, match=r"there are 2 folds; make it 3 or more \(folds.count\)"):
        soft = "  self: {backbone: resnet10t, stages: {only: {targets: {soft: {of: plain}}}}}\n"
        (tmp_path / "self.yaml").write_text(tiny_recipe.read_text() + soft)
        dry_run(load_recipe(str(tmp_path / "self.yaml")), phantom, tmp_path, None)


def test_a_warm_up_that_is_cut_is_noted(phantom, tiny_recipe, tmp_path):
    warm, short = "members.plain.stages.only.schedule.warmup_epochs=3", "members.*.stages.*.schedule.epochs=1"
    note = "members.plain.stages.only.schedule: the warm-up would take 3 of 1 epochs; it takes 10% of the training"
    assert note in planned(load_recipe(str(tiny_recipe), [warm, short]), phantom, tmp_path, None).notes
    longer = "members.plain.stages.only.schedule.epochs=4"
    assert not planned(load_recipe(str(tiny_recipe), [warm, longer]), phantom, tmp_path, None).notes


def test_films_that_a_store_could_not_take_are_not_counted(phantom, tiny_recipe, tmp_path):
    """The number of films of a step is that of its training, once the store is built."""
    run = prepare(load_recipe(str(tiny_recipe)), phantom, tmp_path / "run", 1)
    rows = rows_of(dry_run(run.recipe, phantom, run.root, [0]))
    fold = run.folds.to_numpy()
    annotated = (fold != 0) & run.train.annotated
    said = {name: [row[column] for column in ("films", "which", "epochs")] for name, row in rows.items()}
    assert said["plain/only"] == [str((fold != 0).sum()), "all", "3"]
    assert said["staged/teacher"] == [str(annotated.sum()), "annotated, overlay", "1"]


MAPS = """
name: maps
size: 64
store: {size: 72}
folds: {count: 3}
members:
  two-step:
    backbone: resnet10t
    stages:
      segmenter: {start: scratch, films: {which: annotated}, targets: {maps: {}}, schedule: {epochs: 3}}
      classifier: {start: scratch, films: {maps_of: segmenter}}
"""


def test_a_plan_with_maps_names_every_segmenter_and_writes_nothing(phantom, tmp_path):
    (tmp_path / "maps.yaml").write_text(MAPS)
    before = files_below(phantom)
    recipe = load_recipe(str(tmp_path / "maps.yaml"))
    plan = planned(recipe, phantom, tmp_path / "run", [1])
    assert [step.name for step in plan.steps] == [
        *(f"two-step/fold{held}/segmenter" for held in ("1", "0+1", "1+2")),
        "two-step/fold1/classifier",
    ]
    assert parents_of(plan, "two-step/fold1/classifier") == {
        "maps": "two-step/fold1/segmenter",
        "maps 0": "two-step/fold0+1/segmenter",
        "maps 2": "two-step/fold1+2/segmenter",
    }
    rows = rows_of(dry_run(recipe, phantom, tmp_path / "run", [1]))
    segmenter, classifier = rows["two-step/segmenter"], rows["two-step/classifier"]
    assert [segmenter[name] for name in ("steps", "which", "epochs")] == ["1+2", "annotated", "3"]
    assert classifier["which"] == "all"
    assert classifier["made from"] == "scratch, seen with heatmaps of segmenter"
    assert not (tmp_path / "run").exists() and files_below(phantom) == before


def test_maps_need_three_folds_in_a_plan_as_in_a_run(phantom, tmp_path):
    (tmp_path / "maps.yaml").write_text(MAPS)
    recipe = load_recipe(str(tmp_path / "maps.yaml"), ["folds.count=2"])
    with pytest.raises(ValueError, match=r"maps of segmenter for own films .* there are 2 folds; make it 3 or more"):
        dry_run(recipe, phantom, tmp_path / "run", None)


@pytest.mark.parametrize(
    ("name", "steps", "hours"),
    [
        ("two-step", 20, 21.6),
        pytest.param("multi-task", 5, 17.0, marks=pytest.mark.long),
        pytest.param("embedded", 8, 0.06, marks=pytest.mark.long),
    ],
)
def test_what_the_recipes_of_maps_cost_on_the_real_table(name, steps, hours, tmp_path, ranzcr):
    """`hours`: as estimated on 2026-11-25; a figure that moves by more than a tenth is to be looked at."""
    recipe = load_recipe(name)
    plan = planned(recipe, ranzcr, tmp_path / "run", None)
    assert len(plan.steps) == steps
    assert estimate(recipe, plan.steps, plan.films).hours == pytest.approx(hours, rel=0.1, abs=0.005 * steps)
    if name != "two-step":
        return
    films = {step.name: step.films for step in plan.steps}
    outer, inner = ([n for key, n in films.items() if "segm" in key and ("+" in key) == plus] for plus in (False, True))
    assert len(outer) == 5 and len(inner) == 10
    assert max(abs(n - 0.8 * 8960) for n in outer) < 60 and max(abs(n - 0.6 * 8960) for n in inner) < 60
    assert sorted(n for key, n in films.items() if "classifier" in key) == [24066] * 3 + [24067] * 2


@pytest.mark.parametrize(("name", "steps"), [("baseline", 5), ("three-stage", 45)])
def test_a_real_table_without_films_or_annotations_is_enough(name, steps, tmp_path, ranzcr):
    before = files_below(ranzcr)
    recipe = load_recipe(name)
    text = dry_run(recipe, ranzcr, tmp_path / "run", None)
    assert text.startswith(f"{recipe.name}: ") and text.splitlines()[0].endswith(f" {steps} steps")
    assert "has no folder train/: all 30083 films of train.csv are taken as there" in text
    assert "has no train_annotations.csv: 30% of the films are taken as annotated, as in RANZCR CLiP" in text
    assert "GPU h on one" in text
    films = [row["films"] for row in rows_of(text).values() if row["which"] == "all"]
    assert films and set(films) == {f"{4 * 30_083 / 5:,.0f}"}
    assert not (tmp_path / "run").exists() and files_below(ranzcr) == before


@pytest.mark.long
def test_hotwater_on_the_real_tables(tmp_path, ranzcr):
    text = dry_run(load_recipe("hotwater"), ranzcr, tmp_path / "run", None)
    nested = [row["steps"].partition("+")[2] for row in rows_of(text).values()]
    assert [count for count in nested if count] == ["4"] * 3, "the teachers of self-distillation, two folds out"
    assert "GPU h" in text and "GPU memory" in text
    for name in ("nih", "padchest", "vinbigdata"):
        assert f"external set {name}: no folder given (--external {name}=FOLDER)" in text
