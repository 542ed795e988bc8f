"""Whole runs: finished steps are skipped, a kill costs nothing but time, and leaks are refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from cxrlines.evaluation.ensemble.average import FittedWeights, ensemble
from cxrlines.evaluation.ensemble.fitted_weights import cross_fitted_blend
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.io.folds import make_folds
from cxrlines.io.patients import tokens
from cxrlines.models.weights import load_weights
from cxrlines.recipe.run import step as step_module
from cxrlines.recipe.run.execute import RunError, do_plan, workers_for
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, TEST, WEIGHTS, Run, StepId
from cxrlines.recipe.run.pipeline import plan_of, prepare, train
from cxrlines.recipe.run.report import OUT_OF_FOLD, write_run_report
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import RecipeError, load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS, STUDY_COLUMN, UNKNOWN
from cxrlines.training.lineage import Ancestry, LeakError, read_lineage

LAST = ("staged/fold0/finetune", "staged/fold1/finetune", "plain/fold0/only", "plain/fold1/only")


def records(root: Path) -> dict[str, int]:
    """Finished steps, each with the moment its record was written."""
    return {p.parent.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.glob("*/fold*/*/step.json")}


@pytest.fixture(scope="module")
def run(phantom, tiny_recipe, tmp_path_factory):
    """A run of the tiny recipe, done in one go, without a report's films to wait for."""
    root = tmp_path_factory.mktemp("run")
    return train(load_recipe(str(tiny_recipe)), phantom, root, workers=2, command="test")


def test_every_step_is_there_with_weights_lineage_and_history(run):
    assert len(records(run.root)) == 8
    for name in records(run.root):
        folder = run.root / name
        assert load_weights(folder / WEIGHTS)[0]
        assert len(pd.read_csv(folder / "history.csv")) >= 1
        assert list((folder / "tracking").rglob("events.out.tfevents*"))
    assert not list((run.root / ".work").iterdir())


def test_stages_that_read_plain_films_predict_what_they_hold_out_and_last_ones_the_test_films(run):
    for name in records(run.root):
        assert (run.root / name / HELD_OUT).exists() == (not name.endswith("teacher"))
        assert (run.root / name / TEST).exists() == (name in LAST)
    frames = [pd.read_csv(run.root / f"staged/fold{fold}/finetune" / HELD_OUT) for fold in (0, 1)]
    held_out = pd.concat(frames)[STUDY_COLUMN]
    assert sorted(held_out) == sorted(run.train.studies["study"])


def test_no_ancestor_of_a_prediction_saw_its_patient(run):
    patient_of = run.train.studies.set_index("study")["patient"]
    for name in LAST:
        seen = read_lineage(run.root / name / LINEAGE).seen()
        held = pd.read_csv(run.root / name / HELD_OUT)[STUDY_COLUMN]
        assert seen == set(tokens(patient_of[~patient_of.index.isin(held)], "phantom"))
        assert not seen & set(tokens(patient_of[held], "phantom"))


def test_lineage_reaches_the_teacher(run):
    lineage = read_lineage(run.root / "staged/fold0/finetune" / LINEAGE)
    assert [step.step for _, step in lineage.walk()] == [
        "staged/fold0/finetune",
        "staged/fold0/student",
        "staged/fold0/teacher",
    ]


def test_metrics_have_the_promised_shape(run):
    metrics = json.loads((run.root / "metrics.json").read_text())
    assert set(metrics["members"]) == {"staged", "plain"}
    for figures in metrics["members"].values():
        assert set(figures) >= {"macro_auc", "ci95", "seconds"}
    assert set(metrics["ensemble"]) >= {"macro_auc", "ci95"}
    assert set(metrics["labels"]) == set(LABELS)
    assert (run.root / "report.html").stat().st_size > 10_000


def test_test_films_of_unknown_labels_are_predicted_and_not_scored(run, tmp_path):
    root = shutil.copytree(run.root, tmp_path / "run")
    shutil.rmtree(root / "predictions")
    unknown = run.test.studies.assign(**dict.fromkeys(LABELS, UNKNOWN))
    again = replace(run, root=root, test=replace(run.test, studies=unknown))
    write_run_report(again, plan_of(again, None), "test")
    assert len(read_predictions(root / "predictions/test/ensemble.csv")) == len(unknown)
    metrics = json.loads((root / "metrics.json").read_text())
    assert metrics["scope"] == OUT_OF_FOLD[Ancestry.CLEAN] and "out_of_fold" not in metrics
    assert metrics["ensemble"]["macro_auc"] is not None


