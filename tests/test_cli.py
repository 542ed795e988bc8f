"""The command line: what a person types, what they read, what a script gets."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from cxrlines import Error, __version__, cli
from cxrlines.io.films import read_film
from cxrlines.io.patients import tokens
from cxrlines.pacs.queue_database import QueueDatabase
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.index import Index, IndexedFilm, embedder_of
from cxrlines.reading.reader import Reader
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.recipe.spec.load import load_recipe, shipped
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN


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


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("predict", ""), "predict: argument 1"),
        (("predict", "film.png", ""), "predict: argument 2"),
        (("predict", "--example", "--out", ""), "predict: --out"),
        (("predict", "--example", "--out="), "predict: --out"),
        (("check", ""), "check: argument 1"),
        (("corrections", "export", ""), "corrections: argument 2"),
    ],
)
def test_an_empty_word_is_not_the_current_folder(words, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and not result.stdout and not list(tmp_path.iterdir())
    assert f"{name} is empty; " in result.stderr


def test_a_setting_may_be_cleared(tmp_path):
    for words in (("--set", "folds.file="), ("--set=folds.file=",)):
        places = "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")
        result = CliRunner().invoke(cli.app, ["train", "demo", *places, *words])
        assert result.exit_code == 2 and "none" in result.stderr and "is empty" not in result.stderr


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


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command there is."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield *before, name


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_every_command_explains_itself(words):
    code, out = run(*words, "--help")
    assert code == 0 and "Usage" in out


@pytest.mark.parametrize(
    "words", ["synth", "show", "folds", "evaluate", "evaluate-bundle", "quality", "bench robustness"]
)
def test_no_seed_is_negative(words):
    result = CliRunner().invoke(cli.app, [*words.split(), "--seed", "-1"])
    assert result.exit_code == 2 and "'--seed'" in result.output and "equal to 0" in result.output


def command_of(words: tuple[str, ...]) -> Any:
    command: Any = typer.main.get_command(cli.app)
    for word in words:
        command = command.commands[word]
    return command


WITH_EXAMPLE = [words for words in commands(typer.main.get_command(cli.app)) if words[0] != "judge"]


@pytest.mark.parametrize("words", WITH_EXAMPLE, ids=" ".join)
def test_the_help_of_a_command_has_an_example_that_parses(words):
    command = command_of(words)
    example = re.fullmatch(f"Example: cxrlines {' '.join(words)}(.*)", command.epilog or "")
    assert example
    assert command.make_context(words[-1], shlex.split(example[1].partition(">")[0])).params is not None


@pytest.mark.parametrize("words", WITH_EXAMPLE, ids=" ".join)
def test_a_command_says_first_and_in_one_sentence_what_it_does(words):
    first, *_ = command_of(words).help.split("\n\n")
    assert "\n" not in first and first.endswith("."), "the list of commands keeps line breaks"
    assert all(option.help for option in command_of(words).params)


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


def test_folds_that_cannot_be_compared_are_not_drawn(data, tmp_path):
    (tmp_path / "folds.csv").write_text("old")
    (tmp_path / "bad.csv").write_text(f"{STUDY_COLUMN},{PATIENT_COLUMN},fold\ns,p,0\n")
    for against in ("none.csv", "bad.csv"):
        words = ["folds", str(data / "train.csv"), "--out", str(tmp_path / "folds.csv"), "--against"]
        assert CliRunner().invoke(cli.app, [*words, str(tmp_path / against)]).exit_code == 2
        assert (tmp_path / "folds.csv").read_text() == "old"


def test_an_index_says_what_of_the_folder_is_not_in_it(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    first = sorted((tmp_path / "data/train").iterdir())[0]
    first.unlink()
    words = ["index", str(tmp_path / "data"), "--out", str(tmp_path / "i.safetensors")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0 and "11 films" in result.stdout
    assert "not indexed: 1 x film missing\n" in result.stderr


def test_evaluate_prints_the_promised_json(tmp_path):
    truth, scores = truth_and_predictions(tmp_path)
    code, out = run("evaluate", scores, truth, "--json", "--resamples", 20)
    figures = json.loads(out)
    assert code == 0
    assert figures["macro_auc"] == 1.0
    assert set(figures) >= {"macro_auc", "ci95", "labels", "ece"}
    assert set(figures["labels"]) == set(LABELS)
    assert set(figures["labels"][LABELS[0]]) >= {"auc", "ci95", "positives", "brier"}


def test_evaluate_compares_two_predictions_on_the_films_of_both(tmp_path):
    truth, scores = truth_and_predictions(tmp_path)
    other = pd.read_csv(scores).iloc[:4]
    other.loc[1, list(LABELS)] = 0.15  # a positive film, ranked below a negative one of another patient
    other.to_csv(tmp_path / "other.csv", index=False)
    code, out = run("evaluate", scores, truth, "--against", tmp_path / "other.csv", "--json", "--resamples", 50)
    found = json.loads(out)
    alone = json.loads(run("evaluate", scores, truth, "--json", "--resamples", 50)[1])
    assert code == 0 and found.pop("against")["films"] == 4 and found == alone
    _, out = run("evaluate", scores, truth, "--against", scores, "--resamples", 50)
    assert out.rstrip().endswith("difference +0.0000 (95 % interval +0.0000 to +0.0000): no clear difference")


def test_a_shipped_recipe_is_printed_as_a_file_that_trains_alike(tmp_path):
    code, out = run("recipe", "three-stage")
    (tmp_path / "mine.yaml").write_text(out)
    assert code == 0 and load_recipe(str(tmp_path / "mine.yaml")) == load_recipe("three-stage")
    listed = run("recipe")[1].splitlines()
    assert [line.split()[0] for line in listed] == sorted(shipped())
    assert all(load_recipe(name).about in line for name, line in zip(sorted(shipped()), listed, strict=True))


def test_evaluate_on_the_real_predictions(ranzcr):
    _, out = run("evaluate", ranzcr / "predictions_fold0.csv", ranzcr / "train.csv", "--json", "--resamples", 20)
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
    assert re.search(r"\n +student .* imagenet, features of teacher\n", out)
    assert not (tmp_path / "run").exists()
    assert run("train", "demo", "--data", data, "--dry-run") == (0, out)


def test_training_needs_a_folder_for_the_run(data):
    result = CliRunner().invoke(cli.app, ["train", "demo", "--data", str(data)])
    assert result.exit_code == 2 and "--out is missing; name the run's folder" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "DATA"), "is one of the inputs"),
        (("--out", "run", "--external", "nih=DATA"), "the recipe has no external set 'nih'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(data, words, says):
    given = [word.replace("DATA", str(data)) for word in words]
    result = CliRunner().invoke(cli.app, ["train", "demo", "--data", str(data), "--dry-run", *given])
    assert result.exit_code == 2 and says in result.stderr


def test_an_exponent_is_of_the_power_mean_alone(tmp_path):
    _, scores = truth_and_predictions(tmp_path)
    words = ["ensemble", str(scores), str(scores), "--out", str(tmp_path / "mean.csv"), "--power", "3"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and "--power: --how mean takes no such option" in result.stderr
    assert run(*words, "--how", "power")[0] == 0


def test_how_a_queue_stands_needs_its_folder_or_its_nodes_file(tmp_path):
    result = CliRunner().invoke(cli.app, ["listen", "--status"])
    assert result.exit_code == 2 and "--queue is missing; name the node's folder by --queue" in result.stderr
    (tmp_path / "node.toml").write_text('queue = "queue"\n')
    words = ["listen", "--status", "--json", "--config", str(tmp_path / "node.toml")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and f"--queue {tmp_path / 'queue'}: is no queue" in result.stderr
    QueueDatabase(tmp_path / "queue").close()
    code, out = run(*words)
    assert code == 0 and json.loads(out)["films"]["received"] == 0


def test_a_bundle_is_evaluated_on_a_data_folder_under_the_old_name_too(data):
    code, out = run("evaluate-bundle", data, "--seen", "report", "--json", "--resamples", 5)
    values = json.loads(out)
    assert code == 0 and values["films"] == 3 and set(values["presence"]) == {"ETT", "NGT", "CVC", "SWAN"}
    assert values["lines"]["films"] == 3 and values["carina"]["films"] == 3
    words = ["judge", str(data), "--split", "train", "--seen", "report", "--resamples", "5"]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "12 films of" in result.stdout and "AUC by presence" in result.stdout
    assert "judge is now evaluate-bundle" in result.stderr


def test_limits_that_an_evaluation_fitted_go_into_a_bundle(data, tmp_path):
    names = tmp_path / "patients.txt"
    with (data / "train.csv").open(newline="") as file:
        names.write_text("\n".join({row["PatientID"] for row in csv.DictReader(file)}))
    words = ("evaluate-bundle", data, "--split", "train", "--seen", "report", "--json", "--resamples", 5)
    code, out = run(*words, "--patients", names, "--limits", 0.25)
    values = json.loads(out)
    assert code == 0 and values["films"] == 12 and set(values["failures"]["views"]) == {"all"}
    (tmp_path / "evaluation.json").write_text(out)
    code, out = run("bundle", EMBEDDED, "--out", tmp_path / "bundle", "--limits", tmp_path / "evaluation.json")
    manifest = load_bundle(Path(out.strip())).manifest
    fitted = values["limits"]["fitted"]
    own = load_bundle(EMBEDDED).manifest.confident
    theirs = {name: limit["confidence"] for name, limit in fitted.items()}
    assert code == 0 and theirs and manifest.confident == own | theirs
    assert {name: manifest.denied[name] for name in fitted} == {name: one["presence"] for name, one in fitted.items()}


def test_limits_are_those_of_the_bundle_that_was_evaluated_and_a_prior_moves_them(tmp_path):
    """The other way round, limits of one frequency would stand beside probabilities at another."""
    bundle = load_bundle(EMBEDDED)
    limits = {"films": 9, "wanted": 0.25, "fitted": {"CVC": {"confidence": 0.9, "presence": 0.5}}}
    given = tmp_path / "evaluation.json"
    given.write_text(json.dumps({"bundle": bundle.identity, "limits": limits}))
    assert run("bundle", EMBEDDED, "--out", tmp_path / "limited", "--limits", given)[0] == 0
    assert run("bundle", tmp_path / "limited", "--out", tmp_path / "moved", "--prior", "ranzcr")[0] == 0
    code, _ = run("bundle", EMBEDDED, "--out", tmp_path / "both", "--limits", given, "--prior", "ranzcr")
    limited, moved, both = (load_bundle(tmp_path / name).manifest for name in ("limited", "moved", "both"))
    assert code == 0 and both == moved and both.denied["CVC"] != limited.denied["CVC"] == 0.5
    words = ["bundle", str(tmp_path / "limited"), "--out", str(tmp_path / "none"), "--limits", str(given)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and not (tmp_path / "none").exists()
    assert bundle.identity in result.stderr and load_bundle(tmp_path / "limited").identity in result.stderr


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
        (("recipe", "hotwatr"), "did you mean 'hotwater'"),
        (("predict", "x.jpg", "--bundle", "/nonexistent", "--out", "p.csv"), "/nonexistent"),
        (("bundle", "/", "--out", "b"), "is no run: it has no recipe.json"),
        (("evaluate", "/nonexistent.csv", "t.csv"), "/nonexistent.csv"),
        (("evaluate-bundle", "/", "--fold", "9"), "has no model of fold 9; it has folds"),
        (("evaluate-bundle", "/", "--marks", "m.json", "--split", "test"), "--split: is of a data folder"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(words, said):
    result = shell(*words)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Result:
    """`cxrlines folds`, where drawing raises."""

    def raises(*words: object) -> None:
        raise error

    monkeypatch.setattr("cxrlines.io.tables.read_labels", raises)
    return CliRunner().invoke(cli.app, ["folds", "t.csv", "--out", "/tmp/cxrlines-never.csv"])


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (Error("what", "way out"), 2, "what; way out"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left"),
        (MemoryError(), 2, "memory"),
        (OSError("no errno, no file"), 70, "fault of cxrlines (OSError)"),
        (ValueError("Secret^Patient"), 70, "fault of cxrlines (ValueError)"),
        (EOFError(), 70, "fault of cxrlines (EOFError)"),
        (RuntimeError("CUDA"), 70, "fault of cxrlines (RuntimeError)"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_a_users_mistake_and_a_fault_of_ours_are_told_apart(monkeypatch, error, code, says):
    monkeypatch.delenv("CXRLINES_DEBUG", raising=False)
    result = fails(monkeypatch, error)
    assert result.exit_code == code and says in result.stderr
    assert "Traceback" not in result.stderr and "Secret" not in result.stderr and not result.stdout


@pytest.mark.parametrize("error", [Error("what", "way out"), ValueError("inside")])
def test_debug_shows_the_traceback_of_every_error_and_keeps_the_exit_code(monkeypatch, error):
    monkeypatch.setenv("CXRLINES_DEBUG", "1")
    result = fails(monkeypatch, error)
    assert result.exit_code == (2 if isinstance(error, Error) else 70)
    assert "Traceback" in result.stderr and "in raises" in result.stderr


def test_debug_is_an_option(tmp_path):
    result = shell("--debug", "bundle", tmp_path, "--out", tmp_path / "b")
    assert result.returncode == 2 and "Traceback" in result.stderr and "RunError" in result.stderr


def test_a_fault_on_one_film_is_counted_apart_and_costs_no_other(data, monkeypatch, tmp_path):
    films, seen = sorted((data / "test").glob("*.jpg")), read_film

    def faulty(path: Path, **more: object) -> object:
        if Path(path) == films[1]:
            raise ZeroDivisionError("Secret")
        return seen(path, **more)

    monkeypatch.setattr("cxrlines.reading.reader.read_film", faulty)
    monkeypatch.delenv("CXRLINES_DEBUG", raising=False)
    words = ["predict", str(data / "test"), "--out", str(tmp_path / "r.csv")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 70 and "1 film was not read by a fault of cxrlines" in result.stderr
    assert "Secret" not in result.stderr and len(pd.read_csv(tmp_path / "r.csv")) == 2
    monkeypatch.setenv("CXRLINES_DEBUG", "1")
    assert "ZeroDivisionError" in CliRunner().invoke(cli.app, words).stderr


@pytest.mark.parametrize(
    "words",
    [
        "predict films --out FILE/r.csv",
        "predict films --out r.json --json",
        "predict films --draw FILE",
        "predict films --out films/a.jpg",
        "synth FILE/phantom --studies 1",
        "synth films --onto films --marks FILE",
        "show films --out FILE/sheet.png",
        "folds FILE --out FILE",
        "folds FILE --against old.csv --out old.csv",
        "folds FILE --out folds.xlsx",
        "twins films films --out FILE/t.csv",
        "twins films films --out twins.safetensors",
        "ensemble FILE --out FILE",
        "bundle films --out FILE",
        "index films --out FILE/i.safetensors",
        "index films --out index.csv",
        "evaluate-bundle films --draw FILE",
        "evaluate-bundle films --draw films",
        "evaluate-bundle films --draw films/drawn",
        "quality films --out FILE/q.safetensors",
        "quality films --out quality.csv",
        "weights FILE --out FILE/w.safetensors",
        "weights FILE --out weights.pth",
        "train demo --data films --out FILE/run",
        "experiment small --out FILE/run",
        "experiment claims --out FILE/run",
        "experiment distillation --out FILE/run",
        "experiment recommended --out FILE/run",
        "demo --out FILE/run",
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, words):
    """Nothing that is named can be read either: only what is asked first can answer with the output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a file")
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.jpg").write_bytes(b"\xff\xd8\xff")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    result = CliRunner().invoke(cli.app, words.split())
    assert result.exit_code == 2
    flag = "--draw" if "--draw" in words else "OUT" if words.startswith("synth") else "--out"
    assert flag in result.stderr and "; " in result.stderr
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


