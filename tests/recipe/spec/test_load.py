"""Recipes as they are written: read, laid over, and refused with the way out."""

import pytest

from cxrlines.recipe.spec.load import RecipeError, load_recipe, recipe_of, shipped
from cxrlines.recipe.spec.stage import FileStart

SMALL = """
name: small
defaults:
  schedule: {epochs: 2, lr: 0.001}
members:
  one:
    backbone: resnet50d
    stages:
      teacher: {films: {which: annotated, view: overlay}}
      student: {films: {which: annotated}, targets: {features: {of: teacher}, labels: {}}, schedule: {lr: 0.01}}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_valid(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about


def test_three_stage_is_the_published_table():
    stages = load_recipe("three-stage").members["resnet200d"].stages
    teacher, student, finetune = stages.values()
    assert (teacher.films.view, teacher.films.which, teacher.start, teacher.schedule.epochs) == (
        "overlay", "annotated", "imagenet", 4,
    )  # fmt: skip
    assert student.start == "imagenet" and student.schedule.epochs == 5 and student.films.view == "plain"
    assert student.targets.features.of == "teacher" and student.targets.features.weight == 0.5
    assert student.targets.labels.weight == 1
    assert finetune.start == "student" and finetune.films.which == "all"
    assert finetune.schedule.shape == "restarts" and finetune.schedule.restart_epochs == 5
    for stage in stages.values():
        schedule = stage.schedule
        assert (schedule.optimizer, schedule.lr, schedule.end_lr, schedule.weight_decay, schedule.batch) == (
            "adam", 5e-4, 1e-6, 1e-6, 16,
        )  # fmt: skip


def test_recommended_is_hotwaters_networks_and_films_of_ones_own_alone():
    ours, theirs = load_recipe("recommended"), load_recipe("hotwater")
    assert {member.backbone for member in ours.members.values()} == {m.backbone for m in theirs.members.values()}
    assert not ours.external and ours.folds == theirs.folds
    for name, member in ours.members.items():
        assert not member.exclusive and member.head == "gap" and ours.decodes(ours.source(name))
        lines, finetune = member.stages.values()
        assert (lines.start, lines.films.which, finetune.start, finetune.films.which) == (
            "imagenet", "annotated", "lines", "all",
        )  # fmt: skip
        for stage in (lines, finetune):
            assert stage.targets.labels and stage.targets.maps, "its decoder is kept up to date, for findings"
            assert not stage.films.flip


def test_defaults_lie_under_every_stage(write):
    stages = load_recipe(write(SMALL)).members["one"].stages
    assert stages["teacher"].schedule.epochs == stages["student"].schedule.epochs == 2
    assert stages["teacher"].schedule.lr == 0.001
    assert stages["student"].schedule.lr == 0.01


def test_set_changes_one_field_of_one_member_only():
    recipe = load_recipe("three-stage", ["members.resnet50d.stages.teacher.schedule.epochs=1.5", "size=320"])
    assert recipe.size == 320
    assert recipe.members["resnet50d"].stages["teacher"].schedule.epochs == 1.5
    assert recipe.members["resnet200d"].stages["teacher"].schedule.epochs == 4


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("siez=3", "siez: there is no such field; allowed: .*size.*did you mean 'size'"),
        ("size=huge", "size: is 'huge'; .*valid integer"),
        ("size=9", "size: is 9; .*greater than or equal to 32"),
        ("size=[64]", r"size: is \[64\]; a size is px a side, or \[height, width\]"),
        ("store.size=[640, 9]", "store.size: is .*9.*greater than or equal to 32"),
        ("members.one.stages.teacher.schedule.epoch=3", r"members.one.stages.teacher.schedule.epoch: .*mean 'epochs'"),
        ("members.one.decoder=u-net", "decoder is 'u-net'; allowed: unet, separable .*did you mean 'unet'"),
        ("members.one.head=gemm", "head is 'gemm'; allowed: .*did you mean 'gem'"),
        ("members.one.stages.student.start=techer", "start is 'techer'; allowed: .*did you mean 'teacher'"),
        ("members.one.stages.student.targets.features.of=x", "features.of is 'x'; allowed: teacher"),
        ("members.one.stages.student.films.augment=hotwatre", "did you mean 'hotwater'"),
        (
            "members.one.stages.student.films.augment={policy: light, rotate: 200}",
            r"films.augment.rotate is 200; .*180",
        ),
        ("members.one.stages.student.films.augment={policy: light, clage: 1}", "augment.clage: .*mean 'clahe'"),
        ("members.one.stages.student.films.which=all", "needs the annotated lines; make it 'annotated'"),
        ("members.one.stages.student.films.view=overlay", "a last stage must read plain films"),
        ("members.one.stages.student.schedule.shape=restarts", "shape: restarts and restart_epochs go together"),
        ("ensemble.members=[two]", "ensemble.members names 'two'; allowed: one"),
        ("members.tow.head=gem", "there is no 'tow'; there are: one"),
        ("size.x=3", "size has no fields; give it a value: --set size=VALUE"),
        (
            "member.one.stages.student.start=scratch",
            r"a recipe has no field 'member'; allowed: .*members.* \(did you mean 'members'\?\)",
        ),
        ("members.one.stages.student.films.augment.clage=1", "augment.clage: .*allowed: policy, .*mean 'clahe'"),
        ("defaults=3", "defaults is 3; it has the fields of a stage"),
        ("=3", "'=3' has no field; write it as path.to.field=value"),
        ("members.one=", "members.one: is None; must be fields with their values"),
        ("nonsense", "write it as path.to.field=value"),
        ("about=a: b: c", "is not YAML; put it in quotes"),
        ("members.one.stages.teacher.films.view=plain", "'teacher', which sees plain films; a teacher is a stage with"),
        ("members.one.stages.student.schedule.patience=0", "patience: is 0; .*greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(write, setting, said):
    path = write(SMALL + "size: 512\n")
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        load_recipe(path, [setting])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("start={fiel: w.pt}", ["start.file: is missing", "start.fiel: there is no such field; allowed: file, "]),
        ("start=3", ["start: is 3; must be a valid string or fields with their values"]),
        ("films.augment=3", ["films.augment: is 3; must be a valid string or fields with their values"]),
        ("targets.soft={of: one, temperature: warm}", ["temperature: is 'warm'; must be a valid number or 'dynamic'"]),
        ("targets.maps={kinds: [lin]}", ["maps.kinds.0: is 'lin'; must be 'line', 'tip' or 'landmark'"]),
    ],
)
def test_a_value_of_several_kinds_is_wrong_once(write, setting, said):
    stage = "members.one.stages.student."
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(SMALL), [f"{stage}{setting}"])
    lines = caught.value.what.splitlines()[1:]
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert line.startswith(f"  {stage}") and words in line


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("file", r"start is 'scratch', which has no fields; replace it, e.g. --set '.*student.start=\{file: "),
        ("fiel", "student.start has no field 'fiel'; allowed: file, .*mean 'file'"),
    ],
)
def test_a_field_below_a_value_is_refused_with_the_fields_there_are(write, field, said):
    text = SMALL.replace("student: {", "student: {start: scratch, ")
    with pytest.raises(RecipeError, match=said):
        load_recipe(write(text), [f"members.one.stages.student.start.{field}=x"])


@pytest.mark.parametrize("place", ["members.one.stages.student", "members.*.stages.stud*", "defaults"])
@pytest.mark.parametrize(("given", "policy"), [("", "light"), ("films: {augment: hotwater}", "hotwater")])
def test_a_field_of_a_policy_is_set_whether_it_is_named_or_left_out(write, place, given, policy):
    path = write(SMALL.replace("defaults:\n", f"defaults:\n  {given}\n"))
    stage = load_recipe(path, [f"{place}.films.augment.clahe=0.1"]).members["one"].stages["student"]
    assert stage.films.augment == {"policy": policy, "clahe": 0.1}


def test_a_parameter_that_changes_nothing_is_refused_by_its_path(write):
    said = (
        r"members.one: stages.student.films.augment.rotate is 10, but the probability augment.shift_scale_rotate is 0"
    )
    with pytest.raises(RecipeError, match=said):
        load_recipe(write(SMALL), ["members.*.stages.stud*.films.augment.rotate=10"])


def test_an_overlay_stage_cannot_start_from_a_plain_one(write):
    text = SMALL.replace("teacher: {films", "plain: {}\n      teacher: {start: plain, films")
    with pytest.raises(RecipeError, match=r"start is 'plain', which sees one channel"):
        load_recipe(write(text))


def test_settings_of_defaults_reach_every_stage(write):
    stages = load_recipe(write(SMALL), ["defaults.schedule.batch=8"]).members["one"].stages
    assert {stage.schedule.batch for stage in stages.values()} == {8}


WILD = """
name: wild
external: {b: {}}
members:
  gem-one: {backbone: resnet10t, stages: {first: {schedule: {epochs: 3}}, last: {start: first}}}
  gem-two: {backbone: resnet10t, stages: {only: {films: {set: b}, targets: {soft: {of: gem-one}}}}}
  other: {backbone: resnet10t, stages: {last: {}}}