def test_again_does_nothing(run, phantom):
    before = records(run.root)
    train(run.recipe, phantom, run.root, workers=1, command="test")
    assert records(run.root) == before


def test_a_changed_stage_redoes_itself_and_what_descends_from_it_only(run, phantom, tiny_recipe):
    changed = load_recipe(str(tiny_recipe), ["members.staged.stages.student.schedule.lr=0.002"])
    again = prepare(changed, phantom, run.root, 1)
    todo = [step.name for step in plan_of(again, None) if not again.is_done(step)]
    assert todo == [f"staged/fold{fold}/{stage}" for fold in (0, 1) for stage in ("student", "finetune")]
    prepare(run.recipe, phantom, run.root, 1)


def test_other_data_redo_everything(run, phantom, tiny_recipe):
    changed = load_recipe(str(tiny_recipe), ["folds.seed=7"])
    again = prepare(changed, phantom, run.root, 1)
    moved = make_folds(run.train.studies, 2, 7).tolist() != make_folds(run.train.studies, 2, 0).tolist()
    assert moved
    assert not any(again.is_done(step) for step in plan_of(again, None))
    prepare(run.recipe, phantom, run.root, 1)


def test_without_a_member_nothing_of_the_others_is_done_again(run, phantom, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(run.root, root)
    before = records(root)
    members = {"plain": run.recipe.members["plain"]}
    train(run.recipe.model_copy(update={"members": members}), phantom, root, workers=1)
    assert records(root) == before
    assert list(json.loads((root / "metrics.json").read_text())["members"]) == ["plain"]
    assert list(json.loads((root / "steps.json").read_text())) == ["plain/fold0/only", "plain/fold1/only"]
    whole = prepare(run.recipe, phantom, root, 1)
    assert all(whole.is_done(step) for step in plan_of(whole, None)), "the other member comes back for nothing"


def test_without_a_soft_target_only_what_depends_on_it_is_done_again(soft_run):
    def todo(member: str, stage: str, targets: dict) -> list[str]:
        content = soft_run.recipe.model_dump()
        content["members"][member]["stages"][stage]["targets"] = targets
        again = replace(soft_run, recipe=Recipe.model_validate(content))
        return [step.name for step in plan_of(again, None) if not again.is_done(step)]

    assert todo("self", "only", {"labels": {}}) == [f"self/fold{fold}/only" for fold in range(3)]
    again = todo("from-b", "tubes", {"soft": {"of": "plain"}})
    assert again == [f"from-b/fold{fold}/{stage}" for fold in range(3) for stage in ("tubes", "finetune")]


def test_the_ensemble_is_of_members_and_stages_under_weights_fitted_on_other_folds(soft_run):
    """Out of fold, the ensemble is the nested blend; on test films the one under the weights written down."""
    names = ["plain", "self", "from-b/soft", "from-b"]
    folder = soft_run.root / "predictions"
    assert {path.name for path in (folder / "test").iterdir()} == {
        "plain.csv", "self.csv", "from-b.soft.csv", "from-b.csv", "ensemble.csv",
    }  # fmt: skip
    held, tested = (
        {name: read_predictions(folder / split / f"{name.replace('/', '.')}.csv") for name in [*names, "ensemble"]}
        for split in ("out_of_fold", "test")
    )
    weights = FittedWeights.from_dict(json.loads((soft_run.root / "ensemble.json").read_text()))
    assert list(weights.members) == names
    expected = ensemble([tested[name] for name in names], how="fitted", names=names, weights=weights)
    pd.testing.assert_frame_equal(tested["ensemble"], expected, rtol=1e-9)
    table = soft_run.train.studies
    folds = pd.Series(soft_run.folds.to_numpy(), table["study"])
    nested = cross_fitted_blend(
        [held[name] for name in names], table[["study", "patient", *LABELS]], folds, names=names
    )
    pd.testing.assert_frame_equal(held["ensemble"], nested, rtol=1e-9)
    stage = pd.concat([read_predictions(soft_run.root / f"from-b/fold{fold}/soft" / HELD_OUT) for fold in range(3)])
    assert (held["from-b/soft"].set_index("study") == stage.set_index("study").sort_index()).all(axis=None)


@pytest.mark.parametrize(("how", "more"), [("power", {"power": 2.0}), ("rank", {})])
def test_another_average_is_another_proof_and_no_other_step(soft_run, tmp_path, how, more):
    root = tmp_path / "run"
    shutil.copytree(soft_run.root, root)
    content = soft_run.recipe.model_dump()
    content["ensemble"] = {"members": ["self", "from-b/soft"], "how": how} | more
    again = replace(soft_run, root=root, recipe=Recipe.model_validate(content))
    assert all(again.is_done(step) for step in plan_of(again, None))
    write_run_report(again, plan_of(again, None), "test")
    folder = root / "predictions/test"
    frames = [read_predictions(folder / name) for name in ("self.csv", "from-b.soft.csv")]
    expected = ensemble(frames, how=how, **more)
    pd.testing.assert_frame_equal(read_predictions(folder / "ensemble.csv"), expected, rtol=1e-9)
    metrics = json.loads((root / "metrics.json").read_text())
    assert {name: member["role"] for name, member in metrics["members"].items()} == {
        "plain": "baseline", "self": "member", "from-b": "member",
    }  # fmt: skip


def test_weights_fitted_on_one_fold_are_refused_before_anything_is_written(phantom, tiny_recipe, tmp_path):
    recipe = load_recipe(str(tiny_recipe), ["ensemble.how=fitted"])
    with pytest.raises(RunError, match=r"trained on \[1\]; name more, or .*ensemble.how=mean"):
        train(recipe, phantom, tmp_path / "run", folds=[1])
    assert not (tmp_path / "run").exists()


def test_an_external_set_that_is_not_there_is_said_before_anything_is_written(phantom, soft_recipe, tmp_path):
    """Not given, no folder, without films: each time the flag that mends it."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for settings, said in (
        ([], r"external.b.folder is not given; name the folder of its films with --external b=FOLDER"),
        (["external.b.folder=/nowhere"], r"external.b.folder /nowhere is no folder; .*--external b=FOLDER"),
        ([f"external.b.folder={empty}"], r"external.b: .*empty: is not an external set; .*--external b=FOLDER"),
    ):
        with pytest.raises(RecipeError, match=said):
            train(load_recipe(str(soft_recipe), settings), phantom, tmp_path / "run")
    tables = tmp_path / "tables"
    tables.mkdir()
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    (tables / "Data_Entry_2017_v2020.csv").write_text(header + "00000001_000.png,No Finding,0,1,57,M,PA\n")
    with pytest.raises(RecipeError, match=r"external.b: .* is an external folder without its films; .*--external b="):
        train(load_recipe(str(soft_recipe), [f"external.b.folder={tables}"]), phantom, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    unused = load_recipe(str(soft_recipe), ["members.from-b.stages={last: {start: scratch}}", "ensemble.members=[]"])
    assert not unused.used_sets, "a set that no stage uses need not be given"


def test_a_fold_that_does_not_exist(run):
    with pytest.raises(RunError, match=r"--folds names \[5\]; this recipe has folds \[0, 1\]"):
        plan_of(run, [0, 5])


def test_what_is_wrong_with_data_or_folds_is_said_before_anything_is_written(run, phantom, tmp_path):
    with pytest.raises(RunError, match=r"--folds names \[9\]"):
        train(run.recipe, phantom, tmp_path / "run", folds=[9])
    with pytest.raises(ValueError, match="nowhere"):
        train(run.recipe, tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scoring_on_a_patient_the_teacher_saw_is_refused(run, phantom, tiny_recipe, tmp_path):
    """The published mix-up: a fine-tune that starts from another fold's student."""
    prepared = prepare(run.recipe, phantom, tmp_path / "mixed", 1)
    steps = {step.name: step for step in plan_of(prepared, None)}
    source = run.folder(StepId("staged", (1,), "student"))
    target = prepared.folder(StepId("staged", (0,), "student"))
    target.parent.mkdir(parents=True)
    target.symlink_to(source)
    with pytest.raises(LeakError, match="staged/fold1/student"):
        do_step(prepared, steps["staged/fold0/finetune"], lambda status: None)
    assert not prepared.folder(StepId("staged", (0,), "finetune")).exists()


def test_a_failing_step_costs_only_what_depends_on_it(phantom, tiny_recipe, tmp_path):
    recipe = load_recipe(str(tiny_recipe), ["members.plain.stages.only.schedule.epochs=1"])
    prepared = prepare(recipe, phantom, tmp_path, 1)
    (prepared.root / "staged").write_text("a file where a folder must go")
    with pytest.raises(
        RunError,
        match=r"(?s)3 of 4 steps are not done:.*teacher: .*student, staged/fold0/finetune: not started.*same command",
    ):
        do_plan(prepared, plan_of(prepared, [0]), 2)
    assert list(records(prepared.root)) == ["plain/fold0/only"]


def test_more_workers_than_can_run_side_by_side_are_not_started(run):
    steps = plan_of(run, None)
    assert workers_for(steps, 16) == 4
    assert workers_for(steps, 2) == 2
    assert workers_for(steps[:3], None) == 1


def test_two_commands_in_one_run_do_not_meet(run, phantom):
    with FileLock(run.root / ".lock"), pytest.raises(RunError, match="is in use by another cxrlines train"):
        train(run.recipe, phantom, run.root, workers=1)


def test_test_films_that_come_later_are_predicted_without_training(run, phantom, tmp_path):
    data, root = tmp_path / "data", tmp_path / "run"
    shutil.copytree(phantom, data)
    shutil.copytree(run.root, root)
    few = pd.read_csv(data / "sample_submission.csv").iloc[:5]
    few.to_csv(data / "sample_submission.csv", index=False)
    weights = {name: (root / name / WEIGHTS).stat().st_mtime_ns for name in records(root)}
    train(run.recipe, data, root, workers=1)
    assert {name: (root / name / WEIGHTS).stat().st_mtime_ns for name in records(root)} == weights
    assert len(pd.read_csv(root / LAST[0] / TEST)) == 5
    assert json.loads((root / "metrics.json").read_text())["scope"].startswith("test films")


def test_a_bundle_holds_what_the_run_ended_with_and_nothing_older(run, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(run.root, root)
    shutil.copytree(root / "plain/fold0/only", root / "plain/fold7/only")
    names = {p.name for p in export_run(root, tmp_path / "bundle", onnx=False).glob("*.safetensors")}
    models = {f"{member}-fold{fold}.safetensors" for member in ("plain", "staged") for fold in (0, 1)}
    assert names == models | {"quality.safetensors"}
    (root / "steps.json").unlink()
    with pytest.raises(RunError, match="is not finished; run `cxrlines train` to its end first"):
        export_run(root, tmp_path / "other", onnx=False)


def test_the_teacher_is_shown_the_colours_it_learnt(phantom, tiny_recipe, tmp_path, monkeypatch):
    recipe = load_recipe(str(tiny_recipe), ["members.staged.stages.teacher.films.colour_by=device"])
    prepared = prepare(recipe, phantom, tmp_path, 1)
    seen = []

    class Spy(step_module.FilmSet):
        def __init__(self, *args, **options):
            seen.append((options["overlay"], options["colour_by"]))
            super().__init__(*args, **options)

    monkeypatch.setattr(step_module, "FilmSet", Spy)
    for step in plan_of(prepared, [0])[:2]:
        do_step(prepared, step, lambda status: None)
    assert seen[:4] == [(True, "device"), (True, "device"), (True, "device"), (False, "device")]
    assert not any(overlay for overlay, _ in seen[4:]), "predictions are of plain films"


def test_a_wrong_backbone_is_said_before_a_film_is_decoded(phantom, tiny_recipe, tmp_path):
    wrong = load_recipe(str(tiny_recipe), ["members.plain.backbone=resnet50q"])
    with pytest.raises(RecipeError, match=r"members.plain.backbone: 'resnet50q' is not a timm model; the nearest"):
        prepare(wrong, phantom, tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["members.plain.stages={maps: {start: scratch, films: {which: annotated}, targets: {maps: {}}}, only: {start: "
          "maps, schedule: {freeze: [backbone, head]}}}"],
         r"plain.stages.only.schedule.freeze: backbone, head leaves nothing to train: .* move backbone, head"),
        (["members.plain.stages={maps: {start: scratch, films: {which: annotated}, targets: {maps: {}}, schedule: "
          "{freeze: [backbone, decoder]}}, only: {start: maps}}"],
         r"plain.stages.maps.schedule.freeze: backbone, decoder leaves nothing to train"),
        (["members.staged.stages.finetune.schedule.freeze=[head, bacbone.*]"],
         r"staged.stages.finetune.schedule.freeze: 'bacbone.\*' matches no parameter"),
        (["members.plain.stages.only.schedule.freeze=''"],
         "plain.stages.only.schedule.freeze: '' matches no parameter"),
        *(([f"members.plain.stages.only.schedule={{layer_decay: 0.8, freeze: {frozen}}}"],
           r"plain.stages.only.schedule.layer_decay is 0.8, but schedule.freeze leaves nothing that it moves to train")
          for frozen in ("backbone", "['backbone.net.*']", "backbone, epochs: 1, freeze_epochs: 2")),
        (["members.plain.stages.only.schedule={head_lr: 5, freeze: head}"],
         r"plain.stages.only.schedule.head_lr is 5, but schedule.freeze leaves nothing"),
        (["members.plain.backbone=vit_tiny_patch16_224", "members.plain.stages.only.targets={labels: {}, maps: {}}"],
         r"plain.stages.only.backbone: its feature maps are at .*take a convolutional backbone"),
    ],
)  # fmt: skip
def test_what_a_network_has_not_is_said_before_a_film_is_decoded(phantom, tiny_recipe, tmp_path, settings, said):
    with pytest.raises(RecipeError, match=f"members.{said}"):
        prepare(load_recipe(str(tiny_recipe), settings), phantom, tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_says_how_to_go_on_and_leaves_nothing_half_done(phantom, tiny_recipe, tmp_path, wait_until):
    slow = ["--set", "members.plain.stages.only.schedule.epochs=500", "--folds", "0"]
    words = ["train", tiny_recipe, "--data", phantom, "--out", tmp_path / "run", *slow]
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrlines", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests started in the background of a shell ignore Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    status = tmp_path / "run/.status/plain.fold0.only.json"
    wait_until(lambda: status.exists() and "loss" in status.read_text(), seconds=120)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run/plain").exists()


KILL = """
import sys
from pathlib import Path
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe
if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], sys.argv[4:])
    train(recipe, Path(sys.argv[2]), Path(sys.argv[3]), folds=[0], workers=1, command="test")
"""


@pytest.mark.long
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(phantom, tiny_recipe, tmp_path):
    """kill -9 again and again; at last every tensor equals that of a run left alone, bit for bit."""
    script = tmp_path / "script.py"
    script.write_text(KILL)
    settings = ["members.plain.stages.only.schedule.epochs=30", "members.staged.stages.finetune.schedule.epochs=9.5"]

    def start(root: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(tiny_recipe), str(phantom), str(root), *settings]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "alone").wait() == 0
    kills, delay = 0, 9.0
    while True:
        process = start(tmp_path / "killed")
        try:
            assert process.wait(timeout=delay) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.3)
            kills, delay = kills + 1, delay + 1.5
    assert kills >= 2
    assert records(tmp_path / "killed").keys() == records(tmp_path / "alone").keys()
    for name in records(tmp_path / "alone"):
        one, _ = load_weights(tmp_path / "alone" / name / WEIGHTS)
        other, _ = load_weights(tmp_path / "killed" / name / WEIGHTS)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