STOPS = """
import signal, sys, time
from contextlib import contextmanager
from cxrlines.cli import main, predict

@contextmanager
def counted():
    def tell(done, total):
        print("read", done, file=sys.stderr, flush=True)
        if done >= 1:
            time.sleep(100)
    yield tell

predict.counted = counted
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""`cxrlines`, with a reading that waits after its first batch."""


def stopped(number: signal.Signals, *words: object) -> tuple[int, str, str]:
    command = [sys.executable, "-c", STOPS, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and any(line.startswith("read") for line in process.stderr)  # a library may warn before
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_reading_keeps_what_is_read(data, tmp_path, number):
    films = sorted((data / "train").glob("*.jpg"))
    out = tmp_path / "r.csv"
    words = ["predict", data / "train", "--batch", 4, "--out", out, "--json", "--draw", tmp_path / "drawn"]
    code, printed, said = stopped(number, *words)
    assert code == 130 and printed.split() == [str(out), f"{tmp_path}/r.json", f"{tmp_path}/r.errors.csv"]
    rows, errors = pd.read_csv(out), pd.read_csv(tmp_path / "r.errors.csv")
    assert 1 <= len(rows) < len(films) and len(rows) + len(errors) == len(films)
    assert rows[STUDY_COLUMN].tolist() == [film.stem for film in films[: len(rows)]]
    assert len(json.loads((tmp_path / "r.json").read_text())) == len(rows)
    assert f"{len(rows)} of {len(films)} films" in said and "Traceback" not in said
    assert not (tmp_path / "drawn").exists() and "--resume" in said


def test_a_reading_that_was_killed_goes_on_to_the_same_end(data, tmp_path):
    words = ["predict", str(data / "test"), "--json"]
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    whole, out = tmp_path / "whole/r.csv", tmp_path / "killed/r.csv"
    assert CliRunner().invoke(cli.app, [*words, "--out", str(whole)]).exit_code == 0
    stopped(signal.SIGKILL, *words, "--batch", 1, "--out", out)
    assert [path.name for path in out.parent.iterdir()] == ["r.journal.jsonl"]
    again = CliRunner().invoke(cli.app, [*words, "--out", str(out)])
    assert again.exit_code == 2 and "--resume" in again.stderr, "what was read is not thrown away unasked"
    other = CliRunner().invoke(cli.app, ["predict", str(data / "train"), "--json", "--out", str(out), "--resume"])
    assert other.exit_code == 2 and "another list of films" in other.stderr
    result = CliRunner().invoke(cli.app, [*words, "--batch", "1", "--out", str(out), "--resume"])
    assert result.exit_code == 0 and "1 of 3 films were read before" in result.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["r.csv", "r.json"]
    assert out.read_bytes() == whole.read_bytes()
    one, other = (json.loads(path.with_suffix(".json").read_text()) for path in (whole, out))
    assert [film | {"seconds": 0} for film in one] == [film | {"seconds": 0} for film in other]


def test_a_disk_that_fills_while_reading_keeps_what_was_read(data, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "r.csv"
    words = ["predict", str(data / "train"), "--batch", "1", "--out", str(out)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4200, before[1]))  # for the heading of the journal and some films
        result = CliRunner().invoke(cli.app, words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 2 and "r.journal.jsonl: cannot be written" in result.stderr
    assert "MiB free on its disk" in result.stderr and "--resume" in result.stderr and not out.exists()
    result = CliRunner().invoke(cli.app, [*words, "--resume"])
    films = len(list((data / "train").glob("*.jpg")))
    (before,) = re.findall(rf"(\d+) of {films} films were read before", result.stderr)
    assert result.exit_code == 0 and 1 <= int(before) < films == len(pd.read_csv(out))


def test_resuming_needs_a_table(data):
    result = CliRunner().invoke(cli.app, ["predict", str(data / "test"), "--resume"])
    assert result.exit_code == 2 and "--out" in result.stderr


def test_a_reading_stopped_before_the_first_film_leaves_the_last_one(data, tmp_path, monkeypatch):
    def stops(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cxrlines.reading.reader.Reader.read_many", stops)
    (tmp_path / "r.csv").write_text("yesterday's")
    result = CliRunner().invoke(cli.app, ["predict", str(data / "test"), "--out", str(tmp_path / "r.csv")])
    assert result.exit_code == 130 and "none of 3 films" in result.stderr
    assert (tmp_path / "r.csv").read_text() == "yesterday's"


def test_ctrl_c_promises_to_go_on_only_where_that_is_so(monkeypatch, tmp_path):
    def stops(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    for place, words in (
        ("cxrlines.phantom.dataset.write_phantom", ("synth", tmp_path / "p")),
        ("cxrlines.lab.demo.run_demo", ("demo", "--out", tmp_path / "d")),
        ("cxrlines.recipe.run.pipeline.train", ("train", "demo", "--data", tmp_path, "--out", tmp_path / "r")),
        ("cxrlines.lab.experiments.small.run_small", ("experiment", "small", "--out", tmp_path / "s")),
        ("cxrlines.recipe.run.export.export_run", ("bundle", tmp_path, "--out", tmp_path / "b")),
        ("cxrlines.io.audit.audit", ("check", tmp_path)),
    ):
        monkeypatch.setattr(place, stops)
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        assert result.exit_code == 130 and "stopped" in result.stderr
        assert ("goes on from there" in result.stderr) == (words[0] not in ("bundle", "check")), words


def test_a_disk_that_is_full_when_all_is_read_does_not_cost_the_reading(data, tmp_path, monkeypatch):
    out, synced = tmp_path / "r.csv", os.fsync

    def fsync(handle: int) -> None:
        if ".partial" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell one file from another")
    words = ["predict", str(data / "test"), "--out", str(out), "--json"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and str(out) in result.stderr and "--resume" in result.stderr
    assert not out.exists()
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr("cxrlines.reading.reader.read_film", lambda *film, **more: pytest.fail("read again"))
    result = CliRunner().invoke(cli.app, [*words, "--resume"])
    assert result.exit_code == 0 and "3 of 3 films were read before" in result.stderr
    assert len(pd.read_csv(out)) == len(json.loads((tmp_path / "r.json").read_text())) == 3
    assert sorted(path.name for path in tmp_path.glob("r.*")) == ["r.csv", "r.json"]


@pytest.mark.parametrize(("encoding", "words"), [("ascii", []), ("latin-1", ["--json"])])
def test_a_terminal_that_knows_few_letters_costs_nothing(data, tmp_path, encoding, words):
    film = tmp_path / os.fsdecode(b"\xff\xc5\x82 \xe2\x80\x93.jpg")
    film.write_bytes(next((data / "test").glob("*.jpg")).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "cxrlines", "predict", film, tmp_path / "absent–ł", *words], capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert b"\\xff" in done.stdout and b"absent" in done.stderr


def test_similar_shows_no_film_of_the_patient_that_a_dicom_film_names(tmp_path):
    """An index of four patients beside the example film: by its header, its study there, and `--patient` fewer."""
    bundle = load_bundle(EMBEDDED)
    (example,) = Reader(bundle).embed([EMBEDDED / "example.jpg"])
    near = example.vector + np.random.default_rng(0).normal(size=(4, len(example.vector))) * 0.01
    films = tuple(IndexedFilm(f"1.2.{k}", *tokens([f"P-{k}"], "phantom"), f"{k:016x}", None, ()) for k in range(4))
    index, film = tmp_path / "index.safetensors", tmp_path / "IM000001.dcm"
    Index(films, (near / np.linalg.norm(near, axis=1)[:, None]).astype(np.float16), embedder_of(bundle)).save(index)
    film.write_bytes(wrapped((EMBEDDED / "example.jpg").read_bytes(), "P-1", "1.2.2"))

    def shown(film: Path, *words: str) -> set[str]:
        code, out = run("similar", film, "--index", index, "--json", *words)
        assert code == 0
        return {each["study"] for each in json.loads(out)}

    assert shown(EMBEDDED / "example.jpg") == {"1.2.0", "1.2.1", "1.2.2", "1.2.3"}
    assert shown(film) == {"1.2.0", "1.2.3"}
    assert shown(film, "--patient", "P-3") == {"1.2.0"}
    named = tmp_path / "1.2.0.dcm"
    named.write_bytes(film.read_bytes())
    assert shown(named) == {"1.2.3"}
