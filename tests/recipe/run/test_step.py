"""Steps that start from files, learn from files, or leak on purpose: what is recorded, reported and refused."""

import errno
import gc
import html
import json
import re
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from cxrlines.core.errors import Error
from cxrlines.io.external.layouts import PRESENCE
from cxrlines.io.patients import key_name, tokens
from cxrlines.models.weights import load_weights, save_weights
from cxrlines.reading.bundle import load_bundle
from cxrlines.recipe.run import pipeline as pipeline_module
from cxrlines.recipe.run import scored_predictions as scored_module
from cxrlines.recipe.run import step as step_module
from cxrlines.recipe.run import training_data as films_module
from cxrlines.recipe.run.execute import RunError, do_plan
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, RECORD, WEIGHTS, lineage_of, read_record
from cxrlines.recipe.run.pipeline import STEPS, plan_of, prepare, train
from cxrlines.recipe.run.report import OUT_OF_FOLD, TESTED, write_run_report
from cxrlines.recipe.run.scored_predictions import is_scored
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import RecipeError, load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.training.lineage import Ancestry, LeakError, Lineage, UntracedError, read_lineage
from cxrlines.training.sampling import repeat_factors

OUTSIDE = """
name: outside
size: 64
guard: report
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 1, validate_films: 0}}
members:
  plain: {backbone: resnet10t, stages: {only: {start: scratch}}}
  public: {backbone: resnet10t, stages: {first: {start: {file: PUBLIC}}, last: {start: first}}}
  taught: {backbone: resnet10t, stages: {only: {start: scratch, targets: {soft: {file: SOFT}}}}}
"""

LEAK = """
name: leak
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
guard: report
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 1, validate_films: 0}}
members:
  mixed: {backbone: resnet10t, stages: {first: {start: scratch}, last: {start: first, fold_shift: 1}}}
"""


@pytest.fixture(scope="module")
def soft_labels_of(phantom):
    """Writes soft labels of every film, at random, with columns or rows changed."""

    def write(path, change=lambda table: table):
        studies = pd.read_csv(phantom / "train.csv")[STUDY_COLUMN]
        values = np.random.default_rng(0).uniform(0.05, 0.95, (len(studies), len(LABELS))).round(3)
        change(pd.DataFrame(values, columns=list(LABELS)).assign(**{STUDY_COLUMN: studies})).to_csv(path, index=False)
        return path

    return write


@pytest.fixture(scope="module")
def outside(phantom, soft_labels_of, do_here, tmp_path_factory):
    """A run with someone else's weights and someone else's soft labels."""
    folder = tmp_path_factory.mktemp("outside")
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t").state_dict(), folder / "public.safetensors")
    soft_labels_of(folder / "labels.csv")
    recipe = load_recipe(written(folder, OUTSIDE))
    return do_here(prepare(recipe, phantom, folder / "run", 1))


def written(folder, text, where=None):
    path = (where or folder) / "recipe.yaml"
    text = text.replace("PUBLIC", str(folder / "public.safetensors")).replace("SOFT", str(folder / "labels.csv"))
    path.write_text(text)
    return str(path)


# -- files


def test_unknown_ancestry_is_in_every_lineage_that_descends_from_a_file_and_in_no_other(outside):
    for step in plan_of(outside, None):
        untraced = read_lineage(outside.folder(step.key) / LINEAGE).untraced()
        member, held, _ = step.key
        first = f"public/fold{held[0]}/first: public.safetensors \\(sha256 [0-9a-f]{{12}}\\)"
        expected = {"public": first, "taught": f"{step.name}: soft labels of labels.csv"}.get(member)
        assert len(untraced) == (expected is not None), step.name
        assert expected is None or re.fullmatch(expected, untraced[0])


ONWARD = """
name: onward
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 0.2, validate_films: 0}}
members:
  further: {backbone: resnet10t, stages: {only: {start: {file: FILE}}}}
"""
PLAIN = "plain/fold{fold}/only/weights.safetensors"
TRUSTED = "members.further.stages.only.start.ancestry=trusted"


