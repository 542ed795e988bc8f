"""The command line: what a person types, what they read, what a script gets."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cxrlines import __version__, cli
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN

REAL = Path(__file__).parents[1].parent / "shared/data/ranzcr"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the challenge's real tables are not on this machine")


def run(*words: object) -> tuple[int, str]:
    """Exit code and standard output of a command, in this process."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.stdout


def shell(*words: object) -> subprocess.CompletedProcess[str]:
    """A command as a person runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cxrlines", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "data"
    code, out = run("synth", folder, "--studies", 12, "--test", 3, "--seed", 3, "--size", 96, "--workers", 1)
    assert code == 0
    assert "12 training and 3 test films" in out
    return folder


def truth_and_predictions(folder: Path) -> tuple[Path, Path]:
    """A table of six films of three patients, and predictions that are right about the first label."""
    truth = pd.DataFrame({STUDY_COLUMN: [f"s{i}" for i in range(6)], PATIENT_COLUMN: list("aabbcc")})
    scores = truth[[STUDY_COLUMN]].copy()
    for label in LABELS:
        truth[label] = [0, 1, 0, 1, 0, 1]
        scores[label] = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7]
    truth.to_csv(folder / "truth.csv", index=False)
    scores.to_csv(folder / "scores.csv", index=False)
    return folder / "truth.csv", folder / "scores.csv"


def test_every_command_explains_itself():
    for command in (
        "synth",
        "show",
        "check",
        "folds",
        "train",
        "ensemble",
        "evaluate",
        "bundle",
        "predict",
        "judge",
        "demo",
    ):
        code, out = run(command, "--help")
        assert code == 0 and "Usage" in out, command


def test_version():
    assert run("--version") == (0, f"{__version__}\n")


def test_check_is_clean_on_a_phantom_and_exits_1_on_a_problem(data, tmp_path):
    assert run("check", data, "--workers", 1)[0] == 0
    table = pd.read_csv(data / "train.csv")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train").symlink_to(data / "train")
    table.assign(**{LABELS[0]: 1, LABELS[1]: 1}).to_csv(broken / "train.csv", index=False)
    code, out = run("check", broken, "--json", "--workers", 1)
    assert code == 1
    assert len(json.loads(out)["problems"]) >= len(table)


def test_folds_keep_patients_together(data, tmp_path):
    code, out = run("folds", data / "train.csv", "--count", 2, "--out", tmp_path / "folds.csv")
    assert code == 0 and "largest relative deviation" in out
    assert pd.read_csv(tmp_path / "folds.csv").groupby(PATIENT_COLUMN)["fold"].nunique().max() == 1


def test_evaluate_prints_the_promised_json(tmp_path):
    truth, scores = truth_and_predictions(tmp_path)
    code, out = run("evaluate", scores, truth, "--json", "--resamples", 20)
    figures = json.loads(out)
    assert code == 0
    assert figures["macro_auc"] == 1.0
    assert set(figures) >= {"macro_auc", "ci95", "labels", "ece"}
    assert set(figures["labels"]) == set(LABELS)
    assert set(figures["labels"][LABELS[0]]) >= {"auc", "ci95", "positives", "brier"}


@needs_real
def test_evaluate_on_the_real_predictions():
    _, out = run("evaluate", REAL / "predictions_fold0.csv", REAL / "train.csv", "--json", "--resamples", 20)
    assert json.loads(out)["macro_auc"] == pytest.approx(0.96221, abs=5e-6)


def test_ensemble_is_the_mean_in_the_columns_of_the_submission(tmp_path):
    _, scores = truth_and_predictions(tmp_path)
    other = pd.read_csv(scores)
    other[list(LABELS)] /= 2
    other.iloc[::-1].to_csv(tmp_path / "other.csv", index=False)
    assert run("ensemble", scores, tmp_path / "other.csv", "--out", tmp_path / "mean.csv")[0] == 0
    mean = pd.read_csv(tmp_path / "mean.csv")
    assert list(mean) == [STUDY_COLUMN, *LABELS]
    assert mean[LABELS[3]].tolist() == pytest.approx([0.075, 0.675, 0.15, 0.6, 0.225, 0.525])


def test_dry_run_trains_nothing(data, tmp_path):
    code, out = run("train", "demo", "--data", data, "--out", tmp_path / "run", "--dry-run")
    assert code == 0
    assert "three-stage/fold0/student: to do; from start: imagenet, teacher: three-stage/fold0/teacher" in out
    assert not (tmp_path / "run").exists()


def test_judge_prints_the_figures_of_a_data_folder(data):
    code, out = run("judge", data, "--seen", "report", "--json", "--resamples", 5)
    values = json.loads(out)
    assert code == 0 and values["films"] == 3 and set(values["presence"]) == {"ETT", "NGT", "CVC", "SWAN"}
    assert values["lines"]["films"] == 3 and values["carina"]["films"] == 3
    code, out = run("judge", data, "--split", "train", "--seen", "report", "--resamples", 5)
    assert code == 0 and "12 films of" in out and "AUC by presence" in out


def test_show_draws_a_sheet(data, tmp_path):
    code, out = run("show", data, "--out", tmp_path / "sheet.png", "--films", 4, "--size", 96)
    assert code == 0 and out.strip() == str(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_predict_prints_what_it_finds_where_no_table_is_asked_for(data, tmp_path):
    films = sorted((data / "test").glob("*.jpg"))
    other = tmp_path / "notes.txt"
    other.write_text("no film")
    code, out = run("predict", data / "test", other)
    assert code == 2, "the text is no film"
    assert [line for line in out.splitlines() if line.endswith(".jpg")] == [str(film) for film in films]
    assert out.count("\n  SWAN ") == out.count("\n  Carina ") == len(films)
    code, out = run("predict", data / "test", "--json", "--draw", tmp_path / "drawn")
    assert code == 0 and len(list((tmp_path / "drawn").glob("*.png"))) == len(films)
    told = json.loads(out)
    assert [each["film"] for each in told] == [str(film) for film in films]
    assert list(told[0]["labels"]) == list(LABELS) and "lines" in told[0] and "For research" in told[0]["notice"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "thre-stage", "--data", "x", "--out", "y"), "did you mean 'three-stage'"),
        (("train", "demo", "--data", "nowhere", "--out", "/tmp/cxrlines-never"), "nowhere"),
        (("train", "demo", "--data", "x", "--out", "y", "--folds", "a"), "write whole numbers with commas"),
        (("predict", "x.jpg", "--bundle", "/nonexistent", "--out", "p.csv"), "/nonexistent"),
        (("bundle", "/", "--out", "b"), "is no run: it has no recipe.json"),
        (("evaluate", "/nonexistent.csv", "t.csv"), "/nonexistent.csv"),
        (("judge", "/", "--fold", "9"), "has no model of fold 9; it has folds"),
        (("judge", "/", "--marks", "m.json", "--split", "test"), "--split: is of a data folder"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(words, said):
    result = shell(*words)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
