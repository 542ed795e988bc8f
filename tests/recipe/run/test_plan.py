"""Plans: who is made from whom, who sees whom, and what is done again when something changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cxrlines.augment.policy import POLICIES
from cxrlines.core.errors import Error
from cxrlines.io.annotations import Line
from cxrlines.io.external.layouts import PRESENCE
from cxrlines.io.tables import Dataset
from cxrlines.recipe.run.external import ExternalSet
from cxrlines.recipe.run.folder import Inventory, Parent, Role, Step, StepId
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS
from cxrlines.training.targets.base import OWN

FILMS = 40  # two a patient
TWINS = [("b0", "s0", "p0", "train"), ("b4", "s39", "p19", "train"), ("b8", "t0", "t0", "test")]

MEMBERS = """
plain: {backbone: resnet10t, stages: {only: {start: scratch}}}
staged:
  backbone: resnet10t
  stages:
    teacher: {films: {which: annotated, view: overlay}}
    student: {films: {which: annotated}, targets: {features: {of: teacher}, labels: {}}}
    finetune: {start: student}
self: {backbone: resnet10t, stages: {only: {targets: {soft: {of: plain}}}}}
of-staged: {backbone: resnet10t, stages: {soft: {targets: {soft: {of: staged}}}, finetune: {start: soft}}}
from-b:
  backbone: resnet10t
  stages:
    soft: {films: {set: b}, targets: {soft: {of: plain}}}
    tubes: {start: soft, films: {set: b}, targets: {presence: {}}}
    finetune: {start: tubes}
warm-b: {backbone: resnet10t, stages: {soft: {films: {set: b}, targets: {soft: {of: plain, temperature: dynamic}}}}}
two-step:
  backbone: resnet10t
  exclusive: true
  stages:
    segmenter: {films: {which: annotated}, targets: {maps: {}}}
    classifier: {films: {maps_of: segmenter}}
    longer: {start: classifier, films: {maps_of: segmenter}}