@pytest.mark.parametrize("head", ["adopt", "leave"])
def test_the_record_says_whether_the_head_of_a_public_file_came_along(outside, phantom, tmp_path, head):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=len(LABELS)).state_dict()
    torch.save({"model": theirs, "preds": np.zeros((3, len(LABELS)))}, tmp_path / "kernel.pth")
    settings = [TRUSTED, f"members.further.stages.only.start.head={head}"]
    recipe = load_recipe(written(tmp_path, ONWARD.replace("FILE", str(tmp_path / "kernel.pth"))), settings)
    run = prepare(recipe, phantom, tmp_path / "run", 1)
    step = plan_of(run, None)[0]
    do_step(run, step, lambda status: None)
    record = json.loads((run.folder(step.key) / "step.json").read_text())["weights"]
    said = "head: 11 outputs of model.fc, taken to be the labels in RANZCR CLiP's order"
    assert (said in record["adapted"]) == ("head.2.weight" in record["loaded"]) == (head == "adopt")
    assert ("head.2.weight" in record["fresh"]) == (head == "leave")
    assert any(line.startswith("model.fc.weight: ") for line in record["left_out"]) == (head == "leave")


@pytest.fixture
def onward(outside, phantom, tmp_path):
    """Prepares a run that starts from a file, in which `{fold}` is the fold held out; relative to the run `outside`."""

    def make(file, *settings):
        (tmp_path / "recipe.yaml").write_text(ONWARD.replace("FILE", json.dumps(str(outside.root / file))))
        recipe = load_recipe(str(tmp_path / "recipe.yaml"), list(settings))
        return prepare(recipe, phantom, tmp_path / f"run{len(list(tmp_path.glob('run*')))}", 1)

    return make


def refusing(run):
    """The run, prepared under guard: report, under guard: refuse."""
    return replace(run, recipe=run.recipe.model_copy(update={"guard": "refuse"}))


def do_first(run):
    """Do the step that holds out fold 0; its lineage."""
    step = plan_of(run, [0])[0]
    do_step(run, step, lambda status: None)
    return read_lineage(run.folder(step.key) / LINEAGE)


def test_a_start_from_a_step_of_an_earlier_run_has_that_steps_lineage(outside, onward):
    lineage = do_first(onward(PLAIN))
    before = read_lineage(outside.root / "plain/fold0/only" / LINEAGE)
    assert lineage.parents == (("start", before),) and lineage.untraced() == lineage.vouched_for() == []


def test_what_was_unknown_of_a_start_stays_unknown_until_it_is_trusted(outside, onward):
    file = "public/fold{fold}/last/weights.safetensors"
    before = read_lineage(outside.root / "public/fold0/last" / LINEAGE).untraced()
    assert len(before) == 1
    run = onward(file, "guard=report")
    with pytest.raises(UntracedError, match=r"public\.safetensors"):
        do_first(refusing(run))
    reported = do_first(run)
    assert reported.untraced() == before and not reported.vouched_for()
    trusted = do_first(onward(file, TRUSTED))
    assert trusted.vouched_for() == before and not trusted.untraced()


def test_a_start_from_an_earlier_run_that_saw_the_patients_held_out_is_refused_trusted_or_not(onward):
    for trust in ([], [TRUSTED]):
        with pytest.raises(LeakError, match="plain/fold1/only") as error:
            do_first(onward("plain/fold1/only/weights.safetensors", *trust))
        assert not isinstance(error.value, UntracedError)


def test_a_renamed_copy_without_its_lineage_file_still_knows_whom_it_has_seen(outside, onward, tmp_path):
    for fold in (0, 1):
        shutil.copy(outside.root / f"plain/fold{fold}/only" / WEIGHTS, tmp_path / f"copy{fold}.safetensors")
    assert do_first(onward(tmp_path / "copy0.safetensors")).untraced() == []
    with pytest.raises(LeakError, match="plain/fold1/only"):
        do_first(onward(tmp_path / "copy1.safetensors"))


