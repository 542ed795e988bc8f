"""A fifth device is two rows of task.py: it is trained, evaluated, exported and read.

The package is copied with "Chest Tube" (present or not, no heatmap) in its vocabulary, and used in other processes.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cxrlines
from cxrlines.phantom.dataset import write_phantom
from cxrlines.task import LABELS

LABEL = "Chest Tube Present"
OLD = Path(__file__).parent / "golden/old_bundle"
RECIPE = """
name: tiny
about: One stage on a handful of films.
size: 64
store: {size: 72, aspect: stretch}
quality: {probe: none, leave_out: nothing}
folds: {count: 2, seed: 0}
members:
  m:
    backbone: test_efficientnet
    head: attention
    stages:
      only: {start: scratch, schedule: {batch: 8, lr: 0.001, epochs: 1}}
ensemble: {members: [m], how: mean}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package whose vocabulary has a fifth device: the folder for PYTHONPATH."""
    source, root = Path(cxrlines.__file__).parent, tmp_path_factory.mktemp("five")
    shutil.copytree(source, root / "cxrlines", ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    (root / "cxrlines/embedded").symlink_to(source / "embedded")
    task = root / "cxrlines/task.py"
    text = task.read_text("utf-8")
    member = '    SWAN = "Swan Ganz Catheter"'
    row = "    Device.SWAN: DeviceSpec("
    assert text.count(member) == text.count(row) == 1
    text = text.replace(member, f'    CHEST_TUBE = "Chest Tube"\n{member}', 1)
    spec = 'DeviceSpec("chest tube", (State.PRESENT,), (180, 180, 180), separator=" ", mapped=False, optional=True)'
    end = text.index("}\n", text.index(row))
    task.write_text(f"{text[:end]}    Device.CHEST_TUBE: {spec},\n{text[end:]}", "utf-8")
    return root


def run(package: Path, *command: object) -> str:
    """What `cxrlines COMMAND` of the copy prints; `-c` runs Python instead."""
    start = ["-c"] if command[0] == "-c" else ["-m", "cxrlines"]
    rest = command[1:] if command[0] == "-c" else command
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, *start, *map(str, rest)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def films(folder: Path, *, labelled: bool) -> Path:
    """A phantom; `labelled`: with a column for the fifth device in its tables."""
    write_phantom(folder, studies=24, test=8, seed=0, size=96, balance="even", annotated=0, workers=1)
    if labelled:
        for table in folder.glob("*.csv"):
            with table.open(newline="") as file:
                rows = list(csv.reader(file))
            if LABELS[0] in rows[0]:
                place = rows[0].index(LABELS[-1]) + 1
                for k, row in enumerate(rows):
                    row.insert(place, LABEL if k == 0 else str(k % 2))
                with table.open("w", newline="") as file:
                    csv.writer(file).writerows(rows)
    return folder


def trained(package: Path, tmp_path: Path, *, labelled: bool) -> tuple[dict, dict]:
    """metrics.json of a run, and the JSON of its bundle's first reading."""
    data = films(tmp_path / "data", labelled=labelled)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    run(package, "train", recipe, "--data", data, "--out", tmp_path / "run", "--workers", 1)
    run(package, "bundle", tmp_path / "run", "--out", tmp_path / "bundle")
    film = min((data / "test").iterdir())
    run(package, "predict", film, "--bundle", tmp_path / "bundle", "--json", "--out", tmp_path / "out.csv")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text("utf-8"))
    return metrics, json.loads((tmp_path / "out.json").read_text("utf-8"))


def test_it_is_trained_evaluated_exported_and_read(package, tmp_path):
    metrics, reading = trained(package, tmp_path, labelled=True)
    assert LABEL in json.dumps(metrics)
    findings = reading["films"][0] if "films" in reading else reading[0]
    assert list(findings["labels"]) == [*LABELS, LABEL]
    assert set(findings["presence"]) == {"ETT", "NGT", "CVC", "SWAN", "CHEST_TUBE"}
    with (tmp_path / "out.csv").open() as file:
        assert next(csv.reader(file))[1:] == [*LABELS, LABEL]


def test_a_table_without_its_column_is_read_and_trained_on(package, tmp_path):
    metrics, reading = trained(package, tmp_path, labelled=False)
    assert metrics  # the run has figures of the labels that are known
    findings = reading["films"][0] if "films" in reading else reading[0]
    assert list(findings["labels"])[: len(LABELS)] == list(LABELS)


def test_the_challenge_s_own_table_is_read(package, ranzcr):
    script = (
        "from cxrlines.io.tables import read_labels; from pathlib import Path; import sys\n"
        "table = read_labels(Path(sys.argv[1])); print(len(table), set(table['Chest Tube Present']))"
    )
    assert run(package, "-c", script, ranzcr / "train.csv").split(maxsplit=1) == ["30083", "{-1}\n"]


def test_a_bundle_made_without_it_gives_what_it_gave(package):
    script = (
        "import cxrlines, json, sys\n"
        "print(json.dumps(cxrlines.load_reader(sys.argv[1]).read(sys.argv[2]).as_dict()['labels']))"
    )
    labels = json.loads(run(package, "-c", script, OLD / "bundle", OLD / "film.jpg"))
    assert labels == pytest.approx(json.loads((OLD / "expected.json").read_text())["labels"], abs=1e-4)
