"""What is installed: the base reads and judges, an extra is asked for in one line, an example comes with it."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import cxrlines
from cxrlines import cli
from cxrlines.cli import doctor
from cxrlines.cli.extras import BASE, ENOUGH_FOR, EXTRAS, SERVES, lacking
from cxrlines.io.films import read_film
from cxrlines.phantom.dataset import write_phantom
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
INSTALL = (ROOT / "docs/install.md").read_text("utf-8")
EXAMPLE = ROOT / "src/cxrlines/embedded/example.jpg"
WITHOUT = """
import json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {blocked} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
from typer.testing import CliRunner
from cxrlines import cli

results = [CliRunner().invoke(cli.app, words) for words in {words}]
print(json.dumps([[result.exit_code, result.stdout, result.stderr] for result in results]))
"""


def without_extras(folder: Path, *commands: list[str], but: str | None = None) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of commands, in one process where no package of an extra, `but` one, is there."""
    blocked = {module for packages in EXTRAS.values() for module in packages.values()}
    blocked -= set(EXTRAS[but].values()) if but else set()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked, words=list(commands))],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]


def names(requirements: list[str]) -> set[str]:
    """Distributions that are asked for, those of extras of our own by what these ask for."""
    found = set()
    for line in requirements:
        if own := re.fullmatch(r"cxrlines\[(.*)\]", line):
            found |= {name for extra in own[1].split(",") for name in names(PROJECT["optional-dependencies"][extra])}
        else:
            found.add(re.split(r"[\[<>=]", line)[0])
    return found


def test_the_command_line_knows_what_the_project_asks_for():
    extras = PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"]) == set(BASE)
    assert {name: names(extras[name]) for name in EXTRAS} == {name: set(each) for name, each in EXTRAS.items()}
    assert set(SERVES) == set(EXTRAS) == set(extras) - {"dev", "docs", "all"}
    assert extras["all"] == [f"cxrlines[{','.join(EXTRAS)}]"]


def test_the_makefile_installs_every_extra_as_locked():
    recipe = (ROOT / "Makefile").read_text("utf-8")
    assert all(f"--extra {name} " in recipe for name in [*EXTRAS, "dev"])
    locked = names(re.findall(r"^[a-z0-9].*==", (ROOT / "lock/requirements.txt").read_text("utf-8"), re.MULTILINE))
    asked = set(BASE) | {name for packages in EXTRAS.values() for name in packages}
    assert asked <= locked


def pinned(lock: str) -> dict[str, str]:
    """Package -> its version in a lock."""
    return dict(re.findall(r"^([a-z0-9][^ =]*)==(\S+)", (ROOT / "lock" / lock).read_text("utf-8"), re.MULTILINE))


def test_the_demo_installs_what_training_needs_in_the_versions_of_the_whole_lock():
    demo, whole = pinned("demo.txt"), pinned("requirements.txt")
    assert demo.items() <= whole.items()
    assert {*BASE, *EXTRAS["train"], *EXTRAS["demo"]} <= demo.keys()
    others = {name for extra, packages in EXTRAS.items() if extra not in ("train", "demo") for name in packages}
    assert not demo.keys() & {*others - EXTRAS["train"].keys(), "pytest", "zensical", "mypy", "playwright"}
    assert pinned("uv.txt").items() - {("uv", pinned("uv.txt")["uv"])} <= whole.items()


@pytest.mark.parametrize("lock", ["demo.txt", "requirements.txt", "uv.txt"])
def test_a_lock_names_no_index_and_has_a_hash_for_every_package(lock):
    text = (ROOT / "lock" / lock).read_text("utf-8")
    assert "://" not in text and "--index" not in text
    assert len(re.findall(r"^[a-z0-9].*==.* \\\n    --hash=sha256:", text, re.MULTILINE)) == len(pinned(lock)) > 5


def test_a_pytorch_that_is_kept_is_left_out_of_the_lock_with_its_libraries():
    """What the Makefile leaves out is PyTorch, and what only PyTorch asks for."""
    pattern = re.search(r"out = /(.*?)/\}", (ROOT / "Makefile").read_text("utf-8"))
    assert pattern
    out = {name for name in pinned("demo.txt") if re.match(pattern[1].replace("$$", "$"), f"{name}==")}
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-bindings"} <= out
    assert not out & {*BASE, "torchmetrics", "lightning", "timm", "pytorch-lightning", "segmentation-models-pytorch"}


@pytest.mark.parametrize("heavy", ["numpy", "pandas", "pydantic", "typer", "rich", "torch", "cv2"])
def test_importing_the_package_imports_nothing_heavy(heavy):
    script = f"import sys, cxrlines; assert {heavy!r} not in sys.modules; assert len(sys.modules) < 120"
    subprocess.run([sys.executable, "-S", "-c", script], check=True, env={"PYTHONPATH": str(ROOT / "src")})


def test_a_command_without_its_extra_says_so_in_one_line(tmp_path):
    commands = {
        "train": ["train", "demo", "--data", "x", "--out", "y"],
        "ensemble": ["ensemble", "a.csv", "b.csv", "--out", "c.csv"],
        "demo": ["demo", "--out", "y"],
        "experiment": ["experiment", "small", "--out", "y"],
        "weights": ["weights", "x.pth", "--out", "y.safetensors"],
    }
    (tmp_path / "x.pth").write_bytes(b"")
    for name, (code, out, err) in zip(commands, without_extras(tmp_path, *commands.values()), strict=True):
        assert (code, out) == (2, "")
        assert err == f"cxrlines {name} needs more than the base install: pip install 'cxrlines[train]'\n"