def test_a_file_out_of_a_bundle_still_knows_whom_it_has_seen(outside, onward, tmp_path):
    bundle = packed(outside, tmp_path, members=["plain"])
    assert do_first(onward(bundle / "plain-fold{fold}.safetensors")).untraced() == []
    for trust in ([], [TRUSTED]):
        with pytest.raises(LeakError, match="cut key"):
            do_first(onward(bundle / "plain-fold1.safetensors", *trust))


def test_weights_of_which_nothing_is_known_count_as_having_seen_everybody(outside, onward, tmp_path):
    tensors, meta = load_weights(outside.root / "plain/fold0/only" / WEIGHTS)
    save_weights(tmp_path / "bare.safetensors", tensors, {"config": meta["config"]})
    with pytest.raises(UntracedError, match=r"bare\.safetensors.*only\.start\.ancestry=trusted"):
        onward(tmp_path / "bare.safetensors")
    run = onward(tmp_path / "bare.safetensors", "guard=report")
    with pytest.raises(UntracedError, match=r"bare\.safetensors"):
        do_first(refusing(run))
    run = onward(tmp_path / "bare.safetensors", TRUSTED)
    lineage = do_first(run)
    assert not lineage.untraced()
    assert re.fullmatch(r"further/fold0/only: bare.safetensors \(.*\)", *lineage.vouched_for())
    step = plan_of(run, [0])[0]
    assert read_record(run.folder(step.key))["trusted"] and run.is_done(step)


def test_weights_under_another_sites_key_count_as_unknown(outside, onward, tmp_path, monkeypatch):
    tensors, meta = load_weights(outside.root / "plain/fold0/only" / WEIGHTS)
    own = Lineage("theirs", frozenset(tokens(["someone"], key_name())))
    save_weights(tmp_path / "own.safetensors", tensors, meta | {"lineage": own.text()})
    assert do_first(onward(tmp_path / "own.safetensors")).untraced() == []
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(tmp_path / "another.key"))
    with pytest.raises(UntracedError, match="another site"):
        do_first(onward(tmp_path / "own.safetensors"))
    trusted = do_first(onward(tmp_path / "own.safetensors", TRUSTED))
    assert len(trusted.vouched_for()) == 1 and not trusted.untraced()


def test_a_lineage_is_read_from_the_header_else_beside_the_weights_of_a_step(outside, tmp_path):
    folder = shutil.copytree(outside.root / "plain/fold0/only", tmp_path / "only")
    known = read_lineage(folder / LINEAGE)
    (folder / LINEAGE).unlink()
    assert lineage_of(folder / WEIGHTS) == known
    tensors, meta = load_weights(folder / WEIGHTS)
    save_weights(folder / WEIGHTS, tensors, {"config": meta["config"]})  # as cxrlines 0.1 wrote it
    assert lineage_of(folder / WEIGHTS) is None
    (folder / LINEAGE).write_text(known.text())
    assert lineage_of(folder / WEIGHTS) == known
    shutil.copy(folder / WEIGHTS, folder / "other.safetensors")
    assert lineage_of(folder / "other.safetensors") is None
    for spoilt in ("{", "[]", "[[", '{"step": "x"}', '{"format": 2, "patients": {}, "steps": []}'):
        (folder / LINEAGE).write_text(spoilt)
        assert lineage_of(folder / WEIGHTS) is None
    (folder / LINEAGE).write_text(known.text())
    (folder / RECORD).write_text("{")
    assert lineage_of(folder / WEIGHTS) is None
    (tmp_path / "x.pth").write_bytes(b"no weights")
    assert lineage_of(tmp_path / "x.pth") is None and lineage_of(tmp_path / "missing") is None


def test_what_is_trusted_is_in_every_lineage_that_descends_from_it(phantom, outside, tmp_path):
    text = OUTSIDE.replace("guard: report\n", "").replace("PUBLIC}", "PUBLIC, ancestry: trusted}")
    recipe = load_recipe(written(outside.root.parent, text.replace("SOFT}", "SOFT, ancestry: trusted}"), tmp_path))
    run = prepare(recipe, phantom, tmp_path / "run", 1)
    for step in plan_of(run, [0]):
        do_step(run, step, lambda status: None)
        lineage = read_lineage(run.folder(step.key) / LINEAGE)
        assert not lineage.untraced() and bool(lineage.vouched_for()) == (step.key.member != "plain"), step.name


