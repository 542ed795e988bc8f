"""What a recipe may say, and what of it contradicts itself; the texts of these errors."""

import copy

import pytest
import yaml
from pydantic import ValidationError

from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import FileStart

BASE = yaml.safe_load("""
name: base
external: {b: {}}
members:
  one:
    backbone: resnet10t
    stages:
      teacher: {films: {which: annotated, view: overlay}}
      student: {films: {which: annotated}, targets: {features: {of: teacher}, labels: {}}}
      finetune: {start: student}
  two:
    backbone: resnet10t
    stages:
      soft: {films: {set: b}, targets: {soft: {of: one}}}
      last: {start: soft}
""")


def made(**changes) -> Recipe:
    """BASE with fields set; `one__stages__teacher` is a path below `members`, any other name a field of the recipe.

    `three` is a third member, given by its stages.
    """
    content = copy.deepcopy(BASE)
    for path, value in changes.items():
        if path == "three":
            content["members"]["three"] = {"backbone": "resnet10t", "stages": value}
            continue
        *way, last = path.split("__")
        at = content["members"] if way else content
        for key in way:
            at = at[key]
        at[last] = value
    return Recipe.model_validate(content)


SOFT = {"soft": {"of": "one"}}
MAPPED = {"maps": {}}
SEGMENTED = {"segmenter": {"films": {"which": "annotated"}, "targets": MAPPED}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # features teach no labels
        ({"one__stages__last": {"films": {"which": "annotated"}, "targets": {"features": {"of": "teacher"}}}},
         "stages.last.targets names features alone: a last stage must learn labels too"),
        ({"one__stages__student__targets": {"features": {"of": "teacher"}},
          "one__stages__student__schedule": {"keep": "best"}},
         "schedule.keep is best, which watches the AUC of labels, but targets names features alone"),
        ({"one__stages__student__targets": {"features": {"of": "teacher"}},
          "two__stages__soft__targets": {"soft": {"of": "one/student"}}},
         "'one/student'; stages of one that read plain films: finetune"),
        # soft labels
        ({"two__stages__last": {"targets": {"soft": {"of": "on"}}}},
         r"members.two.stages.last.targets.soft.of is 'on'; allowed: one, two \(did you mean 'one'"),
        ({"two__stages__last": {"targets": {"soft": {"of": "two"}}}},
         "members.two.stages.last: two/last -> two/last is a cycle, each made from the next; let one of them start"),
        ({"one__stages__finetune": {"targets": {"soft": {"of": "two"}}}},
         "one.stages.finetune: one/finetune -> two/last -> two/soft -> one/finetune is a cycle"),
        ({"two__stages__last": {"targets": {"soft": {"of": ["one", "one"]}}}}, "of is one, one: name each once"),
        ({"two__stages__last": {"targets": {"soft": {"of": []}}}}, "at least 1 item"),
        ({"two__stages__last": {"targets": {"soft": {"of": ["one", "one/teacher"]}}}}, "soft.of is 'one/teacher'; sta"),
        ({"two__stages__last": {"targets": {"soft": {"of": "one/teacher"}}}},
         "'one/teacher'; stages of one that read plain films: student, finetune"),
        ({"two__stages__last": {"targets": {"soft": {"of": "one/studnet"}}}}, "did you mean 'student'"),
        ({"two__stages__last": {"targets": {"soft": {}}}}, "name either `of`, a member or several, or `file`, a table"),
        ({"two__stages__last": {"targets": {"soft": {"of": "one", "file": "x.csv"}}}}, "name either `of`"),
        ({"two__stages__last": {"targets": {"soft": {"file": "x.csv", "temperature": "dynamic"}}}},
         "temperature: dynamic is fitted to a member's predictions; with a file give a number"),
        ({"two__stages__last": {"targets": {"soft": {"of": "one", "keep_above": 1}}}}, "less than 1"),
        ({"two__stages__last": {"targets": {"soft": {"of": "one", "temperature": 0}}}}, "greater than 0"),
        # batches
        ({"one__stages__finetune": {"films": {"draw": "squares"}}},
         "stages.finetune.films.draw is 'squares', but no lines are shown"),
        ({"two__stages__soft": {"films": {"set": "b", "sampling": "rare"}, "targets": SOFT}},
         "films.sampling is 'rare', but films of the set 'b' have no labels; use uniform, or set: own"),
        ({"one__stages__finetune": {"films": {"colour_by": "device"}}},
         "stages.finetune.films.colour_by is 'device', but no lines are shown; use view: overlay, or leave it out"),
        ({"one__stages__finetune": {"films": {"rare_below": 0.2}}}, "films.rare_below is 0.2, which sampling"),
        ({"one__stages__finetune": {"films": {"mixup": 0.2}, "schedule": {"batch": 8, "accumulate": 8}}},
         "schedule.accumulate is 8: a micro-batch has one film, but films.mixup mixes the films of a micro-batch; "
         "use fewer of them"),
        ({"one__stages__finetune": {"films": {"cutmix": 1}, "schedule": {"batch": 6, "accumulate": 6}}},
         "a micro-batch has one film, but films.cutmix mixes the films of a micro-batch"),
        ({"one__stages__finetune": {"targets": {"labels": {}, "retrieval": {}}, "schedule": {"accumulate": 16}}},
         "a micro-batch has one film, but targets.retrieval compares the films of a micro-batch"),
        ({"one__stages__teacher": {"films": {"which": "annotated", "view": "overlay", "cutmix": 1}}},
         "films.cutmix is 1.0: films that are seen with lines or heatmaps are not mixed"),
        ({"one__stages__student": {"films": {"which": "annotated", "mixup": 0.2},
                                   "targets": {"features": {"of": "teacher"}}}},
         "films.mixup is 0.2, but targets.features is not learnt from mixed films"),
        ({"three": {"only": {"films": {"which": "annotated", "cutmix": 1}, "targets": {"maps": {}, "labels": {}}}}},
         "films.cutmix is 1.0, but targets.maps is not learnt from mixed films"),
        ({"three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter", "mixup": 1}}}},
         "films.mixup is 1.0: films that are seen with lines or heatmaps are not mixed"),
        ({"one__stages__finetune": {"films": {"mixup": -1}}}, "greater than or equal to 0"),
        # external sets
        ({"two__stages__soft": {"films": {"set": "c"}, "targets": SOFT}}, "films.set is 'c'; allowed: own, test, b"),
        ({"two__stages__soft": {"films": {"set": "b"}}},
         "targets.labels: films of the external set 'b' have no labels; .* soft and presence"),
        ({"two__stages__soft": {"films": {"set": "b"}, "targets": SOFT | {"labels": {}}}}, "targets.labels: films of"),
        ({"two__stages__soft": {"films": {"set": "b", "which": "annotated"}, "targets": SOFT}},
         "those of the external set 'b' have no lines; use which: all, view: plain"),
        ({"two__stages__soft": {"films": {"set": "b", "view": "overlay"}, "targets": SOFT}}, "'b' have no lines"),
        ({"external": {"own": {}}}, "'own' cannot be a name"),
        ({"two__stages__last": {"targets": {"labels": None}}},
         "targets is empty; name one or more of labels, features, soft, presence, maps"),
        # maps
        ({"two__stages__soft": {"films": {"set": "b"}, "targets": SOFT | MAPPED}},
         "targets.maps: films of the external set 'b' have no annotated lines"),
        ({"one__stages__teacher": {"films": {"which": "annotated", "view": "overlay"}, "targets": MAPPED}},
         "targets.maps: a stage that is shown the lines cannot learn to find them; use view: plain"),
        ({"three": {"map": {"targets": MAPPED, "schedule": {"patience": 3}}, "only": {}}},
         "stages.map.schedule.patience is 3, which watches the AUC of labels, but targets names maps alone"),
        ({"three": {"map": {"targets": {"retrieval": {}}, "schedule": {"keep": "best"}}, "only": {}}},
         "schedule.keep is best, which watches the AUC of labels, but targets names retrieval alone; leave it out"),
        ({"one__stages__finetune": {"targets": MAPPED}},
         "stages.finetune.targets names maps alone: a last stage must learn labels too"),
        ({"one__stages__finetune": {"targets": {"maps": {"kinds": []}, "labels": {}}}}, "maps.kinds.* at least 1 item"),
        ({"one__stages__finetune": {"targets": {"maps": {"kinds": ["lines"]}, "labels": {}}}},
         "maps.kinds.*'line', 'tip' or 'landmark'"),
        ({"one__stages__finetune": {"targets": {"maps": {"weight": 0}, "labels": {}}}}, "greater than 0"),
        ({"one__stages__finetune": {"films": {"maps_of": "student"}}},
         "films.maps_of is 'student'; allowed: none, no earlier stage has targets.maps"),
        ({"three": SEGMENTED | {"last": {"films": {"maps_of": "segmentor"}}}},
         r"films.maps_of is 'segmentor'; allowed: segmenter \(did you mean 'segmenter'"),
        ({"three": {"first": {"films": {"maps_of": "segmenter"}}} | SEGMENTED},
         "maps_of is 'segmenter'; allowed: none, no earlier stage has targets.maps"),
        ({"three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter", "view": "overlay", "which": "annotated"}}}},
         "films.maps_of: heatmaps are shown beside a plain film; use view: plain"),
        ({"three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter"}, "targets": MAPPED | {"labels": {}}}}},
         "targets.maps: a stage that is shown the lines cannot learn to find them"),
        ({"three": SEGMENTED | {"last": {"start": {"file": "w.pt"}, "films": {"maps_of": "segmenter"}}}},
         "start is a file: a network that sees heatmaps starts from imagenet, scratch or a stage"),
        ({"three": SEGMENTED | {"last": {"start": "segmenter", "films": {"maps_of": "segmenter"}}}},
         "start is 'segmenter', which sees the heatmaps of no stage, and films.maps_of is segmenter: both must be"),
        ({"three": SEGMENTED | {"mid": {"films": {"maps_of": "segmenter"}}, "last": {"start": "mid"}}},
         "start is 'mid', which sees the heatmaps of segmenter, and films.maps_of is none: both must be the same"),
        ({"three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter"}, "size": 96}}},
         "films.maps_of is 'segmenter', which sees 512 px, and this stage 96 px: make it one even size"),
        ({"size": [64, 63], "three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter"}}}},
         "which sees 64 x 63 px, and this stage 64 x 63 px: make it one even size"),
        ({"size": 511, "three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter"}}}},
         "which sees 511 px, and this stage 511 px: make it one even size"),
        ({"three": {"segmenter": SEGMENTED["segmenter"] | {"films": {"which": "annotated", "flip": False}},
                    "last": {"films": {"maps_of": "segmenter"}}}},
         "three.stages.last.films.maps_of is 'segmenter', which was trained without flips, and this stage flips"),
        ({"three": {"segmenter": SEGMENTED["segmenter"] | {"schedule": {"validate_films": 100}}, "last": {}}},
         "stages.segmenter.schedule.validate_films is 100, films whose AUC of labels is watched, but "
         "targets names maps alone; leave it out, or make it 0"),
        ({"two__decoder": "separable"},
         r"members.two.decoder is 'separable', but no stage of it learns heatmaps \(targets.maps, targets.soft_maps\)"),
        # features
        ({"one__stages__teacher": {"films": {"which": "annotated", "view": "overlay", "flip": False}}},
         "one.stages.student.targets.features.of is 'teacher', which was trained without flips, and this stage "
         "flips films: .*; make films.flip the same"),
        ({"one__stages__teacher": {"films": {"which": "annotated", "view": "overlay"}, "size": 256}},
         "targets.features.of is 'teacher', which sees 256 px, and this stage 512 px: both read the same film, "),
        ({"three": SEGMENTED | {"last": {}}, "ensemble": {"members": ["three/segmenter"]}},
         "ensemble.members names 'three/segmenter'; stages of three that read plain films: last"),
        # test films
        ({"two__stages__soft": {"films": {"set": "test"}, "targets": SOFT}},
         "films.set is 'test': test films are then seen before they are scored; leave it out, or say "
         "films.pseudo_labels: allowed, which every figure of test films will then state"),
        ({"two__stages__soft": {"films": {"set": "test", "pseudo_labels": "allowed"}}},
         "targets.labels: films of the test set have no labels"),
        ({"two__stages__soft": {"films": {"set": "test", "pseudo_labels": "allowed"}, "targets": {"presence": {}}}},
         "targets names presence; test films are learnt by soft labels alone"),
        ({"two__stages__soft": {"films": {"set": "b", "pseudo_labels": "allowed"}, "targets": SOFT}},
         "films.pseudo_labels is for set: test; here films.set is 'b'"),
        ({"external": {"b": {}, "test": {}}}, "external.test cannot be a name"),
        # folds
        ({"two__folds": [5]}, r"members.two.folds names \[5\]; this recipe has folds 0 to 4"),
        ({"two__folds": []}, "members.two.folds.* at least 1 item"),
        ({"two__folds": [1, 1]}, r"folds is \[1, 1\]: name each once"),
        ({"two__folds": [-1]}, "greater than or equal to 0"),
        ({"two__folds": [0], "ensemble": {"how": "rank"}},
         r"ensemble.how is rank, .* different folds \(one: all; two: \[0\]\); name members of the same folds"),
        ({"two__folds": [0], "ensemble": {"how": "fitted"}}, "ensemble.how is fitted"),
        # starts
        ({"two__stages__last": {"start": "sotf"}},
         r"start is 'sotf'; allowed: imagenet, scratch, soft, MEMBER/STAGE, \{file: PATH\} \(did you mean 'soft'"),
        ({"two__stages__last": {"fold_shift": 1}}, "fold_shift is 1, but start is no stage"),
        ({"two__stages__last": {"start": {"file": "x"}, "fold_shift": 1}}, "fold_shift is 1, but start is no stage"),
        ({"two__stages__last": {"start": "one/finetun"}},
         r"members.two.stages.last.start is 'one/finetun'; allowed: one/teacher, .*\(did you mean 'one/finetune'"),
        ({"two__stages__last": {"start": "one/finetune"}, "two__backbone": "resnet18"},
         "start is 'one/finetune', whose backbone is resnet10t, and this member's is resnet18: start from a member"),
        ({"one__stages__teacher": {"start": "two/last", "films": {"which": "annotated", "view": "overlay"}}},
         "members.one.stages.teacher.start is 'two/last', which sees one channel"),
        ({"one__stages__student": {"start": "two/last"}},
         "one.stages.student: one/student -> two/last -> two/soft -> one/finetune -> one/student is a cycle"),
        ({"three": SEGMENTED | {"last": {"films": {"maps_of": "segmenter"}}},
          "two__stages__last": {"start": "three/last"}},
         "start is 'three/last', which sees the heatmaps of segmenter, and films.maps_of is none"),
        ({"one__stages__finetune": {"start": "student", "fold_shift": 1}},
         "members.one.stages.finetune.fold_shift is 1: it starts from a step that saw the films it is scored on; "
         "leave it out, or set guard: report to measure what the leak is worth"),
        # the ensemble
        ({"ensemble": {"members": ["one/teacher"]}}, "ensemble.members names 'one/teacher'; stages of one that read"),
        ({"ensemble": {"members": ["three"]}}, "ensemble.members names 'three'; allowed: one, two"),
        ({"ensemble": {"members": ["one", "two", "one"]}}, "ensemble.members is one, two, one: name each once"),
        ({"ensemble": {"members": ["one", "one/finetune"]}}, "name each once; a member alone is its last stage"),
        ({"ensemble": {"how": "median"}}, "'power', 'weighted' or 'fitted'"),
        ({"ensemble": {"power": 0.001}}, "greater than or equal to 0.01"),
        ({"ensemble": {"power": 2}}, "power is 2, but how is mean, and only power reads it; leave it out"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_said_with_the_way_out(changes, said):
    with pytest.raises(ValidationError, match=f"(?s){said}"):
        made(**changes)


def test_a_stage_may_start_from_another_members_whichever_comes_first_and_keeps_its_decoder():
    stages = {"only": {"start": "four/maps"}}
    content = made(three=stages | {"only": {}}).model_dump()
    content["members"]["three"]["stages"]["only"]["start"] = "four/maps"
    four = {"maps": {"targets": {"labels": {}, "maps": {}}}}
    content["members"]["four"] = {"backbone": "resnet10t", "head": "gem", "stages": four}
    recipe = Recipe.model_validate(content)
    only, maps = Source("three", "only"), Source("four", "maps")
    assert recipe.origin(only) == maps and recipe.parents(only) == [maps] and recipe.decodes(only)
    assert recipe.made_of(only) == [recipe.spec(only), recipe.spec(maps)]


def test_a_member_may_learn_the_soft_labels_of_its_own_earlier_stage():
    recipe = made(one__stages__finetune={"targets": {"soft": {"of": ["one/student", "two"]}}}, two__stages__soft={})
    assert recipe.parents(Source("one", "finetune")) == [("one", "student"), ("two", "last")]


def test_what_a_leak_is_worth_can_be_measured_on_purpose():
    recipe = made(one__stages__finetune={"start": "student", "fold_shift": 1}, guard="report")
    assert recipe.members["one"].stages["finetune"].fold_shift == 1


def test_soft_and_hard_labels_mix_on_own_films():
    recipe = made(two__stages__last={"targets": SOFT | {"labels": {"weight": 0.3}}})
    assert recipe.members["two"].stages["last"].targets.named.keys() == {"labels", "soft"}


def test_sources_are_members_by_their_last_stage_or_any_stage_by_name():
    recipe = made(ensemble={"members": ["one", "one/student"]})
    assert recipe.averaged == ("one", "one/student")
    assert [recipe.source(name) for name in recipe.averaged] == [("one", "finetune"), ("one", "student")]
    assert made().averaged == ("one", "two"), "none named: all"


def test_of_a_segmenter_that_saw_external_films_alone_no_stage_saw_own_ones():
    external = {"films": {"set": "b"}, "targets": {"soft_maps": {"file": "w.safetensors"}}}
    recipe = made(three={"segmenter": external, "last": {"films": {"maps_of": "segmenter"}}})
    assert recipe.of_own_films(Source("three", "segmenter")) == []
    assert recipe.of_own_films(Source("three", "last")) == [recipe.spec(Source("three", "last"))]


def test_a_stage_may_see_films_of_its_own_size():
    recipe = made(two__stages__last={"size": 96})
    assert (recipe.size_of("two", "last"), recipe.size_of("two", "soft")) == (96, recipe.size)


def test_a_decoder_is_named_where_one_is_learnt_or_taken_over():
    learns = {"only": {"targets": MAPPED | {"labels": {}}}}
    for stages in (learns, learns | {"last": {"start": "only"}}, SEGMENTED | {"last": {}}):
        content = copy.deepcopy(BASE)
        content["members"]["three"] = {"backbone": "resnet10t", "decoder": "separable", "stages": stages}
        assert Recipe.model_validate(content).members["three"].decoder == "separable"


def test_films_to_watch_are_none_where_no_labels_are_learnt():
    assert made(three={"segmenter": SEGMENTED["segmenter"] | {"schedule": {"validate_films": 0}}, "last": {}})


def test_a_file_to_start_from_is_no_earlier_stage():
    stage = made(two__stages__last={"start": {"file": "w.pt"}}).members["two"].stages["last"]
    assert stage.start == FileStart(file="w.pt") and stage.started_from is None
    assert made().members["two"].stages["last"].started_from == "soft"
    assert made().members["two"].stages["soft"].started_from is None


def test_a_segmenter_says_no_labels_and_its_reader_has_no_decoder_of_its_own():
    recipe = made(three=SEGMENTED | {"last": {"films": {"maps_of": "segmenter"}}})
    three = [source for source in recipe.sources() if source.member == "three"]
    assert [recipe.spec(source).targets.classifies for source in three] == [False, True]
    assert [recipe.decodes(source) for source in three] == [True, False]


def test_a_stage_that_goes_on_from_one_with_a_decoder_keeps_it():
    stages = {"first": {"targets": MAPPED | {"labels": {}}}, "mid": {"start": "first"}, "last": {"start": "mid"}}
    recipe = made(three=stages)
    member = recipe.members["three"]
    assert [recipe.decodes(Source("three", name)) for name in stages] == [True] * 3
    assert recipe.made_of(Source("three", "last")) == [member.stages[name] for name in ("last", "mid", "first")]


def test_what_a_stage_is_made_of_is_where_it_started_and_whom_it_learnt_from():
    recipe = made()
    stages = recipe.members["one"].stages
    assert recipe.made_of(Source("one", "finetune")) == [stages[name] for name in ("finetune", "student", "teacher")]
    assert recipe.made_of(Source("one", "teacher")) == [stages["teacher"]]


def test_a_recipe_written_down_is_read_as_it_was():
    recipe = made(two__stages__last={"start": {"file": "w.pt"}, "targets": {"soft": {"of": "one", "temperature": 1}}})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def averaging(**ensemble: object) -> Recipe:
    stages = {"a": {"films": {"flip": True}}, "b": {"films": {"flip": False}}}
    members = {name: {"backbone": "resnet10t", "stages": {"only": stage}} for name, stage in stages.items()}
    return Recipe.model_validate({"name": "t", "members": members, "ensemble": ensemble})


def test_each_averaged_member_has_a_weight_and_no_other():
    assert averaging(how="weighted", weights={"a": 2, "b": 1}).ensemble.weights == {"a": 2, "b": 1}
    assert averaging(how="weighted", members=["b"], weights={"b": 1}).averaged == ("b",)
    for more, says in (
        ({"how": "weighted"}, "ensemble.weights has none for a, b: give each"),
        ({"how": "weighted", "weights": {"a": 1}}, "has none for b"),
        ({"how": "weighted", "weights": {"a": 1, "bb": 1}}, "names 'bb'; averaged are: a, b"),
        ({"how": "weighted", "weights": {"a": 1, "b": 1}, "members": ["a"]}, "names 'b'; averaged are: a"),
        ({"how": "weighted", "weights": {"a": 1, "b": 0}}, "greater than 0"),
        ({"how": "mean", "weights": {"a": 1, "b": 1}}, "only weighted takes weights"),
    ):
        with pytest.raises(ValueError, match=says):
            averaging(**more)


def test_views_name_views_and_flips_need_members_that_saw_flips():
    assert averaging().ensemble.views is None
    assert averaging(views={"scales": [0.9, 1.1]}).ensemble.views.names == ("scale",)
    assert averaging(members=["a"], views={"flip": True, "scales": [1.1]}).ensemble.views.names == ("flip", "scale")
    for views, says in (
        ({}, "names no view"),
        ({"scales": [1.0, 1.1]}, "not 1, which is the plain view"),
        ({"scales": [1.1, 1.1]}, "each once"),
        ({"scales": [0.4]}, "greater than or equal to 0.5"),
        ({"flip": True}, "views.flip is true, and b was trained without flips"),
    ):
        with pytest.raises(ValueError, match=says):
            averaging(views=views)


@pytest.mark.parametrize(("segmenter", "classifier"), [(True, True), (True, False), (False, False)])
def test_a_two_step_model_saw_flips_if_both_of_it_did(segmenter, classifier):
    stages = {
        "segmenter": {"films": {"which": "annotated", "flip": segmenter}, "targets": {"maps": {}}},
        "classifier": {"films": {"maps_of": "segmenter", "flip": classifier}},
    }
    recipe = Recipe.model_validate({"name": "t", "members": {"m": {"backbone": "resnet10t", "stages": stages}}})
    assert recipe.saw_flips("m", "segmenter") == segmenter
    assert recipe.saw_flips("m", "classifier") == (segmenter and classifier)