"""


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("members.*.stages.*.schedule.epochs=7", {"gem-one/first", "gem-one/last", "gem-two/only", "other/last"}),
        ("members.gem*.stages.*.schedule.epochs=7", {"gem-one/first", "gem-one/last", "gem-two/only"}),
        ("members.*.stages.last.films.flip=false", {"gem-one/last", "other/last"}),
        ("members.*-???.stages.[fo]*.size=96", {"gem-one/first", "gem-two/only"}),
        ("members.*.stages.*.targets.soft.temperature=2", {"gem-two/only"}),
        ("members.other.stages.*.targets.labels.class_weights=balanced", {"other/last"}),
    ],
)
def test_a_pattern_sets_every_match_and_nothing_else(write, setting, changed):
    path = write(WILD)
    before, after = load_recipe(path), load_recipe(path, [setting])
    assert {str(source) for source in before.sources() if after.spec(source) != before.spec(source)} == changed


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("members.gam*.stages.*.size=96", r"nothing matches it; the members are: gem-one, gem-two, other; \* stands"),
        ("members.*.stages.frist.size=96", "nothing matches it"),
        ("members.other.stages.*.targets.soft.temperature=2", "nothing matches it"),
        ("members.*.stages.*.start.file=x", "nothing matches it"),
        ("members.*.stages.*.schedule.epoch=1", "schedule.epoch: there is no such field; .*mean 'epochs'"),
        ("members.*.stages.*.shedule.epochs=1", "stages.first.shedule: there is no such field; .*mean 'schedule'"),
    ],
)
def test_a_pattern_without_a_match_is_an_error(write, setting, said):
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        load_recipe(write(WILD), [setting])


def test_a_setting_that_changes_nothing_is_said_once(write):
    said: list[str] = []
    path = write(WILD)
    same = ["size=512", "members.gem-one.stages.first.schedule.epochs=3", "size=512"]
    load_recipe(
        path, [*same, "members.*.stages.*.schedule.epochs=4", "members.*.stages.*.schedule.batch=16"], said.append
    )
    assert [line.partition(" changes nothing")[0] for line in said] == [
        "note: --set 'size=512'",
        "note: --set 'members.gem-one.stages.first.schedule.epochs=3'",
        "note: --set 'members.*.stages.*.schedule.batch=16'",
    ]
    said.clear()
    load_recipe(path, ["size=640", "members.*.stages.*.schedule.epochs=3"], said.append)
    assert not said


def test_a_setting_that_nothing_reads_is_said(write):
    said: list[str] = []
    settings = ["folds.count=7", "folds.seed=3", "tracking.mlflow=http://localhost:5000", "tracking.use=[csv]"]
    load_recipe(write(WILD), settings, said.append)
    assert said == [
        "note: --set 'tracking.mlflow=http://localhost:5000' changes nothing: "
        "tracking.use is ['csv'], and no tracker there takes it"
    ]
    said.clear()
    load_recipe(write(WILD), [*settings[:3], "folds.file=folds.csv", "tracking.use=[mlflow]"], said.append)
    assert said == [
        f"note: --set {setting!r} changes nothing: folds are read from folds.file, and none are drawn"
        for setting in settings[:2]
    ]


@pytest.mark.parametrize(
    "setting",
    [
        "members.resnet200d.stages.student.size=512",
        "members.*.stages.student.films.augment.rotate=45",
        "members.*.stages.student.films.augment={policy: light}",
        "members.*.stages.student.schedule.momentum=0.9",
        "members.*.stages.finetune.targets={labels: {loss: focal, gamma: 2}}",
        "members.*.stages.finetune.schedule.keep=best",
    ],
)
def test_the_value_that_holds_anyway_is_said_to_change_nothing(setting):
    others = [
        "members.*.stages.student.schedule.optimizer=sgd",
        "members.*.stages.finetune.targets={labels: {loss: focal}}",
        "members.*.stages.finetune.schedule.patience=2",
    ]
    said: list[str] = []
    load_recipe("three-stage", others, said.append)
    assert not said
    load_recipe("three-stage", [*others, setting], said.append)
    why = "it is the value that holds without it; steps that were trained without it are trained again"
    assert said[-1] == f"note: --set {setting!r} changes nothing: {why}"


def test_films_kept_smaller_than_they_are_seen_are_said(write):
    said: list[str] = []
    load_recipe(write(WILD), ["size=640", "store.size=[640, 600]"], said.append)
    assert len(said) == 1
    assert said[0].startswith("note: store.size is 640 x 600 px, and gem-one/first sees 640 px (")


def test_a_size_is_a_side_or_height_and_width(write):
    text = SMALL.replace(", targets: {features: {of: teacher}, labels: {}}", "")  # a teacher's size is its student's
    recipe = load_recipe(write(text), ["size=[96, 64]", "store.size=[80, 80]", "members.one.stages.teacher.size=48"])
    assert (recipe.size, recipe.store.size) == ((96, 64), 80)
    assert [recipe.size_of("one", stage) for stage in ("teacher", "student")] == [48, (96, 64)]
    written = recipe.model_dump(mode="json")
    assert (written["size"], written["store"]["size"]) == ([96, 64], 80)
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("precision", ["16", "32", "bf16", "auto"])
def test_precision_can_be_typed(write, precision):
    recipe = load_recipe(write(SMALL), [f"members.one.stages.student.schedule.precision={precision}"])
    assert recipe.members["one"].stages["student"].schedule.precision == precision


def test_a_date_is_text(write):
    assert load_recipe(write(SMALL + "about: 2026-11-22\n")).about == "2026-11-22"


def test_all_wrong_fields_are_said_at_once(write):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(SMALL), ["siez=3", "sede=4"])
    assert "siez" in str(error.value) and "sede" in str(error.value)


def test_the_same_error_of_several_stages_is_said_once():
    with pytest.raises(RecipeError) as error:
        load_recipe(
            "three-stage", ["members.*.stages.*.schedule.epoch=3", "members.*.stages.student.films.flips=false"]
        )
    _, epoch, flips = str(error.value).splitlines()
    assert epoch.startswith("  members.resnet200d.stages.teacher.schedule.epoch: ")
    assert epoch.endswith("(did you mean 'epochs'?) (8 more likewise)")
    assert flips.startswith("  members.resnet200d.stages.student.films.flips: ") and "(2 more likewise)" in flips


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'three-stage'"):
        load_recipe("three-stages")


def test_not_yaml(write):
    with pytest.raises(RecipeError, match="is not valid YAML"):
        load_recipe(write("a: [1"))
    with pytest.raises(RecipeError, match="holds list"):
        load_recipe(write("- 1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "  one: {backbone: resnet18}\n", "(?s)'one' is there twice.*line 11"),
        (SMALL.replace("{lr: 0.01}", "{lr: 0.01, lr: 0.02}"), "(?s)'lr' is there twice.*line 10"),
        (SMALL.replace("  one:", "  on:"), "(?s)the name 'on' is no text in YAML; put it in quotes.*line 6"),
    ],
)
def test_a_name_that_is_there_twice_or_is_no_text_is_refused_with_its_line(write, text, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(write(text))


def test_a_field_replaces_that_of_a_merge(write):
    text = (
        SMALL
        + """      third: &third {start: student, schedule: {epochs: 7}}
      fourth: &fourth {<<: *third, start: third}
      last: {<<: *fourth, start: fourth}