def test_steps_that_guard_report_let_pass_are_not_taken_under_refuse(outside):
    again = refusing(outside)
    for step in plan_of(outside, None):
        assert outside.is_done(step)
        assert again.is_done(step) == (step.key.member == "plain"), step.name
    with pytest.raises(UntracedError, match=r"labels\.csv"):
        do_step(again, next(s for s in plan_of(again, [0]) if s.key.member == "taught"), lambda status: None)


# -- what metrics, report and bundle say of it


def packed(run, tmp_path, **ensemble):
    """The bundle of a finished run, or of some of its members."""
    root = shutil.copytree(run.root, tmp_path / "packed")
    content = run.recipe.model_dump() | ({"ensemble": ensemble} if ensemble else {})
    (root / "recipe.json").write_text(Recipe.model_validate(content).model_dump_json())
    (root / STEPS).write_text(json.dumps({step.name: step.identity for step in plan_of(run, None)}))
    return export_run(root, tmp_path / "bundle", onnx=False)


@pytest.mark.parametrize("state", list(Ancestry))
def test_metrics_and_report_say_of_who_saw_whom_what_the_lineages_say(outside, tmp_path, state):
    """A run of one member, whose lineages and records are made to say it."""
    root = shutil.copytree(outside.root, tmp_path / "run")
    member = {"plain": outside.recipe.members["plain"]}
    run = replace(outside, root=root, recipe=outside.recipe.model_copy(update={"members": member}))
    for step in plan_of(run, None):
        folder = run.folder(step.key)
        of = {state.value: (f"weights of {state}.pth",)} if state in ("unknown", "trusted") else {}
        (folder / LINEAGE).write_text(replace(read_lineage(folder / LINEAGE), **of).text())
        leak = {"leak": "refused to score: 3 of 4", "test_leak": "refused to score: 1 of 2"} if state == "leak" else {}
        (folder / RECORD).write_text(json.dumps(read_record(folder) | leak))
    write_run_report(run, plan_of(run, None), "test")
    metrics, page = json.loads((root / "metrics.json").read_text()), html.unescape((root / "report.html").read_text())
    assert metrics["scope"] == TESTED[state] and metrics["out_of_fold"]["scope"] == OUT_OF_FOLD[state]
    assert set(metrics["ancestry_unknown"]) == ({"plain"} if state == "unknown" else set())
    assert set(metrics["ancestry_trusted"]) == ({"plain"} if state == "trusted" else set())
    for other in Ancestry:
        assert (TESTED[other] in page) == (OUT_OF_FOLD[other] in page) == (other is state), other
    assert ("no model saw" in page) == (state == "clean")
    assert ("†" in page) == (f"weights of {state}.pth" in page) == (state in ("unknown", "trusted"))
    assert ("leak, reported and not refused" in page) == (state == "leak")


def test_unknown_ancestry_is_told_in_metrics_report_and_bundle(outside, tmp_path):
    metrics, page = (outside.root / name for name in ("metrics.json", "report.html"))
    unknown = json.loads(metrics.read_text())["ancestry_unknown"]
    assert set(unknown) == {"public", "taught"}
    assert "soft labels of labels.csv" in unknown["taught"] and "public.safetensors" in unknown["public"]
    assert "soft labels of labels.csv" in page.read_text() and "public.safetensors" in page.read_text()
    bundle = load_bundle(packed(outside, tmp_path))
    assert len(bundle.manifest.meta["ancestry_unknown"]) == 4 and not bundle.manifest.meta["ancestry_trusted"]
    assert "What its first weights were trained on is not known." in bundle.notice


