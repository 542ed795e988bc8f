"""The demo from end to end, on a handful of films."""

import json
import resource
import subprocess
import sys

import pandas as pd
import pytest

from cxrlines.lab import demo
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS, STUDY_COLUMN

STAGES = ("baseline.stages.only", *(f"three-stage.stages.{name}" for name in ("teacher", "student", "finetune")))
SCALES = {"short": demo.SHORT, "full": demo.FULL}


def test_the_demo_reads_makes_trains_evaluates_and_exports(tmp_path, capsys):
    small = ["size=64", "store.size=64", *(f"members.{stage}.schedule.epochs=0.2" for stage in STAGES)]
    films = {**demo.SHORT.films, "studies": 40, "test": 12, "size": 96}
    scale = demo.Scale(films, (*demo.SHORT.settings, *small), "a command")
    demo.run_demo(tmp_path / "demo", scale, workers=1)
    said = capsys.readouterr().out
    assert demo.real_film().name == "RG1_UNCR.dcm" and said.index("RG1_UNCR.dcm") < said.index("[2/6]")
    (picture,) = (tmp_path / "demo/drawn").glob("*.png")
    assert f"The picture: {picture}" in said
    metrics = json.loads((tmp_path / "demo/metrics.json").read_text())
    assert metrics["scope"] == "test films of patients no model saw"
    for name in ("baseline", "three-stage", "ensemble"):
        figures = metrics["ensemble"] if name == "ensemble" else metrics["members"][name]
        low, high = figures["ci95"]
        assert f"{figures['macro_auc']:.4f}" in said and f"{low:.4f}-{high:.4f}" in said
    assert "a command" in (tmp_path / "demo/report.html").read_text()
    read = pd.read_csv(tmp_path / "demo/read.csv")
    assert list(read) == [STUDY_COLUMN, *LABELS]
    assert len(read) == demo.READ + 1, "phantom films and the real one"
    assert (tmp_path / "demo/bundle/bundle.json").exists()
    assert f"cxrlines open {tmp_path / 'demo'}" in said


def test_without_the_real_film_the_example_is_read(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo.real_film().name == "example.jpg" and demo.real_film().is_file()


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_the_demo_is_a_fair_race(scale):
    """Both members see each fold's films about as often, a distillation step counted as 1.3 plain ones."""
    members = load_recipe("demo", list(scale.settings)).members
    share = scale.films["annotated"]
    teacher, student, finetune = (stage.schedule.epochs for stage in members["three-stage"].stages.values())
    staged = share * (teacher + 1.3 * student) + finetune
    assert staged == pytest.approx(members["baseline"].stages["only"].schedule.epochs, rel=0.1)
    assert len({stage.schedule.batch for member in members.values() for stage in member.stages.values()}) == 1


@pytest.mark.long
def test_the_demo_is_short_and_learns(tmp_path):
    """In processor time, which other work on the machine does not lengthen much; 800 s is what a slow machine has."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cxrlines", "demo", "--out", str(tmp_path / "demo")]
    subprocess.run(command, check=True, timeout=3500)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 800
    assert json.loads((tmp_path / "demo/metrics.json").read_text())["ensemble"]["macro_auc"] >= 0.85