multi-task: {backbone: resnet10t, stages: {only: {targets: {labels: {}, maps: {}}}}}
of-two-step: {backbone: resnet10t, stages: {only: {targets: {soft: {of: two-step}}}}}
of-self: {backbone: resnet10t, stages: {only: {targets: {soft: {of: self}}}}}
onward: {backbone: resnet10t, head: gem, stages: {only: {start: staged/student}}}
of-both: {backbone: resnet10t, stages: {only: {targets: {soft: {of: [plain, onward]}}}}}
"""


def recipe_of(*names: str, folds: int = 3, **more) -> Recipe:
    """A recipe of some of MEMBERS, in the order given."""
    members = yaml.safe_load(MEMBERS)
    content = {"name": "test", "folds": {"count": folds}, "external": {"b": {}}}
    return Recipe.model_validate(content | {"members": {name: members[name] for name in names}} | more)


def changed(recipe: Recipe, path: str, value) -> Recipe:
    """The recipe with one field set."""
    content = recipe.model_dump()
    at = content
    *way, last = path.split(".")
    for key in way:
        at = at[key]
    at[last] = value
    return Recipe.model_validate(content)


def external(twins=TWINS, presence=None) -> ExternalSet:
    """Sixteen films of eight patients: b0 and b1 are of patient 0, and so on."""
    studies = pd.DataFrame({"study": [f"b{i}" for i in range(16)], "patient": [str(i // 2) for i in range(16)]})
    values = np.zeros((16, len(PRESENCE)), np.float32) if presence is None else presence
    table = pd.DataFrame(twins, columns=["study", "own_study", "own_patient", "split"], dtype=object)
    return ExternalSet("b", studies.join(pd.DataFrame(values, columns=list(PRESENCE))), "store of b", table)


def material(folds: int = 3, found: ExternalSet | None = None, labels=None, lines=None) -> Inventory:
    patients = np.arange(FILMS) // 2
    values = np.zeros((FILMS, len(LABELS)), np.int8) if labels is None else labels
    table = pd.DataFrame({"study": [f"s{i}" for i in range(FILMS)], "patient": [f"p{p}" for p in patients]})
    drawn = lines or {f"s{i}": [Line(LABELS[0], np.full((2, 2), i, float))] for i in range(0, FILMS, 2)}
    own = Dataset(Path("own"), table.join(pd.DataFrame(values, columns=list(LABELS))), drawn)
    return Inventory(own, np.ones(FILMS, bool), "store", pd.Series(patients % folds), {"b": found or external()})


def planned(recipe: Recipe, films: Inventory | None = None, wanted: list[int] | None = None) -> dict[str, Step]:
    films = films or material(recipe.folds.count)
    found = list(range(recipe.folds.count)) if wanted is None else wanted
    return {step.name: step for step in make_plan(recipe, films, found)}


def redone(before: dict[str, Step], after: dict[str, Step]) -> set[str]:
    """member/stage of the steps that are in both plans and not the same."""
    both = before.keys() & after.keys()
    return {f"{s.key.member}/{s.key.stage}" for s in map(after.get, both) if s.identity != before[s.name].identity}


def ancestry(steps: dict[str, Step], step: Step) -> list[Step]:
    """A step and all it is made from."""
    return [step, *(found for parent in step.parents for found in ancestry(steps, steps[str(parent.key)]))]


def parents_of(step: Step) -> dict[str, StepId]:
    """Role as files name it -> parent."""
    return {parent.name: parent.key for parent in step.parents}


def seen_by(recipe: Recipe, films: Inventory, step: Step) -> set[str]:
    stage = recipe.members[step.key.member].stages[step.key.stage]
    rows = films.training(stage, step.key.held)
    if stage.films.set != OWN:
        return films.external["b"].patients(rows)
    return set(films.own.studies["patient"].iloc[rows])


def test_the_label_of_an_own_film_is_of_a_teacher_that_holds_out_its_fold_and_the_students():
    steps = planned(recipe_of("plain", "self"))
    for fold in range(3):
        parents = parents_of(steps[f"self/fold{fold}/only"])
        others = [other for other in range(3) if other != fold]
        assert parents == {f"soft {other}": ("plain", tuple(sorted((fold, other))), "only") for other in others}


def test_inner_steps_are_named_after_both_folds_and_serve_the_students_of_both():
    steps = planned(recipe_of("plain", "self"))
    inner = {name: step for name, step in steps.items() if step.fold is None}
    assert set(inner) == {"plain/fold0+1/only", "plain/fold0+2/only", "plain/fold1+2/only"}
    for name, step in inner.items():
        students = [s for s in steps.values() if s.key.member == "self" and step.key in parents_of(s).values()]
        assert {s.fold for s in students} == set(step.key.held), name
    assert len(steps) == 3 + 3 + 3


def test_a_recipe_without_soft_labels_of_own_films_has_no_inner_steps():
    assert all(step.fold is not None for step in planned(recipe_of("plain", "staged", "from-b")).values())


def test_some_folds_need_only_their_own_inner_steps():
    names = set(planned(recipe_of("plain", "self"), wanted=[1]))
    assert names == {"plain/fold1/only", "plain/fold0+1/only", "plain/fold1+2/only", "self/fold1/only"}


def test_a_teacher_of_three_stages_is_nested_with_all_its_stages():
    steps = planned(recipe_of("staged", "of-staged"))
    inner = {name for name in steps if "0+2" in name}
    assert inner == {f"staged/fold0+2/{stage}" for stage in ("teacher", "student", "finetune")}
    assert steps["staged/fold0+2/finetune"].parents == (Parent(Role.START, StepId("staged", (0, 2), "student")),)
    assert steps["staged/fold0+2/student"].parents == (Parent(Role.TEACHER, StepId("staged", (0, 2), "teacher")),)


ALL = ("plain", "staged", "self", "of-staged", "from-b", "warm-b")


@pytest.mark.parametrize(
    ("names", "folds"),
    [
        (ALL, 3),
        (ALL, 5),
        (("plain", "self", "of-self"), 4),
        (("two-step", "multi-task"), 3),
        (("two-step", "of-two-step"), 4),
    ],
)
def test_no_step_of_any_lineage_saw_a_patient_that_is_held_out(names, folds):
    recipe, films = recipe_of(*names, folds=folds), material(folds)
    steps = planned(recipe, films)
    for step in steps.values():
        held = set(films.own.studies["patient"].iloc[films.held(step.key.held)])
        for ancestor in ancestry(steps, step):
            assert set(step.key.held) <= set(ancestor.key.held)
            assert seen_by(recipe, films, ancestor)
            assert not seen_by(recipe, films, ancestor) & held, (step.name, ancestor.name)


def test_who_learns_from_who_learns_needs_three_folds_out():
    steps = planned(recipe_of("plain", "self", "of-self", folds=4), material(4))
    assert ("plain", (0, 1, 3), "only") in [step.key for step in ancestry(steps, steps["of-self/fold0/only"])]


@pytest.mark.parametrize(
    ("names", "folds", "needed"), [(("plain", "self"), 2, 3), (("plain", "self", "of-self"), 3, 4)]
)
def test_too_few_folds_say_how_many_it_takes(names, folds, needed):
    said = rf"soft labels of plain for own films .* there are {folds} folds; make it {needed} or more \(folds.count\)"
    with pytest.raises(ValueError, match=said):
        planned(recipe_of(*names, folds=folds), material(folds))


def test_external_films_are_labelled_by_the_teacher_of_the_students_own_fold():
    steps = planned(recipe_of("plain", "from-b"))
    for fold in range(3):
        assert parents_of(steps[f"from-b/fold{fold}/soft"]) == {"soft": ("plain", (fold,), "only")}


def test_a_dynamic_temperature_for_external_films_is_fitted_without_the_held_out_fold():
    parents = parents_of(planned(recipe_of("plain", "warm-b"))["warm-b/fold1/soft"])
    assert parents == {
        "soft": ("plain", (1,), "only"),
        "soft 0": ("plain", (0, 1), "only"),
        "soft 2": ("plain", (1, 2), "only"),
    }


def test_parents_come_first():
    done: set[tuple] = set()
    for step in planned(recipe_of(*ALL)).values():
        assert set(parents_of(step).values()) <= done
        done.add(step.key)


def test_a_start_one_fold_on_goes_round():
    recipe = changed(recipe_of("staged", guard="report"), "members.staged.stages.finetune.fold_shift", 1)
    starts = [planned(recipe)[f"staged/fold{fold}/finetune"].parent(Role.START).held for fold in range(3)]
    assert starts == [(1,), (2,), (0,)]


# -- maps


def test_maps_of_a_film_come_from_segmenters_that_hold_out_the_fold_judged_and_all_but_one_the_films_own():
    steps = planned(recipe_of("two-step"))
    for fold in range(3):
        expected = {f"maps {j}": ("two-step", tuple(sorted((fold, j))), "segmenter") for j in range(3) if j != fold}
        expected |= {"maps": ("two-step", (fold,), "segmenter")}
        assert parents_of(steps[f"two-step/fold{fold}/classifier"]) == expected
        start = {"start": ("two-step", (fold,), "classifier")}
        assert parents_of(steps[f"two-step/fold{fold}/longer"]) == expected | start
        assert steps[f"two-step/fold{fold}/segmenter"].parents == ()
    assert len(steps) == 3 * 3 + 3, "an inner segmenter serves both folds, and classifiers have none"


def test_an_inner_segmenter_saw_no_film_of_the_fold_it_makes_maps_of():
    recipe, films = recipe_of("two-step"), material()
    steps = planned(recipe, films)
    patients = films.own.studies["patient"].to_numpy()
    for step in steps.values():
        for fold, key in step.by_fold(Role.MAPS).items():
            own = set(patients[films.held((fold,))])
            assert own and not own & seen_by(recipe, films, steps[str(key)])
            assert own & seen_by(recipe, films, steps[str(step.parent(Role.MAPS))]), "or there would be no need"


def test_maps_need_a_fold_more_than_are_held_out():
    said = r"two-step/fold0/classifier: maps of segmenter for own films .* there are 2 folds; make it 3 or more"
    with pytest.raises(ValueError, match=said):
        planned(recipe_of("two-step", folds=2), material(2))
    said = r"two-step/fold0\+1/longer: maps of segmenter for own films .* there are 3 folds; make it 4 or more"
    with pytest.raises(ValueError, match=said):
        planned(recipe_of("two-step", "of-two-step"))


def test_maps_of_external_films_come_from_the_segmenter_of_the_fold_held_out():
    content = recipe_of("plain", "two-step").model_dump()
    stages = content["members"]["two-step"]["stages"]
    outside = {"films": {"set": "b", "maps_of": "segmenter"}, "targets": {"soft": {"of": "plain"}}}
    content["members"]["two-step"]["stages"] = {"segmenter": stages["segmenter"], "outside": outside}
    parents = parents_of(planned(Recipe.model_validate(content))["two-step/fold1/outside"])
    assert parents == {"maps": ("two-step", (1,), "segmenter"), "soft": ("plain", (1,), "only")}


# -- identities


def test_identities_are_the_same_every_time_and_in_any_order_of_members():
    one, other = planned(recipe_of("plain", "self", "staged")), planned(recipe_of("staged", "plain", "self"))
    assert {name: step.identity for name, step in one.items()} == {name: step.identity for name, step in other.items()}
    assert len({step.identity for step in one.values()}) == len(one)


def test_without_a_member_the_others_are_what_they_were():
    whole = planned(recipe_of(*ALL))
    for gone in ("staged", "warm-b", "from-b"):
        left = planned(recipe_of(*(name for name in ALL if name not in (gone, "of-staged"))))
        assert set(left) < set(whole)
        assert not redone(whole, left)


def test_without_its_soft_labels_a_stage_and_what_descends_from_it_are_done_again():
    recipe = recipe_of(*ALL)
    without = changed(recipe, "members.of-staged.stages.soft.targets", {"labels": {}})
    before, after = planned(recipe), planned(without)
    assert redone(before, after) == {"of-staged/soft", "of-staged/finetune"}
    assert before.keys() - after.keys() == {name for name in before if name.startswith("staged/") and "+" in name}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("members.self.stages.only.targets.soft.temperature", 0.8, {"self/only"}),
        ("members.self.stages.only.targets.soft.film_weights", "certainty", {"self/only"}),
        ("members.from-b.stages.tubes.schedule.lr", 0.01, {"from-b/tubes", "from-b/finetune"}),
        ("members.from-b.stages.soft.size", 64, {"from-b/soft", "from-b/tubes", "from-b/finetune"}),
        ("members.staged.stages.student.schedule.epochs", 1, {"staged/student", "staged/finetune", "of-staged/soft",
                                                              "of-staged/finetune"}),
        ("members.plain.head", "gem", {"plain/only", "self/only", "from-b/soft", "from-b/tubes", "from-b/finetune",
                                       "warm-b/soft"}),
        ("members.two-step.stages.segmenter.targets.maps.kinds", ["line"], {"two-step/segmenter", "two-step/classifier",
                                                                            "two-step/longer"}),
        ("members.two-step.stages.classifier.schedule.lr", 0.01, {"two-step/classifier", "two-step/longer"}),
        ("members.two-step.exclusive", False, {"two-step/segmenter", "two-step/classifier", "two-step/longer"}),
        ("members.multi-task.stages.only.targets.maps.weight", 2, {"multi-task/only"}),
        ("ensemble.how", "rank", set()),
        ("about", "other words", set()),
        ("guard", "report", set()),
        ("external.b.folder", "elsewhere", set()),
    ],
)  # fmt: skip
def test_a_changed_line_redoes_what_depends_on_it_alone(path, value, expected):
    recipe = recipe_of(*ALL, "two-step", "multi-task")
    assert redone(planned(recipe), planned(changed(recipe, path, value))) == expected


def test_seed_and_size_redo_everything():
    recipe = recipe_of(*ALL)
    every = {f"{name}/{stage}" for name, member in recipe.members.items() for stage in member.stages}
    for path, value in (("seed", 1), ("size", 64)):
        assert redone(planned(recipe), planned(changed(recipe, path, value))) == every


def test_a_changed_label_redoes_the_steps_that_train_on_its_film_and_their_descendants():
    recipe = recipe_of("plain", "self", "from-b")
    labels = np.zeros((FILMS, len(LABELS)), np.int8)
    labels[0, 0] = 1  # of fold 0
    before, after = planned(recipe), planned(recipe, material(labels=labels))
    same = {name for name in before if before[name].identity == after[name].identity}
    assert same == {"plain/fold0/only", "plain/fold0+1/only", "plain/fold0+2/only", "from-b/fold0/soft",
                    "from-b/fold0/tubes", "from-b/fold0/finetune", "self/fold0/only"}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("keep", "best"), ("patience", 3)])
def test_a_changed_label_of_a_held_out_film_redoes_the_steps_that_choose_their_epoch_by_it(field, value):
    recipe = recipe_of("plain", "staged")
    labels = np.zeros((FILMS, len(LABELS)), np.int8)
    labels[0, 0] = 1  # of fold 0, and annotated
    for path in ("members.plain.stages.only", "members.staged.stages.teacher"):
        chosen = changed(recipe, f"{path}.schedule.{field}", value)
        before, after = planned(chosen), planned(chosen, material(labels=labels))
        same = {name for name in before if before[name].identity == after[name].identity}
        assert same == {"staged/fold0/teacher", "staged/fold0/student", "staged/fold0/finetune", "plain/fold0/only"} - {
            name for name in before if name.startswith(path.split(".")[1])
        }
    overlay = changed(recipe, f"members.staged.stages.teacher.schedule.{field}", value)
    moved = material(
        lines={f"s{i}": [Line(LABELS[0], np.full((2, 2), i + (i == 0), float))] for i in range(0, FILMS, 2)}
    )
    before, after = planned(overlay), planned(overlay, moved)
    assert before["staged/fold0/teacher"].identity != after["staged/fold0/teacher"].identity


def test_changed_lines_redo_only_what_looks_at_lines():
    recipe = recipe_of("plain", "staged", "two-step", "multi-task")
    lines = {f"s{i}": [Line(LABELS[0], np.full((2, 2), i + 1, float))] for i in range(0, FILMS, 2)}
    after = planned(recipe, material(lines=lines))
    every = {f"{name}/{stage}" for name, member in recipe.members.items() for stage in member.stages}
    assert redone(planned(recipe), after) == every - {"plain/only"}


@pytest.mark.parametrize(
    ("target", "looks"),
    [
        ({"labels": {}}, False),
        ({"labels": {}, "presence": {}}, True),
        ({"labels": {}, "maps": {}}, True),
        ({"labels": {}, "retrieval": {}}, True),
        ({"labels": {}, "retrieval": {"tips": None}}, False),
    ],
)
def test_a_tip_that_is_not_seen_after_all_redoes_what_is_taught_by_lines(target, looks):
    recipe = changed(recipe_of("plain"), "members.plain.stages.only.targets", target)
    before = material()
    lines = dict(before.own.lines) | {"s0": [replace(line, tip_seen=False) for line in before.own.lines["s0"]]}
    after = planned(recipe, material(lines=lines))
    assert redone(planned(recipe, before), after) == ({"plain/only"} if looks else set())


def test_a_segmenter_that_saw_no_own_film_needs_none_that_saw_fewer():
    recipe = recipe_of("two-step")
    segmenter = {"films": {"set": "b"}, "targets": {"soft_maps": {"file": "w.safetensors", "ancestry": "trusted"}}}
    steps = planned(changed(recipe, "members.two-step.stages.segmenter", segmenter), wanted=[0])
    assert list(steps) == [f"two-step/fold0/{stage}" for stage in ("segmenter", "classifier", "longer")]
    assert [parent.name for parent in steps["two-step/fold0/classifier"].parents] == ["maps"]


def test_parts_of_a_batch_that_films_do_not_give_are_refused_before_training():
    recipe = changed(recipe_of("plain"), "members.plain.stages.only.schedule", {"batch": 64, "accumulate": 64})
    said = r"members.plain.stages.only.schedule.accumulate: 64 micro-batches do not divide a batch of \d+, all films"
    with pytest.raises(Error, match=said):
        planned(recipe)


def test_a_moved_landmark_redoes_what_learns_maps_and_who_sees_them():
    recipe, moved = recipe_of("plain", "staged", "two-step"), material()
    moved.own.landmarks["s3"] = {"carina": np.array([3.0, 4.0])}  # of fold 1, not annotated: no segmenter's film
    assert redone(planned(recipe), planned(recipe, moved)) == set()
    moved.own.landmarks["s2"] = {"carina": np.array([3.0, 4.0])}
    found = redone(planned(recipe), planned(recipe, moved))
    assert {"two-step/segmenter", "two-step/classifier", "two-step/longer"} <= found and "plain/only" not in found


def test_tube_labels_matter_to_those_who_learn_them():
    recipe = recipe_of("plain", "from-b")
    tubes = np.ones((16, len(PRESENCE)), np.float32)
    after = planned(recipe, material(found=external(presence=tubes)))
    assert redone(planned(recipe), after) == {"from-b/tubes", "from-b/finetune"}


@pytest.mark.parametrize("field", ["start", "soft"])
def test_the_content_of_a_file_is_part_of_what_uses_it_and_of_its_descendants(tmp_path, field):
    path = tmp_path / "given"
    path.write_text("one")
    recipe = recipe_of("plain", "staged", "of-staged")
    value = ("start", {"file": str(path)}) if field == "start" else ("targets", {"soft": {"file": str(path)}})
    recipe = changed(recipe, f"members.of-staged.stages.soft.{value[0]}", value[1])
    before = planned(recipe)
    assert not redone(before, planned(recipe))
    path.write_text("two")
    assert redone(before, planned(recipe)) == {"of-staged/soft", "of-staged/finetune"}
    path.unlink()
    assert redone(before, planned(recipe)) == {"of-staged/soft", "of-staged/finetune"}, "a dry run may do without it"


def test_a_start_file_may_name_the_fold_that_is_held_out(tmp_path):
    recipe = changed(recipe_of("plain"), "members.plain.stages.only.start", {"file": str(tmp_path / "net-{fold}.pt")})
    for fold in range(3):
        (tmp_path / f"net-{fold}.pt").write_text(f"{fold}")
    before = planned(recipe)
    (tmp_path / "net-1.pt").write_text("another")
    after = planned(recipe)
    others = {name for name, step in after.items() if step.identity != before[name].identity}
    assert others == {"plain/fold1/only"}, "a fold depends on its own file alone"


# -- twins


def test_a_twin_of_a_held_out_film_goes_with_all_films_of_its_patient_in_that_fold_alone():
    recipe, films = recipe_of("plain", "from-b"), material()
    stage = recipe.members["from-b"].stages["soft"]
    studies = films.external["b"].studies["study"].to_numpy()
    fold_of = dict(zip(films.own.studies["patient"], films.folds, strict=True))
    for fold in range(3):
        trained = set(studies[films.training(stage, (fold,))])
        assert not trained & {"b8", "b9"}, "twins of test films are in no fold"
        for twins, own in (({"b0", "b1"}, "p0"), ({"b4", "b5"}, "p19")):
            assert (trained & twins == twins) == (fold_of[own] != fold)
            assert not trained & twins or trained >= twins
        assert trained >= {f"b{i}" for i in (2, 3, 6, 7, *range(10, 16))}
    both = set(studies[films.training(stage, (0, fold_of["p19"]))])
    assert not both & {"b0", "b1", "b4", "b5"}


def test_found_twins_redo_the_folds_that_lose_films_and_what_those_learn():
    recipe = recipe_of("plain", "from-b")
    before = planned(recipe, material(found=external(twins=[])))
    after = planned(recipe, material(found=external(twins=[("b0", "s0", "p0", "train")])))
    assert redone(before, after) == {"from-b/soft", "from-b/tubes", "from-b/finetune"}
    assert before["from-b/fold0/soft"].films == 16
    assert [after[f"from-b/fold{fold}/soft"].films for fold in range(3)] == [14, 16, 16]


def test_a_fold_without_films_says_why():
    twins = [(f"b{2 * i}", "s0", "p0", "train") for i in range(8)]
    with pytest.raises(
        ValueError, match=r"from-b.stages.soft has no films to train on in fold 0: of the set b 16 films"
    ):
        planned(recipe_of("plain", "from-b"), material(found=external(twins=twins)))
    nobody = material(lines={"foreign": []})
    with pytest.raises(ValueError, match=r"0 of 40 films are annotated \(train_annotations.csv\); use films.which"):
        planned(recipe_of("staged"), nobody)


def test_a_policy_changed_in_a_recipe_changes_its_steps():
    recipe, where = recipe_of("plain", "self", "multi-task"), "members.multi-task.stages.only.films.augment"
    before = planned(changed(recipe, where, {"policy": "light"}))
    for more in ({"shift_scale_rotate": 0.5, "rotate": 5}, {"crop_area": [0.7, 1.0]}, {"order": ["gamma"]}):
        after = planned(changed(recipe, where, {"policy": "light", **more}))
        assert redone(before, after) == {"multi-task/only"}, more


def test_a_number_of_a_policy_changes_the_steps_that_use_it(monkeypatch):
    recipe = changed(recipe_of("plain", "self", "multi-task"), "members.multi-task.stages.only.films.augment", "none")
    before = planned(recipe)
    monkeypatch.setitem(POLICIES["light"], "crop_area", (0.8, 1.0))
    assert redone(before, planned(recipe)) == {"plain/only", "self/only"}


def test_a_stage_of_another_member_is_the_same_folds_and_planned_once_whichever_member_comes_first():
    for names in (("staged", "onward"), ("onward", "staged")):
        steps = planned(recipe_of(*names))
        assert len(steps) == 3 * 4
        assert list(steps).index("staged/fold1/student") < list(steps).index("onward/fold1/only")
        assert parents_of(steps["onward/fold1/only"]) == {"start": StepId("staged", (1,), "student")}


def test_what_changes_in_another_members_stage_redoes_what_starts_from_it_and_no_more():
    recipe = recipe_of("plain", "staged", "onward")
    other = changed(recipe, "members.staged.stages.student.schedule.epochs", 9)
    assert redone(planned(recipe), planned(other)) == {"staged/student", "staged/finetune", "onward/only"}


def test_several_teachers_each_hold_out_both_folds_and_what_they_start_from_as_well():
    steps = planned(recipe_of("plain", "staged", "onward", "of-both"))
    assert parents_of(steps["of-both/fold0/only"]) == {
        f"soft {fold} of {name}": StepId(name, (0, fold), "only") for fold in (1, 2) for name in ("plain", "onward")
    }
    assert parents_of(steps["onward/fold0+1/only"]) == {"start": StepId("staged", (0, 1), "student")}
    assert steps["of-both/fold0/only"].teachers(2) == [StepId(name, (0, 2), "only") for name in ("plain", "onward")]


def test_two_teachers_are_not_one_teacher():
    recipe = recipe_of("plain", "staged", "onward", "of-both")
    one = changed(recipe, "members.of-both.stages.only.targets.soft.of", "plain")
    assert redone(planned(recipe), planned(one)) == {"of-both/only"}


def test_a_member_is_trained_on_its_folds_and_its_teachers_where_they_are_needed():
    recipe = changed(recipe_of("plain", "from-b"), "members.from-b.folds", [0])
    recipe = changed(recipe, "members.plain.folds", [2])
    names = set(planned(recipe))
    assert {name for name in names if name.startswith("from-b/fold")} == {
        f"from-b/fold0/{stage}" for stage in ("soft", "tubes", "finetune")
    }
    assert {name for name in names if name.startswith("plain")} == {"plain/fold0/only", "plain/fold2/only"}
    assert set(planned(recipe, wanted=[2])) == {"plain/fold2/only"}


def test_folds_change_no_step():
    recipe = recipe_of("plain", "from-b")
    assert not redone(planned(recipe), planned(changed(recipe, "members.from-b.folds", [0])))


def test_folds_without_an_averaged_member_are_refused():
    recipe = changed(recipe_of("plain"), "members.plain.folds", [2])
    with pytest.raises(ValueError, match=r"no member that is averaged is trained on folds \[0, 1\]"):
        planned(recipe, wanted=[0, 1])
    with pytest.raises(ValueError, match=r"members.plain.folds names \[2\]; this recipe has folds \[0, 1\]"):
        planned(recipe, films=material(2), wanted=[0, 1])


def test_a_teacher_with_a_file_for_each_fold_cannot_label_own_films(tmp_path):
    recipe = changed(recipe_of("plain", "self"), "members.plain.stages.only.targets", {"soft": {"file": "x{fold}.csv"}})
    with pytest.raises(ValueError, match=r"holds out 2 folds, but targets.soft.file names a file for each fold"):
        planned(recipe)
    started = changed(recipe_of("plain", "self"), "members.plain.stages.only.start", {"file": "x{fold}.safetensors"})
    with pytest.raises(ValueError, match=r"holds out 2 folds, but start.file names a file for each fold"):
        planned(started)
    once = changed(
        recipe_of("plain"), "members.plain.stages.only.targets", {"soft": {"file": f"{tmp_path}/{{fold}}.csv"}}
    )
    before = planned(once)
    (tmp_path / "1.csv").write_text("changed")
    assert {n for n, step in planned(once).items() if step.identity != before[n].identity} == {"plain/fold1/only"}