def test_a_start_from_a_file_is_recorded_with_what_became_of_it(outside):
    adopted = read_record(outside.root / "public/fold0/first")["weights"]
    assert adopted["source"].startswith("public.safetensors (sha256 ")
    assert any("3 input channels summed into 1" in line for line in adopted["adapted"])
    assert read_record(outside.root / "plain/fold0/only")["weights"] == "random"


STARTED = """
name: started
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 0.1, validate_films: 0}}
members:
  one:
    backbone: resnet10t
    stages:
      teacher: {start: scratch, films: {which: annotated, view: overlay}}
      last: {start: teacher}
  other: {backbone: resnet10t, head: gem, stages: {only: {start: one/last}}}
"""


def test_a_start_from_a_stage_is_recorded_with_what_was_adapted_and_what_began_anew(phantom, tmp_path):
    run = prepare(load_recipe(written(tmp_path, STARTED)), phantom, tmp_path / "run", 1)
    for step in plan_of(run, [0]):
        do_step(run, step, lambda status: None)
    found = {name: read_record(run.root / name)["weights"] for name in ("one/fold0/last", "other/fold0/only")}
    last, only = found.values()
    assert last["source"] == "one/fold0/teacher" and last["fresh"] == []
    assert len(last["adapted"]) == 1 and "3 input channels summed into 1" in last["adapted"][0]
    assert only["source"] == "one/fold0/last" and only["adapted"] == []
    assert only["fresh"] and all(name.startswith("head.") for name in only["fresh"])


def test_soft_labels_of_a_file_are_what_is_learnt(outside, soft_labels_of, tmp_path):
    step = next(step for step in plan_of(outside, [0]) if step.name == "taught/fold0/only")
    stage = outside.recipe.members["taught"].stages["only"]
    rows = outside.films.training(stage, (0,))
    films, _ = films_module.training_films(outside, step, stage, rows, lambda status: None)
    table = pd.read_csv(soft_labels_of(tmp_path / "labels.csv")).set_index(STUDY_COLUMN)
    studies = outside.train.studies["study"].iloc[rows]
    assert films.more["soft"] == pytest.approx(table.loc[studies, list(LABELS)].to_numpy(np.float32))


def test_another_file_redoes_what_uses_it(phantom, outside, soft_labels_of):
    folder = outside.root.parent
    soft_labels_of(folder / "labels.csv", lambda table: table.assign(weight=1))
    todo = [step.name for step in plan_of(outside, None) if not outside.is_done(step)]
    soft_labels_of(folder / "labels.csv")
    assert todo == ["taught/fold0/only", "taught/fold1/only"]
    assert all(outside.is_done(step) for step in plan_of(outside, None))


