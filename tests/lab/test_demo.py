"""The demo from end to end, on a handful of films."""

import json

import pandas as pd
import pytest

from cxrlines.lab import demo
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS, STUDY_COLUMN

STAGES = ("baseline.stages.only", *(f"three-stage.stages.{name}" for name in ("teacher", "student", "finetune")))


def test_the_demo_makes_trains_proves_packs_and_reads(tmp_path, monkeypatch, capsys):
    small = ["size=64", "store.size=64", *(f"members.{stage}.schedule.epochs=0.2" for stage in STAGES)]
    monkeypatch.setattr(demo, "load_recipe", lambda name: load_recipe(name, small))
    monkeypatch.setattr(demo, "FILMS", demo.FILMS | {"studies": 40, "test": 12, "size": 96})
    demo.run_demo(tmp_path / "demo", workers=1)
    said = capsys.readouterr().out
    metrics = json.loads((tmp_path / "demo/metrics.json").read_text())
    assert metrics["scope"] == "test films of patients no model saw"
    for name in ("baseline", "three-stage", "ensemble"):
        figures = metrics["ensemble"] if name == "ensemble" else metrics["members"][name]
        low, high = figures["ci95"]
        assert f"{figures['macro_auc']:.4f}" in said and f"{low:.4f}-{high:.4f}" in said
    read = pd.read_csv(tmp_path / "demo/read.csv")
    assert list(read) == [STUDY_COLUMN, *LABELS]
    assert len(read) == demo.READ + 1, "phantom films and the real DICOM"
    assert (tmp_path / "demo/bundle/bundle.json").exists()
    assert str(tmp_path / "demo/report.html") in said


def test_the_demo_is_a_fair_race():
    """Both members see each fold's films about as often, a distillation step counted as 1.3 plain ones."""
    members = load_recipe("demo").members
    share = demo.FILMS["annotated"]
    teacher, student, finetune = (stage.schedule.epochs for stage in members["three-stage"].stages.values())
    staged = share * (teacher + 1.3 * student) + finetune
    assert staged == pytest.approx(members["baseline"].stages["only"].schedule.epochs, rel=0.1)
    assert {stage.schedule.batch for member in members.values() for stage in member.stages.values()} == {16}