"""
    )
    stages = load_recipe(write(text)).members["one"].stages
    assert [stages[name].start for name in ("third", "fourth", "last")] == ["student", "third", "fourth"]
    assert stages["last"].schedule.epochs == 7


OUTSIDE = """
name: outside
external: {b: {}}
members:
  one:
    backbone: resnet50d
    stages:
      only: {start: {file: weights.pt}}
  two:
    backbone: resnet50d
    stages:
      soft: {films: {set: b}, targets: {soft: {of: one, temperature: dynamic}}}
"""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("external.c.folder=x", "there is no 'c'; there are: b"),
        ("external.b.foldr=x", "external.b.foldr: there is no such field; allowed: folder.*did you mean 'folder'"),
        ("members.one.stages.only.start.fiel=x", r"start.*fiel: there is no such field; allowed: file"),
        ("members.two.stages.soft.targets.soft.keepabove=0.3", "allowed: weight, of, .*did you mean 'keep_above'"),
        ("members.two.stages.soft.targets.soft.temperature=warm", "temperature.*is 'warm'; .*'dynamic'"),
        (
            "members.two.stages.soft.targets.presnce={}",
            r"allowed: labels, features, soft, presence, maps, retrieval, soft_maps \(did you mean",
        ),
        ("members.two.stages.soft.targets.soft.keep_above=1.5", "keep_above: is 1.5; .*less than 1"),
        ("guard=ignore", "guard: is 'ignore'; .*'refuse' or 'report'"),
    ],
)
def test_wrong_fields_of_soft_labels_sets_and_files_are_named(write, setting, said):
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        load_recipe(write(OUTSIDE), [setting])


def test_files_and_folders_are_given_by_settings(write):
    settings = ["external.b.folder=/films of b", "members.one.stages.only.start.file=/other.safetensors"]
    recipe = load_recipe(write(OUTSIDE), settings)
    assert recipe.external["b"].folder == "/films of b"
    assert recipe.members["one"].stages["only"].start == FileStart(file="/other.safetensors")


def test_the_leak_is_refused_at_load_and_the_way_to_measure_it_is_said(write):
    setting = "members.one.stages.finetune.fold_shift=1"
    text = SMALL + "      finetune: {start: student}\n"
    with pytest.raises(RecipeError, match=r"fold_shift is 1: .* leave it out, or set guard: report to measure"):
        load_recipe(write(text), [setting])
    assert load_recipe(write(text), [setting, "guard=report"]).guard == "report"


def test_an_alias_shared_by_members_is_a_copy_for_each(write):
    text = SMALL.replace("one:", "one: &it", 1) + "  two: *it\n"
    members = load_recipe(write(text), ["members.one.stages.teacher.schedule.epochs=9"]).members
    assert members["one"].stages["teacher"].schedule.epochs == 9
    assert members["two"].stages["teacher"].schedule.epochs == 2


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"a: &a [*a]", b"2020-01-01: 1", b"[1, 2]", b"a: [", b"? [1, 2]\n: 3", b"", b"[" * 5000]
)
def test_a_file_that_is_no_recipe_is_the_users_error_with_a_way_out(tmp_path, content):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "r.yaml"))
    assert "r.yaml" in caught.value.what and caught.value.way_out


def test_what_is_wrong_and_the_way_out_are_fields(write):
    for settings in (["size=9"], ["members.one.hed=gem"], ["nonsense"], ["members.tow.head=gem"], ["about=a: b: c"]):
        with pytest.raises(RecipeError) as caught:
            load_recipe(write(SMALL), settings)
        assert caught.value.what and caught.value.way_out
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(SMALL), ["members.one.stages.teacher.schedule.epochs=-1"])
    assert "members.one.stages.teacher.schedule.epochs" in caught.value.what
    with pytest.raises(RecipeError) as caught:
        load_recipe("thre-stage")
    assert "'three-stage'" in caught.value.way_out


@pytest.mark.parametrize(
    "spoilt", [lambda text: text[:-20], lambda text: text.replace('"size"', '"sizes"'), lambda t: ""]
)
def test_the_recipe_of_a_run_that_is_cut_or_of_another_version_is_refused(tmp_path, spoilt):
    recipe = load_recipe("demo")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    assert recipe_of(tmp_path) == recipe
    (tmp_path / "recipe.json").write_text(spoilt(recipe.model_dump_json()))
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path)
    assert str(tmp_path / "recipe.json") in caught.value.what
    assert len(caught.value.what) < len(recipe.model_dump_json()) / 2, "the file is not repeated in the message"
    assert "version" in caught.value.way_out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=-5", "seed: is -5; must be"),
        ("folds.seed=-1", "folds.seed: is -1; must be"),
        (
            "members.one.stages.student.schedule.clip=.inf",
            "members.one.stages.student.schedule.clip is inf; give a finite",
        ),
        (
            "members.one.stages.student.schedule.weight_decay=1e400",
            "schedule.weight_decay is inf; give a finite number",
        ),
        (
            "members.one.stages.student.schedule.clip=yes",
            "members.one.stages.student.schedule.clip is true; give a number",
        ),
        ("members.one.stages.teacher.schedule.validate_films=true", "schedule.validate_films is true; give a number"),
        ("members.one.stages.student.schedule.epochs=on", "schedule.epochs is true; give a number"),
        ("seed=false", "seed is false; give a number"),
        ("size=[true, 64]", "size"),
    ],
)
def test_a_number_is_finite_and_no_truth_value(write, setting, said):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(SMALL), [setting])
    assert said in error.value.what


def test_true_and_false_are_fine_where_they_are_asked_for(write):
    recipe = load_recipe(write(SMALL), ["members.one.stages.*.films.flip=yes"])
    assert all(stage.films.flip is True for _, stage in recipe.stages())