@pytest.mark.parametrize(
    ("text", "field"),
    [("PUBLIC", "public.stages.first.start.file"), ("SOFT", "taught.stages.only.targets.soft.file")],
)
def test_a_file_that_is_not_there_is_said_before_anything_is_written(phantom, tmp_path, text, field):
    (tmp_path / ("labels.csv" if text == "PUBLIC" else "public.safetensors")).write_text("there")
    recipe = load_recipe(written(tmp_path, OUTSIDE))
    with pytest.raises(RecipeError, match=rf"members.{field}: .* is no file; set it with --set members.{field}=PATH"):
        train(recipe, phantom, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_of_a_stage_with_two_files_the_missing_one_is_named(phantom, tmp_path):
    (tmp_path / "public.safetensors").write_text("there")
    text = OUTSIDE.replace("{start: scratch, targets: {soft", "{start: {file: PUBLIC}, targets: {soft")
    with pytest.raises(RecipeError, match=r"taught.stages.only.targets.soft.file: .*labels.csv is no file"):
        train(load_recipe(written(tmp_path, text)), phantom, tmp_path / "run")


def test_a_file_of_another_fold_that_is_not_there_is_said_before_a_step_is_done(phantom, tmp_path, soft_labels_of):
    soft_labels_of(tmp_path / "0.csv")
    (tmp_path / "public.safetensors").write_text("there")
    recipe = load_recipe(written(tmp_path, OUTSIDE.replace("SOFT", f'"{tmp_path}/{{fold}}.csv"')))
    with pytest.raises(RecipeError, match=r"taught.stages.only.targets.soft.file: .*1.csv is no file"):
        train(recipe, phantom, tmp_path / "run")
    assert not (tmp_path / "run/taught").exists()


def test_an_auc_that_films_cannot_give_is_said_before_training(outside):
    content = outside.recipe.model_dump()
    content["members"]["plain"]["stages"]["only"]["schedule"] |= {"patience": 2, "validate_films": 1}
    run = replace(outside, recipe=Recipe.model_validate(content))
    step = next(step for step in plan_of(run, [0]) if step.name == "plain/fold0/only")
    with pytest.raises(Error, match=r"plain/fold0/only: schedule.patience watches the AUC of 1 held-out films, and"):
        do_step(run, step, lambda status: None)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("patience: 2, validate_films: 1", "plain/fold0/only: schedule.patience watches the AUC of 1 held-out films"),
        ("precision: 16", "members.plain.stages.only.schedule.precision is 16, which needs a GPU"),
    ],
)
def test_what_a_schedule_cannot_have_here_is_said_before_a_step_is_done(phantom, tmp_path, monkeypatch, schedule, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pipeline_module, "do_plan", lambda *given: pytest.fail("a step is begun"))
    text = OUTSIDE.split("  public:")[0]
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(str(tmp_path / "recipe.yaml"), [f"members.plain.stages.only.schedule={{{schedule}}}"])
    with pytest.raises(Error, match=said):
        train(recipe, phantom, tmp_path / "run")


def test_a_finished_step_leaves_no_moments_beside_the_next(outside, tmp_path, monkeypatch):
    run, made = replace(outside, root=shutil.copytree(outside.root, tmp_path / "run")), []

    class Watched(step_module.StageModule):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            made.append(weakref.ref(self))

    monkeypatch.setattr(step_module, "StageModule", Watched)
    gc.disable()  # which else comes along at some time
    try:
        do_step(run, next(step for step in plan_of(run, [0]) if step.name == "plain/fold0/only"), lambda status: None)
    finally:
        gc.enable()
    assert len(made) == 1 and made[0]() is None


def test_a_checkpoint_of_another_backbone_costs_its_own_steps_alone(phantom, tmp_path, soft_labels_of, in_process):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "public.safetensors")
    soft_labels_of(tmp_path / "labels.csv")
    run = prepare(load_recipe(written(tmp_path, OUTSIDE)), phantom, tmp_path / "run", 1)
    with pytest.raises(
        RunError,
        match=r"(?s)2 of 4 steps are not done:.*public/fold0/first: .*public.safetensors: a checkpoint for another "
        r"backbone.*It fits timm's 'resnet18'.*public/fold0/last: not started",
    ):
        do_plan(run, plan_of(run, [0]), 1)
    assert {path.parent.parent.parent.name for path in run.root.glob("*/fold0/*/step.json")} == {"plain", "taught"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.iloc[1:], "1 studies that are trained on are not in it"),
        (lambda table: table.assign(**{STUDY_COLUMN: "x" + table[STUDY_COLUMN]}), "32 of its studies have no film"),
        (lambda table: table.assign(**{LABELS[0]: 1.5}), f"line 2: column {LABELS[0]} is '1.5', outside 0 to 1"),
        (lambda table: table.assign(weight=-1), "line 2: column weight is '-1'; a weight is a number, 0 or more"),
        (lambda table: table.drop(columns=LABELS[3]), f"lacks the column '{LABELS[3]}'"),
    ],
)
def test_a_file_of_soft_labels_that_cannot_be_used_says_why(outside, soft_labels_of, change, said):
    """Whether the missing study is trained on depends on the fold: one of the two must say so."""
    path = outside.root.parent / "labels.csv"
    soft_labels_of(path, change)
    try:
        with pytest.raises(ValueError, match=f"labels.csv.*{said}"):
            for step in plan_of(outside, None):
                if step.key.member == "taught":
                    stage = outside.recipe.members["taught"].stages["only"]
                    rows = outside.films.training(stage, step.key.held)
                    films_module.training_films(outside, step, stage, rows, lambda status: None)
    finally:
        soft_labels_of(path)