@pytest.mark.parametrize("small", ENOUGH_FOR)
def test_a_small_extra_is_named_where_it_is_enough(tmp_path, small):
    (larger,) = (name for name, packages in EXTRAS.items() if EXTRAS[small].items() < packages.items())
    for module in EXTRAS[small].values():
        error = ModuleNotFoundError("x", name=f"{module}.core")
        assert {f"cxrlines[{small}]" in str(lacking(error, command)) for command in ENOUGH_FOR[small]} == {True}
        assert f"cxrlines[{larger}]" in str(lacking(error, "train")), "not first the one, and then the other"


def test_tables_are_evaluated_and_folded_with_the_small_extra_alone(tmp_path):
    truth = pd.DataFrame({STUDY_COLUMN: [f"s{i}" for i in range(6)], PATIENT_COLUMN: list("aabbcc")})
    truth = truth.assign(**{label: [0, 1, 0, 1, 0, 1] for label in LABELS})
    truth.to_csv(tmp_path / "t.csv", index=False)
    truth.drop(columns=PATIENT_COLUMN).to_csv(tmp_path / "p.csv", index=False)
    commands = [
        ["evaluate", "p.csv", "t.csv", "--resamples", "10"],
        ["folds", "t.csv", "--count", "2", "--out", "folds.csv"],
    ]
    results = without_extras(tmp_path, *commands, but="evaluate")
    assert [code for code, _, _ in results] == [0, 0], results
    for (name, *_), result in zip(commands, without_extras(tmp_path, *commands), strict=True):
        needs = f"cxrlines {name} needs more than the base install: pip install 'cxrlines[evaluate]'\n"
        assert result == (2, "", needs)


def test_what_needs_no_extra_runs_without_any(tmp_path):
    write_phantom(tmp_path / "data", studies=2, test=1, seed=0, size=96, workers=1)
    results = without_extras(
        tmp_path,
        ["show", "data", "--films", "2", "--size", "64", "--out", "sheet.png"],
        ["index", "data", "--out", "index.safetensors"],
        ["evaluate-bundle", "data", "--resamples", "10", "--json"],
        ["synth", "more", "--studies", "1", "--test", "1", "--size", "96", "--workers", "1"],
        ["schema"],
        ["--help"],
        ["train", "--help"],
        [],
    )
    assert [code for code, _, _ in results] == [0] * len(results), results


def test_doctor_says_what_is_there_and_what_is_missing(tmp_path):
    ((_, out, _),) = without_extras(tmp_path, ["doctor", "--json"])
    found = json.loads(out)
    assert found["missing"] == {name: list(packages) for name, packages in EXTRAS.items()}
    assert set(found["packages"]) == set(BASE) and found["engines"]["PyTorch"].startswith("none (")
    assert found["cxrlines"] == cxrlines.__version__ and set(found["decoders"]) and found["reader"]
    text = doctor.as_text(found)
    assert "pip install 'cxrlines[train]'" in text and "predict --example" in text


def test_doctor_exits_1_where_films_cannot_be_read(monkeypatch):
    monkeypatch.setitem(BASE, "numpy", "no_such_module")
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 1 and "No module named 'no_such_module'" in result.stdout


def test_a_missing_package_of_no_extra_is_a_fault_like_any_other():
    assert lacking(ModuleNotFoundError("x", name="numpy"), "train") is None
    assert lacking(ImportError("x", name="torch"), "train") is None, "it is there, and broken"
    assert "cxrlines[ray]" in str(lacking(ModuleNotFoundError("x", name="ray.data"), "predict"))


def test_without_a_command_the_three_things_one_does_first_are_named():
    result = CliRunner().invoke(cli.app, [])
    assert result.exit_code == 0
    named = re.findall(r"^  cxrlines (\S+)", result.stdout, re.MULTILINE)
    assert named == ["predict", "demo", "doctor"]


def test_types_come_with_the_package():
    assert resources.files("cxrlines").joinpath("py.typed").is_file()


def test_the_example_is_made_by_the_command_in_the_docs(tmp_path):
    command = re.search(r"^cxrlines synth (\S+) (.*--seed.*)$", INSTALL, re.MULTILINE)
    study = re.search(r"test/(\S+\.jpg)", INSTALL)
    assert command and study and 150_000 <= EXAMPLE.stat().st_size <= 300_000
    assert CliRunner().invoke(cli.app, ["synth", str(tmp_path / "made"), *command[2].split()]).exit_code == 0
    made, kept = (read_film(path).pixels for path in (tmp_path / "made/test" / study[1], EXAMPLE))
    assert made.shape == kept.shape
    assert abs(made.astype(int) - kept).mean() < 1, "other versions of OpenCV may differ by a gray level"


@pytest.mark.parametrize("words", [[], ["--example", "--json", "--format", "csv"],
                                   ["--example", "--format", "jsonl", "--out", "never.csv"]])  # fmt: skip
def test_predict_refuses_what_says_nothing_or_two_things(words):
    result = CliRunner().invoke(cli.app, ["predict", *words])
    assert result.exit_code == 2 and result.stderr.startswith("cxrlines: ") and not result.stdout


def test_predict_prints_in_four_formats():
    printed = {}
    for form in ("text", "json", "jsonl", "csv"):
        result = CliRunner().invoke(cli.app, ["predict", "--example", "--format", form])
        assert result.exit_code == 0, result.stderr
        printed[form] = result.stdout
    assert "Carina found" in printed["text"]
    (whole,), (line,) = json.loads(printed["json"]), printed["jsonl"].splitlines()
    assert whole["labels"] == json.loads(line)["labels"] and whole["lines"]
    header, row = printed["csv"].splitlines()
    assert header.split(",") == [STUDY_COLUMN, *LABELS] and row.startswith("example,")