class TestTables:
    @pytest.fixture
    def data(self, phantom, tmp_path):
        """A copy of the data whose first study is called NA."""
        data = shutil.copytree(phantom, tmp_path / "data")
        table = pd.read_csv(data / "train.csv", dtype=str)
        first = table[STUDY_COLUMN][0]
        (path,) = (data / "train").glob(f"{first}.*")
        path.rename(path.with_stem("NA"))
        table.replace({STUDY_COLUMN: {first: "NA"}}).to_csv(data / "train.csv", index=False)
        return data

    def test_a_study_called_na_is_a_study_like_any_other(self, data, tiny_recipe, tmp_path):
        made = prepare(load_recipe(str(tiny_recipe)), data, tmp_path / "run", 1)
        opened = Run.open(tmp_path / "run", data)
        assert opened.train.studies["study"][0] == "NA"
        assert opened.folds.tolist() == made.folds.tolist() and opened.folds.notna().all()

    def test_rows_left_out_are_said_before_anything_is_done(self, data, tiny_recipe, tmp_path):
        (path,) = (data / "train").glob("NA.*")
        path.unlink()
        said: list[str] = []
        recipe = load_recipe(str(tiny_recipe), ["ensemble.how=fitted"])
        with pytest.raises(RunError):
            train(recipe, data, tmp_path / "run", folds=[0], say=said.append)
        assert len(said) == 1 and "1 x film missing" in said[0] and not (tmp_path / "run").exists()