def test_tubes_that_the_set_does_not_name_cannot_be_learnt(soft_run):
    step = next(step for step in plan_of(soft_run, [0]) if step.key.stage == "tubes")
    stage = soft_run.recipe.members["from-b"].stages["tubes"]
    found, store = soft_run.external["b"]
    rows = soft_run.films.training(stage, (0,))
    tubes = {name: np.nan for name in PRESENCE}
    unknown = replace(found, studies=found.studies.assign(**tubes))
    blind = replace(soft_run, external={"b": (unknown, store)})
    with pytest.raises(ValueError, match=r"targets\.presence: .*set b"):
        films_module.training_films(blind, step, stage, rows, lambda status: None)


# -- leaks


def test_a_leak_on_purpose_is_in_the_record_the_notes_and_the_scope(phantom, tmp_path, do_here):
    run = do_here(prepare(load_recipe(written(tmp_path, LEAK)), phantom, tmp_path / "run", 1))
    steps = {step.name: step for step in plan_of(run, None)}
    for fold in (0, 1):
        assert read_record(run.root / f"mixed/fold{fold}/first")["leak"] is None
        leak = read_record(run.root / f"mixed/fold{fold}/last")["leak"]
        assert re.search(
            rf"patients were seen .* by way of mixed/fold{fold}/last <- start mixed/fold{1 - fold}/first", leak
        )
    page, metrics = (run.root / "report.html").read_text(), json.loads((run.root / "metrics.json").read_text())
    assert page.count("leak, reported and not refused (guard: report)") >= 2
    assert metrics["out_of_fold"]["scope"].endswith("each by models that saw its patient: a leak, see the notes")
    assert metrics["scope"] == "test films of patients no model saw", "the leak is of training films"
    (run.root / STEPS).write_text(json.dumps({step.name: step.identity for step in steps.values()}))
    meta = load_bundle(export_run(run.root, tmp_path / "bundle", onnx=False)).manifest.meta
    assert meta["leaks"] == ["mixed/fold0/last", "mixed/fold1/last"], "and no patient's key"
    refusing = replace(run, recipe=run.recipe.model_copy(update={"guard": "refuse"}))
    with pytest.raises(ValueError, match="mixed/fold0/last"):
        do_step(refusing, steps["mixed/fold0/last"], lambda status: None)


# -- what a step leaves


def test_every_stage_that_reads_plain_films_predicts_what_it_holds_out_and_judged_ones_the_test_films(soft_run):
    folds, studies = soft_run.folds.to_numpy(), soft_run.train.studies["study"].to_numpy()
    for step in plan_of(soft_run, None):
        folder = soft_run.folder(step.key)
        predicted = pd.read_csv(folder / HELD_OUT)[STUDY_COLUMN]
        assert sorted(predicted) == sorted(studies[np.isin(folds, step.key.held)])
        judged = step.fold is not None and step.key.stage != "tubes"
        assert is_scored(soft_run.recipe, step) == judged == (folder / "test_predictions.csv").exists()


def test_a_step_predicts_no_more_films_at_once_than_it_was_trained_on(phantom, tmp_path, monkeypatch):
    """Of soft labels and test films too, and over views: one that is trained on few would not fit in the memory."""
    shown, usual = [], films_module.predict_films

    def predicting(model, films, *, batch=32):
        shown.append(batch)
        return usual(model, films, batch=batch)

    for module in (films_module, scored_module):
        monkeypatch.setattr(module, "predict_films", predicting)
    text = LEAK.replace("{schedule: {batch: 8,", "{schedule: {batch: 8, accumulate: 4,").replace(
        "members:", "ensemble: {views: {flip: true}}\nmembers:"
    )
    run = prepare(load_recipe(written(tmp_path, text)), phantom, tmp_path / "run", 1)
    for step in plan_of(run, [0]):
        if step.name in ("mixed/fold1/first", "mixed/fold0/last"):
            do_step(run, step, lambda status: None)
    assert shown == [2] * 5, "held out of both, the test films of the last, and both over views"


def test_a_full_disk_in_the_middle_of_a_step_is_told_and_costs_that_step_alone(
    phantom, tiny_recipe, tmp_path, in_process, monkeypatch
):
    settings = [f"members.staged.stages.{stage}.schedule.epochs=0.2" for stage in ("teacher", "student", "finetune")]
    run = prepare(load_recipe(str(tiny_recipe), [*settings, "members.plain.stages.only.schedule.epochs=0.2"]), phantom,
                  tmp_path, 1)  # fmt: skip
    save = step_module.save_weights

    def full(path, tensors, meta):
        if "staged.fold0.student" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, tensors, meta)

    monkeypatch.setattr(step_module, "save_weights", full)
    with pytest.raises(
        RunError,
        match=r"(?s)2 of 4 steps are not done:.*staged/fold0/student: the disk is full at .*; free some space: .*"
        r"staged/fold0/finetune: not started.*finished steps are kept; .* run the same command",
    ):
        do_plan(run, plan_of(run, [0]), 1)
    records = [run.root / name / "step.json" for name in ("plain/fold0/only", "staged/fold0/teacher")]
    kept = [path.stat().st_mtime_ns for path in records]
    assert not (run.root / "staged/fold0/student").exists()
    monkeypatch.setattr(step_module, "save_weights", save)
    do_plan(run, plan_of(run, [0]), 1)
    assert load_weights(run.root / "staged/fold0/finetune" / WEIGHTS)[0]
    assert [path.stat().st_mtime_ns for path in records] == kept


BATCHES = """
name: batches
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
members:
  one:
    backbone: resnet10t
    stages:
      teacher: {start: scratch, films: {which: annotated, view: overlay, draw: squares, colour_by: device}}
      student: {start: scratch, films: {which: annotated}, targets: {features: {of: teacher}, labels: {}}}
      last:
        start: student
        films: {sampling: rare, rare_below: 0.2, mixup: 0.4, cutmix: 1, flip: false,
          augment: {policy: light, crop_area: [0.5, 1]}}
"""


def test_films_are_drawn_sampled_and_mixed_as_the_recipe_says(phantom, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    given = {}

    def stage_module(model, config, films, validation, **options):
        given["films"], given["validation"] = films, validation
        raise Enough

    (tmp_path / "batches.yaml").write_text(BATCHES)
    run = prepare(load_recipe(str(tmp_path / "batches.yaml")), phantom, tmp_path / "run", 1)
    monkeypatch.setattr(step_module, "StageModule", stage_module)
    monkeypatch.setattr(step_module, "load_step", lambda run, key: None)
    monkeypatch.setattr(step_module, "load_weights", lambda path: ({}, {}))
    monkeypatch.setattr(step_module, "load_into", lambda model, tensors: [])
    monkeypatch.setattr(type(run), "lineage", lambda run, key: Lineage(str(key), frozenset()))
    seen = {}
    for step in plan_of(run, [0]):
        with pytest.raises(Enough):
            do_step(run, step, lambda status: None)
        seen[step.key.stage] = dict(given)
    for name in ("teacher", "student"):
        films = seen[name]["films"]
        assert (films.overlay, films.draw, films.colour_by) == (True, "squares", "device")
        assert films.repeats is None and films.mixing is None
    watched = seen["teacher"]["validation"]
    assert (watched.overlay, watched.draw) == (True, "squares")
    last, held = seen["last"]["films"], seen["last"]["validation"]
    assert last.mixing == (0.4, 1.0) and not last.overlay
    assert (last.policy.crop_area, last.policy.flip) == ((0.5, 1.0), 0) and films.policy.flip == 0.5
    np.testing.assert_array_equal(last.repeats, repeat_factors(last.films.labels, 0.2))
    assert last.repeats.max() > last.repeats.min() == 1
    assert held.mixing is None and held.repeats is None
